"""Normalized entropy free of calibration; the class API of torchrec.metrics.cali_free_ne."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from recmetrics_jax._src.base import Values
from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import entropy, reference_entropy
from recmetrics_jax._src.terms import WEIGHTED_PREDICTIONS
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import apply_to_sums, term_sums
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.ne import compute_cross_entropy as compute_cross_entropy
from recmetrics_jax.adapter.ne import get_ne_states
from recmetrics_jax.adapter.rec_metric import RecMetric

ETA = entropy.ETA


def compute_cali_free_ne(
    ce_sum: Tensor,
    weighted_num_samples: Tensor,
    pos_labels: Tensor,
    neg_labels: Tensor,
    weighted_sum_predictions: Tensor,
    eta: float,
    allow_missing_label_with_zero_weight: bool = False,
) -> Tensor:
    """Normalized entropy over the cross entropy of always predicting the mean prediction.

    ``ne / -(P log2 q + (S - P) log2(1 - q))``, where ``S = sum(w)``, ``P = sum(w y)`` and
    ``q = sum(w p) / S``. What it is divided by is a sum, so that twice as many examples have half
    the value.

    Args:
        ce_sum: sum of cross entropies, ``[n_tasks]``.
        weighted_num_samples: sum of weights, ``[n_tasks]``.
        pos_labels: sum of ``w y``, ``[n_tasks]``.
        neg_labels: sum of ``w (1 - y)``, ``[n_tasks]``.
        weighted_sum_predictions: sum of ``w p``, ``[n_tasks]``.
        eta: the mean label is clamped to ``[eta, 1 - eta]``, in NE.
        allow_missing_label_with_zero_weight: give ``eta`` where there is no weight; else NaN.

    Returns:
        ``float64[n_tasks]``; 0 where the mean prediction is certain and wrong, and NaN where it is
        certain and right.

    >>> import numpy as np
    >>> sums = np.array([[8.0], [4.0], [2.0], [2.0], [2.0]])
    >>> round(compute_cali_free_ne(*sums, eta=1e-12).item(), 6)
    0.5
    """
    without_weight = eta if allow_missing_label_with_zero_weight else math.nan
    return apply_to_sums(
        functools.partial(_values, eta=eta, without_weight=without_weight),
        "cali_free_ne",
        reference_entropy.CaliFreeNESums,
        cross_entropy_sum=ce_sum,
        weighted_num_samples=weighted_num_samples,
        pos_labels=pos_labels,
        neg_labels=neg_labels,
        weighted_sum_predictions=weighted_sum_predictions,
    )


def get_cali_free_ne_states(
    labels: Tensor, predictions: Tensor, weights: Tensor, eta: float
) -> dict[str, Tensor]:
    """What a batch adds to the states of calibration-free NE.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``.
        eta: predictions are clamped to ``[eta, 1 - eta]``, in the cross entropy.

    Returns:
        ``cross_entropy_sum``, in float64, ``weighted_num_samples``, ``pos_labels``, ``neg_labels``
        and ``weighted_sum_predictions``, each ``[n_tasks]``.
    """
    of_predictions = {"weighted_sum_predictions": WEIGHTED_PREDICTIONS}
    return {
        **get_ne_states(labels, predictions, weights, eta),
        **term_sums(of_predictions, labels, predictions, weights),
    }


def _cali_free_ne(*, allow_missing_label_with_zero_weight: bool = False, **options: Any) -> Metric:
    without_weight = ETA if allow_missing_label_with_zero_weight else math.nan
    values = functools.partial(_values, without_weight=without_weight)
    return sum_metric(reference_entropy.cali_free_ne_terms, values, **options)


def _values(
    sums: reference_entropy.CaliFreeNESums[jax.Array], *, eta: float = ETA, without_weight: float
) -> Values:
    value = reference_entropy.cali_free_normalized_entropy(sums, eta)
    return {"cali_free_ne": jnp.where(sums.weighted_num_samples == 0, without_weight, value)}


class CaliFreeNEMetricComputation(DeclaredComputation):
    """The states of calibration-free NE.

    Args:
        allow_missing_label_with_zero_weight: report ``eta`` for tasks without weight; else NaN.
    """

    _factory = staticmethod(_cali_free_ne)
    eta: float = ETA


class CaliFreeNEMetric(RecMetric):
    """Normalized entropy over that of the mean prediction, ``lifetime_cali_free_ne`` and window.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = CaliFreeNEMetric(world_size=1, my_rank=0, batch_size=4, tasks=[DefaultTaskInfo])
    >>> half = {"DefaultTask": np.full(4, 0.5)}
    >>> metric.update(predictions=half, labels={"DefaultTask": np.eye(2).ravel()}, weights=None)
    >>> round(metric.compute()["cali_free_ne-DefaultTask|lifetime_cali_free_ne"].item(), 6)
    0.25
    """

    _namespace = MetricNamespace.CALI_FREE_NE
    _computation_class = CaliFreeNEMetricComputation
