"""Rows in groups: a stable order by several keys; sums, ranks and ends within groups.

All functions work along the last axis of arrays ``[..., N]``, whatever comes before it, and under
every transformation. A group is a run of neighbouring rows, so rows are sorted first; ``is_first``,
``bool[..., N]``, tells where each group begins. How many groups there are need not be known.
"""

import math
from typing import Literal

import chex
import jax
import jax.numpy as jnp

from recmetrics_jax._src import scans
from recmetrics_jax._src.base import is_known
from recmetrics_jax._src.words import words_of

FEW = 1 << 16
"""As many rows as 16 bits tell apart."""


def argsort(*keys: jax.Array) -> jax.Array:
    """The stable ascending order of rows by several keys, the first most significant.

    Each 32 bits of the keys are one sort of integers that carry the position of their row in
    their lower half: on CPU several times as fast as a sort of floats with their positions. A key
    of uint16, as `short_numbers` gives, shares the sort of the key after it, up to 65,536 rows.

    Args:
        *keys: arrays of one shape ``[..., N]``, of any dtypes that `words_of` takes.

    Returns:
        ``int32[..., N]``: the rows in order.

    >>> import jax.numpy as jnp
    >>> argsort(jnp.array([1, 0, 1, 0]), jnp.array([0.5, 0.9, 0.1, 0.9])).tolist()
    [1, 3, 2, 0]
    """
    size = keys[0].shape[-1]
    bits = 16 if is_known(size) and size <= FEW else 32
    words = [word for key in keys for word in _words_of(key)]
    with jax.enable_x64(True):
        positions = jnp.broadcast_to(jnp.arange(size, dtype=jnp.uint64), words[0].shape)
        order = positions.astype(jnp.int32)
        is_in_order = True
        while words:
            packed, used = positions, bits
            while words and used + _bits_of(words[-1]) <= 64:
                word = words.pop()
                shift = jnp.array(used, jnp.uint64)
                used += _bits_of(word)
                word = word if is_in_order else take(word, order)
                packed = (word.astype(jnp.uint64) << shift) | packed
            packed = jnp.sort(packed, axis=-1)
            by_words = packed.astype(f"uint{bits}").astype(jnp.int32)
            order = by_words if is_in_order else take(order, by_words)
            is_in_order = False
    return order


def _words_of(key: jax.Array) -> tuple[jax.Array, ...]:
    """A key as words, of 16 bits where it has no more."""
    return (key,) if key.dtype == jnp.uint16 else words_of(key)


def _bits_of(word: jax.Array) -> int:
    return word.dtype.itemsize * 8


def take(x: jax.Array, rows: jax.Array) -> jax.Array:
    """``x[..., rows]``, for ``x`` and ``int32[..., N]`` rows with the same leading axes.

    >>> import jax.numpy as jnp
    >>> take(jnp.array([[1, 2], [3, 4]]), jnp.array([[1, 0], [0, 0]])).tolist()
    [[2, 1], [3, 3]]
    """
    chex.assert_equal_shape_prefix([x, rows], x.ndim - 1)
    return jnp.take_along_axis(x, rows, axis=-1, mode="promise_in_bounds")


def put(x: jax.Array, rows: jax.Array) -> jax.Array:
    """The inverse of `take`: ``x`` moved to ``rows``, a permutation.

    >>> import jax.numpy as jnp
    >>> put(jnp.array([7, 8, 9]), jnp.array([2, 0, 1])).tolist()
    [8, 9, 7]
    """
    chex.assert_equal_shape([x, rows])
    if not is_known(x.shape[-1]):
        return take(x, argsort(rows))
    return jnp.put_along_axis(
        jnp.zeros_like(x), rows, x, axis=-1, inplace=False, mode="promise_in_bounds"
    )


def is_first(*keys: jax.Array) -> jax.Array:
    """Where a run of rows with equal keys begins.

    Args:
        *keys: arrays of one shape ``[..., N]``, sorted.

    Returns:
        ``bool[..., N]``; True in row 0. -0.0 is 0.0.

    >>> import jax.numpy as jnp
    >>> is_first(jnp.array([3, 3, 5, 5]), jnp.array([0, 1, 1, 1])).tolist()
    [True, True, True, False]
    """
    words = [word for key in keys for word in words_of(key)]
    differs = jnp.zeros((*words[0].shape[:-1], max(words[0].shape[-1] - 1, 0)), bool)
    for word in words:
        differs = differs | (word[..., 1:] != word[..., :-1])
    return jnp.concatenate([jnp.ones_like(words[0][..., :1], bool), differs], axis=-1)


def is_last(is_first: jax.Array) -> jax.Array:
    """Where a group ends, ``bool[..., N]``.

    >>> import jax.numpy as jnp
    >>> is_last(jnp.array([True, False, True])).tolist()
    [False, True, True]
    """
    return jnp.concatenate([is_first[..., 1:], jnp.ones_like(is_first[..., :1])], axis=-1)


def cumsum(x: jax.Array, is_first: jax.Array | None = None) -> jax.Array:
    """Cumulative sums that start anew in every group.

    No sum of one group enters another, so that a group of small numbers keeps its digits beside one
    of large numbers. The error is about that of pairwise summation.

    Args:
        x: ``[..., N]``.
        is_first: ``bool[..., N]``; None for one group.

    Returns:
        ``[..., N]``, of the dtype of ``x``. In the last row of a group is its sum.

    >>> import jax.numpy as jnp
    >>> cumsum(jnp.array([1, 2, 3, 4]), jnp.array([True, False, True, False])).tolist()
    [1, 3, 3, 7]
    """
    if is_first is None:
        return scans.scan(lambda a, b: (jax.lax.add(a[0], b[0]),), (x,))[0]
    return scans.in_groups(jax.lax.add, x, is_first)


