"""Which jobs a run consists of, by rule and name: what in a results folder is the run's own, and what others left."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modalign.plan import Cell, Plan

Model = tuple[str, str, int]
"""A data set, a variant that is trained on it, and the seed."""


def planned_jobs(plan: "Plan", config: Mapping[str, Any]) -> dict[str, list[str]]:
    """The jobs of the default target by their rule, named as their logs and benchmarks are: by their wildcards.

    Results stay in their folder when a configuration changes. These names tell those of this run from the others.
    """
    cells = sorted(plan.cells.union(*(plan.table_cells(*table) for table in plan.tables)))
    runs = [(dataset, method, seed) for dataset, method in cells for seed in plan.variants[method].seeds]
    segmented = [run for run in runs if plan.is_segmented(run[:2])]
    small = config.get("segmentation", {}).get("kind") == "small"
    tuned = plan.tuning.cells(cells)
    tuned_on = {dataset for dataset, _ in tuned}
    translators = sorted((on, name) for on, name in plan.tuning.translators.items() if on in tuned_on)
    # What tuning builds on takes the first seed.
    first = [(dataset, method, plan.variants[method].seeds[0]) for dataset, method in (*tuned, *translators)]
    shards = {method: plan.variants[method].shards for _, method in cells}
    pictures = [(paper, figure.number) for paper in plan.papers for figure in plan.figures(paper, plan.cells)]
    found = {
        **_data_jobs(plan, cells),
        "train_method": [_run(*model) for model in sorted(_models(plan, runs + first))],
        "align_cases": [f"{_run(*run)}.{i}-of-{n}" for run in runs for n in [shards[run[1]]] for i in range(1, n + 1)],
        "train_segmenter": sorted({dataset for dataset, _, _ in segmented}) if small else [],
        "segment_cases": [_run(*run) for run in segmented],
        "measure_cases": [_run(*run) for run in runs],
        "translate_validation": [f"{dataset}.{method}" for dataset, method in translators],
        "tune_trials": [f"{on}.{method}.{batch}" for on, method in tuned for batch in range(plan.tuning.batches)],
        "choose_options": [f"{dataset}.{method}" for dataset, method in tuned],
        "compare_methods": plan.compared,
        "make_figures": plan.compared,
        "make_table": [f"{paper}.{number}" for paper, number in plan.tables],
        "make_paper_figure": [f"{paper}.{number}" for paper, number in pictures],
    }
    return {rule: names for rule, names in found.items() if names}


def _data_jobs(plan: "Plan", cells: Iterable["Cell"]) -> dict[str, list[str]]:
    datasets = sorted({dataset for dataset, _ in cells})
    archives = sorted({plan.datasets[name]["archive"] for name in datasets})
    sources = {name: plan.archives[name]["source"] for name in archives}
    return {
        "make_phantom": [name for name in archives if sources[name] == "phantom"],
        "fetch_archive": [name for name in archives if sources[name] == "download"],
        "index_cases": datasets,
        "prepare_cases": datasets,
    }


def _run(dataset: str, method: str, seed: int) -> str:
    return f"{dataset}.{method}.seed{seed}"


def _models(plan: "Plan", runs: Iterable[Model]) -> set[Model]:
    """The trainings that runs take, and those that these take."""
    found: set[Model] = set()
    waiting = [model for run in runs for model in _models_of(plan, *run)]
    while waiting:
        model = waiting.pop()
        if model not in found:
            found.add(model)
            waiting += _models_of(plan, *model)
    return found


def _models_of(plan: "Plan", dataset: str, method: str, seed: int) -> Iterator[Model]:
    """The trained models that a method with a seed is or builds on: those of its seed, or of the first they have."""
    for name in (method, *plan.trained_needs(method)):
        if plan.variants[name].trained:
            seeds = plan.variants[name].seeds
            yield dataset, name, seed if seed in seeds else seeds[0]
