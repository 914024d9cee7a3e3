"""What is recommended: whole catalogues, ids of no item, popularity, and all devices together."""

import functools
import math
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles_catalogue as oracle
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import recmetrics_jax

pytestmark = pytest.mark.once

rm: Any = recmetrics_jax  # misuse is what a type checker refuses

DEVICES = 4
PHI = (40, 3, 25, 3, 20, 9, 0)
METRIC = rm.recommended_items(7, popularity=PHI)


def batch_of(ids, weights=None, **options):
    nothing = np.zeros(len(ids))
    return rm.make_batch(nothing, nothing, weights, keys={"item_id": np.asarray(ids)}, **options)


def values_of(metric, *batches):
    state = functools.reduce(metric.update, batches, metric.init())
    return {
        name.removeprefix("lifetime_"): value.item()
        for name, value in metric.compute(state).items()
    }


# What is recommended of 4 items, and the values.
HAND = {
    "all alike": ([0, 1, 2, 3] * 2, {"coverage": 1, "gini": 0, "entropy": 2}),
    "one alone": ([2, 2, 2], {"coverage": 0.25, "gini": 0.75, "entropy": 0}),
    "two alike": ([0, 3], {"coverage": 0.5, "gini": 0.5, "entropy": 1}),
}


@pytest.mark.parametrize("name", HAND)
def test_hand_computed(name):
    ids, wanted = HAND[name]
    values = values_of(rm.recommended_items(4), batch_of(ids))
    assert values == {**wanted, "unknown_items": 0}


@pytest.mark.parametrize("head_share", [0.01, 0.4, 0.5, 0.65, 0.7, 0.85, 0.94, 0.97, 1.0])
def test_the_tail_is_what_the_most_popular_leave(head_share):
    """Items of one popularity are in it together, and rounding takes none more out of it."""
    rng = np.random.default_rng(0)
    ids, weights = rng.integers(0, 7, 60), rng.integers(0, 5, 60) / 4
    metric = rm.recommended_items(7, popularity=PHI, head_share=head_share)
    wanted = oracle.recommended_items(
        None, None, weights, ids, popularity=PHI, head_share=head_share
    )
    values = values_of(metric, batch_of(ids, weights))
    assert values.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-6, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("bad", [7, -1, 2**31, 2**32, 2**32 + 1, -(2**32), 2**63 - 1])
def test_ids_of_no_item_are_counted_and_never_taken_for_another(bad):
    ids = np.array([1, bad, 2], np.int64)
    values = values_of(METRIC, batch_of(ids))
    assert values.pop("unknown_items") == 1
    assert all(math.isnan(value) for value in values.values())
    masked = values_of(METRIC, batch_of(ids, mask=ids != bad))
    assert masked["unknown_items"] == 0
    assert masked["coverage"] == pytest.approx(2 / 7)


def test_a_window_forgets_ids_of_no_item():
    metric = rm.recommended_items(7, window=4)
    state = metric.update(metric.init(), batch_of([1, 9]))
    for _ in range(2):
        state = metric.update(state, batch_of([1, 2]))
    values = metric.compute(state)
    assert math.isnan(values["lifetime_coverage"].item())
    assert values["window_coverage"].item() == pytest.approx(2 / 7)
    assert values["window_unknown_items"].item() == 0


def test_popularity_is_part_of_what_a_metric_is():
    same = rm.recommended_items(7, popularity=np.array(PHI, np.int64))
    assert same == METRIC
    assert hash(same) == hash(METRIC)
    restored = pickle.loads(pickle.dumps(METRIC))
    assert restored == METRIC
    assert values_of(restored, batch_of([0, 5])) == values_of(METRIC, batch_of([0, 5]))
    other = rm.recommended_items(7, popularity=(41, *PHI[1:]))
    assert other != METRIC
    # But not of what its states hold.
    state = METRIC.update(METRIC.init(), batch_of([0, 0]))
    assert other.compute(state)["lifetime_average_popularity"].item() == 41


def test_metrics_that_differ_in_popularity_share_their_counts():
    alone = sum(x.nbytes for x in jax.tree.leaves(METRIC.init()))
    windows = [rm.recommended_items(7, popularity=phi, window=50) for phi in (PHI, PHI[::-1])]
    both = rm.collection({"a": windows[0], "b": windows[1]})
    one = sum(x.nbytes for x in jax.tree.leaves(windows[0].init()))
    assert sum(x.nbytes for x in jax.tree.leaves(both.init())) < one + 2 * alone


@pytest.mark.parametrize("route", ["shard_map", "fold"])
def test_devices_that_share_the_catalogue_cover_all_of_it(route):
    """Each device recommends other items: the average over devices is a quarter of the coverage."""
    metric = rm.recommended_items(8)
    ids = np.repeat(np.arange(8).reshape(DEVICES, 2), 3, axis=1)

    def state_of(ids):
        nothing = jnp.zeros(ids.shape)
        batch = rm.make_batch(nothing, nothing, keys={"item_id": ids})
        return metric.update(metric.init(), batch)

    of_devices = [metric.compute(state_of(jnp.asarray(x)))["lifetime_coverage"] for x in ids]
    assert np.mean(of_devices) == 0.25
    if route == "fold":
        state = functools.reduce(metric.merge, [state_of(jnp.asarray(x)) for x in ids])
        values = metric.compute(state)
    else:
        mesh = jax.make_mesh((DEVICES,), ("devices",), axis_types=(AxisType.Auto,))
        mapped = jax.shard_map(
            lambda x: metric.compute(rm.all_merge(state_of(x[0]), "devices")),
            mesh=mesh,
            in_specs=P("devices"),
            out_specs=P(),
        )
        values = jax.jit(mapped)(jnp.asarray(ids))
    wanted = {"coverage": 1.0, "gini": 0.0, "entropy": 3.0, "unknown_items": 0.0}
    assert {name.removeprefix("lifetime_"): x.item() for name, x in values.items()} == wanted


REFUSED = {
    "no items": (lambda: rm.recommended_items(0), "n_items: expected a whole number of at least 1"),
    "another number of items": (
        lambda: rm.recommended_items(6, popularity=PHI),
        r"popularity: expected shape \(6,\) \(n_items\), got \(7,\)",
    ),
    "below 0": (
        lambda: rm.recommended_items(2, popularity=(1, -1)),
        "popularity: expected numbers from 0, and not all of them 0",
    ),
    "NaN": (
        lambda: rm.recommended_items(2, popularity=(1, math.nan)),
        "popularity: expected numbers from 0",
    ),
    "nothing popular": (
        lambda: rm.recommended_items(2, popularity=(0, 0)),
        "popularity: expected numbers from 0, and not all of them 0",
    ),
    "words": (lambda: rm.recommended_items(1, popularity=["a"]), "popularity: expected a real"),
    "head": (
        lambda: rm.recommended_items(7, popularity=PHI, head_share=0),
        "head_share: expected a number above 0 and up to 1, got 0",
    ),
    "no ids": (
        lambda: METRIC.update(METRIC.init(), rm.make_batch([0.5], [1])),
        "item_id: expected an array of this name",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
