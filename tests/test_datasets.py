"""Readers on small trees in the published layouts, the index with its checks, and the splits."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from modalign.datasets import READERS, reader
from modalign.datasets.base import CaseFiles
from modalign.datasets.check import overlap
from modalign.datasets.index import COLUMNS, index_dataset, label_files, read_index
from modalign.datasets.labels import read_labels, stacked_masks
from modalign.datasets.registry import registry
from modalign.datasets.splits import PRESETS, draw_split
from modalign.errors import ConfigError, DataError
from modalign.files import write_json
from modalign.spatial.fields import write_itk_field
from modalign.volumes import Grid, Volume, axis_aligned, read_volume, to_sitk, write_volume

SHAPE = (8, 7, 6)
_counter = iter(range(10**6))


def scan(path: Path, spacing=(1.0, 1.0, 1.0), shape=SHAPE, origin=None, data=None) -> Path:
    """Noise that differs from file to file, as NIfTI or NRRD."""
    grid = axis_aligned(shape, spacing)
    if origin is not None:
        grid.affine[:3, 3] = origin
    if data is None:
        data = np.random.default_rng(next(_counter)).integers(0, 1000, shape).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".nrrd":
        import SimpleITK as sitk

        sitk.WriteImage(to_sitk(Volume(data, grid.affine)), str(path), useCompression=True)
    else:
        nib.save(nib.Nifti1Image(data, grid.affine), path)
    return path


def labels(path: Path, *values: int, spacing=(1.0, 1.0, 1.0), shape=SHAPE) -> Path:
    data = np.zeros(shape, np.uint8)
    for i, value in enumerate(values):
        data[1 + i, 2:5, 2:5] = value
    return scan(path, spacing, shape, data=data)


def ids(cases: list[CaseFiles]) -> list[str]:
    return [case.case for case in cases]


def listed(name: str, folder: Path, **options) -> list[CaseFiles]:
    chosen = reader(name)
    return chosen.list_cases(folder, chosen.parse(options))


def synthrad(folder: Path, *cases: str, parts=("mr", "ct", "mask")) -> Path:
    for case in cases:
        for part in parts:
            scan(folder / "Task1/pelvis" / case / f"{part}.nii.gz", (1, 1, 2.5))
    (folder / "Task1/pelvis/overview").mkdir(parents=True, exist_ok=True)
    (folder / "Task1/pelvis/overview/1PA001_train.png").touch()
    return folder


def index(folder: Path, name: str, split=None, out: Path | None = None, **more):
    out = out or folder.parent / "index"
    options = more.pop("options", {})
    index_dataset("set", name, folder, out, options=options, split=split, seed=more.pop("seed", 0), **more)
    return read_index(out)


def pairs(folder: Path, rows: list[dict[str, str]], **options) -> dict:
    """Write pairs.csv and return the reader's options."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return {"fixed": "mr", "moving": "ct", **options}


# --- readers ---------------------------------------------------------------------------------------------------------


def test_every_reader_loads_and_names_an_archive_of_the_registry():
    required = {"pairs": {"fixed": "mr", "moving": "ct"}}
    for name in READERS:
        one = reader(name)
        options = one.parse(required.get(name))
        key = one.archive(options)
        assert one.name == name
        assert (key is None) == (name == "pairs")
        assert key is None or key in registry()


def test_unknown_reader_and_options_are_refused_with_what_there_is():
    with pytest.raises(ConfigError, match=r"no reader 'synthrad'; the readers are: brats, .*synthrad2023"):
        reader("synthrad")
    with pytest.raises(ConfigError, match="has no option 'area'; its options are: .*region"):
        reader("synthrad2023").parse({"area": "pelvis"})
    with pytest.raises(ConfigError, match=r"option 'region' of reader synthrad2023 is 'thorax'.*'brain' or 'pelvis'"):
        reader("synthrad2023").parse({"region": "thorax"})
    with pytest.raises(ConfigError, match="fixed and moving of reader brats are both t2: choose two contrasts"):
        reader("brats").parse({"moving": "t2"})
    with pytest.raises(ConfigError, match="needs the option 'fixed': modality of the scans in column"):
        reader("pairs").parse({"moving": "ct"})


