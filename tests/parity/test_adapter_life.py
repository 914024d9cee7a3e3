"""The life of a module beside the reference's: results, states as a tree, values of threads."""

import inspect
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from adapter_pair import OURS, PACKAGES, THEIRS, mode_of, module, tensor
from reference import torch

from recmetrics_jax.adapter._tensors import to_numpy

MODULES = [
    "deferrable_metrics",
    "metric_module",
    "metric_state_snapshot",
    "metric_job_types",
    "cpu_comms_metric_module",
    "cpu_offloaded_metric_module",
]


@pytest.mark.parametrize("name", MODULES)
def test_public_names_of_modules_are_there(name):
    theirs = module(THEIRS, name)
    public = {
        n
        for n, value in vars(theirs).items()
        if not n.startswith("_")
        and getattr(value, "__module__", theirs.__name__) == theirs.__name__
        and not inspect.ismodule(value)
    }
    # A type variable, and a helper for what torchmetrics remembers.
    ignored = {"logger", "T", "Any", "set_update_called"}
    assert public - ignored <= set(vars(module(OURS, name)))


CLASSES = [
    ("deferrable_metrics", "DeferrableMetrics"),
    ("metric_module", "RecMetricModule"),
    ("cpu_comms_metric_module", "CPUCommsRecMetricModule"),
    ("cpu_offloaded_metric_module", "CPUOffloadedRecMetricModule"),
    ("metric_job_types", "MetricUpdateJob"),
    ("metric_job_types", "MetricComputeJob"),
    ("metric_job_types", "SynchronizationMarker"),
    ("metric_state_snapshot", "MetricStateSnapshot"),
]


@pytest.mark.parametrize(("where", "name"), CLASSES)
def test_public_methods_take_the_same_arguments(where, name):
    ours, theirs = (getattr(module(package, where), name) for package in (OURS, THEIRS))
    methods = [n for n in vars(theirs) if not n.startswith("_") or n == "__init__"]
    methods = [n for n in methods if callable(getattr(theirs, n)) and n != "load_state_dict_hook"]
    for method in methods:
        expected = inspect.signature(getattr(theirs, method)).parameters
        actual = inspect.signature(getattr(ours, method)).parameters
        if any(p.kind is p.VAR_KEYWORD for p in actual.values()) and method == "state_dict":
            continue  # It passes on what torch's takes.
        for (key, parameter), ours_at in zip(expected.items(), actual.values(), strict=False):
            if not key.startswith("_") and (name, method) != ("DeferrableMetrics", "update"):
                assert (key, parameter.default) == (ours_at.name, ours_at.default), method
        assert len(actual) >= sum(not key.startswith("_") for key in expected), method


def outcomes(package: str, steps: Callable[[Any, Any, list[Any]], Any]) -> list[Any]:
    """What is seen of metrics on their way while steps are taken."""
    future: Future[dict[str, Any]] = Future()
    metrics = module(package, "deferrable_metrics").DeferrableMetrics(future)
    seen: list[Any] = []
    steps(metrics, future, seen)
    return [dict(x) if isinstance(x, dict) else x for x in seen]


def subscribed(metrics: Any, future: Any, seen: list[Any]) -> None:
    metrics.subscribe(lambda values: seen.append(dict(values)))
    seen.append(metrics.is_resolved())
    future.set_result({"a": 1})
    seen += [metrics["a"], len(metrics), list(metrics), bool(metrics), metrics.is_resolved()]


def added_to(metrics: Any, future: Any, seen: list[Any]) -> None:
    metrics.update({"b": 2})
    metrics.subscribe(lambda values: seen.append(dict(values)))
    seen.append(repr(metrics))
    future.set_result({"a": 1})
    metrics["c"] = 3
    seen += [dict(metrics), repr(metrics), "a" in metrics, metrics.get("z", 9)]


def failed(metrics: Any, future: Any, seen: list[Any]) -> None:
    metrics.subscribe(seen.append, lambda error: seen.append(type(error)))
    future.set_exception(KeyError("x"))
    try:
        metrics.resolve()
    except KeyError:
        seen.append("raised")


@pytest.mark.parametrize("steps", [subscribed, added_to, failed])
def test_metrics_on_their_way_behave_alike(steps):
    ours, theirs = outcomes(OURS, steps), outcomes(THEIRS, steps)
    assert ours == theirs
    assert len(ours) >= 2


