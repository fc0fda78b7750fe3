"""The benchmark of methods that align medical images of different modalities."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modalign.api import align

__version__ = "0.1.0"
__all__ = ["__version__", "align"]


def __getattr__(name: str) -> Any:
    # Reading images takes libraries that `import modalign` alone shall not wait for.
    if name == "align":
        from modalign.api import align

        return align
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