def test_synthrad_skips_the_overview_other_regions_and_the_truth_of_phantoms(tmp_path):
    synthrad(tmp_path, "1PC002", "1PA001")
    scan(tmp_path / "Task1/brain/1BA001/mr.nii.gz")
    scan(tmp_path / "modalign-truth/pelvis/1PA009/mr.nii.gz")
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
    record, rows = index(tmp_path / "ixi", "ixi")
    assert [row["case"] for row in rows] == ["IXI002-Guys-0828"]
    assert (rows[0]["fixed"], rows[0]["moving"]) == ("IXI002-Guys-0828-T1.nii.gz", "IXI002-Guys-0828-T2.nii.gz")
    assert "Left out, for lack of one of the scans: IXI012-HH-1211." in record["notes"]
    assert (record["fixed_modality"], record["licence"]) == ("t1", "CC BY-SA 3.0")
    with pytest.raises(DataError, match=r"no case has both scans; IXI002-Guys-0828 lacks .*-PD.nii.gz"):
        index(tmp_path / "ixi", "ixi", options={"pair": "t2-pd"})
    with pytest.raises(DataError, match=r"IXI012-HH-1211-T2.nii.gz does not exist \(case IXI012-HH-1211\)"):
        index(tmp_path / "ixi", "ixi", options={"incomplete": "refuse"})


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
    (case,) = listed("learn2reg", tmp_path)
    assert (case.case, case.fixed.name, case.moving.name) == (
        "0002",
        "img0002_tcia_MR.nii.gz",
        "img0002_tcia_CT.nii.gz",
    )
    assert case.moving_labels.name == "seg0002_tcia_CT.nii.gz"
    assert case.fixed_mask == tmp_path / "L2R_Task1_MRCT/Train/mask0002_tcia_MR.nii.gz"


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
    assert row["moving_labels"] == f"parotid_l={prefix}Parotid_L.seg.nrrd;parotid_r={prefix}Parotid_R.seg.nrrd"
    assert record["labels"] == {"1": "parotid_l", "2": "parotid_r"}
    assert any("on the CT alone" in note and "`mr_labels`" in note for note in record["notes"])
    assert label_files(row["moving_labels"], folder)[1] == ("parotid_r", folder / f"{prefix}Parotid_R.seg.nrrd")

    for name in ("Parotid_L", "Parotid_R"):
        labels(tmp_path / f"mine/case_01_OAR_{name}.nii.gz", 1)
    options = {"expected_cases": 1, "mr_labels": str(tmp_path / "mine")}
    record, (row,) = index(folder, "hanseg", options=options)
    assert row["fixed_labels"].startswith(f"parotid_l={tmp_path}/mine/case_01_OAR_Parotid_L.nii.gz;")
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
    record, (row,) = index(tmp_path / "data", "goldatlas")
    assert (row["case"], row["fixed"], row["moving"]) == ("1_01_P", "1_01_P/ct.nii.gz", "1_01_P/mr_T2.nii.gz")
    assert row["fixed_labels"] == "bladder=1_01_P/ct_bladder.nii.gz;rectum=1_01_P/ct_rectum.nii.gz"
    assert (record["fixed_modality"], record["moving_modality"]) == ("ct", "mr")
    assert record["labels"] == {"1": "bladder", "2": "prostate", "3": "rectum"}
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/1.dcm").touch()
    with pytest.raises(DataError, match="holds DICOM files, and the reader goldatlas expects 1_01_P/.*convert it"):
        listed("goldatlas", tmp_path / "raw")


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_pairs_index_holds_the_facts_of_the_files(tmp_path):
    folder = tmp_path / "mine"
    scan(folder / "a_mr.nii.gz", (1, 1, 3))
    scan(folder / "sub/a_ct.nrrd", (2, 2, 2), (5, 6, 7))
    labels(folder / "a_seg.nii.gz", 2, 5, spacing=(1, 1, 3))
    row = {"case": "a", "fixed": "a_mr.nii.gz", "moving": "sub/a_ct.nrrd", "fixed_labels": "a_seg.nii.gz"}
    options = pairs(folder, [row], licence="CC0")
    record, (found,) = index(folder, "pairs", options=options, seed=7)
    (folder / "pairs.csv").rename(folder / "mine.csv")
    assert index(folder / "mine.csv", "pairs", options=options, out=tmp_path / "again")[1] == [found]
    assert tuple(found) == COLUMNS
    assert (found["split"], found["fixed_shape"], found["fixed_spacing_mm"]) == ("test", "8x7x6", "1x1x3")
    assert (found["moving"], found["moving_shape"], found["moving_orientation"]) == ("sub/a_ct.nrrd", "5x6x7", "RAS")
    import hashlib

    assert found["moving_sha256"] == hashlib.sha256((folder / "sub/a_ct.nrrd").read_bytes()).hexdigest()
    assert record["labels"] == {"2": "label_2", "5": "label_5"}
    assert (record["source"], record["licence"], record["seed"], record["frames"]) == ("real", "CC0", 7, "related")
    assert record["n"] == {"train": 0, "validation": 0, "test": 1}
    assert record["folder"] == str(folder)


