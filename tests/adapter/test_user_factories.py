"""Metrics of users that name a functional factory, of this package or their own."""

import copy
import pickle
from typing import Any

import jax
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
    every_kind,
    stacked,
    values,
)

import recmetrics_jax as rm
from recmetrics_jax.adapter._tensors import as_kind, kind_of, to_numpy
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace, MetricPrefix
from recmetrics_jax.adapter.rec_metric import RecMetric, RecMetricComputation

modes = pytest.mark.parametrize("mode", [UNFUSED, FUSED], ids=["unfused", "fused"])


def squared_log_error(batch: rm.Batch, offset: float) -> jax.Array:
    error = jnp.log(batch.predictions + offset) - jnp.log(batch.labels + offset)
    return batch.weights * error**2


def weights_of(batch: rm.Batch) -> jax.Array:
    return batch.weights


def msle(*, offset: float = 1.0, **options: Any) -> rm.Metric:
    return rm.sum_metric(
        {"error": rm.Term(squared_log_error, (offset,)), "weight": weights_of},
        lambda sums: {"msle": rm.safe_divide(sums["error"], sums["weight"])},
        **options,
    )


class NEOfTheCoreComputation(RecMetricComputation):
    """Normalized entropy of the core, its options included."""

    _factory = staticmethod(rm.ne)


class NEOfTheCore(RecMetric):
    """Of the above."""

    _namespace = MetricNamespace.NE
    _computation_class = NEOfTheCoreComputation


class MSLEComputation(RecMetricComputation):
    """The mean squared logarithmic error, of a user's factory."""

    _factory = staticmethod(msle)


class MSLEMetric(RecMetric):
    """Of the above."""

    _namespace = MetricNamespace.MSE
    _computation_class = MSLEComputation


class AUCOfTheCoreComputation(RecMetricComputation):
    """AUC of the core, which keeps examples."""

    _factory = staticmethod(rm.auc)


class AUCOfTheCore(RecMetric):
    """Of the above."""

    _namespace = MetricNamespace.AUC
    _computation_class = AUCOfTheCoreComputation


@modes
def test_a_factory_of_the_core_is_a_metric(mode):
    metric = NEOfTheCore(1, 0, N, TASKS, compute_mode=mode, logloss=True)
    ours = case_of("ne with logloss").make(compute_mode=mode)
    for each in (metric, ours):
        each.update(**batch(case_of("ne"), 1))
    assert_same(dict(sorted(values(metric).items())), dict(sorted(values(ours).items())), 1e-12)
    assert metric.state_dict().keys() == ours.state_dict().keys()


@every_kind
@pytest.mark.parametrize("offset", [1.0, 0.5])
def test_a_factory_of_a_user_is_a_metric(offset, kind):
    metric = MSLEMetric(1, 0, N, TASKS, offset=offset, window_size=N)
    for seed in (1, 2):
        metric.update(**batch(case_of("mse"), seed, convert=lambda x: as_kind(x, kind)))
    assert {kind_of(value) for value in metric.compute().values()} == {kind}
    for task in "ab":
        p, y, w = (
            [batch(case_of("mse"), seed)[name][task] for seed in (1, 2)]
            for name in ("predictions", "labels", "weights")
        )
        errors = [
            weight * (np.log(score + offset) - np.log(label + offset)) ** 2
            for score, label, weight in zip(p, y, w, strict=True)
        ]
        lifetime = sum(map(np.sum, errors)) / sum(map(np.sum, w))
        window = errors[1].sum() / w[1].sum()
        computed = values(metric)
        np.testing.assert_allclose(computed[f"mse-{task}|lifetime_msle"], [lifetime], rtol=1e-12)
        np.testing.assert_allclose(computed[f"mse-{task}|window_msle"], [window], rtol=1e-12)


def test_a_factory_of_a_user_is_saved_and_copied():
    metric = MSLEMetric(1, 0, N, TASKS, offset=0.5)
    metric.update(**batch(case_of("mse"), 1))
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert_same(values(other), values(metric))
    assert next(iter(metric.state_dict())) == "_metrics_computations.0.error"
    with pytest.raises(ValueError, match="`ofset`"):
        MSLEMetric(1, 0, N, TASKS, ofset=0.5)


@modes
def test_a_factory_that_keeps_examples_is_a_metric(mode):
    metric = AUCOfTheCore(1, 0, N, TASKS, compute_mode=mode, window_size=2 * N)
    ours = case_of("auc").make(compute_mode=mode, window_size=2 * N)
    for each in (metric, ours):
        for seed in (1, 2, 3):
            each.update(**batch(case_of("auc"), seed))
    assert_same(values(metric), values(ours), 1e-6)


def largest(*, n_classes: int | None = None, **options: Any) -> rm.Metric:
    def values(batch: rm.Batch) -> dict[str, jax.Array]:
        scores = batch.predictions if n_classes is None else batch.predictions.max(axis=-1)
        return {"largest": jnp.max(scores, axis=1, where=batch.mask, initial=0)}

    return rm.sample_metric(values, n_classes=n_classes, **options)


class LargestComputation(RecMetricComputation):
    """The largest of the newest predictions, of a user's factory that keeps examples."""

    _factory = staticmethod(largest)


class LargestMetric(RecMetric):
    """Of the above."""

    _namespace = MetricNamespace.SCALAR
    _computation_class = LargestComputation


@pytest.mark.parametrize("n_classes", [None, 3])
def test_a_factory_of_a_user_that_keeps_examples_is_a_metric(n_classes):
    case = case_of("ctr" if n_classes is None else "multiclass_recall")
    metric = LargestMetric(1, 0, N, TASKS, window_size=N, n_classes=n_classes)
    first = batch(case, 1)
    metric.update(**first | {"predictions": {t: x + 9 for t, x in first["predictions"].items()}})
    metric.update(**batch(case, 2))
    expected = batch(case, 2)["predictions"]["a"].max()
    assert values(metric)["scalar-a|window_largest"].tolist() == [expected]


def changed_ctr(**options: Any) -> rm.Metric:
    metric = rm.ctr(**options)
    return metric._replace(compute=lambda state: metric.compute(state))


def test_a_factory_of_something_else_is_refused():
    class Computation(LargestComputation):
        _factory = staticmethod(changed_ctr)

    class Metric(LargestMetric):
        _computation_class = Computation

    with pytest.raises(ValueError, match="_factory: expected a factory"):
        Metric(1, 0, N, TASKS)


