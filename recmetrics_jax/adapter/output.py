"""Two further outputs of a model as they are; the class API of torchrec.metrics.output."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from recmetrics_jax._src.base import Values
from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics.reference_sums import BATCHES, mean_number_term
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax.adapter._computation import MetricComputationReport
from recmetrics_jax.adapter._declaration import Source, StateOptions
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._inputs import as_numbers_of_float32
from recmetrics_jax.adapter.metrics_namespace import MetricName, MetricNamespace, MetricPrefix
from recmetrics_jax.adapter.rec_metric import RecMetric

LATEST_IMP = "latest_imp"
TOTAL_LATEST_IMP = "total_latest_imp"
OUTPUTS = (LATEST_IMP, TOTAL_LATEST_IMP)
NUM_RANKS = "num_ranks"

_READ_AS = {name: f"float32({name})" for name in OUTPUTS}
_TERMS = {name: mean_number_term(read_as) for name, read_as in _READ_AS.items()}


def _output(*, n_tasks: int = 1) -> Metric:
    return sum_metric({**_TERMS, NUM_RANKS: BATCHES}, _values, n_tasks=n_tasks, undefined=0.0)


def _values(sums: Mapping[str, jax.Array]) -> Values:
    return {name: safe_divide(sums[name], sums[NUM_RANKS]) for name in OUTPUTS}


class OutputMetricComputation(DeclaredComputation):
    """The means of the outputs in the latest batch, and whether there has been one.

    Of ranks, states are the sums, and so ``num_ranks`` how many have had a batch; values are means.
    """

    _factory = staticmethod(_output)
    _requires_predictions = False
    _requires_weights = False
    _reported: Any = tuple((MetricPrefix.DEFAULT, name) for name in OUTPUTS)

    def _state_options(self, name: str) -> StateOptions:
        return StateOptions(persistent=False, is_latest=True)

    def _sources(self) -> dict[str, Source]:
        return {read_as: (name, as_numbers_of_float32) for name, read_as in _READ_AS.items()}

    def _described(self, report: MetricComputationReport) -> MetricComputationReport:
        return dataclasses.replace(report, name=MetricName.OUTPUT, description=f"_{report.name}")


class OutputMetric(RecMetric):
    """``latest_imp`` and ``total_latest_imp``, from ``required_inputs``, of the latest batch.

    By task their means, ``output_latest_imp`` and ``output_total_latest_imp``; 0 before any batch.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = OutputMetric(world_size=1, my_rank=0, batch_size=2, tasks=[DefaultTaskInfo])
    >>> ones = {"DefaultTask": np.ones(2)}
    >>> outputs = {"latest_imp": np.array([1.0, 3.0]), "total_latest_imp": np.array([8.0, 10.0])}
    >>> metric.update(predictions=ones, labels=ones, weights=None, required_inputs=outputs)
    >>> {key: value.item() for key, value in metric.compute().items()}
    {'output-DefaultTask|output_latest_imp': 2.0, 'output-DefaultTask|output_total_latest_imp': 9.0}
    """

    _namespace = MetricNamespace.OUTPUT
    _computation_class = OutputMetricComputation
