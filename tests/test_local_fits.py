"""Locor's figure 1: the fits are weighted least squares, learned functions follow what polynomials can't."""

import numpy as np
import pytest
import scipy.ndimage as ndi

from modalign.cases import CaseStore, Intensity
from modalign.errors import ConfigError, DataError
from modalign.files import read_json, write_json
from modalign.report.local_fits import (
    DEGREE,
    REACH,
    RIDGE,
    choose_windows,
    fit_window,
    learn_basis,
    polynomial_basis,
    unit_intensity,
)
from modalign.report.paper_figures import RowFiles, figures_of, make_paper_figure
from modalign.volumes import Volume, write_volume

SHAPE = (36, 34, 12)


@pytest.fixture(scope="module")
def pair():
    """Two contrasts of which one is a function of the other with a narrow peak."""
    rng = np.random.default_rng(0)
    source = ndi.gaussian_filter(rng.standard_normal(SHAPE), 1.5)
    source = (source - source.min()) / np.ptp(source)
    target = np.exp(-((source - 0.5) ** 2) / 0.002) + 0.3 * source
    return source, target / target.max()


def test_a_polynomial_fit_is_that_of_a_weighted_least_squares_solver(pair):
    source, target = pair
    centre = (14, 20, 6)
    fit = fit_window(source, target, centre, {"polynomial": polynomial_basis()})
    box = tuple(slice(c - REACH, c + REACH + 1) for c in centre)
    distance = sum((g - REACH) ** 2 for g in np.meshgrid(*[np.arange(2 * REACH + 1)] * 3, indexing="ij"))
    weight = np.exp(-distance / 2).ravel()
    weight /= weight.sum()
    np.testing.assert_allclose(fit.weight, weight)
    powers = np.vander(source[box].ravel(), DEGREE + 1, increasing=True)
    rows = np.concatenate([powers * np.sqrt(weight)[:, None], np.sqrt(RIDGE) * np.eye(DEGREE + 1)])
    expected, *_ = np.linalg.lstsq(
        rows, np.append(target[box].ravel() * np.sqrt(weight), np.zeros(DEGREE + 1)), rcond=None
    )
    np.testing.assert_allclose(
        fit.curves["polynomial"], np.vander(fit.grid, DEGREE + 1, increasing=True) @ expected, atol=1e-4
    )
    residual = powers @ expected - target[box].ravel()
    assert fit.errors["polynomial"] == pytest.approx(np.sqrt(weight @ residual**2), rel=1e-3)


def test_learned_functions_follow_a_narrow_peak_better_than_more_polynomial_terms(pair):
    source, target = pair
    inside = np.ones(SHAPE, bool)
    bases = {"learned": learn_basis(source, target, inside, seed=0), "polynomial": polynomial_basis()}
    fits = [fit_window(source, target, centre, bases) for centre in choose_windows(source, target, inside, 6)]
    assert len(fits) == 3
    assert np.mean([f.errors["learned"] for f in fits]) < 0.7 * np.mean([f.errors["polynomial"] for f in fits])


def test_windows_lie_inside_where_both_images_vary_and_apart():
    image, other = np.zeros(SHAPE), np.zeros(SHAPE)
    rng = np.random.default_rng(0)
    image[5:14, 5:14] = rng.random((9, 9, SHAPE[2]))
    image[20:30, 20:30] = rng.random((10, 10, SHAPE[2]))
    other[20:30] = rng.random((10, *SHAPE[1:]))
    inside = np.zeros(SHAPE, bool)
    inside[2:-2, 2:-2] = True
    centres = choose_windows(image, other, inside, 4, count=2)
    assert centres[0][2] == 4
    assert all(18 <= x < 32 and 18 <= y < 32 for x, y, _ in centres)
    assert np.hypot(*np.subtract(centres[0], centres[-1])[:2]) >= (2 * REACH if len(centres) > 1 else 0)


def test_intensities_between_the_extremes_of_the_mask():
    image = np.array([-5.0, 0.0, 1.0, 2.0, 9.0])
    inside = np.array([False, True, True, True, False])
    np.testing.assert_allclose(unit_intensity(image, inside), [0, 0, 0.5, 1, 1])


@pytest.fixture
def store(tmp_path, pair):
    source, target = pair
    intensity = {"fixed_intensity": vars(Intensity()), "moving_intensity": vars(Intensity(1500.0, 500.0, "HU"))}
    for case in ("a", "b"):
        for part, data in (("fixed", target), ("moving", source)):
            write_volume(tmp_path / "store" / case / f"{part}.nii.gz", Volume(data.astype(np.float32)))
        record = {"case": case, "dataset": "cermep-t1-ct", "split": "test", **intensity}
        write_json(tmp_path / "store" / case / "case.json", record)
    cases = [{"case": case, "split": "test"} for case in ("a", "b")]
    manifest = {
        "dataset": "cermep-t1-ct",
        "labels": {},
        "cases": cases,
        "fixed_modality": "t1",
        "moving_modality": "ct",
    }
    write_json(tmp_path / "store" / "cases.json", manifest)
    return CaseStore(tmp_path / "store")


def row_files(store, aligned):
    return RowFiles(store.folder, store.folder, (aligned,), ())


def test_the_figure_shows_the_case_that_locor_aligned_best(store, tmp_path, pair, monkeypatch):
    monkeypatch.setattr("modalign.report.local_fits.ITERATIONS", 20)
    aligned = tmp_path / "aligned"
    for case in ("a", "b"):
        write_volume(aligned / case / "image.nii.gz", Volume(pair[0].astype(np.float32)))
    runs = [{"case": c, "ok": True, "notes": {"similarity": loss}} for c, loss in (("a", -3.0), ("b", -5.0))]
    write_json(aligned / "run-1-of-1.json", {"cases": runs})
    make_paper_figure("locor", "1", [row_files(store, aligned)], tmp_path / "figure_1")
    note = read_json(tmp_path / "figure_1.json")
    assert note["caption"].startswith("Case b, which Locor aligned with the lowest loss")
    assert "aligned CT against fixed T1 in 3 windows" in note["alt"]
    assert (tmp_path / "figure_1.png").stat().st_size < 200_000
    assert (tmp_path / "figure_1.pdf").is_file()
    first = (tmp_path / "figure_1.png").read_bytes()
    make_paper_figure("locor", "1", [row_files(store, aligned)], tmp_path / "figure_1")
    assert (tmp_path / "figure_1.png").read_bytes() == first


def test_without_an_aligned_case_it_says_so(store, tmp_path):
    write_json(tmp_path / "aligned" / "run-1-of-1.json", {"cases": [{"case": "a", "ok": False, "error": "x"}]})
    with pytest.raises(DataError, match="has no aligned test case: Locor failed on all of them"):
        make_paper_figure("locor", "1", [row_files(store, tmp_path / "aligned")], tmp_path / "figure_1")


def test_figures_are_drawn_where_their_method_runs():
    assert [f.number for f in figures_of("locor", {("cermep-t1-ct", "locor")})] == ["1"]
    assert figures_of("locor", {("ixi-t2-pd", "locor")}) == []
    with pytest.raises(ConfigError, match=r"figure 9 of locor is not regenerated; these are: .*locor 1"):
        make_paper_figure("locor", "9", [], None)
