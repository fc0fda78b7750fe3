"""The picture of the README: what some methods make of two test cases of the default run, and how far it is off.

``python benchmarks/readme_picture.py results docs/panels.png``, after the default run.
"""

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from modalign.cases import CaseStore
from modalign.volumes import read_volume


@dataclass(frozen=True)
class Strip:
    """A data set's part of the picture.

    Attributes:
        dataset: as the configuration calls it.
        fixed: the modality that stays.
        window: HU shown as black and white.
        largest: HU of the strongest colour of the differences.
        methods: variant and what it is called here.
    """

    dataset: str
    fixed: str
    window: tuple[float, float]
    largest: float
    methods: tuple[tuple[str, str], ...]


STRIPS = (
    Strip(
        "synthrad2023-mr-ct-pelvis",
        "MR",
        (-160.0, 66.0),
        250.0,
        (
            ("syn-rbg", "SyN"),
            ("voxelmorph-2d-munit", "VoxelMorph 2D"),
            ("munit", "MUNIT"),
            ("registformer", "RegistFormer"),
            ("rbg", "RbG"),
        ),
    ),
    Strip(
        "cermep-t1-ct",
        "T1",
        (-450.0, 1050.0),
        850.0,
        (
            ("syn-locor", "SyN"),
            ("niftyreg-nmi-locor", "NiftyReg NMI"),
            ("mi", "MI"),
            ("mind-ssc", "MIND-SSC"),
            ("locor", "Locor"),
        ),
    ),
)


def _show(
    axis: Any,
    image: np.ndarray,
    title: str,
    limits: tuple[float, float],
    *,
    slice_at: int,
    aspect: float,
    colours: str = "gray",
) -> None:
    # Radiological display: the patient's right is on the left.
    shown = image[::-1, :, slice_at].T
    axis.imshow(shown, cmap=colours, vmin=limits[0], vmax=limits[1], origin="lower", aspect=aspect)
    axis.set_title(title, fontsize=8)


def draw(results: Path, path: Path) -> None:
    """Images above, differences from the truth below, of the first test case and a slice through its middle."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = 3 + max(len(strip.methods) for strip in STRIPS)
    figure, axes = pyplot.subplots(2 * len(STRIPS), columns, figsize=(1.45 * columns, 6.4), layout="constrained")
    for strip, (above, below) in zip(STRIPS, axes.reshape(len(STRIPS), 2, columns), strict=True):
        store = CaseStore(results / "cases" / strip.dataset)
        case = store.load(store.ids(["test"])[0])
        assert case.true_image is not None
        to_hu, z = case.moving_intensity.to_physical, case.grid.shape[2] // 2
        truth = to_hu(case.true_image.data)
        mask = np.ones(truth.shape, bool) if case.measured_in is None else case.measured_in.data > 0
        aspect = case.fixed.spacing[1] / case.fixed.spacing[0]

        seen = np.percentile(case.fixed.data, (1, 99.5))
        show = partial(_show, slice_at=z, aspect=float(aspect))
        show(above[0], case.fixed.data, f"{strip.fixed}, fixed", (float(seen[0]), float(seen[1])))
        show(above[1], truth, "truth", strip.window)
        images = [("identity", "not aligned"), *strip.methods]
        for n, (variant, name) in enumerate(images, start=2):
            aligned = read_volume(results / "aligned" / strip.dataset / variant / "seed0" / case.id / "image.nii.gz")
            image = to_hu(aligned.data)
            error = np.where(mask, image - truth, 0)
            show(above[n], image, name, strip.window)
            off = f"{np.abs(error[mask]).mean():.0f} HU off"
            show(below[n], error, off, (-strip.largest, strip.largest), colours="PuOr")
    for axis in axes.flat:
        axis.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("path", type=Path)
    given = parser.parse_args()
    draw(given.results, given.path)


if __name__ == "__main__":
    main()
