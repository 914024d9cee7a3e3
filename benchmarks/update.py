"""Times the update of nine metrics as one collection, beside torchrec's module with the same nine.

Run ``python benchmarks/update.py``. Both run in one process, in turns; the figures are medians
of rounds, the ratio the median of the ratios by round. Without torchrec, this package is timed
alone.
"""

import argparse
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import Timing, interleave

import recmetrics_jax as rm

FACTORIES = {
    "ne": rm.ne,
    "calibration": rm.calibration,
    "ctr": rm.ctr,
    "mse": rm.mse,
    "mae": rm.mae,
    "accuracy": rm.accuracy,
    "precision": rm.precision,
    "recall": rm.recall,
    "weighted_avg": rm.weighted_avg,
}
MODES = {"FUSED_TASKS_COMPUTATION": "fused tasks", "UNFUSED_TASKS_COMPUTATION": "unfused"}
SIZES = ((1, 1024), (8, 8192))
WINDOW = 10_000_000


def ours(p: np.ndarray, y: np.ndarray, w: np.ndarray) -> Callable[[int], None]:
    """Updates of this package's collection, jitted, with a donated state."""
    metrics = rm.collection(
        {name: make(n_tasks=p.shape[0], window=WINDOW) for name, make in FACTORIES.items()}
    )
    step = jax.jit(
        lambda state, p, y, w: metrics.update(state, rm.make_batch(p, y, w)), donate_argnums=0
    )
    arrays = [jnp.asarray(x) for x in (p, y, w)]
    state = metrics.init()

    def run(calls: int) -> None:
        nonlocal state
        for _ in range(calls):
            state = step(state, *arrays)
        jax.block_until_ready(state)

    return run


def module_of(package: str, p: np.ndarray, y: np.ndarray, w: np.ndarray, mode: str) -> Any:
    """The RecMetricModule of torchrec, or of the adapter, with the nine metrics; and its inputs."""
    torch: Any = importlib.import_module("torch")
    config: Any = importlib.import_module(f"{package}.metrics_config")
    module: Any = importlib.import_module(f"{package}.metric_module")
    tasks = [
        config.RecTaskInfo(
            name=f"t{i}", label_name=f"y{i}", prediction_name=f"p{i}", weight_name=f"w{i}"
        )
        for i in range(p.shape[0])
    ]
    definition = config.RecMetricDef(rec_tasks=tasks, window_size=WINDOW)
    metrics = module.generate_metric_module(
        module.RecMetricModule,
        metrics_config=config.MetricsConfig(
            rec_tasks=tasks,
            rec_metrics={config.RecMetricEnum(name): definition for name in FACTORIES},
            rec_compute_mode=config.RecComputeMode[mode],
        ),
        batch_size=p.shape[1],
        world_size=1,
        my_rank=0,
        state_metrics_mapping={},
        device=torch.device("cpu"),
    )
    outputs = {
        f"{name}{i}": torch.from_numpy(row.copy())
        for name, rows in (("p", p), ("y", y), ("w", w))
        for i, row in enumerate(rows)
    }
    return metrics, outputs


def module_updates(
    package: str, p: np.ndarray, y: np.ndarray, w: np.ndarray, mode: str
) -> Callable[[int], None]:
    """Updates of a RecMetricModule with torch tensors."""
    metrics, outputs = module_of(package, p, y, w, mode)

    def run(calls: int) -> None:
        for _ in range(calls):
            metrics.update(outputs)

    return run


def arrays_of(tasks: int, examples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions, labels and weights."""
    rng = np.random.default_rng(0)
    p, w = (rng.random((tasks, examples), np.float32) for _ in range(2))
    return p, (rng.random((tasks, examples)) < 0.3).astype(np.float32), w


def contenders_of(tasks: int, examples: int) -> dict[str, Callable[[int], None]]:
    """What is timed, by name."""
    p, y, w = arrays_of(tasks, examples)
    contenders = {"recmetrics_jax": ours(p, y, w)}
    if importlib.util.find_spec("torchrec") is not None:
        for mode, name in MODES.items():
            contenders[f"torchrec, {name}"] = module_updates("torchrec.metrics", p, y, w, mode)
    return contenders


def print_rows(what: str, timings: Mapping[str, Timing], base: str) -> None:
    """A row of the table for each contender, with its ratio to ``base``."""
    for name, timing in timings.items():
        first, third = timing.quartiles
        print(
            f"| {what} | {name} | {timing.median:.3f} "
            f"| {first:.3f} ... {third:.3f} | {timings[base].ratio(timing):.1f} |"
        )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    warnings.simplefilter("ignore")  # torchrec's imports
    print("| tasks x examples | contender | ms per update | quartiles | times ours |")
    print("|---|---|---|---|---|")
    for tasks, examples in SIZES:
        timings = interleave(contenders_of(tasks, examples), rounds=rounds)
        print_rows(f"{tasks} x {examples:,}", timings, "recmetrics_jax")
    if importlib.util.find_spec("torchrec") is None:
        print("\ntorchrec is not installed: timed alone.")


if __name__ == "__main__":
    main()
