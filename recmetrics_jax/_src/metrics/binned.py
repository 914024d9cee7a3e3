"""AUC and AUPRC from histograms of scores, which add up: over a lifetime, windows and devices."""

import functools
import math
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from recmetrics_jax._src import curves
from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.options import number, whole
from recmetrics_jax._src.terms import BinnedTerm, Term, scores
from recmetrics_jax._src.words import words_of

X = TypeVar("X")

BINS = 65_536
SLOTS = 32


class HistogramSums(NamedTuple, Generic[X]):
    """Weights of positives and negatives by score, ``float[T, 2, bins]``, lowest scores first."""

    histogram: X


def histogram(batch: Batch, bins: int) -> tuple[jax.Array, jax.Array]:
    """The bin of each example, what scores share in their upper bits; ``w y`` and ``w (1 - y)``."""
    (word,) = words_of(scores(batch).astype(jnp.float32))
    bits = (bins - 1).bit_length()
    index = (word >> jnp.uint32(32 - bits)).astype(jnp.int32)
    weights = jnp.stack([batch.weights * batch.labels, batch.weights * (1 - batch.labels)], axis=-1)
    return index, weights


def linear_histogram(
    batch: Batch, bins: int, low: float, high: float
) -> tuple[jax.Array, jax.Array]:
    """As `histogram`, with ``bins`` bins of equal width; NaN for scores outside ``[low, high]``."""
    predictions = scores(batch)
    is_inside = (predictions >= low) & (predictions <= high)
    index = ((jnp.where(is_inside, predictions, low) - low) / (high - low) * bins).astype(jnp.int32)
    weights = jnp.stack([batch.weights * batch.labels, batch.weights * (1 - batch.labels)], axis=-1)
    weights = jnp.where((is_inside | ~batch.mask)[..., None], weights, jnp.nan)
    return jnp.minimum(index, jnp.int32(bins - 1)), weights


def histogram_terms(bins: int) -> HistogramSums[Term]:
    """The terms of a histogram."""
    return HistogramSums(BinnedTerm(histogram, (bins,), shape=(2, bins), is_summed=True))


def binned_values(
    sums: HistogramSums[jax.Array],
    *,
    name: str,
    area: Callable[[curves.Curve], jax.Array],
) -> Values:
    """The value of an area: a bin is one point of the curve."""
    from_highest = sums.histogram[..., ::-1]
    above = jnp.cumsum(from_highest, axis=-1)
    rows = jnp.broadcast_to(jnp.arange(above.shape[-1]), above[:, 0].shape)
    points = curves.Curve(
        above[:, 0], above[:, 1], from_highest[:, 0], from_highest[:, 1], None, rows
    )
    return {name: area(points)[:, -1]}


def _binned_metric(
    name: str,
    area: Callable[[curves.Curve], jax.Array],
    *,
    bins: int,
    n_tasks: int,
    window: int | None,
    slots: int,
    undefined: float,
) -> Metric:
    bins = whole("bins", bins, 2)
    if bins & (bins - 1) or bins > 1 << 24:
        raise ValueError(f"bins: expected a power of two of at most 2^24, got {bins}")
    return sum_metric(
        histogram_terms(bins),
        functools.partial(binned_values, name=name, area=area),
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )


@factory
def binned_auc(
    *,
    bins: int = BINS,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Area under the ROC curve from a histogram of the scores; has a lifetime value, and merges.

    ``auc = sum over bins of FP (TP above + TP / 2) / (positives * negatives)``: as
    `recmetrics_jax.auc`, but scores in one bin count as tied. A bin is what scores share in their
    upper ``log2(bins)`` bits as float32, in the order of their values. With 65,536 bins that is the
    sign, the exponent and 7 bits: scores of any scale, logits too, 2^-7 of themselves apart.

    The error is at most half the fraction of pairs, of a positive and a negative, that share a bin.
    bfloat16 scores, and any that differ in their upper 16 bits, are exact.

    Source: as `recmetrics_jax.auc`.

    Args:
        bins: number of bins, a power of two.
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more. Each is
            a histogram of ``16 * bins`` bytes (1 MiB) for each task.
        undefined: the value where a class has no weight.

    Returns:
        A `Metric` with ``lifetime_binned_auc`` and, with a window, ``window_binned_auc``, each
        ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`, and if ``bins`` is not a power of two.

    >>> import recmetrics_jax as rm
    >>> metric = rm.binned_auc()
    >>> state = metric.update(metric.init(), rm.make_batch([0.9, 0.5, 0.5, 0.1], [1, 0, 1, 0]))
    >>> metric.compute(state)["lifetime_binned_auc"].tolist()
    [0.875]
    """
    return _binned_metric(
        "binned_auc",
        curves.roc_area,
        bins=bins,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )


@factory
def binned_auprc(
    *,
    bins: int = BINS,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Area under the precision-recall curve from a histogram; has a lifetime value, and merges.

    ``auprc = sum over bins of (recall gained) * precision``: `recmetrics_jax.auprc`, but scores in
    one bin, as `recmetrics_jax.binned_auc` has them, count as tied. It shares its histogram in
    a collection.

    Source: as `recmetrics_jax.auprc`.

    Args:
        bins: number of bins, a power of two.
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.binned_auc` says more.
        undefined: the value where positives have no weight.

    Returns:
        A `Metric` with ``lifetime_binned_auprc`` and, with a window, ``window_binned_auprc``, each
        ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.binned_auc`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.binned_auprc()
    >>> state = metric.update(metric.init(), rm.make_batch([0.9, 0.5, 0.5, 0.1], [1, 0, 1, 0]))
    >>> round(metric.compute(state)["lifetime_binned_auprc"].item(), 6)
    0.833333
    """
    return _binned_metric(
        "binned_auprc",
        curves.precision_recall_area,
        bins=bins,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )


def linear_values(sums: HistogramSums[jax.Array]) -> Values:
    """As torchrec has AUPRC of bins of equal width: undefined without one of the classes."""
    auprc = binned_values(sums, name="auprc", area=curves.precision_recall_area)["auprc"]
    has_no_negatives = jnp.sum(sums.histogram[:, 1], axis=1) == 0
    return {"auprc": jnp.where(has_no_negatives, jnp.nan, auprc)}


def linear_auprc(
    *,
    bins: int,
    low: float,
    high: float,
    n_tasks: int = 1,
    undefined: float = math.nan,
) -> Metric:
    """AUPRC over the lifetime from a histogram of ``bins`` bins of equal width.

    As torchrec has it: a score outside of ``[low, high]`` makes the value of its task NaN.
    """
    bins, low, high = whole("bins", bins, 1), number("low", low), number("high", high)
    term = BinnedTerm(linear_histogram, (bins, low, high), shape=(2, bins), is_summed=True)
    return sum_metric(HistogramSums(term), linear_values, n_tasks=n_tasks, undefined=undefined)
