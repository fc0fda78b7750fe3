"""Own pairs: a CSV of files, what its index holds, the mistakes that are named, and the workflow on them."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import scipy.ndimage as ndi
import yaml
from archive_files import SHAPE, index, labels, listed, pairs, scan

from modalign.datasets import reader
from modalign.datasets.base import CaseFiles
from modalign.datasets.index import COLUMNS
from modalign.datasets.labels import read_labels, stacked_masks
from modalign.datasets.watch import folder_stamp
from modalign.errors import ConfigError, DataError
from modalign.metrics.table import read_metrics
from modalign.preprocess.load import load_raw
from modalign.volumes import Grid, Volume, axis_aligned, to_sitk

ROOT = Path(__file__).parents[1]
SNAKEMAKE = Path(sys.executable).with_name("snakemake")


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
    (tmp_path / "pairs.csv").write_text("Case, Fixed, Moving\na, x.nii, y.nii\n")
    (case,) = listed("pairs", tmp_path, fixed="mr", moving="ct")
    assert case == CaseFiles("a", tmp_path / "x.nii", tmp_path / "y.nii")


def test_a_patients_cases_may_share_a_scan_within_one_split(tmp_path):
    folder = tmp_path / "mine"
    for name in ("ct", "cbct1", "cbct2"):
        scan(folder / f"{name}.nii.gz")
    rows = [{"case": f"a{i}", "patient": "a", "fixed": f"cbct{i}.nii.gz", "moving": "ct.nii.gz"} for i in (1, 2)]
    _, found = index(folder, "pairs", options=pairs(folder, rows))
    assert [(row["case"], row["patient"], row["moving"]) for row in found] == [
        ("a1", "a", "ct.nii.gz"),
        ("a2", "a", "ct.nii.gz"),
    ]
    for row in rows:
        row["patient"] = row["case"]
    with pytest.raises(DataError, match=r"are the same file: .* or, if both are of one patient, say so .* `patient`"):
        index(folder, "pairs", options=pairs(folder, rows))


def test_the_background_is_no_structure():
    for labels_of, message in (
        ({0: "background", 1: "liver"}, "0 is the background"),
        ({1: "a", 2: "a"}, "of its own"),
    ):
        with pytest.raises(ConfigError, match=message):
            reader("pairs").parse({"fixed": "mr", "moving": "ct", "labels": labels_of})


def test_paths_may_have_any_character(tmp_path):
    folder = tmp_path / "run=3;b"
    for name in ("f", "m"):
        scan(folder / f"patient=01/{name}.nii.gz")
    labels(folder / "patient=01/seg.nii.gz", 1)
    row = {"case": "a", "fixed": "patient=01/f.nii.gz", "moving": "patient=01/m.nii.gz"}
    row["fixed_labels"] = "patient=01/seg.nii.gz"
    info, (found,) = index(folder, "pairs", options=pairs(folder, [row]), out=tmp_path / "index")
    assert load_raw(info, found).fixed_labels.data.sum() == 9


def test_the_stamp_of_a_folder_follows_its_files_and_is_cheap(tmp_path):
    for case in range(2000):
        (tmp_path / f"sub-{case:04}").mkdir()
        (tmp_path / f"sub-{case:04}" / "t1.nii.gz").touch()
    start = time.process_time()
    before = folder_stamp(tmp_path, "ixi", {})
    assert time.process_time() - start < 2
    assert again(tmp_path, "ixi") == before
    (tmp_path / "sub-0007/t1.nii.gz").write_text("replaced")
    replaced = again(tmp_path, "ixi")
    (tmp_path / "sub-0008/t1.nii.gz").unlink()
    assert len({before, replaced, again(tmp_path, "ixi")}) == 3


def test_the_stamp_of_own_pairs_follows_the_scans_that_the_csv_names(tmp_path):
    for name in ("f", "m", "elsewhere"):
        scan(tmp_path / "scans" / f"{name}.nii.gz")
    rows = [{"case": "a", "fixed": "../scans/f.nii.gz", "moving": "../scans/m.nii.gz"}]
    options = pairs(tmp_path / "mine", rows)
    before = folder_stamp(tmp_path / "mine", "pairs", options)
    (tmp_path / "scans/elsewhere.nii.gz").unlink()
    (tmp_path / "mine/notes.txt").touch()
    assert folder_stamp(tmp_path / "mine/pairs.csv", "pairs", options) == before
    scan(tmp_path / "scans/m.nii.gz", shape=(9, 9, 9))
    assert folder_stamp(tmp_path / "mine", "pairs", options) != before
    (tmp_path / "mine/pairs.csv").write_text("no columns")  # for the index to complain about
    assert folder_stamp(tmp_path / "mine", "pairs", options) != before


def again(folder, reader):
    """The stamp as a new process has it."""
    from modalign.datasets import watch

    watch._tree.cache_clear()
    return folder_stamp(folder, reader, {})


# --- the workflow ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """config/own-pairs.yaml on two tiny pairs with inverted contrast, the second moved by two voxels of 3 mm."""
    if not SNAKEMAKE.exists():
        pytest.skip("snakemake is not installed")
    folder = tmp_path_factory.mktemp("own")
    rows = []
    for case, shift in (("a", 0), ("b", 2)):
        tissue = ndi.gaussian_filter(np.random.default_rng(shift).normal(size=(16, 16, 16)), 2.5)
        tissue = (tissue - tissue.min()) / np.ptp(tissue) * 1000
        scan(folder / f"data/own/{case}_mr.nii.gz", (3, 3, 3), tissue.shape, data=tissue.astype(np.int16))
        moved = np.roll(1000 - tissue, shift, axis=0).astype(np.int16)
        scan(folder / f"data/own/{case}_ct.nii.gz", (3, 3, 3), tissue.shape, data=moved)
        rows.append({"case": case, "split": "test", "fixed": f"{case}_mr.nii.gz", "moving": f"{case}_ct.nii.gz"})
    pairs(folder / "data/own", rows)
    few = {"overrides": {"rigid": False}, "measures": ["nmi"], "extra_methods": ["identity", "affine-mi"]}
    (folder / "few.yaml").write_text(yaml.safe_dump({"datasets": {"own-pairs": few}, "statistics": {"bootstrap": 100}}))
    result = run_own_pairs(folder, "results/comparisons/own-pairs/table.csv")
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


def run_own_pairs(folder, *options):
    configs = [ROOT / "config.yaml", ROOT / "config/own-pairs.yaml", folder / "few.yaml"]
    command = [SNAKEMAKE, "--snakefile", ROOT / "Snakefile", "--directory", folder, "--cores", "1"]
    command += [*options, "--configfile", *configs]
    environment = os.environ | {"PATH": f"{SNAKEMAKE.parent}:{os.environ['PATH']}"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=ROOT)


def reason_for_index(folder):
    """Why the plan holds the job index_cases; empty if it doesn't."""
    result = run_own_pairs(folder, "results/data/own-pairs/cases.tsv", "--dry-run")
    assert result.returncode == 0, result.stdout + result.stderr
    found = re.search(r"^rule index_cases:.*?reason: (.*?)$", result.stdout, re.M | re.S)
    return found[1] if found else ""


