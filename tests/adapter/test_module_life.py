"""The life of a module: its states as a tree, checkpoints of other times, methods of users."""

import functools
import logging
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
from adapter_cases import FUSED, TASKS, UNFUSED, N, assert_same, batch, case_of, unchanged, values
from test_modules import OUTPUTS, config_of, generated

from recmetrics_jax.adapter._tensors import to_numpy, torch
from recmetrics_jax.adapter.ctr import CTRMetric, CTRMetricComputation
from recmetrics_jax.adapter.deferrable_metrics import DeferrableMetrics
from recmetrics_jax.adapter.metrics_config import BatchSizeStage, RecMetricDef, ThroughputDef
from recmetrics_jax.adapter.rec_metric import RecMetricException, RecMetricList

KEY = "rec_metrics.rec_metrics"


def updated(*names: str, times: int = 1, **options: Any) -> Any:
    module = generated(config_of(*names, **options))
    for _ in range(times):
        module.update(OUTPUTS)
    return module


def test_results_are_dictionaries_that_can_be_subscribed_to():
    module, seen = updated("ctr", throughput_metric=ThroughputDef()), []
    for method in (module.compute, module.local_compute, module.compute_throughput):
        metrics = method()
        assert isinstance(metrics, DeferrableMetrics)
        metrics.subscribe(seen.append)
        assert seen[-1] == metrics.resolve()
    assert list(module.compute_throughput()) == [
        f"throughput-throughput|{name}_examples" for name in ("total", "attempt")
    ]
    assert generated(config_of("ctr")).compute_throughput() == {}
    module.shutdown()
    with pytest.raises(RecMetricException, match="async_compute is not supported"):
        module.async_compute()


def test_outputs_are_prepared_before_they_are_parsed(monkeypatch):
    module = generated(config_of("ctr"))
    prepare = lambda outputs: {"y": 1 - outputs["y"], **{k: outputs[k] for k in "pqw"}}  # noqa: E731
    monkeypatch.setattr(module, "_prepare_model_out_for_metrics", prepare)
    module.update(OUTPUTS)
    assert module.rec_metrics[0]._metrics_computations[0].ctr_num != 0
    other = updated("ctr")
    total = module.compute()["ctr-a|lifetime_ctr"] + other.compute()["ctr-a|lifetime_ctr"]
    assert total == pytest.approx(1.0)


def test_stages_of_batch_sizes_are_checked_and_reach_metrics(monkeypatch):
    with pytest.raises(ValueError, match="max_iters"):
        generated(config_of("ctr"), batch_size_stages=[BatchSizeStage(8, 3)])
    seen = []
    make = CTRMetric.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        seen.append(kwargs)
        make(self, *args, **kwargs)

    monkeypatch.setattr(CTRMetric, "__init__", init)
    stages = [BatchSizeStage(8, None)]
    generated(config_of("ctr", enable_pt2_compile=True), batch_size_stages=stages)
    assert seen[0]["batch_size_stages"] is stages
    assert seen[0]["enable_pt2_compile"]
    assert not seen[0]["should_clone_update_inputs"]


STATES = {"ctr": ["ctr_num", "ctr_denom"], "mse": ["error_sum", "weighted_num_samples"]}


@pytest.mark.parametrize("mode", [UNFUSED, FUSED], ids=["unfused", "fused"])
def test_states_as_a_tree(mode):
    options = {"rec_compute_mode": mode, "throughput_metric": ThroughputDef()}
    module = updated("ctr", "auc", times=2, **options)
    states = module.get_pre_compute_states()
    tasks = ["a"] if mode is FUSED else ["a", "b"]
    assert {namespace: list(of) for namespace, of in states.items()} == {
        "ctr": tasks,
        "auc": tasks,
        "throughput": ["throughput"],
    }
    assert sorted(states["ctr"]["a"]) == [
        "ctr_denom",
        "ctr_num",
        *map("window_{}".format, STATES["ctr"][::-1]),
    ]
    assert states["ctr"]["a"]["ctr_denom"].shape == (3 - len(tasks),)
    (predictions,) = states["auc"]["a"]["predictions"]
    assert predictions.shape == (3 - len(tasks), 2 * N)
    assert to_numpy(states["throughput"]["throughput"]["attempt_examples"]) == 2 * N
    kept = {key: x for key, x in values(module).items() if "_throughput" not in key}
    for array in (states["ctr"]["a"]["ctr_num"], predictions):
        array[...] = 7.0  # Copies.
    assert_same({k: x for k, x in values(module).items() if k in kept}, kept)


