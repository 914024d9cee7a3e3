"""The accumulator of windows of examples: the newest ones themselves.

With each example is kept which update brought it, so that states are merged side by side, as those
of `windows` are: the newest updates of all states that fit whole, and of which each state still has
all.

Shapes: ``T`` tasks, ``N`` examples, ``W`` examples in the window, ``C`` classes, ``D`` states.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import serialization
from jax import export

from recmetrics_jax._src import numerics, segments
from recmetrics_jax._src.base import Batch, along, is_nonfinite
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
    """``int32[T, N]``: the number of the update that brought the example, from 1; its negative for
    the first example of that update."""
    keys: dict[str, jax.Array]
    """``int32[T, N, 2]`` each, as in a `Batch`."""

    def take(self, rows: jax.Array, is_there: jax.Array) -> "Rows":
        """Those at ``int32[T, M]`` rows, zeros where ``bool[T, M]`` is False."""

        def of(x: jax.Array) -> jax.Array:
            taken = jnp.take_along_axis(x, along(rows, x), axis=1)
            return jnp.where(along(is_there, x), taken, jnp.zeros_like(taken))

        return jax.tree.map(of, self)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Limit:
    """The most examples that states are merged to; no array, since shapes depend on it."""

    examples: int


serialization.register_serialization_state(Limit, lambda _: {}, lambda limit, _: limit)
export.register_pytree_node_serialization(
    Limit,
    serialized_name="recmetrics_jax.Limit",
    serialize_auxdata=lambda limit: str(limit.examples).encode(),
    deserialize_auxdata=lambda limit: Limit(int(limit)),
)


class Samples(NamedTuple):
    """The newest examples of each task, up to its capacity: a ring.

    The capacity is ``W``, or the share of it of a state that is one of several. Then capacities add
    up when states are merged, up to ``W``.
    """

    rows: Rows
    """The examples, ``N`` of the capacity."""
    cursor: jax.Array
    """``int32[T]``: the row that the next example overwrites, which is the oldest."""
    updates: jax.Array
    """``int32[]``: how many updates there were."""
    left_out: jax.Array
    """``int32[T]``: the newest update of which a merge left examples out; 0 if none."""
    limit: Limit
    """``W``."""

    @classmethod
    def empty(
        cls, n_tasks: int, capacity: int, limit: int, classes: int | None, keys: tuple[str, ...]
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
        return cls(
            rows,
            jnp.zeros(n_tasks, jnp.int32),
            jnp.zeros((), jnp.int32),
            jnp.zeros(n_tasks, jnp.int32),
            Limit(limit),
        )

    @property
    def capacity(self) -> int:
        """How many examples there may be."""
        return self.rows.updated.shape[1]

    @property
    def batch(self) -> Batch:
        """The examples, in no particular order."""
        rows = self.rows
        mask = rows.updated != 0
        arrays = rows.predictions, rows.labels, rows.weights
        return Batch(*arrays, mask, is_nonfinite(*arrays), jnp.isnan(rows.labels), rows.keys)

    def push(self, batch: Batch) -> "Samples":
        """With the real examples of a batch; of more than fit, the last ones."""
        capacity = self.capacity
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
            updated=jnp.where(order == 1, -updates, updates),
            keys={key: batch.keys[key] for key in self.rows.keys},
        )
        rows = jax.tree.map(
            lambda ring, row: ring.at[tasks, position].set(row, mode="drop"), self.rows, new
        )
        return self._replace(
            rows=rows, cursor=(self.cursor + total[:, 0]) % capacity, updates=updates
        )

    def _from_newest(self) -> tuple[jax.Array, Rows]:
        """The rows in order, the newest first, ``int32[T, N]``; and the rows, by age.

        Which is 1 in the newest update, 2 in the one before, and `NEVER` where there is no example.
        """
        order = (self.cursor[:, None] - 1 - numerics.positions(self.capacity)) % self.capacity
        updated = self.rows.updated
        age = self.updates + jnp.int32(1) - jnp.abs(updated)
        age = jnp.where(updated == 0, jnp.full_like(age, NEVER), age)
        return order, self.rows._replace(updated=age)

    def _whole_before(self) -> jax.Array:
        """The age of the newest update that is not all here, ``int32[T]``; or `NEVER`."""
        oldest = jnp.take_along_axis(self.rows.updated, self.cursor[:, None], axis=1)[:, 0]
        # Where the ring is full, examples of the oldest update are gone, or all before it.
        gone = jnp.where(oldest < 0, -oldest - jnp.int32(1), oldest)
        gone = jnp.maximum(gone, self.left_out)
        return jnp.where(gone == 0, jnp.full_like(gone, NEVER), self.updates + jnp.int32(1) - gone)

    def merge(self, other: "Samples") -> "Samples":
        """The newest examples of both: the newest updates that fit whole, newest beside newest."""
        (order, rows), (order_of_other, of_other) = self._from_newest(), other._from_newest()
        states = [jnp.any(x.updated != NEVER, axis=1, keepdims=True) for x in (rows, of_other)]
        order_of_other = order_of_other + jnp.int32(self.capacity)
        return self._of(
            jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), rows, of_other),
            jnp.concatenate([order, order_of_other], axis=1),
            states[0] & states[1],
            jnp.maximum(self.updates, other.updates),
            jnp.minimum(self._whole_before(), other._whole_before()),
        )

    def all_merge(self, axis_name: numerics.AxisName) -> "Samples":
        """The newest examples of all devices, as in `merge`."""
        order, rows = self._from_newest()
        order = order + jax.lax.axis_index(axis_name) * self.capacity
        order, rows = jax.tree.map(lambda x: numerics.all_gather(x, axis_name), (order, rows))
        of_devices = rows.updated.reshape(len(order), -1, self.capacity)
        states = jnp.any(of_devices != NEVER, axis=2)
        updates, opposite = jax.lax.pmax((self.updates, -self._whole_before()), axis_name)
        is_of_several = jnp.sum(states, axis=1, keepdims=True, dtype=jnp.int32) > 1
        return self._of(rows, order, is_of_several, updates, -opposite)

    def _of(
        self,
        rows: Rows,
        from_newest: jax.Array,
        is_of_several: jax.Array,
        updates: jax.Array,
        whole_before: jax.Array,
    ) -> "Samples":
        """The newest examples of several states.

        Args:
            rows: of all states, ``N`` each, by age.
            from_newest: ``int32[T, D * N]``: those of each state in order.
            is_of_several: ``bool[T, 1]``, whether more than one state has any.
            updates: ``int32[]``.
            whole_before: ``int32[T]``, the least of all states.
        """
        capacity = min(self.limit.examples, from_newest.shape[1])
        age = segments.take(rows.updated, from_newest)
        order = segments.argsort(age)
        age = segments.take(age, order)
        is_there = age != NEVER
        # What one state has lost is not known beside what others still have.
        whole_before = whole_before[:, None]
        is_known = (age < whole_before) | ~is_of_several
        until = segments.last_rows(segments.is_first(age)) + jnp.int32(1)
        is_in = is_there & is_known & (until <= capacity)
        # Of the newest update, all or none can count.
        is_lost = is_there[:, :1] & ~is_in[:, :1]
        kept = jnp.where(is_lost, is_there & (numerics.positions(age.shape[1]) < capacity), is_in)
        count = jnp.sum(kept, axis=1, keepdims=True, dtype=jnp.int32)
        left_out = jnp.min(jnp.where(is_in, jnp.full_like(age, NEVER), age), axis=1, keepdims=True)
        left_out = jnp.minimum(left_out, whole_before)
        left_out = jnp.where(left_out == NEVER, 0, updates + jnp.int32(1) - left_out)
        # The oldest first, as they would have been written.
        place = count - 1 - numerics.positions(capacity)
        order = segments.take(from_newest, segments.take(order, jnp.maximum(place, 0)))
        # Behind a barrier, as sums are: a fold of states is not to become one loop.
        rows = jax.lax.optimization_barrier(rows.take(order, place >= 0))
        number = jnp.where(place >= 0, updates + jnp.int32(1) - rows.updated, 0)
        rows = rows._replace(
            weights=jnp.where(is_lost & (place >= 0), jnp.nan, rows.weights),
            updated=jnp.where(segments.is_first(rows.updated), -number, number),
        )
        return Samples(rows, count[:, 0] % capacity, updates, left_out[:, 0], self.limit)
