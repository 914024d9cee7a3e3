"""The class API across ranks, of torch.distributed and, without torch, of JAX's runtime.

Each test of several ranks runs as many processes, which return what they found.
"""

import multiprocessing
import multiprocessing.connection
import pathlib
import pickle
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from recmetrics_jax.adapter import _distributed
from recmetrics_jax.adapter._tensors import from_numpy, to_numpy, torch
from recmetrics_jax.adapter.auc import AUCMetric
from recmetrics_jax.adapter.cpu_offloaded_metric_module import CPUOffloadedRecMetricModule
from recmetrics_jax.adapter.metric_module import RecMetricModule, generate_metric_module
from recmetrics_jax.adapter.metrics_config import (
    MetricsConfig,
    RecMetricDef,
    RecMetricEnum,
    RecTaskInfo,
)
from recmetrics_jax.adapter.metrics_namespace import MetricName, MetricNamespace, MetricPrefix
from recmetrics_jax.adapter.ne import NEMetric
from recmetrics_jax.adapter.rec_metric import (
    MetricComputationReport,
    RecMetric,
    RecMetricComputation,
    RecMetricException,
)

needs_torch = pytest.mark.skipif(torch is None, reason="torch is not installed")
PATIENCE = 600.0  # seconds that ranks may take on a busy machine
TASKS = [RecTaskInfo("a", "a_label", "a_prediction", "a_weight")]
WINDOW = 64


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def in_ranks(work: Callable[..., Any], *args: Any, world: int = 2) -> list[Any]:
    """What ``work(rank, world, port, *args)`` returns in as many processes; all have ended then."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder, str(rank)) for rank in range(world)]
        port = free_port()
        processes = [
            context.Process(target=_returning, args=(path, work, rank, world, port, *args))
            for rank, path in enumerate(paths)
        ]
        try:
            for process in processes:
                process.start()
            _join(processes)
        finally:
            for process in processes:
                process.kill()
                process.join()
        return [pickle.loads(path.read_bytes()) for path in paths]


def _returning(path: pathlib.Path, work: Callable[..., Any], *args: Any) -> None:
    path.write_bytes(pickle.dumps(work(*args)))
    if torch is not None and torch.distributed.is_initialized():
        # A process that ends with threads of its group alive may be aborted.
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _join(processes: Sequence[Any]) -> None:
    """Waits until all have ended, or one has failed: what it wrote to stderr is captured."""
    deadline = time.monotonic() + PATIENCE
    while running := [p for p in processes if p.exitcode is None]:
        assert time.monotonic() < deadline, f"ranks ran for over {PATIENCE} s"
        multiprocessing.connection.wait([p.sentinel for p in running], timeout=5.0)
        assert not any(p.exitcode for p in processes), [p.exitcode for p in processes]


def join_torch(rank: int, world: int, port: int) -> None:
    address = f"tcp://localhost:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=world)


def join_jax(rank: int, world: int, port: int) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", world, rank)


JOIN = {"torch": join_torch, "jax": join_jax}
RUNTIMES = [pytest.param("torch", marks=needs_torch), "jax"]


def module_of(
    rank: int, world: int, metric_class: type[RecMetricModule] = RecMetricModule, **options: Any
) -> RecMetricModule:
    """Metrics of sums and of samples, on this rank."""
    names = (RecMetricEnum.NE, RecMetricEnum.AUC, RecMetricEnum.MSE, RecMetricEnum.RAUC)
    metrics = {name: RecMetricDef(TASKS, window_size=WINDOW * world) for name in names}
    config = MetricsConfig(
        rec_tasks=TASKS, rec_metrics=metrics, throughput_metric=None, compute_on_all_ranks=rank == 1
    )
    return generate_metric_module(
        metric_class, config, 8, world, rank, {}, "cpu", module_kwargs=options
    )


def outputs(rank: int) -> list[dict[str, np.ndarray]]:
    """Outputs of a model, of ranks unequally many; no two predictions are the same."""
    rng = np.random.default_rng([41, rank])
    predictions = (2 * rng.permutation(64) + 1 + rank) / 256
    return [
        {
            "a_label": rng.integers(0, 2, size).astype(float),
            "a_prediction": predictions[8 * i : 8 * i + size],
            "a_weight": rng.integers(1, 5, size).astype(float),
        }
        for i, size in enumerate([8, 5, 3][: 3 - rank])
    ]


def as_floats(values: dict[str, Any]) -> dict[str, float]:
    return {name: to_numpy(value).item() for name, value in values.items()}


def checkpointed(rank: int, world: int, port: int, runtime: str) -> dict[str, Any]:
    """The values of a module over its life on a rank."""
    JOIN[runtime](rank, world, port)
    module = module_of(rank, world)
    for output in outputs(rank):
        module.update(output)
    found: dict[str, Any] = {"computed": as_floats(module.compute())}
    found["local"] = as_floats(module.local_compute())
    found["tree"] = tree = module.get_pre_compute_states()
    fresh = module_of(rank, world)
    if rank == 0:
        fresh.load_pre_compute_states(tree)
    found["of tree"] = as_floats(fresh.compute())
    found["beside"] = beside(rank, world, runtime)
    module.sync()
    state = module.state_dict()
    found["computed while synced"] = as_floats(module.compute())
    with pytest.raises(RecMetricException, match="already been synced"):
        module.sync()
    for _ in range(2):  # The second time there is nothing to do.
        module.unsync()
    found["local after unsync"] = as_floats(module.local_compute())
    module.reset()
    if rank == 0:
        module.load_state_dict(state)
    found["restored"] = as_floats(module.compute())
    return found


def beside(rank: int, world: int, runtime: str) -> Any:
    """What a module finds that computes beside its caller."""
    module: Any = module_of(rank, world, CPUOffloadedRecMetricModule, model_out_device="cpu")
    if runtime == "jax":
        with pytest.raises(RecMetricException, match="processes of JAX"):
            module.async_compute()
        return module.shutdown()
    found = []
    for output in outputs(rank):
        module.update(output)
    for _ in range(2):
        found.append(module.async_compute())
    module.sync()
    found += [module.local_compute(), module.async_compute()]
    state = module.state_dict()
    module.shutdown()
    found = [as_floats(metrics) for metrics in found]
    return [*found, {name: x.tolist() for name, x in state.items()}]


@pytest.fixture(scope="module", params=RUNTIMES)
def ranks(request):
    """What two ranks found of a module."""
    return in_ranks(checkpointed, request.param)


@pytest.fixture(scope="module")
def alone():
    """The values of one rank that has seen what all have."""
    module = module_of(1, 1)
    for output in [*outputs(0), *outputs(1)]:
        module.update(output)
    return as_floats(module.compute())


def test_ranks_compute_what_one_rank_would_of_all_examples(ranks, alone):
    for found in ranks:
        for name in ("computed", "computed while synced"):
            assert found[name] == pytest.approx(alone, rel=1e-12)


def test_the_tree_of_states_is_that_of_all_ranks_of_any_lengths(ranks, alone):
    for found in ranks:
        assert found["of tree"] == pytest.approx(alone, rel=1e-12)
        (predictions,) = found["tree"]["auc"]["a"]["predictions"]
        lengths = [sum(len(output["a_label"]) for output in outputs(rank)) for rank in (0, 1)]
        assert lengths[0] != lengths[1]
        assert predictions.shape == (1, sum(lengths))
        ours, theirs = (rank["tree"]["ne"]["a"]["pos_labels"] for rank in (found, ranks[0]))
        assert to_numpy(ours) == to_numpy(theirs)


def test_ranks_compute_beside_their_callers(ranks, alone):
    for found in ranks:
        if found["beside"] is None:  # JAX's processes.
            continue
        first, second, local, after_sync, state = found["beside"]
        for computed in (first, second, after_sync):
            assert computed == pytest.approx(alone, rel=1e-12)
        merged = {name.replace("local_", ""): value for name, value in local.items()}
        assert merged == pytest.approx(alone, rel=1e-12)
        assert state == ranks[0]["beside"][-1]


def test_the_second_sync_raises_and_the_second_unsync_does_not(ranks):
    for found in ranks:
        assert found["local after unsync"] == found["local"]
    assert ranks[0]["local"] != ranks[1]["local"]


def test_lifetime_values_outlive_a_checkpoint_of_the_leader(ranks, alone):
    lifetime = {name: value for name, value in alone.items() if "lifetime" in name}
    for found in ranks:
        assert {n: found["restored"][n] for n in lifetime} == pytest.approx(lifetime, rel=1e-12)


class OwnComputation(RecMetricComputation):
    """A computation as a user may write it, with a state for each reduction."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        zeros = from_numpy(np.zeros(self._n_tasks))
        for name in ("sum", "mean", "max", "min"):
            self._add_state(name, zeros, add_window_state=name == "sum", dist_reduce_fx=name)
        self._add_state(
            "product", zeros, add_window_state=False, dist_reduce_fx=lambda x: x.prod(0)
        )
        self._add_state("stacked", zeros, add_window_state=False, dist_reduce_fx=None)
        self._add_state("joined", [], add_window_state=False, dist_reduce_fx="cat")

    def update(
        self, *, predictions: Any, labels: Any, weights: Any, **kwargs: dict[str, Any]
    ) -> None:
        total = labels.sum(-1)
        for name in ("sum", "mean", "max", "min", "product", "stacked"):
            setattr(self, name, getattr(self, name) + total)
        self._aggregate_window_state("sum", total, labels.shape[-1])
        self.joined.append(labels[0])

    def _compute(self) -> list[MetricComputationReport]:
        value = self.sum
        return [MetricComputationReport(MetricName.MSE, MetricPrefix.LIFETIME, value)]


class OwnMetric(RecMetric):
    _namespace = MetricNamespace.MSE
    _computation_class = OwnComputation


def reduced(rank: int, world: int, port: int, runtime: str) -> dict[str, Any]:
    """States of a metric of one's own on a rank, its own and those of all."""
    JOIN[runtime](rank, world, port)
    metric = OwnMetric(world, rank, 4, TASKS, window_size=4 * world)
    for labels in ([1.0, 2.0], [4.0, 8.0, 16.0, rank])[: 2 - rank]:
        arrays = {"a": from_numpy(np.array(labels))}
        metric.update(predictions=arrays, labels=arrays, weights=arrays)
    computation = metric._metrics_computations[0]
    names = [*computation._defaults]

    def states() -> dict[str, Any]:
        found = {}
        for name in names:
            state = getattr(computation, name)
            joined = isinstance(state, list)
            found[name] = [to_numpy(x).tolist() for x in state] if joined else to_numpy(state)
        return {n: x.tolist() if isinstance(x, np.ndarray) else x for n, x in found.items()}

    found: dict[str, Any] = {"own": states(), "value": as_floats(metric.compute())}
    metric.sync()
    found["all"] = states()
    metric.unsync()
    return found | {"own again": states()}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_states_of_one_s_own_are_reduced_as_declared(runtime):
    ranks = in_ranks(reduced, runtime)
    for found in ranks:
        assert found["own again"] == found["own"]
        assert found["all"] == {
            "sum": [34.0],
            "window_sum": [31.0],
            "mean": [17.0],
            "max": [31.0],
            "min": [3.0],
            "product": [93.0],
            "stacked": [[31.0], [3.0]],
            "joined": [1.0, 2.0, 4.0, 8.0, 16.0, 0.0, 1.0, 2.0],
        }
    assert [found["value"] for found in ranks] == [{"mse-a|lifetime_mse": 34.0}, {}]


