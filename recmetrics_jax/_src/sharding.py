"""What types say of arrays that lie on several devices."""

from typing import Any

import jax
import jax.numpy as jnp

from recmetrics_jax._src.base import Batch


def gathered(batch: Batch) -> Batch:
    """A batch with all its examples on every device, for what depends on their order.

    Arrays whose sharding is part of their type, as they are on a mesh of explicit axes, want to be
    told so; elsewhere the compiler sees to it.
    """

    def gather(x: jax.Array) -> jax.Array:
        sharding = jax.typeof(x).sharding
        if not any(sharding.spec):
            return x
        everywhere = jax.P(*(None for _ in sharding.spec))
        return jax.sharding.reshard(x, jax.NamedSharding(sharding.mesh, everywhere))

    return jax.tree.map(gather, batch)


def varying_axes(x: jax.Array) -> frozenset[Any]:
    """The axes of a ``shard_map`` over which an array differs by its type; none elsewhere."""
    aval: Any = jax.typeof(x)
    return aval.mat.varying if hasattr(aval, "mat") else aval.vma  # Until JAX 0.10.


def vary_as(x: jax.Array, other: jax.Array) -> jax.Array:
    """``x``, typed inside a ``shard_map`` as different on each device wherever ``other`` is.

    By a choice between ``x`` and ``x``: XLA makes nothing of it.
    """
    return jax.lax.select_n(jnp.any(other), x, x)
