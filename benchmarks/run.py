"""Speed, memory and agreement against the function of another library that a user would pick instead.

``python benchmarks/run.py`` prints one Markdown table. Both functions of a line run on the same input, seeded, in the
same process, in turns (A B A B ...), with the same number of threads. `peer / ours` above 1 means that ours is faster:
first by the fastest repeats, which other load on the machine disturbs least, then by the medians.
"""

import argparse
import importlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

BENCHMARKS = (
    *("mind", "lncc", "mutual_information", "warping", "integration"),
    *("surfaces", "nmi", "frechet", "loading", "jacobian"),
    *("daca", "generation", "locor", "pair_similarities"),
)
log = logging.getLogger("benchmarks")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the chosen benchmarks and print the table."""
    options = _parser().parse_args(arguments)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(options.threads)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(options.threads)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")
    # After the environment is set: libraries read it when they are loaded.
    import torch
    from racing import markdown, run_race

    torch.set_num_threads(options.threads)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    outcomes = []
    for name in options.only or BENCHMARKS:
        started = time.perf_counter()
        for race in importlib.import_module(name).races():
            outcomes.append(run_race(race, options.seconds))
            log.info("%s: %.1f times", race.what, outcomes[-1].fastest_ratio)
        log.info("%s took %.0f s", name, time.perf_counter() - started)
    threads = f"{options.threads} thread" + ("s" if options.threads > 1 else "")
    print(f"{threads}, {os.cpu_count()} CPU cores, load average {load} at the start, torch {torch.__version__}\n")
    print(markdown(outcomes))
    if options.out is not None:
        from modalign.files import write_text

        write_text(options.out, markdown(outcomes))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--threads", type=int, default=1, help="for both")
    parser.add_argument("--seconds", type=float, default=8.0, help="to spend on every line, about")
    parser.add_argument("--out", type=Path, help="Markdown file for the table as well")
    return parser


if __name__ == "__main__":
    main()
