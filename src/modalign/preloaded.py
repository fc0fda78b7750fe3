"""How ``python -m modalign`` becomes a fork of the launcher of :mod:`modalign.preload`, where there is one."""

import array
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ADDRESS = "MODALIGN_PRELOADED"
"""Environment variable that holds the launcher's socket."""
JOB_ENVIRONMENT = {
    # Libraries get one thread each: jobs run beside each other, and the number of threads would change the last digits.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1",
    "MPLBACKEND": "Agg",
    # The memory allocator of Linux keeps tensors beyond 32 MB instead of giving them back to the kernel, which would
    # zero them anew at every step of a training on the CPU.
    "MALLOC_MMAP_THRESHOLD_": "8000000000",
    "MALLOC_TRIM_THRESHOLD_": "16000000000",
    "MALLOC_TOP_PAD_": "67108864",
}
"""What every job of the workflow has, and libraries read once when they are loaded."""
ACCEPTED, REFUSED = b"y", b"n"
HEADER = 4
"""Bytes that hold the length of a request, and those that hold an exit code."""

only_loaded: set[str] = set()
"""Modules that the launcher has loaded and this job has not (yet) imported."""


def imported(module: str) -> bool:
    """Whether this job has imported a module, and not only found it loaded."""
    return module in sys.modules and module not in only_loaded


def hand_over() -> None:
    """Run this command in a fork of the launcher and exit as it does; return where no launcher takes it."""
    address = os.environ.get(ADDRESS)
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as launcher:
        try:
            launcher.connect(address)
            started = {"arguments": sys.argv, "folder": str(Path.cwd()), "environment": dict(os.environ)}
            _send(launcher, started | identity())
            answer = launcher.recv(1)
        except OSError:
            return
        if answer != ACCEPTED:
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _frame: launcher.sendall(bytes([number])))
        code = receive(launcher, HEADER)
    if code is None:
        sys.exit("error: the process that holds the loaded libraries has ended; run this again")
    _exit_with(int.from_bytes(code, "little", signed=True))


def identity() -> dict[str, Any]:
    """What must be equal for a fork of one process to stand for another one."""
    return {
        "prefix": sys.prefix,
        "path": os.environ.get("PYTHONPATH", ""),
        "settings": {name: os.environ.get(name) for name in JOB_ENVIRONMENT},
    }


def receive(connection: socket.socket, size: int) -> bytes | None:
    """`size` bytes, or None if the connection ends before."""
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            return None
        received += part
    return received


def _send(launcher: socket.socket, request: Mapping[str, Any]) -> None:
    body = json.dumps(request).encode()
    files = array.array("i", [0, 1, 2])
    launcher.sendmsg([len(body).to_bytes(HEADER, "little")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    launcher.sendall(body)


def _exit_with(code: int) -> None:
    if code < 0:  # ended by a signal
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
