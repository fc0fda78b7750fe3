"""Contours that some cases of an archive lack."""

from archive_files import index, labels, scan


def test_cases_without_contours_are_noted(tmp_path):
    for case in ("1_01_P", "1_02_P", "1_03_P"):
        for name in ("ct", "mr_T2"):
            scan(tmp_path / "gold" / case / f"{name}.nii.gz")
        for organ in ("bladder", "prostate", "rectum"):
            for side in ("ct", "mr"):
                if (case, side) != ("1_02_P", "mr") and (case, side, organ) != ("1_03_P", "ct", "rectum"):
                    labels(tmp_path / "gold" / case / f"{side}_{organ}.nii.gz", 1)
    record, _ = index(tmp_path / "gold", "goldatlas", options={"expected_cases": 3})
    assert (
        "The fixed scans of 1 of 3 cases (1_03_P) lack rectum: Dice and distances leave these out." in record["notes"]
    )
    assert (
        "The moving scans of 1 of 3 cases (1_02_P) lack any contour: Dice and distances leave these out."
        in (record["notes"])
    )
