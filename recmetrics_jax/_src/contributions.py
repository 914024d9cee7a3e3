"""What rows add to sums of what belongs together: pairs, sessions, groups."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from recmetrics_jax._src import _cpu, segments


class Contributions(NamedTuple):
    """What each row adds to some sums of a term; a function ``by_row`` gives a tuple of these."""

    columns: tuple[jax.Array, ...]
    """``float64[T, N]`` for each number."""
    order: jax.Array
    """``int32[T, N]``: the rows of the batch in the order of the columns."""
    is_wrong: jax.Array
    """``bool[T, N]``, in the order of the batch: rows that make the sums NaN."""

    def sums(self) -> jax.Array:
        """The sums over the batch, ``float64[T, K]``."""
        with jax.enable_x64(True):
            is_wrong = jnp.any(self.is_wrong, axis=1, keepdims=True)
            return jnp.where(is_wrong, jnp.nan, _cpu.sums_of(self.columns))

    def rows(self) -> jax.Array:
        """``float64[T, N, K]``, NaN where a row is wrong, in the order of the columns."""
        with jax.enable_x64(True):
            is_wrong = segments.take(self.is_wrong, self.order)
            columns = jnp.stack(self.columns, axis=-1).astype(jnp.float64)
            return jnp.where(is_wrong[..., None], jnp.nan, columns)
