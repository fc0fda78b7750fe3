"""ANTs in this process: images, antsRegistration with its own arguments, and the field it finds.

antsRegistration is called with the argument list of the command line rather than through ``ants.registration``,
because only so a random seed can be given without switching process-wide state, and any published command can be
repeated word for word.
"""

import logging
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from modalign.errors import ModalignError
from modalign.spatial.fields import read_itk_field
from modalign.volumes import LPS_TO_RAS, Grid, Volume

_log = logging.getLogger(__name__)
_THREADS = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"
_running: dict[str, int] = {}


def ants_module(threads: int) -> Any:
    """Import antspyx so that its filters use `threads` threads.

    ITK reads the number once, when its first filter runs; later calls can't change it, and say so in the log.
    """
    running = _running.setdefault("threads", threads)
    if running == threads:
        os.environ[_THREADS] = str(threads)
    else:
        _log.warning("ANTs already runs with %d thread(s) in this process, and can't change to %d", running, threads)
    import ants

    return ants


def to_ants(volume: Volume, dimension: int, threads: int = 1, is_mask: bool = False) -> Any:
    """An ANTs image: in LPS mm (3D), or the slice (X, Y, 1) in a frame of its own with its spacing (2D).

    Images become float32 and masks uint8: antsRegistration is given addresses, and reads these types from there
    without asking what lies there.
    """
    ants = ants_module(threads)
    data = np.ascontiguousarray(volume.data, dtype=np.uint8 if is_mask else np.float32)
    if dimension == 2:
        return ants.from_numpy(data[:, :, 0], spacing=tuple(volume.spacing[:2].tolist()))
    lps = LPS_TO_RAS @ volume.affine
    return ants.from_numpy(
        data,
        origin=tuple(lps[:3, 3].tolist()),
        spacing=tuple(volume.spacing.tolist()),
        direction=lps[:3, :3] / volume.spacing,
    )


def ants_registration(
    images: Mapping[str, Any], stages: Sequence[str], grid: Grid, seed: int, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Run antsRegistration and return its field and its own warped image.

    Args:
        images: ANTs images, 2D or 3D, by the name that `stages` calls them; FIXED and MOVING have to be there.
        stages: the arguments of antsRegistration without dimensionality, output, float and seed.
        grid: the fixed grid; the field is given in its voxels.
        seed: given as ``--random-seed``. The result is the same to the last bit only with one thread.
        threads: as in :func:`ants_module`.

    Returns:
        The field (3, X, Y, Z), float32, and the moving image as ANTs warped it (X, Y, Z).

    Raises:
        ModalignError: antsRegistration reports a failure.
    """
    ants = ants_module(threads)
    from ants.internal import get_lib_fn, get_pointer_string

    fixed, moving = images["FIXED"], images["MOVING"]
    warped = fixed.clone("float")
    with tempfile.TemporaryDirectory(prefix="modalign-ants-") as folder:
        prefix = str(Path(folder) / "tx")
        # Zero is ANTs' word for "seed from the clock".
        arguments = [
            *("--dimensionality", str(fixed.dimension), "--float", "1", "--random-seed", str(seed % 2**31 or 1)),
            *("--output", f"[{prefix},{get_pointer_string(warped)}]", "--collapse-output-transforms", "1"),
            *("--write-composite-transform", "0"),
            *(_with_addresses(stage, images) for stage in stages),
        ]
        code = get_lib_fn("antsRegistration")(arguments)
        transforms = [p for p in (f"{prefix}1Warp.nii.gz", f"{prefix}0GenericAffine.mat") if Path(p).is_file()]
        if code != 0 or not transforms:
            raise ModalignError(
                f"antsRegistration failed (exit status {code}) on a fixed image of {fixed.shape} and a moving image "
                f"of {moving.shape} voxels; its message is in the log. Arguments: {' '.join(stages)}"
            )
        composed = ants.apply_transforms(fixed, moving, transforms, compose=str(Path(folder) / "whole"))
        return _read_field(composed, grid, fixed.dimension), warped.numpy().reshape(grid.shape)


def _with_addresses(argument: str, images: Mapping[str, Any]) -> str:
    """The argument with the names of images replaced by their addresses in memory, as antspyx passes images."""
    from ants.internal import get_pointer_string

    return re.sub(r"[A-Z_]+", lambda m: get_pointer_string(images[m[0]]) if m[0] in images else m[0], argument)


def _read_field(path: str, grid: Grid, dimension: int) -> np.ndarray:
    if dimension == 3:
        return read_itk_field(path, grid)
    vectors = np.array(nib.Nifti1Image.from_filename(path).dataobj, dtype=np.float32).reshape(*grid.shape[:2], 2)
    field = np.zeros((3, *grid.shape), np.float32)
    field[:2, :, :, 0] = np.moveaxis(vectors / grid.spacing[:2], -1, 0)
    return field
