"""Aligning one pair of files with any method."""

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modalign.cases import Case
from modalign.errors import DataError
from modalign.files import check_writable, write_json
from modalign.memory import peak_memory_mb
from modalign.runs import align_case, build_method
from modalign.spatial.fields import write_itk_field
from modalign.volumes import Volume, read_volume, write_volume

log = logging.getLogger(__name__)


def align_pair(
    fixed: Path,
    moving: Path,
    out: Path,
    *,
    method: str,
    dimension: int | None = None,
    options: Mapping[str, Any] | None = None,
    needs: Mapping[str, Any] | None = None,
    fixed_mask: Path | None = None,
    moving_mask: Path | None = None,
    model: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int = 1,
) -> dict[str, Any]:
    """Align one pair of scans; write ``out/image.nii.gz``, ``out/field.nii.gz`` (if it deforms) and ``out/run.json``.

    The image lies on the fixed grid; the field is an ITK displacement field. Whether `out` can be written to is
    checked before the work starts. Returns what run.json says.

    Raises:
        DataError: a file is missing or unreadable, or a mask doesn't lie on its image's grid.
        ConfigError: there is no such method or option.
        WriteError: `out` can't be written to.
    """
    from modalign.methods import method_class

    check_writable(out)
    if dimension is None:
        dimension = max(method_class(method).dimensions)
    spec = {"method": method, "dimension": dimension, "options": dict(options or {}), "needs": dict(needs or {})}
    worker = build_method(spec, seed=seed, device=device, threads=threads, model=model)
    case = Case(
        id=Path(moving).name,
        fixed=read_volume(fixed),
        moving=read_volume(moving),
        fixed_mask=_read_mask(fixed_mask, fixed),
        moving_mask=_read_mask(moving_mask, moving),
    )
    started = time.perf_counter()
    alignment, seconds = align_case(worker, case)
    write_volume(out / "image.nii.gz", alignment.image)
    if alignment.field is not None:
        write_itk_field(out / "field.nii.gz", alignment.field, case.grid)
    record = {
        "fixed": str(fixed),
        "moving": str(moving),
        "method": spec,
        "seed": seed,
        "device": worker.context.device,
        "seconds": seconds,
        "peak_memory_mb": peak_memory_mb(worker.context.device),
        "notes": alignment.notes,
    }
    write_json(out / "run.json", record)
    log.info("aligned in %.1f s, everything written after %.1f s", seconds, time.perf_counter() - started)
    return record


def _read_mask(path: Path | None, image: Path) -> Volume | None:
    if path is None:
        return None
    mask, grid = read_volume(path), read_volume(image).grid
    if not mask.grid.same_as(grid, tolerance_mm=0.1):
        raise DataError(
            f"the mask {path} (shape {mask.shape}) does not lie on the grid of {image} (shape {grid.shape})"
        )
    return mask.like((mask.data > 0).astype("uint8"))


def parse_json(text: str, what: str) -> Any:
    """JSON given on the command line, or in a file named as ``@file``."""
    from modalign.errors import ConfigError

    if text.startswith("@"):
        text = Path(text[1:]).read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{what} has to be JSON such as '{{\"name\": 1}}', not {text!r}: {error}") from error
