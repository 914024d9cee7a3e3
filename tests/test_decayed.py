"""Metrics in which examples fade, against loops over examples."""

import functools
import math

import jax
import numpy as np
import pytest

import recmetrics_jax as rm

pytestmark = pytest.mark.once

HALF_LIFE = 30.0
PLAIN = rm.collection({"ctr": rm.ctr(n_tasks=2), "binned": rm.binned_auc(bins=64, n_tasks=2)})
METRIC = rm.decayed(PLAIN, half_life=HALF_LIFE)


def stream(seed=0, size=160):
    rng = np.random.default_rng(seed)
    mask = rng.random((2, size)) < 0.8
    return (
        rng.integers(0, 9, (2, size)) / 8,
        rng.random((2, size)) < 0.4,
        rng.random((2, size)),
        mask,
    )


def batches(arrays, sizes):
    ends = np.cumsum(sizes)
    parts = [
        [x[:, end - size : end] for x in arrays] for size, end in zip(sizes, ends, strict=True)
    ]
    return [rm.make_batch(p, y, w, mask=mask) for p, y, w, mask in parts]


def values_of(metric, each):
    state = functools.reduce(metric.update, each, metric.init())
    return metric.compute(state)


def faded(arrays, half_life=HALF_LIFE):
    """The weights of examples at the end: each halves in ``half_life`` examples after it."""
    *_, w, mask = arrays
    later = mask.sum(axis=1, keepdims=True) - np.cumsum(mask, axis=1)
    return w * mask * 0.5 ** (later / half_life)


@pytest.mark.parametrize("sizes", [(40,) * 4, (160,), (1, 39, 40, 80)], ids=str)
def test_values_are_those_of_faded_weights_however_they_are_batched(sizes):
    arrays = stream()
    values = values_of(METRIC, batches(arrays, sizes))
    p, y, _, mask = arrays
    weights = faded(arrays)
    np.testing.assert_allclose(
        values["ctr/decayed_ctr"], (weights * y).sum(axis=1) / weights.sum(axis=1), rtol=1e-6
    )
    of_weights = values_of(PLAIN, [rm.make_batch(p, y, weights, mask=mask)])
    for name, value in of_weights.items():
        decayed = values[name.replace("lifetime_", "decayed_")]
        np.testing.assert_allclose(decayed, value, rtol=1e-6, err_msg=name)


