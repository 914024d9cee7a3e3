"""The memory that the metrics of a module hold, and warnings about it."""

import logging

from recmetrics_jax.adapter._metric_list import RecMetricList
from recmetrics_jax.adapter._module import Module

logger = logging.getLogger("recmetrics_jax.adapter.metric_module")

MEGABYTE = 1_000_000


class MemoryWatch(Module):
    """A module that knows how much memory its metrics hold."""

    rec_metrics: RecMetricList
    memory_usage_limit_mb: float
    oom_count: int
    memory_usage_mb_avg: float

    def __init__(self) -> None:
        super().__init__()
        self.oom_count = 0
        self.memory_usage_mb_avg = 0.0

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
