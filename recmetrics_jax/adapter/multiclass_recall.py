"""Multiclass recall at every k; the class API of torchrec.metrics.multiclass_recall."""

from typing import Any

import jax
import numpy as np

from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import multiclass
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import apply, term_sums
from recmetrics_jax.adapter._tensors import Tensor, from_numpy, kind_of, to_numpy
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.rec_metric import RecMetric

TP_AT_K = "tp_at_k"


def compute_true_positives_at_k(
    predictions: Tensor, labels: Tensor, weights: Tensor, n_classes: int
) -> Tensor:
    """The weight of the examples whose label is among the ``k`` highest scores, for each ``k``.

    Args:
        predictions: scores of classes, ``[N, C]`` or ``[n_tasks, N, C]``.
        labels: class numbers, ``[N]`` or ``[n_tasks, N]``.
        weights: like ``labels``.
        n_classes: the largest ``k``, at most ``C``.

    Returns:
        ``float32[n_classes]`` or ``float32[n_tasks, n_classes]``. Of tied classes, the fraction
        of their orders counts that puts the label among the highest.

    Raises:
        ValueError: if there are fewer classes than ``n_classes``.

    >>> import numpy as np
    >>> scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.4, 0.1]])
    >>> compute_true_positives_at_k(scores, np.array([1, 1]), np.ones(2), 3).tolist()
    [1.0, 2.0, 2.0]
    """
    classes = to_numpy(predictions).shape[-1]
    if not 1 <= n_classes <= classes:
        raise ValueError(f"n_classes: expected 1 to {classes}, the classes, got {n_classes}")
    terms = {TP_AT_K: multiclass.multiclass_recall_terms(n_classes, of_more=True).tp_at_k}
    hits = term_sums(terms, labels, predictions, weights, in_float64=[TP_AT_K])[TP_AT_K]
    return from_numpy(to_numpy(hits).astype(np.float32), kind_of(predictions))


def compute_multiclass_recall_at_k(tp_at_k: Tensor, total_weights: Tensor) -> Tensor:
    """Recall at every ``k``.

    Args:
        tp_at_k: as `compute_true_positives_at_k` gives it, ``[n_tasks, C]``.
        total_weights: the sum of weights, ``[n_tasks]``.

    Returns:
        ``[n_tasks, C]``, of the dtype of the sums; NaN without weight.
    """
    return apply(_recall_at_k, tp_at_k, total_weights, keeps_dtype=True)


def _recall_at_k(hits: jax.Array, total: jax.Array) -> jax.Array:
    sums = multiclass.MulticlassRecallSums(hits.reshape(-1, hits.shape[-1]), total.reshape(-1))
    return multiclass.multiclass_recall_values(sums)["multiclass_recall"].reshape(hits.shape)


def get_multiclass_recall_states(
    predictions: Tensor, labels: Tensor, weights: Tensor, n_classes: int
) -> dict[str, Tensor]:
    """What a batch adds to the states of multiclass recall.

    Args:
        predictions: scores of classes, ``[n_tasks, N, C]``.
        labels: class numbers, ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``.
        n_classes: the largest ``k``, at most ``C``.

    Returns:
        ``tp_at_k``, ``float32[n_tasks, n_classes]``, and ``total_weights``, ``[n_tasks]``.
    """
    terms = {"total_weights": multiclass.multiclass_recall_terms(n_classes).total_weights}
    return {
        TP_AT_K: compute_true_positives_at_k(predictions, labels, weights, n_classes),
        **term_sums(terms, labels, labels, weights),
    }


def _multiclass_recall(*, number_of_classes: int, **options: Any) -> Metric:
    terms = multiclass.multiclass_recall_terms(number_of_classes, of_more=True)
    return sum_metric(terms, multiclass.multiclass_recall_values, **options)


class MulticlassRecallMetricComputation(DeclaredComputation):
    """The states of multiclass recall; see `recmetrics_jax.multiclass_recall`.

    Args:
        number_of_classes: the largest ``k``, at most the number of classes; needed.
    """

    _factory = staticmethod(_multiclass_recall)


class MulticlassRecallMetric(RecMetric):
    """Recall at every k of each task, ``lifetime_multiclass_recall`` and of the window.

    It needs the keyword argument ``number_of_classes``; predictions have one more axis than
    labels, of the classes.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = MulticlassRecallMetric(1, 0, 2, [DefaultTaskInfo], number_of_classes=3)
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([[0.1, 0.7, 0.2], [0.5, 0.4, 0.1]])},
    ...     labels={"DefaultTask": np.array([1, 1])},
    ...     weights=None,
    ... )
    >>> metric.compute()["multiclass_recall-DefaultTask|lifetime_multiclass_recall"].tolist()
    [[0.5, 1.0, 1.0]]
    """

    _namespace = MetricNamespace.MULTICLASS_RECALL
    _computation_class = MulticlassRecallMetricComputation
