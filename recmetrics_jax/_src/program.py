"""What runs behind every metric: one program for any number of metrics, with shared statistics.

A `Program` holds the definition of one metric, or of all those of a collection. It stores each
distinct term once for the lifetime and once for each window, and each window of examples once. It
is a value, as definitions are; `recmetrics_jax._src.compiled` compiles its functions.
"""

import dataclasses
import functools
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recmetrics_jax._src import accumulators, reduction
from recmetrics_jax._src.accumulators import Samples, Sum, Window
from recmetrics_jax._src.base import Batch, State, Values, gathered, make_exportable
from recmetrics_jax._src.checks import way_out_of_tasks
from recmetrics_jax._src.definitions import Definition, SampleDefinition, SumDefinition
from recmetrics_jax._src.histogram import Histogram
from recmetrics_jax._src.identity import Value
from recmetrics_jax._src.layout import Columns
from recmetrics_jax._src.terms import BAD_EXAMPLES, BinnedTerm, Term


class Member(NamedTuple):
    """A metric of a program."""

    prefix: str
    """What comes before the names of its values."""
    definition: Definition


class MetricState(NamedTuple):
    """The state of a `Program`: a pytree of arrays, opaque to users."""

    lifetime: Sum
    histograms: tuple[Histogram, ...]
    windows: tuple[Window, ...]
    samples: tuple[Samples, ...]
    others: dict[str, State]
    """The states of metrics written by hand, by name."""


make_exportable(Batch, MetricState, Sum, Histogram, Window, Samples)


@dataclasses.dataclass(frozen=True, eq=False)
class Program(Value):
    """Metrics of ``n_tasks`` tasks that are updated together."""

    n_tasks: int
    members: tuple[Member, ...]

    def make_key(self) -> Hashable:
        """All fields."""
        return self.n_tasks, self.members

    @functools.cached_property
    def sums(self) -> tuple[SumDefinition, ...]:
        """The definitions of metrics of sums."""
        return tuple(m.definition for m in self.members if isinstance(m.definition, SumDefinition))

    @functools.cached_property
    def samples(self) -> tuple[SampleDefinition, ...]:
        """The definitions of metrics of examples."""
        return tuple(
            m.definition for m in self.members if isinstance(m.definition, SampleDefinition)
        )

    @property
    def per_batch_prefixes(self) -> tuple[str, ...]:
        """What the names of values begin with that depend on how examples are batched."""
        return tuple(
            f"{prefix}{scope}"
            for prefix, of in self.members
            if isinstance(of, SumDefinition) and any(t.per_batch for t in of.distinct_terms())
            for scope in ("lifetime_", "window_")
        )

    @property
    def window_sizes(self) -> tuple[int, ...]:
        """The examples in each distinct window."""
        of_samples = (window for window, _ in self._sample_keys)
        return tuple(dict.fromkeys((*(window for window, _ in self._windows), *of_samples)))

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        """The names of all keys that an update needs."""
        of_terms = (key for term in self._terms for key in term.keys)
        of_samples = (key for keys in self._sample_keys.values() for key in keys)
        return tuple(dict.fromkeys((*of_terms, *of_samples)))

    @functools.cached_property
    def _terms(self) -> tuple[Term, ...]:
        """All distinct terms."""
        return tuple(dict.fromkeys(t for of_sums in self.sums for t in of_sums.distinct_terms()))

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
        for definition in self.sums:
            if definition.window is not None:
                terms.setdefault(definition.window, []).extend(definition.distinct_terms())
        return {window: Columns(of_window) for window, of_window in terms.items()}

    @functools.cached_property
    def _sample_keys(self) -> dict[tuple[int, int | None], tuple[str, ...]]:
        """The keys kept with each distinct window of examples."""
        keys: dict[tuple[int, int | None], tuple[str, ...]] = {}
        for definition in self.samples:
            group = (definition.window, definition.classes)
            keys[group] = tuple(sorted({*keys.get(group, ()), *definition.keys}))
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
            {},
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
            {},
        )

    def merge(self, a: MetricState, b: MetricState) -> MetricState:
        """The state of both streams together."""
        return accumulators.merge(self._checked("a", a), self._checked("b", b))

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
            for prefix, definition in self.members:
                if isinstance(definition, SumDefinition):
                    sums = self._columns.unpack(lifetime, definition.terms, histograms)
                    _put(values, f"{prefix}lifetime_", definition.evaluate(sums), dtype)
                    if definition.window is not None:
                        columns = self._windows[definition.window]
                        sums = columns.unpack(windows[definition.window], definition.terms, {})
                        _put(values, f"{prefix}window_", definition.evaluate(sums), dtype)
                elif isinstance(definition, SampleDefinition):
                    group = list(self._sample_keys).index((definition.window, definition.classes))
                    rows = state.samples[group].rows
                    _put(values, f"{prefix}window_", definition.evaluate(rows), dtype)
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
        if self.members and batch.mask.shape[0] != self.n_tasks:
            raise ValueError(
                f"batch: expected {self.n_tasks} tasks (n_tasks), got {batch.mask.shape[0]}"
                f"{way_out_of_tasks(self.n_tasks, batch.mask.shape)}"
            )
        if batch.weights.dtype != state.lifetime.parts.dtype:
            raise ValueError(
                f"batch: expected {state.lifetime.parts.dtype}, the dtype of the state, got "
                f"{batch.weights.dtype}; was x64 switched after init()?"
            )
        for key in self.keys:
            if key not in batch.keys:
                raise ValueError(
                    f"{key}: expected an array of this name in make_batch(..., "
                    f"keys={{{key!r}: ...}}), "
                    f"got only {sorted(batch.keys)}"
                )
        for _, classes in self._sample_keys:
            expected = () if classes is None else (classes,)
            if batch.predictions.shape[2:] != expected:
                raise ValueError(
                    f"predictions: expected shape {(*batch.mask.shape, *expected)}, "
                    f"got {batch.predictions.shape}"
                )


def _put(values: Values, prefix: str, new: Values, dtype: Any) -> None:
    """Adds ``new`` to ``values`` under prefixed names, as ``dtype``."""
    for name, value in new.items():
        if prefix + name in values:
            raise ValueError(f"value names: expected distinct names, got {prefix + name!r} twice")
        values[prefix + name] = value.astype(dtype)