def test_devices_that_share_examples_are_as_one():
    """Two devices that see every other example, and one that sees all."""
    shards = 2
    arrays = stream(1)
    arrays[3][:] = True
    metric = rm.decayed(PLAIN, half_life=HALF_LIFE, shards=shards)
    states = []
    for device in range(shards):
        own = [x[:, device::shards] for x in arrays]
        states.append(functools.reduce(metric.update, batches(own, (40, 40)), metric.init()))
    merged = metric.compute(metric.merge(*states))
    together = values_of(METRIC, batches(arrays, (160,)))
    # Of two examples beside each other, each is as old as the other.
    for name, value in together.items():
        np.testing.assert_allclose(merged[name], value, rtol=0.02, err_msg=name)
    p, y, w, _ = arrays
    age = (80 - 1 - np.arange(160) // 2) * 2
    exact = values_of(PLAIN, [rm.make_batch(p, y, w * 0.5 ** (age / HALF_LIFE))])
    for name, value in exact.items():
        decayed = merged[name.replace("lifetime_", "decayed_")]
        np.testing.assert_allclose(decayed, value, rtol=1e-6, err_msg=name)


def test_the_laws_hold_but_those_of_order():
    each = batches(stream(2), (40,) * 4)
    skipped = ("homomorphism", "permutation", "weights")
    rm.testing.check_laws(METRIC, each, skip=skipped)


def test_long_streams_neither_grow_nor_vanish():
    metric = rm.decayed(rm.ctr(), half_life=1000)
    step = jax.jit(lambda state, _: (metric.update(state, batch), None))
    batch = rm.make_batch(np.ones(500), np.arange(500) % 4 == 0)
    weights = 0.5 ** (np.arange(500) / 1000)[::-1]
    state, _ = jax.lax.scan(step, metric.init(), length=2000)
    wanted = [np.average(np.arange(500) % 4 == 0, weights=weights)]
    np.testing.assert_allclose(metric.compute(state)["decayed_ctr"], wanted, rtol=1e-6)
    batch = rm.make_batch(np.ones(500), np.zeros(500))
    state, _ = jax.lax.scan(lambda state, _: (metric.update(state, batch), None), state, length=400)
    assert metric.compute(state)["decayed_ctr"][0] < 1e-30


@pytest.mark.parametrize("after", [1000, 10_080, 12_000, 12_960, 20_000])
def test_what_has_faded_is_undefined_and_nothing_fades_alone(after):
    metric = rm.decayed(rm.recall(), half_life=100)
    state = metric.update(metric.init(), rm.make_batch([1, 0, 0, 0], [1, 1, 1, 1]))
    state = metric.update(state, rm.make_batch(np.zeros(after), np.zeros(after)))
    (value,) = metric.compute(state)["decayed_recall"].tolist()
    has_faded = after >= 10_200
    wanted = 0.5 ** (3 / 100) / sum(0.5 ** (age / 100) for age in range(4))
    assert math.isnan(value) if has_faded else abs(value - wanted) < 1e-6


def test_an_example_out_of_the_domain_is_found_however_old_it_is():
    metric = rm.by_segment(rm.decayed(rm.ctr(), half_life=1), key="country", segments=2)
    labels, country = np.zeros(3000), np.zeros(3000, int)
    labels[0], country[0] = -1, 1
    batch = rm.make_batch(labels, labels, keys={"country": country})
    values = metric.compute(metric.update(metric.init(), batch))
    assert np.isnan(values["decayed_ctr"][0, 1])
    assert values["decayed_ctr"][0, 0] == 0


def test_counts_of_segments_do_not_fade():
    metric = rm.by_segment(rm.ctr(), key="user", segments=64, hashed=True)
    metric = rm.decayed(metric, half_life=7)
    users = np.arange(16) * 1000
    slots = rm.segments_of(users, segments=64)
    state = metric.init()
    for _ in range(30):
        state = metric.update(state, rm.make_batch(users, users % 2, keys={"user": users}))
    values = metric.compute(state)
    wanted = np.bincount(slots, minlength=64) > 1
    np.testing.assert_array_equal(values["lifetime_user_is_shared"], [wanted])
    assert set(values) == {
        *("decayed_ctr", "decayed_user_weight"),
        *("lifetime_user_is_shared", "lifetime_user_out_of_range_examples"),
    }


@pytest.mark.parametrize("nest", ["inside", "outside"])
def test_decay_is_of_all_examples_whatever_their_segment(nest):
    arrays = stream(3, 60)
    segmented = functools.partial(rm.by_segment, key="country", segments=2)
    decayed = functools.partial(rm.decayed, half_life=HALF_LIFE)
    metric = segmented(decayed(rm.ctr(n_tasks=2)))
    if nest == "outside":
        metric = decayed(segmented(rm.ctr(n_tasks=2)))
    country = np.arange(60) % 2
    _, y, _, mask = arrays
    batch = rm.make_batch(*arrays[:3], mask=mask, keys={"country": country})
    values = values_of(metric, [batch])
    weights = faded(arrays)
    for g in range(2):
        of = weights * (country == g)
        wanted = (of * y).sum(axis=1) / of.sum(axis=1)
        np.testing.assert_allclose(values["decayed_ctr"][:, g], wanted, rtol=1e-6)
        np.testing.assert_allclose(
            values["decayed_country_weight"][:, g], of.sum(axis=1), rtol=1e-6
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rm.decayed(rm.ctr(), half_life=0), "half_life: expected"),
        (lambda: rm.decayed(rm.ctr(window=9), half_life=9), "metric: expected one of sums without"),
        (lambda: rm.decayed(rm.auc(window=9), half_life=9), "metric: expected one of sums without"),
        (lambda: rm.decayed(METRIC, half_life=9), "without a half-life of its own"),
        (lambda: rm.decayed(rm.ctr(), half_life=9, shards=0), "shards: expected"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
