"""Recall at a precision, and precision at a recall, from histograms of scores."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recmetrics_jax._src.base import Values
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics.binned import (
    BINS,
    SLOTS,
    HistogramSums,
    Ranges,
    histogram_metric,
)
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.options import number
from recmetrics_jax._src.score_bins import Bins


class Points(NamedTuple):
    """What scores from the lowest one of each bin up amount to, ``float64[T, B]``, lowest first."""

    true_positives: jax.Array
    false_positives: jax.Array

    @classmethod
    def of(cls, histogram: jax.Array) -> "Points":
        """Of a histogram ``float64[T, 2, B]``; in an x64 scope."""
        from_here = jax.lax.cumsum(histogram, axis=2, reverse=True)
        # Sums of more are not less; in the order that they are added up in, they may round so.
        from_here = jax.lax.cummax(from_here, axis=2, reverse=True)
        return cls(from_here[:, 0], from_here[:, 1])

    @property
    def true_positive_rates(self) -> jax.Array:
        """Recall, ``float64[T, B]``; NaN without positives."""
        return _of_first(self.true_positives)

    @property
    def false_positive_rates(self) -> jax.Array:
        """Of negatives likewise."""
        return _of_first(self.false_positives)

    @property
    def precision(self) -> jax.Array:
        """``float64[T, B]``; NaN where nothing is predicted."""
        return safe_divide(self.true_positives, self.true_positives + self.false_positives)

    def at_best(self, is_tied: jax.Array) -> "Points":
        """With those positives of a bin that are its highest scores, and no negatives of it.

        ``is_tied``, ``bool[1, B]``: bins that hold no two scores, and are taken as they are.
        """
        above = jnp.concatenate(
            [self.false_positives[:, 1:], jnp.zeros_like(self.false_positives[:, :1])], axis=1
        )
        return self._replace(false_positives=jnp.where(is_tied, self.false_positives, above))


def _of_first(x: jax.Array) -> jax.Array:
    """Parts of the first number in a row.

    Behind a barrier, since XLA would divide once and multiply, by which 9 / 10 may be below 0.9.
    """
    return safe_divide(x, jax.lax.optimization_barrier(jnp.broadcast_to(x[:, :1], x.shape)))


def best_values(
    sums: HistogramSums[jax.Array], *, name: str, of_recall: bool, least: float, bins: Bins
) -> Values:
    """The largest recall where precision is at least so much, or the other way round.

    Of all thresholds that are the lowest score of a bin; of those alike, the one where the other is
    largest. And how large it might be at any threshold.
    """
    has_examples = jnp.sum(sums.histogram, axis=1) > 0

    def rates(points: Points) -> tuple[jax.Array, jax.Array]:
        """Of what is wanted, -1 where the other is too small; and the other."""
        wanted, other = points.true_positive_rates, points.precision
        if not of_recall:
            wanted, other = other, wanted
        return jnp.where(has_examples & (other >= least), wanted, -1.0), other

    points = Points.of(sums.histogram)
    wanted, other = rates(points)
    value, is_best = _largest(wanted)
    _, is_best = _largest(jnp.where(is_best, other, -1.0))
    thresholds = jnp.asarray(bins.lowest_scores(), value.dtype)[None]
    threshold, _ = _largest(jnp.where(is_best, thresholds, -math.inf))
    bounds, _ = rates(points.at_best(jnp.asarray(bins.scores_in()[None] <= 1)))
    upper, _ = _largest(bounds)
    is_none = value < 0
    return {
        name: jnp.where(is_none, jnp.nan, value),
        f"{name}_upper": jnp.where(upper < 0, jnp.nan, upper),
        f"{name}_threshold": jnp.where(is_none, jnp.nan, threshold),
    }


def _largest(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest number of each task, ``float64[T]``, and where it is, ``bool[T, B]``."""
    largest = jnp.max(x, axis=1, keepdims=True)
    return largest[:, 0], x == largest


def _best(name: str, *, of_recall: bool, least: float, undefined: float, **options: Any) -> Metric:
    other = "precision" if of_recall else "recall"
    if not 0 < (of := number(other, least)) <= 1:
        raise ValueError(f"{other}: expected a number above 0, of at most 1, got {least!r}")
    return histogram_metric(
        functools.partial(best_values, name=name, of_recall=of_recall, least=of),
        # There is no threshold where there is no value.
        undefined={name: undefined, f"{name}_upper": undefined},
        **options,
    )


