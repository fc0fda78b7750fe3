"""ANTs in this process: images, antsRegistration with its own arguments, and the field it finds.

antsRegistration is called with the argument list of the command line rather than through ``ants.registration``,
because only so a random seed can be given without switching process-wide state, and any published command can be
repeated word for word.
"""

import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from modalign.errors import ModalignError
from modalign.spatial.fields import read_itk_field
from modalign.volumes import LPS_TO_RAS, Grid, Volume

_THREADS = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"
_running: dict[str, int] = {}


def to_ants(volume: Volume, dimension: int, is_mask: bool = False) -> Any:
    """An ANTs image: in LPS mm (3D), or the slice (X, Y, 1) in a frame of its own with its spacing (2D).

    Images become float32 and masks uint8: antsRegistration is given addresses, and reads these types from there
    without asking what lies there.
    """
    import ants

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
    volumes: Mapping[str, Volume], stages: Sequence[str], dimension: int, seed: int, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Run antsRegistration and return its field and its own warped image.

    ITK reads its number of threads once in a process, when its first filter runs. Where ANTs already runs with
    another number here, this registration gets a process of its own.

    Args:
        volumes: images and masks by the name that `stages` calls them; FIXED and MOVING have to be there, masks
            have names that end in MASK.
        stages: the arguments of antsRegistration without dimensionality, output, float and seed.
        dimension: 2 (of volumes of one slice) or 3.
        seed: given as ``--random-seed``. The result is the same to the last bit only with one thread.
        threads: for ITK.

    Returns:
        The field (3, X, Y, Z), float32, in voxels of FIXED, and the moving image as ANTs warped it (X, Y, Z).

    Raises:
        ModalignError: antsRegistration reports a failure.
    """
    if _running.setdefault("threads", threads) != threads:
        return _in_a_process_of_its_own(volumes, stages, dimension, seed, threads)
    os.environ[_THREADS] = str(threads)
    import ants
    from ants.internal import get_lib_fn, get_pointer_string

    images = {name: to_ants(v, dimension, is_mask=name.endswith("MASK")) for name, v in volumes.items()}
    fixed, moving = images["FIXED"], images["MOVING"]
    grid = volumes["FIXED"].grid
    warped = fixed.clone("float")
    with tempfile.TemporaryDirectory(prefix="modalign-ants-") as folder:
        prefix = str(Path(folder) / "tx")
        # Zero is ANTs' word for "seed from the clock".
        arguments = [
            *("--dimensionality", str(dimension), "--float", "1", "--random-seed", str(seed % 2**31 or 1)),
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
        return _read_field(composed, grid, dimension), warped.numpy().reshape(grid.shape)


def _in_a_process_of_its_own(*arguments: Any) -> tuple[np.ndarray, np.ndarray]:
    """:func:`ants_registration` in a fresh process; what it raises is raised here."""
    path = os.pathsep.join(p for p in sys.path if p)
    with tempfile.TemporaryDirectory(prefix="modalign-ants-") as folder:
        exchange = Path(folder) / "exchange"
        exchange.write_bytes(pickle.dumps(arguments))
        ran = subprocess.run(
            [sys.executable, "-m", __name__, exchange], env={**os.environ, "PYTHONPATH": path}, check=False
        )
        if ran.returncode != 0:
            raise ModalignError(f"antsRegistration ended its process with exit status {ran.returncode}")
        result = pickle.loads(exchange.read_bytes())
    if isinstance(result, Exception):
        raise result
    return result


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


def _answer(exchange: Path) -> None:
    arguments = pickle.loads(exchange.read_bytes())
    result: Any
    try:
        result = ants_registration(*arguments)
    except Exception as error:
        result = error
    exchange.write_bytes(pickle.dumps(result))


if __name__ == "__main__":
    _answer(Path(sys.argv[1]))
