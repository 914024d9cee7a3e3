"""What each row makes of all rows before it: scans, compiled faster than `jax.lax`'s.

They are operations of `jax.lax`, since those of `jax.numpy` take thrice as long to trace, and here
are most of those that metrics of order are made of.
"""

import itertools
from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp
from jax import lax

from recmetrics_jax._src.base import is_known

BLOCK = 4

Rows = tuple[jax.Array, ...]
Combine = Callable[[Rows, Rows], Rows]


def scan(combine: Combine, rows: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """``combine`` of all rows up to each one, in blocks, and between blocks by the same again.

    `jax.lax.associative_scan` halves the rows in each of its rounds. A block of more than two
    makes fewer rounds, so that this compiles in half the time or less, and runs no slower.

    Args:
        combine: what is before and what comes next, to one; associative, with zeros before what
            comes first.
        rows: arrays of one shape ``[..., N]``.

    Returns:
        Arrays of that shape.
    """
    *lead, size = rows[0].shape
    if not is_known(size):
        return _in_rounds(combine, rows)
    if size < 2:
        return tuple(rows)
    width = min(size, BLOCK)
    count = -(-size // width)
    filled = (_with_zeros(x, count * width - size) for x in rows)
    blocks = [lax.reshape(x, (*lead, count, width)) for x in filled]
    columns = (
        tuple(lax.index_in_dim(x, i, axis=-1, keepdims=False) for x in blocks) for i in range(width)
    )
    columns = list(itertools.accumulate(columns, combine))
    if size > width:
        before = tuple(shifted(x) for x in scan(combine, columns[-1]))
        columns = [combine(before, column) for column in columns]
    stacked = (
        lax.concatenate([lax.expand_dims(x, (-1,)) for x in of_rows], len(lead) + 1)
        for of_rows in zip(*columns, strict=True)
    )
    scanned = (lax.reshape(x, (*lead, count * width)) for x in stacked)
    return tuple(lax.slice_in_dim(x, 0, size, axis=-1) for x in scanned)


def _with_zeros(x: jax.Array, missing: int) -> jax.Array:
    """``x`` with so many zeros at its end."""
    zeros = lax.full_like(x, 0, shape=(*x.shape[:-1], missing))
    return lax.concatenate([x, zeros], x.ndim - 1) if missing else x


def _in_rounds(combine: Combine, rows: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """`scan` of as many rows as there may be, which only an exported function has.

    Each round doubles how many rows before it are in each row (Hillis and Steele, Data Parallel
    Algorithms, Communications of the ACM 29(12), 1986).
    """
    places = jnp.arange(rows[0].shape[-1], dtype=jnp.int32)
    count = jnp.max(places, initial=jnp.int32(0))

    def double(carry: tuple[jax.Array, Rows]) -> tuple[jax.Array, Rows]:
        step, scanned = carry
        before = tuple(
            jnp.where(places >= step, jnp.roll(x, step, axis=-1), jnp.zeros_like(x))
            for x in scanned
        )
        return step * 2, tuple(combine(before, scanned))

    one = jnp.ones((), jnp.int32)
    return lax.while_loop(lambda c: c[0] <= count, double, (one, tuple(rows)))[1]


def shifted(x: jax.Array) -> jax.Array:
    """Each row in the place of the next one, with zero in the first place."""
    return jnp.concatenate([jnp.zeros_like(x[..., :1]), x[..., :-1]], axis=-1)


def in_groups(
    combine: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, is_first: jax.Array
) -> jax.Array:
    """``combine`` of the rows of each group up to each one, ``[..., N]``.

    >>> is_first = jnp.array([True, False, True, False])
    >>> in_groups(jnp.maximum, jnp.array([2, 1, -4, -3]), is_first).tolist()
    [2, 2, -4, -3]
    """
    chex.assert_equal_shape([x, is_first])

    def combine_in_group(a: Rows, b: Rows) -> Rows:
        return lax.bitwise_or(a[0], b[0]), lax.select(b[0], b[1], combine(a[1], b[1]))

    return scan(combine_in_group, (is_first, x))[1]
