"""What a measure sees of one case: the scans, the truth, the alignment, and what several measures share."""

import dataclasses
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage as ndi

from modalign.cases import Case
from modalign.errors import ConfigError, DataError
from modalign.methods.base import moving_on_fixed_grid
from modalign.metrics.choices import check_option
from modalign.preprocess.sampling import sample
from modalign.spatial.fields import sampling_positions
from modalign.volumes import Volume


class Value(NamedTuple):
    """One result; NaN where the measure is undefined."""

    value: float
    slice: int | None = None
    structure: str = ""


@dataclass(eq=False)
class Pair:
    """A case and its alignment.

    Attributes:
        case: with the labels and the truth, where there are any.
        image: the aligned image, (X, Y, Z) on the fixed grid, stored intensities of the moving modality.
        field: (3, X, Y, Z) in voxels of the fixed grid, or None for methods that don't deform.
        structures: name of every label value.
        modalities: of fixed and of moving, such as ``("mr", "ct")``.
        pseudo: the fixed image translated to the moving contrast by the data set's translator, like `image`; or None.
        segmented: label map of the aligned image, (X, Y, Z), made by a segmenter; or None.
        remarks: what the reader of a value has to know; measures add to it.
        memory: intermediate results that several measures share.
    """

    case: Case
    image: np.ndarray
    field: np.ndarray | None = None
    structures: Mapping[int, str] = dataclasses.field(default_factory=dict)
    modalities: tuple[str, str] = ("", "")
    pseudo: np.ndarray | None = None
    segmented: np.ndarray | None = None
    remarks: set[str] = dataclasses.field(default_factory=set)
    memory: dict[Hashable, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, image in (("aligned", self.image), ("pseudo", self.pseudo)):
            if image is not None and image.shape != self.case.grid.shape:
                problem = f"has shape {image.shape}, its fixed image {self.case.grid.shape}"
                raise DataError(f"the {name} image of case {self.case.id} {problem}: align the case again")

    @property
    def has(self) -> frozenset[str]:
        """Which of the things that measures need are there."""
        case = self.case
        there = {
            "image": True,
            "field": self.field is not None,
            "labels": case.fixed_labels is not None and case.moving_labels is not None,
            "true_field": case.true_field is not None,
            "true_image": case.true_image is not None,
            "pseudo_image": self.pseudo is not None,
            "segmentation": self.segmented is not None and case.fixed_labels is not None,
        }
        return frozenset(name for name, exists in there.items() if exists)

    @cached_property
    def fixed_window(self) -> tuple[float, float]:
        """The fixed scan's intensity range: the one it was prepared to, otherwise as :func:`intensity_window` says."""
        return prepared_range(self.case.record, "fixed") or intensity_window(self.case.fixed.data)

    @cached_property
    def moving_window(self) -> tuple[float, float]:
        """The moving scan's intensity range, which is also that of aligned and of true images; found likewise."""
        return prepared_range(self.case.record, "moving") or intensity_window(self.case.moving.data)

    @cached_property
    def fixed_u8(self) -> np.ndarray:
        """The fixed scan in 8 bits, (X, Y, Z)."""
        return to_uint8(self.case.fixed.data, self.fixed_window)

    @cached_property
    def image_u8(self) -> np.ndarray:
        """The aligned image in 8 bits, (X, Y, Z)."""
        return to_uint8(self.image, self.moving_window)

    @cached_property
    def reference_u8(self) -> np.ndarray:
        """The unaligned moving scan on the fixed grid in 8 bits, (X, Y, Z)."""
        return to_uint8(moving_on_fixed_grid(self.case).moving.data, self.moving_window)

    @cached_property
    def true_image(self) -> np.ndarray:
        """The true aligned image, (X, Y, Z), stored intensities of the moving modality."""
        if self.case.true_image is None:
            raise ValueError(f"case {self.case.id} has no true image")
        return self.case.true_image.data

    def inside(self, region: str) -> np.ndarray:
        """Where a measure counts, bool (X, Y, Z): everywhere, or in the case's mask (everywhere if there is none)."""
        if region not in ("mask", "grid", "slice"):
            raise ConfigError(f"region {region!r} is not known here; write 'mask', or 'grid' for the whole volume")
        if region == "mask":
            if self.case.measured_in is not None:
                return self.case.measured_in.data > 0
            self.remarks.add("no mask, so the whole grid counts")
        return np.ones(self.image.shape, dtype=bool)

    @cached_property
    def _positions(self) -> np.ndarray:
        labels = self.case.moving_labels
        assert labels is not None
        return sampling_positions(self.field, self.case.grid, labels.grid)

    def labels(self, interpolation: str, region: str) -> tuple[np.ndarray, np.ndarray]:
        """Fixed and warped label maps, (X, Y, Z), with nothing outside `region`.

        Args:
            interpolation: ``nearest``, or ``linear``: each structure is warped as a smooth mask and cut at one half.
            region: ``grid`` or ``mask``.
        """
        fixed, moving = self.case.fixed_labels, self.case.moving_labels
        assert fixed is not None
        assert moving is not None
        check_option("dice", "interpolation", interpolation)
        key = ("warped labels", interpolation)
        if key not in self.memory:
            warp = _warp_nearest if interpolation == "nearest" else _warp_linear
            self.memory[key] = warp(moving, self._positions)
        warped = self.memory[key]
        if region == "grid":
            return fixed.data, warped
        inside = self.inside(region)
        return np.where(inside, fixed.data, 0), np.where(inside, warped, 0)

    @cached_property
    def unwarped_labels(self) -> np.ndarray:
        """The moving label map on the fixed grid before alignment, (X, Y, Z)."""
        moving = self.case.moving_labels
        assert moving is not None
        if self.case.grid.same_as(moving.grid):
            return moving.data
        return _warp_nearest(moving, sampling_positions(None, self.case.grid, moving.grid))


def prepared_range(record: Mapping[str, Any], side: str) -> tuple[float, float] | None:
    """The range that a case's preparation mapped the intensities of `side` onto, from the steps in its case.json.

    Args:
        record: a case.json; one without steps says nothing.
        side: ``fixed`` or ``moving``.

    Returns:
        Lower and upper end; None if no step maps the side onto a range, or a later step leads out of it.
    """
    found = None
    for step in record.get("steps", ()):
        if side not in (step.get("outcome") or {}):
            continue
        if "range" in step["parameters"]:
            low, high = step["parameters"]["range"]
            found = float(low), float(high)
        elif step["function"] in _NEW_SCALES:
            found = None
    return found


def clipped_at(record: Mapping[str, Any], side: str) -> list[tuple[float, float]]:
    """The percentiles at which a case's preparation cut off the intensities of `side`, from its case.json."""
    return [
        (float(step["parameters"]["low_percent"]), float(step["parameters"]["high_percent"]))
        for step in record.get("steps", ())
        if step["function"] == "clip_percentiles" and side in (step.get("outcome") or {})
    ]


_NEW_SCALES = ("n4", "nyul", "zscore")
"""Steps of preparation after which intensities lie in no given range."""


def intensity_window(stored: np.ndarray) -> tuple[float, float]:
    """The range that intensities of unknown preparation are normalised by: (-1, 1) if they lie in it, otherwise their
    minimum and maximum.

    It comes from the scan, never from a method's output, so every method is measured on one scale.
    """
    low, high = float(stored.min()), float(stored.max())
    if low >= -1.001 and high <= 1.001:
        return -1.0, 1.0
    return low, high


def to_uint8(stored: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Stored intensities in 8 bits: `window` to 0..255, fractions cut off, values outside clamped.

    The RbG code cuts off in the same way but doesn't clamp, so that its rare values above 1 wrap around to black.
    """
    low, high = window
    scaled = (np.asarray(stored, dtype=np.float32) - low) / (high - low) * 255
    return np.clip(scaled, 0, 255).astype(np.uint8)


def _warp_nearest(moving: Volume, positions: np.ndarray) -> np.ndarray:
    return sample(moving.data, positions, order=0, fill=0)


def _warp_linear(moving: Volume, positions: np.ndarray) -> np.ndarray:
    warped = np.zeros(positions.shape[1:], dtype=moving.data.dtype)
    for value, box in enumerate(ndi.find_objects(moving.data), start=1):
        if box is None:
            continue
        low = np.array([max(s.start - 1, 0) for s in box])
        high = [min(s.stop + 1, n) for s, n in zip(box, moving.shape, strict=True)]
        near = np.ones(warped.shape, dtype=bool)
        for axis in range(3):
            near &= (positions[axis] > low[axis] - 1) & (positions[axis] < high[axis])
        mask = moving.data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] == value
        local = positions[:, near] - low[:, None]
        smooth = sample(mask.astype(np.float32), local, fill=0)
        warped[near] = np.where(smooth >= 0.5, value, warped[near])
    return warped
