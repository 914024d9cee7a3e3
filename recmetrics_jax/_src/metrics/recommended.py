"""What is recommended, beyond whether it is right: coverage, concentration, popularity."""

import functools
import math
from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.checks import ArrayOrList, to_host
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.frozen import FrozenArray
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.options import number, text, whole
from recmetrics_jax._src.terms import NEGATIVE_WEIGHTS, BinnedTerm, Term

X = TypeVar("X")

SLOTS = 32


class RecommendedSums(NamedTuple, Generic[X]):
    """Sufficient statistics of what is recommended."""

    counts: X
    """``float[T, 1, n_items]``: the weight with which each item was recommended."""
    unknown: X
    """``float[T]``: how many rows have an id of no item."""


def items_of(batch: Batch, item_key: str, n_items: int) -> tuple[jax.Array, jax.Array]:
    """The items of rows, and whether there are such, ``int32[T, N]`` and ``bool[T, N]``."""
    upper, lower = batch.key(item_key)
    return lower, (upper == 0) & (lower >= 0) & (lower < n_items)


def item_counts(batch: Batch, item_key: str, n_items: int) -> tuple[jax.Array, jax.Array]:
    """The item of each row, and its weight; NaN where there is no such item."""
    items, is_item = items_of(batch, item_key, n_items)
    weights = jnp.where(is_item | ~batch.mask, batch.weights, jnp.nan)
    return jnp.where(is_item, items, jnp.zeros_like(items)), weights[..., None]


def unknown_items(batch: Batch, item_key: str, n_items: int) -> jax.Array:
    """1 for each row whose id is that of no item."""
    _, is_item = items_of(batch, item_key, n_items)
    return (batch.mask & ~is_item).astype(batch.weights.dtype)


def recommended_terms(item_key: str, n_items: int) -> RecommendedSums[Term]:
    """The terms of what is recommended."""
    options, keys = (item_key, n_items), (item_key,)
    shape = (1, n_items)
    return RecommendedSums(
        BinnedTerm(
            item_counts,
            options,
            shape=shape,
            keys=keys,
            excludes=NEGATIVE_WEIGHTS,
            by_order=True,
            is_summed=True,
        ),
        Term(unknown_items, options, keys=keys, raw=True),
    )


class Popularity(NamedTuple):
    """How popular items are, and which are in the tail."""

    counts: FrozenArray
    """``float64[n_items]``."""
    is_tail: FrozenArray
    """``bool[n_items]``."""


def recommended_values(
    sums: RecommendedSums[jax.Array], *, popularity: Popularity | None
) -> Values:
    """The values of what is recommended; NaN where nothing is."""
    counts = sums.counts[:, 0]
    n_items = counts.shape[1]
    total = jnp.sum(counts, axis=1)
    shares = safe_divide(counts, total[:, None])
    # The logarithm of a share of 0, which counts 0, is not taken.
    logs = jnp.log2(jnp.where(shares > 0, shares, 1.0))
    places = jnp.asarray(2 * np.arange(1, n_items + 1) - n_items - 1, jnp.float64)
    values = {
        "coverage": jnp.sum(shares > 0, axis=1).astype(jnp.float64) / n_items,
        "gini": jnp.sum(jnp.sort(shares, axis=1) * places[None], axis=1) / n_items,
        "entropy": -jnp.sum(shares * logs, axis=1),
    }
    if popularity is not None:
        of_items = jnp.asarray(popularity.counts.array)[None]
        is_tail = jnp.asarray(popularity.is_tail.array)[None]
        values["average_popularity"] = jnp.sum(shares * of_items, axis=1)
        values["tail_share"] = jnp.sum(jnp.where(is_tail, shares, 0.0), axis=1)
    is_defined = total > 0  # Not so of NaN.
    defined = {name: jnp.where(is_defined, value, jnp.nan) for name, value in values.items()}
    return {**defined, "unknown_items": sums.unknown}


