"""Figures: what they show is what the data say."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from report_results import METHODS, PHANTOM, REASON, write_alignment, write_store
from scipy.stats import spearmanr

from modalign import statistics
from modalign.cases import CaseStore
from modalign.metrics.job import measure_job
from modalign.metrics.table import Row, write_metrics
from modalign.report import figures_distributions, figures_proxy, figures_ranks, figures_style, panels
from modalign.report.figures import make_figures
from modalign.report.figures_display import (
    checkerboard,
    square_size,
)
from modalign.report.figures_values import read_values
from modalign.report.panels_scene import make_scene, typical_cases


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A data set with truth: identity, a method that finds most of the shift, and one that fails."""
    folder = tmp_path_factory.mktemp("figures")
    store = write_store(folder / "store", PHANTOM, truth=True)
    shifts = {"identity": np.zeros(6), "affine-mi": np.array([2, 3, 4, 3, 2, 4]), "syn-cao": None}
    runs, metrics = [], []
    for method in METHODS:
        out = folder / method
        write_alignment(store, out, shifts[method])
        tsv = folder / f"{method}.tsv"
        measures = ("tre_mm", "dice", "gc", "mae_hu")
        measure_job(store.folder, [out / "run-1-of-1.json"], tsv, method=method, seed=0, measures=measures)
        runs.append((method, out))
        metrics.append(tsv)
    return store, runs, metrics


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn, last one last."""
    found = []
    for module in (panels, figures_distributions, figures_proxy, figures_ranks):
        original = module.save_figure
        monkeypatch.setattr(module, "save_figure", lambda f, s, o=original: (found.append(f), o(f, s))[1])
    return found


def words(made):
    texts = [*made.texts, *(text for axes in made.axes for text in axes.texts)]
    return [text.get_text() for text in texts]


def test_values_are_averaged_like_in_tables(tmp_path, rng):
    rows = [
        Row("d", "m", seed, case, z, structure, "dice", float(rng.random()))
        for seed in (0, 1)
        for case in ("a", "b")
        for z in range(3 if case == "a" else 2)
        for structure in ("x", "y")
    ]
    rows = [row for row in rows if (row.case, row.slice, row.structure) != ("a", 1, "y")]
    write_metrics(tmp_path / "m.tsv", rows)
    expected = statistics.samples(statistics.read_metrics([tmp_path / "m.tsv"]))
    found = read_values([tmp_path / "m.tsv"]).per_case["m", "dice"]
    assert list(found.values()) == pytest.approx(list(expected.values))
    assert [(case, "") for case in found] == list(expected.units)


def test_panels_show_results_differences_and_failures(run, tmp_path, drawn):
    store, runs, metrics = run
    note = panels.make_panels(store.folder, runs, metrics, tmp_path)
    (made,) = drawn
    values = read_values(metrics)
    (case,) = typical_cases(store.ids(), values, 1)
    texts = words(made)
    assert any(REASON in " ".join(text.split()) for text in texts)
    tre = values.per_case["affine-mi", "tre_mm"][case]
    (numbers,) = (text for axes in made.axes for text in axes.texts if f"TRE {tre:.2f} mm" in text.get_text())
    picture = numbers.axes
    assert picture.images
    drawn_at = numbers.get_window_extent(made.canvas.get_renderer())
    frame = picture.get_window_extent()
    assert frame.x0 <= drawn_at.x0 < drawn_at.x1 <= frame.x1
    assert frame.y0 <= drawn_at.y0 < drawn_at.y1 <= frame.y1
    assert numbers.get_path_effects()
    assert any(text.get_text().startswith("Dice ") and text.get_va() == "bottom" for text in picture.texts)
    assert not any("TRE" in text.get_text() for text in made.texts)
    assert "syn-cao" in note.alt
    assert case in note.caption
    scene = make_scene(store, case, runs, values)
    assert scene.views[2].image is None
    truth = store.load(case).true_image.data[:, :, scene.z]
    difference = (scene.views[1].image.astype(np.float32) - truth) * 1000
    shown = [np.asarray(image.get_array()).T for axes in made.axes for image in axes.images]
    assert any(array.shape == difference.shape and np.allclose(array, difference, atol=1e-2) for array in shown)
    fixed = scene.fixed_window.grey(scene.fixed)
    aligned = scene.moving_window.grey(scene.views[1].image)
    board = checkerboard(fixed, aligned, square_size(fixed.shape, scene.spacing))
    assert any(np.allclose(array, board) for array in shown if array.shape == board.shape)
    size = (tmp_path / "panels.png").stat().st_size
    assert 20_000 < size <= figures_style.LARGEST_PNG
    assert (tmp_path / "panels.pdf").read_bytes().startswith(b"%PDF")


def test_panels_without_truth_overlay_outlines(tmp_path, drawn):
    store = write_store(tmp_path / "store", "real", truth=False, cases=1)
    write_alignment(store, tmp_path / "m", np.array([3]))
    note = panels.make_panels(store.folder, [("m", tmp_path / "m")], [], tmp_path)
    assert "Fixed outlines" in words(drawn[0])
    assert "the edges of the scans differ most" in note.caption
    assert "truth" not in note.alt


def test_distributions_draw_medians_and_pairs(run, tmp_path, drawn):
    _, _, metrics = run
    figures_distributions.make_distributions(metrics, ["tre_mm", "dice"], tmp_path)
    axes = drawn[0].axes[0]
    values = read_values(metrics).per_case["affine-mi", "tre_mm"]
    thick = [line for line in axes.lines if line.get_linewidth() == 2]
    assert thick[1].get_xdata()[0] == pytest.approx(np.median(list(values.values())))
    pairs = [tuple(line.get_xdata()) for line in axes.lines if line.get_color() == "#bbbbbb"]
    identity = read_values(metrics).per_case["identity", "tre_mm"]
    assert sorted(pairs) == sorted((identity[case], values[case]) for case in values)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(METHODS)
    assert words(drawn[0]).count("no value") == 2  # the method that failed keeps its row
    assert axes.get_title("right") == "← lower is better"
    assert drawn[0].axes[1].get_title("right") == "higher is better →"


def test_random_features_are_named_so(tmp_path, drawn):
    rows = [Row("d", m, 0, "", None, "", "fid_random", v) for m, v in (("identity", 0.0), ("a", 3.0), ("b", 4.0))]
    write_metrics(tmp_path / "m.tsv", rows)
    note = figures_distributions.make_distributions([tmp_path / "m.tsv"], ["fid"], tmp_path)
    assert drawn[0].axes[0].get_title("left") == "FID (random features)"
    assert "random weights" in note.caption
    assert "the reference itself" in words(drawn[0])


def test_spearman_equals_scipy_on_resampled_points(rng):
    x, y = rng.integers(0, 6, 30).astype(float), rng.normal(size=30)
    counts = rng.integers(0, 3, (4, 30))
    for row, rho in zip(counts, figures_proxy.spearman(x, y, counts), strict=True):
        assert rho == pytest.approx(spearmanr(np.repeat(x, row), np.repeat(y, row)).statistic)
    assert np.isnan(figures_proxy.spearman(np.ones(5), rng.normal(size=5), np.ones((1, 5)))[0])


def proxy_rows(rng, cases=8):
    """GC follows the error, sharpness contradicts it, nmi doesn't know it."""
    rows = []
    for case in range(cases):
        for m, method in enumerate(("identity", "a", "b", "c", "e")):
            error = 10 - 2 * m + 0.1 * rng.normal()
            known = {"tre_mm": error, "gc": -error, "sharpness": error + 20, "nmi": rng.random()}
            rows += [Row("d", method, 0, f"p{case}", None, "", name, value) for name, value in known.items()]
    rows += [Row("d", m, 0, "", None, "", "fid", v) for m, v in (("a", 8), ("b", 6), ("c", 5), ("e", 1))]
    return rows


