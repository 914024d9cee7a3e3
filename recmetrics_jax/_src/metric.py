"""The contract: `Metric`, four functions; and the engine that they run on.

The functions are those of a program, compiled, and of metrics written by hand beside it. They are
values, so metrics are equal when their programs are, and equal ones share what is compiled, as long
as one of them is alive or was among the last to be made.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import core

from recmetrics_jax._src.base import Batch, State, Values, check_update
from recmetrics_jax._src.contents import Contents
from recmetrics_jax._src.definitions import Definition
from recmetrics_jax._src.forks import check_not_forked
from recmetrics_jax._src.identity import Interned, Value
from recmetrics_jax._src.program import Member, Program
from recmetrics_jax._src.state import COUNTED_TWICE, MARK, MetricState

RECENT = 64
"""Programs whose compiled functions are kept although no metric of theirs is alive."""


class Metric(NamedTuple):
    """A metric as four pure functions over a state; the caller jits, maps and shards them.

    Metrics that factories of this package make are equal, and hash alike, when they mean the same,
    and they pickle. `recmetrics_jax.describe` tells what a metric gives and needs.
    """

    init: Callable[[], State]
    """``init() -> state``: the identity of ``merge``, with final shapes and dtypes."""
    update: Callable[[State, Batch], State]
    """``update(state, batch) -> state``: the state after one more batch."""
    merge: Callable[[State, State], State]
    """``merge(state, state) -> state``: the state of both streams together."""
    compute: Callable[[State], Values]
    """``compute(state) -> values``: ``float[T]`` (``float[T, C]``) by value name."""

    def __repr__(self) -> str:
        engine = Engine.of(self)
        if engine is None or not engine.call:
            return f"Metric({', '.join(f'{k}={v!r}' for k, v in self._asdict().items())})"
        return engine.table() if engine.parts else engine.call


class Compiled:
    """The functions of a program, each one dispatch when called eagerly."""

    def __init__(self, program: Program):
        # None of these refers to this object: what they compiled goes when it goes.
        self._init = program.init
        self.update = jax.jit(program.update)
        self.merge = jax.jit(program.merge)
        self.compute = jax.jit(functools.partial(_in_order, program))

    def value_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The names of the values, in order, and what they are; nothing runs.

        Raises:
            ValueError: if two values have one name.
        """
        return dict(self.compute.eval_shape(jax.eval_shape(self._init)))


def _in_order(program: Program, state: MetricState) -> "collections.OrderedDict[str, jax.Array]":
    """The values of a state; of a plain dict, jit would sort the names."""
    return collections.OrderedDict(program.compute(state))


compiled = Interned(Compiled, recent=RECENT)
"""The functions of a program: one object for equal programs."""


