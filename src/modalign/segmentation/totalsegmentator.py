"""TotalSegmentator (Wasserthal et al. 2023), where the user has installed it: its program, on images in HU."""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from modalign.errors import ConfigError, ModalignError
from modalign.segmentation import Segment
from modalign.volumes import Volume, read_volume, write_volume

NAME = "TotalSegmentator"

PARTS = {
    "hip_bones": ("hip_left", "hip_right"),
    "femurs": ("femur_left", "femur_right"),
    "sacrum": ("sacrum",),
    "spinal_cord": ("spinal_cord",),
    "bladder": ("urinary_bladder",),
    "prostate": ("prostate",),
}
"""Our structures, each the union of classes of its task `total`."""


def load(names: Mapping[int, str], *, device: str) -> Segment:
    """TotalSegmentator as a function from images to the store's label values; structures that it lacks stay empty.

    Raises:
        ConfigError: the program isn't there.
        ModalignError: it fails; the message ends with what it said.
    """
    program = shutil.which("TotalSegmentator")
    if program is None:
        raise ConfigError(
            "segmentation: kind totalsegmentator needs the program TotalSegmentator and its weights: install the "
            "package TotalSegmentator, or set kind: small"
        )
    classes = {value: PARTS[name] for value, name in names.items() if name in PARTS}

    def segment(image: Volume, physical: np.ndarray) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            scan, out = Path(folder) / "image.nii.gz", Path(folder) / "out"
            write_volume(scan, Volume(physical.astype(np.float32), image.affine))
            wanted = [part for parts in classes.values() for part in parts]
            where = "gpu" if device == "cuda" else "cpu"
            command = [program, "-i", str(scan), "-o", str(out), "--device", where, "--roi_subset", *wanted]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                raise ModalignError(f"TotalSegmentator failed: {result.stderr.strip()[-500:]}")
            labels = np.zeros(image.data.shape, np.uint8)
            for value, parts in classes.items():
                for part in parts:
                    labels[read_volume(out / f"{part}.nii.gz").data > 0] = value
        return labels

    return segment
