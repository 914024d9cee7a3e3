"""`Batch`, and `make_batch`, the one door through which arrays enter.

Shapes are written with one alphabet: ``T`` tasks, ``N`` examples, ``C`` classes.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from recmetrics_jax._src.options import flag

ArrayOrList = ArrayLike | Sequence[Any]
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


def to_host(name: str, x: ArrayOrList, *kinds: type[np.generic]) -> np.ndarray:
    """``x`` as a NumPy array of one of ``kinds``; it may be the caller's own."""
    if _is_masked(x) or (isinstance(x, list | tuple) and any(map(_is_masked, x))):
        raise ValueError(
            f"{name}: expected an array without a mask of its own, got a masked array; pass "
            f"{name}.filled(0), and mask=~numpy.ma.getmaskarray({name})"
        )
    try:
        host = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name}: expected an array, got {x!r:.80} ({error})") from error
    if host.size == 0 and host.dtype == np.float64:
        host = host.astype(kinds[-1] if kinds[-1] is np.bool_ else np.int64)
    _check_kind(name, host.dtype, kinds)
    return host


def _is_masked(x: Any) -> bool:
    return isinstance(x, np.ma.MaskedArray)


def _to_array(name: str, x: ArrayOrList, *kinds: type[np.generic]) -> jax.Array:
    """``x`` as an array of one of ``kinds``, never sharing memory with the caller's buffer.

    Arrays of NumPy are copied here, on the host: JAX reads what it is given later, on another
    thread, when the caller may have filled the buffer anew. Numbers of 64 bits become floats here
    too, since JAX would cut integers to 32 bits first.
    """
    if isinstance(x, jax.Array):
        _check_kind(name, x.dtype, kinds)
        return x
    host = to_host(name, x, *kinds)
    dtype = jnp.result_type(float) if host.dtype.itemsize == 8 else host.dtype
    with np.errstate(over="ignore"):  # What float32 cannot hold becomes infinite, and is counted.
        return jnp.asarray(host.astype(dtype))


def _check_kind(name: str, dtype: np.dtype, kinds: tuple[type[np.generic], ...]) -> None:
    """Raises ValueError if a dtype is of none of the kinds, or one that JAX does not have."""
    is_known = dtype.kind not in "cmM" and dtype.itemsize <= 8 and dtype.isnative
    if not (is_known and any(jnp.issubdtype(dtype, kind) for kind in kinds)):
        expected = {np.bool_: "a bool", np.integer: "an integer", np.number: "a real number"}
        hint = ""
        if dtype.kind == "m":
            hint = f"; divide by a unit, as in {name} / numpy.timedelta64(1, 's')"
        elif dtype.kind in "iuf" and not is_known:
            hint = "; convert it with .astype to a dtype of at most 64 bits, in native byte order"
        raise ValueError(f"{name}: expected {expected[kinds[-1]]} dtype, got {dtype}{hint}")


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


def check_keys(keys: Mapping[str, ArrayOrList] | None) -> Mapping[str, ArrayOrList]:
    """Keys by name, none for None; raises ValueError if they are given otherwise."""
    if keys is None:
        return {}
    if not isinstance(keys, Mapping):
        raise ValueError(
            "keys: expected a dict of integer arrays by name, as in keys={'session_id': ids}, got "
            f"{type(keys).__name__}"
        )
    for name in keys:
        if not isinstance(name, str) or not name:
            raise ValueError(f"keys: expected names that are non-empty strings, got {name!r}")
    return keys


def check_shapes(
    predictions: jax.Array | np.ndarray, labels: jax.Array | np.ndarray
) -> tuple[int, int]:
    """The ``(T, N)`` of a batch, from its predictions and labels."""
    if predictions.ndim not in (1, 2, 3):
        raise ValueError(
            f"predictions: expected shape [N], [T, N] or [T, N, C], got {predictions.shape}"
        )
    expected = predictions.shape[:2]
    if labels.shape != expected:
        raise ValueError(
            f"labels: expected shape {expected}, as the predictions {predictions.shape}, "
            f"got {labels.shape}"
        )
    return (1, expected[0]) if len(expected) == 1 else (expected[0], expected[1])


def check_per_example(name: str, shape: tuple[int, ...], expected: tuple[int, int]) -> None:
    """Raises ValueError if a shape is neither ``[T, N]``, as expected, nor ``[N]``."""
    if shape not in (expected, expected[1:]):
        raise ValueError(f"{name}: expected shape {expected} or {expected[1:]}, got {shape}")
