"""What runs behind every metric: one program for any number of metrics, with shared statistics.

A `Program` holds the definition of one metric, or of all those of a collection. It computes each
distinct term once. In a state, each window has a term once, and each window of examples is there
once; over the lifetime, each metric has the sums of its own terms, so that one that joins another
starts from nothing, whatever was there. It is a value, as definitions are;
`recmetrics_jax._src.metric.compiled` compiles its functions.
"""

import dataclasses
import functools
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recmetrics_jax._src import reduction
from recmetrics_jax._src.accumulators import Sum
from recmetrics_jax._src.base import Batch, Values, is_known, make_exportable, newest, tail
from recmetrics_jax._src.checks import way_out_of_tasks
from recmetrics_jax._src.definitions import Definition, SampleDefinition, SumDefinition
from recmetrics_jax._src.domain import Domain
from recmetrics_jax._src.histogram import Histogram
from recmetrics_jax._src.identity import Value
from recmetrics_jax._src.layout import Columns, StateLayout
from recmetrics_jax._src.samples import Rows, Samples
from recmetrics_jax._src.sharding import spec_of, with_automatic_axes
from recmetrics_jax._src.spread_terms import SpreadTerm, spread_sums
from recmetrics_jax._src.state import MetricState
from recmetrics_jax._src.terms import BinnedTerm, Term
from recmetrics_jax._src.windows import Window


class Member(NamedTuple):
    """A metric of a program."""

    prefix: str
    """What comes before the names of its values."""
    definition: Definition


make_exportable(Batch, MetricState, Sum, Histogram, Window, Samples, Rows)


@dataclasses.dataclass(frozen=True, eq=False)
class Program(Value):
    """Metrics of ``n_tasks`` tasks that are updated as one."""

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

    @functools.cached_property
    def layout(self) -> StateLayout:
        """What states hold, and where."""
        kept = (definition.kept for definition in self.samples)
        return StateLayout(self.n_tasks, [(of.group, of.window) for of in self.sums], kept)

    @property
    def per_batch_prefixes(self) -> tuple[str, ...]:
        """What the names of values begin with that depend on how examples are batched."""
        return tuple(
            f"{prefix}{start}"
            for prefix, of in self.members
            if isinstance(of, SumDefinition) and any(t.per_batch for t in of.distinct_terms())
            for start in (of.prefix, "window_")
        )

    @property
    def window_sizes(self) -> tuple[int, ...]:
        """The examples in each distinct window."""
        of_samples = (kept.window for kept in self.layout.samples)
        return tuple(dict.fromkeys((*(window for window, _ in self.layout.windows), *of_samples)))

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        """The names of all keys that an update needs."""
        of_terms = (key for term in self._terms for key in term.keys)
        of_samples = (key for kept in self.layout.samples for key in kept.keys)
        return tuple(dict.fromkeys((*of_terms, *of_samples)))

    @functools.cached_property
    def _terms(self) -> tuple[Term, ...]:
        """All distinct terms."""
        return tuple(dict.fromkeys(t for of_sums in self.sums for t in of_sums.distinct_terms()))

    @functools.cached_property
    def _statistics(self) -> Columns:
        """The columns of what an update is reduced to, for the lifetime and for windows."""
        of_windows = {term for columns in self.layout.windows.values() for term in columns.starts}
        return Columns(t for t in self._terms if t in of_windows or not isinstance(t, BinnedTerm))

    @functools.cached_property
    def _template(self) -> MetricState:
        return jax.eval_shape(self.init)

    def init(self) -> MetricState:
        """The state before any example."""
        return self.layout.empty([kept.share for kept in self.layout.samples])

    def update(self, state: MetricState, batch: Batch) -> MetricState:
        """The state after one more batch."""
        state = self._checked("state", state)
        self._check_batch(state, batch)
        of_result = jax.tree.map(spec_of, state)
        return with_automatic_axes(self._updated, state, batch, result=of_result)

    def _updated(self, state: MetricState, batch: Batch) -> MetricState:
        """`update`, of what is checked."""
        sums, has_bad = self._sums(self._statistics, batch)
        examples = sums[:, -1]
        histograms = []
        for histogram, (_, term) in zip(state.histograms, self.layout.histograms, strict=True):
            index, weights = term.scatter(term.view(batch))
            with jax.enable_x64(True):  # What examples count may be float64.
                if not term.raw:
                    weights = jnp.where(has_bad[term.domain][..., None], jnp.nan, weights)
                if term.decay is not None:
                    histogram = histogram.times(term.decay.kept(examples))
            histograms.append(histogram.add(index, weights))
        pushed = []
        for window, ((limit, _), columns) in zip(
            state.windows, self.layout.windows.items(), strict=True
        ):
            # Of a number of examples that is not known, as `jax.export` may leave it, too.
            if is_known(batch.mask.shape[1]) and batch.mask.shape[1] <= limit:
                of_window = self._statistics.select(sums, columns.starts)
            else:
                of_window = self._sums_of_newest(columns, batch, limit)
            with jax.enable_x64(True):
                pushed.append(window.push(of_window))
        with jax.enable_x64(True):
            lifetime = self.layout.lifetime.decayed(state.lifetime, examples)
            lifetime = lifetime.add(self._statistics.select(sums, self.layout.lifetime.terms))
        return state._replace(
            lifetime=lifetime,
            histograms=tuple(histograms),
            windows=tuple(pushed),
            samples=tuple(
                samples.push(batch if kept.by_order else batch.of_values)
                for samples, kept in zip(state.samples, self.layout.samples, strict=True)
            ),
        )

    def _sums_of_newest(self, columns: Columns, batch: Batch, limit: int) -> jax.Array:
        """The sums of terms over the last ``limit`` real examples of a batch of more."""

        def of_all() -> jax.Array:
            return self._sums(columns, newest(batch, limit))[0]

        if not is_known(batch.mask.shape[1]):
            return of_all()
        # Where there is no padding between the last ones, they are all to be added up.
        last = tail(batch, limit)
        there, wanted = (jnp.sum(x.mask, axis=1, dtype=jnp.int32) for x in (last, batch))
        of_last = self._sums(columns, last)[0]  # Not in a branch, where XLA would take longer.
        is_all = jnp.all(there == jnp.minimum(wanted, limit))
        return jax.lax.cond(is_all, lambda: of_last, of_all)

    def _sums(self, columns: Columns, batch: Batch) -> tuple[jax.Array, dict[Domain, jax.Array]]:
        """The sums of terms over a batch, ``float64[T, K]``, NaN in tasks with a bad example.

        Or with one that is out of the domain of the term. And which tasks those are, ``bool[T,
        1]``, by domain. Terms that differ in their domain alone are added up once. What is out of a
        domain is added up with the terms, in columns after theirs, so that it takes no collective
        of its own. Of two tasks with 2 examples, of which the second has a label of 3, and the
        terms ``w``, and ``w y`` where labels are in [0, 1]::

            w   wy  examples  outside         w   wy   examples      has_bad
            2   1   2         0          ->   2   1    2             False
            2   4   2         1               2   NaN  2             True
        """
        everywhere = [term.everywhere for term in columns.starts]
        distinct = Columns(everywhere)
        terms = {
            term: term.evaluate(term.view(batch))
            for term in distinct.starts
            if not isinstance(term, SpreadTerm)
        }
        terms |= spread_sums(
            batch, [term for term in distinct.starts if isinstance(term, SpreadTerm)], terms
        )
        terms = {term: terms[term] for term in distinct.starts}
        domains = dict.fromkeys(term.domain for term in self._terms if not term.raw)
        sums = reduction.sums(terms, reduction.checks_of(batch, domains))
        with jax.enable_x64(True):
            sums, outside = sums[:, : distinct.size], sums[:, distinct.size :] > 0
            has_bad = {domain: outside[:, i : i + 1] for i, domain in enumerate(domains)}
            return columns.with_nan(distinct.select(sums, everywhere), has_bad), has_bad

    def merge(self, a: MetricState, b: MetricState) -> MetricState:
        """The state of both streams together."""
        a, b = self._checked("a", a), self._checked("b", b)
        return with_automatic_axes(MetricState.merge, a, b, result=jax.tree.map(spec_of, a))

    def compute(self, state: MetricState) -> Values:
        """The values, computed in float64 and rounded once to the dtype of the state."""
        return with_automatic_axes(self._computed, self._checked("state", state))

    def _computed(self, state: MetricState) -> Values:
        values: Values = {}
        dtype = state.lifetime.parts.dtype
        with jax.enable_x64(True):
            lifetime = self.layout.lifetime_sums(state)
            windows = self.layout.window_sums(state)
            for prefix, definition in self.members:
                if isinstance(definition, SumDefinition):
                    sums = {definition.prefix: lifetime[definition.group]}
                    if definition.window is not None:
                        sums["window_"] = windows[definition.window]
                    for start, by_term in sums.items():
                        of_sums = definition.evaluate(definition.of_terms(by_term))
                        _put(values, f"{prefix}{start}", of_sums, dtype)
                elif isinstance(definition, SampleDefinition):
                    rows = state.samples[self.layout.samples.index(definition.kept)].batch
                    _put(values, f"{prefix}window_", definition.evaluate(rows), dtype)
        is_known = state.holds(self.layout.contents.rows)
        return {
            name: jnp.where(is_known, x, jnp.full_like(x, jnp.nan)) for name, x in values.items()
        }

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
        # States that share a window have more of it the more of them were merged.
        capacities = [
            min(max(samples.capacity, kept.share), kept.window)
            for samples, kept in zip(state.samples, self.layout.samples, strict=True)
        ]
        template = jax.eval_shape(lambda: self.layout.empty(capacities))
        for field in ("lifetime", "histograms", "windows", "samples", "contents"):
            shapes = [
                [jnp.shape(leaf) for leaf in jax.tree.leaves(getattr(tree, field))]
                for tree in (template, state)
            ]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"{name}: expected arrays of shapes {shapes[0]} in {field!r}, got {shapes[1]}"
                )
        return jax.tree.map(jnp.asarray, state)

    def _check_batch(self, state: MetricState, batch: Batch) -> None:
        """Raises ValueError if a batch does not fit this program."""
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
        for kept in self.layout.samples:
            expected = () if kept.classes is None else (kept.classes,)
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
