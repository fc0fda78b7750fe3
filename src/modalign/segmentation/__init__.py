"""Structures in the aligned images: a downstream task that also methods without a displacement field can be scored by.

RbG (section IV-E) and RegistFormer segment the aligned CT with TotalSegmentator. Where that isn't installed, a small
U-Net takes its place, trained on the unaligned CTs of the training split and their contours, and is named so.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from modalign.cases import CaseStore
from modalign.errors import ConfigError, DataError
from modalign.files import write_json
from modalign.methods.base import MethodOptions
from modalign.volumes import Volume, read_volume, write_volume

Segment = Callable[[Volume, np.ndarray], np.ndarray]
"""From an image in stored intensities, and the same in physical ones, to a label map (X, Y, Z)."""

DONE = "segmented.json"


class SegmentationOptions(MethodOptions):
    """How aligned images are segmented."""

    kind: Literal["small", "totalsegmentator"] = Field("small", description="our small U-Net, or TotalSegmentator")
    steps: int = Field(800, ge=1, description="training steps of the small U-Net")
    batch: int = Field(4, ge=1, description="slices per training step of the small U-Net")
    learning_rate: float = Field(5e-3, gt=0, description="step size of the small U-Net's training")
    channels: int = Field(8, ge=1, description="features of the small U-Net at full resolution")
    blur_voxels: float = Field(
        1.5,
        ge=0,
        description="half of the slices that the small U-Net learns from are smoothed, by a Gaussian of up to this "
        "standard deviation: interpolated and generated images are smoother than scans",
    )
    islands: float = Field(
        0.1,
        ge=0,
        le=1,
        description="pieces of a structure that are smaller than this share of its largest one are dropped from what "
        "the small U-Net finds; 0 keeps all",
    )


def parse_options(options: Mapping[str, Any]) -> SegmentationOptions:
    """Check the options of segmentation.

    Raises:
        ConfigError: an unknown option or value.
    """
    try:
        return SegmentationOptions(**options)
    except ValidationError as error:
        problem = error.errors()[0]
        known = ", ".join(SegmentationOptions.model_fields)
        message = f"segmentation: {'.'.join(map(str, problem['loc']))} is {problem['input']!r}: {problem['msg']}"
        raise ConfigError(f"{message}; the options are: {known}") from error


def segment_cases(
    store: CaseStore,
    aligned: Path,
    out: Path,
    segment: Segment,
    name: str,
    cases: Sequence[str],
) -> None:
    """Segment the aligned image of each case: ``out/<case>/labels.nii.gz``, and ``out/segmented.json`` when done.

    Args:
        store: the prepared cases, which know what stored intensities mean.
        aligned: folder with ``<case>/image.nii.gz``.
        out: where label maps go, in the label values of the store.
        segment: the segmenter.
        name: what it is called wherever its numbers appear.
        cases: ids.

    Raises:
        DataError: an aligned image is missing.
    """
    for case in cases:
        path = aligned / case / "image.nii.gz"
        if not path.is_file():
            raise DataError(f"{path} does not exist: align the case first")
        image = read_volume(path)
        physical = store.load(case, ("fixed", "moving")).moving_intensity.to_physical(image.data)
        labels = segment(image, physical)
        write_volume(out / case / "labels.nii.gz", Volume(labels.astype(np.uint8), image.affine))
    write_json(out / DONE, {"segmenter": name, "cases": list(cases)})