def filled(*, window: int, n_tasks: int = 1) -> rm.Metric:
    """How much of its window is filled: a formula that reads the window."""

    def of_examples(batch: rm.Batch) -> dict[str, jax.Array]:
        return {"filled": jnp.sum(batch.mask, axis=1) / window}

    def of_sums(sums: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {"weight": sums["weight"] / window}

    return rm.collection(
        {
            "examples": rm.sample_metric(of_examples, window=window, n_tasks=n_tasks),
            "sums": rm.sum_metric({"weight": weights_of}, of_sums, window=window, n_tasks=n_tasks),
        }
    )


class FilledComputation(RecMetricComputation):
    """Of the above."""

    _factory = staticmethod(filled)


class FilledMetric(RecMetric):
    """Of the above."""

    _namespace = MetricNamespace.SCALAR
    _computation_class = FilledComputation


@modes
@pytest.mark.parametrize(("world_size", "window"), [(1, 4 * N), (2, 4 * N), (3, 3 * N + 1)])
def test_factories_get_the_window_that_was_asked_for(mode, world_size, window):
    metric = FilledMetric(world_size, 0, N, TASKS, compute_mode=mode, window_size=window)
    first = batch(case_of("ctr"), 1)
    metric.update(**first)
    for task in "ab":
        assert values(metric)[f"scalar-{task}|window_filled"] == np.float32(N / window)
        weight = first["weights"][task].sum()
        expected = pytest.approx(weight / window, rel=1e-12)
        assert values(metric)[f"scalar-{task}|window_weight"] == expected
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert_same(values(other), values(metric))


def test_computations_give_their_factories_their_window():
    computation = FilledMetric._computation_class(0, N, 1, 2 * N)
    rows = np.ones((1, N))
    computation.update(predictions=rows, labels=rows, weights=rows)
    reports = {report.name: report.value for report in computation.compute()}
    assert to_numpy(reports["filled"]) == 0.5


STATES = ("sums", "check", "samples", "reports", "take", "tensors", "payload", "nbytes", "loaded")


def named_alike(**options: Any) -> rm.Metric:
    """Sums by names that methods could have."""
    return rm.sum_metric(
        dict.fromkeys(STATES, weights_of), lambda sums: {"total": sums["sums"]}, **options
    )


class NamedAlikeComputation(RecMetricComputation):
    """Of the above."""

    _factory = staticmethod(named_alike)


class NamedAlikeMetric(RecMetric):
    """Of the above."""

    _namespace = MetricNamespace.SCALAR
    _computation_class = NamedAlikeComputation


def test_states_may_have_names_that_methods_could_have():
    metric = NamedAlikeMetric(1, 0, N, TASKS)
    arguments = batch(case_of("ctr"), 1)
    metric.update(**arguments)
    metric.sync()
    metric.unsync()
    other = pickle.loads(pickle.dumps(metric))
    other.load_state_dict(metric.state_dict())
    assert len(metric.get_memory_usage()) > len(STATES)
    for each in (metric, other):
        computed = values(each)["scalar-a|lifetime_total"]
        assert computed == arguments["weights"]["a"].sum()


def test_a_class_between_may_be_a_users():
    class Base(RecMetricComputation):
        """What a user's computations have in common."""

        def pre_compute(self) -> None:
            self.prepared = True

    class Computation(Base):
        _factory = staticmethod(rm.ctr)

    class Metric(NamedAlikeMetric):
        _computation_class = Computation

    metric = Metric(1, 0, N, TASKS)
    arguments = batch(case_of("ctr"), 1)
    metric.update(**arguments)
    weights, labels = arguments["weights"]["a"], arguments["labels"]["a"]
    expected = pytest.approx((weights * labels).sum() / weights.sum(), rel=1e-12)
    assert values(metric)["scalar-a|lifetime_ctr"] == expected
    assert all(c.prepared for c in metric._metrics_computations)


@modes
def test_computations_know_how_tasks_are_computed(mode):
    metric = NEOfTheCore(1, 0, N, TASKS, compute_mode=mode)
    assert {c._compute_mode for c in metric._metrics_computations} == {mode}
    computation: Any = NEOfTheCoreComputation
    assert computation(0, N, 1, 100, compute_mode=mode)._compute_mode == mode
    assert computation(0, N, 1, 100)._compute_mode == UNFUSED


def test_whole_numbers_and_values_without_a_prefix_can_be_declared():
    class Computation(RecMetricComputation):
        _factory = staticmethod(rm.examples)
        _whole_numbers = ("examples",)

    class Unprefixed(Computation):
        _reported: Any = ((MetricPrefix.WINDOW, "examples"), (MetricPrefix.DEFAULT, "examples"))

    expected: Any = {Computation: ("lifetime_", "window_"), Unprefixed: ("window_", "")}
    for computation_class, prefixes in expected.items():
        computation = computation_class(0, N, 2, N)
        for seed in (0, 1):
            computation.update(**stacked(batch(case_of("ctr"), seed)))
        totals = {"lifetime_": 2 * N, "window_": N, "": 2 * N}
        for state in (computation.examples, computation.window_examples):
            assert to_numpy(state).dtype == np.int64
        reports = computation.compute()
        assert [str(report.metric_prefix) for report in reports] == list(prefixes)
        for report, prefix in zip(reports, prefixes, strict=True):
            assert (report.name, to_numpy(report.value).dtype) == ("examples", np.int64)
            assert to_numpy(report.value).tolist() == [totals[prefix]] * 2
