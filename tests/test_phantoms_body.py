"""Phantoms of pelvis and abdomen: is the truth true, the layout the published one, and the body plausible?"""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage as ndi
from label_overlap import dice

from modalign.errors import ConfigError
from modalign.phantoms.archives import make_archive
from modalign.phantoms.ct import hu_table
from modalign.phantoms.motion import random_motion
from modalign.phantoms.pelvis import draw_pelvis, label_of
from modalign.phantoms.render import rasterise
from modalign.spatial.fields import read_itk_field, warp_volume
from modalign.volumes import Grid, Volume, read_volume

SMALL = (48, 40, 24)


def brought_over(moving: Volume, value: int, field: np.ndarray | None, grid: Grid) -> np.ndarray:
    """One structure of the moving label map in the fixed geometry; interpolated, not rounded."""
    mask = moving.like((moving.data == value).astype(np.float32))
    return warp_volume(mask, field, grid, order=1, outside=0).data > 0.5


@pytest.fixture(scope="module")
def pelvis_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pelvis")
    make_archive("synthrad2023-task1-pelvis", folder, size=SMALL, patients=3, seed=3)
    return folder


@pytest.fixture(scope="module")
def goldatlas_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("goldatlas")
    make_archive("goldatlas", folder, size=(80, 64, 32), patients=1, seed=5)
    return folder


@pytest.fixture(scope="module")
def abdomen_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("abdomen")
    make_archive("learn2reg-abdomen-mr-ct", folder, size=(64, 56, 64), patients=1, seed=2)
    return folder


class TestTruth:
    """At a resolution where organs are many voxels wide, warping moving by the true field must give fixed."""

    def test_labels_and_images_of_the_pelvis(self) -> None:
        rng = np.random.default_rng(4)
        body = draw_pelvis(rng, male=True, detail_mm=4.0)
        motion = random_motion(
            rng,
            np.array([(-240.0, -180, -140), (240, 180, 165)]),
            fillings=body.fillings(0.25, -0.2),
            stiffness=body.stiffness,
            step=8.0,
        )
        affine = np.diag([2.6, 2.6, 3.0, 1])
        affine[:3, 3] = [-90, -110, -60]
        grid = Grid((72, 72, 44), affine)
        anatomy = body.anatomy.without(*[n for n in body.anatomy.names if n.endswith("_gas")])
        fixed, moving = rasterise(anatomy, grid), rasterise(anatomy, grid, to_reference=motion.inverse)
        numbers = label_of(anatomy)
        field = motion.true_field(grid)
        inside = np.all(
            [(p >= 1) & (p <= n - 2) for p, n in zip(grid.indices() + field, grid.shape, strict=True)], axis=0
        )
        labels = fixed.labels(numbers)
        scanned = Volume(moving.labels(numbers), affine)
        for value in (1, 2, 3, 5, 6, 7):
            one = inside & (labels == value)
            assert one.sum() > 100
            assert dice(one, inside & brought_over(scanned, value, field, grid)) > (0.9 if value == 7 else 0.95), value
        assert dice(labels == 1, scanned.data == 1) < 0.92
        truth = fixed.image(hu_table())
        aligned = warp_volume(Volume(moving.image(hu_table()), affine), field, grid).data
        unaligned = moving.image(hu_table())
        # Smoothing takes away what interpolation does to edges; what misalignment does is wider and stays.
        error, before = (np.abs(ndi.gaussian_filter(i - truth, 1.5))[inside].mean() for i in (aligned, unaligned))
        assert error < 0.25 * before

    def test_files_of_the_abdomen(self, abdomen_archive: Path) -> None:
        truth = abdomen_archive / "modalign-truth" / "0001"
        fixed, moving = read_volume(truth / "mr_labels.nii.gz"), read_volume(truth / "ct_labels.nii.gz")
        field = read_itk_field(truth / "mr-ct" / "true_field.nii.gz", fixed.grid)
        for value in (1, 2, 3, 4):
            assert dice(fixed.data == value, brought_over(moving, value, field, fixed.grid)) > (
                0.95 if value < 3 else 0.92
            )
            assert dice(fixed.data == value, moving.data == value) < 0.92

    def test_both_directions_of_the_gold_atlas(self, goldatlas_archive: Path) -> None:
        truth = goldatlas_archive / "modalign-truth" / "1_01_P"
        maps = {m: read_volume(truth / f"{m}_labels.nii.gz") for m in ("mr", "ct")}
        assert not maps["mr"].grid.same_as(maps["ct"].grid)
        for fixed, moving in (("mr", "ct"), ("ct", "mr")):
            field = read_itk_field(truth / f"{fixed}-{moving}" / "true_field.nii.gz", maps[fixed].grid)
            for value in (1, 3):
                one, grid = maps[fixed].data == value, maps[fixed].grid
                aligned = dice(one, brought_over(maps[moving], value, field, grid))
                assert aligned > (0.93 if value == 1 else 0.88)
                assert aligned > dice(one, brought_over(maps[moving], value, None, grid))
            image = read_volume(truth / f"{fixed}-{moving}" / "true_image.nii.gz")
            assert image.grid.same_as(maps[fixed].grid)


