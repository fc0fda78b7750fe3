"""Who is trained on and who is tested on: drawn by patient, from counts, fractions, a file or what was published."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modalign.cases import SPLITS
from modalign.datasets.base import CaseFiles
from modalign.errors import ConfigError, DataError
from modalign.seeds import derive_seed

REST = "rest"
Rule = Mapping[str, int | float | str | tuple[str, ...]]
_LOCOR_ABDOMEN: Rule = {"validation": ("0012", "0014", "0016"), "test": ("0002", "0004", "0008", "0010")}
_LOCOR_CERMEP: Rule = {"validation": ("sub-0004", "sub-0005", "sub-0008"), "test": REST}

PRESETS: dict[str, Rule] = {
    # RbG, section IV-A: MR-CT pelvis, CBCT-CT brain; IXI as in its experiment on put-in misalignment.
    "rbg-pelvis": {"train": 112, "validation": 18, "test": 35},
    "rbg-cbct": {"train": 126, "validation": 18, "test": 36},
    "rbg-ixi": {"train": 25, "validation": 5, "test": 10},
    # Locor, section 5: three validation cases a data set; case 0006 of the abdomen is left out, as stated there.
    "locor-ixi": {"train": 0, "validation": 3, "test": 49},
    "locor-abdomen": _LOCOR_ABDOMEN,
    "locor-cermep": _LOCOR_CERMEP,
    # IMSE, table 1, in 3D.
    "imse-brats": {"train": 187, "test": 20},
    "imse-clinical": {"train": 80, "test": 18},
    # Cao et al., section 3: drawn anew five times, so five seeds.
    "cao": {"train": 12, "validation": 1, "test": 2},
}
"""The papers' splits: how many patients, or which."""
NAMED_IN = {"locor-abdomen": "learn2reg-abdomen-mr-ct-2021", "locor-cermep": "cermep"}
"""The archive whose cases a split names: in another, or another version, the same id can be another patient."""


@dataclass(frozen=True)
class Split:
    """Which case is in which split; cases that are in none are not used. `rule` says how it came about."""

    of_case: dict[str, str]
    rule: str


def draw_split(
    cases: Sequence[CaseFiles],
    split: Mapping[str, int | float] | str | None,
    seed: int,
    dataset: str = "",
    max_cases: int | None = None,
    folder: Path | None = None,
    archive: str | None = None,
) -> Split:
    """Put every patient into one split, or into none.

    Args:
        cases: all cases; those with the same `patient` stay together.
        split: counts of patients, ``{"train": 112, "validation": 18, "test": 35}``; fractions,
            ``{"train": 0.7, "test": 0.3}``; a name in :data:`PRESETS`; ``published`` for the split that comes with the
            data; the path of a file with ``case<TAB>split`` lines; None for the published split or, if there is none,
            everything ``test``.
        seed: counts and fractions are drawn by it; the order of `cases` and the machine play no part.
        dataset: name of the data set, so that data sets are drawn independently.
        max_cases: use no more than about so many cases, in the proportions of the splits, at least one a split.
        folder: where a relative path of a split file starts, besides the working folder.
        archive: key of the archive that the cases are of, if known: a split that names cases of another is refused.

    Raises:
        ConfigError: the rule can't be understood.
        DataError: there are too few patients, a named case isn't there, or a patient would be in two splits.
    """
    patients: dict[str, list[str]] = {}
    for case in cases:
        patients.setdefault(case.patient or case.case, []).append(case.case)
    if isinstance(split, str) and split in PRESETS:
        if archive and NAMED_IN.get(split, archive) != archive:
            raise ConfigError(
                f"split {split} names cases of the archive {NAMED_IN[split]}, but {dataset or 'the data set'} is read "
                f"from {archive}, where the same ids are other patients. Read {NAMED_IN[split]}, or have a split drawn "
                "by counts, such as {train: 0, validation: 3, test: 4}"
            )
        chosen: Rule = PRESETS[split]
        rule = f"{split}: {_words(chosen)}"
    elif isinstance(split, Mapping):
        chosen, rule = split, _words(split)
    else:
        of_case, rule = _listed(cases, split, folder)
        _refuse_leaks(patients, of_case)
        return Split(_thinned(of_case, max_cases, seed, dataset), rule)
    unknown = set(chosen) - set(SPLITS)
    if unknown or not chosen:
        raise ConfigError(f"split names {sorted(unknown) or 'nothing'}; the splits are: {', '.join(SPLITS)}")
    if any(isinstance(value, tuple | str) for value in chosen.values()):
        if not all(isinstance(value, tuple) or value == REST for value in chosen.values()):
            raise ConfigError(f"split {rule}: write counts for all splits, or fractions for all")
        of_case = _named(cases, chosen, str(split))
        _refuse_leaks(patients, of_case)
        return Split(_thinned(of_case, max_cases, seed, dataset), rule)
    counts = _counts(chosen, len(patients), max_cases)
    if sum(counts.values()) > len(patients):
        raise DataError(
            f"split {rule} needs {sum(counts.values())} patients, "
            f"but {f'data set {dataset}' if dataset else 'the data set'} has {len(patients)}. "
            "Ask for fewer, or for fractions such as {train: 0.7, validation: 0.1, test: 0.2}"
        )
    order = iter(sorted(patients, key=lambda p: (derive_seed(seed, dataset, p, "split"), p)))
    drawn = {name: [next(order) for _ in range(count)] for name, count in counts.items()}
    of_case = {case: name for name, people in drawn.items() for p in people for case in patients[p]}
    scaled = f", scaled to {_words(counts)} as at most {max_cases} cases were asked for" if max_cases else ""
    return Split(dict(sorted(of_case.items())), f"{rule} of {len(patients)} patients, drawn by seed {seed}{scaled}")


def _counts(chosen: Mapping[str, object], available: int, max_cases: int | None) -> dict[str, int]:
    values = {name: chosen.get(name, 0) for name in SPLITS}
    wrong = [f"{n}: {v!r}" for n, v in values.items() if isinstance(v, bool) or not isinstance(v, int | float) or v < 0]
    if wrong:
        raise ConfigError(f"split {', '.join(wrong)}: write counts of patients, or fractions between 0 and 1")
    shares: dict[str, float] = {name: float(value) for name, value in values.items()}  # type: ignore[arg-type]
    if any(isinstance(v, float) for v in values.values()):
        if sum(shares.values()) > 1 + 1e-9:
            raise ConfigError(
                f"the fractions of split {_words(chosen)} add up to {sum(shares.values()):g}, more than 1"
            )
        total = round(available * sum(shares.values()))
    else:
        total = round(sum(shares.values()))
    if max_cases is not None and total > max_cases:
        total = max_cases
    elif all(isinstance(v, int) for v in values.values()):
        return {name: int(share) for name, share in shares.items()}
    return _apportion(shares, total)


def _apportion(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Largest remainders, but at least one patient for every split that isn't empty, while there are enough."""
    wanted = [name for name in shares if shares[name] > 0]
    if total < len(wanted):
        raise DataError(f"{total} patients are too few for the splits {', '.join(wanted)}: allow {len(wanted)} or more")
    ideal = {name: total * shares[name] / sum(shares.values()) for name in wanted}
    counts = {name: max(1, int(ideal[name])) for name in wanted}
    while sum(counts.values()) != total:
        step = 1 if sum(counts.values()) < total else -1
        movable = [name for name in wanted if step > 0 or counts[name] > 1]
        name = max(movable, key=lambda n: step * (ideal[n] - counts[n]))
        counts[name] += step
    return {name: counts.get(name, 0) for name in SPLITS}


def _named(cases: Sequence[CaseFiles], chosen: Mapping[str, object], name: str) -> dict[str, str]:
    there = [case.case for case in cases]
    listed = {case: key for key, ids in chosen.items() if isinstance(ids, tuple) for case in ids}
    missing = sorted(set(listed) - set(there))
    if missing:
        raise DataError(f"split {name} names {', '.join(missing)}, which the data set hasn't: it has {some(there)}")
    rest = next((key for key, ids in chosen.items() if ids == REST), None)
    return {case: listed.get(case, rest or "") for case in there if case in listed or rest}


def _listed(cases: Sequence[CaseFiles], split: str | None, folder: Path | None) -> tuple[dict[str, str], str]:
    if split in (None, "published"):
        published = {case.case: case.split for case in cases if case.split}
        if not published and split is None:
            return {case.case: "test" for case in cases}, "all cases are test cases"
        if not published:
            raise ConfigError("split `published`: no split comes with this data; write counts such as {test: 10}")
        if len(published) < len(cases):
            without = [case.case for case in cases if not case.split]
            raise DataError(
                f"these cases have no split, but others have: {some(without)}. Give all of them one, or none"
            )
        return published, "as published with the data"
    assert split is not None
    candidates = [Path(split), *([folder / split] if folder else [])]
    path = next((p for p in candidates if p.is_file()), None)
    if path is None:
        raise ConfigError(
            f"split {split!r} is neither a file nor a known name ({', '.join(PRESETS)}, published); "
            "counts are written as {train: 112, validation: 18, test: 35}"
        )
    return _from_file(path, {case.case for case in cases}), f"from {path.name}"


def _from_file(path: Path, there: set[str]) -> dict[str, str]:
    assigned: dict[str, str] = {}
    problems = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, line in enumerate(csv.reader(file, delimiter="\t"), start=1):
            if not line or (number == 1 and line == ["case", "split"]):
                continue
            if len(line) != 2 or line[1].strip() not in SPLITS:
                problems.append(f"line {number} is {line}: write case, a tab, and {', '.join(SPLITS)}")
                continue
            case, name = (cell.strip() for cell in line)
            if case not in there:
                problems.append(f"line {number}: there is no case {case!r}")
            if assigned.get(case, name) != name:
                problems.append(f"line {number}: case {case!r} is in {assigned[case]} already")
            assigned[case] = name
    if problems or not assigned:
        more = f" ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise DataError(f"{path}: " + ("; ".join(problems[:10]) + more or "it names no case"))
    return dict(sorted(assigned.items()))


def _refuse_leaks(patients: Mapping[str, Sequence[str]], of_case: Mapping[str, str]) -> None:
    for patient, cases in patients.items():
        splits = {of_case[case]: case for case in cases if case in of_case}
        if len(splits) > 1:
            where = " and ".join(f"{case} is in {name}" for name, case in sorted(splits.items()))
            raise DataError(f"patient {patient} is in two splits ({where}): put all scans of a patient into one")


def _thinned(of_case: dict[str, str], max_cases: int | None, seed: int, dataset: str) -> dict[str, str]:
    if max_cases is None or len(of_case) <= max_cases:
        return dict(sorted(of_case.items()))
    members = {name: [c for c, s in of_case.items() if s == name] for name in SPLITS}
    counts = _apportion({name: float(len(ids)) for name, ids in members.items()}, max_cases)
    kept = {}
    for name, ids in members.items():
        ids.sort(key=lambda c: (derive_seed(seed, dataset, c, "split"), c))
        kept.update(dict.fromkeys(ids[: counts[name]], name))
    return dict(sorted(kept.items()))


def _words(split: Mapping[str, object]) -> str:
    def one(value: object) -> str:
        return ", ".join(value) if isinstance(value, tuple) else str(value)

    return " / ".join(f"{name} {one(value)}" for name, value in split.items())


def some(ids: Sequence[str]) -> str:
    """The first of many names, and how many there are."""
    ids = sorted(ids)
    return ", ".join(ids[:8]) + (f" ... ({len(ids)} in all)" if len(ids) > 8 else "")
