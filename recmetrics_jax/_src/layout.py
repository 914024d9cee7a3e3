"""What states hold, and where: accumulators, and the columns of their packed arrays."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src import _cpu
from recmetrics_jax._src.accumulators import Sum
from recmetrics_jax._src.contents import Contents, Entry
from recmetrics_jax._src.definitions import Kept
from recmetrics_jax._src.domain import Domain
from recmetrics_jax._src.fingerprints import word_of
from recmetrics_jax._src.histogram import Histogram
from recmetrics_jax._src.samples import Samples
from recmetrics_jax._src.state import MetricState
from recmetrics_jax._src.terms import EXAMPLES, BinnedTerm, Term
from recmetrics_jax._src.windows import Window

Group = tuple[Term, ...]
"""The terms of a metric of sums, in an order that does not depend on how it names them."""


class Columns:
    """Where each of some terms lies in a packed ``[T, K]`` array; the last is `EXAMPLES`."""

    def __init__(self, terms: Iterable[Term]):
        self.starts: dict[Term, int] = {}
        self.size = 0
        for term in (*dict.fromkeys(term for term in terms if term != EXAMPLES), EXAMPLES):
            self.starts[term] = self.size
            self.size += term.size

    def with_nan(self, packed: jax.Array, has_bad: Mapping[Domain, jax.Array]) -> jax.Array:
        """``packed``, NaN where a task, ``bool[T, 1]``, has an example out of a term's domain."""
        nowhere = jnp.zeros((len(packed), 1), bool)
        is_bad = [
            jnp.broadcast_to(
                nowhere if term.raw else has_bad[term.domain], (len(packed), term.size)
            )
            for term in self.starts
        ]
        return jnp.where(jnp.concatenate(is_bad, axis=1), jnp.nan, packed)

    def select(self, packed: jax.Array, terms: Iterable[Term]) -> jax.Array:
        """The columns of some of these terms, in the order given, ``[T, K]``."""
        ranges = (range(self.starts[term], self.starts[term] + term.size) for term in terms)
        columns = np.array([column for of_term in ranges for column in of_term], np.int32)
        if np.array_equal(columns, np.arange(self.size)):
            return packed
        return _cpu.columns_of(packed, columns)

    def sums(self, packed: jax.Array) -> dict[Term, jax.Array]:
        """The sums of each term, ``[T, *shape]``."""
        return {
            term: packed[:, start : start + term.size].reshape(-1, *term.shape)
            for term, start in self.starts.items()
        }


class GroupedColumns:
    """Where each term of some groups lies: a term that several have lies in each of them.

    So a group that comes to a running state starts from nothing, beside others that go on.
    """

    def __init__(self, groups: Iterable[Group]):
        self.starts: dict[Group, int] = {}
        self.size = 0
        for group in groups:
            self.starts[group] = self.size
            self.size += sum(term.size for term in packed(group))

    @property
    def terms(self) -> tuple[Term, ...]:
        """The term of each column, or of several."""
        return tuple(term for group in self.starts for term in packed(group))

    def decayed(self, sums: Sum, examples: jax.Array) -> Sum:
        """Sums after so many more examples, ``float64[T]``; in an x64 scope."""
        if all(term.decay is None for term in self.terms):
            return sums
        kept = [
            jnp.broadcast_to(
                jnp.ones(()) if term.decay is None else term.decay.kept(examples)[:, None],
                (len(examples), term.size),
            )
            for term in self.terms
        ]
        return sums.times(jnp.concatenate(kept, axis=1))

    def sums(self, columns: jax.Array, group: Group) -> dict[Term, jax.Array]:
        """The sums of each term of a group, ``[T, *shape]``."""
        sums, start = {}, self.starts[group]
        for term in packed(group):
            sums[term] = columns[:, start : start + term.size].reshape(-1, *term.shape)
            start += term.size
        return sums


def packed(group: Group) -> Group:
    """Those terms of a group whose lifetime sums lie in one array; others have a histogram each."""
    return tuple(term for term in group if not isinstance(term, BinnedTerm))


class StateLayout:
    """What the states of metrics hold, in an order that does not depend on that of the metrics."""

    def __init__(
        self,
        n_tasks: int,
        sums: Iterable[tuple[Group, tuple[int, int] | None]],
        samples: Iterable[Kept],
    ):
        """Lays out the terms of each metric of sums, with its window, and the examples kept."""
        self.n_tasks = n_tasks
        groups: set[Group] = {(EXAMPLES,)}
        of_windows: dict[tuple[int, int], list[Term]] = {}
        for group, window in sums:
            groups.add(group)
            if window is not None:
                of_windows.setdefault(window, []).extend(group)
        self.groups = sorted(groups, key=lambda group: [term.text for term in group])
        self.lifetime = GroupedColumns(self.groups)
        self.histograms = [(g, t) for g in self.groups for t in g if isinstance(t, BinnedTerm)]
        """The terms whose lifetime sums are histograms."""
        self.windows = {
            window: Columns(sorted(of_windows[window], key=lambda term: term.text))
            for window in sorted(of_windows)
        }
        """The columns of each distinct window, by its examples and slots."""
        self.samples = sorted(set(samples), key=_in_words)
        """What is kept in each distinct window of examples."""
        self.contents = Contents(n_tasks, self._entries())

    def _entries(self) -> list[Entry]:
        """What states say that they hold."""
        entries = [
            Entry.of("lifetime", 0, packed(group), beside=_text(group))
            for group in self.groups
            if packed(group)
        ]
        of = itertools.count(1)
        for group, term in self.histograms:
            entries.append(Entry.of("lifetime", next(of), (term,), beside=_text(group)))
        for (limit, slots), columns in self.windows.items():
            place, number = f"window of {limit:,} examples in {slots:,} slots", next(of)
            entries += (Entry.of(place, number, (term,)) for term in columns.starts)
        for kept in self.samples:
            words = (word_of("examples"), word_of(_in_words(kept)), kept.window)
            keys = f" with {', '.join(kept.keys)}" if kept.keys else ""
            shared = f", shared by {kept.shards:,}" if kept.shards > 1 else ""
            place = f"window of {kept.window:,} examples{shared}"
            entries.append(Entry(place, f"examples{keys}", (next(of), *words)))
        return entries

    def empty(self, capacities: Sequence[int]) -> MetricState:
        """The state before any example, with windows of examples of these capacities."""
        return MetricState(
            Sum.empty(self.n_tasks, self.lifetime.size),
            tuple(Histogram.empty(self.n_tasks, *term.shape) for _, term in self.histograms),
            tuple(
                Window.empty(self.n_tasks, columns.size, slots, limit)
                for (limit, slots), columns in self.windows.items()
            ),
            tuple(
                Samples.empty(self.n_tasks, capacity, kept.window, kept.classes, kept.keys)
                for capacity, kept in zip(capacities, self.samples, strict=True)
            ),
            jnp.asarray(self.contents.rows),
            {},
        )

    def lifetime_sums(self, state: MetricState) -> dict[Group, dict[Term, jax.Array]]:
        """The lifetime sums of each group, ``float64[T, *shape]`` each; in an x64 scope."""
        columns = state.lifetime.read()
        sums = {group: self.lifetime.sums(columns, group) for group in self.groups}
        for (group, term), histogram in zip(self.histograms, state.histograms, strict=True):
            sums[group][term] = histogram.read()
        return sums

    def window_sums(self, state: MetricState) -> dict[tuple[int, int], dict[Term, jax.Array]]:
        """The sums of each window, ``float64[T, *shape]`` each; in an x64 scope."""
        return {
            key: columns.sums(window.read())
            for (key, columns), window in zip(self.windows.items(), state.windows, strict=True)
        }


def _text(group: Group) -> str:
    """What the terms of a group are, the same in every process."""
    return " ".join(term.text for term in group)


def _in_words(kept: Kept) -> str:
    return repr(tuple(kept))