@pytest.fixture
def one_rank():
    """This process as the only rank of torch.distributed."""
    join_torch(0, 1, free_port())
    yield
    torch.distributed.destroy_process_group()


@needs_torch
def test_a_module_computes_with_one_exchange(one_rank, monkeypatch):
    calls = []
    gather, all_gather = _distributed.gather, torch.distributed.all_gather_object
    monkeypatch.setattr(
        _distributed, "gather", lambda *args: calls.append("gather") or gather(*args)
    )
    monkeypatch.setattr(
        torch.distributed,
        "all_gather_object",
        lambda *args, **kwargs: calls.append("all_gather") or all_gather(*args, **kwargs),
    )
    module = module_of(0, 1)
    for method in (module.compute, module.compute, module.sync):
        module.update(outputs(0)[0])
        calls.clear()
        method()
        assert calls == ["gather", "all_gather"]
    calls.clear()
    module.compute()
    module.unsync()
    module.local_compute()
    assert calls == []


@needs_torch
def test_groups_of_processes_exchange_once_each(one_rank, monkeypatch):
    groups = []
    gather = _distributed.gather
    monkeypatch.setattr(
        _distributed,
        "gather",
        lambda payload, group=None: groups.append(group) or gather(payload, group),
    )
    pair = torch.distributed.new_group([0])
    module = module_of(0, 1)
    for metric, group in ((NEMetric, pair), (AUCMetric, pair), (NEMetric, None)):
        module.rec_metrics.rec_metrics.append(
            metric(1, 0, 8, TASKS, window_size=WINDOW, process_group=group)
        )
    module.compute()
    assert groups == [None, pair]


