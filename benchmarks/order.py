"""Times metrics of order beside torchrec, scikit-learn, metrax and numpy.sort, where installed.

Run ``python benchmarks/order.py``, or with ``--filter auc``. All run in one process, in turns; the
figures are medians of rounds, the ratio the median of the ratios by round. What is missing is
named.
"""

import argparse
import importlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import interleave

import recmetrics_jax as rm

Run = Callable[[int], Any]
rng = np.random.default_rng(0)


def repeat(call: Callable[[], Any]) -> Run:
    """``run(calls)``: so many calls, and their results awaited."""

    def run(calls: int) -> None:
        result = None
        for _ in range(calls):
            result = call()
        if result is not None:
            jax.tree.map(lambda x: getattr(x, "block_until_ready", lambda: x)(), result)

    return run


def updates(metric: rm.Metric, *arrays: Any, **keys: Any) -> Run:
    """Jitted updates of a donated state, the door included."""
    step = jax.jit(
        lambda state, arrays, keys: metric.update(state, rm.make_batch(*arrays, **keys)),
        donate_argnums=0,
    )
    state = metric.init()
    arrays = tuple(jnp.asarray(x) for x in arrays)
    keys = {name: jnp.asarray(key) for name, key in keys.items()}

    def run(calls: int) -> None:
        nonlocal state
        for _ in range(calls):
            state = step(state, arrays, keys)
        jax.block_until_ready(state)

    return run


def computes(metric: rm.Metric, *arrays: Any, **keys: Any) -> Run:
    """Computes of a full window."""
    state = metric.update(metric.init(), rm.make_batch(*arrays, **keys))
    return repeat(lambda: metric.compute(state))


