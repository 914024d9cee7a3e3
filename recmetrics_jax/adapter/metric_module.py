"""`RecMetricModule`: all metrics of a model, from its outputs to a dictionary of values.

The class API of torchrec.metrics.metric_module.
"""

import logging
import math
import time
from typing import Any

import numpy as np

from recmetrics_jax.adapter import _distributed
from recmetrics_jax.adapter._generation import REC_METRICS_MAPPING as REC_METRICS_MAPPING
from recmetrics_jax.adapter._generation import (
    STATE_METRICS_NAMESPACE_MAPPING as STATE_METRICS_NAMESPACE_MAPPING,
)
from recmetrics_jax.adapter._generation import (
    MetricValue,
    StateMetric,
    rec_metrics_of,
    state_metrics_of,
)
from recmetrics_jax.adapter._module import Module
from recmetrics_jax.adapter._tensors import Tensor, from_numpy
from recmetrics_jax.adapter.metrics_config import MetricsConfig, RecTaskInfo, StateMetricEnum
from recmetrics_jax.adapter.metrics_namespace import compose_customized_metric_key
from recmetrics_jax.adapter.model_utils import parse_task_model_outputs
from recmetrics_jax.adapter.rec_metric import RecMetricList
from recmetrics_jax.adapter.throughput import ThroughputMetric

logger = logging.getLogger(__name__)

MetricsResult = dict[str, MetricValue]

MODEL_METRIC_LABEL = "model"
MEGABYTE = 1_000_000
DISABLED = -1.0


