"""The module that computes values of states as they were, for one that goes on updating.

The class API of torchrec.metrics.cpu_comms_metric_module.
"""

import copy
from collections.abc import Mapping
from typing import Any

from recmetrics_jax.adapter._pre_compute import (
    PreComputeStates,
    load_into_metrics,
    states_of_metrics,
)
from recmetrics_jax.adapter.metric_module import RecMetricModule
from recmetrics_jax.adapter.metric_state_snapshot import MetricStateSnapshot
from recmetrics_jax.adapter.rec_metric import RecMetricList


class CPUCommsRecMetricModule(RecMetricModule):
    """Copies of metrics, into which states are loaded: of this rank, and then of all.

    The states of ranks are merged by `get_pre_compute_states` alone: ``compute`` takes them as they
    are.

    Args:
        *args: as of `RecMetricModule`; the metrics are copied, and are not changed.
        **kwargs: likewise.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rec_metrics = fresh_copy(self.rec_metrics)
        for metric in self.rec_metrics.rec_metrics:
            for computation in metric.computations:
                computation._to_sync = False

    def get_pre_compute_states(self, pg: Any = None) -> PreComputeStates:
        """The states of all ranks; throughput is in snapshots already."""
        return states_of_metrics(self.rec_metrics.rec_metrics, pg)

    def load_pre_compute_states(self, source: Mapping[str, Any]) -> None:
        """Takes over what `get_pre_compute_states` gave."""
        load_into_metrics(self.rec_metrics.rec_metrics, source)

    def load_local_metric_state_snapshot(self, state_snapshot: MetricStateSnapshot) -> None:
        """Takes over the states of this rank.

        Args:
            state_snapshot: of metrics like these.
        """
        state_snapshot.load_into(self.rec_metrics)
        if state_snapshot.throughput_metric is not None:
            self.throughput_metric = state_snapshot.throughput_metric


def fresh_copy(rec_metrics: RecMetricList) -> RecMetricList:
    """Metrics like these, without a batch; process groups are shared."""
    groups = [c.process_group for metric in rec_metrics.rec_metrics for c in metric.computations]
    memo = {id(group): group for group in groups if group is not None}
    copied = copy.deepcopy(rec_metrics, memo)
    copied.reset()
    return copied
