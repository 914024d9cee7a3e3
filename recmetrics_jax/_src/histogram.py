"""Sums of many statistics, of which an example adds to few: the accumulator of binned metrics.

Shapes: ``T`` tasks, ``K`` statistics, ``N`` examples.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from recmetrics_jax._src import numerics
from recmetrics_jax._src.base import is_known
from recmetrics_jax._src.sharding import vary_as

MAX_ADDITIONS = 1 << 16


class Histogram(NamedTuple):
    """Running sums of ``K`` statistics, of which an example adds to few: an update costs O(batch).

    An addition is cut at ``unit``: its multiples of it add up in one float without error, what is
    left, at most 1 / 256 of the largest, adds up in another. Before they are so many that the
    first would round, both go into expansions. So whole numbers up to 128 are exact, and sums of
    others are right to about 2e-6 of themselves, where a plain float loses 2e-4.
    """

    parts: jax.Array
    """``float[3, T, K]``: expansions of three floats."""
    recent: jax.Array
    """``float[2, T, K]``: what has been added since, multiples of the unit and the rest."""
    unit: jax.Array
    """``float[T, 1]``: a power of two, at least 1 / 128 of the largest recent addition."""
    additions: jax.Array
    """``int32[]``: how many recent additions there are."""

    @classmethod
    def empty(cls, n_tasks: int, size: int) -> "Histogram":
        """No examples."""
        return cls(
            jnp.zeros((3, n_tasks, size)),
            jnp.zeros((2, n_tasks, size)),
            jnp.zeros((n_tasks, 1)),
            jnp.zeros((), jnp.int32),
        )

    def add(self, index: jax.Array, statistics: jax.Array) -> "Histogram":
        """With ``statistics``, ``float[T, N]``, added at ``index``, ``int32[T, N]``.

        Where the largest addition is 1, the unit is 1 / 64. The nearest multiple to 19.25 / 64 is
        19 / 64, which adds up without error; 0.25 / 64 is left, and adds up beside it::

            at index        0        1    2
            multiples       64/64    0    19/64 + 19/64
            what is left    0        0    0.25/64 + 0.25/64

        >>> sums = Histogram.empty(1, 3)
        >>> sums = sums.add(jnp.array([[0, 2, 2]]), jnp.array([[64, 19.25, 19.25]]) / 64)
        >>> (sums.recent * 64).tolist(), (sums.unit * 64).item()
        ([[[64.0, 0.0, 38.0]], [[0.0, 0.0, 0.5]]], 1.0)
        """
        chex.assert_equal_shape([index, statistics])
        tasks = jnp.arange(index.shape[0], dtype=index.dtype)[:, None]
        if not is_known(index.shape[1]) or index.shape[1] >= MAX_ADDITIONS:
            with jax.enable_x64(True):
                sums = jnp.zeros(self.parts.shape[1:], jnp.float64)
                sums = sums.at[tasks, index].add(statistics.astype(jnp.float64))
                return self._replace(
                    parts=numerics.add(self.parts, numerics.split(sums, self.parts.dtype, 3))
                )
        held = self._with_room_for(statistics)
        multiples = jnp.round(statistics / held.unit) * held.unit
        recent = held.recent.at[0, tasks, index].add(multiples)
        recent = recent.at[1, tasks, index].add(statistics - multiples)
        return held._replace(recent=recent, additions=held.additions + jnp.int32(index.shape[1]))

    def _with_room_for(self, statistics: jax.Array) -> "Histogram":
        """The same sums, so that ``statistics`` can be added to the recent ones.

        Tasks are settled whose unit is too small for their largest addition, and all of them once
        the recent additions are many. By task, so that none has other digits for what the others
        hold.
        """
        largest = jnp.max(jnp.abs(statistics), axis=1, keepdims=True, initial=0.0)
        _, exponent = jnp.frexp(largest)
        unit = jnp.ldexp(jnp.ones_like(largest), exponent - 7)
        is_due = (self.additions >= MAX_ADDITIONS) | (unit > self.unit)
        # A loop of one round at most: XLA would copy the sums for a branch.
        held, _ = jax.lax.while_loop(
            lambda carry: jnp.any(carry[1]),
            lambda carry: (carry[0]._settled_in(is_due, unit), jnp.zeros_like(is_due)),
            (jax.tree.map(lambda x: vary_as(x, is_due), self), is_due),
        )
        return held

    def _settled_in(self, is_due: jax.Array, unit: jax.Array) -> "Histogram":
        """Settled, with a new ``unit``, in the tasks of ``is_due``, ``bool[T, 1]``."""
        settled = self._settled()
        return Histogram(
            jnp.where(is_due, settled.parts, self.parts),
            jnp.where(is_due, settled.recent, self.recent),
            jnp.where(is_due, unit, self.unit),
            # In a task that is settled for its unit there are fewer: its next time comes early.
            jnp.where(self.additions >= MAX_ADDITIONS, settled.additions, self.additions),
        )

    def _settled(self) -> "Histogram":
        """With what is recent added to the expansions."""
        parts = self.parts
        for recent in self.recent:
            nothing = jnp.zeros_like(recent)
            parts = numerics.add(parts, jnp.stack([recent, nothing, nothing]))
        return self._replace(
            parts=parts,
            recent=jnp.zeros_like(self.recent),
            additions=jnp.zeros_like(self.additions),
        )

    def read(self) -> jax.Array:
        """The sums, ``float64[T, K]``; in an x64 scope."""
        return numerics.join(self.parts) + numerics.join(self.recent)

    def merge(self, other: "Histogram") -> "Histogram":
        """Both sums together."""
        a, b = self._settled(), other._settled()
        unit = jnp.maximum(a.unit, b.unit)
        return a._replace(parts=numerics.add(a.parts, b.parts), unit=unit)

    def all_merge(self, axis_name: numerics.AxisName) -> "Histogram":
        """The sum over all devices."""
        parts = numerics.all_add(self._settled().parts, axis_name)
        return Histogram(
            parts,
            jnp.zeros_like(parts[:2]),
            jnp.zeros_like(parts[0, :, :1]),
            jnp.zeros((), jnp.int32),
        )
