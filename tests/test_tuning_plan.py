"""What is tuned follows from the configuration, and what can't be is refused before anything runs."""

from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from modalign.errors import ConfigError
from modalign.plan import make_plan

ROOT = Path(__file__).parents[1]
PSEUDO = {"method": "pseudo_ct", "dimension": 2, "options": {"preset": "small"}}
TUNED = ("niftyreg-nmi-locor", "syn-locor")


@pytest.fixture(scope="module")
def defaults():
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["papers"], config["seeds"] = ["locor"], [0, 1, 2]
    config["methods"]["pseudo-a"] = PSEUDO
    config["methods"]["pseudo-b"] = {**PSEUDO, "options": {"preset": "small", "train_on": ["train", "test"]}}
    for entry in config["datasets"].values():
        entry.pop("tuned_by", None)
        entry.pop("pseudo_image", None)
    split = {"train": 1, "validation": 1, "test": 2}
    for name, measure in (("learn2reg-abdomen-mr-ct", "dice"), ("cermep-t1-ct", "mae_hu")):
        config["datasets"][name] |= {"tuned_by": measure, "split": split}
    config["tuning"] = {"methods": list(TUNED), "trials": 7}
    return config


@pytest.fixture
def config(defaults):
    return deepcopy(defaults)


def test_the_tuned_cells_are_those_of_tuned_methods_on_data_sets_that_say_by_what(config):
    plan = make_plan(config)
    datasets = ("cermep-t1-ct", "learn2reg-abdomen-mr-ct")
    assert plan.tuning.cells(plan.reachable) == [(d, m) for d in datasets for m in TUNED]
    assert plan.tuning.objectives == {"learn2reg-abdomen-mr-ct": "dice", "cermep-t1-ct": "mae_hu"}
    assert plan.tuning.trials == 7
    assert set(plan.tuning.ranges["niftyreg-nmi-locor"]) == {"bending_energy", "linear_energy"}


def test_tuned_methods_run_with_every_seed(config):
    seeds = {name: make_plan(config).variants[name].seeds for name in (*TUNED, "niftyreg-mind-locor")}
    assert seeds == {"niftyreg-nmi-locor": (0, 1, 2), "syn-locor": (0, 1, 2), "niftyreg-mind-locor": (0,)}


def test_what_a_variant_sets_itself_is_not_searched_unless_it_is_named(config):
    searched = set(make_plan(config).tuning.ranges["syn-locor"])
    assert searched >= {"rigid_step", "affine_step", "step", "update_variance", "total_variance"}
    assert not searched & {"iterations", "linear_iterations"}
    config["tuning"]["ranges"] = {
        "syn-locor": {"iterations": {"low": 2, "high": 5, "integer": True, "multiples": [2, 1]}}
    }
    plan = make_plan(config)
    assert plan.tuning.ranges["syn-locor"]["iterations"].option(3) == (6, 3)
    assert plan.tuning.searched("syn-locor")["iterations"]["multiples"] == (2, 1)


def test_the_pseudo_image_is_a_cell_of_its_own(config):
    config["datasets"]["cermep-t1-ct"] |= {"pseudo_image": "pseudo-b", "tuning_pseudo_image": "pseudo-a"}
    config["datasets"]["cermep-t1-ct"]["tuned_by"] = "mae_pseudo_hu"
    plan = make_plan(config)
    assert ("cermep-t1-ct", "pseudo-b") in plan.cells
    assert plan.tuning.translators == {"cermep-t1-ct": "pseudo-a"}


def _dataset(**entries):
    return lambda config: config["datasets"]["cermep-t1-ct"].update(entries)


def _tuning(**entries):
    return lambda config: config["tuning"].update(entries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_tuning(methods=["lokor"]), r"tuning: there is no method 'lokor'; the methods are: identity"),
        (_tuning(methods=["voxelmorph-mind-3d"]), "voxelmorph-mind-3d learns from training cases"),
        (_tuning(methods=["identity"]), r"no search ranges for identity: give some, as in ranges: \{identity:"),
        (_tuning(ranges={"demons": {}}), "'demons' is not tuned; add it to tuning.methods"),
        (
            _tuning(ranges={"syn-locor": {"stepp": {"low": 1, "high": 2}}}),
            "syn-locor has no option 'stepp'; its options are: preset, step",
        ),
        (
            _tuning(ranges={"syn-locor": {"step": {"low": 2, "high": 1}}}),
            "ranges: syn-locor: step: a search range runs from low up to high",
        ),
        (_dataset(tuned_by="dise"), "cermep-t1-ct: tuned_by: there is no measure 'dise'"),
        (_dataset(tuned_by="fid"), "tuned_by: fid doesn't say of a single case which alignment is better"),
        (_dataset(split={"test": 3}), "it is tuned by mae_hu on validation cases, and its split has none"),
        (_dataset(pseudo_image="nothing"), "pseudo_image: 'nothing' is not one of the methods"),
        (_dataset(pseudo_image="syn-locor"), "pseudo_image has to be a translation method, and 'syn-locor' is a regis"),
        (_dataset(tuned_by="mae_pseudo_hu"), "tuned_by mae_pseudo_hu compares with a translation: add pseudo_image"),
        (
            _dataset(tuned_by="mae_pseudo_hu", pseudo_image="pseudo-b"),
            "tuning would be judged by pseudo-b, which is trained on test cases: add tuning_pseudo_image",
        ),
    ],
)
def test_what_cannot_be_tuned_is_refused_with_what_can(config, change, message):
    change(config)
    with pytest.raises(ConfigError, match=message):
        make_plan(config)
