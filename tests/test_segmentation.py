"""Structures found in aligned images: the segmenter learns, the measures are right, and what is missing is said."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from modalign.cases import Case, CaseStore
from modalign.errors import ConfigError, DataError
from modalign.metrics.pair import Pair
from modalign.metrics.segmented import measure_dice, measure_hausdorff
from modalign.segmentation import parse_options, segment_cases, totalsegmentator
from modalign.volumes import Volume, read_volume, write_volume

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
NAMES = {1: "bladder", 2: "rectum"}


def _pair(true, found):
    image = Volume(np.zeros(true.shape, np.float32), AFFINE)
    case = Case("a", image, image, fixed_labels=Volume(true, AFFINE))
    return Pair(case, image.data, structures=NAMES, segmented=found)


def test_scores_of_a_box_that_is_found_one_voxel_off():
    true, found = np.zeros((12, 12, 4), np.uint8), np.zeros((12, 12, 4), np.uint8)
    true[2:6, 2:6, 1:3] = 1
    found[3:7, 2:6, 1:3] = 1
    pair = _pair(true, found)
    (dice, absent), (distance, _) = measure_dice(pair), measure_hausdorff(pair, "diagonal")
    assert dice.structure == "bladder"
    assert dice.value == pytest.approx(0.75)
    assert distance.value == pytest.approx(2.0)
    assert np.isnan(absent.value)


def test_a_structure_that_is_not_found_scores_worst():
    true = np.zeros((6, 6, 2), np.uint8)
    true[2:4, 2:4] = 1
    pair = _pair(true, np.zeros_like(true))
    assert measure_dice(pair)[0].value == 0
    assert measure_hausdorff(pair, "diagonal")[0].value == pytest.approx(np.linalg.norm([6 * 2, 6 * 2, 2 * 3]))
    assert np.isnan(measure_hausdorff(pair, "drop")[0].value)


def test_a_plate_of_one_voxel_has_a_surface_on_both_sides():
    """By hand: from the middle of what is found, the nearest surface of what isn't lies two voxels off within it."""
    true = np.zeros((20, 20, 10), np.uint8)
    true[4:15, 4:15, 5] = 1
    found = true.copy()
    found[7:12, 7:12, 5] = 0
    image = Volume(np.zeros(true.shape, np.float32), np.eye(4))
    case = Case("a", image, image, fixed_labels=image.like(true))
    pair = Pair(case, image.data, structures=NAMES, segmented=found)
    assert measure_hausdorff(pair, "diagonal")[0].value == pytest.approx(3.0)


def test_without_a_segmentation_there_is_nothing_to_measure():
    true = np.ones((4, 4, 2), np.uint8)
    assert "segmentation" not in _pair(true, None).has
    assert "segmentation" in _pair(true, true).has


@pytest.fixture
def store(tmp_path):
    """Six training slices stacks and one test case: a bright disc and a dark square at random places."""
    rng, entries = np.random.default_rng(0), []
    x, y = np.mgrid[:32, :32]
    for number in range(5):
        labels = np.zeros((32, 32, 4), np.uint8)
        for z in range(4):
            cx, cy, sx, sy = rng.integers(8, 24, size=4)
            labels[sx - 4 : sx + 4, sy - 4 : sy + 4, z] = 2
            labels[..., z][(x - cx) ** 2 + (y - cy) ** 2 < 30] = 1
        image = np.select([labels == 1, labels == 2], [0.8, -0.6], 0.0) + rng.normal(0, 0.05, labels.shape)
        folder, split = tmp_path / f"case{number}", "test" if number == 4 else "train"
        for part in ("fixed", "moving"):
            write_volume(folder / f"{part}.nii.gz", Volume(image.astype(np.float32), AFFINE))
            write_volume(folder / f"{part}_labels.nii.gz", Volume(labels, AFFINE))
        intensity = {"scale": 1000.0, "offset": 0.0, "unit": "HU"}
        record = {"case": f"case{number}", "dataset": "discs", "split": split}
        record |= {"fixed_intensity": intensity, "moving_intensity": intensity}
        (folder / "case.json").write_text(json.dumps(record))
        entries.append({"case": f"case{number}", "split": split})
    labels_of = {str(value): name for value, name in NAMES.items()}
    manifest = {"dataset": "discs", "labels": labels_of, "cases": entries}
    (tmp_path / "cases.json").write_text(json.dumps(manifest))
    return CaseStore(tmp_path)


