"""What a run needs besides its configuration, looked for before anything runs: scans, weights, programs, a GPU.

Without this, what is missing would show only where it is used, which can be hours later.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modalign.datasets.download import STAMP
from modalign.datasets.registry import describe_missing, registry
from modalign.datasets.splits import PRESETS
from modalign.devices import has_gpu
from modalign.errors import ConfigError
from modalign.metrics import measure_by_name
from modalign.metrics.features import PUBLISHED, FeatureSource
from modalign.plan import Plan

DOWNLOADED = Path("results/archives/download")


def missing(plan: Plan, config: Mapping[str, Any], root: Path, *, jobs_here: bool) -> list[str]:
    """What isn't there, each with the way out; empty if the run can begin.

    Args:
        plan: what is to be made.
        config: the configuration that the plan was made from.
        root: the folder that relative paths start from.
        jobs_here: whether jobs run on this machine and in this environment, so that what they find can be known.
    """
    answers = missing_sources(plan, root) + _too_few_patients(plan) + _missing_weights(plan, config, root)
    return answers + (_missing_here(plan, config) if jobs_here else [])


def missing_sources(plan: Plan, root: Path) -> list[str]:
    """For each archive whose scans aren't there and can't be downloaded: what to fetch, and where to put it."""
    answers = []
    for name, entry in plan.archives.items():
        source = entry["source"]
        if source == "download":
            answers += _cannot_be_downloaded(name, entry, root)
        elif source != "phantom" and not (root / source).exists():
            answers.append(describe_missing(name, root / source))
    return answers


def _cannot_be_downloaded(name: str, entry: Mapping[str, Any], root: Path) -> list[str]:
    if (root / DOWNLOADED / name / STAMP).is_file():
        return []
    published = registry().get(name)
    if published is None or published.access != "open":
        return [describe_missing(name, root / "data" / name)]
    if not entry.get("accept_licence", False):
        return [
            f"{name} is to be downloaded, and is published under: {published.licence} ({published.home}). If you "
            f"accept that, write archives: {{{name}: {{source: download, accept_licence: true}}}}"
        ]
    return []


def _too_few_patients(plan: Plan) -> list[str]:
    """The splits that ask for more patients than are drawn of a phantom."""
    answers = []
    for name, entry in plan.datasets.items():
        split = entry.get("split")
        rule = PRESETS.get(split, {}) if isinstance(split, str) else split or {}
        counts = [value for value in rule.values() if isinstance(value, int)]
        archive = entry["archive"]
        if plan.archives[archive]["source"] != "phantom" or len(counts) < len(rule):
            continue
        drawn = plan.phantom(archive)["patients"]
        if sum(counts) > drawn:
            answers.append(
                f"datasets: {name}: its split needs {sum(counts)} patients, and the phantom of {archive} has {drawn}: "
                f"write archives: {{{archive}: {{phantom: {{patients: {sum(counts)}}}}}}}, or a smaller split"
            )
    return answers


def _missing_weights(plan: Plan, config: Mapping[str, Any], root: Path) -> list[str]:
    """The files of networks that pretrained features are asked for without."""
    try:
        source = FeatureSource.parse(config.get("features", {}))
    except ConfigError as error:
        return [f"features: {error}"]
    if source.kind != "pretrained":
        return []
    needed = set()
    for dataset in plan.datasets:
        own = plan.datasets[dataset].get("measure_options", {})
        for name in plan.measures(dataset):
            measure = measure_by_name(name)
            given = {**config.get("measure_options", {}).get(name, {}), **own.get(name, {})}
            if measure.features:
                needed.add("inception" if measure.features == "inception" else measure.resolve(given)["net"])
    answers = []
    for network in sorted(needed | set(source.files)):
        url = PUBLISHED[network].url
        if network not in source.files:
            answers.append(f"features: kind pretrained needs files: {{{network}: <path>}}: fetch {url}")
        elif not (root / source.files[network]).is_file():
            answers.append(f"features: {source.files[network]} does not exist: fetch the {network} weights from {url}")
    return answers


def _missing_here(plan: Plan, config: Mapping[str, Any]) -> list[str]:
    answers = []
    if config["device"] == "cuda" and not has_gpu():
        answers.append("device: cuda is asked for, and this machine has no GPU: write device: auto or cpu")
    segmented = config.get("segmentation", {}).get("kind") == "totalsegmentator" and any(
        plan.is_segmented(cell) for cell in plan.reachable
    )
    if segmented and shutil.which("TotalSegmentator") is None:
        answers.append(
            "segmentation: kind totalsegmentator needs the program TotalSegmentator and its weights: install the "
            "package TotalSegmentator into this environment, or write segmentation: {kind: small}"
        )
    return answers
