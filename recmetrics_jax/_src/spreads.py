"""Sums that are spread: by segment, over the resamples of a bootstrap, or by age.

A sum is a product of ones and what examples count. Other rows in the place of the ones spread it:
of a total, by segment, of two resamples, where an example is drawn 0 times, once, or more; and by
age, with a half-life of two examples::

    1    1    1    1           what examples count
    1    0    0    1     x     5                        total   by segment   resamples   by age
    0    1    1    0           3                        12      7, 5         10, 9       5.25
    2    0    0    0           2
    0    1    2    1           2
    .35  .5   .71  1

So each metric of sums has them all, by what its terms are spread over, and by one product for all
of its terms. Shapes: ``G`` segments, ``R`` resamples, ``K`` statistics.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.base import Batch, masked
from recmetrics_jax._src.identity import Value
from recmetrics_jax._src.options import flag, text, whole

Tree = TypeVar("Tree")

AT_ONCE = 8
"""Of how many segments or resamples a function is worked out at once."""

GOLDEN = np.uint32(0x9E3779B9)
"""The golden ratio, in 32 bits: its multiples are far from each other."""


@dataclasses.dataclass(frozen=True, eq=False)
class Segments(Value):
    """Segments of examples, by a key."""

    name: str
    """The name of the key."""
    count: int
    """``G``."""
    hashed: bool
    """Whether the number of a segment is a hash of the key, or the key itself."""

    @classmethod
    def checked(cls, key: str, segments: int, hashed: bool) -> "Segments":
        """The options of segments, as they are given to a factory.

        Raises:
            ValueError: if one of them is none.
        """
        return cls(text("key", key), whole("segments", segments, 1), flag("hashed", hashed))

    def make_key(self) -> Hashable:
        """All fields."""
        return self.name, self.count, self.hashed

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that it reads."""
        return (self.name,)

    def of(self, batch: Batch) -> jax.Array:
        """The segments of examples, ``int32[T, N]``: ``G`` of those that are of none, or padding.

        Those that were left out have a segment too, in which they are counted as bad.
        """
        number = numbers_of(*batch.key(self.name), self.count, self.hashed)
        return jnp.where(batch.mask | batch.nonfinite, number, jnp.int32(self.count))

    def repeated(self, function: Callable[[Batch], Tree]) -> Callable[[Batch], Tree]:
        """A function of examples, of each segment: ``[T, ...]`` becomes ``[T, G, ...]``."""

        def of_all(batch: Batch) -> Tree:
            segment = self.of(batch)
            numbers = jnp.arange(self.count, dtype=jnp.int32)
            return stacked(lambda n: function(masked(batch, segment == n)), numbers)

        return of_all


def numbers_of(upper: jax.Array, lower: jax.Array, count: int, hashed: bool) -> jax.Array:
    """The numbers of segments of the halves of keys, ``int32[...]``: ``count`` of no segment."""
    if hashed:
        a, _ = mixed(upper, lower, 0)
        return (a % np.uint32(count)).astype(jnp.int32)
    is_number = (upper == 0) & (lower >= 0) & (lower < count)
    return jnp.where(is_number, lower, jnp.int32(count))


@dataclasses.dataclass(frozen=True, eq=False)
class Resamples(Value):
    """Resamples of a Poisson bootstrap: how often each draws what has one key."""

    name: str
    """The name of the key."""
    count: int
    """``R``."""
    seed: int
    """Below 2^32."""

    def make_key(self) -> Hashable:
        """All fields."""
        return self.name, self.count, self.seed

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that it reads."""
        return (self.name,)

    def drawn(self, upper: jax.Array, lower: jax.Array) -> jax.Array:
        """How often what has these keys, ``int32[...]``, is drawn, ``int32[..., R]``."""
        return drawn(upper, lower, self.seed, jnp.arange(self.count, dtype=jnp.uint32))

    def repeated(self, function: Callable[[Batch], Tree]) -> Callable[[Batch], Tree]:
        """A function of examples, of each resample: ``[T, ...]`` becomes ``[T, R, ...]``.

        A resample has as many times the weight of an example as it draws it.
        """

        def of_one(batch: Batch, resample: jax.Array) -> Tree:
            count = drawn(*batch.key(self.name), self.seed, resample[None])[..., 0]
            weights = batch.weights * count.astype(batch.weights.dtype)
            return function(masked(batch._replace(weights=weights), count > 0))

        def of_all(batch: Batch) -> Tree:
            numbers = jnp.arange(self.count, dtype=jnp.uint32)
            return stacked(functools.partial(of_one, batch), numbers)

        return of_all


@dataclasses.dataclass(frozen=True, eq=False)
class Decay(Value):
    """What examples count by their age."""

    half_life: float
    """The age at which one counts half, in examples of its task in this state."""

    def make_key(self) -> Hashable:
        """The half-life."""
        return self.half_life.hex()

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that it reads: none."""
        return ()

    def kept(self, examples: jax.Array) -> jax.Array:
        """What is left of sums after so many more examples, ``float64[T]``; in an x64 scope."""
        return jnp.exp2(examples.astype(jnp.float64) / -self.half_life)

    def of(self, batch: Batch) -> jax.Array:
        """What examples count at the end of their batch, ``float64[T, N]``; in an x64 scope."""
        number = jnp.cumsum(batch.mask, axis=1, dtype=jnp.int32)
        return self.kept(number[:, -1:] - number)


