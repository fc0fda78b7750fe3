"""Phantoms are read as what they imitate, with their truth."""

from pathlib import Path

import numpy as np
import pytest
from archive_files import SHAPE, index, labels, scan

from modalign.errors import DataError
from modalign.files import write_json
from modalign.spatial.fields import write_itk_field
from modalign.volumes import Volume, axis_aligned, read_volume, write_volume


def phantom(folder: Path, archive: str) -> None:
    write_json(folder / "modalign-phantom.json", {"archive": archive, "size": SHAPE, "patients": 1, "seed": 0})


def test_the_truth_of_a_phantom_is_picked_up_and_sizes_may_differ(tmp_path):
    folder = tmp_path / "data"
    grid = axis_aligned(SHAPE, (4, 4, 4))
    for part in ("mr", "ct", "mask"):
        scan(folder / f"Task1/pelvis/1PA001/{part}.nii.gz", grid.spacing)
    truth = folder / "modalign-truth/1PA001"
    write_itk_field(truth / "mr-ct/true_field.nii.gz", np.ones((3, *SHAPE)), grid)
    write_volume(truth / "mr-ct/true_image.nii.gz", Volume(np.arange(336.0).reshape(SHAPE), grid.affine))
    for modality in ("mr", "ct"):
        labels(truth / f"{modality}_labels.nii.gz", 3, spacing=(4, 4, 4))
    write_json(folder / "modalign-truth/labels.json", {"1": "bladder", "3": "rectum"})
    with pytest.raises(DataError, match=r"a phantom that was not finished \(modalign-phantom.json is missing\)"):
        index(folder, "synthrad2023")
    phantom(folder, "synthrad2023-task1-brain")
    with pytest.raises(DataError, match="holds the phantom synthrad2023-task1-brain, and .* ask for .*task1-pelvis"):
        index(folder, "synthrad2023")
    phantom(folder, "synthrad2023-task1-pelvis")
    record, (row,) = index(folder, "synthrad2023")
    assert (record["source"], record["access"]) == ("phantom", "phantom")
    assert "not patient data" in record["citation"]
    assert record["labels"] == {"1": "bladder", "3": "rectum"}
    assert row["true_field"] == "modalign-truth/1PA001/mr-ct/true_field.nii.gz"
    assert row["true_image"] == "modalign-truth/1PA001/mr-ct/true_image.nii.gz"
    assert row["moving_labels"] == "modalign-truth/1PA001/ct_labels.nii.gz"


_ARCHIVES = {
    "synthrad2023-task1-pelvis": ("synthrad2023", {}),
    "synthrad2023-task2-brain": ("synthrad2023", {"task": 2, "region": "brain"}),
    "ixi": ("ixi", {}),
    "brats2019": ("brats", {}),
    "learn2reg-abdomen-mr-ct": ("learn2reg", {}),
    "cermep": ("cermep", {}),
    "hanseg": ("hanseg", {}),
    "goldatlas": ("goldatlas", {}),
}
_WITH_TRUE_FIELD = set(_ARCHIVES) - {"ixi", "brats2019"}


@pytest.mark.parametrize("archive", _ARCHIVES)
def test_the_phantoms_are_read_as_what_they_imitate(tmp_path, archive):
    from modalign.phantoms.archives import make_archive

    make_archive(archive, tmp_path / "data", size=(24, 24, 10), patients=1, seed=0)
    name, options = _ARCHIVES[archive]
    record, (row,) = index(tmp_path / "data", name, options=options)
    assert record["source"] == "phantom"
    assert bool(row["true_field"]) == bool(row["true_image"]) == (archive in _WITH_TRUE_FIELD)
    assert row["fixed_labels"]
    assert row["moving_labels"]
    assert record["labels"]
    assert record["notes"] == []


@pytest.mark.parametrize(
    ("archive", "options", "structures"),
    [
        ("hanseg", {}, {"1": "parotid_l", "2": "parotid_r"}),
        ("hanseg", {"structures": ["SpinalCord", "Parotid_R"]}, {"2": "parotid_r", "4": "spinalcord"}),
        ("learn2reg-abdomen-mr-ct", {}, {"1": "liver", "2": "spleen", "3": "kidney_right", "4": "kidney_left"}),
    ],
)
def test_a_phantom_has_the_structures_that_the_reader_names_and_no_others(tmp_path, archive, options, structures):
    from modalign.phantoms.archives import make_archive

    folder = tmp_path / "data"
    make_archive(archive, folder, size=(40, 40, 30), patients=1, seed=0)
    record, (row,) = index(folder, _ARCHIVES[archive][0], options=options)
    assert record["labels"] == structures
    for side in ("fixed", "moving"):
        used = read_volume(folder / row[f"{side}_labels"]).data
        assert [str(value) for value in np.unique(used)] == ["0", *structures]
        modality = record[f"{side}_modality"]
        truth = read_volume(folder / "modalign-truth" / row["case"] / f"{modality}_labels.nii.gz").data
        assert ((used == truth) == np.isin(truth, [0, *map(int, structures)])).all()
