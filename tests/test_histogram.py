"""The accumulator of binned metrics: each bin is right by itself, whatever the others hold."""

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles_order as oracles
import pytest

import recmetrics_jax as rm
from recmetrics_jax._src.histogram import BINS_A_ROW, Histogram

pytestmark = pytest.mark.numerics

BINS = 256
ROUNDED = 2.0**-50
"""What an update rounds a sum by at most, of itself."""
add = jax.jit(Histogram.add)


def read(histogram):
    with jax.enable_x64(True):
        return np.asarray(histogram.read())


def sums_of(batches, bins):
    """The sums of batches of ``index[N]`` and ``weights[N, C]``, ``[C, bins]``, exact."""
    parts = [[[] for _ in range(bins)] for _ in range(batches[0][1].shape[1])]
    for index, weights in batches:
        for at, row in zip(index, weights, strict=True):
            for of_count, weight in zip(parts, row, strict=True):
                of_count[at].append(float(weight))
    return np.array([[math.fsum(x) for x in of_count] for of_count in parts])


def powers(rng, shape, low, high):
    return rng.random(shape) * 10.0 ** rng.uniform(low, high, shape)


WEIGHTS = {
    "alike": lambda rng, n: rng.random((n, 2)),
    "downsampled": lambda rng, n: rng.random((n, 2)) * [1, 0.003],
    "one of a class": lambda rng, n: np.eye(2)[rng.integers(0, 2, n)] * [1, 0.003],
    "of all sizes": lambda rng, n: powers(rng, (n, 2), -37, 30),
    "of all sizes by update": lambda rng, n: powers(rng, (n, 2), -1, 0) * powers(rng, 1, -36, 36),
    "smallest": lambda rng, n: np.full((n, 2), 1e-37),
    "of both signs": lambda rng, n: np.abs(rng.normal(size=(n, 2))) * [1, -1e-9],
}
SIZES = {"few": BINS // BINS_A_ROW - 1, "many": 700}
SCORES = {
    "spread": lambda rng, n: rng.integers(0, BINS, n),
    "in few bins": lambda rng, n: rng.integers(0, 3, n) ** 2,
    "in one bin": lambda rng, n: np.full(n, 7),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_each_bin_is_right_whatever_others_hold(weights, size):
    rng = np.random.default_rng(0)
    batches = {}
    for name, scores in SCORES.items():
        batches[name] = [
            (scores(rng, SIZES[size]), WEIGHTS[weights](rng, SIZES[size]).astype(np.float32))
            for _ in range(12)
        ]
    histogram = Histogram.empty(len(SCORES), 2, BINS)
    for step in zip(*batches.values(), strict=True):
        index, w = (jnp.stack(x) for x in zip(*step, strict=True))
        histogram = add(histogram, index.astype(jnp.int32), w)
    for sums, (name, given) in zip(read(histogram), batches.items(), strict=True):
        wanted = sums_of(given, BINS)
        np.testing.assert_allclose(sums, wanted, rtol=13 * ROUNDED, err_msg=name)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 0.003, 1e-37])
def test_a_hundred_thousand_updates_leave_a_bin_right(value):
    """Constant additions round one way: no more than what an update may, times their number."""
    count, exact = 100_000, float(np.float32(value))
    one = jnp.zeros((1, 1), jnp.int32), jnp.full((1, 1, 1), value, jnp.float32)

    @jax.jit
    def run(histogram):
        return jax.lax.scan(lambda x, _: (x.add(*one), None), histogram, None, length=count)[0]

    first = run(Histogram.empty(1, 1, 8))
    np.testing.assert_allclose(read(first)[0, 0, 0], exact * count, rtol=count * ROUNDED)
    # On a sum as of 1e9 updates, by merging it with itself.
    many, merge = first, jax.jit(Histogram.merge)
    for _ in range(13):
        many = merge(many, many)
    gained = read(run(many))[0, 0, 0] - read(many)[0, 0, 0]
    bound = count * ROUNDED * read(many)[0, 0, 0]
    np.testing.assert_allclose(gained, exact * count, rtol=0, atol=bound)
    assert read(run(many))[0, 0, 1:].tolist() == [0] * 7


