"""Fréchet and kernel distances, and where features come from."""

import numpy as np
import pytest
import scipy.ndimage as ndi

from modalign.errors import ConfigError, DataError
from modalign.files import sha256
from modalign.metrics.distribution import frechet_distance, kernel_distance
from modalign.metrics.features import RANDOM_SCALE, FeatureSource


def discs(rng, n=12, size=48, sigma=0.0):
    """8-bit slices of bright discs."""
    y, x = np.mgrid[:size, :size]
    slices = np.zeros((n, size, size))
    for image in slices:
        for _ in range(5):
            a, b, r = [*rng.uniform(8, size - 8, 2).tolist(), rng.uniform(3, 10)]
            image[(x - a) ** 2 + (y - b) ** 2 < r**2] = rng.uniform(60, 250)
    if sigma:
        slices = ndi.gaussian_filter(slices, (0, sigma, sigma))
    return slices.astype(np.uint8)


class TestFrechetDistance:
    @pytest.mark.parametrize("n", [10, 200])
    def test_equal_covariance_leaves_the_squared_mean_difference(self, rng, n):
        a, shift = rng.normal(size=(n, 32)), rng.normal(size=32)
        assert frechet_distance(a, a + shift) == pytest.approx(shift @ shift, rel=1e-9)

    def test_gaussians_on_the_axes(self, rng):
        # Diagonal covariances s^2 and t^2: the trace terms become sum (s - t)^2.
        base = rng.normal(size=(400, 3))
        base -= base.mean(0)
        base = base @ np.linalg.inv(np.linalg.cholesky(np.cov(base.T))).T
        s, t = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.5, 1.0])
        assert frechet_distance(base * s, base * t) == pytest.approx(((s - t) ** 2).sum(), rel=1e-9)

    def test_agrees_with_pytorch_fid(self, rng):
        theirs = pytest.importorskip("pytorch_fid.fid_score").calculate_frechet_distance
        mix = rng.normal(size=(48, 48))
        a, b = rng.normal(size=(300, 48)) @ mix, rng.normal(size=(500, 48)) ** 2
        expected = theirs(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)

    def test_exact_where_covariances_are_singular(self, rng):
        a, b = rng.normal(size=(8, 30)), rng.normal(size=(9, 30)) + 0.3
        covariances = np.cov(a.T), np.cov(b.T)
        roots = np.sqrt(np.clip(np.linalg.eigvals(covariances[0] @ covariances[1]).real, 0, None)).sum()
        shift = a.mean(0) - b.mean(0)
        expected = shift @ shift + sum(map(np.trace, covariances)) - 2 * roots
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)

    def test_one_slice_is_not_enough(self, rng):
        assert np.isnan(frechet_distance(rng.normal(size=(1, 4)), rng.normal(size=(9, 4))))


class TestKernelDistance:
    def naive(self, x, y):
        def kernel(a, b):
            return (a @ b / len(a) + 1) ** 3

        n, m = len(x), len(y)
        xx = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
        yy = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
        xy = sum(kernel(a, b) for a in x for b in y) / (n * m)
        return xx + yy - 2 * xy

    def test_the_whole_set_by_loops_and_by_torchmetrics(self, rng):
        import torch
        from torchmetrics.image.kid import poly_mmd

        x, y = rng.normal(size=(12, 16)), rng.normal(size=(12, 16)) + 0.4
        mean, sd = kernel_distance(x, y, rng, subset_size=50)
        assert mean == pytest.approx(self.naive(x, y))
        assert mean == pytest.approx(float(poly_mmd(torch.from_numpy(x), torch.from_numpy(y))))
        assert sd == 0

    def test_subsets_scatter_around_it(self, rng):
        x, y = rng.normal(size=(40, 16)), rng.normal(size=(40, 16)) + 0.4
        whole, _ = kernel_distance(x, y, rng, subset_size=40)
        for size, subsets in ((2, 4000), (10, 1000)):
            mean, sd = kernel_distance(x, y, np.random.default_rng(1), subsets, size)
            assert abs(mean - whole) < 4 * sd / np.sqrt(subsets)
        noisy = [kernel_distance(x, y, np.random.default_rng(1), 100, size)[1] for size in (2, 10, 30)]
        assert noisy[0] > 2 * noisy[1] > 4 * noisy[2]

    def test_the_seed_decides(self, rng):
        x, y = rng.normal(size=(2, 30, 8))
        first, again, other = (kernel_distance(x, y, np.random.default_rng(s), 10, 2) for s in (1, 1, 2))
        assert first == again != other

    def test_a_subset_of_one_is_refused(self, rng):
        with pytest.raises(ConfigError, match="subset_size of 2 or more"):
            kernel_distance(rng.normal(size=(4, 4)), rng.normal(size=(4, 4)), rng, subset_size=1)


class TestInception:
    def test_is_the_network_of_pytorch_fid(self, rng, monkeypatch):
        import torch

        inception = pytest.importorskip("pytorch_fid.inception")
        ours = FeatureSource(image_size=299)
        weights = {k: v for k, v in ours._inception.state_dict().items() if not k.startswith("fc.")}
        weights |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
        monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: weights)
        slices = discs(rng, 2)
        rgb = torch.from_numpy(slices).float()[:, None].expand(-1, 3, -1, -1) / 255
        with torch.inference_mode():
            theirs = inception.InceptionV3().eval()(rgb)[0][:, :, 0, 0].numpy()
        assert theirs.std() > 1e-3
        np.testing.assert_allclose(ours.inception(slices), theirs * RANDOM_SCALE, rtol=1e-4, atol=1e-5)

    def test_random_features_depend_on_the_seed_alone(self, rng):
        import torch

        slices = discs(rng, 3)
        state = torch.get_rng_state()
        first = FeatureSource(image_size=75).inception(slices)
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(3)
        assert np.array_equal(FeatureSource(image_size=75).inception(slices), first)
        assert not np.allclose(FeatureSource(image_size=75, seed=1).inception(slices), first)

    def test_random_features_tell_blur_from_more_of_the_same(self, rng):
        source = FeatureSource(image_size=75)
        real, same, slight, strong = (source.inception(discs(rng, 16, sigma=s)) for s in (0, 0, 1, 2))
        for distance in (frechet_distance, lambda a, b: kernel_distance(a, b, rng)[0]):
            assert distance(real, same) < distance(real, slight) < distance(real, strong)

    def test_features_are_computed_once_and_kept(self, rng, tmp_path, monkeypatch):
        slices = discs(rng, 2)
        source = FeatureSource(image_size=75, cache=tmp_path / "features")
        first = source.inception(slices, keep=True)
        monkeypatch.setattr(FeatureSource, "_compute_inception", lambda *_: pytest.fail("computed again"))
        assert source.inception(slices) is first
        from_text = FeatureSource(image_size=75, cache=str(tmp_path / "features"))
        assert np.array_equal(from_text.inception(slices, keep=True), first)
        with pytest.raises(pytest.fail.Exception):
            FeatureSource(image_size=75, cache=tmp_path / "features", seed=3).inception(slices, True)


class TestPretrained:
    @pytest.fixture(scope="class")
    def inception_file(self, tmp_path_factory):
        import torch
        from torchvision.models import alexnet

        from modalign.metrics.features import _inception_network, _randomise

        folder = tmp_path_factory.mktemp("weights")
        network = _inception_network()
        _randomise(network, 5)
        torch.save(network.state_dict(), folder / "inception.pth")
        torch.save(alexnet(weights=None).state_dict(), folder / "alexnet.pth")
        return folder / "inception.pth"

    def test_a_file_with_the_right_digest_is_read(self, rng, inception_file):
        import torch

        digest = sha256(inception_file)
        source = FeatureSource("pretrained", {"inception": inception_file}, {"inception": digest})
        assert (source.suffix, source.size) == ("", 299)
        mine = source._inception.state_dict()
        theirs = torch.load(inception_file, weights_only=True)
        assert all(torch.equal(mine[k], theirs[k]) for k in mine)

    def test_another_file_is_refused(self, rng, inception_file):
        source = FeatureSource("pretrained", {"inception": inception_file})
        with pytest.raises(DataError, match=r"not 6726825d\.\.\.: fetch it again from https://github.com/mseitzer"):
            source.inception(discs(rng, 1))

    def test_no_file(self, rng, tmp_path):
        with pytest.raises(ConfigError, match="need the file of inception weights"):
            FeatureSource("pretrained").inception(discs(rng, 1))
        with pytest.raises(DataError, match=r"gone\.pth does not exist"):
            FeatureSource("pretrained", {"inception": tmp_path / "gone.pth"})._inception  # noqa: B018

    def test_alexnet_weights_reach_lpips(self, rng, inception_file):
        import lpips
        import torch

        path = inception_file.with_name("alexnet.pth")
        source = FeatureSource("pretrained", {"alexnet": path}, {"alexnet": sha256(path)})
        a, b = (2 * discs(rng, 2, 64).astype(np.float32) / 255 - 1 for _ in range(2))
        trunk = torch.load(path, weights_only=True)
        theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        layers = [layer for k in range(1, 6) for layer in getattr(theirs.net, f"slice{k}")]
        for number, layer in enumerate(layers):
            if hasattr(layer, "weight"):
                layer.weight.data, layer.bias.data = (trunk[f"features.{number}.{p}"] for p in ("weight", "bias"))
        rgb = [torch.from_numpy(x)[:, None].expand(-1, 3, -1, -1) for x in (a, b)]
        with torch.inference_mode():
            expected = theirs(*rgb).flatten().numpy()
        np.testing.assert_allclose(source.lpips(a, b, "alexnet"), expected, rtol=1e-5)


class TestLpips:
    def test_zero_for_equal_and_rising_with_blur(self, rng):
        source = FeatureSource()
        sharp = discs(rng, 3, 64).astype(np.float32) / 127.5 - 1
        blurred = [ndi.gaussian_filter(sharp, (0, s, s)) for s in (0, 0.7, 2)]
        values = [source.lpips(sharp, b, "alexnet").mean() for b in blurred]
        assert values[0] == pytest.approx(0, abs=1e-6)
        assert values[0] < values[1] < values[2]

    def test_unknown_net(self, rng):
        with pytest.raises(ConfigError, match="one of: alexnet, vgg16"):
            FeatureSource().lpips(np.zeros((1, 64, 64)), np.zeros((1, 64, 64)), "resnet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "trained"}, "write 'random' or 'pretrained'"),
        ({"kind": "pretrained", "image_size": 96}, "need image_size 299, not 96"),
        ({"image_size": 32}, "75 or more, not 32"),
        ({"files": {"resnet": "x"}}, "no network 'resnet' gives features"),
        ({"max_slices": 1}, "2 or more, not 1"),
    ],
)
def test_bad_sources(options, message):
    with pytest.raises(ConfigError, match=message):
        FeatureSource(**options)
