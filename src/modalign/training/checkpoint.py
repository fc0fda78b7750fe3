"""Checkpoints of an unfinished training, and the fingerprint that says whether one may be continued."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from modalign.files import replacing

log = logging.getLogger(__name__)


def fingerprint(options: Mapping[str, Any], data: str, code: str, seed: int) -> str:
    """A digest of all that decides a training's outcome: options, data, source code and seed."""
    text = json.dumps([options, data, code, seed], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint at once or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(dict(content), file)


def load(path: Path, expected_fingerprint: str) -> dict[str, Any] | None:
    """Read a checkpoint onto the CPU; None if there is none, it can't be read, or it belongs to another training."""
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        log.warning("%s can't be read (%s): training starts afresh", path, error)
        return None
    if content.get("fingerprint") != expected_fingerprint:
        log.warning("options, data, code or seed have changed since %s was written: training starts afresh", path)
        return None
    return content
