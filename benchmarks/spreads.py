"""What metrics by segment, with intervals and with decay cost, beside the same metrics plain."""

import functools
from collections.abc import Callable, Mapping

import numpy as np
from measuring import OURS, Case, timed
from timing import Run
from updates import updates
from workloads import nine_metrics, scores

import recmetrics_jax as rm

SIZES = ((1, 8192), (8, 8192))
SEGMENTS = (10, 1000)
REPLICATES = 200

Combinator = Callable[[rm.Metric], rm.Metric]

SPREAD: dict[str, Combinator] = {
    **{
        f"by {count:,} segments": functools.partial(rm.by_segment, key="segment", segments=count)
        for count in SEGMENTS
    },
    f"{REPLICATES} replicates": functools.partial(rm.bootstrap, key="user", replicates=REPLICATES),
    "decayed": functools.partial(rm.decayed, half_life=100_000),
    "10 segments of 50 replicates": lambda metric: rm.by_segment(
        rm.bootstrap(metric, key="user", replicates=50), key="segment", segments=10
    ),
}


def contenders(tasks: int, examples: int) -> Mapping[str, Run]:
    """Updates of nine metrics, plain and spread."""
    rng = np.random.default_rng(1)
    keys = {
        "segment": rng.integers(0, max(SEGMENTS), examples).astype(np.int32),
        "user": rng.integers(0, examples // 8, examples).astype(np.int32),
    }
    plain = nine_metrics(tasks, window=None)
    arrays = scores(tasks, examples)
    of_metrics = {OURS: plain, **{name: make(plain) for name, make in SPREAD.items()}}
    return {name: updates(metric, arrays, keys) for name, metric in of_metrics.items()}


CASES = [
    Case(
        "spread",
        "update of nine metrics",
        f"{tasks} tasks x {examples:,} examples",
        tasks * examples,
        timed(functools.partial(contenders, tasks, examples)),
    )
    for tasks, examples in SIZES
]
