"""States belong to one computation each, keep what is given to them, and hold no more than that."""

import pickle
from typing import Any

import numpy as np
import pytest

from recmetrics_jax.adapter import _distributed
from recmetrics_jax.adapter._declaration import declare
from recmetrics_jax.adapter._inputs import SAMPLE_STATES, as_keys
from recmetrics_jax.adapter._passes import samples_as_inputs
from recmetrics_jax.adapter._tensors import from_numpy, to_numpy
from recmetrics_jax.adapter.auc import AUCMetric
from recmetrics_jax.adapter.auprc import AUPRCMetric
from recmetrics_jax.adapter.calibration import CalibrationMetric
from recmetrics_jax.adapter.metrics_config import RecTaskInfo
from recmetrics_jax.adapter.metrics_namespace import MetricName, MetricNamespace, MetricPrefix
from recmetrics_jax.adapter.mse import MSEMetric
from recmetrics_jax.adapter.ne import NEMetric, NEMetricComputation
from recmetrics_jax.adapter.rec_metric import (
    MetricComputationReport,
    RecMetric,
    RecMetricComputation,
    RecMetricList,
)

N = 64
TASKS = [RecTaskInfo(name="a"), RecTaskInfo(name="b")]


def batch(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        name: {task.name: from_numpy(rng.integers(0, 2, N) * 0.5 + 0.25) for task in TASKS}
        for name in ("predictions", "labels", "weights")
    }


def made(cls: type[RecMetric], **options: Any) -> RecMetric:
    return cls(1, 0, N, TASKS, window_size=10 * N, **options)


