"""Phantom data sets on disk: the published layout of each archive, with the truth in a folder beside it.

The truth of a case lies in ``modalign-truth/<case>/<fixed>-<moving>/{true_field,true_image}.nii.gz`` and
``modalign-truth/<case>/<modality>_labels.nii.gz``; ``modalign-truth/labels.json`` names the label values. Modalities
are called mr, ct, cbct, t1, t2, pd. The file ``modalign-phantom.json`` marks a folder as a finished phantom.
"""

import importlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from modalign.errors import ConfigError, WriteError
from modalign.files import check_writable, replacing, write_json
from modalign.spatial.fields import write_itk_field
from modalign.volumes import Grid, Volume, to_sitk, write_volume

VERSION = 3
"""Raised whenever the same seed gives other images than before."""

ARCHIVES: dict[str, str] = {
    "synthrad2023-task1-pelvis": "modalign.phantoms.body_archives:write_synthrad_pelvis",
    "goldatlas": "modalign.phantoms.body_archives:write_goldatlas",
    "learn2reg-abdomen-mr-ct": "modalign.phantoms.body_archives:write_learn2reg_abdomen",
    "synthrad2023-task2-brain": "modalign.phantoms.head_archives:write_synthrad_brain",
    "ixi": "modalign.phantoms.head_archives:write_ixi",
    "brats2019": "modalign.phantoms.head_archives:write_brats2019",
    "cermep": "modalign.phantoms.head_archives:write_cermep",
    "hanseg": "modalign.phantoms.head_archives:write_hanseg",
}
"""Archive name -> ``module:function``; the function (folder, patient index, size, seed) writes one patient."""

PatientWriter = Callable[[Path, int, tuple[int, int, int], int], None]

_log = logging.getLogger(__name__)


def make_archive(
    name: str, folder: Path, *, size: tuple[int, int, int], patients: int, seed: int, workers: int = 1
) -> None:
    """Write a phantom data set in the published layout of archive `name`.

    Patient k depends on (seed, name, k, size) alone, not on how many patients there are.

    Args:
        name: a key of :data:`ARCHIVES`.
        folder: where to; ``modalign-phantom.json`` is written there last.
        size: voxels (R, A, S) of the fixed scan; the field of view stays that of the real scans.
        patients: how many.
        seed: any integer.
        workers: processes that share the patients.

    Raises:
        ConfigError: there is no such archive, or a size or count that makes no sense.
        ModalignError: the folder can't be written to.
    """
    if name not in ARCHIVES:
        raise ConfigError(f"there is no phantom of {name!r}; the archives are: {', '.join(sorted(ARCHIVES))}")
    if len(size) != 3 or min(size) < 8:
        raise ConfigError(f"a phantom's size is 3 numbers of voxels, each at least 8, not {list(size)}")
    if patients < 1:
        raise ConfigError(f"a phantom data set has at least 1 patient, not {patients}")
    folder, size = Path(folder), (int(size[0]), int(size[1]), int(size[2]))
    folder.mkdir(parents=True, exist_ok=True)
    check_writable(folder)
    marker = folder / "modalign-phantom.json"
    marker.unlink(missing_ok=True)
    jobs = [(name, folder, patient, size, seed) for patient in range(patients)]
    if workers > 1 and patients > 1:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        # Spawned, since forking a process that has already started threads can hang.
        with ProcessPoolExecutor(min(workers, patients), mp_context=get_context("spawn")) as pool:
            list(pool.map(_write_patient, jobs))
    else:
        for job in jobs:
            _write_patient(job)
    write_json(marker, {"archive": name, "size": size, "patients": patients, "seed": seed, "version": VERSION})


def _write_patient(job: tuple[str, Path, int, tuple[int, int, int], int]) -> None:
    name, folder, patient, size, seed = job
    module, function = ARCHIVES[name].split(":")
    writer: PatientWriter = getattr(importlib.import_module(module), function)
    writer(folder, patient, size, seed)
    _log.info("phantom %s: patient %d written", name, patient + 1)


def write_truth(
    folder: Path,
    case: str,
    fixed_modality: str,
    moving_modality: str,
    *,
    true_field: np.ndarray | None,
    fixed_grid: Grid,
    true_image: Volume | None,
    labels: Mapping[str, Volume],
    label_names: Mapping[int, str],
) -> None:
    """Write what is known about a pair of phantom scans.

    Args:
        folder: the archive's folder.
        case: case id, as the reader of the archive forms it.
        fixed_modality: one of mr, ct, cbct, t1, t2, pd.
        moving_modality: likewise.
        true_field: (3, X, Y, Z), voxels of `fixed_grid`; None where nothing moved.
        fixed_grid: grid of the fixed scan.
        true_image: the moving modality in the fixed scan's geometry, without noise and artefacts, or None.
        labels: label map of each modality on its own scan's grid, may be empty.
        label_names: structure name of every label value; the same for all patients of an archive.
    """
    truth = folder / "modalign-truth"
    pair = truth / case / f"{fixed_modality}-{moving_modality}"
    if true_field is not None:
        write_itk_field(pair / "true_field.nii.gz", true_field, fixed_grid)
    if true_image is not None:
        write_volume(pair / "true_image.nii.gz", true_image)
    for modality, volume in labels.items():
        write_volume(truth / case / f"{modality}_labels.nii.gz", volume)
    if label_names:
        write_json(truth / "labels.json", {str(value): name for value, name in sorted(label_names.items())})


def write_nrrd(path: Path, volume: Volume) -> None:
    """Write a volume as compressed NRRD.

    Raises:
        WriteError: the folder can't be written to, or the disk is full.
    """
    import SimpleITK as sitk

    with replacing(path) as temporary:
        try:
            sitk.WriteImage(to_sitk(volume), str(temporary), useCompression=True)
        except RuntimeError as error:
            # ITK doesn't say why; a folder that may not be written to has been found out before.
            reason = str(error).strip().splitlines()[-1]
            raise WriteError(
                f"can't write {path} ({reason}): most likely the disk is full. Free some space and run the same "
                "command again"
            ) from error
