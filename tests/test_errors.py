"""Misuse raises ValueError that names the argument, what was expected and what came."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import SUM_CASES

import recmetrics_jax

rm: Any = recmetrics_jax  # misuse is what a type checker refuses

ONE = np.ones(4)
TWO = np.ones((2, 4))


def update(metric, batch, state=None):
    return metric.update(metric.init() if state is None else state, batch)


def session_count(batch):
    return (batch.keys["session"][..., 0] >= 0).astype(batch.weights.dtype)


def wrong_shape(batch):
    return jnp.sum(batch.weights, axis=1)


MISUSES = {
    "predictions of rank 0": (
        lambda: rm.make_batch(0.5, 1.0),
        "predictions: expected shape [N], [T, N] or [T, N, C], got ()",
    ),
    "predictions of rank 4": (
        lambda: rm.make_batch(np.ones((1, 2, 3, 4)), TWO),
        "predictions: expected shape",
    ),
    "labels of another length": (
        lambda: rm.make_batch(ONE, np.ones(3)),
        "labels: expected shape (4,), as the predictions (4,), got (3,)",
    ),
    "labels of another rank": (
        lambda: rm.make_batch(TWO, ONE[:3]),
        "labels: expected shape (2, 4)",
    ),
    "labels by class": (
        lambda: rm.make_batch(np.ones((2, 4, 3)), np.ones((2, 4, 3))),
        "labels: expected shape (2, 4)",
    ),
    "weights of another length": (
        lambda: rm.make_batch(ONE, ONE, np.ones(1)),
        "weights: expected shape (1, 4) or (4,), got (1,)",
    ),
    "mask of another length": (
        lambda: rm.make_batch(TWO, TWO, mask=np.ones(3, bool)),
        "mask: expected shape (2, 4) or (4,), got (3,)",
    ),
    "mask of numbers": (
        lambda: rm.make_batch(ONE, ONE, mask=ONE),
        "mask: expected a bool dtype, got float64",
    ),
    "complex predictions": (
        lambda: rm.make_batch(ONE * 1j, ONE),
        "predictions: expected a real number dtype, got complex128",
    ),
    "labels of strings": (
        lambda: rm.make_batch(ONE, np.array(list("abcd"))),
        "labels: expected a real number dtype, got <U1",
    ),
    "ragged predictions": (
        lambda: rm.make_batch([[1.0], [1.0, 2.0]], ONE),
        "predictions: expected an array",
    ),
    "keys of floats": (
        lambda: rm.make_batch(ONE, ONE, keys={"session": ONE}),
        "keys['session']: expected an integer dtype, got float64",
    ),
    "keys of another length": (
        lambda: rm.make_batch(ONE, ONE, keys={"session": np.ones(3, int)}),
        "keys['session']: expected shape (1, 4) or (4,), got (3,)",
    ),
    "too many tasks": (
        lambda: update(rm.ctr(), rm.make_batch(TWO, TWO)),
        "batch: expected 1 tasks (n_tasks), got 2",
    ),
    "too few tasks": (
        lambda: update(rm.ctr(n_tasks=3), rm.make_batch(TWO, TWO)),
        "batch: expected 3 tasks (n_tasks), got 2",
    ),
    "no batch": (
        lambda: update(rm.ctr(), (ONE, ONE)),
        "batch: expected a Batch from make_batch, got tuple",
    ),
    "too few classes": (
        lambda: update(rm.multiclass_recall(4), rm.make_batch(np.ones((1, 4, 3)), ONE[None])),
        "predictions: expected shape (1, 4, 4) (n_classes), got (1, 4, 3)",
    ),
    "no classes": (
        lambda: update(rm.multiclass_recall(4), rm.make_batch(ONE, ONE)),
        "predictions: expected shape (1, 4, 4) (n_classes), got (1, 4)",
    ),
    "classes where none are wanted": (
        lambda: update(rm.ctr(), rm.make_batch(np.ones((1, 4, 3)), ONE[None])),
        None,  # The labels alone count: nothing is wrong.
    ),
    "predictions by class for a metric of scores": (
        lambda: update(rm.ne(), rm.make_batch(np.ones((1, 4, 3)), ONE[None])),
        "predictions: expected shape (1, 4), got (1, 4, 3)",
    ),
    "missing key": (
        lambda: update(
            rm.sum_metric({"n": rm.Term(session_count, keys=("session",))}, dict),
            rm.make_batch(ONE, ONE, keys={"user": np.ones(4, int)}),
        ),
        "session: expected an array of this name in make_batch(..., keys={'session': ",
    ),
    "missing key of samples": (
        lambda: update(
            rm.sample_metric(dict, window=3, keys=("session",)), rm.make_batch(ONE, ONE)
        ),
        "session: expected an array of this name",
    ),
    "samples by class": (
        lambda: update(
            rm.sample_metric(dict, window=3), rm.make_batch(np.ones((1, 4, 3)), ONE[None])
        ),
        "predictions: expected shape (1, 4), got (1, 4, 3)",
    ),
    "term of another shape": (
        lambda: update(rm.sum_metric({"n": wrong_shape}, dict), rm.make_batch(ONE, ONE)),
        "term 'wrong_shape': expected a float array of shape (1, 4), a number or more for each",
    ),
    "term that is no function": (
        lambda: rm.sum_metric({"n": 3}, dict),
        "terms: expected functions of a batch, got 3",
    ),
    "values that are no dict": (
        lambda: (metric := rm.sum_metric({"n": session_count}, lambda sums: sums["n"])).compute(
            metric.init()
        ),
        "values: expected a dict of arrays, got ",
    ),
    "state of another metric": (
        lambda: update(rm.ctr(window=5), rm.make_batch(ONE, ONE), rm.ctr().init()),
        "state: expected a state of this metric",
    ),
    "state of other tasks": (
        lambda: rm.ctr(n_tasks=2).compute(rm.ctr().init()),
        "state: expected a state of this metric, got one that holds something else; it has 1 tasks",
    ),
    "merge with another metric": (
        lambda: rm.ctr().merge(rm.ctr().init(), rm.ne().init()),
        "b: expected a state of this metric, got one that holds something else; new: ",
    ),
    "empty collection": (lambda: rm.collection({}), "metrics: expected at least one metric"),
    "collection of names": (
        lambda: rm.collection({"ne": "ne"}),
        "metrics['ne']: expected a Metric, or a factory of one such as rm.ne, got 'ne'",
    ),
    "collection by number": (
        lambda: rm.collection({1: rm.ne()}),
        "metrics: expected names that are non-empty strings, got 1",
    ),
    "collection of lists": (
        lambda: rm.collection({"ne": [rm.ne()]}),
        "metrics['ne']: expected a Metric, or a factory of one such as rm.ne, got [ne()]",
    ),
    "collection of classes": (
        lambda: rm.collection({"ne": rm.Metric}),
        "metrics['ne']: expected a Metric, or a factory of one such as rm.ne, got the class Metric",
    ),
    "collection of other functions": (
        lambda: rm.collection({"ne": lambda: 3}),
        "metrics['ne']: expected a Metric, or a factory of one such as rm.ne, got a function that",
    ),
    "collection of factories that need more": (
        lambda: rm.collection({"recall": rm.multiclass_recall}, n_tasks=2),
        "multiclass_recall(n_tasks) cannot be called (missing a required argument: 'n_classes')",
    ),
    "collection as a list": (
        lambda: rm.collection([rm.ne()]),
        "metrics: expected a dict of metrics by name, as in collection({'ne': ne()}), got list",
    ),
    "undefined that is no number": (
        lambda: rm.sum_metric({"n": session_count}, dict, undefined="zero"),
        "undefined: expected a number, or numbers by name, got 'zero'",
    ),
    "scalars of other tasks": (
        lambda: rm.scalars(rm.ctr(n_tasks=2).compute(rm.ctr(n_tasks=2).init()), ["click"]),
        "tasks: expected as many names as 'lifetime_ctr' has tasks, (2,), got ['click']",
    ),
    "scalars of one name": (
        lambda: rm.scalars({"ctr": np.ones(2)}, "ab"),
        "tasks: expected a list of names, got 'ab'",
    ),
    "scalars of equal names": (
        lambda: rm.scalars({"ctr": np.ones(2)}, ["a", "a"]),
        "values: expected distinct keys, got 'a|ctr' twice",
    ),
    "description of a factory": (
        lambda: rm.describe(rm.ne),
        "metric: expected a Metric, got function",
    ),
    "collection of unlike tasks": (
        lambda: rm.collection({"a": rm.ne(), "b": rm.ne(n_tasks=2)}),
        "metrics: expected one n_tasks for all, got {'a': 1, 'b': 2}",
    ),
    "duplicate value names": (
        lambda: rm.collection({"a": rm.collection({"b": rm.ctr()}), "a/b": rm.ctr()}),
        "value names: expected distinct names, got 'a/b/lifetime_ctr' twice",
    ),
    "classes of zero": (
        lambda: rm.multiclass_recall(0),
        "n_classes: expected a whole number of at least 1, got 0",
    ),
    "odd slots": (lambda: rm.ctr(window=3, slots=9), "slots: expected an even number, got 9"),
    "few slots": (
        lambda: rm.ctr(window=3, slots=4),
        "slots: expected a whole number of at least 8",
    ),
    "sample window of zero": (
        lambda: rm.sample_metric(dict, window=0),
        "window: expected a whole number of at least 1, got 0",
    ),
}


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_is_named(name):
    call, message = MISUSES[name]
    if message is None:
        call()
        return
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


OUT_OF_RANGE = [("n_tasks", 0), ("n_tasks", 1.0), *(("window", x) for x in (0, -3, 2.5, True))]


@pytest.mark.parametrize("case", SUM_CASES, ids=lambda case: case.name)
def test_options_out_of_range_are_named(case):
    for name, value in OUT_OF_RANGE:
        message = f"{name}: expected a whole number of at least 1, got {value!r}"
        with pytest.raises(ValueError, match=re.escape(message)):
            case.make(**{name: value})


def test_misuse_raises_when_it_is_traced():
    metric = rm.ctr(n_tasks=2)
    with pytest.raises(ValueError, match="batch: expected 2 tasks"):
        jax.jit(lambda state, x: metric.update(state, rm.make_batch(x, x)))(metric.init(), ONE)


def test_failed_update_loses_nothing():
    metric = rm.ctr()
    step = jax.jit(lambda state, p, y: metric.update(state, rm.make_batch(p, y)), donate_argnums=0)
    state = step(metric.init(), ONE, ONE)
    with pytest.raises(ValueError, match="labels: expected shape"):
        step(state, ONE, np.ones(3))
    assert metric.compute(step(state, ONE, ONE))["lifetime_ctr"].tolist() == [1.0]


def test_switching_x64_after_init_is_named():
    metric = rm.ctr()
    state = metric.init()
    with jax.enable_x64(True), pytest.raises(ValueError, match=r"batch: expected float32.*x64"):
        metric.update(state, rm.make_batch(ONE, ONE))
