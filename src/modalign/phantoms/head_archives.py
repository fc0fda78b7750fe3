"""Phantoms of the head archives: SynthRAD2023 task 2, IXI, BraTS 2019, CERMEP-IDB-MRXFDG, HaN-Seg."""

from pathlib import Path

import numpy as np
import scipy.ndimage as ndi

from modalign.files import write_text
from modalign.phantoms.archives import write_nrrd, write_truth
from modalign.phantoms.ct import acquire_cbct, acquire_ct
from modalign.phantoms.head import LABELS, OARS, label_of, make_head, make_stripped_brain
from modalign.phantoms.head_scans import (
    Size,
    Subject,
    covering,
    draw_subject,
    head_motion,
    scaled_size,
    stored_along,
)
from modalign.phantoms.mr import signal_table
from modalign.phantoms.render import Raster
from modalign.seeds import generator
from modalign.volumes import Grid, Volume, write_volume

_CBCT_FIELD_MM = 210.0
"""Width of the field of cone-beam CT scanners for the head that don't shift their detector."""
_BRATS_LABELS = {"tumour_core": 1, "necrosis": 1, "edema": 2, "infiltrated_cortex": 2, "enhancing": 4}


def write_synthrad_brain(folder: Path, patient: int, size: Size, seed: int) -> None:
    """Write one patient of SynthRAD2023 task 2, brain: ``Task2/brain/2B<centre><number>/{cbct,ct,mask}.nii.gz``.

    Both lie on one grid of `size` voxels over 200 x 232 x 200 mm, so 200 x 232 x 200 voxels are the archive's 1 mm.
    The CBCT is rigidly registered but for a residual, as published; the heads keep their faces. Centre B's CBCT scans a
    field 210 mm wide around a target off the middle of the head, so the face or the back of the head is cut off.
    """
    archive = "synthrad2023-task2-brain"
    case = f"2B{'ABC'[patient % 3]}{patient // 3 + 1:03d}"
    grid = covering(size, (200.0, 232.0, 200.0), (0, -8, -5))
    rng = generator(seed, archive, str(patient), "anatomy")
    subject = draw_subject(make_head(rng, float(grid.spacing.min())), rng)
    motion = head_motion(rng, rotation_deg=0.5, translation_mm=0.5, flexion_deg=1.0, distortion_mm=0.3)
    fixed, moving = subject.scan(grid), subject.scan(grid, motion)

    field = _isocentre(generator(seed, archive, str(patient), "field")) if patient % 3 == 1 else None
    noise = generator(seed, archive, str(patient), "noise")
    cbct = acquire_cbct(
        subject.hounsfield(fixed),
        noise,
        grid.spacing,
        scatter=float(noise.uniform(60, 120)),
        noise_hu=float(noise.uniform(16, 28)),
        fov_radius_mm=None if field is None else _CBCT_FIELD_MM / 2,
        fov_centre_mm=field or (0.0, 0.0),
        shift_hu=float(noise.normal(-20, 30)),
    )
    ct = _ct(subject, moving, noise, noise_hu=8.0)
    target = folder / "Task2" / "brain" / case
    write_volume(target / "cbct.nii.gz", Volume(cbct, grid.affine))
    write_volume(target / "ct.nii.gz", Volume(ct, grid.affine))
    body = (fixed.centres > 0) | (moving.centres > 0)
    near = ndi.distance_transform_edt(~body, sampling=grid.spacing) <= max(10.0, float(grid.spacing.max()))
    write_volume(target / "mask.nii.gz", Volume(near, grid.affine))
    _write_pair(folder, case, "cbct", "ct", fixed, moving, motion.true_field(grid), subject.hounsfield(fixed))


def _isocentre(rng: np.random.Generator) -> tuple[float, float]:
    """Where the axis of rotation of a small-field CBCT lies from the middle of the head: mm to the right and front."""
    towards_face = 1 if rng.random() < 0.5 else -1
    return float(rng.normal(0, 4)), towards_face * float(rng.uniform(12, 24))


