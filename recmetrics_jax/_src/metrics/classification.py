"""Classification at a threshold: accuracy, precision, recall."""

import math
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from recmetrics_jax._src import options
from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import DEFAULT_SLOTS, sum_metric
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.terms import NO_CLASSES, WEIGHTS, Term, Terms, scores
from recmetrics_jax._src.thresholds import with_threshold

X = TypeVar("X")


def _is_positive(batch: Batch, threshold: float) -> jax.Array:
    """1 where the prediction is at least the threshold."""
    return (scores(batch) >= threshold).astype(batch.weights.dtype)


def _of_labels(terms: Terms, label_threshold: float | None) -> Terms:
    """Terms of labels cut at a threshold, as it was given."""
    return with_threshold(terms, options.optional_threshold("label_threshold", label_threshold))


class AccuracySums(NamedTuple, Generic[X]):
    """Sufficient statistics of accuracy, each ``float[T]``."""

    accuracy_sum: X
    weighted_num_samples: X


def correct(batch: Batch, threshold: float) -> jax.Array:
    """``w y`` where the prediction is positive, ``w (1 - y)`` where it is negative."""
    is_positive = _is_positive(batch, threshold) == 1
    return batch.weights * jnp.where(is_positive, batch.labels, 1 - batch.labels)


def equal(batch: Batch, threshold: float) -> jax.Array:
    """``w`` where the thresholded prediction equals the label, as torchrec has it."""
    is_equal = _is_positive(batch, threshold) == batch.labels
    return batch.weights * is_equal.astype(batch.weights.dtype)


def accuracy_terms(threshold: float, by_equality: bool = False) -> AccuracySums[Term]:
    """The terms of accuracy at a threshold."""
    function = equal if by_equality else correct
    return AccuracySums(Term(function, (threshold,), excludes=NO_CLASSES), WEIGHTS)


def accuracy_values(sums: AccuracySums[jax.Array]) -> Values:
    """The value of accuracy."""
    return {"accuracy": safe_divide(sums.accuracy_sum, sums.weighted_num_samples)}


