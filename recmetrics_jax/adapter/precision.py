"""Precision at a threshold; the class API of torchrec.metrics.precision."""

from typing import Any

from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import classification
from recmetrics_jax._src.terms import Term
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import apply_to_sums, term_sums
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.rec_metric import RecMetric

THRESHOLD = "threshold"


def compute_precision(num_true_positives: Tensor, num_false_positives: Tensor) -> Tensor:
    """Precision: ``TP / (TP + FP)``.

    Args:
        num_true_positives: the weight of true positives, ``[n_tasks]``.
        num_false_positives: the weight of false positives, ``[n_tasks]``.

    Returns:
        ``float64[n_tasks]``; 0 where that is undefined.
    """
    return apply_to_sums(
        classification.precision_values,
        "precision",
        classification.PrecisionSums,
        undefined=0.0,
        true_pos_sum=num_true_positives,
        false_pos_sum=num_false_positives,
    )


def compute_true_pos_sum(
    labels: Tensor, predictions: Tensor, weights: Tensor, threshold: float = 0.5
) -> Tensor:
    """The weight of true positives.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``.
        threshold: predictions from here on count as positive.

    Returns:
        ``[n_tasks]``, of the dtype of the arguments: the sum of ``w y [p >= threshold]``.
    """
    terms = {"sum": Term(classification.true_positives, (threshold,))}
    return term_sums(terms, labels, predictions, weights)["sum"]


def compute_false_pos_sum(
    labels: Tensor, predictions: Tensor, weights: Tensor, threshold: float = 0.5
) -> Tensor:
    """The weight of false positives.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``.
        threshold: predictions from here on count as positive.

    Returns:
        ``[n_tasks]``, of the dtype of the arguments: the sum of ``w (1 - y) [p >= threshold]``.
    """
    terms = {"sum": Term(classification.false_positives, (threshold,))}
    return term_sums(terms, labels, predictions, weights)["sum"]


def get_precision_states(
    labels: Tensor, predictions: Tensor, weights: Tensor | None, threshold: float = 0.5
) -> dict[str, Tensor]:
    """What a batch adds to the states of precision.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``; None for ones.
        threshold: predictions from here on count as positive.

    Returns:
        ``true_pos_sum`` and ``false_pos_sum``, each ``[n_tasks]``.
    """
    return term_sums(
        classification.precision_terms(threshold)._asdict(), labels, predictions, weights
    )


def _precision(*, threshold: float = 0.5, **options: Any) -> Metric:
    return classification.precision(threshold=threshold, undefined=0.0, **options)


class PrecisionMetricComputation(DeclaredComputation):
    """The states of precision; see `recmetrics_jax.precision`.

    Args:
        threshold: predictions from here on count as positive.
    """

    _factory = staticmethod(_precision)
    _requires_weights = False


class PrecisionMetric(RecMetric):
    """Precision of each task, ``lifetime_precision`` and ``window_precision``.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = PrecisionMetric(world_size=1, my_rank=0, batch_size=2, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.5, 0.75])},
    ...     labels={"DefaultTask": np.array([1.0, 0.0])},
    ...     weights=None,
    ... )
    >>> round(metric.compute()["precision-DefaultTask|lifetime_precision"].item(), 6)
    0.5
    """

    _namespace = MetricNamespace.PRECISION
    _computation_class = PrecisionMetricComputation
