"""All metric classes of the adapter, with batches for them and values of one batch."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from recmetrics_jax.adapter import (
    accuracy,
    auc,
    auprc,
    average,
    cali_free_ne,
    calibration,
    calibration_with_recalibration,
    ctr,
    gauc,
    hindsight_target_pr,
    mae,
    mse,
    multi_label_precision,
    multiclass_recall,
    ndcg,
    ne,
    ne_positive,
    ne_with_recalibration,
    nmse,
    num_missing_labels,
    num_positive_samples,
    output,
    precision,
    precision_session,
    rauc,
    recall,
    recall_session,
    scalar,
    segmented_ne,
    serving_calibration,
    serving_ne,
    session_pairwise_auc,
    sum_weights,
    tower_qps,
    unweighted_ne,
    weighted_avg,
    weighted_sum_predictions,
    xauc,
)
from recmetrics_jax.adapter._tensors import to_numpy, torch
from recmetrics_jax.adapter.metrics_config import RecComputeMode, RecTaskInfo, SessionMetricDef
from recmetrics_jax.adapter.rec_metric import RecMetric

KINDS = ["numpy", "jax"] if torch is None else ["numpy", "jax", "torch"]
UNFUSED = RecComputeMode.UNFUSED_TASKS_COMPUTATION
FUSED = RecComputeMode.FUSED_TASKS_COMPUTATION
FUSED_STATES = RecComputeMode.FUSED_TASKS_AND_STATES_COMPUTATION
SESSIONS = SessionMetricDef("session_id", top_threshold=3)
TASKS = [RecTaskInfo(name=name, session_metric_def=SESSIONS) for name in "ab"]
N = 8
CLASSES = 3

# Eight examples, in two groups; no prediction is the threshold, and none are equal.
PREDICTIONS = np.array([0.125, 0.75, 0.625, 0.875, 0.25, 0.4375, 0.9375, 0.0625])
LABELS = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0])
WEIGHTS = np.array([1.0, 2.0, 1.0, 0.5, 1.0, 2.0, 1.0, 0.25])
KEYS = np.array([0, 0, 0, 1, 1, 1, 1, 0])


@dataclasses.dataclass(frozen=True)
class Case:
    """A metric class, or one with options that change what it takes or gives."""

    name: str
    metric: type[RecMetric]
    values: Mapping[str, Any]
    """What it gives for the eight examples above, as the reference does, by name."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    key: str = ""
    """The further input that it needs."""
    has_lengths: bool = False
    """Whether it needs the lengths of groups."""

    @property
    def namespace(self) -> str:
        return str(self.metric._namespace)

    @property
    def keeps_samples(self) -> bool:
        return self.namespace in ("auc", "auprc", "rauc")

    @property
    def has_classes(self) -> bool:
        return self.namespace == "multiclass_recall"

    def make(self, tasks: list[RecTaskInfo] = TASKS, **arguments: Any) -> Any:
        """The metric, fresh."""
        defaults: dict[str, Any] = {"world_size": 1, "my_rank": 0, "batch_size": N}
        return self.metric(**(defaults | dict(self.options) | arguments), tasks=tasks)

    def expected_dtype(self, name: str) -> type:
        """float32 of examples that are kept, as they are; else float64."""
        is_float32 = self.keeps_samples and name.startswith("window_")
        return np.float32 if is_float32 else np.float64


def both(name: str, value: Any) -> dict[str, Any]:
    """The same value of lifetime and window."""
    return {f"lifetime_{name}": value, f"window_{name}": value}


NE_VALUE = both("ne", 0.7216383545419823)
MSE_VALUES = {
    "lifetime_mse": 0.17020089285714285,
    "lifetime_rmse": 0.4125541090052829,
    "window_mse": 0.17020089285714285,
    "window_rmse": 0.4125541090052829,
}
AUPRC_VALUES = {"window_auprc": 0.9111111, "lifetime_auprc": 0.9111111111111112}

