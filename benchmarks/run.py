"""Runs the benchmarks: ``python benchmarks/run.py --filter "update/nine metrics" --out results``.

Every case times this package and what stands beside it (peers where installed, NumPy, hand-written
sums) in turns, in one process. Prints tables, and writes them as JSON, Markdown and a plot.
"""

import argparse
import logging
import pathlib
import re
import traceback
import warnings

import adapter
import catalogue
import compiling
import computes
import jax
import memory
import merging
import report
import spreads
import stalls
import train_step
import updates
from measuring import Case, Effort, Row

FAMILIES = (
    updates, computes, adapter, stalls, train_step, merging, compiling, memory, catalogue, spreads,
)  # fmt: skip


def arguments() -> argparse.Namespace:
    """What to run, for how long, and where to write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--filter", default="", help="a regular expression; only cases whose name it is found in"
    )
    parser.add_argument("--list", action="store_true", help="print the names of cases, run none")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.1, help="of a contender in a round")
    parser.add_argument("--out", type=pathlib.Path, help="folder for JSON, Markdown and plot")
    return parser.parse_args()


def main() -> int:
    """Runs what is asked for; the number of cases that failed."""
    options = arguments()
    # Imports of torch, and windows that fill, have much to say.
    warnings.simplefilter("ignore")
    logging.disable()
    cases: list[Case] = [case for family in FAMILIES for case in family.CASES]
    cases = [case for case in cases if re.search(options.filter, case.name)]
    if options.list:
        print(*(case.name for case in cases), sep="\n")
        return 0
    results: list[tuple[Case, list[Row]]] = []
    failures, family = 0, None
    for case in cases:
        if case.family != family:
            family = case.family
            print(f"\n{report.header(family)}", flush=True)
        try:
            rows = case.measure(Effort(options.rounds, options.seconds))
        except Exception:  # One peer that breaks is no reason to lose all other figures.
            failures += 1
            print(f"\n{case.name} failed:\n{traceback.format_exc()}", flush=True)
            continue
        finally:
            jax.clear_caches()
        results.append((case, rows))
        print(*(report.table_row(case, row) for row in rows), sep="\n", flush=True)
    missing = report.environment()["missing"]
    print(f"\nNot installed, so not measured: {', '.join(missing) or 'none'}.")
    if options.out is not None:
        print(*report.write(options.out, results), sep="\n")
    return failures


if __name__ == "__main__":
    raise SystemExit(main())
