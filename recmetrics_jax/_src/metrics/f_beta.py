"""F scores at a threshold: precision and recall in one number."""

import functools
import math
from typing import Generic, NamedTuple, TypeVar

import jax

from recmetrics_jax._src import options
from recmetrics_jax._src.base import Values
from recmetrics_jax._src.build import DEFAULT_SLOTS, sum_metric
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics.classification import precision_terms, recall_terms
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.terms import Term
from recmetrics_jax._src.thresholds import with_threshold

X = TypeVar("X")


class FBetaSums(NamedTuple, Generic[X]):
    """Sufficient statistics of F scores, each ``float[T]``."""

    true_pos_sum: X
    false_pos_sum: X
    false_neg_sum: X


def f_beta_terms(threshold: float) -> FBetaSums[Term]:
    """The terms of F scores at a threshold: those of precision and of recall."""
    return FBetaSums(*precision_terms(threshold), recall_terms(threshold).false_neg_sum)


def f_beta_values(sums: FBetaSums[jax.Array], *, beta: float) -> Values:
    """The value of an F score."""
    right = (1 + beta**2) * sums.true_pos_sum
    wrong = beta**2 * sums.false_neg_sum + sums.false_pos_sum
    return {"f_beta": safe_divide(right, right + wrong)}


@factory
def f_beta(
    *,
    beta: float = 1.0,
    threshold: float = 0.5,
    label_threshold: float | None = None,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """F score: the harmonic mean of precision and recall, in which recall counts beta times.

    ``f_beta = (1 + beta^2) TP / ((1 + beta^2) TP + beta^2 FN + FP)``, in the terms of
    `recmetrics_jax.precision` and `recmetrics_jax.recall`, whose sums it shares in a collection.
    F1 is that of ``beta=1``. Out of the domain, so NaN: a label outside of [0, 1], and a weight
    below 0.

    Source: Sokolova and Lapalme, A systematic analysis of performance measures for
    classification tasks, Information Processing & Management 45(4), 2009, table 2.

    Args:
        beta: how many times as important recall is as precision: 0 for precision alone.
        threshold: predictions from here on count as positive.
        label_threshold: labels from here on are 1, others 0; None takes them as they are, in [0,
            1].
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where neither a label nor a prediction was positive; with ``beta=0``
            where no prediction was.

    Returns:
        A `Metric` with ``lifetime_f_beta`` and, with a window, ``window_f_beta``, each
        ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`, and if ``beta`` is not a finite number of at
            least 0.

    >>> import recmetrics_jax as rm
    >>> metric = rm.f_beta()
    >>> state = metric.update(metric.init(), rm.make_batch([0.5, 0.9, 0.1], [1, 0, 1]))
    >>> metric.compute(state)["lifetime_f_beta"].tolist()
    [0.5]
    """
    label_threshold = options.optional_threshold("label_threshold", label_threshold)
    return sum_metric(
        with_threshold(f_beta_terms(options.threshold("threshold", threshold)), label_threshold),
        functools.partial(f_beta_values, beta=options.finite("beta", beta, 0)),
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )
