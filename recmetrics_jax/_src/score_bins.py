"""Bins of scores: of any scale, as fine near 1 as near 0, and finer where that is asked for.

A score has a *key*, a whole number of 32 bits in the order of the scores, and a bin is what keys
share in their upper bits. Keys are those of the bits of a float32, ordered, but that what is above
1/2 and below 1 is told apart by ``1 - x``, as far from 1 as its mirror image is from 0. That makes
23 more octaves, for which those below 2^-103 make room: they share one, and are 32 times coarser::

    scores    0    2^-149 ... 2^-103 ... 1/4  1/2  3/4 ... 1 - 2^-24    1    2 ... 2^128
    octaves   0    0.25           1      102  103  104           126  126.5  128     255

0 and 1, which many scores may be to which a sigmoid or a cut was applied, have room of their own.
"""

import functools
import itertools
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.options import threshold, whole

MOST_BINS = 1 << 30
"""Places in a histogram of two classes are int32."""
KEY_BITS = 32
OCTAVE = 23
"""The bits of a float32 below its exponent."""
SPARED = 23
"""Octaves between 1/2 and 1 by what is left to 1, besides the one that a float32 has there."""
TINY, HALF, ONE = (SPARED + 1) << OCTAVE, 126 << OCTAVE, 127 << OCTAVE
"""The bits of 2^-103, 1/2 and 1."""
INFINITE = 255 << OCTAVE
OF_TINY = 1 << (OCTAVE - 2)
"""The key of the smallest positive float, a quarter of an octave above that of 0."""
TINY_SHIFT = 5
OF_ONE = HALF + (1 << (OCTAVE - 1))
"""The key of 1, in an octave of which 1 - 2^-24 has the first."""
MIRRORED = ONE + HALF - TINY
"""The sum of the key of x, from 1/2 to 1, and the bits of 1 - x."""
MIDDLE = 1 << (KEY_BITS - 1)
"""The key of 0, of which those of positive scores are above, and of negative ones below."""


def keys_of(scores: Any, of: ModuleType = jnp) -> Any:
    """The keys of scores, ``uint32[...]``, in the order of the scores.

    Args:
        scores: ``float32[...]``, an array of JAX or of NumPy.
        of: the module of the array, `jax.numpy` or `numpy`.

    >>> keys = keys_of(jnp.array([-2.0, -0.0, 0.0, 1e-30, 0.5, 0.75, 0.999, 1.0, 2.0]))
    >>> (keys[1:] > keys[:-1]).tolist()
    [True, False, True, True, True, True, True, True]
    """
    bits = scores.view(of.uint32)
    size = bits & of.uint32(MIDDLE - 1)
    left = (of.float32(1) - size.view(of.float32)).view(of.uint32)
    key = of.where(size > of.uint32(ONE), size, of.uint32(OF_ONE))
    key = of.where(size < of.uint32(ONE), of.uint32(MIRRORED) - left, key)
    key = of.where(size <= of.uint32(HALF), size - of.uint32(SPARED << OCTAVE), key)
    tiny = of.uint32(OF_TINY) + (size >> of.uint32(TINY_SHIFT))
    key = of.where(size < of.uint32(TINY), tiny, key)
    key = of.where(size == of.uint32(0), of.uint32(0), key)
    is_negative = (bits > of.uint32(MIDDLE)) & (size > of.uint32(0))
    return of.where(is_negative, of.uint32(MIDDLE - 1) - key, of.uint32(MIDDLE) + key)


