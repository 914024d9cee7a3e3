"""Definitions made of others: by segment, over resamples, with decay, and of models compared.

Each is a definition of sums whose terms are those of another, spread, or one of examples. Its
values are those of the other, of each segment or resample.

Shapes: ``T`` tasks, ``G`` segments, ``R`` resamples.
"""

import dataclasses
import functools
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recmetrics_jax._src.base import Batch, Values, along
from recmetrics_jax._src.definitions import Definition, SampleDefinition, SumDefinition, WindowSums
from recmetrics_jax._src.identity import Formula
from recmetrics_jax._src.spread_terms import SpreadTerm, spread
from recmetrics_jax._src.spreads import Decay, Resamples, Segments, Spread
from recmetrics_jax._src.terms import BinnedTerm, Term

FADED = 2.0**-100
"""What sums with decay that are less have faded to. They are kept as float32, which ends at 2^-126,
so that none beside one that is larger is less than it should be by more than a part of 2^-26."""


class Both(NamedTuple):
    """Terms, and the same of resamples; or their sums."""

    plain: Any
    resampled: Any


class Told(SumDefinition):
    """What is told of examples, as it is."""

    @property
    def is_estimate(self) -> bool:
        """It is none."""
        return False


class Counted(Told):
    """Counts of examples, which do not fade."""

    @property
    def fades(self) -> bool:
        """They do not."""
        return False


@dataclasses.dataclass(frozen=True, eq=False)
class CombinedSums(SumDefinition):
    """Sums of another definition, spread."""

    inner: SumDefinition
    over: Spread

    def make_key(self) -> Hashable:
        """What it is of, and what that is spread over."""
        return self.inner, self.over

    @property
    def prefix(self) -> str:
        """As of what is spread."""
        return self.inner.prefix

    @property
    def is_estimate(self) -> bool:
        """As of what is spread."""
        return self.inner.is_estimate

    @property
    def fades(self) -> bool:
        """As of what is spread."""
        return self.inner.fades

    def spread_values(self, sums: Any, terms: Any) -> Values:
        """The values of sums that are spread, by segment or resample, ``[T, ..., ...]``."""
        axes = jax.tree.map(lambda term: 1 + term.spreads.index(self.over), terms)
        return jax.vmap(self.inner.evaluate, in_axes=(axes,), out_axes=1)(sums)


class SegmentedSums(CombinedSums):
    """Values by segment, ``[T, G, ...]``."""

    def evaluate(self, sums: Any) -> Values:
        """The values of sums."""
        return self.spread_values(sums, self.terms)


class DecayedSums(CombinedSums):
    """Values of sums in which examples count the less, the older they are."""

    @property
    def prefix(self) -> str:
        """What comes before the names of values."""
        return "decayed_"

    def evaluate(self, sums: Any) -> Values:
        """The values of sums; where all have faded, as of none.

        Else they would fade away one by one, the smallest first.
        """
        term: Any = self.distinct_terms()[0]
        axes = 1 + sum(not isinstance(x, Decay) for x in term.spreads)

        def largest(x: jax.Array) -> jax.Array:
            return jnp.max(jnp.abs(x), axis=tuple(range(axes, x.ndim)))

        leaves = jax.tree.leaves(sums)
        is_gone = functools.reduce(jnp.maximum, map(largest, leaves)) < FADED
        return self.inner.evaluate(
            jax.tree.map(lambda x: jnp.where(along(is_gone, x), 0.0, x), sums)
        )


@dataclasses.dataclass(frozen=True, eq=False)
class ResampledSums(CombinedSums):
    """What is told of values by those of resamples."""

    summary: Formula

    def make_key(self) -> Hashable:
        """All that it is made of."""
        return self.inner, self.over, self.summary

    def evaluate(self, sums: Both) -> Values:
        """The summary of the values of sums, and of those of resamples."""
        values = self.inner.evaluate(sums.plain)
        return self.summary(values, self.spread_values(sums.resampled, self.terms.resampled))


@dataclasses.dataclass(frozen=True, eq=False)
class CombinedSamples(SampleDefinition):
    """Examples of another definition, spread."""

    inner: SampleDefinition
    over: Spread

    def make_key(self) -> Hashable:
        """What it is of, and what that is spread over."""
        return self.inner, self.over, self.kept


