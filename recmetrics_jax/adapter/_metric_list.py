"""`RecMetricList`: metrics that are updated and computed together."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from recmetrics_jax.adapter._declared import Declaration, Shared
from recmetrics_jax.adapter._metric import RecMetric, RecModelOutput
from recmetrics_jax.adapter._module import Module, ModuleList
from recmetrics_jax.adapter._states import all_or_nothing, merge_states, synced
from recmetrics_jax.adapter._tensors import Tensor, no_grad
from recmetrics_jax.adapter._updates import planned


@contextlib.contextmanager
def _all_or_nothing(metrics: Sequence[RecMetric]) -> Iterator[None]:
    """A scope that leaves metrics as they were if it fails."""
    pending = [list(metric._pending) for metric in metrics]
    try:
        with all_or_nothing([c for metric in metrics for c in metric._metrics_computations]):
            yield
    except BaseException:
        for metric, batches in zip(metrics, pending, strict=True):
            metric._pending = batches
        raise


class RecMetricList(Module):
    """Metrics that are updated and computed together.

    Where they are declared by factories and have the same tasks, one compiled call updates them
    all. The states of all ranks are merged in one exchange.

    Args:
        rec_metrics: the metrics.
    """

    rec_metrics: ModuleList
    required_inputs: list[str] | None

    def __init__(self, rec_metrics: list[RecMetric]) -> None:
        super().__init__()
        self.rec_metrics = ModuleList(rec_metrics)
        required = set().union(*(metric.get_required_inputs() for metric in rec_metrics))
        self.required_inputs = sorted(required) if required else None
        self._grouped: Any = None
        self._shared: dict[tuple[Declaration, ...], Shared] = {}

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
        required_inputs = kwargs.get("required_inputs") or {}
        groups, others = self._groups()
        plans = []
        with no_grad():
            for together in groups:
                for metric in together:
                    metric._note_kind(predictions)
                batches = together[0]._valid(together[0]._batches(predictions, labels, weights))
                plans.append(planned(together, batches, required_inputs, self._shared))
            with _all_or_nothing(others):
                for metric in others:
                    metric.update(predictions=predictions, labels=labels, weights=weights, **kwargs)
            for update in plans:
                update()

    def _groups(self) -> tuple[list[list[RecMetric]], list[RecMetric]]:
        """The metrics that one compiled call can update, by tasks, and those that it cannot."""
        metrics = [(metric, metric._updates_as_declared()) for metric in self.rec_metrics]
        if self._grouped is None or self._grouped[0] != metrics:
            shared = [metric for metric, is_declared in metrics if is_declared]
            others = [metric for metric, is_declared in metrics if not is_declared]
            groups = []
            while shared:
                together = [metric for metric in shared if shared[0]._shares_updates_with(metric)]
                shared = [metric for metric in shared if metric not in together]
                groups.append(together)
            self._grouped = metrics, groups, others
            self._shared = {}
        return self._grouped[1:]

    def compute(self) -> dict[str, Tensor]:
        """The values of all metrics, of all ranks together; see `RecMetric.compute`."""
        together = [m for m in self.rec_metrics if type(m).compute is RecMetric.compute]
        values = {}
        with synced([c for metric in together for c in metric._prepared()]):
            for metric in self.rec_metrics:
                values |= metric._global_values() if metric in together else metric.compute()
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
        for metric in self.rec_metrics:
            metric._flush()
        merge_states([c for metric in self.rec_metrics for c in metric._metrics_computations])

    def unsync(self) -> None:
        """`RecMetric.unsync` of all metrics."""
        for metric in self.rec_metrics:
            metric.unsync()

    def reset(self) -> None:
        """`RecMetric.reset` of all metrics."""
        for metric in self.rec_metrics:
            metric.reset()
