"""Examples per second, by the clock of the user: outside of jit."""

import numpy as np
from numpy.typing import ArrayLike

from recmetrics_jax._src.options import finite


def examples_per_second(before: ArrayLike, after: ArrayLike, seconds: float) -> np.ndarray:
    """How many examples a second went in between two readings of `recmetrics_jax.examples`.

    ``examples_per_second = (after - before) / seconds``. No function of this package reads a clock:
    read the value first, which waits for what was dispatched, and then the clock. A count is a
    float32, off by 6e-8 of itself at most: of 1e9 examples by 32, and the rate of the next million
    by 6e-5 of it.

    Args:
        before: the earlier ``lifetime_examples``, ``float[T]``, or any count of one's own.
        after: the later one, of the same shape.
        seconds: what went by between them.

    Returns:
        ``float64[T]``, on the host: NaN where counts have become less, as of a state that was begun
        anew, and where no time went by.

    Raises:
        ValueError: if shapes differ, or ``seconds`` is not a finite number of at least 0.

    >>> import time
    >>> import recmetrics_jax as rm
    >>> metric = rm.examples()
    >>> state = metric.init()
    >>> before, start = np.asarray(metric.compute(state)["lifetime_examples"]), time.monotonic()
    >>> for _ in range(3):
    ...     state = metric.update(state, rm.make_batch([0.5, 0.5], [0, 1]))
    >>> after = np.asarray(metric.compute(state)["lifetime_examples"])
    >>> rate = rm.examples_per_second(before, after, time.monotonic() - start)
    >>> rm.examples_per_second(before, after, 2.0).tolist()
    [3.0]
    """
    seconds = finite("seconds", seconds, 0)
    earlier, later = (np.asarray(x, np.float64) for x in (before, after))
    if earlier.shape != later.shape:
        raise ValueError(f"after: expected shape {earlier.shape}, as before, got {later.shape}")
    counted = np.where(later < earlier, np.nan, later - earlier)
    return np.asarray(counted / seconds if seconds else np.full_like(counted, np.nan))
