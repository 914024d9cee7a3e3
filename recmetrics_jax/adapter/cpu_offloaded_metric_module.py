"""A module whose metrics are updated and computed beside its caller, on threads of their own.

The class API of torchrec.metrics.cpu_offloaded_metric_module. The way of a job, with what is done
on which thread:

    caller          update: a copy from the GPU is begun   async_compute: throughput, losses
                         |                                     |
    update_queue    MetricUpdateJob, MetricUpdateJob, SynchronizationMarker, MetricUpdateJob
                         |                                     |
    metric_update   states are added to                    a snapshot of the states
                                                               |
    compute_queue                                          MetricComputeJob
                                                               |
    metric_compute                                         ranks are merged; the values
"""

import atexit
import queue
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np

from recmetrics_jax.adapter._distributed import cpu_group, has_jax_ranks
from recmetrics_jax.adapter._module import RecMetricException
from recmetrics_jax.adapter._pre_compute import PreComputeStates
from recmetrics_jax.adapter._tensors import Tensor, copy, kind_of
from recmetrics_jax.adapter._workers import Workers
from recmetrics_jax.adapter.cpu_comms_metric_module import CPUCommsRecMetricModule
from recmetrics_jax.adapter.deferrable_metrics import DeferrableMetrics, transfer_tensors_to_cpu
from recmetrics_jax.adapter.metric_job_types import (
    MetricComputeJob,
    MetricUpdateJob,
    SynchronizationMarker,
)
from recmetrics_jax.adapter.metric_module import RecMetricModule
from recmetrics_jax.adapter.metric_state_snapshot import MetricStateSnapshot

metric_update_thread_name: str = "metric_update"
metric_compute_thread_name: str = "metric_compute"


