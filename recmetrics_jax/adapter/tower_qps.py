"""Examples per second of each task; the class API of torchrec.metrics.tower_qps."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from recmetrics_jax.adapter._computation import MetricComputationReport, RecMetricComputation
from recmetrics_jax.adapter._layout import shape_of, stacked
from recmetrics_jax.adapter._module import RecMetricException
from recmetrics_jax.adapter._stages import StagedBatchSize
from recmetrics_jax.adapter._tensors import Tensor, from_numpy, no_grad, to_numpy
from recmetrics_jax.adapter.metrics_config import (
    BatchSizeStage,
    RecComputeMode,
    RecTaskInfo,
    validate_batch_size_stages,
)
from recmetrics_jax.adapter.metrics_namespace import MetricName, MetricNamespace, MetricPrefix
from recmetrics_jax.adapter.rec_metric import RecMetric, RecModelOutput

WARMUP_STEPS = 100
NUM_EXAMPLES = "num_examples"
WARMUP_EXAMPLES = "warmup_examples"
TIME_LAPSE = "time_lapse"


class TowerQPSMetricComputation(RecMetricComputation):
    """The states of examples per second: examples, those of the warmup, and seconds after it.

    ``num_examples`` and ``warmup_examples`` are ``int64[n_tasks]``, of all ranks their sum;
    ``time_lapse`` is ``float64[n_tasks]``, of all ranks the longest.

    Args:
        warmup_steps: the number of first updates that are counted and not timed; at least the first
            one, the beginning of which nobody knows.

    Raises:
        KeyError: without ``warmup_steps``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warmup_steps = kwargs.pop("warmup_steps")
        super().__init__(*args, **kwargs)
        self._warmup_steps = warmup_steps
        for name, dtype, has_window, reduction in (
            (NUM_EXAMPLES, np.int64, True, "sum"),
            (WARMUP_EXAMPLES, np.int64, False, "sum"),
            (TIME_LAPSE, np.float64, True, "max"),
        ):
            default = from_numpy(np.zeros(self._n_tasks, dtype))
            self._add_state(name, default, has_window, dist_reduce_fx=reduction, persistent=True)
        self._previous_ts = 0.0
        self._steps = 0

    def update(
        self,
        *,
        predictions: Tensor | None,
        labels: Tensor,
        weights: Tensor | None,
        **kwargs: Any,
    ) -> None:
        """Counts the examples of a batch and, past the warmup, the seconds since the one before.

        Args:
            predictions: not used, may be None.
            labels: ``[n_tasks, N]``; how many there are is what counts.
            weights: not used, may be None.
            **kwargs: not used.
        """
        self._steps += 1
        count = shape_of(labels)[-1]
        self._count(NUM_EXAMPLES, np.int64(count))
        now = time.monotonic()
        warmup_steps = max(self._warmup_steps, 1)
        if self._steps <= warmup_steps:
            self._count(WARMUP_EXAMPLES, np.int64(count))
        else:
            seconds = np.float64(now - self._previous_ts)
            self._count(TIME_LAPSE, seconds)
            for name, number in ((NUM_EXAMPLES, np.int64(count)), (TIME_LAPSE, seconds)):
                contribution = from_numpy(np.full(self._n_tasks, number))
                self._aggregate_window_state(name, contribution, count)
        if self._steps >= warmup_steps:
            self._previous_ts = now

    def _count(self, name: str, number: np.generic) -> None:
        state = getattr(self, name)
        state += number.item()

    def _compute(self) -> list[MetricComputationReport]:
        counted = {n: to_numpy(getattr(self, n)) for n in self._defaults}
        examples = counted[NUM_EXAMPLES] - counted[WARMUP_EXAMPLES]
        of_window = (counted[self.get_window_state_name(n)] for n in (NUM_EXAMPLES, TIME_LAPSE))
        return [
            MetricComputationReport(name, prefix, from_numpy(value))
            for name, prefix, value in (
                (MetricName.TOWER_QPS, MetricPrefix.LIFETIME, _rate(examples, counted[TIME_LAPSE])),
                (MetricName.TOWER_QPS, MetricPrefix.WINDOW, _rate(*of_window)),
                (MetricName.TOTAL_EXAMPLES, MetricPrefix.DEFAULT, counted[NUM_EXAMPLES].copy()),
            )
        ]


def _rate(examples: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Examples per second, 0 where no time has passed."""
    has_passed = seconds > 0
    return np.where(has_passed, examples / np.where(has_passed, seconds, 1.0), 0.0)


class TowerQPSMetric(StagedBatchSize, RecMetric):
    """Examples per second of each task: ``lifetime_qps``, ``window_qps``, ``total_examples``.

    Tasks may have batches of their own size. Over ranks it is the examples of all, by the time of
    the slowest. The first ``warmup_steps`` updates of a process are not timed. ``total_examples``,
    ``int64``, are those of the lifetime, warmup and all.

    Args:
        world_size: number of ranks.
        my_rank: the rank of this process.
        batch_size: examples in a batch, on this rank.
        tasks: the tasks.
        compute_mode: as of `RecMetric`.
        window_size: examples in the window, over all ranks.
        fused_update_limit: 0; there is no joining of updates, which are to be timed.
        process_group: the ranks; None for all.
        warmup_steps: the number of first updates that are not timed.
        batch_size_stages: batch sizes that follow each other; the number of batches so far goes
            into state dicts then.
        **kwargs: as of `RecMetric`.

    Raises:
        RecMetricException: if ``fused_update_limit`` is above 0.
        ValueError: as `RecMetric`, and if the last stage has an end.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = TowerQPSMetric(1, 0, batch_size=4, tasks=[DefaultTaskInfo], warmup_steps=1)
    >>> for size in (4, 3):
    ...     metric.update(predictions=None, labels={"DefaultTask": np.ones(size)}, weights=None)
    >>> values = metric.compute()
    >>> values["qps-DefaultTask|total_examples"].item()
    7
    >>> values["qps-DefaultTask|lifetime_qps"].item() > 0
    True
    """

    _namespace = MetricNamespace.TOWER_QPS
    _computation_class = TowerQPSMetricComputation

    def __init__(
        self,
        world_size: int,
        my_rank: int,
        batch_size: int,
        tasks: list[RecTaskInfo],
        compute_mode: RecComputeMode = RecComputeMode.UNFUSED_TASKS_COMPUTATION,
        window_size: int = 100,
        fused_update_limit: int = 0,
        process_group: Any = None,
        warmup_steps: int = WARMUP_STEPS,
        batch_size_stages: Sequence[BatchSizeStage] | None = None,
        **kwargs: Any,
    ) -> None:
        if fused_update_limit > 0:
            raise RecMetricException("Fused update is not supported for tower QPS")
        validate_batch_size_stages(batch_size_stages)
        super().__init__(
            world_size=world_size,
            my_rank=my_rank,
            batch_size=batch_size,
            tasks=tasks,
            compute_mode=compute_mode,
            window_size=window_size,
            fused_update_limit=fused_update_limit,
            process_group=process_group,
            warmup_steps=warmup_steps,
            **kwargs,
        )
        self._take_stages(batch_size_stages)

    def update(
        self,
        *,
        predictions: RecModelOutput | None,
        labels: RecModelOutput,
        weights: RecModelOutput | None,
        **kwargs: Any,
    ) -> None:
        """Counts a batch.

        Args:
            predictions: not used, may be None.
            labels: arrays by task, of which there may be fewer unless fused; of fused tasks also
                one array ``[T, N]``.
            weights: likewise, or None; used where updates are validated.
            **kwargs: not used.

        Raises:
            RecMetricException: if labels, or weights, of fused tasks cannot be stacked.
        """
        self._count_batch()
        self._batch_size = self._get_batch_size()
        self.note_kind(labels)
        with no_grad():
            for computation, of_tasks, its_weights in self._by_computation(labels, weights):
                is_judged = self._should_validate_update and its_weights is not None
                if not is_judged or np.any(to_numpy(its_weights)):
                    computation.update(predictions=None, labels=of_tasks, weights=None)
                    computation.note_valid(its_weights)

    def _by_computation(
        self, labels: RecModelOutput, weights: RecModelOutput | None
    ) -> Iterator[tuple[RecMetricComputation, Tensor, Tensor | None]]:
        """Each computation with the labels, and the weights, of its tasks, ``[T, N]``."""
        if self._is_fused:
            of_all = self._stacked("labels", labels)
            its_weights = None if weights is None else self._stacked("weights", weights)
            yield self.computations[0], of_all, its_weights
            return
        for task, computation in zip(self._tasks, self.computations, strict=True):
            if not isinstance(labels, Mapping):
                raise ValueError(f"labels: expected a dictionary by task, got {type(labels)}")
            if task.name in labels:
                given = None if weights is None else weights.get(task.name)
                its_weights = None if given is None else given.reshape(1, -1)
                yield computation, labels[task.name].reshape(1, -1), its_weights

    def _stacked(self, name: str, x: RecModelOutput) -> Tensor:
        try:
            rows = stacked(name, [task.name for task in self._tasks], x)
            return rows.reshape(len(self._tasks), -1)
        except (RuntimeError, ValueError) as error:
            raise RecMetricException(
                f"Failed to convert {name} to tensor for fused computation: {error}"
            ) from error

    def state_dict(
        self,
        destination: dict[str, Tensor] | None = None,
        prefix: str = "",
        keep_vars: bool = False,
    ) -> dict[str, Tensor]:
        """The states and, where there are stages, the number of batches, ``num_batch``."""
        states = super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        self._save_num_batch(states, prefix)
        return states