@factory
def recall_at_precision(
    *,
    precision: float,
    bins: int = BINS,
    refine: Ranges = (),
    label_threshold: float | None = None,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """The highest recall of a threshold with at least some precision, and the threshold.

    ``max over thresholds t with TP(t) / (TP(t) + FP(t)) >= precision of TP(t) / positives``, where
    ``TP(t) = sum(w y [p >= t])``, ``FP(t) = sum(w (1 - y) [p >= t])``. Thresholds are the lowest
    scores of the bins of `recmetrics_jax.binned_auc`, with which it shares its histogram in a
    collection: at each of them, TP and FP of the scores, as float32, are exact. A threshold inside
    a bin may do better, up to ``upper``: as if the positives of every bin were its highest scores.
    ``refine`` makes bins narrower. Of thresholds with one recall, it is that of most precision.

    Out of the domain, so NaN: a label outside of [0, 1], and a weight below 0.

    Source: Boyd, Eng and Page, Area under the Precision-Recall Curve: Point Estimates and
    Confidence Intervals, ECML PKDD 2013, section 2, of whose curve it is a point.

    Args:
        precision: what precision is to be at least, above 0.
        bins: number of bins, a power of two.
        refine: ranges of scores where bins are cut; `recmetrics_jax.binned_auc` says more.
        label_threshold: labels from here on are positive, others negative; None takes them as they
            are, in [0, 1].
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.binned_auc` says more.
        undefined: the recall, and its upper bound, where positives have no weight, or no threshold
            has that precision. The threshold is NaN then.

    Returns:
        A `Metric` with ``lifetime_recall_at_precision``, ``lifetime_recall_at_precision_upper`` and
        ``lifetime_recall_at_precision_threshold``, from which on predictions count as positive,
        and, with a window, the same of ``window_``, each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.binned_auc`, and if ``precision`` is not as above.

    >>> import recmetrics_jax as rm
    >>> metric = rm.recall_at_precision(precision=0.75)
    >>> batch = rm.make_batch([0.75, 0.5, 0.375, 0.25, 0.125], [1, 1, 0, 1, 0])
    >>> values = metric.compute(metric.update(metric.init(), batch))
    >>> {name: value.item() for name, value in values.items()}
    {'lifetime_recall_at_precision': 1.0, 'lifetime_recall_at_precision_upper': 1.0,
    'lifetime_recall_at_precision_threshold': 0.25}
    """
    return _best(
        "recall_at_precision",
        of_recall=True,
        least=precision,
        bins=bins,
        refine=refine,
        label_threshold=label_threshold,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )


@factory
def precision_at_recall(
    *,
    recall: float,
    bins: int = BINS,
    refine: Ranges = (),
    label_threshold: float | None = None,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """The highest precision of a threshold with at least some recall, and the threshold.

    ``max over thresholds t with TP(t) / positives >= recall of TP(t) / (TP(t) + FP(t))``. All else
    is as for `recmetrics_jax.recall_at_precision`; of thresholds with one precision, it is that of
    most recall.

    Source: as `recmetrics_jax.recall_at_precision`.

    Args:
        recall: what recall is to be at least, above 0.
        bins: number of bins, a power of two.
        refine: ranges of scores where bins are cut; `recmetrics_jax.binned_auc` says more.
        label_threshold: labels from here on are positive, others negative; None takes them as they
            are, in [0, 1].
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.binned_auc` says more.
        undefined: the precision, and its upper bound, where positives have no weight. The
            threshold is NaN then.

    Returns:
        A `Metric` with ``lifetime_precision_at_recall``, ``lifetime_precision_at_recall_upper`` and
        ``lifetime_precision_at_recall_threshold``, from which on predictions count as positive,
        and, with a window, the same of ``window_``, each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.binned_auc`, and if ``recall`` is not as above.

    >>> import recmetrics_jax as rm
    >>> metric = rm.precision_at_recall(recall=0.5)
    >>> batch = rm.make_batch([0.75, 0.5, 0.375, 0.25, 0.125], [1, 1, 0, 1, 0])
    >>> values = metric.compute(metric.update(metric.init(), batch))
    >>> {name: value.item() for name, value in values.items()}
    {'lifetime_precision_at_recall': 1.0, 'lifetime_precision_at_recall_upper': 1.0,
    'lifetime_precision_at_recall_threshold': 0.5}
    """
    return _best(
        "precision_at_recall",
        of_recall=False,
        least=recall,
        bins=bins,
        refine=refine,
        label_threshold=label_threshold,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )
