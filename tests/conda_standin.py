"""As much of conda as Snakemake asks for, where there is none: environments are links into the tests' own.

An environment made of a file holds what its pins install, which is found in the metadata of the installed packages, and
nothing else. What a real conda adds, the solving and the download of Python itself, isn't covered.

    conda_standin.py install FOLDER      writes FOLDER/bin/{conda,activate}
"""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ACTIVATE = 'export CONDA_PREFIX="$1" PATH="$1/bin:$PATH"\n'


def install(folder: Path) -> None:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "activate").write_text(ACTIVATE)
    _script(folder / "bin" / "conda", "conda")


def _script(path: Path, *arguments: object) -> None:
    """A command that runs this file with the Python of the tests, whatever is active."""
    words = " ".join(f"'{word}'" for word in (sys.executable, __file__, *arguments))
    path.write_text(f'#!/bin/sh\nexec env -u PYTHONPATH {words} "$@"\n')
    path.chmod(0o755)


def conda(home: Path, arguments: list[str]) -> None:
    if arguments[0] == "info":
        sys.stdout.write(json.dumps({"conda_prefix": str(home), "platform": "linux-64"}))
    elif arguments[0] == "--version":
        sys.stdout.write("conda 99.0.0")
    elif arguments[0] == "config":
        sys.stdout.write(json.dumps({"get": {"channel_priority": "strict"}}))
    elif arguments[:2] == ["env", "create"]:
        create(Path(arguments[arguments.index("--file") + 1]), Path(arguments[arguments.index("--prefix") + 1]))
    elif arguments[0] != "clean":
        sys.exit(f"conda stand-in: {arguments} is not known")


def create(file: Path, prefix: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", prefix], check=True)
    (prefix / "conda-meta").mkdir()
    _script(prefix / "bin" / "pip", "pip", prefix)
    parts = yaml.safe_load(file.read_text())["dependencies"]
    pins = [pin for part in parts if isinstance(part, dict) for pin in part["pip"]]
    found: dict[str, Distribution] = {}
    for pin in pins:
        collect(Requirement(pin), found)
    for package in found.values():
        link(package, prefix)


def collect(requirement: Requirement, found: dict[str, Distribution], extras: frozenset[str] = frozenset()) -> None:
    """The package and all that it requires here, with the extras asked for."""
    name = re.sub(r"[-_.]+", "-", requirement.name).lower()
    wanted = frozenset(requirement.extras)
    if name in found and not wanted:
        return
    package = found[name] = distribution(name)
    if not requirement.specifier.contains(package.version, prereleases=True):
        sys.exit(f"conda stand-in: {requirement} is asked for, and {package.version} is installed")
    for line in package.requires or []:
        needed = Requirement(line)
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
            collect(needed, found)


def link(package: Distribution, prefix: Path) -> None:
    target = next((prefix / "lib").glob("python3*")) / "site-packages"
    tops = {Path(file).parts[0] for file in package.files or [] if Path(file).parts[0] not in ("..", "__pycache__")}
    for top in tops:
        path = target / top
        if not path.exists():
            path.symlink_to(Path(str(package.locate_file(top))))


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    if command == "install":
        install(Path(rest[0]))
    elif command == "conda":
        conda(Path(os.environ["CONDA_STANDIN"]), rest)
    else:
        prefix, verb, *options = rest
        if verb != "install" or options[:1] != ["--no-deps"]:
            sys.exit(f"conda stand-in: pip {verb} {options} is not known")
        for pin in options[1:]:
            link(distribution(Requirement(pin).name), Path(prefix))
