"""Metrics inside what users write around them: grad, donation, scan, checkpoints, NumPy buffers."""

import chex
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, GROUPED, ORDER, SUMS, SUMS_OF_ORDER, heavy_where, metric_of, nine
from drawing import batches, keys_of

import recmetrics_jax as rm


def loss(weights, features, labels):
    p = jax.nn.sigmoid(features @ weights)
    return -jnp.mean(labels * jnp.log(p) + (1 - labels) * jnp.log1p(-p)), p


@pytest.mark.parametrize("case", heavy_where([SUMS, SUMS_OF_ORDER], SUMS_OF_ORDER), ids=str)
def test_metric_neither_enters_nor_breaks_the_gradient(case):
    metric = case.make(window=50)
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(32, 3)), jnp.float32)
    labels = jnp.asarray(rng.random(32) < 0.5, jnp.float32)
    weights = jnp.zeros(3)

    def with_metric(weights, state):
        value, p = loss(weights, features, labels)
        state = metric.update(state, rm.make_batch(p, labels, keys=keys_of(case, 32)))
        # Even a value added to the loss has no gradient.
        extra = sum(jnp.nansum(x) for x in metric.compute(state).values())
        return value + extra, state

    plain = jax.grad(lambda w: loss(w, features, labels)[0])(weights)
    grads, state = jax.jit(jax.grad(with_metric, has_aux=True))(weights, metric.init())
    np.testing.assert_array_equal(grads, plain)
    assert jax.tree.structure(state) == jax.tree.structure(metric.init())


@pytest.mark.parametrize("case", heavy_where(GROUPED, ORDER), ids=str)
def test_state_round_trips_through_serialization_to_the_bit(case):
    metric = metric_of(case, window=100)
    first, *rest = batches(case)
    state = metric.update(metric.init(), first)
    restored = flax.serialization.from_bytes(metric.init(), flax.serialization.to_bytes(state))
    chex.assert_trees_all_equal(restored, state)
    chex.assert_trees_all_equal_dtypes(restored, state)
    for batch in rest:
        state, restored = metric.update(state, batch), metric.update(restored, batch)
    chex.assert_trees_all_equal(restored, state)


def test_collection_shares_statistics_by_declared_identity():
    metrics = nine(window=100)
    state = metrics.init()
    # 20 terms, which are 13, and the number of examples: over the lifetime for each metric that has
    # them, since it may come later than others; one ring for all.
    assert state.lifetime.parts.shape == (3, 1, 21)
    assert [window.ring.shape for window in state.windows] == [(2, 1, 1024, 14)]
    assert len(jax.tree.leaves(state)) == 6


def test_collection_tells_apart_what_is_declared_apart():
    """A peer that compares values merges these two on the first batch, for good."""
    metrics = rm.collection({"at_5": rm.precision(), "at_6": rm.precision(threshold=0.6)})
    state = metrics.update(metrics.init(), rm.make_batch([0.1, 0.9], [0, 1]))
    state = metrics.update(state, rm.make_batch([0.55, 0.58, 0.9], [0, 0, 1]))
    values = metrics.compute(state)
    np.testing.assert_allclose(values["at_5/lifetime_precision"], [0.5])
    np.testing.assert_allclose(values["at_6/lifetime_precision"], [1.0])


def test_collection_takes_metrics_written_by_hand():
    def update(state, batch):
        return state + jnp.sum(batch.mask, axis=1, dtype=jnp.int32)

    by_hand = rm.Metric(
        init=lambda: jnp.zeros(2, jnp.int32),
        update=update,
        merge=jnp.add,
        compute=lambda state: {"rows": state},
    )
    metrics = rm.collection({"ctr": rm.ctr(n_tasks=2), "hand": by_hand})
    both = rm.collection({"all": metrics})
    a, b = (both.update(both.init(), batch) for batch in batches(CASES[0], count=2))
    rows = sum(np.asarray(batch.mask).sum(axis=1) for batch in batches(CASES[0], count=2))
    np.testing.assert_array_equal(both.compute(both.merge(a, b))["all/hand/rows"], rows)


def test_metric_ignores_keys_that_it_did_not_ask_for():
    metric = rm.collection({"ctr": rm.ctr(), "auc": rm.auc(window=5)})
    plain = rm.make_batch([0.5, 0.7], [0, 1])
    keyed = rm.make_batch([0.5, 0.7], [0, 1], keys={"session": np.array([1, 2])})
    chex.assert_trees_all_equal(
        metric.update(metric.init(), keyed), metric.update(metric.init(), plain)
    )


def test_padding_is_zeroed_at_the_door():
    bad = np.array([0.5, np.nan])
    batch = rm.make_batch(
        bad, bad, bad, mask=np.array([True, False]), keys={"session": np.array([3, 9])}
    )
    for leaf in (batch.predictions, batch.labels, batch.weights, batch.keys["session"]):
        assert (leaf[0, 1] == 0).all()
    assert not batch.nonfinite.any()


def test_later_writes_to_the_callers_arrays_change_nothing():
    arrays = [np.full(4096, 0.25, np.float32) for _ in range(3)]
    mask, session = np.ones(4096, bool), np.ones(4096, np.int32)
    batch = rm.make_batch(*arrays, mask=mask, keys={"session": session})
    for array in arrays:
        array[:] = 7
    mask[:] = False
    session[:] = 5
    for leaf in (batch.predictions, batch.labels, batch.weights):
        np.testing.assert_array_equal(leaf, np.full((1, 4096), 0.25))
    assert batch.mask.all()
    assert (batch.keys["session"] == jnp.array([0, 1])[None, None]).all()


@pytest.mark.parametrize("make", [np.asarray, list], ids=["array", "list"])
def test_keys_of_64_bits_do_not_collide(make):
    keys = np.array([2**40 + 5, 5, -1, 2**32 - 1, -(2**63), 2**63 - 1])
    words = rm.make_batch(np.ones(6), np.ones(6), keys={"session": make(keys)}).keys["session"]
    assert words.dtype == jnp.int32
    upper, lower = (np.asarray(words[0, :, i], np.int64) for i in range(2))
    np.testing.assert_array_equal((upper << 32) | (lower & 0xFFFFFFFF), keys)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32, np.int64])
def test_a_key_is_the_same_from_numpy_and_from_jax(dtype):
    info = np.iinfo(dtype)
    keys = np.array([max(info.min, -(2**31)), 0, 7, min(info.max, 2**31 - 1)], dtype)
    by_numpy, by_jax = (
        rm.make_batch(np.ones(4), np.ones(4), keys={"session": x}).keys["session"]
        for x in (keys, jnp.asarray(keys))
    )
    np.testing.assert_array_equal(by_numpy, by_jax)
    with jax.enable_x64(True):
        by_x64 = rm.make_batch(np.ones(4), np.ones(4), keys={"session": jnp.asarray(keys)}).keys[
            "session"
        ]
    np.testing.assert_array_equal(by_numpy, by_x64)


def test_update_makes_no_transfer_to_the_host():
    metric = nine(window=1000)
    step = jax.jit(lambda state, p, y: metric.update(state, rm.make_batch(p, y)), donate_argnums=0)
    p, y = jnp.full(64, 0.5), jnp.ones(64)
    state = step(metric.init(), p, y)
    with jax.transfer_guard("disallow"):
        for _ in range(3):
            state = step(state, p, y)
    assert metric.compute(state)["ctr/lifetime_ctr"].tolist() == [1.0]