def test_payloads_are_sent_in_parts(monkeypatch):
    """Two ranks, whose exchanges are made by hand: no array is longer than a part."""
    payloads = [{"x": np.arange(100.0)}, {"x": np.arange(3.0)}]
    data = [np.frombuffer(pickle.dumps(payload), np.uint8) for payload in payloads]
    sent: list[np.ndarray] = []

    def all_gather(x: np.ndarray) -> np.ndarray:
        """What both send, as rank 0 has sent ``x``."""
        sent.append(x)
        if len(sent) == 1:
            return np.stack([x, np.array(divmod(data[1].size, part), np.int32)])
        other = np.zeros_like(x)
        mine = data[1][part * (len(sent) - 2) :][: x.size]
        other[: mine.size] = mine
        return np.stack([x, other])

    monkeypatch.setattr(multihost_utils, "process_allgather", all_gather)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(_distributed, "_has_torch_group", lambda: False)
    for part in (64, data[0].size, data[0].size - 1, 1 << 20):
        monkeypatch.setattr(_distributed, "PART", part)
        sent.clear()
        received = _distributed.gather(payloads[0])
        for payload, expected in zip(received, payloads, strict=True):
            np.testing.assert_array_equal(payload["x"], expected["x"])
        assert len(sent) == 1 + -(-data[0].size // part)
        assert all(x.size <= part for x in sent[1:])
        assert sum(x.size for x in sent[1:]) == data[0].size


def test_payloads_of_more_than_32_bits_have_a_length(monkeypatch):
    lengths = []

    def all_gather(x: np.ndarray) -> np.ndarray:
        lengths.append(x)
        raise InterruptedError  # The lengths were told; the bytes are left out.

    # As many bytes, of which none is touched: NumPy maps zeros when they are read.
    monkeypatch.setattr(_distributed.pickle, "dumps", lambda payload: np.zeros(2**31 + 5, np.uint8))
    monkeypatch.setattr(multihost_utils, "process_allgather", all_gather)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(_distributed, "_has_torch_group", lambda: False)
    with pytest.raises(InterruptedError):
        _distributed.gather(None)
    assert lengths[0].dtype == np.int32
    assert lengths[0].tolist() == [2**31 // _distributed.PART, 5]


def parted(rank: int, world: int, port: int) -> list[Any]:
    """Payloads of ranks in parts of a hundred bytes."""
    join_jax(rank, world, port)
    _distributed.PART = 100
    return _distributed.gather({"rank": rank, "x": np.arange(500.0 * rank)})


def test_ranks_of_jax_exchange_in_parts():
    for gathered in in_ranks(parted):
        assert [payload["rank"] for payload in gathered] == [0, 1]
        assert [payload["x"].tolist() for payload in gathered] == [[], [*np.arange(500.0)]]
