"""A configuration that can't be is refused before anything runs, with what is allowed."""

from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from modalign import papers
from modalign.errors import ConfigError
from modalign.plan import make_plan
from modalign.report.result import TableOptions
from modalign.report.tables import build_table

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def defaults():
    return yaml.safe_load((ROOT / "config.yaml").read_text())


@pytest.fixture
def config(defaults):
    return deepcopy(defaults)


def test_every_table_of_every_paper_can_be_made(config):
    plan = make_plan(config)
    expected = {"rbg": 8, "registformer": 4, "locor": 2, "imse": 4, "cao2018": 1}
    tables = [*plan.tables, *plan.on_demand]
    assert len(tables) == len(set(tables))
    assert {paper: sum(name == paper for name, _ in tables) for paper in plan.papers} == expected


def test_tables_that_are_left_to_their_own_target_cost_the_default_run_nothing(config):
    config["papers"], config["tables"] = ["rbg"], {"rbg": [1]}
    plan = make_plan(config)
    assert plan.tables == (("rbg", 1),)
    assert plan.on_demand == tuple(("rbg", number) for number in range(2, 9))
    assert plan.compared == ["synthrad2023-mr-ct-pelvis"]
    assert {dataset for dataset, _ in plan.cells} == {"synthrad2023-mr-ct-pelvis"}
    assert ("synthrad2023-cbct-ct-brain", "syn-rbg") in plan.table_cells("rbg", 2)


def test_data_sets_that_are_left_out_are_in_no_target(config):
    config["papers"], config["leave_out"] = ["imse"], ["brats2019-t1-to-t2-3d", "hanseg-ct-to-mr-2d"]
    plan = make_plan(config)
    assert {"brats2019-t2-to-t1-3d", "hanseg-mr-to-ct-2d"} < set(plan.datasets)
    assert not {dataset for dataset, _ in plan.reachable} & set(config["leave_out"])
    assert {dataset for n in (2, 4) for dataset, _ in plan.table_cells("imse", n)} == set(plan.datasets)


def test_methods_that_are_left_out_have_no_rows_but_can_be_needed(config):
    config["papers"], config["leave_out"] = ["imse"], ["voxelmorph-mi-2d", "cyclegan"]
    plan = make_plan(config)
    names = {name for _, name in plan.reachable}
    assert "voxelmorph-mind-2d" in names
    assert not names & set(config["leave_out"])
    assert plan.trained_needs("voxelmorph-2d-cyclegan") == ["cyclegan"]


def test_only_what_a_paper_needs_is_planned(config):
    config["papers"] = ["cao2018"]
    plan = make_plan(config)
    assert set(plan.datasets) == {"goldatlas-ct-mr"}
    assert set(plan.archives) == {"goldatlas"}
    assert plan.cells >= {("goldatlas-ct-mr", "identity"), ("goldatlas-ct-mr", "syn-cao")}


def test_own_methods_run_wherever_they_fit(config):
    config["methods"]["mine"] = {"method": "affine", "dimension": 3}
    config["own_methods"], config["leave_out"] = ["mine"], []
    datasets = {dataset for dataset, method in make_plan(config).cells if method == "mine"}
    assert "brats2019-t1-to-t2-3d" in datasets
    assert "brats2019-t1-to-t2-2d" not in datasets
    assert "synthrad2023-mr-ct-pelvis" in datasets


def test_own_methods_are_segmented_where_the_tables_that_they_join_are(config):
    config["methods"]["mine"] = {"method": "affine", "dimension": 3}
    config["own_methods"] = ["mine"]
    plan = make_plan(config)
    assert plan.is_segmented(("synthrad2023-mr-ct-pelvis", "mine"))
    assert plan.is_segmented(("synthrad2023-mr-ct-pelvis", "demons"))
    assert not plan.is_segmented(("cermep-t1-ct", "mine"))


def test_pretrained_features_reach_the_methods_that_look_through_them(config):
    config["methods"]["munit"]["options"] = {"preset": "paper"}
    config["features"] = {"kind": "pretrained", "files": {"inception": "inception.pth", "vgg19": "vgg19.pth"}}
    config["methods"]["rbg-stage1-32"]["options"] = {"preset": "paper"}
    variants = make_plan(config).variants
    assert variants["munit"].options["inception"] == "inception.pth"
    assert variants["rbg-stage1-32"].options["vgg19"] == "vgg19.pth"
    assert "inception" not in variants["rbg"].options


def test_an_ablation_says_what_its_rows_are_in_this_run(config):
    """The rows bear the paper's windows; small networks have smaller ones."""
    plan = make_plan(config)
    of_run = plan.table_settings("rbg", 6)
    assert of_run["rbg-window-20"] == {"window": 2, "daca_flow": "corrected"}
    assert of_run["rbg-no-field"] == {"window": 3, "daca_flow": "zero"}
    assert plan.table_settings("rbg", 1) == {}
    table = papers.tables("rbg")[6]
    words = " ".join(build_table(table, [], {}, {}, TableOptions(n_boot=100, settings=of_run)).caption)
    assert "In this run (d) window 28, with field, proposed has window 3, daca_flow corrected, and otherwise" in words
    assert "(b) window 20, with field: window 2; (c) window 28, without field: daca_flow zero." in words


