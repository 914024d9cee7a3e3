"""An update that fails changes no state: not of its metric, nor of others beside it."""

import re
from typing import Any

import numpy as np
import pytest
from adapter_cases import (
    CASES,
    FUSED,
    TASKS,
    UNFUSED,
    VARIANTS,
    Case,
    N,
    assert_same,
    batch,
    case_of,
    every_case,
    stacked,
    unchanged,
    values,
)

from recmetrics_jax.adapter._tensors import from_numpy, to_numpy
from recmetrics_jax.adapter.metric_module import RecMetricModule
from recmetrics_jax.adapter.metrics_config import RecTaskInfo
from recmetrics_jax.adapter.metrics_namespace import MetricName, MetricNamespace, MetricPrefix
from recmetrics_jax.adapter.rec_metric import (
    MetricComputationReport,
    RecMetric,
    RecMetricComputation,
    RecMetricException,
    RecMetricList,
)

ARRAYS = ("predictions", "labels", "weights")
KEYED = [case for case in CASES + VARIANTS if case.key]
Arguments = dict[str, Any]


def with_array(arguments: Arguments, name: str, task: str, x: Any) -> Arguments:
    return {**arguments, name: {**arguments[name], task: x}}


def shorter(arguments: Arguments, name: str, task: str = "b") -> Arguments:
    return with_array(arguments, name, task, arguments[name][task][:-1])


def without_task(arguments: Arguments, name: str) -> Arguments:
    return {**arguments, name: {"a": arguments[name]["a"]}}


# Of the second task, after a first that fits: what is wrong, and what the message names.
MISFITS = {
    "short labels": (lambda u: shorter(u, "labels"), "labels"),
    "short predictions": (lambda u: shorter(u, "predictions"), "predictions"),
    "short weights": (lambda u: shorter(u, "weights"), "weights"),
    "one weight": (lambda u: with_array(u, "weights", "b", np.ones(1)), "weights"),
    "no labels": (lambda u: with_array(u, "labels", "b", np.ones(0)), "labels"),
    "labels of no task": (lambda u: without_task(u, "labels"), "labels"),
    "weights of no task": (lambda u: without_task(u, "weights"), "weights"),
    "predictions of nothing": (
        lambda u: with_array(u, "predictions", "b", np.ones(0)),
        "predictions",
    ),
}
misfits = pytest.mark.parametrize(("spoil", "name"), MISFITS.values(), ids=list(MISFITS))


@misfits
@pytest.mark.parametrize("mode", [UNFUSED, FUSED], ids=["unfused", "fused"])
@every_case
def test_misfits_are_named_and_change_nothing(case, mode, spoil, name):
    metric = case.make(compute_mode=mode)
    metric.update(**batch(case, 0))
    with unchanged(metric), pytest.raises(ValueError, match=name):
        metric.update(**spoil(batch(case, 1)))


@misfits
def test_misfits_among_joined_batches_are_named_and_lose_none(spoil, name):
    case = case_of("ctr")
    metric, good = case.make(fused_update_limit=3), case.make(fused_update_limit=3)
    for seed in (0, 1):
        metric.update(**batch(case, seed))
        good.update(**batch(case, seed))
    with pytest.raises(ValueError, match=name):
        metric.update(**spoil(batch(case, 2)))
    assert_same(values(metric), values(good))


@pytest.mark.parametrize("name", ARRAYS)
def test_stacked_arrays_of_unfused_tasks_are_named(name):
    case = case_of("ctr")
    metric = case.make()
    arguments = batch(case, 0)
    with unchanged(metric), pytest.raises(ValueError, match=f"{name}: expected a dictionary"):
        metric.update(**{**arguments, name: stacked(arguments)[name]})


@pytest.mark.parametrize("shape", [(2, N - 1), (N,), (2, 1), (3, N)], ids=str)
@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("metric_name", ["ne", "auc", "ndcg"])
def test_stacked_arrays_of_other_shapes_are_named(metric_name, name, shape):
    case = case_of(metric_name)
    metric = case.make(compute_mode=FUSED)
    metric.update(**batch(case, 0))
    with unchanged(metric), pytest.raises(ValueError, match=name):
        metric.update(**{**stacked(batch(case, 1)), name: np.ones(shape)})


