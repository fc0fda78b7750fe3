"""Overlap and surface measures: analytic boxes and balls, MONAI and SimpleITK as second opinion."""

import numpy as np
import pytest

from modalign.cases import Case
from modalign.errors import ConfigError
from modalign.metrics import LOST
from modalign.metrics.overlap import dice, measure_dice
from modalign.metrics.pair import Pair
from modalign.metrics.surface import (
    average_surface_distance,
    diagonal_mm,
    hausdorff,
    measure_asd,
    measure_hausdorff,
    measure_hd95,
    surface_distances,
)
from modalign.volumes import Grid, Volume, axis_aligned

SPACING = (1.0, 1.5, 2.5)
PLAIN = {"interpolation": "nearest", "region": "grid", "per_slice": False}
SURFACE = {**PLAIN, "missing": "diagonal"}


def ball(shape, centre, radius_mm, spacing=SPACING):
    points = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(float)
    scaled = (points - np.reshape(centre, (3, 1, 1, 1))) * np.reshape(spacing, (3, 1, 1, 1))
    return (scaled**2).sum(0) < radius_mm**2


def box(shape, low, high):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def pair_of(fixed, moving, field=None, mask=None, moving_grid=None, names=None):
    grid = axis_aligned(fixed.shape, SPACING)
    moving_grid = moving_grid or grid
    case = Case(
        "p1",
        fixed=Volume(np.zeros(fixed.shape, dtype=np.float32), grid.affine),
        moving=Volume(np.zeros(moving.shape, dtype=np.float32), moving_grid.affine),
        fixed_labels=Volume(fixed.astype(np.uint8), grid.affine),
        moving_labels=Volume(moving.astype(np.uint8), moving_grid.affine),
        fixed_mask=None if mask is None else Volume(mask.astype(np.uint8), grid.affine),
    )
    field = np.zeros((3, *fixed.shape), dtype=np.float32) if field is None else field
    return Pair(case, case.fixed.data, field, names or {1: "bladder", 2: "rectum"})


def shift(shape, *voxels):
    return np.broadcast_to(np.reshape(voxels, (3, 1, 1, 1)), (3, *shape)).astype(np.float32)


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
def test_labels_reach_half_a_voxel_beyond_the_outermost_centres_as_in_simpleitk(rng, interpolation):
    """A structure that runs through the border doesn't lose its end to a field of a fraction of a voxel."""
    import SimpleITK as sitk

    through = box((12, 10, 8), (4, 0, 0), (9, 7, 8))
    field = rng.uniform(-0.9, 0.9, (3, *through.shape)).astype(np.float32)
    warped = pair_of(through, through, field).labels(interpolation, "grid")[1]
    image = sitk.GetImageFromArray(through.transpose(2, 1, 0).astype(np.float32))
    displacement = sitk.GetImageFromArray(field.transpose(3, 2, 1, 0).astype(float), isVector=True)
    kind = {"nearest": sitk.sitkNearestNeighbor, "linear": sitk.sitkLinear}[interpolation]
    transform = sitk.DisplacementFieldTransform(displacement)
    expected = sitk.GetArrayFromImage(sitk.Resample(image, image, transform, kind, 0.0)).transpose(2, 1, 0)
    assert ((warped == 1) == (expected >= 0.5)).all()
    still = pair_of(through, through, shift(through.shape, 0, 0, 1e-7))
    assert [
        v.value for v in measure_dice(still, **PLAIN | {"interpolation": interpolation}) if v.structure == "bladder"
    ] == [1.0]


@pytest.fixture
def blobs():
    shape = (32, 30, 20)
    return ball(shape, (15, 14, 9), 9), ball(shape, (18, 13, 10), 8) | box(shape, (2, 2, 2), (4, 4, 4))


