"""Metrics as objects of Flax NNX: alone, in a MultiMetric, inside and outside of its transforms."""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BY_NAME, CLASSES, SUMS, metric_of
from drawing import batches
from flax import nnx

import recmetrics_jax as rm


@nnx.jit
def jitted_update(metric, batch):
    metric.update(batch=batch)


def plain_update(metric, batch):
    metric.update(batch=batch)


@pytest.mark.parametrize("update", [plain_update, jitted_update], ids=lambda f: f.__name__)
@pytest.mark.parametrize("case", [SUMS, CLASSES, BY_NAME["auc"], BY_NAME["binned_auc"]], ids=str)
def test_it_is_the_functional_metric(case, update):
    functions = metric_of(case, window=30)
    metric, stream = rm.nnx.Metric(functions), batches(case)
    empty = functions.compute(functions.init())
    for _ in range(2):
        for name, value in metric.compute().items():
            np.testing.assert_array_equal(value, empty[name], err_msg=name)
        for batch in stream:
            update(metric, batch)
        state = functools.reduce(functions.update, stream, functions.init())
        values = metric.compute()
        assert list(values) == list(functions.compute(state))
        for name, value in functions.compute(state).items():
            np.testing.assert_array_equal(values[name], value, err_msg=name)
        metric.reset()


@jax.numpy_dtype_promotion("standard")  # As `nnx.metrics.Average` needs it.
def test_in_a_multi_metric_in_a_jitted_step():
    def make():
        return nnx.MultiMetric(
            ours=rm.nnx.Metric(rm.collection({"ctr": rm.ctr, "auc": rm.auc}, window=100)),
            loss=nnx.metrics.Average("loss"),
        )

    @nnx.jit
    def step(metrics, p, y, mask):
        metrics.update(batch=rm.make_batch(p, y), loss=(p - y) ** 2, mask=mask)

    rng = np.random.default_rng(0)
    p, y = rng.random((3, 8)).astype(np.float32), (rng.random((3, 8)) < 0.5).astype(np.float32)
    mask = rng.random((3, 8)) < 0.7
    metrics, alone = make(), nnx.metrics.Average("loss")
    for row in zip(p, y, mask, strict=True):
        step(metrics, *map(jnp.asarray, row))
        alone.update(loss=jnp.asarray((row[0] - row[1]) ** 2), mask=jnp.asarray(row[2]))
    # Another object takes the state over, as a restored checkpoint does.
    restored = make()
    nnx.update(restored, nnx.state(metrics))
    for values in (metrics.compute(), nnx.jit(lambda m: m.compute())(restored)):
        np.testing.assert_allclose(values["ours"]["ctr/lifetime_ctr"], [y[mask].mean()], rtol=1e-6)
        np.testing.assert_allclose(values["loss"], alone.compute(), rtol=1e-6)
        wanted = rm.auc(window=100)
        state = wanted.update(wanted.init(), rm.make_batch(p[mask], y[mask]))
        np.testing.assert_array_equal(
            values["ours"]["auc/window_auc"], wanted.compute(state)["window_auc"]
        )
    metrics.reset()
    assert np.isnan(metrics.compute()["ours"]["ctr/lifetime_ctr"]).all()


def test_states_merge_as_those_of_functions():
    functions = rm.ctr(window=10)
    a, b = rm.nnx.Metric(functions, argname="clicks"), rm.nnx.Metric(functions)
    a.update(clicks=rm.make_batch([0.5, 0.5], [0, 1]))
    b.update(batch=rm.make_batch([0.5], [1]))
    a.set_state(functions.merge(a.get_state(), b.get_state()))
    np.testing.assert_allclose(a.compute()["window_ctr"], [2 / 3], rtol=1e-6)

    def over_devices(metric):
        return functions.compute(rm.all_merge(metric.get_state(), "devices"))

    stacked = jax.tree.map(lambda *x: jnp.stack(x), nnx.state(b), nnx.state(b))
    graph = nnx.graphdef(b)
    merged = jax.vmap(lambda s: over_devices(nnx.merge(graph, s)), axis_name="devices")
    values = jax.jit(merged)(stacked)
    assert values["lifetime_ctr"].tolist() == [[1.0], [1.0]]


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"metric: expected a Metric, such as rm.ne\(\) gives"):
        rm.nnx.Metric(cast(Any, rm.ne))
    metric = rm.nnx.Metric(rm.ctr())
    batch = rm.make_batch([0.5, 0.5], [0, 1])
    metric.update(batch=batch)
    with pytest.raises(ValueError, match=r"batch: expected a Batch, as in update\(batch=rm.make_"):
        metric.update(predictions=[0.5], labels=[0])
    with pytest.raises(ValueError, match=r"mask: expected shape \(1, 2\) or \(2,\), got \(3,\)"):
        metric.update(batch=batch, mask=jnp.ones(3, bool))
    with pytest.raises(ValueError, match=r"batch: expected 1 tasks"):
        metric.update(batch=rm.make_batch(np.ones((2, 3)), np.ones((2, 3))))
    assert metric.compute()["lifetime_ctr"].tolist() == [0.5]
