"""How slices are shown: grey windows, radiological orientation, checkerboards, contours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modalign.cases import Intensity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SOFT_TISSUE_HU = (-160.0, 240.0)
BONE_HU = (-450.0, 1050.0)
SKULL_SHARE = 0.1
"""A CT in which a larger part of the body is bone (above 300 HU) is shown in the bone window: a head, mostly skull."""


Box = tuple[tuple[int, int], tuple[int, int]]
"""First and last + 1 voxel along both axes of a slice."""


@dataclass(frozen=True)
class Window:
    """The range of physical values that spans black to white.

    Attributes:
        low: black.
        high: white.
        intensity: from stored to physical values.
        text: for captions.
    """

    low: float
    high: float
    intensity: Intensity
    text: str

    def grey(self, stored: np.ndarray) -> np.ndarray:
        """Stored values as grey, 0 to 1; values beyond the window are clamped."""
        physical = self.intensity.to_physical(np.asarray(stored, dtype=np.float32))
        return np.clip((physical - self.low) / (self.high - self.low), 0, 1)


def choose_window(stored: np.ndarray, intensity: Intensity) -> Window:
    """The window of a scan: soft tissue or bone if its values are HU, else robust percentiles of the foreground.

    Args:
        stored: the scan, (X, Y, Z), not a method's result, so that all results are shown in one window.
        intensity: from stored to physical values.
    """
    physical = intensity.to_physical(np.asarray(stored, dtype=np.float32))
    if intensity.unit == "HU":
        body = physical[physical > -300]
        bone = body.size > 0 and float(np.mean(body > 300)) > SKULL_SHARE
        low, high = BONE_HU if bone else SOFT_TISSUE_HU
        # Scans that were clipped would be shown in dark greys alone.
        high = min(high, max(float(physical.max()), low + 100))
        return Window(low, high, intensity, f"{'bone' if bone else 'soft tissue'} window, {low:.0f} to {high:.0f} HU")
    foreground = physical[physical > physical.min()]
    if not foreground.size:
        return Window(float(physical.min()), float(physical.min()) + 1, intensity, "constant image")
    low, high = (float(value) for value in np.percentile(foreground, (1, 99.5)))
    return Window(low, high if high > low else low + 1, intensity, "1st to 99.5th percentile")


def show_slice(
    axes: "Axes",
    values: np.ndarray,
    spacing: np.ndarray,
    *,
    limits: tuple[float, float] = (0, 1),
    colours: str = "gray",
) -> None:
    """Show an axial slice as radiologists do: the patient's right on the left, anterior up, in true proportions.

    Args:
        axes: drawn into; its coordinates become mm from the first voxel's centre along R and A.
        values: (X, Y) of a RAS-oriented volume.
        spacing: voxel size in mm along R and A.
        limits: values of the first and the last colour.
        colours: a matplotlib colour map.
    """
    x, y = spacing[:2]
    extent = (-x / 2, (values.shape[0] - 0.5) * x, -y / 2, (values.shape[1] - 0.5) * y)
    axes.imshow(
        values.T, origin="lower", extent=extent, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest"
    )
    axes.set_xlim(extent[1], extent[0])
    axes.set_aspect("equal")


def limit(axes: "Axes", box: Box, spacing: np.ndarray) -> None:
    """Show no more of a slice from :func:`show_slice` than a box."""
    left, right, low, high = edges(box, spacing)
    axes.set_xlim(right, left)
    axes.set_ylim(low, high)


def draw_box(axes: "Axes", box: Box, spacing: np.ndarray, colour: str) -> None:
    """Draw the outline of a box on a slice from :func:`show_slice`."""
    from matplotlib.patches import Rectangle

    left, right, low, high = edges(box, spacing)
    axes.add_patch(Rectangle((left, low), right - left, high - low, fill=False, edgecolor=colour, linewidth=0.9))


def write_on(axes: "Axes", text: str) -> None:
    """Write into the upper left corner of a picture."""
    dark = {"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "pad": 1.5}
    axes.text(0.02, 0.975, text, ha="left", va="top", transform=axes.transAxes, color="white", fontsize=8.5, bbox=dark)


def write_values(axes: "Axes", values: Sequence[str]) -> None:
    """Write numbers into the left corners of a picture, the first half above and the others below.

    Corners of axial slices show air. An outline instead of a box leaves the picture visible behind them, and lets them
    be read on black, grey and white.
    """
    from matplotlib.patheffects import withStroke

    outline = [withStroke(linewidth=2.2, foreground="black")]
    style: dict[str, Any] = {"color": "white", "fontsize": 8, "linespacing": 1.05, "path_effects": outline}
    half = (len(values) + 1) // 2
    for y, side, part in ((0.985, "top", values[:half]), (0.015, "bottom", values[half:])):
        if part:
            axes.text(0.02, y, "\n".join(part), ha="left", va=side, transform=axes.transAxes, **style)


def edges(box: Box, spacing: np.ndarray) -> tuple[float, float, float, float]:
    """Where a box begins and ends along R and A, in mm from the first voxel's centre."""
    (x0, x1), (y0, y1) = box
    sx, sy = spacing[:2]
    return (x0 - 0.5) * sx, (x1 - 0.5) * sx, (y0 - 0.5) * sy, (y1 - 0.5) * sy


