"""corrField, part by part: slow loops and other libraries."""

from itertools import product

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from scipy.interpolate import RBFInterpolator
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from modalign.corrfield.graph import Tree, min_convolution, min_marginals, spanning_tree
from modalign.corrfield.keypoints import distinctiveness, keypoints
from modalign.corrfield.matching import expected_displacement, patch_costs, search_radii
from modalign.corrfield.register import rescaled
from modalign.corrfield.spline import rigid_field, rigid_fit, thin_plate_field
from modalign.errors import ModalignError


@pytest.mark.parametrize("shape", [(14, 15), (12, 13, 11)])
def test_distinctiveness_is_one_over_the_trace_of_the_inverse_structure_tensor(rng, shape):
    image = ndi.gaussian_filter(rng.normal(size=shape), 1.0)
    slopes = [
        ndi.correlate1d(image, np.array([1, -8, 0, 8, -1]) / 12, axis, mode="nearest") for axis in range(len(shape))
    ]
    smooth = [[ndi.gaussian_filter(a * b, 1.4, mode="nearest", truncate=3) for b in slopes] for a in slopes]
    tensor = np.moveaxis(np.array(smooth), (0, 1), (-2, -1))
    expected = 1 / np.trace(np.linalg.inv(tensor), axis1=-2, axis2=-1)
    np.testing.assert_allclose(distinctiveness(image, 1.4), expected, rtol=1e-6)


def test_an_edge_is_not_distinctive_and_a_corner_is():
    image = np.zeros((40, 40))
    image[10:, 10:] = 1000
    measure = distinctiveness(image)
    assert measure[30, 10] < 1e-6 * measure[10, 10]
    found = keypoints(image)
    assert len(found) == 1
    assert np.abs(found[0] - 9.5).max() <= 1.5


def test_keypoints_stay_in_the_mask_apart_from_each_other_and_below_the_limit(rng):
    image = 1000 * ndi.gaussian_filter(rng.normal(size=(40, 44, 30)), 1.0)
    mask = np.zeros(image.shape, bool)
    mask[10:35, 8:40, 5:25] = True
    found = keypoints(image, mask, 5)
    assert len(found) > 30
    assert ndi.binary_erosion(mask)[tuple(found.T)].all()
    distances = np.abs(found[:, None] - found[None]).max(-1)
    assert distances[~np.eye(len(found), dtype=bool)].min() > 2
    few = keypoints(image, mask, 5, limit=20)
    assert 8 <= len(few) <= 20
    # Still all over the mask.
    assert (np.ptp(few, axis=0) > 0.5 * np.array([25, 32, 20])).all()


@pytest.mark.parametrize(("shape", "radii"), [((9, 11), (3, 2)), ((7, 8, 6), (2, 1, 2))])
@pytest.mark.parametrize(("step", "patch_radius"), [(1, 2), (2, 3), (2, 2)])
def test_patch_costs_agree_with_loops(rng, shape, radii, step, patch_radius):
    fixed, moving = rng.random((2, 4, *shape))
    points = np.stack([rng.integers(0, n, 5) for n in shape], axis=1)
    points[0] = 0
    ours = patch_costs(torch.from_numpy(fixed), torch.from_numpy(moving), points, radii, step, patch_radius)

    def at(image: np.ndarray, position: np.ndarray) -> np.ndarray:
        return image[(slice(None), *np.clip(position, 0, np.array(shape) - 1))]

    patch = list(product(range(-patch_radius, patch_radius + 1, step), repeat=len(shape)))
    labels = list(product(*[range(-r, r + 1) for r in radii]))
    for k, point in enumerate(points):
        expected = [
            np.mean([((at(fixed, point + o) - at(moving, point + o + step * np.array(d))) ** 2).sum() for o in patch])
            for d in labels
        ]
        np.testing.assert_allclose(ours[k].ravel(), expected, atol=1e-12)


def test_the_search_reaches_half_the_image_at_most():
    assert search_radii((100, 16, 3), 16, 2) == (16, 3, 1)


@pytest.mark.parametrize("stiffness", [0.003, 0.2, 5.0])
def test_min_convolution_agrees_with_all_pairs(rng, stiffness):
    costs = rng.random((2, 5, 4, 6))
    weights = np.array([stiffness, 3 * stiffness])
    labels = np.array(list(np.ndindex(5, 4, 6)))
    squared = ((labels[:, None] - labels[None]) ** 2).sum(-1)
    expected = (costs.reshape(2, 1, -1) + weights[:, None, None] * squared).min(-1).reshape(costs.shape)
    ours = min_convolution(torch.from_numpy(costs), torch.from_numpy(weights))
    np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_min_marginals_agree_with_trying_everything(rng):
    parent, length = np.array([0, 0, 0, 1, 1]), np.array([1.0, 2.0, 0.7, 5.0, 1.5])
    tree = Tree(parent, length, [np.array([0]), np.array([1, 2]), np.array([3, 4])])
    costs = rng.random((5, 2, 3))
    labels = np.array(list(np.ndindex(2, 3)))
    expected = np.full((5, 6), np.inf)
    for choice in product(range(6), repeat=5):
        d = labels[list(choice)]
        energy = costs.reshape(5, 6)[range(5), choice].sum() + (((d - d[parent]) ** 2).sum(1) / length)[1:].sum()
        for node, label in enumerate(choice):
            expected[node, label] = min(expected[node, label], energy)
    ours = min_marginals(torch.from_numpy(costs.copy()), tree).reshape(5, 6).numpy()
    np.testing.assert_allclose(ours - ours.min(1, keepdims=True), expected - expected.min(), atol=1e-12)