@pytest.mark.workflow
def test_own_pairs_are_aligned_measured_and_compared(finished):
    nmi = {
        method: {r.case: r.value for r in read_metrics(path) if r.metric == "nmi"}
        for method in ("identity", "affine-mi")
        if (path := finished / f"results/metrics/own-pairs/{method}/seed0.tsv").is_file()
    }
    assert set(nmi) == {"identity", "affine-mi"}
    assert nmi["identity"]["a"] > 1.2 * nmi["identity"]["b"]
    assert nmi["affine-mi"]["b"] > 1.1 * nmi["identity"]["b"]
    assert "affine-mi" in (finished / "results/comparisons/own-pairs/table.csv").read_text()


@pytest.mark.workflow
def test_the_index_is_made_again_once_pairs_or_scans_have_changed(finished):
    assert reason_for_index(finished) == ""
    csv = finished / "data/own/pairs.csv"
    original = csv.read_text()
    csv.write_text("\n".join(original.splitlines()[:2]) + "\n")
    assert "Updated input files: data/own/pairs.csv" in reason_for_index(finished)
    csv.write_text(original)
    os.utime(csv, (1, 1))  # older than the index, as it was
    data = np.random.default_rng(5).integers(0, 1000, (16, 16, 16)).astype(np.int16)
    scan(finished / "data/own/b_ct.nii.gz", (3, 3, 3), data.shape, data=data)
    assert "Params have changed" in reason_for_index(finished)