class RecMetricModule(Module):
    """All metrics of a model: parses its outputs, updates, and computes.

    Args:
        batch_size: examples in a batch, on this rank.
        world_size: number of ranks.
        rec_tasks: the tasks; outputs are parsed for all of them.
        rec_metrics: the metrics.
        throughput_metric: counts examples per second.
        state_metrics: sources of further values, by their namespace.
        compute_interval_steps: `should_compute` says yes once in so many updates.
        min_compute_interval: if it or the next is given, the number of steps is changed once, at
            the second `compute`, so that between computes there are about so many seconds.
        max_compute_interval: the upper bound of these seconds.
        memory_usage_limit_mb: above so many megabytes (10^6 bytes) of states,
            `compute` warns, and counts it in ``oom_count``.

    Raises:
        ValueError: if an interval is out of range.
    """

    batch_size: int
    world_size: int
    rec_tasks: list[RecTaskInfo]
    rec_metrics: RecMetricList
    throughput_metric: ThroughputMetric | None
    state_metrics: dict[str, StateMetric]
    memory_usage_limit_mb: float
    memory_usage_mb_avg: float
    oom_count: int
    compute_count: int
    last_compute_time: float

    def __init__(
        self,
        batch_size: int,
        world_size: int,
        rec_tasks: list[RecTaskInfo] | None = None,
        rec_metrics: RecMetricList | None = None,
        throughput_metric: ThroughputMetric | None = None,
        state_metrics: dict[str, StateMetric] | None = None,
        compute_interval_steps: int = 100,
        min_compute_interval: float = 0.0,
        max_compute_interval: float = float("inf"),
        memory_usage_limit_mb: float = 512,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.world_size = world_size
        self.rec_tasks = rec_tasks or []
        self.rec_metrics = rec_metrics if rec_metrics is not None else RecMetricList([])
        self.throughput_metric = throughput_metric
        self.state_metrics = state_metrics or {}
        self.trained_batches = 0
        self.compute_count = 0
        self.oom_count = 0
        self.memory_usage_limit_mb = memory_usage_limit_mb
        self.memory_usage_mb_avg = 0.0
        self.compute_interval_steps = compute_interval_steps
        self.last_compute_time = DISABLED
        if max_compute_interval <= 0:
            raise ValueError("Max compute interval should not be smaller than 0.0.")
        if min_compute_interval < 0:
            raise ValueError("Min compute interval should not be smaller than 0.0.")
        is_default = min_compute_interval == 0.0 and max_compute_interval == math.inf
        self.min_compute_interval = DISABLED if is_default else min_compute_interval
        self.max_compute_interval = DISABLED if is_default else max_compute_interval
        steps = from_numpy(np.array([compute_interval_steps], np.int32))
        self.register_buffer("_compute_interval_steps", steps, persistent=False)

    def update(self, model_out: dict[str, Tensor], **kwargs: Any) -> None:
        """Takes in the outputs of a batch; call it once a batch.

        Args:
            model_out: arrays by name: labels, predictions and weights as the tasks name them, and
                whatever further inputs metrics need (`get_required_inputs`).
            **kwargs: passed on to the metrics.

        Raises:
            ValueError: if something is missing, or shapes do not fit; no state has changed then.
            RecMetricException: likewise.
        """
        self._update_rec_metrics(model_out, **kwargs)
        if self.throughput_metric is not None:
            self.throughput_metric.update()
        self.trained_batches += 1

    def _update_rec_metrics(self, model_out: dict[str, Tensor], **kwargs: Any) -> None:
        if not (len(self.rec_metrics) and self.rec_tasks):
            return
        labels, predictions, weights, required_inputs = parse_task_model_outputs(
            self.rec_tasks, model_out, self.get_required_inputs()
        )
        if required_inputs:
            kwargs["required_inputs"] = required_inputs
        self.rec_metrics.update(predictions=predictions, labels=labels, weights=weights, **kwargs)

    def should_compute(self) -> bool:
        """Whether as many batches have been seen as there are between computes."""
        return self.trained_batches % self.compute_interval_steps == 0

    def compute(self) -> MetricsResult:
        """All values by key, of all ranks; all ranks must call."""
        self.compute_count += 1
        self.check_memory_usage(self.compute_count)
        values: MetricsResult = {}
        if len(self.rec_metrics):
            self._adjust_compute_interval()
            values |= self.rec_metrics.compute()
        if self.throughput_metric is not None:
            values |= self.throughput_metric.compute()
        for namespace, component in self.state_metrics.items():
            for name, value in component.get_metrics().items():
                values[compose_customized_metric_key(namespace, name)] = value
        return values

    def local_compute(self) -> MetricsResult:
        """The values of the metrics, of this rank alone."""
        return self.rec_metrics.local_compute() if len(self.rec_metrics) else {}

    def _adjust_compute_interval(self) -> None:
        """Sets the steps between computes, once, by the seconds that the first ones took."""
        now = time.time()
        interval = now - self.last_compute_time
        is_due = self.last_compute_time > 0 and self.min_compute_interval >= 0
        self.last_compute_time = now
        if not is_due:
            return
        shortest, longest = self.min_compute_interval, self.max_compute_interval
        steps = 0
        if not shortest <= interval <= longest:
            seconds = interval / self.compute_interval_steps
            if longest == math.inf:
                wanted = shortest + 1
            elif shortest == 0.0:
                wanted = longest - (0.0 if longest <= 1 else 1.0)
            else:
                wanted = (shortest + longest) / 2
            steps = max(int(wanted / seconds), 1) if seconds > 0 else self.compute_interval_steps
        # Ranks measure different times, but must exchange, and compute, in the same step.
        self.compute_interval_steps = max(_distributed.gather(steps)) or self.compute_interval_steps
        self._compute_interval_steps[0] = self.compute_interval_steps
        self.min_compute_interval = self.max_compute_interval = DISABLED

    def sync(self) -> None:
        """Replaces the states of metrics by those of all ranks, until `unsync`.

        To save a checkpoint: all ranks call this, rank 0 takes the state dict, all call `unsync`.
        To restore it: all ranks call `reset`, and rank 0 alone loads the state dict.
        """
        self.rec_metrics.sync()

    def unsync(self) -> None:
        """Restores the states of this rank."""
        self.rec_metrics.unsync()

    def reset(self) -> None:
        """Forgets all batches; throughput goes on."""
        self.rec_metrics.reset()

    def get_required_inputs(self) -> list[str] | None:
        """The names of further arrays that metrics need in ``model_out``; None if none."""
        return self.rec_metrics.get_required_inputs()

    def get_memory_usage(self) -> int:
        """The bytes of all arrays that the metrics hold."""
        return sum(metric.held_bytes() for metric in self.rec_metrics.rec_metrics)

    def check_memory_usage(self, compute_count: int) -> None:
        """Warns if the metrics hold more memory than allowed, or grow.

        Args:
            compute_count: how often this has been called; the first 100 calls are taken to settle.
        """
        usage = self.get_memory_usage() / MEGABYTE
        if usage > self.memory_usage_limit_mb:
            self.oom_count += 1
            logger.warning(
                "RecMetrics is using %.3f MB, more than the limit of %s MB, for the %d. time.",
                *(usage, self.memory_usage_limit_mb, self.oom_count),
            )
        if compute_count > 100 and usage > 1.2 * self.memory_usage_mb_avg:
            logger.warning(
                "RecMetrics is using %.3f MB, more than 1.2 times its average, %.3f MB.",
                *(usage, self.memory_usage_mb_avg),
            )
        count = max(compute_count, 1)
        self.memory_usage_mb_avg = (self.memory_usage_mb_avg * (count - 1) + usage) / count


def generate_metric_module(
    metric_class: type[RecMetricModule],
    metrics_config: MetricsConfig,
    batch_size: int,
    world_size: int,
    my_rank: int,
    state_metrics_mapping: dict[StateMetricEnum, StateMetric],
    device: Any,
    process_group: Any = None,
    batch_size_stages: list[Any] | None = None,
    module_kwargs: dict[str, Any] | None = None,
) -> RecMetricModule:
    """Builds the module of all metrics that a configuration names.

    Args:
        metric_class: `RecMetricModule`, or a subclass.
        metrics_config: the metrics, and their tasks.
        batch_size: examples in a batch, on this rank.
        world_size: number of ranks.
        my_rank: the rank of this process.
        state_metrics_mapping: the sources of the state metrics in the configuration.
        device: where the module is to be; states of metrics stay on the CPU.
        process_group: the ranks; None for all.
        batch_size_stages: batch sizes that throughput counts with, by number of batches.
        module_kwargs: further arguments of ``metric_class``.

    Returns:
        A ``metric_class``.

    Raises:
        ValueError: if a metric is unknown, or has both ``rec_tasks`` and ``rec_task_indices``, or
            neither.
        KeyError: if a state metric has no source.

    >>> from recmetrics_jax.adapter.metrics_config import DefaultMetricsConfig
    >>> module = generate_metric_module(
    ...     RecMetricModule, DefaultMetricsConfig, 4, 1, 0, {}, device="cpu"
    ... )
    >>> import numpy as np
    >>> quarter, weight = np.full(4, 0.25), np.ones(4)
    >>> module.update({"label": np.eye(4)[0], "prediction": quarter, "weight": weight})
    >>> round(module.compute()["ne-DefaultTask|window_ne"].item(), 6)
    1.0
    """
    throughput = metrics_config.throughput_metric
    module = metric_class(
        batch_size=batch_size,
        world_size=world_size,
        rec_tasks=metrics_config.rec_tasks,
        rec_metrics=rec_metrics_of(metrics_config, world_size, my_rank, batch_size, process_group),
        throughput_metric=throughput
        and ThroughputMetric(
            batch_size=batch_size,
            world_size=world_size,
            window_seconds=throughput.window_size,
            warmup_steps=throughput.warmup_steps,
            batch_size_stages=batch_size_stages,
        ),
        state_metrics=state_metrics_of(metrics_config, state_metrics_mapping),
        compute_interval_steps=metrics_config.compute_interval_steps,
        min_compute_interval=metrics_config.min_compute_interval,
        max_compute_interval=metrics_config.max_compute_interval,
        **(module_kwargs or {}),
    )
    module.to(device)
    return module