def test_a_stack_of_masks_is_flattened_with_later_masks_on_top(tmp_path):
    folder = tmp_path / "mine"
    for name in ("f", "m"):
        scan(folder / f"{name}.nii.gz")
    masks = np.zeros((*SHAPE, 3))
    masks[1:5, ..., 0] = 1
    masks[3:7, ..., 1] = 1
    masks[4, ..., 2] = 0.4
    nib.save(nib.Nifti1Image(masks, axis_aligned(SHAPE, (1, 1, 1)).affine), folder / "stack.nii.gz")
    rows = [{"case": "a", "fixed": "f.nii.gz", "moving": "m.nii.gz", "fixed_labels": "stack.nii.gz"}]
    _, (row,) = index(folder, "pairs", options=pairs(folder, rows))
    flat = np.asarray(nib.load(folder / row["fixed_labels"]).dataobj)
    assert flat[:, 0, 0].tolist() == [0, 1, 1, 2, 2, 2, 2, 0]
    assert stacked_masks(masks).dtype == np.uint8


def test_labels_that_are_cropped_masks_go_where_they_belong(tmp_path, oblique_grid):
    mask = np.ones((3, 4, 5), np.uint8)
    affine = oblique_grid.affine.copy()
    affine[:3, 3] = (oblique_grid.affine @ [10, 6, 2, 1])[:3]
    import SimpleITK as sitk

    sitk.WriteImage(to_sitk(Volume(mask, affine)), str(tmp_path / "organ.seg.nrrd"))
    files = (("organ", tmp_path / "organ.seg.nrrd"),)
    found = read_labels(files, oblique_grid, {1: "other", 2: "organ"})
    expected = np.zeros(oblique_grid.shape)
    expected[10:13, 6:10, 2:7] = 2
    np.testing.assert_array_equal(found.data, expected)
    shifted = Grid(oblique_grid.shape, oblique_grid.affine.copy())
    shifted.affine[0, 3] += 0.4
    with pytest.raises(DataError, match=r"does not lie on the grid of its scan: 3 x 4 x 5 voxels of 1 x 1.5 x 2.5 mm"):
        read_labels(files, shifted, {2: "organ"})


