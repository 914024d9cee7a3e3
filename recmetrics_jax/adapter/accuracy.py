"""Accuracy at a threshold; the class API of torchrec.metrics.accuracy."""

from typing import Any

from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import classification
from recmetrics_jax._src.terms import Term
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import apply_to_sums, term_sums
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.rec_metric import RecMetric

THRESHOLD = "threshold"


def compute_accuracy(accuracy_sum: Tensor, weighted_num_samples: Tensor) -> Tensor:
    """Accuracy: the weighted fraction of examples classified right.

    Args:
        accuracy_sum: the weight of examples classified right, ``[n_tasks]``.
        weighted_num_samples: the sum of weights, ``[n_tasks]``.

    Returns:
        ``float64[n_tasks]``; 0 where that is undefined.
    """
    return apply_to_sums(
        classification.accuracy_values,
        "accuracy",
        classification.AccuracySums,
        undefined=0.0,
        accuracy_sum=accuracy_sum,
        weighted_num_samples=weighted_num_samples,
    )


def compute_accuracy_sum(
    labels: Tensor, predictions: Tensor, weights: Tensor, threshold: float = 0.5
) -> Tensor:
    """The weight of the examples classified right.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``.
        threshold: predictions from here on count as positive.

    Returns:
        ``[n_tasks]``, of the dtype of the arguments: the sum of ``w [[p >= threshold] = y]``.
    """
    terms = {"sum": Term(classification.equal, (threshold,))}
    return term_sums(terms, labels, predictions, weights)["sum"]


def get_accuracy_states(
    labels: Tensor, predictions: Tensor, weights: Tensor | None, threshold: float = 0.5
) -> dict[str, Tensor]:
    """What a batch adds to the states of accuracy.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``; None for ones.
        threshold: predictions from here on count as positive.

    Returns:
        ``accuracy_sum`` and ``weighted_num_samples``, each ``[n_tasks]``.
    """
    terms = classification.accuracy_terms(threshold, by_equality=True)._asdict()
    return term_sums(terms, labels, predictions, weights)


def _accuracy(*, threshold: float = 0.5, **options: Any) -> Metric:
    terms = classification.accuracy_terms(threshold, by_equality=True)
    return sum_metric(terms, classification.accuracy_values, undefined=0.0, **options)


class AccuracyMetricComputation(DeclaredComputation):
    """The states of accuracy; see `recmetrics_jax.accuracy`.

    Args:
        threshold: predictions from here on count as positive.
    """

    _factory = staticmethod(_accuracy)
    _requires_weights = False


class AccuracyMetric(RecMetric):
    """Accuracy of each task, ``lifetime_accuracy`` and ``window_accuracy``.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = AccuracyMetric(world_size=1, my_rank=0, batch_size=2, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.5, 0.75])},
    ...     labels={"DefaultTask": np.array([1.0, 0.0])},
    ...     weights=None,
    ... )
    >>> round(metric.compute()["accuracy-DefaultTask|lifetime_accuracy"].item(), 6)
    0.5
    """

    _namespace = MetricNamespace.ACCURACY
    _computation_class = AccuracyMetricComputation
