"""Measures of images: against toys worked by hand, torchmetrics and scikit-image."""

import dataclasses

import numpy as np
import pytest
import scipy.ndimage as ndi
from image_pairs import numbers, pair_of, smooth

from modalign.cases import Case
from modalign.errors import ConfigError, DataError
from modalign.metrics.image import measure_nmae, measure_psnr
from modalign.metrics.information import measure_nmi, normalized_mutual_information
from modalign.metrics.pair import Pair, intensity_window, prepared_range, to_uint8
from modalign.metrics.structure import gradient_correlation, measure_gc
from modalign.metrics.texture import measure_tv_z, otsu_threshold, sharpness, tv_z
from modalign.preprocess.context import StepContext
from modalign.preprocess.prepare import apply_steps
from modalign.volumes import Volume


class TestEightBits:
    def test_cuts_off_fractions_as_the_released_code(self):
        stored = np.array([-1, -0.5, 0, 0.9999, 1], dtype=np.float32)
        assert to_uint8(stored, (-1, 1)).tolist() == [0, 63, 127, 254, 255]

    def test_values_outside_are_clamped_not_wrapped(self):
        assert to_uint8(np.array([-3.0, 1.01, 7.0]), (-1, 1)).tolist() == [0, 255, 255]

    def test_window_is_the_stored_range_or_that_of_the_scan(self):
        assert intensity_window(np.array([-0.2, 0.7])) == (-1, 1)
        assert intensity_window(np.array([-1000, 2000])) == (-1000, 2000)

    @pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
    def test_window_is_the_range_that_the_scan_was_prepared_to(self, rng, ends):
        fixed, moving = smooth(rng, (24, 24, 3)), smooth(rng, (24, 24, 3))
        case = Case("p1", Volume(fixed), Volume(moving), record={"steps": []})
        context = StepContext("toy", "mr", "ct")
        steps = [{"name": "minmax", "function": "minmax", "parameters": {"range": list(ends)}}]
        case = apply_steps(case, steps, context)
        pair = Pair(dataclasses.replace(case, true_image=case.moving), case.moving.data * 0.9 + 0.05 * sum(ends))
        assert pair.moving_window == pair.fixed_window == ends
        assert (pair.reference_u8.min(), pair.reference_u8.max()) == (0, 255)
        scale = ends[1] - ends[0]
        nmae, psnr = measure_nmae(pair, "slice"), measure_psnr(pair, "stored", "slice")
        errors = np.abs(pair.image.astype(float) - pair.true_image)[:, :, 0] / scale
        assert nmae[0].value == pytest.approx(errors.mean(), rel=1e-5)
        assert psnr[0].value == pytest.approx(-10 * np.log10((errors**2).mean()), rel=1e-5)

    def test_a_later_step_without_a_range_ends_it(self):
        onto = {"function": "minmax", "parameters": {"range": [0, 1]}, "outcome": {"fixed": {}, "moving": {}}}
        score = {"function": "zscore", "parameters": {}, "outcome": {"moving": {}}}
        record = {"steps": [onto, score, {"function": "reorient", "parameters": {}, "outcome": None}]}
        assert prepared_range(record, "fixed") == (0, 1)
        assert prepared_range(record, "moving") is None
        assert prepared_range({}, "fixed") is None

    def test_an_image_on_another_grid_is_refused(self, rng):
        with pytest.raises(DataError, match="case p1 has shape"):
            pair_of(smooth(rng, (8, 8, 2)), fixed=smooth(rng, (8, 8, 3)))


class TestGradientCorrelation:
    def edge_gradient(self, edges):
        """Sobel magnitude written out: 3 x 3 kernels over an array whose border is mirrored without repeating."""
        padded = np.pad(edges.astype(float), 1, mode="reflect")
        kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
        out = np.zeros((2, *edges.shape))
        for i in range(edges.shape[0]):
            for j in range(edges.shape[1]):
                window = padded[i : i + 3, j : j + 3]
                out[:, i, j] = (window * kernel).sum(), (window * kernel.T).sum()
        return np.hypot(*out)

    def test_recomputed_by_hand_on_two_squares(self):
        a, b = np.zeros((2, 24, 24), dtype=np.uint8)
        a[6:18, 6:18] = 255
        b[8:20, 5:17] = 255
        import cv2

        edges = [cv2.Canny(x, 100, 200) for x in (a, b)]
        assert all(set(np.unique(e)) == {0, 255} for e in edges)
        expected = np.corrcoef(*[self.edge_gradient(e).ravel() for e in edges])[0, 1]
        assert gradient_correlation(a, b, (100, 200), (100, 200)) == pytest.approx(expected, abs=1e-12)

    def test_one_for_the_same_edges_in_another_contrast(self):
        a = np.full((32, 32), 10, dtype=np.uint8)
        a[8:24, 8:24] = 250
        inverted = 255 - a
        assert gradient_correlation(a, inverted, (100, 200), (100, 200)) == pytest.approx(1)

    def test_falls_with_misalignment(self):
        a = np.zeros((64, 64), dtype=np.uint8)
        a[16:48, 16:48] = 255
        shifted = [gradient_correlation(a, np.roll(a, k, 0), (100, 200), (100, 200)) for k in (0, 1, 4)]
        assert shifted[0] > shifted[1] > shifted[2]

    def test_undefined_without_edges(self):
        a = np.zeros((16, 16), dtype=np.uint8)
        a[4:12, 4:12] = 255
        assert np.isnan(gradient_correlation(a, np.zeros_like(a), (100, 200), (100, 200)))

    def test_thresholds_follow_the_modality(self):
        image = np.full((32, 32, 1), -1, dtype=np.float32)
        image[8:24, 8:24] = -0.8  # a step of 25 grey levels: an edge for (30, 50), none for (170, 190)
        strong = np.where(image > -1, 1, -1).astype(np.float32)
        assert numbers(measure_gc(pair_of(image, strong), "by_modality", "slice")) == pytest.approx([1])
        assert np.isnan(
            numbers(measure_gc(pair_of(image, strong, modalities=("t1", "t2")), "by_modality", "slice"))
        ).all()
        own = {"fixed": [30, 50], "image": [30, 50]}
        assert numbers(measure_gc(pair_of(image, strong, modalities=("t1", "t2")), own, "slice")) == pytest.approx([1])

    def test_mask_takes_background_out(self, rng):
        fixed, image = smooth(rng, sigma=1.2), smooth(rng, sigma=1.2)
        mask = np.zeros(fixed.shape, dtype=bool)
        mask[10:30, 10:30] = True
        fixed, image = np.where(mask, fixed, -1), np.where(mask, image, -1)
        whole = numbers(measure_gc(pair_of(image, fixed, mask=mask), "by_modality", "slice"))
        inside = numbers(measure_gc(pair_of(image, fixed, mask=mask), "by_modality", "mask"))
        assert np.mean(inside) < np.mean(whole) - 0.1

    def test_bad_thresholds(self, rng):
        with pytest.raises(ConfigError, match=r"write by_modality, or \{fixed"):
            measure_gc(pair_of(smooth(rng)), [170, 190], "slice")


class TestNormalizedMutualInformation:
    def test_agrees_with_torchmetrics(self, rng):
        torchmetrics = pytest.importorskip("torchmetrics.functional.clustering")
        import torch

        a = to_uint8(smooth(rng), (-1, 1))[:, :, 0]
        b = (a // 2 + rng.integers(0, 8, a.shape)).astype(np.uint8)
        flat = [torch.from_numpy(x.astype(int).ravel()) for x in (a, b)]
        expected = float(torchmetrics.normalized_mutual_info_score(*flat, average_method="arithmetic"))
        assert normalized_mutual_information(a, b) == pytest.approx(expected, abs=1e-5)

    def test_one_for_a_relabelling_zero_for_independence(self):
        a = np.repeat(np.arange(4, dtype=np.uint8), 4)
        assert normalized_mutual_information(a, 255 - 7 * a) == pytest.approx(1)
        assert normalized_mutual_information(a, np.tile(np.arange(4, dtype=np.uint8), 4)) == pytest.approx(0, abs=1e-12)

    def test_one_bit_shared_of_two(self):
        # H(a) = 2 bits, H(b) = 1 bit, b = a // 2, so I = 1 bit and NMI = 2 / 3.
        a = np.repeat(np.arange(4, dtype=np.uint8), 8)
        assert normalized_mutual_information(a, a // 2) == pytest.approx(2 / 3)

    def test_constant_images(self, rng):
        blank = np.full((8, 8), 3, dtype=np.uint8)
        assert np.isnan(normalized_mutual_information(blank, blank))
        assert normalized_mutual_information(blank, np.arange(64, dtype=np.uint8).reshape(8, 8)) == 0

    def test_shared_background_raises_it(self, rng):
        fixed, image = smooth(rng), smooth(rng)
        mask = np.zeros(fixed.shape, dtype=bool)
        mask[12:36, 10:30] = True
        pair = pair_of(np.where(mask, image, -1), np.where(mask, fixed, -1), mask=mask)
        padded = np.pad(pair.image, ((20, 20), (20, 20), (0, 0)), constant_values=-1)
        more = pair_of(padded, np.pad(pair.case.fixed.data, ((20, 20), (20, 20), (0, 0)), constant_values=-1))
        assert np.mean(numbers(measure_nmi(more, "slice"))) > np.mean(numbers(measure_nmi(pair, "slice")))
        with_mask = pair_of(padded, more.case.fixed.data, mask=np.pad(mask, ((20, 20), (20, 20), (0, 0))))
        assert numbers(measure_nmi(with_mask, "mask")) == pytest.approx(numbers(measure_nmi(pair, "mask")))


class TestTexture:
    def test_sharpness_is_the_variance_of_the_laplacian(self, rng):
        image = rng.integers(0, 255, (20, 30)).astype(np.uint8)
        expected = ndi.laplace(image.astype(float), mode="mirror").var()
        assert sharpness(image) == pytest.approx(expected, rel=1e-6)

    def test_blur_lowers_sharpness(self, rng):
        image = rng.integers(0, 255, (40, 40)).astype(np.uint8)
        assert sharpness(ndi.gaussian_filter(image, 1)) < sharpness(image) / 10

    def test_tv_z_by_its_formula(self):
        volume = np.zeros((10, 10, 3), dtype=np.uint8)
        volume[2:8, 2:8] = [100, 200, 150]
        low, high = np.percentile(volume, [1, 99])
        assert (low, high) == (0, 200)
        # Foreground is where any tissue is; 36 voxels change by 100 / 200, then by 50 / 200.
        assert tv_z(volume).tolist() == pytest.approx([0.5, 0.25])

    def test_tv_z_counts_the_foreground_of_the_later_slice(self):
        volume = np.zeros((10, 10, 3), dtype=np.uint8)
        volume[2:8, 2:8, 0] = 200
        volume[2:8, 2:5, 1] = 200
        values = tv_z(volume)
        assert values[0] == 0  # what vanished lies outside the mask of slice 1
        assert np.isnan(values[1])  # slice 2 has no foreground

    def test_tv_z_of_a_constant_volume_is_undefined(self):
        assert np.isnan(numbers(measure_tv_z(pair_of(np.zeros((6, 6, 3), dtype=np.float32))))).all()

    def test_otsu_agrees_with_scikit_image(self, rng):
        from skimage.filters import threshold_otsu

        values = np.concatenate([rng.normal(0.2, 0.05, 500), rng.normal(0.7, 0.1, 300)])
        assert otsu_threshold(values) == pytest.approx(threshold_otsu(values, nbins=256))