def checkerboard(first: np.ndarray, second: np.ndarray, square: tuple[int, int]) -> np.ndarray:
    """Squares of `first` and `second` in turns, (X, Y); `first` has the corner at index (0, 0).

    Args:
        first: (X, Y).
        second: (X, Y).
        square: voxels of a square along both axes.
    """
    i, j = np.indices(first.shape)
    return np.where((i // square[0] + j // square[1]) % 2 == 0, first, second)


def square_size(shape: tuple[int, int], spacing: np.ndarray, across: int = 6) -> tuple[int, int]:
    """Voxels along both axes of a square of which about `across` fit along the shorter side, square in mm."""
    side = min(shape[0] * spacing[0], shape[1] * spacing[1]) / across
    return max(1, round(side / spacing[0])), max(1, round(side / spacing[1]))


def draw_contours(axes: "Axes", grey: np.ndarray, spacing: np.ndarray, colour: str) -> None:
    """Draw the outlines of an image: contours of a slightly smoothed slice at a quarter, half and three quarters grey.

    Args:
        axes: with a slice from :func:`show_slice`.
        grey: (X, Y), 0 to 1.
        spacing: voxel size in mm along R and A.
        colour: of the lines.
    """
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(grey.astype(np.float32), 0.6)
    levels = [level for level in (0.25, 0.5, 0.75) if smooth.min() < level < smooth.max()]
    if levels:
        x, y = (np.arange(n) * s for n, s in zip(grey.shape, spacing[:2], strict=True))
        axes.contour(x, y, smooth.T, levels=levels, colors=colour, linewidths=0.7)


def draw_grid(
    axes: "Axes", field: np.ndarray, folded: np.ndarray, spacing: np.ndarray, colours: tuple[str, str]
) -> None:
    """Draw where a field takes the fixed grid, and mark folded voxels.

    Args:
        axes: with limits from :func:`show_slice`.
        field: (3, X, Y), voxels of the fixed grid; only its in-plane part is to be seen.
        folded: bool (X, Y).
        spacing: voxel size in mm along R and A.
        colours: of the lines and of folded voxels.
    """
    from matplotlib.collections import LineCollection, PolyCollection

    shape = np.array(field.shape[1:])
    positions = (np.indices(tuple(shape)) + field[:2]) * np.reshape(spacing[:2], (2, 1, 1))
    step = np.maximum(1, np.round(shape / 18)).astype(int)
    across = [positions[:, i].T for i in range(step[0] // 2, shape[0], step[0])]
    along = [positions[:, :, j].T for j in range(step[1] // 2, shape[1], step[1])]
    axes.add_collection(LineCollection([*across, *along], colors=colours[0], linewidths=0.6))
    i, j = np.nonzero(folded)
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.5 * np.asarray(spacing[:2])
    centres = positions[:, i, j].T
    axes.add_collection(PolyCollection(centres[:, None, :] + half, facecolors=colours[1], linewidths=0, zorder=3))