def test_the_spanning_tree_is_as_short_as_that_of_the_complete_graph(rng):
    points, intensities = rng.random((120, 3)) * 50, rng.random(120) * 1000
    tree = spanning_tree(points, intensities, beta=150, neighbours=2)
    complete = np.maximum(cdist(points, points), 0.1) + np.abs(intensities[:, None] - intensities) / 150
    assert tree.length[1:].sum() == pytest.approx(minimum_spanning_tree(np.triu(complete, 1)).sum(), rel=0.05)
    full = spanning_tree(points, intensities, beta=150, neighbours=119)
    assert full.length[1:].sum() == pytest.approx(minimum_spanning_tree(np.triu(complete, 1)).sum())
    np.testing.assert_allclose(full.length[1:], complete[np.arange(1, 120), full.parent[1:]])
    assert sorted(np.concatenate(full.levels)) == list(range(120))


def test_the_tree_joins_equal_tissues_before_neighbours():
    x = np.arange(12.0)
    points, intensities = np.stack([x, 0 * x], 1), np.where(x % 2, 1000.0, 0.0)
    alike = spanning_tree(points, intensities, beta=10)
    crossings = (intensities[alike.parent] != intensities).sum()
    assert crossings == 1
    assert (intensities[(blindly := spanning_tree(points, intensities, beta=1e6)).parent] != intensities).sum() == 11
    assert blindly.length[1:] == pytest.approx(1, abs=0.01)


def test_the_expected_displacement_of_one_clear_label():
    marginals = torch.ones(1, 5, 7)
    marginals[0, 3, 1] = 0
    np.testing.assert_allclose(expected_displacement(marginals, 2, 50.0), [[2.0, -4.0]], atol=1e-4)
    np.testing.assert_allclose(expected_displacement(torch.ones(1, 5, 7), 2, 5.0), [[0, 0]], atol=1e-5)


@pytest.mark.parametrize("shape", [(31, 40), (22, 25, 19)])
def test_thin_plate_spline_agrees_with_scipy(rng, shape):
    points = np.stack([rng.integers(0, n, 40) for n in shape], axis=1)
    points = np.unique(points, axis=0)
    displacements = rng.normal(size=points.shape)
    field = thin_plate_field(points, displacements, shape)
    coarse = np.meshgrid(*[np.linspace(0, n - 1, -(-n // 3)) for n in shape], indexing="ij")
    reference = RBFInterpolator(points, displacements, kernel="thin_plate_spline", degree=1)
    expected = reference(np.stack(coarse, -1).reshape(-1, len(shape))).T.reshape(-1, *coarse[0].shape)
    corners = (slice(None), *[slice(None, None, n - 1) for n in shape])
    few = (slice(None), *[slice(None, None, -(-n // 3) - 1) for n in shape])
    np.testing.assert_allclose(field[corners], expected[few], atol=1e-4)
    zoom = torch.nn.functional.interpolate(
        torch.from_numpy(expected)[None], shape, mode="bilinear" if len(shape) == 2 else "trilinear", align_corners=True
    )
    np.testing.assert_allclose(field, zoom[0], atol=1e-4)


def test_thin_plate_spline_continues_a_linear_field(rng):
    matrix, points = rng.normal(size=(3, 3)) * 0.1, rng.integers(5, 15, (30, 3))
    field = thin_plate_field(points, points @ matrix.T, (20, 21, 22))
    positions = np.stack(np.meshgrid(*map(np.arange, (20, 21, 22)), indexing="ij"))
    np.testing.assert_allclose(field, np.tensordot(matrix, positions, axes=1), atol=1e-4)
    with pytest.raises(ModalignError, match="in a line or plane don't determine a field"):
        thin_plate_field(points * [1, 1, 0], points * 0.1, (20, 21, 22))


def test_the_rigid_field_ignores_outliers(rng):
    rotation = Rotation.from_euler("xyz", [5, -8, 12], degrees=True)
    points = rng.random((60, 3)) * 40
    moved = np.array([2.0, -1.0, 3.0])
    targets = rotation.apply(points) + moved
    matrix, shift = rigid_fit(points, targets)
    np.testing.assert_allclose(matrix, rotation.as_matrix(), atol=1e-9)
    np.testing.assert_allclose(shift, moved, atol=1e-9)
    displacements = targets - points
    displacements[:20] += rng.normal(size=(20, 3)) * 15
    field = rigid_field(points, displacements, (40, 40, 40))
    corner = np.array([39.0, 0.0, 20.0])
    expected = rotation.apply(corner) + moved - corner
    np.testing.assert_allclose(field[:, 39, 0, 20], expected, atol=1e-5)


def test_rescaled_intensities_span_0_to_1000(rng):
    image = rng.normal(size=(20, 20, 20)) * 3 - 7
    image[0, 0, 0] = 1e6
    values = rescaled(image)
    assert values.min() == 0
    assert values.max() == 1000
    assert np.corrcoef(values[1:].ravel(), image[1:].ravel())[0, 1] > 0.999
    spot = np.zeros((20, 20, 20))
    spot[3, 3, 3] = 5
    assert rescaled(spot).max() == 1000