def test_the_small_segmenter_learns_and_writes_what_the_measures_read(store, tmp_path):
    from modalign.segmentation import unet

    options = parse_options({"steps": 100, "channels": 6})
    unet.train(store, tmp_path / "model", options, seed=0, device="cpu", threads=1)
    segment = unet.load(tmp_path / "model", device="cpu", threads=1)
    segment_cases(store, store.folder, tmp_path / "out", _as_aligned(store, segment), "small", ["case4"])
    found = read_volume(tmp_path / "out" / "case4" / "labels.nii.gz").data
    case = store.load("case4")
    pair = Pair(case, case.moving.data, structures=NAMES, segmented=found)
    assert min(value.value for value in measure_dice(pair)) > 0.8
    assert json.loads((tmp_path / "out" / "segmented.json").read_text())["segmenter"] == "small"


def _as_aligned(store, segment):
    for case in store.ids(["test"]):
        write_volume(store.folder / case / "image.nii.gz", store.load(case).moving)
    return segment


def test_islands_are_dropped_and_second_halves_kept():
    from modalign.segmentation.unet import without_islands

    labels = np.zeros((20, 12, 6), np.uint8)
    labels[2:6, 2:6, 1:5] = labels[12:16, 2:6, 1:3] = 5
    labels[18, 10, 5] = 5
    labels[9, 9, 3] = 2
    kept = without_islands(labels, 0.1)
    expected = labels.copy()
    expected[18, 10, 5] = 0
    assert (kept == expected).all()
    assert (without_islands(labels, 0) == labels).all()


def test_half_of_the_slices_to_learn_from_are_smoothed(store):
    from modalign.segmentation import unet

    plain, smoothed = unet.LabelledSlices(store, 32, 0), unet.LabelledSlices(store, 32, 0, blur_voxels=1.5)
    before, after = plain.batch(3), smoothed.batch(3)
    changed = [not torch.equal(a, b) for a, b in zip(before["image"], after["image"], strict=True)]
    assert 8 <= sum(changed) <= 24


def test_training_without_contours_says_what_is_missing(store):
    from modalign.segmentation import unet

    (store.folder / "case0" / "moving_labels.nii.gz").unlink()
    with pytest.raises(DataError, match="case case0 has no labels of the moving scan"):
        unet.LabelledSlices(store, 2, 0)


def test_unknown_options_are_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"segmentation: stepps is 3.*the options are: kind, steps"):
        parse_options({"stepps": 3})


def test_an_absent_totalsegmentator_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="install the package TotalSegmentator, or set kind: small"):
        totalsegmentator.load(NAMES, device="cpu")


def test_totalsegmentator_s_parts_become_our_labels(monkeypatch, tmp_path):
    """A stand-in program that writes the masks that the real one would: the real one needs weights."""
    program = tmp_path / "TotalSegmentator"
    program.write_text(
        "#!/usr/bin/env python3\n"
        "import sys, nibabel as nib, numpy as np, pathlib\n"
        "a = sys.argv\n"
        "scan, out = nib.load(a[a.index('-i') + 1]), pathlib.Path(a[a.index('-o') + 1])\n"
        "out.mkdir()\n"
        "for part in a[a.index('--roi_subset') + 1:]:\n"
        "    mask = (scan.get_fdata() > 100).astype(np.uint8)\n"
        "    nib.save(nib.Nifti1Image(mask, scan.affine), out / f'{part}.nii.gz')\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    segment = totalsegmentator.load(NAMES, device="cpu")
    stored = np.zeros((4, 4, 2), np.float32)
    stored[1, 1] = 0.5
    labels = segment(Volume(stored, AFFINE), stored * 1000)
    assert labels[1, 1].tolist() == [1, 1]
    assert labels.sum() == 2


def test_bones_in_relief_are_lit_from_the_front_left_and_above():
    from modalign.report.figures_segmentation import relief

    x, y, z = np.mgrid[:31, :31, :31] - 15
    ball = x**2 + y**2 + z**2 < 12**2
    picture = relief(ball, np.ones(3))
    assert picture[0, 0] == 0
    assert picture[15, 15] > 0.25
    # RAS: the patient's left is at low x, above is high z.
    assert picture[9, 15] > picture[21, 15] + 0.1
    assert picture[15, 21] > picture[15, 9] + 0.1
    behind = ball & (y < 0)
    assert relief(behind, np.ones(3))[15, 15] > 0.25
