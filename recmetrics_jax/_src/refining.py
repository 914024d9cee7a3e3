"""Which scores a histogram should tell apart better: the first half of AUC in two passes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.base import State
from recmetrics_jax._src.histogram import Histogram
from recmetrics_jax._src.metric import Engine, Metric
from recmetrics_jax._src.metrics.binned import (
    MOST_BINS,
    REFINED_BINS,
    Area,
    added_by_bin,
    binned_values,
)
from recmetrics_jax._src.options import whole
from recmetrics_jax._src.score_bins import Bins, scores_between

NEGLIGIBLE = 1e-12
"""What a bin leaves open by rounding, at most."""


def ranges_to_refine(
    metric: Metric, state: State, *, refined_bins: int = REFINED_BINS
) -> tuple[tuple[float, float], ...]:
    """The ranges of scores whose order leaves most of a binned AUC or AUPRC open.

    A bin leaves open what it adds to the upper bound more than to the lower one. Cut into ``n``
    parts it leaves about ``1 / n`` of that, and nothing where a part holds one float32. Of all bins
    those are chosen that, cut into as many parts as ``refined_bins`` allows, leave least open in
    sum: few, if the scores lie close together.

    So any number of examples, in any number of files or on any number of devices, have an AUC as
    exact as one likes in two passes over them: the first with ``metric``, the second with
    ``binned_auc(refine=ranges_to_refine(metric, state))``. Its bounds are right whether the ranges
    were well chosen or not; with more ``refined_bins`` they are closer.

    Args:
        metric: a `recmetrics_jax.binned_auc` or `recmetrics_jax.binned_auprc`, or a collection of
            them with one number of bins, without ``refine``.
        state: its state, outside of jit: of all examples of the lifetime, merged.
        refined_bins: what the second pass is given.

    Returns:
        Pairs of a lowest and a highest score, for ``refine``, of all tasks together; none where
        nothing is open.

    Raises:
        ValueError: if the metric is not of that kind, or the state not its own.

    >>> import recmetrics_jax as rm
    >>> batch = rm.make_batch([0.7, 0.03002, 0.03001, 0.0299], [1, 1, 0, 0])
    >>> metric = rm.binned_auc()
    >>> state = metric.update(metric.init(), batch)
    >>> metric.compute(state)["lifetime_binned_auc_lower"].tolist()
    [0.75]
    >>> ranges = rm.ranges_to_refine(metric, state)
    >>> [(round(low, 4), round(high, 4)) for low, high in ranges]
    [(0.0299, 0.03)]
    >>> finer = rm.binned_auc(refine=ranges)
    >>> finer.compute(finer.update(finer.init(), batch))["lifetime_binned_auc_lower"].tolist()
    [1.0]
    """
    refined_bins = whole("refined_bins", refined_bins, 2, MOST_BINS)
    engine = Engine.of(metric)
    sums = () if engine is None else engine.program.sums
    binned = [of for of in sums if of.values.function is binned_values]
    kinds = {dict(of.values.options)["bins"] for of in binned}
    if engine is None or len(kinds) != 1 or next(iter(kinds)).cut:
        raise ValueError(
            "metric: expected binned_auc(), binned_auprc(), or a collection of them with one "
            f"number of bins, and without refine, got {metric!r:.200}"
        )
    (bins,) = kinds
    histograms = dict(
        zip(
            engine.program.layout.histograms, engine.checked("state", state).histograms, strict=True
        )
    )
    is_open = np.zeros(bins.size)
    for of in binned:
        histogram = jax.device_get(histograms[of.group, of.terms.histogram])
        is_open += np.asarray(_left_open(dict(of.values.options)["area"], bins, histogram))
    is_open[is_open < NEGLIGIBLE] = 0
    chosen = _worth_cutting(is_open, refined_bins, bins.key_bits)
    edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False)).reshape(-1, 2)
    return tuple(
        scores_between(first << bins.key_bits, (end << bins.key_bits) - 1)
        for first, end in edges.tolist()
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _left_open(area: Area, bins: Bins, histogram: Histogram) -> jax.Array:
    """How far the bounds of an area are apart for what is in each bin, over all tasks."""
    with jax.enable_x64(True):
        _, lower, upper = added_by_bin(histogram.read(), area, bins)
        # Of tasks of bad examples, or without a class, nothing is known.
        return jnp.sum(jnp.nan_to_num(upper - lower), axis=0).astype(jnp.float32)


def _worth_cutting(is_open: np.ndarray, most: int, key_bits: int) -> np.ndarray:
    """Which bins to cut so that least is left open, ``bool[B]``.

    >>> _worth_cutting(np.array([1.0, 9.0, 8.0, 0.0]), 8, 16).tolist()  # 2 bins by 4 parts
    [False, True, True, False]
    """
    order = np.argsort(-is_open, kind="stable")[: most // 2]
    order = order[is_open[order] > 0]
    counts = np.arange(len(order) + 1)
    bits = np.minimum(np.log2(most / np.maximum(counts, 1)).astype(int), key_bits)
    cut = np.concatenate([[0.0], np.cumsum(is_open[order])])
    left = is_open.sum() - cut + np.where(bits == key_bits, 0.0, cut / 2.0**bits)
    chosen = np.zeros(len(is_open), bool)
    chosen[order[: np.argmin(left)]] = True
    return chosen
