"""`CPUOffloadedRecMetricModule`: the values of a module, computed beside its caller."""

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from adapter_cases import FUSED, UNFUSED, N, assert_same, every_kind, values
from test_modules import OUTPUTS, Optimizer, config_of, generated

from recmetrics_jax.adapter._tensors import as_kind, to_numpy
from recmetrics_jax.adapter.cpu_comms_metric_module import CPUCommsRecMetricModule
from recmetrics_jax.adapter.cpu_offloaded_metric_module import CPUOffloadedRecMetricModule
from recmetrics_jax.adapter.metric_state_snapshot import MetricStateSnapshot
from recmetrics_jax.adapter.metrics_config import StateMetricEnum, ThroughputDef
from recmetrics_jax.adapter.rec_metric import RecMetricException

NAMES = ("ctr", "mse", "auc", "xauc")
MODULES: list[CPUOffloadedRecMetricModule] = []


@pytest.fixture(autouse=True)
def no_threads_are_left() -> Iterator[None]:
    """Ends what a test has left running."""
    yield
    for module in MODULES:
        try:
            module.shutdown()
        except Exception:
            assert module._workers.is_closed
        assert not module.update_thread.is_alive()
        assert not module.compute_thread.is_alive()
    MODULES.clear()


def offloaded(*names: str, module_kwargs: Any = None, **options: Any) -> Any:
    module = generated(
        config_of(*names, **options),
        metric_class=CPUOffloadedRecMetricModule,
        module_kwargs={"model_out_device": "cpu", **(module_kwargs or {})},
    )
    MODULES.append(module)
    return module


def outputs(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, N + 1))
    return {name: x[rng.permutation(N)[:size]] for name, x in OUTPUTS.items()}


class Gate:
    """Holds a thread at the door of the states until it is opened."""

    def __init__(self, module: Any, monkeypatch: Any) -> None:
        self.opened, self.reached = threading.Event(), threading.Event()
        prepare = module._prepare_model_out_for_metrics

        def wait(model_out: Any) -> Any:
            self.reached.set()
            assert self.opened.wait(60)
            return prepare(model_out)

        monkeypatch.setattr(module, "_prepare_model_out_for_metrics", wait)


@every_kind
@pytest.mark.parametrize("mode", [UNFUSED, FUSED], ids=["unfused", "fused"])
def test_values_are_those_of_a_module_that_computes_at_once(mode, kind):
    options: Any = {"rec_compute_mode": mode, "window": 3 * N}
    module, plain = offloaded(*NAMES, **options), generated(config_of(*NAMES, **options))
    asked, expected = [], []
    for seed in range(7):
        arrays = {name: as_kind(x, kind) for name, x in outputs(seed).items()}
        for each in (module, plain):
            each.update(arrays)
        if seed % 3 == 0:
            asked.append(module.async_compute())
            expected.append(plain.compute())
    for metrics, values_then in zip(asked, expected, strict=True):
        assert_same(metrics, values_then)
    assert module.trained_batches == plain.trained_batches == 7
    assert module.compute_count == 3


def test_nothing_waits_for_the_states(monkeypatch):
    module = offloaded("ctr", throughput_metric=ThroughputDef())
    gate = Gate(module, monkeypatch)
    for seed in range(3):
        module.update(outputs(seed))
    metrics = module.async_compute()
    assert gate.reached.wait(60)
    assert not metrics.is_resolved()
    assert module.update_queue.qsize() == 3
    total = "throughput-throughput|total_examples"
    assert module.compute_throughput()[total] == 3 * N
    module.update(outputs(3))  # Is not among the values, nor in the throughput with them.
    gate.opened.set()
    assert metrics.resolve()[total] == 3 * N
    plain = generated(config_of("ctr"))
    for seed in range(3):
        plain.update(outputs(seed))
    for key, value in plain.compute().items():
        assert to_numpy(metrics[key]) == to_numpy(value)


def test_components_report_the_time_of_the_call(monkeypatch):
    source = Optimizer()
    config = config_of("ctr", state_metrics=[StateMetricEnum.OPTIMIZERS])
    module = generated(
        config,
        metric_class=CPUOffloadedRecMetricModule,
        state_metrics_mapping={StateMetricEnum.OPTIMIZERS: source},
        module_kwargs={"model_out_device": "cpu"},
    )
    MODULES.append(module)
    module.update(OUTPUTS)
    metrics = module.async_compute()
    assert metrics["optimizers-optimizers|lr"] == 0.5
    assert next(iter(metrics)).startswith("ctr-")


def test_full_queues_are_named(monkeypatch):
    sizes = {"update_queue_size": 2, "compute_queue_size": 1}
    module = offloaded("ctr", module_kwargs=sizes)
    gate = Gate(module, monkeypatch)
    module.update(outputs(0))
    assert gate.reached.wait(60)
    first = module.async_compute()
    with pytest.raises(RecMetricException, match="compute metric queue is full: 1 comp"):
        module.async_compute()
    module.update(outputs(1))
    with pytest.raises(RecMetricException, match="update metric queue is full: 2 jobs"):
        module.update(outputs(2))
    assert module.trained_batches == 2
    gate.opened.set()
    first.resolve()
    module.wait_until_queue_is_empty(module.update_queue)
    module.update(outputs(2))  # There is room again.
    assert module.async_compute().resolve()
    module.wait_until_queue_is_empty(module.compute_queue)


def test_failed_updates_surface():
    module = offloaded("ctr")
    module.update(OUTPUTS)
    before = module.async_compute()
    module.update({**OUTPUTS, "y": OUTPUTS["y"][:3]})
    after = module.async_compute()
    module.update_queue.join()
    assert before["ctr-a|lifetime_ctr"] > 0
    for failing in (after.resolve, module.async_compute, lambda: module.update(OUTPUTS)):
        with pytest.raises(ValueError, match="number of elements"):
            failing()
    with pytest.raises(ValueError, match="number of elements"):
        module.shutdown()
    module.shutdown()
    assert module.trained_batches == 2


def test_failed_computations_surface(monkeypatch):
    module = offloaded("ctr")
    monkeypatch.setattr(module.comms_module.rec_metrics[0], "compute", lambda: {}["the value"])
    module.update(OUTPUTS)
    with pytest.raises(KeyError, match="the value"):
        module.async_compute().resolve()
    module.compute_queue.join()
    with pytest.raises(KeyError, match="the value"):
        module.update(OUTPUTS)


def test_shutting_down_loses_nothing(monkeypatch):
    module = offloaded("ctr", "mse")
    gate = Gate(module, monkeypatch)
    for seed in range(5):
        module.update(outputs(seed))
    metrics = module.async_compute()
    module.update(outputs(5))
    threading.Timer(0.05, gate.opened.set).start()
    module.shutdown()
    module.shutdown()
    assert metrics.is_resolved()
    plain = generated(config_of("ctr", "mse"))
    for seed in range(6):
        plain.update(outputs(seed))
    assert_same(module.state_dict(), plain.state_dict())
    assert_same(values(module, "local_compute"), values(plain, "local_compute"))
    with pytest.raises(RecMetricException, match="shut down"):
        module.update(OUTPUTS)
    with pytest.raises(RecMetricException, match="shut down"):
        module.async_compute().resolve()
    assert module.trained_batches == 6


def test_modules_that_are_shut_down_can_go():
    module = offloaded("ctr")
    module.shutdown()
    MODULES.clear()
    reference = weakref.ref(module)
    del module
    gc.collect()
    assert reference() is None


def test_compute_is_refused():
    with pytest.raises(RecMetricException, match="async_compute"):
        offloaded("ctr").compute()


def test_caller_s_arrays_are_copied_on_request(monkeypatch):
    module = offloaded("ctr", module_kwargs={"clone_model_out": True})
    gate = Gate(module, monkeypatch)
    mine = {name: x.copy() for name, x in OUTPUTS.items()}
    module.update(mine)
    assert gate.reached.wait(60)
    module.update(mine)
    mine["y"][:] = 0
    mine.clear()
    gate.opened.set()
    plain = generated(config_of("ctr"))
    for _ in range(2):
        plain.update(OUTPUTS)
    assert_same(module.async_compute(), plain.compute())


def test_checkpoints_hold_all_batches_so_far():
    options: Any = {"throughput_metric": ThroughputDef()}
    module, plain = (
        offloaded("ctr", "auc", **options),
        generated(config_of("ctr", "auc", **options)),
    )
    for seed in range(4):
        for each in (module, plain):
            each.update(outputs(seed))
    module.sync()
    assert_same(module.state_dict(), plain.state_dict())
    for each in (module, plain):
        each.update(outputs(9))
    module.sync()  # Anew.
    assert_same(module.state_dict(), plain.state_dict())
    module.unsync()
    restored = offloaded("ctr", "auc", **options)
    restored.update(outputs(5))
    restored.reset()
    restored.load_state_dict(module.state_dict())
    assert_same(restored.state_dict(), module.state_dict())
    tree = module.get_pre_compute_states()
    restored.load_pre_compute_states(tree)
    ours, theirs = restored.async_compute(), module.async_compute()
    for key, value in theirs.items():
        if "throughput" not in key:
            np.testing.assert_array_equal(to_numpy(ours[key]), to_numpy(value), err_msg=key)


def test_snapshots_are_of_their_time():
    module = generated(config_of("ctr", "auc", throughput_metric=ThroughputDef()))
    module.update(OUTPUTS)
    snapshot = MetricStateSnapshot.from_metrics(module.rec_metrics, module.throughput_metric)
    before = values(module)
    assert "a_CTRMetricComputation_ctr_num" in snapshot.metric_states
    (predictions,) = snapshot.metric_states["b_AUCMetricComputation_predictions"]
    assert predictions.shape == (1, N)
    comms = CPUCommsRecMetricModule(N, 1, module.rec_tasks, module.rec_metrics)
    module.update(OUTPUTS)
    comms.load_local_metric_state_snapshot(snapshot)
    comms.load_pre_compute_states(comms.get_pre_compute_states())
    assert_same(values(comms), before)
    assert "throughput" not in comms.get_pre_compute_states()
    assert_same(values(module.rec_metrics[0], "compute"), values(module.rec_metrics[0]))


def test_snapshots_of_equal_classes_and_of_fused_tasks_have_their_own_keys():
    fused = generated(config_of("ctr", rec_compute_mode=FUSED))
    fused.update(OUTPUTS)
    states = MetricStateSnapshot.from_metrics(fused.rec_metrics).metric_states
    assert "FUSED_TASKS_COMPUTATION_CTRMetricComputation_ctr_num" in states
    module = generated(config_of("ctr"))
    module.rec_metrics.rec_metrics.append(generated(config_of("ctr", window=N)).rec_metrics[0])
    for _ in range(2):
        module.update(OUTPUTS)
    snapshot = MetricStateSnapshot.from_metrics(module.rec_metrics)
    comms = CPUCommsRecMetricModule(N, 1, module.rec_tasks, module.rec_metrics)
    comms.load_local_metric_state_snapshot(snapshot)
    pairs = zip(comms.rec_metrics.rec_metrics, module.rec_metrics.rec_metrics, strict=True)
    for ours, theirs in pairs:
        assert_same(values(ours), values(theirs))
