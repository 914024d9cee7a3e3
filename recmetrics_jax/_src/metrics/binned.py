"""AUC and AUPRC from histograms of scores, which add up: over a lifetime, windows and devices."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src import bounds, curves
from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.options import number, optional_threshold, whole
from recmetrics_jax._src.score_bins import Bins, bins_of_ranges
from recmetrics_jax._src.terms import NO_CLASSES, BinnedTerm, Term, scores
from recmetrics_jax._src.thresholds import with_threshold

X = TypeVar("X")

BINS = 65_536
SLOTS = 32
Ranges = Sequence[tuple[float, float, int]]


class HistogramSums(NamedTuple, Generic[X]):
    """Weights of positives and negatives by score, ``float[T, 2, bins]``, lowest scores first."""

    histogram: X


class Area(NamedTuple):
    """An area under a curve of bins, with bounds."""

    name: str
    added: Callable[[bounds.Bins], bounds.Added]


ROC = Area("binned_auc", bounds.roc_area)
PRECISION_RECALL = Area("binned_auprc", bounds.precision_recall_area)


def score_histogram(
    batch: Batch, bins: int, cut: tuple[tuple[int, int, int], ...]
) -> tuple[jax.Array, jax.Array]:
    """The bin of each example, one of `Bins`; and ``w y`` and ``w (1 - y)``."""
    index = Bins(bins, cut).places(scores(batch).astype(jnp.float32))
    return index, _weights_of_classes(batch)


class LinearHistogramSums(NamedTuple, Generic[X]):
    """The same in bins of equal width as torchrec has them, ``float[T, 1, bins]`` each."""

    lifetime_positive_histogram: X
    lifetime_negative_histogram: X


def linear_histogram(
    batch: Batch, bins: int, low: float, high: float, of_class: int
) -> tuple[jax.Array, jax.Array]:
    """Of each example the bin, all in float32 as torchrec has it, and ``w y``, or ``w (1 - y)``.

    Bins are of equal width; scores outside ``[low, high]`` count NaN.
    """
    dtype = batch.weights.dtype
    single = batch._replace(
        labels=_rounded(batch.labels).astype(dtype), weights=_rounded(batch.weights).astype(dtype)
    )
    predictions = _rounded(scores(batch))
    is_inside = (predictions >= low) & (predictions <= high)
    # A division by a constant would become a product, that rounds otherwise: but not in float64.
    offset = (jnp.where(is_inside, predictions, low) - low).astype(dtype)
    index = (_rounded(offset / _float32(high - low)) * bins).astype(jnp.int32)
    weights = _weights_of_classes(single)[..., of_class : of_class + 1]
    weights = jnp.where((is_inside | ~batch.mask)[..., None], weights, jnp.nan)
    return jnp.minimum(index, jnp.int32(bins - 1)), weights


def _rounded(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32)


def _float32(x: float) -> float:
    """A number as float32 has it."""
    return float(np.float32(x))


def _weights_of_classes(batch: Batch) -> jax.Array:
    """``w y`` and ``w (1 - y)``, ``float[T, N, 2]``."""
    return jnp.stack([batch.weights * batch.labels, batch.weights * (1 - batch.labels)], axis=-1)


def histogram_terms(bins: Bins) -> HistogramSums[Term]:
    """The terms of a histogram."""
    return HistogramSums(
        BinnedTerm(
            score_histogram,
            tuple(bins),
            shape=(2, bins.size),
            excludes=NO_CLASSES,
            by_order=True,
            is_summed=True,
        )
    )


def binned_values(sums: HistogramSums[jax.Array], *, area: Area, bins: Bins) -> Values:
    """The value of an area, of which a bin is one point; and its bounds."""
    value, lower, upper = (jnp.sum(x, axis=-1) for x in added_by_bin(sums.histogram, area, bins))
    # The value is between its bounds, but for the rounding of their sums.
    return {
        area.name: value,
        f"{area.name}_lower": jnp.minimum(lower, value),
        f"{area.name}_upper": jnp.maximum(upper, value),
    }


def added_by_bin(histogram: jax.Array, area: Area, bins: Bins) -> bounds.Added:
    """What each bin adds to an area and its bounds, ``float64[T, bins]``; in an x64 scope."""
    is_tied = jnp.asarray(bins.scores_in()[None] <= 1)
    return area.added(bounds.Bins.of(histogram, is_tied))


def histogram_metric(
    values: Callable[..., Values],
    *,
    bins: int,
    refine: Ranges,
    label_threshold: float | None,
    n_tasks: int,
    window: int | None,
    slots: int,
    undefined: float | Mapping[str, float],
) -> Metric:
    """A metric of a histogram of scores: ``values`` of its sums, and of its `Bins`."""
    bins = whole("bins", bins, 2)
    if bins & (bins - 1) or bins > 1 << 24:
        raise ValueError(f"bins: expected a power of two of at most 2^24, got {bins}")
    of = bins_of_ranges(bins, refine)
    label_threshold = optional_threshold("label_threshold", label_threshold)
    return sum_metric(
        with_threshold(histogram_terms(of), label_threshold),
        functools.partial(values, bins=of),
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )


@factory
def binned_auc(
    *,
    bins: int = BINS,
    refine: Ranges = (),
    label_threshold: float | None = None,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Area under the ROC curve from a histogram of the scores; has a lifetime value, and merges.

    ``auc = sum over bins of FP (TP above + TP / 2) / (positives * negatives)``: as
    `recmetrics_jax.auc`, but scores in one bin count as tied. ``lower`` and ``upper`` say what that
    may hide: ``TP / 2`` is 0, or TP, in bins that can hold different scores, as if pairs in them
    were all wrong, or all right. The exact AUC of the scores, as float32, is between them. A score
    of -inf is the lowest. Out of the domain, so NaN: a label outside of [0, 1], and a weight below
    0.

    A bin is what scores share in the upper ``log2(bins)`` bits of a number in their order. With
    65,536 bins there are 128 for each octave of scores of any scale, logits too: at most 2^-7 of
    themselves wide, and above 1/2 as wide as those of ``1 - p``, so that probabilities are told
    apart near 1 as they are near 0. Scores of bfloat16 have a bin each, but those closer to 0
    than 2^-103: their AUC is exact, which the bounds do not know. They know it of 0, of 1, and of
    those closer to 1 than 2^-16 from below, where a bin has one float32.

    Where the bounds are too far apart, since scores lie close together, a second pass over the
    same examples tells them apart: ``refine=`` `recmetrics_jax.ranges_to_refine` of the first.

    Source: as `recmetrics_jax.auc`.

    Args:
        bins: number of bins, a power of two.
        refine: ranges of scores, ``((low, high, parts), ...)``. The bins that one touches are cut,
            each into so many parts, which are bins as others are: a power of two, up to where a
            part holds one float32 (65,536, of as many bins), and pairs in it are known to be tied.
        label_threshold: labels from here on are positive, others negative; None takes them as they
            are, in [0, 1].
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more. Each is
            a histogram of ``16 * bins`` bytes (1 MiB) for each task.
        undefined: the value where a class has no weight.

    Returns:
        A `Metric` with ``lifetime_binned_auc``, ``lifetime_binned_auc_lower`` and
        ``lifetime_binned_auc_upper`` and, with a window, the same of ``window_``, each
        ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`; if ``bins`` is not a power of two, or ``refine``
            not as above.

    >>> import recmetrics_jax as rm
    >>> metric = rm.binned_auc()
    >>> batch = rm.make_batch([0.9, 0.501, 0.5, 0.1], [1, 0, 1, 0])
    >>> values = metric.compute(metric.update(metric.init(), batch))
    >>> {name: value.item() for name, value in values.items()}
    {'lifetime_binned_auc': 0.875, 'lifetime_binned_auc_lower': 0.75,
    'lifetime_binned_auc_upper': 1.0}
    """
    return histogram_metric(
        functools.partial(binned_values, area=ROC),
        bins=bins,
        refine=refine,
        label_threshold=label_threshold,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )


@factory
def binned_auprc(
    *,
    bins: int = BINS,
    refine: Ranges = (),
    label_threshold: float | None = None,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Area under the precision-recall curve from a histogram; has a lifetime value, and merges.

    ``auprc = sum over bins of (recall gained) * precision``: `recmetrics_jax.auprc`, but scores in
    one bin, as `recmetrics_jax.binned_auc` has them, count as tied. It shares its histogram in
    a collection.

    ``lower`` and ``upper`` are what the exact AUPRC is at least and at most, whatever the scores
    and weights in a bin are: positives of different scores below all negatives of the bin, and
    positives of one score above them. They differ by more than ties in a bin of both classes, since
    positives that are tied count more than others below the same negatives.

    Source: as `recmetrics_jax.auprc`.

    Args:
        bins: number of bins, a power of two.
        refine: ranges of scores where bins are cut; `recmetrics_jax.binned_auc` says more.
        label_threshold: labels from here on are positive, others negative; None takes them as they
            are, in [0, 1].
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.binned_auc` says more.
        undefined: the value where positives have no weight.

    Returns:
        A `Metric` with ``lifetime_binned_auprc``, ``lifetime_binned_auprc_lower`` and
        ``lifetime_binned_auprc_upper`` and, with a window, the same of ``window_``, each
        ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.binned_auc`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.binned_auprc()
    >>> batch = rm.make_batch([0.9, 0.501, 0.5, 0.1], [1, 0, 1, 0])
    >>> values = metric.compute(metric.update(metric.init(), batch))
    >>> {name: round(value.item(), 6) for name, value in values.items()}
    {'lifetime_binned_auprc': 0.833333, 'lifetime_binned_auprc_lower': 0.797267,
    'lifetime_binned_auprc_upper': 1.0}
    """
    return histogram_metric(
        functools.partial(binned_values, area=PRECISION_RECALL),
        bins=bins,
        refine=refine,
        label_threshold=label_threshold,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )


def linear_values(sums: LinearHistogramSums[jax.Array]) -> Values:
    """As torchrec has AUPRC of bins of equal width: undefined without one of the classes."""
    histogram = jnp.concatenate(sums, axis=1)
    from_highest = histogram[..., ::-1]
    above = jnp.cumsum(from_highest, axis=-1)
    rows = jnp.broadcast_to(jnp.arange(above.shape[-1]), above[:, 0].shape)
    points = curves.Curve(
        above[:, 0], above[:, 1], from_highest[:, 0], from_highest[:, 1], None, rows
    )
    auprc = curves.precision_recall_area(points)[:, -1]
    has_no_negatives = jnp.sum(histogram[:, 1], axis=1) == 0
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
    positives, negatives = (
        BinnedTerm(linear_histogram, (bins, low, high, i), shape=(1, bins), is_summed=True)
        for i in range(2)
    )
    terms = LinearHistogramSums(positives, negatives)
    return sum_metric(terms, linear_values, n_tasks=n_tasks, undefined=undefined)