CASES = [
    Case("ne", ne.NEMetric, NE_VALUE),
    Case("calibration", calibration.CalibrationMetric, both("calibration", 1.0590277777777777)),
    Case("ctr", ctr.CTRMetric, both("ctr", 18 / 35)),
    Case("mse", mse.MSEMetric, MSE_VALUES),
    Case("mae", mae.MAEMetric, both("mae", 0.34464285714285714)),
    Case("accuracy", accuracy.AccuracyMetric, both("accuracy", 27 / 35)),
    Case("precision", precision.PrecisionMetric, both("precision", 7 / 9)),
    Case("recall", recall.RecallMetric, both("recall", 7 / 9)),
    Case("weighted_avg", weighted_avg.WeightedAvgMetric, both("weighted_avg", 0.5446428571428571)),
    Case(
        "multiclass_recall",
        multiclass_recall.MulticlassRecallMetric,
        both("multiclass_recall", [8 / 35, 16 / 35, 1.0]),
        {"number_of_classes": CLASSES},
    ),
    Case("auc", auc.AUCMetric, {"window_auc": 0.84313726}),
    Case("auprc", auprc.AUPRCMetric, AUPRC_VALUES),
    Case("rauc", rauc.RAUCMetric, {"window_rauc": 0.92857143}),
    Case("xauc", xauc.XAUCMetric, both("xauc", 0.5019455252918288)),
    Case("ndcg", ndcg.NDCGMetric, both("ndcg", 0.03253201651083071), key="session_id"),
    Case(
        "unweighted_ne",
        unweighted_ne.UnweightedNEMetric,
        both("unweighted_ne", 0.6539573702228912),
    ),
    Case(
        "gauc",
        gauc.GAUCMetric,
        both("gauc", 0.7777777774838271) | both("gauc_num_samples", 2.0),
        has_lengths=True,
    ),
]

# What options change, beyond values.
VARIANTS = [
    Case(
        "ne with logloss",
        ne.NEMetric,
        NE_VALUE | both("logloss", 0.7212133562691259),
        {"include_logloss": True},
    ),
    Case(
        "mse with r_squared",
        mse.MSEMetric,
        MSE_VALUES | both("r_squared", 0.3186402165032679),
        {"include_r_squared": True},
    ),
    Case(
        "grouped auc",
        auc.AUCMetric,
        {"window_auc": 0.84313726, "window_grouped_auc": 0.8},
        {"grouped_auc": True},
        "grouping_keys",
    ),
    Case(
        "grouped auprc",
        auprc.AUPRCMetric,
        AUPRC_VALUES | {"window_grouped_auprc": 0.9111111},
        {"grouped_auprc": True},
        "grouping_keys",
    ),
    Case(
        "grouped rauc",
        rauc.RAUCMetric,
        {"window_rauc": 0.92857143, "window_grouped_rauc": 0.91666663},
        {"grouped_rauc": True},
        "grouping_keys",
    ),
]

# Over the same machinery: what all metrics have in common is not tested with these too.
DERIVED = [
    Case("ne_positive", ne_positive.NEPositiveMetric, both("ne_positive", 0.3452898610225485)),
    Case("cali_free_ne", cali_free_ne.CaliFreeNEMetric, both("cali_free_ne", 0.08230148698767877)),
    Case("recalibrated_ne", ne_with_recalibration.RecalibratedNEMetric, NE_VALUE),
    Case(
        "recalibrated_calibration",
        calibration_with_recalibration.RecalibratedCalibrationMetric,
        both("calibration", 1.0590277777777777),
    ),
    Case("serving_ne", serving_ne.ServingNEMetric, {**NE_VALUE, "total_examples": N}),
    Case(
        "serving_calibration",
        serving_calibration.ServingCalibrationMetric,
        {**both("calibration", 1.0590277777777777), "total_examples": N},
    ),
    Case(
        "segmented_ne",
        segmented_ne.SegmentedNEMetric,
        {
            **both("segmented_ne_0", 0.5805168747901917),
            **both("segmented_ne_1", 0.8631654977798462),
        },
        {"num_groups": 2},
        "grouping_keys",
    ),
    Case(
        "nmse",
        nmse.NMSEMetric,
        both("nmse", 0.35041360294117645) | both("nrmse", 0.5919574333861992),
    ),
    Case(
        "average",
        average.AverageMetric,
        both("label_average", 18 / 35) | both("prediction_average", 0.5446428571428571),
    ),
    Case(
        "num_missing_labels",
        num_missing_labels.NumMissingLabelsMetric,
        both("num_missing_labels", 0.0),
    ),
    Case(
        "num_positive_samples",
        num_positive_samples.NumPositiveSamplesMetric,
        both("num_positive_samples", 4.5),
    ),
    Case("sum_weights", sum_weights.SumWeightsMetric, both("sum_weights", 8.75)),
    Case(
        "weighted_sum_predictions",
        weighted_sum_predictions.WeightedSumPredictionsMetric,
        both("weighted_sum_predictions", 4.765625),
    ),
    Case(
        "multi_label_precision",
        multi_label_precision.MultiLabelPrecisionMetric,
        both("multi_label_precisionlabel_0", 0.0),
    ),
    Case(
        "hindsight_target_pr",
        hindsight_target_pr.HindsightTargetPRMetric,
        both("hindsight_target_pr", 438.0)
        | both("hindsight_target_precision", 7 / 9)
        | both("hindsight_target_recall", 7 / 9),
        {"target_precision": 0.75},
    ),
    Case("scalar", scalar.ScalarMetric, both("scalar", 0.5)),
    Case(
        "output",
        output.OutputMetric,
        {"output_latest_imp": 0.5, "output_total_latest_imp": 0.5},
    ),
    Case(
        "recall_session_level",
        recall_session.RecallSessionMetric,
        both("recall_session_level", 7 / 9),
        key="session_id",
    ),
    Case(
        "precision_session_level",
        precision_session.PrecisionSessionMetric,
        both("precision_session_level", 7 / 15),
        key="session_id",
    ),
    Case("tower_qps", tower_qps.TowerQPSMetric, {**both("qps", 0.0), "total_examples": N}),
    Case(
        "session_pairwise_auc",
        session_pairwise_auc.SessionPairwiseAUCMetric,
        both("session_pairwise_auc", 55 / 67),
        key="session_id",
    ),
]

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_variant = pytest.mark.parametrize("case", CASES + VARIANTS, ids=lambda case: case.name)
every_kind = pytest.mark.parametrize("kind", KINDS)
needs_torch = pytest.mark.skipif(torch is None, reason="torch is not installed")