def test_agreement_tells_good_measures_from_bad_ones(tmp_path, rng):
    rows = proxy_rows(rng)
    write_metrics(tmp_path / "m.tsv", rows)
    values = read_values([tmp_path / "m.tsv"])
    assert figures_proxy.proxies(values) == ["fid", "gc", "nmi", "sharpness"]
    gc, bad, noise, fid = (figures_proxy.agreement(values, p, "tre_mm") for p in ("gc", "sharpness", "nmi", "fid"))
    assert (gc.agreement, gc.spearman, gc.n, gc.within_case) == pytest.approx((1, -1, 40, 1))
    assert bad.agreement == pytest.approx(-1)
    by_metric = {name: [row.value for row in rows if row.metric == name] for name in ("nmi", "tre_mm")}
    assert noise.spearman == pytest.approx(spearmanr(by_metric["nmi"], by_metric["tre_mm"]).statistic)
    assert noise.low < noise.agreement < noise.high
    assert noise.low < 0 < noise.high
    assert (fid.unit, fid.n, fid.agreement) == ("method", 4, pytest.approx(1))
    assert np.isnan(fid.low)


def test_few_cases_have_no_interval(tmp_path, rng):
    write_metrics(tmp_path / "m.tsv", proxy_rows(rng, cases=3))
    assert np.isnan(figures_proxy.agreement(read_values([tmp_path / "m.tsv"]), "gc", "tre_mm").low)


def test_proxy_file_and_figure(run, tmp_path, drawn):
    _, _, metrics = run
    figures_proxy.make_proxy_truth(metrics, tmp_path, draws=100)
    lines = [line.split(",") for line in (tmp_path / "proxy.csv").read_text().splitlines()]
    table = {(line[1], line[3]): dict(zip(lines[0], line, strict=True)) for line in lines[1:]}
    values = read_values(metrics)
    x, y, _, _ = figures_proxy.points(values, "dice", "tre_mm")
    assert float(table["dice", "tre_mm"]["agreement"]) == pytest.approx(-spearmanr(x, y).statistic)
    assert ("gc", "mae_hu") in table
    assert {"Dice", "GC"} <= set(words(drawn[0]))


def test_no_truth_no_proxy_figure(tmp_path):
    write_metrics(tmp_path / "m.tsv", [Row("d", "a", 0, f"p{i}", None, "", "gc", i / 9) for i in range(9)])
    assert figures_proxy.make_proxy_truth([tmp_path / "m.tsv"], tmp_path) is None
    assert (tmp_path / "proxy.csv").read_text().count("\n") == 1
    assert not (tmp_path / "proxy.png").exists()


def ranking(tmp_path, critical):
    entry = {
        "methods": [{"method": m, "mean_rank": r, "ranks": {}} for m, r in (("a", 1.2), ("b", 1.9), ("identity", 2.9))],
        "measures": ["gc"],
        "cases": 12,
        "friedman_p": 0.0004,
        "critical_difference": critical,
        "cliques": [["a", "b"]],
        "left_out": {},
        "note": "",
    }
    (tmp_path / "ranking.json").write_text(json.dumps({"d": entry}))
    return tmp_path / "ranking.json"


def test_critical_difference_joins_what_does_not_differ(tmp_path, drawn):
    note = figures_ranks.make_critical_difference(ranking(tmp_path, 0.96), "d", tmp_path)
    bars = [line for line in drawn[0].axes[0].lines if line.get_linewidth() == 4]
    (bar,) = bars
    low, high = bar.get_xdata()
    assert low < (1.2 - 1) / 2
    assert (1.9 - 1) / 2 < high < (2.9 - 1) / 2
    assert "Friedman p < 0.001" in note.caption
    assert "Without significant difference: a, b." in note.alt


def test_without_a_test_there_is_no_rank_diagram(tmp_path):
    assert figures_ranks.make_critical_difference(ranking(tmp_path, None), "d", tmp_path) is None
    assert not (tmp_path / "ranks.png").exists()


def test_pngs_stay_small_and_repeat_themselves(tmp_path, rng):
    noise = rng.random((300, 300))

    def write(stem):
        with figures_style.figure(5, 5) as made:
            made.add_axes((0, 0, 1, 1)).imshow(noise, cmap="gray", interpolation="nearest")
            return figures_style.save_figure(made, stem).read_bytes()

    first = write(tmp_path / "a")
    assert len(first) <= figures_style.LARGEST_PNG
    assert Image.open(io.BytesIO(first)).size[0] >= 5 * figures_style.LOWEST_DPI
    assert write(tmp_path / "b") == first
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_small_files_keep_their_colours(tmp_path, rng):
    with figures_style.figure(8, 8) as made:
        axes = made.add_axes((0, 0, 1, 1))
        axes.imshow(rng.random((500, 500)), cmap="gray", interpolation="nearest", extent=(0, 1, 0, 1))
        axes.plot([0.1, 0.9], [0.5, 0.5], color=figures_style.RED, linewidth=6)
        axes.set_xlim(0, 1)
        path = figures_style.save_figure(made, tmp_path / "a")
    assert path.stat().st_size <= figures_style.LARGEST_PNG
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    red = [int(figures_style.RED[i : i + 2], 16) for i in (1, 3, 5)]
    assert np.abs(image[len(image) // 2, image.shape[1] // 2] - red).max() < 25


def test_figures_of_a_data_set_are_listed_and_stale_ones_go(run, tmp_path):
    store, runs, metrics = run
    (tmp_path / "ranks.png").write_bytes(b"stale")
    make_figures(store.folder, runs, metrics, tmp_path, ranking=ranking(tmp_path, None), draws=50)
    listed = json.loads((tmp_path / "figures.json").read_text())
    assert listed["dataset"] == PHANTOM
    assert [entry["name"] for entry in listed["figures"]] == ["panels", "distributions", "proxy"]
    for entry in listed["figures"]:
        Image.open(tmp_path / entry["file"]).verify()
        assert entry["alt"]
    assert not (tmp_path / "ranks.png").exists()


def test_typical_case_is_near_the_median(run):
    store, _, metrics = run
    values = read_values(metrics)
    (case,) = typical_cases(CaseStore(store.folder).ids(), values, 1)
    found = [values.per_case[m, "tre_mm"] for m in ("identity", "affine-mi")]
    means = {c: np.mean([v[c] for v in found]) for c in found[0]}
    distance = {c: abs(v - np.median(list(means.values()))) for c, v in means.items()}
    assert distance[case] == min(distance.values())
