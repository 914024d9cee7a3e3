"""Stalls: how long callers of the adapter and of torchrec wait for what is compiled, or first used.

Each figure is of a process of its own, in which nothing has been compiled: this file, run as
``python benchmarks/stalls.py SCENARIO PACKAGE``, prints the seconds of a scenario.
"""

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from adapter import PACKAGES
from measuring import Case, Effort, Row
from peers import MODES, installed, on_cpu, torchrec_module
from timing import Timing
from workloads import scores

TEN = (
    "ne", "calibration", "ctr", "mse", "mae", "accuracy", "precision", "recall", "auc", "auprc",
)  # fmt: skip
LONGEST = 4096
BATCHES = 200
WINDOW, BATCH = 500_000, 8192
Seconds = Mapping[str, float]


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _module(package: str, names: tuple[str, ...], examples: int, window: int) -> tuple[Any, Any]:
    arrays = scores(1, examples)
    mode = MODES["torchrec, unfused"]
    return torchrec_module(package, names, *arrays, mode=mode, window=window)


def first_values(package: str) -> Seconds:
    """The first updates and computes of ten metrics."""
    metrics, outputs = _module(package, TEN, 256, 1_000_000)
    both = (("update", lambda: metrics.update(outputs)), ("compute", metrics.compute))
    return {f"{nth} {name}": _timed(call) for nth in ("first", "second") for name, call in both}


def random_sizes(package: str) -> Seconds:
    """Updates with batches of many lengths, beyond what the same updates take once more."""
    metrics, outputs = _module(package, ("xauc",), LONGEST, 1_000_000)
    lengths = np.random.default_rng(0).integers(2, LONGEST, BATCHES, endpoint=True)

    def updates() -> list[float]:
        return [
            _timed(lambda n=n: metrics.update({k: x[:n] for k, x in outputs.items()}))
            for n in lengths
        ]

    first, again = updates(), updates()
    return {
        "updates": sum(first),
        "the longest update": max(first),
        "the updates once more": sum(again),
    }


def filling_window(package: str) -> Seconds:
    """Updates of AUC until its window is full, with a compute after every third."""
    metrics, outputs = _module(package, ("auc",), BATCH, WINDOW)
    seconds: list[float] = []
    for i in range(WINDOW // BATCH + 1):
        seconds.append(_timed(lambda: metrics.update(outputs)))
        if i % 3 == 2:
            seconds.append(_timed(metrics.compute))
    return {"updates and computes": sum(seconds), "the longest": max(seconds)}


SCENARIOS: dict[str, tuple[Callable[[str], Seconds], str]] = {
    "first values of ten metrics": (first_values, "256 examples"),
    "xauc, random sizes": (random_sizes, f"{BATCHES} batches of 2 ... {LONGEST:,} examples"),
    "auc, a window that fills": (filling_window, f"{WINDOW:,} examples by {BATCH:,}"),
}


def _in_process(scenario: str, package: str) -> Seconds:
    process = subprocess.run(
        [sys.executable, __file__, scenario, package],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "0"},
    )
    return json.loads(process.stdout.splitlines()[-1])


def measure(scenario: str, effort: Effort) -> list[Row]:
    """Both packages in turns."""
    packages = {
        on_cpu(name): package
        for name, package in PACKAGES.items()
        if name == "adapter" or installed("torchrec")
    }
    rounds: dict[str, list[Seconds]] = {name: [] for name in packages}
    for _ in range(effort.rounds):
        for name, package in packages.items():
            rounds[name].append(_in_process(scenario, package))
    rows = []
    for what in rounds[on_cpu("adapter")][0]:
        timings = {name: Timing([each[what] for each in of]) for name, of in rounds.items()}
        ours = timings[on_cpu("adapter")]
        rows += [
            Row(f"{name}, {what}", timing.median, "s", timing.quartiles, ours.ratio(timing))
            for name, timing in timings.items()
        ]
    return rows


CASES = [
    Case("stall", name, label, None, functools.partial(measure, name))
    for name, (_, label) in SCENARIOS.items()
]

if __name__ == "__main__":
    scenario, package = sys.argv[1:]
    print(json.dumps(SCENARIOS[scenario][0](package)))