@pytest.mark.parametrize("size", SIZES)
def test_what_no_float_holds_is_nan_and_stays_in_its_bin(size):
    index = np.arange(SIZES[size]) % 5
    weights = np.ones((SIZES[size], 2), np.float32)
    weights[index == 1] = 3e38, 1
    weights[7] = np.nan, 2
    index, weights = jnp.asarray(index, jnp.int32)[None], jnp.asarray(weights)[None]
    once = add(Histogram.empty(1, 2, BINS), index, weights)
    for histogram in (once, add(once, index, jnp.ones_like(weights)), once.merge(once)):
        sums = read(histogram)[0]
        assert np.isnan(sums[0, [1, 2]]).all()
        assert np.isfinite(sums[:, [0, 3, 4, 5]]).all()
        assert (sums[:, 5:] == 0).all()


def test_merging_adds_up_in_any_order():
    rng = np.random.default_rng(1)
    given = [
        (rng.integers(0, BINS, 50), powers(rng, (50, 2), -30, 30).astype(np.float32))
        for _ in range(4)
    ]
    a, b, c, d = (
        add(Histogram.empty(1, 2, BINS), jnp.asarray(index, jnp.int32)[None], jnp.asarray(w)[None])
        for index, w in given
    )
    merge = Histogram.merge
    wanted = sums_of(given, BINS)
    for merged in (
        merge(merge(merge(a, b), c), d),
        merge(merge(d, c), merge(b, a)),
        merge(merge(merge(b, Histogram.empty(1, 2, BINS)), d), merge(a, c)),
        jax.tree.map(
            lambda x: x[0],
            jax.vmap(lambda x: x.all_merge("devices"), axis_name="devices")(
                jax.tree.map(lambda *x: jnp.stack(x), a, b, c, d)
            ),
        ),
    ):
        np.testing.assert_allclose(read(merged)[0], wanted, rtol=8 * ROUNDED)


def test_an_update_of_a_donated_state_writes_its_bins_alone():
    """No copy of the histogram, and temporary memory that does not grow with it."""
    temporary = []
    for bins in (4096, 65_536):
        metric = rm.binned_auc(bins=bins, n_tasks=2)
        batch = rm.make_batch(np.full((2, 64), 0.3), np.ones((2, 64)))
        step = jax.jit(metric.update, donate_argnums=0)
        compiled = step.lower(metric.init(), batch).compile()
        program = compiled.as_text() or ""
        assert f"[2,{bins},4]" in program
        assert not re.search(rf"\[2,{bins},4\]\S* copy\(", program)
        memory: Any = compiled.memory_analysis()
        temporary.append(memory.temp_size_in_bytes)
        state = metric.init()
        pointers = [x.unsafe_buffer_pointer() for x in state.histograms[0]]
        for _ in range(3):
            state = step(state, batch)
            assert [x.unsafe_buffer_pointer() for x in state.histograms[0]] == pointers
    assert temporary[0] == temporary[1] < 50_000


@pytest.mark.parametrize("weights", [(1.0, 0.003), (1e-37, 1e-37), (1e30, 1e-30)])
def test_area_is_right_whatever_the_weights_of_classes(weights):
    """Off by 1.7e-5 for the first where a batch is cut at a unit of its largest weight."""
    rng = np.random.default_rng(2)
    metric = rm.binned_auc()
    step = jax.jit(metric.update, donate_argnums=0)
    state, parts = metric.init(), []
    for _ in range(20):
        y = rng.random(4000) < 0.1
        p = np.round(rng.normal(0.5 * y, 1, 4000), 1).astype(np.float32)
        # Not below the smallest normal float: XLA takes what is for zero.
        w = np.where(y, *weights).astype(np.float32) * rng.uniform(0.5, 1, 4000).astype(np.float32)
        state = step(state, rm.make_batch(p, y, w))
        parts.append((p, y, w.astype(float)))
    p, y, w = (np.concatenate(x) for x in zip(*parts, strict=True))
    levels = np.unique(p)
    of_class = [[math.fsum(w[(p == x) & (y == c)]) for x in levels] for c in (1, 0)]
    wanted = oracles.auc(
        np.tile(levels, 2),
        np.repeat([1.0, 0.0], len(levels)),
        np.array(functools.reduce(list.__add__, of_class)),
    )
    value = metric.compute(state)["lifetime_binned_auc"]
    np.testing.assert_allclose(value, [wanted], rtol=2e-7)
