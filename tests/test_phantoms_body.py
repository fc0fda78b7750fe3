"""Phantoms of pelvis and abdomen: is the truth true, the layout the published one, and the body plausible?"""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage as ndi

from modalign.errors import ConfigError
from modalign.phantoms import shapes
from modalign.phantoms.anatomy import Anatomy, solid
from modalign.phantoms.archives import make_archive
from modalign.phantoms.ct import hu_table
from modalign.phantoms.motion import Filling, Motion, Shift, random_motion, rigid_about, steepest
from modalign.phantoms.pelvis import draw_pelvis, label_of
from modalign.phantoms.render import Texture, rasterise, render, render_labels
from modalign.spatial.fields import read_itk_field, warp_volume
from modalign.volumes import Grid, Volume, axis_aligned, read_volume

SMALL = (48, 40, 24)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def brought_over(moving: Volume, value: int, field: np.ndarray | None, grid: Grid) -> np.ndarray:
    """One structure of the moving label map in the fixed geometry; interpolated, not rounded."""
    mask = moving.like((moving.data == value).astype(np.float32))
    return warp_volume(mask, field, grid, order=1, outside=0).data > 0.5


def ball(radius: float = 20.0, centre: tuple[float, float, float] = (0, 0, 0)) -> Anatomy:
    return Anatomy((solid("ball", "muscle", shapes.ellipsoid(centre, (radius,) * 3), [centre], radius + 1),))


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


class TestShapes:
    def test_ellipsoid_of_equal_axes_is_the_exact_distance_to_a_sphere(self, rng: np.random.Generator) -> None:
        points = rng.uniform(-30, 30, (3, 500)).astype(np.float32)
        expected = np.linalg.norm(points - np.array([[1], [2], [3]]), axis=0) - 10
        found = shapes.ellipsoid((1, 2, 3), (10, 10, 10))(points)
        far = expected > -8
        np.testing.assert_allclose(found[far], expected[far], atol=1e-3)

    def test_rotated_ellipsoid_has_its_long_axis_where_the_rotation_puts_it(self) -> None:
        quarter = rigid_about((0, 0, 0), (0, 0, 90), (0, 0, 0))[:3, :3]
        shape = shapes.ellipsoid((0, 0, 0), (20, 5, 5), quarter)
        np.testing.assert_array_equal(shape(np.array([[0, 19, 0], [19, 0, 0]], dtype=np.float32).T) < 0, [True, False])

    def test_tube_equals_the_distance_to_densely_sampled_balls(self, rng: np.random.Generator) -> None:
        path, radii = np.array([(0, 0, 0), (20, 5, 0), (20, 10, 25)], dtype=float), np.array([3, 6, 2], dtype=float)
        points = rng.uniform(-10, 35, (3, 300)).astype(np.float32)
        steps = np.linspace(0, 2, 801)
        balls = np.stack([np.interp(steps, [0, 1, 2], path[:, k]) for k in range(3)])
        sizes = np.interp(steps, [0, 1, 2], radii)
        brute = (np.linalg.norm(points[:, :, None] - balls[:, None], axis=0) - sizes).min(1)
        found = shapes.tube(path, radii)(points)
        # The tube measures at the foot point, not along the slanted surface.
        assert np.all(found >= brute - 0.05)
        np.testing.assert_allclose(found, brute, atol=1.2)

    def test_plate_equals_the_distance_to_a_densely_sampled_triangle(self, rng: np.random.Generator) -> None:
        corners = np.array([(0, 0, 0), (30, 0, 5), (0, 25, 10)], dtype=float)
        points = rng.uniform(-15, 40, (3, 300)).astype(np.float32)
        v, w = np.meshgrid(np.linspace(0, 1, 120), np.linspace(0, 1, 120))
        inside = v + w <= 1 + 1e-9
        samples = corners[0] + np.outer(v[inside], corners[1]) + np.outer(w[inside], corners[2])
        brute = np.sqrt(((points.T[:, None] - samples[None]) ** 2).sum(2)).min(1) - 3
        found = shapes.plate(corners, [(0, 1, 2)], [3, 3, 3])(points)
        np.testing.assert_allclose(found, brute, atol=0.15)

    def test_lattice_agrees_with_scipy_and_repeats_itself(self, rng: np.random.Generator) -> None:
        noise = shapes.smooth_noise(rng, 10.0, nodes=16)
        points = rng.uniform(-100, 100, (3, 200))
        np.testing.assert_allclose(noise(points), noise(points + np.array([[80.0], [0], [-160]])), atol=2e-4)
        assert abs(float(noise.values.std()) - 1) < 1e-5
        table = shapes.sampled(lambda p: p[0] - 2 * p[1] + 3 * p[2], np.array([(-10.0, -10, -10), (10, 10, 10)]), 3.0)
        inner = points / 11
        np.testing.assert_allclose(table(inner), inner[0] - 2 * inner[1] + 3 * inner[2], atol=1e-3)

    def test_union_intersection_and_difference_follow_set_logic(self, rng: np.random.Generator) -> None:
        a, b = shapes.ellipsoid((0, 0, 0), (10, 10, 10)), shapes.ellipsoid((8, 0, 0), (10, 10, 10))
        points = rng.uniform(-20, 25, (3, 1000)).astype(np.float32)
        in_a, in_b = a(points) < 0, b(points) < 0
        np.testing.assert_array_equal(shapes.union(a, b)(points) < 0, in_a | in_b)
        np.testing.assert_array_equal(shapes.intersection(a, b)(points) < 0, in_a & in_b)
        np.testing.assert_array_equal(shapes.difference(a, b)(points) < 0, in_a & ~in_b)
        blended = shapes.union(a, b, blend_mm=6)(points) < 0
        assert np.all(blended >= (in_a | in_b))
        assert blended.sum() > (in_a | in_b).sum()

    def test_marbling_removes_about_the_share_it_is_given(self, rng: np.random.Generator) -> None:
        noise = shapes.smooth_noise(rng, 6.0, nodes=32)
        points = rng.uniform(-40, 40, (3, 20_000)).astype(np.float32)
        kept = shapes.marbled(shapes.half_space((1000, 0, 0), (1, 0, 0)), noise, 0.2)(points) < 0
        # Interpolation makes the noise a little narrower than a Gaussian of standard deviation 1.
        assert 0.15 < 1 - kept.mean() < 0.35


