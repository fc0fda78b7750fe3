"""Which device a method runs on."""

from pathlib import Path

from modalign.errors import ConfigError


def has_gpu() -> bool:
    """Whether this machine has device files of a GPU."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def resolve_device(name: str = "auto") -> str:
    """``cpu`` or ``cuda``, from ``auto``, ``cpu`` or ``cuda``.

    Importing torch takes seconds, which a method without networks can spare: on a machine without the device files of
    a GPU, auto is decided without it.

    Raises:
        ConfigError: the name is unknown, or cuda is asked for and there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"there is no device {name!r}: write auto, cpu or cuda")
    if name == "cpu" or (name == "auto" and not has_gpu()):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if name == "cuda":
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
        message = f"device cuda is asked for, but PyTorch {torch.__version__} (built for {build}) sees no GPU"
        raise ConfigError(f"{message}. Write device: auto or cpu, or look at what nvidia-smi prints")
    return "cpu"