@factory
def recommended_items(
    n_items: int,
    *,
    item_key: str = "item_id",
    popularity: ArrayOrList | None = None,
    head_share: float = 0.8,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = SLOTS,
    undefined: float | Mapping[str, float] = math.nan,
) -> Metric:
    """Coverage, Gini index, entropy and popularity of what is recommended, of counts of items.

    A row is one recommended item; its prediction and label do not matter, its weight w counts as
    copies. With the weight ``c_i`` of each of V items and its share ``s_i = c_i / sum(c)``:

    - ``coverage = sum([c_i > 0]) / V``, the part of the catalogue that was recommended at all;
    - ``gini = sum((2 i - V - 1) s_i) / V`` over shares in rising order, those of 0 among them: 0
      where all items are recommended alike, ``(V - 1) / V`` where it is one alone;
    - ``entropy = -sum(s_i log2(s_i))`` in bits: at most ``log2(V)``, by which it may be normalized;
    - ``unknown_items``, the number of rows whose id is that of no item.

    With the popularity ``phi_i`` of items, such as how often each is in the training data:

    - ``average_popularity = sum(s_i phi_i)``;
    - ``tail_share``, the sum of ``s_i`` over the tail: the items that remain when the most popular
      are taken away that make ``head_share`` of ``sum(phi)``, and those as popular as the last.

    Both are the means over lists of one length, as their source has them. Counts add up, so all
    values are those of all devices together; an average of values of devices is not, since two
    halves of a catalogue are no coverage of one half.

    A row of an unknown item makes the values of its task NaN, but for ``unknown_items``: mask what
    pads a list.

    Source: Ge, Delgado-Battenfeld and Jannach, Beyond Accuracy: Evaluating Recommender Systems by
    Coverage and Serendipity, RecSys 2010 (catalog coverage); Fleder and Hosanagar, Blockbuster
    Culture's Next Rise or Fall: The Impact of Recommender Systems on Sales Diversity, Management
    Science 55(5), 2009 (Gini); Abdollahpouri, Burke and Mobasher, Managing Popularity Bias in
    Recommender Systems with Personalized Re-ranking, FLAIRS 2019 (average popularity, and the share
    of the tail).

    Args:
        n_items: number of items V; ids are 0 ... V - 1.
        item_key: the name of the ids among the ``keys`` of `recmetrics_jax.make_batch`.
        popularity: ``[n_items]`` numbers from 0, on the host; None for no values of it.
        head_share: the part of all popularity that the head makes, above 0 and up to 1.
        n_tasks: number of tasks ``T``.
        window: rows in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more. Each is
            8 bytes for each item and task.
        undefined: the value where nothing was recommended.

    Returns:
        A `Metric` with ``lifetime_coverage``, ... and, with a window, ``window_coverage``, ...,
        each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`, and if an option is not as above.

    >>> import numpy as np, recmetrics_jax as rm
    >>> metric = rm.recommended_items(4, popularity=[80, 10, 6, 4])
    >>> lists = np.array([[0, 1], [0, 1], [0, 3]])  # Of three users.
    >>> ids = lists.ravel()
    >>> batch = rm.make_batch(ids, ids, keys={"item_id": ids})
    >>> values = metric.compute(metric.update(metric.init(), batch))
    >>> {name.removeprefix("lifetime_"): round(value.item(), 4) for name, value in values.items()}
    {'coverage': 0.75, 'gini': 0.4167, 'entropy': 1.4591, 'average_popularity': 44.0,
    'tail_share': 0.5, 'unknown_items': 0.0}
    """
    n_items = whole("n_items", n_items, 1, 1 << 28)
    of_items = None
    if popularity is not None:
        of_items = popularity_of(popularity, n_items, number("head_share", head_share))
    return sum_metric(
        recommended_terms(text("item_key", item_key), n_items),
        functools.partial(recommended_values, popularity=of_items),
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )


def popularity_of(popularity: ArrayOrList, n_items: int, head_share: float) -> Popularity:
    """The popularity of items, and their tail, from how often each was chosen.

    Raises:
        ValueError: if it is not a number from 0 for each item, or there is no such head.
    """
    counts = to_host("popularity", popularity, np.number).astype(np.float64)
    if counts.shape != (n_items,):
        raise ValueError(f"popularity: expected shape ({n_items},) (n_items), got {counts.shape}")
    if not (np.isfinite(counts) & (counts >= 0)).all() or not counts.any():
        raise ValueError("popularity: expected numbers from 0, and not all of them 0")
    if not 0 < head_share <= 1:
        raise ValueError(f"head_share: expected a number above 0 and up to 1, got {head_share}")
    falling = np.sort(counts)[::-1]
    until = np.cumsum(falling)
    # What rounding adds to a product takes no further item into the head.
    least = falling[np.searchsorted(until, head_share * until[-1] * (1 - 1e-12))]
    return Popularity(FrozenArray.of(counts), FrozenArray.of(counts < least))
