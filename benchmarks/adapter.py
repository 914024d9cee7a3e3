"""The adapter's RecMetricModule beside torchrec's: nine metrics, eight tasks.

Tensors of torch go in; arrays of NumPy where torch is not installed.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from measuring import Case, timed
from peers import MODES, installed, module_updates, on_cpu, torchrec_module
from timing import Run, repeat
from workloads import NINE, scores

TASKS = 8
PACKAGES = {"adapter": "recmetrics_jax.adapter", "torchrec": "torchrec.metrics"}
Measure = Callable[..., Run]


def updates_and_computes(package: str, names: list[str], *arrays: np.ndarray, mode: str) -> Run:
    """Computes of a RecMetricModule, each after an update."""
    metrics, outputs = torchrec_module(package, names, *arrays, mode=mode)

    def call() -> Any:
        metrics.update(outputs)
        return metrics.compute()

    return repeat(call)


def modules(measure: Measure, examples: int) -> Mapping[str, Run]:
    """Both packages, with fused tasks and without."""
    return {
        on_cpu(mode_name.replace("torchrec", name)): measure(
            package, list(NINE), *scores(TASKS, examples), mode=mode
        )
        for name, package in PACKAGES.items()
        if name == "adapter" or installed("torchrec")
        for mode_name, mode in MODES.items()
    }


CASES = [
    Case(
        "adapter",
        what,
        f"{TASKS} tasks x {examples:,} examples",
        examples,
        timed(functools.partial(modules, measure, examples), base=on_cpu("adapter")),
    )
    for what, measure, sizes in (
        ("update", module_updates, (1024, 8192, 65_536)),
        ("update and compute", updates_and_computes, (1024,)),
    )
    for examples in sizes
]
