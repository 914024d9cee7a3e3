"""`RecMetricModule`: all metrics of a model, from its outputs to a dictionary of values.

The class API of torchrec.metrics.metric_module.
"""

import logging
import time
from concurrent.futures import Future
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
from recmetrics_jax.adapter._intervals import DISABLED, adjusted_steps, checked_bounds
from recmetrics_jax.adapter._losses import LossAggregationScope as LossAggregationScope
from recmetrics_jax.adapter._losses import LossesOfSteps
from recmetrics_jax.adapter._memory import MemoryWatch
from recmetrics_jax.adapter._module import RecMetricException
from recmetrics_jax.adapter._pre_compute import MetricState as MetricState
from recmetrics_jax.adapter._pre_compute import PreComputeStates as PreComputeStates
from recmetrics_jax.adapter._pre_compute import StatesOfModules
from recmetrics_jax.adapter._tensors import Tensor, from_numpy
from recmetrics_jax.adapter._validation import ValidatedInputs
from recmetrics_jax.adapter.deferrable_metrics import DeferrableMetrics
from recmetrics_jax.adapter.metrics_config import (
    BatchSizeStage,
    LossAggregation,
    MetricsConfig,
    RecTaskInfo,
    StateMetricEnum,
    validate_batch_size_stages,
)
from recmetrics_jax.adapter.metrics_namespace import compose_customized_metric_key
from recmetrics_jax.adapter.model_utils import parse_task_model_outputs
from recmetrics_jax.adapter.rec_metric import RecMetricList
from recmetrics_jax.adapter.throughput import ThroughputMetric

logger = logging.getLogger(__name__)

MetricsResult = dict[str, MetricValue]
MetricsFuture = Future[MetricsResult]
MetricsOutput = MetricsResult | MetricsFuture | DeferrableMetrics
PublishableMetrics = dict[str, Any]
PublishableMetricsFuture = Future[PublishableMetrics]
PublishableMetricsOutput = PublishableMetrics | PublishableMetricsFuture | DeferrableMetrics

MODEL_METRIC_LABEL = "model"


