"""Readers on small trees in the published layouts, and on real scans."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from archive_files import ids, index, labels, listed, pairs, scan, synthrad

from modalign.datasets import READERS, reader
from modalign.datasets.base import CaseFiles
from modalign.datasets.index import label_files
from modalign.datasets.registry import registry
from modalign.errors import ConfigError, DataError


def test_every_reader_loads_and_names_an_archive_of_the_registry():
    required = {"pairs": {"fixed": "mr", "moving": "ct"}}
    for name in READERS:
        one = reader(name)
        options = one.parse(required.get(name))
        key = one.archive(options)
        assert one.name == name
        assert (key is None) == (name == "pairs")
        assert key is None or key in registry()


def test_every_archive_of_the_registry_has_a_reader():
    options = {
        "synthrad2023": [{"task": task, "region": region} for task in (1, 2) for region in ("brain", "pelvis")],
        "brats": [{"release": release} for release in ("2019", "2020", "2021", "2023")],
        "learn2reg": [{}, {"version": "2021"}],
        "pairs": [],
    }
    read = {reader(name).archive(reader(name).parse(o)) for name in READERS for o in options.get(name, [{}])}
    assert read == set(registry())


def test_unknown_reader_and_options_are_refused_with_what_there_is():
    with pytest.raises(ConfigError, match=r"no reader 'synthrad'; the readers are: brats, .*synthrad2023"):
        reader("synthrad")
    with pytest.raises(ConfigError, match="has no option 'area'; its options are: .*region"):
        reader("synthrad2023").parse({"area": "pelvis"})
    with pytest.raises(ConfigError, match=r"option 'region' of reader synthrad2023 is 'thorax'.*'brain' or 'pelvis'"):
        reader("synthrad2023").parse({"region": "thorax"})
    with pytest.raises(ConfigError, match="`pairs` counts pairs of different patients, but fixed is t2 and moving t1"):
        reader("brats").parse({"pairs": 5})
    with pytest.raises(ConfigError, match="needs the option 'fixed': modality of the scans in column"):
        reader("pairs").parse({"moving": "ct"})


def test_synthrad_skips_the_overview_other_regions_and_the_truth_of_phantoms(tmp_path):
    synthrad(tmp_path, "1PC002", "1PA001")
    scan(tmp_path / "Task1/brain/1BA001/mr.nii.gz")
    scan(tmp_path / "modalign-truth/pelvis/1PA009/mr.nii.gz")
    scan(tmp_path / "__MACOSX/Task1/pelvis/1PA001/mr.nii.gz")
    cases = listed("synthrad2023", tmp_path)
    assert ids(cases) == ["1PA001", "1PC002"]
    folder = tmp_path / "Task1/pelvis/1PA001"
    mask = folder / "mask.nii.gz"
    assert cases[0] == CaseFiles(
        "1PA001", folder / "mr.nii.gz", folder / "ct.nii.gz", fixed_mask=mask, moving_mask=mask
    )
    options = reader("synthrad2023").parse({"task": 2, "region": "brain"})
    assert reader("synthrad2023").modalities(options) == ("cbct", "ct")
    with pytest.raises(DataError, match=r"expected Task2/brain/2BA001/\{cbct,ct,mask\}.nii.gz; it holds Task1"):
        reader("synthrad2023").list_cases(tmp_path, options)


def test_a_case_in_two_places_is_refused_and_links_to_folders_are_followed(tmp_path):
    synthrad(tmp_path / "real", "1PA001")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/Task1").symlink_to(tmp_path / "real/Task1")
    (tmp_path / "linked/loop").symlink_to(tmp_path / "linked")
    assert ids(listed("synthrad2023", tmp_path / "linked")) == ["1PA001"]
    scan(tmp_path / "linked/Task1_val/pelvis/1PA001/mr.nii.gz")
    with pytest.raises(DataError, match="case 1PA001 is there twice: .*Task1/.* and .*Task1_val/"):
        listed("synthrad2023", tmp_path / "linked")


def test_ixi_pairs_contrasts_by_subject_and_leaves_out_who_lacks_one(tmp_path):
    for name in ("IXI002-Guys-0828-T1", "IXI002-Guys-0828-T2", "IXI012-HH-1211-T1", "IXI012-HH-1211-PD"):
        scan(tmp_path / "ixi" / f"{name}.nii.gz", (0.94, 0.94, 1.2))
    scan(tmp_path / "ixi/IXI002-Guys-0828-MRA.nii.gz")
    assert ids(listed("ixi", tmp_path / "ixi")) == ["IXI002-Guys-0828", "IXI012-HH-1211"]
    record, rows = index(tmp_path / "ixi", "ixi", options={"expected_cases": 1})
    assert [row["case"] for row in rows] == ["IXI002-Guys-0828"]
    assert (rows[0]["fixed"], rows[0]["moving"]) == ("IXI002-Guys-0828-T1.nii.gz", "IXI002-Guys-0828-T2.nii.gz")
    assert "Left out, for lack of one of the scans: IXI012-HH-1211." in record["notes"]
    assert (record["fixed_modality"], record["licence"]) == ("t1", "CC BY-SA 3.0")
    with pytest.raises(DataError, match=r"no case has both scans; IXI002-Guys-0828 lacks .*-PD.nii.gz"):
        index(tmp_path / "ixi", "ixi", options={"pair": "t2-pd"})
    with pytest.raises(DataError, match=r"IXI012-HH-1211-T2.nii.gz does not exist \(case IXI012-HH-1211\)"):
        index(tmp_path / "ixi", "ixi", options={"incomplete": "refuse", "expected_cases": 2})


@pytest.mark.parametrize(
    ("name", "options", "published"),
    [
        ("ixi", {"pair": "t1-t2"}, 577),
        ("brats", {"release": "2019"}, 335),
        ("brats", {"release": "2021"}, None),
        ("learn2reg", {}, 16),
        ("learn2reg", {"version": "2021"}, 8),
        ("goldatlas", {}, 19),
        ("hanseg", {}, 42),
    ],
)
def test_the_published_number_of_cases_is_expected(name, options, published):
    chosen = reader(name)
    assert chosen.layout(chosen.parse(options)).cases == published


def test_an_archive_with_too_few_cases_is_refused_unless_that_is_said(tmp_path):
    folder = tmp_path / "data/1_01_P"
    scan(folder / "ct.nii.gz")
    scan(folder / "mr_T2.nii.gz")
    with pytest.raises(DataError, match=r"holds 1 complete cases, and 19 were expected.*`expected_cases: 1`"):
        index(tmp_path / "data", "goldatlas")
    assert index(tmp_path / "data", "goldatlas", options={"expected_cases": 1})[0]["n"]["test"] == 1


def test_cermep_finds_subjects_below_any_folders_and_tells_spaces_apart(tmp_path):
    base = tmp_path / "home/pool/DM/ALL/sub-0001"
    scan(base / "anat/sub-0001_T1w.nii.gz")
    scan(base / "ct/sub-0001_ct.nii.gz")
    scan(tmp_path / "derivatives/sub-0002/sub-0002_space-pet_T1w.nii.gz")
    scan(tmp_path / "derivatives/sub-0002/sub-0002_space-pet_ct.nii.gz")
    (case,) = listed("cermep", tmp_path)
    assert case == CaseFiles("sub-0001", base / "anat/sub-0001_T1w.nii.gz", base / "ct/sub-0001_ct.nii.gz")
    assert ids(listed("cermep", tmp_path, space="pet")) == ["sub-0002"]
    with pytest.raises(DataError, match=r"no scans with space mni; set no `space`, `space: pet`"):
        listed("cermep", tmp_path, space="mni")
    with pytest.raises(DataError, match=r"holds 1 complete cases, and 37 were expected.*`expected_cases: 1`"):
        index(tmp_path, "cermep", out=tmp_path / "out")


def hanseg(folder: Path) -> Path:
    case = folder / "HaN-Seg/set_1/case_01"
    scan(case / "case_01_IMG_CT.nrrd", (0.6, 0.6, 2), (12, 12, 6))
    scan(case / "case_01_IMG_MR_T1.nrrd")
    for name in ("Parotid_L", "Parotid_R", "SpinalCord"):
        labels(case / f"case_01_OAR_{name}.seg.nrrd", 1, spacing=(0.6, 0.6, 2), shape=(12, 12, 6))
    return folder


def test_hanseg_has_contours_on_ct_alone_unless_mr_labels_are_given(tmp_path):
    folder = hanseg(tmp_path / "data")
    record, (row,) = index(folder, "hanseg", options={"expected_cases": 1})
    assert (row["fixed_labels"], row["fixed"]) == ("", "HaN-Seg/set_1/case_01/case_01_IMG_MR_T1.nrrd")
    prefix = "HaN-Seg/set_1/case_01/case_01_OAR_"
    masks = {"parotid_l": f"{prefix}Parotid_L.seg.nrrd", "parotid_r": f"{prefix}Parotid_R.seg.nrrd"}
    assert json.loads(row["moving_labels"]) == masks
    assert record["labels"] == {"1": "parotid_l", "2": "parotid_r"}
    assert any("on the CT alone" in note and "`mr_labels`" in note for note in record["notes"])
    assert label_files(row["moving_labels"], folder)[1] == ("parotid_r", folder / f"{prefix}Parotid_R.seg.nrrd")

    for name in ("Parotid_L", "Parotid_R"):
        labels(tmp_path / f"mine/case_01_OAR_{name}.nii.gz", 1)
    options = {"expected_cases": 1, "mr_labels": str(tmp_path / "mine")}
    record, (row,) = index(folder, "hanseg", options=options)
    assert json.loads(row["fixed_labels"])["parotid_l"] == f"{tmp_path}/mine/case_01_OAR_Parotid_L.nii.gz"
    assert not any("alone" in note for note in record["notes"])
    with pytest.raises(DataError, match="no contour of Parotid_X; it has: Parotid_L, Parotid_R, SpinalCord"):
        listed("hanseg", folder, structures=["Parotid_L", "Parotid_X"])


def test_goldatlas_deforms_mr_onto_ct_with_masks_of_both(tmp_path):
    folder = tmp_path / "data/1_01_P"
    scan(folder / "ct.nii.gz")
    scan(folder / "mr_T2.nii.gz", (1.1, 1.1, 2))
    for organ in ("bladder", "rectum"):
        labels(folder / f"ct_{organ}.nii.gz", 1)
        labels(folder / f"mr_{organ}.nii.gz", 1, spacing=(1.1, 1.1, 2))
    record, (row,) = index(tmp_path / "data", "goldatlas", options={"expected_cases": 1})
    assert (row["case"], row["fixed"], row["moving"]) == ("1_01_P", "1_01_P/ct.nii.gz", "1_01_P/mr_T2.nii.gz")
    masks = {"bladder": "1_01_P/ct_bladder.nii.gz", "rectum": "1_01_P/ct_rectum.nii.gz"}
    assert json.loads(row["fixed_labels"]) == masks
    assert (record["fixed_modality"], record["moving_modality"]) == ("ct", "mr")
    assert record["labels"] == {"1": "bladder", "2": "prostate", "3": "rectum"}
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/1.dcm").touch()
    with pytest.raises(DataError, match="holds DICOM files, and the reader goldatlas expects 1_01_P/.*convert it"):
        listed("goldatlas", tmp_path / "raw")


@pytest.mark.real
def test_real_pairs_of_every_kind(real_scans, tmp_path):
    def rows_of(table: list[dict[str, str]], **options):
        resolved = [{k: str(real_scans / v) if "/" in v else v for k, v in row.items()} for row in table]
        return index(tmp_path, "pairs", out=tmp_path / "out", options=pairs(tmp_path, resolved, **options))

    raw = [
        {"case": p, "fixed": f"ms_raw/{p}_study1_T1W.nii.gz", "moving": f"ms_raw/{p}_study1_T2W.nii.gz"}
        for p in ("patient04", "patient12")
    ]
    _, rows = rows_of(raw, fixed="t1", moving="t2")
    assert (rows[1]["fixed_shape"], rows[1]["moving_spacing_mm"]) == ("256x256x48", "0.598958x0.598958x3.3")
    assert rows[1]["moving_sha256"].startswith("da2b3cedef895be6")

    mni = [
        {"case": p, "fixed": f"ms_mni/{p}_T1.nii.gz", "moving": f"ms_mni/{p}_T2.nii.gz"}
        | {"fixed_labels": f"ms_mni/{p}_lesions.nii.gz"}
        for p in ("patient07", "patient26")
    ]
    record, rows = rows_of(mni, fixed="t1", moving="t2", labels={1: "lesion"})
    assert (record["labels"], rows[0]["fixed_orientation"]) == ({"1": "lesion"}, "LAS")

    mridir = [{"case": "porcine", "fixed": "mridir_porcine_mr_ct/t2.nii.gz"}]
    mridir[0]["moving"] = "mridir_porcine_mr_ct/ct_ry180.nii.gz"
    _, (row,) = rows_of(mridir)
    assert row["fixed_shape"] == "204x204x94"

    prostate = [
        {"case": f"case00000{i}"}
        | {f"{role}{kind}": f"prostate_mr_us/case00000{i}_{role}_{kind.strip('_') or 'images'}.nii.gz"
           for role in ("fixed", "moving") for kind in ("", "_labels")}
        for i in range(6)
    ]  # fmt: skip
    record, rows = rows_of(prostate, fixed="us", moving="mr", frames="centred")
    assert record["labels"] == {"1": "label_1", "2": "label_2", "3": "label_3"}
    stack = np.asarray(nib.load(real_scans / "prostate_mr_us/case000000_fixed_labels.nii.gz").dataobj)
    flat = np.asarray(nib.load(tmp_path / rows[0]["fixed_labels"]).dataobj)
    np.testing.assert_array_equal(flat == 3, stack[..., 2] > 0.5)
    assert rows[2]["fixed_labels"].endswith("prostate_mr_us/case000002_fixed_labels.nii.gz")
    assert json.loads((tmp_path / "out/dataset.json").read_text())["frames"] == "centred"
