"""Normalized entropy of positives alone; the class API of torchrec.metrics.ne_positive."""

import functools
import math
from typing import Any

import jax

from recmetrics_jax._src.base import Values
from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.cross_entropy import weighted_positive_cross_entropy
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import entropy, reference_entropy
from recmetrics_jax._src.terms import Term
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import apply, apply_to_sums, term_sums
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.rec_metric import RecMetric

ETA = entropy.ETA


def compute_cross_entropy_positive(
    labels: Tensor, predictions: Tensor, weights: Tensor, eta: float
) -> Tensor:
    """What positives add to the weighted cross entropy of each example, in bits.

    Args:
        labels: ``[..., N]``.
        predictions: ``[..., N]``; never modified.
        weights: ``[..., N]``.
        eta: predictions are clamped to ``[eta, 1 - eta]``.

    Returns:
        ``float64[..., N]``: ``-w y log2 p``.

    >>> import numpy as np
    >>> half, ones = np.array([0.5, 0.5]), np.ones(2)
    >>> compute_cross_entropy_positive(np.array([1.0, 0.25]), half, ones, 1e-12).tolist()
    [1.0, 0.25]
    """
    entropies = functools.partial(weighted_positive_cross_entropy, eta=eta)
    return apply(entropies, labels, predictions, weights)


def compute_ne_positive(
    ce_positive_sum: Tensor,
    weighted_num_samples: Tensor,
    pos_labels: Tensor,
    neg_labels: Tensor,
    eta: float,
    allow_missing_label_with_zero_weight: bool = False,
) -> Tensor:
    """Cross entropy of positives over that of always predicting the mean label, of all examples.

    Args:
        ce_positive_sum: sum of cross entropies of positives, ``[n_tasks]``.
        weighted_num_samples: sum of weights, ``[n_tasks]``.
        pos_labels: sum of ``w y``, ``[n_tasks]``.
        neg_labels: sum of ``w (1 - y)``, ``[n_tasks]``.
        eta: the mean label is clamped to ``[eta, 1 - eta]``.
        allow_missing_label_with_zero_weight: give ``eta`` where there is no weight; else NaN.

    Returns:
        ``float64[n_tasks]``; 0 without positives.

    >>> import numpy as np
    >>> compute_ne_positive(*np.array([[1.0], [4.0], [2.0], [2.0]]), eta=1e-12).tolist()
    [0.25]
    """
    return apply_to_sums(
        functools.partial(_values, eta=eta),
        "ne_positive",
        reference_entropy.NEPositiveSums,
        undefined=eta if allow_missing_label_with_zero_weight else math.nan,
        cross_entropy_positive_sum=ce_positive_sum,
        weighted_num_samples=weighted_num_samples,
        pos_labels=pos_labels,
        neg_labels=neg_labels,
    )


def get_ne_positive_states(
    labels: Tensor, predictions: Tensor, weights: Tensor, eta: float
) -> dict[str, Tensor]:
    """What a batch adds to the states of the NE of positives.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``.
        eta: predictions are clamped to ``[eta, 1 - eta]``.

    Returns:
        ``cross_entropy_positive_sum``, in float64, ``weighted_num_samples``, ``pos_labels`` and
        ``neg_labels``, each ``[n_tasks]``.
    """
    of_positives = Term(reference_entropy.positive_cross_entropy, (eta,), arithmetic=False)
    terms = reference_entropy.ne_positive_terms._replace(cross_entropy_positive_sum=of_positives)
    in_float64 = ["cross_entropy_positive_sum"]
    return term_sums(terms._asdict(), labels, predictions, weights, in_float64=in_float64)


def _ne_positive(*, allow_missing_label_with_zero_weight: bool = False, **options: Any) -> Metric:
    undefined = ETA if allow_missing_label_with_zero_weight else math.nan
    terms = reference_entropy.ne_positive_terms
    return sum_metric(terms, _values, undefined=undefined, **options)


def _values(sums: reference_entropy.NEPositiveSums[jax.Array], *, eta: float = ETA) -> Values:
    return {"ne_positive": entropy.clamped_normalized_entropy(entropy.NESums(*sums), eta)}


class NEPositiveMetricComputation(DeclaredComputation):
    """The states of the NE of positives.

    Args:
        allow_missing_label_with_zero_weight: report ``eta`` for tasks without weight; else NaN.
    """

    _factory = staticmethod(_ne_positive)
    eta: float = ETA


class NEPositiveMetric(RecMetric):
    """What positives add to the normalized entropy, ``lifetime_ne_positive`` and of the window.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = NEPositiveMetric(world_size=1, my_rank=0, batch_size=4, tasks=[DefaultTaskInfo])
    >>> quarter = {"DefaultTask": np.full(4, 0.25)}
    >>> metric.update(predictions=quarter, labels={"DefaultTask": np.eye(4)[0]}, weights=None)
    >>> round(metric.compute()["ne_positive-DefaultTask|lifetime_ne_positive"].item(), 6)
    0.616311
    """

    _namespace = MetricNamespace.NE_POSITIVE
    _computation_class = NEPositiveMetricComputation
