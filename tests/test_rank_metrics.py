"""Metrics of ranks: ties, what was not found, ranks far down, and what samples tell."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles_catalogue as oracle
import pytest

import recmetrics_jax
from recmetrics_jax._src.rank_bins import RankBins, spread

pytestmark = pytest.mark.once

rm: Any = recmetrics_jax  # misuse is what a type checker refuses

NAN = math.nan


def values_of(metric, *batches, state=None):
    state = metric.init() if state is None else state
    for batch in batches:
        state = metric.update(state, batch)
    return {
        name.removeprefix("lifetime_"): value.item()
        for name, value in metric.compute(state).items()
    }


def check(values, wanted, rtol=1e-6):
    assert values.keys() >= wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(values[name], value, rtol=rtol, atol=1e-12, err_msg=name)


def ranks_of(*rows):
    greater, tied = np.array(rows, np.int32).reshape(-1, 2).T
    return rm.ops.Ranks(greater, tied)


METRIC = rm.rank_metrics(k=(1, 2, 3), exact_ranks=64)


def test_ties_count_as_the_mean_over_all_orders():
    scores = np.array([[3, 1, 1, 1, 0], [2, 2, 2, 2, 2], [0, 1, 2, 3, 3]], np.float32)
    target = np.array([2, 0, 2])
    gains = {name: gain for k in (1, 2, 3) for name, gain in oracle.gains(k).items()}
    gains["mrr"] = lambda r: 1 / r
    gains["mean_rank"] = float
    wanted = dict.fromkeys(gains, 0.0)
    for row, item in zip(scores, target, strict=True):
        orders = list(itertools.permutations(range(scores.shape[1])))
        for order in orders:
            rank = sorted(order, key=lambda v, row=row: -row[v]).index(item) + 1
            for name, gain in gains.items():
                wanted[name] += gain(rank) / len(orders) / len(scores)
    check(values_of(METRIC, rm.make_rank_batch(rm.ops.rank_of(scores, target))), wanted)


# Rows (greater, tied), of which the second is -1 where K = greater were listed without the target.
ROWS = {
    "all found": [(0, 0), (3, 0), (7, 2)],
    "not found in lists of 5": [(0, 0), (1, 0), (5, -1)],
    "lists of 2, too short for k = 3": [(0, 0), (0, 0), (2, -1)],
    "the median is among those not found": [(0, 0), (5, -1), (5, -1)],
    "half of them are not found": [(0, 0), (5, -1)],
    "the median lies in a list, and beyond another": [(4, 0), (4, 0), (4, 0), (2, -1)],
    "none is found": [(5, -1), (9, -1)],
    "two in the middle": [(0, 0), (4, 0), (2, 0), (9, 0)],
    "half of ties in the middle": [(0, 2), (3, 2)],
    "no half of a rank": [(0, 1), (0, 1)],
}


@pytest.mark.parametrize("name", ROWS)
def test_what_is_not_found_leaves_open_what_it_may_change(name):
    rows = np.array(ROWS[name])
    values = values_of(METRIC, rm.make_rank_batch(ranks_of(*rows)))
    wanted = oracle.rank_metrics(rows, None, np.ones(len(rows)), ks=(1, 2, 3))
    check(values, wanted)
    assert math.isnan(values["mean_rank"]) == (min(rows[:, 1]) == -1)


def test_weights_and_masks_of_rows_not_found():
    rows = np.array([(0, 0), (3, -1), (1, 1), (9, 9)])
    weights = np.array([0.5, 2.0, 1.0, 7.0])
    batch = rm.make_rank_batch(ranks_of(*rows), weights, mask=[True, True, True, False])
    check(values_of(METRIC, batch), oracle.rank_metrics(rows[:3], None, weights[:3], ks=(1, 2, 3)))


def by_loop(bins, first, last, weights):
    sums = np.zeros(bins.size)
    for a, b, w in zip(first, last, weights, strict=True):
        for place in range(a, b + 1):
            sums[np.flatnonzero(bins.first <= place)[-1]] += w / (b - a + 1)
    return sums


def test_what_is_tied_is_spread_over_bins_as_one_by_one():
    bins = RankBins(64)
    rng = np.random.default_rng(0)
    first = rng.integers(0, 300, (1, 40)).astype(np.int32)
    last = first + rng.integers(0, 90, (1, 40)).astype(np.int32) * rng.integers(0, 2, (1, 40))
    weights = rng.integers(0, 5, (1, 40)) / 4
    with jax.enable_x64(True):
        begin, end = (jnp.asarray(x, jnp.int32) for x in (first, last))
        sums = spread(bins, begin, end, jnp.asarray(weights))
    wanted = by_loop(bins, first[0], last[0], weights[0])
    np.testing.assert_allclose(sums[0], wanted, rtol=1e-12)
    assert not np.any(sums[0][wanted == 0])


@pytest.mark.parametrize("exact", [64, 4096])
def test_every_place_has_a_bin(exact):
    bins = RankBins(exact)
    first, width = bins.first, bins.width
    last = first + width - 1
    assert last[-1] == 2**31 - 1
    assert (width[first >= exact] / first[first >= exact] <= 1 / 64).all()
    for places in (first, last):
        np.testing.assert_array_equal(
            bins.bin_of(jnp.asarray(places, jnp.int32)), np.arange(bins.size)
        )
    assert [bins.bin_of_rank(int(rank)) for rank in first[::97] + 1] == list(range(bins.size))[::97]


def test_ranks_far_down_are_right_to_the_width_of_a_bin():
    """Up to 1e6, and ties over thousands of bins; the mean rank to the digits of float32."""
    metric = rm.rank_metrics(k=(10, 5000, 100_000))
    rng = np.random.default_rng(0)
    greater = np.floor(10 ** (6 * rng.random(2000))).astype(np.int32) - 1
    tied = np.where(rng.random(2000) < 0.2, rng.integers(0, 20_000, 2000), 0).astype(np.int32)
    values = values_of(metric, rm.make_rank_batch(rm.ops.Ranks(greater, tied)))
    low, high = greater + 1, greater + tied + 1
    for k in (10, 5000, 100_000):
        hits = np.clip(k - greater, 0, tied + 1) / (tied + 1)
        bound = 1e-6 if k < 4096 else np.mean((low < k * 65 / 64) & (high > k * 63 / 64)) / 2
        assert abs(values[f"hit_rate_at_{k}"] - hits.mean()) < bound, k
    of_rows = [np.mean(1 / np.arange(a, b + 1.0)) for a, b in zip(low, high, strict=True)]
    np.testing.assert_allclose(values["mrr"], np.mean(of_rows), rtol=1e-5)
    np.testing.assert_allclose(values["mean_rank"], np.mean((low + high) / 2), rtol=1e-6)
    assert values["not_found"] == 0


def test_the_median_of_ranks_far_down_is_interpolated():
    ranks = np.arange(10_001, 30_002)
    values = values_of(rm.rank_metrics(k=1), rm.make_rank_batch(ranks))
    np.testing.assert_allclose(values["median_rank"], np.median(ranks), rtol=1e-3)


def test_a_state_is_read_at_any_k():
    rows = [(0, 0), (3, 1), (9, 0)]
    other = rm.rank_metrics(k=(4, 5), exact_ranks=64)
    state = METRIC.update(METRIC.init(), rm.make_rank_batch(ranks_of(*rows)))
    wanted = oracle.rank_metrics(np.array(rows), None, np.ones(3), ks=(4, 5))
    check(values_of(other, state=state), wanted)


def test_counts_of_whole_weights_are_exact():
    """A sum of 2^24 + 1 is no float32; the part of the found is, to the last digit."""
    half = rm.make_rank_batch([1, 2], [2.0**24, 1.0])
    state = METRIC.update(METRIC.init(), half)
    state = METRIC.merge(state, METRIC.update(METRIC.init(), half))
    lifetime = np.asarray(state.lifetime.parts, np.float64).sum(axis=0)[0]
    assert sorted(lifetime[lifetime > 2.5]) == [4.0, 2.0**25, 2.0**25 + 4.0]


def test_states_and_windows_are_small():
    assert sum(x.nbytes for x in jax.tree.leaves(rm.rank_metrics().init())) < 130_000
    window = rm.rank_metrics(window=100_000)
    assert sum(x.nbytes for x in jax.tree.leaves(window.init())) < 6_000_000


# What a rank may be as an array, and the place and ties that it becomes.
DOORS = {
    "whole": ([1, 4, 12], [(0, 0), (3, 0), (11, 0)]),
    "floats": ([1.0, 4.0], [(0, 0), (3, 0)]),
    "nowhere": ([1.0, np.inf], [(0, 0), (2**31 - 1, -1)]),
    "large": ([2**31 - 1, 2**24 + 2], [(2**31 - 2, 0), (2**24 + 1, 0)]),
}
NO_RANKS = (0, -3, 1.5, NAN, -np.inf, 2.0**31)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("name", DOORS)
def test_ranks_come_as_arrays(name, kind):
    given, wanted = DOORS[name]
    batch = rm.make_rank_batch(kind(given))
    assert batch.predictions.shape == (1, len(given), 2)
    np.testing.assert_array_equal(batch.predictions[0], np.array(wanted, np.float32))
    assert batch.labels.tolist() == batch.weights.tolist() == [[1.0] * len(given)]


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("rank", NO_RANKS)
def test_what_is_no_rank_is_a_bad_example(rank, kind):
    both = rm.collection({"ranks": METRIC, "bad": rm.nonfinite_examples()})
    ranks = kind([1.0, rank])
    values = values_of(both, rm.make_rank_batch(ranks))
    assert values.pop("bad/lifetime_nonfinite_examples") == 1
    assert all(math.isnan(value) for value in values.values())
    values = values_of(both, rm.make_rank_batch(ranks, mask_nonfinite=True))
    assert values["ranks/lifetime_mean_rank"] == 1


def test_undefined_ranks_are_bad_examples():
    ranks = rm.ops.rank_of(np.array([[1, NAN], [1, 2]], np.float32), np.array([0, 0]))
    batch = rm.make_rank_batch(ranks)
    assert batch.nonfinite.tolist() == [[True, False]]
    assert math.isnan(values_of(METRIC, batch)["mrr"])


@pytest.mark.parametrize("row", [(-2.0, 0.0), (0.5, 0.0), (0.0, -2.0), (0.0, 0.5), (0.0, -1.0)])
def test_predictions_that_are_no_ranks_are_undefined(row):
    predictions = np.array([[row, (1.0, 0.0)]])
    values = values_of(METRIC, rm.make_batch(predictions, np.ones((1, 2))))
    assert all(math.isnan(value) for value in values.values())
    masked = rm.make_batch(predictions, np.ones((1, 2)), mask=[False, True])
    assert values_of(METRIC, masked)["mean_rank"] == 2


def test_tasks_and_keys_go_through_the_door():
    ranks = rm.ops.Ranks(np.zeros((2, 3), int), np.zeros((2, 3), int))
    keys = {"user": np.array([1, 2**40, 3])}
    batch = jax.jit(lambda r: rm.make_rank_batch(r, [1, 2, 3]))(ranks)
    assert batch.predictions.shape == (2, 3, 2)
    assert batch.weights.tolist() == [[1, 2, 3]] * 2
    assert rm.make_rank_batch(ranks, keys=keys).keys["user"].tolist()[0][1] == [256, 0]


REFUSED = {
    "k": (lambda: rm.rank_metrics(k=0), "k: expected a whole number of at least 1, got 0"),
    "ks": (lambda: rm.rank_metrics(k=(1, 2.5)), "k: expected a whole number of at least 1"),
    "few bins": (lambda: rm.rank_metrics(exact_ranks=32), "exact_ranks: expected a whole number"),
    "bins": (lambda: rm.rank_metrics(exact_ranks=96), "exact_ranks: expected a power of two"),
    "sampled": (lambda: rm.rank_metrics(sampled=100), "sampled: expected Sampled"),
    "one of two": (lambda: rm.rank_metrics(sampled=(100,)), "sampled: expected Sampled"),
    "more than there are": (
        lambda: rm.rank_metrics(sampled=(100, 100)),
        "sampled.n_sampled: expected a whole number of at most 99, got 100",
    ),
    "more than are told apart": (
        lambda: rm.rank_metrics(sampled=(100, 1000), exact_ranks=64),
        "sampled.n_sampled: expected a whole number of at most 63, got 100",
    ),
    "gamma": (
        lambda: rm.rank_metrics(sampled=rm.Sampled(10, 100, gamma=0.0)),
        "sampled.gamma: expected a number above 0",
    ),
    "scores": (
        lambda: METRIC.update(METRIC.init(), rm.make_batch([0.5], [1])),
        r"predictions: expected shape \(1, 1, 2\), as make_rank_batch gives, got \(1, 1\)",
    ),
    "ranks of three axes": (
        lambda: rm.make_rank_batch(np.ones((1, 2, 3))),
        r"ranks: expected shape \[N\] or \[T, N\]",
    ),
    "ranks that are words": (lambda: rm.make_rank_batch(["a"]), "ranks: expected a real number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


def test_metrics_of_ranks_are_values():
    assert rm.rank_metrics(k=10) == rm.rank_metrics(k=(10, 10))
    assert rm.rank_metrics(sampled=(50, 100)) == rm.rank_metrics(sampled=rm.Sampled(50, 100))
    assert repr(rm.rank_metrics(k=(1, 5))) == "rank_metrics(k=(1, 5))"
