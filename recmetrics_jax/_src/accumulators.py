"""The accumulators that states are made of, and how they merge.

`Sum`, `Histogram`, `Window` and `Samples` are monoids: the empty one is the identity of `merge`.
Merging is written here, once, for every metric: `merge` for two states, `all_merge` for those of
all devices on a mapped axis.

Shapes: ``T`` tasks, ``K`` statistics, ``S`` slots, ``N`` examples.
"""

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from recmetrics_jax._src import numerics, segments
from recmetrics_jax._src.base import Batch, vary_as
from recmetrics_jax._src.histogram import Histogram

Tree = TypeVar("Tree")


class Sum(NamedTuple):
    """Running sums of ``K`` statistics."""

    parts: jax.Array
    """``float[3, T, K]``: the sums, as expansions of three floats (see `numerics`)."""

    @classmethod
    def empty(cls, n_tasks: int, size: int) -> "Sum":
        """No examples."""
        return cls(jnp.zeros((3, n_tasks, size)))

    def add(self, statistics: jax.Array) -> "Sum":
        """With ``statistics``, ``float64[T, K]``, added; in an x64 scope."""
        return Sum(numerics.add(self.parts, numerics.split(statistics, self.parts.dtype, 3)))

    def read(self) -> jax.Array:
        """The sums, ``float64[T, K]``; in an x64 scope."""
        return numerics.join(self.parts)

    def merge(self, other: "Sum") -> "Sum":
        """Both sums together."""
        return Sum(numerics.add(self.parts, other.parts))

    def all_merge(self, axis_name: numerics.AxisName) -> "Sum":
        """The sum over all devices."""
        return Sum(numerics.all_add(self.parts, axis_name))


class Window(NamedTuple):
    """A ring of ``S`` slots, each with the statistics of one update, as expansions of two floats.

    The last of the ``K`` statistics is the number of examples. A push writes one slot; which slots
    still count is decided when the window is read, so nothing is ever subtracted. When a push
    would overwrite a slot that still counts, neighbours are first merged to make room.
    """

    ring: jax.Array
    """``float[2, T, S, K]``: statistics by slot."""
    cursor: jax.Array
    """``int32[T]``: the slot that the next push writes, which is the oldest."""
    oldest: jax.Array
    """``float[2, T]``: examples in the oldest slot. A push reads them here, since XLA would copy a
    ring that is read before it is written."""
    held: jax.Array
    """``float[2, T]``: examples in all slots."""

    @classmethod
    def empty(cls, n_tasks: int, size: int, slots: int) -> "Window":
        """No examples."""
        return cls(
            jnp.zeros((2, n_tasks, slots, size)),
            jnp.zeros(n_tasks, jnp.int32),
            jnp.zeros((2, n_tasks)),
            jnp.zeros((2, n_tasks)),
        )

    def push(self, statistics: jax.Array, limit: int) -> "Window":
        """With one more update, ``float64[T, K]``; in an x64 scope."""
        update = numerics.split(statistics, self.ring.dtype, 2)
        oldest = numerics.join(self.oldest)
        held = numerics.join(self.held) + statistics[:, -1]
        # The oldest slot still counts if all slots fit in the window, or all newer ones are empty.
        is_full = (oldest > 0) & ((held <= limit) | (held == oldest))
        # A loop of one round at most: XLA would copy the ring for a branch.
        ring, cursor, _ = jax.lax.while_loop(
            lambda carry: jnp.any(carry[2]),
            lambda carry: (
                *_make_room(carry[0], carry[1], is_full, limit),
                jnp.zeros_like(is_full),
            ),
            jax.tree.map(lambda x: vary_as(x, is_full), (self.ring, self.cursor, is_full)),
        )
        tasks = jnp.arange(cursor.size)
        ring = ring.at[:, tasks, cursor].set(update)
        cursor = (cursor + 1) % ring.shape[2]
        held = held - jnp.where(is_full, jnp.zeros_like(oldest), oldest)
        # Behind a barrier, as sums are, since the next push adds to it.
        held = jax.lax.optimization_barrier(numerics.split(held, ring.dtype, 2))
        return Window(ring, cursor, oldest=ring[:, tasks, cursor, -1], held=held)

    def _from_oldest(self) -> jax.Array:
        """The slots in order, oldest first, ``float[2, T, S, K]``."""
        # A loop of one round at most: of what it fuses, XLA would look up each number many times.
        # Its functions are defined once: of others, a call outside jit would compile anew.
        return jax.lax.while_loop(_is_rotated, _rotate_back, (self.ring, self.cursor))[0]

    def read(self, limit: int) -> jax.Array:
        """The sums over the newest ``limit`` examples, ``float64[T, K]``; in an x64 scope.

        The result does not depend on where in the ring the slots lie.
        """
        # The newest first; the same map leads back from ages to slots.
        age = (self.cursor[:, None] - 1 - _positions(self.ring.shape[2])) % self.ring.shape[2]
        examples = jnp.take_along_axis(numerics.join(self.ring[..., -1]), age, axis=1)
        until = segments.cumsum(examples)
        counts = jnp.take_along_axis((until <= limit) | (until == examples), age, axis=1)
        high, low = jnp.where(counts[..., None], self.ring, jnp.zeros_like(self.ring))
        return numerics.total(high.astype(jnp.float64), low.astype(jnp.float64))

    def merge(self, other: "Window") -> "Window":
        """Both windows together, their slots aligned by age: newest with newest."""
        return self._of(numerics.add(self._from_oldest(), other._from_oldest()))

    def all_merge(self, axis_name: numerics.AxisName) -> "Window":
        """The windows of all devices together, aligned by age as in `merge`."""
        return self._of(numerics.all_add(self._from_oldest(), axis_name))

    @classmethod
    def _of(cls, ring: jax.Array) -> "Window":
        """The window of slots in order, oldest first, ``float[2, T, S, K]``."""
        with jax.enable_x64(True):
            held = jnp.sum(numerics.join(ring[..., -1]), axis=1)
            held = numerics.split(held, ring.dtype, 2)
        return cls(ring, jnp.zeros(ring.shape[1], jnp.int32), ring[:, :, 0, -1], held)


