"""Own pairs: a CSV of files, what its index holds, and the mistakes that are named."""

import nibabel as nib
import numpy as np
import pytest
from archive_files import SHAPE, index, labels, listed, pairs, scan

from modalign.datasets.base import CaseFiles
from modalign.datasets.index import COLUMNS
from modalign.datasets.labels import read_labels, stacked_masks
from modalign.errors import DataError
from modalign.volumes import Grid, Volume, axis_aligned, to_sitk


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