def write_ixi(folder: Path, patient: int, size: Size, seed: int) -> None:
    """Write one subject of IXI: ``IXI<number>-<site>-<number>-<T1|T2|PD>.nii.gz``.

    `size` counts T2 and PD voxels along R, A, S; 256 x 256 x 130 are the archive's 0.94 x 0.94 x 1.25 mm. T1 lies on a
    grid of its own, stored sagittally, nominally 256 x 256 x 150 of 0.94 x 0.94 x 1.2 mm. The scans are aligned, as in
    the archive: the subject lay still.
    """
    archive = "ixi"
    site = ("Guys", "HH", "IOP")[patient % 3]
    number = int(generator(seed, archive, str(patient), "number").integers(100, 10000))
    case = f"IXI{patient + 2:03d}-{site}-{number:04d}"
    tesla = 3.0 if site == "HH" else 1.5
    grid = covering(size, (240.0, 240.0, 162.5), (0, -14, 14))
    t1_grid = covering(scaled_size(size, (256, 256, 130), (150, 256, 256)), (180.0, 240.0, 240.0), (0, -14, -20))
    rng = generator(seed, archive, str(patient), "anatomy")
    subject = draw_subject(make_head(rng, float(grid.spacing.min())), rng)
    dual, sagittal = subject.scan(grid), subject.scan(t1_grid)

    noise = generator(seed, archive, str(patient), "noise")
    quality = {"snr": float(noise.uniform(22, 32)), "bias": 0.1 * tesla}
    t1 = signal_table("mprage", ti_ms=900, tr_ms=2300, te_ms=4.6, flip_deg=8, tesla=tesla)
    t2 = signal_table("spin_echo", tr_ms=5700, te_ms=100, tesla=tesla)
    pd = signal_table("spin_echo", tr_ms=5700, te_ms=8, tesla=tesla)
    image = Volume(subject.mr(sagittal, t1, noise, **quality), t1_grid.affine)
    write_volume(folder / f"{case}-T1.nii.gz", stored_along(image, "PSR"))
    for name, values in (("T2", t2), ("PD", pd)):
        write_volume(folder / f"{case}-{name}.nii.gz", Volume(subject.mr(dual, values, noise, **quality), grid.affine))
    labels = {"t1": stored_along(_labels(sagittal, LABELS), "PSR"), "t2": _labels(dual, LABELS)}
    labels["pd"] = labels["t2"]
    write_truth(
        folder,
        case,
        "t1",
        "t2",
        true_field=None,
        fixed_grid=t1_grid,
        true_image=None,
        labels=labels,
        label_names=LABELS,
    )


