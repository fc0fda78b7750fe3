"""Random numbers that depend on what they are for, and on nothing else."""

import hashlib

import numpy as np


def derive_seed(seed: int, *purpose: str) -> int:
    """An unsigned 32-bit seed for one purpose, such as ``derive_seed(0, dataset, case, "misalignment")``.

    The same words give the same seed on every machine; neighbouring seeds are unrelated.
    """
    text = "\x1f".join([str(int(seed)), *purpose])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def generator(seed: int, *purpose: str) -> np.random.Generator:
    """A NumPy generator seeded by :func:`derive_seed`."""
    return np.random.default_rng(derive_seed(seed, *purpose))
