"""What the options of measures can be, so that a wrong value is refused before anything runs."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from modalign.errors import ConfigError

MISSING = ("diagonal", "drop")
"""What a structure counts that the truth has and the result lacks. ``diagonal``: the diagonal of the fixed grid, which
no distance exceeds; otherwise the mean would improve with every structure that is lost. BraTS evaluates so, with the
373.13 mm of its 240 x 240 x 155 grid (Isensee et al. 2020, "nnU-Net for Brain Tumor Segmentation"). ``drop``: nothing,
the value is left out."""
_REGIONS = ("mask", "grid", "slice")
_OF_TRUTH = (*_REGIONS, "foreground")
_CHOICES: Mapping[str, Sequence[Any]] = {
    "region": _REGIONS,
    "psnr.region": _OF_TRUTH,
    "nmae.region": _OF_TRUTH,
    "mae_hu.region": _OF_TRUTH,
    "psnr.range": ("stored", "data", "as_released"),
    "ssim.range": ("stored", "data"),
    "window": ("gaussian", "uniform"),
    "net": ("alexnet", "vgg16"),
    "interpolation": ("nearest", "linear"),
    "per_slice": (False, True),
    "directions": ("max", "pooled"),
    "missing": MISSING,
    "unit": ("mm", "voxel"),
    "dimension": (2, 3, "auto"),
}
_LEAST = {"subsets": 1, "subset_size": 2}


def choices(measure: str, option: str) -> Sequence[Any]:
    """The values that an option can have; nothing where it is a number, or thresholds."""
    return _CHOICES.get(f"{measure}.{option}", _CHOICES.get(option, ()))


def check_option(measure: str, option: str, value: Any) -> None:
    """Whether an option of a measure can have a value.

    Raises:
        ConfigError: it can't; says what can be.
    """
    known = choices(measure, option)
    if known:
        # True is not 1, and no list is among words.
        right = any(type(value) is type(entry) and value == entry for entry in known)
        allowed = "one of: " + ", ".join(
            str(entry).lower() if isinstance(entry, bool) else str(entry) for entry in known
        )
    elif option in _LEAST:
        right = isinstance(value, int) and not isinstance(value, bool) and value >= _LEAST[option]
        allowed = f"a whole number of {_LEAST[option]} or more"
    elif option == "percentile":
        right = value is None or (_is_number(value) and 0 <= value <= 100)
        allowed = "a number from 0 to 100, or null for the mean"
    else:
        right = value == "by_modality" or _are_thresholds(value)
        allowed = "by_modality, or {fixed: [170, 190], image: [30, 50]}"
    if not right:
        raise ConfigError(f"measure {measure}: {option} can't be {value!r}; write {allowed}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _are_thresholds(value: Any) -> bool:
    if not isinstance(value, Mapping) or set(value) != {"fixed", "image"}:
        return False
    pairs = list(value.values())
    return all(isinstance(p, list | tuple) and len(p) == 2 and all(_is_number(v) for v in p) for p in pairs)
