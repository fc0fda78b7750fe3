"""Random misalignment in training: the same distribution as the preparation's, in the right units and directions."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from ellipsoid_pairs import ONE_CONTRAST, phantom_case, write_store
from scipy.spatial.transform import Rotation

from modalign.errors import ConfigError
from modalign.methods.base import Context
from modalign.methods.voxelmorph import VoxelMorph
from modalign.training.misalignment import misaligned, misalignment
from modalign.training.options import Misalignment

STILL = {"rotation_deg": 0.0, "translation_half_fov": (0.0, 0.0, 0.0), "scale": 0.0, "alpha_voxels": 0.0}


def field_of(shape, spacing=(1.0, 1.0, 1.0), batch=1, seed=0, **settings):
    images = torch.zeros(batch, 1, *shape)
    return misalignment(images, Misalignment(**STILL | settings), spacing, seed, "test").numpy()


def test_nothing_asked_for_moves_nothing():
    assert not field_of((8, 9, 5)).any()


def test_shifts_are_shares_of_half_the_field_of_view():
    fields = field_of((40, 20, 10), batch=200, translation_half_fov=(0.5, 0.1, 0.0))
    assert np.ptp(fields, axis=(2, 3, 4)).max() < 1e-6
    shifts = np.abs(fields[:, :, 0, 0, 0])
    assert shifts.max(0) == pytest.approx([10, 1, 0], rel=0.05)
    assert shifts.mean(0) == pytest.approx([5, 0.5, 0], rel=0.15)


def test_rotation_and_scaling_keep_shapes_in_mm():
    """Thick slices: in voxels the map is no rotation, in mm it is one, about the centre of the image."""
    shape, spacing = (20, 16, 6), np.array([2.0, 2.0, 5.0])
    field = field_of(shape, spacing, rotation_deg=30.0, scale=0.2)[0]
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).reshape(3, -1)
    from_centre = (voxels - (np.array(shape)[:, None] - 1) / 2) * spacing[:, None]
    moved = from_centre + field.reshape(3, -1) * spacing[:, None]
    matrix = moved @ np.linalg.pinv(from_centre)
    np.testing.assert_allclose(matrix @ from_centre, moved, atol=1e-4)
    factor = np.cbrt(np.linalg.det(matrix))
    assert 0.8 <= factor <= 1.2
    np.testing.assert_allclose(matrix @ matrix.T, factor**2 * np.eye(3), atol=1e-5)
    angles = Rotation.from_matrix(matrix / factor).as_euler("xyz", degrees=True)
    assert (np.abs(angles) <= 30).all()
    assert (np.abs(angles) > 0.1).all()


def test_slices_turn_in_their_plane():
    field = field_of((12, 12), rotation_deg=20.0)[0]
    corner, opposite = field[:, 0, 0], field[:, -1, -1]
    np.testing.assert_allclose(corner, -opposite, atol=1e-5)
    assert np.linalg.norm(corner) > 0.1


def test_the_elastic_part_is_smoothed_noise(monkeypatch):
    noise = np.random.default_rng(0).uniform(-1, 1, (1, 3, 24, 20, 8))

    class Known:
        def uniform(self, low, high, shape):
            return noise if len(shape) == 5 else np.zeros(shape)

    monkeypatch.setattr("modalign.training.misalignment.generator", lambda *words: Known())
    field = field_of((24, 20, 8), sigma_voxels=3.0, alpha_voxels=10.0)[0]
    for axis in range(3):
        expected = 10 * ndi.gaussian_filter(noise[0, axis], 3.0, mode="constant")
        np.testing.assert_allclose(field[axis], expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(200, 160), (40, 36, 20)])
def test_mixed_precision_moves_nothing(shape):
    settings = {"rotation_deg": 5.0, "translation_half_fov": (0.1, 0.1, 0.1), "scale": 0.1, "alpha_voxels": 80.0}
    expected = field_of(shape, **settings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(field_of(shape, **settings), expected)


def test_a_nominal_size_keeps_displacements_in_shares_of_the_width():
    elastic = {"sigma_voxels": 12.0, "alpha_voxels": 80.0}
    inner = (slice(None), slice(None), slice(20, -20, 5), slice(20, -20, 5))
    whole = field_of((120, 120), batch=20, **elastic)[inner].std() / 120
    half = field_of((60, 60), batch=60, nominal_size=(120, 120), **elastic)[:, :, 10:-10:3, 10:-10:3].std() / 60
    assert half == pytest.approx(whole, rel=0.1)


def test_both_images_move_each_by_itself_and_the_mask_with_the_fixed_one():
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    settings = Misalignment(alpha_voxels=0)
    moving, fixed, mask = misaligned(images, images, (images > 0.5).float(), settings, (1.0, 1.0, 1.0), 0, "step 1")
    assert not torch.equal(moving, fixed)
    assert not torch.equal(fixed, images)
    assert (((fixed > 0.5) == (mask > 0)).float().mean()) > 0.75
    alone = misaligned(images, images, None, Misalignment(of="moving"), (1.0, 1.0, 1.0), 0, "step 1")
    assert torch.equal(alone[1], images)
    assert alone[2] is None
    again = misaligned(images, images, None, settings, (1.0, 1.0, 1.0), 0, "step 1")
    assert torch.equal(again[0], moving)
    assert not torch.equal(misaligned(images, images, None, settings, (1.0, 1.0, 1.0), 0, "step 2")[0], moving)


def test_the_published_settings_of_imse_deform_training_pairs():
    for preset, dimension in (("imse2d", 2), ("imse3d", 3), ("imse3d-pure", 3)):
        assert VoxelMorph({"preset": preset, "similarity": "mi"}, dimension).options.misalign == Misalignment()
    assert VoxelMorph({"preset": "imse2d", "misalign": None}, 2).options.misalign is None
    with pytest.raises(ConfigError, match=r"misalign\.degrees"):
        VoxelMorph({"preset": "small", "misalign": {"degrees": 3}}, 2)


def test_registered_pairs_teach_how_to_shift_once_they_are_shifted(tmp_path):
    """Pairs that lie on each other already teach nothing; deformed anew in every step, they do."""
    cases = [phantom_case(seed, (24, 24), 1e-6, 5.0, slices=6, contrasts=ONE_CONTRAST) for seed in range(2)]
    store = write_store(tmp_path, {"train": cases[:1]})
    shifted = replace(cases[1], moving=cases[1].moving.like(np.roll(cases[1].moving.data, 2, axis=0)))
    left = []
    for number, misalign in enumerate(
        (None, {"of": "moving", "translation_half_fov": (0.2, 0.2, 0), "alpha_voxels": 0})
    ):
        options = {"preset": "small", "steps": 40, "deform_voxels": 0, "similarity": "ncc", "misalign": misalign}
        method = VoxelMorph(options, 2, Context(model=tmp_path / str(number)))
        method.train(store)
        body = shifted.fixed.data > 0.1
        left.append(np.abs(method.align(shifted).field[0] - 2)[body].mean())
    assert left[0] > 1.5
    assert left[1] < 1
