"""The anatomy of head phantoms, within what is known of heads, and how it moves."""

import nibabel as nib
import numpy as np
import pytest
from label_overlap import dice

from modalign.phantoms.head import LABELS, OARS, label_of, make_head, make_stripped_brain
from modalign.phantoms.head_scans import covering, draw_subject, head_motion, stored_along
from modalign.phantoms.mr import signal_table
from modalign.phantoms.render import Raster, render_labels
from modalign.seeds import generator
from modalign.volumes import Volume


@pytest.fixture(scope="module")
def heads() -> list[Raster]:
    grid = covering((68, 82, 72), (204.0, 246.0, 216.0), (0, -6, -14))
    rasters = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        rasters.append(draw_subject(make_head(rng, 3.0), rng).scan(grid))
    return rasters


class TestMotion:
    @pytest.mark.parametrize("seed", range(5))
    def test_forward_undoes_inverse(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        motion = head_motion(rng, rotation_deg=3, translation_mm=4, flexion_deg=4, soft_tissue_mm=2)
        points = rng.uniform([-80, -110, -140], [80, 90, 85], (4000, 3)).T
        assert np.abs(motion.forward(motion.inverse(points)) - points).max() < 0.1

    def test_the_brain_moves_rigidly_and_the_neck_does_not(self, rng: np.random.Generator) -> None:
        motion = head_motion(rng, rotation_deg=3, translation_mm=4, flexion_deg=4, distortion_mm=0.3, soft_tissue_mm=2)

        def not_rigid(low: list[float], high: list[float]) -> float:
            a = rng.uniform(low, high, (500, 3))
            b = motion.forward(a.T).T
            p, q = a - a.mean(0), b - b.mean(0)
            u, _, vt = np.linalg.svd(p.T @ q)
            turn = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
            return float(np.linalg.norm(p @ turn - q, axis=1).mean())

        assert not_rigid([-60, -90, 0], [60, 60, 70]) < 0.6
        assert not_rigid([-60, -70, -140], [60, 60, -60]) > 1.0


class TestAnatomy:
    def test_volumes_are_those_of_adults(self, heads: list[Raster]) -> None:
        for head in heads:
            labels = head.labels(label_of(head.anatomy, LABELS))
            millilitre = np.bincount(labels.ravel(), minlength=9) * float(np.prod(head.grid.spacing)) / 1000
            assert 950 < millilitre[1] < 1650, "brain"
            assert 10 < millilitre[4] < 70, "ventricles"
            assert 11 < millilitre[5] < 20, "eyes"
            assert 350 < millilitre[2] < 1100, "skull"
            grey, white = (head.labels({name: 1}).sum() for name in ("grey_matter", "white_matter"))
            assert 0.8 < grey / white < 2.2

    def test_parotids_are_as_large_as_in_adults(self, heads: list[Raster]) -> None:
        for head in heads:
            labels = head.labels(label_of(head.anatomy, OARS))
            for value in (1, 2):
                found = np.argwhere(labels == value)
                assert 18 < len(found) * float(np.prod(head.grid.spacing)) / 1000 < 38, OARS[value]
                assert 45 < np.ptp(found[:, 2]) * head.grid.spacing[2] < 80, (
                    "from below the arch to the angle of the jaw"
                )

    def test_gliomas_are_as_large_as_in_brats(self) -> None:
        grid = covering((44, 44, 28), (220.0, 220.0, 140.0), (0, -18, 8))
        parts = dict.fromkeys(("edema", "infiltrated_cortex", "enhancing", "necrosis", "tumour_core"), 1)
        millilitre = []
        for seed in range(18):
            anatomy = make_stripped_brain(generator(1, "gliomas", str(seed), "anatomy"), seed % 3 != 2, 5.0)
            tumour = render_labels(anatomy, grid, parts) > 0
            millilitre.append(float(tumour.sum() * np.prod(grid.spacing) / 1000))
            left = grid.affine[0, 3] + grid.spacing[0] * np.nonzero(tumour)[0] < 0
            assert left.all() or not left.any(), "the falx holds the tumour on its side"
        assert 60 < np.median(millilitre) < 120
        assert 10 < min(millilitre) < 60
        assert 110 < max(millilitre) < 260

    def test_subjects_differ(self, heads: list[Raster]) -> None:
        brains = [h.labels(label_of(h.anatomy, LABELS)) == 1 for h in heads]
        assert dice(*brains) < 0.97

    def test_the_skull_closes_around_the_brain(self, heads: list[Raster]) -> None:
        from scipy import ndimage as ndi

        for head in heads:
            labels = head.labels(label_of(head.anatomy, LABELS))
            upper = head.grid.affine[2, 3] + np.arange(head.grid.shape[2]) * head.grid.spacing[2] > 0
            near = ndi.binary_dilation(labels == 1, iterations=1)
            air = head.centres == 0
            assert not (near & air)[:, :, upper].any()

    def test_left_is_left(self, heads: list[Raster]) -> None:
        labels = heads[0].labels(label_of(heads[0].anatomy, LABELS))
        x = heads[0].grid.affine[0, 3] + heads[0].grid.spacing[0] * np.arange(labels.shape[0])
        assert x[np.nonzero(labels == 6)[0]].max() < -30
        assert x[np.nonzero(labels == 7)[0]].min() > 30

    def test_cortex_lies_between_csf_and_white_matter(self) -> None:
        brain = make_stripped_brain(np.random.default_rng(1), high_grade=False, voxel_mm=1.5)
        grid = covering((100, 100, 1), (150.0, 150.0, 1.5), (0, -18, 40))
        t1 = signal_table("mprage", ti_ms=900, tr_ms=2300, te_ms=3, flip_deg=9)
        labels = render_labels(brain, grid, {"csf": 1, "sulci": 1, "grey_matter": 2, "white_matter": 3})[:, :, 0]
        touching = np.zeros((4, 4), int)
        for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
            np.add.at(touching, (a.ravel(), b.ravel()), 1)
            np.add.at(touching, (b.ravel(), a.ravel()), 1)
        assert touching[1, 3] < 0.1 * touching[1, 2]
        assert t1["white_matter"] > t1["grey_matter"]

    def test_tabulated_and_direct_anatomy_agree(self) -> None:
        points = np.random.default_rng(0).uniform([-60, -95, -45], [60, 60, 75], (20000, 3)).T.astype(np.float32)
        fine, direct = (make_head(np.random.default_rng(2), voxel_mm=v) for v in (1.0, 3.0))
        assert fine.names == direct.names
        assert (fine.at(points) == direct.at(points)).mean() > 0.9


def test_stored_along_moves_no_voxel(rng: np.random.Generator) -> None:
    volume = Volume(rng.normal(size=(4, 5, 6)), covering((4, 5, 6), (8.0, 10, 12), (1, 2, 3)).affine)
    turned = stored_along(volume, "PSR")
    assert "".join(nib.aff2axcodes(turned.affine)) == "PSR"
    assert np.array_equal(turned.canonical().data, volume.data)
    assert np.allclose(turned.canonical().affine, volume.affine)
