"""Weighted average of another output of the model; the class API of tensor_weighted_avg.

Of torchrec.metrics.tensor_weighted_avg.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import rates, reference_sums
from recmetrics_jax._src.terms import Term
from recmetrics_jax.adapter._computation import MetricComputationReport
from recmetrics_jax.adapter._declaration import Source
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._inputs import as_numbers
from recmetrics_jax.adapter._layout import TaskBatch, required_for, shape_of
from recmetrics_jax.adapter._module import RecMetricException
from recmetrics_jax.adapter._tensors import from_numpy, to_numpy
from recmetrics_jax.adapter.metrics_config import RecTaskInfo
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.rec_metric import RecMetric
from recmetrics_jax.adapter.weighted_avg import get_mean as get_mean

TARGET_TENSOR = "target_tensor"
"""The name, in ``required_inputs``, of the tensors of several tasks, stacked."""


def _tensor_weighted_avg(*, read_as: str, is_weighted: tuple[bool, ...], **options: Any) -> Metric:
    terms = rates.WeightedAvgSums(
        Term(reference_sums.weighted_number_beside, (read_as, is_weighted), keys=(read_as,)),
        Term(reference_sums.weight_or_one, (is_weighted,)),
    )
    return sum_metric(terms, rates.weighted_avg_values, **options)


class TensorWeightedAvgMetricComputation(DeclaredComputation):
    """The states of the weighted average of a further output.

    Args:
        tasks: the tasks, of which each names its tensor, ``tensor_name``, and says whether it is
            ``weighted``; if not, all examples count once.
        description: what is appended to the name of the value.

    Raises:
        RecMetricException: if a task names no tensor.
    """

    _factory = staticmethod(_tensor_weighted_avg)
    _requires_predictions = False

    def __init__(
        self,
        *args: Any,
        tasks: list[RecTaskInfo],
        description: str | None = None,
        **kwargs: Any,
    ) -> None:
        names = [task.tensor_name for task in tasks]
        if None in names:
            raise RecMetricException(
                "TensorWeightedAvgMetricComputation expects all tasks to have tensor_name, but got "
                f"{names}"
            )
        source = str(names[0]) if len(names) == 1 else TARGET_TENSOR
        super().__init__(
            *args,
            read_as=f"number({source})",
            is_weighted=tuple(bool(task.weighted) for task in tasks),
            **kwargs,
        )
        self.tasks, self._description, self._source = tasks, description, source
        self.weighted_mask = from_numpy(np.array([[task.weighted] for task in tasks], bool))

    def _sources(self) -> dict[str, Source]:
        return {self._read_as: (self._source, as_numbers)}

    @property
    def required_keys(self) -> tuple[str, ...]:
        """The names of the tensors of the tasks."""
        return tuple(dict.fromkeys(str(task.tensor_name) for task in self.tasks))

    def check_update(self, batch: TaskBatch, required_inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The numbers of all tasks; RecMetricException or ValueError if there are none that fit."""
        names = self.required_keys
        if len(self.tasks) > 1 and TARGET_TENSOR not in required_inputs:
            if missing := [name for name in names if name not in required_inputs]:
                raise RecMetricException(
                    f"Input {missing} are required for {type(self).__name__} update: expected an "
                    f"array of each name in required_inputs, got {sorted(required_inputs)}"
                )
            shape = (1, *shape_of(batch.labels)[1:])
            by_name = {n: to_numpy(required_for(n, required_inputs[n], shape)) for n in names}
            rows = [by_name[str(task.tensor_name)] for task in self.tasks]
            required_inputs = {**required_inputs, TARGET_TENSOR: np.concatenate(rows)}
        return super().check_update(batch, required_inputs)

    def _described(self, report: MetricComputationReport) -> MetricComputationReport:
        return dataclasses.replace(report, description=self._description)


class TensorWeightedAvgMetric(RecMetric):
    """Weighted mean of a further output by task, ``lifetime_weighted_avg`` and of the window.

    It is in ``required_inputs``, by the task's ``tensor_name``. What ``description`` says is
    appended to the names of the values.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import RecTaskInfo
    >>> task = RecTaskInfo("a", tensor_name="dwell")
    >>> metric = TensorWeightedAvgMetric(1, 0, batch_size=2, tasks=[task], description="_dwell")
    >>> metric.update(
    ...     predictions={"a": np.array([0.5, 0.5])},
    ...     labels={"a": np.array([1.0, 0.0])},
    ...     weights={"a": np.array([3.0, 1.0])},
    ...     required_inputs={"dwell": np.array([1.5, 7.5])},
    ... )
    >>> metric.compute()["weighted_avg-a|lifetime_weighted_avg_dwell"].tolist()
    [3.0]
    """

    _namespace = MetricNamespace.WEIGHTED_AVG
    _computation_class = TensorWeightedAvgMetricComputation

    def _get_task_kwargs(self, task_config: RecTaskInfo | list[RecTaskInfo]) -> dict[str, Any]:
        return {"tasks": _listed(task_config)}

    def _get_task_required_inputs(self, task_config: RecTaskInfo | list[RecTaskInfo]) -> set[str]:
        """The names of the tensors.

        Raises:
            RecMetricException: if one is to be weighted for one task, and not for another.
        """
        weighted: dict[str, bool] = {}
        for task in _listed(task_config):
            name = task.tensor_name
            if name is not None and weighted.setdefault(name, task.weighted) != task.weighted:
                raise RecMetricException(
                    f"tensor_name: expected {name!r} to be weighted for all tasks or for none, got "
                    f"weighted={weighted[name]} and weighted={task.weighted}"
                )
        return set(weighted)


def _listed(tasks: RecTaskInfo | list[RecTaskInfo]) -> list[RecTaskInfo]:
    return [tasks] if isinstance(tasks, RecTaskInfo) else tasks
