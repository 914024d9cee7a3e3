"""Relatives of NE and calibration: of positives, free of calibration, recalibrated, and counted."""

import math
from typing import Any

import numpy as np
import pytest
from adapter_cases import (
    FUSED,
    LABELS,
    PREDICTIONS,
    TASKS,
    UNFUSED,
    WEIGHTS,
    N,
    assert_same,
    batch,
    case_of,
    stacked,
    values,
)

from recmetrics_jax.adapter import cali_free_ne, ne_positive
from recmetrics_jax.adapter._tensors import to_numpy
from recmetrics_jax.adapter.metrics_namespace import MetricName

every_mode = pytest.mark.parametrize("mode", [UNFUSED, FUSED], ids=["unfused", "fused"])
COUNTED = ("serving_ne", "serving_calibration")


def of_one_task(
    name: str, predictions: Any, labels: Any, weights: Any = None, **options: Any
) -> Any:
    """The lifetime value of a metric of one task."""
    metric = case_of(name).metric(1, 0, len(predictions), TASKS[:1], **options)
    weights = np.ones(len(labels)) if weights is None else weights
    arrays = {"predictions": predictions, "labels": labels, "weights": weights}
    metric.update(**{key: {"a": np.array(x, np.float64)} for key, x in arrays.items()})
    return next(iter(values(metric).values())).item()


def test_positives_alone_are_in_the_cross_entropy_and_all_in_its_norm():
    expected = 2 / (-2 * math.log2(0.5) - 2 * math.log2(0.5))
    actual = of_one_task("ne_positive", [0.5, 0.5, 0.9, 0.1], [1, 1, 0, 0])
    assert actual == pytest.approx(expected, rel=1e-12)
    ne = of_one_task("ne", PREDICTIONS, LABELS, WEIGHTS)
    of_negatives = of_one_task("ne_positive", 1 - PREDICTIONS, 1 - LABELS, WEIGHTS)
    of_positives = of_one_task("ne_positive", PREDICTIONS, LABELS, WEIGHTS)
    assert of_positives + of_negatives == pytest.approx(ne, rel=1e-12)


def test_no_positives_have_no_cross_entropy():
    assert of_one_task("ne_positive", [0.5, 0.25], [0, 0]) == 0.0


@every_mode
@pytest.mark.parametrize("name", ["ne_positive", "cali_free_ne", "recalibrated_ne"])
def test_tasks_without_weight_are_undefined_unless_allowed(name, mode):
    for allowed, expected in ((False, math.nan), (True, 1e-12)):
        metric = case_of(name).make(compute_mode=mode, allow_missing_label_with_zero_weight=allowed)
        arguments = batch(case_of(name))
        arguments["weights"]["b"] = np.zeros(N)
        metric.update(**arguments)
        computed = values(metric)
        assert len(computed) == 4
        for key, value in computed.items():
            if f"{name}-b" in key:
                np.testing.assert_equal(value.item(), expected)
            else:
                assert value > 0.01


def test_the_mean_prediction_is_what_ne_is_free_of():
    predictions, labels = [0.5, 0.5, 0.75, 0.25], [1, 0, 1, 0]
    ne = of_one_task("ne", predictions, labels)
    for times in (1, 2):  # As in the reference, twice as many examples have half the value.
        value = of_one_task("cali_free_ne", predictions * times, labels * times)
        assert value == pytest.approx(ne / (4 * times), rel=1e-12)


CERTAIN = {
    "and wrong": ([1.0, 1.0], [1, 0], 0.0),
    "never, and wrong": ([0.0, 0.0], [1, 0], 0.0),
    "and right": ([1.0, 1.0], [1, 1], math.nan),
    "never, and right": ([0.0, 0.0], [0, 0], math.nan),
}


@pytest.mark.parametrize("name", CERTAIN)
def test_a_mean_prediction_that_is_certain(name):
    predictions, labels, expected = CERTAIN[name]
    for options in ({}, {"allow_missing_label_with_zero_weight": True}):
        value = of_one_task("cali_free_ne", predictions, labels, **options)
        np.testing.assert_equal(value, expected)


def test_functions_of_sums_without_weight():
    nothing = np.array([0.0, 1.0])
    sums = dict.fromkeys(("weighted_num_samples", "pos_labels", "neg_labels"), nothing)
    of_cali_free = {"ce_sum": nothing, "weighted_sum_predictions": nothing / 2, **sums}
    for allowed, expected in ((False, math.nan), (True, 1e-3)):
        options = {"eta": 1e-3, "allow_missing_label_with_zero_weight": allowed}
        for value in (
            ne_positive.compute_ne_positive(nothing, **sums, **options),
            cali_free_ne.compute_cali_free_ne(**of_cali_free, **options),
        ):
            np.testing.assert_equal(value[0], expected)
            assert value[1] > 1e-3