def test_what_only_a_validation_table_shows_is_run_on_the_validation_split_alone(config):
    plan = make_plan(config)
    assert plan.splits(("ixi-t2-pd", "locor-normalized")) == ["validation"]
    assert ("ixi-t2-pd", "locor-normalized") not in plan.compared_cells
    assert plan.splits(("ixi-t2-pd", "locor")) == ["test", "validation"]
    assert plan.splits(("ixi-t2-pd", "srwcr")) == ["test"]
    assert plan.splits(("cermep-t1-ct", "pseudo-ct")) == ["test", "validation"]
    assert plan.splits(("goldatlas-ct-mr", "identity")) == ["test"]


def test_a_figure_of_segmentations_is_drawn_where_images_are_segmented(config):
    plan = make_plan(config)
    (figure,) = (figure for figure in plan.figures("rbg", plan.cells) if figure.segmented)
    assert all(plan.is_segmented(cell) for cell in figure.cells)
    config["datasets"]["synthrad2023-mr-ct-pelvis"]["segment"] = False
    plan = make_plan(config)
    assert not [figure for figure in plan.figures("rbg", plan.cells) if figure.segmented]
    assert not any(plan.is_segmented(cell) for cell in figure.cells)


def test_a_dimension_that_is_left_open_follows_the_data_set(config):
    config["leave_out"] = []
    plan = make_plan(config)
    dimension = {d: plan.spec(d, "identity", str)["dimension"] for d in ("hanseg-ct-to-mr-2d", "hanseg-ct-to-mr-3d")}
    assert dimension == {"hanseg-ct-to-mr-2d": 2, "hanseg-ct-to-mr-3d": 3}


def test_needs_are_part_of_the_specification(config):
    options = {"preset": "small", "similarity": "mse", "translator": True}
    needs = {"translator": "voxelmorph-mind-3d"}
    config["methods"]["second"] = {"method": "voxelmorph", "dimension": 3, "options": options, "needs": needs}
    config["own_methods"] = ["second"]
    plan = make_plan(config)
    spec = plan.spec("synthrad2023-mr-ct-pelvis", "second", lambda name: f"models/{name}")
    assert spec["needs"]["translator"]["model"] == "models/voxelmorph-mind-3d"
    assert plan.trained_needs("second") == ["voxelmorph-mind-3d"]


