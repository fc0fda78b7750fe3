"""What a run is measured by: features of a network, and the options of the configuration."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from measured_run import FEATURES, mean, write_run

from modalign.cases import CaseStore
from modalign.errors import ConfigError
from modalign.metrics import MEASURES
from modalign.metrics.choices import choices
from modalign.metrics.features import FeatureSource
from modalign.metrics.measure import measure_run
from modalign.volumes import read_volume, write_volume


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def store(run):
    return CaseStore(run / "store")


class TestFeatures:
    @pytest.fixture(scope="class")
    def deep(self, run):
        store = CaseStore(run / "store")
        names = ["fid", "kid", "kid2", "lpips"]
        return {
            method: measure_run(store, run / method, names, method=method, seed=0, features=FEATURES)
            for method in ("identity", "oracle")
        }

    def test_random_features_are_named(self, deep):
        assert {r.metric for r in deep["oracle"].rows} == {"fid_random", "kid_random", "kid2_random", "lpips_random"}
        assert set(deep["oracle"].notes) == {"fid_random", "kid_random", "kid2_random"}

    def test_sets_have_one_value_and_notes_say_how_many_slices(self, deep):
        (fid,) = [r for r in deep["oracle"].rows if r.metric == "fid_random"]
        assert (fid.case, fid.slice, fid.structure) == ("", None, "")
        assert deep["oracle"].notes["fid_random"].startswith("18 reference and 18 aligned slices: biased upwards")
        assert deep["oracle"].notes["kid_random"].startswith("all 18 slices at once, so there is no sd over subsets;")

    def test_kid_as_released_is_of_subsets_of_two(self, deep):
        assert deep["oracle"].notes["kid2_random"].startswith("100 subsets of 2 slices, sd ")
        assert mean(deep["oracle"], "kid2_random") != mean(deep["oracle"], "kid_random")

    def test_kid_of_subsets_has_an_sd(self, run, store):
        options = {"kid": {"subset_size": 4, "subsets": 30}}
        _, notes = measure_run(store, run / "oracle", ["kid"], method="m", seed=0, features=FEATURES, options=options)
        words = re.match(r"30 subsets of 4 slices, sd ([0-9.e+-]+); 18 reference", notes["kid_random"])
        assert words
        assert float(words[1]) > 0

    def test_the_unaligned_reference_is_at_distance_zero(self, deep):
        assert mean(deep["identity"], "fid_random") == pytest.approx(0, abs=1e-3)
        assert mean(deep["oracle"], "fid_random") > 0.01

    def test_lpips_of_the_truth_is_zero(self, deep):
        assert mean(deep["oracle"], "lpips_random") == pytest.approx(0, abs=1e-6)
        assert mean(deep["identity"], "lpips_random") > 0.001

    def test_fewer_slices(self, run, store):
        source = FeatureSource(image_size=75, max_slices=5)
        _, notes = measure_run(store, run / "oracle", ["fid_random"], method="m", seed=0, features=source)
        assert notes["fid_random"].startswith("5 reference and 5 aligned slices")
        assert notes["fid_random"].endswith("of 18")


def test_a_setting_of_features_that_there_is_not_is_named() -> None:
    assert FeatureSource.parse({"image_size": 75}) == FEATURES
    with pytest.raises(ConfigError, match=r"features have no setting 'size'; the settings are: kind, files, "):
        FeatureSource.parse({"size": 75})


CONFIG = yaml.safe_load((Path(__file__).parents[1] / "config.yaml").read_text())
SETS = {name: entry["measure_options"] for name, entry in CONFIG["datasets"].items() if entry.get("measure_options")}


class TestOptionsOfTheConfiguration:
    @pytest.mark.parametrize("dataset", SETS)
    def test_are_understood_where_they_are_used(self, run, store, dataset):
        options = SETS[dataset]
        rows, _ = measure_run(store, run / "identity", list(options), method="m", seed=0, options=options)
        assert {row.metric for row in rows} == set(options)

    def test_are_what_the_papers_measured_by(self):
        assert SETS["learn2reg-abdomen-mr-ct"] == {"dice": {"region": "mask"}, "hd95_mm": {"region": "mask"}}
        for name, entry in CONFIG["datasets"].items():
            if entry["recipe"].startswith("imse"):
                flat = {"per_slice": True} if entry["dimensions"] == [2] else {}
                assert SETS[name]["dice"] == {"interpolation": "linear"} | flat
                assert SETS[name]["hd95_mm"] == {"interpolation": "linear", "directions": "pooled"} | flat

    def test_the_mask_of_locor_changes_dice(self, run, store, tmp_path):
        cut = tmp_path / "store"
        shutil.copytree(run / "store", cut)
        for case in store.ids():
            mask = read_volume(cut / case / "fixed_mask.nii.gz")
            mask.data[:16] = 0
            write_volume(cut / case / "fixed_mask.nii.gz", mask)
        options = SETS["learn2reg-abdomen-mr-ct"]
        means = [
            mean(measure_run(CaseStore(cut), run / "identity", ["dice"], method="m", seed=0, options=o), "dice")
            for o in ({}, options)
        ]
        assert means[0] != pytest.approx(means[1], abs=1e-3)


CHOICES = [
    (name, option, value)
    for name, measure in MEASURES.items()
    for option in measure.options
    for value in choices(name, option)
    if not measure.features and measure.needs <= {"image", "field", "labels", "true_field", "true_image"}
]


@pytest.mark.parametrize(("name", "option", "value"), CHOICES)
def test_every_choice_is_one_of_the_measure(run, store, name, option, value):
    settings = {"method": "m", "seed": 0, "cases": ["p1"], "options": {name: {option: value}}}
    measure_run(store, run / "oracle", [name], **settings)


@pytest.mark.parametrize("name", MEASURES)
def test_every_default_can_be_and_nonsense_cannot(name):
    measure = MEASURES[name]
    assert measure.resolve(measure.options) == measure.options
    for option in measure.options:
        for value in ("nonsense", -1, [1], 1.5 if option in ("subsets", "per_slice") else {"fixed": [1]}):
            with pytest.raises(ConfigError, match=f"measure {name}: {option} can't be .*; write "):
                measure.resolve({option: value})


def test_numbers_and_thresholds():
    assert MEASURES["tre_mm"].resolve({"percentile": 90})["percentile"] == 90
    assert MEASURES["kid"].resolve({"subsets": 1, "subset_size": 2})["subsets"] == 1
    assert MEASURES["gc"].resolve({"thresholds": {"fixed": [170, 190], "image": [30, 50]}})
    with pytest.raises(ConfigError, match=r"percentile can't be 101; write a number from 0 to 100, or null"):
        MEASURES["tre_mm"].resolve({"percentile": 101})
    with pytest.raises(ConfigError, match="per_slice can't be 1; write one of: false, true"):
        MEASURES["dice"].resolve({"per_slice": 1})
