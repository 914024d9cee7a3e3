"""Recall at a threshold; the class API of torchrec.metrics.recall."""

from typing import Any

from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import classification
from recmetrics_jax._src.terms import Term
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import apply_to_sums, term_sums
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.precision import compute_true_pos_sum as compute_true_pos_sum
from recmetrics_jax.adapter.rec_metric import RecMetric

THRESHOLD = "threshold"


def compute_recall(num_true_positives: Tensor, num_false_negitives: Tensor) -> Tensor:
    """Recall: ``TP / (TP + FN)``.

    Args:
        num_true_positives: the weight of true positives, ``[n_tasks]``.
        num_false_negitives: the weight of false negatives, ``[n_tasks]``.

    Returns:
        ``[n_tasks]``, of the dtype of the sums; 0 where that is undefined.
    """
    return apply_to_sums(
        classification.recall_values,
        "recall",
        classification.RecallSums,
        undefined=0.0,
        keeps_dtype=True,
        true_pos_sum=num_true_positives,
        false_neg_sum=num_false_negitives,
    )


def compute_false_neg_sum(
    labels: Tensor, predictions: Tensor, weights: Tensor, threshold: float = 0.5
) -> Tensor:
    """The weight of false negatives, those at the threshold among them.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``.
        threshold: predictions from here on count as positive.

    Returns:
        ``[n_tasks]``, of the dtype of the arguments: the sum of ``w y [p <= threshold]``.
    """
    terms = {"sum": Term(classification.positives_up_to, (threshold,))}
    return term_sums(terms, labels, predictions, weights)["sum"]


def get_recall_states(
    labels: Tensor, predictions: Tensor, weights: Tensor | None, threshold: float = 0.5
) -> dict[str, Tensor]:
    """What a batch adds to the states of recall.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``; None for ones.
        threshold: predictions from here on count as positive.

    Returns:
        ``true_pos_sum`` and ``false_neg_sum``, each ``[n_tasks]``.
    """
    return term_sums(
        classification.recall_terms(threshold, both_at_threshold=True)._asdict(),
        labels,
        predictions,
        weights,
    )


def _recall(*, threshold: float = 0.5, **options: Any) -> Metric:
    return classification.recall(
        threshold=threshold, both_at_threshold=True, undefined=0.0, **options
    )


class RecallMetricComputation(DeclaredComputation):
    """The states of recall; see `recmetrics_jax.recall`.

    Args:
        threshold: predictions from here on count as positive.
    """

    _factory = staticmethod(_recall)
    _requires_weights = False


class RecallMetric(RecMetric):
    """Recall of each task, ``lifetime_recall`` and ``window_recall``.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = RecallMetric(world_size=1, my_rank=0, batch_size=2, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.25, 0.75])},
    ...     labels={"DefaultTask": np.array([1.0, 1.0])},
    ...     weights=None,
    ... )
    >>> round(metric.compute()["recall-DefaultTask|lifetime_recall"].item(), 6)
    0.5
    """

    _namespace = MetricNamespace.RECALL
    _computation_class = RecallMetricComputation
