"""Examples as the compiled functions take them: padded arrays of all tasks, on the host.

Shapes: ``T`` tasks, ``N`` examples, ``C`` classes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.base import Batch
from recmetrics_jax._src.batch import fine_bucket_size
from recmetrics_jax._src.keys import halves
from recmetrics_jax.adapter._layout import TaskBatch, required_for, shape_of
from recmetrics_jax.adapter._tensors import to_numpy

SAMPLE_STATES = ("predictions", "labels", "weights")


class Inputs(NamedTuple):
    """Examples on the host; zeros after the ``counts`` of a task."""

    predictions: np.ndarray
    """``float[T, N]`` or ``float[T, N, C]``."""
    labels: np.ndarray
    """``float[T, N]``."""
    weights: np.ndarray
    """``float[T, N]``."""
    counts: Any
    """``int32[T]``: the examples of each task; None under jit for all."""
    keys: Mapping[str, np.ndarray]
    """``int64[T, N]`` each."""

    def batch(self) -> Batch:
        """The examples as a `Batch`; in an x64 scope. No example is judged by its values."""
        if self.counts is None:
            mask = jnp.ones(self.labels.shape, bool)
        else:
            positions = jnp.arange(self.labels.shape[1], dtype=jnp.int32)
            mask = positions[None] < self.counts[:, None]
        keys = {name: halves(jnp.asarray(key)) for name, key in self.keys.items()}
        arrays = [jnp.asarray(x) for x in (self.predictions, self.labels, self.weights)]
        none = jnp.zeros_like(mask)
        return Batch(arrays[0], arrays[1], arrays[2], mask, none, none, keys)


def padded_rows(
    arrays: Sequence[tuple[slice, np.ndarray]], n_tasks: int, length: int, dtype: Any = None
) -> np.ndarray:
    """Arrays ``[t, n, ...]`` of some tasks each as one, zeros elsewhere, ``[T, length, ...]``.

    One array of all tasks is not copied if it is as long, and of that dtype, already. Without a
    ``dtype`` it is the one of float32 and float64 that holds all.
    """
    dtype = dtype or _float_type([x for _, x in arrays])
    first = arrays[0][1]
    shape = (n_tasks, length, *first.shape[2:])
    if first.shape == shape and first.dtype == dtype:
        return first
    rows = np.zeros(shape, dtype)
    for tasks, x in arrays:
        rows[tasks, : x.shape[1]] = x
    return rows


def _float_type(arrays: Sequence[np.ndarray]) -> np.dtype:
    is_single = all(x.dtype == np.float32 or x.dtype.itemsize == 1 for x in arrays)
    return np.dtype(np.float32 if is_single else np.float64)


def as_keys(x: Any) -> np.ndarray:
    """Keys of any real dtype as ``int64``, equal where they are equal."""
    keys = to_numpy(x)
    whole = keys.astype(np.int64)
    if keys.dtype.kind != "f":
        return whole
    # Other numbers by their bits, which are those of integers too large to be met.
    return np.where(whole == keys, whole, keys.astype(np.float64).view(np.int64))


def as_numbers(x: Any) -> np.ndarray:
    """Numbers of any real dtype as keys, ``int64``, that terms read as numbers: float64's bits."""
    return to_numpy(x).astype(np.float64).view(np.int64)


def as_numbers_of_float32(x: Any) -> np.ndarray:
    """`as_numbers` of what is left of numbers in float32."""
    return as_numbers(to_numpy(x).astype(np.float32))


def host_inputs(
    batches: Sequence[TaskBatch],
    required_inputs: Mapping[str, Any],
    needed: Sequence[str],
    n_tasks: int,
) -> Inputs:
    """Batches of tasks as inputs of the compiled functions, ``[n_tasks, N]``.

    Tasks without a batch have no examples.

    Raises:
        ValueError: if a further array does not fit the labels.
    """
    counts = np.zeros(n_tasks, np.int32)
    for batch in batches:
        counts[batch.tasks] = shape_of(batch.labels)[1]
    length = fine_bucket_size(max(int(counts.max(initial=0)), 1))  # Formulas want an example.

    def rows(of: Callable[[TaskBatch], np.ndarray], dtype: Any = None) -> np.ndarray:
        return padded_rows([(b.tasks, of(b)) for b in batches], n_tasks, length, dtype)

    keys = {name: as_keys(x) for name, x in required_inputs.items() if name in needed}
    return Inputs(
        rows(lambda b: to_numpy(b.predictions)),
        rows(lambda b: to_numpy(b.labels)),
        rows(lambda b: to_numpy(b.weights) if b.weights is not None else _ones(b)),
        counts,
        {
            n: rows(lambda b, n=n: required_for(n, keys[n], shape_of(b.labels)), np.int64)
            for n in keys
        },
    )


def _ones(batch: TaskBatch) -> np.ndarray:
    return np.ones(shape_of(batch.labels), np.float32)
