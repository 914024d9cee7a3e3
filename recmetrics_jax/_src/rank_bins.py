"""Bins of ranks: one for each of the first, then ever wider ones, and what they average.

Places are ranks from 0. Up to ``exact`` each has a bin; from there on, each octave has 64 bins of
one width, so that a bin is at most 1 / 64 of its places wide::

    place    0  1  2 ... 4095   4096 ... 4159   4160 ... 4223   ...   8192 ... 8319   ...
    bin      0  1  2 ... 4095   4096            4097                  4160

Shapes: ``B`` bins.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src import segments

AN_OCTAVE = 64
BITS = 31
"""Places are below 2^31."""

Gain = Callable[[np.ndarray], np.ndarray]
"""What a rank, from 1, counts; of arrays of them."""


class RankBins(NamedTuple):
    """Bins of all places."""

    exact: int
    """How many places have a bin each; a power of two, at least 64."""

    @property
    def size(self) -> int:
        """``B``."""
        return self.exact + AN_OCTAVE * (BITS - self._octave)

    @property
    def first(self) -> np.ndarray:
        """The first place of each bin, ``int64[B]``."""
        octaves = np.arange(self._octave, BITS)[:, None]
        wide = (AN_OCTAVE + np.arange(AN_OCTAVE)) << (octaves - AN_OCTAVE.bit_length() + 1)
        return np.concatenate([np.arange(self.exact), wide.ravel()])

    @property
    def width(self) -> np.ndarray:
        """How many places each bin has, ``int64[B]``."""
        return np.diff(self.first, append=1 << BITS)

    @property
    def _octave(self) -> int:
        return self.exact.bit_length() - 1

    def bin_of(self, places: jax.Array) -> jax.Array:
        """The bins of places, ``int32[...]``.

        >>> import jax.numpy as jnp
        >>> RankBins(4096).bin_of(jnp.array([0, 4095, 4159, 4160, 8319, 2**31 - 1])).tolist()
        [0, 4095, 4096, 4097, 4160, 5311]
        """
        octave = jnp.int32(BITS) - jax.lax.clz(jnp.maximum(places, 1))
        past = octave - jnp.int32(self._octave)
        of_octave = places >> jnp.maximum(octave - jnp.int32(AN_OCTAVE.bit_length() - 1), 0)
        wide = jnp.int32(self.exact) + past * jnp.int32(AN_OCTAVE) + of_octave - AN_OCTAVE
        return jnp.where(places < self.exact, places, wide)

    def bin_of_rank(self, rank: int) -> int:
        """The bin of a rank, from 1."""
        return int(np.searchsorted(self.first, rank - 1, side="right")) - 1

    def mean(self, gain: Gain, k: float = math.inf) -> np.ndarray:
        """What ranks count on average in each bin, where those above ``k`` count 0, ``float64[B]``.

        That of a wide bin is the integral over its ranks up to ``k``, by Simpson's rule: for gains
        as smooth as those of ranking, right to 1e-8.

        >>> RankBins(4096).mean(lambda rank: 1 / rank, k=3)[:4].round(3).tolist()
        [1.0, 0.5, 0.333, 0.0]
        """
        first, width = self.first, self.width
        counted = np.clip(k - first, 0, width)
        low, high = first + 0.5, first + counted + 0.5
        integral = (gain(low) + 4 * gain((low + high) / 2) + gain(high)) / 6
        return counted / width * np.where(width == 1, gain(first + 1.0), integral)


def spread(bins: RankBins, first: jax.Array, last: jax.Array, weights: jax.Array) -> jax.Array:
    """Weights spread evenly over ranges of places, by bin; in an x64 scope.

    A range adds its density where it begins to lie over whole bins, and takes it off where it
    ends; running sums over the bins give what lies over each. Bins at the ends get their part. So
    a range costs a few additions, however wide it is::

        bins of 1, 1, 2, 2 places; 5 over places 0 ... 4, a density of 1
        ends          1  .  .  1
        differences   .  1  . -1
        densities     .  1  1  .
        by bin        1  1  2  1

    Args:
        bins: the bins.
        first: ``int32[T, N]``, the first place of each range.
        last: ``int32[T, N]``, the last.
        weights: ``float64[T, N]``.

    Returns:
        ``float64[T, B]``. A range within one bin is exact.
    """
    # In floats, since one place more than the last is no int32.
    firsts, widths = (jnp.asarray(x, jnp.float64) for x in (bins.first, bins.width))
    begin, end = bins.bin_of(first), bins.bin_of(last)
    first, last = (x.astype(jnp.float64) for x in (first, last))
    density = weights / (last - first + 1.0)
    of_begin = density * (firsts[begin] + widths[begin] - first)
    of_end = density * (last - firsts[end] + 1.0)
    is_one = begin == end
    # How many ranges lie over a bin is added up, too: where none does, rounding leaves no density.
    over = jnp.stack([density, jnp.ones_like(density)])
    over = jnp.where(end > begin + 1, over, jnp.zeros_like(over))
    by_end = add_at(bins.size, begin, jnp.where(is_one, weights, of_begin))
    by_end += add_at(bins.size, end, jnp.where(is_one, jnp.zeros_like(weights), of_end))
    after = jnp.minimum(begin + 1, bins.size - 1)
    changes = [add_at(bins.size, after, x) - add_at(bins.size, end, x) for x in over]
    densities, ranges = segments.cumsum(jnp.stack(changes))
    return by_end + jnp.where(ranges > 0, densities * widths[None], 0.0)


def add_at(size: int, index: jax.Array, weights: jax.Array) -> jax.Array:
    """The sums of weights, ``float64[T, N]``, by their index, ``float64[T, size]``."""
    tasks = jnp.arange(index.shape[0], dtype=jnp.int32)[:, None]
    return jnp.zeros((index.shape[0], size)).at[tasks, index].add(weights)
