"""Weights of the pairs of rows that two scores order alike or not, in O(N log N)."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from recmetrics_jax._src import segments
from recmetrics_jax._src.base import is_known

BLOCK_BITS = 4


class Pairs(NamedTuple):
    """What the pairs of rows of each group weigh; a pair weighs the product of its rows' weights.

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
    """All pairs. What the other three leave of it is tied in one of the scores."""
    is_first: jax.Array
    """``bool[..., N]``: where a group begins."""
    order: jax.Array
    """``int32[..., N]``: the rows as they were given, in this order."""


def count_pairs(
    x: jax.Array, y: jax.Array, weights: jax.Array, groups: tuple[jax.Array, ...] = ()
) -> Pairs:
    """Weights of concordant, discordant and tied pairs of rows, by group.

    Discordant pairs are the inversions of ``y`` over rows in order of ``x`` (Knight, A Computer
    Method for Calculating Kendall's Tau with Ungrouped Data, Journal of the American Statistical
    Association 61(314), 1966), tied pairs are counted by runs, and the rest is concordant.

    Args:
        x: the first scores, ``float[..., N]``.
        y: the second scores, ``float[..., N]``.
        weights: ``float[..., N]``.
        groups: keys of the group of a row, ``int[..., N]`` each; none for one group.

    Returns:
        `Pairs`. With whole-number weights the sums are exact up to 2^53, otherwise their error is
        about 1e-16 of the total.

    >>> import jax.numpy as jnp
    >>> pairs = count_pairs(jnp.array([1, 2, 3.0]), jnp.array([1, 3, 2.0]), jnp.ones(3))
    >>> pairs.concordant[-1].item(), pairs.discordant[-1].item(), pairs.total[-1].item()
    (2.0, 1.0, 3.0)
    """
    chex.assert_equal_shape([x, y, weights, *groups])
    if not is_known(x.shape[-1]):
        raise ValueError(
            f"x: expected a number of rows that is known, got {x.shape}; pairs are counted by "
            "rounds that depend on it: export the function for each length that bucket_size gives"
        )
    by_x, by_y = segments.argsort(*groups, x, y), segments.argsort(*groups, y, x)
    # Groups lie alike in both orders. Within one group, ties of y keep the order of x.
    group = [segments.take(key, by_x) for key in groups]
    is_first = segments.is_first(*group, jnp.zeros(x.shape, bool))
    x, y_by_x, y = segments.take(x, by_x), segments.take(y, by_x), segments.take(y, by_y)
    same_x = is_first | segments.is_first(x)
    same_both = same_x | segments.is_first(y_by_x)
    same_y = is_first | segments.is_first(y)
    place = segments.put(jnp.broadcast_to(jnp.arange(x.shape[-1], dtype=by_y.dtype), x.shape), by_y)
    with jax.enable_x64(True):
        weights = weights.astype(jnp.float64)
        of_x, of_y = segments.take(weights, by_x), segments.take(weights, by_y)
        starts = is_first if groups else None

        def within(runs: jax.Array | None, weights: jax.Array) -> jax.Array:
            return weights * segments.sums_before(weights, runs)

        total = segments.cumsum(within(starts, of_x), starts)
        tied = segments.cumsum(within(same_both, of_x), starts)
        tied_in_any = segments.cumsum(within(same_x, of_x) + within(same_y, of_y), starts) - tied
        discordant = segments.cumsum(_inversions(segments.take(place, by_x), of_x), starts)
        concordant = total - discordant - tied_in_any
        return Pairs(concordant, discordant, tied, total, is_first, by_x)


def _inversions(ranks: jax.Array, weights: jax.Array) -> jax.Array:
    """What rows weigh with the rows before them that rank higher, to be summed over each group.

    A merge sort backwards. Each round goes through blocks of half the size of the round before
    and puts first, in each, the rows of the lower half of its ranks. They overtake the rows of the
    upper half that were before them. The last blocks are small, and compared pair by pair. With 8
    ranks, if that were done only for blocks of 2::

        5 2 7 0 3 6 1 4          below 4:       2 overtakes 5,  0 and 3  5 7,  1  5 7 6
        2 0 3 1 | 5 7 6 4        below 2 and 6: 0 overtakes 2,  1  2 3,  4  7 6
        0 1 | 2 3 | 5 4 | 7 6    in pairs:      4 overtakes 5,  6  7

    That is 8 + 5 + 2 = 15 inversions. A group keeps its place in every round, so what its rows
    overtake need not move with them.

    Args:
        ranks: ``int32[..., N]``, a permutation of all rows and of those of each group.
        weights: ``float64[..., N]``.

    Returns:
        ``float64[..., N]``: its sum over the rows of a group is that of the group.

    >>> with jax.enable_x64(True):
    ...     ranks = jnp.array([[5, 2, 7, 0, 3, 6, 1, 4], [0, 1, 2, 3, 4, 5, 7, 6]], jnp.int32)
    ...     of_few = _inversions(ranks, jnp.ones((2, 8))).sum(axis=1)
    ...     backwards = jnp.arange(100, dtype=jnp.int32)[::-1]
    ...     of_many = _inversions(backwards, jnp.ones(100)).sum()
    >>> of_few.tolist(), of_many.tolist()  # 100 * 99 / 2
    ([15.0, 1.0], 4950.0)
    """
    chex.assert_equal_shape([ranks, weights])
    size = ranks.shape[-1]
    bits = max((size - 1).bit_length(), BLOCK_BITS)
    rows = jnp.arange(1 << bits, dtype=ranks.dtype)
    rest = jnp.broadcast_to(rows[size:], (*ranks.shape[:-1], (1 << bits) - size))
    ranks = jnp.concatenate([ranks, rest], axis=-1)
    weights = jnp.concatenate([weights, jnp.zeros_like(rest, weights.dtype)], axis=-1)
    rows = jnp.broadcast_to(rows, ranks.shape)

    def halve(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        ranks, weights, overtaken = carry
        half = jnp.left_shift(jnp.ones_like(rows[..., :1]), (bits - 1 - i).astype(rows.dtype))
        is_upper = (ranks & half) != 0
        place = rows & (2 * half - 1)  # In the block, which begins where it is 0.
        before = segments.cumsum(jnp.where(is_upper, weights, 0.0), place == 0)
        # How many of the block are lower so far; of each block before it, half of the rows are.
        lower = segments.cumsum((~is_upper).astype(rows.dtype)) - (rows - place) // 2
        overtaken = overtaken + jnp.where(is_upper, 0.0, weights * before)
        target = rows - place + jnp.where(is_upper, half + place - lower, lower - 1)
        return segments.put(ranks, target), segments.put(weights, target), overtaken

    carry = (ranks, weights, jnp.zeros_like(weights))
    ranks, weights, overtaken = jax.lax.fori_loop(0, bits - BLOCK_BITS, halve, carry)
    blocks = (*ranks.shape[:-1], -1, 1 << BLOCK_BITS)
    ranks, weights = ranks.reshape(blocks), weights.reshape(blocks)
    is_higher = ranks[..., :, None] > ranks[..., None, :]
    is_before = rows[..., None, : 1 << BLOCK_BITS, None] < rows[..., None, None, : 1 << BLOCK_BITS]
    before = jnp.sum(jnp.where(is_higher & is_before, weights[..., :, None], 0.0), axis=-2)
    return (overtaken + (weights * before).reshape(rows.shape))[..., :size]
