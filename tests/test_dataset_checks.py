"""What the index checks in scans before anything else reads them."""

import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from archive_files import SHAPE, index, labels, pairs, scan, synthrad

from modalign.datasets.check import have_common_points
from modalign.datasets.index import read_index
from modalign.errors import DataError
from modalign.spatial.fields import write_itk_field
from modalign.volumes import Grid, axis_aligned


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
    assert not have_common_points(one, touching)
    assert have_common_points(one, near)
    # The boxes around both along the axes overlap; the grids themselves lie side by side.
    assert not have_common_points(one, oblique_grid)
    affine = oblique_grid.affine.copy()
    affine[:3, 3] = -affine[:3, :3] @ [19.5, 17.5, 9.5]  # its middle in the middle of the other
    assert have_common_points(one, Grid(oblique_grid.shape, affine))


def rotated(grid: Grid, degrees: float, centre_mm: tuple[float, float, float]) -> Grid:
    """The grid turned about z, with its middle at `centre_mm`."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = grid.affine.copy()
    affine[:3, :3] = turn @ grid.affine[:3, :3]
    affine[:3, 3] = np.asarray(centre_mm) - affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2)
    return Grid(grid.shape, affine)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        # Two thin plates at 45 degrees, side by side: the boxes around them along the axes overlap, they don't.
        ((45.0, (6.0, -6.0, 0.0)), False),
        ((45.0, (1.0, -1.0, 0.0)), True),
        # Crossed in the middle, with no corner of one in the other.
        ((-45.0, (0.0, 0.0, 0.0)), True),
        # A corner of one touches a face of the other.
        ((0.0, (22.0, 22.0, 0.0)), False),
    ],
)
def test_overlap_of_oblique_grids(second, expected):
    plate = axis_aligned((40, 4, 4), (1, 1, 1))
    first = rotated(plate, 45.0, (0.0, 0.0, 0.0))
    other = rotated(plate, *second)
    assert have_common_points(first, other) == have_common_points(other, first) == expected


def test_the_voxel_size_is_compared_axis_by_axis(tmp_path):
    folder = synthrad(tmp_path / "data", "1PA001")
    for part in ("mr", "ct", "mask"):
        scan(folder / f"Task1/pelvis/1PA001/{part}.nii.gz", (2.5, 1, 1))
    with pytest.raises(DataError, match=r"mr.nii.gz has voxels of 2.5 x 1 x 1 mm, and the published .* 1 x 1 x 2.5 mm"):
        index(folder, "synthrad2023", options={"expected_cases": 1})


def test_the_index_holds_the_checksums_of_all_files(tmp_path):
    folder = tmp_path / "mine"
    for name in ("f", "m", "t"):
        scan(folder / f"{name}.nii.gz")
    labels(folder / "k.nii.gz", 1)
    labels(folder / "l.nii.gz", 1, 2)
    write_itk_field(folder / "u.nii.gz", np.zeros((3, *SHAPE)), axis_aligned(SHAPE, (1, 1, 1)))
    files = {"fixed": "f", "moving": "m", "moving_mask": "k", "fixed_labels": "l", "true_field": "u", "true_image": "t"}
    row = {"case": "a"} | {part: f"{name}.nii.gz" for part, name in files.items()}
    _, (found,) = index(folder, "pairs", options=pairs(folder, [row]))
    for part, name in files.items():
        assert found[f"{part}_sha256"] == hashlib.sha256((folder / f"{name}.nii.gz").read_bytes()).hexdigest()
    assert found["fixed_mask_sha256"] == found["moving_labels_sha256"] == ""
    before = found["fixed_labels_sha256"]
    labels(folder / "l.nii.gz", 2, 1)
    assert index(folder, "pairs", options=pairs(folder, [row]))[1][0]["fixed_labels_sha256"] != before


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