class TestSecondOpinions:
    def test_dice_agrees_with_simpleitk(self, blobs):
        import SimpleITK as sitk

        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(*[sitk.GetImageFromArray(m.astype(np.uint8)) for m in blobs])
        assert dice(*blobs) == pytest.approx(overlap.GetDiceCoefficient())

    def test_hausdorff_agrees_with_simpleitk(self, blobs):
        import SimpleITK as sitk

        images = [sitk.GetImageFromArray(m.astype(np.uint8).transpose(2, 1, 0)) for m in blobs]
        for image in images:
            image.SetSpacing(SPACING)
        distance = sitk.HausdorffDistanceImageFilter()
        distance.Execute(*images)
        # SimpleITK measures from whole masks; from surfaces the largest distance is the same when, as here, it
        # belongs to a piece outside the other mask, up to its approximate distance map.
        assert hausdorff(surface_distances(*blobs, SPACING)) == pytest.approx(distance.GetHausdorffDistance(), abs=0.5)

    def test_all_agree_with_monai(self, blobs):
        monai = pytest.importorskip("monai.metrics")
        import torch

        a, b = (torch.from_numpy(m[None, None]) for m in blobs)
        distances = surface_distances(*blobs, SPACING)
        for percentile in (None, 95):
            theirs = monai.compute_hausdorff_distance(
                a, b, include_background=True, percentile=percentile, spacing=SPACING
            )
            assert hausdorff(distances, percentile or 100) == pytest.approx(float(theirs), abs=1e-4)
        theirs = monai.compute_average_surface_distance(a, b, include_background=True, symmetric=True, spacing=SPACING)
        assert average_surface_distance(distances) == pytest.approx(float(theirs), abs=1e-4)

    def test_against_all_pairs_of_surface_voxels(self, blobs):
        small = [m[:, :, 6:14] for m in blobs]

        def surface(mask):
            padded = np.pad(mask, 1)
            inner = mask.copy()
            for axis in range(3):
                for step in (-1, 1):
                    inner &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
            return np.argwhere(mask & ~inner) * SPACING

        p, q = map(surface, small)
        table = np.linalg.norm(p[:, None] - q[None], axis=2)
        forward, backward = table.min(1), table.min(0)
        ours = surface_distances(*small, SPACING)
        assert np.sort(ours.forward) == pytest.approx(np.sort(forward))
        assert np.sort(ours.backward) == pytest.approx(np.sort(backward))
        assert hausdorff(ours, 95, "pooled") == pytest.approx(np.percentile([*forward, *backward], 95))


class TestKnownAnswers:
    @pytest.mark.parametrize(("axis", "millimetres"), [(0, 3.0), (1, 4.5), (2, 7.5)])
    def test_a_box_shifted_by_three_voxels(self, axis, millimetres):
        shape, step = (24, 24, 24), np.eye(3, dtype=int)[axis] * 3
        a = box(shape, (6, 6, 6), (14, 14, 14))
        b = box(shape, 6 + step, 14 + step)
        pair = pair_of(a, b, names={1: "bladder"})
        assert measure_dice(pair, **PLAIN)[0].value == pytest.approx(5 / 8)
        assert measure_hausdorff(pair, **SURFACE)[0].value == pytest.approx(millimetres)
        assert measure_hd95(pair, **SURFACE, directions="max")[0].value == pytest.approx(millimetres)

    def test_concentric_cubes(self):
        # 10^3 in 14^3 voxels of 1 mm: every inner face voxel is 2 mm from the outer surface.
        shape = (20, 20, 20)
        distances = surface_distances(
            box(shape, (5, 5, 5), (15, 15, 15)), box(shape, (3, 3, 3), (17, 17, 17)), (1, 1, 1)
        )
        assert (distances.forward == 2).all()
        assert hausdorff(distances) == pytest.approx(np.sqrt(12))

    def test_a_structure_of_one_voxel_has_a_surface(self):
        a = box((8, 8, 4), (2, 3, 1), (3, 4, 2))
        pair = pair_of(a, a, names={1: "bladder"})
        for measure, more in ((measure_hausdorff, {}), (measure_hd95, {"directions": "max"}), (measure_asd, {})):
            assert measure(pair, **SURFACE, **more) == [(0.0, None, "bladder")]

    def test_all_of_a_thin_structure_in_a_volume_is_surface(self):
        # 8 x 8 voxels in one slice against 6 x 6: the 28 of the outer ring are a pixel away, the other 36 lie on both.
        shape = (16, 16, 8)
        pair = pair_of(box(shape, (2, 2, 3), (10, 10, 4)), box(shape, (3, 3, 3), (9, 9, 4)), names={1: "bladder"})
        pair.case.fixed.affine[:3, :3] = np.eye(3)
        assert measure_asd(pair, **SURFACE)[0].value == pytest.approx((24 + 4 * np.sqrt(2)) / 100)

    def test_the_field_undoes_the_shift(self):
        shape = (24, 24, 12)
        a, b = box(shape, (6, 6, 3), (14, 14, 9)), box(shape, (8, 5, 3), (16, 13, 9))
        pair = pair_of(a, b, shift(shape, 2, -1, 0), names={1: "bladder"})
        assert measure_dice(pair, **PLAIN) == [(1.0, None, "bladder")]
        assert measure_asd(pair, **SURFACE) == [(0.0, None, "bladder")]

    def test_moving_labels_on_a_finer_grid(self):
        shape = (24, 24, 12)
        a = box(shape, (6, 6, 3), (14, 14, 9))
        fine = np.kron(a, np.ones((2, 2, 2), dtype=bool))
        affine = axis_aligned(shape, SPACING).affine @ np.diag([0.5, 0.5, 0.5, 1])
        affine[:3, 3] = axis_aligned(shape, SPACING).affine[:3, 3] - 0.25 * np.array(SPACING)
        pair = pair_of(a, fine, moving_grid=Grid(fine.shape, affine), names={1: "bladder"})
        assert measure_dice(pair, **PLAIN)[0].value == 1

    def test_linear_interpolation_is_the_mask_cut_at_one_half(self):
        from scipy import ndimage as ndi

        shape = (24, 22, 12)
        labels = ball(shape, (10, 10, 6), 8).astype(np.uint8)
        labels[ball(shape, (16, 12, 5), 6)] = 2
        rng = np.random.default_rng(3)
        field = np.stack([ndi.gaussian_filter(rng.normal(size=shape), 3) * 25 for _ in range(3)]).astype(np.float32)
        pair = pair_of(labels, labels, field)
        positions = np.indices(shape) + field
        _, warped = pair.labels("linear", "grid")
        for value in (1, 2):
            soft = ndi.map_coordinates((labels == value).astype(float), positions, order=1, mode="constant")
            decided = np.abs(soft - 0.5) > 1e-4
            assert ((warped == value) == (soft >= 0.5))[decided].all()
        _, nearest = pair.labels("nearest", "grid")
        assert 0 < (nearest != warped).mean() < 0.05

    def test_only_inside_the_mask(self):
        shape = (24, 24, 12)
        a, b = box(shape, (4, 4, 2), (12, 12, 10)), box(shape, (4, 4, 2), (16, 12, 10))
        pair = pair_of(a, b, mask=box(shape, (0, 0, 0), (12, 24, 12)), names={1: "bladder"})
        assert measure_dice(pair, **PLAIN)[0].value == pytest.approx(0.8)
        assert measure_dice(pair, **{**PLAIN, "region": "mask"})[0].value == 1


class TestPercentiles:
    def test_a_stray_voxel_decides_the_hausdorff_distance_only(self):
        shape = (30, 24, 12)
        a = box(shape, (4, 6, 3), (12, 14, 9))
        b = a | box(shape, (26, 10, 5), (27, 11, 6))
        pair = pair_of(a, b, names={1: "bladder"})
        assert measure_hausdorff(pair, **SURFACE)[0].value == pytest.approx(15)
        assert measure_hd95(pair, **SURFACE, directions="max")[0].value == 0

    def test_pooling_dilutes_the_worse_direction(self):
        shape = (30, 24, 12)
        a = box(shape, (4, 6, 3), (12, 14, 9))
        b = a | box(shape, (20, 6, 3), (22, 8, 9))
        pair = pair_of(a, b, names={1: "bladder"})
        pooled, largest = (measure_hd95(pair, **SURFACE, directions=d)[0].value for d in ("pooled", "max"))
        # The second piece has 24 surface voxels: over 5 % of the 264 of b, under 5 % of the 504 of both masks.
        assert (largest, pooled) == (9, 0)


class TestMissingStructures:
    def test_missing_on_one_side_is_undefined(self):
        shape = (16, 16, 8)
        both = box(shape, (2, 2, 2), (8, 8, 6)).astype(np.uint8)
        only_fixed = both + 2 * box(shape, (10, 10, 2), (14, 14, 6)).astype(np.uint8)
        for pair in (pair_of(only_fixed, both), pair_of(both, only_fixed)):
            for score, options in ((measure_dice, PLAIN), (measure_hausdorff, SURFACE)):
                bladder, rectum = score(pair, **options)
                assert np.isfinite(bladder.value)
                assert rectum.structure == "rectum"
                assert np.isnan(rectum.value)

    def test_driven_out_of_the_grid_scores_worst(self):
        shape = (16, 16, 8)
        a = box(shape, (2, 2, 2), (8, 8, 6))
        pair = pair_of(a, a, shift(shape, 40, 0, 0), names={1: "bladder"})
        assert measure_dice(pair, **PLAIN)[0].value == 0
        diagonal = np.linalg.norm([16 * 1.0, 16 * 1.5, 8 * 2.5])
        for measure, more in ((measure_hausdorff, {}), (measure_hd95, {"directions": "max"}), (measure_asd, {})):
            pair.remarks.clear()
            assert measure(pair, **SURFACE, **more)[0].value == pytest.approx(diagonal)
            assert pair.remarks == {f"bladder {LOST}"}
            assert np.isnan(measure(pair, **{**SURFACE, "missing": "drop"}, **more)[0].value)

    def test_losing_a_structure_is_never_better_than_missing_it(self):
        shape = (24, 24, 12)
        labels = box(shape, (1, 1, 1), (5, 5, 4)).astype(np.uint8)
        moving = np.roll(labels, (18, 18, 8), (0, 1, 2))
        far = measure_hausdorff(pair_of(labels, moving, names={1: "bladder"}), **SURFACE)[0].value
        lost = measure_hausdorff(pair_of(labels, moving, shift(shape, 50, 0, 0), names={1: "bladder"}), **SURFACE)
        assert 35 < far < lost[0].value

    def test_lost_in_some_slices_counts_the_diagonal_of_the_plane(self):
        shape = (20, 20, 8)
        a = box(shape, (4, 4, 2), (12, 12, 4))
        field = shift(shape, 0, 0, 0).copy()
        field[0, :, :, 3] = 60
        pair = pair_of(a, a, field, names={1: "bladder"})
        values = measure_hd95(pair, **{**SURFACE, "per_slice": True}, directions="pooled")
        assert [v.value for v in values] == pytest.approx([0, np.hypot(20, 30)])

    def test_the_diagonal_of_the_grid_of_brats(self):
        assert diagonal_mm((240, 240, 155), (1, 1, 1)) == pytest.approx(373.1287, abs=1e-4)

    def test_what_else_could_count(self):
        a = box((8, 8, 4), (2, 2, 1), (5, 5, 3))
        pair = pair_of(a, a, shift(a.shape, 20, 0, 0), names={1: "bladder"})
        with pytest.raises(ConfigError, match="missing can't be 'nan'; write one of: diagonal, drop"):
            measure_asd(pair, **{**SURFACE, "missing": "nan"})


class TestPerSlice:
    def test_slices_with_contours_in_both(self):
        shape = (20, 20, 8)
        a, b = box(shape, (4, 4, 1), (12, 12, 5)), box(shape, (6, 4, 3), (14, 12, 7))
        pair = pair_of(a, b, names={1: "bladder"})
        options = {**PLAIN, "per_slice": True}
        assert measure_dice(pair, **options) == [(0.75, 3, "bladder"), (0.75, 4, "bladder")]
        # 2 voxels of 1 mm within the plane; neighbouring slices play no part.
        assert measure_hausdorff(pair, **{**SURFACE, "per_slice": True}) == [(2.0, 3, "bladder"), (2.0, 4, "bladder")]

    def test_a_filled_slice_has_an_outline_only(self):
        a = box((12, 12, 1), (2, 2, 0), (10, 10, 1))
        assert surface_distances(a, a, SPACING).forward.size == 28


@pytest.mark.parametrize(
    ("options", "message"),
    [({"interpolation": "cubic"}, "one of: nearest, linear"), ({"region": "organ"}, "region 'organ'")],
)
def test_bad_options(blobs, options, message):
    with pytest.raises(ConfigError, match=message):
        measure_dice(pair_of(*blobs), **{**PLAIN, **options})


def test_bad_direction(blobs):
    with pytest.raises(ConfigError, match="one of: max, pooled"):
        hausdorff(surface_distances(*blobs, SPACING), 95, "mean")
