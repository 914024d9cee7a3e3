"""The weight of positives; the class API of torchrec.metrics.num_positive_samples."""

from typing import Any

from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import reference_sums
from recmetrics_jax._src.terms import Term
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import term_sums
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.rec_metric import RecMetric

_TERMS = {"weighted_pos_sum": Term(reference_sums.weighted_given_labels)}


def compute_weighted_pos_sum(labels: Tensor, predictions: Tensor, weights: Tensor) -> Tensor:
    """The weight of positives: the weighted sum of labels, where they are not NaN.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``; they do not count.
        weights: ``[n_tasks, N]``.

    Returns:
        ``[n_tasks]``, of the dtype of the arguments: the sum of ``w y``, without
        labels that are NaN.
    """
    return get_num_positive_sample_states(labels, predictions, weights)["weighted_pos_sum"]


def get_num_positive_sample_states(
    labels: Tensor, predictions: Tensor, weights: Tensor | None
) -> dict[str, Tensor]:
    """What a batch adds to the state of the weight of positives.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``; they do not count.
        weights: ``[n_tasks, N]``; None for ones.

    Returns:
        ``weighted_pos_sum``, ``[n_tasks]``.

    >>> import numpy as np
    >>> labels, weights = np.array([[np.nan, 1.0]]), np.array([[3.0, 1.0]])
    >>> get_num_positive_sample_states(labels, labels, weights)["weighted_pos_sum"].tolist()
    [1.0]
    """
    return term_sums(_TERMS, labels, predictions, weights)


def _num_positive_samples(**options: Any) -> Metric:
    return reference_sums.sum_by_name("num_positive_samples", _TERMS, **options)


class NumPositiveSamplesMetricComputation(DeclaredComputation):
    """The state of the weight of positives: a sum."""

    _factory = staticmethod(_num_positive_samples)
    _requires_weights = False


class NumPositiveSamplesMetric(RecMetric):
    """Weight of positives by task, ``lifetime_num_positive_samples`` and of the window.

    A soft label counts as a part of a positive, and one that is NaN not at all.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = NumPositiveSamplesMetric(1, 0, batch_size=2, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.5, 0.25])},
    ...     labels={"DefaultTask": np.array([1.0, np.nan])},
    ...     weights={"DefaultTask": np.array([3.0, 1.0])},
    ... )
    >>> metric.compute()["num_positive_samples-DefaultTask|lifetime_num_positive_samples"].tolist()
    [3.0]
    """

    _namespace = MetricNamespace.NUM_POSITIVE_SAMPLES
    _computation_class = NumPositiveSamplesMetricComputation