def _rotate(ring: jax.Array, cursor: jax.Array) -> jax.Array:
    """The slots of a ``float[2, T, S, K]`` in order, the one at the cursor first."""
    slots = ring.shape[2]
    order = (cursor[:, None] + _positions(slots)) % slots
    return jnp.take_along_axis(ring, order[None, ..., None], axis=2)


def _is_rotated(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Whether the cursor of any task is past the first slot."""
    return jnp.any(carry[1] != 0)


def _rotate_back(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The ring and the cursors, with the oldest slots first."""
    return _rotate(*carry), jnp.zeros_like(carry[1])


def _make_room(
    ring: jax.Array, cursor: jax.Array, is_full: jax.Array, limit: int
) -> tuple[jax.Array, jax.Array]:
    """A ring with neighbours merged pair by pair, in the tasks marked in ``is_full``, ``bool[T]``.

    A pair is merged if it holds at most 4 / S of the window. Since all slots together hold at
    most the window, at most S / 4 of the S / 2 pairs hold more, and S / 4 slots become free.

    Returns:
        The ring, with a free slot at the cursor, and the cursor.
    """
    _, tasks, slots, size = ring.shape
    pairs = _rotate(ring, cursor).reshape(2, tasks, slots // 2, 2, size)
    older, newer = pairs[..., 0, :], pairs[..., 1, :]
    merged = numerics.add(older, newer)
    is_merged = merged[0, ..., -1] <= 4 * limit / slots
    free = jnp.zeros_like(merged)
    pairs = jnp.where(
        is_merged[None, ..., None, None], jnp.stack([free, merged], axis=-2), pairs
    ).reshape(ring.shape)
    # Free slots to the front, all others in order after them.
    is_used = jnp.stack([~is_merged, jnp.ones_like(is_merged)], axis=-1).reshape(tasks, slots)
    order = jnp.argsort(is_used, axis=1, stable=True)[None, ..., None]
    packed = jnp.take_along_axis(pairs, order, axis=2)
    return (
        jnp.where(is_full[None, :, None, None], packed, ring),
        jnp.where(is_full, jnp.zeros_like(cursor), cursor),
    )


class Samples(NamedTuple):
    """A ring of examples: the newest ones of each task, up to its capacity."""

    rows: Batch
    """The examples; leaves ``[T, capacity, ...]``, False in ``mask`` where there is none yet."""
    cursor: jax.Array
    """``int32[T]``: the row that the next example overwrites, which is the oldest."""

    @classmethod
    def empty(
        cls, n_tasks: int, capacity: int, classes: int | None, keys: tuple[str, ...]
    ) -> "Samples":
        """No examples."""
        shape = (n_tasks, capacity)
        rows = Batch(
            predictions=jnp.zeros(shape if classes is None else (*shape, classes)),
            labels=jnp.zeros(shape),
            weights=jnp.zeros(shape),
            mask=jnp.zeros(shape, bool),
            nonfinite=jnp.zeros(shape, bool),
            keys={key: jnp.zeros((*shape, 2), jnp.int32) for key in keys},
        )
        return cls(rows, jnp.zeros(n_tasks, jnp.int32))

    def push(self, batch: Batch) -> "Samples":
        """With the real examples of a batch; of more than fit, the last ones."""
        capacity = self.rows.mask.shape[1]
        order = jnp.cumsum(batch.mask, axis=1, dtype=jnp.int32)
        total = jnp.sum(batch.mask, axis=1, keepdims=True, dtype=jnp.int32)
        is_written = batch.mask & (order > total - capacity)
        position = (self.cursor[:, None] + order - 1) % capacity
        # Examples that are not written get a position outside the ring, which `set` drops.
        position = jnp.where(is_written, position, capacity)
        tasks = jnp.arange(self.cursor.size)[:, None]
        kept = batch._replace(keys={key: batch.keys[key] for key in self.rows.keys})
        rows = jax.tree.map(
            lambda ring, new: ring.at[tasks, position].set(new, mode="drop"), self.rows, kept
        )
        return Samples(rows, (self.cursor + total[:, 0]) % capacity)

    def _from_oldest(self) -> "Samples":
        """The same examples in order, oldest first, free rows last."""
        capacity = self.rows.mask.shape[1]
        age = (_positions(capacity) - self.cursor[:, None]) % capacity
        order = jnp.argsort(jnp.where(self.rows.mask, age, capacity), axis=1)
        rows = jax.tree.map(
            lambda x: jnp.take_along_axis(
                x, order.reshape(*order.shape, *[1] * (x.ndim - 2)), axis=1
            ),
            self.rows,
        )
        # Behind a barrier, as sums are: a fold of states is not to become one loop.
        rows = jax.lax.optimization_barrier(rows)
        return Samples(rows, jnp.sum(rows.mask, axis=1, dtype=jnp.int32) % capacity)

    def merge(self, other: "Samples") -> "Samples":
        """The examples of both; the capacities add up."""
        rows = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), self.rows, other.rows)
        return Samples(rows, jnp.zeros_like(self.cursor))._from_oldest()

    def all_merge(self, axis_name: numerics.AxisName) -> "Samples":
        """The examples of all devices; the capacities add up."""
        rows = jax.tree.map(lambda x: _all_gather(x, axis_name), self._from_oldest().rows)
        return Samples(rows, jnp.zeros_like(rows.mask[:, 0], jnp.int32))._from_oldest()


