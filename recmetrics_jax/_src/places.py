"""Where examples count, and how often, when their sums are spread; and these sums.

Shapes: ``G`` segments, or products of segments, ``R`` resamples, ``K`` statistics.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from recmetrics_jax._src.base import Batch, along, is_known
from recmetrics_jax._src.spreads import Resamples, Segments, Spread, product

LARGEST_PRODUCT = 1 << 22
"""How many numbers of examples, resamples and statistics are made at once."""


class Place(NamedTuple):
    """Where the examples of a batch count, and how often; None where that is in one place, once."""

    segments: int
    """``G``."""
    segment: jax.Array | None
    """``int32[T, N]``: ``G`` of an example that is of none."""
    drawn: jax.Array | None
    """``int32[T, N, R]``: how often resamples draw an example."""
    age: jax.Array | None
    """``float64[T, N]``: what an example counts by its age."""

    @classmethod
    def of(cls, batch: Batch, spreads: Sequence[Spread]) -> "Place":
        """In sums that are spread."""
        count = math.prod(x.count for x in spreads if isinstance(x, Segments))
        segment = drawn = age = None
        for x in spreads:
            if isinstance(x, Segments):
                segment = product(segment, x.of(batch), x.count, count)
            elif isinstance(x, Resamples):
                drawn = x.of(batch)
            else:
                with jax.enable_x64(True):
                    age = x.of(batch)
        return cls(count, segment, drawn, age)

    def of_rows(self, rows: jax.Array) -> "Place":
        """Of the examples ``int32[T, N]``, all as old as the newest."""

        def taken(x: jax.Array) -> jax.Array:
            return jnp.take_along_axis(x, along(rows, x), axis=1, mode="promise_in_bounds")

        segment, drawn = jax.tree.map(taken, (self.segment, self.drawn))
        return Place(self.segments, segment, drawn, None)

    def sums(self, statistics: jax.Array) -> jax.Array:
        """The sums of ``float64[T, N, K]``, ``[T, G, R, K]``, of axes there are; in x64."""
        if self.age is not None:
            statistics = statistics * self.age[..., None]
        if self.segment is None:
            if self.drawn is None:
                return jnp.sum(statistics, axis=1)
            # Not by einsum: `vmap` would make its result float32.
            contracted = (((1,), (1,)), ((0,), (0,)))
            return jax.lax.dot_general(self.drawn.astype(jnp.float64), statistics, contracted)
        if self.drawn is None:
            return self._by_segment(self.segment, statistics)
        return self._by_segment_and_resample(self.segment, self.drawn, statistics)

    def _by_segment(self, segment: jax.Array, statistics: jax.Array) -> jax.Array:
        n_tasks, _, size = statistics.shape
        tasks = jnp.arange(n_tasks, dtype=jnp.int32)[:, None]
        empty = jnp.zeros((n_tasks, self.segments, size))
        return empty.at[tasks, segment].add(statistics, mode="drop")

    def _by_segment_and_resample(
        self, segment: jax.Array, drawn: jax.Array, statistics: jax.Array
    ) -> jax.Array:
        """Of so many examples at a time as are not too large."""
        n_tasks, examples, size = statistics.shape
        width = drawn.shape[2] * size

        def of(segment: jax.Array, drawn: jax.Array, statistics: jax.Array) -> jax.Array:
            each = drawn.astype(jnp.float64)[..., None] * statistics[:, :, None]
            return self._by_segment(segment, each.reshape(n_tasks, -1, width))

        arrays = (segment, drawn, statistics)
        step = max(LARGEST_PRODUCT // (n_tasks * width), 1)
        if not is_known(examples) or examples <= step:
            total = of(*arrays)
        else:
            even = examples - examples % step
            parts = [
                jnp.moveaxis(x[:, :even].reshape(n_tasks, -1, step, *x.shape[2:]), 1, 0)
                for x in arrays
            ]
            rest = of(*(x[:, even:] for x in arrays))
            total, _ = jax.lax.scan(lambda total, part: (total + of(*part), None), rest, parts)
        return total.reshape(n_tasks, self.segments, -1, size)
