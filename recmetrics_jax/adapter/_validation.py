"""Opt-in validation: inputs that are no numbers are refused before a metric sees them."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from recmetrics_jax.adapter._module import Module, RecMetricException
from recmetrics_jax.adapter._tensors import Tensor, to_numpy

if TYPE_CHECKING:
    from recmetrics_jax.adapter._metric import RecMetric
    from recmetrics_jax.adapter._metric_list import RecMetricList


class RecMetricValidationError(RecMetricException):
    """Inputs of a metric have NaNs or infinities that it does not allow."""


@dataclasses.dataclass(frozen=True)
class RecMetricInputPolicy:
    """What the inputs of a metric may hold, where they are validated.

    Attributes:
        allow_nan_labels: whether labels may be NaN, as missing ones are.
    """

    allow_nan_labels: bool = False


@dataclasses.dataclass(frozen=True)
class _Counts:
    """What an array holds that is no finite number."""

    described: str
    nans: int
    infinities: int

    @classmethod
    def of(cls, x: Tensor) -> "_Counts":
        array = to_numpy(x)
        nan = positive = negative = 0
        if array.dtype.kind == "f":
            nan = int(np.isnan(array).sum())
            positive, negative = int(np.isposinf(array).sum()), int(np.isneginf(array).sum())
        described = (
            f"shape={list(array.shape)} dtype={x.dtype} numel={array.size} nan={nan} "
            f"+inf={positive} -inf={negative}"
        )
        return cls(described, nan, positive + negative)


class ValidatedInputs(Module):
    """A module that can refuse inputs that its metrics do not allow."""

    rec_metrics: "RecMetricList"
    trained_batches: int

    def __init__(self) -> None:
        super().__init__()
        self._debug_mode = False
        self._debug_rank = 0

    def _configure_debug_mode(self, debug_mode: bool, my_rank: int) -> None:
        """Says whether inputs are validated, and the rank, for messages."""
        self._debug_mode, self._debug_rank = debug_mode, my_rank

    def _validate_rec_metric_inputs(
        self, labels: Mapping[str, Any], predictions: Mapping[str, Any], weights: Mapping[str, Any]
    ) -> None:
        """Raises RecMetricValidationError for inputs by task, if they are to be validated."""
        if self._debug_mode:
            inputs = {"labels": labels, "predictions": predictions, "weights": weights}
            where = f"rank={self._debug_rank} trained_batches={self.trained_batches}"
            check_inputs(self.rec_metrics.rec_metrics, inputs, where)


def check_inputs(
    metrics: "Iterable[RecMetric]", inputs: Mapping[str, Mapping[str, Any]], where: str
) -> None:
    """Raises if a metric does not allow what is in the inputs of its tasks.

    Args:
        metrics: the metrics.
        inputs: the labels, predictions and weights, each by task.
        where: the rank and the batch, for the message.

    Raises:
        RecMetricValidationError: names all metrics, tasks and inputs, with counts.
    """
    counted: dict[tuple[str, str], _Counts] = {}
    lines = []
    for metric in metrics:
        allowed = {*metric.allowed_nan_inputs}
        if metric.input_policy.allow_nan_labels:
            allowed.add(metric.LABELS)
        for task in metric._tasks:
            for name, by_task in inputs.items():
                if name in metric.ignored_input_values or task.name not in by_task:
                    continue
                key = task.name, name
                if key not in counted:
                    counted[key] = _Counts.of(by_task[task.name])
                counts = counted[key]
                if counts.infinities or (counts.nans and name not in allowed):
                    expected = "no infinities" if name in allowed else "finite numbers"
                    lines.append(
                        f"metric={type(metric).__name__} namespace={metric._namespace.value} "
                        f"task={task.name}: {name}: expected {expected}, got {counts.described}"
                    )
    if lines:
        raise RecMetricValidationError(
            "\n".join([f"RecMetric validation failed at input: {where}", *lines])
        )
