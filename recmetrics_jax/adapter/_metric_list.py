"""`RecMetricList`: several metrics, updated and computed at once."""

from typing import Any

from recmetrics_jax.adapter._checkpoints import states_of, with_moved_metrics
from recmetrics_jax.adapter._distributed import sync, synced
from recmetrics_jax.adapter._layout import Layout
from recmetrics_jax.adapter._metric import RecMetric, RecModelOutput
from recmetrics_jax.adapter._module import Module, ModuleList, is_standard
from recmetrics_jax.adapter._passes import Passes
from recmetrics_jax.adapter._states import all_or_nothing
from recmetrics_jax.adapter._tensors import Tensor, no_grad


class RecMetricList(Module):
    """Several metrics, updated and computed at once.

    Where they are declared by factories and have the same tasks, one compiled call updates them
    all. The states of all ranks are merged in one exchange.

    Args:
        rec_metrics: the metrics.
    """

    rec_metrics: "ModuleList[RecMetric]"
    required_inputs: list[str] | None

    def __init__(self, rec_metrics: list[RecMetric]) -> None:
        super().__init__()
        self.rec_metrics = ModuleList(rec_metrics)
        required = set().union(*(metric.get_required_inputs() for metric in rec_metrics))
        self.required_inputs = sorted(required) if required else None
        self._passes = Passes()

    def __len__(self) -> int:
        return len(self.rec_metrics)

    def __getitem__(self, idx: int) -> RecMetric:
        return self.rec_metrics[idx]

    def get_required_inputs(self) -> list[str] | None:
        """The names of the further arrays that the metrics need; None if they need none."""
        return self.required_inputs

    def update(
        self,
        *,
        predictions: RecModelOutput,
        labels: RecModelOutput,
        weights: RecModelOutput | None,
        **kwargs: Any,
    ) -> None:
        """Takes in a batch; see `RecMetric.update`."""
        by_layout: dict[Layout, list[RecMetric]] = {}
        others = []
        for metric in self.rec_metrics:
            if metric.is_updated_by_passes():
                by_layout.setdefault(metric.layout, []).append(metric)
            else:
                others.append(metric)
        updates = []
        with no_grad():
            for layout, metrics in by_layout.items():
                batches = layout.batches(predictions, labels, weights)
                targets = [target for metric in metrics for target in metric.targets(batches)]
                required_inputs = kwargs.get("required_inputs") or {}
                updates.append(self._passes.plan(targets, required_inputs, len(layout.tasks)))
                for metric in metrics:
                    metric.note_kind(predictions)
            with all_or_nothing(metric.updating() for metric in others):
                for metric in others:
                    metric.update(predictions=predictions, labels=labels, weights=weights, **kwargs)
            for update in updates:
                update()

    def compute(self) -> dict[str, Tensor]:
        """The values of all metrics, of all ranks; see `RecMetric.compute`."""
        at_once = [metric for metric in self.rec_metrics if is_standard(metric.compute)]
        values = {}
        with synced([c for metric in at_once for c in metric.prepared()]):
            for metric in self.rec_metrics:
                values |= metric.global_values() if metric in at_once else metric.compute()
        return values

    def local_compute(self) -> dict[str, Tensor]:
        """The values of all metrics, of this rank alone."""
        return {
            key: value
            for metric in self.rec_metrics
            for key, value in metric.local_compute().items()
        }

    def sync(self) -> None:
        """`RecMetric.sync` of all metrics, in one exchange."""
        at_once = [metric for metric in self.rec_metrics if is_standard(metric.sync)]
        for metric in at_once:
            metric.flush()
        sync([computation for metric in at_once for computation in metric.computations])
        for metric in self.rec_metrics:
            if metric not in at_once:
                metric.sync()

    def unsync(self) -> None:
        """`RecMetric.unsync` of all metrics."""
        for metric in self.rec_metrics:
            metric.unsync()

    def reset(self) -> None:
        """`RecMetric.reset` of all metrics."""
        for metric in self.rec_metrics:
            metric.reset()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        *_, unexpected_keys, error_msgs = others
        metrics = [
            states_of(
                (f"_metrics_computations.{i}.{name}", computation._defaults[name])
                for i, computation in enumerate(metric.computations)
                for name, is_persistent in computation._persistent.items()
                if is_persistent
            )
            for metric in self.rec_metrics
        ]
        with_moved_metrics(state_dict, prefix, metrics, unexpected_keys, error_msgs)
        super()._load_from_state_dict(state_dict, prefix, *others)
