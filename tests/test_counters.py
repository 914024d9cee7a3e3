"""Counts, weights, the last value, and examples per second."""

import functools
import math
from typing import Any

import numpy as np
import pytest

import recmetrics_jax as rm


def test_weights_that_are_alike_count_in_full_and_those_of_none_do_not():
    metric = rm.effective_sample_size(n_tasks=3)
    weights = [[2, 2, 2, 2], [0, 1, 0, 0], [3, 1, 0, 0]]
    ones = np.ones((3, 4))
    values = metric.compute(metric.update(metric.init(), rm.make_batch(ones, ones, weights)))
    assert values["lifetime_effective_sample_size"].tolist() == [4, 1, np.float32(1.6)]
    assert values["lifetime_effective_sample_rate"].tolist() == [1, 0.25, np.float32(0.4)]


def test_missing_labels_are_counted_by_task():
    metrics = {
        "bad": rm.nonfinite_examples,
        "none": rm.missing_labels,
        "good": rm.examples,
        "classes": rm.positives,
    }
    metric = rm.collection(metrics, n_tasks=2)
    labels = [[1, math.nan, 0], [math.nan, math.nan, 1]]
    predictions = [[1, 1, math.inf], [1, 1, 1]]
    batch = rm.make_batch(predictions, labels, mask_nonfinite=True)
    values = metric.compute(metric.update(metric.init(), batch))
    assert values["bad/lifetime_nonfinite_examples"].tolist() == [2, 2]
    assert values["none/lifetime_missing_labels"].tolist() == [1, 2]
    assert values["good/lifetime_examples"].tolist() == [1, 1]
    assert values["classes/lifetime_positives"].tolist() == [1, 1]
    assert values["classes/lifetime_negatives"].tolist() == [0, 0]


def test_classes_add_up_to_the_weight_of_all():
    rng = np.random.default_rng(0)
    stars, weights = rng.integers(0, 6, 50), rng.integers(0, 9, 50) / 4
    metric = rm.collection({"all": rm.sum_weights(), "of": rm.positives(label_threshold=4)})
    batch = rm.make_batch(np.ones(50), stars, weights)
    values = metric.compute(metric.update(metric.init(), batch))
    assert values["of/lifetime_positives"] == weights[stars >= 4].sum()
    assert values["of/lifetime_negatives"] == weights[stars < 4].sum()
    assert values["all/lifetime_sum_weights"] == weights.sum()


# The last value.


def scalars(metric, *batches):
    """The values after each of some batches of labels."""
    state, values = metric.init(), []
    for labels in batches:
        state = metric.update(state, rm.make_batch(np.zeros(len(labels)), labels))
        values.append(metric.compute(state)["window_scalar"].item())
    return values, state


def test_a_scalar_is_the_last_label():
    assert scalars(rm.scalar(), [0.5], [0.25, 0.125], [], [4])[0] == [0.5, 0.125, 0.125, 4]
    assert scalars(rm.scalar(window=2), [1], [2, 4], [8])[0] == [1, 3, 6]
    metric = rm.scalar(undefined=7.0)
    assert metric.compute(metric.init())["window_scalar"] == 7
    nothing = rm.make_batch([0.0, 0.0], [1.0, 2.0], [1.0, 0.0])
    assert metric.compute(metric.update(metric.init(), nothing))["window_scalar"] == 7


def test_scalars_of_states_that_share_a_window_are_averaged():
    metric = rm.scalar(window=3, shards=3)
    states = [scalars(metric, [9.0, 8.0], [x])[1] for x in (1.0, 2.0, 6.0)]
    assert metric.compute(states[2])["window_scalar"] == 6
    state = functools.reduce(metric.merge, states)
    assert metric.compute(state)["window_scalar"] == 3


def test_two_last_values_where_one_has_room_are_none():
    metric = rm.scalar()
    state = metric.merge(*(scalars(metric, [x])[1] for x in (1.0, 2.0)))
    assert np.isnan(metric.compute(state)["window_scalar"])
    state = metric.update(state, rm.make_batch([0.0], [4.0]))
    assert metric.compute(state)["window_scalar"] == 4


# Throughput.


def test_examples_per_second_are_those_between_two_readings():
    metric = rm.examples(n_tasks=2)
    state = metric.init()
    before = metric.compute(state)["lifetime_examples"]
    mask = np.array([[True] * 5, [True, False, True, True, False]])
    batch = rm.make_batch(np.ones((2, 5)), np.ones((2, 5)), mask=mask)
    after = metric.compute(metric.update(state, batch))["lifetime_examples"]
    rate = rm.examples_per_second(before, after, 0.5)
    assert rate.dtype == np.float64
    assert rate.tolist() == [10, 6]


@pytest.mark.parametrize(
    ("before", "after", "seconds", "wanted"),
    [
        (2**24, 2**24 + 8, 2, 4),
        ([1, 8], [5, 4], 4, [1, math.nan]),  # The second was begun anew.
        (1, 5, 0, math.nan),
        (math.nan, 5, 1, math.nan),
        ([], [], 1, []),
    ],
)
def test_rates_that_are_none_are_nan(before, after, seconds, wanted):
    np.testing.assert_array_equal(rm.examples_per_second(before, after, seconds), wanted)


def test_misuse_of_the_clock_is_named():
    call: Any = rm.examples_per_second
    for seconds in (-1, math.inf, math.nan, "1"):
        with pytest.raises(
            ValueError, match="seconds: expected a finite number of at least 0, got"
        ):
            call(0, 1, seconds)
    with pytest.raises(ValueError, match=r"after: expected shape \(2,\), as before, got \(\)"):
        call([0, 1], 1, 1.0)
