"""All figures of a data set, and a list of them with captions."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from modalign.cases import CaseStore
from modalign.files import write_json
from modalign.report.figures_distributions import make_distributions
from modalign.report.figures_proxy import make_proxy_truth
from modalign.report.figures_ranks import make_critical_difference
from modalign.report.figures_segmentation import make_segmentations
from modalign.report.panels import make_panels

__all__ = ["make_critical_difference", "make_distributions", "make_figures", "make_panels", "make_proxy_truth"]


def make_figures(
    store: Path,
    runs: Sequence[tuple[str, Path]],
    metrics: Sequence[Path],
    out: Path,
    *,
    measures: Sequence[str] | None = None,
    ranking: Path | None = None,
    segmented: Sequence[tuple[str, Path]] = (),
    labels: Mapping[str, str] | None = None,
    cases: int = 1,
    draws: int = 1000,
    seed: int = 0,
) -> None:
    """Write every figure that the results of a data set allow and, last, ``figures.json`` with titles and captions.

    There are pictures of what the methods do, always; distributions of the measures, if there are any; a diagram of
    mean ranks, if there are enough cases and methods; and measures against the true error, if that is known.

    Args:
        store: case store.
        runs: variant and folder of its alignments, the one to be shown if there are several seeds.
        metrics: metrics files of all methods and seeds.
        out: folder to write into.
        measures: which distributions to show, in order; None for all.
        ranking: the JSON file written by :func:`modalign.evaluate.compare_job`.
        segmented: variant and folder of the label maps of its aligned images, where there are any.
        labels: names of the variants, where they differ.
        cases: how many cases the pictures show.
        draws: bootstrap draws.
        seed: seeds the bootstrap.

    Raises:
        DataError: the store, an alignment or a metrics file can't be read.
    """
    case_store = CaseStore(store)
    tested = case_store.ids(["test"])
    notes = {
        "panels": make_panels(store, runs, metrics, out, cases=cases, labels=labels),
        "segmentation": make_segmentations(store, runs, segmented, metrics, out, labels=labels),
        "distributions": make_distributions(metrics, measures, out, cases=tested, labels=labels),
        "ranks": make_critical_difference(ranking, case_store.dataset, out, labels=labels) if ranking else None,
        "proxy": make_proxy_truth(metrics, out, cases=tested, labels=labels, draws=draws, seed=seed),
    }
    for name, note in notes.items():
        if note is None:
            for suffix in (".png", ".pdf"):
                (out / name).with_suffix(suffix).unlink(missing_ok=True)
    listed = [{"name": name, **asdict(note)} for name, note in notes.items() if note is not None]
    write_json(out / "figures.json", {"dataset": case_store.dataset, "figures": listed})
