"""Phantoms of the pelvis and abdomen archives: SynthRAD2023 task 1, Gold Atlas, Learn2Reg Abdomen MR-CT."""

from pathlib import Path

import numpy as np
import scipy.ndimage as ndi

from modalign.files import replacing, write_json
from modalign.phantoms.abdomen import draw_abdomen
from modalign.phantoms.abdomen import label_of as abdomen_label_of
from modalign.phantoms.archives import write_truth
from modalign.phantoms.body_scans import covering, ct_scan, mr_scan, scan_twice, scanner_units
from modalign.phantoms.motion import Motion, random_motion
from modalign.phantoms.mr import signal_table, spoiled_gradient_echo
from modalign.phantoms.pelvis import LABELS as PELVIS_LABELS
from modalign.phantoms.pelvis import Implant, Pelvis, draw_pelvis
from modalign.phantoms.pelvis import label_of as pelvis_label_of
from modalign.phantoms.tissues import TISSUES
from modalign.seeds import generator
from modalign.volumes import Grid, Volume, write_volume

Size = tuple[int, int, int]

IMPLANTS: dict[int, Implant] = {1: "nail", 5: "hip"}
"""Of every sixteen patients of the pelvis archive, those with metal."""
_PELVIS_FIELD_MM = (480.0, 400.0, 250.0)
_PELVIS_MIDDLE = (0.0, 0.0, 12.0)
_ABDOMEN_LABELS = {1: "liver", 2: "spleen", 3: "kidney_right", 4: "kidney_left"}
_GOLDATLAS_LABELS = {1: "bladder", 2: "rectum", 3: "prostate"}


