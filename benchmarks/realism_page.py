"""Pictures of phantoms beside real scans: same level, same field of view, same window, radiological orientation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scenes import make_phantom

from modalign.files import read_json, replacing
from modalign.report.figures_display import BONE_HU, SOFT_TISSUE_HU, show_slice
from modalign.report.figures_style import figure
from modalign.volumes import Volume, read_volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PELVIS, ABDOMEN, HEAD, BRAIN = ("synthrad2023-task1-pelvis", "learn2reg-abdomen-mr-ct", "ixi", "brats2019")
SIZES = {PELVIS: (384, 320, 60), ABDOMEN: (192, 160, 96), HEAD: (256, 256, 54), BRAIN: (240, 240, 62)}
"""Voxels: in plane those of the archives, in slices a few millimetres thick."""
PATIENTS = {PELVIS: 2, ABDOMEN: 2, HEAD: 1, BRAIN: 2}
WIDTH, GAP, CAPTION = 2.6, 0.06, 0.24
"""Inches."""


@dataclass(frozen=True)
class Panel:
    """A slice to be shown: `level` is its index; `hu` the window of a CT, None for percentiles."""

    title: str
    volume: Volume
    level: int
    hu: tuple[float, float] | None = None


@dataclass(frozen=True)
class PictureRow:
    """Panels of one body part and contrast, over `field_mm` (R, A) about the middle of the body."""

    name: str
    panels: tuple[Panel, ...]
    field_mm: tuple[float, float]


def draw_page(out: Path, real: Path | None, seed: int, workers: int) -> list[Path]:
    """Write ``page.png`` and one PNG per row; without `real`, the folder of real scans, phantoms alone."""
    folders = {name: out / "archives" / f"pictures-{name}" for name in SIZES}
    for name, folder in folders.items():
        # A man's and a woman's pelvis: the real one is a woman's.
        make_phantom(name, folder, SIZES[name], PATIENTS[name], seed, workers)
    rows = [*_pelvis(folders[PELVIS], real), *_abdomen(folders[ABDOMEN], real)]
    rows += [*_head(folders[HEAD], real), *_brain(folders[BRAIN], real)]
    written = [_draw([row], out / f"row-{row.name}.png") for row in rows]
    return [*written, _draw(rows, out / "page.png")]


def _pelvis(folder: Path, real: Path | None) -> list[PictureRow]:
    cases = sorted((folder / "Task1" / "pelvis").glob("1P*"))
    rows = []
    for name, structure, level, hu in (
        ("pelvis-ct", "bladder", 67, SOFT_TISSUE_HU),
        ("pelvis-bone", "femur", 61, BONE_HU),
    ):
        panels = [
            Panel(f"phantom {c.name}", _scan(c / "ct.nii.gz"), _largest(folder, c.name, "ct", structure), hu)
            for c in cases
        ]
        if real:
            panels.append(Panel("real, woman", _scan(real / "pelvis_ct_pet" / "ct.nii.gz"), level, hu))
        rows.append(PictureRow(name, tuple(panels), (430, 290)))
    mr = [
        Panel(f"phantom {c.name}, MR", _scan(c / "mr.nii.gz"), _largest(folder, c.name, "mr", "bladder")) for c in cases
    ]
    return [*rows, PictureRow("pelvis-mr", tuple(mr), (430, 290))]


def _abdomen(folder: Path, real: Path | None) -> list[PictureRow]:
    rows = []
    for modality, number, file, level, hu in (
        ("ct", "0001", "example_ct_sm", 14, SOFT_TISSUE_HU),
        ("mr", "0000", "example_mr_sm", 13, None),
    ):
        panels = []
        for path in sorted((folder / "AbdomenMRCT" / "imagesTr").glob(f"*_{number}.nii.gz")):
            case = path.name.split("_")[1]
            z = _largest(folder, case, modality, "kidney_right", "liver")
            panels.append(Panel(f"phantom {case}", _scan(path), z, hu))
        if real:
            panels.append(Panel("real", _scan(real / "totalsegmentator_ct_mr" / f"{file}.nii.gz"), level, hu))
        rows.append(PictureRow(f"abdomen-{modality}", tuple(panels), (400, 300)))
    return rows


def _head(folder: Path, real: Path | None) -> list[PictureRow]:
    rows = []
    for contrast, files in (
        ("T1", {"ms_raw/patient04_study1_T1W": 0.52, "remind_t1c_t2/remind_T1c": 0.55}),
        ("T2", {"ms_raw/patient04_study1_T2W": 0.55, "remind_t1c_t2/remind_T2": 0.6}),
    ):
        panels = []
        for path in sorted(folder.glob(f"*-{contrast}.nii.gz"))[:1]:
            case = path.name.removesuffix(f"-{contrast}.nii.gz")
            scan = _scan(path)
            z = _largest(folder, case, contrast.lower(), "ventricle")
            panels.append(Panel(f"phantom {case.split('-')[0]}", scan, z))
        panels += _real(real, files)
        rows.append(PictureRow(f"head-{contrast.lower()}", tuple(panels), (190, 230)))
    return rows


def _brain(folder: Path, real: Path | None) -> list[PictureRow]:
    rows = []
    tumours = {path: _scan(path) for path in sorted(folder.rglob("*_seg.nii.gz"))}
    areas = {path: (tumour.data > 0).sum((0, 1)) for path, tumour in tumours.items()}
    largest = max(areas, key=lambda path: int(areas[path].max()))
    # At the level of the real healthy slices, with as little of a tumour as there is.
    level = int(0.56 * SIZES[BRAIN][2])
    least = min(areas, key=lambda path: int(areas[path][level]))
    for contrast in ("t1", "t2"):
        images = {path: _scan(path.with_name(path.name.replace("_seg", f"_{contrast}"))) for path in areas}
        tumour = [Panel("phantom", images[largest], int(areas[largest].argmax()))]
        healthy = [Panel("phantom", images[least], level)]
        glioma = f"tcga_glioma_brats_space/TCGA-{{}}_{contrast}"
        tumour += _real(real, {glioma.format("DU-7294"): 0.73, glioma.format("FG-6692"): 0.6})
        upper = contrast.upper()
        healthy += _real(real, {f"ms_mni/patient07_{upper}": 0.5, f"ms_mni/patient26_{upper}": 0.5})
        rows.append(PictureRow(f"glioma-{contrast}", tuple(tumour), (160, 190)))
        rows.append(PictureRow(f"brain-{contrast}", tuple(healthy), (160, 190)))
    return rows


def _real(folder: Path | None, files: dict[str, float]) -> list[Panel]:
    """Real scans, each at a level given as a fraction of its slices."""
    if folder is None:
        return []
    scans = [(name, fraction, _scan(folder / f"{name}.nii.gz")) for name, fraction in files.items()]
    return [Panel(f"real {n.split('/')[1]}", s, int(f * s.shape[2])) for n, f, s in scans]


def _scan(path: Path) -> Volume:
    return read_volume(path).canonical()


def _largest(folder: Path, case: str, modality: str, *structures: str) -> int:
    """The slice in which the structures whose names contain one of the words cover the largest area, scaled alike."""
    truth = folder / "modalign-truth"
    labels = _scan(truth / case / f"{modality}_labels.nii.gz").data
    names = {int(value): name for value, name in read_json(truth / "labels.json").items()}
    total = np.zeros(labels.shape[2])
    for word in structures:
        area = np.isin(labels, [v for v, name in names.items() if word in name]).sum((0, 1))
        total += area / max(area.max(), 1)
    return int(total.argmax())


def _draw(rows: Sequence[PictureRow], path: Path) -> Path:
    heights = [CAPTION + WIDTH * row.field_mm[1] / row.field_mm[0] + GAP for row in rows]
    columns = max(len(row.panels) for row in rows)
    total, width = sum(heights), columns * (WIDTH + GAP)
    with figure(width, total) as made:
        made.set_facecolor("black")
        top = total
        for row, height in zip(rows, heights, strict=True):
            for column, panel in enumerate(row.panels):
                left = column * (WIDTH + GAP) / width
                tall = height - CAPTION - GAP
                axes = made.add_axes((left, (top - CAPTION - tall) / total, WIDTH / width, tall / total))
                _show(axes, panel, row.field_mm)
                text = f"{row.name}: {panel.title}, slice {panel.level + 1}"
                made.text(left + 0.005, (top - 0.7 * CAPTION) / total, text, color="white", fontsize=7.5)
            top -= height
        with replacing(path) as temporary:
            made.savefig(temporary, format="png", dpi=130, facecolor="black", metadata={"Software": None})
    return path


def _show(axes: "Axes", panel: Panel, field_mm: tuple[float, float]) -> None:
    spacing = panel.volume.spacing
    values = panel.volume.data[:, :, panel.level].astype(np.float32)
    if panel.hu is None:
        # From zero signal on: percentiles would make white matter black where nothing else is darker.
        low, high = 0.0, float(np.percentile(panel.volume.data[panel.volume.data > 0], 99))
        body = values > 0.12 * high
    else:
        (low, high), body = panel.hu, values > -300
    show_slice(axes, values, spacing, limits=(low, high))
    axes.set_axis_off()
    # The middle of the box around the body: a centre of mass would follow what is bright.
    (left, right), ends = (_around(body.mean(1 - axis), spacing[axis], field_mm[axis]) for axis in (0, 1))
    axes.set_xlim(right, left)
    axes.set_ylim(*ends)


def _around(share: np.ndarray, spacing: float, length_mm: float) -> tuple[float, float]:
    """Both ends, mm from the first voxel, of `length_mm` about the middle of what has body in it."""
    seen = np.flatnonzero(share > 0.03)
    middle = (seen[0] + seen[-1]) / 2 if seen.size else share.size / 2
    return middle * spacing - length_mm / 2, middle * spacing + length_mm / 2