def case_of(name: str) -> Case:
    return next(case for case in CASES + VARIANTS + DERIVED if case.name == name)


def scores(case: Case, predictions: np.ndarray) -> np.ndarray:
    """Predictions as the metric takes them: of classes, ``[N, C]``."""
    if not case.has_classes:
        return predictions
    return np.stack([predictions, 1 - predictions, np.full(predictions.shape, 0.3)], axis=-1)


def batch(
    case: Case,
    seed: int = 0,
    n: int = N,
    convert: Callable[[np.ndarray], Any] = np.array,
    tasks: tuple[str, ...] = ("a", "b"),
) -> dict[str, Any]:
    """Arguments of ``update``: the eight examples with 0, others with other seeds."""
    rng = np.random.default_rng([seed, n])
    arguments: dict[str, Any] = {"predictions": {}, "labels": {}, "weights": {}}
    for task in tasks:
        order = np.arange(N) if seed == 0 and task == "a" else rng.permutation(N)
        order = order[np.arange(n) % N]
        predictions = PREDICTIONS[order] + np.arange(n) // N / 1024
        labels = LABELS[np.roll(order, seed)]
        arguments["predictions"][task] = convert(scores(case, predictions))
        arguments["labels"][task] = convert(labels)
        arguments["weights"][task] = convert(WEIGHTS[np.roll(order, 2 * seed)])
    if case.key:
        arguments["required_inputs"] = {case.key: KEYS[np.arange(n) % N]}
    if case.has_lengths:
        arguments["num_candidates"] = np.array([n // 2, n - n // 2])
    return arguments


def stacked(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``update`` with one array of all tasks in place of each dictionary."""
    names = ("predictions", "labels", "weights")
    arrays = {name: np.stack([to_numpy(x) for x in arguments[name].values()]) for name in names}
    return {**arguments, **arrays}


def values(metric: Any, method: str = "compute") -> dict[str, np.ndarray]:
    """The values of a metric, as NumPy arrays."""
    return {key: np.array(to_numpy(x)) for key, x in getattr(metric, method)().items()}


def assert_same(actual: Mapping[str, Any], expected: Mapping[str, Any], rtol: float = 0.0) -> None:
    """The same arrays by the same names, dtypes and shapes included."""
    assert list(actual) == list(expected)
    for key, value in expected.items():
        ours, theirs = to_numpy(actual[key]), to_numpy(value)
        assert ours.dtype == theirs.dtype, key
        assert ours.shape == theirs.shape, key
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=0, err_msg=key)


def held(metric: Any) -> dict[str, Any]:
    """Copies of all that a metric has taken in: states, windows, and batches that wait."""
    everything: dict[str, Any] = {"pending": len(metric._pending)}
    for i, computation in enumerate(metric._metrics_computations):
        for name in computation._defaults:
            state = getattr(computation, name)
            parts = state if isinstance(state, list) else [state]
            everything[f"{i}.{name}"] = [np.array(to_numpy(x)) for x in parts]
        for name, buffer in computation._batch_window_buffers.items():
            everything[f"{i}.{name}.buffer"] = [np.array(to_numpy(x)) for x in buffer.buffers]
    return everything


@contextlib.contextmanager
def unchanged(*metrics: Any) -> Any:
    """A scope in which metrics take nothing in."""
    before = [held(metric) for metric in metrics]
    yield
    for metric, expected in zip(metrics, before, strict=True):
        actual = held(metric)
        assert list(actual) == list(expected)
        for name, parts in expected.items():
            np.testing.assert_equal(actual[name], parts, err_msg=name)
