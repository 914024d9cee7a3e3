"""The sums of a batch: all lengths, masks, and one collective whatever the number of metrics."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import nine

import recmetrics_jax as rm

pytestmark = pytest.mark.numerics


def squared(batch):
    return batch.weights * batch.predictions**2


def signed(batch):
    return jnp.where(batch.labels > 0.5, batch.predictions, -batch.predictions)


def larger(batch):
    return jnp.maximum(batch.predictions, batch.labels)


def logarithm(batch):
    return batch.weights * jnp.log1p(batch.predictions)


def both(batch):
    return jnp.stack([batch.predictions, batch.weights], axis=-1)


TERMS = {
    "squared": squared,
    "signed": signed,
    "larger": larger,
    "logarithm": rm.Term(logarithm, arithmetic=False),
    "both": rm.Term(both, shape=(2,)),
    "more": larger,
}
FACTORIES = (rm.ctr, rm.ne, rm.calibration, rm.mse, rm.mae, rm.accuracy, rm.precision, rm.recall)


def expected_sums(p, y, w, mask):
    p, y, w = (np.where(mask, x, 0).astype(np.float64) for x in (p, y, w))
    return {
        "squared": np.sum(w * p**2, axis=1),
        "signed": np.sum(np.where(y > 0.5, p, -p), axis=1),
        "larger": np.sum(np.maximum(p, y), axis=1),
        "logarithm": np.sum(w * np.log1p(p), axis=1),
        "both": np.stack([np.sum(p, axis=1), np.sum(w, axis=1)], axis=1),
        "more": np.sum(np.maximum(p, y), axis=1),
    }


@pytest.mark.parametrize("kinds", [list(TERMS), ["squared"], ["squared", "signed"], ["logarithm"]])
@pytest.mark.parametrize(
    "size", [0, 1, 2, 7, 8, 31, 48, 97, 125, 384, 1000, 1024, 4999, 5036, 6000]
)
def test_sums_of_every_length_are_those_of_numpy(size, kinds):
    rng = np.random.default_rng(size)
    p, y, w = (rng.random((3, size), np.float32) for _ in range(3))
    mask = rng.random((3, size)) < 0.8
    metric = rm.sum_metric({kind: TERMS[kind] for kind in kinds}, lambda sums: sums, n_tasks=3)
    values = metric.compute(metric.update(metric.init(), rm.make_batch(p, y, w, mask=mask)))
    expected = expected_sums(p, y, w, mask)
    for kind in kinds:
        np.testing.assert_allclose(
            values[f"lifetime_{kind}"], expected[kind], rtol=1e-6, atol=1e-6, err_msg=kind
        )


def longest_sum(jaxpr):
    """The most numbers that one reduction of a program adds up."""
    longest = 0
    for equation in jaxpr.eqns:
        for parameter in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                longest = max(longest, longest_sum(inner))
        if equation.primitive.name == "reduce":
            shape = equation.invars[0].aval.shape
            longest = max(longest, math.prod(shape[axis] for axis in equation.params["dimensions"]))
    return longest


@pytest.mark.parametrize("size", [49_999, 65_536, 65_537, 262_148, 1_048_573])
def test_long_batches_are_added_up_in_chunks_whatever_divides_their_length(size):
    """A loop number by number, as of a prime length, takes several times as long."""
    metric = rm.collection({f.__name__: f() for f in FACTORIES})
    rows = jax.ShapeDtypeStruct((size,), jnp.float32)
    program = jax.make_jaxpr(lambda s, x: metric.update(s, rm.make_batch(x, x)))(
        metric.init(), rows
    )
    assert 8 < longest_sum(program.jaxpr) <= size / 8


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_cross_entropy_with_one_logarithm_keeps_the_digits_of_small_predictions(label):
    p = [1e-30, 1e-9, 3e-8, 1e-4, 0.3, 0.49999997, 0.5, 0.50000006, 0.999, 0.99999994, 1.0]
    p = np.repeat(np.array(p, np.float32)[:, None], 500, axis=1)  # A task for each, a large batch.
    metric = rm.ne(logloss=True, n_tasks=len(p))
    state = metric.update(metric.init(), rm.make_batch(p, np.full_like(p, label)))
    exact = p[:, 0].astype(np.float64)
    with np.errstate(divide="ignore"):
        bits = -(np.log(exact) if label else np.log1p(-exact)) / np.log(2)
    bits = np.clip(bits, -np.log1p(-1e-12) / np.log(2), -np.log2(1e-12))
    np.testing.assert_allclose(metric.compute(state)["lifetime_logloss"], bits, rtol=2e-7)


@pytest.mark.parametrize("labels", ["classes", "between"])
def test_cross_entropy_is_the_same_whatever_the_labels_beside_it(labels):
    rng = np.random.default_rng(0)
    p, y = rng.random(5000, np.float32), (rng.random(5000) < 0.3).astype(np.float32)
    if labels == "between":
        y[17] = 0.25
    metric = rm.ne(logloss=True)
    values = metric.compute(metric.update(metric.init(), rm.make_batch(p, y)))
    exact = np.float64(p)
    bits = -(y * np.log2(exact) + (1 - y) * np.log2(1 - exact))
    np.testing.assert_allclose(values["lifetime_logloss"], [np.mean(bits)], rtol=1e-6)


def collectives(function, *arguments):
    text = jax.jit(function).lower(*arguments).compile().as_text() or ""
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    return len(re.findall(rf" (?:{kinds})(?:-start)?\(", text))


@pytest.mark.parametrize("window", [None, 10_000])
@pytest.mark.parametrize(("size", "most"), [(1024, 1), (6000, 2)])
def test_a_sharded_batch_takes_as_many_collectives_for_many_metrics_as_for_one(window, size, most):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.NamedSharding(mesh, jax.P(None, "data"))
    everywhere = jax.NamedSharding(mesh, jax.P())
    arrays = [jax.device_put(np.ones((2, size), np.float32), sharded) for _ in range(3)]

    def count(factories):
        metric = rm.collection({f.__name__: f(n_tasks=2, window=window) for f in factories})
        state = jax.device_put(metric.init(), everywhere)
        return collectives(lambda s, *x: metric.update(s, rm.make_batch(*x)), state, *arrays)

    assert count(FACTORIES[:1]) == 1
    # Of a large batch, all devices are asked whether all labels are classes.
    assert count(FACTORIES[:2]) == count(FACTORIES) == most


def test_collection_merges_in_as_many_collectives_as_one_metric():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def merge_of(metric):
        states = jax.tree.map(lambda x: jnp.stack([x] * 4), metric.init())

        @functools.partial(jax.shard_map, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P())
        def merged(states):
            return rm.all_merge(jax.tree.map(lambda x: x[0], states), "data")

        return collectives(merged, states)

    assert 1 <= merge_of(nine(window=100)) <= merge_of(rm.ctr(window=100)) <= 6