def write_synthrad_pelvis(folder: Path, patient: int, size: Size, seed: int) -> None:
    """Write one patient of SynthRAD2023 task 1, pelvis: ``Task1/pelvis/1P<centre><number>/{mr,ct,mask}.nii.gz``.

    MR and CT share one grid of `size` voxels that covers 480 x 400 x 250 mm, so 480 x 400 x 100 voxels are the
    archive's 1 x 1 x 2.5 mm. Centre A scans T1w gradient echoes at 1.5 T, centre C at 3 T. Women and men alternate
    within each centre. Of sixteen patients one has a metal hip, and one a nail in the thigh.
    """
    archive = "synthrad2023-task1-pelvis"
    centre, number = "AC"[patient % 2], patient // 2 + 1
    case = f"1P{centre}{number:03d}"
    rng = generator(seed, archive, str(patient), "anatomy")
    male = (patient + patient // 2 + seed) % 2 == 0
    grid = covering(size, _PELVIS_FIELD_MM, _PELVIS_MIDDLE)
    implant = IMPLANTS.get(patient % 16)
    body = draw_pelvis(rng, male=male, implant=implant, left=bool(rng.random() < 0.5), detail_mm=_detail(grid))
    bladder, rectum = _change(rng, 0.30), _change(rng, 0.25)
    motion = _pelvis_motion(rng, body, grid, bladder, rectum, deformation_mm=float(rng.uniform(4, 6)))
    pair = scan_twice(body.anatomy, motion, (grid, grid), rng)

    tesla, tr_ms, te_ms, flip_deg = (1.5, 7.4, 2.3, 14) if centre == "A" else (3.0, 5.6, 2.4, 12)
    values = signal_table("spoiled_gradient_echo", tr_ms=tr_ms, te_ms=te_ms, flip_deg=flip_deg, tesla=tesla)
    # Blood flows in fully relaxed, which makes it the brightest tissue; a fifth is lost to flow.
    fresh = spoiled_gradient_echo(TISSUES["blood"], tr_ms=60_000, te_ms=te_ms, flip_deg=flip_deg, tesla=tesla)
    values["blood"] = 0.8 * fresh
    noise = generator(seed, archive, str(patient), "noise")
    mr = mr_scan(
        pair.signal(pair.fixed, values), grid, noise, snr=float(noise.uniform(35, 60)), bias=0.12 * tesla / 1.5
    )
    ct = ct_scan(pair, pair.moving, noise, noise_hu=(11, 18))

    target = folder / "Task1" / "pelvis" / case
    write_volume(target / "mr.nii.gz", Volume(mr, grid.affine))
    write_volume(target / "ct.nii.gz", Volume(ct, grid.affine))
    body_mask = (pair.fixed.centres > 0) | (pair.moving.centres > 0)
    reach = ndi.distance_transform_edt(~body_mask, sampling=grid.spacing) <= max(10.0, float(grid.spacing[0]))
    write_volume(target / "mask.nii.gz", Volume(reach.astype(np.uint8), grid.affine))
    _write_overview(folder / "Task1" / "pelvis" / "overview" / f"{case}_train.png", mr, ct)
    write_truth(
        folder,
        case,
        "mr",
        "ct",
        true_field=motion.true_field(grid),
        fixed_grid=grid,
        true_image=Volume(np.rint(pair.hounsfield(pair.fixed)).astype(np.int16), grid.affine),
        labels={
            "mr": Volume(pair.fixed.labels(pelvis_label_of(body.anatomy)), grid.affine),
            "ct": Volume(pair.moving.labels(pelvis_label_of(body.anatomy)), grid.affine),
        },
        label_names=PELVIS_LABELS,
    )


def write_goldatlas(folder: Path, patient: int, size: Size, seed: int) -> None:
    """Write one patient of a NIfTI conversion of the Gold Atlas, all men, standing in for Cao et al. 2018.

    Layout: ``<site>_<number>_P/{ct,mr_T1,mr_T2}.nii.gz`` and the contours as masks
    ``{ct,mr}_{bladder,rectum,prostate}.nii.gz`` (uint8, 0 and 1) on the grids of ``ct`` and of ``mr_T2``. Both MR
    share a grid of `size` voxels over 448 x 380 x 225 mm; the CT's voxels are 1.12 times as wide and 1.2 times as
    thick, over 500 x 424 x 250 mm. Truth comes for both directions, ``mr-ct`` and ``ct-mr``, with T2w as the MR.
    """
    archive = "goldatlas"
    case = f"{1 + patient % 3}_{patient + 1:02d}_P"
    rng = generator(seed, archive, str(patient), "anatomy")
    mr_grid = covering(size, (448.0, 380.0, 225.0), _PELVIS_MIDDLE)
    ct_field = (500.0, 424.0, 250.0)
    voxels = np.rint(ct_field / (mr_grid.spacing * [1.12, 1.12, 1.2])).clip(8)
    x, y, z = np.add(_PELVIS_MIDDLE, rng.uniform(-6, 6, 3))
    ct_grid = covering((int(voxels[0]), int(voxels[1]), int(voxels[2])), ct_field, (x, y, z))
    body = draw_pelvis(rng, male=True, detail_mm=_detail(mr_grid))
    bladder, rectum = _change(rng, 0.3), _change(rng, 0.25)
    motion = _pelvis_motion(rng, body, mr_grid, bladder, rectum, deformation_mm=float(rng.uniform(2.5, 4.5)))
    pair = scan_twice(body.anatomy, motion, (mr_grid, ct_grid), rng)

    noise = generator(seed, archive, str(patient), "noise")
    tesla = 1.5 if patient % 3 == 1 else 3.0
    t2w = signal_table("spin_echo", tr_ms=6000, te_ms=96, tesla=tesla)
    t1w = signal_table("spin_echo", tr_ms=600, te_ms=12, tesla=tesla)
    ct = ct_scan(pair, pair.moving, noise, noise_hu=(11, 18))
    target = folder / case
    for name, values in (("mr_T1", t1w), ("mr_T2", t2w)):
        scan = mr_scan(pair.signal(pair.fixed, values), mr_grid, noise, snr=float(noise.uniform(30, 50)), bias=0.15)
        write_volume(target / f"{name}.nii.gz", Volume(scan, mr_grid.affine))
    write_volume(target / "ct.nii.gz", Volume(ct, ct_grid.affine))

    numbers = {name: value for value, name in _GOLDATLAS_LABELS.items()}
    chosen = {
        structure: numbers[PELVIS_LABELS[value]]
        for structure, value in pelvis_label_of(body.anatomy).items()
        if PELVIS_LABELS[value] in numbers
    }
    labels = {
        "mr": Volume(pair.fixed.labels(chosen), mr_grid.affine),
        "ct": Volume(pair.moving.labels(chosen), ct_grid.affine),
    }
    for modality, volume in labels.items():
        for name, value in numbers.items():
            mask = Volume((volume.data == value).astype(np.uint8), volume.affine)
            write_volume(target / f"{modality}_{name}.nii.gz", mask)
    true_ct = Volume(np.rint(pair.hounsfield(pair.fixed)).astype(np.int16), mr_grid.affine)
    true_mr = Volume(scanner_units(pair.signal(pair.moving, t2w)), ct_grid.affine)
    for fixed, moving, grid, field, image in (
        ("mr", "ct", mr_grid, motion.true_field(mr_grid), true_ct),
        ("ct", "mr", ct_grid, motion.true_field(ct_grid, backwards=True), true_mr),
    ):
        write_truth(
            folder,
            case,
            fixed,
            moving,
            true_field=field,
            fixed_grid=grid,
            true_image=image,
            labels=labels,
            label_names=_GOLDATLAS_LABELS,
        )


def write_learn2reg_abdomen(folder: Path, patient: int, size: Size, seed: int, shading: float = 0.2) -> None:
    """Write one patient of Learn2Reg Abdomen MR-CT: ``AbdomenMRCT/images{Tr,Ts}/AbdomenMRCT_<id>_<modality>.nii.gz``.

    Modality 0000 is the MR (T1w), 0001 the CT; `labels..` and `masks..` hold files of the same names, with labels
    1 liver, 2 spleen, 3 kidney_right, 4 kidney_left. Ids up to 0008 belong to ``Tr``, the rest to ``Ts``. Both scans
    share one grid of `size` voxels over 384 x 320 x 384 mm: 192 x 160 x 192 voxels are the archive's 2 mm. The scans
    are one breath apart: liver, spleen and kidneys lie at different heights. Half of the CT are too dark in the middle.
    `shading` is the largest share by which the coils make the MR too dark or too bright.
    """
    archive = "learn2reg-abdomen-mr-ct"
    case, part = f"{patient + 1:04d}", "Tr" if patient < 8 else "Ts"
    rng = generator(seed, archive, str(patient), "anatomy")
    grid = covering(size, (384.0, 320.0, 384.0), (0.0, 0.0, 0.0))
    body = draw_abdomen(rng, detail_mm=_detail(grid))
    motion = random_motion(
        rng,
        _bounds(grid),
        rotation_deg=1.2,
        translation_mm=2.5,
        deformation_mm=float(rng.uniform(3, 5)),
        fillings=body.breathing(rng),
        stiffness=body.stiffness,
        step=_motion_step(grid),
    )
    pair = scan_twice(body.anatomy, motion, (grid, grid), rng)
    noise = generator(seed, archive, str(patient), "noise")
    values = signal_table("spoiled_gradient_echo", tr_ms=110, te_ms=4.6, flip_deg=70)
    uncorrected = generator(seed, archive, str(patient), "beam hardening")
    hardening = float(uncorrected.uniform(8, 20)) if uncorrected.random() < 0.5 else 0.0
    images = {
        "0000": mr_scan(pair.signal(pair.fixed, values), grid, noise, snr=float(noise.uniform(30, 50)), bias=shading),
        "0001": ct_scan(pair, pair.moving, noise, noise_hu=(11, 18), beam_hardening=hardening),
    }
    chosen = abdomen_label_of(body.anatomy)
    labels = {"0000": pair.fixed.labels(chosen), "0001": pair.moving.labels(chosen)}
    rasters = {"0000": pair.fixed, "0001": pair.moving}
    root = folder / "AbdomenMRCT"
    for modality, image in images.items():
        name = f"AbdomenMRCT_{case}_{modality}.nii.gz"
        write_volume(root / f"images{part}" / name, Volume(image, grid.affine))
        write_volume(root / f"labels{part}" / name, Volume(labels[modality], grid.affine))
        inside = (rasters[modality].centres > 0).astype(np.uint8)
        write_volume(root / f"masks{part}" / name, Volume(inside, grid.affine))
    description = {
        "name": "AbdomenMRCT",
        "modality": {"0": "MR", "1": "CT"},
        "registration_direction": {"fixed": 0, "moving": 1},
        "labels": {str(value): name for value, name in {0: "background", **_ABDOMEN_LABELS}.items()},
        "tensorImageSize": {"0": list(size), "1": list(size)},
    }
    write_json(root / "AbdomenMRCT_dataset.json", description)
    write_truth(
        folder,
        case,
        "mr",
        "ct",
        true_field=motion.true_field(grid),
        fixed_grid=grid,
        true_image=Volume(np.rint(pair.hounsfield(pair.fixed)).astype(np.int16), grid.affine),
        labels={"mr": Volume(labels["0000"], grid.affine), "ct": Volume(labels["0001"], grid.affine)},
        label_names=_ABDOMEN_LABELS,
    )


def _pelvis_motion(
    rng: np.random.Generator, body: Pelvis, grid: Grid, bladder: float, rectum: float, deformation_mm: float
) -> Motion:
    return random_motion(
        rng,
        np.array([(-210.0, -160, -125), (210, 160, 150)]),
        rotation_deg=1.3,
        translation_mm=2.5,
        deformation_mm=deformation_mm,
        smoothness_mm=30.0,
        fillings=body.fillings(bladder, rectum),
        stiffness=body.stiffness,
        step=_motion_step(grid),
    )


def _change(rng: np.random.Generator, largest: float) -> float:
    """A relative change in length, fuller or emptier, seldom small."""
    growth = float(rng.uniform(0.3, 1.0)) * largest
    return growth if rng.random() < 0.5 else -0.75 * growth


def _write_overview(path: Path, mr: np.ndarray, ct: np.ndarray) -> None:
    """A picture of the middle slices, as the archive has one per patient; not a case."""
    from PIL import Image

    middle = mr.shape[2] // 2
    windows = ((mr[:, :, middle], 0, np.percentile(mr, 99.5)), (ct[:, :, middle], -200, 300))
    panels = [
        np.clip((s.T[::-1] - low) / max(high - low, 1) * 255, 0, 255).astype(np.uint8) for s, low, high in windows
    ]
    with replacing(path) as temporary:
        Image.fromarray(np.hstack(panels)).save(temporary, format="PNG")


def _bounds(grid: Grid) -> np.ndarray:
    corners = np.array([(0, 0, 0), np.array(grid.shape) - 1]) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return np.sort(corners, axis=0)


def _detail(grid: Grid) -> float:
    """Lattice steps for tables of bones: as fine as thin cortex needs, coarser if the voxels can't show it."""
    return 2.0 if grid.spacing.min() < 3 else 4.0


def _motion_step(grid: Grid) -> float:
    return max(5.0, float(grid.spacing.min()))