Spread = Segments | Resamples | Decay


def stacked(function: Callable[[jax.Array], Tree], numbers: jax.Array) -> Tree:
    """``function`` of each number, ``[T, ...]``, side by side: ``[T, len(numbers), ...]``."""
    results = jax.lax.map(function, numbers, batch_size=AT_ONCE)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), results)


def product(segment: jax.Array | None, other: jax.Array, count: int, of_none: int) -> jax.Array:
    """The numbers of products of segments, ``int32[T, N]``, and of ``count`` others each.

    >>> segment, other = jnp.array([[0, 1, 2]]), jnp.array([[2, 0, 1]])
    >>> product(product(None, segment, 2, 6), other, 3, 6).tolist()
    [[2, 3, 6]]
    """
    segment = jnp.zeros_like(other) if segment is None else segment
    is_in = (segment < of_none) & (other < count)
    return jnp.where(is_in, segment * jnp.int32(count) + other, jnp.int32(of_none))


def mixed_with(words: jax.Array, number: jax.Array) -> jax.Array:
    """Keys of what is of one key and one number: ``int32[T, N, 2]``, hashed to as many bits.

    Of ``n`` distinct ones two or more share one with a probability of about ``n^2 / 2^65``.
    """
    upper, lower = (x.astype(jnp.uint32) for x in (words[..., 0], words[..., 1]))
    by = shuffled(number.astype(jnp.uint32) + GOLDEN)
    lower = shuffled(lower ^ by)
    upper = shuffled(upper + shuffled(lower + by))
    return jnp.stack([upper, lower + upper], axis=-1).astype(jnp.int32)


def mixed(upper: jax.Array, lower: jax.Array, seed: int) -> tuple[jax.Array, jax.Array]:
    """Two hashes of 64 bits, ``uint32[...]`` each; together, no two keys share them.

    By the finalizer of MurmurHash3 (Appleby 2011), of which each is a round.
    """
    a = shuffled(lower.astype(jnp.uint32) + np.uint32(seed * int(GOLDEN) & 0xFFFFFFFF))
    b = shuffled(upper.astype(jnp.uint32) ^ a)
    return shuffled(a + b * GOLDEN), b


def shuffled(x: jax.Array) -> jax.Array:
    """Bits of ``uint32[...]``, each of which depends on all there were; one to one."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


CUTS = np.cumsum([94, 95, 46, 16, 4])
"""Of a number that is any of 0 to 255, from where on it is drawn once, twice, ..., five times.

So the mean is 1 and the variance is 1, exactly, as of Poisson's law, and each chance is that of
Poisson's law to 0.6%.
"""


def drawn(upper: jax.Array, lower: jax.Array, seed: int, resamples: jax.Array) -> jax.Array:
    """How often resamples, ``uint32[R]``, draw what has these keys, ``int32[..., R]``.

    A function of seed, key and resample alone. Four resamples share a hash of 32 bits.

    >>> keys = jnp.arange(100_000)
    >>> counts = drawn(jnp.zeros_like(keys), keys, 0, jnp.arange(2, dtype=jnp.uint32))
    >>> [round(x.item(), 1) for x in (counts.mean(), counts.var(), jnp.mean(counts == 0))]
    [1.0, 1.0, 0.4]
    """
    a, b = (x[..., None] for x in mixed(upper, lower, seed))
    resamples = jnp.expand_dims(resamples, range(a.ndim - 1))
    bits = shuffled(shuffled(a + (resamples >> 2) * GOLDEN) ^ b)
    number = ((bits >> (resamples % 4 * 8)) & np.uint32(0xFF)).astype(jnp.int32)
    counts = [(number >= cut).astype(jnp.int32) for cut in CUTS.tolist()]
    return functools.reduce(jnp.add, counts)
