"""One picture of all phantom archives: fixed scan, moving scan as it lies, and both in a board of squares.

``python benchmarks/phantom_picture.py docs/phantoms.png`` makes one patient of each and draws the same slice of both.
"""

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scenes import make_phantom

from modalign.files import replacing
from modalign.report.figures_display import SOFT_TISSUE_HU, checkerboard, show_slice, square_size
from modalign.report.figures_style import figure
from modalign.spatial.fields import warp_volume
from modalign.volumes import read_volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE, TALL, GAP, CAPTION = 1.35, 1.45, 0.04, 0.2
"""Inches: width and height of a picture, gap, line of text."""
LARGEST_BYTES = 300_000
HEAD_HU = (-150.0, 350.0)


class Archive(NamedTuple):
    """What is shown of an archive: voxels, files, the level as a fraction of the slices, both modalities."""

    name: str
    size: tuple[int, int, int]
    fixed: str
    moving: str
    level: float
    modalities: tuple[str, str]


ARCHIVES = (
    Archive("synthrad2023-task1-pelvis", (240, 200, 50), "**/1P*/mr.nii.gz", "**/1P*/ct.nii.gz", 0.4, ("MR", "CT")),
    Archive("goldatlas", (224, 190, 45), "**/mr_T2.nii.gz", "**/ct.nii.gz", 0.4, ("T2", "CT")),
    Archive("learn2reg-abdomen-mr-ct", (192, 160, 96), "**/*_0000.nii.gz", "**/*_0001.nii.gz", 0.5, ("MR", "CT")),
    Archive("synthrad2023-task2-brain", (200, 232, 50), "**/cbct.nii.gz", "**/2B*/ct.nii.gz", 0.6, ("CBCT", "CT")),
    Archive("ixi", (192, 192, 48), "*-T1.nii.gz", "*-T2.nii.gz", 0.6, ("T1", "T2")),
    Archive("brats2019", (160, 160, 52), "**/*_t1.nii.gz", "**/*_t2.nii.gz", 0.5, ("T1", "T2")),
    Archive("cermep", (160, 192, 64), "**/*_T1w.nii.gz", "**/*_ct.nii.gz", 0.62, ("T1", "CT")),
    Archive("hanseg", (288, 288, 54), "**/*_IMG_MR_T1.nrrd", "**/*_IMG_CT.nrrd", 0.36, ("T1", "CT")),
)

BODIES = {archive.name for archive in ARCHIVES[:3]}
"""Shown in the soft tissue window."""


def draw_archives(work: Path, path: Path, seed: int, workers: int) -> None:
    """Draw two archives a row; phantoms go to `work`."""
    rows = -(-len(ARCHIVES) // 2)
    width, total = 6 * (SIDE + GAP), rows * (TALL + CAPTION)
    with figure(width, total) as made:
        made.set_facecolor("black")
        for number, archive in enumerate(ARCHIVES):
            folder = work / f"picture-{archive.name}"
            make_phantom(archive.name, folder, archive.size, 1, seed, workers)
            bottom = 1 - (number // 2 + 1) * (TALL + CAPTION) / total
            first = number % 2 * 3 * (SIDE + GAP)
            slices, spacing = _slices(folder, archive)
            for column, values in enumerate(slices):
                left = first + column * (SIDE + GAP)
                axes = made.add_axes((left / width, bottom, SIDE / width, TALL / total))
                show_slice(axes, values, spacing)
                axes.set_axis_off()
            text = f"{archive.name}: {archive.modalities[0]}, {archive.modalities[1]}, both"
            made.text((first + 0.02) / width, bottom + (TALL + 0.05) / total, text, fontsize=7.5, color="white")
        _save(made, path)


def _slices(folder: Path, archive: Archive) -> tuple[list[np.ndarray], np.ndarray]:
    """Grey slices of fixed, moving and both, cropped to the body, and the voxel size in mm."""
    fixed = read_volume(next(folder.glob(archive.fixed))).canonical()
    moving = read_volume(next(folder.glob(archive.moving))).canonical()
    moving = warp_volume(moving, None, fixed.grid, outside=float(moving.data.min()))
    z = int(archive.level * fixed.shape[2])
    pair = zip((fixed, moving), archive.modalities, strict=True)
    greys = [_grey(volume.data, modality, archive.name in BODIES)[:, :, z] for volume, modality in pair]
    seen = [np.flatnonzero((greys[0] > 0.15).mean(axis) > 0.02) for axis in (1, 0)]
    box = tuple(slice(max(s[0] - 3, 0), s[-1] + 4) for s in seen)
    greys = [grey[box] for grey in greys]
    return [*greys, checkerboard(greys[0], greys[1], square_size(greys[0].shape, fixed.spacing, 5))], fixed.spacing


def _grey(values: np.ndarray, modality: str, body: bool) -> np.ndarray:
    low, high = SOFT_TISSUE_HU if body else HEAD_HU
    if "CT" not in modality:
        low, high = 0.0, float(np.percentile(values[values > 0], 99))
    return np.clip((values.astype(np.float32) - low) / (high - low), 0, 1)


def _save(made: "Figure", path: Path) -> None:
    from PIL import Image

    for dpi in (160, 140, 120, 100):
        buffer = io.BytesIO()
        made.savefig(buffer, format="png", dpi=dpi, facecolor="black", metadata={"Software": None})
        picture = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        picture.save(buffer, "png", optimize=True)
        if buffer.tell() <= LARGEST_BYTES:
            break
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, help="PNG to write")
    parser.add_argument("--work", type=Path, default=Path("results/realism/archives"), help="folder for the phantoms")
    parser.add_argument("--seed", type=int, default=0, help="of the phantoms")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    arguments = parser.parse_args()
    draw_archives(arguments.work, arguments.picture, arguments.seed, arguments.workers)


if __name__ == "__main__":
    main()
