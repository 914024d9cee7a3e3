"""Ragged batches, padded to few lengths, so that few lengths are compiled."""

from collections.abc import Mapping

import jax
import numpy as np
from jax import errors

from recmetrics_jax._src.base import Batch, make_batch
from recmetrics_jax._src.checks import (
    ArrayOrList,
    check_keys,
    check_per_example,
    check_shapes,
    to_host,
)
from recmetrics_jax._src.options import whole

SMALLEST = 256


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


def make_padded_batch(
    predictions: ArrayOrList,
    labels: ArrayOrList,
    weights: ArrayOrList | None = None,
    *,
    mask: ArrayOrList | None = None,
    mask_nonfinite: bool = False,
    smallest: int = SMALLEST,
    keys: Mapping[str, ArrayOrList] | None = None,
) -> Batch:
    """As `make_batch`, padded to a `bucket_size`: a stream of ragged batches compiles few times.

    Padding is masked and changes no value. It is made on the host, before anything is compiled for
    a length: arrays on a device are fetched, which waits for them, and inside ``jax.jit``, where
    lengths are fixed anyway, `make_batch` is the one to call.

    Args:
        predictions: ``[N]``, ``[T, N]`` or ``[T, N, C]``, as for `make_batch`.
        labels: ``[N]`` or ``[T, N]``.
        weights: like ``labels``, or ``[N]`` for all tasks; ones if None.
        mask: bool, like ``labels``, or ``[N]`` for all tasks; all True if None.
        mask_nonfinite: True: leave out examples with a NaN or an infinity, as `make_batch` does.
        smallest: the smallest bucket.
        keys: integer arrays by name, like ``labels`` or ``[N]``, as in ``keys={"user": ids}``.

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

    return make_batch(
        _with_zeros(predictions, 0 if predictions.ndim == 1 else 1, missing),
        _with_zeros(labels, labels.ndim - 1, missing),
        None if weights is None else padded("weights", weights, np.bool_, np.number),
        mask=padded("mask", np.ones(n, bool) if mask is None else mask, np.bool_),
        mask_nonfinite=mask_nonfinite,
        keys={
            name: padded(f"keys[{name!r}]", key, np.integer)
            for name, key in check_keys(keys).items()
        },
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