@pytest.mark.parametrize("coefficient", [0.1, 1, 3.0])
@pytest.mark.parametrize("name", ["ne", "calibration"])
def test_recalibrated_odds_are_those_predicted_times_the_coefficient(name, coefficient):
    odds = coefficient * PREDICTIONS / (1 - PREDICTIONS)
    options = {"include_logloss": True} if name == "ne" else {}
    metric = case_of(name).make(TASKS[:1], **options)
    recalibrated = case_of(f"recalibrated_{name}").make(
        TASKS[:1], recalibration_coefficient=coefficient, **options
    )
    for each, predictions in ((metric, odds / (1 + odds)), (recalibrated, PREDICTIONS)):
        arrays = {"predictions": predictions, "labels": LABELS, "weights": WEIGHTS}
        each.update(**{key: {"a": x} for key, x in arrays.items()})
    expected = {f"recalibrated_{key}": x for key, x in values(metric).items()}
    assert_same(values(recalibrated), expected, 1e-12)
    states = metric.state_dict()
    assert_same(recalibrated.state_dict(), states, 1e-12)


def test_no_odds_are_those_of_no_coefficient():
    for predictions, expected in (([0.5, 0.25], 0.0), ([0.5, 1.0], math.nan)):
        value = of_one_task(
            "recalibrated_calibration", predictions, [1, 1], recalibration_coefficient=0.0
        )
        np.testing.assert_equal(value, expected)


@every_mode
@pytest.mark.parametrize("name", COUNTED)
def test_totals_are_whole_numbers_of_examples_with_a_weight(name, mode):
    metric = case_of(name).make(compute_mode=mode, window_size=N)
    weights = np.array([0.0, 1.0, -1.0, math.nan, 0.0, 2.0, 1e-30, 3.0])
    for seed in (0, 1):
        arguments = batch(case_of(name), seed)
        arguments["weights"]["b"] = weights
        metric.update(**arguments)
    for method, scope in (("compute", ""), ("local_compute", "local_")):
        computed = values(metric, method)
        for task, expected in (("a", 2 * N), ("b", 12)):
            total = computed[f"{name}-{task}|{scope}total_examples"]
            assert (total.dtype, total.item()) == (np.int64, expected)
            assert total.shape == (() if mode == FUSED else (1,))
    names = list(dict.fromkeys(key.split("|")[1] for key in values(metric)))
    assert names == list(case_of(name).values)
    for computation in metric._metrics_computations:
        assert to_numpy(computation.num_examples).dtype == np.int64
        assert not hasattr(computation, "window_num_examples")
        assert list(computation.state_dict())[-1] == "num_examples"


@pytest.mark.parametrize("name", COUNTED)
def test_totals_are_restored_reset_and_begin_with_none(name):
    metric, other = case_of(name).make(), case_of(name).make()
    key = f"{name}-a|total_examples"
    assert values(metric)[key].tolist() == [0]
    metric.update(**batch(case_of(name)))
    state = metric.state_dict()
    other.load_state_dict({k: to_numpy(x).astype(np.float64) for k, x in state.items()})
    other.update(**batch(case_of(name), 1))
    assert (values(other)[key].dtype, values(other)[key].tolist()) == (np.int64, [2 * N])
    assert to_numpy(state["_metrics_computations.0.num_examples"]).tolist() == [N]
    other.reset()
    assert values(other)[key].tolist() == [0]


def test_totals_beyond_what_float32_counts():
    metric = case_of("serving_ne").make(TASKS[:1])
    (computation,) = metric._metrics_computations
    computation.num_examples[...] = 2**40 + 1
    metric.update(**batch(case_of("serving_ne"), tasks=("a",)))
    assert values(metric)["serving_ne-a|total_examples"].tolist() == [2**40 + 1 + N]


def test_updates_of_computations_count_too():
    (computation,) = case_of("serving_calibration").make(compute_mode=FUSED)._metrics_computations
    computation.update(**stacked(batch(case_of("serving_calibration"))))
    reports = computation.compute()
    assert [(r.name, str(r.metric_prefix)) for r in reports] == [
        (MetricName.CALIBRATION, "lifetime_"),
        (MetricName.CALIBRATION, "window_"),
        (MetricName.TOTAL_EXAMPLES, ""),
    ]
    assert to_numpy(reports[-1].value).tolist() == [N, N]