def _positions(size: int) -> jax.Array:
    """``int32[1, size]``: 0 ... size - 1."""
    return jnp.arange(size, dtype=jnp.int32)[None]


def _all_gather(x: jax.Array, axis_name: numerics.AxisName) -> jax.Array:
    """The arrays of all devices side by side on axis 1.

    As a sum of arrays that are zero elsewhere: its result is known to be the same on all devices,
    which ``shard_map`` asks for, and ``jax.lax.all_gather`` cannot tell it under ``vmap``.
    """
    if x.dtype == bool:
        return _all_gather(x.astype(jnp.int8), axis_name).astype(bool)
    size = x.shape[1]
    everywhere = jnp.zeros((x.shape[0], size * jax.lax.psum(1, axis_name), *x.shape[2:]), x.dtype)
    start = jax.lax.axis_index(axis_name) * size
    here = jax.lax.dynamic_update_slice_in_dim(everywhere, x, start, axis=1)
    return jax.lax.psum(here, axis_name)


_ACCUMULATORS = (Sum, Histogram, Window, Samples)


def _is_accumulator(x: Any) -> bool:
    return isinstance(x, _ACCUMULATORS)


def merge(a: Tree, b: Tree) -> Tree:
    """The state of two streams together: every accumulator merged with its twin."""
    return jax.tree.map(lambda x, y: x.merge(y), a, b, is_leaf=_is_accumulator)


def all_merge(state: Tree, axis_name: numerics.AxisName) -> Tree:
    """Merges a state with those of all devices on a mapped axis; every device gets the result.

    The same numbers as folding `Metric.merge` over the states, or as one device that saw all
    examples: sums keep their digits (see the README on precision), windows are aligned by age,
    newest update with newest, and hold the newest examples of all devices together.

    Args:
        state: a state of any `Metric`, as it is inside ``jax.pmap`` or ``jax.shard_map``. A metric
            written by hand says how its state merges: the state, or each of its parts, is a pytree
            with a method ``all_merge(axis_name)``.
        axis_name: the mapped axis, or a tuple of them.

    Returns:
        The merged state, with the same structure; known to be the same on all devices, so that
        ``shard_map`` accepts it with an out_spec of ``P()``.

    Raises:
        ValueError: if a part of the state does not say how it merges.

    >>> import jax, jax.numpy as jnp, recmetrics_jax as rm
    >>> metric = rm.ctr()
    >>> def clicks(labels):
    ...     state = metric.update(metric.init(), rm.make_batch(labels, labels))
    ...     return metric.compute(rm.all_merge(state, "devices"))["lifetime_ctr"]
    >>> jax.vmap(clicks, axis_name="devices")(jnp.array([[0, 0], [0, 1]])).tolist()
    [[0.25], [0.25]]
    """

    def of_all_devices(path: tuple[Any, ...], x: Any) -> Any:
        if not _says_how(x):
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"state: expected parts that say how they merge over devices, by a method "
                f"all_merge(axis_name), as those of the metrics of this package do; got "
                f"{type(x).__name__} at {where or 'the top'!r}. The state of a metric written by "
                "hand may be a NamedTuple with that method."
            )
        return x.all_merge(axis_name)

    return jax.tree_util.tree_map_with_path(of_all_devices, state, is_leaf=_says_how)


def _says_how(x: Any) -> bool:
    return callable(getattr(x, "all_merge", None))
