"""SyN: the presets, and the options of their steps."""

import re
from dataclasses import replace

import numpy as np
import pytest
from classical_methods import make, volume_pair
from registration_pairs import blind, contrast_pair

from modalign.errors import ConfigError, ModalignError
from modalign.volumes import axis_aligned


def test_the_cao_preset_is_the_library_default_bit_for_bit(monkeypatch):
    import ants

    import modalign.methods.syn as module
    from modalign.spatial.ants import _read_field, to_ants

    case, _ = contrast_pair(axis_aligned((36, 34, 32), (1, 1.2, 1.5)))
    case = replace(case, fixed=case.fixed.like(abs(case.fixed.data)), moving=case.moving.like(abs(case.moving.data)))
    monkeypatch.setattr(module, "derive_seed", lambda *words: 12345)
    ours = make("syn", {"preset": "cao"}).align(blind(case)).field
    monkeypatch.setattr(ants.config, "_random_seed", 12345)
    fixed, moving = (to_ants(v, 3) for v in (case.fixed, case.moving))
    found = ants.registration(fixed, moving, "SyN")
    path = ants.apply_transforms(fixed, moving, found["fwdtransforms"], compose=found["fwdtransforms"][0] + "-whole")
    np.testing.assert_array_equal(ours, _read_field(path, case.grid, 3))


def test_negative_intensities_are_no_masses():
    # As recipes' images in [-1, 1] may have them: centres of mass would lie anywhere.
    case, _ = volume_pair()
    fixed, moving = (v.like(np.round(32 * (v.data - v.data.min())) / 32) for v in (case.fixed, case.moving))
    found = [
        make("syn", {"preset": "cao", "iterations": (5, 0, 0)}).align(blind(replace(case, fixed=f, moving=m))).field
        for f, m in ((fixed, moving), (fixed.like(fixed.data - 8), moving.like(moving.data - 8)))
    ]
    np.testing.assert_array_equal(*found)


def test_other_threads_than_ants_runs_with_get_a_process_of_their_own(monkeypatch):
    import modalign.spatial.ants as module

    case, _ = volume_pair()
    quick = {"preset": "rbg", "iterations": (2, 0, 0), "linear_iterations": (5, 5, 0, 0)}
    here = make("syn", quick).align(blind(case)).field
    monkeypatch.setattr(module, "_running", {"threads": 2})
    np.testing.assert_array_equal(make("syn", quick).align(blind(case)).field, here)
    with pytest.raises(ModalignError, match=r"antsRegistration failed \(exit status [1-9]"):
        module.ants_registration({"FIXED": case.fixed, "MOVING": case.moving}, ["--transform", "None[1]"], 3, seed=0)


def test_every_step_of_syn_is_an_option():
    case, _ = contrast_pair(axis_aligned((24, 24, 20), (1, 1, 1)), largest_voxels=1)
    quick = {"preset": "locor", "iterations": (1, 1, 1, 1), "linear_iterations": (1, 1, 1, 1)}

    def arguments(**options):
        return make("syn", {**quick, **options}).align(blind(case)).notes["arguments"]

    assert re.findall(r"Rigid\S+|Affine\S+|SyN\S+", arguments()) == ["Rigid[0.1]", "Affine[0.1]", "SyN[0.1,3.0,0.0]"]
    chosen = arguments(rigid_step=0.7, affine_step=1.5, step=0.4)
    assert re.findall(r"Rigid\S+|Affine\S+|SyN\S+", chosen) == ["Rigid[0.7]", "Affine[1.5]", "SyN[0.4,3.0,0.0]"]
    with pytest.raises(ConfigError, match="preset rbg has no rigid transform: leave rigid_step out"):
        make("syn", {"rigid_step": 0.5})
