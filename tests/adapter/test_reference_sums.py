"""Sums that only the reference has: of bits, thresholds, further outputs, the latest batch."""

import concurrent.futures
import copy
import math
import pickle
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
    batch,
    case_of,
    values,
)

from recmetrics_jax.adapter import mse, nmse, output, scalar
from recmetrics_jax.adapter._tensors import to_numpy
from recmetrics_jax.adapter.hindsight_target_pr import (
    HindsightTargetPRMetric,
    HindsightTargetPRMetricComputation,
    compute_threshold_idx,
    get_pr_states,
)
from recmetrics_jax.adapter.metrics_config import RecTaskInfo
from recmetrics_jax.adapter.metrics_namespace import MetricName
from recmetrics_jax.adapter.multi_label_precision import MultiLabelPrecisionMetric
from recmetrics_jax.adapter.noop_metric_module import NoOpMetricModule
from recmetrics_jax.adapter.rec_metric import (
    MetricComputationReport,
    MetricPrefix,
    RecMetricException,
)
from recmetrics_jax.adapter.tensor_weighted_avg import (
    TensorWeightedAvgMetric,
    TensorWeightedAvgMetricComputation,
)

every_mode = pytest.mark.parametrize("mode", [UNFUSED, FUSED], ids=["unfused", "fused"])
NAN = math.nan


def of_tasks(**arrays: Any) -> dict[str, Any]:
    """Arguments of ``update``, of arrays by tasks."""
    names = ("predictions", "labels", "weights")
    given = {name: np.asarray(arrays[name], np.float64) for name in names if name in arrays}
    both = given.get("labels", given.get("predictions"))
    given = {"predictions": both, "labels": both, **given}
    by_task = {name: dict(zip("ab", x, strict=False)) for name, x in given.items()}
    return {"weights": None, **by_task}


def states_of(metric: Any, task: int = 0) -> dict[str, np.ndarray]:
    """All states of a computation."""
    computation = metric._metrics_computations[task]
    return {name: to_numpy(getattr(computation, name)) for name in computation._defaults}


MISSING = np.array([1.0, NAN, 0.5, NAN])
# The metric, and what it adds up of weights, where MISSING are the labels and the predictions.
SUMS = {
    "num_missing_labels": np.isnan(MISSING),
    "num_positive_samples": np.nan_to_num(MISSING),
    "sum_weights": np.ones(4),
    "weighted_sum_predictions": np.nan_to_num(MISSING),
}


@every_mode
@pytest.mark.parametrize("name", SUMS)
def test_sums_where_numbers_are_missing(name, mode):
    metric = case_of(name).metric(1, 0, 4, TASKS, mode, window_size=4)
    first, second = np.array([1.0, 2.0, 4.0, 8.0]), np.array([16.0, 32.0, 64.0, 128.0])
    for weights in (first, second):
        metric.update(**of_tasks(labels=[MISSING] * 2, weights=[weights, weights[::-1]]))
    metric.update(**of_tasks(labels=[MISSING] * 2))
    computed = values(metric)
    for task, order in (("a", 1), ("b", -1)):
        expected = (SUMS[name] * (first + second)[::order]).sum() + SUMS[name].sum()
        assert computed[f"{name}-{task}|lifetime_{name}"] == expected
        assert computed[f"{name}-{task}|window_{name}"] == SUMS[name].sum()
    assert len(computed) == 4


@pytest.mark.parametrize("name", ["num_positive_samples", "weighted_sum_predictions"])
def test_infinite_numbers_have_infinite_sums(name):
    metric = case_of(name).metric(1, 0, 2, TASKS[:1])
    metric.update(**of_tasks(labels=[[math.inf, 1.0]]))
    assert values(metric)[f"{name}-a|lifetime_{name}"] == math.inf


class LabelMeanComputation(mse.MSEMetricComputation):
    """As users write it: the mean label, of the states of MSE."""

    def _compute(self) -> list[MetricComputationReport]:
        mean = self.label_sum / self.weighted_num_samples
        window = self.get_window_state(mse.LABEL_SUM) / self.window_weighted_num_samples
        name = MetricName.LABEL_AVERAGE
        return [
            MetricComputationReport(name, MetricPrefix.LIFETIME, mean),
            MetricComputationReport(name, MetricPrefix.WINDOW, window),
        ]


class LabelMeanMetric(mse.MSEMetric):
    _computation_class = LabelMeanComputation


@every_mode
def test_label_sums_of_mse_are_there_for_subclasses(mode):
    metric = LabelMeanMetric(1, 0, N, TASKS, mode, window_size=N)
    for seed in (0, 1):
        metric.update(**batch(case_of("mse"), seed))
    window = batch(case_of("mse"), 1)
    labels, weights = window["labels"]["a"], window["weights"]["a"]
    computed = values(metric)
    expected = (labels * weights).sum() / weights.sum()
    assert computed["mse-a|window_label_average"] == pytest.approx(expected, rel=1e-15)
    total = (LABELS * WEIGHTS).sum() + (labels * weights).sum()
    expected = total / (WEIGHTS.sum() + weights.sum())
    assert computed["mse-a|lifetime_label_average"] == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("metric_class", [mse.MSEMetric, nmse.NMSEMetric])
def test_label_sums_are_saved_with_r_squared_alone(metric_class):
    names = ["error_sum", "weighted_num_samples", "label_sum", "label_squared_sum"]
    more = ["const_pred_error_sum"] if metric_class is nmse.NMSEMetric else []
    for include_r_squared in (False, True):
        metric = metric_class(1, 0, N, TASKS[:1], include_r_squared=include_r_squared)
        metric.update(**batch(case_of("mse"), tasks=("a",)))
        assert [n for n in states_of(metric) if "window_" not in n] == names + more
        saved = [key.split(".")[-1] for key in metric.state_dict()]
        assert saved == (names if include_r_squared else names[:2]) + more
        assert states_of(metric)["label_sum"] == [(LABELS * WEIGHTS).sum()]


def test_nmse_is_zero_where_it_has_nothing_to_be_measured_by():
    for weights in ([1.0, 1.0], [0.0, 0.0]):
        metric = nmse.NMSEMetric(1, 0, 2, TASKS[:1])
        metric.update(**of_tasks(predictions=[[0.5, 0.5]], labels=[[1.0, 1.0]], weights=[weights]))
        assert {key.split("|")[1]: x.item() for key, x in values(metric).items()} == {
            f"{scope}_{name}": 0.0 for scope in ("lifetime", "window") for name in ("nmse", "nrmse")
        }


BITS = np.random.default_rng(3).integers(0, 8, (2, 3, 20))


@every_mode
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float32], ids=str)
def test_labels_are_bits_of_whole_numbers(mode, dtype):
    metric = MultiLabelPrecisionMetric(1, 0, 20, TASKS, mode, num_labels=3)
    of_task, arguments = {}, {}
    for task, (predictions, labels, weights) in zip("ab", BITS, strict=True):
        of_task[task] = predictions.astype(dtype), labels.astype(dtype), weights / 8
    for i, name in enumerate(("predictions", "labels", "weights")):
        arguments[name] = {task: arrays[i] for task, arrays in of_task.items()}
    metric.update(**arguments)
    computed = values(metric)
    expected = {}
    for task, (predictions, labels, weights) in zip("ab", BITS, strict=True):
        for bit in range(3):
            is_predicted = predictions >> bit & 1
            right = (weights * is_predicted * (labels >> bit & 1)).sum()
            precision = right / (weights * is_predicted).sum()
            for scope in ("lifetime", "window"):
                key = f"multi_label_precision-{task}|{scope}_multi_label_precisionlabel_{bit}"
                expected[key] = precision
    assert computed.keys() == expected.keys()
    for key, value in expected.items():
        assert computed[key] == pytest.approx(value, rel=1e-14), key
        assert computed[key].shape == ((1,) if mode is UNFUSED else ())


