"""The command line as a user meets it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import scipy.ndimage as ndi
import SimpleITK as sitk
from typer.testing import CliRunner

from modalign.align_files import align_pair, parse_json
from modalign.cli import app, main
from modalign.errors import ConfigError, DataError
from modalign.volumes import Volume, from_nibabel, read_volume, write_volume

ROOT = Path(__file__).parents[1]


def modalign(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "modalign", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A T1-like and a T2-like scan of one object, the second two voxels further along x and on a coarser grid."""
    folder = tmp_path_factory.mktemp("pair")
    tissue = ndi.gaussian_filter(np.random.default_rng(0).normal(size=(40, 36, 24)), 3)
    tissue = (tissue - tissue.min()) / np.ptp(tissue)
    tissue[:6] = tissue[-6:] = tissue[:, :6] = tissue[:, -6:] = 0
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    write_volume(folder / "t1.nii.gz", Volume(tissue.astype(np.float32), affine))
    shifted = np.roll(np.where(tissue > 0, 1 - tissue, 0), 2, axis=0).astype(np.float32)
    write_volume(folder / "t2.nii.gz", Volume(shifted, affine))
    return folder


def test_a_pair_is_aligned_and_the_field_is_what_itk_expects(pair, tmp_path):
    result = modalign("align", pair / "t1.nii.gz", pair / "t2.nii.gz", "--method", "affine", "-o", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["method"]["method"] == "affine"
    assert record["seconds"] > 0
    image = read_volume(tmp_path / "out" / "image.nii.gz")
    assert image.grid.same_as(read_volume(pair / "t1.nii.gz").grid)
    field = sitk.ReadImage(str(tmp_path / "out" / "field.nii.gz"), sitk.sitkVectorFloat64)
    moving = sitk.ReadImage(str(pair / "t2.nii.gz"))
    warped = sitk.Resample(moving, moving, sitk.DisplacementFieldTransform(sitk.Image(field)), sitk.sitkLinear, 0.0)
    inside = (slice(8, -8),) * 3
    difference = np.abs(sitk.GetArrayFromImage(warped).T - image.data)[inside]
    assert np.median(difference) < 0.01 * np.ptp(image.data)
    # The shift of two voxels of 2 mm along +x (right) is 4 mm to the left in LPS, thus negative.
    assert sitk.GetArrayFromImage(field)[12, 18, 20, 0] == pytest.approx(-4, abs=1)


def test_errors_are_one_message_and_no_traceback(pair, tmp_path):
    missing = modalign("align", pair / "no.nii.gz", pair / "t2.nii.gz", "--method", "identity", "-o", tmp_path)
    assert missing.returncode == 1
    assert missing.stderr.splitlines()[0] == f"error: {pair / 'no.nii.gz'} does not exist"
    unknown = modalign("align", pair / "t1.nii.gz", pair / "t2.nii.gz", "--method", "sin", "-o", tmp_path)
    assert unknown.stderr.startswith("error: there is no method 'sin'; the methods are: affine")
    bad = modalign("align", pair / "t1.nii.gz", pair / "t2.nii.gz", "--options", "{preset}", "-o", tmp_path)
    assert bad.stderr.startswith("error: --options has to be JSON")


@pytest.mark.parametrize("text", ["[1]", '"a"', "@{folder}/none.json", "@{folder}"])
def test_options_that_are_no_names_and_values(pair, text):
    with pytest.raises(ConfigError, match="--options"):
        parse_json(text.format(folder=pair), "--options", dict)


@pytest.mark.parametrize("text", ["3", "0-of-2", "3-of-2", "a-of-b"])
def test_shards_that_cannot_be(text, tmp_path):
    result = modalign("align-cases", tmp_path, "--spec", "{}", "--out", tmp_path, "--shard", text)
    assert result.stderr.startswith(f"error: --shard is '{text}': write i-of-n")


SPEC = '{"method": "identity", "dimension": 3}'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", ".", "--spec", "{}", "--model", "m"], "--spec: it has no dimension: write 2 or 3, as in {"),
        (["align-cases", ".", "--spec", '{"method": "syn"}', "--out", "o"], "--spec: it has no dimension: write 2 or"),
        (["train", ".", "--spec", '{"dimension": 3}', "--model", "m"], "--spec: {'dimension': 3} names no method: wri"),
        (
            ["train", ".", "--spec", '{"method": "syn", "dimension": 4}', "--model", "m"],
            "--spec: its dimension is 4: write 2 or 3",
        ),
        (
            ["train", ".", "--spec", '{"method": "syn", "dimension": 3, "option": {}}', "--model", "m"],
            "--spec: there is no entry 'option'; the entries are: method, dimension, options, needs",
        ),
        (
            [
                "train",
                ".",
                "--spec",
                '{"method": "demons", "dimension": 3, "needs": {"translator": "x"}}',
                "--model",
                "m",
            ],
            "--spec: needs: translator: 'x' names no method: write {",
        ),
        (
            ["align-cases", ".", "--spec", SPEC, "--out", "o", "--time-limit", "soon"],
            "--time-limit is 'soon': write minutes, such as 90min, or none",
        ),
        (
            ["align-cases", ".", "--spec", SPEC, "--out", "o", "--splits", "test,tset"],
            "--splits: there is no split 'tset': write train, validation, test, separated by commas",
        ),
        (
            ["measure", ".", "run.json", "--method", "m", "--measures", "gc", "--out", "o.tsv", "--options", "[1]"],
            "--options has to be JSON",
        ),
        (
            [
                "measure",
                ".",
                "run.json",
                "--method",
                "m",
                "--measures",
                "gc",
                "--out",
                "o.tsv",
                "--options",
                '{"gc": 1}',
            ],
            "--options: gc is 1: write its options by name",
        ),
        (
            ["align", "a", "b", "-o", "o", "--method", "demons", "--mask-fixed", "m", "--needs", '{"translator": {}}'],
            "--needs: translator: {} names no method: write {",
        ),
        (["failures", "nowhere"], "nowhere is not a folder: name the results folder of a run"),
    ],
)
def test_what_is_misspelt_is_refused_before_anything_is_done(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["modalign", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    # A text, which Python prints with exit status 1.
    assert str(ended.value).startswith(f"error: {message}")
    assert list(tmp_path.iterdir()) == []


def test_a_results_folder_without_failures_says_so(tmp_path):
    done = modalign("failures", tmp_path)
    assert (done.returncode, done.stderr.splitlines()[0]) == (0, f"nothing failed in {tmp_path}")


def test_what_an_earlier_run_left_does_not_pass_for_a_result(pair, tmp_path):
    """A field beside the image of a method that gives none, or a record of a run that failed, would be another's."""
    files = [pair / "t1.nii.gz", pair / "t2.nii.gz"]
    align_pair(*files, tmp_path, method="identity", dimension=3)
    assert (tmp_path / "run.json").is_file()
    (tmp_path / "inverse_field.nii.gz").write_text("of another run")
    with pytest.raises(DataError, match="nothing to register"):
        blank = tmp_path / "blank.nii.gz"
        write_volume(blank, Volume(np.zeros((40, 36, 24), np.float32), np.diag([2.0, 2.0, 2.0, 1.0])))
        align_pair(files[0], blank, tmp_path, method="affine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blank.nii.gz"]


def test_images_and_masks_that_hold_nothing_to_align(pair, tmp_path):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    write_volume(tmp_path / "empty.nii.gz", Volume(np.zeros((40, 36, 24), np.uint8), affine))
    files = [pair / "t1.nii.gz", pair / "t2.nii.gz"]
    with pytest.raises(DataError, match=r"the mask .*empty\.nii\.gz is empty"):
        align_pair(*files, tmp_path / "out", method="affine", fixed_mask=tmp_path / "empty.nii.gz")
    colours = np.zeros((8, 8, 8), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name, image, words in (
        ("rgb", nib.Nifti1Image(colours, affine), "one number per voxel"),
        ("complex", nib.Nifti1Image(np.ones((8, 8, 8), np.complex64), affine), "one number per voxel"),
        ("none", nib.Nifti1Image(np.ones((8, 0, 8), np.float32), affine), "there is no voxel in it"),
    ):
        with pytest.raises(DataError, match=words):
            from_nibabel(image, name)


def test_where_nothing_can_be_written_nothing_is_started(pair, tmp_path):
    (tmp_path / "out").write_text("in the way")
    result = modalign("align", pair / "t1.nii.gz", pair / "t2.nii.gz", "--method", "syn", "-o", tmp_path / "out" / "x")
    assert result.returncode == 1
    assert "can't write" in result.stderr
    assert "choose another folder" in result.stderr


def test_an_untrained_network_is_refused(pair, tmp_path):
    result = modalign("align", pair / "t1.nii.gz", pair / "t2.nii.gz", "--method", "voxelmorph", "-o", tmp_path / "o")
    assert "method voxelmorph has to be trained first: name the folder of its model" in result.stderr


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("syn", '{"iterations": [10, 5, 0], "linear_iterations": [100, 50, 0, 0]}'),
        ("niftyreg", '{"iterations": 20, "affine_iterations": 2}'),
    ],
)
def test_masks_on_the_command_line_keep_what_lies_outside_out(pair, tmp_path, rng, method, options):
    """Two pairs that differ only outside the masks come out alike with them, and apart without them."""
    scans = [read_volume(pair / f"t{k}.nii.gz") for k in (1, 2)]
    fields = {}
    for clutter in ("a", "b"):
        for name, scan in zip(("fixed", "moving"), scans, strict=True):
            noise = 0.5 * ndi.gaussian_filter(rng.random(scan.shape), 1).astype(np.float32)
            write_volume(tmp_path / f"{name}-{clutter}.nii.gz", scan.like(np.where(scan.data > 0, scan.data, noise)))
            write_volume(tmp_path / f"{name}-mask.nii.gz", scan.like((scan.data > 0).astype(np.uint8)))
        files = [tmp_path / f"{name}-{clutter}.nii.gz" for name in ("fixed", "moving")]
        masks = ["--mask-fixed", tmp_path / "fixed-mask.nii.gz", "--mask-moving", tmp_path / "moving-mask.nii.gz"]
        for used in (True, False):
            out = tmp_path / f"{clutter}-{used}"
            more = [*(masks if used else []), "--method", method, "--options", options, "--device", "cpu"]
            done = CliRunner().invoke(app, [str(word) for word in ("align", *files, *more, "-o", out)])
            assert done.exit_code == 0, done.output
            assert json.loads((out / "run.json").read_text())["method"]["options"].get("use_masks", False) is used
            fields[clutter, used] = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "field.nii.gz")))
    body = ndi.binary_erosion(scans[0].data > 0, iterations=4).T
    apart = [np.abs(fields["a", used] - fields["b", used])[body].mean() for used in (True, False)]
    assert apart[0] < 0.5 * apart[1]


def test_masks_that_a_method_cannot_use_are_refused(pair, tmp_path):
    files = [pair / "t1.nii.gz", pair / "t2.nii.gz"]
    refused = modalign("align", *files, "--method", "identity", "--mask-fixed", files[0], "-o", tmp_path / "out")
    assert refused.stderr.startswith("error: method identity can't use masks: leave them out, or take one that can")
    assert not (tmp_path / "out").exists()


def test_methods_lists_options_with_defaults():
    listed = modalign("methods").stdout
    assert "syn: SyN (registration" in listed
    assert "voxelmorph: VoxelMorph (registration, 2D and 3D, trained)" in listed
    assert "bending_energy" in listed
