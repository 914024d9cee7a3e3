"""Examples per second, since the start and over the last seconds."""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from recmetrics_jax.adapter._stages import StagedBatchSize
from recmetrics_jax.adapter._tensors import NATIVE, Tensor, as_kind, from_numpy, torch
from recmetrics_jax.adapter.metrics_config import BatchSizeStage, validate_batch_size_stages
from recmetrics_jax.adapter.metrics_namespace import (
    MetricName,
    MetricNamespace,
    MetricPrefix,
    compose_metric_key,
)

MAX_WINDOW_TS: int = 2 * 60 * 60
"""The most seconds, and the most steps, of a window."""

logger: logging.Logger = logging.getLogger(__name__)


def _key(name: MetricName, prefix: MetricPrefix = MetricPrefix.DEFAULT) -> str:
    return compose_metric_key(
        MetricNamespace.THROUGHPUT, str(MetricNamespace.THROUGHPUT), name, prefix
    )


_TOTAL_EXAMPLES = _key(MetricName.TOTAL_EXAMPLES)
_ATTEMPT_EXAMPLES = _key(MetricName.ATTEMPT_EXAMPLES)
_LIFETIME_THROUGHPUT = _key(MetricName.THROUGHPUT, MetricPrefix.LIFETIME)
_WINDOW_THROUGHPUT = _key(MetricName.THROUGHPUT, MetricPrefix.WINDOW)
_ATTEMPT_THROUGHPUT = _key(MetricName.THROUGHPUT, MetricPrefix.ATTEMPT)
_BATCH_SIZE = _key(MetricName.BATCH_SIZE)