class CPUOffloadedRecMetricModule(RecMetricModule):
    """A `RecMetricModule` whose `update` returns at once, and whose values come later.

    Batches are taken in one by one and in order, so that values are those of `RecMetricModule`. A
    failure, of an update or of a computation, is raised by the next call of `update` or
    `async_compute`, and by the values that were asked for after it. Everything else that reads or
    changes states, such as `state_dict`, waits until the batches before it have been taken in.

    Call `shutdown` at the end; it loses nothing.

    Args:
        model_out_device: where the model's outputs are; those on a GPU are copied from it beside
            what it computes.
        update_queue_size: the batches, and calls of `async_compute`, that may wait.
        compute_queue_size: the computations that may be under way.
        update_batch_size: taken and not used: batches are not joined.
        clone_model_out: whether `update` copies arrays of the CPU, for callers that write to them
            again.
        *args: as of `RecMetricModule`.
        **kwargs: likewise.

    >>> from recmetrics_jax.adapter.metric_module import generate_metric_module
    >>> from recmetrics_jax.adapter.metrics_config import DefaultMetricsConfig
    >>> module = generate_metric_module(
    ...     CPUOffloadedRecMetricModule, DefaultMetricsConfig, 4, 1, 0, {}, device="cpu",
    ...     module_kwargs={"model_out_device": "cpu"},
    ... )
    >>> module.update({"label": np.eye(4)[0], "prediction": np.full(4, 0.25), "weight": np.ones(4)})
    >>> metrics = module.async_compute()
    >>> round(metrics["ne-DefaultTask|window_ne"].item(), 6)
    1.0
    >>> module.shutdown()
    """

    def __init__(
        self,
        model_out_device: Any,
        update_queue_size: int = 100,
        compute_queue_size: int = 100,
        update_batch_size: int = 10,
        clone_model_out: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._model_out_device = model_out_device
        self._clone_model_out = clone_model_out
        self._compute_queue_size = compute_queue_size
        self._under_way: set[Future[Any]] = set()
        self.cpu_process_group: Any = None
        comms = CPUCommsRecMetricModule(
            self.batch_size, self.world_size, self.rec_tasks, self.rec_metrics
        )
        self._comms = (comms,)  # Not as a submodule, which would be in checkpoints.
        names = metric_update_thread_name, metric_compute_thread_name
        self._workers = Workers(self._in_order, self._beside, names, update_queue_size)
        atexit.register(self.shutdown)

    @property
    def comms_module(self) -> CPUCommsRecMetricModule:
        """The module that computes values of snapshots."""
        return self._comms[0]

    @property
    def update_queue(self) -> "queue.Queue[MetricUpdateJob | SynchronizationMarker]":
        """The jobs that wait for the states."""
        return self._workers.updates.queue

    @property
    def compute_queue(self) -> "queue.Queue[MetricComputeJob]":
        """The jobs that wait for other ranks."""
        return self._workers.computes.queue

    @property
    def update_thread(self) -> threading.Thread:
        """The thread that adds to states."""
        return self._workers.updates.thread

    @property
    def compute_thread(self) -> threading.Thread:
        """The thread that merges ranks, and computes."""
        return self._workers.computes.thread

    def _update_rec_metrics(self, model_out: dict[str, Tensor], **kwargs: Any) -> None:
        outputs, copied = transfer_tensors_to_cpu(model_out)
        others = dict(kwargs)
        if self._clone_model_out:
            outputs, others = _cloned(outputs), _cloned(others)
        jobs = self.update_queue.maxsize
        job = MetricUpdateJob(outputs, others, copied=copied)
        self._workers.put(job, f"update metric queue is full: {jobs} jobs wait for the states.")

    def compute(self) -> DeferrableMetrics:
        """Not to be called; RecMetricException."""
        raise RecMetricException(
            f"{type(self).__name__} does not support compute(). Use async_compute() instead."
        )

    def async_compute(self) -> DeferrableMetrics:
        """The values of all batches so far, once they are there; all ranks must call.

        Raises:
            RecMetricException: if there is no room in a queue.
            Exception: whatever an earlier job has raised.
        """
        marker = SynchronizationMarker(Future())
        metrics = DeferrableMetrics(marker.future)
        if self._workers.is_closed:
            error = RecMetricException("metric processor thread is shut down.")
            marker.future.set_exception(error)
            return metrics
        self._make_groups()
        if 0 < self._compute_queue_size <= len(self._under_way):
            raise RecMetricException(
                f"compute metric queue is full: {len(self._under_way)} computations are under way."
            )
        jobs = self.update_queue.maxsize
        self._workers.put(
            marker, f"update queue is full when enqueueing compute marker: {jobs} jobs wait."
        )
        self._under_way.add(marker.future)
        marker.future.add_done_callback(self._under_way.discard)
        self.compute_count += 1
        metrics.update(self._values_beside_metrics())
        return metrics

    def compute_throughput(self) -> DeferrableMetrics:
        """The throughput of all calls of `update`, at once."""
        self._workers.raise_failure()
        return super().compute_throughput()

    def shutdown(self) -> None:
        """Ends the threads once all jobs are done; may be called again.

        Raises:
            Exception: whatever a job has raised, the first time.
        """
        atexit.unregister(self.shutdown)
        self._workers.close()

    def wait_until_queue_is_empty(self, metric_job_queue: "queue.Queue[Any]") -> None:
        """Waits until all jobs of a queue are done.

        Args:
            metric_job_queue: `update_queue` or `compute_queue`.
        """
        metric_job_queue.join()

    def _make_groups(self) -> None:
        """Makes groups for exchanges beside those of the model, once there are ranks."""
        if has_jax_ranks():
            raise RecMetricException(
                f"{type(self).__name__}: expected ranks of torch.distributed, got processes of "
                "JAX, whose collectives must be in one order, which threads cannot promise"
            )
        if self.cpu_process_group is not None or (group := cpu_group()) is None:
            return
        self.cpu_process_group = self._exchange_group = group
        on_cpu = {id(None): group}
        for metrics in (self.rec_metrics, self.comms_module.rec_metrics):
            for computation in (c for metric in metrics.rec_metrics for c in metric.computations):
                of = computation.process_group
                if id(of) not in on_cpu:
                    on_cpu[id(of)] = cpu_group(of)
                computation.process_group = on_cpu[id(of)]

    def _in_order(self, job: MetricUpdateJob | SynchronizationMarker) -> MetricComputeJob | None:
        """A job of the thread that adds to states."""
        if isinstance(job, MetricUpdateJob):
            if job.copied is not None:
                job.copied.synchronize()
            with self._workers.states:
                super()._update_rec_metrics(job.model_out, **job.kwargs)
            return None
        self._workers.raise_failure()
        with self._workers.states:
            return MetricComputeJob(job.future, MetricStateSnapshot.from_metrics(self.rec_metrics))

    def _beside(self, job: MetricComputeJob) -> None:
        """A job of the thread that merges ranks."""
        comms = self.comms_module
        comms.load_local_metric_state_snapshot(job.metric_state_snapshot)
        comms.load_pre_compute_states(comms.get_pre_compute_states())
        values = comms.compute()
        self._adjust_compute_interval()
        job.future.set_result(dict(values))

    def sync(self) -> None:
        """Replaces the states by those of all ranks, anew if they are; all must call."""
        self._make_groups()
        self.unsync()
        self._workers.in_turn(super().sync)

    def unsync(self) -> None:
        """Restores the states of this rank."""
        with self._workers.settled():
            super().unsync()

    def reset(self) -> None:
        """Forgets all batches, those that wait too; throughput goes on."""
        with self._workers.settled():
            super().reset()

    def local_compute(self) -> DeferrableMetrics:
        """The values of the metrics, of this rank alone."""
        with self._workers.settled():
            return super().local_compute()

    def get_memory_usage(self) -> int:
        """The bytes of all arrays that the metrics hold."""
        with self._workers.states:
            return super().get_memory_usage()

    def get_pre_compute_states(self, pg: Any = None) -> PreComputeStates:
        """The states of all ranks by metric, task and name; all must call."""
        self._make_groups()
        return self._workers.in_turn(super().get_pre_compute_states, pg)

    def load_pre_compute_states(self, source: Mapping[str, Any]) -> None:
        """Takes over what `get_pre_compute_states` gave."""
        with self._workers.settled():
            super().load_pre_compute_states(source)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The persistent states by name, those of all ranks after `sync`."""
        with self._workers.settled():
            return super().state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        with self._workers.settled():
            super()._load_from_state_dict(state_dict, prefix, *others)


def _cloned(x: Any) -> Any:
    """Arrays, or those in a mapping, copied where somebody could write to them."""
    if isinstance(x, Mapping):
        return {name: _cloned(value) for name, value in x.items()}
    is_written = kind_of(x) == "torch" or isinstance(x, np.ndarray)
    return copy(x) if is_written else x