def sizes_of(keys: np.ndarray) -> np.ndarray:
    """The bits of the smallest scores, from 0 up, whose keys are so far above `MIDDLE`, or farther.

    >>> int(sizes_of(np.array([OF_ONE]))[0]) == ONE
    True
    """
    keys = np.asarray(keys, np.int64)
    left = np.clip(MIRRORED - keys, 0, HALF).astype(np.uint32).view(np.float32)
    # Of what is left to 1, scores between 1/2 and 1 have whole multiples of 2^-24.
    mirrored = (1 - np.floor(left * 2.0**24) / 2.0**24).astype(np.float32).view(np.uint32)
    of_octave = [
        (keys <= 0, 0),
        (keys <= OF_TINY, 1),
        (keys <= 1 << OCTAVE, (keys - OF_TINY) << TINY_SHIFT),
        (keys <= HALF - (SPARED << OCTAVE), keys + (SPARED << OCTAVE)),
        (keys <= HALF, mirrored.astype(np.int64)),
        (keys <= OF_ONE, ONE),
        (keys <= ONE, ONE + 1),
    ]
    conditions, sizes = zip(*of_octave, strict=True)
    return np.select(conditions, [np.broadcast_to(x, keys.shape) for x in sizes], keys)


def scores_between(first: int, last: int) -> tuple[float, float]:
    """The lowest and the highest score that have keys from the first to the last.

    >>> scores_between(MIDDLE, MIDDLE + OF_TINY - 1)
    (0.0, 0.0)
    """

    def score(size: int, sign: int) -> float:
        return sign * float(np.uint32(min(size, INFINITE)).view(np.float32))

    def size(key: int) -> int:
        return int(sizes_of(np.array([key]))[0])

    low = score(size(first - MIDDLE), 1) if first >= MIDDLE else score(size(MIDDLE - first) - 1, -1)
    if last >= MIDDLE:
        return low, score(size(last + 1 - MIDDLE) - 1, 1)
    return low, score(size(max(MIDDLE - 1 - last, 1)), -1)


