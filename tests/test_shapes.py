"""Inside the package, arrays that would broadcast without a word are refused where it is traced."""

import chex
import jax
import jax.numpy as jnp
import pytest

import recmetrics_jax as rm
from recmetrics_jax._src import _cpu, curves, numerics, pairs, scans, segments
from recmetrics_jax._src.accumulators import Sum
from recmetrics_jax._src.histogram import Histogram
from recmetrics_jax._src.metrics._groups import group_values
from recmetrics_jax._src.terms import BinnedTerm

X = jnp.ones((2, 4))
ROWS = jnp.zeros((2, 4), jnp.int32)
FIRST = jnp.ones((2, 4), bool)
LONG = jnp.ones((2, 5000))
BATCH = rm.make_batch(X, X)


def binned(index, weights):
    return BinnedTerm(lambda _: (index, weights), shape=(1, 4), is_summed=True).scatter(BATCH)


def grouped(of_group, order, is_first):
    options = {"average": "equal", "undefined_groups": None}
    with jax.enable_x64(True):
        of_group = of_group.astype(jnp.float64)
    return group_values("x", of_group, order, is_first, BATCH, **options)


# By name, a function and arrays that fit.
CALLS = {
    "expansions": (numerics.add, X[None], X[None]),
    "sums": (lambda *x: Sum.empty(2, 4).add(*x), X),
    "histograms": (lambda *x: Histogram.empty(2, 3, 4).add(*x), ROWS, jnp.ones((2, 4, 3))),
    "bins": (binned, ROWS, X[..., None]),
    "scans": (lambda *x: scans.in_groups(jnp.add, *x), X, FIRST),
    "take": (segments.take, X, ROWS),
    "put": (segments.put, X, ROWS),
    "totals": (segments.totals, X, ROWS),
    "curves": (curves.curve, X, X, X),
    "pairs": (pairs.count_pairs, X, X, X),
    "shortcuts": (
        lambda *x: _cpu.by_shortcut(lambda x, y: x * y, jnp.add, jnp.add, *x),
        LONG,
        LONG,
    ),
    "groups": (grouped, X, ROWS, FIRST),
}


@pytest.mark.parametrize("name", CALLS)
def test_arrays_of_other_shapes_are_refused_and_checks_leave_nothing(name):
    function, *arrays = CALLS[name]
    refused = 0
    for i, x in enumerate(arrays):
        for axis in range(x.ndim):
            if x.shape[axis] > 1 and (name, i, axis) not in FREE:
                one = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
                with pytest.raises(AssertionError, match="shape"):
                    jax.eval_shape(function, *arrays[:i], one, *arrays[i + 1 :])
                refused += 1
    assert refused
    with_checks = str(jax.make_jaxpr(function)(*arrays))
    chex.disable_asserts()
    try:
        assert str(jax.make_jaxpr(function)(*arrays)) == with_checks
    finally:
        chex.enable_asserts()


# As many rows may be taken, of as many, as one likes; groups may be the same for all leading axes.
FREE = {("take", 0, 1), ("take", 1, 1), ("totals", 0, 0), ("totals", 1, 0)}