class Counts(RecMetricComputation):
    """A state that begins as int64 and becomes float64."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._add_state(
            "total",
            from_numpy(np.zeros(self._n_tasks, np.int64)),
            add_window_state=True,
            dist_reduce_fx="sum",
            persistent=True,
        )

    def update(self, *, predictions, labels, weights, **kwargs):
        self.seen = kwargs
        total = (predictions * weights).sum(-1)
        self.total = self.total + total
        self._aggregate_window_state("total", total, predictions.shape[-1])
        predictions[...] = 0.5  # As no metric should.

    def _compute(self):
        values = {MetricPrefix.LIFETIME: self.total, MetricPrefix.WINDOW: self.window_total}
        return [MetricComputationReport(MetricName.CTR, *pair) for pair in values.items()]


class CountsMetric(RecMetric):
    _namespace = MetricNamespace.CTR
    _computation_class = Counts


def test_windows_hold_only_their_own_numbers():
    metrics = [made(cls) for cls in (NEMetric, CalibrationMetric, MSEMetric, AUPRCMetric)]
    together = RecMetricList(metrics)
    for seed in range(5):
        together.update(**batch(seed))
    states = [metric._metrics_computations[0]._states() for metric in metrics[:3]]
    before = [{name: to_numpy(x).copy() for name, x in of_metric.items()} for of_metric in states]
    window = metrics[0]._metrics_computations[0]._batch_window_buffers
    for name in window:
        for contribution in window[name].buffers:
            array = to_numpy(contribution)
            assert (array if array.base is None else array.base).nbytes == 8
            contribution[...] = 0
    for metric, expected in zip(metrics[1:3], before[1:], strict=True):
        for name, state in metric._metrics_computations[0]._states().items():
            np.testing.assert_array_equal(to_numpy(state), expected[name])
    # Five contributions of eight bytes to each of four windows of two tasks.
    assert len(pickle.dumps(metrics[0])) < 100_000


def test_examples_are_kept_by_each_metric_apart():
    auc, auprc = made(AUCMetric), made(AUPRCMetric)
    RecMetricList([auc, auprc]).update(**batch())
    kept = auprc._metrics_computations[0].predictions[0]
    before = to_numpy(kept).copy()
    auc._metrics_computations[0].predictions[0][...] = 0
    np.testing.assert_array_equal(to_numpy(kept), before)


def test_what_another_metric_does_to_a_batch_is_not_seen():
    alone, beside = made(AUCMetric), made(AUCMetric)
    alone.update(**batch())
    RecMetricList([beside, made(CountsMetric)]).update(**batch())
    for key, value in alone.compute().items():
        assert beside.compute()[key] == value


def test_states_keep_the_dtype_that_updates_give_them():
    metric, other = made(CountsMetric), made(CountsMetric)
    metric.update(**batch())
    expected = metric.compute()["ctr-a|lifetime_ctr"]
    assert expected.item() > 1
    other.load_state_dict(metric.state_dict())
    assert other.compute()["ctr-a|lifetime_ctr"] == expected


@pytest.mark.parametrize("scope", ["", "local_"])
def test_computations_may_override_what_computes(scope):
    class Doubled(NEMetricComputation):
        def compute(self):
            return [_twice(report) for report in super().compute()]

        def local_compute(self):
            return [_twice(report) for report in super().local_compute()]

    class DoubledMetric(NEMetric):
        _computation_class = Doubled

    def _twice(report: MetricComputationReport) -> MetricComputationReport:
        return MetricComputationReport(report.name, report.metric_prefix, report.value * 2)

    doubled, plain = made(DoubledMetric), made(NEMetric)
    for metric in (doubled, plain):
        metric.update(**batch())
    values = [getattr(metric, f"{scope}compute")() for metric in (doubled, plain)]
    for key, value in values[1].items():
        assert values[0][key] == 2 * value


def test_windows_are_the_sums_of_updates():
    metric = made(CountsMetric)
    metric.update(**batch(0))
    first = metric.compute()["ctr-a|window_ctr"].item()
    computation = metric._metrics_computations[0]
    computation.window_total = computation.window_total + 100
    assert metric.compute()["ctr-a|window_ctr"].item() == first + 100
    metric.update(**batch(0))
    assert metric.compute()["ctr-a|window_ctr"].item() == 2 * first


@pytest.mark.parametrize("cls", [NEMetric, AUCMetric], ids=["sums", "examples"])
def test_updates_that_call_ours_while_synced_are_kept(cls, monkeypatch):
    monkeypatch.setattr(_distributed, "is_distributed", lambda: True)  # Of one rank.

    class Calling(cls._computation_class):
        def update(self, *, predictions: Any, labels: Any, weights: Any, **kwargs: Any) -> None:
            batch = {"predictions": predictions, "labels": labels, "weights": weights}
            super().update(**batch, **kwargs)

    calling, plain = made(type("CallingMetric", (cls,), {"_computation_class": Calling})), made(cls)
    for metric in (calling, plain):
        metric.update(**batch(0))
        metric.sync()
        metric.update(**batch(1))
        metric.unsync()
    assert calling.compute() == plain.compute()


def test_joined_updates_pass_on_required_inputs_alone():
    metric = made(CountsMetric, fused_update_limit=2)
    for seed in range(2):
        required = {"session": from_numpy(np.full(N, seed))}
        metric.update(**batch(seed), required_inputs=required, other="text")
    seen = metric._metrics_computations[0].seen
    assert list(seen) == ["required_inputs"]
    np.testing.assert_array_equal(
        to_numpy(seen["required_inputs"]["session"])[0], np.repeat([0, 1], N)
    )


def test_keys_of_any_dtype_are_equal_where_their_numbers_are():
    whole = np.array([-3, 0, 1, 2**40])
    np.testing.assert_array_equal(as_keys(whole.astype(np.float64)), whole)
    np.testing.assert_array_equal(as_keys(whole[:3].astype(np.float32)), whole[:3])
    assert len(set(as_keys(np.array([0.5, -0.5, 1.5, 1.0, -0.0, 0.0])).tolist())) == 5


def test_examples_that_are_assigned_count():
    metric = made(AUCMetric)
    for computation in metric._metrics_computations:
        rows = {"predictions": [[0.9, 0.1]], "labels": [[1, 0]], "weights": [[1, 1]]}
        for name, row in rows.items():
            setattr(computation, name, [from_numpy(np.array(row, np.float32))])
    assert {value.item() for value in metric.compute().values()} == {1.0}


def test_windows_of_examples_have_few_lengths_as_they_fill():
    def length(n: int, window: int) -> int:
        chunk = np.zeros((1, n), np.float32)
        samples: dict[str, Any] = {name: [chunk] for name in SAMPLE_STATES}
        return samples_as_inputs(samples, n, window).labels.shape[1]

    lengths = {length(n, 20_000) for n in range(1, 20_001, 97)} | {length(20_000, 20_000)}
    assert len(lengths) == 4
    assert max(lengths) <= 20_480


def test_values_that_are_no_arrays_are_passed_on():
    class Named(Counts):
        def _compute(self):
            return [MetricComputationReport(MetricName.CTR, MetricPrefix.LIFETIME, 1.5)]

    class NamedMetric(RecMetric):
        _namespace = MetricNamespace.CTR
        _computation_class = Named

    assert made(NamedMetric).compute() == {"ctr-a|lifetime_ctr": 1.5, "ctr-b|lifetime_ctr": 1.5}


def test_declarations_are_one_for_equal_options():
    ne, again = (made(NEMetric, include_logloss=True)._metrics_computations[0] for _ in range(2))
    assert ne._declaration is again._declaration
    assert ne._include_logloss is True
    declaration = ne._declaration
    factory, options, n_tasks = declaration.made_by
    assert declare(factory, options, n_tasks, 10 * N) is declaration
    assert pickle.loads(pickle.dumps(declaration)) is declaration