def known_contents() -> Iterator[Contents]:
    """What the states of metrics hold that are alive, or were made of late."""
    return (
        program.layout.contents for (program,) in compiled.known() if isinstance(program, Program)
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Engine(Value):
    """What a metric runs on: a program, and metrics written by hand beside it.

    Those are called as they are, since they may not be meant for jit.
    """

    program: Program
    others: tuple[tuple[str, Metric], ...] = ()
    """By name; their values are prefixed with it."""
    call: str = ""
    """The call that made the metric, as it reads; no part of what the metric is."""
    parts: tuple[tuple[str, Metric], ...] = ()
    """The metrics that a collection was made of, by name; no part of what it is either."""

    def make_key(self) -> Hashable:
        """The program, and the metrics beside it."""
        return self.program, self.others

    @property
    def compiled(self) -> Compiled:
        """The functions of the program."""
        check_not_forked()
        return self._compiled

    @functools.cached_property
    def _compiled(self) -> Compiled:
        return compiled(self.program)

    @property
    def metric(self) -> Metric:
        """The metric."""
        return Metric(_Init(self), _Update(self), _Merge(self), _Compute(self))

    @classmethod
    def of(cls, metric: Metric) -> "Engine | None":
        """What a metric runs on, if all of its functions are as they were made."""
        engine = metric.init.engine if isinstance(metric.init, _Function) else None
        return engine if engine is not None and metric == engine.metric else None

    @classmethod
    def of_compiled(cls, metric: Any) -> "Engine":
        """What a metric of this package runs on.

        Raises:
            ValueError: if it was written by hand, or parts of it were.
        """
        engine = cls.of(metric) if isinstance(metric, Metric) else None
        if engine is not None and not engine.others:
            return engine
        got = type(metric).__name__ if not isinstance(metric, Metric) else "one written by hand"
        if engine is not None:
            got = f"a collection in which {[name for name, _ in engine.others]} are written by hand"
        raise ValueError(
            "metric: expected a metric of this package, or a collection of such, got "
            f"{got}; build it with sum_metric or sample_metric"
        )

    def changed(self, change: Callable[[Definition], Definition], *more: Member) -> Metric:
        """A metric of as many tasks, each of its definitions changed, and of more of them."""
        members = [Member(prefix, change(of)) for prefix, of in self.program.members]
        engine = Engine(Program(self.program.n_tasks, (*members, *more)))
        engine.compiled.value_shapes()  # Two values under one name raise here.
        return engine.metric

    def own(self, name: str, state: Any) -> MetricState:
        """The program's part of a state.

        Raises:
            ValueError: if the state is not of these metrics.
        """
        if not self.others:
            return state  # The program looks at its structure.
        names = [name for name, _ in self.others]
        if not isinstance(state, MetricState) or set(state.others) != set(names):
            raise ValueError(
                f"{name}: expected a state of this metric, with states of {names}, which are "
                f"written by hand, got {jax.tree.structure(state)}"
            )
        return state._replace(others={})

    def checked(self, name: str, state: Any) -> MetricState:
        """The program's part of a state, of which is looked what it holds where that is known.

        Raises:
            ValueError: if it holds something else, or counts some examples several times.
        """
        own = self.own(name, state)
        if not isinstance(own, MetricState):
            return own  # The program refuses it.
        if isinstance(own.contents, core.Tracer):
            return own  # The values will be NaN.
        if not getattr(own.contents, "is_fully_addressable", True):
            return own
        rows = np.array(jax.device_get(own.contents))
        mark, rows.flat[MARK] = rows.flat[MARK], 0
        self.program.layout.contents.check(name, rows, known_contents())
        if mark == COUNTED_TWICE:
            raise ValueError(
                f"{name}: expected a state that counts each example once, got one of which copies, "
                "merged over devices before, went on and were merged again; keep the state of each "
                "device as it is between steps, and merge what all_merge gives no further"
            )
        return own

    def with_others(self, own: MetricState, others: Mapping[str, State]) -> MetricState:
        """A state of the program's part and those of the metrics beside it."""
        return own._replace(others=dict(others)) if self.others else own

    def table(self) -> str:
        """The parts of a collection: names, tasks, windows, and bytes of their states alone."""
        rows = [("name", "metric", "tasks", "window", "bytes of state")]
        rows += [(name, *_row(part)) for name, part in self.parts]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        total = f"{self.call}, {state_bytes(self.metric):,} bytes of state in all"
        return "\n".join([f"{total}:", *(f"  {line}" for line in lines)])


def _row(metric: Metric) -> tuple[str, str, str, str]:
    """A metric in a table."""
    engine = Engine.of(metric)
    if engine is None:
        return "written by hand", "?", "?", f"{state_bytes(metric):,}"
    windows = dict.fromkeys(f"{w:,}" for w in engine.program.window_sizes)
    return (
        engine.call,
        str(engine.program.n_tasks),
        ", ".join(windows) or "-",
        f"{state_bytes(metric):,}",
    )


def state_bytes(metric: Metric) -> int:
    """The bytes of a state of a metric; nothing runs."""
    leaves = jax.tree.leaves(jax.eval_shape(metric.init))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


@dataclasses.dataclass(frozen=True)
class _Function:
    """A function of a metric, as a value."""

    __name__ = ""
    engine: Engine

    def __repr__(self) -> str:
        return f"<{self.__name__} of {self.engine.call or 'a metric'}>"


class _Init(_Function):
    __name__ = "init"

    def __call__(self) -> State:
        check_not_forked()
        engine = self.engine
        others = {name: metric.init() for name, metric in engine.others}
        return engine.with_others(engine.program.init(), others)


class _Update(_Function):
    __name__ = "update"

    def __call__(self, state: State, batch: Batch, *more: Any, **named: Any) -> State:
        check_update(state, batch, *more, **named)
        engine = self.engine
        own = engine.compiled.update(engine.own("state", state), batch)
        others = {name: m.update(state.others[name], batch) for name, m in engine.others}
        return engine.with_others(own, others)


class _Merge(_Function):
    __name__ = "merge"

    def __call__(self, a: State, b: State) -> State:
        engine = self.engine
        own = engine.compiled.merge(engine.checked("a", a), engine.checked("b", b))
        others = {name: m.merge(a.others[name], b.others[name]) for name, m in engine.others}
        return engine.with_others(own, others)


class _Compute(_Function):
    __name__ = "compute"

    def __call__(self, state: State) -> Values:
        engine = self.engine
        values = dict(engine.compiled.compute(engine.checked("state", state)))
        for prefix, metric in engine.others:
            for name, value in metric.compute(state.others[prefix]).items():
                if f"{prefix}/{name}" in values:
                    raise ValueError(
                        f"value names: expected distinct names, got '{prefix}/{name}' twice"
                    )
                values[f"{prefix}/{name}"] = value
        return values
