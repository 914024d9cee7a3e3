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

import functools
import math
from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.base import is_known
from recmetrics_jax._src.domain import Check, Extremes

UNROLLED = 8
"""The longest reduction that is unrolled."""

ROWS = 48
"""Examples are added up in so many rows at most, and these at the end. Over examples sharded on so
many devices, or a divisor of it, each device adds up its own, and one collective the rest."""

IN_A_PASS = 4
"""Arrays added up in one pass: what is too long to be unrolled takes four times as long."""

RUN = 256
"""Columns that lie side by side, from which on it is quicker to copy them than to look each up."""

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


def sums_of(arrays: Sequence[jax.Array], checks: Sequence[Check] = ()) -> jax.Array:
    """The sums of ``K`` arrays ``float[T, N]``, ``float64[T, K + M]``; in an x64 scope.

    And for each of ``M`` domains a number above 0 if an example is out of it. For numbers that are
    plain arithmetic, since in a pass of several they may be computed one by one. On a GPU the
    compiler makes one pass of them by itself.
    """
    extremes = [check.extremes for check in checks]
    examples = jax.tree.leaves((arrays, extremes))
    chex.assert_equal_shape(examples)
    one_by_one = functools.partial(_one_by_one, checks=checks)
    # Any number of examples, as an exported function may take them, cannot be split into rows.
    if not is_known(examples[0].shape[1]) or (len(arrays) == 1 and not checks):
        return one_by_one(arrays, extremes)
    in_rows = functools.partial(_in_rows, checks=checks)
    return jax.lax.platform_dependent(arrays, extremes, cpu=in_rows, default=one_by_one)


def _one_by_one(
    arrays: Sequence[jax.Array], extremes: Sequence[Extremes], checks: Sequence[Check]
) -> jax.Array:
    outside = [check.outside(x) for check, x in zip(checks, extremes, strict=True)]
    columns = [*(x[..., None] for x in arrays), *outside]
    return jnp.concatenate([jnp.sum(x, axis=1, dtype=jnp.float64) for x in columns], axis=1)


def _in_rows(
    arrays: Sequence[jax.Array], extremes: Sequence[Extremes], checks: Sequence[Check]
) -> jax.Array:
    """`sums_of` as a CPU does them best: by rows, in passes of a few arrays.

    With 5 arrays of 8,192 numbers there are two passes, of three arrays and of two. Each number is
    at ``[row, chunk, place]`` of ``[16, 8, 64]``: sums over the chunks leave ``[16, 64]``, those
    over the places ``[16]``, and those over the rows one for each array. Extremes go the same way,
    in one pass, and whether a row is out of a domain is added up with its sums.

    >>> with jax.enable_x64(True):
    ...     arrays = [jnp.full((1, 8192), x, jnp.float32) for x in (1, 2, 3, 4, 0.5)]
    ...     _in_rows(arrays, [], []).tolist()
    [[8192.0, 16384.0, 24576.0, 32768.0, 4096.0]]
    """
    n_tasks, size = jax.tree.leaves((arrays, extremes))[0].shape
    rows = math.gcd(size, ROWS)
    length = size // rows
    # A length without small divisors leaves some over, which `_by_rows` sees to.
    chunks, most = min(chunks_of(length), UNROLLED), IN_A_PASS
    if n_tasks * size <= SMALL:
        chunks, most = max(length, 1), max(len(arrays), 1)

    def split(x: jax.Array) -> jax.Array:
        return x.reshape(n_tasks, rows, length)

    columns: list[jax.Array] = []
    passes = -(-len(arrays) // most)
    for part in np.array_split(np.arange(len(arrays)), passes) if passes else []:
        in_pass = [split(arrays[i]).astype(jnp.float64) for i in part]
        columns += _by_rows([jnp.add] * len(in_pass), in_pass, chunks)
    by_row = [x[..., None] for x in columns]
    for check, (least, largest) in zip(checks, extremes, strict=True):
        combines = [jnp.minimum] * len(least) + [jnp.maximum] * len(largest)
        of_rows = _by_rows(combines, [split(x) for x in (*least, *largest)], chunks)
        of_rows = Extremes(tuple(of_rows[: len(least)]), tuple(of_rows[len(least) :]))
        by_row.append(check.outside(of_rows).astype(jnp.float64))
    return jnp.sum(jnp.concatenate(by_row, axis=2), axis=1)


def _by_rows(
    combines: Sequence[Callable[..., jax.Array]], arrays: Sequence[jax.Array], chunks: int
) -> Sequence[jax.Array]:
    """0 and the numbers of rows ``[T, R, N]``, combined, ``[T, R]``, by chunks; in one pass.

    >>> x = jnp.arange(11.0).reshape(1, 1, 11)  # 3 are left over.
    >>> [x.tolist() for x in _by_rows([jnp.add, jnp.maximum], [x, x], 4)]
    [[[55.0]], [[10.0]]]
    """
    *shape, length = arrays[0].shape
    even = length - length % chunks
    in_chunks = [x[..., :even].reshape(*shape, chunks, even // chunks) for x in arrays]
    combined = _reduce(combines, _reduce(combines, in_chunks, 2), 2)
    if even == length:
        return combined
    rest = _reduce(combines, [x[..., even:] for x in arrays], 2)
    return _each(combines, combined, rest)


def _reduce(
    combines: Sequence[Callable[..., jax.Array]], operands: Sequence[jax.Array], axis: int
) -> Sequence[jax.Array]:
    """0 and what is along an axis, combined, in one pass."""
    return jax.lax.reduce(
        tuple(operands),
        tuple(np.zeros((), x.dtype) for x in operands),
        functools.partial(_each, combines),
        dimensions=(axis,),
    )


def _each(
    combines: Sequence[Callable[..., jax.Array]],
    a: Sequence[jax.Array],
    b: Sequence[jax.Array],
) -> tuple[jax.Array, ...]:
    return tuple(combine(x, y) for combine, x, y in zip(combines, a, b, strict=True))


def columns_of(x: jax.Array, columns: np.ndarray) -> jax.Array:
    """Columns of an array ``[T, K]``, in the order of ``int[M]``.

    In one step where they are few, since slices would be done one by one; in slices where they are
    many and lie in runs, which are looked up anew in every loop that they are fused into.

    >>> columns_of(jnp.array([[3, 4, 5]]), np.array([1, 2, 0])).tolist()
    [[4, 5, 3]]
    """
    runs = np.split(columns, np.flatnonzero(np.diff(columns) != 1) + 1)
    if len(columns) < max(SMALL, len(runs) * RUN):
        return x[:, columns]
    return jnp.concatenate([x[:, run[0] : run[-1] + 1] for run in runs], axis=1)


def computed_once(x: jax.Array) -> jax.Array:
    """An array as it is, which is not computed anew for each use of it, if it is large."""
    return jax.lax.optimization_barrier(x) if is_known(x.size) and x.size > SMALL else x


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
