"""Where examples count, and how often, when their sums are spread; and these sums.

What is quick on a CPU was tried: a scatter of each column, which XLA computes as it is read, and
for resamples products of blocks of examples, so that how often they are drawn stays in the cache.

Shapes: ``G`` segments, or products of segments, ``R`` resamples, ``K`` columns.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from recmetrics_jax._src.base import Batch, along, is_known
from recmetrics_jax._src.spreads import Resamples, Segments, Spread, product

BLOCK = 512
"""Examples in a product: of so many, float32 adds up what they count; of blocks, float64."""

BLOCKS = 16
"""How many blocks are multiplied at once."""


FEW = 32
"""Up to so many segments, those of resamples are multiplied, each with all examples."""

SHARED = 256
"""Up to so many segments, each has several sums."""

LANES = 8
"""How many."""


class Place(NamedTuple):
    """Where the examples of a batch count, and how often; None where that is in one place, once."""

    segments: int
    """``G``."""
    segment: jax.Array | None
    """``int32[T, N]``: ``G`` of an example that is of none."""
    resamples: Resamples | None
    keys: tuple[jax.Array, ...]
    """What resamples draw by, ``[T, N]`` each; none if there are none."""
    age: jax.Array | None
    """``float64[T, N]``: what an example counts by its age."""

    @classmethod
    def of(cls, batch: Batch, spreads: Sequence[Spread]) -> "Place":
        """In sums that are spread."""
        count = math.prod(x.count for x in spreads if isinstance(x, Segments))
        place = cls(count, None, None, (), None)
        for x in spreads:
            if isinstance(x, Segments):
                number = product(place.segment, x.of(batch), x.count, count)
                place = place._replace(segment=number)
            elif isinstance(x, Resamples):
                place = place._replace(resamples=x, keys=batch.key(x.name))
            else:
                with jax.enable_x64(True):
                    place = place._replace(age=x.of(batch))
        return place

    def of_rows(self, rows: jax.Array) -> "Place":
        """Of the examples ``int32[T, N]``, all as old as the newest."""

        def taken(x: jax.Array) -> jax.Array:
            return jnp.take_along_axis(x, along(rows, x), axis=1, mode="promise_in_bounds")

        segment, keys = jax.tree.map(taken, (self.segment, self.keys))
        return self._replace(segment=segment, keys=keys, age=None)

    def drawn(self) -> jax.Array | None:
        """How often resamples draw examples, ``int32[T, N, R]``; None if there are none."""
        return None if self.resamples is None else self.resamples.drawn(*self.keys)

    def sums(self, columns: Sequence[jax.Array]) -> jax.Array:
        """The sums of columns ``float[T, N]``, ``float64[T, G, R, K]``, of axes that there are.

        In an x64 scope.
        """
        if self.age is not None:
            columns = [x.astype(jnp.float64) * self.age for x in columns]
        if self.resamples is not None and (self.segment is None or self.segments <= FEW):
            return self._by_products(columns, self.resamples)
        if self.segment is not None:
            return jnp.stack([self._by_scatter(x, self.segment) for x in columns], axis=-1)
        return jnp.stack([jnp.sum(x, axis=1, dtype=jnp.float64) for x in columns], axis=-1)

    def _by_scatter(self, column: jax.Array, segment: jax.Array) -> jax.Array:
        """The sums of one column, ``float64[T, G]`` or ``[T, G, R]``.

        Segments have one more number beside them, for those of none, so that no index has to be
        looked at; and few of them several, since a sum has to wait for that before it.
        """
        column = column.astype(jnp.float64)
        drawn = self.drawn()
        if drawn is not None:
            column = column[..., None] * drawn.astype(jnp.float64)
        n_tasks, examples, *rest = column.shape
        places = self.segments + 1
        lanes = LANES if places <= SHARED and not rest else 1
        task = jnp.arange(n_tasks, dtype=jnp.int32)[:, None]
        lane = jnp.arange(examples, dtype=jnp.int32)[None] % lanes
        index = (segment + task * jnp.int32(places)) * jnp.int32(lanes) + lane
        total = jnp.zeros((n_tasks * places * lanes, *rest))
        total = total.at[index.ravel()].add(column.reshape(-1, *rest), mode="promise_in_bounds")
        return jnp.sum(total.reshape(n_tasks, places, lanes, *rest), axis=2)[:, :-1]

    def _by_products(self, columns: Sequence[jax.Array], resamples: Resamples) -> jax.Array:
        """The sums by resample, ``float64[T, R, K]`` or ``[T, G, R, K]``.

        Columns of float32 are multiplied in float32, by blocks, and those of float64 in float64.
        """
        dtypes = [x.dtype for x in columns]
        sums: list[jax.Array] = [columns[0]] * len(columns)
        for dtype in dict.fromkeys(dtypes):
            places = [i for i, of in enumerate(dtypes) if of == dtype]
            numbers = jnp.stack([columns[i] for i in places])[None]
            if self.segment is not None:
                each = jnp.arange(self.segments, dtype=jnp.int32).reshape(-1, 1, 1, 1)
                is_of = self.segment[None, None] == each
                numbers = jnp.where(is_of, numbers, jnp.zeros_like(numbers))
            groups, size, *shape = numbers.shape
            products = _products(numbers.reshape(-1, *shape), self.keys, resamples)
            products = products.reshape(-1, groups, size, resamples.count)
            for i, x in zip(places, jnp.moveaxis(products, 2, 0), strict=True):
                sums[i] = x if self.segment is not None else x[:, 0]
        return jnp.stack(sums, axis=-1)


def _products(numbers: jax.Array, keys: Sequence[jax.Array], resamples: Resamples) -> jax.Array:
    """The sums of ``float[K, T, N]`` by resample, ``float64[T, K, R]``."""
    _, n_tasks, examples = numbers.shape
    length = min(BLOCK, examples) if is_known(examples) else examples
    if not is_known(examples):  # There is one block, of any length.
        numbers = numbers.astype(jnp.float64)

    def blocks(x: jax.Array) -> jax.Array:
        """``[..., T, N]`` as ``[T N / length, ..., length]``, padded with zeros."""
        if is_known(examples) and examples % length:
            x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -examples % length)])
        return jnp.moveaxis(x.reshape(*x.shape[:-2], -1, length), -2, 0)

    def of_block(block: tuple[jax.Array, ...]) -> jax.Array:
        numbers, *keys = block
        drawn = resamples.drawn(*keys).astype(numbers.dtype)
        # Not by @, of which `vmap` would make the result float32.
        return jax.lax.dot_general(
            *(numbers, drawn, (((1,), (0,)), ((), ()))), precision=jax.lax.Precision.HIGHEST
        )

    arrays = (blocks(numbers), *map(blocks, keys))
    if is_known(examples):
        by_block = jax.lax.map(of_block, arrays, batch_size=BLOCKS)
    else:
        by_block = jax.vmap(of_block)(arrays)
    by_block = by_block.astype(jnp.float64)
    return jnp.sum(by_block.reshape(n_tasks, -1, *by_block.shape[1:]), axis=1)
