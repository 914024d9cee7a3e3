"""`RecMetricModule`: from outputs of a model to values, by configuration."""

import importlib
import logging
import pathlib
import pkgutil
import re
import time
from typing import Any

import numpy as np
import pytest
from adapter_cases import (
    FUSED,
    KEYS,
    LABELS,
    PREDICTIONS,
    SESSIONS,
    WEIGHTS,
    N,
    assert_same,
    batch,
    case_of,
    unchanged,
    values,
)

from recmetrics_jax import adapter
from recmetrics_jax.adapter._tensors import kind_of, torch
from recmetrics_jax.adapter.gauc import GAUCMetric
from recmetrics_jax.adapter.metric_module import (
    REC_METRICS_MAPPING,
    RecMetricModule,
    StateMetric,
    generate_metric_module,
)
from recmetrics_jax.adapter.metrics_config import (
    BatchSizeStage,
    DefaultMetricsConfig,
    EmptyMetricsConfig,
    MetricsConfig,
    RecMetricDef,
    RecMetricEnum,
    RecTaskInfo,
    StateMetricEnum,
    ThroughputDef,
)
from recmetrics_jax.adapter.rec_metric import RecMetric, RecMetricList

TASKS = [RecTaskInfo("a", "y", "p", "w", SESSIONS), RecTaskInfo("b", "y", "q", "w", SESSIONS)]
OUTPUTS = {"y": LABELS, "p": PREDICTIONS, "q": 1 - PREDICTIONS, "w": WEIGHTS}


class Optimizer(StateMetric):
    """A source of further values."""

    def get_metrics(self) -> dict[str, Any]:
        return {"lr": 0.5, "ne-a|lifetime_ne": 7.0}


def config_of(*names: str, window: int = 100, **options: Any) -> MetricsConfig:
    definitions = {
        RecMetricEnum[name.upper()]: RecMetricDef(rec_tasks=TASKS, window_size=window)
        for name in names
    }
    return MetricsConfig(**{"rec_tasks": TASKS, "rec_metrics": definitions, **options})


def generated(config: MetricsConfig, **arguments: Any) -> Any:
    defaults: dict[str, Any] = {
        "metric_class": RecMetricModule,
        "batch_size": N,
        "world_size": 1,
        "my_rank": 0,
        "state_metrics_mapping": {},
        "device": "cpu" if torch is None else torch.device("cpu"),
    }
    return generate_metric_module(**(defaults | arguments), metrics_config=config)


def test_every_class_is_in_the_mapping():
    metric_classes = set()
    for module in pkgutil.iter_modules(adapter.__path__, f"{adapter.__name__}."):
        of_module = vars(importlib.import_module(module.name)).values()
        metric_classes |= {x for x in of_module if isinstance(x, type) and issubclass(x, RecMetric)}
    with_names = {x for x in metric_classes if hasattr(x, "_namespace")}
    # GAUC has no member of the enum, in the reference either.
    assert set(REC_METRICS_MAPPING.values()) == with_names - {GAUCMetric}
    for name, metric_class in REC_METRICS_MAPPING.items():
        # Two metrics share a namespace, and one has another's.
        namespace = "qps" if name is RecMetricEnum.TOWER_QPS else name.value
        assert metric_class._namespace.value == namespace.removeprefix("tensor_")


def test_the_readme_has_a_row_for_each_module():
    readme = pathlib.Path(adapter.__file__).with_name("README.md").read_text()
    _, _, table = readme.partition("## Modules")
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|(.*)\| .+ \|$", table.partition("## ")[0], re.M)
    public = [x.name for x in pkgutil.iter_modules(adapter.__path__) if not x.name.startswith("_")]
    assert sorted(module for module, *_ in rows) == sorted(public)
    members = {}
    for name, classes, member in rows:
        module = importlib.import_module(f"{adapter.__name__}.{name}")
        of_module = [getattr(module, of) for of in re.findall(r"\w+", classes)]
        if "`" in member:
            members[RecMetricEnum[member.strip(" `")]] = of_module[0]
    assert members == REC_METRICS_MAPPING


# Of two equal batches, in the place of one.
OF_TWO = {"examples": 2.0, "cali_free_ne": 0.5}
OF_TWO |= dict.fromkeys(("num_positive_samples", "sum_weights", "weighted_sum_predictions"), 2.0)
WITH_INPUTS = ("multiclass_recall", "tensor_weighted_avg")  # of their own


def test_values_of_all_metrics_by_configuration():
    names = [name.value for name in REC_METRICS_MAPPING if name.value not in WITH_INPUTS]
    config = config_of(*names)
    for name, definition in config.rec_metrics.items():
        definition.arguments = dict(case_of(name.value).options)
    module = generated(config)
    needed = ["grouping_keys", "latest_imp", "session_id", "total_latest_imp"]
    assert sorted(module.get_required_inputs()) == needed
    for shape in ((N,), (N, 1)):
        outputs = {key: x.reshape(shape) for key, x in OUTPUTS.items()}
        keys = dict.fromkeys(needed, KEYS)
        module.update({**outputs, **keys, "more": "is ignored"})
    computed = module.compute()
    assert isinstance(computed, dict)
    assert {kind_of(value) for value in computed.values()} == {"numpy"}
    assert module.trained_batches == 2
    local = module.local_compute()
    for name in names:
        namespace = case_of(name).namespace
        for key, expected in case_of(name).values.items():
            actual = computed[f"{namespace}-a|{key}"]
            if not case_of(name).keeps_samples:  # of which two batches are not as one
                of_two = expected * OF_TWO.get(key.partition("_")[2], 1.0)
                np.testing.assert_allclose(actual, [of_two], rtol=1e-12, err_msg=key)
            assert f"{namespace}-b|{key}" in computed
            assert f"{namespace}-a|local_{key}" in local
    module.reset()
    assert np.isnan(module.compute()["ne-a|lifetime_ne"])
    assert module.trained_batches == 2


def test_metrics_of_some_tasks_by_position():
    definitions = {
        RecMetricEnum.NE: RecMetricDef(rec_task_indices=[1]),
        RecMetricEnum.CTR: RecMetricDef(rec_task_indices=[-1, 0]),
    }
    module = generated(MetricsConfig(rec_tasks=TASKS, rec_metrics=definitions))
    module.update(OUTPUTS)
    tasks = [key.split("|")[0] for key in module.compute()]
    assert tasks == ["ne-b"] * 2 + ["ctr-b"] * 2 + ["ctr-a"] * 2


def test_what_a_configuration_says_reaches_the_metrics():
    arguments = {"include_logloss": True}
    definition = RecMetricDef(rec_tasks=TASKS, window_size=64, arguments=arguments)
    config = MetricsConfig(
        rec_tasks=TASKS,
        rec_metrics={RecMetricEnum.NE: definition},
        rec_compute_mode=FUSED,
        compute_on_all_ranks=True,
        should_validate_update=True,
        compute_interval_steps=7,
    )
    module = generated(config, world_size=4, my_rank=3)
    (metric,) = module.rec_metrics.rec_metrics
    (computation,) = metric._metrics_computations
    assert (metric._window_size, metric._compute_mode, metric._my_rank) == (16, FUSED, 3)
    assert (computation._n_tasks, computation._batch_size) == (2, N)
    assert module.compute_interval_steps == 7
    module.update(OUTPUTS)
    assert "ne-a|lifetime_logloss" in module.compute()
    assert arguments == {"include_logloss": True}
    assert definition.arguments is arguments
    joined = generated(config_of("ne", fused_update_limit=2))
    joined.update(OUTPUTS)
    assert len(joined.rec_metrics[0]._pending) == 1


def test_module_kwargs_and_subclasses():
    class Module(RecMetricModule):
        def __init__(self, *args: Any, note: str, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.note = note

        def _update_rec_metrics(self, model_out: dict[str, Any], **kwargs: Any) -> None:
            super()._update_rec_metrics({**model_out, "w": WEIGHTS}, **kwargs)

    module = generated(config_of("ctr"), metric_class=Module, module_kwargs={"note": "mine"})
    assert (type(module), module.note) == (Module, "mine")
    module.update({key: x for key, x in OUTPUTS.items() if key != "w"})
    assert module.compute()["ctr-a|lifetime_ctr"] == pytest.approx(18 / 35)


def test_values_of_states_are_passed_through():
    config = config_of("ne", state_metrics=[StateMetricEnum.OPTIMIZERS])
    config.throughput_metric = ThroughputDef()
    module = generated(config, state_metrics_mapping={StateMetricEnum.OPTIMIZERS: Optimizer()})
    module.update(OUTPUTS)
    computed = module.compute()
    assert computed["optimizers-optimizers|lr"] == 0.5
    assert list(computed)[-2:] == [
        "optimizers-optimizers|lr",
        "optimizers-optimizers|ne-a|lifetime_ne",
    ]
    assert computed["throughput-throughput|total_examples"] == N
    np.testing.assert_allclose(computed["ne-a|lifetime_ne"], 0.7216383545419823)
    assert "optimizers-optimizers|lr" not in module.local_compute()


def test_metrics_of_one_namespace_win_by_order():
    first, second = case_of("ctr").make(tasks=TASKS), case_of("ctr").make(tasks=TASKS)
    second.update(**batch(case_of("ctr"), 1))
    module = RecMetricModule(N, 1, TASKS, RecMetricList([first, second]))
    assert_same(values(module), values(second))
    assert len(module.compute()) == 4


BOTH_OR_NEITHER = [
    RecMetricDef(),
    RecMetricDef(rec_tasks=TASKS, rec_task_indices=[0]),
]


@pytest.mark.parametrize("definition", BOTH_OR_NEITHER, ids=["neither", "both"])
def test_tasks_are_given_once(definition):
    config = MetricsConfig(rec_tasks=TASKS, rec_metrics={RecMetricEnum.NE: definition})
    with pytest.raises(ValueError, match="rec_tasks and rec_task_indices of ne"):
        generated(config)


def test_unknown_metrics_are_named():
    for name in ("log_loss", "serving_ae_loss"):
        with pytest.raises(ValueError, match=name):
            generated(config_of(name))
    config: Any = config_of("ne", state_metrics=["mine"])
    with pytest.raises(ValueError, match="mine"):
        generated(config)
    with pytest.raises(KeyError, match=r"(?i)optimizers"):
        generated(config_of("ne", state_metrics=[StateMetricEnum.OPTIMIZERS]))
    definition = RecMetricDef(rec_tasks=TASKS, arguments={"foo": 1})
    config = MetricsConfig(rec_tasks=TASKS, rec_metrics={RecMetricEnum.NE: definition})
    with pytest.raises(ValueError, match="foo"):
        generated(config)


def test_windows_of_ranks_hold_a_batch():
    with pytest.raises(ValueError, match="local window size 4 and batch size 8"):
        generated(config_of("ne", window=N), world_size=2)


def test_ready_made_configurations():
    module = generated(DefaultMetricsConfig)
    module.update({"label": LABELS, "prediction": PREDICTIONS, "weight": WEIGHTS})
    assert module.compute()["ne-DefaultTask|lifetime_ne"] == pytest.approx(0.7216383545419823)
    empty = generated(EmptyMetricsConfig)
    empty.update({})
    assert (empty.compute(), empty.local_compute(), empty.trained_batches) == ({}, {}, 1)
    assert empty.get_required_inputs() is None


def test_metrics_without_tasks_of_the_module_are_not_updated():
    metric = case_of("ne").make(tasks=TASKS)
    module = RecMetricModule(N, 1, rec_metrics=RecMetricList([metric]))
    with unchanged(metric):
        module.update(OUTPUTS)
    assert module.rec_tasks == []


def test_missing_outputs_are_named():
    module = generated(config_of("ne", "ndcg"))
    for missing in ("y", "p", "w", "session_id"):
        outputs = {**OUTPUTS, "session_id": KEYS}
        del outputs[missing]
        with unchanged(*module.rec_metrics.rec_metrics), pytest.raises(ValueError, match=missing):
            module.update(outputs)
    assert module.trained_batches == 0


def test_sessions_may_be_strings():
    module, numbered = generated(config_of("ndcg")), generated(config_of("ndcg"))
    names = ["x", "x", "x", "x", "y", "y", "y", "y"]
    module.update({**OUTPUTS, "session_id": names})
    numbered.update({**OUTPUTS, "session_id": np.repeat([1, 2], 4)})
    assert_same(values(module), values(numbered))


def test_joined_updates_of_a_module_keep_sessions():
    joined, at_once = (
        generated(config_of("ndcg", fused_update_limit=2)),
        generated(config_of("ndcg")),
    )
    both = {key: np.concatenate([x, x]) for key, x in OUTPUTS.items()}
    for _ in range(2):
        joined.update({**OUTPUTS, "session_id": KEYS})
    at_once.update({**both, "session_id": np.concatenate([KEYS, KEYS])})
    assert_same(values(joined), values(at_once))


def test_batch_size_stages_are_those_of_throughput():
    stages = [BatchSizeStage(4, 1), BatchSizeStage(6, None)]
    config = config_of("ne", throughput_metric=ThroughputDef(window_size=5, warmup_steps=3))
    module = generated(config, batch_size_stages=stages, world_size=2)
    totals = []
    for _ in range(2):
        module.update(OUTPUTS)
        totals.append(int(module.compute()["throughput-throughput|total_examples"]))
    assert totals == [8, 20]


def test_batches_between_computes_are_counted():
    module = RecMetricModule(N, 1, TASKS, compute_interval_steps=3)
    due = []
    for _ in range(7):
        due.append(module.should_compute())
        module.update({})
    assert due == [True, False, False, True, False, False, True]


# Bounds, seconds between the first two computes, and the steps after them, 100 before.
INTERVALS = {
    "inside": ((1.0, 1000.0), 5.0, 100),
    "at a bound": ((5.0, 1000.0), 5.0, 100),
    "too short, without an upper bound": ((9.0, None), 1.0, 1000),
    "too long, without a lower bound": ((0.0, 11.0), 20.0, 50),
    "too long, within a second": ((0.0, 1.0), 20.0, 5),
    "too short, between": ((10.0, 30.0), 1.0, 2000),
    "too long, between": ((10.0, 30.0), 100.0, 20),
    "far too long": ((0.0, 0.5), 1000.0, 1),
    "no time at all": ((10.0, 30.0), 0.0, 100),
    "unbounded": ((0.0, None), 1.0, 100),
}


@pytest.mark.parametrize(("bounds", "seconds", "steps"), INTERVALS.values(), ids=list(INTERVALS))
def test_steps_between_computes_are_adjusted_once(bounds, seconds, steps, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    shortest, longest = bounds
    module = RecMetricModule(
        N,
        1,
        TASKS,
        RecMetricList([case_of("ctr").make(tasks=TASKS)]),
        min_compute_interval=shortest,
        max_compute_interval=float("inf") if longest is None else longest,
    )
    module.compute()
    assert module.compute_interval_steps == 100
    for passed in (seconds, 1e6, 1e-6):
        now[0] += passed
        module.compute()
        assert module.compute_interval_steps == steps
        assert module.should_compute()
    assert module.compute_count == 4


@pytest.mark.parametrize(
    ("name", "value"), [("max_compute_interval", 0.0), ("min_compute_interval", -1.0)]
)
def test_intervals_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name[:3].title()} compute interval"):
        RecMetricModule(N, 1, **{name: value})


def test_memory_is_checked_on_request(caplog):
    metric = case_of("ne").make(tasks=TASKS)
    module = RecMetricModule(N, 1, TASKS, RecMetricList([metric]), memory_usage_limit_mb=0.0003)
    assert module.get_memory_usage() == 256
    with caplog.at_level(logging.WARNING):
        module.check_memory_usage(1)
        assert (module.oom_count, caplog.records) == (0, [])
        assert module.memory_usage_mb_avg == pytest.approx(256e-6)
        module.update(OUTPUTS)
        module.check_memory_usage(2)
    assert module.get_memory_usage() == 320
    assert module.oom_count == 1
    assert module.memory_usage_mb_avg == pytest.approx((256e-6 + 320e-6) / 2)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    module.memory_usage_mb_avg = 100e-6
    with caplog.at_level(logging.WARNING):
        module.check_memory_usage(101)
    assert len(caplog.records) == 3
    assert "average" in caplog.records[-1].getMessage()
    module.check_memory_usage(0)


def test_memory_is_checked_by_computes():
    module = generated(config_of("ne"))
    module.memory_usage_limit_mb = 0
    for _ in range(2):
        module.update(OUTPUTS)
        assert module.compute()
    assert module.oom_count == 2
    used = sum(sum(metric.get_memory_usage().values()) for metric in module.rec_metrics.rec_metrics)
    assert module.get_memory_usage() == used


def test_other_ranks_report_only_what_is_theirs():
    module = generated(config_of("ne", throughput_metric=ThroughputDef()), my_rank=1)
    module.update(OUTPUTS)
    assert all("throughput" in key for key in module.compute())
    assert "ne-a|local_lifetime_ne" in module.local_compute()


def test_extra_arguments_reach_the_metrics(monkeypatch):
    module, seen = generated(config_of("ne")), []
    monkeypatch.setattr(module.rec_metrics, "update", lambda **kwargs: seen.append(kwargs))
    module.update(OUTPUTS, extra=3)
    assert sorted(seen[0]) == ["extra", "labels", "predictions", "weights"]


def test_metrics_are_prepared_once_for_each_compute(monkeypatch):
    module, calls = generated(config_of("ne", "ctr")), []
    for metric in module.rec_metrics.rec_metrics:
        for computation in metric._metrics_computations:
            monkeypatch.setattr(computation, "pre_compute", lambda: calls.append(1))
    count = sum(len(metric._metrics_computations) for metric in module.rec_metrics.rec_metrics)
    module.compute()
    assert len(calls) == count
    module.local_compute()
    assert len(calls) == 2 * count
