"""Names, configurations, parsed outputs and throughput agree with the reference's."""

import dataclasses
import importlib
import inspect
import itertools
import logging
import warnings
from typing import Any

import numpy as np
import pytest
import reference

from recmetrics_jax.adapter import metrics_config, metrics_namespace, model_utils, throughput
from recmetrics_jax.adapter._tensors import to_numpy

torch: Any = reference.torch
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    ref: dict[str, Any] = {
        name: importlib.import_module(f"torchrec.metrics.{name}")
        for name in ("metrics_namespace", "metrics_config", "model_utils", "throughput")
    }
OURS: dict[str, Any] = {
    "metrics_namespace": metrics_namespace,
    "metrics_config": metrics_config,
    "model_utils": model_utils,
    "throughput": throughput,
}

ENUMS = [
    ("metrics_namespace", "MetricName"),
    ("metrics_namespace", "MetricNamespace"),
    ("metrics_namespace", "MetricPrefix"),
    ("metrics_config", "RecMetricEnum"),
    ("metrics_config", "StateMetricEnum"),
    ("metrics_config", "RecComputeMode"),
]


def both(module: str, name: str) -> tuple[Any, Any]:
    return getattr(OURS[module], name), getattr(ref[module], name)


@pytest.mark.parametrize("module", OURS)
def test_all_names_of_the_modules_are_there(module):
    def own(where: Any) -> set[str]:
        return {
            name
            for name, value in vars(where).items()
            if getattr(value, "__module__", None) == where.__name__
            or isinstance(value, int | where.__dict__.get("MetricsConfig", int))
        }

    private = {"_create_default_metrics_config", "_create_empty_metrics_config"}
    assert own(ref[module]) - private <= set(vars(OURS[module]))


@pytest.mark.parametrize(("module", "name"), ENUMS)
def test_enums_have_the_same_members_in_order(module, name):
    ours, theirs = both(module, name)
    members = [(m.name, m.value) for m in ours if m.value not in reference.AFTER]
    assert members == [(m.name, m.value) for m in theirs]


LATER = ["loss_aggregation", "num_micro_batches_per_step"]  # than 1.9.2


@pytest.mark.parametrize(
    "name",
    [
        "RecTaskInfo",
        "SessionMetricDef",
        "RecMetricDef",
        "ThroughputDef",
        "MetricsConfig",
        "BatchSizeStage",
    ],
)
def test_definitions_have_the_same_fields_and_defaults(name):
    def fields(definition: Any) -> list[tuple[str, str, str]]:
        return [
            (field.name, str(field.default), getattr(field.default_factory, "__name__", ""))
            for field in dataclasses.fields(definition)
        ]

    ours, theirs = both("metrics_config", name)
    later = LATER if name == "MetricsConfig" else []
    assert fields(ours)[: len(fields(theirs))] == fields(theirs)
    assert [field for field, *_ in fields(ours)[len(fields(theirs)) :]] == later
    assert (ours.__hash__ is None) == (theirs.__hash__ is None)


@pytest.mark.parametrize("name", ["DefaultTaskInfo", "DefaultMetricsConfig", "EmptyMetricsConfig"])
def test_ready_made_configs_are_the_same(name):
    ours, theirs = both("metrics_config", name)
    assert repr(ours).startswith(repr(theirs)[:-1])


@pytest.mark.parametrize(
    "name",
    [
        "session_ids_to_tensor",
        "is_empty_signals",
        "parse_model_outputs",
        "parse_required_inputs",
        "parse_task_model_outputs",
    ],
)
def test_functions_take_the_same_arguments(name):
    ours, theirs = (inspect.signature(f).parameters.values() for f in both("model_utils", name))
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in theirs]


SHAPES = [
    (),
    (1,),
    (2,),
    (3,),
    (0,),
    (3, 1),
    (1, 3),
    (3, 2),
    (2, 3),
    (3, 3),
    (0, 2),
    (6,),
    (3, 2, 2),
]


@pytest.fixture
def quiet():
    logger = logging.getLogger("torchrec.metrics.model_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("labels", SHAPES, ids=str)
def test_outputs_of_any_shapes_are_parsed_alike(labels):
    outcomes = set()
    for predictions, weights in itertools.product(SHAPES, SHAPES):
        shapes = (labels, predictions, weights)
        model_out = {name: torch.rand(s) for name, s in zip("ypw", shapes, strict=True)}
        try:
            expected = ref["model_utils"].parse_model_outputs("y", "p", "w", dict(model_out))
        except (AssertionError, IndexError, ZeroDivisionError):
            outcomes.add("refused")
            with pytest.raises(ValueError, match="xpect"):
                model_utils.parse_model_outputs("y", "p", "w", model_out)
            continue
        outcomes.add("parsed")
        for ours, theirs in zip(
            model_utils.parse_model_outputs("y", "p", "w", model_out), expected, strict=True
        ):
            assert torch.equal(ours, theirs), shapes
    assert outcomes == {"parsed", "refused"}


@pytest.mark.parametrize("seed", range(5))
def test_tasks_and_required_inputs_are_parsed_alike(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 9))
    shapes = [(n,), (n, 1), (0,)]
    model_out: dict[str, Any] = {}
    tasks = []
    for i in range(6):
        shape = shapes[rng.integers(3)]
        names = [f"{kind}{i}" for kind in "ypw"]
        model_out |= {name: torch.rand(shape) for name in names}
        tasks.append((f"ndcg{i}", *(names if i % 3 else [names[0], "", ""])))
    model_out["session"] = list(rng.choice(["a", "b", "c"], n))
    model_out["session"].sort()
    required = ["session", "y1"]
    ours = model_utils.parse_task_model_outputs(
        [metrics_config.RecTaskInfo(*names) for names in tasks], model_out, required
    )
    theirs = ref["model_utils"].parse_task_model_outputs(
        [ref["metrics_config"].RecTaskInfo(*names) for names in tasks], dict(model_out), required
    )
    assert isinstance(model_out["session"], list)
    for our, their in zip(ours, theirs, strict=True):
        assert list(our) == list(their)
        for name in our:
            assert torch.equal(our[name], their[name]), name
            assert our[name].dtype == their[name].dtype


def drive(module: Any, config: Any, seed: int, monkeypatch: Any) -> list[dict[str, Any]]:
    """The values after each of a stream of steps, with restarts from checkpoints in between."""
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {
        "batch_size": int(rng.integers(1, 9)),
        "world_size": int(rng.integers(1, 4)),
        "window_seconds": int(rng.integers(1, 9)),
        "warmup_steps": int(rng.integers(1, 4)),
    }
    if seed % 2:
        sizes, ends = rng.integers(1, 9, 3).tolist(), [5, 11, None]
        options["batch_size_stages"] = [
            config.BatchSizeStage(size, end) for size, end in zip(sizes, ends, strict=True)
        ]
    now = [float(rng.integers(1, 100))]
    monkeypatch.setattr(module, "MAX_WINDOW_TS", 8)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    metric = module.ThroughputMetric(**options)
    reports = []
    for i in range(40):
        # Dyadic seconds: their sums are exact in any order.
        now[0] += float(rng.choice([0, 0.125, 0.25, 1, 2, 20], p=[0.1, 0.3, 0.3, 0.1, 0.1, 0.1]))
        metric.update()
        # Copies: the reference's go on counting.
        reports.append({key: to_numpy(value).copy() for key, value in metric.compute().items()})
        if i in (12, 27):
            state = metric.state_dict()
            metric = module.ThroughputMetric(**options)
            metric.load_state_dict(state)
    reports.append({key: to_numpy(value) for key, value in metric.state_dict().items()})
    return reports


@pytest.mark.parametrize("seed", range(12))
def test_throughput_agrees_step_by_step(seed, monkeypatch):
    ours = drive(throughput, metrics_config, seed, monkeypatch)
    theirs = drive(ref["throughput"], ref["metrics_config"], seed, monkeypatch)
    assert len(ours[-2]) >= 5
    for i, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        assert list(our) == list(their), i
        for key, value in our.items():
            expected = their[key]
            if np.isinf(expected):  # Examples in no time, after a restart: 0 here.
                expected = np.zeros_like(expected)
            assert value == expected, (i, key)
            assert value.dtype == expected.dtype, (i, key)


@pytest.mark.parametrize("stages", [None, [(2, 3), (4, None)]], ids=str)
def test_checkpoints_of_the_reference_resume_here_and_back(stages):
    def make(module: Any, config: Any) -> Any:
        made = stages and [config.BatchSizeStage(*stage) for stage in stages]
        return module.ThroughputMetric(
            batch_size=2, world_size=1, window_seconds=5, warmup_steps=2, batch_size_stages=made
        )

    pair = [(throughput, metrics_config), (ref["throughput"], ref["metrics_config"])]
    for first, second in (pair, pair[::-1]):
        source, target = make(*first), make(*second)
        for _ in range(5):
            source.update()
        target.load_state_dict(source.state_dict())
        ours, theirs = source.state_dict(), target.state_dict()
        assert list(ours) == list(theirs)
        for key in ours:
            assert torch.equal(ours[key], theirs[key]), key
            assert ours[key].dtype == theirs[key].dtype
