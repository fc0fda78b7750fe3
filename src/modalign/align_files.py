"""Aligning one pair of files with any method."""

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modalign.api import mask_on, method_for, way_back, with_masks
from modalign.cases import Case
from modalign.files import check_writable, write_json
from modalign.memory import peak_memory_mb
from modalign.runs import align_case
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
    threads: int | None = None,
    inverse: bool = False,
) -> dict[str, Any]:
    """Align one pair of scans; write ``out/image.nii.gz``, ``out/field.nii.gz`` (if it deforms) and ``out/run.json``.

    The image lies on the fixed grid; the field is an ITK displacement field. With `inverse`, the field from the moving
    grid to the fixed scan goes to ``out/inverse_field.nii.gz``, and run.json says how well it inverts. Whether `out`
    can be written to is checked before the work starts, and what an earlier run left there is removed. Returns what
    run.json says.

    Raises:
        DataError: a file is missing or unreadable, a mask doesn't lie on its image's grid, or there is no field to
            invert.
        ConfigError: there is no such method or option, or the method can't use masks.
        WriteError: `out` can't be written to.
    """
    if fixed_mask is not None or moving_mask is not None:
        options, needs = with_masks(method, options, needs)
    check_writable(out)
    worker = method_for(method, dimension, options, needs, seed, device, threads, model)
    case = Case(
        id=f"{Path(fixed).name} with {Path(moving).name}",
        fixed=read_volume(fixed),
        moving=read_volume(moving),
    )
    case.fixed_mask = _read_mask(fixed_mask, case.fixed, fixed)
    case.moving_mask = _read_mask(moving_mask, case.moving, moving)
    # What an earlier run left must not pass for this one's, run.json least of all.
    for name in ("run.json", "image.nii.gz", "field.nii.gz", "inverse_field.nii.gz"):
        (out / name).unlink(missing_ok=True)
    started = time.perf_counter()
    alignment, seconds = align_case(worker, case)
    notes = dict(alignment.notes)
    if inverse:
        back, of_inverse = way_back(alignment, case, method)
        notes |= of_inverse
        write_itk_field(out / "inverse_field.nii.gz", back, case.moving.grid)
    write_volume(out / "image.nii.gz", alignment.image)
    if alignment.field is not None:
        write_itk_field(out / "field.nii.gz", alignment.field, case.grid)
    record = {
        "fixed": str(fixed),
        "moving": str(moving),
        "method": {
            "method": method,
            "dimension": worker.dimension,
            "options": dict(options or {}),
            "needs": dict(needs or {}),
        },
        "seed": seed,
        "device": worker.context.device,
        "seconds": seconds,
        "peak_memory_mb": peak_memory_mb(worker.context.device),
        "notes": notes,
    }
    write_json(out / "run.json", record)
    log.info("aligned in %.1f s, everything written after %.1f s", seconds, time.perf_counter() - started)
    return record


def _read_mask(path: Path | None, image: Volume, image_path: Path) -> Volume | None:
    return None if path is None else mask_on(read_volume(path), image.grid, f"the mask {path}", str(image_path))


def parse_json(text: str, what: str, kind: type = object) -> Any:
    """JSON given on the command line, or in a file named as ``@file``; of one `kind`, such as dict."""
    from modalign.errors import ConfigError

    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{what} names a file that can't be read: {error}") from error
    example = "JSON such as '{\"name\": 1}'"
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{what} has to be {example}, not {text!r}: {error}") from error
    if not isinstance(value, kind):
        raise ConfigError(f"{what} has to be {example}, with names and values, not {text!r}")
    return value
