"""What runs behind every metric: one program for any number of metrics, with shared statistics.

A sum-type metric is a `SumMember`, a sample-type metric a `SampleMember`; a `Program` holds one
member, or all those of a collection. It stores each distinct term once for the lifetime and once
for each window, and each window of examples once.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src import accumulators, reduction
from recmetrics_jax._src.accumulators import Samples, Sum, Window
from recmetrics_jax._src.base import Batch, Metric, State, Values, gathered
from recmetrics_jax._src.histogram import Histogram
from recmetrics_jax._src.terms import BAD_EXAMPLES, EXAMPLES, BinnedTerm, Term

ValuesOf = Callable[[Any], Mapping[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class SumMember:
    """A sum-type metric: values of the sums of terms."""

    prefix: str
    terms: Any  # a pytree of Term; `values` gets the same tree of sums
    values: ValuesOf
    window: tuple[int, int] | None  # (examples, slots)

    def distinct_terms(self) -> list[Term]:
        """The member's terms, in order."""
        return list(dict.fromkeys(jax.tree.leaves(self.terms)))


@dataclasses.dataclass(frozen=True)
class SampleMember:
    """A sample-type metric: values of the newest examples."""

    prefix: str
    values: ValuesOf
    window: int
    keys: tuple[str, ...]
    classes: int | None


class MetricState(NamedTuple):
    """The state of a `Program`: a pytree of arrays, opaque to users."""

    lifetime: Sum
    histograms: tuple[Histogram, ...]
    windows: tuple[Window, ...]
    samples: tuple[Samples, ...]
    others: dict[str, State]