def write_brats2019(folder: Path, patient: int, size: Size, seed: int) -> None:
    """Write one patient of BraTS 2019 training data: four aligned, skull-stripped MR contrasts and a segmentation.

    ``MICCAI_BraTS_2019_Data_Training/<HGG|LGG>/BraTS19_<source>_<id>_1/BraTS19_<source>_<id>_1_<contrast>.nii.gz``
    with t1, t1ce, t2, flair and seg; labels are 1 necrotic or non-enhancing core, 2 edema, 4 enhancing tumour. `size`
    voxels cover 240 x 240 x 155 mm, so 240 x 240 x 155 voxels are the archive's 1 mm. Every third patient has a
    low-grade glioma.
    """
    archive = "brats2019"
    high_grade = patient % 3 != 2
    source = ("CBICA", "TCIA01", "2013")[patient % 3 if high_grade else int(patient // 3 % 2) + 1]
    name = f"BraTS19_{source}_{_letters(patient) if source == 'CBICA' else patient + 1}_1"
    target = folder / "MICCAI_BraTS_2019_Data_Training" / ("HGG" if high_grade else "LGG") / name
    grid = covering(size, (240.0, 240.0, 155.0), (0, -18, 8))
    rng = generator(seed, archive, str(patient), "anatomy")
    subject = draw_subject(make_stripped_brain(rng, high_grade, float(grid.spacing.min())), rng)
    raster = subject.scan(grid)

    noise = generator(seed, archive, str(patient), "noise")
    tesla = float(noise.choice([1.5, 3.0]))
    plain = signal_table("spin_echo", tr_ms=noise.uniform(450, 650), te_ms=noise.uniform(9, 15), tesla=tesla)
    after = plain | {"enhancing": plain["enhancing_contrast"], "blood": plain["blood_contrast"]}
    t2 = signal_table("spin_echo", tr_ms=noise.uniform(3500, 6000), te_ms=noise.uniform(85, 110), tesla=tesla)
    ti_ms = 2250 if tesla == 3.0 else 2350
    flair = signal_table("inversion_recovery", ti_ms=ti_ms, tr_ms=9500, te_ms=noise.uniform(100, 130), tesla=tesla)
    stripped = (raster.centres > 0) & (raster.labels({"below_the_cut": 1}) == 0)
    for contrast, values in (("t1", plain), ("t1ce", after), ("t2", t2), ("flair", flair)):
        image = subject.mr(raster, values, noise, snr=float(noise.uniform(20, 35)), bias=0.12)
        write_volume(target / f"{name}_{contrast}.nii.gz", Volume(image * stripped, grid.affine))
    write_volume(target / f"{name}_seg.nii.gz", Volume(raster.labels(_BRATS_LABELS), grid.affine))


def write_cermep(folder: Path, patient: int, size: Size, seed: int) -> None:
    """Write one subject of CERMEP-IDB-MRXFDG: ``sub-<number>/{anat/sub-<number>_T1w,ct/sub-<number>_ct}.nii.gz``.

    `size` counts T1 voxels along R, A, S; 160 x 192 x 192 are 1.2 mm. CT lies on a grid of its own over a wider field,
    nominally 256 x 256 x 148 of 1.17 x 1.17 x 1.5 mm. The head lies differently in the two scanners.
    """
    archive, case = "cermep", f"sub-{patient + 1:04d}"
    grid = covering(size, (192.0, 230.4, 230.4), (0, -8, -20))
    rng = generator(seed, archive, str(patient), "anatomy")
    middle = tuple(np.add((0, -8, -20), rng.normal(0, 4, 3)))
    ct_grid = covering(scaled_size(size, (160, 192, 192), (256, 256, 148)), (300.0, 300.0, 222.0), middle)
    subject = draw_subject(make_head(rng, float(grid.spacing.min())), rng)
    motion = head_motion(rng, rotation_deg=2.5, translation_mm=3.5, flexion_deg=4.0, distortion_mm=0.5)
    fixed, moving = subject.scan(grid), subject.scan(ct_grid, motion)

    noise = generator(seed, archive, str(patient), "noise")
    values = signal_table("mprage", ti_ms=1100, tr_ms=2400, te_ms=3.6, flip_deg=8)
    t1 = subject.mr(fixed, values, noise, snr=float(noise.uniform(20, 30)), bias=0.15)
    ct = _ct(subject, moving, noise, noise_hu=10.0)
    target = folder / "home/pool/DM/TEP/CERMEP_MXFDG/BASE/DATABASE_SENT/ALL" / case
    write_volume(target / "anat" / f"{case}_T1w.nii.gz", Volume(t1, grid.affine))
    write_volume(target / "ct" / f"{case}_ct.nii.gz", Volume(ct, ct_grid.affine))
    _write_pair(folder, case, "t1", "ct", fixed, moving, motion.true_field(grid), subject.hounsfield(fixed))


def write_hanseg(folder: Path, patient: int, size: Size, seed: int) -> None:
    """Write one patient of HaN-Seg: ``set_1/case_<number>/case_<number>_{IMG_CT,IMG_MR_T1,OAR_<name>.seg}.nrrd``.

    `size` counts CT voxels along R, A, S over 300 x 300 x 270 mm, nominally 512 x 512 x 135 of 0.59 x 0.59 x 2 mm; the
    T1 has as many voxels over 240 x 240 x 252 mm, but no more than 256 x 256 x 84 of 0.94 x 0.94 x 3 mm. The scans are
    not registered, and as published the organs at risk are drawn on the CT only; the truth has them in both, for both
    directions.
    """
    archive, number = "hanseg", f"case_{patient + 1:02d}"
    grid = covering(size, (300.0, 300.0, 270.0), (0, -8, -48))
    rng = generator(seed, archive, str(patient), "anatomy")
    middle = tuple(np.add((0, -8, -50), rng.normal(0, 3, 3)))
    mr_size = (min(size[0], 256), min(size[1], 256), min(size[2], 84))
    mr_grid = covering(mr_size, (240.0, 240.0, 252.0), middle)
    subject = draw_subject(make_head(rng, float(grid.spacing.min())), rng)
    motion = head_motion(
        rng, rotation_deg=2.0, translation_mm=3.6, flexion_deg=4.0, distortion_mm=0.5, soft_tissue_mm=2.0
    )
    mr_raster, ct_raster = subject.scan(mr_grid), subject.scan(grid, motion)

    noise = generator(seed, archive, str(patient), "noise")
    values = signal_table("spin_echo", tr_ms=600, te_ms=12, tesla=float(noise.choice([1.5, 3.0])))
    mr = subject.mr(mr_raster, values, noise, snr=float(noise.uniform(15, 25)), bias=0.2, ghosting=0.04)
    ct = _ct(subject, ct_raster, noise, noise_hu=12.0)
    target = folder / "HaN-Seg" / "set_1" / number
    write_nrrd(target / f"{number}_IMG_CT.nrrd", Volume(ct, grid.affine))
    write_nrrd(target / f"{number}_IMG_MR_T1.nrrd", Volume(mr, mr_grid.affine))
    drawn = _labels(ct_raster, OARS)
    for value, name in _OAR_FILES.items():
        write_nrrd(target / f"{number}_OAR_{name}.seg.nrrd", drawn.like((drawn.data == value).astype(np.uint8)))
    _write_hanseg_tables(folder / "HaN-Seg" / "set_1")

    labels = {"mr": _labels(mr_raster, OARS), "ct": drawn}
    ct_here, mr_here = subject.hounsfield(mr_raster), subject.signal(ct_raster, values)
    write_truth(
        folder,
        number,
        "mr",
        "ct",
        true_field=motion.true_field(mr_grid),
        fixed_grid=mr_grid,
        true_image=_int16(ct_here, mr_grid),
        labels=labels,
        label_names=_OAR_NAMES,
    )
    scale = 1000 / max(float(np.percentile(mr_here, 99.5)), 1e-6)
    write_truth(
        folder,
        number,
        "ct",
        "mr",
        true_field=motion.true_field(grid, backwards=True),
        fixed_grid=grid,
        true_image=_int16(mr_here * scale, grid),
        labels={},
        label_names=_OAR_NAMES,
    )


_OAR_FILES = {1: "Parotid_L", 2: "Parotid_R", 3: "Bone_Mandible", 4: "SpinalCord", 5: "Brainstem"}
_OAR_NAMES = {value: name.lower() for value, name in _OAR_FILES.items()}
"""As the reader calls the structures of these files."""


def _write_hanseg_tables(folder: Path) -> None:
    # The same for every patient, since patients may be written at the same time.
    rows = "".join(f"{name},{value}\n" for value, name in _OAR_FILES.items())
    write_text(folder / "OAR_data.csv", "OAR,label\n" + rows)
    write_text(folder / "patient_data.csv", "case,remark\n")


def _write_pair(
    folder: Path,
    case: str,
    fixed_modality: str,
    moving_modality: str,
    fixed: Raster,
    moving: Raster,
    field: np.ndarray,
    true_image: np.ndarray,
) -> None:
    labels = {fixed_modality: _labels(fixed, LABELS), moving_modality: _labels(moving, LABELS)}
    write_truth(
        folder,
        case,
        fixed_modality,
        moving_modality,
        true_field=field,
        fixed_grid=fixed.grid,
        true_image=_int16(true_image, fixed.grid),
        labels=labels,
        label_names=LABELS,
    )


def _ct(subject: Subject, raster: Raster, rng: np.random.Generator, noise_hu: float) -> np.ndarray:
    metal = raster.fraction("metal") > 0.3 if "metal" in raster.anatomy.tissues else None
    # Scanners correct for beam hardening in water; what bone adds is left to some of them.
    hardening = float(rng.uniform(8, 20)) if rng.random() < 0.5 else 0.0
    return acquire_ct(
        subject.hounsfield(raster),
        rng,
        noise_hu=noise_hu,
        beam_hardening=hardening,
        metal=metal,
        spacing_mm=raster.grid.spacing,
        blur_mm=0.9,
        air_noise=0.25,
    )


def _labels(raster: Raster, names: dict[int, str]) -> Volume:
    return Volume(raster.labels(label_of(raster.anatomy, names)), raster.grid.affine)


def _int16(image: np.ndarray, grid: Grid) -> Volume:
    return Volume(np.rint(image).clip(-32768, 32767).astype(np.int16), grid.affine)


def _letters(number: int) -> str:
    """A code of three capital letters, different for every number below 17576, as CBICA's patients have."""
    return "".join(chr(ord("A") + number // 26**k % 26) for k in (2, 1, 0))
