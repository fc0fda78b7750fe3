"""The bending energy of the instance optimiser: units, lattices coarser than voxels, what lies beyond the image."""

import numpy as np
import pytest
import torch

from modalign.instance.splines import centred_lattice
from modalign.instance.transform import bending_energy

DOUBLE = torch.empty(0, dtype=torch.float64)


def test_bending_energy_is_in_world_units():
    lattice = centred_lattice((20, 18, 16), (2.0, 2.0, 2.0))
    x, y, _ = lattice.points(DOUBLE)[0]
    spacing = (1.0, 2.0, 3.0)
    field = torch.stack([0.01 * x**2, 0.03 * x * y, 5 + 0.1 * x])[None]
    # In mm: u_x'' = 0.02 / 1 mm; u_y = 0.03 x y * 2 mm has a mixed derivative of 0.06 / (1 mm * 2 mm), which counts
    # twice; averaged over three components and nine derivatives.
    expected = (0.02**2 + 2 * (0.03 * 2 / 2) ** 2) / 3 / 9
    distance = [2 * s for s in spacing]
    in_mm = field * torch.tensor(spacing).reshape(1, 3, 1, 1, 1)
    assert float(bending_energy(in_mm, distance)) == pytest.approx(expected)
    assert float(bending_energy(x[None, None].expand(1, 3, *x.shape), distance)) < 1e-20


def test_bending_energy_on_a_coarse_lattice_is_that_from_voxel_to_voxel():
    """The published penalty takes differences on voxels, ours on points of half the control points' distance; the
    shortest waves of a spline with control points 4 voxels apart are 8 voxels long."""
    energies = []
    for step in (1.0, 2.0):
        points = np.stack(np.meshgrid(*[np.arange(0, 128, step)] * 2, indexing="ij"))
        waves = [np.sin(2 * np.pi * points[0] / 8), np.cos(2 * np.pi * (points[0] + points[1]) / 11)]
        field = torch.from_numpy(np.stack(waves))[None]
        energies.append(
            [float(bending_energy(field[:, [0]], [step] * 2)), float(bending_energy(field[:, [1]], [step] * 2))]
        )
        if step == 1:
            plain = [float(x.diff(2, 2).square().mean()) for x in (field[:, [0]], field[:, [1]])]
    assert energies[1][0] == pytest.approx(plain[0] / 4, rel=0.02)
    assert energies[1] == pytest.approx(energies[0], rel=0.12)


def test_bending_beyond_the_image_does_not_count():
    """Where a field bends as x^2 inside and goes on straight outside, its second derivative is 2."""
    points, margin = 41, 6
    x = (torch.arange(-margin, points + margin, dtype=torch.float64) - (points - 1) / 2) / 20
    bent = torch.where(x.abs() <= 1, x**2, 2 * x.abs() - 1)
    field = bent[:, None].expand(1, 1, len(x), 12)
    inside, everywhere = (float(bending_energy(field, [1 / 20, 1.0], m)) for m in (margin, 0))
    assert inside == pytest.approx(1, rel=0.05)
    assert everywhere < 0.9 * inside
