"""Checkpoints and copies of metrics: what is in them, and that they go their own ways."""

import copy
import pickle
from typing import Any

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
    every_case,
    every_variant,
    needs_torch,
    unchanged,
    values,
)

from recmetrics_jax.adapter._tensors import from_numpy, kind_of, to_numpy, torch
from recmetrics_jax.adapter.metric_module import RecMetricModule
from recmetrics_jax.adapter.metrics_config import RecTaskInfo
from recmetrics_jax.adapter.rec_metric import RecMetricList
from recmetrics_jax.adapter.throughput import ThroughputMetric

STATES = {
    "ne": ["cross_entropy_sum", "weighted_num_samples", "pos_labels", "neg_labels"],
    "calibration": ["calibration_num", "calibration_denom"],
    "ctr": ["ctr_num", "ctr_denom"],
    "mse": ["error_sum", "weighted_num_samples"],
    "mse with r_squared": ["error_sum", "weighted_num_samples", "label_sum", "label_squared_sum"],
    "mae": ["error_sum", "weighted_num_samples"],
    "accuracy": ["accuracy_sum", "weighted_num_samples"],
    "precision": ["true_pos_sum", "false_pos_sum"],
    "recall": ["true_pos_sum", "false_neg_sum"],
    "weighted_avg": ["weighted_sum", "weighted_num_samples"],
    "multiclass_recall": ["tp_at_k", "total_weights"],
    "xauc": ["error_sum", "weighted_num_pairs"],
    "ndcg": ["sum_ndcg", "num_sessions"],
    "unweighted_ne": ["cross_entropy_sum", "weighted_num_samples", "pos_labels", "neg_labels"],
    "gauc": ["auc_sum", "num_samples"],
    "auc": [],
    "auprc": [],
    "rauc": [],
}


def updated(name: str, *seeds: int, **arguments: Any) -> Any:
    metric = case_of(name).make(**arguments)
    for seed in seeds:
        metric.update(**batch(case_of(name), seed))
    return metric


@pytest.mark.parametrize("name", STATES)
def test_lifetime_states_have_documented_keys(name):
    for mode, computations in ((UNFUSED, 2), (FUSED, 1)):
        state = updated(name, 0, compute_mode=mode).state_dict()
        assert list(state) == [
            f"_metrics_computations.{i}.{key}" for i in range(computations) for key in STATES[name]
        ]
        n_tasks = 2 // computations
        for key, value in state.items():
            assert to_numpy(value).dtype == np.float64
            assert value.shape[0] == n_tasks, key


@every_variant
def test_a_restored_metric_has_the_lifetime_values(case):
    metric, other = case.make(), case.make()
    for seed in (0, 1):
        metric.update(**batch(case, seed))
    other.load_state_dict(metric.state_dict())
    expected = values(metric)
    for key, value in values(other).items():
        if "|lifetime" in key and case.namespace != "auprc":
            np.testing.assert_array_equal(value, expected[key], err_msg=key)
    for each in (metric, other):
        each.update(**batch(case, 2))
    assert_same(other.state_dict(), metric.state_dict())


@every_case
def test_state_dicts_and_metrics_share_nothing(case):
    metric, other = case.make(), case.make()
    metric.update(**batch(case, 0))
    state = metric.state_dict()
    kept = copy.deepcopy(state)
    other.load_state_dict(state)
    for each in (metric, other):
        each.update(**batch(case, 1))
    assert_same(state, kept)
    with unchanged(metric, other):
        for value in state.values():
            value[...] = 7.0


def test_any_arrays_can_be_loaded():
    state = updated("ne", 0).state_dict()
    for convert in (to_numpy, lambda x: to_numpy(x).astype(np.float32), from_numpy):
        metric = case_of("ne").make()
        metric.load_state_dict({key: convert(to_numpy(x)) for key, x in state.items()})
        (first, _) = metric._metrics_computations
        assert to_numpy(first.pos_labels).dtype == np.float64
        assert kind_of(first.pos_labels) == kind_of(next(iter(state.values())))


def test_keys_may_be_missing_but_not_unknown():
    metric = updated("ctr", 0)
    with unchanged(metric):
        metric.load_state_dict({})
    with unchanged(metric), pytest.raises(RuntimeError, match="x"):
        metric.load_state_dict({"x": np.ones(1)})
    metric.load_state_dict({"x": from_numpy(np.ones(1))}, strict=False)


@pytest.mark.parametrize("shape", [(2,), (0,), (1, 1)], ids=str)
def test_states_of_other_shapes_are_named(shape):
    metric = updated("ctr", 0)
    key = "_metrics_computations.1.ctr_num"
    with unchanged(metric), pytest.raises(RuntimeError, match=key):
        metric.load_state_dict({key: from_numpy(np.ones(shape))})


def test_prefixes_and_destinations():
    destination = {"mine": 1}
    state = updated("ctr", 0).state_dict(destination, prefix="p.")
    assert state is destination
    assert list(state)[:2] == ["mine", "p._metrics_computations.0.ctr_num"]


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
}
copies = pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))


@copies
@every_variant
def test_copies_of_metrics_go_their_own_ways(case, copied):
    metric = case.make(window_size=2 * N)
    for seed in (0, 1):
        metric.update(**batch(case, seed))
    other = copied(metric)
    before = values(metric)
    assert_same(values(other), before)
    with unchanged(metric):
        other.update(**batch(case, 2))
        other.update(**batch(case, 3))
    for seed in (2, 3):
        metric.update(**batch(case, seed))
    assert_same(values(other), values(metric))
    with unchanged(metric):
        other.reset()
        other.update(**batch(case, 0))


@copies
def test_copies_keep_batches_that_wait(copied):
    metric = updated("ctr", 0, fused_update_limit=3)
    other = copied(metric)
    with unchanged(metric):
        assert_same(values(other), values(updated("ctr", 0)))


@copies
@every_case
def test_copies_of_computations(case, copied):
    metric = case.make(tasks=[RecTaskInfo(name="a")])
    metric.update(**batch(case, 0, tasks=("a",)))
    (computation,) = metric._metrics_computations
    other = copied(computation)
    for ours, theirs in zip(other.compute(), computation.compute(), strict=True):
        assert (ours.name, ours.metric_prefix) == (theirs.name, theirs.metric_prefix)
        np.testing.assert_array_equal(to_numpy(ours.value), to_numpy(theirs.value))


OUTPUTS = {"a": ("y", "p", "w"), "b": ("y2", "p2", "w2")}


def module_of(*names: str) -> RecMetricModule:
    tasks = [RecTaskInfo(name, *outputs) for name, outputs in OUTPUTS.items()]
    metrics: list[Any] = [case_of(name).make(tasks=tasks, window_size=2 * N) for name in names]
    throughput = ThroughputMetric(batch_size=N, world_size=1, window_seconds=10)
    return RecMetricModule(N, 1, tasks, RecMetricList(metrics), throughput)


def outputs(seed: int) -> dict[str, Any]:
    arguments = batch(case_of("ndcg"), seed)
    arrays = ("labels", "predictions", "weights")
    return {
        output: arguments[array][task]
        for task, names in OUTPUTS.items()
        for array, output in zip(arrays, names, strict=True)
    } | arguments["required_inputs"]


def values_of(module: Any) -> dict[str, Any]:
    return {key: value for key, value in values(module).items() if "throughput" not in key}


@copies
def test_copies_of_modules_go_their_own_ways(copied):
    module = module_of("ne", "auc", "ndcg")
    for seed in (0, 1):
        module.update(outputs(seed))
    other = copied(module)
    assert_same(values_of(other), values_of(module))
    assert other.trained_batches == 2
    assert other.throughput_metric.total_examples.item() == 2 * N
    with unchanged(*module.rec_metrics.rec_metrics):
        other.update(outputs(2))
    module.update(outputs(2))
    assert_same(values_of(other), values_of(module))


def test_checkpoints_of_modules_have_documented_keys():
    module = module_of("ne", "auc", "ctr")
    module.update(outputs(0))
    state = module.state_dict()
    expected = [
        f"rec_metrics.rec_metrics.{m}._metrics_computations.{i}.{name}"
        for m, metric in ((0, "ne"), (2, "ctr"))
        for i in range(2)
        for name in STATES[metric]
    ]
    counters = ["total_examples", "warmup_examples", "time_lapse_after_warmup"]
    assert sorted(state) == sorted([*expected, *(f"throughput_metric.{name}" for name in counters)])


def test_the_procedure_of_checkpoints_in_one_process():
    module, restored = module_of("ne", "mse"), module_of("ne", "mse")
    for seed in (0, 1):
        module.update(outputs(seed))
    module.sync()
    state = module.state_dict()
    module.unsync()
    module.unsync()
    restored.update(outputs(3))
    restored.reset()
    restored.load_state_dict(state)
    for key, value in values_of(restored).items():
        if "|lifetime" in key:
            np.testing.assert_array_equal(value, values_of(module)[key])
        else:  # Windows begin anew.
            np.testing.assert_array_equal(value, np.nan if "ne-" in key else 0.0)
    assert to_numpy(restored.compute()["throughput-throughput|total_examples"]) == 2 * N
    for each in (module, restored):
        each.update(outputs(2))
    assert values_of(restored)["ne-a|lifetime_ne"] == values_of(module)["ne-a|lifetime_ne"]


@needs_torch
def test_inside_a_module_of_torch():
    metric = case_of("ne").make(tasks=TASKS[:1])

    class Model(torch.nn.Module):
        def __init__(self, metric: Any) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.metric = metric

    model = Model(metric)
    metric.update(**batch(case_of("ne"), 0, tasks=("a",)))
    keys = [f"metric._metrics_computations.0.{name}" for name in STATES["ne"]]
    assert list(model.state_dict()) == ["layer.weight", "layer.bias", *keys]
    assert len(list(model.parameters())) == 2
    expected = values(metric)
    for moved in (model.to("cpu"), model.half(), model.double(), model.eval(), model.train()):
        assert_same(values(moved.metric), expected)
    other = Model(case_of("ne").make(tasks=TASKS[:1]))
    other.load_state_dict(model.state_dict())
    assert values(other.metric)["ne-a|lifetime_ne"] == expected["ne-a|lifetime_ne"]
    for loaded in (copy.deepcopy(model), pickle.loads(pickle.dumps(metric))):
        assert_same(values(getattr(loaded, "metric", loaded)), expected)
    assert metric in list(model.modules())


@needs_torch
def test_torch_saves_and_loads(tmp_path):
    module = module_of("ne", "auc")
    module.update(outputs(0))
    torch.save(module.state_dict(), tmp_path / "state.pt")
    other = module_of("ne", "auc")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert values_of(other)["ne-a|lifetime_ne"] == values_of(module)["ne-a|lifetime_ne"]