def test_metrics_that_nobody_has_asked_for_are_resolved_once_they_are_there():
    for package in PACKAGES:
        future: Future[dict[str, Any]] = Future()
        metrics = module(package, "deferrable_metrics").DeferrableMetrics(future)
        future.set_result({})
        assert metrics.is_resolved() == (package == OURS)


def test_values_that_are_added_after_a_subscription_stay():
    for package in PACKAGES:
        future: Future[dict[str, Any]] = Future()
        metrics = module(package, "deferrable_metrics").DeferrableMetrics(future)
        metrics.subscribe(lambda values: None)
        metrics.update({"b": 2})
        future.set_result({"a": 1})
        assert ("b" in metrics) == (package == OURS)


@pytest.fixture(scope="module", autouse=True)
def one_rank() -> Iterator[None]:
    """This process as the only rank."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


METRICS = ("NE", "CTR", "AUC", "MAE")
OFFLOADED = "cpu_offloaded_metric_module", "CPUOffloadedRecMetricModule"


def make(
    package: str,
    *names: str,
    is_fused: bool = False,
    of: tuple[str, str] = ("metric_module", "RecMetricModule"),
    **options: Any,
) -> Any:
    """A module of two tasks that have outputs of their own."""
    config, modules = module(package, "metrics_config"), module(package, "metric_module")
    tasks = [
        config.RecTaskInfo(t, f"{t}_label", f"{t}_prediction", f"{t}_weight") for t in ("a", "b")
    ]
    metrics = {
        config.RecMetricEnum[name]: config.RecMetricDef(rec_tasks=tasks, window_size=20)
        for name in names or METRICS
    }
    return modules.generate_metric_module(
        getattr(module(package, of[0]), of[1]),
        metrics_config=config.MetricsConfig(
            rec_tasks=tasks,
            rec_metrics=metrics,
            rec_compute_mode=mode_of(package, is_fused),
            throughput_metric=config.ThroughputDef(),
        ),
        batch_size=8,
        world_size=1,
        my_rank=0,
        state_metrics_mapping={},
        device=torch.device("cpu"),
        module_kwargs=options,
    )


def outputs(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng([83, seed])
    found = {}
    for task in "ab":
        found[f"{task}_label"] = tensor(rng.integers(0, 2, 8).astype(float))
        found[f"{task}_prediction"] = tensor((2 * rng.permutation(8) + 1) / 16 + seed / 1000)
        found[f"{task}_weight"] = tensor(rng.integers(1, 4, 8).astype(float))
    return found


def updated(package: str, *names: str, times: int = 3, **options: Any) -> Any:
    made = make(package, *names, **options)
    for seed in range(times):
        made.update(outputs(seed))
    return made


def computed(made: Any) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
        return {k: to_numpy(x).copy() for k, x in made.compute().items()}


def assert_alike(ours: Any, theirs: Any) -> None:
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        assert ours[key].dtype == value.dtype, key
        np.testing.assert_allclose(ours[key], value, rtol=1e-6, err_msg=key)


def leaves(tree: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """The states of a tree by path."""
    if isinstance(tree, dict):
        return {
            k: v for name, of in tree.items() for k, v in leaves(of, (*path, str(name))).items()
        }
    arrays = tree if isinstance(tree, list) else [tree]
    return {"/".join([*path, str(i)]): to_numpy(x).copy() for i, x in enumerate(arrays)}


@pytest.mark.parametrize("is_fused", [False, True], ids=["unfused", "fused"])
def test_states_as_a_tree_are_the_same_and_load_from_either(is_fused):
    ours, theirs = (updated(package, is_fused=is_fused) for package in (OURS, THEIRS))
    trees = [made.get_pre_compute_states() for made in (ours, theirs)]
    our_leaves, their_leaves = map(leaves, trees)
    assert sorted(our_leaves) == sorted(their_leaves)
    for key, value in their_leaves.items():
        assert our_leaves[key].shape == value.shape, key
        assert our_leaves[key].dtype == value.dtype, key
        np.testing.assert_allclose(our_leaves[key], value, rtol=1e-6, err_msg=key)
    expected = computed(theirs)
    for package in (OURS, THEIRS):
        for tree in trees:
            made = make(package, is_fused=is_fused)
            made.load_pre_compute_states(tree)
            assert_alike(computed(made), expected)


def test_examples_that_were_loaded_stay_when_others_come():
    for package in PACKAGES:
        made = make(package, "AUC")
        made.load_pre_compute_states(updated(package, "AUC", times=1).get_pre_compute_states())
        made.update(outputs(1))
        (states,) = [m._metrics_computations[0] for m in made.rec_metrics.rec_metrics]
        count = sum(chunk.shape[1] for chunk in states.predictions)
        assert count == (16 if package == OURS else 8)


def test_old_counters_are_left_out_of_checkpoints_as_there():
    ours, theirs = updated(OURS), updated(THEIRS)
    for source, target in ((ours, make(THEIRS)), (theirs, make(OURS)), (theirs, make(THEIRS))):
        target.load_state_dict({"_trained_batches": torch.tensor(3), **source.state_dict()})
        assert sorted(target.state_dict()) == sorted(source.state_dict())


def test_metrics_are_found_at_other_places_where_the_reference_fails():
    for package in PACKAGES:
        source, target = updated(package, "CTR", "NE"), make(package, "NE", "CTR")
        if package == THEIRS:
            with pytest.raises(RuntimeError, match="Unexpected key"):
                target.load_state_dict(source.state_dict())
        else:
            target.load_state_dict(source.state_dict())
            key = "ne-a|lifetime_ne"
            assert computed(target)[key] == computed(source)[key]


def at_once(made: Any) -> dict[str, Any]:
    """The values of a module that computes beside its caller."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
        return {k: to_numpy(x).copy() for k, x in made.async_compute().resolve().items()}


