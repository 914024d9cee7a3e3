"""Where targets stand in full catalogues: hit rate, NDCG, MRR, median, of a histogram of ranks."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src import segments
from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.options import whole
from recmetrics_jax._src.rank_bins import AN_OCTAVE, Gain, RankBins, add_at, spread
from recmetrics_jax._src.sampled import Sampled, checked, corrected
from recmetrics_jax._src.terms import NEGATIVE_WEIGHTS, Term

X = TypeVar("X")

EXACT = 4096
SLOTS = 64
MOST = 2**31 - 128
"""The largest place that float32 holds below 2^31."""
NEGLIGIBLE = 1e-9
"""What part of the weight is rounding: a median that it decides lies between two ranks."""


class RankSums(NamedTuple, Generic[X]):
    """Sufficient statistics of ranks."""

    histogram: X
    """``float[T, 2, B]``: weights by rank, those tied spread over their ranks; and weights of those
    that were not found, by the last rank that they are known not to have."""
    weighted_ranks: X
    """``float[T]``: ``w r`` of those found, at their mean rank r."""


def places_and_ties(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """How many items are above each target, and how many tied with it, ``float[T, N]``.

    Raises:
        ValueError: if the predictions are not what `recmetrics_jax.make_rank_batch` gives.
    """
    if batch.predictions.shape[2:] != (2,):
        raise ValueError(
            f"predictions: expected shape {(*batch.mask.shape, 2)}, as make_rank_batch gives, got "
            f"{batch.predictions.shape}"
        )
    return batch.predictions[..., 0], batch.predictions[..., 1]


def rank_histogram(batch: Batch, exact: int) -> jax.Array:
    """The histograms of `RankSums`, ``float64[T, 2, B]``; NaN of what is no rank."""
    bins = RankBins(exact)
    with jax.enable_x64(True):
        greater, tied = (x.astype(jnp.float64) for x in places_and_ties(batch))
        weights = batch.weights.astype(jnp.float64)
        is_found = tied >= 0
        is_rank = jnp.where(is_found, greater >= 0, (greater >= 1) & (tied == -1))
        is_rank &= (greater == jnp.floor(greater)) & (tied == jnp.floor(tied))
        weights = jnp.where(is_rank | ~batch.mask, weights, jnp.nan)
        # What is not found is beyond the last place of its list.
        first, last = (
            jnp.clip(jnp.where(is_found, x, greater - 1), 0, MOST).astype(jnp.int32)
            for x in (greater, greater + tied)
        )
        found = spread(bins, first, last, jnp.where(is_found, weights, 0.0))
        beyond = add_at(bins.size, bins.bin_of(last), jnp.where(is_found, 0.0, weights))
        return jnp.stack([found, beyond], axis=1)


def weighted_ranks(batch: Batch) -> jax.Array:
    """``w r``, where ``r = 1 + greater + tied / 2``; 0 of those not found."""
    greater, tied = places_and_ties(batch)
    return jnp.where(tied >= 0, batch.weights * (1 + greater + tied / 2), 0.0)


def rank_terms(exact: int) -> RankSums[Term]:
    """The terms of ranks; the same for every ``k``."""
    histogram = Term(
        rank_histogram,
        (exact,),
        shape=(2, RankBins(exact).size),
        excludes=NEGATIVE_WEIGHTS,
        is_summed=True,
        resampled_by="weights",
    )
    return RankSums(histogram, Term(weighted_ranks))


def one(rank: np.ndarray) -> np.ndarray:
    """What a hit counts."""
    return np.ones_like(rank)


def discount(rank: np.ndarray) -> np.ndarray:
    """What NDCG counts, where one item is relevant."""
    return 1 / np.log2(rank + 1)


def reciprocal(rank: np.ndarray) -> np.ndarray:
    """What MRR counts."""
    return 1 / rank


GAINS: dict[str, Gain] = {"hit_rate": one, "ndcg": discount, "mrr": reciprocal}


def gains_of(ks: tuple[int, ...]) -> dict[str, tuple[Gain, float]]:
    """What ranks count, and up to which, by the name of the value."""
    at_k = {f"{name}_at_{k}": (gain, k) for k in ks for name, gain in GAINS.items()}
    return {**at_k, "mrr": (reciprocal, math.inf)}


def rank_values(sums: RankSums[jax.Array], *, ks: tuple[int, ...], exact: int) -> Values:
    """The values of ranks; NaN where targets that were not found leave them open."""
    bins = RankBins(exact)
    found, beyond = sums.histogram[:, 0], sums.histogram[:, 1]
    total = jnp.sum(found + beyond, axis=1)
    not_found = jnp.sum(beyond, axis=1)
    values = {}
    for name, (gain, k) in gains_of(ks).items():
        value = safe_divide(jnp.sum(found * bins.mean(gain, k)[None], axis=1), total)
        known_to = 0 if k == math.inf else bins.bin_of_rank(int(k))
        is_open = jnp.any(beyond[:, :known_to] > 0, axis=1)
        values[name] = jnp.where(is_open, jnp.nan, value)
    mean = safe_divide(sums.weighted_ranks, total)
    values["mean_rank"] = jnp.where(not_found > 0, jnp.nan, mean)
    values["median_rank"] = median_rank(bins, found, beyond)
    values["not_found"] = safe_divide(not_found, total)
    return values


def sampled_values(sums: RankSums[jax.Array], *, ks: tuple[int, ...], sampled: Sampled) -> Values:
    """Estimates of the values of ranks in the full catalogue, of ranks among sampled items."""
    found, beyond = sums.histogram[:, 0], sums.histogram[:, 1]
    total = jnp.sum(found + beyond, axis=1)
    gains = gains_of(ks)
    size = sampled.n_sampled + 1
    of_ranks = jnp.asarray(corrected(sampled, tuple(gains.values())))
    # Of ranks that there cannot be, or that are not known, nothing follows.
    is_known = (jnp.sum(beyond, axis=1) == 0) & jnp.all(found[:, size:] <= 0, axis=1)
    estimates = jnp.sum(found[:, None, :size] * of_ranks[None], axis=2)
    scale = (sampled.n_items - 1) / sampled.n_sampled
    mean = (safe_divide(sums.weighted_ranks, total) - 1) * scale + 1
    of_total = {name: safe_divide(estimates[:, i], total) for i, name in enumerate(gains)}
    return {
        name: jnp.where(is_known, value, jnp.nan)
        for name, value in {**of_total, "mean_rank": mean}.items()
    }


def median_rank(bins: RankBins, found: jax.Array, beyond: jax.Array) -> jax.Array:
    """The weighted median of ranks, ``float64[T]``.

    Between the two in the middle where exactly half of the weight lies below; interpolated in wide
    bins. NaN where it is not known of all targets whether they are below.
    """
    first, width = (jnp.asarray(x, jnp.float64) for x in (bins.first, bins.width))
    until = segments.cumsum(found)
    total = jnp.sum(found + beyond, axis=1, keepdims=True)
    half, little = total / 2, NEGLIGIBLE * total
    median = jnp.zeros(found.shape[0])
    for is_reached in (until >= half - little, until > half + little):
        at = jax.lax.argmax(is_reached, 1, jnp.int32)[:, None]
        weight, last = segments.take(found, at), segments.take(until, at)
        part = jnp.clip(safe_divide(half - (last - weight), weight, undefined=0.0), 0.0, 1.0)
        rank = first[at] + 1.0 + part * (width[at] - 1.0)
        is_below = jnp.arange(bins.size, dtype=jnp.int32)[None] < at
        is_open = jnp.any((beyond > 0) & is_below, axis=1) | ~jnp.any(is_reached, axis=1)
        median += jnp.where(is_open, jnp.nan, rank[:, 0]) / 2
    return jnp.where(jnp.isnan(total[:, 0]), jnp.nan, median)


@factory
def rank_metrics(
    *,
    k: int | Sequence[int] = (1, 10, 100),
    sampled: Sampled | tuple[int, int] | None = None,
    exact_ranks: int = EXACT,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = SLOTS,
    undefined: float | Mapping[str, float] = math.nan,
) -> Metric:
    """Hit rate, NDCG, MRR and mean and median rank of one target for each row, among all items.

    Over the targets, at their ranks r: ``hit_rate_at_k = sum(w [r <= k]) / sum(w)``, ``ndcg_at_k =
    sum(w [r <= k] / log2(r + 1)) / sum(w)``, ``mrr = sum(w / r) / sum(w)``, and up to k
    ``mrr_at_k``. ``median_rank`` is the weighted median, between the two in the middle where they
    are two; ``mean_rank = sum(w r) / sum(w)``; ``not_found`` is the part that was not found in
    its list. A target that is tied with others counts by expectation over all their orders: it is
    spread evenly over ``greater + 1 ... greater + tied + 1``.

    All come from one histogram of ranks, which adds up: over lifetimes, windows and devices. It is
    the same for every ``k``, so a state may be read by a metric of others. Ranks up to
    ``exact_ranks`` are told apart; beyond, bins are at most 1 / 64 of the rank wide, and taken
    to be filled evenly. ``mean_rank`` is exact at every rank.

    A target that was not found in a list of K counts 0 in all values up to k = K, and in ``mrr``,
    which is that of the lists. Where it leaves a value open, that is NaN: of ``k > K`` (beyond
    ``exact_ranks``, of another bin), the mean, and a median that lies beyond K.

    Ranks among a few items that were sampled are far better than those in the catalogue, and may
    order models the other way round. ``sampled`` corrects for it: values are then estimates of
    those of the full catalogue. The less is sampled, the more they vary, and the more rests on the
    distribution of ranks that they assume (that trained models give, ``1 / r``): of a ``k`` far
    below ``n_items / n_sampled``, samples tell little, and an estimate may be below 0. Better rank
    in the full catalogue. There is no estimate of the median. The sampled items must be drawn
    uniformly.

    Source: Voorhees, The TREC-8 Question Answering Track Report, 1999 (MRR); Järvelin and
    Kekäläinen, Cumulated Gain-Based Evaluation of IR Techniques, ACM Transactions on Information
    Systems 20(4), 2002 (NDCG, here of one relevant item); McSherry and Najork, Computing
    Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores, ECIR 2008
    (ties); Krichene and Rendle, On Sampled Metrics for Item Recommendation, KDD 2020 (the
    correction that trades bias for variance).

    Args:
        k: the largest rank that counts, or several.
        sampled: None: ranks are those in the full catalogue. `Sampled`, or ``(n_sampled,
            n_items)``: they are among so many sampled items and the target, and values are
            estimates for all items; a rank beyond, or that is not known, makes them NaN.
        exact_ranks: ranks that have a bin each; a power of two, at least 64.
        n_tasks: number of tasks ``T``.
        window: rows in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more. Each is
            16 bytes for each bin and task: 85 kB, with 5,312 bins.
        undefined: the value where no target has weight, or that is open.

    Returns:
        A `Metric` with ``lifetime_hit_rate_at_10``, ... and, with a window,
        ``window_hit_rate_at_10``, ..., each ``float[T]``. Batches are those of
        `recmetrics_jax.make_rank_batch`.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`, and if an option is not as above; from
            ``update``, if the batch is not one of ranks.

    >>> import jax.numpy as jnp, recmetrics_jax as rm
    >>> metric = rm.rank_metrics(k=2)
    >>> scores = jnp.array([[0.9, 0.5, 0.7, 0.5], [0.1, 0.2, 0.3, 0.4]])
    >>> ranks = rm.ops.rank_of(scores, jnp.array([2, 1]))  # 2, and 3
    >>> state = metric.update(metric.init(), rm.make_rank_batch(ranks))
    >>> values = metric.compute(state)
    >>> [round(values[f"lifetime_{name}"].item(), 4) for name in ("hit_rate_at_2", "mrr")]
    [0.5, 0.4167]
    """
    ks = tuple(k) if isinstance(k, Sequence) else (k,)
    ks = tuple(dict.fromkeys(whole("k", each, 1) for each in ks))
    exact = whole("exact_ranks", exact_ranks, AN_OCTAVE, 1 << 24)
    if exact & (exact - 1):
        raise ValueError(f"exact_ranks: expected a power of two, got {exact}")
    values = functools.partial(rank_values, ks=ks, exact=exact)
    if sampled is not None:
        values = functools.partial(sampled_values, ks=ks, sampled=checked(sampled, exact))
    return sum_metric(
        rank_terms(exact),
        values,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )
