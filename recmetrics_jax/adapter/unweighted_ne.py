"""Normalized entropy of unweighted examples; the class API of torchrec.metrics.unweighted_ne."""

import math
from typing import Any

import jax

from recmetrics_jax._src.base import Values
from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import entropy
from recmetrics_jax._src.terms import Term
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import term_sums
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.ne import compute_cross_entropy as compute_cross_entropy
from recmetrics_jax.adapter.ne import compute_ne as compute_ne
from recmetrics_jax.adapter.rec_metric import RecMetric

ETA = entropy.ETA


def get_unweighted_ne_states(
    labels: Tensor, predictions: Tensor, weights: Tensor, eta: float
) -> dict[str, Tensor]:
    """What a batch adds to the states of unweighted NE.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: taken for the signature's sake; each example counts once.
        eta: predictions are clamped to ``[eta, 1 - eta]``.

    Returns:
        ``cross_entropy_sum``, in float64, ``weighted_num_samples``, the number of examples,
        ``pos_labels`` and ``neg_labels``, each ``[n_tasks]``.

    >>> import numpy as np
    >>> labels, weights = np.array([[1.0, 0.0]]), np.array([[0.0, 9.0]])
    >>> states = get_unweighted_ne_states(labels, np.array([[0.5, 0.5]]), weights, 1e-12)
    >>> states["cross_entropy_sum"].tolist(), states["weighted_num_samples"].tolist()
    ([2.0], [2.0])
    """
    terms = {
        **entropy.ne_terms._asdict(),
        "cross_entropy_sum": Term(entropy.cross_entropy, (eta,), arithmetic=False),
    }
    return term_sums(terms, labels, predictions, None, in_float64=["cross_entropy_sum"])


def _unweighted_ne(*, allow_missing_label_with_zero_weight: bool = False, **options: Any) -> Metric:
    undefined = ETA if allow_missing_label_with_zero_weight else math.nan
    return sum_metric(entropy.unweighted_ne_terms, _values, undefined=undefined, **options)


def _values(sums: entropy.NESums[jax.Array]) -> Values:
    return {"unweighted_ne": entropy.clamped_normalized_entropy(sums)}


class UnweightedNEMetricComputation(DeclaredComputation):
    """The states of unweighted NE; see `recmetrics_jax.unweighted_ne`.

    Args:
        allow_missing_label_with_zero_weight: report ``eta`` for tasks without examples; else NaN.
    """

    _factory = staticmethod(_unweighted_ne)
    eta: float = ETA


class UnweightedNEMetric(RecMetric):
    """Normalized entropy of examples that count once each, ``lifetime_unweighted_ne`` and window.

    Weights are needed, as for other metrics, but count only where updates are validated.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> ne = UnweightedNEMetric(world_size=1, my_rank=0, batch_size=4, tasks=[DefaultTaskInfo])
    >>> quarter, weights = {"DefaultTask": np.full(4, 0.25)}, {"DefaultTask": np.arange(4)}
    >>> ne.update(predictions=quarter, labels={"DefaultTask": np.eye(4)[0]}, weights=weights)
    >>> round(ne.compute()["unweighted_ne-DefaultTask|lifetime_unweighted_ne"].item(), 6)
    1.0
    """

    _namespace = MetricNamespace.UNWEIGHTED_NE
    _computation_class = UnweightedNEMetricComputation
