"""A module that does nothing, for where metrics are off; torchrec.metrics.noop_metric_module."""

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from recmetrics_jax.adapter._module import Module
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.deferrable_metrics import DeferrableMetrics
from recmetrics_jax.adapter.metric_module import MetricValue, RecMetricModule


class NoOpMetricModule(RecMetricModule):
    """What has the methods of `RecMetricModule`, and does nothing.

    >>> module = NoOpMetricModule()
    >>> module.update({"label": [1.0]})
    >>> module.should_compute(), {**module.compute()}
    (False, {})
    """

    def __init__(self) -> None:
        Module.__init__(self)

    def _update_rec_metrics(self, model_out: dict[str, Tensor], **kwargs: Any) -> None:
        pass

    def update(self, model_out: dict[str, Tensor], **kwargs: Any) -> None:
        """Does nothing."""

    def should_compute(self) -> bool:
        """False."""
        return False

    def compute(self) -> DeferrableMetrics:
        """No values."""
        return DeferrableMetrics({})

    def local_compute(self) -> DeferrableMetrics:
        """No values."""
        return DeferrableMetrics({})

    def sync(self) -> None:
        """Does nothing."""

    def unsync(self) -> None:
        """Does nothing."""

    def reset(self) -> None:
        """Does nothing."""

    def get_required_inputs(self) -> list[str] | None:
        """None."""
        return None

    def get_memory_usage(self) -> int:
        """0."""
        return 0

    def check_memory_usage(self, compute_count: int) -> None:
        """Does nothing."""

    def get_pre_compute_states(self, pg: Any = None) -> dict[str, Any]:
        """No states."""
        return {}

    def load_pre_compute_states(self, source: Mapping[str, Any]) -> None:
        """Does nothing."""

    def compute_throughput(self) -> DeferrableMetrics:
        """No values."""
        return DeferrableMetrics({})

    def shutdown(self) -> None:
        """Does nothing."""

    def async_compute(  # pyright: ignore[reportIncompatibleMethodOverride]  As in the reference.
        self, future: "Future[dict[str, MetricValue]]"
    ) -> None:
        """Does nothing; ``future`` stays as it is."""
