"""Ranks of targets in a full catalogue: how long they take, and in how much memory.

Beside what is done without `recmetrics_jax.ops.rank_of`: the best 1,000 of `jax.lax.top_k`, which
find no rank beyond; a sum of a comparison, which ignores ties; and NumPy's argsort.
"""

import functools
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from measuring import OURS, Case, Effort, Row, timed
from timing import Run, repeat

import recmetrics_jax as rm

SIZES = ((64, 100_000), (1024, 100_000))
LISTED = 1000
EXCLUDED = 200
"""Items that a user has seen."""

Arrays = tuple[jax.Array, jax.Array]


def rank_of(scores: jax.Array, target: jax.Array) -> rm.ops.Ranks:
    """The ranks."""
    return rm.ops.rank_of(scores, target)


def rank_but_of_seen(scores: jax.Array, target: jax.Array) -> rm.ops.Ranks:
    """The ranks among the items that a user has not seen."""
    seen = jnp.arange(target.size * EXCLUDED, dtype=jnp.int32) * 7919 % scores.shape[1]
    return rm.ops.rank_of(scores, target, exclude=seen.reshape(-1, EXCLUDED))


def top_k(scores: jax.Array, target: jax.Array) -> rm.ops.Ranks:
    """The ranks up to 1,000."""
    return rm.ops.rank_in(jax.lax.top_k(scores, LISTED)[1], target)


def compared(scores: jax.Array, target: jax.Array) -> jax.Array:
    """The items above, as one would write it."""
    of_target = jnp.take_along_axis(scores, target[:, None], axis=1)
    return jnp.sum(scores > of_target, axis=1)


def argsort(scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The place in the order of all items."""
    order = np.argsort(-scores, axis=1)
    return (order == target[:, None]).argmax(axis=1) + 1


COMPILED: dict[str, Callable[..., Any]] = {
    OURS: rank_of,
    f"{OURS}, {EXCLUDED} excluded": rank_but_of_seen,
    f"jax.lax.top_k of {LISTED:,}": top_k,
    "jnp.sum(scores > of_target)": compared,
}
NUMPY = "numpy.argsort"


def arrays(n: int, items: int, dtype: Any = np.float32) -> Arrays:
    """Scores and targets."""
    rng = np.random.default_rng(0)
    scores = jnp.asarray(rng.standard_normal((n, items), np.float32))
    return scores.astype(dtype), jnp.asarray(rng.integers(0, items, n, dtype=np.int32))


def times(n: int, items: int) -> Mapping[str, Run]:
    """All contenders; ours of 16-bit scores too."""
    given = arrays(n, items)
    halves = arrays(n, items, jnp.bfloat16)
    on_host = [np.asarray(x) for x in given]
    functions = {name: jax.jit(function) for name, function in COMPILED.items()}
    runs = {
        name: repeat(lambda f=f: jax.block_until_ready(f(*given))) for name, f in functions.items()
    }
    runs[f"{OURS}, bfloat16"] = repeat(lambda: jax.block_until_ready(functions[OURS](*halves)))
    return {**runs, NUMPY: repeat(lambda: argsort(*on_host))}


def memory(_: Effort, n: int, items: int) -> list[Row]:
    """Bytes besides the scores: what a compiled program sets aside, and NumPy's at their peak."""
    given = arrays(n, items)
    rows = []
    for name, function in COMPILED.items():
        analysis: Any = jax.jit(function).lower(*given).compile().memory_analysis()
        size = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
        rows.append(Row(name, size, "bytes"))
    on_host = [np.asarray(x) for x in given]
    tracemalloc.start()
    argsort(*on_host)
    rows.append(Row(NUMPY, tracemalloc.get_traced_memory()[1], "bytes"))
    tracemalloc.stop()
    return rows


def update(n: int, window: int | None) -> Mapping[str, Run]:
    """Updates of the metrics of ranks, and of another metric beside them."""
    rng = np.random.default_rng(0)
    tied = rng.integers(0, 100, n) * (rng.random(n) < 0.1)
    ranks = rm.ops.Ranks(*(jnp.asarray(x, jnp.int32) for x in (rng.integers(0, 5000, n), tied)))
    others = rm.make_batch(rng.random(n), rng.random(n) < 0.3)
    contenders = {
        OURS: (rm.rank_metrics(window=window), rm.make_rank_batch(ranks)),
        f"{OURS}, binned_auc": (rm.binned_auc(window=window), others),
        f"{OURS}, ne": (rm.ne(window=window), others),
    }
    return {name: updates(*contender) for name, contender in contenders.items()}


def updates(metric: rm.Metric, batch: rm.Batch) -> Run:
    """Updates of a donated state."""
    step = jax.jit(metric.update, donate_argnums=0)
    states = [metric.init()]

    def once() -> Any:
        states[0] = step(states[0], batch)
        return states[0]

    return repeat(once)


FAMILY = "catalogue"
CASES: list[Case] = [
    *(
        Case(
            FAMILY,
            f"rank of a target, {items:,} items",
            f"{n:,} rows",
            n,
            timed(functools.partial(times, n, items)),
        )
        for n, items in SIZES
    ),
    *(
        Case(
            FAMILY,
            f"memory of the rank of a target, {items:,} items",
            f"{n:,} rows",
            n,
            functools.partial(memory, n=n, items=items),
        )
        for n, items in SIZES
    ),
    *(
        Case(
            FAMILY,
            "update of rank_metrics" + (", a window" if window else ""),
            f"{n:,} rows",
            n,
            timed(functools.partial(update, n, window)),
        )
        for window in (None, 1_000_000)
        for n in (1024, 8192)
    ),
]
