"""Normalized entropy and logloss; the class API of torchrec.metrics.ne."""

import functools
import math
from typing import Any

import jax

from recmetrics_jax._src.base import Values
from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.cross_entropy import weighted_cross_entropy
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import entropy
from recmetrics_jax._src.metrics.reference_entropy import clamped_mean_cross_entropy
from recmetrics_jax._src.terms import Term
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import apply, apply_to_sums, term_sums
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.rec_metric import RecMetric

ETA = entropy.ETA


def compute_cross_entropy(
    labels: Tensor, predictions: Tensor, weights: Tensor, eta: float
) -> Tensor:
    """The weighted cross entropy of each example, in bits.

    Args:
        labels: ``[..., N]``.
        predictions: ``[..., N]``; never modified.
        weights: ``[..., N]``.
        eta: predictions are clamped to ``[eta, 1 - eta]``.

    Returns:
        ``float64[..., N]``: ``-w (y log2 p + (1 - y) log2(1 - p))``.

    >>> import numpy as np
    >>> compute_cross_entropy(np.ones(2), np.array([0.5, 0.25]), np.ones(2), 1e-12).tolist()
    [1.0, 2.0]
    """
    return apply(functools.partial(weighted_cross_entropy, eta=eta), labels, predictions, weights)


def compute_ne(
    ce_sum: Tensor,
    weighted_num_samples: Tensor,
    pos_labels: Tensor,
    neg_labels: Tensor,
    eta: float,
    allow_missing_label_with_zero_weight: bool = False,
) -> Tensor:
    """Normalized entropy: cross entropy over that of always predicting the mean label.

    Args:
        ce_sum: sum of cross entropies, ``[n_tasks]``.
        weighted_num_samples: sum of weights, ``[n_tasks]``.
        pos_labels: sum of ``w y``, ``[n_tasks]``.
        neg_labels: sum of ``w (1 - y)``, ``[n_tasks]``.
        eta: the mean label is clamped to ``[eta, 1 - eta]``.
        allow_missing_label_with_zero_weight: give ``eta`` where there is no weight; else NaN.

    Returns:
        ``float64[n_tasks]``.
    """
    return apply_to_sums(
        functools.partial(_ne_values, eta=eta),
        "ne",
        entropy.NESums,
        undefined=eta if allow_missing_label_with_zero_weight else math.nan,
        cross_entropy_sum=ce_sum,
        weighted_num_samples=weighted_num_samples,
        pos_labels=pos_labels,
        neg_labels=neg_labels,
    )


def compute_logloss(ce_sum: Tensor, pos_labels: Tensor, neg_labels: Tensor, eta: float) -> Tensor:
    """Cross entropy per unit of weight, in bits; 0 without weight.

    Args:
        ce_sum: sum of cross entropies, ``[n_tasks]``.
        pos_labels: sum of ``w y``, ``[n_tasks]``.
        neg_labels: sum of ``w (1 - y)``, ``[n_tasks]``.
        eta: the least weight that is divided by.

    Returns:
        ``[n_tasks]``, of the dtype of the sums.
    """
    logloss = functools.partial(_logloss, eta=eta)
    return apply(logloss, ce_sum, pos_labels, neg_labels, keeps_dtype=True)


def _logloss(
    ce_sum: jax.Array, pos_labels: jax.Array, neg_labels: jax.Array, *, eta: float
) -> jax.Array:
    sums = entropy.NESums(ce_sum, pos_labels + neg_labels, pos_labels, neg_labels)
    return clamped_mean_cross_entropy(sums, eta)


def get_ne_states(
    labels: Tensor, predictions: Tensor, weights: Tensor, eta: float
) -> dict[str, Tensor]:
    """What a batch adds to the states of NE.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``.
        eta: predictions are clamped to ``[eta, 1 - eta]``.

    Returns:
        ``cross_entropy_sum``, in float64, ``weighted_num_samples``, ``pos_labels`` and
        ``neg_labels``, each ``[n_tasks]``.
    """
    terms = {
        **entropy.ne_terms._asdict(),
        "cross_entropy_sum": Term(entropy.cross_entropy, (eta,), arithmetic=False),
    }
    return term_sums(terms, labels, predictions, weights, in_float64=["cross_entropy_sum"])


def ne_of_terms(
    terms: entropy.NESums[Term],
    *,
    include_logloss: bool = False,
    allow_missing_label_with_zero_weight: bool = False,
    **options: Any,
) -> Metric:
    """The metric of the sums of some terms, with the values of NE and, on request, of logloss."""
    undefined = {
        "ne": ETA if allow_missing_label_with_zero_weight else math.nan,
        "logloss": 0.0,
    }
    values = functools.partial(_ne_values, include_logloss=bool(include_logloss))
    return sum_metric(terms, values, undefined=undefined, **options)


def _ne(
    *,
    include_logloss: bool = False,
    allow_missing_label_with_zero_weight: bool = False,
    **options: Any,
) -> Metric:
    return ne_of_terms(
        entropy.ne_terms,
        include_logloss=include_logloss,
        allow_missing_label_with_zero_weight=allow_missing_label_with_zero_weight,
        **options,
    )


def _ne_values(
    sums: entropy.NESums[jax.Array], *, eta: float = ETA, include_logloss: bool = False
) -> Values:
    values = {"ne": entropy.clamped_normalized_entropy(sums, eta)}
    if include_logloss:
        values["logloss"] = entropy.mean_cross_entropy(sums)
    return values


class NEMetricComputation(DeclaredComputation):
    """The states of normalized entropy; see `recmetrics_jax.ne`.

    Args:
        include_logloss: also report logloss.
        allow_missing_label_with_zero_weight: report ``eta`` for tasks without weight; else NaN.
    """

    _factory = staticmethod(_ne)
    eta: float = ETA


class NEMetric(RecMetric):
    """Normalized entropy of each task: ``lifetime_ne``, ``window_ne``, on request ``logloss``.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> ne = NEMetric(world_size=1, my_rank=0, batch_size=4, tasks=[DefaultTaskInfo])
    >>> quarter = {"DefaultTask": np.full(4, 0.25)}
    >>> ne.update(predictions=quarter, labels={"DefaultTask": np.eye(4)[0]}, weights=None)
    >>> round(ne.compute()["ne-DefaultTask|lifetime_ne"].item(), 6)
    1.0
    """

    _namespace = MetricNamespace.NE
    _computation_class = NEMetricComputation
