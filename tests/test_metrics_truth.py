"""Measures of images against the true aligned image: toys worked by hand, torchmetrics and scikit-image."""

import numpy as np
import pytest
from image_pairs import numbers, pair_of, smooth

from modalign.errors import ConfigError
from modalign.metrics.image import measure_mae_hu, measure_nmae, measure_psnr, measure_ssim, psnr, ssim


class TestAgainstTruth:
    @pytest.fixture
    def images(self, rng):
        truth = smooth(rng)
        return np.clip(truth + 0.1 * rng.normal(size=truth.shape), -1, 1).astype(np.float32), truth

    def test_psnr_of_a_known_error(self):
        truth = np.zeros((16, 16))
        assert psnr(truth + 0.2, truth, 2.0) == pytest.approx(20)
        assert np.isnan(psnr(truth, truth, 2.0))

    def test_psnr_ranges_agree_with_torchmetrics(self, images):
        image, truth = images
        torch = pytest.importorskip("torch")
        from torchmetrics.functional.image import peak_signal_noise_ratio

        def theirs(image, truth, data_range):
            return float(peak_signal_noise_ratio(*map(torch.from_numpy, (image.copy(), truth.copy())), data_range))

        image[:, :, 0] = np.clip(image[:, :, 0], 0.1, 0.7)
        pair = pair_of(image, truth=truth)
        slices = [(image[:, :, z], truth[:, :, z]) for z in range(image.shape[2])]
        fixed = [theirs(a, b, 2.0) for a, b in slices]
        # Earlier versions tracked the range of what they were told is the target, beginning with 0 and 0.
        swapped = [theirs(a, b, float(max(a.max(), 0) - min(a.min(), 0))) for a, b in slices]
        assert swapped[0] == pytest.approx(theirs(*slices[0], 0.7), abs=1e-4)
        assert numbers(measure_psnr(pair, "stored", "slice")) == pytest.approx(fixed, abs=1e-4)
        assert numbers(measure_psnr(pair, "as_released", "slice")) == pytest.approx(swapped, abs=1e-4)

    def test_ssim_agrees_with_torchmetrics(self, images):
        image, truth = images
        torch = pytest.importorskip("torch")
        from torchmetrics.functional.image import structural_similarity_index_measure as theirs

        pair = pair_of(image, truth=truth)
        stacks = [torch.from_numpy(x.transpose(2, 0, 1)[:, None].copy()) for x in (image, truth)]
        fixed = theirs(*stacks, data_range=2.0, reduction="none").tolist()
        assert numbers(measure_ssim(pair, "stored", "gaussian")) == pytest.approx(fixed, abs=1e-4)
        own = [float(theirs(a[None], b[None])) for a, b in zip(*stacks, strict=True)]
        assert numbers(measure_ssim(pair, "data", "gaussian")) == pytest.approx(own, abs=1e-4)

    def test_uniform_ssim_agrees_with_scikit_image(self, images):
        from skimage.metrics import structural_similarity

        a, b = (x[:, :, 0].astype(float) for x in images)
        assert ssim(a, b, 2.0, "uniform") == pytest.approx(structural_similarity(a, b, data_range=2.0), abs=1e-9)

    def test_ssim_is_one_for_equal_and_undefined_for_tiny_slices(self, rng):
        a = smooth(rng)[:, :, 0]
        assert ssim(a, a, 2.0) == pytest.approx(1)
        assert np.isnan(ssim(a[:10], a[:10], 2.0))

    def test_nmae_counts_where_the_truth_is_not_background(self):
        truth = np.full((8, 8, 1), -1, dtype=np.float32)
        truth[:4] = 0.5
        image = truth.copy()
        image[:4] += 0.2
        image[4:] += 1.0
        assert numbers(measure_nmae(pair_of(image, truth=truth, moving=truth), "foreground")) == pytest.approx([0.1])
        both = numbers(measure_nmae(pair_of(image, truth=truth, moving=truth), "slice"))
        assert both == pytest.approx([(0.2 + 1) / 2 / 2])

    def test_mae_is_in_hu_inside_the_mask(self):
        truth = np.zeros((6, 6, 2), dtype=np.float32)
        image = truth + 0.5
        mask = np.zeros(truth.shape, dtype=bool)
        mask[2:4] = True
        image[0] = 9
        pair = pair_of(image, truth=truth, moving=truth, mask=mask, unit="HU", scale=1500)
        assert numbers(measure_mae_hu(pair, "mask")) == pytest.approx([750])
        assert not pair.remarks

    def test_mae_says_where_the_preparation_cut_off_bone(self):
        truth = np.zeros((6, 6, 2), dtype=np.float32)
        pair = pair_of(truth, truth=truth, unit="HU")
        percent = {"low_percent": 5.0, "high_percent": 95.0}
        step = {
            "function": "clip_percentiles",
            "parameters": percent,
            "outcome": {"moving": {"low": -1000, "high": 60}},
        }
        pair.case.record = {"steps": [step]}
        measure_mae_hu(pair, "grid")
        assert pair.remarks == {"HU are those of the prepared scan, cut off at its percentiles 5 and 95"}

    def test_mae_of_mr_is_left_out_with_a_remark(self, images):
        pair = pair_of(*images[:1], truth=images[1])
        assert measure_mae_hu(pair, "mask") == []
        assert pair.remarks == {"left out: the moving scan is in a.u., not in HU"}

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda p: measure_psnr(p, "largest", "slice"), "stored, data, as_released"),
            (lambda p: measure_ssim(p, "as_released", "gaussian"), "stored, data"),
            (lambda p: measure_ssim(p, "stored", "box"), "one of: gaussian, uniform"),
            (lambda p: measure_nmae(p, "brain"), "region 'brain'"),
        ],
    )
    def test_bad_options(self, images, call, message):
        with pytest.raises(ConfigError, match=message):
            call(pair_of(images[0], truth=images[1]))
