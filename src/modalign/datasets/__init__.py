"""The data sets: one file per published layout. A name in READERS is a module of this folder with a `READER`."""

import importlib
from typing import TYPE_CHECKING

from modalign.errors import ConfigError

if TYPE_CHECKING:
    from modalign.datasets.base import Reader

READERS = ("brats", "cermep", "goldatlas", "hanseg", "ixi", "learn2reg", "pairs", "synthrad2023")
"""What a configuration may name as the reader of a data set."""


def reader(name: str) -> "Reader":
    """The reader called `name`.

    Raises:
        ConfigError: there is no such reader.
    """
    if name not in READERS:
        raise ConfigError(f"there is no reader {name!r}; the readers are: {', '.join(READERS)}")
    found: Reader = importlib.import_module(f"{__name__}.{name}").READER
    return found
