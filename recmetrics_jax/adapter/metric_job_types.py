"""What waits in the queues of a module that computes beside its caller.

The class API of torchrec.metrics.metric_job_types.
"""

import dataclasses
from concurrent.futures import Future
from typing import Any

from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metric_state_snapshot import MetricStateSnapshot


@dataclasses.dataclass(slots=True)
class MetricUpdateJob:
    """An update to make.

    Attributes:
        model_out: the model's outputs.
        kwargs: what else was passed to ``update``.
        merged_count: the updates that it stands for.
        copied: the CUDA event after which the outputs can be read; None for at once.
    """

    model_out: dict[str, Tensor]
    kwargs: dict[str, Any]
    merged_count: int = 1
    copied: Any = None


@dataclasses.dataclass(slots=True)
class MetricComputeJob:
    """Values to compute of states as they were.

    Attributes:
        future: is given the values.
        metric_state_snapshot: the states, of this rank.
    """

    future: Future[dict[str, Any]]
    metric_state_snapshot: MetricStateSnapshot


@dataclasses.dataclass(slots=True)
class SynchronizationMarker:
    """The place among updates where values are asked for: it becomes a `MetricComputeJob`.

    Attributes:
        future: is given the values.
        throughput_only: whether throughput is all that is asked for.
    """

    future: Future[dict[str, Any]]
    throughput_only: bool = False
