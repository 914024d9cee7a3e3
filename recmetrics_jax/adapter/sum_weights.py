"""The sum of weights; the class API of torchrec.metrics.sum_weights."""

from typing import Any

from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import reference_sums
from recmetrics_jax._src.terms import WEIGHTS
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import term_sums
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.rec_metric import RecMetric

_TERMS = {"weighted_sum": WEIGHTS}


def compute_weighted_sum(labels: Tensor, predictions: Tensor, weights: Tensor) -> Tensor:
    """The sum of weights.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``; they do not count.
        weights: ``[n_tasks, N]``.

    Returns:
        ``[n_tasks]``, of the dtype of the arguments: the sum of ``w``.
    """
    return get_weighted_sum_states(labels, predictions, weights)["weighted_sum"]


def get_weighted_sum_states(
    labels: Tensor, predictions: Tensor, weights: Tensor | None
) -> dict[str, Tensor]:
    """What a batch adds to the state of the sum of weights.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``; they do not count.
        weights: ``[n_tasks, N]``; None for ones.

    Returns:
        ``weighted_sum``, ``[n_tasks]``.

    >>> import numpy as np
    >>> ones, weights = np.ones((1, 2)), np.array([[3.0, 1.0]])
    >>> get_weighted_sum_states(ones, ones, weights)["weighted_sum"].tolist()
    [4.0]
    """
    return term_sums(_TERMS, labels, predictions, weights)


def _sum_weights(**options: Any) -> Metric:
    return reference_sums.sum_by_name("sum_weights", _TERMS, **options)


class SumWeightsMetricComputation(DeclaredComputation):
    """The state of the sum of weights: it itself."""

    _factory = staticmethod(_sum_weights)
    _requires_weights = False


class SumWeightsMetric(RecMetric):
    """Sum of weights by task, ``lifetime_sum_weights`` and ``window_sum_weights``.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = SumWeightsMetric(1, 0, batch_size=2, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.5, 0.25])},
    ...     labels={"DefaultTask": np.array([1.0, np.nan])},
    ...     weights={"DefaultTask": np.array([3.0, 1.0])},
    ... )
    >>> metric.compute()["sum_weights-DefaultTask|lifetime_sum_weights"].tolist()
    [4.0]
    """

    _namespace = MetricNamespace.SUM_WEIGHTS
    _computation_class = SumWeightsMetricComputation
