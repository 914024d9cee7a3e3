"""The states of metrics as they are at a time, to compute with while they go on.

The class API of torchrec.metrics.metric_state_snapshot.
"""

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from recmetrics_jax.adapter._computation import RecMetricComputation
from recmetrics_jax.adapter._distributed import function_of
from recmetrics_jax.adapter._metric_list import RecMetricList
from recmetrics_jax.adapter._pre_compute import take_states
from recmetrics_jax.adapter._tensors import copy as copied
from recmetrics_jax.adapter.metrics_config import RecComputeMode
from recmetrics_jax.adapter.throughput import ThroughputMetric


@dataclasses.dataclass
class MetricStateSnapshot:
    """Copies of the states of this rank.

    Attributes:
        metric_states: by ``<task>_<class of the computation>_<state>``; of fused tasks the mode in
            place of the task. A second computation of that name has its position appended.
        throughput_metric: a copy; None for none.
    """

    metric_states: dict[str, Any]
    throughput_metric: ThroughputMetric | None

    @classmethod
    def from_metrics(
        cls, rec_metrics: RecMetricList, throughput_metric: ThroughputMetric | None = None
    ) -> "MetricStateSnapshot":
        """The states of metrics, those of this rank where `sync` has replaced them.

        Args:
            rec_metrics: the metrics; batches that wait to be joined are taken in.
            throughput_metric: likewise copied.
        """
        for metric in rec_metrics.rec_metrics:
            metric.flush()
        states: dict[str, Any] = {}
        for prefix, computation in _named(rec_metrics):
            with computation.local_states():
                for name, reduction in computation._reductions.items():
                    states[f"{prefix}_{name}"] = _joined(getattr(computation, name), reduction)
        return cls(states, copy.deepcopy(throughput_metric))

    def load_into(self, rec_metrics: RecMetricList) -> None:
        """Gives the states to other metrics of the same kind; those that it lacks stay."""
        for prefix, computation in _named(rec_metrics):
            keys = {name: f"{prefix}_{name}" for name in computation._reductions}
            given = {n: self.metric_states[k] for n, k in keys.items() if k in self.metric_states}
            take_states(computation, given)


def _named(rec_metrics: RecMetricList) -> Iterator[tuple[str, RecMetricComputation]]:
    """The computations by what their states' keys begin with."""
    seen: set[str] = set()
    for position, metric in enumerate(rec_metrics.rec_metrics):
        is_fused = metric._compute_mode is not RecComputeMode.UNFUSED_TASKS_COMPUTATION
        of = [metric._compute_mode.name] if is_fused else [task.name for task in metric._tasks]
        for task, computation in zip(of, metric.computations, strict=True):
            prefix = f"{task}_{type(computation).__name__}"
            prefix = f"{prefix}_{position}" if prefix in seen else prefix
            seen.add(prefix)
            yield prefix, computation


def _joined(state: Any, reduction: Any) -> Any:
    """A copy of a state, of a list as its reduction joins it."""
    if isinstance(state, list) and state:
        reduce = function_of(reduction)
        reduced = state if reduce is None else reduce(state)
        state = reduced if isinstance(reduced, list) else state
    return jax.tree.map(copied, state)
