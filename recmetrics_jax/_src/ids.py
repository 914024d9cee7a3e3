"""Ids of items: of any 64 bits, or numbers from 0 that stand for places in arrays."""

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.checks import ArrayOrList, check_kind, to_host
from recmetrics_jax._src.keys import Keys, keys_named
from recmetrics_jax._src.options import LARGEST


def is_padding(words: jax.Array) -> jax.Array:
    """Whether an id is -1, ``bool[...]`` of its words, ``int32[..., 2]``."""
    return jnp.all(words == -1, axis=-1)


def id_words(name: str, ids: ArrayOrList | Keys) -> jax.Array:
    """Ids as the upper and the lower half of 64 bits, ``int32[..., 2]``."""
    return jnp.array(keys_named(name, ids).words)


def item_numbers(name: str, x: ArrayOrList) -> jax.Array:
    """Numbers of items, ``int32``; -1 for all that are none: below 0, or of more than 31 bits."""
    ids = x if isinstance(x, jax.Array) else to_host(name, x, np.integer)
    check_kind(name, ids.dtype, (np.integer,))
    if isinstance(ids, np.ndarray):  # JAX would cut them to 32 bits first.
        return jnp.array(np.where((ids >= 0) & (ids <= LARGEST), ids, -1).astype(np.int32))
    is_number = ids >= 0
    if ids.dtype.itemsize >= 4:
        is_number = is_number & (ids <= jnp.array(LARGEST, ids.dtype))
    return jnp.where(is_number, ids.astype(jnp.int32), jnp.int32(-1))