@pytest.mark.parametrize("mode", [UNFUSED, FUSED], ids=["unfused", "fused"])
@pytest.mark.parametrize("name", ["predictions", "labels"])
@every_case
def test_no_predictions_or_labels_at_all_are_named(case, mode, name):
    metric = case.make(compute_mode=mode)
    with unchanged(metric), pytest.raises((ValueError, RecMetricException), match=name):
        metric.update(**{**batch(case, 0), name: None})


@pytest.mark.parametrize("case", KEYED, ids=lambda case: case.name)
@pytest.mark.parametrize("mode", [UNFUSED, FUSED], ids=["unfused", "fused"])
def test_further_inputs_of_other_lengths_are_named(case, mode):
    metric = case.make(compute_mode=mode)
    metric.update(**batch(case, 0))
    for wrong in (np.zeros(N - 1), np.zeros((3, N)), np.zeros(0)):
        with unchanged(metric), pytest.raises(ValueError, match=case.key):
            metric.update(**batch(case, 1) | {"required_inputs": {case.key: wrong}})


NEEDS_NO_WEIGHTS = ("accuracy", "precision", "recall")


def rows(case: Case) -> Arguments:
    arguments = batch(case, 0, tasks=("a",))
    return {**arguments, **{name: arguments[name]["a"][None] for name in ARRAYS}}


@every_case
def test_computations_refuse_what_is_missing(case):
    metric = case.make(tasks=[RecTaskInfo(name="a")])
    computation = metric._metrics_computations[0]
    computation.update(**rows(case))
    with unchanged(metric), pytest.raises(RecMetricException, match=r"'predictions'.* not be None"):
        computation.update(**{**rows(case), "predictions": None})
    if case.name in NEEDS_NO_WEIGHTS:
        computation.update(**{**rows(case), "weights": None})
    else:
        message = f"should not be None for {type(computation).__name__} update"
        with unchanged(metric), pytest.raises(RecMetricException, match=message):
            computation.update(**{**rows(case), "weights": None})


@every_case
@pytest.mark.parametrize("name", ["labels", "weights"])
def test_computations_refuse_misfits(case, name):
    metric = case.make(tasks=[RecTaskInfo(name="a")])
    computation = metric._metrics_computations[0]
    for wrong in (np.ones((1, N - 1)), np.ones((2, N)), np.ones(N - 1), np.ones((1, 1))):
        with unchanged(metric), pytest.raises(ValueError, match=name):
            computation.update(**{**rows(case), name: wrong})


def test_class_scores_must_be_as_many_as_classes():
    case = case_of("multiclass_recall")
    metric = case.make()
    metric.update(**batch(case, 0))
    for classes in (1, 2):
        fewer = {task: x[..., :classes] for task, x in batch(case, 0)["predictions"].items()}
        with (
            unchanged(metric),
            pytest.raises(ValueError, match="classes"),
        ):
            metric.update(**batch(case, 0) | {"predictions": fewer})


@pytest.mark.parametrize("name", ["ne", "mse", "auc", "auprc", "rauc", "xauc", "ndcg"])
def test_class_scores_are_refused_where_there_are_no_classes(name):
    case = case_of(name)
    metric = case.make()
    metric.update(**batch(case, 0))
    by_class = {task: np.full((N, 3), 0.5) for task in "ab"}
    with unchanged(metric), pytest.raises(ValueError, match="predictions"):
        metric.update(**batch(case, 0) | {"predictions": by_class})


class HalfwayComputation(RecMetricComputation):
    """Of a user: fails for labels above one, after it has written to its first state."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("first", "second"):
            self._add_state(
                name,
                from_numpy(np.zeros(self._n_tasks)),
                add_window_state=True,
                dist_reduce_fx="sum",
                persistent=True,
            )
        self._add_state("kept", [], add_window_state=False)

    def update(self, *, predictions: Any, labels: Any, weights: Any, **kwargs: Any) -> None:
        total = from_numpy(np.array(to_numpy(labels).sum(-1), np.float64))
        self.first += total
        self.kept.append(total)
        self._aggregate_window_state("first", total, N)
        if to_numpy(labels).max() > 1:
            raise ValueError("labels: above one")
        self.second += total
        self._aggregate_window_state("second", total, N)

    def _compute(self) -> list[MetricComputationReport]:
        return [
            MetricComputationReport(MetricName.CTR, MetricPrefix.LIFETIME, self.second),
            MetricComputationReport(
                MetricName.CTR, MetricPrefix.WINDOW, self.get_window_state("first")
            ),
        ]


class HalfwayMetric(RecMetric):
    """Of a user."""

    _namespace = MetricNamespace.DEFAULT
    _computation_class = HalfwayComputation


def bad_labels(case: Case, task: str = "b") -> Arguments:
    """A batch that only the user's metric refuses, of the second task at that."""
    return with_array(batch(case, 1), "labels", task, np.full(N, 2.0))


@pytest.mark.parametrize("mode", [UNFUSED, FUSED], ids=["unfused", "fused"])
def test_a_users_metric_that_fails_halfway_is_as_before(mode):
    metric = HalfwayMetric(1, 0, N, TASKS, compute_mode=mode, window_size=2 * N)
    good = batch(case_of("ctr"), 0)
    for _ in range(3):
        metric.update(**good)
    before = values(metric)
    for _ in range(3):
        with unchanged(metric), pytest.raises(ValueError, match="above one"):
            metric.update(**bad_labels(case_of("ctr")))
    assert_same(values(metric), before)
    metric.update(**good)
    assert values(metric)["-a|window_ctr"] == 2 * good["labels"]["a"].sum()
    assert values(metric)["-a|lifetime_ctr"] == 4 * good["labels"]["a"].sum()


def test_a_users_computation_that_fails_halfway_is_as_before():
    metric = HalfwayMetric(1, 0, N, TASKS[:1])
    computation: Any = metric._metrics_computations[0]
    arguments = {"predictions": np.ones((1, N)), "weights": np.ones((1, N))}
    computation.update(labels=np.ones((1, N)), **arguments)
    with unchanged(metric), pytest.raises(ValueError, match="above one"):
        computation.update(labels=np.full((1, N), 2.0), **arguments)


def test_a_validated_update_that_fails_leaves_no_flag():
    metric = HalfwayMetric(1, 0, N, TASKS, should_validate_update=True)
    with unchanged(metric), pytest.raises(ValueError, match="above one"):
        metric.update(**bad_labels(case_of("ctr")))


def others(is_joined: bool = False) -> list[RecMetric]:
    """Metrics beside the one that fails: that share its pass over a batch, and that do not."""
    if is_joined:
        return [case_of("ctr").make(fused_update_limit=3)]
    return [
        case_of("ne").make(),
        case_of("ctr").make(),
        case_of("ctr").make(compute_mode=FUSED),
        case_of("mse").make(tasks=TASKS[:1]),
    ]


@pytest.mark.parametrize("is_joined", [False, True], ids=["at once", "joined"])
@pytest.mark.parametrize("position", ["first", "last"])
def test_a_failure_in_a_list_changes_no_metric(position, is_joined):
    metrics = others(is_joined)
    failing = HalfwayMetric(1, 0, N, TASKS)
    metrics = [failing, *metrics] if position == "first" else [*metrics, failing]
    together = RecMetricList(metrics)
    together.update(**batch(case_of("ctr"), 0))
    with unchanged(*metrics), pytest.raises(ValueError, match="above one"):
        together.update(**bad_labels(case_of("ctr")))


@pytest.mark.parametrize(
    ("name", "message"), [("ndcg", "session_id"), ("multiclass_recall", "class")]
)
def test_a_metric_that_needs_more_fails_with_all_others(name, message):
    # With tasks of its own, it does not share the pass of the others.
    for tasks in (TASKS, TASKS[:1]):
        metrics = [*others(), case_of(name).make(tasks=tasks)]
        together = RecMetricList(metrics)
        with unchanged(*metrics), pytest.raises((ValueError, RecMetricException), match=message):
            together.update(**batch(case_of("ctr"), 0))


def test_a_failure_in_a_module_changes_nothing():
    tasks = [RecTaskInfo("a", "y", "p", "w")]
    metrics = [case_of("ne").make(tasks=tasks), HalfwayMetric(1, 0, N, tasks)]
    module = RecMetricModule(N, 1, tasks, RecMetricList(metrics))
    arguments = batch(case_of("ne"), 0, tasks=("a",))
    model_out = {key[0]: arguments[key]["a"] for key in ARRAYS} | {"y": arguments["labels"]["a"]}
    module.update(model_out)
    for wrong, error in (
        ({"y": np.full(N, 2.0)}, "above one"),
        ({"w": np.ones(N - 1)}, "same number of elements"),
        ({"p": None}, "Prediction name p not found"),
    ):
        with unchanged(*metrics), pytest.raises(ValueError, match=re.escape(error)):
            module.update(model_out | wrong)
        assert module.trained_batches == 1
