"""The accumulator of windows of sums: what the newest examples add up to.

States are merged side by side: the newest update of one with the newest update of the other, and so
on back, since states that are kept apart are those of devices that update in step. Of merged states
a window holds the newest updates that fit into it whole; where not even the newest one does, what
its values would be is not known, and they are NaN. `samples` does the same with examples.

Shapes: ``T`` tasks, ``K`` statistics, ``S`` slots, ``N`` examples, ``D`` states or devices.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src import numerics, segments

NEVER = np.iinfo(np.int32).max
"""The age of what is not there."""


class Slots(NamedTuple):
    """The slots of a `Window` in order, the open one last."""

    ring: jax.Array
    """``float[2, T, S, K]``."""
    ages: jax.Array
    """``int32[T, S]``: updates since the newest in a slot, `NEVER` of an empty one."""

    @property
    def examples(self) -> jax.Array:
        """``float[T, S]``: whole numbers, which the first float holds as long as they are exact."""
        return self.ring[0, ..., -1]

    def moved(self, targets: jax.Array) -> "Slots":
        """Each slot added to the one at its target, ``int32[T, S]``; dropped where that is S."""
        tasks = jnp.arange(targets.shape[0])[:, None]
        ages = jnp.full_like(self.ages, NEVER).at[tasks, targets].min(self.ages, mode="drop")
        with jax.enable_x64(True):
            slots = numerics.join(self.ring)
            slots = jnp.zeros_like(slots).at[tasks, targets].add(slots, mode="drop")
            return Slots(numerics.split(slots, self.ring.dtype, 2), ages)


class Window(NamedTuple):
    """The sums of the newest examples: a ring of ``S`` slots, as expansions of two floats.

    The last of the ``K`` statistics is the number of examples. Updates go into the open slot, and
    it is closed when one more would make it hold over ``2 W / S`` of the ``W`` examples of the
    window; so an update of many examples has a slot for itself. Two neighbours hold over
    ``2 W / S`` in sum, and all slots over ``W``: the one opened next is never one that counts.

    With W = 8 and S = 4, so at most 4 examples where updates share a slot, and updates of 3, 3, 1,
    5 and 2 examples, where ``>`` is the open slot::

        >[3] [ ] [ ] [ ]    [3] >[3] [ ] [ ]    [3] >[4] [ ] [ ]    3 and 1 share a slot
         [3] [4]>[5] [ ]    [3] [4] [5]>[2]     the window: 2 + 5 examples; with 4 more, over 8

    What counts is decided when the window is read, so nothing is ever subtracted.
    """

    ring: jax.Array
    """``float[2, T, S, K]``: statistics by slot."""
    updated: jax.Array
    """``int32[T, S]``: the number of the newest update in the slot, from 1."""
    newest: jax.Array
    """``float[2, T, K]``: what is in the open slot. XLA would copy a ring that is read before it is
    written."""
    counters: jax.Array
    """``int32[3, T]``: which slot is open, how many updates there were, and ``W``."""

    @classmethod
    def empty(cls, n_tasks: int, size: int, slots: int, limit: int) -> "Window":
        """No examples."""
        return cls(
            jnp.zeros((2, n_tasks, slots, size)),
            jnp.zeros((n_tasks, slots), jnp.int32),
            jnp.zeros((2, n_tasks, size)),
            jnp.zeros((3, n_tasks), jnp.int32).at[2].set(limit),
        )

    @property
    def _most_shared(self) -> jax.Array:
        """How many examples a slot may hold that updates share, ``float64[T]``; in an x64 scope."""
        return 2 * self.counters[2].astype(jnp.float64) / self.ring.shape[2]

    def push(self, statistics: jax.Array) -> "Window":
        """With one more update, ``float64[T, K]``, of at most ``W`` examples; in an x64 scope."""
        held = numerics.join(self.newest)
        closes = (held[:, -1] > 0) & (held[:, -1] + statistics[:, -1] > self._most_shared)
        newest = statistics + jnp.where(closes[:, None], jnp.zeros_like(held), held)
        cursor, updates, limit = self.counters
        cursor = (cursor + closes.astype(jnp.int32)) % self.ring.shape[2]
        newest = numerics.split(newest, self.ring.dtype, 2)
        # Behind a barrier, as sums are, since the next push adds to them.
        newest, counters = jax.lax.optimization_barrier(
            (newest, jnp.stack([cursor, updates + jnp.int32(1), limit]))
        )
        cursor, updates, _ = counters
        tasks = jnp.arange(cursor.size)
        return self._replace(
            ring=self.ring.at[:, tasks, cursor].set(newest),
            updated=self.updated.at[tasks, cursor].set(updates),
            newest=newest,
            counters=counters,
        )

    def read(self) -> jax.Array:
        """The sums over the window, ``float64[T, K]``; in an x64 scope.

        The result does not depend on where in the ring the slots lie.
        """
        # The newest first; the same map leads back from ages to slots.
        age = (
            self.counters[0][:, None] - numerics.positions(self.ring.shape[2])
        ) % self.ring.shape[2]
        examples = jnp.take_along_axis(numerics.join(self.ring[..., -1]), age, axis=1)
        until = segments.cumsum(examples)
        is_in = until <= self.counters[2].astype(jnp.float64)[:, None]
        is_lost = jnp.any((until == examples) & ~is_in, axis=1)
        counts = jnp.take_along_axis(is_in, age, axis=1)
        high, low = jnp.where(counts[..., None], self.ring, jnp.zeros_like(self.ring))
        total = numerics.total(high.astype(jnp.float64), low.astype(jnp.float64))
        return jnp.where(is_lost[:, None], jnp.nan, total)

    def _ages(self) -> jax.Array:
        """How many updates came after the newest of each slot, ``int32[T, S]``; or `NEVER`."""
        age = self.counters[1][:, None] - self.updated
        return jnp.where(self.ring[0, ..., -1] > 0, age, jnp.full_like(age, NEVER))

    def _from_oldest(self) -> Slots:
        """The slots in order, the open one last."""
        # A loop of one round at most: of what it fuses, XLA would look up each number many times.
        # Its functions are defined once: of others, a call outside jit would compile anew.
        slots, _ = jax.lax.while_loop(
            _is_rotated, _rotate_back, (Slots(self.ring, self._ages()), self.counters[0])
        )
        return slots

    def merge(self, other: "Window") -> "Window":
        """Both windows together, aligned by age in updates: newest with newest."""
        a, b = self._from_oldest(), other._from_oldest()
        is_aligned = _is_aligned(jnp.maximum(_extremes(a.ages), _extremes(b.ages)))
        a, b = jax.lax.cond(is_aligned, _as_they_are, _realigned, a, b, self.counters[2])
        merged = Slots(numerics.add(a.ring, b.ring), jnp.minimum(a.ages, b.ages))
        return self._of(merged, jnp.maximum(self.counters[1:], other.counters[1:]))

    def all_merge(self, axis_name: numerics.AxisName) -> "Window":
        """The windows of all devices together, aligned by age as in `merge`."""
        here = self._from_oldest()
        is_aligned = _is_aligned(jax.lax.pmax(_extremes(here.ages), axis_name))
        realigned = _realigned_over(axis_name)
        here = jax.lax.cond(is_aligned, _as_it_is, realigned, here, self.counters[2])
        ring = numerics.all_add(here.ring, axis_name)
        ages = -jax.lax.pmax(-here.ages, axis_name)
        return self._of(Slots(ring, ages), jax.lax.pmax(self.counters[1:], axis_name))

    def _of(self, slots: Slots, counters: jax.Array) -> "Window":
        """The window of slots in order, the open one last, with the counters after the first."""
        last = slots.ages.shape[1] - 1
        updated = counters[0][:, None] - slots.ages
        return self._replace(
            ring=slots.ring,
            updated=jnp.where(slots.ages == NEVER, jnp.zeros_like(updated), updated),
            newest=slots.ring[:, :, last],
            counters=jnp.concatenate([jnp.full_like(counters[:1], last), counters]),
        )


def _is_rotated(carry: tuple[Slots, jax.Array]) -> jax.Array:
    """Whether the open slot of any task is not the last."""
    slots, cursor = carry
    return jnp.any(cursor != slots.ages.shape[1] - 1)


def _rotate_back(carry: tuple[Slots, jax.Array]) -> tuple[Slots, jax.Array]:
    """The slots with the open ones last, and their cursors."""
    slots, cursor = carry
    size = slots.ages.shape[1]
    order = (cursor[:, None] + jnp.int32(1) + numerics.positions(size)) % size
    ring = jnp.take_along_axis(slots.ring, order[None, ..., None], axis=2)
    ages = jnp.take_along_axis(slots.ages, order, axis=1)
    return Slots(ring, ages), jnp.full_like(cursor, size - 1)


def _extremes(ages: jax.Array) -> jax.Array:
    """The ages of slots, and their negatives, ``int32[2, T, S]``, to be maximized over states.

    Slots without examples have no say, if they come before all others. Between others they say that
    they are empty, since what is there in another state may be out of order.
    """
    is_empty = ages == NEVER
    has_gap = jnp.any(~is_empty[:, :-1] & is_empty[:, 1:], axis=1, keepdims=True)
    return jnp.stack([jnp.where(is_empty & ~has_gap, jnp.full_like(ages, -1), ages), -ages])


def _is_aligned(extremes: jax.Array) -> jax.Array:
    """Whether slots at one place are of one age in all states that have any, ``bool[]``."""
    oldest, youngest = extremes[0], -extremes[1]
    return jnp.all((oldest == youngest) | (oldest < 0))


def _as_they_are(a: Slots, b: Slots, limit: jax.Array) -> tuple[Slots, Slots]:
    del limit
    return a, b


def _realigned(a: Slots, b: Slots, limit: jax.Array) -> tuple[Slots, Slots]:
    ages = jnp.concatenate([a.ages, b.ages], axis=1)
    examples = jnp.concatenate([a.examples, b.examples], axis=1)
    size = a.ages.shape[1]
    targets = _targets(ages, examples, limit, size)
    return a.moved(targets[:, :size]), b.moved(targets[:, size:])


def _as_it_is(slots: Slots, limit: jax.Array) -> Slots:
    del limit
    return slots


@functools.cache
def _realigned_over(axis_name: numerics.AxisName) -> Callable[[Slots, jax.Array], Slots]:
    """`_realigned` for the slots of all devices.

    Made once for each axis, since outside jit a new function would compile anew.
    """

    def realigned(slots: Slots, limit: jax.Array) -> Slots:
        ages, examples = (numerics.all_gather(x, axis_name) for x in (slots.ages, slots.examples))
        size = slots.ages.shape[1]
        targets = _targets(ages, examples, limit, size)
        start = jax.lax.axis_index(axis_name) * size
        return slots.moved(jax.lax.dynamic_slice_in_dim(targets, start, size, axis=1))

    return realigned


def _targets(ages: jax.Array, examples: jax.Array, limit: jax.Array, slots: int) -> jax.Array:
    """To which of ``S`` slots those of all states go, so that equal ages meet.

    The examples of all states, the newest first, are cut into S / 2 cells of ``2 W / S``. Slots of
    one age go to one slot: that of their cell if they lie in it, else one that is theirs
    alone, and comes after that of the cell where they begin. So two neighbours hold over
    ``2 W / S``, as those of `Window.push` do.

    Args:
        ages: ``int32[T, D * S]``.
        examples: ``float[T, D * S]``.
        limit: ``int32[T]``, ``W``.
        slots: ``S``.

    Returns:
        ``int32[T, D * S]``; S for what is outside of the window.
    """
    order = segments.argsort(ages)
    sorted_ages = segments.take(ages, order)
    is_first = segments.is_first(sorted_ages)
    with jax.enable_x64(True):
        examples = segments.take(examples, order).astype(jnp.float64)
        until = segments.cumsum(examples)
        before = segments.take(until - examples, segments.first_rows(is_first))
        until = segments.take(until, segments.last_rows(is_first))
        cell_size = 2 * limit.astype(jnp.float64)[:, None] / slots
        cell = jnp.floor(before / cell_size)
        is_alone = jnp.ceil(until / cell_size) - 1 > cell
        place = jnp.minimum(2 * cell + is_alone.astype(jnp.float64), slots).astype(jnp.int32)
    is_out = (place >= slots) | (sorted_ages == NEVER)
    target = jnp.where(is_out, jnp.full_like(place, slots), slots - 1 - place)
    return segments.put(target, order)
