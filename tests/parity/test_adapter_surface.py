"""The surface of torchmetrics on computations of both packages."""

import importlib
import warnings
from typing import Any

import numpy as np
import pytest
from adapter_pair import OURS, PACKAGES, THEIRS, make, module, tensor
from reference import CLASSES, CONTRACT, torch
from test_adapter_streams import assert_same

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torchmetrics: Any = importlib.import_module("torchmetrics")

OPTIONS: dict[str, dict[str, Any]] = {
    "mse": {"include_r_squared": True},
    "multiclass_recall": {"number_of_classes": 3},
}


def computation_of(package: str, name: str = "ne", **options: Any) -> Any:
    (computation,) = make(package, name, **options)._metrics_computations
    return computation


def examples(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng([76, seed])
    predictions = rng.permutation(np.arange(1 + seed, 64, 8))[None, :6] / 64  # never tied
    labels = np.array([[0.0, 1.0, 0.0, 1.0, 1.0, 0.0]])
    weights = rng.integers(1, 9, (1, 6)) / 8
    arrays = {"predictions": predictions, "labels": labels, "weights": weights}
    return {name: tensor(x) for name, x in arrays.items()}


def numbers(reports: Any) -> dict[str, Any]:
    return {f"{r.metric_prefix}{r.name}": r.value for r in reports}


def twice(x: Any, group: Any = None) -> list[Any]:
    return [x, x]


def test_computations_of_both_are_metrics_of_torchmetrics():
    for package in PACKAGES:
        assert isinstance(computation_of(package), torchmetrics.Metric)
        assert isinstance(computation_of(package, "auc"), torchmetrics.Metric)
        assert not isinstance(make(package, "ne"), torchmetrics.Metric)


@pytest.mark.parametrize("name", ["ne", "auc", "mse"])
def test_calls_and_what_they_leave_agree_with_the_reference(name):
    ours, theirs = (computation_of(package, name) for package in (OURS, THEIRS))
    for seed in range(3):
        given = [numbers(each(**examples(seed))) for each in (ours, theirs)]
        assert_same(f"{name}, call {seed}", *given)
        assert ours.update_count == theirs.update_count == seed + 1
        assert ours.update_called == theirs.update_called
    lifetime = [each.state_dict() for each in (ours, theirs)]
    assert_same(name, *lifetime)
    assert ours.device == theirs.device


def test_windows_outlive_calls_where_the_reference_forgets_what_is_in_them():
    for package, expected in ((OURS, 3), (THEIRS, 1)):
        computation = computation_of(package)
        for seed in range(3):
            computation(**examples(seed))
        window = computation._batch_window_buffers["window_pos_labels"]
        assert len(window.buffers) == expected


def test_states_are_gathered_alike_by_a_function_of_ones_own():
    for name in ("ne", "auc"):
        pair = [computation_of(package, name) for package in (OURS, THEIRS)]
        for each in pair:
            each.update(**examples())
            each.sync(dist_sync_fn=twice, distributed_available=lambda: True)
        assert_same(name, *(numbers(each.local_compute()) for each in pair))
        for each in pair:
            each.unsync()
            with each.sync_context(dist_sync_fn=twice, distributed_available=lambda: True):
                assert each._is_synced
            assert not each._is_synced
            each.persistent(mode=True)
        if name == "ne":
            assert_same(name, *(each.state_dict() for each in pair))


def test_dtypes_of_states_agree_with_the_reference_where_asked():
    dtypes = []
    for package in PACKAGES:
        computation = computation_of(package).float().half()
        computation.update(**examples())
        before = computation.pos_labels.dtype
        computation.set_dtype(torch.float32)
        computation.update(**examples())
        dtypes.append((before, *(x.dtype for x in computation.state_dict().values())))
        with pytest.raises(ValueError, match="sync_on_compute"):
            computation_of(package, sync_on_compute=3)
    assert dtypes[0] == dtypes[1]
    assert set(dtypes[0][1:]) == {torch.float32}


def test_computations_are_compared_where_the_reference_composes():
    for package, composed in ((OURS, False), (THEIRS, True)):
        first, second = computation_of(package), computation_of(package)
        result = first == second
        assert isinstance(result, torchmetrics.metric.CompositionalMetric) == composed
        assert bool(result) == composed


def test_hashes_stay_where_those_of_the_reference_follow_states():
    for package, stays in ((OURS, True), (THEIRS, False)):
        computation = computation_of(package, "auc")
        before = hash(computation)
        computation.update(**examples())
        assert (hash(computation) == before) == stays


def test_unsync_twice_is_harmless_where_the_reference_raises():
    computation_of(OURS).unsync()
    with pytest.raises(Exception, match="already been un-synced"):
        computation_of(THEIRS).unsync()


@pytest.mark.parametrize("name", [name for name in CLASSES if name in CONTRACT])
def test_fresh_metrics_hold_as_many_bytes_as_those_of_the_reference(name):
    options = OPTIONS.get(name, {})
    ours, theirs = (
        sum(make(package, name, **options).get_memory_usage().values())
        for package in (OURS, THEIRS)
    )
    assert ours == theirs > 0


def test_states_that_were_loaded_under_inference_mode_are_added_to_where_the_reference_fails():
    state = computation_of(OURS).state_dict()
    for package in PACKAGES:
        computation = computation_of(package)
        with torch.inference_mode():
            computation.load_state_dict({k: x.clone() for k, x in state.items()})
        if package == OURS:
            computation.update(**examples())
            assert computation.update_called
        else:
            with pytest.raises(RuntimeError, match="nference"):
                computation.update(**examples())


def test_tensors_that_fused_tasks_name_agree_with_the_reference():
    seen = {}
    for package in PACKAGES:
        ctr = module(package, "ctr")

        class Computation(ctr.CTRMetricComputation):
            def update(self, **arguments: Any) -> None:
                seen[self.package] = arguments["required_inputs"]
                super().update(**arguments)

        class Metric(ctr.CTRMetric):
            _computation_class = Computation

        Computation.package = package
        config = module(package, "metrics_config")
        tasks = [config.RecTaskInfo(name=n, tensor_name=x) for n, x in (("a", "x"), ("b", "y"))]
        mode = config.RecComputeMode.FUSED_TASKS_COMPUTATION
        metric = Metric(1, 0, 3, tasks, mode)
        arrays = {name: tensor([0.5, 0.25, 0.0]) for name in "ab"}
        metric.update(
            predictions=arrays,
            labels=arrays,
            weights=None,
            required_inputs={"x": tensor([1, 2, 3]), "y": tensor([4, 5, 6])},
        )
    assert_same("target tensors", seen[OURS], seen[THEIRS])
