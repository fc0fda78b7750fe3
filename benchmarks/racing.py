"""Two functions that do the same, timed in turns."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FEWEST, MOST = 3, 25


def largest_difference(ours: Any, theirs: Any) -> float:
    """The largest absolute difference between two arrays, tensors, numbers, or sequences of them."""
    if isinstance(ours, list | tuple):
        return max(largest_difference(a, b) for a, b in zip(ours, theirs, strict=True))
    a, b = (np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=np.float64) for x in (ours, theirs))
    return float(np.abs(a - b).max())


@dataclass(frozen=True)
class Race:
    """A task, ours and the peer that a user would pick instead.

    Attributes:
        what: the task and its size.
        peer: the function of the other library.
        ours: does the task and returns the result.
        theirs: the same with the peer.
        difference: how far both results are apart.
        unit: of that difference.
    """

    what: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    difference: Callable[[Any, Any], float] = largest_difference
    unit: str = ""


@dataclass(frozen=True)
class Outcome:
    """Seconds of every repeat, in turns; peak memory in MB above what was there before, None where unknown."""

    race: Race
    ours_s: tuple[float, ...]
    theirs_s: tuple[float, ...]
    ours_mb: float | None
    theirs_mb: float | None
    difference: float

    @property
    def fastest_ratio(self) -> float:
        """Peer over ours, by the fastest repeats: what an idle machine would give."""
        return min(self.theirs_s) / min(self.ours_s)

    @property
    def median_ratio(self) -> float:
        """Peer over ours, by the median repeats."""
        return statistics.median(self.theirs_s) / statistics.median(self.ours_s)


def run_race(race: Race, budget_s: float = 10.0) -> Outcome:
    """Warm both up and compare their results, then time them in turns until the budget is spent."""
    (ours, ours_mb), (theirs, theirs_mb) = with_peak_memory(race.ours), with_peak_memory(race.theirs)
    difference = race.difference(ours, theirs)
    del ours, theirs
    times: tuple[list[float], list[float]] = ([], [])
    started = time.perf_counter()
    while len(times[0]) < FEWEST or (time.perf_counter() - started < budget_s and len(times[0]) < MOST):
        for function, seconds in zip((race.ours, race.theirs), times, strict=True):
            begin = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - begin)
    return Outcome(race, tuple(times[0]), tuple(times[1]), ours_mb, theirs_mb, difference)


def with_peak_memory(function: Callable[[], Any]) -> tuple[Any, float | None]:
    """The result, and by how many MB the resident memory peaked above its level before; None where unknown."""
    gc.collect()
    try:
        # Memory that an earlier function has freed would hide what this one takes.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status_mb("VmRSS")
    except OSError:
        return function(), None
    result = function()
    return result, max(0.0, _status_mb("VmHWM") - before)


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":")) / 1024


def markdown(outcomes: list[Outcome]) -> str:
    """One line per race: fastest and median seconds, peer / ours by both, peak memory, difference of the results."""
    lines = [
        "| what | peer | ours (s) | peer (s) | peer / ours | ours, peer (MB) | largest difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        seconds = [f"{min(times):.3g}, {statistics.median(times):.3g}" for times in (o.ours_s, o.theirs_s)]
        memory = " , ".join("-" if mb is None else f"{mb:.0f}" for mb in (o.ours_mb, o.theirs_mb)).replace(" ,", ",")
        ratio = f"**{o.fastest_ratio:.1f}**, {o.median_ratio:.1f}"
        difference = f"{o.difference:.1e} {o.race.unit}".strip()
        lines.append(f"| {o.race.what} | {o.race.peer} | {' | '.join(seconds)} | {ratio} | {memory} | {difference} |")
    return "\n".join(lines) + "\n"
