"""Numbers as integers that are in the same order: what sorts and comparisons go by."""

import jax
import jax.numpy as jnp
import numpy as np

ABSENT = np.uint32(0xFFFFFFFF)
"""The last word there is: no number has it but a NaN, and of integers the largest."""


def words_of(x: jax.Array) -> tuple[jax.Array, ...]:
    """An array as unsigned words that, the first most significant, are in the order of its values.

    Args:
        x: ``float[..., N]``, ``int[..., N]`` or ``bool[..., N]``, of up to 64 bits.

    Returns:
        One or two arrays ``uint32[..., N]``. -0.0 is 0.0, subnormal floats are told apart, and
        NaN comes after all else (before, with the sign set).

    >>> import jax.numpy as jnp
    >>> (word,) = words_of(jnp.array([-1.5, -0.0, 0.0, 2.0]))
    >>> (word[1:] > word[:-1]).tolist()
    [True, False, True]
    """
    if jnp.issubdtype(x.dtype, jnp.floating):
        return _words_of_floats(x.astype(jnp.float32) if x.dtype.itemsize < 4 else x)
    if x.dtype == bool or x.dtype.itemsize < 4:
        x = x.astype(jnp.int32)
    with jax.enable_x64(True):
        bits = x.astype(f"uint{x.dtype.itemsize * 8}")
        if jnp.issubdtype(x.dtype, jnp.signedinteger):
            bits = bits ^ _sign_bit(bits.dtype)
        return _words_of_bits(bits)


def words_or_absent(x: jax.Array, is_present: jax.Array | None) -> tuple[jax.Array, ...]:
    """`words_of` an array, and the last words there are for rows that are not present."""
    words = words_of(x)
    if is_present is None:
        return words
    return tuple(jnp.where(is_present, word, ABSENT) for word in words)


def _words_of_floats(x: jax.Array) -> tuple[jax.Array, ...]:
    with jax.enable_x64(True):
        bits = jax.lax.bitcast_convert_type(x, f"uint{x.dtype.itemsize * 8}")
        sign = _sign_bit(bits.dtype)
        # By bits, since the comparison ``x == 0`` may take a subnormal number for zero.
        bits = jnp.where(bits == sign, jnp.zeros_like(bits), bits)
        return _words_of_bits(jnp.where(bits >= sign, ~bits, bits | sign))


def _sign_bit(dtype: jnp.dtype) -> jax.Array:
    return jnp.array(1 << (dtype.itemsize * 8 - 1), dtype)


def _words_of_bits(bits: jax.Array) -> tuple[jax.Array, ...]:
    if bits.dtype == jnp.uint32:
        return (bits,)
    shift = jnp.array(32, bits.dtype)
    return (bits >> shift).astype(jnp.uint32), bits.astype(jnp.uint32)


def integers_of(x: jax.Array) -> jax.Array:
    """Numbers as signed integers of as many bits, in the same order.

    Where `words_of` is to be sorted by, this is to be compared: nothing gets wider.

    Args:
        x: ``float[...]``, or integers, which stay as they are.

    Returns:
        ``int[...]``. -0.0 is 0.0, subnormal floats are told apart.

    >>> import jax.numpy as jnp
    >>> integers_of(jnp.array([-1.5, -0.0, 0.0, 2.0], jnp.bfloat16)).tolist()
    [-16320, 0, 0, 16384]
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    with jax.enable_x64(True):
        bits = jax.lax.bitcast_convert_type(x, f"int{x.dtype.itemsize * 8}")
        largest = jnp.array(jnp.iinfo(bits.dtype).max, bits.dtype)
        # Of a number below 0, the more the lower; the sign alone, -0.0, becomes 0.
        return jnp.where(bits < 0, -(bits & largest), bits)


def float32_of(word: jax.Array) -> jax.Array:
    """The numbers of which `words_of` gives ``word``, ``float32[..., N]``.

    >>> float32_of(*words_of(jnp.array([-1.5, -0.0, 2.0]))).tolist()
    [-1.5, 0.0, 2.0]
    """
    sign = _sign_bit(jnp.dtype(jnp.uint32))
    bits = jnp.where(word >= sign, word ^ sign, ~word)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
