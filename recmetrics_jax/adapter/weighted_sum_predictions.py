"""The weighted sum of predictions; the class API of torchrec.metrics.weighted_sum_predictions."""

from typing import Any

from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import reference_sums
from recmetrics_jax._src.terms import Term
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import term_sums
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.rec_metric import RecMetric

_TERMS = {"weighted_predictions_sum": Term(reference_sums.weighted_given_predictions)}


def compute_weighted_predictions_sum(
    labels: Tensor, predictions: Tensor, weights: Tensor
) -> Tensor:
    """The weighted sum of predictions, where they are not NaN.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``.

    Returns:
        ``[n_tasks]``, of the dtype of the arguments: the sum of ``w p``, without
        predictions that are NaN.
    """
    return get_weighted_sum_prediction_states(labels, predictions, weights)[
        "weighted_predictions_sum"
    ]


def get_weighted_sum_prediction_states(
    labels: Tensor, predictions: Tensor, weights: Tensor | None
) -> dict[str, Tensor]:
    """What a batch adds to the state of the weighted sum of predictions.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``; None for ones.

    Returns:
        ``weighted_predictions_sum``, ``[n_tasks]``.

    >>> import numpy as np
    >>> scores, weights = np.array([[np.nan, 0.5]]), np.array([[3.0, 1.0]])
    >>> get_weighted_sum_prediction_states(scores, scores, weights)
    {'weighted_predictions_sum': array([0.5])}
    """
    return term_sums(_TERMS, labels, predictions, weights)


def _weighted_sum_predictions(**options: Any) -> Metric:
    return reference_sums.sum_by_name("weighted_sum_predictions", _TERMS, **options)


class WeightedSumPredictionsMetricComputation(DeclaredComputation):
    """The state of the weighted sum of predictions: it itself."""

    _factory = staticmethod(_weighted_sum_predictions)
    _requires_weights = False


class WeightedSumPredictionsMetric(RecMetric):
    """Weighted sum of predictions by task, ``lifetime_weighted_sum_predictions`` and of the window.

    A prediction that is NaN does not count.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = WeightedSumPredictionsMetric(1, 0, batch_size=2, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.5, 0.25])},
    ...     labels={"DefaultTask": np.array([1.0, np.nan])},
    ...     weights={"DefaultTask": np.array([3.0, 1.0])},
    ... )
    >>> next(iter(metric.compute().values())).tolist()
    [1.75]
    """

    _namespace = MetricNamespace.WEIGHTED_SUM_PREDICTIONS
    _computation_class = WeightedSumPredictionsMetricComputation
