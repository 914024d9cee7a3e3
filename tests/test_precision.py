"""Float32 states that count like float64: over billions of examples, and inside one batch."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recmetrics_jax as rm
from recmetrics_jax._src import numerics
from recmetrics_jax._src.accumulators import Sum

pytestmark = pytest.mark.numerics

MEAN = rm.weighted_avg()


def state_of(batch, updates):
    """The state after ``updates`` equal updates, by merging powers of two."""
    one = MEAN.update(MEAN.init(), batch)
    merge = jax.jit(MEAN.merge)
    state = MEAN.init()
    while updates:
        if updates & 1:
            state = merge(state, one)
        one, updates = merge(one, one), updates >> 1
    return state


def total(state):
    """The exact value of the accumulated ``sum(w p)`` and ``sum(w)``, as Python integers' ratio.

    They come after the number of examples, in the order of their names.
    """
    return [math.fsum(float(part[0, i]) for part in state.lifetime.parts) for i in (1, 2)]


@functools.cache
def repeat(size):
    """``repeat(state, value, count)``: updates with ``size`` equal predictions, in a scan."""

    @jax.jit
    def run(state, values):
        def step(state, value):
            p = jnp.full(size, value)
            return MEAN.update(state, rm.make_batch(p, p)), None

        return jax.lax.scan(step, state, values)[0]

    return lambda state, value, count: run(state, jnp.full(count, value, jnp.float32))


@pytest.mark.parametrize("size", [1, 4095, 65536])
@pytest.mark.parametrize("value", [0.1, 1 / 3, 0.7, 1.0])
def test_mean_of_four_billion_examples(value, size):
    """Real updates from 4e9 examples on: the first part is fast-forwarded by merging.

    The increments themselves must be right to 1e-7, so that no stretch of the stream drifts.
    """
    exact = float(np.float32(value))
    batch = rm.make_batch(np.full(size, value, np.float32), np.zeros(size))
    for reached in (10**7, 10**9, 4 * 10**9):
        before = state_of(batch, reached // size)
        count = 100_000 if size == 1 else 50
        after = repeat(size)(before, value, count)
        gained = [b - a for a, b in zip(total(before), total(after), strict=True)]
        np.testing.assert_allclose(gained, [exact * size * count, size * count], rtol=1e-7)
        mean = MEAN.compute(after)["lifetime_weighted_avg"]
        np.testing.assert_allclose(mean, [exact], rtol=1e-7)


@pytest.mark.parametrize("reached", [2**24, 2**31, 10**9, 4 * 10**9])
def test_state_still_counts_single_examples(reached):
    before = state_of(rm.make_batch([1.0], [1]), reached)
    assert total(before) == [reached, reached]
    after = repeat(1)(before, 1.0, 1000)
    assert total(after) == [reached + 1000, reached + 1000]
    assert MEAN.compute(after)["lifetime_weighted_avg"].tolist() == [1.0]


def test_random_stream_of_single_examples_has_no_drift():
    before = state_of(rm.make_batch([1.0], [0], [0.3]), 3 * 10**9)
    rng = np.random.default_rng(0)
    p, w = (rng.random((200_000, 1)).astype(np.float32) for _ in range(2))

    def step(state, x):
        return MEAN.update(state, rm.make_batch(x[0], x[0], x[1])), None

    after, _ = jax.jit(lambda state, *x: jax.lax.scan(step, state, x))(before, p, w)
    gained = [b - a for a, b in zip(total(before), total(after), strict=True)]
    # Each product w p is rounded to float32 by itself, without bias.
    exact = [math.fsum((w * p)[:, 0].tolist()), math.fsum(w[:, 0].tolist())]
    np.testing.assert_allclose(gained, exact, rtol=1e-8)


STREAMS = {
    "uniform": lambda rng: rng.random(10**6),
    "constant": lambda rng: np.full(10**6, 0.1),
    "heavy_tail": lambda rng: rng.pareto(1.0, 10**6),
    "cancelling": lambda rng: rng.normal(size=10**6),
    "large_and_small": lambda rng: np.where(np.arange(10**6) % 1000, 1e-4, 1e6),
}


@pytest.mark.parametrize("name", STREAMS)
def test_sum_inside_a_batch_is_within_a_few_ulps(name):
    values = STREAMS[name](np.random.default_rng(0)).astype(np.float32)
    metric = rm.sum_metric({"sum": _predictions}, lambda sums: sums)
    value = jax.jit(lambda p: metric.compute(metric.update(metric.init(), rm.make_batch(p, p))))(
        values
    )["lifetime_sum"][0]
    exact = math.fsum(values.tolist())
    # The rounding of the value itself is half a unit; float64 adds 1e6 * 1e-16 of sum |x|.
    bound = np.spacing(np.float32(abs(exact))) + 1e-10 * math.fsum(np.abs(values).tolist())
    assert abs(float(value) - exact) <= bound


def _predictions(batch):
    return batch.predictions


def test_bfloat16_errors_are_summed_in_float32_and_beyond():
    """A peer that takes its dtype from the input reports 12.7 or 0.5 here."""
    rng = np.random.default_rng(0)
    values = jnp.asarray(rng.random(4096) ** 2, jnp.bfloat16)
    exact = math.fsum(np.asarray(values, np.float64).tolist()) / 4096
    state = state_of(rm.make_batch(values, values), 10_000)
    np.testing.assert_allclose(MEAN.compute(state)["lifetime_weighted_avg"], [exact], rtol=1e-7)


@pytest.mark.parametrize("weight", [0.3, 1e-3, 1e3])
def test_fractional_weights_are_counted(weight):
    state = state_of(rm.make_batch([0.5, 1.0], [0, 0], [weight, weight]), 10**8)
    np.testing.assert_allclose(MEAN.compute(state)["lifetime_weighted_avg"], [0.75], rtol=1e-7)


def test_expansions_add_without_loss():
    rng = np.random.default_rng(0)
    count = 1000
    # Random expansions of three: each part well below the one before.
    parts = [[rng.normal(size=count) * 2.0 ** (-26 * i) for i in range(3)] for _ in range(2)]
    a, b = (jnp.asarray(part, jnp.float32) for part in parts)
    result = numerics.add(a, b)
    for i in range(count):
        given = [float(x[i]) for x in (*a, *b)]
        got = [float(x[i]) for x in result]
        assert abs(math.fsum([*got, *(-x for x in given)])) <= 2.0**-68 * (
            abs(given[0]) + abs(given[3])
        )
        # Non-overlapping: the first is the rounded total.
        assert got[0] == np.float32(math.fsum(given))


def test_sum_beyond_the_dtype_is_nan_and_stays():
    state = Sum.empty(1, 1)
    with jax.enable_x64(True):
        state = state.add(jnp.full((1, 1), 1e300))
        assert np.isnan(state.read()).all()
        assert np.isnan(state.add(jnp.ones((1, 1))).read()).all()
