"""The accumulators that states are made of, and how they merge.

`Sum`, `Histogram`, `Window` and `Samples` are monoids: the empty one is the identity of `merge`.
Merging is written here, once, for every metric: `merge` for two states, `all_merge` for those of
all devices on a mapped axis.

Shapes: ``T`` tasks, ``K`` statistics.
"""

from typing import Any, NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp

from recmetrics_jax._src import _cpu, numerics
from recmetrics_jax._src.histogram import Histogram
from recmetrics_jax._src.samples import Samples
from recmetrics_jax._src.sharding import varying_axes
from recmetrics_jax._src.windows import Window

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
        chex.assert_shape(statistics, self.parts.shape[1:])
        split = numerics.split(statistics, self.parts.dtype, 3)
        return Sum(numerics.add(self.parts, _cpu.computed_once(split)))

    def times(self, factors: jax.Array) -> "Sum":
        """The sums times factors, ``float64[T, K]``; in an x64 scope."""
        return Sum(numerics.split(self.read() * factors, self.parts.dtype, 3))

    def read(self) -> jax.Array:
        """The sums, ``float64[T, K]``; in an x64 scope."""
        return numerics.join(self.parts)

    def merge(self, other: "Sum") -> "Sum":
        """Both sums together."""
        return Sum(numerics.add(self.parts, other.parts))

    def all_merge(self, axis_name: numerics.AxisName) -> "Sum":
        """The sum over all devices."""
        return Sum(numerics.all_add(self.parts, axis_name))


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
            written by hand says how its state merges: the state, or each thing in it, is a pytree
            with a method ``all_merge(axis_name)``.
        axis_name: the mapped axis, or a tuple of them.

    Returns:
        The merged state, with the same structure; known to be the same on all devices, so that
        ``shard_map`` accepts it with an out_spec of ``P()``.

    Raises:
        ValueError: if a thing in the state does not say how it merges; inside ``shard_map``, if the
            state is the same on all devices by its type, and would count once for each. Where types
            do not tell, a state that was merged before and went on on each device is still known:
            values of what it is merged to are NaN.

    >>> import jax, jax.numpy as jnp, recmetrics_jax as rm
    >>> metric = rm.ctr()
    >>> def clicks(labels):
    ...     state = metric.update(metric.init(), rm.make_batch(labels, labels))
    ...     return metric.compute(rm.all_merge(state, "devices"))["lifetime_ctr"]
    >>> jax.vmap(clicks, axis_name="devices")(jnp.array([[0, 0], [0, 1]])).tolist()
    [[0.25], [0.25]]
    """
    _check_differs(state, axis_name)
    return all_merged(state, axis_name)


def all_merged(state: Tree, axis_name: numerics.AxisName) -> Tree:
    """`all_merge`, of anything in a state."""

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


def _check_differs(state: Any, axis_name: numerics.AxisName) -> None:
    """Raises ValueError if a state is of a type that is the same on all devices of an axis."""
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    differs = {name for x in jax.tree.leaves(state) for name in varying_axes(x)}
    for name in names:
        # Where types do not tell, that of the number of a device does not either.
        if name in varying_axes(jax.lax.axis_index(name)) and name not in differs:
            raise ValueError(
                f"state: expected one that differs over the devices of {name!r}, got one that is "
                "the same on all of them, which would count once for each; it is merged already, "
                "or was given to shard_map with an in_spec that does not name the axis"
            )


def _says_how(x: Any) -> bool:
    return callable(getattr(x, "all_merge", None))
