"""From a folder in a published layout to an index: which files, which split, checked and with their provenance."""

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from modalign.cases import PARTS
from modalign.datasets import reader as reader_called
from modalign.datasets.base import CaseFiles, LabelFiles, Layout
from modalign.datasets.check import Findings, check_case, shared_scans
from modalign.datasets.download import unfinished
from modalign.datasets.labels import is_stack, read_stack
from modalign.datasets.pairing import pair_patients
from modalign.datasets.phantom_truth import asked_for, is_truth, only, phantom_record, true_labels, with_truth
from modalign.datasets.registry import Archive, archive, describe_missing
from modalign.datasets.splits import draw_split, some
from modalign.errors import DataError
from modalign.files import read_json, write_json, write_text
from modalign.volumes import Volume, write_volume

COLUMNS = (
    *("case", "patient", "split", "fixed", "moving", "fixed_mask", "moving_mask", "fixed_labels", "moving_labels"),
    *("true_field", "true_image", "evaluation_mask", "fixed_shape", "moving_shape"),
    *("fixed_spacing_mm", "moving_spacing_mm", "fixed_orientation", "moving_orientation"),
    *(f"{part}_sha256" for part in PARTS),
)


def index_dataset(
    dataset: str,
    reader: str,
    folder: Path,
    out: Path,
    *,
    options: dict[str, Any],
    split: Mapping[str, int | float] | str | None,
    seed: int,
    max_cases: int | None = None,
    workers: int = 1,
) -> None:
    """Check a data set and write its index, ``dataset.json`` and, last, ``cases.tsv``.

    Args:
        dataset: what the configuration calls it.
        reader: which layout it has, see :data:`modalign.datasets.READERS`.
        folder: where it lies, or the CSV file of the reader `pairs`; nothing is written there.
        out: folder of the index. Paths in ``cases.tsv`` are relative to `folder`, or absolute if they lie elsewhere;
            stacks of masks, and labels of phantoms that have more structures than asked for, are rewritten in
            ``out/labels``.
        options: of the reader.
        split: see :func:`modalign.datasets.splits.draw_split`.
        seed: of the split.
        max_cases: index no more than about so many cases.
        workers: how many processes read the scans.

    Raises:
        ConfigError: the reader, an option or the split can't be understood.
        DataError: the data isn't there, or something is wrong with it; the message lists the first ten problems.
            Then nothing is written, and an earlier index is left as it was.
    """
    layout_reader = reader_called(reader)
    folder, out = Path(folder).absolute(), Path(out).absolute()
    if folder.is_file() and "csv" in layout_reader.options.model_fields:
        options, folder = {**options, "csv": folder.name}, folder.parent
    parsed = layout_reader.parse(options)
    key = layout_reader.archive(parsed)
    if not folder.is_dir() or not any(folder.iterdir()):
        raise DataError(
            describe_missing(key, folder) if key else f"{folder} is not there, or empty: set another folder"
        )
    if unfinished(folder):
        raise DataError(f"the download of {key} into {folder} was not finished: fetch it again, it continues")
    phantom = phantom_record(folder, key)
    layout = Layout() if phantom else layout_reader.layout(parsed)
    modalities = layout_reader.modalities(parsed)
    cases, notes = _complete(layout_reader.list_cases(folder, parsed), parsed.incomplete)
    expected = parsed.expected_cases or layout.cases
    if expected and max_cases is None and len(cases) != expected:
        raise DataError(
            f"{folder} holds {len(cases)} complete cases, and {expected} were expected. Fetch what is missing, or set "
            f"the reader's option `expected_cases: {len(cases)}` if that is all you have. First cases: {_first(cases)}"
        )
    labels = dict(layout_reader.labels(parsed))
    labels_promised = set(labels.values())
    truth: dict[int, str] = {}
    if phantom:
        cases = [with_truth(case, folder, modalities) for case in cases]
        truth = true_labels(folder, cases)
    kept = asked_for(truth, labels)
    drawn = draw_split(cases, split, seed, dataset, max_cases, folder, key)
    used, split_of = [case for case in cases if case.case in drawn.of_case], drawn.of_case
    if len(used) < len(cases):
        notes.append(f"{len(cases) - len(used)} of {len(cases)} cases are in no split and aren't used.")
    frames, between_patients = parsed.frames, layout_reader.pairs_patients(parsed)
    if between_patients:
        # Two patients have no common frame but, as in BraTS, that of an atlas, whose grid has one centre.
        frames = "centred"
        used, split_of, choice = pair_patients(used, split_of, truth or labels, set(kept), parsed.pairs)
        notes += choice
    check = partial(check_case, layout=layout, labels=truth or labels, frames=frames)
    findings = list(_shown(_mapped(check, used, workers), f"checking {dataset}", len(used)))
    problems = [problem for found in findings for problem in found.problems]
    problems += shared_scans(findings, split_of, between_patients)
    if problems:
        raise DataError(_listed(dataset, folder, problems))
    values = sorted(set().union(*(found.label_values for found in findings)))
    labels = kept or labels or {value: f"label_{value}" for value in values}
    # What is noted of the published scans (who drew which contours) isn't true of phantoms.
    notes += ([] if phantom else layout_reader.notes(parsed)) + sorted(
        {note for found in findings for note in found.notes}
    )
    if labels_promised:
        notes += _without_contours(used, labels_promised)
    # cases.tsv marks the index as complete, so that an index that is being replaced can't be taken for a finished one.
    (out / "cases.tsv").unlink(missing_ok=True)
    reduced = kept if kept != truth else None
    rows = [_row(found, split_of[found.case.case], folder, out, reduced) for found in findings]
    record = {
        "dataset": dataset,
        "reader": reader,
        "options": parsed.model_dump(mode="json"),
        "archive": key or "",
        "folder": str(folder),
        "source": "phantom" if phantom else "real",
        "fixed_modality": modalities[0],
        "moving_modality": modalities[1],
        "frames": frames,
        "between_patients": between_patients,
        "labels": {str(value): labels[value] for value in sorted(labels)},
        **_provenance(archive(key) if key else None, phantom, parsed),
        "split_rule": drawn.rule,
        "seed": seed,
        "n": {name: sum(row["split"] == name for row in rows) for name in ("train", "validation", "test")},
        "notes": notes,
    }
    write_json(out / "dataset.json", record)
    write_text(out / "cases.tsv", _table(rows))


def read_index(out: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The content of ``dataset.json``, and the rows of ``cases.tsv`` as texts; a cell without a value is empty.

    Raises:
        DataError: the index is not there, or not complete.
    """
    out = Path(out)
    if not (out / "cases.tsv").is_file():
        raise DataError(f"{out} holds no complete index (cases.tsv): index the data set again")
    with (out / "cases.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return read_json(out / "dataset.json"), rows


def label_files(cell: str, folder: Path) -> LabelFiles | None:
    """A cell of `fixed_labels` or `moving_labels`, with paths below `folder`, as a reader would give it."""
    if not cell:
        return None
    if not cell.startswith("{"):
        return folder / cell
    return tuple((name, folder / path) for name, path in json.loads(cell).items())


def _complete(cases: Sequence[CaseFiles], incomplete: str) -> tuple[list[CaseFiles], list[str]]:
    if incomplete == "refuse":
        return list(cases), []
    whole = [case for case in cases if case.fixed.is_file() and case.moving.is_file()]
    left_out = sorted({case.case for case in cases} - {case.case for case in whole})
    if not whole:
        raise DataError(f"no case has both scans; {cases[0].case} lacks {_lacking(cases[0])}")
    return whole, [f"Left out, for lack of one of the scans: {', '.join(left_out)}."] if left_out else []


def _without_contours(cases: Sequence[CaseFiles], structures: set[str]) -> list[str]:
    """Which cases lack contours that others of the archive have, so that measures of overlap leave them out."""
    notes = []
    for role in ("fixed", "moving"):
        lacking: dict[str, list[str]] = {}
        for case in cases:
            found = getattr(case, f"{role}_labels")
            there = {name for name, _ in found} if isinstance(found, tuple) else structures if found else set()
            missing = sorted(structures - there)
            if missing:
                lacking.setdefault("any contour" if not there else ", ".join(missing), []).append(case.case)
        for what, ids in lacking.items():
            named = "all cases" if len(ids) == len(cases) else f"{len(ids)} of {len(cases)} cases ({some(ids)})"
            notes.append(f"The {role} scans of {named} lack {what}: Dice and distances leave these out.")
    return notes


def _lacking(case: CaseFiles) -> str:
    return " and ".join(str(path) for path in (case.fixed, case.moving) if not path.is_file())


def _mapped(check: partial[Findings], cases: Sequence[CaseFiles], workers: int) -> Iterator[Findings]:
    if workers <= 1 or len(cases) < 2:
        yield from map(check, cases)
        return
    # Spawned, since forking a process that has already started threads can hang.
    with ProcessPoolExecutor(min(workers, len(cases)), mp_context=get_context("spawn")) as pool:
        yield from pool.map(check, cases)


def _shown(findings: Iterator[Findings], title: str, total: int) -> Iterable[Findings]:
    if not sys.stderr.isatty():
        return findings
    from rich.console import Console
    from rich.progress import track

    return track(findings, title, total, console=Console(stderr=True))


def _listed(dataset: str, folder: Path, problems: Sequence[str]) -> str:
    count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
    lines = [f"{count} in data set {dataset} ({folder}):", *(f"  - {problem}" for problem in problems[:10])]
    if len(problems) > 10:
        lines.append(f"  ... and {len(problems) - 10} more")
    return "\n".join(lines)


def _provenance(source: Archive | None, phantom: dict[str, Any] | None, options: Any) -> dict[str, str]:
    if phantom:
        imitated = f", in the layout of {source.dataset}" if source else ""
        return {
            "licence": "Apache-2.0, as modalign",
            "citation": f"modalign phantom{imitated}; not patient data",
            "access": "phantom",
        }
    if source:
        return {"licence": source.licence, "citation": source.citation, "access": source.access}
    return {"licence": options.licence, "citation": options.citation, "access": "own"}


def _row(found: Findings, split: str, folder: Path, out: Path, reduced: Mapping[int, str] | None) -> dict[str, str]:
    row = {"case": found.case.case, "patient": found.case.patient or "", "split": split, **found.facts}
    for column in PARTS:
        files: LabelFiles | None = getattr(found.case, column)
        if isinstance(files, tuple):
            row[column] = json.dumps({name: _relative(path, folder) for name, path in files})
        elif column.endswith("_labels") and (flat := _rewritten(files, reduced)) is not None:
            path = out / "labels" / f"{found.case.case}_{column}.nii.gz"
            write_volume(path, flat)
            row[column] = _relative(path, folder)
        else:
            row[column] = _relative(files, folder) if files else ""
    return row


def _rewritten(files: Path | None, reduced: Mapping[int, str] | None) -> Volume | None:
    """A label map that can't be used as it lies: a stack of masks, or a phantom's with structures not asked for."""
    if files is None:
        return None
    if is_stack(files):
        return read_stack(files)
    return only(files, reduced) if reduced is not None and is_truth(files) else None


def _relative(path: Path, folder: Path) -> str:
    path = path.absolute()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _first(cases: Sequence[CaseFiles]) -> str:
    return ", ".join(case.case for case in cases[:3])
