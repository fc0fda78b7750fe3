"""ConvexAdam: the port agrees with the package, and goes where the package can't."""

from functools import cache

import numpy as np
import pytest
import scipy.ndimage as ndi
from classical_methods import make, slice_pair
from registration_pairs import contrast_pair, mean_error

from modalign.errors import ConfigError
from modalign.volumes import axis_aligned


@cache
def bent_small():
    return contrast_pair(axis_aligned((36, 30, 33), (1, 1, 1)), largest_voxels=5)


def test_the_port_of_convexadam_agrees_with_the_package():
    pytest.importorskip("convexAdam")
    from modalign.methods._convexadam import convex_adam
    from modalign.methods.convexadam import by_package

    case, body = bent_small()
    pair = case.fixed.data, case.moving.data
    settings = {"grid_spacing": 4, "search_radius": 3}
    # One evaluation of Adam changes nothing yet: descriptors, search, coupling and consistency must be the same.
    released, ours = (f(*pair, iterations=1, **settings) for f in (by_package, _as_released(convex_adam)))
    np.testing.assert_allclose(ours, released, atol=1e-4)
    assert np.abs(released).max() > 0.3
    # Adam's steps are as long as a cell whatever the gradient, and rounding shows; the outcome must not.
    released, ours, free = (f(*pair, **settings) for f in (by_package, _as_released(convex_adam), convex_adam))
    assert np.median(np.linalg.norm(ours - released, axis=0)) < 0.1
    errors = [mean_error(f, case.true_field, body) for f in (released, ours, free)]
    assert errors[1] == pytest.approx(errors[0], rel=0.1)
    assert errors[2] < 1.05 * errors[0]


def _as_released(function):
    return lambda *pair, **settings: function(*pair, as_released=True, **settings)


def test_convexadam_is_free_at_the_border_and_exact_for_a_shift(rng):
    from modalign.methods._convexadam import convex_adam

    texture = ndi.gaussian_filter(rng.normal(size=(60, 50)), 1.5)
    fixed, moving = texture[4:52, 2:42], texture[2:50, 4:44]
    field = convex_adam(fixed, moving)
    np.testing.assert_allclose(field[0, 6:-6, 6:-6], 2, atol=0.35)
    np.testing.assert_allclose(field[1, 6:-6, 6:-6], -2, atol=0.35)


def test_convexadam_has_no_package_in_2d():
    with pytest.raises(ConfigError, match="implementation: auto or own"):
        make("convexadam", {"implementation": "package"}, 2).align(slice_pair()[0])
