"""The reader of BraTS: four releases, and tumours as wholes or by region."""

from pathlib import Path

import numpy as np
import pytest
from archive_files import SHAPE, index, labels, listed, scan

from modalign.datasets import reader
from modalign.datasets.labels import read_labels
from modalign.errors import DataError
from modalign.volumes import read_volume


@pytest.mark.parametrize(
    ("release", "case", "files"),
    [
        ("2019", "HGG/BraTS19_CBICA_ASH_1", "{}_t1.nii.gz {}_t2.nii.gz {}_seg.nii.gz"),
        ("2020", "x/BraTS20_Training_355", "{}_t1.nii {}_t2.nii W39_1998.09.19_Segm.nii"),
        ("2021", "BraTS2021_00003", "{}_t1.nii.gz {}_t2.nii.gz {}_seg.nii.gz"),
        ("2023", "BraTS-GLI-00003-001", "{}-t1n.nii.gz {}-t2w.nii.gz {}-seg.nii.gz"),
    ],
)
def test_brats_releases(tmp_path, release, case, files):
    name = Path(case).name
    paths = [tmp_path / case / file.format(name) for file in files.split()]
    for path in paths:
        labels(path, 1, 2)
    (found,) = listed("brats", tmp_path, release=release, labels="regions")
    assert (found.case, found.moving, found.fixed, found.fixed_labels, found.moving_labels) == (
        name, paths[0], paths[1], paths[2], paths[2],
    )  # fmt: skip
    assert found.patient == ("BraTS-GLI-00003" if release == "2023" else None)
    names = reader("brats").labels(reader("brats").parse({"release": release, "labels": "regions"}))
    assert names[3 if release == "2023" else 4] == "enhancing_tumour"
    other = "2021" if release == "2019" else "2019"
    with pytest.raises(DataError, match=f"holds BraTS {release}, not {other}: set `release: '{release}'`"):
        listed("brats", tmp_path, release=other)


@pytest.mark.parametrize(("option", "structures"), [("whole", {1: 3}), ("regions", {1: 1, 2: 1, 4: 1})])
def test_brats_labels_are_the_whole_tumour_or_its_regions(tmp_path, option, structures):
    folder = tmp_path / "HGG/BraTS19_CBICA_ASH_1"
    for name in ("t1", "t2"):
        scan(folder / f"{folder.name}_{name}.nii.gz")
    seg = np.zeros(SHAPE, np.uint8)
    seg[1, 1, 1:4] = (1, 2, 4)
    scan(folder / f"{folder.name}_seg.nii.gz", data=seg)
    (found,) = listed("brats", tmp_path, labels=option)
    names = reader("brats").labels(reader("brats").parse({"labels": option}))
    grid = read_volume(found.fixed).grid
    for files in (found.fixed_labels, found.moving_labels):
        read = read_labels(files, grid, names).data
        assert {value: int((read == value).sum()) for value in names} == structures
    assert (list(names.values()) == ["whole_tumour"]) == (option == "whole")


@pytest.mark.real
def test_real_gliomas_in_the_layout_of_brats(real_scans, tmp_path):
    source = real_scans / "tcga_glioma_brats_space"
    for subject in ("TCGA-DU-7294", "TCGA-FG-6692"):
        case = f"BraTS19_{subject.replace('-', '_')}_1"
        folder = tmp_path / "MICCAI_BraTS_2019_Data_Training/LGG" / case
        folder.mkdir(parents=True)
        for theirs, ours in (("t1", "t1"), ("t2", "t2"), ("fla", "flair"), ("seg_mav", "seg")):
            (folder / f"{case}_{ours}.nii.gz").symlink_to(source / f"{subject}_{theirs}.nii.gz")
    record, rows = index(
        tmp_path, "brats", out=tmp_path / "out", options={"fixed": "t1", "moving": "flair", "expected_cases": 2}
    )
    assert [row["fixed_shape"] for row in rows] == ["240x240x155"] * 2
    assert {row["fixed_orientation"] for row in rows} == {"LPS"}
    assert rows[0]["fixed_sha256"].startswith("956a6a4ec4b571be")
    assert (record["source"], record["n"]["test"]) == ("real", 2)