class Bins(NamedTuple):
    """A division of all scores into bins, of which some are cut into parts, each a bin itself.

    Four bins, of which the third is cut in two::

        keys of 32 bits   00...    01...    100...  101...  11...
        place             0        1        2       3       4
    """

    bins: int
    """How many there are before any is cut, a power of two: each of equally many keys."""
    cut: tuple[tuple[int, int, int], ...] = ()
    """The first and the last of neighbours that are cut, in order; and into how many parts each."""

    @property
    def size(self) -> int:
        """How many bins there are."""
        return self.bins + sum((last + 1 - first) * (parts - 1) for first, last, parts in self.cut)

    @property
    def key_bits(self) -> int:
        """How many bits keys of one bin do not share, before it is cut."""
        return KEY_BITS + 1 - self.bins.bit_length()

    @property
    def _runs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of runs of bins that are cut alike: the first of them, its place, and their parts."""
        runs = [(0, 1)]
        for first, last, parts in self.cut:
            runs += [(first, parts), (last + 1, 1)]
        firsts, parts = np.array(runs, np.int64).T
        sizes = np.diff(firsts, append=self.bins) * parts
        is_there = sizes > 0
        return firsts[is_there], (np.cumsum(sizes) - sizes)[is_there], parts[is_there]

    def places(self, scores: jax.Array) -> jax.Array:
        """The bins of scores, ``float32[...]``, as ``int32[...]``."""
        keys, bits = keys_of(scores), self.key_bits
        uncut = (keys >> jnp.uint32(bits)).astype(jnp.int32)
        if not self.cut:
            return uncut
        firsts, places, parts = self._runs
        run = jnp.searchsorted(
            jnp.asarray(firsts, jnp.int32), uncut, side="right", method="scan_unrolled"
        ) - jnp.int32(1)
        part_bits = bits - np.round(np.log2(parts)).astype(int)
        first_key, part_bits, place = (
            jnp.asarray(x, jnp.uint32)[run] for x in (firsts << bits, part_bits, places)
        )
        return (place + ((keys - first_key) >> part_bits)).astype(jnp.int32)

    def first_keys(self) -> np.ndarray:
        """The first key of each bin, ``int64[size]``."""
        firsts, places, parts = self._runs
        run = np.repeat(np.arange(len(firsts)), np.diff(places, append=self.size))
        widths = (1 << self.key_bits) // parts
        in_run = np.arange(self.size) - places[run]
        return (firsts[run] << self.key_bits) + in_run * widths[run]

    def scores_in(self) -> np.ndarray:
        """How many scores each bin could hold that differ, ``int64[size]``."""
        lowest, end = _sizes_in(self)
        return np.maximum(end - lowest, 0)

    def lowest_scores(self) -> np.ndarray:
        """The lowest score of each bin, ``float32[size]``; any, of one that could hold none.

        >>> bins = Bins(4096)
        >>> bins.lowest_scores()[bins.places(jnp.array([0.0, 0.3, 0.9, 1.0]))].tolist()
        [0.0, 0.28125, 0.8984375, 1.0]
        """
        lowest, end = _sizes_in(self)
        is_negative = self.first_keys() < MIDDLE
        sizes = np.minimum(np.where(is_negative, end - 1, lowest), INFINITE)
        scores = sizes.astype(np.uint32).view(np.float32)
        return np.where(is_negative, -scores, scores)


@functools.lru_cache(maxsize=2)
def _sizes_in(bins: Bins) -> tuple[np.ndarray, np.ndarray]:
    """The least bits of scores in each bin, without their sign, and one more than the largest."""
    first = bins.first_keys()
    last = np.append(first[1:], 1 << KEY_BITS) - 1
    # Those of a negative bin are the mirror image of a positive one.
    above = np.where(first >= MIDDLE, first - MIDDLE, MIDDLE - 1 - last)
    # -0 is 0, and has no key of its own; what is beyond infinity is no number.
    lowest = np.maximum(sizes_of(above), first < MIDDLE)
    return lowest, np.minimum(sizes_of(above + (last - first) + 1), INFINITE + 1)


def cut_alike(bins: int, bits: np.ndarray) -> Bins:
    """Bins that are cut into so many parts as the power of two with these ``bits``, ``int[bins]``.

    >>> cut_alike(4, np.array([0, 3, 3, 1]))
    Bins(bins=4, cut=((1, 2, 8), (3, 3, 2)))
    """
    edges = np.flatnonzero(np.diff(bits, prepend=0, append=0))
    runs = [(a, b - 1, 1 << int(bits[a])) for a, b in itertools.pairwise(edges.tolist())]
    return Bins(bins, tuple(run for run in runs if run[2] > 1))


def bins_of_ranges(bins: int, ranges: Any) -> Bins:
    """Bins of which those that ranges of scores touch are cut.

    Args:
        bins: how many there are before, a power of two.
        ranges: tuples of a lowest and a highest score, and into how many parts each bin is cut.

    Raises:
        ValueError: if ranges are not such tuples, or make too many bins.

    >>> bins_of_ranges(16, ((0.2, 0.3, 2), (-1, 2, 8)))
    Bins(bins=16, cut=((4, 12, 8),))
    """
    uncut = Bins(bins)
    bits = np.zeros(bins, int)
    for low, high, parts in _checked(ranges, 1 << uncut.key_bits):
        with np.errstate(over="ignore"):  # Beyond the largest float is infinity.
            keys = keys_of(np.array([low, high], np.float32), np)
        first, last = (keys >> np.uint32(uncut.key_bits)).tolist()
        bits[first : last + 1] = np.maximum(bits[first : last + 1], parts.bit_length() - 1)
    cut = cut_alike(bins, bits)
    if cut.size > MOST_BINS:
        raise ValueError(f"refine: expected at most {MOST_BINS:,} bins in all, got {cut.size:,}")
    return cut


def _checked(ranges: Any, most: int) -> list[tuple[float, float, int]]:
    """Ranges of scores with numbers of parts; raises ValueError if they are anything else."""
    try:
        given = [tuple(each) for each in ranges]
    except TypeError:
        given = [()]
    checked = []
    for each in given:
        if len(each) != 3:
            raise ValueError(
                "refine: expected ranges of scores, and into how many parts a bin is cut there, as "
                f"in ((0.02, 0.04, 256),), got {ranges!r:.80}"
            )
        low, high = (threshold("refine", score) for score in each[:2])
        if low > high:
            raise ValueError(f"refine: expected ranges from low to high, got {each}")
        parts = whole("refine", each[2], 2, most)
        if parts & (parts - 1):
            raise ValueError(f"refine: expected a power of two of parts, got {parts:,}")
        checked.append((low, high, parts))
    return checked
