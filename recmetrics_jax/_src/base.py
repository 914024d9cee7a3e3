"""`Batch`, and `make_batch`, the one door through which arrays enter.

Shapes are written with one alphabet: ``T`` tasks, ``N`` examples, ``C`` classes.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from recmetrics_jax._src.checks import (
    ArrayOrList,
    check_keys,
    check_kind,
    check_per_example,
    check_shapes,
    to_host,
)
from recmetrics_jax._src.options import flag

State = Any  # a pytree of arrays, opaque to the caller
Values = dict[str, jax.Array]


class Batch(NamedTuple):
    """Examples of ``T`` tasks, checked and cast; made by `make_batch`.

    Where ``mask`` is False (padding), the floats and keys are zero. ``float`` is float32, or
    float64 where the user has enabled x64.
    """

    predictions: jax.Array
    """``float[T, N]``, or ``float[T, N, C]`` with scores of classes."""
    labels: jax.Array
    """``float[T, N]``."""
    weights: jax.Array
    """``float[T, N]``."""
    mask: jax.Array
    """``bool[T, N]``: True for real examples, False for padding."""
    nonfinite: jax.Array
    """``bool[T, N]``: examples that came with a NaN or an infinity."""
    keys: Mapping[str, jax.Array]
    """``int32[T, N, 2]`` each: sessions, groups, as the upper and the lower half of 64 bits."""

    def key(self, name: str) -> tuple[jax.Array, jax.Array]:
        """The halves of a key, ``int32[T, N]`` each, to sort and compare by."""
        words = self.keys[name]
        return words[..., 0], words[..., 1]


def check_update(state: Any, batch: Any, *more: Any, **named: Any) -> None:
    """Raises ValueError if what ``update`` was called with is not a state and a batch."""
    call = "; call update(state, rm.make_batch(predictions, labels, weights))"
    if more or named:
        got = ", ".join((*(type(x).__name__ for x in (batch, *more)), *(f"{k}=" for k in named)))
        raise ValueError(f"batch: expected one Batch from make_batch, got {got}{call}")
    if isinstance(state, Batch):
        raise ValueError(
            f"state: expected a state of this metric, got a Batch; the state comes first{call}"
        )
    if not isinstance(batch, Batch):
        raise ValueError(
            f"batch: expected a Batch from make_batch, got {type(batch).__name__}{call}"
        )


def make_exportable(*types: type[Any]) -> None:
    """Lets functions of pytrees of these NamedTuples be serialized by `jax.export`."""
    for of in types:
        export.register_namedtuple_serialization(
            of, serialized_name=f"recmetrics_jax.{of.__name__}"
        )


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


def newest(batch: Batch, limit: int) -> Batch:
    """A batch with all but its last ``limit`` real examples masked."""
    count = jnp.cumsum(batch.mask, axis=1, dtype=jnp.int32)
    is_in = count > count[:, -1:] - limit

    def keep(x: jax.Array) -> jax.Array:
        return jnp.where(is_in.reshape(*is_in.shape, *[1] * (x.ndim - 2)), x, jnp.zeros_like(x))

    return jax.tree.map(keep, batch)


def varying_axes(x: jax.Array) -> frozenset[Any]:
    """The axes of a ``shard_map`` over which an array differs by its type; none elsewhere."""
    aval: Any = jax.typeof(x)
    return aval.mat.varying if hasattr(aval, "mat") else aval.vma  # Until JAX 0.10.


def vary_as(x: jax.Array, other: jax.Array) -> jax.Array:
    """``x``, typed inside a ``shard_map`` as different on each device wherever ``other`` is.

    By a choice between ``x`` and ``x``: XLA makes nothing of it.
    """
    return jax.lax.select_n(jnp.any(other), x, x)


def make_batch(
    predictions: ArrayOrList,
    labels: ArrayOrList,
    weights: ArrayOrList | None = None,
    *,
    mask: ArrayOrList | None = None,
    mask_nonfinite: bool = False,
    keys: Mapping[str, ArrayOrList] | None = None,
) -> Batch:
    """Checks and casts arrays into a `Batch`; works eagerly and under every transformation.

    Predictions, labels and weights of any real dtype (bfloat16, integers, booleans) become
    float32, or float64 where x64 is enabled. They are cut off from gradients: a metric inside a
    differentiated step neither enters the gradient nor breaks it.

    Args:
        predictions: ``[N]``, ``[T, N]``, or ``[T, N, C]`` with scores of classes.
        labels: ``[N]`` or ``[T, N]``, as the predictions.
        weights: like ``labels``, or ``[N]`` for all tasks; ones if None.
        mask: bool, like ``labels``, or ``[N]`` for all tasks; False marks padding, which may
            hold anything and changes nothing. All True if None.
        mask_nonfinite: what to do with examples whose prediction, label or weight is NaN or
            infinite. False: the values of their task become NaN, in a window for as long as the
            example is in it. True: such examples are left out, as if masked. Either way
            `recmetrics_jax.nonfinite_examples` counts them.
        keys: integer arrays by name, like ``labels`` or ``[N]``: sessions, groups, as in
            ``keys={"session_id": ids}``. All 64 bits count where a NumPy array is given outside
            jit, or x64 is enabled; jit itself cuts int64 arguments to int32 otherwise.

    Returns:
        A `Batch` with leaves ``[T, N, ...]``.

    Raises:
        ValueError: if a shape, rank or dtype is not as above, naming the argument.

    >>> import recmetrics_jax as rm
    >>> batch = rm.make_batch([0.2, 0.9, 0.0], [0, 1, 0], mask=[True, True, False])
    >>> batch.labels.shape, batch.weights.tolist()
    ((1, 3), [[1.0, 1.0, 0.0]])
    """
    predictions = _to_array("predictions", predictions, np.bool_, np.number)
    labels = _to_array("labels", labels, np.bool_, np.number)
    shape = check_shapes(predictions, labels)
    if weights is not None:
        weights = _to_array("weights", weights, np.bool_, np.number)
        check_per_example("weights", weights.shape, shape)
    if mask is not None:
        mask = _to_array("mask", mask, np.bool_)
        check_per_example("mask", mask.shape, shape)
    words = {name: _key_words(name, key, shape) for name, key in check_keys(keys).items()}
    drops = flag("mask_nonfinite", mask_nonfinite)
    return assemble(predictions, labels, weights, mask, words, mask_nonfinite=drops)


@functools.partial(jax.jit, static_argnames="mask_nonfinite")
def assemble(
    predictions: jax.Array,
    labels: jax.Array,
    weights: jax.Array | None,
    mask: jax.Array | None,
    keys: dict[str, jax.Array],
    *,
    mask_nonfinite: bool,
) -> Batch:
    """All of `make_batch` but its checks, one dispatch when called eagerly."""
    shape = labels.shape if labels.ndim == 2 else (1, labels.size)
    predictions = predictions.reshape(*shape, *predictions.shape[2:])
    labels = labels.reshape(shape)
    weights = jnp.ones(shape) if weights is None else jnp.broadcast_to(weights, shape)
    mask = jnp.ones(shape, bool) if mask is None else jnp.broadcast_to(mask, shape)
    keys = {name: jnp.broadcast_to(words, (*shape, 2)) for name, words in keys.items()}
    predictions, labels, weights = (
        jax.lax.stop_gradient(x.astype(float)) for x in (predictions, labels, weights)
    )
    finite = jnp.isfinite(predictions)
    if predictions.ndim == 3:
        finite = jnp.all(finite, axis=-1)
    finite = finite & jnp.isfinite(labels) & jnp.isfinite(weights)
    nonfinite = mask & ~finite
    if mask_nonfinite:
        mask = mask & finite

    def keep(x: jax.Array) -> jax.Array:
        # By selection: a product with zero would keep NaN.
        selector = mask if x.ndim == 2 else mask[..., None]
        return jnp.where(selector, x, jnp.zeros_like(x))

    return Batch(
        keep(predictions),
        keep(labels),
        keep(weights),
        mask,
        nonfinite,
        jax.tree.map(keep, keys),
    )


def _to_array(name: str, x: ArrayOrList, *kinds: type[np.generic]) -> jax.Array:
    """``x`` as an array of one of ``kinds``, never sharing memory with the caller's buffer.

    Arrays of NumPy are copied here, on the host: JAX reads what it is given later, on another
    thread, when the caller may have filled the buffer anew. Numbers of 64 bits become floats here
    too, since JAX would cut integers to 32 bits first.
    """
    if isinstance(x, jax.Array):
        check_kind(name, x.dtype, kinds)
        return x
    host = to_host(name, x, *kinds)
    dtype = jnp.result_type(float) if host.dtype.itemsize == 8 else host.dtype
    with np.errstate(over="ignore"):  # What float32 cannot hold becomes infinite, and is counted.
        return jnp.asarray(host.astype(dtype))


def _key_words(name: str, x: ArrayOrList, shape: tuple[int, int]) -> jax.Array:
    """Integer keys as the upper and the lower half of 64 bits, ``int32[T, N, 2]``.

    NumPy arrays are split on the host: without x64, JAX would cut them to 32 bits first, and
    different keys would collide.
    """
    name = f"keys[{name!r}]"
    if isinstance(x, jax.Array):
        keys = _to_array(name, x, np.integer)
        words = _words(keys)
    else:
        host = to_host(name, x, np.integer)
        keys = host.astype(np.uint64 if host.dtype.kind == "u" else np.int64).view(np.int64)
        words = jnp.array(np.stack([keys >> 32, keys], axis=-1).astype(np.int32))
    check_per_example(name, keys.shape, shape)
    return words


@jax.jit
def _words(keys: jax.Array) -> jax.Array:
    upper = keys >> 32 if keys.dtype.itemsize == 8 else jnp.where(keys < 0, -1, 0)
    return jnp.stack([upper.astype(jnp.int32), keys.astype(jnp.int32)], axis=-1)