class Columns:
    """Where each of some terms lies in a packed ``[T, K]`` array; the last is `EXAMPLES`."""

    def __init__(self, terms: Iterable[Term]):
        self.starts: dict[Term, int] = {}
        self.size = 0
        for term in dict.fromkeys((*terms, EXAMPLES)):
            if term != EXAMPLES:
                self.starts[term] = self.size
                self.size += term.size
        self.starts[EXAMPLES] = self.size
        self.size += 1

    @property
    def is_raw(self) -> np.ndarray:
        """``bool[1, K]``: which columns are of terms that see to bad examples themselves."""
        return np.concatenate([np.full((1, term.size), term.raw) for term in self.starts], axis=1)

    def unpack(self, packed: jax.Array, terms: Any, apart: Mapping[Term, jax.Array]) -> Any:
        """The tree ``terms`` with each term replaced by its sums, ``[T, *shape]``.

        Those of terms in ``apart`` are there, ``[T, size]``, and not packed.
        """

        def sums(term: Term) -> jax.Array:
            if term in apart:
                return apart[term].reshape(-1, *term.shape)
            start = self.starts[term]
            return packed[:, start : start + term.size].reshape(-1, *term.shape)

        return jax.tree.map(sums, terms)

    def select(self, packed: jax.Array, wanted: "Columns") -> jax.Array:
        """The columns of ``wanted``, a subset of these, packed."""
        if wanted.starts == self.starts:
            return packed
        parts = [
            packed[:, self.starts[term] : self.starts[term] + term.size] for term in wanted.starts
        ]
        return jnp.concatenate(parts, axis=1)


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """Metrics of ``n_tasks`` tasks that are updated together."""

    n_tasks: int
    sums: tuple[SumMember, ...] = ()
    samples: tuple[SampleMember, ...] = ()
    others: Mapping[str, Metric] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def metric(self) -> Metric:
        """The program as a `Metric`, whose functions are one dispatch each when called eagerly."""
        if self.others:  # Metrics written by hand may not be meant for jit.
            return Metric(self.init, self.update, self.merge, self.compute)
        compute = jax.jit(self.compute)

        def in_order(state: State) -> Values:
            values = compute(state)  # jit sorts the names.
            return {name: values[name] for name in self.value_names}

        return Metric(self.init, jax.jit(self.update), jax.jit(self.merge), in_order)

    @classmethod
    def of(cls, metric: Metric) -> "Program | None":
        """The program that a metric was made of, if it was made of one and not changed since."""
        program = getattr(metric.init, "__self__", None)
        return program if isinstance(program, cls) and metric == program.metric else None

    @functools.cached_property
    def value_names(self) -> tuple[str, ...]:
        """The names of the values, in order.

        Raises:
            ValueError: if two values have one name.
        """
        names: list[str] = []

        def trace(state: MetricState) -> None:
            names.extend(self.compute(state))

        jax.eval_shape(trace, self._template)
        return tuple(names)

    @functools.cached_property
    def _terms(self) -> tuple[Term, ...]:
        """All distinct terms."""
        return tuple(dict.fromkeys(t for member in self.sums for t in member.distinct_terms()))

    @functools.cached_property
    def _histograms(self) -> tuple[BinnedTerm, ...]:
        """The terms whose lifetime sums are histograms."""
        return tuple(term for term in self._terms if isinstance(term, BinnedTerm))

    @functools.cached_property
    def _columns(self) -> Columns:
        """The columns of the lifetime sums."""
        return Columns(term for term in self._terms if not isinstance(term, BinnedTerm))

    @functools.cached_property
    def _statistics(self) -> Columns:
        """The columns of what an update is reduced to, for the lifetime and for windows."""
        of_windows = (term for columns in self._windows.values() for term in columns.starts)
        return Columns((*self._columns.starts, *of_windows))

    @functools.cached_property
    def _windows(self) -> dict[tuple[int, int], Columns]:
        """The columns of each distinct window."""
        terms: dict[tuple[int, int], list[Term]] = {}
        for member in self.sums:
            if member.window is not None:
                terms.setdefault(member.window, []).extend(member.distinct_terms())
        return {window: Columns(of_window) for window, of_window in terms.items()}

    @functools.cached_property
    def _sample_keys(self) -> dict[tuple[int, int | None], tuple[str, ...]]:
        """The keys kept with each distinct window of examples."""
        keys: dict[tuple[int, int | None], tuple[str, ...]] = {}
        for member in self.samples:
            group = (member.window, member.classes)
            keys[group] = tuple(sorted({*keys.get(group, ()), *member.keys}))
        return keys

    @functools.cached_property
    def _template(self) -> MetricState:
        return jax.eval_shape(self.init)

    def init(self) -> MetricState:
        """The state before any example."""
        return MetricState(
            Sum.empty(self.n_tasks, self._columns.size),
            tuple(Histogram.empty(self.n_tasks, term.size) for term in self._histograms),
            tuple(
                Window.empty(self.n_tasks, columns.size, slots)
                for (_, slots), columns in self._windows.items()
            ),
            tuple(
                Samples.empty(self.n_tasks, window, classes, keys)
                for (window, classes), keys in self._sample_keys.items()
            ),
            {name: metric.init() for name, metric in self.others.items()},
        )

    def update(self, state: MetricState, batch: Batch) -> MetricState:
        """The state after one more batch."""
        state = self._checked("state", state)
        self._check_batch(state, batch)
        # What depends on the order of examples, or keeps them, needs them all.
        together = gathered(batch)
        terms = {
            term: term.evaluate(together if term.is_summed else batch)
            for term in (BAD_EXAMPLES, *self._statistics.starts)
        }
        sums = reduction.sums(terms, batch)
        with jax.enable_x64(True):
            poisoned, sums = sums[:, :1] > 0, sums[:, 1:]
            sums = jnp.where(poisoned & ~self._statistics.is_raw, jnp.nan, sums)
        histograms = tuple(
            histogram.add(index, jnp.where(poisoned, jnp.nan, weights))
            for histogram, (index, weights) in zip(
                state.histograms, (term.scatter(together) for term in self._histograms), strict=True
            )
        )
        with jax.enable_x64(True):
            lifetime = state.lifetime.add(self._statistics.select(sums, self._columns))
            windows = tuple(
                window.push(self._statistics.select(sums, columns), limit)
                for window, ((limit, _), columns) in zip(
                    state.windows, self._windows.items(), strict=True
                )
            )
        return MetricState(
            lifetime,
            histograms,
            windows,
            tuple(samples.push(together) for samples in state.samples),
            {
                name: metric.update(state.others[name], batch)
                for name, metric in self.others.items()
            },
        )

    def merge(self, a: MetricState, b: MetricState) -> MetricState:
        """The state of both streams together."""
        a, b = self._checked("a", a), self._checked("b", b)
        mine, theirs = (state._replace(others={}) for state in (a, b))
        others = {
            name: metric.merge(a.others[name], b.others[name])
            for name, metric in self.others.items()
        }
        return accumulators.merge(mine, theirs)._replace(others=others)

    def compute(self, state: MetricState) -> Values:
        """The values, computed in float64 and rounded once to the dtype of the state."""
        state = self._checked("state", state)
        values: Values = {}
        dtype = state.lifetime.parts.dtype
        with jax.enable_x64(True):
            lifetime = state.lifetime.read()
            histograms: dict[Term, jax.Array] = {
                term: histogram.read()
                for term, histogram in zip(self._histograms, state.histograms, strict=True)
            }
            windows = {
                key: window.read(key[0])
                for key, window in zip(self._windows, state.windows, strict=True)
            }
            for member in self.sums:
                sums = self._columns.unpack(lifetime, member.terms, histograms)
                _put(values, f"{member.prefix}lifetime_", member.values(sums), dtype)
                if member.window is not None:
                    columns = self._windows[member.window]
                    sums = columns.unpack(windows[member.window], member.terms, {})
                    _put(values, f"{member.prefix}window_", member.values(sums), dtype)
            for member in self.samples:
                group = list(self._sample_keys).index((member.window, member.classes))
                rows = state.samples[group].rows
                poisoned = jnp.any(rows.nonfinite & rows.mask, axis=1)
                _put(values, f"{member.prefix}window_", member.values(rows), dtype, poisoned)
        for name, metric in self.others.items():
            _put(values, f"{name}/", metric.compute(state.others[name]))
        return values

    def _checked(self, name: str, state: Any) -> MetricState:
        """The state, with arrays restored by a checkpoint library as NumPy made JAX's.

        Raises:
            ValueError: if it is of another metric, or not of this many tasks.
        """
        expected = jax.tree.structure(self._template)
        if jax.tree.structure(state) != expected:
            raise ValueError(
                f"{name}: expected a state of this metric, {expected}, "
                f"got {jax.tree.structure(state)}"
            )
        # The capacity of `samples` grows when states are merged: their shapes may differ.
        for field in ("lifetime", "histograms", "windows"):
            shapes = [
                [jnp.shape(leaf) for leaf in jax.tree.leaves(getattr(tree, field))]
                for tree in (self._template, state)
            ]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"{name}: expected arrays of shapes {shapes[0]} in {field!r}, got {shapes[1]}"
                )
        return jax.tree.map(jnp.asarray, state)

    def _check_batch(self, state: MetricState, batch: Any) -> None:
        """Raises ValueError if a batch does not fit this program."""
        if not isinstance(batch, Batch):
            raise ValueError(f"batch: expected a Batch from make_batch, got {type(batch).__name__}")
        if (self.sums or self.samples) and batch.mask.shape[0] != self.n_tasks:
            raise ValueError(
                f"batch: expected {self.n_tasks} tasks (n_tasks), got {batch.mask.shape[0]}"
            )
        if batch.weights.dtype != state.lifetime.parts.dtype:
            raise ValueError(
                f"batch: expected {state.lifetime.parts.dtype}, the dtype of the state, got "
                f"{batch.weights.dtype}; was x64 switched after init()?"
            )
        for key in (
            *(key for term in self._terms for key in term.keys),
            *(key for keys in self._sample_keys.values() for key in keys),
        ):
            if key not in batch.keys:
                raise ValueError(
                    f"{key}: expected an array of this name in make_batch(..., {key}=...), "
                    f"got only {sorted(batch.keys)}"
                )
        for _, classes in self._sample_keys:
            expected = () if classes is None else (classes,)
            if batch.predictions.shape[2:] != expected:
                raise ValueError(
                    f"predictions: expected shape {(*batch.mask.shape, *expected)}, "
                    f"got {batch.predictions.shape}"
                )


def _put(
    values: Values,
    prefix: str,
    new: Any,
    dtype: Any = None,
    poisoned: jax.Array | None = None,
) -> None:
    """Adds ``new`` to ``values`` under prefixed names, NaN where ``poisoned``, as ``dtype``."""
    if not isinstance(new, Mapping):
        raise ValueError(f"values: expected a dict of arrays, got {type(new).__name__}")
    for name, value in new.items():
        if prefix + name in values:
            raise ValueError(f"value names: expected distinct names, got {prefix + name!r} twice")
        if poisoned is not None:
            value = jnp.where(poisoned.reshape(-1, *[1] * (value.ndim - 1)), jnp.nan, value)
        values[prefix + name] = value if dtype is None else value.astype(dtype)