def test_labels_have_names():
    options: dict[str, Any] = {"num_labels": 4, "label_names": ["cat", "dog"]}
    metric = MultiLabelPrecisionMetric(1, 0, 3, TASKS[:1], **options)
    metric.update(**of_tasks(predictions=[[3, 1, 12]], labels=[[1, 1, 12]]))
    of = "multi_label_precision-a|"
    names = [f"{scope}_multi_label_precision{n}" for n in ("cat", "dog") for scope in SCOPES]
    assert {k: x.tolist() for k, x in values(metric).items()} == dict(
        zip((of + name for name in names), [[1.0], [1.0], [0.0], [0.0]], strict=True)
    )
    lifetimes = [name for name in states_of(metric) if not name.startswith("window_")]
    assert lifetimes == [f"{x}_pos_sum_{n}" for n in ("cat", "dog") for x in ("true", "false")]
    (computation,) = metric._metrics_computations
    described = [(r.name, str(r.metric_prefix), r.description) for r in computation.compute()]
    assert described[:2] == [
        (MetricName.MULTI_LABEL_PRECISION, "lifetime_", "cat"),
        (MetricName.MULTI_LABEL_PRECISION, "window_", "cat"),
    ]


SCOPES = ("lifetime", "window")


def test_labels_that_are_missing_make_their_precision_undefined():
    metric = MultiLabelPrecisionMetric(1, 0, 2, TASKS[:1])
    metric.update(**of_tasks(predictions=[[1, 1]], labels=[[1, NAN]]))
    assert np.isnan([x.item() for x in values(metric).values()]).all()


@pytest.mark.parametrize(
    "options", [{"label_names": ["a", "b"]}, {"num_labels": 54}], ids=["names", "labels"]
)
def test_more_labels_than_there_can_be_are_named(options):
    with pytest.raises(ValueError, match="num_labels, label_names"):
        MultiLabelPrecisionMetric(1, 0, 2, TASKS[:1], **options)


def at_thresholds(predictions: Any, labels: Any, weights: Any) -> list[np.ndarray]:
    """The three sums, threshold by threshold."""
    thresholds = np.linspace(0, 1, 1000).astype(np.float32).astype(np.float64)[:, None]
    above, below = predictions >= thresholds, predictions <= thresholds
    sums = above * labels, above * (1 - labels), below * labels
    return [(weights * x).sum(axis=1) for x in sums]


def hindsight(target: float, *arrays: Any) -> list[float]:
    tp, fp, fn = at_thresholds(*arrays)
    with np.errstate(invalid="ignore"):
        precision = np.where(tp + fp == 0, 0.0, tp / (tp + fp))
    reached = np.flatnonzero(precision >= target)
    index = reached[0] if reached.size else 999
    recall = tp[index] / (tp[index] + fn[index]) if tp[index] + fn[index] else 0.0
    return [float(index), precision[index], recall]


# Some on the first and on the last threshold, and beyond them.
AT_THRESHOLDS = np.array([0.0, 1.0, 1.25, -0.5, 0.25, 0.25, 0.75, 0.5])


@every_mode
@pytest.mark.parametrize("target", [0.5, 0.9, 2.0])
def test_thresholds_reach_a_precision(mode, target):
    metric = HindsightTargetPRMetric(1, 0, N, TASKS, mode, window_size=N, target_precision=target)
    batches = [(PREDICTIONS, LABELS, WEIGHTS), (AT_THRESHOLDS, LABELS[::-1], WEIGHTS)]
    for arrays in batches:
        names = ("predictions", "labels", "weights")
        metric.update(**of_tasks(**{n: [x, x[::-1]] for n, x in zip(names, arrays, strict=True)}))
    both = [np.concatenate(pair) for pair in zip(*batches, strict=True)]
    names = [f"hindsight_target_{name}" for name in ("pr", "precision", "recall")]
    expected = {"lifetime": hindsight(target, *both), "window": hindsight(target, *batches[1])}
    computed = values(metric)
    assert len(computed) == 12
    for scope, of_scope in expected.items():
        for name, value in zip(names, of_scope, strict=True):
            for task in "ab":
                actual = computed[f"hindsight_target_pr-{task}|{scope}_{name}"]
                assert actual == pytest.approx(value, rel=1e-14), name
                assert actual.shape == ()
    shape = (1000,) if mode is UNFUSED else (2, 1000)
    assert {x.shape for x in states_of(metric).values()} == {shape}


def test_sums_at_thresholds_are_those_of_the_functions():
    arrays = LABELS[None], AT_THRESHOLDS[None], WEIGHTS[None]
    for of_functions in (get_pr_states(*arrays), get_pr_states(*(x[0] for x in arrays))):
        expected = at_thresholds(arrays[1], arrays[0], arrays[2])
        for x, wanted in zip(of_functions.values(), expected, strict=True):
            np.testing.assert_allclose(x, wanted, rtol=1e-14)
    metric = HindsightTargetPRMetric(1, 0, N, TASKS[:1])
    metric.update(**of_tasks(predictions=[AT_THRESHOLDS], labels=[LABELS], weights=[WEIGHTS]))
    for name, x in get_pr_states(*arrays).items():
        np.testing.assert_array_equal(states_of(metric)[name], x)
    assert compute_threshold_idx(np.zeros(1000), np.zeros(1000), 0.5) == 999


def test_thresholds_know_no_predictions_that_are_missing_but_labels_that_are():
    for labels, expected in (([1.0, 0.0, 1.0], False), ([NAN, 0.0, 1.0], True)):
        metric = HindsightTargetPRMetric(1, 0, 3, TASKS[:1])
        metric.update(**of_tasks(predictions=[[0.5, NAN, NAN]], labels=[labels]))
        states = states_of(metric)
        assert np.isnan(states["true_pos_sum"]).all() == expected
        assert expected or states["true_pos_sum"].max() == 1.0


def test_states_of_another_shape_are_saved_copied_and_synced():
    metric = HindsightTargetPRMetric(1, 0, N, TASKS[:1])
    metric.update(**batch(case_of("ctr"), tasks=("a",)))
    metric.sync()
    metric.unsync()
    other = HindsightTargetPRMetric(1, 0, N, TASKS[:1])
    other.load_state_dict(metric.state_dict())
    for each in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), other):
        for key, x in values(metric).items():
            if "lifetime" in key:
                np.testing.assert_array_equal(values(each)[key], x)


def test_predictions_are_all_that_thresholds_need():
    computation = HindsightTargetPRMetricComputation(0, N, 1, 100)
    with pytest.raises(RecMetricException, match="Inputs 'predictions' should not be None"):
        computation.update(predictions=None, labels=LABELS, weights=None)
    computation.update(predictions=PREDICTIONS, labels=LABELS, weights=None)
    assert to_numpy(computation.true_pos_sum)[0] == LABELS.sum()


DWELL = np.array([[1.5, -2.25, 1e-3, 4.0], [0.1, 0.2, 0.3, 2.0**40]])


def tasks_of(*tensors: tuple[str, bool]) -> list[RecTaskInfo]:
    return [
        RecTaskInfo(name, tensor_name=tensor, weighted=weighted)
        for name, (tensor, weighted) in zip("ab", tensors, strict=False)
    ]


@every_mode
@pytest.mark.parametrize("weighted", [(True, True), (False, True), (False, False)], ids=str)
def test_further_outputs_have_weighted_averages(mode, weighted):
    tasks = tasks_of(("x", weighted[0]), ("y", weighted[1]))
    metric = TensorWeightedAvgMetric(1, 0, 4, tasks, mode, window_size=4, description="_dwell")
    assert metric.get_required_inputs() == {"x", "y"}
    sums = np.zeros((2, 2))
    for scale in (1.0, 3.0):
        weights = np.array([[1.0, 2.0, 0.0, 4.0], [0.5, 0.25, 3.0, 1.0]]) * scale
        inputs = dict(zip("xy", DWELL * scale, strict=True))
        arguments = of_tasks(labels=np.ones((2, 4)), weights=weights)
        metric.update(**arguments, required_inputs=inputs)
        counted = np.where(np.array(weighted)[:, None], weights, 1.0)
        of_batch = np.stack([(counted * DWELL * scale).sum(1), counted.sum(1)])
        sums += of_batch
    computed = values(metric)
    for i, task in enumerate("ab"):
        for scope, (total, weight) in (("lifetime", sums), ("window", of_batch)):
            actual = computed[f"weighted_avg-{task}|{scope}_weighted_avg_dwell"]
            assert actual == pytest.approx(total[i] / weight[i], rel=1e-14)
    assert len(computed) == 4


def test_one_number_is_of_all_examples_and_fused_tasks_may_share_an_output():
    metric = TensorWeightedAvgMetric(1, 0, 2, tasks_of(("x", True), ("x", True)), FUSED)
    metric.update(**of_tasks(labels=np.ones((2, 2))), required_inputs={"x": np.array(2.5)})
    assert {x.item() for x in values(metric).values()} == {2.5}
    assert metric.get_required_inputs() == {"x"}


def test_outputs_are_stacked_by_those_who_have_stacked_them():
    computation = TensorWeightedAvgMetricComputation(
        0, 4, 2, 100, tasks=tasks_of(("x", True), ("y", False))
    )
    computation.update(
        predictions=None,
        labels=np.ones((2, 4)),
        weights=np.full((2, 4), 0.5),
        required_inputs={"target_tensor": DWELL},
    )
    np.testing.assert_allclose(to_numpy(computation.weighted_sum), DWELL.sum(1) * [0.5, 1.0])
    assert to_numpy(computation.weighted_num_samples).tolist() == [2.0, 4.0]


def test_outputs_that_are_missing_are_named():
    with pytest.raises(RecMetricException, match="tensor_name"):
        TensorWeightedAvgMetric(1, 0, 2, TASKS)
    with pytest.raises(RecMetricException, match="'x' to be weighted for all tasks or for none"):
        TensorWeightedAvgMetric(1, 0, 2, tasks_of(("x", True), ("x", False)), FUSED)
    arguments = of_tasks(labels=np.ones((2, 2)))
    for mode in (UNFUSED, FUSED):
        metric = TensorWeightedAvgMetric(1, 0, 2, tasks_of(("x", True), ("y", True)), mode)
        for inputs in ({}, {"required_inputs": {"x": np.ones(2)}}):
            with pytest.raises(RecMetricException, match="'y'" if inputs else "'x'"):
                metric.update(**arguments, **inputs)
        wrong = {"x": np.ones(2), "y": np.ones(3)}
        with pytest.raises(ValueError, match=r"y\)?: expected 1"):
            metric.update(**arguments, required_inputs=wrong)
        assert not any(x.any() for x in states_of(metric).values())


@every_mode
def test_scalars_are_of_the_latest_batch_and_of_the_window(mode):
    metric = scalar.ScalarMetric(1, 0, 4, TASKS, mode, window_size=4)
    assert {k.split("|")[1]: x.item() for k, x in values(metric).items()} == pytest.approx(
        {"lifetime_scalar": 0.0, "window_scalar": NAN}, nan_ok=True
    )
    for labels in ([9.0], [1.0, 3.0], [4.0, 9.0]):
        of_both = [labels, [-x for x in labels]]
        metric.update(**of_tasks(labels=of_both, weights=[[0.0] * len(labels)] * 2))
    computed = {key: x.item() for key, x in values(metric).items()}
    assert computed == {
        "scalar-a|lifetime_scalar": 6.5,
        "scalar-a|window_scalar": 4.25,
        "scalar-b|lifetime_scalar": -6.5,
        "scalar-b|window_scalar": -4.25,
    }
    assert metric.state_dict() == {}
    metric.reset()
    assert values(metric)["scalar-a|lifetime_scalar"] == 0.0


def merged(metric_class: Any, *updates: dict[str, Any] | None) -> dict[str, float]:
    """The values of a metric of one task over ranks, each of one update or none."""
    metrics = [metric_class(len(updates), i, 1, TASKS[:1]) for i in range(len(updates))]
    for metric, update in zip(metrics, updates, strict=True):
        if update is not None:
            metric.update(**update)
    payloads = [metric._metrics_computations[0].payload_for_ranks() for metric in metrics]
    metrics[0]._metrics_computations[0].take_merged(payloads)
    return {key.split("|")[1]: x.item() for key, x in values(metrics[0]).items()}


def test_values_of_the_latest_batches_are_means_over_the_ranks_that_had_one():
    one, two = of_tasks(labels=[[1.0]]), of_tasks(labels=[[1.0, 3.0, 2.0]])
    wanted = {"lifetime_scalar": 1.5, "window_scalar": 1.5}
    for updates in ((one, two), (None, one, None, two)):
        assert merged(scalar.ScalarMetric, *updates) == wanted
    numbers = [
        {**one, "required_inputs": dict.fromkeys(output.OUTPUTS, x)} for x in DWELL[0, :2, None]
    ]
    means = dict.fromkeys(("output_latest_imp", "output_total_latest_imp"), -0.375)
    for updates in (numbers, (None, *numbers, None)):
        assert merged(output.OutputMetric, *updates) == means


@every_mode
def test_outputs_are_those_of_the_latest_batch(mode):
    metric = output.OutputMetric(1, 0, 4, TASKS, mode)
    assert metric.get_required_inputs() == {"latest_imp", "total_latest_imp"}
    assert {x.item() for x in values(metric).values()} == {0.0}
    for latest in (np.full(2, 7.0), np.array([0.25, 0.5, 1.5])):
        inputs = {"latest_imp": latest, "total_latest_imp": (latest * 4).astype(np.int64)}
        arguments = of_tasks(labels=np.ones((2, len(latest))))
        metric.update(**arguments, required_inputs=inputs)
    computed = {key: x.item() for key, x in values(metric).items()}
    assert computed == {
        f"output-{task}|output_{name}": value
        for task in "ab"
        for name, value in (("latest_imp", 0.75), ("total_latest_imp", 3.0))
    }
    assert metric.state_dict() == {}
    with pytest.raises(RecMetricException, match="total_latest_imp"):
        metric.update(**arguments, required_inputs={"latest_imp": inputs["latest_imp"]})


def test_outputs_and_scalars_need_labels_alone():
    computation = output.OutputMetricComputation(0, 2, 1, 100)
    inputs = dict.fromkeys(output.OUTPUTS, np.array([[1.0, 2.0]]))
    computation.update(
        predictions=None, labels=np.ones((1, 2)), weights=None, required_inputs=inputs
    )
    reports = computation.compute()
    assert [(r.name, str(r.metric_prefix), r.description) for r in reports] == [
        (MetricName.OUTPUT, "", "_latest_imp"),
        (MetricName.OUTPUT, "", "_total_latest_imp"),
    ]
    assert to_numpy(reports[0].value).tolist() == [1.5]
    of_scalars = scalar.ScalarMetricComputation(0, 2, 1, 100)
    of_scalars.update(predictions=None, labels=np.array([[1, 2]]), weights=None)
    assert to_numpy(of_scalars.labels).tolist() == [1.5]


def test_a_module_of_no_metrics_does_nothing():
    module: Any = NoOpMetricModule()
    future: Any = concurrent.futures.Future()
    for done in (
        module.update({"label": LABELS}, more=1),
        module.sync(),
        module.unsync(),
        module.reset(),
        module.load_pre_compute_states({}),
        module.shutdown(),
        module.async_compute(future),
        module.get_required_inputs(),
    ):
        assert done is None
    assert not future.done()
    assert not module.should_compute()
    for nothing in (module.compute(), module.local_compute(), module.get_pre_compute_states()):
        assert nothing == {}
    assert module.state_dict() == {}
