"""The one door through which arrays enter: they are checked, cast, padded and zeroed here.

Batches of many lengths are padded to few, by `bucket_size`, so that few are compiled.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import errors

from recmetrics_jax._src.base import Batch, is_nonfinite, masked
from recmetrics_jax._src.checks import (
    ArrayOrList,
    check_keys,
    check_kind,
    check_per_example,
    check_shapes,
    shape_of_batch,
    to_host,
)
from recmetrics_jax._src.domain import Given
from recmetrics_jax._src.forks import check_not_forked
from recmetrics_jax._src.keys import Keys, keys_named
from recmetrics_jax._src.options import flag, whole
from recmetrics_jax._src.sharding import spec_of, with_automatic_axes

ArrayOrKeys = ArrayOrList | Keys

SMALLEST = 256


def make_batch(
    predictions: ArrayOrList,
    labels: ArrayOrList,
    weights: ArrayOrList | None = None,
    *,
    mask: ArrayOrList | None = None,
    mask_nonfinite: bool = False,
    logits: bool = False,
    keys: Mapping[str, ArrayOrKeys] | None = None,
) -> Batch:
    """Checks and casts arrays into a `Batch`; works eagerly and under every transformation.

    Predictions, labels and weights of any real dtype (bfloat16, integers, booleans) become
    float32, or float64 where x64 is enabled. They are cut off from gradients: a metric inside a
    differentiated step neither enters the gradient nor breaks it.

    Args:
        predictions: ``[T, N]``, ``[N]`` for all tasks, or ``[T, N, C]`` with scores of classes.
        labels: ``[T, N]``, or ``[N]`` for all tasks.
        weights: like ``labels``, or ``[N]`` for all tasks; ones if None.
        mask: bool, like ``labels``, or ``[N]`` for all tasks; False marks padding, which may
            hold anything and changes nothing. All True if None.
        mask_nonfinite: what to do with bad examples, whose prediction, label or weight is NaN or
            infinite. False: the values of their task become NaN, in a window for as long as the
            example is in it. True: bad examples are left out, as if masked. Either way
            `recmetrics_jax.nonfinite_examples` counts them. A prediction of -inf, as an item has
            that was not retrieved, is bad only for metrics in which more than its order counts.
        logits: the predictions are logits, of any dtype: `recmetrics_jax.ne` is computed from them
            as they are, and all other metrics see the probabilities, their sigmoid in float32; of
            ``[T, N, C]``, their softmax. One of -inf is a probability of 0.
        keys: ids by name, like ``labels`` or ``[N]``: sessions, groups, as in
            ``keys={"session_id": ids}``: integers; strings outside jit; or what
            `recmetrics_jax.keys_of` makes of either. That is what to pass through jit, which cuts
            int64 arguments to int32, unless x64 is enabled.

    Returns:
        A `Batch` with leaves ``[T, N, ...]``.

    Raises:
        ValueError: if a shape, rank or dtype is not as above, naming the argument.
        RuntimeError: in a process that was forked from one in which JAX had run.

    >>> import recmetrics_jax as rm
    >>> batch = rm.make_batch([0.2, 0.9, 0.0], [0, 1, 0], mask=[True, True, False])
    >>> batch.labels.shape, batch.weights.tolist()
    ((1, 3), [[1.0, 1.0, 0.0]])
    """
    check_not_forked()
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
    return assemble(
        predictions,
        labels,
        weights,
        mask,
        words,
        mask_nonfinite=flag("mask_nonfinite", mask_nonfinite),
        are_logits=flag("logits", logits),
    )


@functools.partial(jax.jit, static_argnames=("mask_nonfinite", "are_logits"))
def assemble(
    predictions: jax.Array,
    labels: jax.Array,
    weights: jax.Array | None,
    mask: jax.Array | None,
    keys: dict[str, jax.Array],
    *,
    mask_nonfinite: bool,
    are_logits: bool,
) -> Batch:
    """All of `make_batch` but its checks, one dispatch when called eagerly."""
    widest = predictions if labels.ndim == 1 else labels
    spec: Any = spec_of(widest)  # Of each array of the batch.
    spec = jax.P(*spec[:2]) if widest.ndim > 1 else jax.P(None, *spec)
    given = Given.of(float if are_logits else predictions.dtype, mask_nonfinite)
    of_logits = spec if are_logits and predictions.ndim < 3 else None
    of_keys = jax.tree.map(lambda _: spec, keys)
    return with_automatic_axes(
        functools.partial(_assembled, given=given, are_logits=are_logits),
        *(predictions, labels, weights, mask, keys),
        result=Batch(spec, spec, spec, spec, spec, spec, of_keys, of_logits, given),
    )


def _assembled(
    predictions: jax.Array,
    labels: jax.Array,
    weights: jax.Array | None,
    mask: jax.Array | None,
    keys: dict[str, jax.Array],
    *,
    given: Given,
    are_logits: bool,
) -> Batch:
    shape = shape_of_batch(predictions, labels)
    classes = predictions.shape[2:]
    predictions = jnp.broadcast_to(predictions, (*shape, *classes))
    labels = jnp.broadcast_to(labels, shape)
    weights = jnp.ones(shape) if weights is None else jnp.broadcast_to(weights, shape)
    mask = jnp.ones(shape, bool) if mask is None else jnp.broadcast_to(mask, shape)
    keys = {name: jnp.broadcast_to(words, (*shape, 2)) for name, words in keys.items()}
    predictions, labels, weights = (
        jax.lax.stop_gradient(x.astype(float)) for x in (predictions, labels, weights)
    )
    logits = None
    if are_logits:
        logits, predictions = predictions, _probabilities(predictions)
    nonfinite = mask & is_nonfinite(predictions, labels, weights)
    unlabelled = mask & jnp.isnan(labels)
    if given.leaves_out:
        # But for scores of -inf, which are in order.
        scores = jnp.where(jnp.isneginf(predictions), 0.0, predictions)
        mask = mask & ~is_nonfinite(scores, labels, weights)
    logits = None if classes else logits
    batch = Batch(predictions, labels, weights, mask, nonfinite, unlabelled, keys, logits, given)
    # Bad examples are counted also where they are left out, and where their keys say.
    of_bad = masked(batch, mask | nonfinite)
    return masked(batch, mask)._replace(
        nonfinite=nonfinite, unlabelled=unlabelled, keys=of_bad.keys
    )


def _probabilities(logits: jax.Array) -> jax.Array:
    """What logits are the logarithms of the odds of; NaN where they overflowed.

    The sigmoid, and of those of classes the softmax.
    """
    overflows = jnp.isposinf(logits)
    if logits.ndim == 3:
        return jnp.where(overflows, jnp.nan, jax.nn.softmax(logits, axis=-1))
    return jnp.where(overflows, jnp.nan, jax.nn.sigmoid(logits))


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


def _key_words(name: str, ids: ArrayOrKeys, shape: tuple[int, int]) -> jax.Array:
    """Ids as the upper and the lower half of 64 bits, ``int32[T, N, 2]`` or ``int32[N, 2]``."""
    keys = keys_named(f"keys[{name!r}]", ids)
    check_per_example(f"keys[{name!r}]", keys.shape, shape)
    return jnp.array(keys.words)


def bucket_size(n: int, *, smallest: int = SMALLEST) -> int:
    """The length that ``n`` examples are padded to: ``smallest`` times a power of two.

    Args:
        n: number of examples.
        smallest: the smallest bucket, at least 1.

    Returns:
        The least of ``smallest``, ``2 smallest``, ``4 smallest``, ... that is not below ``n``: less
        than twice ``n`` beyond the first. Lengths up to ``n`` fall into
        ``1 + ceil(log2(n / smallest))`` buckets.

    Raises:
        ValueError: if ``n`` is below 0, or ``smallest`` below 1.

    >>> import recmetrics_jax as rm
    >>> [rm.bucket_size(n) for n in (0, 256, 257, 5000)]
    [256, 256, 512, 8192]
    """
    n, smallest = whole("n", n, 0), whole("smallest", smallest, 1)
    times = max(1, -(-n // smallest))
    return smallest << (times - 1).bit_length()


def bucket_among(n: int, sizes: Sequence[int]) -> int:
    """The first of some powers of two that is at least ``n``, beyond the last its `bucket_size`.

    >>> [bucket_among(n, (64, 256)) for n in (3, 65, 300)]
    [64, 256, 512]
    """
    return bucket_size(n, smallest=next((size for size in sizes if n <= size), sizes[-1]))


def fine_bucket_size(n: int) -> int:
    """A `bucket_size` of few: by fours to 1,024, where padding costs little, then by twos.

    Beyond 8,192, where padding is what costs, there is one between any two.

    >>> [fine_bucket_size(n) for n in (3, 65, 1000, 5000, 10_000, 20_000)]
    [64, 256, 1024, 8192, 12288, 24576]
    """
    bucket = bucket_among(n, (64, 256, 1024))
    step = bucket if bucket <= 8192 else bucket // 4
    return -(-max(n, 1) // step) * step


def make_padded_batch(
    predictions: ArrayOrList,
    labels: ArrayOrList,
    weights: ArrayOrList | None = None,
    *,
    mask: ArrayOrList | None = None,
    mask_nonfinite: bool = False,
    logits: bool = False,
    smallest: int = SMALLEST,
    keys: Mapping[str, ArrayOrKeys] | None = None,
) -> Batch:
    """As `make_batch`, padded to a `bucket_size`: a stream of ragged batches compiles few times.

    Padding is masked and changes no value. It is made on the host, before anything is compiled for
    a length: arrays on a device are fetched, which waits for them, and inside ``jax.jit``, where
    lengths are fixed anyway, `make_batch` is the one to call.

    Args:
        predictions: ``[N]``, ``[T, N]`` or ``[T, N, C]``, as for `make_batch`.
        labels: ``[T, N]``, or ``[N]`` for all tasks.
        weights: like ``labels``, or ``[N]`` for all tasks; ones if None.
        mask: bool, like ``labels``, or ``[N]`` for all tasks; all True if None.
        mask_nonfinite: True: leave out bad examples, as `make_batch` does.
        logits: the predictions are logits, as for `make_batch`.
        smallest: the smallest bucket.
        keys: ids by name, like ``labels`` or ``[N]``, as in ``keys={"user": ids}``.

    Returns:
        A `Batch` with leaves ``[T, bucket_size(N), ...]``.

    Raises:
        ValueError: as `make_batch`; if an array is traced, or ``smallest`` below 1.

    >>> import recmetrics_jax as rm
    >>> metric = rm.ctr()
    >>> state = metric.init()
    >>> for labels in ([0, 1], [1, 0, 0, 1, 1, 1]):
    ...     state = metric.update(state, rm.make_padded_batch(labels, labels, smallest=8))
    >>> metric.compute(state)["lifetime_ctr"].tolist()
    [0.625]
    """
    predictions = _on_host("predictions", predictions, np.bool_, np.number)
    labels = _on_host("labels", labels, np.bool_, np.number)
    shape = check_shapes(predictions, labels)
    n = shape[1]
    missing = bucket_size(n, smallest=smallest) - n

    def padded(name: str, x: ArrayOrList, *kinds: type[np.generic]) -> np.ndarray:
        array = _on_host(name, x, *kinds)
        check_per_example(name, array.shape, shape)
        return _with_zeros(array, array.ndim - 1, missing)

    def padded_keys(name: str, ids: ArrayOrKeys) -> Keys:
        keys = keys_named(f"keys[{name!r}]", ids)
        check_per_example(f"keys[{name!r}]", keys.shape, shape)
        words = _on_host(f"keys[{name!r}]", keys.words, np.integer)
        return Keys(_with_zeros(words, words.ndim - 2, missing))

    return make_batch(
        _with_zeros(predictions, 0 if predictions.ndim == 1 else 1, missing),
        _with_zeros(labels, labels.ndim - 1, missing),
        None if weights is None else padded("weights", weights, np.bool_, np.number),
        mask=padded("mask", np.ones(n, bool) if mask is None else mask, np.bool_),
        mask_nonfinite=mask_nonfinite,
        logits=logits,
        keys={name: padded_keys(name, ids) for name, ids in check_keys(keys).items()},
    )


def _on_host(name: str, x: ArrayOrList, *kinds: type[np.generic]) -> np.ndarray:
    try:
        return to_host(name, x, *kinds)
    except errors.TracerArrayConversionError as error:
        raise ValueError(
            f"{name}: expected an array on the host, got a traced {jax.typeof(x)}; inside jit call "
            "make_batch"
        ) from error


def _with_zeros(x: np.ndarray, axis: int, missing: int) -> np.ndarray:
    """``x`` with so many zeros after it along an axis."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, missing)
    return np.pad(x, widths)