def installed(name: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(name) is not None


def tensors(*arrays: Any) -> list[Any]:
    """The arrays as torch's."""
    torch: Any = importlib.import_module("torch")
    return [torch.from_numpy(np.array(x)) for x in arrays]


def reference(module: str, function: str, *arguments: Any) -> Run:
    """Calls of a free function of torchrec.metrics."""
    call = getattr(importlib.import_module(f"torchrec.metrics.{module}"), function)
    return repeat(lambda: call(*arguments))


def scores(size: int, positive: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions, labels and weights, ``float32[size]``."""
    p, w = (rng.random(size, np.float32) for _ in range(2))
    return p, (rng.random(size) < positive).astype(np.float32), w


def xauc() -> dict[str, Run]:
    """Update, 4,096 examples; the reference needs N^2 memory, so 65,536 are ours alone."""
    p, y, w = scores(4096)
    runs = {"recmetrics_jax": updates(rm.xauc(), p, y, w)}
    if installed("torchrec"):
        p, y, w = tensors(p[None], y[None], w[None])
        runs["torchrec"] = reference("xauc", "get_xauc_states", y, p, w)
    runs["recmetrics_jax, 65,536 examples"] = updates(rm.xauc(), *scores(65_536))
    return runs


def rauc() -> dict[str, Run]:
    """Compute, 102,400 examples."""
    p, y, w = scores(102_400)
    y = np.round(y + rng.random(102_400), 2).astype(np.float32)
    runs = {"recmetrics_jax": computes(rm.rauc(window=102_400), p, y, w)}
    if installed("torchrec"):
        p, y, w = ([x] for x in tensors(p[None], y[None], w[None]))
        runs["torchrec"] = reference("rauc", "compute_rauc", 1, p, y, w)
    return runs


def grouped_auc() -> dict[str, Run]:
    """Compute, 100,000 examples in 10,000 groups."""
    p, y, w = scores(100_000)
    users = rng.integers(0, 10_000, 100_000)
    metric = rm.auc(window=100_000, grouped=True, undefined_groups=0.5)
    runs = {"recmetrics_jax": computes(metric, p, y, w, grouping_keys=users)}
    if installed("torchrec"):
        p, y, w, users = tensors(p[None], y[None], w[None], users)
        runs["torchrec"] = reference("auc", "compute_auc_per_group", 1, [p], [y], [w], users)
    return runs


def auc() -> dict[str, Run]:
    """Compute, 1,000,000 examples."""
    p, y, w = scores(1_000_000)
    runs = {"recmetrics_jax": computes(rm.auc(window=1_000_000), p, y, w)}
    if installed("sklearn"):
        metrics: Any = importlib.import_module("sklearn.metrics")
        runs["scikit-learn"] = repeat(lambda: metrics.roc_auc_score(y, p, sample_weight=w))
    runs["numpy.sort"] = repeat(lambda: np.sort(p))
    if installed("torchrec"):
        lists = ([x] for x in tensors(p[None], y[None], w[None]))
        runs["torchrec"] = reference("auc", "compute_auc", 1, *lists)
    return runs


def binned_auc() -> dict[str, Run]:
    """Update, 8,192 examples."""
    p, y, _ = scores(8192)
    runs = {
        "recmetrics_jax": updates(rm.binned_auc(), p, y),
        "recmetrics_jax, window of 1e6": updates(rm.binned_auc(window=1_000_000), p, y),
    }
    if installed("metrax"):
        peer: Any = importlib.import_module("metrax").AUCROC

        @jax.jit
        def step(state: Any, p: jax.Array, y: jax.Array) -> Any:
            return state.merge(peer.from_model_output(predictions=p, labels=y))

        p, y = jnp.asarray(p), jnp.asarray(y)
        state = peer.from_model_output(predictions=p, labels=y)
        runs["metrax, 200 thresholds"] = repeat(lambda: step(state, p, y))
    return runs


def ndcg() -> dict[str, Run]:
    """Update, 8,192 examples in 512 sessions."""
    p, y, w = scores(8192)
    sessions = np.arange(8192) // 16
    runs = {"recmetrics_jax": updates(rm.ndcg(), p, y, w, session_id=sessions)}
    if installed("torchrec"):
        config: Any = importlib.import_module("torchrec.metrics.metrics_config")
        module: Any = importlib.import_module("torchrec.metrics.ndcg")
        metric = module.NDCGMetric(
            world_size=1, my_rank=0, batch_size=8192, tasks=[config.DefaultTaskInfo],
            window_size=1_000_000,
        )  # fmt: skip
        tp, ty, tw, ids = tensors(p, y, w, sessions)
        name = config.DefaultTaskInfo.name
        inputs = {"predictions": {name: tp}, "labels": {name: ty}, "weights": {name: tw}}
        required = {"required_inputs": {"session_id": ids}}
        runs["torchrec"] = repeat(lambda: metric.update(**inputs, **required))
    return runs


CASES = {f.__name__: f for f in (xauc, rauc, grouped_auc, auc, binned_auc, ndcg)}


def ndcg_memory() -> list[str]:
    """Temporary bytes of NDCG's compiled update, by number of examples in sessions of 16."""
    metric, lines = rm.ndcg(), []
    for size in (8192, 16_384, 32_768):
        batch = rm.make_batch(*scores(size), session_id=np.arange(size) // 16)
        memory: Any = jax.jit(metric.update).lower(metric.init(), batch).compile().memory_analysis()
        used = memory.temp_size_in_bytes
        lines.append(f"ndcg update, {size:6,} examples: {used:9,} bytes, {used / size:.0f} each")
    return lines


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filter", default="", help="only cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # torchrec's imports
    print("| case | contender | ms | quartiles | times ours |\n|---|---|---|---|---|")
    for name, case in CASES.items():
        if options.filter not in name:
            continue
        timings = interleave(case(), rounds=options.rounds)
        base = timings["recmetrics_jax"]
        for contender, timing in timings.items():
            first, third = timing.quartiles
            print(
                f"| {name}: {(case.__doc__ or '').split(';')[0].rstrip('.')} | {contender} "
                f"| {timing.median:.3f} | {first:.3f} ... {third:.3f} | {base.ratio(timing):.2f} |"
            )
    missing = [name for name in ("torchrec", "sklearn", "metrax") if not installed(name)]
    if missing:
        print(f"\nnot installed, so not timed: {', '.join(missing)}")
    if options.filter in "ndcg":
        print("\n" + "\n".join(ndcg_memory()))


if __name__ == "__main__":
    main()
