"""Whole registrations of one pair: seconds, seconds per iteration at full resolution, peak memory, and what is left.

``python benchmarks/registration.py`` registers a synthetic pair of 92 x 110 x 92 voxels with a known field by every
method below, each in a process of its own, one after the other. With ``--real FOLDER`` it is a real head, whose T2
image is deformed by a smooth field of 2 voxels on average at 2 mm (``FOLDER/ms_mni/<patient>_{T1,T2}.nii.gz``).
`--threads` holds for all methods.
"""

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "Locor": ("locor", {"preset": "paper"}),
    "Locor, released": ("locor", {"preset": "released"}),
    "SRWCR": ("instance", {"similarity": "srwcr"}),
    "MIND-SSC": ("instance", {"similarity": "mind-ssc"}),
    "MIND": ("instance", {"similarity": "mind"}),
    "MI": ("instance", {"similarity": "mi"}),
    "NMI": ("instance", {"similarity": "nmi"}),
    "LNCC": ("instance", {"similarity": "lncc"}),
    "correlation ratio": ("instance", {"similarity": "cr"}),
    "corrField": ("corrfield", {"preset": "original"}),
    "NiftyReg NMI": ("niftyreg", {"similarity": "nmi"}),
    "NiftyReg MIND": ("niftyreg", {"similarity": "mind"}),
    "SyN, library default": ("syn", {"preset": "cao"}),
    "SyN, Locor's settings": ("syn", {"preset": "locor"}),
}
SHAPE = (92, 110, 92)
FEW, MORE = 2, 8
"""Iterations at full resolution, whose difference in time gives that of one."""
log = logging.getLogger("benchmarks")


def main() -> None:
    """Run the chosen methods and print a Markdown table."""
    options = _parser().parse_args()
    if options.one is not None:
        print(json.dumps(_register(options)))
        return
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")
    print(f"{options.threads} threads, {os.cpu_count()} CPU cores\n")
    print(
        "| method | seconds | CPU seconds | seconds per iteration | peak memory (GB) | error before → after (voxels) |"
    )
    print("|---|---|---|---|---|---|")
    for name in options.only or METHODS:
        log.info("%s", name)
        command = [sys.executable, __file__, *sys.argv[1:], "--one", name]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if ran.returncode:
            print(f"| {name} | failed: {ran.stderr.strip().splitlines()[-1]} | | | | |", flush=True)
            continue
        found = json.loads(ran.stdout.splitlines()[-1])
        step = "" if found["step"] is None else f"{found['step']:.2f}"
        print(
            f"| {name} | {found['seconds']:.1f} | {found['cpu']:.0f} | {step} | {found['memory_gb']:.2f} | "
            f"{found['before']:.2f} → {found['after']:.3f} |",
            flush=True,
        )


def _register(options: argparse.Namespace) -> dict[str, Any]:
    from modalign.cases import Case
    from modalign.methods import Context, method_class

    case, truth, inside = _pair(options)
    name, settings = METHODS[options.one]
    blind = Case(id=case.id, fixed=case.fixed, moving=case.moving)

    def run(**more: Any) -> tuple[Any, float]:
        method = method_class(name)({**settings, **more}, 3, Context(threads=options.threads, seed=options.seed))
        started = time.perf_counter()
        return method.align(blind), time.perf_counter() - started

    cpu = _cpu_seconds()
    found, seconds = run()
    cpu = _cpu_seconds() - cpu
    memory = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1e6
    step = None
    if name in ("locor", "instance"):
        few, more = (run(schedule=(0, 0, 0, 0, 0, count))[1] for count in (FEW, MORE))
        step = (more - few) / (MORE - FEW)
    return {
        "seconds": seconds,
        "cpu": cpu,
        "step": step,
        "memory_gb": memory,
        "before": _mean_error(truth, inside),
        "after": _mean_error(found.field - truth, inside),
    }


def _cpu_seconds() -> float:
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def _mean_error(field: Any, inside: Any) -> float:
    import numpy as np

    return float(np.linalg.norm(field, axis=0)[inside].mean())


def _pair(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The case, its true field (3, X, Y, Z) in voxels, and where it counts."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from registration_pairs import contrast_pair, known_deformation

    if options.real is not None:
        case, _, inside = known_deformation(options.real, options.patient, 2.0)
        return case, case.true_field, inside

    from modalign.volumes import axis_aligned

    case, inside = contrast_pair(axis_aligned(SHAPE, (2.0, 2.0, 2.0)), seed=options.seed, largest_voxels=6.0)
    return case, case.true_field, inside


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=METHODS, metavar="NAME", help=", ".join(METHODS))
    parser.add_argument("--real", type=Path, help="folder with real scans")
    parser.add_argument("--patient", default="patient07", help="of the real scans")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
