"""Examples on the host, as the compiled functions take them: padded to one of few lengths.

Shapes: ``T`` tasks, ``N`` examples, ``C`` classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from recmetrics_jax.adapter._tensors import Tensor, to_numpy

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

    def of_tasks(self, tasks: slice) -> "Inputs":
        """Those of some tasks."""
        keys = {name: key[tasks] for name, key in self.keys.items()}
        predictions, labels, weights, counts = (x[tasks] for x in self[:4])
        return Inputs(predictions, labels, weights, counts, keys)


def padded_length(n: int) -> int:
    """The length that ``n`` examples are padded to: one of few, as each is compiled anew.

    A power of two from 64 to 1,024, and beyond at most 1/8 more than ``n``.
    """
    bits = (n - 1).bit_length()
    step = 1 << (max(bits, 6) if bits <= 10 else bits - 4)
    return -(-n // step) * step


def padded(x: np.ndarray, length: int, dtype: Any = None) -> np.ndarray:
    """``[T, N, ...]`` padded with zeros to ``[T, length, ...]``; see `padded_rows`."""
    return padded_rows([(slice(None), x)], len(x), length, dtype)


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


def samples_as_inputs(samples: Mapping[str, Sequence[Tensor]], count: int, window: int) -> Inputs:
    """Kept samples, lists of chunks ``[T, n, ...]`` by name, as padded inputs.

    Padded to a power of two, or to the window: as it fills, few lengths are to be compiled.

    Args:
        samples: at least one chunk of each name; what is not counted is no example.
        count: how many examples they hold.
        window: how many they can hold.

    >>> chunks = [np.ones((1, 3)), np.ones((1, 2))]  # of two updates
    >>> inputs = samples_as_inputs(dict.fromkeys(SAMPLE_STATES, chunks), 5, window=1000)
    >>> inputs.labels.shape, inputs.labels.sum().item(), inputs.counts.tolist()
    ((1, 64), 5.0, [5])
    """
    length = max(count, min(1 << max((count - 1).bit_length(), 6), padded_length(window)))
    arrays = {
        name: padded(
            np.concatenate([to_numpy(chunk) for chunk in chunks], axis=1),
            length,
            np.float32 if name in SAMPLE_STATES else np.int64,
        )
        for name, chunks in samples.items()
    }
    predictions, labels, weights = (arrays.pop(name) for name in SAMPLE_STATES)
    return Inputs(predictions, labels, weights, np.full(len(labels), count, np.int32), arrays)
