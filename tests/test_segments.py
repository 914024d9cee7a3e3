"""Any metric by segment is the metric over the examples of each segment alone."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from cases import ALIKE, ALL, ORDER, heavy_where, metric_of
from drawing import arrays, keys_of

import recmetrics_jax as rm

pytestmark = pytest.mark.once

SEGMENTS = 3
COUNTRY = np.array([0, 2, 1, 2, 5, 0, -1, 2])
"""Of rows, over and over: three segments, and of none of them."""


def batch_of(case, p, y, w, mask):
    size = p.shape[1]
    keys = {**keys_of(case, size), "country": np.resize(COUNTRY, size)}
    return rm.make_batch(p, y, w, mask=mask, keys=keys)


def masked(batch, mask):
    arrays = batch.predictions, batch.labels, batch.weights
    keys = {name: rm.Keys(np.asarray(words)) for name, words in batch.keys.items()}
    return rm.make_batch(*arrays, mask=mask, keys=keys)


def stream(case, seed=0, count=3):
    rng = np.random.default_rng(seed)
    return [arrays(rng, case, 2, 48) for _ in range(count)]


def values_of(metric, batches):
    state = metric.init()
    for batch in batches:
        state = metric.update(state, batch)
    return metric.compute(state)


@pytest.mark.parametrize("case", heavy_where(ALL, ORDER, ALIKE), ids=str)
def test_values_are_those_of_the_examples_of_a_segment(case):
    metric = metric_of(case, window=1000)
    segmented = rm.by_segment(metric, key="country", segments=SEGMENTS)
    batches = [batch_of(case, *x) for x in stream(case)]
    values = values_of(segmented, batches)
    for segment in range(SEGMENTS):
        of_segment = [masked(x, x.mask & is_of(x, segment)) for x in batches]
        for name, value in values_of(metric, of_segment).items():
            np.testing.assert_allclose(
                values[name][:, segment], value, rtol=1e-6, atol=1e-7, err_msg=name
            )
            assert values[name].shape == (2, SEGMENTS, *value.shape[1:])


def is_of(batch, segment):
    upper, lower = batch.key("country")
    return (upper == 0) & (lower == segment)


def test_weights_and_what_is_of_no_segment_are_told():
    metric = rm.by_segment(rm.ctr(window=4), key="country", segments=3)
    keys = {"country": np.array([0, 3, -1, 2**32, 2**32 + 1, 2, 2, 1])}
    weights = [1, 1, 1, 1, 1, 0.5, 2, 9]
    mask = [True] * 7 + [False]
    batch = rm.make_batch([0.5] * 8, [1] * 8, weights, mask=mask, keys=keys)
    values = metric.compute(metric.update(metric.init(), batch))
    np.testing.assert_array_equal(values["lifetime_country_weight"], [[1, 0, 2.5]])
    np.testing.assert_array_equal(values["lifetime_country_out_of_range_examples"], [4])
    # Of the last four.
    np.testing.assert_array_equal(values["window_country_weight"], [[0, 0, 2.5]])
    np.testing.assert_array_equal(values["window_country_out_of_range_examples"], [2])
    np.testing.assert_array_equal(values["lifetime_ctr"], [[1, np.nan, 1]])


def of_four(**arrays_):
    """Two examples of each of four segments, of which one of segment 1 may be bad."""
    examples = {"p": np.full(8, 0.5), "y": np.arange(8) // 4 * 1.0, "w": np.ones(8)}
    for name, value in arrays_.items():
        examples[name][5] = value
    keys = {"country": np.arange(8) % 4, "session_id": np.arange(8) % 4}
    return rm.make_batch(*examples.values(), keys=keys)


def largest(batch):
    return {"largest": jnp.max(batch.predictions, axis=1, where=batch.mask, initial=0.0)}


WITH_DOMAINS = rm.by_segment(
    rm.collection(
        {
            "ne": rm.ne(window=1000),
            "auc": rm.auc(window=1000),
            "binned": rm.binned_auc(bins=16, window=1000),
            "any": rm.sample_metric(largest, window=1000, excludes=("labels_above_1",)),
            "session": rm.recall_at(k=1),
            "session_window": rm.recall_at(k=1, scope="window", window=1000),
            "pairs": rm.xauc(),
        }
    ),
    key="country",
    segments=4,
)


@pytest.mark.parametrize("bad", [{"p": np.nan}, {"p": np.inf}, {"y": 3.0}, {"w": -1.0}], ids=str)
def test_a_bad_example_is_of_its_segment_alone(bad):
    values = values_of(WITH_DOMAINS, [of_four(**bad)])
    good = values_of(WITH_DOMAINS, [of_four()])
    for name, value in values.items():
        others = [0, 2, 3]
        if value.ndim > 1:
            np.testing.assert_array_equal(value[:, others], good[name][:, others], err_msg=name)
    is_bad = {name for name, value in values.items() if value.ndim > 1 and np.isnan(value[0, 1])}
    assert {"ne/lifetime_ne", "ne/window_ne", "auc/window_auc"} <= is_bad
    assert {"binned/lifetime_binned_auc", "binned/window_binned_auc"} <= is_bad
    assert ("pairs/lifetime_xauc" in is_bad) == ("y" not in bad)
    assert ("any/window_largest" in is_bad) == ("w" not in bad)
    assert "session/lifetime_recall_at_1" in is_bad
    assert "session_window/window_recall_at_1" in is_bad


@pytest.mark.parametrize("leaves_out", [False, True])
def test_bad_examples_are_counted_where_they_would_be_without_segments(leaves_out):
    counters = {"bad": rm.nonfinite_examples(), "none": rm.missing_labels()}
    metric = rm.by_segment(rm.collection(counters), key="country", segments=4)
    metric = rm.collection({"by": metric, "drawn": rm.bootstrap(counters["bad"], key="user")})
    country, user = [0, 1, 1, 3, 9], [5, 6, 7, 8, 9]
    predictions, labels = [0.5, np.inf, 0.5, 0.5, np.nan], [0, 1, np.nan, np.nan, 0]
    batch = rm.make_batch(
        *(predictions, labels, [1, 1, 1, 0, 1]),
        mask=[True, True, True, False, True],
        mask_nonfinite=leaves_out,
        keys={"country": country, "user": user},
    )
    values = metric.compute(metric.update(metric.init(), batch))
    assert values["by/bad/lifetime_nonfinite_examples"].tolist() == [[0, 2, 0, 0]]
    assert values["by/none/lifetime_missing_labels"].tolist() == [[0, 1, 0, 0]]
    assert values["drawn/lifetime_nonfinite_examples"].tolist() == [3]
    assert values["drawn/lifetime_nonfinite_examples_se"] > 0


COUNTRIES: Any = {"key": "country", "segments": 2}


def batch_of_users(size):
    rows = np.arange(size)
    keys = {"country": rows % 2, "user": rows // 2, "session_id": rows // 3}
    return rm.make_batch(rows / 8, rows % 3 == 0, keys=keys)


def test_a_batch_of_no_examples_changes_nothing():
    parts = {"ne": rm.ne(), "binned": rm.binned_auc(bins=64), "ndcg": rm.ndcg()}
    metric = rm.bootstrap(rm.collection(parts), key="user", replicates=20)
    metric = rm.by_segment(metric, **COUNTRIES)
    state = metric.update(metric.init(), batch_of_users(6))
    before = metric.compute(state)
    for name, value in metric.compute(metric.update(state, batch_of_users(0))).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_what_is_undefined_is_replaced_by_segment():
    metric = rm.by_segment(rm.ctr(undefined=0.5), key="country", segments=4)
    values = values_of(metric, [of_four(y=np.nan)])
    np.testing.assert_array_equal(values["lifetime_ctr"], [[0.5, np.nan, 0.5, 0.5]])
    metric = rm.by_segment(rm.auc(undefined=0.5, window=9), key="country", segments=5)
    values = values_of(metric, [of_four(y=np.nan)])
    np.testing.assert_array_equal(values["window_auc"], [[0.5, np.nan, 0.5, 0.5, 0.5]])


def test_segments_of_segments_are_products():
    inner = rm.by_segment(rm.ctr(), key="device", segments=2)
    metric = rm.by_segment(inner, key="country", segments=3)
    country, device, y = np.arange(24) % 3, np.arange(24) % 2, np.arange(24) // 6 % 2
    batch = rm.make_batch(y, y, keys={"country": country, "device": device})
    values = values_of(metric, [batch])
    wanted = [[y[(country == c) & (device == d)].mean() for d in range(2)] for c in range(3)]
    np.testing.assert_allclose(values["lifetime_ctr"], [wanted])
    np.testing.assert_array_equal(values["lifetime_device_weight"], np.full((1, 3, 2), 4))
    np.testing.assert_array_equal(values["lifetime_country_weight"], np.full((1, 3), 8))


def test_hashed_keys_share_slots_and_that_is_told():
    names = np.array([f"campaign {i}" for i in range(40)])
    slots = rm.segments_of(names, segments=32)
    metric = rm.by_segment(rm.ctr(window=60), key="campaign", segments=32, hashed=True)
    rows = np.arange(120) % 40
    labels = rows % 2
    batch = rm.make_batch(labels, labels, keys={"campaign": rm.keys_of(names[rows])})
    values = values_of(metric, [batch])
    held = [set(np.flatnonzero(slots == slot)) for slot in range(32)]
    np.testing.assert_array_equal(
        values["lifetime_campaign_is_shared"], [[len(x) > 1 for x in held]]
    )
    assert any(len(x) > 1 for x in held)
    assert any(not x for x in held)
    ctr = [np.mean([i % 2 for i in x]) if x else np.nan for x in held]
    np.testing.assert_allclose(values["lifetime_ctr"], np.array([ctr]), rtol=1e-6)
    np.testing.assert_array_equal(values["lifetime_campaign_out_of_range_examples"], [0])
    assert len(np.unique(rm.segments_of(np.arange(100_000), segments=1000))) == 1000


@pytest.mark.heavy
def test_the_laws_hold_by_segment():
    metric = rm.by_segment(
        rm.collection(
            {"ne": rm.ne(n_tasks=2, window=90), "binned": rm.binned_auc(bins=16, n_tasks=2)}
        ),
        key="country",
        segments=3,
    )
    rng = np.random.default_rng(3)
    batches = [
        rm.make_batch(
            rng.random((2, 48)),
            rng.random((2, 48)) < 0.5,
            rng.integers(1, 5, (2, 48)) / 4,
            keys={"country": np.arange(48) % 3},
        )
        for _ in range(3)
    ]
    rm.testing.check_laws(metric, batches)


def test_segments_share_statistics_with_what_is_not_by_segment():
    members = {"plain": rm.ne(), "by_country": rm.by_segment(rm.ne(), key="country", segments=4)}
    alone = {name: values_of(metric, [of_four()]) for name, metric in members.items()}
    together = values_of(rm.collection(members), [of_four()])
    for name, values in alone.items():
        for of_metric, value in values.items():
            np.testing.assert_array_equal(together[f"{name}/{of_metric}"], value)


NO_METRIC: Any = rm.ctr
WORST = rm.by_segment(rm.ne(logloss=True), key="country", segments=4)


def test_worst_segments_of_normalized_entropy_by_excess_cross_entropy():
    rng = np.random.default_rng(0)
    size, country = 4000, np.arange(4000) % 4
    rate = np.array([0.1, 0.3, 0.5, 0.2])[country]
    y = rng.random(size) < rate
    p = np.where(country == 2, 0.9, rate)  # Wrong in one of them.
    batch = rm.make_batch(p, y, keys={"country": country})
    found = rm.worst(values_of(WORST, [batch]), "lifetime_ne", key="country")
    loss = -np.where(y, np.log2(p), np.log2(1 - p))
    entropy = []
    for g in range(4):
        mean = y[country == g].mean()
        entropy.append(-(mean * np.log2(mean) + (1 - mean) * np.log2(1 - mean)) * size / 4)
    total = loss.sum() / sum(entropy)
    assert found[0].segment == 2
    assert math.isclose(sum(x.excess for x in found), 0, abs_tol=1e-2)
    for x in found:
        of_segment = loss[country == x.segment].sum()
        np.testing.assert_allclose(x.share, of_segment / loss.sum(), rtol=1e-5)
        excess = of_segment - total * entropy[x.segment]
        np.testing.assert_allclose(x.excess, excess, rtol=1e-4, atol=1e-2)
        assert x.weight == 1000


def test_weights_of_windows_are_told_where_these_are_of_one_length():
    parts = {"ne": rm.ne(window=50, logloss=True), "binned": rm.binned_auc(window=50, bins=64)}
    same = rm.by_segment(rm.collection({**parts, "auc": rm.auc(window=50)}), **COUNTRIES)
    other = rm.by_segment(rm.collection({**parts, "auc": rm.auc(window=9)}), **COUNTRIES)
    batch = rm.make_batch([0.5, 0.25, 0.75], [1, 0, 1], keys={"country": [0, 0, 1]})
    values = same.compute(same.update(same.init(), batch))
    assert values["window_country_weight"].tolist() == [[2, 1]]
    assert [s.segment for s in rm.worst(values, "ne/window_ne", key="country")] == [0]
    values = other.compute(other.update(other.init(), batch))
    with pytest.raises(ValueError, match="windows of several lengths"):
        rm.worst(values, "auc/window_auc", key="country", best=1.0)
    assert rm.worst(values, "ne/lifetime_ne", key="country")


def test_no_segment_is_worst_where_all_are_perfect():
    metric = rm.by_segment(rm.mse(), key="country", segments=2)
    batch = rm.make_batch([1.0, 2.0], [1, 2], keys={"country": [0, 1]})
    values = metric.compute(metric.update(metric.init(), batch))
    told = rm.worst(values, "lifetime_mse", key="country")
    assert [(s.segment, s.share, s.excess) for s in told] == [(0, 0, 0), (1, 0, 0)]
    with pytest.raises(ValueError, match="task: expected"):
        rm.worst(values, "lifetime_mse", key="country", task=1)


def test_worst_segments_by_how_far_they_are_from_the_best():
    metric = rm.collection(
        {"c": rm.by_segment(rm.collection({"a": rm.accuracy()}), key="country", segments=3)}
    )
    batch = rm.make_batch([1, 1, 1, 1, 0], [1, 1, 1, 0, 1], keys={"country": [0, 0, 1, 1, 2]})
    values = values_of(metric, [batch])
    found = rm.worst(values, "c/a/lifetime_accuracy", key="country", best=1.0, count=2)
    # Of two errors, 2/5 of the weight are expected to have 4/5 of one.
    assert [(x.segment, x.share) for x in found] == [(2, 0.5), (1, 0.5)]
    np.testing.assert_allclose([x.excess for x in found], [1 - 2 / 5, 1 - 4 / 5])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rm.by_segment(rm.ctr(), key="c", segments=0), "segments: expected a whole"),
        (lambda: rm.by_segment(rm.ctr(), key="", segments=2), "key: expected a non-empty"),
        (
            lambda: rm.by_segment(NO_METRIC, key="c", segments=2),
            "metric: expected a metric of this",
        ),
        (lambda: rm.by_segment(rm.ctr()._replace(init=dict), key="c", segments=2), "by hand"),
        (lambda: rm.worst({}, "lifetime_ne", key="c"), "values: expected 'lifetime_ne'"),
        (lambda: rm.segments_of([0.5], segments=2), "ids: expected"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
