"""What phantoms are made of: shapes against brute force, structures that overlap, and their rendering."""

import numpy as np
import pytest
import scipy.ndimage as ndi

from modalign.phantoms import shapes
from modalign.phantoms.anatomy import Anatomy, solid
from modalign.phantoms.lookup import look_up
from modalign.phantoms.motion import rigid_about
from modalign.phantoms.render import Texture, render, render_labels
from modalign.volumes import Grid, axis_aligned


def ball(radius: float = 20.0, centre: tuple[float, float, float] = (0, 0, 0)) -> Anatomy:
    return Anatomy((solid("ball", "muscle", shapes.ellipsoid(centre, (radius,) * 3), [centre], radius + 1),))


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


@pytest.mark.parametrize("shape", [(7, 5, 6), (1, 4, 3)])
def test_tables_are_looked_up_as_scipy_interpolates(shape):
    rng = np.random.default_rng(0)
    tables = rng.standard_normal((2, *shape)).astype(np.float32)
    positions = rng.uniform(-3, 9, (3, 40, 2))
    expected = [ndi.map_coordinates(table, positions, order=1, mode="nearest") for table in tables]
    np.testing.assert_allclose(look_up(tables, positions), expected, atol=1e-5)


def test_a_lattice_that_repeats_itself_goes_on_beyond_its_border():
    values = np.random.default_rng(0).standard_normal((4, 5, 6)).astype(np.float32)
    lattice = shapes.Lattice(values, np.array([1.0, -2.0, 3.0]), step=0.5, wrap=True)
    points = np.random.default_rng(1).uniform(-20, 20, (3, 100))
    positions = (points - lattice.origin[:, None]) / lattice.step
    expected = ndi.map_coordinates(values, positions, order=1, mode="grid-wrap")
    np.testing.assert_allclose(lattice(points), expected, atol=2e-5)
