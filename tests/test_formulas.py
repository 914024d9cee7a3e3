"""What terms and values of a metric of one's own may be, and what is said of the rest."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recmetrics_jax

rm: Any = recmetrics_jax  # misuse is what a type checker refuses

TASKS = 2
BATCH = rm.make_batch(np.ones((TASKS, 5)), np.ones((TASKS, 5)))


def weights(batch):
    return batch.weights


# What `values` makes of an array ``float64[T, ...]``, and what is said of it.
VALUES = {
    "across tasks": (jnp.sum, "float64[]; reduce along the axes after the first"),
    "across tasks, one kept": (
        lambda x: jnp.sum(x, axis=0, keepdims=True),
        "got float64[1",
    ),
    "tasks last": (lambda x: jnp.stack([x.reshape(TASKS, -1)[:, 0]] * 3), "got float64[3, 2]"),
    "integers": (lambda x: jnp.ones(TASKS, int), "got int64[2]; convert it with .astype(float)"),
    "booleans": (lambda x: jnp.ones(TASKS, bool), "got bool[2]; convert it with .astype(float)"),
    "Python's number": (lambda x: 0.5, "got float"),
    "NumPy's number": (lambda x: np.float32(0.5), "got float32"),
    "nothing": (lambda x: None, "got NoneType"),
    "list": (lambda x: list(x), "got list"),
    "dict": (lambda x: {"inner": x}, "got dict"),
}
EXPECTED = "values['v']: expected a float array of shape [2] or [2, ...], a number or more for each"


def metrics_of(make):
    """Metrics of both kinds whose value ``v`` is what ``make`` gives."""
    return [
        rm.sum_metric({"w": weights}, lambda sums: {"v": make(sums["w"])}, n_tasks=TASKS),
        rm.sample_metric(
            lambda batch: {"v": make(batch.weights.astype(jnp.float64))}, window=3, n_tasks=TASKS
        ),
    ]


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("kind", [0, 1], ids=["sums", "samples"])
def test_values_that_are_not_by_task_are_refused(name, kind):
    make, message = VALUES[name]
    metric = metrics_of(make)[kind]
    message = f"^{re.escape(EXPECTED)}.*{re.escape(message)}"
    state = metric.update(metric.init(), BATCH)
    for call in (
        lambda: metric.compute(state),
        lambda: jax.jit(metric.compute)(state),
        lambda: rm.collection({"metric": metric}),
        lambda: rm.describe(metric),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("kind", [0, 1], ids=["sums", "samples"])
def test_values_by_task_of_any_further_shape_and_float_dtype_are_taken(kind):
    for make, shape in (
        (lambda x: x.reshape(TASKS, -1)[:, 0].astype(jnp.bfloat16), (TASKS,)),
        (lambda x: jnp.ones((TASKS, 3, 4)), (TASKS, 3, 4)),
        (lambda x: np.ones((TASKS, 0)), (TASKS, 0)),
    ):
        metric = metrics_of(make)[kind]
        (value,) = metric.compute(metric.update(metric.init(), BATCH)).values()
        assert value.shape == shape
        assert value.dtype == jnp.float32


@pytest.mark.parametrize("bad", [1, "", None, ("a", "b")], ids=repr)
def test_values_without_a_name_are_refused(bad):
    metric = rm.sum_metric({"w": weights}, lambda sums: {bad: sums["w"]}, n_tasks=TASKS)
    with pytest.raises(ValueError, match="values: expected names that are non-empty strings, got"):
        metric.compute(metric.init())