def test_pairs_csv_mistakes_are_listed_together(tmp_path):
    with pytest.raises(DataError, match="does not exist: write a CSV file with the columns case, fixed, moving"):
        listed("pairs", tmp_path, fixed="mr", moving="ct")
    (tmp_path / "pairs.csv").write_text(
        "case,split,fixed,moving,fixd_mask\na,train,x,y,\na,tset,x,,\n../b,test,x,y,\nc,test,x\n"
    )
    with pytest.raises(DataError) as caught:
        listed("pairs", tmp_path, fixed="mr", moving="ct")
    for part in (
        "unknown columns 'fixd_mask'",
        "line 3 has an empty cell `moving`",
        "case 'a' is on lines 2 and 3",
        "line 3: split is 'tset', but has to be one of train, validation, test",
        "line 4: case '../b' becomes a folder's name",
        "line 5 has fewer cells than the header",
    ):
        assert part in str(caught.value)
    (tmp_path / "pairs.csv").write_bytes(b"\xef\xbb\xbfcase;fixed;moving;patient\r\na;x.nii;y.nii;p\r\n")
    (case,) = listed("pairs", tmp_path, fixed="mr", moving="ct")
    assert case == CaseFiles("a", tmp_path / "x.nii", tmp_path / "y.nii", patient="p")


# --- checks ----------------------------------------------------------------------------------------------------------


def _nan(folder: Path) -> str:
    data = np.zeros(SHAPE, np.float32)
    data[0, 0, 0], data[1, 1, 1] = np.nan, np.inf
    scan(folder / "m.nii.gz", data=data)
    return r"m.nii.gz has 2 voxels that are NaN or infinite: set them to the background"


def _constant(folder: Path) -> str:
    scan(folder / "m.nii.gz", data=np.full(SHAPE, 3, np.int16))
    return r"m.nii.gz has the value 3 everywhere"


def _missing(folder: Path) -> str:
    (folder / "m.nii.gz").unlink()
    return r"m.nii.gz does not exist \(case a\): fetch it, or leave such cases out with .* `incomplete: skip`"


def _truncated(folder: Path) -> str:
    path = folder / "m.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    return r"m.nii.gz can't be read \(.*\). Fetch or export it again"


def _two_dimensional(folder: Path) -> str:
    nib.save(nib.Nifti1Image(np.arange(12, dtype=np.int16).reshape(3, 4), np.eye(4)), folder / "m.nii.gz")
    return r"m.nii.gz has shape \(3, 4\): a single 3D volume is needed"


def _single_slice(folder: Path) -> str:
    scan(folder / "m.nii.gz", shape=(8, 7, 1))
    return r"m.nii.gz is a single slice \(8 x 7 x 1 voxels\)"


def _singular(folder: Path) -> str:
    image = nib.load(folder / "m.nii.gz")
    affine = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    broken = nib.Nifti1Image(np.asarray(image.dataobj), None)
    broken.header.set_sform(affine, code=1)
    nib.save(broken, folder / "m.nii.gz")
    return r"m.nii.gz has a singular affine, its axes lie in one plane"


def _infinite_affine(folder: Path) -> str:
    broken = nib.Nifti1Image(np.asarray(nib.load(folder / "m.nii.gz").dataobj), None)
    broken.header.set_sform(np.diag([1, np.inf, 1, 1]), code=1)
    nib.save(broken, folder / "m.nii.gz")
    return r"m.nii.gz has an affine with NaN or infinite numbers"


def _zero_spacing(folder: Path) -> str:
    broken = nib.Nifti1Image(np.asarray(nib.load(folder / "m.nii.gz").dataobj), None)
    broken.header.set_sform(np.diag([1, 0, 1, 1]), code=1)
    nib.save(broken, folder / "m.nii.gz")
    return r"m.nii.gz has a voxel size of 0 mm"


def _no_overlap(folder: Path) -> str:
    scan(folder / "m.nii.gz", origin=(500, 0, 0))
    return r"f.nii.gz and .*m.nii.gz don't overlap in world space.*`frames: centred`"


def _label_grid(folder: Path) -> str:
    labels(folder / "l.nii.gz", 1, spacing=(1, 1, 2))
    return r"l.nii.gz does not lie on the grid of its scan: .*1 x 1 x 2 mm.*but the scan has .* 1 x 1 x 1 mm"


def _label_values(folder: Path) -> str:
    labels(folder / "l.nii.gz", 1, 9)
    return r"l.nii.gz has the values \[9\], and the labels are 1 liver"


