"""The accumulator of windows of examples: the newest ones themselves.

With each example is kept which update brought it, so that states are merged side by side, as those
of `windows` are.

Shapes: ``T`` tasks, ``N`` examples, ``W`` examples in the window, ``C`` classes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from recmetrics_jax._src import numerics, segments
from recmetrics_jax._src.base import Batch
from recmetrics_jax._src.windows import NEVER


class Rows(NamedTuple):
    """Examples as they are kept; zeros where there is none."""

    predictions: jax.Array
    """``float[T, N]``, or ``float[T, N, C]``."""
    labels: jax.Array
    """``float[T, N]``."""
    weights: jax.Array
    """``float[T, N]``."""
    updated: jax.Array
    """``int32[T, N]``: the number of the update that brought the example, from 1; its negative if
    the example is not finite."""
    keys: dict[str, jax.Array]
    """``int32[T, N, 2]`` each, as in a `Batch`."""

    def take(self, rows: jax.Array, is_there: jax.Array) -> "Rows":
        """Those at ``int32[T, M]`` rows, zeros where ``bool[T, M]`` is False."""

        def of(x: jax.Array) -> jax.Array:
            index, there = (i.reshape(*i.shape, *[1] * (x.ndim - 2)) for i in (rows, is_there))
            taken = jnp.take_along_axis(x, index, axis=1)
            return jnp.where(there, taken, jnp.zeros_like(taken))

        return jax.tree.map(of, self)

    def aged(self, updates: jax.Array) -> "Rows":
        """With ages, 1 of the newest of so many updates, in place of their numbers; or back."""
        turned = jnp.sign(self.updated) * (updates + jnp.int32(1) - jnp.abs(self.updated))
        return self._replace(updated=turned)


class Samples(NamedTuple):
    """The newest examples of each task, up to its capacity ``W``: a ring."""

    rows: Rows
    """The examples, ``N = W``."""
    cursor: jax.Array
    """``int32[T]``: the row that the next example overwrites, which is the oldest."""
    updates: jax.Array
    """``int32[]``: how many updates there were."""

    @classmethod
    def empty(
        cls, n_tasks: int, capacity: int, classes: int | None, keys: tuple[str, ...]
    ) -> "Samples":
        """No examples."""
        shape = (n_tasks, capacity)
        rows = Rows(
            predictions=jnp.zeros(shape if classes is None else (*shape, classes)),
            labels=jnp.zeros(shape),
            weights=jnp.zeros(shape),
            updated=jnp.zeros(shape, jnp.int32),
            keys={key: jnp.zeros((*shape, 2), jnp.int32) for key in keys},
        )
        return cls(rows, jnp.zeros(n_tasks, jnp.int32), jnp.zeros((), jnp.int32))

    @property
    def batch(self) -> Batch:
        """The examples, in no particular order."""
        rows = self.rows
        mask, nonfinite = rows.updated != 0, rows.updated < 0
        return Batch(rows.predictions, rows.labels, rows.weights, mask, nonfinite, rows.keys)

    def push(self, batch: Batch) -> "Samples":
        """With the real examples of a batch; of more than fit, the last ones."""
        capacity = self.rows.updated.shape[1]
        updates = self.updates + jnp.int32(1)
        order = jnp.cumsum(batch.mask, axis=1, dtype=jnp.int32)
        total = jnp.sum(batch.mask, axis=1, keepdims=True, dtype=jnp.int32)
        is_written = batch.mask & (order > total - capacity)
        position = (self.cursor[:, None] + order - 1) % capacity
        # Examples that are not written get a position outside the ring, which `set` drops.
        position = jnp.where(is_written, position, capacity)
        tasks = jnp.arange(self.cursor.size)[:, None]
        new = Rows(
            predictions=batch.predictions,
            labels=batch.labels,
            weights=batch.weights,
            updated=jnp.where(batch.nonfinite, -updates, updates),
            keys={key: batch.keys[key] for key in self.rows.keys},
        )
        rows = jax.tree.map(
            lambda ring, row: ring.at[tasks, position].set(row, mode="drop"), self.rows, new
        )
        return Samples(rows, (self.cursor + total[:, 0]) % capacity, updates)

    def _from_newest(self) -> tuple[jax.Array, Rows]:
        """The rows in order, the newest first, ``int32[T, W]``; and the rows, with their ages."""
        capacity = self.rows.updated.shape[1]
        order = (self.cursor[:, None] - 1 - numerics.positions(capacity)) % capacity
        return order, self.rows.aged(self.updates)

    def merge(self, other: "Samples") -> "Samples":
        """The newest examples of both: the newest updates that fit whole, newest beside newest."""
        (order, rows), (order_of_other, of_other) = self._from_newest(), other._from_newest()
        both = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), rows, of_other)
        order = jnp.concatenate([order, order_of_other + jnp.int32(order.shape[1])], axis=1)
        return self._of(both, order, jnp.maximum(self.updates, other.updates))

    def all_merge(self, axis_name: numerics.AxisName) -> "Samples":
        """The newest examples of all devices, as in `merge`."""
        order, rows = self._from_newest()
        order = order + jax.lax.axis_index(axis_name) * order.shape[1]
        order, rows = jax.tree.map(lambda x: numerics.all_gather(x, axis_name), (order, rows))
        return self._of(rows, order, jax.lax.pmax(self.updates, axis_name))

    def _of(self, rows: Rows, from_newest: jax.Array, updates: jax.Array) -> "Samples":
        """The newest of ``N`` rows with ages, which are in order in each state."""
        capacity = self.rows.updated.shape[1]
        age = jnp.where(rows.updated == 0, jnp.full_like(from_newest, NEVER), jnp.abs(rows.updated))
        age = segments.take(age, from_newest)
        order = segments.argsort(age)
        age = segments.take(age, order)
        until = segments.last_rows(segments.is_first(age)) + jnp.int32(1)
        is_there = age != NEVER
        count = jnp.sum(is_there & (until <= capacity), axis=1, keepdims=True, dtype=jnp.int32)
        # Of the newest update, all or none can count.
        is_lost = is_there[:, :1] & (until[:, :1] > capacity)
        count = jnp.where(is_lost, jnp.int32(capacity), count)
        # The oldest first, as they would have been written.
        place = count - 1 - numerics.positions(capacity)
        kept = segments.take(from_newest, segments.take(order, jnp.maximum(place, 0)))
        # Behind a barrier, as sums are: a fold of states is not to become one loop.
        rows = jax.lax.optimization_barrier(rows.take(kept, place >= 0))
        rows = rows._replace(updated=jnp.where(is_lost, -jnp.abs(rows.updated), rows.updated))
        return Samples(rows.aged(updates), count[:, 0] % capacity, updates)
