"""Jobs that start with their libraries loaded: ``python -m modalign.preload snakemake --cores all``.

Importing PyTorch takes seconds, and a run of the workflow has hundreds of short jobs. This launcher loads the libraries
once, runs the command that follows it, and forks for every ``python -m modalign`` in it: the fork gets the arguments,
the folder, the environment and the open files of the process that asked, ends as if it were that process, signals
included, and dies with it. Where a fork can't stand for a new process (another environment, other settings of the
libraries, another machine, not Linux) jobs start as usual. What they compute is the same either way; their peak memory
includes libraries that they may not need.
"""

import atexit
import builtins
import contextlib
import ctypes
import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, NoReturn

from modalign import preloaded
from modalign.preloaded import ACCEPTED, ADDRESS, HEADER, JOB_ENVIRONMENT, REFUSED, identity, receive

LIBRARIES = ("pandas", "scipy.stats", "SimpleITK", "torch", "torchvision")

LONGEST_ADDRESS = 107
"""Bytes in the path of a Unix socket; where the folder for temporary files has a longer one, jobs start as usual."""


def launch(command: list[str]) -> int:
    """Run a command whose jobs find a launcher; returns its exit code."""
    if sys.platform != "linux":  # elsewhere a fork of loaded libraries isn't safe
        return subprocess.run(command, check=False).returncode
    with tempfile.TemporaryDirectory(prefix="modalign-") as folder:
        address = str(Path(folder) / "launcher")
        if len(os.fsencode(address)) > LONGEST_ADDRESS:
            return subprocess.run(command, check=False).returncode
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(address)
            listener.listen(128)
            launcher = subprocess.Popen(
                [sys.executable, "-m", "modalign.preload", "--serve", str(listener.fileno())],
                stdin=subprocess.PIPE,  # its end tells the launcher to stop, however this process ends
                env=os.environ | JOB_ENVIRONMENT | {"PYTHONPATH": str(Path(__file__).parents[1])},
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
        try:
            return _run(command, address)
        finally:
            launcher.communicate()


def _run(command: list[str], address: str) -> int:
    with subprocess.Popen(command, env=os.environ | {ADDRESS: address}) as process:
        # Ctrl-C reaches the command by itself; what it does about it decides when this ends.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, _frame: process.send_signal(number))
        return process.wait()


def serve(listener: socket.socket) -> None:
    """Fork for every request, until standard input ends; returns in the jobs, which then run the command line."""
    importlib.import_module("modalign.cli")
    needed_anyway = set(sys.modules)
    for library in LIBRARIES:
        importlib.import_module(library)
    preloaded.only_loaded.update(set(sys.modules) - needed_anyway)
    gc.freeze()  # what is here stays, and looking through it would copy its memory
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if listener not in ready:
            os._exit(0)
        connection, _ = listener.accept()
        with connection:
            if os.fork() == 0:
                listener.close()
                _keep(connection)
                return


def _keep(connection: socket.socket) -> None:
    """Fork a job, pass signals on to it and its exit code back; returns in the job alone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, files = _request(connection)
    if request is None or any(request[key] != value for key, value in identity().items()):
        with contextlib.suppress(OSError):
            connection.sendall(REFUSED)
        os._exit(0)
    connection.sendall(ACCEPTED)
    job = os.fork()
    if job == 0:
        connection.close()
        _become(request, files)
        return
    with contextlib.suppress(OSError):  # the job may have been faster
        os.setpgid(job, job)
    for file in files:
        os.close(file)
    ended = os.pidfd_open(job)
    while True:
        ready = select.select([connection.fileno(), ended], [], [])[0]
        if ended in ready:
            code = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
            with contextlib.suppress(OSError):
                connection.sendall(code.to_bytes(HEADER, "little", signed=True))
            os._exit(0)
        signals = connection.recv(16)
        for number in signals:
            os.kill(job, number)
        if not signals:  # who asked has been killed
            os.killpg(job, signal.SIGKILL)
            os._exit(0)


def _request(connection: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    header, files, _, _ = socket.recv_fds(connection, HEADER, 3)
    body = receive(connection, int.from_bytes(header, "little")) if len(header) == HEADER else None
    return (json.loads(body) if body else None), files


def _become(request: dict[str, Any], files: list[int]) -> None:
    """Turn a fork of the launcher into the process that asked for it."""
    os.setpgid(0, 0)
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    # A training on several GPUs starts its command once more for each of them, by the name of this module: as processes
    # of their own, with settings that the launcher hasn't.
    del os.environ[ADDRESS]
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("modalign.__main__")
    sys.argv[:] = request["arguments"]
    _note_imports()


def _note_imports() -> None:
    """From now on, an import statement makes a loaded module an imported one."""
    original = builtins.__import__

    def noting(name: str, *arguments: Any, **options: Any) -> Any:
        preloaded.only_loaded.difference_update((name, name.partition(".")[0]))
        return original(name, *arguments, **options)

    builtins.__import__ = noting


def _leave(code: str | int | None) -> NoReturn:
    """End as usual, but without taking apart what the launcher had loaded, which takes longer than many jobs."""
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(socket.socket(fileno=int(sys.argv[2])))
        try:
            importlib.import_module("modalign.cli").run_job()
        except SystemExit as end:
            _leave(end.code)
    elif sys.argv[1:]:
        sys.exit(launch(sys.argv[1:]))
    else:
        sys.exit("usage: python -m modalign.preload COMMAND...")