@factory
def accuracy(
    *,
    threshold: float = 0.5,
    label_threshold: float | None = None,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Accuracy: the weighted fraction of examples classified right.

    ``accuracy = sum(w (y [p >= threshold] + (1 - y) [p < threshold])) / sum(w)``: a soft label y is
    a positive of weight w y and a negative of weight w (1 - y). Out of the domain, so NaN: a label
    outside of [0, 1], and a weight below 0.

    Source: Sokolova and Lapalme, A systematic analysis of performance measures for
    classification tasks, Information Processing & Management 45(4), 2009, table 2.

    Args:
        threshold: predictions from here on count as positive.
        label_threshold: labels from here on are 1, others 0; None takes them as they are, in [0,
            1].
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no weight has been seen.

    Returns:
        A `Metric` with ``lifetime_accuracy`` and, with a window, ``window_accuracy``, each
        ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.accuracy()
    >>> state = metric.update(metric.init(), rm.make_batch([0.5, 0.4, 0.9, 0.1], [1, 0, 0, 0]))
    >>> metric.compute(state)["lifetime_accuracy"].tolist()
    [0.75]
    """
    return sum_metric(
        _of_labels(accuracy_terms(options.threshold("threshold", threshold)), label_threshold),
        accuracy_values,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )


def true_positives(batch: Batch, threshold: float) -> jax.Array:
    """``w y`` where the prediction is positive."""
    return batch.weights * batch.labels * _is_positive(batch, threshold)


def false_positives(batch: Batch, threshold: float) -> jax.Array:
    """``w (1 - y)`` where the prediction is positive."""
    return batch.weights * (1 - batch.labels) * _is_positive(batch, threshold)


def false_negatives(batch: Batch, threshold: float) -> jax.Array:
    """``w y`` where the prediction is negative."""
    return batch.weights * batch.labels * (1 - _is_positive(batch, threshold))


def positives_up_to(batch: Batch, threshold: float) -> jax.Array:
    """``w y`` where the prediction is at most the threshold: at it, true positives too."""
    return batch.weights * batch.labels * (scores(batch) <= threshold).astype(batch.weights.dtype)


def _true_positives_term(threshold: float) -> Term:
    """The term of true positives, which excludes labels that are no classes."""
    return Term(true_positives, (threshold,), excludes=NO_CLASSES)


class PrecisionSums(NamedTuple, Generic[X]):
    """Sufficient statistics of precision, each ``float[T]``."""

    true_pos_sum: X
    false_pos_sum: X


def precision_terms(threshold: float) -> PrecisionSums[Term]:
    """The terms of precision at a threshold."""
    return PrecisionSums(_true_positives_term(threshold), Term(false_positives, (threshold,)))


def precision_values(sums: PrecisionSums[jax.Array]) -> Values:
    """The value of precision."""
    positives = sums.true_pos_sum + sums.false_pos_sum
    return {"precision": safe_divide(sums.true_pos_sum, positives)}


@factory
def precision(
    *,
    threshold: float = 0.5,
    label_threshold: float | None = None,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Precision: the weighted fraction of positive predictions that are right.

    ``precision = TP / (TP + FP)``, ``TP = sum(w y [p >= threshold])``, ``FP = sum(w (1 - y)
    [p >= threshold])``. Out of the domain, so NaN: a label outside of [0, 1], and a weight below 0.

    Source: Sokolova and Lapalme, A systematic analysis of performance measures for
    classification tasks, Information Processing & Management 45(4), 2009, table 2.

    Args:
        threshold: predictions from here on count as positive.
        label_threshold: labels from here on are 1, others 0; None takes them as they are, in [0,
            1].
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no prediction was positive.

    Returns:
        A `Metric` with ``lifetime_precision`` and, with a window, ``window_precision``, each
        ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.precision()
    >>> state = metric.update(metric.init(), rm.make_batch([0.5, 0.9, 0.1], [1, 0, 1]))
    >>> metric.compute(state)["lifetime_precision"].tolist()
    [0.5]
    """
    return sum_metric(
        _of_labels(precision_terms(options.threshold("threshold", threshold)), label_threshold),
        precision_values,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )


class RecallSums(NamedTuple, Generic[X]):
    """Sufficient statistics of recall, each ``float[T]``."""

    true_pos_sum: X
    false_neg_sum: X


def recall_terms(threshold: float, both_at_threshold: bool = False) -> RecallSums[Term]:
    """The terms of recall at a threshold."""
    missed = positives_up_to if both_at_threshold else false_negatives
    return RecallSums(_true_positives_term(threshold), Term(missed, (threshold,)))


def recall_values(sums: RecallSums[jax.Array]) -> Values:
    """The value of recall."""
    labels = sums.true_pos_sum + sums.false_neg_sum
    return {"recall": safe_divide(sums.true_pos_sum, labels)}


@factory
def recall(
    *,
    threshold: float = 0.5,
    both_at_threshold: bool = False,
    label_threshold: float | None = None,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Recall: the weighted fraction of positive labels that were predicted.

    ``recall = TP / (TP + FN)``, ``TP = sum(w y [p >= threshold])``, ``FN = sum(w y
    [p < threshold])``: a prediction equal to the threshold is positive, once. Out of the domain, so
    NaN: a label outside of [0, 1], and a weight below 0.

    Source: Sokolova and Lapalme, A systematic analysis of performance measures for
    classification tasks, Information Processing & Management 45(4), 2009, table 2.

    Args:
        threshold: predictions from here on count as positive.
        both_at_threshold: a positive label predicted exactly at the threshold counts as a true
            positive and as a false negative, as in torchrec.
        label_threshold: labels from here on are 1, others 0; None takes them as they are, in [0,
            1].
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no label was positive.

    Returns:
        A `Metric` with ``lifetime_recall`` and, with a window, ``window_recall``, each
        ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.recall()
    >>> state = metric.update(metric.init(), rm.make_batch([0.5, 0.9, 0.1], [1, 0, 1]))
    >>> metric.compute(state)["lifetime_recall"].tolist()
    [0.5]
    """
    return sum_metric(
        _of_labels(
            recall_terms(
                options.threshold("threshold", threshold),
                options.flag("both_at_threshold", both_at_threshold),
            ),
            label_threshold,
        ),
        recall_values,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )
