"""What a metric gives and needs, without running it; and its values as flat scalars."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from recmetrics_jax._src.base import Values
from recmetrics_jax._src.metric import Engine, Metric, state_bytes


@dataclasses.dataclass(frozen=True)
class Description:
    """What a metric gives and needs; made by `describe`."""

    values: Mapping[str, jax.ShapeDtypeStruct]
    """The names of its values, in order, each with its ``shape`` and ``dtype``."""
    n_tasks: int | None
    """The number of tasks ``T``; None of a metric written by hand."""
    keys: tuple[str, ...]
    """The keys that `recmetrics_jax.make_batch` has to be given, in all its parts that say so."""
    windows: tuple[int, ...]
    """The examples in each distinct window."""
    state_bytes: int
    """The bytes of its state, what is shared counted once."""
    per_batch: tuple[str, ...] = ()
    """The values that depend on how examples are batched: of pairs or sessions inside a batch."""


def describe(metric: Metric) -> Description:
    """What a metric gives and needs; nothing runs, and nothing is compiled.

    Args:
        metric: any `Metric`. Of one written by hand, ``init`` and ``compute`` must be traceable.

    Returns:
        A `Description`.

    Raises:
        ValueError: if ``metric`` is not a `Metric`.

    >>> import recmetrics_jax as rm
    >>> described = rm.describe(rm.collection({"ne": rm.ne, "pairs": rm.pairwise_auc}, n_tasks=2))
    >>> {name: value.shape for name, value in described.values.items()}
    {'ne/lifetime_ne': (2,), 'pairs/lifetime_pairwise_auc': (2,)}
    >>> described.keys, described.state_bytes
    (('session_id',), 232)
    """
    if not isinstance(metric, Metric):
        raise ValueError(f"metric: expected a Metric, got {type(metric).__name__}")
    engine = Engine.of(metric)
    if engine is None:
        values = jax.eval_shape(lambda: metric.compute(metric.init()))
        return Description(values, None, (), (), state_bytes(metric))
    values = engine.compiled.value_shapes() if engine.program.members else {}
    per_batch = tuple(x for x in values if x.startswith(engine.program.per_batch_prefixes))
    for prefix, other in engine.others:
        of_other = describe(other).values
        values |= {f"{prefix}/{name}": value for name, value in of_other.items()}
    return Description(
        values,
        engine.program.n_tasks if engine.program.members else None,
        engine.program.keys,
        engine.program.window_sizes,
        state_bytes(metric),
        per_batch,
    )


def scalars(
    values: Values, tasks: Sequence[str], *, as_floats: bool = False
) -> dict[str, jax.Array] | dict[str, float]:
    """Values by task as flat scalars, under the keys that torchrec gives them.

    The value ``"<metric>/<value>"`` of a collection becomes ``"<metric>-<task>|<value>"`` for each
    task, and ``"<value>"`` of one metric ``"<task>|<value>"``; element ``i`` of a value that has
    several for a task, such as recall at every k, gets ``"[i]"`` behind it.

    Args:
        values: what ``compute`` of a `Metric` gives, ``[T]`` or ``[T, ...]`` each.
        tasks: the names of the ``T`` tasks.
        as_floats: give Python floats, fetched from the device in one go, which waits for them;
            False: arrays of rank 0, also inside jit.

    Returns:
        The scalars by key, in the order of values, then of tasks.

    Raises:
        ValueError: if a value is not of so many tasks, or two get one key.

    >>> import recmetrics_jax as rm
    >>> metric = rm.collection({"ne": rm.ne(n_tasks=2, window=100)})
    >>> batch = rm.make_batch([[0.5, 0.5], [0.75, 0.25]], [[0, 1], [0, 1]])
    >>> values = metric.compute(metric.update(metric.init(), batch))
    >>> rm.scalars(values, ["click", "buy"], as_floats=True)
    {'ne-click|lifetime_ne': 1.0, 'ne-buy|lifetime_ne': 2.0,
    'ne-click|window_ne': 1.0, 'ne-buy|window_ne': 2.0}
    """
    if isinstance(tasks, str):
        raise ValueError(f"tasks: expected a list of names, got {tasks!r}")
    if as_floats:
        values = jax.device_get(values)
    named: dict[str, Any] = {}
    for name, value in values.items():
        shape = np.shape(value)
        if not shape or shape[0] != len(tasks):
            raise ValueError(
                f"tasks: expected as many names as {name!r} has tasks, {shape}, got {list(tasks)}"
            )
        metric, _, of_metric = name.rpartition("/")
        for t, task in enumerate(tasks):
            key = f"{metric}-{task}|{of_metric}" if metric else f"{task}|{of_metric}"
            for index in np.ndindex(shape[1:]):
                suffix = f"[{', '.join(map(str, index))}]" if index else ""
                if key + suffix in named:
                    raise ValueError(f"values: expected distinct keys, got {key + suffix!r} twice")
                scalar = value[(t, *index)]
                named[key + suffix] = float(scalar) if as_floats else scalar
    return named
