"""Sums of statistics by bin, of which an example adds to one: the accumulator of binned metrics.

Shapes: ``T`` tasks, ``B`` bins, ``C`` statistics in a bin, ``N`` examples.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from recmetrics_jax._src import numerics
from recmetrics_jax._src.base import is_known

SCALE = 2.0**24
BINS_A_ROW = 4
"""With at most so many bins for each example, it is quicker to go through all of them."""
MAX_ROWS = 1 << 24
"""Up to here a float32 tells whole numbers apart."""


class Histogram(NamedTuple):
    """Running sums of ``C`` statistics in each of ``B`` bins: an update costs O(batch).

    A sum is the nearest float and, times 2^24, what that leaves: about 49 bits, whatever the sums
    of other bins are. What a batch adds to a bin is added up in float64, and an update so rounds
    the sum by at most 2^-50 of itself: 1e8 updates leave it right to 1e-7, and whole numbers are
    exact up to 2^48. Times 2^24, since what a small sum leaves might be too small for a float.
    Beyond the largest float a sum is NaN; statistics below the smallest normal one, 1.2e-38, may
    count as zero, as XLA has it.
    """

    parts: jax.Array
    """``float[T, B, 2 C]``: the sums of a bin, rounded; and what that leaves of them, times 2^24.
    """

    @classmethod
    def empty(cls, n_tasks: int, counts: int, bins: int) -> "Histogram":
        """No examples."""
        return cls(jnp.zeros((n_tasks, bins, 2 * counts)))

    @property
    def size(self) -> int:
        """How many sums a task has."""
        return self.parts.shape[1] * self.parts.shape[2] // 2

    def add(self, index: jax.Array, statistics: jax.Array) -> "Histogram":
        """With ``statistics``, ``float[T, N, C]``, added in the bins ``index``, ``int32[T, N]``.

        >>> sums = Histogram.empty(1, 1, 3)
        >>> sums = sums.add(jnp.array([[0, 2]]), jnp.array([[[1.0], [2.0**-60]]]))
        >>> sums = sums.add(jnp.array([[0, 2]]), jnp.array([[[2.0**-30], [2.0**-60]]]))
        >>> sums.parts[0].tolist() == [[1.0, 2.0**-6], [0, 0], [2.0**-59, 0]]
        True
        """
        chex.assert_shape(statistics, (*index.shape, self.parts.shape[2] // 2))
        examples = index.shape[1]
        if is_known(examples) and examples < min(self.parts.shape[1] // BINS_A_ROW, MAX_ROWS):
            return Histogram(jax.vmap(_added)(self.parts, index, statistics))
        tasks = jnp.arange(index.shape[0], dtype=index.dtype)[:, None]
        with jax.enable_x64(True):
            total = _join(self.parts)
            added = jnp.zeros_like(total).at[tasks, index].add(statistics.astype(jnp.float64))
            return self._of(total + added)

    def times(self, factors: jax.Array) -> "Histogram":
        """The sums times factors, ``float64[T]``; in an x64 scope."""
        return self._of(_join(self.parts) * factors[:, None, None])

    def read(self) -> jax.Array:
        """The sums, ``float64[T, C, B]``; in an x64 scope."""
        return jnp.swapaxes(_join(self.parts), 1, 2)

    def merge(self, other: "Histogram") -> "Histogram":
        """Both sums together."""
        with jax.enable_x64(True):
            return self._of(_join(self.parts) + _join(other.parts))

    def all_merge(self, axis_name: numerics.AxisName) -> "Histogram":
        """The sum over all devices."""
        with jax.enable_x64(True):
            return self._of(jax.lax.psum(_join(self.parts), axis_name))

    def _of(self, total: jax.Array) -> "Histogram":
        """Of sums, ``float64[T, B, C]``, as this one holds them; in an x64 scope."""
        # Behind a barrier, as the sums of `numerics.add` are.
        return Histogram(jax.lax.optimization_barrier(_split(total, self.parts.dtype)))


def _join(parts: jax.Array) -> jax.Array:
    """The sums, ``float64[..., C]``; in an x64 scope."""
    sums, rest = jnp.split(parts.astype(jnp.float64), 2, axis=-1)
    return sums + rest / SCALE


def _split(total: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The parts of sums, ``float64[..., C]``; in an x64 scope."""
    sums = total.astype(dtype)
    rest = (total - sums.astype(jnp.float64)) * SCALE
    return jnp.concatenate([sums, rest.astype(dtype)], axis=-1)


def _added(parts: jax.Array, index: jax.Array, statistics: jax.Array) -> jax.Array:
    """The parts of one task with ``statistics``, ``float[N, C]``, added at ``index``.

    Rows of one bin are brought together without a sort. Each writes its number into its bin, and
    reads whose is there: that row is the place where what they add is added up. Then all rows of
    a bin write the same new sum. The numbers lie where the first rest will be, once it was read::

        bin       3    7    3        what the rows add      1    2    4
        number    0    1    2
        place     2    1    2        what their bins get    5    2    5

    The place of rows whose rest is NaN is a spare one, of NaN: such a sum stays NaN. So the numbers
    depend on what was read, and XLA can write them where that was, without a copy.
    """
    examples, counts = statistics.shape
    # A bin is in range by its making.
    was = parts.at[index].get(mode="promise_in_bounds")
    numbers = jnp.arange(examples, dtype=jnp.int32)
    numbers = jnp.where(jnp.isnan(was[:, counts]), examples, numbers).astype(parts.dtype)
    parts = parts.at[index, counts].set(numbers, mode="promise_in_bounds")
    place = parts.at[index, counts].get(mode="promise_in_bounds").astype(jnp.int32)
    with jax.enable_x64(True):
        added = jnp.zeros((examples + 1, counts)).at[examples].set(jnp.nan)
        added = added.at[place].add(statistics.astype(added.dtype), mode="promise_in_bounds")
        added = added.at[place].get(mode="promise_in_bounds")
        now = _split(_join(was) + added, parts.dtype)
    return parts.at[index].set(now, mode="promise_in_bounds")
