"""Keys of examples: which session, user or group they belong to, as halves of 64 bits."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.base import make_exportable
from recmetrics_jax._src.checks import ArrayOrList, check_kind, to_host


class Keys(NamedTuple):
    """Ids in words that pass through jit whole; made by `keys_of`.

    A pytree of one array, which is of NumPy where the ids were on the host: it can be stacked,
    sliced, sent to a process or a device as any other, with ``jax.tree.map``.
    """

    words: Any
    """``int32[..., 2]``: the upper and the lower half of 64 bits."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the ids."""
        return self.words.shape[:-1]


make_exportable(Keys)


def keys_of(ids: ArrayOrList) -> Keys:
    """Ids of any kind as `Keys`, which are arguments of a jitted step without losing a bit.

    JAX cuts int64 arrays that are passed to a jitted function to 32 bits, unless x64 is enabled, so
    that users who differ in their upper bits become one. That cannot be seen inside. Call this
    before, in the loader, and give what it returns to ``make_batch(..., keys={"user_id": ...})``.

    Integers are kept as they are. A string is hashed to 64 bits by BLAKE2b, the same in every
    process; strings in Unicode and their UTF-8 bytes are one. Of ``n`` distinct strings two or
    more share a hash with a probability of about ``n^2 / 2^65``: 3e-8 for a million, 0.03 for a
    billion.

    Args:
        ids: ``[...]`` integers of at most 64 bits or strings, a NumPy array, a list, or a JAX array
            of integers, also inside jit.

    Returns:
        `Keys` of that shape.

    Raises:
        ValueError: if they are neither integers nor strings, or a string is missing.

    >>> import jax, recmetrics_jax as rm
    >>> users = rm.keys_of([2**40 + 7, 7, -1])
    >>> users.shape, users.words.tolist()
    ((3,), [[256, 7], [0, 7], [-1, -1]])
    >>> groups = jax.jit(lambda users: rm.make_batch([0, 1, 1], [0, 0, 1], keys={"user": users}))
    >>> groups(users).keys["user"].shape
    (1, 3, 2)
    """
    return keys_named("ids", ids)


def keys_named(name: str, ids: ArrayOrList | Keys) -> Keys:
    """`keys_of`, naming the argument in errors.

    Raises:
        ValueError: if they are neither integers nor strings.
    """
    if isinstance(ids, Keys):
        return _checked(name, ids)
    if isinstance(ids, jax.Array):
        check_kind(name, ids.dtype, (np.integer,))
        return Keys(halves(ids))
    host = _hashes_of_strings(name, ids)
    if host is None:
        host = to_host(name, ids, np.integer)
    bits = host.astype(np.uint64 if host.dtype.kind == "u" else np.int64).view(np.int64)
    return Keys(np.stack([bits >> 32, bits], axis=-1).astype(np.int32))


def _checked(name: str, keys: Keys) -> Keys:
    words = keys.words
    if words.dtype != np.int32 or words.ndim < 1 or words.shape[-1] != 2:
        raise ValueError(
            f"{name}: expected Keys of words int32[..., 2], as keys_of makes them, got "
            f"{words.dtype}{list(words.shape)}"
        )
    return keys


def _hashes_of_strings(name: str, ids: Any) -> np.ndarray | None:
    """Hashes of strings, ``int64[...]``; None if they are no strings."""
    if isinstance(ids, Mapping | np.ma.MaskedArray):
        return None
    try:
        host = np.asarray(ids)
    except ValueError:  # Of lists of unlike lengths.
        return None
    flat = host.ravel().tolist() if host.dtype.kind in "USOT" else []
    kinds = {type(x) for x in flat}
    are_strings = [issubclass(kind, str | bytes) for kind in kinds]
    if not any(are_strings):
        return None
    if not all(are_strings):
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(
            f"{name}: expected integers or strings, got objects of both, or of neither: {found}; "
            "give an id to those that are missing, or mask them"
        )
    hashes = {x: _hash(x) for x in set(flat)}
    return np.array([hashes[x] for x in flat], np.int64).reshape(host.shape)


def _hash(string: str | bytes) -> int:
    """64 bits of a string, as a signed number."""
    encoded = string.encode() if isinstance(string, str) else string
    digest = hashlib.blake2b(encoded, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


@jax.jit
def halves(keys: jax.Array) -> jax.Array:
    """The upper and the lower half of 64 bits of integers ``[...]``, ``int32[..., 2]``."""
    upper = keys >> 32 if keys.dtype.itemsize == 8 else jnp.where(keys < 0, -1, 0)
    return jnp.stack([upper.astype(jnp.int32), keys.astype(jnp.int32)], axis=-1)