def test_states_of_a_tree_are_loaded():
    options: Any = {"throughput_metric": ThroughputDef(), "should_validate_update": True}
    module, other = (
        updated("ctr", "auc", "mse", times=2, **options),
        updated("ctr", "auc", "mse", **options),
    )
    source = module.get_pre_compute_states()
    other.load_pre_compute_states(source)
    assert_same(values(other), values(module))
    for each in (module, other):  # Examples go on from there.
        each.update(OUTPUTS)
    for key, value in values(module).items():
        if "window" not in key or key.startswith("auc"):
            np.testing.assert_array_equal(values(other)[key], value, err_msg=key)
    source["ctr"]["a"]["ctr_num"][...] = 7.0
    assert values(other)["ctr-a|lifetime_ctr"] != 7.0


def test_trees_without_a_metric_are_named():
    module = updated("ctr")
    source = module.get_pre_compute_states()
    with pytest.raises(KeyError, match="'a' in 'mse'"):
        updated("mse").load_pre_compute_states(source)
    with pytest.raises(KeyError, match="nothing"):
        module.load_pre_compute_states({"ctr": {"a": {"nothing": 1}, "b": {}}})


def test_metrics_of_one_namespace_have_their_own_states():
    long, short = (case_of("ctr").make(tasks=TASKS, window_size=w) for w in (64, N))
    module = generated(config_of("ctr"))
    module.rec_tasks, module.rec_metrics = TASKS, RecMetricList([long, short])
    for seed in (0, 1):
        module.rec_metrics.update(**batch(case_of("ctr"), seed))
    source = module.get_pre_compute_states()
    assert list(source) == ["ctr", "ctr.1"]
    wide, narrow = (source[key]["a"]["window_ctr_denom"] for key in source)
    assert wide > narrow
    expected = [values(long), values(short)]
    module.reset()
    module.load_pre_compute_states(source)
    for metric, before in zip((long, short), expected, strict=True):
        assert_same(values(metric), before)


def test_batches_that_wait_are_in_the_tree():
    module = updated("ctr", fused_update_limit=3)
    assert module.get_pre_compute_states()["ctr"]["a"]["ctr_denom"] > 0


# Checkpoints.


def test_old_counters_are_left_out(caplog):
    module, other = updated("ctr"), generated(config_of("ctr"))
    state = {"_trained_batches": np.array(9), **module.state_dict()}
    with caplog.at_level(logging.WARNING):
        other.load_state_dict(dict(state))
    assert "_trained_batches" in caplog.text
    assert_same(other.state_dict(), module.state_dict())
    other.load_state_dict(state, strict=False)
    assert "_trained_batches" in state
    with pytest.raises(RuntimeError, match="_trained"):
        other.load_state_dict({"_trained": np.array(9), **module.state_dict()})


def test_old_counters_inside_other_modules():
    if torch is None:
        pytest.skip("torch is not installed")
    model = torch.nn.ModuleDict({"metrics": updated("ctr")})
    state = {"metrics._trained_batches": torch.tensor(9), **model.state_dict()}
    model.load_state_dict(state)


def test_single_numbers_may_be_saved_without_a_dimension():
    module = updated("ctr", throughput_metric=ThroughputDef())
    state = module.state_dict()
    other = generated(config_of("ctr", throughput_metric=ThroughputDef()))
    other.load_state_dict(
        {key: x.reshape(() if "computations" in key else 1) for key, x in state.items()}
    )
    assert_same(other.state_dict(), state)


MOVED = {
    "reordered": (("ctr", "mse", "ne"), ("ne", "ctr", "mse")),
    "one before": (("ctr", "mse"), ("auc", "ctr", "mse")),
    "one between": (("ctr", "mse"), ("ctr", "ne", "mse")),
    "one less before": (("auc", "ctr", "mse"), ("ctr", "mse")),
    "at their places": (("mse", "ctr"), ("mse", "ctr")),
}


@pytest.mark.parametrize("name", MOVED)
def test_metrics_are_found_at_other_places_of_the_list(name):
    saved, loading = MOVED[name]
    module, other = updated(*saved), generated(config_of(*loading))
    other.load_state_dict(module.state_dict())
    expected = values(module)
    for key, value in values(other).items():
        if "|lifetime" in key and key in expected:
            np.testing.assert_array_equal(value, expected[key], err_msg=key)


def test_metrics_that_are_gone_are_unexpected():
    module, other = updated("ctr", "mse", "ne"), generated(config_of("ne", "ctr"))
    with pytest.raises(RuntimeError, match=rf"{KEY}\.1\._metrics_computations\.0\.error_sum"):
        other.load_state_dict(module.state_dict())
    other.load_state_dict(module.state_dict(), strict=False)
    assert values(other)["ne-a|lifetime_ne"] == values(module)["ne-a|lifetime_ne"]


@pytest.mark.parametrize("strict", [True, False])
def test_metrics_whose_states_look_alike_are_not_guessed(strict):
    module, other = updated("mse", "mae"), updated("auc", "mse", "mae")
    metrics = other.rec_metrics.rec_metrics
    with unchanged(*metrics), pytest.raises(RuntimeError, match="order the list as it was"):
        other.load_state_dict(module.state_dict(), strict=strict)


# Methods of users.

Calls = list[str]


def noting(calls: Calls, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that notes its calls; a wrapper has the marks of what it wraps."""

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return method(*args, **kwargs)

    return wrapper


def on_objects(calls: Calls, monkeypatch: Any) -> RecMetricList:
    metrics = RecMetricList([case_of("ctr").make(), case_of("mse").make()])
    metric = metrics[0]
    for name in ("update", "compute", "sync"):
        monkeypatch.setattr(metric, name, noting(calls, name, getattr(metric, name)))
    return metrics


def on_computations(calls: Calls, monkeypatch: Any) -> RecMetricList:
    metrics = RecMetricList([case_of("ctr").make(), case_of("mse").make()])
    for computation in metrics[0]._metrics_computations:
        for name in ("update", "_compute", "sync", "_aggregate_window_state"):
            own = noting(calls, name, getattr(computation, name))
            monkeypatch.setattr(computation, name, own)
    return metrics


def on_classes(calls: Calls, monkeypatch: Any) -> RecMetricList:
    metrics = RecMetricList([case_of("ctr").make(), case_of("mse").make()])
    for name in ("update", "_compute", "sync", "_aggregate_window_state"):
        own = noting(calls, name, getattr(CTRMetricComputation, name))
        monkeypatch.setattr(CTRMetricComputation, name, own, raising=False)
    return metrics


def by_subclasses(calls: Calls, monkeypatch: Any) -> RecMetricList:
    methods = {
        name: noting(calls, name, getattr(CTRMetricComputation, name))
        for name in ("_compute", "sync", "_aggregate_window_state")
    }
    computation = type("Mine", (CTRMetricComputation,), methods)

    class Metric(CTRMetric):
        _computation_class = computation

        def update(self, **kwargs: Any) -> None:
            calls.append("update")
            super().update(**kwargs)

    mine = Metric(1, 0, N, TASKS, window_size=64)
    return RecMetricList([mine, case_of("mse").make()])


WAYS = {
    "on objects": (on_objects, {"update": 1, "compute": 1, "sync": 1}),
    "on computations": (
        on_computations,
        {"update": 2, "_compute": 2, "sync": 4, "_aggregate_window_state": 4},
    ),
    "on classes": (
        on_classes,
        {"update": 2, "_compute": 2, "sync": 4, "_aggregate_window_state": 4},
    ),
    "by subclasses": (
        by_subclasses,
        {"update": 1, "_compute": 2, "sync": 4, "_aggregate_window_state": 4},
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_methods_of_users_are_called_where_work_is_shared(way, monkeypatch):
    make, expected = WAYS[way]
    calls: Calls = []
    metrics = make(calls, monkeypatch)
    metrics.update(**batch(case_of("ctr"), 0))
    computed = values(metrics)
    metrics.sync()
    metrics.unsync()
    assert {name: calls.count(name) for name in expected} == expected
    monkeypatch.undo()
    ours = RecMetricList([case_of("ctr").make(window_size=64), case_of("mse").make()])
    ours.update(**batch(case_of("ctr"), 0))
    assert_same(computed, values(ours))


def test_mocks_are_called():
    module = updated("ctr", "mse")
    metric = module.rec_metrics[0]
    with mock.patch.object(metric, "update") as update:
        module.update(OUTPUTS)
    update.assert_called_once()
    with mock.patch.object(metric, "compute", return_value={"mine": 1.0}):
        assert module.compute()["mine"] == 1.0
    with (
        mock.patch.object(module.rec_metrics, "compute", return_value={"all": 2.0}) as compute,
        mock.patch.object(module, "_adjust_compute_interval") as adjust,
    ):
        assert module.compute() == {"all": 2.0}
    compute.assert_called_once_with()
    adjust.assert_called_once_with()


def test_a_window_of_a_user_s_own_fails_as_a_whole():
    class Computation(CTRMetricComputation):
        def _aggregate_window_state(self, state_name: str, state: Any, num_samples: int) -> None:
            if state_name == "ctr_denom" and num_samples == 5:
                raise OSError("full")
            super()._aggregate_window_state(state_name, state, num_samples)

    class Metric(CTRMetric):
        _computation_class = Computation

    metric = Metric(1, 0, N, TASKS, window_size=64)
    metric.update(**batch(case_of("ctr"), 0))
    with unchanged(metric), pytest.raises(OSError, match="full"):
        metric.update(**batch(case_of("ctr"), 1, n=5))


def test_definitions_of_modules_stay_as_they_are():
    arguments: dict[str, Any] = {}
    config = config_of("ctr")
    for definition in config.rec_metrics.values():
        definition.arguments = arguments
    generated(config, batch_size_stages=[BatchSizeStage(8, None)])
    assert arguments == {}
    assert RecMetricDef().arguments is None
