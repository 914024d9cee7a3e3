"""Sums that the reference, torchrec, has beyond those of this package: what the adapter declares.

Of examples with a label and without, of the bits of whole numbers, of the numbers that come beside
examples, of the latest update, and of thresholds. Shapes: ``T`` tasks, ``N`` examples, ``H``
thresholds.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics.regression import r_squared_terms
from recmetrics_jax._src.metrics.relative import nmse_terms
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.terms import WEIGHTED_LABELS, Term, scores

X = TypeVar("X")


class NMSESums(NamedTuple, Generic[X]):
    """Sufficient statistics of R squared and of NMSE, each ``float[T]``."""

    error_sum: X
    weighted_num_samples: X
    label_sum: X
    label_squared_sum: X
    const_pred_error_sum: X


R_SQUARED_TERMS = r_squared_terms._replace(label_sum=WEIGHTED_LABELS)
"""Those of batches in float64, which share the sum of labels with other metrics."""
NMSE_TERMS = NMSESums(*R_SQUARED_TERMS, nmse_terms(1.0).const_pred_error_sum)


def nmse_values(sums: NMSESums[jax.Array]) -> Values:
    """The values of NMSE beside a prediction of 1, 0 without weight or where that makes no error.

    Undefined is the root of a negative number, as weights below 0 have it.
    """
    total, of_one = sums.weighted_num_samples, sums.const_pred_error_sum
    error, of_one = (safe_divide(x, total, 0.0) for x in (sums.error_sum, of_one))
    root, root_of_one = jnp.sqrt(error), jnp.sqrt(of_one)
    return {"nmse": safe_divide(error, of_one, 0.0), "nrmse": safe_divide(root, root_of_one, 0.0)}


def sum_by_name(name: str, terms: Mapping[str, Term], **options: Any) -> Metric:
    """A metric of one term, whose value is its sum, by another name."""
    return sum_metric(terms, functools.partial(_only_sum, name=name), **options)


def _only_sum(sums: Mapping[str, jax.Array], *, name: str) -> Values:
    (total,) = sums.values()
    return {name: total}


def _zero_if_nan(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.isnan(x), jnp.zeros_like(x), x)


def weight_of_missing_labels(batch: Batch) -> jax.Array:
    """``w`` where the label is NaN."""
    return jnp.where(jnp.isnan(batch.labels), batch.weights, jnp.zeros_like(batch.weights))


def weighted_given_labels(batch: Batch) -> jax.Array:
    """``w y``, 0 where the label is NaN."""
    return batch.weights * _zero_if_nan(batch.labels)


def weighted_given_predictions(batch: Batch) -> jax.Array:
    """``w p``, 0 where the prediction is NaN."""
    return batch.weights * _zero_if_nan(scores(batch))


def predicted_bit(batch: Batch, bit: int, is_in_label: bool) -> jax.Array:
    """``w`` where a bit is set in the prediction, and in the label as well, or not.

    Both are whole numbers of up to 53 bits, the lowest of which is number 0.
    """
    is_predicted, is_true = (_bit(x, bit) for x in (scores(batch), batch.labels))
    return batch.weights * is_predicted * (is_true if is_in_label else 1 - is_true)


def _bit(x: jax.Array, bit: int) -> jax.Array:
    """A bit of numbers, 0 or 1; NaN of NaN."""
    shifted = jnp.floor(x * 2.0**-bit)
    return shifted - 2 * jnp.floor(shifted / 2)


def numbers_beside(batch: Batch, key: str) -> jax.Array:
    """The numbers that came as a key, the halves of which are the bits of a float64, ``[T, N]``."""
    upper, lower = batch.key(key)
    with jax.enable_x64(True):
        return jax.lax.bitcast_convert_type(jnp.stack([lower, upper], axis=-1), jnp.float64)


def weighted_number_beside(batch: Batch, key: str, is_weighted: tuple[bool, ...]) -> jax.Array:
    """``w x`` of the tasks that are weighted, ``x`` of others; `numbers_beside`."""
    return numbers_beside(batch, key) * weight_or_one(batch, is_weighted)


def weight_or_one(batch: Batch, is_weighted: tuple[bool, ...]) -> jax.Array:
    """``w`` of the tasks that are weighted, 1 of others; one answer is that of all tasks."""
    tasks = jnp.asarray(is_weighted)[:, None]
    return jnp.where(tasks, batch.weights, jnp.ones_like(batch.weights))


def mean_label(batch: Batch) -> jax.Array:
    """The mean of the labels of a batch, whatever their weights, ``float[T]``."""
    return _mean(batch, batch.labels)


def mean_number_beside(batch: Batch, key: str) -> jax.Array:
    """The mean of `numbers_beside` of a batch, likewise."""
    return _mean(batch, numbers_beside(batch, key))


def _mean(batch: Batch, x: jax.Array) -> jax.Array:
    total = jnp.sum(jnp.where(batch.mask, x, jnp.zeros_like(x)), axis=1)
    return safe_divide(total, jnp.sum(batch.mask, axis=1, dtype=x.dtype))


def batches(batch: Batch) -> jax.Array:
    """1 for a batch, of each task, ``float[T]``."""
    return jnp.ones_like(batch.weights[:, 0])


MEAN_LABEL = Term(mean_label, is_summed=True, per_batch=True)
BATCHES = Term(batches, is_summed=True, per_batch=True)


def mean_number_term(key: str) -> Term:
    """The term of `mean_number_beside`."""
    return Term(mean_number_beside, (key,), keys=(key,), is_summed=True, per_batch=True)


class ThresholdSums(NamedTuple, Generic[X]):
    """What examples are when they are classified at each threshold, ``float[T, H]`` each."""

    true_pos_sum: X
    false_pos_sum: X
    false_neg_sum: X


def thresholds(count: int) -> np.ndarray:
    """Numbers from 0 to 1, equally far apart, as float32 has them, ``float64[H]``."""
    return np.linspace(0, 1, count).astype(np.float32).astype(np.float64)


def positives_from(batch: Batch, count: int) -> jax.Array:
    """The sum of ``w y`` where the prediction is at least each threshold, ``float[T, H]``."""
    return _sums_from(batch, batch.weights * batch.labels, count)


def negatives_from(batch: Batch, count: int) -> jax.Array:
    """The sum of ``w (1 - y)`` where the prediction is at least each threshold."""
    return _sums_from(batch, batch.weights * (1 - batch.labels), count)


def positives_to(batch: Batch, count: int) -> jax.Array:
    """The sum of ``w y`` where the prediction is at most each threshold."""
    # How many thresholds are below a prediction; NaN is at most none of them.
    places = jnp.searchsorted(jnp.asarray(thresholds(count)), scores(batch), side="left")
    by_place = _by_place(batch, batch.weights * batch.labels, places, count)
    return jnp.cumsum(by_place[:, :count], axis=1)


def _sums_from(batch: Batch, statistic: jax.Array, count: int) -> jax.Array:
    predictions = scores(batch)
    # How many thresholds are at most a prediction; NaN is at least none of them.
    places = jnp.searchsorted(jnp.asarray(thresholds(count)), predictions, side="right")
    places = jnp.where(jnp.isnan(predictions), 0, places)
    by_place = _by_place(batch, statistic, places, count)
    return jax.lax.cumsum(by_place[:, 1:], axis=1, reverse=True)


def _by_place(batch: Batch, statistic: jax.Array, places: jax.Array, count: int) -> jax.Array:
    """Sums by place, ``float[T, H + 1]``: all of them NaN if a number is, or is infinite."""
    statistic = jnp.where(batch.mask, statistic, jnp.zeros_like(statistic))
    tasks = jnp.arange(len(statistic), dtype=places.dtype)[:, None]
    empty = jnp.zeros((len(statistic), count + 1), statistic.dtype)
    return empty.at[tasks, places].add(statistic) + 0 * jnp.sum(statistic, axis=1, keepdims=True)


def threshold_terms(count: int) -> ThresholdSums[Term]:
    """The terms of so many thresholds."""

    def term(function: Callable[[Batch, int], jax.Array]) -> Term:
        return Term(function, (count,), shape=(count,), is_summed=True)

    return ThresholdSums(term(positives_from), term(negatives_from), term(positives_to))


def precision_at_thresholds(sums: ThresholdSums[jax.Array]) -> jax.Array:
    """Precision at each threshold, 0 where nothing is predicted."""
    return safe_divide(sums.true_pos_sum, sums.true_pos_sum + sums.false_pos_sum, 0.0)


def index_of_precision(precision: jax.Array, target: float) -> jax.Array:
    """The first threshold of at least a precision, ``int[T]``; the last if none has it."""
    is_reached = precision >= target
    return jnp.where(
        jnp.any(is_reached, axis=-1), jnp.argmax(is_reached, axis=-1), precision.shape[-1] - 1
    )


def threshold_values(sums: ThresholdSums[jax.Array], *, target: float) -> Values:
    """The threshold at which a precision is reached first, and what is reached there."""
    precision = precision_at_thresholds(sums)
    recall = safe_divide(sums.true_pos_sum, sums.true_pos_sum + sums.false_neg_sum, 0.0)
    index = index_of_precision(precision, target)
    at = index[:, None]
    return {
        "hindsight_target_pr": index.astype(precision.dtype),
        "hindsight_target_precision": jnp.take_along_axis(precision, at, axis=1)[:, 0],
        "hindsight_target_recall": jnp.take_along_axis(recall, at, axis=1)[:, 0],
    }
