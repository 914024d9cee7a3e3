"""Names, keys and definitions: what users write, what they read, and what is refused."""

import dataclasses
import pickle
import re
from enum import Enum
from typing import Any

import pytest

from recmetrics_jax.adapter import metrics_config, metrics_namespace
from recmetrics_jax.adapter.metrics_config import (
    BatchSizeStage,
    MetricsConfig,
    RecMetricDef,
    RecMetricEnum,
    RecMetricEnumBase,
    RecTaskInfo,
    SessionMetricDef,
    validate_batch_size_stages,
)
from recmetrics_jax.adapter.metrics_namespace import (
    MetricName,
    MetricNameBase,
    MetricNamespace,
    MetricPrefix,
    compose_customized_metric_key,
    compose_metric_key,
    compose_metric_namespace,
    task_wildcard_metrics_pattern,
)

# The number of members, and those whose value is not their name in lower case.
ENUMS = {
    MetricName: (58, {"DEFAULT": "", "LOG_LOSS": "logloss", "TOWER_QPS": "qps"}),
    MetricNamespace: (45, {"DEFAULT": "", "TOWER_QPS": "qps"}),
    MetricPrefix: (
        4,
        {
            "DEFAULT": "",
            "LIFETIME": "lifetime_",
            "WINDOW": "window_",
            "ATTEMPT": "attempt_",
        },
    ),
    RecMetricEnum: (40, {}),
    metrics_config.StateMetricEnum: (2, {}),
}


@pytest.mark.parametrize("enum", ENUMS, ids=lambda enum: enum.__name__)
def test_values_are_lower_case_names_with_few_exceptions(enum):
    n_members, exceptions = ENUMS[enum]
    assert len(enum.__members__) == n_members
    odd = {m.name: m.value for m in enum if m.value != m.name.lower()}
    assert odd == {name: value for name, value in exceptions.items() if value != name.lower()}


@pytest.mark.parametrize("enum", ENUMS, ids=lambda enum: enum.__name__)
def test_members_print_as_their_values_and_survive_pickling(enum):
    for member in enum:
        assert str(member) == f"{member}" == member.value
        assert pickle.loads(pickle.dumps(member)) is member


def test_users_extend_the_bases():
    class Mine(MetricNameBase):
        LIFT = "lift"

    class MyMetrics(RecMetricEnumBase):
        LIFT = "lift"

    assert compose_metric_key("mine", "t", Mine.LIFT) == "mine-t|lift"
    assert f"{MyMetrics.LIFT}" == "lift"
    assert issubclass(MetricNamespace, metrics_namespace.MetricNamespaceBase)
    assert issubclass(RecMetricEnum, RecMetricEnumBase)


KEYS = {
    "all enums": (
        compose_metric_key(MetricNamespace.NE, "t1", MetricName.NE, MetricPrefix.WINDOW),
        "ne-t1|window_ne",
    ),
    "no prefix": (
        compose_metric_key(MetricNamespace.TOWER_QPS, "t1", MetricName.TOTAL_EXAMPLES),
        "qps-t1|total_examples",
    ),
    "strings": (compose_metric_key("ne", "t1", "ne", "local_lifetime_"), "ne-t1|local_lifetime_ne"),
    "description": (
        compose_metric_key(MetricNamespace.AUC, "t", MetricName.AUC, MetricPrefix.WINDOW, "@a"),
        "auc-t|window_auc@a",
    ),
    "task names as they are": (compose_metric_key("ne", "a-b|c", "ne"), "ne-a-b|c|ne"),
    "namespace": (compose_metric_namespace(MetricNamespace.SERVING_NE, "t"), "serving_ne-t"),
    "customized": (compose_customized_metric_key("x", "y"), "x|y"),
    "customized with description": (compose_customized_metric_key("x", "y", "z"), "x|yz"),
    "pattern": (
        task_wildcard_metrics_pattern(MetricNamespace.NE, MetricName.NE, MetricPrefix.LIFETIME),
        r"ne-.+\|lifetime_ne",
    ),
    "pattern of strings": (task_wildcard_metrics_pattern("a", "b"), r"a-.+\|b"),
}


@pytest.mark.parametrize("name", KEYS)
def test_keys(name):
    key, expected = KEYS[name]
    assert key == expected
    assert type(key) is str


def test_pattern_finds_all_tasks_of_its_value():
    pattern = task_wildcard_metrics_pattern(
        MetricNamespace.NE, MetricName.NE, MetricPrefix.LIFETIME
    )
    keys = [
        compose_metric_key(namespace, task, name, prefix)
        for namespace in (MetricNamespace.NE, MetricNamespace.NE_POSITIVE)
        for task in ("a", "b")
        for name in (MetricName.NE, MetricName.LOG_LOSS)
        for prefix in (MetricPrefix.LIFETIME, MetricPrefix.WINDOW)
    ]
    found = [key for key in keys if re.fullmatch(pattern, key)]
    assert found == ["ne-a|lifetime_ne", "ne-b|lifetime_ne"]


FIELDS: dict[Any, dict[str, Any]] = {
    SessionMetricDef: {
        "session_var_name": "s",
        "top_threshold": None,
        "run_ranking_of_labels": False,
    },
    RecTaskInfo: {
        "name": "DefaultTask",
        "label_name": "label",
        "prediction_name": "prediction",
        "weight_name": "weight",
        "session_metric_def": None,
        "is_negative_task": False,
        "tensor_name": None,
        "weighted": True,
    },
    RecMetricDef: {
        "rec_tasks": [],
        "rec_task_indices": [],
        "window_size": 10_000_000,
        "arguments": None,
    },
    metrics_config.ThroughputDef: {"window_size": 100, "warmup_steps": 100},
    BatchSizeStage: {"batch_size": 0, "max_iters": 0},
    MetricsConfig: {
        "rec_tasks": [],
        "rec_metrics": {},
        "throughput_metric": None,
        "rec_compute_mode": metrics_config.RecComputeMode.UNFUSED_TASKS_COMPUTATION,
        "fused_update_limit": 0,
        "state_metrics": [],
        "compute_interval_steps": 100,
        "min_compute_interval": 0.0,
        "max_compute_interval": float("inf"),
        "compute_on_all_ranks": False,
        "should_validate_update": False,
        "enable_pt2_compile": False,
        "should_clone_update_inputs": False,
        "use_cpu_offloaded_rec_metric_module": None,
        "loss_aggregation": None,
        "num_micro_batches_per_step": 1,
    },
}


@pytest.mark.parametrize("definition", FIELDS, ids=lambda definition: definition.__name__)
def test_fields_in_order_with_their_defaults(definition):
    required: list[Any] = ["s"] if definition is SessionMetricDef else []
    made = definition(*required)
    assert list(vars(made).items()) == list(FIELDS[definition].items())
    assert definition(*vars(made).values()) == made
    for field in dataclasses.fields(definition):
        if isinstance(value := getattr(made, field.name), list | dict):
            assert getattr(definition(*required), field.name) is not value, field.name


@pytest.mark.parametrize("make", [lambda: RecTaskInfo("t"), lambda: SessionMetricDef("s", 3)])
def test_tasks_are_keys_of_dictionaries(make):
    assert {make(): 1}[make()] == 1
    assert make() != dataclasses.replace(make(), **{next(iter(vars(make()))): "other"})


def test_compute_modes():
    modes = {mode.name: mode.value for mode in metrics_config.RecComputeMode}
    assert modes == {
        "FUSED_TASKS_COMPUTATION": 1,
        "UNFUSED_TASKS_COMPUTATION": 2,
        "FUSED_TASKS_AND_STATES_COMPUTATION": 3,
    }


def test_ready_made_configs():
    default = metrics_config.DefaultMetricsConfig
    assert default.rec_tasks == [RecTaskInfo()] == [metrics_config.DefaultTaskInfo]
    assert list(default.rec_metrics) == [RecMetricEnum.NE]
    assert default.rec_metrics[RecMetricEnum.NE] == RecMetricDef(rec_tasks=[RecTaskInfo()])
    assert default.throughput_metric == metrics_config.ThroughputDef()
    assert default.state_metrics == []
    assert MetricsConfig() == metrics_config.EmptyMetricsConfig


def with_indices(metric: Any, *indices: int) -> MetricsConfig:
    tasks = [RecTaskInfo("a"), RecTaskInfo("b")]
    metrics: dict[Any, RecMetricDef] = {
        RecMetricEnum.CTR: RecMetricDef(rec_task_indices=[0, 1]),
        metric: RecMetricDef(rec_task_indices=list(indices)),
    }
    return MetricsConfig(rec_tasks=tasks, rec_metrics=metrics)


@pytest.mark.parametrize("indices", [(), (0,), (1, 0), (-1,), (-2, 1)], ids=str)
def test_indices_of_tasks_are_positions_in_a_list(indices):
    config = with_indices(RecMetricEnum.NE, *indices)
    assert config.rec_metrics[RecMetricEnum.NE].rec_task_indices == list(indices)


class Custom(RecMetricEnumBase):
    MINE = "mine"


@pytest.mark.parametrize(
    ("metric", "name"), [(RecMetricEnum.NE, "ne"), (Custom.MINE, "mine"), ("plain", "plain")]
)
@pytest.mark.parametrize("index", [2, 7, -3])
def test_an_index_out_of_range_is_named(metric: Enum | str, name, index):
    message = f"rec_task_indices {index} is out of range of 2 tasks for metric {name}"
    with pytest.raises(ValueError, match=re.escape(message)):
        with_indices(metric, 0, index)


@pytest.mark.parametrize(
    "stages",
    [
        None,
        [],
        [BatchSizeStage(1, None)],
        [BatchSizeStage(1, 9), BatchSizeStage(2, 3), BatchSizeStage(1, None)],
    ],
    ids=str,
)
def test_stages_without_an_end_are_fine(stages):
    validate_batch_size_stages(stages)


@pytest.mark.parametrize(
    "stages",
    [[BatchSizeStage()], [BatchSizeStage(1, None), BatchSizeStage(2, 0)]],
    ids=str,
)
def test_stages_with_an_end_are_named(stages):
    message = "batch_size_stages: expected max_iters = None in the last stage, got 0"
    with pytest.raises(ValueError, match=message):
        validate_batch_size_stages(stages)
