"""Metrics of users, with states and formulas of their own."""

import copy
import pickle
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from adapter_cases import (
    FUSED,
    TASKS,
    UNFUSED,
    N,
    assert_same,
    batch,
    case_of,
    needs_torch,
    values,
)

from recmetrics_jax.adapter._tensors import as_kind, to_numpy, torch
from recmetrics_jax.adapter.metrics_namespace import MetricName, MetricNamespace, MetricPrefix
from recmetrics_jax.adapter.rec_metric import (
    MetricComputationReport,
    RecMetric,
    RecMetricComputation,
    RecMetricList,
    WindowBuffer,
)


class NumpyComputation(RecMetricComputation):
    """The weighted mean label, in NumPy, as documented for metrics of one's own."""

    def __init__(self, *args: Any, scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale = scale
        for name in ("clicks", "views"):
            self._add_state(
                name,
                np.zeros(self._n_tasks),
                add_window_state=True,
                dist_reduce_fx="sum",
                persistent=True,
            )

    def update(self, *, predictions: Any, labels: Any, weights: Any, **kwargs: Any) -> None:
        y, w = (np.asarray(to_numpy(x), np.float64) for x in (labels, weights))
        for name, sums in (("clicks", (w * y).sum(-1)), ("views", w.sum(-1))):
            state = getattr(self, name)
            state += sums
            self._aggregate_window_state(name, sums, y.shape[-1])

    def _compute(self) -> list[MetricComputationReport]:
        window = self.get_window_state("clicks"), self.get_window_state("views")
        return [
            MetricComputationReport(
                MetricName.CTR, prefix, self.scale * clicks / np.maximum(views, 1e-9), "_mine"
            )
            for prefix, (clicks, views) in (
                (MetricPrefix.LIFETIME, (self.clicks, self.views)),
                (MetricPrefix.WINDOW, window),
            )
        ]


class NumpyMetric(RecMetric):
    """Of the above."""

    _namespace = MetricNamespace.CTR
    _computation_class = NumpyComputation


class TorchComputation(RecMetricComputation):
    """The same in torch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("clicks", "views"):
            self._add_state(
                name,
                torch.zeros(self._n_tasks, dtype=torch.float64),
                add_window_state=True,
                dist_reduce_fx="sum",
                persistent=True,
            )

    def update(self, *, predictions: Any, labels: Any, weights: Any, **kwargs: Any) -> None:
        for name, x in (("clicks", labels * weights), ("views", weights)):
            state = getattr(self, name)
            sums = x.sum(dim=-1)
            state += sums
            self._aggregate_window_state(name, sums, labels.shape[-1])

    def _compute(self) -> list[MetricComputationReport]:
        lifetime = self.clicks / self.views
        window = self.get_window_state("clicks") / self.get_window_state("views")
        return [
            MetricComputationReport(MetricName.CTR, MetricPrefix.LIFETIME, lifetime, "_mine"),
            MetricComputationReport(MetricName.CTR, MetricPrefix.WINDOW, window, "_mine"),
        ]


class TorchMetric(RecMetric):
    """Of the above."""

    _namespace = MetricNamespace.CTR
    _computation_class = TorchComputation


written = pytest.mark.parametrize(
    "metric_class", [NumpyMetric, pytest.param(TorchMetric, marks=needs_torch)]
)
modes = pytest.mark.parametrize("mode", [UNFUSED, FUSED], ids=["unfused", "fused"])


def converted(metric_class: type[RecMetric], seed: int) -> dict[str, Any]:
    kind = "torch" if metric_class is TorchMetric else "numpy"
    return batch(case_of("ctr"), seed, convert=lambda x: as_kind(x, kind))


@modes
@written
def test_written_metrics_are_as_good_as_ours(metric_class, mode):
    metric = metric_class(1, 0, N, TASKS, compute_mode=mode, window_size=2 * N)
    ours = case_of("ctr").make(compute_mode=mode, window_size=2 * N)
    for seed in (1, 2, 3):
        metric.update(**converted(metric_class, seed))
        ours.update(**converted(metric_class, seed))
    actual = {key.removesuffix("_mine"): value for key, value in metric.compute().items()}
    assert_same(actual, ours.compute(), 1e-12)
    assert all(key.endswith("_mine") for key in metric.compute())
    keys = [f"_metrics_computations.0.{name}" for name in ("clicks", "views")]
    assert list(metric.state_dict())[:2] == keys
    local = [key.replace("|", "|local_") for key in metric.compute()]
    assert list(metric.local_compute()) == local


@written
def test_written_metrics_are_saved_copied_and_reset(metric_class):
    metric = metric_class(1, 0, N, TASKS)
    metric.update(**converted(metric_class, 1))
    before = values(metric)
    restored = metric_class(1, 0, N, TASKS)
    restored.load_state_dict(metric.state_dict())
    key = "ctr-a|lifetime_ctr_mine"
    assert values(restored)[key] == before[key]
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        other.update(**converted(metric_class, 2))
        assert_same(values(metric), before)
    metric.reset()
    metric.update(**converted(metric_class, 1))
    assert_same(values(metric), before)


@written
def test_written_metrics_join_validate_and_take_no_weights(metric_class):
    joined = metric_class(1, 0, N, TASKS, fused_update_limit=2, should_validate_update=True)
    one_by_one = metric_class(1, 0, N, TASKS, should_validate_update=True)
    first, second = converted(metric_class, 1), {**converted(metric_class, 2), "weights": None}
    for metric in (joined, one_by_one):
        metric.update(**first)
        metric.update(**second)
    assert_same(values(joined), values(one_by_one), 1e-12)


def test_written_metrics_have_options():
    doubled, plain = NumpyMetric(1, 0, N, TASKS, scale=2.0), NumpyMetric(1, 0, N, TASKS)
    for metric in (doubled, plain):
        metric.update(**batch(case_of("ctr"), 1))
    for key, value in values(plain).items():
        np.testing.assert_array_equal(values(doubled)[key], 2 * value)
    with pytest.raises(ValueError, match="`size`"):
        NumpyMetric(1, 0, N, TASKS, size=2.0)


def test_written_metrics_get_further_inputs_in_the_shape_of_labels():
    seen = []

    class Computation(NumpyComputation):
        def update(self, **kwargs: Any) -> None:
            seen.append({k: to_numpy(v) for k, v in kwargs["required_inputs"].items()})
            super().update(**kwargs)

    class Metric(NumpyMetric):
        _computation_class = Computation

        def _get_task_required_inputs(self, task_config: Any) -> set[str]:
            return {"x"}

    metric = Metric(1, 0, N, TASKS[:1])
    assert metric.get_required_inputs() == {"x"}
    arguments = batch(case_of("ctr"), 0, tasks=("a",))
    metric.update(**arguments, required_inputs={"x": np.arange(N), "one": np.array(3)})
    assert seen[0]["x"].tolist() == [list(range(N))]
    assert seen[0]["one"].tolist() == [[3] * N]
    with pytest.raises(ValueError, match="x"):
        metric.update(**arguments, required_inputs={"x": np.arange(N - 1)})


def test_keyword_arguments_reach_written_metrics():
    class Computation(NumpyComputation):
        def update(self, *, bonus: float = 0.0, **kwargs: Any) -> None:
            super().update(**kwargs)
            self.clicks += bonus

    class Metric(NumpyMetric):
        _computation_class = Computation

    metric = Metric(1, 0, N, TASKS)
    metric.update(**batch(case_of("ctr"), 0), bonus=100.0)
    assert metric._metrics_computations[0].clicks > 100.0


def test_computations_that_lack_a_method_are_abstract():
    class NoCompute(RecMetricComputation):
        def update(self, *, predictions: Any, labels: Any, weights: Any, **kwargs: Any) -> None:
            pass

    for abstract in (NoCompute, RecMetricComputation):
        with pytest.raises(TypeError, match="abstract"):
            abstract(0, N, 1, N)  # pyright: ignore[reportAbstractUsage] - what is tested


def test_reports_are_frozen():
    report = MetricComputationReport(MetricName.CTR, MetricPrefix.LIFETIME, np.ones(1))
    assert report.description is None
    with pytest.raises(AttributeError):
        report.value = np.zeros(1)  # pyright: ignore[reportAttributeAccessIssue] - what is tested


def test_lists_of_ours_and_of_users():
    metrics: list[Any] = [case_of("ne").make(), NumpyMetric(1, 0, N, TASKS), case_of("ctr").make()]
    together = RecMetricList(metrics)
    alone = [case_of("ne").make(), NumpyMetric(1, 0, N, TASKS), case_of("ctr").make()]
    for seed in (0, 1):
        together.update(**batch(case_of("ne"), seed))
        for metric in alone:
            metric.update(**batch(case_of("ne"), seed))
    computed = values(together)
    expected = {key: value for metric in alone for key, value in values(metric).items()}
    assert_same(computed, expected)
    assert len(together) == 3
    assert together[1] is metrics[1]
    assert together.get_required_inputs() is None
    together.reset()
    assert np.isnan(values(together)["ne-a|lifetime_ne"])


class PushingComputation(RecMetricComputation):
    """A sum whose window is given contributions of another dtype than its own."""

    def __init__(self, *args: Any, dtype: Any, of_state: Any = np.float64, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dtype = dtype
        zeros = np.zeros(self._n_tasks, of_state)
        self._add_state("total", zeros, add_window_state=True, dist_reduce_fx="sum")

    def update(self, *, predictions: Any, labels: Any, weights: Any, **kwargs: Any) -> None:
        total = to_numpy(predictions).astype(self.dtype).sum(-1)
        self.total = self.total + total
        self._aggregate_window_state("total", total, predictions.shape[-1])

    def _compute(self) -> list[MetricComputationReport]:
        window = self.get_window_state("total")
        return [MetricComputationReport(MetricName.CTR, MetricPrefix.WINDOW, window)]


class PushingMetric(RecMetric):
    """Of the above."""

    _namespace = MetricNamespace.CTR
    _computation_class = PushingComputation


BFLOAT16 = jnp.dtype("bfloat16")


@pytest.mark.parametrize(
    ("pushed", "of_state", "number", "count"),
    [
        (np.float32, np.float64, 30000.1, 900),
        (np.float32, np.float32, 30000.1, 900),
        (np.float16, np.float32, 30.0, 900),
        (BFLOAT16, np.float64, 1.0, 400),
        (BFLOAT16, BFLOAT16, 1.0, 400),
        (np.uint8, np.float64, 50.0, 900),
        (np.float64, np.int64, 0.25, 3),
    ],
    ids=str,
)
def test_windows_are_added_up_wide_and_have_the_dtype_of_their_state(
    pushed, of_state, number, count
):
    metric = PushingMetric(
        1, 0, 4, TASKS[:1], window_size=4 * count, dtype=pushed, of_state=of_state
    )
    four = {"a": np.full(4, number)}
    expected = 0.0
    for _ in range(count):
        metric.update(predictions=four, labels=four, weights=None)
        expected += float(four["a"].astype(pushed).sum(-1))
        if expected < 1000:
            metric.compute()  # As it grows, too.
    window = metric._metrics_computations[0].window_total
    assert window.dtype == np.result_type(of_state, pushed)
    assert window.astype(np.float64) == np.float64(expected).astype(window.dtype)


@needs_torch
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_windows_of_torch_are_added_up_wide(dtype):
    metric = TorchMetric(1, 0, 4, TASKS[:1], window_size=1600)
    four = {"a": torch.full((4,), 1.0, dtype=getattr(torch, dtype))}
    thirds = {"a": torch.full((4,), 1 / 3, dtype=getattr(torch, dtype))}
    for _ in range(400):
        metric.update(predictions=four, labels=thirds, weights=four)
    (computation,) = metric._metrics_computations
    pushed = (thirds["a"] * four["a"]).sum().double()
    assert computation.window_views.dtype == computation.window_clicks.dtype == torch.float64
    assert computation.window_views.item() == 1600
    assert computation.window_clicks.item() == pytest.approx(400 * pushed.item(), rel=1e-12)


def test_window_buffers_add_up_in_the_dtype_of_the_window():
    buffer, window = WindowBuffer(max_size=1000, max_buffer_count=1000), np.zeros(1)
    for _ in range(900):
        buffer.aggregate_state(window, np.full(1, 30000.1, np.float32), 1)
    assert window[0] == pytest.approx(900 * float(np.float32(30000.1)), rel=1e-15)
