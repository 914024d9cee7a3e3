"""Multiclass recall at every k."""

import math
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import DEFAULT_SLOTS, sum_metric
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.options import whole
from recmetrics_jax._src.terms import NEGATIVE_WEIGHTS, Term, weights

X = TypeVar("X")


class MulticlassRecallSums(NamedTuple, Generic[X]):
    """Sufficient statistics of multiclass recall."""

    tp_at_k: X
    """``float[T, C]``."""
    total_weights: X
    """``float[T]``."""


def true_positives_at_k(batch: Batch, n_classes: int, of_more: bool = False) -> jax.Array:
    """``w`` where the label is among the ``k`` highest scores, ``float[T, N, C]``, k = 1 ... C.

    With ``of_more``, as torchrec has it, there may be more classes than ``C``, and labels that are
    no class, which are never hit; else their hits are NaN.

    A label tied with others at the edge of the top ``k`` gets the fraction of the orders of the
    tied classes that put it inside, so the order of the classes does not matter.
    """
    given = batch.predictions.shape[2:]
    if given != (n_classes,) and not (of_more and given > (n_classes,)):
        raise ValueError(
            f"predictions: expected shape {(*batch.mask.shape, n_classes)} (n_classes), "
            f"got {batch.predictions.shape}"
        )
    classes = jnp.arange(given[0], dtype=batch.labels.dtype)[None, None]
    is_label = batch.labels[..., None] == classes
    has_label = jnp.any(is_label, axis=-1, keepdims=True)
    score = jnp.sum(jnp.where(is_label, batch.predictions, 0.0), axis=-1, keepdims=True)
    higher = jnp.sum(batch.predictions > score, axis=-1, keepdims=True, dtype=classes.dtype)
    tied = jnp.sum(batch.predictions == score, axis=-1, keepdims=True, dtype=classes.dtype)
    hits = (classes[..., :n_classes] + 1 - higher) / jnp.maximum(tied, 1.0)
    hits = jnp.clip(hits, 0.0, 1.0)
    return batch.weights[..., None] * jnp.where(has_label, hits, 0.0 if of_more else jnp.nan)


def multiclass_recall_terms(n_classes: int, of_more: bool = False) -> MulticlassRecallSums[Term]:
    """The terms of multiclass recall, at most at ``n_classes``, of more classes if so told."""
    hits = Term(true_positives_at_k, (n_classes, of_more), shape=(n_classes,), by_order=True)
    return MulticlassRecallSums(hits, Term(weights, excludes=NEGATIVE_WEIGHTS, by_order=True))


def multiclass_recall_values(sums: MulticlassRecallSums[jax.Array]) -> Values:
    """The value of multiclass recall."""
    recall = safe_divide(sums.tp_at_k, sums.total_weights[:, None])
    return {"multiclass_recall": recall}


@factory
def multiclass_recall(
    n_classes: int,
    *,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Multiclass recall at k: the weighted fraction of labels among the k highest scores.

    ``recall_k = sum(w hit_k) / sum(w)``, where ``hit_k`` is 1 if fewer than k classes score higher
    than the label's; of tied classes, the fraction of their orders that is a hit. Out of the
    domain, so NaN: a label that is not one of 0 ... C - 1, and a weight below 0.

    Source: Sokolova and Lapalme, A systematic analysis of performance measures for
    classification tasks, Information Processing & Management 45(4), 2009, table 3 (micro-averaged
    recall), at every depth k.

    Args:
        n_classes: number of classes ``C``; predictions are ``[T, N, C]``, labels class numbers.
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no weight has been seen.

    Returns:
        A `Metric` with ``lifetime_multiclass_recall`` and, with a window,
        ``window_multiclass_recall``, each ``float[T, C]``: element ``k - 1`` is recall at k.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`; from ``update``, if the predictions have not
            ``n_classes`` classes.

    >>> import recmetrics_jax as rm
    >>> metric = rm.multiclass_recall(3)
    >>> scores = [[[0.1, 0.7, 0.2], [0.5, 0.4, 0.1]]]
    >>> state = metric.update(metric.init(), rm.make_batch(scores, [[1, 1]]))
    >>> metric.compute(state)["lifetime_multiclass_recall"].tolist()
    [[0.5, 1.0, 1.0]]
    """
    return sum_metric(
        multiclass_recall_terms(whole("n_classes", n_classes, 1)),
        multiclass_recall_values,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )
