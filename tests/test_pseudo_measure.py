"""MAE between aligned CT and pseudo-CT: a known value, and what it needs in a run of the benchmark."""

import csv

import numpy as np
import pytest

from modalign.cases import Case, CaseStore, Intensity
from modalign.errors import DataError
from modalign.files import write_json
from modalign.metrics.image import measure_mae_pseudo_hu
from modalign.metrics.measure import measure_run
from modalign.metrics.pair import Pair
from modalign.metrics.table import write_metrics
from modalign.report.figures_proxy import make_proxy_truth
from modalign.volumes import Volume, write_volume


def test_mae_to_the_pseudo_ct_is_in_hu_inside_the_mask_and_needs_a_pseudo_ct(rng):
    shape = (6, 5, 4)
    image, pseudo = rng.random(shape), rng.random(shape)
    mask = rng.random(shape) > 0.4
    case = Case(
        "p1",
        fixed=Volume(np.zeros(shape)),
        moving=Volume(image),
        fixed_mask=Volume(mask.astype(np.uint8)),
        moving_intensity=Intensity(-1500.0, 200.0, "HU"),
    )
    pair = Pair(case, image, pseudo=pseudo)
    (value,) = measure_mae_pseudo_hu(pair, "mask")
    assert value.value == pytest.approx(1500 * np.abs(image - pseudo)[mask].mean())
    assert "pseudo_image" in pair.has
    assert "pseudo_image" not in Pair(case, image).has
    with pytest.raises(DataError, match="the pseudo image of case p1 has shape"):
        Pair(case, image, pseudo=pseudo[1:])


@pytest.fixture
def store(tmp_path, rng):
    """Five cases whose CT is the true one plus an error that grows with the method's number."""
    folder = tmp_path / "store"
    listed = []
    intensity = {"fixed_intensity": vars(Intensity()), "moving_intensity": vars(Intensity(1000.0, 0.0, "HU"))}
    for case in "abcde":
        truth = rng.random((8, 8, 4)).astype(np.float32)
        for part, data in (("fixed", truth), ("moving", truth), ("true_image", truth)):
            write_volume(folder / case / f"{part}.nii.gz", Volume(data))
        write_json(folder / case / "case.json", {"case": case, "dataset": "toy", "split": "test", **intensity})
        listed.append({"case": case, "split": "test"})
        for number in range(4):
            error = 0.05 * number * rng.uniform(0.8, 1.2) * rng.standard_normal(truth.shape)
            write_volume(
                tmp_path / f"method{number}" / case / "image.nii.gz", Volume((truth + error).astype(np.float32))
            )
        pseudo = truth + 0.02 * rng.standard_normal(truth.shape)
        write_volume(tmp_path / "pseudo" / case / "image.nii.gz", Volume(pseudo.astype(np.float32)))
    write_json(folder / "cases.json", {"dataset": "toy", "labels": {}, "cases": listed})
    return CaseStore(folder)


def measured(store, tmp_path, number, pseudo):
    names = ["mae_hu", "mae_pseudo_hu"]
    return measure_run(store, tmp_path / f"method{number}", names, method=f"m{number}", seed=0, pseudo=pseudo)


def test_a_run_is_measured_with_a_pseudo_ct_and_says_so_without(store, tmp_path):
    found = measured(store, tmp_path, 2, tmp_path / "pseudo")
    values = {metric: [r.value for r in found.rows if r.metric == metric] for metric in ("mae_hu", "mae_pseudo_hu")}
    assert len(values["mae_pseudo_hu"]) == 5
    assert np.all(np.array(values["mae_pseudo_hu"]) > values["mae_hu"])
    without = measured(store, tmp_path, 2, None)
    assert {r.metric for r in without.rows} == {"mae_hu"}
    assert without.notes["mae_pseudo_hu"] == "skipped, there is no pseudo image to compare with"
    (tmp_path / "pseudo" / "c" / "image.nii.gz").unlink()
    partly = measured(store, tmp_path, 2, tmp_path / "pseudo")
    assert "(1 of 5 cases)" in partly.notes["mae_pseudo_hu"]


def test_the_figure_of_proxies_picks_it_up(store, tmp_path):
    paths = []
    for number in range(4):
        paths.append(tmp_path / f"m{number}.tsv")
        write_metrics(paths[-1], measured(store, tmp_path, number, tmp_path / "pseudo").rows)
    make_proxy_truth(paths, tmp_path / "figures", draws=50)
    with (tmp_path / "figures" / "proxy.csv").open(encoding="utf-8") as file:
        (line,) = [row for row in csv.DictReader(file) if row["proxy"] == "mae_pseudo_hu"]
    assert line["truth"] == "mae_hu"
    assert float(line["agreement"]) > 0.95