def _set(*path):
    *parents, last, value = path

    def change(config):
        for key in parents:
            config = config[key]
        config[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("papers", ["rgb"]), r"no paper 'rgb' to regenerate; the papers are: rbg, registformer, locor, imse, cao"),
        (
            _set("leave_out", ["brats"]),
            r"leave_out: there is no data set or method 'brats'; the data sets are: synthrad2023-mr-ct-pelvis,",
        ),
        (_set("tables", {"rbg": [9]}), r"tables: paper rbg has no table 9; its tables are: 1, 2, 3"),
        (
            _set("methods", "syn-rbg", {"method": "sin"}),
            r"methods: syn-rbg: there is no method 'sin'; the methods are: .*syn",
        ),
        (
            _set("methods", "syn-rbg", {"method": "syn", "options": {"presett": "rbg"}}),
            r"methods: syn-rbg: method syn has no option 'presett'; its options are: .*preset",
        ),
        (
            _set("methods", "syn-rbg", {"method": "syn", "options": {"preset": "rgb"}}),
            r"methods: syn-rbg: option 'preset' of method syn is 'rgb'",
        ),
        (_set("methods", "demons", {"method": "demons"}), r"add needs: \{translator: <a translation method>\}"),
        (
            _set("methods", "demons", {"method": "demons", "needs": {"translator": "munitt"}}),
            r"its translator 'munitt' is not one of the methods: identity",
        ),
        (
            _set("methods", "demons", {"method": "demons", "needs": {"translator": "syn-rbg"}}),
            r"its translator has to be a translation method, and 'syn-rbg' is a registration",
        ),
        (
            _set("methods", "voxelmorph-mind-2d", "options", {"translator": True}),
            r"methods: voxelmorph-mind-2d: .*add needs: \{translator",
        ),
        (
            _set("datasets", "brats2019-t1-to-t2-2d", "extra_methods", ["convexadam"]),
            r"data set brats2019-t1-to-t2-2d takes 2D methods, and convexadam is 3D: set its dimension",
        ),
        (
            _set("datasets", "goldatlas-ct-mr", "extra_methods", ["sin"]),
            r"data set goldatlas-ct-mr asks for method 'sin', which is not one of",
        ),
        (
            _set("datasets", "goldatlas-ct-mr", "archive", "gold"),
            r"goldatlas-ct-mr is read from archive 'gold'; known are: synthrad2023-task1-pelvis",
        ),
        (_set("datasets", "goldatlas-ct-mr", "reader", "gold"), r"no reader 'gold'"),
        (_set("datasets", "goldatlas-ct-mr", "recipe", "cao"), r"no recipe 'cao'.*cao-pelvis"),
        (_set("datasets", "goldatlas-ct-mr", "measures", ["dise"]), r"no measure 'dise'"),
        (
            _set("datasets", "goldatlas-ct-mr", "measure_options", {"dice": {"regoin": "mask"}}),
            r"datasets: goldatlas-ct-mr: measure_options: measure dice has no option 'regoin'; its options are: inter",
        ),
        (
            _set("datasets", "goldatlas-ct-mr", "measure_options", {"dice": {"region": "organ"}}),
            r"measure dice: region can't be 'organ'; write one of: mask, grid, slice",
        ),
        (_set("measure_options", {"dise": {}}), r"measure_options: there is no measure 'dise'"),
        (_set("measure_options", {"dice": 1}), r"measure_options: dice is 1: write its options by name"),
        (
            _set("segmentation", {"kind": "small", "stepz": 100}),
            r"segmentation: stepz is 100.*the options are: kind, st",
        ),
        (
            _set("segmentation", {"kind": "small", "steps": 0}),
            r"segmentation: steps is 0: Input should be greater than",
        ),
        (
            _set("datasets", "goldatlas-ct-mr", "proposed", "sny-cao"),
            r"proposed: 'sny-cao' is not compared on this data set; write one of those that are: .*identity, .*syn-cao",
        ),
        # A method of the configuration, but not one of this data set.
        (
            _set("datasets", "goldatlas-ct-mr", "proposed", "munit"),
            r"proposed: 'munit' is not compared on this data set",
        ),
        (_set("tables", {"rgb": [1]}), r"tables: there is no paper 'rgb'; the papers are: rbg, registformer, locor"),
        (
            _set("datasets", "goldatlas-ct-mr", "split", "caoo"),
            r"goldatlas-ct-mr: split 'caoo' is no file, and no known name: the names are .*cao and published; a file",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(config, change, message):
    change(config)
    with pytest.raises(ConfigError, match=message):
        make_plan(config)


def test_splits_proposed_methods_and_tables_that_can_be_are_taken(config, tmp_path):
    config["papers"], config["tables"] = ["cao2018"], {"rbg": [1]}  # a paper that isn't asked for
    entry = config["datasets"]["goldatlas-ct-mr"]
    entry["proposed"] = "syn-cao"
    (tmp_path / "mine.tsv").write_text("p1\ttest\n")
    for split in ("cao", "published", None, str(tmp_path / "mine.tsv")):
        entry["split"] = split
        assert make_plan(config).datasets["goldatlas-ct-mr"]["proposed"] == "syn-cao"
    # As for the index, a relative path starts where the scans lie, or the CSV that names them.
    entry["split"] = "mine.tsv"
    for source in (tmp_path, tmp_path / "pairs.csv"):
        (tmp_path / "pairs.csv").touch()
        config["archives"]["goldatlas"]["source"] = str(source)
        assert make_plan(config).cells


def test_methods_that_join_a_table_of_another_target_are_run_on_its_split(config):
    config["papers"], config["tables"] = ["rbg"], {"rbg": [1]}
    plan = make_plan(config)
    extras = {cell for cell in plan.reachable - plan.cells if cell[1] in plan.table_extras("rbg", 2)}
    assert ("synthrad2023-cbct-ct-brain", "convexadam") in extras
    assert all(plan.splits(cell) == ["test"] for cell in extras)
    assert all(plan.splits(cell) for cell in plan.reachable)


@pytest.mark.parametrize("overlay", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_overlay_makes_a_plan_whose_rows_can_be_run(config, overlay):
    _merge(config, yaml.safe_load(overlay.read_text()))
    plan = make_plan(config)
    assert plan.cells
    for dataset, name in plan.cells:
        spec = plan.spec(dataset, name, lambda needed: f"models/{needed}")
        assert spec["dimension"] in (2, 3)


@pytest.mark.parametrize("paper", ["rbg", "registformer", "locor", "imse", "cao2018"])
def test_at_full_scale_nothing_of_the_default_run_is_cut_down(config, paper):
    overlay = yaml.safe_load((ROOT / "config" / f"{paper}.yaml").read_text())
    for_small_images = {"batch", "learning_rate", "smoothness_weight"}
    kept = {name: set(_options(config, name)) - set(_options(overlay, name)) for name in config["methods"]}
    _merge(config, overlay)
    plan = make_plan(config)
    options = {name: plan.variants[name].options for _, name in plan.cells}
    assert not [name for name in options if kept.get(name, set()) & for_small_images]
    assert not any(set(chosen) & {"steps", "iterations", "linear_iterations"} for chosen in options.values()), options
    assert not any("small" in str(chosen.get("preset")) for chosen in options.values())
    assert all(plan.overrides(dataset).get("size") is None for dataset in plan.datasets)
    columns = {column.dataset for table in papers.tables(paper).values() for _, _, column in table.cells()}
    assert set(plan.datasets) >= columns & set(config["datasets"])


def _options(config, method):
    return config.get("methods", {}).get(method, {}).get("options", {})


def _merge(config, overlay):
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            _merge(config[key], value)
        else:
            config[key] = value