class TestArchives:
    def test_synthrad_layout(self, pelvis_archive: Path) -> None:
        region = pelvis_archive / "Task1" / "pelvis"
        assert sorted(p.name for p in region.iterdir()) == ["1PA001", "1PA002", "1PC001", "overview"]
        for case in ("1PA001", "1PC001"):
            mr, ct, mask = (read_volume(region / case / f"{part}.nii.gz") for part in ("mr", "ct", "mask"))
            assert mr.shape == ct.shape == mask.shape == SMALL
            assert mr.grid.same_as(ct.grid)
            assert ct.data.dtype == np.int16
            np.testing.assert_allclose(mr.spacing * SMALL, [480, 400, 250], rtol=1e-6)
            assert set(np.unique(mask.data)) == {0, 1}
            assert mask.data[ct.data > -300].mean() > 0.999
        assert json.loads((pelvis_archive / "modalign-truth" / "labels.json").read_text())["1"] == "bladder"
        assert json.loads((pelvis_archive / "modalign-phantom.json").read_text())["size"] == list(SMALL)

    def test_goldatlas_layout(self, goldatlas_archive: Path) -> None:
        case = goldatlas_archive / "1_01_P"
        organs = ("bladder", "rectum", "prostate")
        expected = {f"{m}_{o}.nii.gz" for m in ("mr", "ct") for o in organs} | {
            "ct.nii.gz",
            "mr_T1.nii.gz",
            "mr_T2.nii.gz",
        }
        assert {p.name for p in case.iterdir()} == expected
        t2w, prostate, bladder = (read_volume(case / f"mr_{n}.nii.gz") for n in ("T2", "prostate", "bladder"))
        assert prostate.grid.same_as(t2w.grid)
        # Urine is the brightest thing in a T2-weighted pelvis.
        core = ndi.binary_erosion(bladder.data > 0, iterations=2)
        assert t2w.data[core].mean() > 1.3 * t2w.data[prostate.data > 0].mean()

    def test_learn2reg_layout(self, abdomen_archive: Path) -> None:
        root = abdomen_archive / "AbdomenMRCT"
        for part in ("images", "labels", "masks"):
            names = {p.name for p in (root / f"{part}Tr").iterdir()}
            assert names == {"AbdomenMRCT_0001_0000.nii.gz", "AbdomenMRCT_0001_0001.nii.gz"}
        labels = read_volume(root / "labelsTr" / "AbdomenMRCT_0001_0000.nii.gz")
        volumes_ml = {v: (labels.data == v).sum() * labels.spacing.prod() / 1000 for v in (1, 2, 3, 4)}
        assert 800 < volumes_ml[1] < 2600
        assert 80 < volumes_ml[2] < 500
        assert 80 < volumes_ml[3] < 300
        right, left = (ndi.center_of_mass(labels.data == v)[0] for v in (3, 4))
        # x grows towards the patient's right.
        assert right > left
        assert json.loads((root / "AbdomenMRCT_dataset.json").read_text())["registration_direction"] == {
            "fixed": 0,
            "moving": 1,
        }

    def test_ct_numbers_of_fat_water_and_bone(self, goldatlas_archive: Path) -> None:
        truth = goldatlas_archive / "modalign-truth" / "1_01_P"
        ct = read_volume(goldatlas_archive / "1_01_P" / "ct.nii.gz").data
        bladder = ndi.binary_erosion(read_volume(truth / "ct_labels.nii.gz").data == 1, iterations=2)
        assert -10 < ct[bladder].mean() < 25
        body = ct[(ct > -160) & (ct < 120)]
        counts, edges = np.histogram(body, bins=56)
        fat, muscle = (edges[:-1] < -40), (edges[:-1] > 20)
        assert -115 < edges[:-1][fat][counts[fat].argmax()] < -85
        assert 35 < edges[:-1][muscle][counts[muscle].argmax()] < 70
        assert (ct > 400).mean() > 0.002
        assert ct.min() >= -1024

    def test_same_seed_same_bytes_and_patients_do_not_depend_on_their_number(
        self, pelvis_archive: Path, tmp_path: Path
    ) -> None:
        make_archive("synthrad2023-task1-pelvis", tmp_path, size=SMALL, patients=1, seed=3)
        for part in ("mr", "ct", "mask"):
            name = Path("Task1/pelvis/1PA001") / f"{part}.nii.gz"
            assert (tmp_path / name).read_bytes() == (pelvis_archive / name).read_bytes()

    def test_patients_differ_in_size_and_filling(self, pelvis_archive: Path) -> None:
        truth = pelvis_archive / "modalign-truth"
        maps = [read_volume(truth / c / "mr_labels.nii.gz").data for c in ("1PA001", "1PC001", "1PA002")]
        bladders = sorted(int((m == 1).sum()) for m in maps)
        assert bladders[0] < 0.95 * bladders[-1]
        # Within a centre, women and men alternate.
        assert ({3, 4} & set(np.unique(maps[0]))) != ({3, 4} & set(np.unique(maps[2])))

    def test_wrong_names_and_sizes_are_refused_with_advice(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no phantom of 'pelvis'; the archives are: .*goldatlas"):
            make_archive("pelvis", tmp_path, size=SMALL, patients=1, seed=0)
        with pytest.raises(ConfigError, match="at least 8, not \\[64, 64, 4\\]"):
            make_archive("goldatlas", tmp_path, size=(64, 64, 4), patients=1, seed=0)
        with pytest.raises(ConfigError, match="at least 1 patient, not 0"):
            make_archive("goldatlas", tmp_path, size=SMALL, patients=0, seed=0)
        assert not list(tmp_path.iterdir())
