"""Weights of the pairs of rows that two scores order alike or not, in O(N log N)."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp

from recmetrics_jax._src import segments
from recmetrics_jax._src.base import is_known
from recmetrics_jax._src.words import words_or_absent

X = TypeVar("X")

BLOCK_BITS = 4


class Pairs(NamedTuple):
    """What the pairs of rows of each group weigh.

    Rows are in order of group. The last row of a group has its sums, ``float64[..., N]``; what
    is in other rows means nothing.
    """

    concordant: jax.Array
    """Pairs that both scores order, and in the same direction."""
    discordant: jax.Array
    """Pairs that both scores order, in opposite directions."""
    tied: jax.Array
    """Pairs with equal first scores and equal second scores."""
    total: jax.Array
    """All pairs. What the others leave of it are those with equal second scores alone."""
    tied_in_x: jax.Array
    """Pairs with equal first scores and unequal second scores."""
    is_first: jax.Array
    """``bool[..., N]``: where a group begins."""
    order: jax.Array
    """``int32[..., N]``: the rows as they were given, in this order."""


def count_pairs(
    x: jax.Array,
    y: jax.Array,
    weights: jax.Array,
    groups: tuple[jax.Array, ...] = (),
    other_weights: jax.Array | None = None,
    is_present: jax.Array | None = None,
) -> Pairs:
    """Weights of concordant, discordant and tied pairs of rows, by group.

    Discordant pairs are the inversions of ``y`` over rows in order of ``x`` (Knight, A Computer
    Method for Calculating Kendall's Tau with Ungrouped Data, Journal of the American Statistical
    Association 61(314), 1966), tied pairs are counted by runs, and the rest is concordant. The
    larger the largest group, the longer it takes: a round for each doubling of it.

    Args:
        x: the first scores, ``float[..., N]``.
        y: the second scores, ``float[..., N]``.
        weights: ``float[..., N]``; a pair weighs the product of its rows' weights.
        groups: keys of the group of a row, ``int[..., N]`` each; none for one group.
        other_weights: ``float[..., N]``, and a pair weighs ``w_i o_j + o_i w_j``: with ones, the
            sum of its rows' weights. None for the product.
        is_present: ``bool[..., N]``: rows that are not are in no pair; None where all are. They are
            the last of their group.

    Returns:
        `Pairs`. With whole-number weights the sums are exact up to 2^53, otherwise their error is
        about 1e-16 of the total.

    >>> import jax.numpy as jnp
    >>> pairs = count_pairs(jnp.array([1, 2, 3.0]), jnp.array([1, 3, 2.0]), jnp.ones(3))
    >>> pairs.concordant[-1].item(), pairs.discordant[-1].item(), pairs.total[-1].item()
    (2.0, 1.0, 3.0)
    """
    factors = (weights,) if other_weights is None else (weights, other_weights)
    absent = () if is_present is None else (is_present,)
    chex.assert_equal_shape([x, y, *factors, *groups, *absent])
    if not is_known(x.shape[-1]):
        raise ValueError(
            f"x: expected a number of rows that is known, got {x.shape}; pairs are counted by "
            "rounds that depend on it: export the function for each length that bucket_size gives"
        )
    words = (words_or_absent(x, is_present), words_or_absent(y, is_present))
    by_x, by_y, ranks, is_first, runs = _sorted(*words, groups)
    starts = is_first if groups else None
    present = None if is_present is None else segments.take(is_present, by_x)
    with jax.enable_x64(True):
        weights = jnp.stack([w.astype(jnp.float64) for w in factors])
        weights = weights if is_present is None else jnp.where(is_present, weights, 0.0)
        of_x, of_y = (
            segments.take(weights, jnp.broadcast_to(rows, weights.shape)) for rows in (by_x, by_y)
        )
        of_runs = _in_runs((of_x, of_x, of_x, of_y), runs, together=starts is None)
        of_rows = [*of_runs, _inversions(ranks, of_x, starts, present)]
        if starts is None:
            sums = segments.cumsum(jnp.stack(of_rows))
        else:
            sums = [segments.cumsum(x, starts) for x in of_rows]
        total, in_x, tied, in_y, discordant = sums
        in_x = in_x - tied
        # Where all rows are equal in y, all that is taken away is equal too, and leaves 0.
        concordant = (total - in_y) - in_x - discordant
        return Pairs(concordant, discordant, tied, total, in_x, is_first, by_x)


def _in_runs(
    weights: Sequence[jax.Array], runs: jax.Array, *, together: bool
) -> Sequence[jax.Array]:
    """What rows weigh with the rows before them in their run, of several weights and kinds of runs.

    Together or one by one: whichever is quicker.
    """
    if together:
        stacked = jnp.stack(weights)
        before = segments.sums_before(stacked, jnp.broadcast_to(runs[:, None], stacked.shape))
        return list(_products(stacked, before, axis=1))
    before = [
        segments.sums_before(x, jnp.broadcast_to(is_first, x.shape))
        for x, is_first in zip(weights, runs, strict=True)
    ]
    return [_products(x, y, axis=0) for x, y in zip(weights, before, strict=True)]


class _Sorted(NamedTuple):
    """Rows by group and x, ties by y, and by group and y, ties by x: groups lie alike in both."""

    by_x: jax.Array
    """``int32[..., N]``: the rows by x, as they were given."""
    by_y: jax.Array
    """``int32[..., N]``: the rows by y, as they were given."""
    ranks: jax.Array
    """``int32[..., N]``: the places by y of the rows by x."""
    is_first: jax.Array
    """``bool[..., N]``: where a group begins."""
    runs: jax.Array
    """``bool[4, ..., N]``: where runs of rows begin that are of one group; equal in x too; in both
    too; of the rows by y, those equal in y."""


def _sorted(
    x: tuple[jax.Array, ...], y: tuple[jax.Array, ...], groups: tuple[jax.Array, ...]
) -> _Sorted:
    """Sorts rows by words, three times: by x, whose order others may share; by y; by x again."""
    first = segments.argsort(*groups, *x)
    x, y, groups = _all_taken((x, y, groups), first)
    is_first = segments.is_first(*groups) if groups else segments.is_first(jnp.zeros_like(first))
    group = [segments.short_numbers(is_first)] if groups else []
    by_y = segments.argsort(*group, *y)
    ranks = segments.argsort(*group, *_all_taken(x, by_y))
    by_x = segments.take(by_y, ranks)
    same_x = is_first | segments.is_first(*x)
    same_both = same_x | segments.is_first(*_all_taken(y, by_x))
    same_y = is_first | segments.is_first(*_all_taken(y, by_y))
    by_x, by_y = (segments.take(first, rows) for rows in (by_x, by_y))
    return _Sorted(by_x, by_y, ranks, is_first, jnp.stack([is_first, same_x, same_both, same_y]))


def _all_taken(arrays: X, rows: jax.Array) -> X:
    """`segments.take` of all arrays of a tree."""
    return jax.tree.map(lambda x: segments.take(x, rows), arrays)


def _products(rows: jax.Array, others: jax.Array, axis: int) -> jax.Array:
    """What pairs weigh: on an axis are their weights, or their weights and their other weights."""
    return jnp.sum(rows * jnp.flip(others, axis), axis)


def _inversions(
    ranks: jax.Array,
    weights: jax.Array,
    is_first: jax.Array | None = None,
    is_present: jax.Array | None = None,
) -> jax.Array:
    """What rows weigh with the rows before them that rank higher, to be summed over each group.

    A merge sort backwards. Each round goes through blocks of half the size of the round before
    and puts first, in each, the rows of the lower half of its ranks. They overtake the rows of the
    upper half that were before them. The last blocks are small, and compared pair by pair. With 8
    ranks, if that were done only for blocks of 2::

        5 2 7 0 3 6 1 4          below 4:       2 overtakes 5,  0 and 3  5 7,  1  5 7 6
        2 0 3 1 | 5 7 6 4        below 2 and 6: 0 overtakes 2,  1  2 3,  4  7 6
        0 1 | 2 3 | 5 4 | 7 6    in pairs:      4 overtakes 5,  6  7

    That is 8 + 5 + 2 = 15 inversions. A group keeps its place in every round, so what its rows
    overtake need not move with them. Blocks begin where groups do, and the first ones are as large
    as the largest group, of which rows at the end that are not present are no part.

    Args:
        ranks: ``int32[..., N]``, a permutation of all rows and of those of each group.
        weights: ``float64[K, ..., N]``, as for `_products`.
        is_first: ``bool[..., N]``: where a group begins; None for one group.
        is_present: ``bool[..., N]``: rows that are not are the last of their group by rank too, in
            the same order, and have no weight; None where all are.

    Returns:
        ``float64[..., N]``: its sum over the rows of a group is that of the group.

    >>> with jax.enable_x64(True):
    ...     ranks = jnp.array([[5, 2, 7, 0, 3, 6, 1, 4], [0, 1, 2, 3, 4, 5, 7, 6]], jnp.int32)
    ...     of_few = _inversions(ranks, jnp.ones((1, 2, 8))).sum(axis=1)
    ...     backwards = jnp.arange(100, dtype=jnp.int32)[::-1]
    ...     of_many = _inversions(backwards, jnp.ones((1, 100))).sum()
    >>> of_few.tolist(), of_many.tolist()  # 100 * 99 / 2
    ([15.0, 1.0], 4950.0)
    """
    rows = jnp.broadcast_to(jnp.arange(ranks.shape[-1], dtype=ranks.dtype), ranks.shape)
    bits = range(BLOCK_BITS, max(ranks.shape[-1] - 1, 0).bit_length())
    if is_first is None:
        places, rounds = rows, len(bits)
    else:
        places = segments.ranks(is_first)
        ranks = ranks - (rows - places)
        last = jnp.maximum(ranks, places)
        last = last if is_present is None else jnp.where(is_present, last, 0)
        last = jnp.max(last, initial=0)
        rounds = sum(((last >> bit) > 0).astype(jnp.int32) for bit in bits)

    def halve(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        ranks, weights, overtaken = carry
        bit = (rounds - 1 - i + BLOCK_BITS).astype(ranks.dtype)
        half = jnp.left_shift(jnp.ones_like(ranks), bit)
        is_upper = (ranks & half) != 0
        place = places & (2 * half - 1)  # In the block, which begins where it is 0.
        upper = jnp.where(is_upper, weights, 0.0)
        before = segments.cumsum(upper, jnp.broadcast_to(place == 0, upper.shape))
        uppers = segments.cumsum(is_upper.astype(ranks.dtype))
        first = rows - place
        uppers = uppers - segments.take(uppers - is_upper.astype(ranks.dtype), first)
        overtaken = overtaken + jnp.where(is_upper, 0.0, _products(weights, before, axis=0))
        target = first + jnp.where(is_upper, half + uppers - 1, place - uppers)
        ranks = segments.put(ranks, target)
        weights = segments.put(weights, jnp.broadcast_to(target, weights.shape))
        return ranks, weights, overtaken

    carry = (ranks, weights, jnp.zeros_like(weights[0]))
    if len(bits):
        carry = jax.lax.fori_loop(0, rounds, halve, carry)
    ranks, weights, overtaken = carry
    return overtaken + _in_blocks(ranks, weights, None if is_first is None else places)


def _in_blocks(ranks: jax.Array, weights: jax.Array, places: jax.Array | None) -> jax.Array:
    """What rows weigh with the rows before them in their last block that rank higher.

    All rows lie in pieces as long as a block. The block of a row begins in its piece or in the one
    before: where it is by ``places``, the rows' places in their groups; as the piece without them.
    """
    size, length = ranks.shape[-1], 1 << BLOCK_BITS

    def pieces(x: jax.Array) -> jax.Array:
        filled = jnp.concatenate([x, jnp.zeros_like(x, shape=(*x.shape[:-1], -size % length))], -1)
        return filled.reshape(*x.shape[:-1], -1, length)

    def neighbours(x: jax.Array) -> jax.Array:
        if places is None:
            return x
        before = jnp.concatenate([jnp.zeros_like(x[..., :1, :]), x[..., :-1, :]], axis=-2)
        return jnp.concatenate([before, x], axis=-1)

    ranks, weights = pieces(ranks), pieces(weights)
    of_others, weights_of_others = neighbours(ranks), neighbours(weights)
    shape = (*of_others.shape, length)
    place = jax.lax.broadcasted_iota(ranks.dtype, shape, len(shape) - 1)
    other = jax.lax.broadcasted_iota(ranks.dtype, shape, len(shape) - 2)
    other = other - (of_others.shape[-1] - length)
    is_before = other < place
    if places is not None:
        is_before = is_before & (place - other <= (pieces(places) & (length - 1))[..., None, :])
    is_counted = is_before & (of_others[..., None] > ranks[..., None, :])
    before = jnp.sum(jnp.where(is_counted, weights_of_others[..., None], 0.0), axis=-2)
    return _products(weights, before, axis=0).reshape(*ranks.shape[:-2], -1)[..., :size]
