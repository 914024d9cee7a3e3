"""Which scores a histogram should tell apart better: the first half of AUC in two passes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.base import State
from recmetrics_jax._src.histogram import Histogram
from recmetrics_jax._src.metric import Engine, Metric
from recmetrics_jax._src.metrics.binned import (
    Area,
    added_by_bin,
    binned_values,
)
from recmetrics_jax._src.options import whole
from recmetrics_jax._src.score_bins import MOST_BINS, Bins, cut_alike, scores_between

NEGLIGIBLE = 1e-12
"""What bins leave open by rounding, and what is not worth a part."""


def ranges_to_refine(
    metric: Metric, state: State, *, parts: int = 262_144
) -> tuple[tuple[float, float, int], ...]:
    """The ranges of scores whose order leaves most of a binned AUC or AUPRC open.

    What a bin adds to the upper bound and not to the lower one, it leaves open. Cut into ``n``
    parts it leaves about ``1 / n`` of that, and nothing where a part holds one float32. Of the
    ways to cut bins into ``parts`` parts in all, this is the one that leaves least open in sum:
    ``n`` goes by the root of what the bin leaves open.

    So any number of examples, in any number of files or on any number of devices, have an AUC as
    exact as one likes in two passes over them: the first with ``metric``, the second with
    ``binned_auc(refine=ranges_to_refine(metric, state))``. Its bounds are right whether the ranges
    were well chosen or not; of more ``parts`` they are closer.

    Args:
        metric: a `recmetrics_jax.binned_auc` or `recmetrics_jax.binned_auprc`, or a collection of
            them with one number of bins, without ``refine``.
        state: its state, outside of jit: of all examples of the lifetime, merged.
        parts: how many there are at most. Each takes 16 bytes in a state, for each task.

    Returns:
        What ``refine`` takes: ranges of scores, and into how many parts to cut a bin there; of all
        tasks together, and none where nothing is open.

    Raises:
        ValueError: if the metric is not of that kind, or the state not its own.

    >>> import recmetrics_jax as rm
    >>> batch = rm.make_batch([0.7, 0.03002, 0.03001, 0.0299], [1, 1, 0, 0])
    >>> metric = rm.binned_auc()
    >>> state = metric.update(metric.init(), batch)
    >>> metric.compute(state)["lifetime_binned_auc_lower"].tolist()
    [0.75]
    >>> ranges = rm.ranges_to_refine(metric, state)
    >>> [(round(low, 4), round(high, 4), n) for low, high, n in ranges]
    [(0.0299, 0.03, 65536)]
    >>> finer = rm.binned_auc(refine=ranges)
    >>> finer.compute(finer.update(finer.init(), batch))["lifetime_binned_auc_lower"].tolist()
    [1.0]
    """
    parts = whole("parts", parts, 2, MOST_BINS // 2)
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
    most_bits = np.ceil(np.log2(np.maximum(bins.scores_in(), 1))).astype(int)
    bits = _bits_worth(is_open, parts, np.minimum(most_bits, bins.key_bits))
    cut = cut_alike(bins.bins, bits).cut
    return tuple(
        (*scores_between(first << bins.key_bits, ((last + 1) << bins.key_bits) - 1), of_bin)
        for first, last, of_bin in cut
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _left_open(area: Area, bins: Bins, histogram: Histogram) -> jax.Array:
    """How far the bounds of an area are apart for what is in each bin, over all tasks."""
    with jax.enable_x64(True):
        _, lower, upper = added_by_bin(histogram.read(), area, bins)
        # Of tasks of bad examples, or without a class, nothing is known.
        return jnp.sum(jnp.nan_to_num(upper - lower), axis=0).astype(jnp.float32)


def _bits_worth(is_open: np.ndarray, most: int, most_bits: np.ndarray) -> np.ndarray:
    """Into how many parts to cut each bin, as powers of two, so that least is left open.

    To double ``n`` parts takes ``n`` more, and closes half of the ``1 / n`` that is open; all of it
    where each then holds one score. By what a part closes, the steps of a bin come in their order.

    >>> _bits_worth(np.array([1.0, 9.0, 8.0, 0.0]), 8, np.full(4, 16))
    array([0, 2, 2, 0])
    """
    bits = np.zeros(len(is_open), int)
    (bins,) = np.nonzero((is_open > 0) & (most_bits > 0))
    steps, last = np.arange(most_bits.max(initial=1)), most_bits[bins, None] - 1
    closes = is_open[bins, None] / 2.0 ** (steps + (steps < last))
    by_part = np.where((steps <= last) & (closes > NEGLIGIBLE), closes / 2.0**steps, 0.0).ravel()
    order = np.argsort(-by_part, kind="stable")
    bin_of, step_of = np.divmod(order, len(steps))
    # The first part of a bin is what it was.
    taken = np.cumsum(2**step_of + (step_of == 0)) <= most
    np.add.at(bits, bins[bin_of[taken & (by_part[order] > 0)]], 1)
    return bits
