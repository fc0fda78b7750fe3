"""What the workflow's segmentation jobs do: train the small segmenter, and segment what a method aligned."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modalign.cases import CaseStore
from modalign.devices import resolve_device
from modalign.files import read_json, write_json
from modalign.segmentation import parse_options, segment_cases


def train_job(
    store: Path, model: Path, options: Mapping[str, Any], *, seed: int, device: str = "auto", threads: int = 1
) -> None:
    """Train the small segmenter of a data set; writes ``model/weights.pt`` and ``model/train.json``."""
    from modalign.segmentation import unet

    record = unet.train(
        CaseStore(store), model, parse_options(options), seed=seed, device=resolve_device(device), threads=threads
    )
    write_json(model / "train.json", record)


def segment_job(
    store: Path,
    runs: Sequence[Path],
    out: Path,
    options: Mapping[str, Any],
    *,
    model: Path | None = None,
    device: str = "auto",
    threads: int = 1,
) -> None:
    """Segment the cases that a method aligned; `runs` are its status files, and cases that failed are left out."""
    chosen, cases = parse_options(options), CaseStore(store)
    aligned = [case["case"] for path in runs for case in read_json(path)["cases"] if case["ok"]]
    where = resolve_device(device)
    if chosen.kind == "totalsegmentator":
        from modalign.segmentation import totalsegmentator

        segment, name = totalsegmentator.load(cases.label_names, device=where), totalsegmentator.NAME
    else:
        from modalign.segmentation import unet

        if model is None:
            raise ValueError("the small segmenter needs the folder of its weights")
        segment, name = unet.load(model, device=where, threads=threads, islands=chosen.islands), unet.NAME
    segment_cases(cases, runs[0].parent, out, segment, name, aligned)
