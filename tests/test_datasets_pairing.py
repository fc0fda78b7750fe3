"""Registration within one contrast: pairs of different patients."""

import json

import numpy as np
import pytest
from archive_files import index, scan

from modalign.datasets.base import PHANTOM_FILE
from modalign.errors import DataError
from modalign.preprocess.context import StepContext
from modalign.preprocess.load import load_raw
from modalign.preprocess.steps import STEPS

SHAPE = (12, 8, 6)


def patient(folder, name, start, origin=None):
    """A T1 with a tumour of 3 x 3 x 3 voxels that begins at `start`; none if that is None."""
    folder = folder / name
    scan(folder / f"{name}_t1.nii.gz", shape=SHAPE, origin=origin)
    if start is not None:
        seg = np.zeros(SHAPE, np.uint8)
        seg[tuple(slice(first, first + 3) for first in start)] = 4
        scan(folder / f"{name}_seg.nii.gz", shape=SHAPE, origin=origin, data=seg)


def tumours(folder, starts, **more):
    for number, start in starts.items():
        patient(folder, f"BraTS2021_{number:05d}", start, **more)
    return folder


def one_contrast(folder, out, split, release="2021", **more):
    # As a phantom, of which any size is taken.
    (folder / PHANTOM_FILE).write_text(json.dumps({"archive": f"brats{release}"}))
    return index(folder, "brats", split, out, options={"release": release, "fixed": "t1", "moving": "t1", **more})


def short(rows):
    return [tuple(int(name[-5:]) for name in row["case"].split("_to_")) for row in rows]


def test_the_two_patients_whose_contours_overlap_most_become_a_pair(tmp_path):
    # 1 and 4 share all, 2 and 6 two thirds, 3 and 5 nothing, so that these are no pair.
    starts = {1: (0, 0, 0), 2: (4, 0, 0), 3: (8, 5, 0), 4: (0, 0, 0), 5: (8, 0, 3), 6: (5, 0, 0)}
    info, rows = one_contrast(tumours(tmp_path / "data", starts), tmp_path / "index", {"test": 6})
    assert short(rows) == [(4, 1), (6, 2)]
    first = rows[0]
    assert first["fixed"] == "BraTS2021_00001/BraTS2021_00001_t1.nii.gz"
    assert first["moving"] == "BraTS2021_00004/BraTS2021_00004_t1.nii.gz"
    tumours_of = [list(json.loads(first[f"{role}_labels"]).values()) for role in ("fixed", "moving")]
    assert tumours_of == [[f"BraTS2021_0000{n}/BraTS2021_0000{n}_seg.nii.gz"] for n in (1, 4)]
    assert "2 pairs of 6 patients" in " ".join(info["notes"])
    assert "Dice 0.67 to 1.00" in " ".join(info["notes"])
    _, rows = one_contrast(tmp_path / "data", tmp_path / "one", {"test": 6}, pairs=1)
    assert short(rows) == [(4, 1)]


def test_the_centres_of_two_patients_grids_are_put_together(tmp_path):
    tumours(tmp_path / "data", {1: (0, 0, 0), 2: (5, 0, 0)})
    tumours(tmp_path / "data", {3: (0, 0, 0), 4: (5, 0, 0)}, origin=(500, -300, 40))
    _, rows = one_contrast(tmp_path / "data", tmp_path / "index", {"test": 4})
    assert short(rows) == [(3, 1), (4, 2)]


def test_in_training_every_patient_is_fixed_once_and_moving_once(tmp_path):
    starts = dict.fromkeys(range(1, 8), (0, 0, 0))
    info, rows = one_contrast(tumours(tmp_path / "data", starts), tmp_path / "index", {"train": 5, "test": 2})
    train = short(row for row in rows if row["split"] == "train")
    test = short(row for row in rows if row["split"] == "test")
    assert info["n"] == {"train": 5, "validation": 0, "test": 1}
    assert sorted(a for a, _ in train) == sorted(b for _, b in train)
    assert len({a for a, _ in train}) == 5
    assert all(a != b for a, b in train)
    assert not {number for pair in train for number in pair} & set(test[0])


def test_scans_of_one_patient_are_no_pair(tmp_path):
    for name in ("BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000"):
        for part in ("t1n", "seg"):
            data = np.ones((4, 4, 4), np.uint8) if part == "seg" else None
            scan(tmp_path / "data" / name / f"{name}-{part}.nii.gz", shape=(4, 4, 4), data=data)
    _, (row,) = one_contrast(tmp_path / "data", tmp_path / "index", {"test": 2}, release="2023")
    assert row["case"] == "BraTS-GLI-00002-000_to_BraTS-GLI-00001-000"


def test_a_patient_without_contours_is_in_no_pair_and_one_patient_is_too_few(tmp_path):
    tumours(tmp_path / "data", {1: (0, 0, 0), 2: (2, 0, 0), 3: None})
    info, rows = one_contrast(tmp_path / "data", tmp_path / "index", {"test": 3})
    assert short(rows) == [(2, 1)]
    assert any("lack of contours: BraTS2021_00003" in note for note in info["notes"])
    for split in ({"test": 1}, {"test": 2, "validation": 1}):
        with pytest.raises(DataError, match=r"no two patients of the \w+ split \(BraTS2021_0000\d.*\) make a pair"):
            one_contrast(tmp_path / "data", tmp_path / "alone", split)


def test_all_contours_that_cannot_be_read_are_listed(tmp_path):
    tumours(tmp_path / "data", {1: (0, 0, 0), 2: (1, 0, 0), 3: (2, 0, 0)})
    for number in (1, 3):
        path = tmp_path / f"data/BraTS2021_{number:05d}/BraTS2021_{number:05d}_seg.nii.gz"
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"(?s)pairs of patients can't be chosen:.*00001_seg.*00003_seg"):
        one_contrast(tmp_path / "data", tmp_path / "index", {"test": 3})


def test_different_patients_are_never_taken_as_aligned(tmp_path):
    tumours(tmp_path / "data", {1: (0, 0, 0), 2: (2, 0, 0)})
    info, (row,) = one_contrast(tmp_path / "data", tmp_path / "index", {"test": 2})
    assert json.loads((tmp_path / "index" / "dataset.json").read_text())["between_patients"]
    case = load_raw(info, row)
    for between, field in ((False, True), (True, False)):
        context = StepContext("d", "t1", "t1", between_patients=between)
        aligned, outcome = STEPS["assume_aligned"](case, context, when="same_family")
        assert (aligned.true_field is not None) == field == outcome["assumed"]