class TestAnatomy:
    def test_later_structures_win_and_bounds_only_save_time(self, rng: np.random.Generator) -> None:
        big, small = shapes.ellipsoid((0, 0, 0), (20, 20, 20)), shapes.ellipsoid((5, 0, 0), (8, 8, 8))
        bounded = Anatomy((solid("big", "fat", big, [(0, 0, 0)], 20), solid("small", "muscle", small, [(5, 0, 0)], 8)))
        points = rng.uniform(-25, 25, (3, 10, 50))
        expected = np.where(small(points.reshape(3, -1)) < 0, 2, np.where(big(points.reshape(3, -1)) < 0, 1, 0))
        np.testing.assert_array_equal(bounded.at(points), expected.reshape(10, 50))
        assert bounded.names == ("outside", "big", "small")
        assert bounded.without("small").tissues == ("air", "fat")

    def test_unknown_and_repeated_names_are_refused(self) -> None:
        with pytest.raises(ValueError, match="no structures \\['gas'\\]"):
            ball().without("gas")
        with pytest.raises(ValueError, match="have to be unique.*ball"):
            Anatomy(ball().structures * 2)


class TestRender:
    def test_partial_volume_preserves_the_volume_of_a_ball(self) -> None:
        grid = axis_aligned((24, 24, 24), (2.3, 2.3, 2.3))
        volume = 4 / 3 * np.pi * 20.0**3
        fine = render(ball(), grid, {"air": 0.0, "muscle": 1.0}, supersample=3).sum() * 2.3**3
        assert abs(fine / volume - 1) < 0.01
        image = render(ball(), grid, {"air": 0.0, "muscle": 1.0})
        assert 0 < np.unique(image).size - 2 <= 3
        assert image.max() == 1.0

    def test_a_missing_tissue_value_is_named(self) -> None:
        with pytest.raises(ValueError, match="no value for the tissues \\['muscle'\\]"):
            render(ball(), axis_aligned((8, 8, 8), (5, 5, 5)), {"air": 0.0})

    def test_grid_axes_and_world_positions_are_honoured(self, oblique_grid: Grid) -> None:
        centre = oblique_grid.affine[:3, :3] @ [12, 20, 9] + oblique_grid.affine[:3, 3]
        labels = render_labels(ball(8.0, tuple(centre)), oblique_grid, {"ball": 7})
        np.testing.assert_allclose(ndi.center_of_mass(labels == 7), [12, 20, 9], atol=0.1)

    def test_texture_moves_with_the_tissue(self, rng: np.random.Generator) -> None:
        grid = axis_aligned((30, 30, 30), (2, 2, 2))
        texture = Texture(shapes.smooth_noise(rng, 8.0), {"muscle": 0.1})
        values = {"air": 0.0, "muscle": 1.0}
        still = render(ball(), grid, values, texture=texture)
        moved = render(ball(), grid, values, texture=texture, to_reference=lambda p: np.stack([p[0] - 4.0, p[1], p[2]]))
        np.testing.assert_allclose(moved[2:], still[:-2], atol=1e-4)
        inner = ndi.binary_erosion(still > 0.5, iterations=2)
        assert 0.03 < still[inner].std() < 0.2


