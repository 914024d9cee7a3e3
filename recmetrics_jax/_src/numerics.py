"""Sums that keep more digits than their dtype, and the guarded division.

A running sum is an *expansion*: an unevaluated sum of two or three floats, each about 24 bits
(float32) below the one before, along the leading axis of an array ``float[L, ...]``. Addition is
the error-free `two_sum` (Knuth, The Art of Computer Programming, vol. 2, section 4.2.2), so three
float32 carry about 70 bits. Two would not do: after 4e9 examples in batches of one, an increment
is 2^-32 of the sum, and the 16 bits that 48 leave for it round constant increments one way, by up
to 1e-6.

Inside a batch, and where a value is computed, float64 is used in a local
`jax.enable_x64(True)` scope. It works under jit on every transformation, needs no setting of the
user's, and leaves the state in the user's dtype.
"""

import math
from collections.abc import Hashable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src import _cpu

AxisName = Hashable | tuple[Hashable, ...]


def two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``(s, e)`` with ``s = fl(a + b)`` and ``s + e = a + b`` exactly."""
    total = a + b
    rounded = total - a
    return total, (a - (total - rounded)) + (b - rounded)


def add(a: jax.Array, b: jax.Array) -> jax.Array:
    """The sum of two expansions ``float[L, ...]``, renormalized to the same length.

    Part by part from the highest, each rounding error is carried to the next; the last keeps what
    is left. Two passes from the top then make the parts non-overlapping.

    The result is behind a barrier. Without one, XLA's CPU backend fuses a chain of additions into
    one loop that computes every addition anew for each use of it, of which there are several: each
    further update or merge in one program would take many times longer to compile.
    """
    chex.assert_equal_shape([a, b])
    parts: list[jax.Array] = []
    carries: list[jax.Array] = []
    for x, y in zip(a[:-1], b[:-1], strict=True):
        total, error = two_sum(x, y)
        errors = [error]
        for carry in carries:
            total, error = two_sum(total, carry)
            errors.append(error)
        parts.append(total)
        carries = errors
    parts.append(sum(carries, start=a[-1] + b[-1]))
    for _ in range(2):
        for i in range(len(parts) - 1):
            parts[i], parts[i + 1] = two_sum(parts[i], parts[i + 1])
    return jax.lax.optimization_barrier(jnp.stack(parts))


def split(x: jax.Array, dtype: jnp.dtype, length: int) -> jax.Array:
    """A float64 array as an expansion of ``length`` arrays of ``dtype``.

    To be called in an `jax.enable_x64(True)` scope. A value that ``dtype`` cannot hold comes
    out as NaN, never as a wrong number.
    """
    parts = []
    for _ in range(length):
        part = x.astype(dtype)
        parts.append(part)
        x = x - part.astype(x.dtype)
    return jnp.stack(parts)


def join(parts: jax.Array) -> jax.Array:
    """The value of an expansion, in float64; to be called in an x64 scope."""
    total = parts[-1].astype(jnp.float64)
    for part in parts[-2::-1]:
        total = total + part.astype(jnp.float64)
    return total


def total(high: jax.Array, low: jax.Array) -> jax.Array:
    """The sum along axis 1 of expansions of two, ``float64[T, S, K]`` each, as ``float64[T, K]``.

    What an addition rounds off is added up as well, so that the order of the summands does not
    show; to be called in an x64 scope.
    """

    def add_pairs(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        head, rounded = two_sum(a[0], b[0])
        return head, (a[1] + b[1]) + rounded

    n_tasks, length, size = high.shape
    while length > 1:
        chunks = _cpu.chunks_of(length)
        length //= chunks
        high, low = jax.lax.reduce(
            tuple(x.reshape(n_tasks, chunks, length, size) for x in (high, low)),
            (np.float64(0), np.float64(0)),
            add_pairs,
            dimensions=(1,),
        )
    return high[:, 0] + low[:, 0]


def all_add(parts: jax.Array, axis_name: AxisName) -> jax.Array:
    """The sum of the expansions of all devices on a mapped axis.

    A bare ``psum`` would round every addition to the dtype. So each part but the last is cut at a
    power of two that all devices share, chosen so that the tops add up exactly, in any order of the
    devices; what is cut off joins the part below. One ``pmax`` and one ``psum``, whatever the
    number of devices.

    Two devices hold 2^24 and 1.5, of which a float32 makes 2^24 + 2. Both first parts are below
    2^25, so their tops are multiples of 2^(25 + 1 - 24) = 4, and 1.5 is cut off::

        parts    2^24  0    0       tops and rest    2^24  0    0
                 1.5   0    0                        0     1.5  0
                                    their sum        2^24  1.5  0  =  2^24 + 2, -0.5, 0

    >>> parts = jnp.array([[2.0**24, 0, 0], [1.5, 0, 0]])
    >>> jax.vmap(lambda x: all_add(x, "devices"), axis_name="devices")(parts)[0].tolist()
    [16777218.0, -0.5, 0.0]
    """
    bits = jnp.finfo(parts.dtype).nmant + 1
    spread = math.ceil(math.log2(jax.lax.psum(1, axis_name)))
    tiny = jnp.finfo(parts.dtype).tiny
    _, exponent = jnp.frexp(jax.lax.pmax(jnp.abs(parts[0]), axis_name))
    tops = []
    carry, error = parts[0], jnp.zeros_like(parts[0])
    for below in parts[1:]:
        # |carry| <= 2^exponent on every device: 2^(bits - spread) units of 2^(exponent - bits +
        # spread), so that the sum over 2^spread devices still has an exact representation.
        exponent = exponent + (spread - bits)
        unit = jnp.maximum(jnp.ldexp(jnp.ones_like(carry), exponent), tiny)
        top = jnp.round(carry / unit) * unit
        tops.append(top)
        carry, error = two_sum(carry - top, below + error)
        exponent = exponent + 1
    summed = jax.lax.psum(jnp.stack([*tops, carry]), axis_name)
    return add(summed, jnp.zeros_like(summed))


def positions(size: int) -> jax.Array:
    """``int32[1, size]``: 0 ... size - 1."""
    return jnp.arange(size, dtype=jnp.int32)[None]


def all_gather(x: jax.Array, axis_name: AxisName) -> jax.Array:
    """The arrays of all devices side by side on axis 1.

    As a sum of arrays that are zero elsewhere: its result is known to be the same on all devices,
    which ``shard_map`` asks for, and ``jax.lax.all_gather`` cannot tell it under ``vmap``.
    """
    size = x.shape[1]
    everywhere = jnp.zeros((x.shape[0], size * jax.lax.psum(1, axis_name), *x.shape[2:]), x.dtype)
    start = jax.lax.axis_index(axis_name) * size
    here = jax.lax.dynamic_update_slice_in_dim(everywhere, x, start, axis=1)
    return jax.lax.psum(here, axis_name)


def safe_divide(
    numerator: jax.Array, denominator: jax.Array, undefined: float = math.nan
) -> jax.Array:
    """``numerator / denominator``, and ``undefined`` where the denominator is zero.

    Args:
        numerator: ``float[...]``.
        denominator: ``float[...]`` of the same shape, or one that broadcasts to it.
        undefined: the value of 0 / 0 and x / 0.

    Returns:
        ``float[...]``; NaN where an operand is NaN, whatever ``undefined`` is.

    >>> import jax.numpy as jnp
    >>> safe_divide(jnp.array([1.0, 1.0]), jnp.array([4.0, 0.0]), undefined=0.5).tolist()
    [0.25, 0.5]
    """
    is_zero = denominator == 0
    quotient = numerator / jnp.where(is_zero, jnp.ones_like(denominator), denominator)
    return jnp.where(is_zero & ~jnp.isnan(numerator), undefined, quotient)
