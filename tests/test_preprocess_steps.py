"""Single steps against known answers and other libraries."""

import dataclasses

import numpy as np
import pytest
import scipy.ndimage as ndi

from modalign.cases import Case, Intensity
from modalign.errors import ConfigError, DataError
from modalign.preprocess.context import StepContext
from modalign.preprocess.overrides import resolve
from modalign.preprocess.steps import bias, geometry, intensity, masks, misalign, nyul
from modalign.volumes import Volume, axis_aligned

SHAPE = (32, 30, 14)


@pytest.fixture
def context() -> StepContext:
    return StepContext(dataset="tiny", fixed="mr", moving="ct", step="step", seed=1)


def make(rng: np.random.Generator, split: str = "test", name: str = "a", shape=SHAPE) -> Case:
    grid = axis_aligned(shape, (2, 2, 4))
    mr = (ndi.gaussian_filter(rng.normal(size=shape), 2) * 500 + 300).clip(0).astype(np.float32)
    ct = (ndi.gaussian_filter(rng.normal(size=shape), 2) * 3000).astype(np.float32)
    return Case(
        name,
        Volume(mr, grid.affine),
        Volume(ct, grid.affine),
        split=split,
        true_image=Volume(ct + 10, grid.affine),
        moving_intensity=Intensity(unit="HU"),
        record={"transforms": {"fixed": [], "moving": []}, "steps": []},
    )


def test_nyul_landmarks_and_mapping_agree_with_torchio(rng, context, tmp_path):
    import torch
    from torchio.transforms import HistogramStandardization
    from torchio.transforms.preprocessing.intensity.histogram_standardization import _normalize

    from modalign.volumes import write_volume

    cases = [make(np.random.default_rng(i)) for i in range(4)]
    for number, case in enumerate(cases):
        case.fixed.data *= 1 + number
        write_volume(tmp_path / f"{number}.nii.gz", case.fixed)
    numbers = {"low_percent": 1.0, "high_percent": 99.0, "foreground": "mean"}
    fitted = nyul.fit([nyul.summarise(case, "fixed", **numbers) for case in cases[:3]], **numbers)
    theirs = HistogramStandardization.train(
        [tmp_path / f"{i}.nii.gz" for i in range(3)],
        masking_function=lambda x: x.numpy() > x.numpy().mean(),
        progress=False,
    )
    # TorchIO also keeps the quartiles 25 and 75, which it then leaves out of the mapping.
    np.testing.assert_allclose(fitted["landmarks"], np.delete(theirs, [3, 9]), rtol=1e-4, atol=1e-3)
    assert fitted["landmarks"][0] == pytest.approx(0)
    assert fitted["landmarks"][-1] == pytest.approx(100)
    context = dataclasses.replace(context, fitted={"step": {"fixed": fitted}})
    ours, _ = nyul.standardise(cases[3], context)
    data = cases[3].fixed.data
    expected = _normalize(torch.tensor(data), theirs, mask=data > data.mean()).numpy().reshape(SHAPE)
    np.testing.assert_allclose(ours.fixed.data, expected, atol=0.05)
    assert ours.moving is cases[3].moving


def test_nyul_maps_scaled_copies_of_one_scan_onto_each_other(context):
    case = make(np.random.default_rng(0))
    copy = dataclasses.replace(case, fixed=case.fixed.like(case.fixed.data * 3 + 50))
    numbers = {"low_percent": 1.0, "high_percent": 99.0, "foreground": "all"}
    fitted = nyul.fit([nyul.summarise(case, "fixed", **numbers)], **numbers)
    context = dataclasses.replace(context, fitted={"step": {"fixed": fitted}})
    a, b = (nyul.standardise(c, context, foreground="all")[0].fixed.data for c in (case, copy))
    np.testing.assert_allclose(a, b, atol=1e-2)
    assert np.all(np.diff(a.ravel()[np.argsort(case.fixed.data.ravel())]) >= -1e-4)


def test_nyul_survives_images_that_are_mostly_one_value(context):
    own = np.array([0, 0, 0, 0, 0, 1, 2, 3, 3, 3, 9.0])
    mapped = nyul.apply(np.array([-1.0, 0, 1, 3, 9, 12]), own, np.linspace(0, 100, 11))
    assert np.isfinite(mapped).all()
    assert np.all(np.diff(mapped) > 0)
    with pytest.raises(DataError, match="constant images"):
        nyul.fit([{"landmarks": [5.0] * 11}], low_percent=1, high_percent=99)


def test_percentile_clipping_and_scaling_keep_physical_values(rng, context):
    case = make(rng)
    raw = case.moving.data.copy()
    low, high = np.percentile(raw, [5, 95])
    case, record = intensity.clip_percentiles(case, context)
    assert record == {"moving": {"low": pytest.approx(low), "high": pytest.approx(high)}}
    case, _ = intensity.zscore(case, context, of="ct")
    case, _ = intensity.minmax(case, context)
    assert (case.moving.data.min(), case.moving.data.max()) == (-1, 1)
    np.testing.assert_allclose(case.moving_intensity.to_physical(case.moving.data), np.clip(raw, low, high), atol=0.01)
    # The true image goes through the moving scan's numbers, not its own.
    expected = np.clip(raw + 10, low, high)
    np.testing.assert_allclose(case.moving_intensity.to_physical(case.true_image.data), expected, atol=0.01)
    assert case.moving_intensity.unit == "HU"


def test_the_truth_keeps_what_lies_beyond_the_moving_scans_extremes_unless_that_is_cut_off(rng, context):
    case = make(rng)
    raw = case.true_image.data + 500
    case = dataclasses.replace(case, true_image=case.true_image.like(raw))
    whole, _ = intensity.minmax(case, context)
    assert whole.true_image.data.max() > whole.moving.data.max() == 1
    np.testing.assert_allclose(whole.moving_intensity.to_physical(whole.true_image.data), raw, atol=0.01)
    cut, record = intensity.minmax(case, context, of="ct", low_percent=1, high_percent=99)
    physical = cut.moving_intensity.to_physical(cut.true_image.data)
    np.testing.assert_allclose(physical, np.clip(raw, *record["moving"].values()), atol=0.01)


def test_percentiles_can_be_taken_within_the_mask(rng, context):
    case = make(rng)
    inside = np.zeros(SHAPE, dtype=np.uint8)
    inside[8:20, 8:20] = 1
    case = dataclasses.replace(case, moving_mask=case.moving.like(inside))
    _, record = intensity.clip_percentiles(case, context, within="mask")
    assert record["moving"]["high"] == pytest.approx(np.percentile(case.moving.data[inside > 0], 95))
    with pytest.raises(ConfigError, match="volume or mask"):
        intensity.clip_percentiles(case, context, within="body")


def test_the_hu_window_is_the_same_for_all(rng, context):
    case, _ = intensity.window(make(rng), context, low_hu=-1000, high_hu=1000)
    assert case.moving_intensity == Intensity(1000.0, 0.0, "HU")
    assert case.fixed_intensity == Intensity()


def test_constant_images_do_not_divide_by_zero(context):
    flat = make(np.random.default_rng(0))
    flat = dataclasses.replace(flat, fixed=flat.fixed.like(np.zeros(SHAPE, np.float32)))
    for step in (intensity.minmax, intensity.zscore):
        assert np.isfinite(step(flat, context, of="fixed")[0].fixed.data).all()
    assert np.isfinite(bias.n4(flat, context, of="fixed")[0].fixed.data).all()


def test_n4_flattens_a_known_bias(context):
    shape = (48, 44, 24)
    x, y, _ = axis_aligned(shape, (3, 3, 3)).indices()
    head = np.hypot((x - 24) / 20, (y - 22) / 18) < 1
    tissue = np.where(head, np.where(np.sin(x / 3) * np.sin(y / 4) > 0, 400.0, 250.0), 5.0)
    known = np.exp(0.35 * np.sin(x / 25) + 0.2 * np.cos(y / 30))
    volume = Volume((tissue * known).astype(np.float32), axis_aligned(shape, (3, 3, 3)).affine)
    found = bias.estimate_bias(volume, 2, (50, 50, 30))
    ratio = (found / known)[head]
    assert ratio.std() / ratio.mean() < 0.35 * (known[head].std() / known[head].mean())
    assert np.exp(np.log(found[head]).mean()) == pytest.approx(1, abs=0.05)


def test_foreground_masks_and_their_exceptions(rng, context):
    case = make(rng)
    parameters = {s["name"]: s["parameters"] for s in resolve("locor-abdomen")}["masks"]
    usual, _ = masks.foreground_masks(case, context, **parameters)
    np.testing.assert_array_equal(usual.fixed_mask.data, ndi.binary_erosion(case.fixed.data > 0))
    np.testing.assert_array_equal(usual.moving_mask.data, ndi.binary_erosion(case.moving.data > -1024))
    case_0010 = dataclasses.replace(case, id="AbdomenMRCT_0010")
    other, record = masks.foreground_masks(case_0010, context, **parameters)  # the same id in another archive
    np.testing.assert_array_equal(other.fixed_mask.data, usual.fixed_mask.data)
    of_2021 = dataclasses.replace(context, archive="learn2reg-abdomen-mr-ct-2021")
    special, record = masks.foreground_masks(case_0010, of_2021, **parameters)
    assert record["mr_erosion"] == 3
    assert record["ct_above_hu"] == -1023
    np.testing.assert_array_equal(special.fixed_mask.data, ndi.binary_erosion(case.fixed.data > 0, iterations=3))


def test_the_body_mask_is_one_filled_piece(context):
    shape = (60, 60, 30)
    x, y, z = axis_aligned(shape, (2, 2, 2)).indices()
    r = np.sqrt(((x - 30) / 20) ** 2 + ((y - 30) / 20) ** 2 + ((z - 15) / 11) ** 2)
    data = np.where(r < 1, 800.0, 0.0)
    data[(r < 0.4)] = 0
    data[2:5, 2:5, 2:5] = 800
    data[50, 50, 20] = 900
    case = make(np.random.default_rng(0), shape=shape)
    case = dataclasses.replace(case, fixed=case.fixed.like(data.astype(np.float32)))
    mask = {
        d: masks.body_mask(case, context, **d2)[0].evaluation_mask.data > 0
        for d, d2 in (
            ("as is", {"final_dilation": 0}),
            ("main", {}),
            ("released", {"final_dilation": 0, "final_erosion": 4}),
        )
    }
    ball = r < 1
    overlap = 2 * (mask["as is"] & ball).sum() / (mask["as is"].sum() + ball.sum())
    assert overlap > 0.97
    assert mask["as is"][30, 30, 15]
    assert not mask["main"][3, 3, 3]
    np.testing.assert_array_equal(mask["main"], ndi.binary_dilation(mask["as is"], iterations=2))
    np.testing.assert_array_equal(mask["released"], ndi.binary_erosion(mask["as is"], iterations=4))
    # In HU, air is the lowest value and not 0.
    ct = dataclasses.replace(case, fixed=case.fixed.like((data - 1000).astype(np.float32)))
    of_ct = masks.body_mask(ct, dataclasses.replace(context, fixed="ct"), final_dilation=0)[0]
    np.testing.assert_array_equal(of_ct.evaluation_mask.data > 0, mask["as is"])
    # Scanners pad with less than air has: the corners outside their circle.
    padded = np.where((x - 30) ** 2 + (y - 30) ** 2 > 28**2, -3024, data - 1000).astype(np.float32)
    ct = dataclasses.replace(case, fixed=case.fixed.like(padded))
    of_ct = masks.body_mask(ct, dataclasses.replace(context, fixed="ct"), final_dilation=0)[0]
    np.testing.assert_array_equal(of_ct.evaluation_mask.data > 0, mask["as is"])
    half = np.zeros(shape, np.uint8)
    half[:30] = 1
    halved = masks.body_mask(dataclasses.replace(case, fixed_mask=case.fixed.like(half)), context)[0]
    np.testing.assert_array_equal(halved.evaluation_mask.data > 0, mask["main"] & (half > 0))


def test_misalignment_stays_within_its_ranges_and_fills_them(context):
    ranges = {"rotation_deg": [0, 0, 5.0], "translation_mm": [10.0, 10.0, 0], "scale": 0.08}
    sampled = []
    for number in range(60):
        case = make(np.random.default_rng(0), name=f"c{number}", shape=(6, 6, 3))
        _, record = misalign.misalign(case, context, **ranges)
        sampled += [record["fixed"], record["moving"]]
    angles, shifts = (np.array([s[key] for s in sampled]) for key in ("rotation_deg", "translation_mm"))
    scales = np.array([s["scale"] for s in sampled])
    assert np.all(angles[:, :2] == 0)
    assert np.all(shifts[:, 2] == 0)
    for values, limit in ((angles[:, 2], 5), (shifts[:, 0], 10), (shifts[:, 1], 10), (scales - 1, 0.08)):
        assert np.abs(values).max() <= limit
        assert values.std() == pytest.approx(limit / np.sqrt(3), rel=0.2)
        assert abs(values.mean()) < 0.25 * limit
    fixed, moving = shifts[::2, 0], shifts[1::2, 0]
    assert abs(np.corrcoef(fixed, moving)[0, 1]) < 0.35


def test_misalignment_touches_only_its_splits(context):
    for split, applied in (("train", True), ("test", False)):
        case = make(np.random.default_rng(0), split=split)
        moved, record = misalign.misalign(case, context, splits=["train"], translation_mm=[9, 9, 9])
        assert record["applied"] is applied
        assert np.array_equal(moved.moving.data, case.moving.data) is not applied
    with pytest.raises(ConfigError, match="elastic is 'wavy'; write one of: none, simard"):
        misalign.misalign(case, context, elastic="wavy")


def test_resizing_can_keep_the_middle_of_the_field_of_view(rng, context):
    case = make(rng)
    start, step = case.grid.affine[:3, 3], case.grid.spacing
    ramp = case.fixed.like((start[0] + step[0] * np.indices(case.fixed.shape, dtype=np.float32)[0]).astype(np.float32))
    kept = [case.fixed.shape[0] * step[0] / 2, None, 1000.0]
    size = [case.fixed.shape[0], *case.fixed.shape[1:]]
    done, _ = geometry.resize(dataclasses.replace(case, fixed=ramp), context, size=size, field_of_view_mm=kept)
    assert done.fixed.shape == case.fixed.shape
    np.testing.assert_allclose(done.grid.spacing, step * [0.5, 1, 1])
    middle = [g.affine @ [*((np.array(g.shape) - 1) / 2), 1] for g in (case.grid, done.grid)]
    np.testing.assert_allclose(middle[0], middle[1], atol=1e-9)
    x = done.grid.affine[0, 3] + done.grid.spacing[0] * np.arange(done.fixed.shape[0])
    np.testing.assert_allclose(done.fixed.data[:, 3, 3], x, atol=1e-3)


def test_labelled_slices_are_found_and_kept(rng, context):
    case = make(rng)
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[10, 10, 4] = labels[12, 12, 9] = 1
    cut, record = geometry.labelled_slices(dataclasses.replace(case, fixed_labels=case.fixed.like(labels)), context)
    assert record == {"slices": [4, 9]}
    np.testing.assert_array_equal(cut.moving.data, case.moving.data[:, :, 4:10])
    assert cut.fixed.affine[2, 3] == case.fixed.affine[2, 3] + 16
    whole, record = geometry.labelled_slices(case, context)
    assert record == {"slices": [0, 13]}
    assert whole.fixed.shape == SHAPE


def test_raw_ct_padding_below_air_never_becomes_the_background(context):
    case = make(np.random.default_rng(0))
    case.moving.data[0, 0, 0] = -3024
    assert context.fill(case)["moving"] == -1024