class SegmentedSamples(CombinedSamples):
    """Values by segment, ``[T, G, ...]``."""

    def evaluate(self, rows: Batch) -> Values:
        """The values of examples; all at once, if there is a formula for that."""
        over: Any = self.over
        if self.inner.by_segment is None:
            return over.repeated(self.inner.evaluate)(rows)
        segment = over.of(rows)
        tasks = jnp.arange(len(segment))[:, None]
        has_bad = jnp.zeros((len(segment), over.count), bool)
        has_bad = has_bad.at[tasks, segment].max(self.inner.is_bad(rows), mode="drop")
        values = self.filled(self.inner.by_segment(rows, segment, over.count), has_bad)
        return {name: jnp.where(has_bad, jnp.nan, value) for name, value in values.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class ResampledSamples(CombinedSamples):
    """What is told of values by those of resamples."""

    summary: Formula

    def make_key(self) -> Hashable:
        """All that it is made of."""
        return self.inner, self.over, self.kept, self.summary

    def evaluate(self, rows: Batch) -> Values:
        """The summary of the values of examples, and of those of resamples."""
        over: Any = self.over
        return self.summary(self.inner.evaluate(rows), over.repeated(self.inner.evaluate)(rows))


def segmented(definition: Definition, over: Segments) -> Definition:
    """A definition by segment."""
    if isinstance(definition, WindowSums):
        return definition.with_sums(_segmented_sums(definition.of_sums, over))
    if isinstance(definition, SumDefinition):
        return _segmented_sums(definition, over)
    assert isinstance(definition, SampleDefinition)  # There are no others.
    return SegmentedSamples(**_of_samples(definition, over))


def _segmented_sums(definition: SumDefinition, over: Segments) -> SumDefinition:
    return SegmentedSums(**_of_sums(definition, over, _spread(definition.terms, over)))


def decayed_definition(definition: Definition, over: Decay) -> Definition:
    """A definition of sums with decay; counts of examples stay as they are.

    Raises:
        ValueError: if it is one of examples, or has a window.
    """
    if not isinstance(definition, SumDefinition) or definition.window is not None:
        raise ValueError(
            "metric: expected one of sums without a window, got one with a window of examples; a "
            "window and decay are two ways to forget, so take the one or the other"
        )
    if not definition.fades:
        return definition
    return DecayedSums(**_of_sums(definition, over, _spread(definition.terms, over)))


def resampled(definition: Definition, over: Resamples, summary: Formula) -> Definition:
    """What is told of a definition by resamples.

    Raises:
        ValueError: if the metric cannot be resampled by weights.
    """
    if isinstance(definition, WindowSums):
        return definition.with_sums(_resampled_sums(definition.of_sums, over, summary))
    if isinstance(definition, SumDefinition):
        return _resampled_sums(definition, over, summary)
    if not isinstance(definition, SampleDefinition) or definition.resampled_by is None:
        raise ValueError(f"{NOT_RESAMPLED}, got one of {definition.values.name}")
    return ResampledSamples(**_of_samples(definition, over), summary=summary)


def _resampled_sums(definition: SumDefinition, over: Resamples, summary: Formula) -> SumDefinition:
    if not definition.is_estimate:
        return definition
    for term in definition.distinct_terms():
        _check_resampled(term)
    terms = Both(definition.terms, _spread(definition.terms, over))
    return ResampledSums(**_of_sums(definition, over, terms), summary=summary)


NOT_RESAMPLED = (
    "metric: expected one that a bootstrap can draw, of sums over examples or sessions, or in "
    "which a weight counts as copies of its example (resampled_by='weights')"
)


def _check_resampled(term: Term) -> None:
    inner = term.inner if isinstance(term, SpreadTerm) else term
    if inner.is_summed and not isinstance(inner, BinnedTerm) and inner.resampled_by is None:
        raise ValueError(f"{NOT_RESAMPLED}, got one of {inner.label}")


def _spread(terms: Any, over: Spread) -> Any:
    return jax.tree.map(lambda term: spread(term, over), terms)


def _of_sums(definition: SumDefinition, over: Spread, terms: Any) -> dict[str, Any]:
    """The fields of a `CombinedSums`."""
    return {
        "values": definition.values,
        "undefined": definition.undefined,
        "terms": terms,
        "window": definition.window,
        "inner": definition,
        "over": over,
    }


def _of_samples(definition: SampleDefinition, over: Segments | Resamples) -> dict[str, Any]:
    """The fields of a `CombinedSamples`."""
    keys = tuple(sorted({*definition.kept.keys, *over.keys}))
    return {
        "values": definition.values,
        "undefined": definition.undefined,
        "kept": definition.kept._replace(keys=keys),
        "excludes": definition.excludes,
        "resampled_by": definition.resampled_by,
        "by_segment": None,
        "inner": definition,
        "over": over,
    }