def sums_before(x: jax.Array, is_first: jax.Array | None = None) -> jax.Array:
    """For each row, the sum of ``x`` over the rows before it in its group, ``[..., N]``.

    Without ``is_first``, in one group.

    >>> import jax.numpy as jnp
    >>> sums_before(jnp.array([1, 2, 3, 4]), jnp.array([True, False, False, True])).tolist()
    [0, 1, 3, 0]
    """
    before = scans.shifted(cumsum(x, is_first))
    return before if is_first is None else jnp.where(is_first, jnp.zeros_like(x), before)


def numbers(is_first: jax.Array) -> jax.Array:
    """The number of the group of each row, ``int32[..., N]`` from 0.

    >>> import jax.numpy as jnp
    >>> numbers(jnp.array([True, False, True, False])).tolist()
    [0, 0, 1, 1]
    """
    return cumsum(is_first.astype(jnp.int32)) - jnp.int32(1)


def short_numbers(is_first: jax.Array) -> jax.Array:
    """`numbers`, as uint16 where these tell all rows apart: a sort takes them beside a score."""
    number = numbers(is_first)
    size = is_first.shape[-1]
    return number.astype(jnp.uint16) if is_known(size) and size <= FEW else number


def totals(x: jax.Array, numbers: jax.Array) -> jax.Array:
    """The sum of ``x`` over each group.

    Args:
        x: ``[..., N]``.
        numbers: ``int32[..., N]``, the groups of rows.

    Returns:
        ``[..., N]``: element g is the sum of group g; 0 beyond the last group.

    >>> import jax.numpy as jnp
    >>> totals(jnp.array([1, 2, 3, 4]), jnp.array([0, 0, 1, 1])).tolist()
    [3, 7, 0, 0]
    """
    return _by_group("add", jnp.zeros_like(x), x, numbers)


def maxima(x: jax.Array, numbers: jax.Array) -> jax.Array:
    """The largest of 0 and ``x`` over each group; arguments and result as of `totals`.

    >>> import jax.numpy as jnp
    >>> maxima(jnp.array([2, 1, -4, -3]), jnp.array([0, 0, 1, 1])).tolist()
    [2, 0, 0, 0]
    """
    return _by_group("max", jnp.zeros_like(x), x, numbers)


def starts(numbers: jax.Array) -> jax.Array:
    """The row where each group begins, ``int32[..., N]``: N beyond the last group.

    >>> import jax.numpy as jnp
    >>> starts(jnp.array([0, 0, 1, 1])).tolist()
    [0, 2, 4, 4]
    """
    rows = jnp.broadcast_to(jnp.arange(numbers.shape[-1], dtype=jnp.int32), numbers.shape)
    return _by_group("min", jnp.full_like(rows, numbers.shape[-1]), rows, numbers)


def _by_group(
    method: Literal["add", "max", "min"], empty: jax.Array, x: jax.Array, numbers: jax.Array
) -> jax.Array:
    """What ``method`` makes of ``empty``, ``[..., N]``, and of the rows of each group."""
    chex.assert_equal_shape([x, numbers], dims=-1)
    lead = math.prod(x.shape[:-1])
    shape = (lead, x.shape[-1])
    index = jnp.broadcast_to(numbers, x.shape).reshape(shape)
    at = empty.reshape(shape).at[jnp.arange(lead, dtype=index.dtype)[:, None], index]
    apply = getattr(at, method)
    changed = apply(x.reshape(shape), mode="promise_in_bounds", indices_are_sorted=True)
    return changed.reshape(x.shape)


def first_rows(is_first: jax.Array) -> jax.Array:
    """For each row, the row where its group begins, ``int32[..., N]``.

    >>> import jax.numpy as jnp
    >>> first_rows(jnp.array([True, False, True, False])).tolist()
    [0, 0, 2, 2]
    """
    rows = jnp.arange(is_first.shape[-1], dtype=jnp.int32)
    starts = jnp.where(is_first, jnp.broadcast_to(rows, is_first.shape), jnp.zeros((), jnp.int32))
    return scans.scan(lambda a, b: (jax.lax.max(a[0], b[0]),), (starts,))[0]


def last_rows(is_first: jax.Array) -> jax.Array:
    """For each row, the row where its group ends, ``int32[..., N]``.

    >>> import jax.numpy as jnp
    >>> last_rows(jnp.array([True, False, True, False])).tolist()
    [1, 1, 3, 3]
    """
    backwards = first_rows(jnp.flip(is_last(is_first), axis=-1))
    return jnp.int32(is_first.shape[-1] - 1) - jnp.flip(backwards, axis=-1)


def ranks(is_first: jax.Array) -> jax.Array:
    """For each row, its place in its group, ``int32[..., N]`` from 0.

    >>> import jax.numpy as jnp
    >>> ranks(jnp.array([True, False, False, True])).tolist()
    [0, 1, 2, 0]
    """
    rows = jnp.arange(is_first.shape[-1], dtype=jnp.int32)
    return jnp.broadcast_to(rows, is_first.shape) - first_rows(is_first)


def sums(x: jax.Array, is_first: jax.Array) -> jax.Array:
    """For each row, the sum of ``x`` over its group, ``[..., N]``.

    >>> import jax.numpy as jnp
    >>> sums(jnp.array([1, 2, 3, 4]), jnp.array([True, False, True, False])).tolist()
    [3, 3, 7, 7]
    """
    return take(cumsum(x, is_first), last_rows(is_first))