def _fractional_labels(folder: Path) -> str:
    scan(folder / "l.nii.gz", data=np.full(SHAPE, 0.5, np.float32))
    return r"l.nii.gz has values that aren't labels: whole numbers from 0"


def _mask_grid(folder: Path) -> str:
    labels(folder / "k.nii.gz", 1, shape=(8, 7, 5))
    return r"k.nii.gz does not lie on the grid of its scan \(8 x 7 x 5 voxels, the scan has 8 x 7 x 6\)"


def _field(folder: Path) -> str:
    write_itk_field(folder / "u.nii.gz", np.zeros((3, 4, 4, 4)), axis_aligned((4, 4, 4), (1, 1, 1)))
    return r"u.nii.gz does not lie on the grid of the fixed image"


def _same_scan(folder: Path) -> str:
    (folder / "m.nii.gz").write_bytes((folder / "f.nii.gz").read_bytes())
    return r"f.nii.gz and .*m.nii.gz are the same scan"


@pytest.mark.parametrize(
    "damage",
    [
        _nan,
        _constant,
        _missing,
        _truncated,
        _two_dimensional,
        _single_slice,
        _singular,
        _infinite_affine,
        _zero_spacing,
        _no_overlap,
        _label_grid,
        _label_values,
        _fractional_labels,
        _mask_grid,
        _field,
        _same_scan,
    ],
    ids=lambda f: f.__name__,
)
def test_what_is_wrong_with_a_case_is_said_with_file_and_way_out(tmp_path, damage):
    folder = tmp_path / "mine"
    for name in ("f", "m"):
        scan(folder / f"{name}.nii.gz")
    labels(folder / "l.nii.gz", 1)
    labels(folder / "k.nii.gz", 1)
    write_itk_field(folder / "u.nii.gz", np.zeros((3, *SHAPE)), axis_aligned(SHAPE, (1, 1, 1)))
    row = {"case": "a", "fixed": "f.nii.gz", "moving": "m.nii.gz"}
    row |= {"fixed_labels": "l.nii.gz", "fixed_mask": "k.nii.gz", "true_field": "u.nii.gz", "true_image": "f.nii.gz"}
    options = pairs(folder, [row], labels={1: "liver"})
    record, _ = index(folder, "pairs", options=options)  # sound before the damage
    assert record["labels"] == {"1": "liver"}
    message = damage(folder)
    with pytest.raises(DataError, match=rf"(?s)1 problem in data set set .*{message}"):
        index(folder, "pairs", options=options)


def test_unrelated_frames_are_accepted_when_stated(tmp_path):
    folder = tmp_path / "mine"
    scan(folder / "f.nii.gz")
    scan(folder / "m.nii.gz", origin=(500, 0, 0))
    options = pairs(folder, [{"case": "a", "fixed": "f.nii.gz", "moving": "m.nii.gz"}], frames="centred")
    assert index(folder, "pairs", options=options)[0]["frames"] == "centred"


def test_overlap_of_grids_that_touch_and_of_rotated_ones(oblique_grid):
    one = axis_aligned((10, 10, 10), (1, 1, 1))
    touching = Grid(one.shape, one.affine.copy())
    touching.affine[0, 3] += 10
    near = Grid(one.shape, one.affine.copy())
    near.affine[0, 3] += 9.9
    assert not overlap(one, touching)
    assert overlap(one, near)
    assert overlap(one, oblique_grid)


def test_all_problems_are_collected_ten_are_shown_and_an_earlier_index_stays(tmp_path):
    folder = synthrad(tmp_path / "data", *(f"1PA0{i:02}" for i in range(6)))
    out = tmp_path / "index"
    index(folder, "synthrad2023", out=out, options={"expected_cases": 6})
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for i in range(6):
        for part in ("mr", "ct"):
            scan(folder / f"Task1/pelvis/1PA0{i:02}/{part}.nii.gz", (1, 1, 3))
    with pytest.raises(DataError) as caught:
        index(folder, "synthrad2023", out=out, options={"expected_cases": 6})
    lines = str(caught.value).splitlines()
    # Every scan has a wrong spacing, and every mask is on another grid than both scans.
    assert lines[0] == f"24 problems in data set set ({folder}):"
    assert "1PA000/mr.nii.gz has voxels of 1 x 1 x 3 mm, and the published scans have 1 x 1 x 2.5 mm" in lines[1]
    assert (len(lines), lines[-1]) == (12, "  ... and 14 more")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_same_scan_in_two_cases_is_refused(tmp_path):
    folder = synthrad(tmp_path / "data", "1PA001", "1PA002")
    copy = folder / "Task1/pelvis/1PA002/ct.nii.gz"
    copy.write_bytes((folder / "Task1/pelvis/1PA001/ct.nii.gz").read_bytes())
    with pytest.raises(
        DataError, match=r"1PA002/ct.nii.gz \(case 1PA002\) and .*1PA001/ct.nii.gz .* are the same file"
    ):
        index(folder, "synthrad2023", {"train": 1, "test": 1}, options={"expected_cases": 2})


def test_the_index_does_not_depend_on_the_number_of_workers(tmp_path):
    folder = synthrad(tmp_path / "data", *(f"1PA00{i}" for i in range(4)))
    results = []
    for workers in (1, 2):
        out = tmp_path / f"index{workers}"
        index(folder, "synthrad2023", {"train": 2, "test": 2}, out, options={"expected_cases": 4}, workers=workers)
        results.append([(out / name).read_bytes() for name in ("cases.tsv", "dataset.json")])
    assert results[0] == results[1]


def test_max_cases_needs_neither_the_whole_archive_nor_its_count(tmp_path):
    folder = synthrad(tmp_path / "data", *(f"1PA00{i}" for i in range(5)))
    with pytest.raises(DataError, match=r"holds 5 complete cases, and 180 were expected"):
        index(folder, "synthrad2023", "rbg-pelvis")
    record, rows = index(folder, "synthrad2023", "rbg-pelvis", max_cases=3)
    assert sorted(row["split"] for row in rows) == ["test", "train", "validation"]
    assert "2 of 5 cases are in no split and aren't used." in record["notes"]


def test_a_scan_without_a_position_is_noted(tmp_path):
    folder = tmp_path / "mine"
    scan(folder / "f.nii.gz")
    image = nib.Nifti1Image(np.arange(336, dtype=np.int16).reshape(SHAPE), None)
    assert (image.header["sform_code"], image.header["qform_code"]) == (0, 0)
    nib.save(image, folder / "m.nii.gz")
    record, _ = index(
        folder, "pairs", options=pairs(folder, [{"case": "a", "fixed": "f.nii.gz", "moving": "m.nii.gz"}])
    )
    assert record["notes"] == ["m.nii.gz of a states no position (sform_code and qform_code are 0)"]


def test_an_incomplete_index_or_download_is_not_read(tmp_path):
    folder = synthrad(tmp_path / "data", "1PA001")
    with pytest.raises(DataError, match="holds no complete index"):
        read_index(tmp_path)
    (folder / ".downloads").mkdir()
    with pytest.raises(DataError, match="the download of synthrad2023-task1-pelvis into .* was not finished"):
        index(folder, "synthrad2023")


def test_data_that_is_not_there_is_described(tmp_path):
    with pytest.raises(DataError) as caught:
        index(tmp_path / "nowhere", "synthrad2023")
    for part in ("Task1.zip, 14.5 GB", "CC BY-NC 4.0", f"{{source: {tmp_path / 'nowhere'}}}", "{source: phantom}"):
        assert part in str(caught.value)


# --- phantoms --------------------------------------------------------------------------------------------------------


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


# --- splits ----------------------------------------------------------------------------------------------------------


def cases(n: int, **more) -> list[CaseFiles]:
    return [CaseFiles(f"c{i:03}", Path(f"f{i}"), Path(f"m{i}"), **more) for i in range(n)]


def counts(drawn) -> dict[str, int]:
    values = list(drawn.of_case.values())
    return {name: values.count(name) for name in dict.fromkeys(values)}


def test_a_split_is_drawn_by_seed_and_data_set_and_not_by_order():
    many = cases(20)
    rule = {"train": 10, "validation": 2, "test": 5}
    first = draw_split(many, rule, 0, "a")
    assert draw_split(many[::-1], rule, 0, "a") == first
    assert sorted(counts(first).items()) == [("test", 5), ("train", 10), ("validation", 2)]
    assert draw_split(many, rule, 1, "a").of_case != first.of_case
    assert draw_split(many, rule, 0, "b").of_case != first.of_case
    assert first.rule == "train 10 / validation 2 / test 5 of 20 patients, drawn by seed 0"


def test_every_patient_is_as_likely_to_be_tested():
    tested = np.zeros(10)
    for seed in range(400):
        drawn = draw_split(cases(10), {"train": 7, "test": 3}, seed)
        tested += [drawn.of_case[f"c{i:03}"] == "test" for i in range(10)]
    # 400 draws with probability 0.3: mean 120, sd 9.2.
    assert abs(tested - 120).max() < 4 * 9.2


def test_fractions_use_everybody_once_and_give_every_split_somebody():
    drawn = draw_split(cases(10), {"train": 0.7, "validation": 0.1, "test": 0.2}, 0)
    assert sorted(counts(drawn).items()) == [("test", 2), ("train", 7), ("validation", 1)]
    assert len(drawn.of_case) == 10
    assert sorted(counts(draw_split(cases(11), {"train": 0.5, "test": 0.25}, 0)).items()) == [("test", 3), ("train", 5)]
    drawn = draw_split(cases(3), {"train": 0.9, "validation": 0.05, "test": 0.05}, 0)
    assert sorted(drawn.of_case.values()) == ["test", "train", "validation"]


def test_scans_of_one_patient_stay_together():
    many = [replace(case, patient=f"p{i // 3}") for i, case in enumerate(cases(30))]
    drawn = draw_split(many, {"train": 6, "test": 4}, 0)
    for i in range(0, 30, 3):
        assert len({drawn.of_case[f"c{j:03}"] for j in range(i, i + 3)}) == 1
    assert sorted(counts(drawn).items()) == [("test", 12), ("train", 18)]
    leaking = [replace(case, split="train" if i else "test") for i, case in enumerate(many[:3])]
    with pytest.raises(DataError, match=r"patient p0 is in two splits \(c000 is in test and c002 is in train\)"):
        draw_split(leaking, None, 0)


def test_too_few_patients_and_senseless_rules():
    with pytest.raises(DataError, match=r"needs 165 patients, but data set pelvis has 42. Ask for fewer, or for frac"):
        draw_split(cases(42), "rbg-pelvis", 0, "pelvis")
    with pytest.raises(DataError, match=r"locor-abdomen names 0002, .*, which the data set hasn't: it has c000, c001"):
        draw_split(cases(2), "locor-abdomen", 0)
    with pytest.raises(ConfigError, match=r"split names \['valid'\]; the splits are: train, validation, test"):
        draw_split(cases(4), {"train": 2, "valid": 2}, 0)
    with pytest.raises(ConfigError, match="add up to 1.1, more than 1"):
        draw_split(cases(4), {"train": 0.6, "test": 0.5}, 0)
    with pytest.raises(ConfigError, match=r"split train: -1: write counts of patients"):
        draw_split(cases(4), {"train": -1, "test": 2}, 0)
    with pytest.raises(ConfigError, match=r"split 'rbg-pelvs' is neither a file nor a known name \(rbg-pelvis, "):
        draw_split(cases(4), "rbg-pelvs", 0)
    with pytest.raises(ConfigError, match="no split comes with this data"):
        draw_split(cases(4), "published", 0)
    with pytest.raises(DataError, match="these cases have no split, but others have: c001"):
        draw_split([replace(cases(1)[0], split="test"), cases(2)[1]], None, 0)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_hold_the_papers_numbers(preset):
    expected = {
        "rbg-pelvis": (112, 18, 35), "rbg-cbct": (126, 18, 36), "rbg-ixi": (25, 5, 10), "locor-ixi": (0, 3, 49),
        "locor-abdomen": (0, 3, 4), "locor-cermep": (0, 3, 34), "imse-brats": (187, 0, 20),
        "imse-clinical": (80, 0, 18), "cao": (12, 1, 2),
    }[preset]  # fmt: skip
    if preset == "locor-cermep":
        there = [CaseFiles(f"sub-{i:04}", Path("f"), Path("m")) for i in range(1, 38)]
    elif preset == "locor-abdomen":
        there = [CaseFiles(f"{i:04}", Path("f"), Path("m")) for i in range(2, 17, 2)]
    else:
        there = cases(200 if sum(expected) < 200 else 335)
    drawn = list(draw_split(there, preset, 0).of_case.values())
    assert tuple(drawn.count(name) for name in ("train", "validation", "test")) == expected
    if preset == "locor-abdomen":
        assert "0006" not in draw_split(there, preset, 0).of_case


def test_max_cases_keeps_the_proportions_and_every_split():
    drawn = draw_split(cases(180), "rbg-cbct", 0, max_cases=20)
    assert sorted(counts(drawn).items()) == [("test", 4), ("train", 14), ("validation", 2)]
    assert "scaled to train 14 / validation 2 / test 4 as at most 20 cases were asked for" in drawn.rule
    # A partial download has fewer cases than the paper.
    assert sorted(counts(draw_split(cases(4), "rbg-cbct", 0, max_cases=4)).items()) == [
        ("test", 1), ("train", 2), ("validation", 1),
    ]  # fmt: skip
    there = [CaseFiles(f"sub-{i:04}", Path("f"), Path("m")) for i in range(1, 38)]
    assert sorted(counts(draw_split(there, "locor-cermep", 0, max_cases=5)).items()) == [("test", 4), ("validation", 1)]
    with pytest.raises(DataError, match="2 patients are too few for the splits train, validation, test: allow 3"):
        draw_split(cases(180), "rbg-cbct", 0, max_cases=2)


def test_a_split_file_is_read_beside_the_data_and_its_mistakes_are_listed(tmp_path):
    (tmp_path / "split.tsv").write_text("case\tsplit\nc001\ttest\nc000\ttrain\n")
    drawn = draw_split(cases(3), "split.tsv", 0, folder=tmp_path)
    assert (drawn.of_case, drawn.rule) == ({"c000": "train", "c001": "test"}, "from split.tsv")
    (tmp_path / "bad.tsv").write_text("c001 test\nc009\ttest\nc000\ttrain\nc000\ttest\n")
    with pytest.raises(DataError) as caught:
        draw_split(cases(3), str(tmp_path / "bad.tsv"), 0)
    for part in (
        "line 1 is ['c001 test']",
        "line 2: there is no case 'c009'",
        "line 4: case 'c000' is in train already",
    ):
        assert part in str(caught.value)


# --- real scans ------------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_real_gliomas_in_the_layout_of_brats(real_scans, tmp_path):
    source = real_scans / "tcga_glioma_brats_space"
    for subject in ("TCGA-DU-7294", "TCGA-FG-6692"):
        case = f"BraTS19_{subject.replace('-', '_')}_1"
        folder = tmp_path / "MICCAI_BraTS_2019_Data_Training/LGG" / case
        folder.mkdir(parents=True)
        for theirs, ours in (("t1", "t1"), ("t2", "t2"), ("fla", "flair"), ("seg_mav", "seg")):
            (folder / f"{case}_{ours}.nii.gz").symlink_to(source / f"{subject}_{theirs}.nii.gz")
    record, rows = index(tmp_path, "brats", out=tmp_path / "out", options={"fixed": "t1", "moving": "flair"})
    assert [row["fixed_shape"] for row in rows] == ["240x240x155"] * 2
    assert {row["fixed_orientation"] for row in rows} == {"LPS"}
    assert rows[0]["fixed_sha256"].startswith("956a6a4ec4b571be")
    assert (record["source"], record["n"]["test"]) == ("real", 2)


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
