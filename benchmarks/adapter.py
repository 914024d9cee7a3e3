"""Times the adapter's RecMetricModule beside torchrec's: update and compute of nine metrics.

Run ``python benchmarks/adapter.py`` where torch and torchrec are installed. Eight tasks, torch
tensors in. All run in one process, in turns; the figures are medians of rounds, the ratio the
median of the ratios by round, to the adapter with fused tasks.
"""

import argparse
import importlib.util
import logging
import sys
import warnings
from collections.abc import Callable

import numpy as np
from timing import interleave
from update import MODES, arrays_of, module_of, module_updates, print_rows

TASKS = 8
SIZES = (1024, 8192, 65_536)
PACKAGES = {"adapter": "recmetrics_jax.adapter", "torchrec": "torchrec.metrics"}
BASE = "adapter, fused tasks"


def computes(
    package: str, p: np.ndarray, y: np.ndarray, w: np.ndarray, mode: str
) -> Callable[[int], None]:
    """Computes of a RecMetricModule, each after an update, which is part of the time."""
    metrics, outputs = module_of(package, p, y, w, mode)

    def run(calls: int) -> None:
        for _ in range(calls):
            metrics.update(outputs)
            metrics.compute()

    return run


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    if importlib.util.find_spec("torchrec") is None:
        sys.exit("torchrec is not installed; .ci/run shows how to install it")
    warnings.simplefilter("ignore")  # torchrec's imports
    logging.disable()  # Windows that fill are reported as memory that grows.
    measures = {"update": (SIZES, module_updates), "update and compute": (SIZES[:1], computes)}
    for what, (sizes, measure) in measures.items():
        print(f"| {what}, tasks x examples | contender | ms | quartiles | times the adapter |")
        print("|---|---|---|---|---|")
        for examples in sizes:
            arrays = arrays_of(TASKS, examples)
            contenders = {
                f"{name}, {in_mode}": measure(package, *arrays, mode)
                for name, package in PACKAGES.items()
                for mode, in_mode in MODES.items()
            }
            timings = interleave(contenders, rounds=rounds)
            print_rows(f"{TASKS} x {examples:,}", timings, BASE)
        print()


if __name__ == "__main__":
    main()
