"""THE table: every metric, its oracle, and the laws that do not apply to it."""

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import oracles

import recmetrics_jax as rm


@dataclasses.dataclass(frozen=True)
class Case:
    """A metric under test."""

    name: str
    make: Callable[..., rm.Metric]  # make(n_tasks=..., window=...)
    oracle: Callable[..., dict]  # oracle(predictions[N], labels[N], weights[N])
    n_classes: int | None = None
    skip: tuple[str, ...] = ()
    is_sum: bool = True


def largest(batch):
    return {"largest": jnp.max(batch.predictions, axis=1, where=batch.mask, initial=0.0)}


def ne(**options):
    return rm.ne(logloss=True, **options)


def accuracy_at(**options):
    return rm.accuracy(threshold=0.3, **options)


def recall_at(**options):
    return rm.recall(threshold=0.3, **options)


def multiclass_recall(**options):
    return rm.multiclass_recall(4, **options)


def largest_of(*, n_tasks=1, window=None):
    return rm.sample_metric(largest, n_tasks=n_tasks, window=window or 1000)


CASES = [
    Case("ne", ne, oracles.ne),
    Case("calibration", rm.calibration, oracles.calibration),
    Case("ctr", rm.ctr, oracles.ctr),
    Case("mse", rm.mse, oracles.mse),
    Case("mae", rm.mae, oracles.mae),
    Case("accuracy", rm.accuracy, oracles.accuracy),
    Case("accuracy_at_0.3", accuracy_at, lambda *x: oracles.accuracy(*x, threshold=0.3)),
    Case("precision", rm.precision, oracles.precision),
    Case("recall", rm.recall, oracles.recall),
    Case("recall_at_0.3", recall_at, lambda *x: oracles.recall(*x, threshold=0.3)),
    Case("weighted_avg", rm.weighted_avg, oracles.weighted_avg),
    Case("multiclass_recall", multiclass_recall, oracles.multiclass_recall, n_classes=4),
    Case("examples", rm.examples, oracles.examples, skip=("weights",)),
    Case("nonfinite_examples", rm.nonfinite_examples, oracles.nonfinite_examples),
    Case("sample_metric", largest_of, oracles.largest, is_sum=False),
]
NAMES = [case.name for case in CASES]
SUM_CASES = [case for case in CASES if case.is_sum]
SCALAR_CASES = [case for case in SUM_CASES if case.n_classes is None]


@functools.cache
def metric_of(case, n_tasks=2, window=None):
    """The metric of a case; one object for all tests, so that they share what is compiled."""
    return case.make(n_tasks=n_tasks, window=window)


def arrays(rng, case, tasks, examples, *, positive=0.4):
    """Random ``predictions, labels, weights, mask``; weights are quarters, some of them zero."""
    shape = (tasks, examples)
    if case.n_classes is None:
        predictions = rng.random(shape)
        labels = rng.random(shape) < positive
    else:
        # Few levels, for ties.
        predictions = rng.integers(0, 6, (*shape, case.n_classes)) / 8
        labels = rng.integers(0, case.n_classes, shape)
    weights = rng.integers(0, 9, shape) / 4
    mask = rng.random(shape) < 0.9
    return predictions.astype(np.float32), labels.astype(np.float32), weights, mask


def batches(case, *, tasks=2, examples=48, count=4, seed=0):
    """Random batches of a case."""
    rng = np.random.default_rng(seed)
    return [
        rm.make_batch(p, y, w, mask=mask)
        for p, y, w, mask in (arrays(rng, case, tasks, examples) for _ in range(count))
    ]


def nine(*, n_tasks=1, window=None):
    """The nine scalar metrics of the package as one collection."""
    factories = {
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
    return rm.collection(
        {name: factory(n_tasks=n_tasks, window=window) for name, factory in factories.items()}
    )


def expected(case, stream, prefix="lifetime_"):
    """The oracle's values of a stream of ``predictions, labels, weights, mask``, by task."""
    tasks = stream[0][1].shape[0]
    rows = []
    for task in range(tasks):
        parts = [
            np.concatenate([np.asarray(x[i][task], np.float64)[x[3][task]] for x in stream])
            for i in range(3)
        ]
        rows.append(case.oracle(*parts))
    return {prefix + name: np.stack([row[name] for row in rows]) for name in rows[0]}
