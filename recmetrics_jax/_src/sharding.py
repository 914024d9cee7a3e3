"""What types say of arrays that lie on several devices."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Result = TypeVar("Result")

EVERYWHERE = jax.P()
"""Of arrays that all devices have whole."""


def spec_of(x: jax.Array) -> jax.P:
    """Over which explicit axes of a mesh an array is spread by its type."""
    return jax.typeof(x).sharding.spec


def with_automatic_axes(
    function: Callable[..., Result], *arguments: Any, result: Any = EVERYWHERE
) -> Result:
    """What a function gives, with the compiler in charge inside of how arrays are spread.

    As it is everywhere but on a mesh of explicit axes, where types say it.

    Args:
        function: of the arguments.
        *arguments: pytrees of arrays.
        result: over which axes the result is spread, a pytree of specs as `jax.shard_map` takes it.
    """
    meshes = {jax.typeof(x).sharding.mesh for x in jax.tree.leaves(arguments) if any(spec_of(x))}
    if not meshes:
        return function(*arguments)
    (mesh,) = meshes
    out_sharding = jax.tree.map(lambda spec: jax.NamedSharding(mesh, spec), result)
    automatic: Any = jax.sharding.auto_axes(function, out_sharding=out_sharding)
    return automatic(*arguments)


def varying_axes(x: jax.Array) -> frozenset[Any]:
    """The axes of a ``shard_map`` over which an array differs by its type; none elsewhere."""
    aval: Any = jax.typeof(x)
    return aval.mat.varying if hasattr(aval, "mat") else aval.vma  # Until JAX 0.10.


def vary_as(x: jax.Array, other: jax.Array) -> jax.Array:
    """``x``, typed inside a ``shard_map`` as different on each device wherever ``other`` is.

    By a choice between ``x`` and ``x``: XLA makes nothing of it.
    """
    return jax.lax.select_n(jnp.any(other), x, x)
