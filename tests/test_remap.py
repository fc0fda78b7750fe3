"""Random changes of intensities: exact, in range, the same for one seed, and of the kind that they claim to be."""

import numpy as np
import pytest
import torch

from modalign.training.remap import bezier_remap, extra_changes, remapped, shuffle_remap


def algorithm_1(x, points, order):
    """IMSE's pseudocode, voxel by voxel, but for its upper end, which it forgets."""
    edges = [-1.0, *points, 1.0]
    new = np.zeros_like(x)
    for i in range(len(points) + 1):
        low, high = edges[i], edges[i + 1]
        goal_low, goal_high = edges[order[i]], edges[order[i] + 1]
        inside = (low <= x) & ((x < high) | (i == len(points)))
        new[inside] = (x[inside] - low) / (high - low) * (goal_high - goal_low) + goal_low
    return new


@pytest.mark.parametrize("count", [1, 2, 10, 50])
def test_shuffle_remap_is_the_papers_algorithm(rng, count):
    image = rng.uniform(-1, 1, (12, 10, 4))
    image.flat[:2] = -1, 1
    points, order = np.sort(rng.uniform(-1, 1, count)), rng.permutation(count + 1)
    ours = shuffle_remap(torch.from_numpy(image), points, order).numpy()
    np.testing.assert_allclose(ours, algorithm_1(image, points, order), atol=1e-9)


def test_shuffle_remap_with_segments_in_place_changes_nothing_and_the_top_stays_inside(rng):
    image = torch.from_numpy(np.append(rng.uniform(-1, 1, 50), [1.0, -1.0]))
    points = np.array([-0.5, 0.1, 0.1, 0.6])
    np.testing.assert_allclose(shuffle_remap(image, points, np.arange(5)), image, atol=1e-12)
    # The last segment goes first, so that the brightest voxel is where the first one ends; algorithm 1 says 0.
    assert shuffle_remap(image, points, np.array([1, 2, 3, 4, 0]))[-2] == pytest.approx(-0.5)


def test_a_bezier_curve_keeps_the_order_of_intensities_and_is_the_cubic():
    image = torch.linspace(-1, 1, 201)
    controls = np.array([[-0.8, 0.9], [0.2, 0.7]])
    mapped = bezier_remap(image, controls).numpy()
    assert (np.diff(mapped) > 0).all()
    assert mapped[[0, -1]] == pytest.approx([-1, 1])
    t = 0.3
    x, y = (-((1 - t) ** 3) + 3 * (1 - t) ** 2 * t * a + 3 * (1 - t) * t**2 * b + t**3 for a, b in controls)
    assert np.interp(x, image, mapped) == pytest.approx(y, abs=1e-3)
    straight = np.array([[-1 / 3, 1 / 3]] * 2)
    np.testing.assert_allclose(bezier_remap(image, straight), image, atol=1e-4)


@pytest.mark.parametrize("remap", ["shuffle", "bezier"])
@pytest.mark.parametrize("extras", [False, True])
def test_every_image_gets_a_mapping_of_its_own_that_the_seed_decides(rng, remap, extras):
    images = torch.from_numpy(rng.uniform(-1, 1, (1, 1, 12, 10)).astype(np.float32)).repeat(40, 1, 1, 1)

    def made(seed):
        return remapped(images, remap, (2, 50), extras, seed, "test").numpy()

    first = made(0)
    assert first.shape == images.shape
    assert np.abs(first).max() <= 1
    assert len(np.unique(first[:, 0, 0, 0])) > 30
    np.testing.assert_array_equal(first, made(0))
    assert (first != made(1)).mean() > 0.5


def test_the_number_of_control_points_stays_within_its_range():
    """A segment keeps neighbours together, so that breaks in a ramp count the segments."""
    ramp = torch.linspace(-1, 1, 4001)[None, None].repeat(300, 1, 1)
    mapped = remapped(ramp, "shuffle", (3, 6), False, 0, "test")[:, 0].numpy()
    slopes = np.diff(mapped, axis=1)
    assert (slopes < -1e-6).sum(axis=1).max() <= 6
    assert (np.abs(mapped - np.linspace(-1, 1, 4001)).max(axis=1) > 0.01).mean() > 0.9


def test_the_released_extras_negate_a_fifth_of_the_images():
    image = torch.linspace(-0.5, 1, 64).reshape(1, 8, 8)
    changed = [extra_changes(image, np.random.default_rng(seed)) for seed in range(300)]
    falling = np.mean([np.corrcoef(c.flatten(), image.flatten())[0, 1] < 0 for c in changed])
    same = np.mean([torch.equal(c, image) for c in changed])
    assert falling == pytest.approx(0.2, abs=0.06)
    assert same == pytest.approx(0.8**3 + 0.8**2 * 0.2 * 0.8**5, abs=0.1)
