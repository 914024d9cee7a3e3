"""XAUC: the weight of pairs in order; the class API of torchrec.metrics.xauc."""

from typing import Any

from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import pairwise
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import apply_to_sums, term_sums
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.rec_metric import RecMetric

ERROR_SUM = "error_sum"
WEIGHTED_NUM_PAIRS = "weighted_num_pairs"


def compute_xauc(error_sum: Tensor, weighted_num_pairs: Tensor) -> Tensor:
    """XAUC: the fraction of pairs of examples that predictions order as their labels do.

    Args:
        error_sum: the weight of such pairs, ``[n_tasks]``.
        weighted_num_pairs: the weight of all pairs, ``[n_tasks]``.

    Returns:
        ``float64[n_tasks]``; 0 without pairs.
    """
    return apply_to_sums(
        pairwise.xauc_values,
        "xauc",
        pairwise.XAUCSums,
        undefined=0.0,
        error_sum=error_sum,
        weighted_num_pairs=weighted_num_pairs,
    )


def compute_error_sum(labels: Tensor, predictions: Tensor, weights: Tensor) -> Tensor:
    """The weight of the pairs that predictions and labels order alike.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``.

    Returns:
        ``float64[n_tasks]``. A pair weighs the product of its weights.

    >>> import numpy as np
    >>> p, y = np.array([[0.1, 0.3, 0.2]]), np.array([[1.0, 2.0, 3.0]])
    >>> compute_error_sum(y, p, np.array([[1.0, 2.0, 3.0]])).tolist()
    [5.0]
    """
    terms = {ERROR_SUM: pairwise.xauc_terms.error_sum}
    return term_sums(terms, labels, predictions, weights, in_float64=[ERROR_SUM])[ERROR_SUM]


def compute_weighted_num_pairs(weights: Tensor) -> Tensor:
    """The weight of all pairs.

    Args:
        weights: ``[n_tasks, N]``.

    Returns:
        ``[n_tasks]``, of the dtype of the weights.
    """
    terms = {WEIGHTED_NUM_PAIRS: pairwise.xauc_terms.weighted_num_pairs}
    return term_sums(terms, weights, weights, weights)[WEIGHTED_NUM_PAIRS]


def get_xauc_states(labels: Tensor, predictions: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """What a batch adds to the states of XAUC.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``.

    Returns:
        ``error_sum``, in float64, and ``weighted_num_pairs``, each ``[n_tasks]``.
    """
    terms = pairwise.xauc_terms._asdict()
    return term_sums(terms, labels, predictions, weights, in_float64=[ERROR_SUM])


def _xauc(**options: Any) -> Metric:
    return sum_metric(pairwise.xauc_terms, pairwise.xauc_values, undefined=0.0, **options)


class XAUCMetricComputation(DeclaredComputation):
    """The states of XAUC; see `recmetrics_jax.xauc`."""

    _factory = staticmethod(_xauc)


class XAUCMetric(RecMetric):
    """XAUC of each task, ``lifetime_xauc`` and ``window_xauc``: of pairs inside each batch.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = XAUCMetric(world_size=1, my_rank=0, batch_size=2, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.75, 0.25])},
    ...     labels={"DefaultTask": np.array([30.0, 7.0])},
    ...     weights=None,
    ... )
    >>> round(metric.compute()["xauc-DefaultTask|lifetime_xauc"].item(), 6)
    1.0
    """

    _namespace = MetricNamespace.XAUC
    _computation_class = XAUCMetricComputation
