"""What is tuned for XLA's CPU backend: how fast things are, never what they are.

Those who call it do not know what they run on. Elsewhere, and where a size is not known, each of
these functions does the plain thing.

The backend reduces each array in a pass of its own, which computes its numbers again from the batch
and wakes the threads again; a reduction of several operands is one pass. It goes number by number,
unless it adds up few: then it is unrolled, and the loop around it is of vector instructions. So
arrays are added up a few in a pass, and each in chunks::

    a row of 24:    [0 1 2] [3 4 5] [6 7 8] ... [21 22 23]    8 chunks of 3
    unrolled:       0 + 3 + ... + 21, 1 + 4 + ... + 22, 2 + 5 + ... + 23
    what is left:   the sum of these 3
"""

import math
from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.base import is_known

UNROLLED = 8
"""The longest reduction that is unrolled."""

ROWS = 48
"""Examples are added up in so many rows at most, and these at the end. Over examples sharded on so
many devices, or a divisor of it, each device adds up its own, and one collective the rest."""

IN_A_PASS = 4
"""Arrays added up in one pass: what is too long to be unrolled takes four times as long."""

SMALL = 4096
"""Numbers in an array up to which one pass for all, and one way for all, is best: to start another
would take longer."""


def chunks_of(length: int) -> int:
    """In how many chunks a sum over so many is best added up first.

    The most that divide them and are unrolled; all of them if none do.

    >>> [chunks_of(length) for length in (24, 36, 7, 11)]
    [8, 6, 7, 11]
    """
    return next((chunks for chunks in range(UNROLLED, 1, -1) if length % chunks == 0), length)


def sums_of(*arrays: jax.Array) -> jax.Array:
    """The sums of ``K`` arrays ``float[T, N]``, ``float64[T, K]``; in an x64 scope.

    For numbers that are plain arithmetic, since in a pass of several they may be computed one by
    one. On a GPU the compiler makes one pass of them by itself.
    """
    # Any number of examples, as an exported function may take them, cannot be split into rows.
    if not is_known(arrays[0].shape[1]) or len(arrays) == 1:
        return _one_by_one(*arrays)
    return jax.lax.platform_dependent(*arrays, cpu=_in_rows, default=_one_by_one)


def _one_by_one(*arrays: jax.Array) -> jax.Array:
    return jnp.stack([jnp.sum(x, axis=1, dtype=jnp.float64) for x in arrays], axis=1)


def _in_rows(*arrays: jax.Array) -> jax.Array:
    """`sums_of` as a CPU does them best: by rows, in passes of a few arrays.

    With 5 arrays of 8,192 numbers there are two passes, of three arrays and of two. Each number is
    at ``[row, chunk, place]`` of ``[16, 8, 64]``: sums over the chunks leave ``[16, 64]``, those
    over the places ``[16]``, and those over the rows one for each array.

    >>> with jax.enable_x64(True):
    ...     _in_rows(*(jnp.full((1, 8192), x, jnp.float32) for x in (1, 2, 3, 4, 0.5))).tolist()
    [[8192.0, 16384.0, 24576.0, 32768.0, 4096.0]]
    """
    n_tasks, size = arrays[0].shape
    rows = math.gcd(size, ROWS)
    length = size // rows
    # A length without small divisors leaves some over, which `_sums_of_rows` adds.
    chunks, passes = min(chunks_of(length), UNROLLED), -(-len(arrays) // IN_A_PASS)
    if n_tasks * size <= SMALL:
        chunks, passes = max(length, 1), 1
    by_row: list[jax.Array] = []
    for indices in np.array_split(np.arange(len(arrays)), passes):
        by_row += _sums_of_rows([arrays[i].reshape(n_tasks, rows, length) for i in indices], chunks)
    return jnp.sum(jnp.stack(by_row, axis=2), axis=1)


def _sums_of_rows(arrays: Sequence[jax.Array], chunks: int) -> Sequence[jax.Array]:
    """The sums of rows ``float[T, R, N]``, ``float64[T, R]``, by chunks of a row; in one pass.

    >>> with jax.enable_x64(True):
    ...     _sums_of_rows([jnp.arange(11.0).reshape(1, 1, 11)], 4)[0].tolist()  # 3 are left over
    [[55.0]]
    """
    *shape, length = arrays[0].shape
    even = length - length % chunks
    in_chunks = [x[..., :even].reshape(*shape, chunks, even // chunks) for x in arrays]
    sums = _reduce(_reduce([x.astype(jnp.float64) for x in in_chunks], 2), 2)
    if even == length:
        return sums
    rest = _reduce([x[..., even:].astype(jnp.float64) for x in arrays], 2)
    return [x + y for x, y in zip(sums, rest, strict=True)]


def _reduce(operands: Sequence[jax.Array], axis: int) -> Sequence[jax.Array]:
    """The sums along an axis, in one pass."""
    return jax.lax.reduce(
        tuple(operands),
        (np.float64(0),) * len(operands),
        lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)),
        dimensions=(axis,),
    )


def by_shortcut(
    misses: Callable[..., jax.Array],
    shortcut: Callable[..., jax.Array],
    general: Callable[..., jax.Array],
    *arrays: jax.Array,
) -> jax.Array:
    """``general(*arrays)``, computed by ``shortcut`` if that holds for all of their numbers.

    A GPU would wait for the choice, and small arrays are done by then.

    Args:
        misses: of the arrays, ``float[...]``: 0 where the shortcut holds, more elsewhere.
        shortcut: the cheaper way; where it holds, its numbers are those of ``general`` to the last
            bit, so that no example has others for what is beside it.
        general: the way that always holds.
        *arrays: arrays of one shape.

    Returns:
        What ``general`` returns.

    >>> x = jnp.arange(5000.0)
    >>> by_shortcut(lambda x: jnp.minimum(x, 0.0), lambda x: x, jnp.abs, x)[-1].item()
    4999.0
    """
    chex.assert_equal_shape(arrays)
    if not is_known(arrays[0].size) or arrays[0].size <= SMALL:
        return general(*arrays)

    def either(*arrays: jax.Array) -> jax.Array:
        holds = jnp.sum(misses(*arrays)) == 0  # Faster than jnp.all.
        return jax.lax.cond(holds, shortcut, general, *arrays)

    return jax.lax.platform_dependent(*arrays, cpu=either, default=general)