class RecMetricModule(LossesOfSteps, ValidatedInputs, StatesOfModules, MemoryWatch):
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
        loss_aggregation: how losses of micro-batches are put together; see `set_loss_aggregation`.

    Raises:
        ValueError: if an interval is out of range.
    """

    batch_size: int
    world_size: int
    rec_tasks: list[RecTaskInfo]
    state_metrics: dict[str, StateMetric]
    compute_count: int
    last_compute_time: float
    _exchange_group: Any = None
    """The ranks whose intervals are to be one; None for all."""

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
        loss_aggregation: dict[str, LossAggregation] | None = None,
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
        self.memory_usage_limit_mb = memory_usage_limit_mb
        self.compute_interval_steps = compute_interval_steps
        self.last_compute_time = DISABLED
        bounds = checked_bounds(min_compute_interval, max_compute_interval)
        self.min_compute_interval, self.max_compute_interval = bounds
        self.set_loss_aggregation(loss_aggregation)
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
        self._update_all(model_out, kwargs)
        self.trained_batches += 1

    def _update_all(self, model_out: dict[str, Tensor], kwargs: dict[str, Any]) -> None:
        losses = self._losses_with(model_out)
        self._update_rec_metrics(model_out, **kwargs)
        if self.throughput_metric is not None:
            self.throughput_metric.update()
        self._take_losses(losses)

    def _update_rec_metrics(self, model_out: dict[str, Tensor], **kwargs: Any) -> None:
        """Parses a model's outputs, and updates the metrics; to be overridden for other formats."""
        if not (self.rec_metrics and self.rec_tasks):
            return
        model_out = self._prepare_model_out_for_metrics(model_out)
        labels, predictions, weights, required_inputs = parse_task_model_outputs(
            self.rec_tasks, model_out, self.get_required_inputs()
        )
        self._validate_rec_metric_inputs(labels, predictions, weights)
        if required_inputs:
            kwargs["required_inputs"] = required_inputs
        self.rec_metrics.update(predictions=predictions, labels=labels, weights=weights, **kwargs)

    def _prepare_model_out_for_metrics(self, model_out: dict[str, Tensor]) -> dict[str, Tensor]:
        """A model's outputs as they are to be parsed; to be overridden."""
        return model_out

    def should_compute(self) -> bool:
        """Whether as many batches have been seen as there are between computes."""
        return self.trained_batches % self.compute_interval_steps == 0

    def compute(self) -> DeferrableMetrics:
        """All values by key, of all ranks; all ranks must call."""
        self.compute_count += 1
        self.check_memory_usage(self.compute_count)
        values: MetricsResult = {}
        if self.rec_metrics:
            self._adjust_compute_interval()
            values |= self.rec_metrics.compute()
        return DeferrableMetrics(values | self._values_beside_metrics())

    def _values_beside_metrics(self) -> MetricsResult:
        """Throughput, the values of other components, and losses."""
        values: MetricsResult = {}
        if self.throughput_metric is not None:
            values |= self.throughput_metric.compute()
        for namespace, component in self.state_metrics.items():
            for name, value in component.get_metrics().items():
                values[compose_customized_metric_key(namespace, name)] = value
        return values | self._loss_values()

    def compute_throughput(self) -> DeferrableMetrics:
        """The values of throughput alone, without an exchange of ranks."""
        throughput = self.throughput_metric
        return DeferrableMetrics({} if throughput is None else throughput.compute())

    def local_compute(self) -> DeferrableMetrics:
        """The values of the metrics, of this rank alone."""
        return DeferrableMetrics(self.rec_metrics.local_compute() if self.rec_metrics else {})

    def async_compute(self) -> DeferrableMetrics:
        """Of `CPUOffloadedRecMetricModule`; here RecMetricException."""
        raise RecMetricException(f"async_compute is not supported in {type(self).__name__}")

    def shutdown(self) -> None:
        """Ends what runs beside the caller: here nothing."""
        logger.info("%s: nothing to shut down", type(self).__name__)

    def _adjust_compute_interval(self) -> None:
        """Sets the steps between computes, once, by the seconds that the first ones took."""
        now = time.time()
        interval = now - self.last_compute_time
        is_due = self.last_compute_time > 0 and self.min_compute_interval >= 0
        self.last_compute_time = now
        if not is_due:
            return
        bounds = self.min_compute_interval, self.max_compute_interval
        steps = adjusted_steps(interval, self.compute_interval_steps, *bounds)
        # Ranks measure different times, but must exchange, and compute, in the same step.
        of_ranks = _distributed.gather(steps, self._exchange_group)
        self.compute_interval_steps = max(of_ranks) or self.compute_interval_steps
        self._compute_interval_steps[0] = self.compute_interval_steps
        self.min_compute_interval = self.max_compute_interval = DISABLED

    def get_required_inputs(self) -> list[str] | None:
        """The names of further arrays that metrics need in ``model_out``; None if none."""
        return self.rec_metrics.get_required_inputs()


def generate_metric_module(
    metric_class: type[RecMetricModule],
    metrics_config: MetricsConfig,
    batch_size: int,
    world_size: int,
    my_rank: int,
    state_metrics_mapping: dict[StateMetricEnum, StateMetric],
    device: Any,
    process_group: Any = None,
    batch_size_stages: list[BatchSizeStage] | None = None,
    module_kwargs: dict[str, Any] | None = None,
    debug_mode: bool = False,
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
        debug_mode: whether updates with NaNs or infinities that a metric does not allow, by its
            `RecMetricInputPolicy`, are refused.

    Returns:
        A ``metric_class``.

    Raises:
        ValueError: if a metric is unknown, or has both ``rec_tasks`` and ``rec_task_indices``, or
            neither, or the last stage has an end.
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
    validate_batch_size_stages(batch_size_stages)
    throughput = metrics_config.throughput_metric
    module = metric_class(
        batch_size=batch_size,
        world_size=world_size,
        rec_tasks=metrics_config.rec_tasks,
        rec_metrics=rec_metrics_of(
            metrics_config, world_size, my_rank, batch_size, process_group, batch_size_stages
        ),
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
    module._configure_debug_mode(debug_mode, my_rank)
    module._configure_losses(metrics_config)
    module.to(device)
    return module