class TestMotion:
    bounds = np.array([(-100.0, -100, -80), (100, 100, 80)])

    def draw(self, seed: int = 0) -> Motion:
        fillings = [
            Filling(np.array([0, 20, -10.0]), np.array([40.0, 35, 50]), 0.3),
            Shift(np.array([0, -60, 30.0]), np.array([25.0, 25, 25]), np.array([0, 0, 8.0])),
        ]
        return random_motion(np.random.default_rng(seed), self.bounds, fillings=fillings)

    @pytest.mark.parametrize("seed", range(3))
    def test_forward_and_inverse_undo_each_other_to_a_tenth_of_a_millimetre(self, seed: int) -> None:
        motion = self.draw(seed)
        points = np.random.default_rng(9).uniform(*self.bounds[:, :, None], (3, 4000))
        moved = motion.forward(points)
        assert np.linalg.norm(moved - points, axis=0).mean() > 2
        assert np.abs(motion.inverse(moved) - points).max() < 0.1
        assert np.abs(motion.forward(motion.inverse(points)) - points).max() < 0.1

    def test_jacobian_is_positive_everywhere(self) -> None:
        motion = self.draw()
        step = np.eye(3) * 0.5
        points = np.random.default_rng(1).uniform(*self.bounds[:, :, None], (3, 4000))
        columns = [(motion.forward(points + s[:, None]) - motion.forward(points - s[:, None])) for s in step]
        determinants = np.linalg.det(np.stack(columns).transpose(2, 1, 0))
        assert determinants.min() > 0.02
        assert steepest(motion.displacement, motion.step) < 0.85

    def test_folding_is_refused(self) -> None:
        displacement = np.zeros((3, 5, 5, 5))
        displacement[0, 2] = -9.0
        with pytest.raises(ValueError, match="may fold"):
            Motion(np.eye(4), displacement, np.zeros(3), 4.0)

    def test_filling_scales_the_organ_and_leaves_what_is_far(self) -> None:
        filling = Filling(np.zeros(3), np.array([20.0, 20, 20]), 0.2)
        points = np.array([[10.0, 0, 0], [0, 15, 0], [0, 0, 90]]).T
        np.testing.assert_allclose(filling.displacement(points).T, [[2, 0, 0], [0, 3, 0], [0, 0, 0]], atol=1e-3)

    def test_stiffness_keeps_bone_from_deforming(self) -> None:
        rng = np.random.default_rng(0)
        rigid = random_motion(rng, self.bounds, stiffness=lambda p: np.ones(p.shape[1:]))
        points = rng.uniform(*self.bounds[:, :, None], (3, 100))
        gaps = np.linalg.norm(points[:, :, None] - points[:, None], axis=0)
        moved = rigid.forward(points)
        np.testing.assert_allclose(np.linalg.norm(moved[:, :, None] - moved[:, None], axis=0), gaps, atol=1e-4)

    def test_true_field_is_in_voxels_of_an_oblique_grid(self, oblique_grid: Grid) -> None:
        shift = rigid_about((0, 0, 0), (0, 0, 0), oblique_grid.affine[:3, :3] @ [1.5, -2.0, 0.5])
        motion = Motion(shift, np.zeros((3, 4, 4, 4)), np.zeros(3), 50.0)
        field = motion.true_field(oblique_grid)
        np.testing.assert_allclose(field.reshape(3, -1).T, np.tile([1.5, -2.0, 0.5], (field[0].size, 1)), atol=1e-4)
        np.testing.assert_allclose(motion.true_field(oblique_grid, backwards=True), -field, atol=1e-4)


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
