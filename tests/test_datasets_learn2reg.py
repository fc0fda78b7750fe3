"""The reader of Learn2Reg: both versions of the archive, and pairs that lack a scan."""

import pytest
from archive_files import SHAPE, index, labels, listed, scan

from modalign.datasets.splits import draw_split
from modalign.errors import DataError


def test_learn2reg_current_archive_knows_mr_from_ct_pairs_and_the_split(tmp_path):
    root = tmp_path / "AbdomenMRCT"
    for case, part in (("0005", "Tr"), ("0006", "Tr"), ("0009", "Ts")):
        for modality in ("0000", "0001"):
            for kind in ("images", "labels", "masks") if part == "Tr" else ("images",):
                labels(root / f"{kind}{part}/AbdomenMRCT_{case}_{modality}.nii.gz", 1, 4)
    scan(root / "imagesTr/AbdomenMRCT_0017_0000.nii.gz")  # an MR without a CT
    cases = listed("learn2reg", tmp_path)
    assert [(c.case, c.split) for c in cases] == [("0005", "train"), ("0006", "validation"), ("0009", "test")]
    assert cases[0].fixed == root / "imagesTr/AbdomenMRCT_0005_0000.nii.gz"
    assert cases[0].moving_labels == root / "labelsTr/AbdomenMRCT_0005_0001.nii.gz"
    assert cases[0].fixed_mask == root / "masksTr/AbdomenMRCT_0005_0000.nii.gz"
    assert cases[2].fixed_labels is None
    assert draw_split(cases, None, seed=0).of_case == {"0005": "train", "0006": "validation", "0009": "test"}


def test_learn2reg_of_2021_with_masks_elsewhere(tmp_path):
    for modality in ("MR", "CT"):
        scan(tmp_path / f"Train/img0002_tcia_{modality}.nii.gz")
        scan(tmp_path / f"Train/seg0002_tcia_{modality}.nii.gz")
        scan(tmp_path / f"L2R_Task1_MRCT/Train/mask0002_tcia_{modality}.nii.gz")
    scan(tmp_path / "Train/img0003_chaos_MR.nii.gz")
    with pytest.raises(
        DataError, match=r"holds the 2021 archive .*`version` asks for \(current\): set `version: '2021'`"
    ):
        listed("learn2reg", tmp_path)
    (case,) = listed("learn2reg", tmp_path, version="2021")
    assert (case.case, case.fixed.name, case.moving.name) == (
        "0002",
        "img0002_tcia_MR.nii.gz",
        "img0002_tcia_CT.nii.gz",
    )
    assert case.moving_labels.name == "seg0002_tcia_CT.nii.gz"
    assert case.fixed_mask == tmp_path / "L2R_Task1_MRCT/Train/mask0002_tcia_MR.nii.gz"


@pytest.mark.parametrize("version", ["current", "2021"])
def test_a_learn2reg_pair_that_lacks_a_scan_is_refused_or_left_out(tmp_path, version):
    names = {
        "current": "AbdomenMRCT/images{part}/AbdomenMRCT_{case}_000{number}.nii.gz",
        "2021": "Train/img{case}_tcia_{modality}.nii.gz",
    }
    for case, part in (("0002", "Tr"), ("0012", "Ts")):
        for number, modality in enumerate(("MR", "CT")):
            path = names[version].format(case=case, part=part, number=number, modality=modality)
            scan(tmp_path / "data" / path, (2, 2, 2), SHAPE)
    missing = tmp_path / "data" / names[version].format(case="0012", part="Ts", number=1, modality="CT")
    missing.unlink()
    options = {"version": version, "expected_cases": 2}
    with pytest.raises(DataError, match=rf"{missing} does not exist \(case 0012\): .*`incomplete: skip`"):
        index(tmp_path / "data", "learn2reg", options=options)
    skipping = {"version": version, "expected_cases": 1, "incomplete": "skip"}
    with pytest.raises(DataError) as caught:  # the scans here have another size than the published ones
        index(tmp_path / "data", "learn2reg", options=skipping)
    assert "0012" not in str(caught.value)
    assert str(caught.value).startswith("2 problems")
