"""Running a method where it can do no harm: in a child process with a time limit."""

import ctypes
import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from modalign.errors import ModalignError, StoreError, WriteError
from modalign.files import UNWRITABLE
from modalign.memory import peak_memory_mb, peak_memory_of_children_mb, total_memory_mb

log = logging.getLogger(__name__)

CANNOT_WRITE = os.EX_IOERR
"""Exit code of a job that can't write its results."""
CANNOT_READ = os.EX_NOINPUT
"""Exit code of a job whose prepared cases can't be read."""
LONGEST_WAIT = 24 * 3600.0
"""Seconds; the operating system can't wait for longer than some weeks at a time."""
NEAR_THE_LIMIT = 0.7
"""A killed child that held more than this share of the memory counts as out of memory."""


@dataclass(frozen=True)
class Outcome:
    """How a piece of work ended: its value, or the reason why there is none."""

    ok: bool
    value: Any = None
    reason: str = ""
    traceback: str = ""
    peak_memory_mb: float = 0.0


def supervised(work: Callable[[], Any], minutes: float | None = None) -> Outcome:
    """Run `work` in a forked child and report how it ended.

    An exception, lack of memory (as an exception, or as the kernel's kill) and the end of `minutes` are outcomes.
    SIGTERM and SIGINT are passed on to the child, whose exit code then becomes this process's own, so that an
    interrupted job is seen as interrupted and not as failed. A child that somebody else killed ends this process too.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(work, sender))
    # A signal that comes while the child is being started waits until it can be passed on.
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    try:
        child.start()
        sender.close()
        previous = _pass_on_signals(child)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    try:
        message = _receive(receiver, minutes)
        if message is None and child.pid is not None:
            os.killpg(child.pid, signal.SIGKILL)
        child.join()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        receiver.close()
    if message is None:
        return Outcome(
            False, reason=f"ran out of time ({minutes:g} minutes)", peak_memory_mb=peak_memory_of_children_mb()
        )
    if isinstance(message, Outcome):
        return message
    return _died(child.exitcode)


def _receive(receiver: Connection, minutes: float | None) -> Outcome | str | None:
    """The child's outcome, "died" if it ended without one, None if the time is over."""
    end = math.inf if minutes is None else time.monotonic() + minutes * 60
    while not receiver.poll(max(0.0, min(end - time.monotonic(), LONGEST_WAIT))):
        if time.monotonic() >= end:
            return None
    try:
        return receiver.recv()
    except EOFError:
        return "died"


def _died(exitcode: int | None) -> Outcome:
    peak = peak_memory_of_children_mb()
    if exitcode == -signal.SIGKILL and peak > NEAR_THE_LIMIT * total_memory_mb():
        return Outcome(False, reason=f"ran out of memory ({peak:.0f} MB)", peak_memory_mb=peak)
    if exitcode is not None and exitcode < 0 and -exitcode in _CRASHES:
        return Outcome(False, reason=f"crashed ({signal.Signals(-exitcode).name})", peak_memory_mb=peak)
    if exitcode is not None and exitcode < 0:
        sys.exit(128 - exitcode)
    sys.exit(exitcode or 1)


_PASSED_ON = {signal.SIGTERM, signal.SIGINT}
_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGBUS}


def _run(work: Callable[[], Any], sender: Connection) -> None:
    os.setsid()  # a group of its own, so that programs that a method has started end with it
    _die_with_parent()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    try:
        outcome = Outcome(True, work(), peak_memory_mb=peak_memory_mb())
    except MemoryError as error:
        outcome = Outcome(False, reason=f"ran out of memory: {error}", peak_memory_mb=peak_memory_mb())
    except WriteError as error:
        log.error("%s", error)
        os._exit(CANNOT_WRITE)
    except StoreError as error:
        log.error("%s", error)
        os._exit(CANNOT_READ)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            log.error("can't write %s: %s", error.filename or "a temporary file", error.strerror)
            os._exit(CANNOT_WRITE)
        outcome = _failure(error)
    sender.send(outcome)
    sender.close()


def _die_with_parent() -> None:
    """A killed job must not leave a child behind that goes on writing (Linux only)."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _failure(error: Exception) -> Outcome:
    log.error("%s", traceback.format_exc())
    text = " ".join(str(error).split()) or "no message"
    if "out of memory" in text.lower():
        text = f"ran out of memory: {text}"
    elif not isinstance(error, ModalignError):
        text = f"{type(error).__name__}: {text}"
    return Outcome(False, reason=text, traceback=traceback.format_exc(), peak_memory_mb=peak_memory_mb())


def _pass_on_signals(child: Any) -> dict[int, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}

    def pass_on(number: int, _frame: Any) -> None:
        os.kill(child.pid, number)

    return {number: signal.signal(number, pass_on) for number in _PASSED_ON}