class ThroughputMetric(StagedBatchSize):
    """Examples of all ranks per second, timed by this rank's clock.

    The first ``warmup_steps`` steps of a process are counted but not timed. After them, with
    ``E`` examples a step, that is ``batch_size * world_size``::

        lifetime = (total examples - warmup examples) / seconds after warmup
        window   = E * steps in the window / seconds of these steps

    The window holds the newest steps that together take at most ``window_seconds``; if the newest
    alone takes longer, it is empty and its throughput 0. Lifetime counters are saved and resume;
    those of the attempt start with the process.

    Args:
        batch_size: the number of examples of a batch on each rank.
        world_size: the number of ranks.
        window_seconds: the seconds of the window, at most ``MAX_WINDOW_TS``.
        warmup_steps: the number of first steps that are not timed.
        batch_size_stages: batch sizes that replace ``batch_size`` one after another. The window's
            throughput takes all of its steps for batches of the current size.
        clock: seconds that only grow; None for ``time.monotonic``.

    Raises:
        ValueError: if ``window_seconds`` or ``warmup_steps`` is less than 1, or the last stage
            has an end.

    >>> seconds = iter([0.0, 0.5, 1.0])
    >>> metric = ThroughputMetric(
    ...     batch_size=4, world_size=2, window_seconds=10, warmup_steps=1,
    ...     clock=lambda: next(seconds),
    ... )
    >>> for _ in range(3):
    ...     metric.update()
    >>> values = metric.compute()
    >>> values["throughput-throughput|total_examples"].item()
    24
    >>> values["throughput-throughput|window_throughput"].item()
    16.0
    """

    _namespace: MetricNamespace = MetricNamespace.THROUGHPUT
    _metric_name: MetricName = MetricName.THROUGHPUT

    def __init__(
        self,
        *,
        batch_size: int,
        world_size: int,
        window_seconds: int,
        warmup_steps: int = 100,
        batch_size_stages: Sequence[BatchSizeStage] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__()
        if window_seconds < 1:
            raise ValueError(
                "window_seconds must be at least 1 to give window throughput the minimum time "
                f"window, got {window_seconds}"
            )
        if warmup_steps < 1:
            raise ValueError(
                "warmup_steps must be at least 1 to give throughput a reasonable begin time, "
                f"got {warmup_steps}"
            )
        validate_batch_size_stages(batch_size_stages)
        if window_seconds > MAX_WINDOW_TS:
            logger.warning(
                "window_seconds: %s is more than %s, which is taken instead",
                window_seconds,
                MAX_WINDOW_TS,
            )
            window_seconds = MAX_WINDOW_TS
        self._batch_size = batch_size
        self._world_size = world_size
        self._window_seconds = window_seconds
        self._warmup_steps = warmup_steps
        self._clock = clock
        self._take_stages(batch_size_stages)
        self._steps = 0
        self._window = _Window(window_seconds)
        for name, dtype, persistent in (
            ("total_examples", np.int64, True),
            ("warmup_examples", np.int64, True),
            ("time_lapse_after_warmup", np.float64, True),
            ("attempt_examples", np.int64, False),
            ("attempt_warmup_examples", np.int64, False),
            ("attempt_time_lapse_after_warmup", np.float64, False),
        ):
            self.register_buffer(name, from_numpy(np.zeros((), dtype)), persistent)

    def update(self) -> None:
        """Counts a step, and past the warmup the seconds since the one before.

        >>> metric = ThroughputMetric(batch_size=4, world_size=2, window_seconds=10)
        >>> metric.update()
        >>> metric.total_examples.item()
        8
        """
        self._steps += 1
        self._count_batch()
        examples = self._batch_examples()
        self._add("total_examples", "attempt_examples", examples)
        if self._steps > self._warmup_steps:
            seconds = self._window.add(self._now())
            self._add("time_lapse_after_warmup", "attempt_time_lapse_after_warmup", seconds)
            return
        self._add("warmup_examples", "attempt_warmup_examples", examples)
        if self._steps == self._warmup_steps:
            self._window.previous = self._now()

    def _add(self, lifetime: str, attempt: str, number: float) -> None:
        # Past the module's attribute look-up, which takes longer than the sums.
        self._buffers[lifetime] += number
        self._buffers[attempt] += number

    def compute(self) -> dict[str, Tensor]:
        """The counts, and past the warmup, once time has passed, the rates.

        Returns:
            0-D arrays, which later updates leave alone: int64 ``total_examples`` and
            ``attempt_examples``; float64 ``lifetime_throughput``, ``window_throughput`` and
            ``attempt_throughput``, the latter two 0 where they cover no time; and int32
            ``batch_size`` where it has stages. Keys are ``throughput-throughput|{name}``.

        >>> metric = ThroughputMetric(batch_size=4, world_size=2, window_seconds=10)
        >>> metric.update()
        >>> for key, value in metric.compute().items():
        ...     print(key, value.item())
        throughput-throughput|total_examples 8
        throughput-throughput|attempt_examples 8
        """
        values = {
            _TOTAL_EXAMPLES: as_kind(self.total_examples, NATIVE),
            _ATTEMPT_EXAMPLES: as_kind(self.attempt_examples, NATIVE),
        }
        seconds = float(self.time_lapse_after_warmup)
        if self._steps > self._warmup_steps and seconds != 0.0:
            lifetime = int(self.total_examples) - int(self.warmup_examples)
            attempt = int(self.attempt_examples) - int(self.attempt_warmup_examples)
            window = len(self._window.steps) * self._batch_examples()
            for key, examples, time_lapse in (
                (_LIFETIME_THROUGHPUT, lifetime, seconds),
                (_WINDOW_THROUGHPUT, window, self._window.seconds),
                (_ATTEMPT_THROUGHPUT, attempt, float(self.attempt_time_lapse_after_warmup)),
            ):
                rate = examples / time_lapse if time_lapse else 0.0
                values[key] = self._scalar(rate, np.float64)
        if self._batch_size_stages is not None:
            values[_BATCH_SIZE] = self._scalar(self._get_batch_size(), np.int32)
        return values

    def _batch_examples(self) -> int:
        return self._get_batch_size() * self._world_size

    def _now(self) -> float:
        return time.monotonic() if self._clock is None else self._clock()

    def _scalar(self, value: float, dtype: type[np.generic]) -> Tensor:
        scalar = from_numpy(np.array(value, dtype))
        return scalar if torch is None else scalar.to(self.total_examples.device)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        own: dict[str, Any] = {}
        super()._save_to_state_dict(own, prefix, keep_vars)
        # Buffers are added to in place: what is saved is copied, or it would go on counting.
        destination.update({name: as_kind(buffer, NATIVE) for name, buffer in own.items()})
        self._save_num_batch(destination, prefix)


class _Window:
    """The seconds of the newest steps, as many as fit together into ``limit``."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.previous = 0.0
        self.seconds = 0.0
        self.steps: deque[float] = deque()

    def add(self, now: float) -> float:
        """Takes up the step that ends now, and gives its seconds."""
        step = now - self.previous
        self.previous = now
        self.steps.append(step)
        self.seconds += step
        while len(self.steps) > MAX_WINDOW_TS or self.seconds > self.limit:
            self.seconds -= self.steps.popleft()
        if not self.steps:
            self.seconds = 0.0  # Not what subtraction has left of it.
        return step
