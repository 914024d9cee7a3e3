"""`adopt`: a state carried over to a metric that has changed."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

from recmetrics_jax._src.accumulators import Sum
from recmetrics_jax._src.base import State
from recmetrics_jax._src.contents import Held, check_head, held
from recmetrics_jax._src.histogram import Histogram
from recmetrics_jax._src.metric import Engine, Metric, known_contents
from recmetrics_jax._src.samples import Rows, Samples
from recmetrics_jax._src.state import MARK, MetricState
from recmetrics_jax._src.windows import Window

What = tuple[int, ...]


class Adopted(NamedTuple):
    """What `adopt` gives: a state, and what has become of what the old one held."""

    state: State
    """The state of the metric."""
    kept: tuple[str, ...]
    """What goes on as it was."""
    dropped: tuple[str, ...]
    """What the old state held, and the metric does not."""
    started: tuple[str, ...]
    """What the metric holds, and the old state did not."""


def adopt(metric: Metric, state: Any) -> Adopted:
    """Carries a state over to a changed metric, such as a collection with metrics added or gone.

    All that both hold goes on to the bit, whatever the names and the order of metrics in a
    collection. What is new starts from nothing: over the lifetime it counts the examples from now
    on, and in a window that goes on its values are NaN until all examples of the window came after.

    Args:
        metric: the metric that is to go on.
        state: a state of the metric that was; or what Orbax, or ``flax.serialization``'s
            ``msgpack_restore``, gives of one when it is restored without a target: a dict.

    Returns:
        `Adopted`: the state, and the names of what was kept, dropped and started.

    Raises:
        ValueError: if ``metric`` is written by hand; if the state is not one of this package, was
            cut or padded by a restore into another structure, or is of other tasks, or in another
            dtype.

    >>> import recmetrics_jax as rm
    >>> was = rm.collection({"ctr": rm.ctr()})
    >>> state = was.update(was.init(), rm.make_batch([0.5, 0.5], [0, 1]))
    >>> metric = rm.collection({"ctr": rm.ctr(), "mae": rm.mae()})
    >>> adopted = rm.adopt(metric, state)
    >>> adopted.started, adopted.dropped
    (('absolute_error, weights (lifetime)',), ())
    >>> metric.compute(adopted.state)["ctr/lifetime_ctr"].tolist()
    [0.5]
    """
    engine = Engine.of(metric)
    if engine is None or not engine.program.members:
        raise ValueError("metric: expected one of this package, got one written by hand")
    old = _as_state(state)
    rows = np.array(jax.device_get(old.contents))
    mark, rows[0, MARK] = rows[0, MARK], 0
    check_head("state", rows)
    contents, fresh = engine.program.layout.contents, engine.program.init()
    _check_arrays(old, fresh, rows, engine.program.n_tasks)
    was, now = held(rows), held(contents.rows)
    accumulators = [
        _carried(new, {what: at for what, at in now.items() if at.accumulator == number}, old, was)
        for number, new in enumerate(_accumulators(fresh))
    ]
    windows = 1 + len(fresh.histograms)
    samples = windows + len(fresh.windows)
    carried = MetricState(
        lifetime=accumulators[0],
        histograms=tuple(accumulators[1:windows]),
        windows=tuple(accumulators[windows:samples]),
        samples=tuple(accumulators[samples:]),
        contents=jnp.asarray(contents.rows).at[0, MARK].set(mark),
        others={},
    )
    others = {name: _other(of, old.others.get(name)) for name, of in engine.others}
    names = {entry.row[1:]: str(entry) for entry in contents.entries}
    others_kept = tuple(name for name, of in others.items() if of is not None)
    gone = [what for what in was if what not in names]
    return Adopted(
        engine.with_others(
            carried, {name: others[name] or of.init() for name, of in engine.others}
        ),
        kept=(*(name for what, name in names.items() if what in was), *others_kept),
        dropped=(
            *contents.names(gone, known_contents()),
            *(name for name in old.others if name not in others_kept),
        ),
        started=(
            *(name for what, name in names.items() if what not in was),
            *(name for name in others if name not in others_kept),
        ),
    )


def _accumulators(state: MetricState) -> list[Any]:
    """The accumulators of a state, by the numbers in its rows."""
    return [state.lifetime, *state.histograms, *state.windows, *state.samples]


def _carried(
    new: Any, entries: Mapping[What, Held], old: MetricState, was: Mapping[What, Held]
) -> Any:
    """An accumulator that holds these entries, with what an old state has of them."""
    # The number of examples, by which a window is known, is its last entry.
    last = was.get(list(entries)[-1])
    if isinstance(new, Sum):
        columns = [
            _columns(old.lifetime.parts, was[what])
            if what in was
            else new.parts[..., at.start : at.start + at.size]
            for what, at in entries.items()
        ]
        return Sum(jnp.concatenate(columns, axis=-1))
    if last is None:
        return new
    window = _accumulators(old)[last.accumulator]
    if isinstance(new, Samples):
        return window._replace(limit=new.limit)
    if not isinstance(new, Window):
        return window

    def with_unknown(sums: jax.Array) -> jax.Array:
        # What was not counted is not known as long as any of these examples is in the window.
        is_used = _columns(sums, last)[:1] != 0
        unknown = jnp.where(is_used, jnp.nan, jnp.zeros_like(sums[..., :1]))
        columns = [
            _columns(sums, was[what])
            if what in was and was[what].accumulator == last.accumulator
            else jnp.broadcast_to(unknown, (*sums.shape[:-1], at.size))
            for what, at in entries.items()
        ]
        return jnp.concatenate(columns, axis=-1)

    return window._replace(ring=with_unknown(window.ring), newest=with_unknown(window.newest))


def _columns(sums: jax.Array, at: Held) -> jax.Array:
    return sums[..., at.start : at.start + at.size]


def _other(metric: Metric, state: Any) -> Any:
    """The state of a metric written by hand, if it is one of its states; or None."""
    fresh = metric.init()
    try:
        restored = serialization.from_state_dict(fresh, serialization.to_state_dict(state))
        is_same = jax.tree.map(jnp.shape, restored) == jax.tree.map(jnp.shape, fresh)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return restored if state is not None and is_same else None


def _as_state(state: Any) -> MetricState:
    """A state, as it is or as a dict that a checkpoint library made of it, with arrays of JAX."""
    if isinstance(state, Mapping) and {"lifetime", "contents"} <= set(state):
        state = MetricState(
            lifetime=Sum(**state["lifetime"]),
            histograms=tuple(Histogram(**x) for x in _in_order(state.get("histograms"))),
            windows=tuple(Window(**x) for x in _in_order(state.get("windows"))),
            samples=tuple(
                Samples(**{**x, "rows": Rows(**{"keys": {}, **x["rows"]}), "limit": None})
                for x in _in_order(state.get("samples"))
            ),
            contents=state["contents"],
            others=dict(state.get("others") or {}),
        )
    if not isinstance(state, MetricState):
        raise ValueError(
            "state: expected a state of a metric of this package, or what a checkpoint library "
            f"gives of one without a target, got {type(state).__name__}"
        )
    own = jax.tree.map(jnp.asarray, state._replace(others={}))
    return own._replace(others=state.others)


def _in_order(parts: Any) -> list[Any]:
    """The elements of a tuple, which flax gives as a dict by number."""
    if isinstance(parts, Mapping):
        return [parts[key] for key in sorted(parts, key=int)]
    return list(parts or ())


def _check_arrays(old: MetricState, fresh: MetricState, rows: np.ndarray, n_tasks: int) -> None:
    """Raises ValueError if a state is of other tasks or dtype, or not what its rows say."""
    if rows[0, 2] != n_tasks:
        raise ValueError(f"state: expected one of {n_tasks} tasks, got one of {rows[0, 2]}")
    dtype = fresh.lifetime.parts.dtype
    if old.lifetime.parts.dtype != dtype:
        raise ValueError(
            f"state: expected {dtype}, got {old.lifetime.parts.dtype}; was x64 switched?"
        )
    told = [
        int(rows[1:][rows[1:, 0] == number, 3].sum()) for number in range(len(_accumulators(old)))
    ]
    # A state that is one of several holds a share of its window.
    sizes = [_size(x, size) for x, size in zip(_accumulators(old), told, strict=True)]
    if sizes != told:
        raise ValueError(
            f"state: expected arrays of {told} numbers, as its contents say, got {sizes}; restore "
            "the checkpoint as it was saved, without a target"
        )


def _size(accumulator: Any, told: int) -> int:
    """Numbers of a task in an accumulator; of a share of a window, what is told of the whole."""
    if isinstance(accumulator, Samples) and accumulator.capacity > 0:
        return max(accumulator.capacity, told)
    if isinstance(accumulator, Histogram):
        return accumulator.size
    return jax.tree.leaves(accumulator)[0].shape[-1]
