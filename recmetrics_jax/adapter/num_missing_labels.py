"""The weight of examples without a label; the class API of torchrec.metrics.num_missing_labels."""

from typing import Any

from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import reference_sums
from recmetrics_jax._src.terms import Term
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import term_sums
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.rec_metric import RecMetric, RecMetricInputPolicy

_TERMS = {"missing_label_sum": Term(reference_sums.weight_of_missing_labels)}


def compute_missing_label_sum(labels: Tensor, predictions: Tensor, weights: Tensor) -> Tensor:
    """The weight of examples whose label is NaN.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``; they do not count.
        weights: ``[n_tasks, N]``.

    Returns:
        ``[n_tasks]``, of the dtype of the arguments: the sum of ``w [y is NaN]``.
    """
    return get_num_missing_labels_states(labels, predictions, weights)["missing_label_sum"]


def get_num_missing_labels_states(
    labels: Tensor, predictions: Tensor, weights: Tensor | None
) -> dict[str, Tensor]:
    """What a batch adds to the state of the weight of missing labels.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``; they do not count.
        weights: ``[n_tasks, N]``; None for ones.

    Returns:
        ``missing_label_sum``, ``[n_tasks]``.

    >>> import numpy as np
    >>> labels, weights = np.array([[np.nan, 1.0]]), np.array([[3.0, 1.0]])
    >>> get_num_missing_labels_states(labels, labels, weights)["missing_label_sum"].tolist()
    [3.0]
    """
    return term_sums(_TERMS, labels, predictions, weights)


def _num_missing_labels(**options: Any) -> Metric:
    return reference_sums.sum_by_name("num_missing_labels", _TERMS, **options)


class NumMissingLabelsMetricComputation(DeclaredComputation):
    """The state of the weight of missing labels: a sum."""

    _factory = staticmethod(_num_missing_labels)
    _requires_weights = False


class NumMissingLabelsMetric(RecMetric):
    """Weight of examples without a label, ``lifetime_num_missing_labels`` and of the window.

    A label that is missing is NaN.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = NumMissingLabelsMetric(1, 0, batch_size=2, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.5, 0.25])},
    ...     labels={"DefaultTask": np.array([1.0, np.nan])},
    ...     weights={"DefaultTask": np.array([3.0, 1.0])},
    ... )
    >>> metric.compute()["num_missing_labels-DefaultTask|lifetime_num_missing_labels"].tolist()
    [1.0]
    """

    input_policy = RecMetricInputPolicy(allow_nan_labels=True)
    _namespace = MetricNamespace.NUM_MISSING_LABELS
    _computation_class = NumMissingLabelsMetricComputation
