"""Where this package deliberately does not give what the reference gives: both, side by side.

Everything else agrees, as test_streams.py and test_order.py show.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import Reference

import recmetrics_jax as rm

NAN = np.nan
INF = np.inf

Update = tuple[Any, Any, Any]  # predictions, labels, weights
Options = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Difference:
    """A stream of one task, and its value there and here, or the exception instead."""

    name: str
    metric: str
    updates: list[Update]
    theirs: Any
    ours: Any
    value: str = ""  # "lifetime_<metric>" if empty
    window: int = 100
    options: Options = dataclasses.field(default_factory=dict)
    their_options: Options = dataclasses.field(default_factory=dict)
    dtype: str = "float64"  # of what goes in, on both sides


def one_batch(predictions: Any, labels: Any, weights: Any = None) -> list[Update]:
    return [(predictions, labels, weights)]


def singles(*examples: tuple[float, float]) -> list[Update]:
    """An update for each ``(prediction, label)``."""
    return [([p], [y], [1.0]) for p, y in examples]


def large_then_small(first: float) -> list[Update]:
    """Three errors, the first of which has left a window of two."""
    return singles((first, 0.0), (0.1, 0.0), (0.1, 0.0))


WEIGHTLESS = one_batch([0.3, 0.8], [0.0, 1.0], [0.0, 0.0])
NAN_PREDICTION = one_batch([0.3, 0.8, 0.9, NAN], [0.0, 1.0, 1.0, 0.0])
VALIDATED: Options = {"their_options": {"should_validate_update": True}}
AT_0_7: Options = {"options": {"threshold": 0.7}, "their_options": {"threshold": 0.7}}
THREE_CLASSES: Options = {"options": {"n_classes": 3}, "their_options": {"number_of_classes": 3}}
LOGLOSS: Options = {
    "value": "lifetime_logloss",
    "options": {"logloss": True},
    "their_options": {"include_logloss": True},
}

# Undefined values: NaN, never a number that looks like a result.
UNDEFINED = [
    Difference("calibration_without_weight", "calibration", WEIGHTLESS, 0.0, NAN),
    Difference("ctr_without_weight", "ctr", WEIGHTLESS, 0.0, NAN),
    Difference("mse_without_weight", "mse", WEIGHTLESS, 0.0, NAN),
    Difference("rmse_without_weight", "mse", WEIGHTLESS, 0.0, NAN, "lifetime_rmse"),
    Difference("mae_without_weight", "mae", WEIGHTLESS, 0.0, NAN),
    Difference("accuracy_without_weight", "accuracy", WEIGHTLESS, 0.0, NAN),
    Difference("precision_without_weight", "precision", WEIGHTLESS, 0.0, NAN),
    Difference("recall_without_weight", "recall", WEIGHTLESS, 0.0, NAN),
    Difference("logloss_without_weight", "ne", WEIGHTLESS, 0.0, NAN, **LOGLOSS),
    Difference("ne_without_weight_validated", "ne", WEIGHTLESS, 0.0, NAN, **VALIDATED),
    Difference(
        "window_ctr_of_a_batch_without_weight_validated",
        "ctr",
        [*one_batch([0.5], [1.0], [1.0]), *one_batch([0.5], [0.0], [0.0])],
        1.0,  # the batch is skipped
        NAN,  # the batch is all that the window holds
        value="window_ctr",
        window=1,
        **VALIDATED,
    ),
    Difference("ne_of_positives", "ne", one_batch([0.9, 0.7], [1.0, 1.0]), 2.310228404e11, NAN),
    Difference("ne_of_negatives", "ne", one_batch([0.9, 0.7], [0.0, 0.0]), 1.753317735e12, NAN),
    Difference(
        "ne_of_labels_minus_one_and_one",
        "ne",
        one_batch([0.2, 0.4, 0.9], [-1.0, -1.0, 1.0]),
        0.0344695831,
        NAN,
    ),
    Difference("calibration_without_positives", "calibration", one_batch([0.3], [0.0]), 0.0, NAN),
    Difference("calibration_of_a_negative", "calibration", one_batch([0.5], [-1.0]), 0.0, NAN),
    Difference("accuracy_of_a_soft_label", "accuracy", one_batch([0.9], [0.25]), 0.0, 0.25),
    Difference("precision_of_no_predictions", "precision", one_batch([0.3], [1.0]), 0.0, NAN),
    Difference("recall_of_no_positives", "recall", one_batch([0.3], [0.0]), 0.0, NAN),
]

# A bad example is reported: the value is NaN, and in a window until the example has left.
NONFINITE = [
    Difference("accuracy_with_a_nan_prediction", "accuracy", NAN_PREDICTION, 1.0, NAN),
    Difference("precision_with_a_nan_prediction", "precision", NAN_PREDICTION, 1.0, NAN),
    Difference("recall_with_a_nan_prediction", "recall", NAN_PREDICTION, 1.0, NAN),
    Difference("ctr_with_a_nan_prediction", "ctr", NAN_PREDICTION, 0.5, NAN),
    Difference("weighted_avg_with_a_nan_label", "weighted_avg", one_batch([0.5], [NAN]), 0.5, NAN),
    Difference("nan_left_window", "mse", large_then_small(NAN), NAN, 0.01, "window_mse", 2),
    Difference("infinity_left_window", "mse", large_then_small(INF), NAN, 0.01, "window_mse", 2),
]

# Windows are summed anew, not subtracted from, and not cut off at 1,000 updates.
WINDOWS = [
    Difference("large_value_left_window", "mse", large_then_small(1e8), 0.0, 0.01, "window_mse", 2),
    Difference(
        "window_of_1500_updates",
        "ctr",
        singles(*[(0.5, 1.0)] * 500, *[(0.5, 0.0)] * 1000),
        0.0,
        1 / 3,
        value="window_ctr",
        window=10_000,
    ),
]

# A prediction equal to the threshold is positive, once; in the dtype of the prediction.
THRESHOLDS = [
    Difference("recall_at_the_threshold", "recall", one_batch([0.5], [1.0]), 0.5, 1.0),
    Difference(
        "float32_at_the_threshold",
        "precision",
        one_batch([0.7, 0.8], [0.0, 1.0]),
        1.0,
        0.5,
        dtype="float32",
        **AT_0_7,
    ),
]

# Tied classes count by expectation, not by where sorting puts them; hits are not float32.
MULTICLASS = [
    Difference(
        "first_of_two_tied_classes",
        "multiclass_recall",
        one_batch([[0.4, 0.4, 0.2]], [0.0], [1.0]),
        [1.0, 1.0, 1.0],
        [0.5, 1.0, 1.0],
        **THREE_CLASSES,
    ),
    Difference(
        "second_of_two_tied_classes",
        "multiclass_recall",
        one_batch([[0.4, 0.4, 0.2]], [1.0], [1.0]),
        [0.0, 1.0, 1.0],
        [0.5, 1.0, 1.0],
        **THREE_CLASSES,
    ),
    Difference(
        "multiclass_weight_that_float32_rounds",
        "multiclass_recall",
        one_batch([[0.7, 0.2, 0.1]], [0.0], [0.1]),
        [1.0000000149] * 3,
        [1.0] * 3,
        **THREE_CLASSES,
    ),
    Difference(
        "multiclass_without_weights",
        "multiclass_recall",
        one_batch([[0.7, 0.2, 0.1]] * 2, [0.0, 1.0]),
        RuntimeError,
        [0.5, 1.0, 1.0],
        **THREE_CLASSES,
    ),
]

INPUTS = [
    # Both logarithms are clamped at 1e-12; 1 - (1 - 1e-12) is 1.00009e-12.
    Difference(
        "certain_and_wrong",
        "ne",
        one_batch([1.0], [0.0]),
        39.863169054,
        39.863137139,
        **LOGLOSS,
    ),
    # Sums of a batch are not taken in the dtype of the input.
    Difference(
        "bfloat16_weights",
        "ctr",
        one_batch([0.5] * 257, [0.0] + [1.0] * 256, [1.0] * 257),
        1.0,
        256 / 257,
        dtype="bfloat16",
    ),
    # Shapes that do not fit are an error, not broadcast.
    Difference(
        "one_weight_for_four", "ctr", one_batch([0.5] * 4, [1.0] * 4, [1.0]), 4.0, ValueError
    ),
]

DIFFERENCES = [*UNDEFINED, *NONFINITE, *WINDOWS, *THRESHOLDS, *MULTICLASS, *INPUTS]


def of_reference(row: Difference) -> Any:
    reference = Reference(row.metric, 1, window=row.window, dtype=row.dtype, **row.their_options)
    for update in row.updates:
        reference.update(*(None if x is None else [x] for x in update))
    return reference.compute()[row.value or f"lifetime_{row.metric}"][0]


def of_package(row: Difference) -> Any:
    with jax.enable_x64(row.dtype == "float64"):
        metric = getattr(rm, row.metric)(window=row.window, **row.options)
        state, update = metric.init(), jax.jit(metric.update)
        for inputs in row.updates:
            arrays: Any = [x if x is None else jnp.array([x], row.dtype) for x in inputs]
            state = update(state, rm.make_batch(*arrays))
        return np.asarray(metric.compute(state)[row.value or f"lifetime_{row.metric}"][0])


@pytest.mark.parametrize("row", DIFFERENCES, ids=[row.name for row in DIFFERENCES])
def test_difference(row):
    for value_of, expected in ((of_reference, row.theirs), (of_package, row.ours)):
        if isinstance(expected, type):
            with pytest.raises(expected):
                value_of(row)
        else:
            # The numbers above have nine digits or so, and values of float32 inputs seven.
            rtol = 1e-8 if row.dtype == "float64" else 1e-6
            np.testing.assert_allclose(value_of(row), expected, rtol=rtol)