def offloaded(package: str, *names: str, **options: Any) -> Any:
    device = torch.device("cpu")
    return make(package, *names, of=OFFLOADED, model_out_device=device, **options)


def test_values_of_threads_are_the_same():
    made = {package: offloaded(package, update_batch_size=1) for package in (OURS, THEIRS)}
    for seed in range(4):
        for each in made.values():
            each.update(outputs(seed))
        if seed % 2:
            assert_alike(*map(at_once, made.values()))
    for each in made.values():
        each.sync()
    assert_alike(
        *({k: to_numpy(x) for k, x in each.state_dict().items()} for each in made.values())
    )
    for each in made.values():
        each.shutdown()
        each.shutdown()


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_batches_are_taken_in_one_by_one_where_the_reference_joins_them():
    found = {}
    for package in PACKAGES:
        made = offloaded(package, "XAUC", update_batch_size=2)
        for seed in range(2):
            made.update(outputs(seed))
        found[package] = at_once(made)["xauc-a|lifetime_xauc"]
        made.shutdown()
    plain = computed(updated(THEIRS, "XAUC", times=2))["xauc-a|lifetime_xauc"]
    assert found[OURS] == pytest.approx(plain, rel=1e-6)
    assert found[THEIRS] != pytest.approx(plain, rel=1e-3)


def test_checkpoints_of_threads_hold_what_has_come_in_where_the_reference_s_are_empty():
    for package in PACKAGES:
        made = offloaded(package, "CTR", update_batch_size=1)
        made.update(outputs(0))
        made.update_queue.join()
        key = "rec_metrics.rec_metrics.0._metrics_computations.0.ctr_denom"
        assert (made.state_dict()[key].item() > 0) == (package == OURS)
        made.shutdown()


def test_values_behind_a_failed_update_fail_where_the_reference_never_gives_them():
    for package in PACKAGES:
        made = offloaded(package, "CTR", update_batch_size=1)
        made.update({"a_label": torch.ones(1)})
        made.update_queue.join()
        made.update_thread.join(1.0) if package == THEIRS else None
        with pytest.raises(ValueError, match="not found in model output"):
            made.update(outputs(0))
        # In the reference the thread is gone, and with it who would answer what is in the queue.
        assert made.update_thread.is_alive() == (package == OURS)
        with pytest.raises(ValueError, match="not found in model output"):
            made.shutdown()


def update_often(made: Any) -> None:
    for _ in range(4):
        made.update(outputs(0))


def test_full_queues_raise_alike():
    for package in PACKAGES:
        made = offloaded(package, "CTR", update_queue_size=1, update_batch_size=1)
        opened = threading.Event()
        made._prepare_model_out_for_metrics = lambda x, opened=opened: opened.wait(60) and x
        error = module(package, "rec_metric").RecMetricException
        try:
            with pytest.raises(error, match="update metric queue is full"):
                update_often(made)
        finally:
            opened.set()
        made.shutdown()
