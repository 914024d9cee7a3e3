"""Terms whose sums are spread, and how these are added up: many terms in one product.

Shapes: ``G`` segments, or products of segments, ``R`` resamples, ``K`` statistics, ``M`` domains.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from recmetrics_jax._src import reduction
from recmetrics_jax._src.base import Batch, is_known, masked
from recmetrics_jax._src.domain import Domain
from recmetrics_jax._src.fingerprints import text_of
from recmetrics_jax._src.places import Place
from recmetrics_jax._src.spreads import (
    Decay,
    Resamples,
    Segments,
    Spread,
    mixed_with,
    stacked,
)
from recmetrics_jax._src.terms import BinnedTerm, Term


@dataclasses.dataclass(frozen=True, eq=False)
class SpreadTerm(Term):
    """The sums of a term by segment, over resamples, or by age; made by `spread`.

    A bad example, or one out of the domain of the term, makes the sums of its segment NaN.
    """

    inner: Any = None
    """The term, not spread."""
    spreads: tuple[Spread, ...] = ()
    """Segments, then resamples, then decay: so the sums are ``float64[T, G, ..., R, *shape]``."""

    def make_key(self) -> Hashable:
        """The term, and what it is spread over."""
        return self.inner, self.spreads

    def make_text(self) -> str:
        """The same, as a text."""
        return f"{type(self).__name__} {self.inner.text} {text_of(self.spreads)}"

    @property
    def label(self) -> str:
        """The term, for messages."""
        return self.inner.label

    @property
    def decay(self) -> Decay | None:
        """By what its sums decay."""
        return next((x for x in self.spreads if isinstance(x, Decay)), None)

    @property
    def counts(self) -> tuple[list[int], list[int]]:
        """How many segments there are, and how many resamples."""
        segments = [x.count for x in self.spreads if isinstance(x, Segments)]
        return segments, [x.count for x in self.spreads if isinstance(x, Resamples)]

    def evaluate(self, batch: Batch) -> jax.Array:
        """The sums of a batch, ``float64[T, *shape]``."""
        return spread_sums(batch, [self], {})[self]


@dataclasses.dataclass(frozen=True, eq=False)
class SpreadBinnedTerm(SpreadTerm, BinnedTerm):
    """The same of a term of bins: each segment has bins of its own, and each bin all resamples.

    So ``shape`` is ``(R C, G bins)``, and an update over the lifetime costs no more than its
    examples.
    """

    def evaluate(self, batch: Batch) -> jax.Array:
        """The sums of a batch, ``float64[T, R C, G bins]``."""
        return BinnedTerm.evaluate(self, batch)

    def scatter(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """In which bins examples count, and what: ``int32[T, N]`` and ``float[T, N, R C]``."""
        index, weights = self.inner.scatter(self.inner.view(batch))
        dtype, place = weights.dtype, Place.of(batch, self.spreads)
        if not self.inner.raw:
            weights = jnp.where(outside(batch, [self.inner.domain]), jnp.nan, weights)
        with jax.enable_x64(True):
            weights = weights.astype(jnp.float64)
            if place.age is not None:
                weights = weights * place.age[..., None]
            drawn = place.drawn()
            if drawn is not None:
                weights = drawn.astype(jnp.float64)[..., None] * weights[:, :, None]
            weights = weights.reshape(*index.shape, math.prod(weights.shape[2:]))
            weights = weights.astype(dtype)
        if place.segment is None:
            return index, weights
        is_in = place.segment < place.segments
        index = index + place.segment * jnp.int32(self.inner.shape[1])
        return jnp.where(is_in, index, 0), jnp.where(is_in[..., None], weights, 0.0)

    def arranged(self, sums: jax.Array) -> jax.Array:
        """Its sums, with an axis for all that it is spread over: ``[T, G, ..., R, C, bins]``."""
        segments, resamples = self.counts
        statistics, bins = self.inner.shape
        by_axis = sums.reshape(-1, *resamples, statistics, *segments, bins)
        axes = range(2 + len(resamples), 2 + len(resamples) + len(segments))
        return jnp.moveaxis(by_axis, axes, range(1, 1 + len(segments)))


def spread(term: Term, over: Spread) -> SpreadTerm:
    """A term, spread over one thing more.

    Raises:
        ValueError: if it is spread over resamples, or by age, already.
    """
    inner, spreads = (term.inner, term.spreads) if isinstance(term, SpreadTerm) else (term, ())
    if not isinstance(over, Segments) and any(type(x) is type(over) for x in spreads):
        what = "replicates" if isinstance(over, Resamples) else "a half-life"
        raise ValueError(f"metric: expected one without {what} of its own, got one that has them")
    order = (Segments, Resamples, Decay)
    spreads = tuple(sorted((over, *spreads), key=lambda x: order.index(type(x))))
    kind = SpreadBinnedTerm if isinstance(inner, BinnedTerm) else SpreadTerm
    made = kind(
        inner.function,
        inner.options,
        keys=tuple(dict.fromkeys((*inner.keys, *(key for x in spreads for key in x.keys)))),
        by_order=inner.by_order,
        raw=True,
        is_summed=True,
        per_batch=inner.per_batch,
        inner=inner,
        spreads=spreads,
    )
    segments, resamples = made.counts
    shape = (*segments, *resamples, *inner.shape)
    if isinstance(inner, BinnedTerm):
        statistics, bins = inner.shape
        shape = (math.prod(resamples) * statistics, math.prod(segments) * bins)
    return dataclasses.replace(made, shape=shape)


def out_of_range(batch: Batch, over: Segments) -> jax.Array:
    """1 for each example that is of no segment."""
    is_out = batch.mask & (over.of(batch) == over.count)
    return is_out.astype(batch.weights.dtype)


def out_of_range_term(over: Segments) -> Term:
    """The number of examples that are of no segment."""
    return Term(out_of_range, (over,), keys=over.keys, raw=True)


def spread_sums(
    batch: Batch, terms: Iterable[SpreadTerm], evaluated: Mapping[Term, jax.Array]
) -> dict[SpreadTerm, jax.Array]:
    """The sums of terms over a batch, ``float64[T, *shape]`` each.

    Args:
        batch: the examples.
        terms: the terms.
        evaluated: of some of their inner terms, what they are at the examples.
    """
    n_tasks, examples = batch.mask.shape
    if is_known(examples) and not examples:
        with jax.enable_x64(True):
            return {term: jnp.zeros((n_tasks, *term.shape)) for term in terms}
    together: dict[tuple[Spread, ...], list[SpreadTerm]] = {}
    sums: dict[SpreadTerm, jax.Array] = {}
    for term in terms:
        if isinstance(term, SpreadBinnedTerm):
            sums[term] = term.evaluate(batch)
        else:
            together.setdefault(term.spreads, []).append(term)
    with jax.enable_x64(True):
        for spreads, of_spreads in together.items():
            sums |= _sums_of(batch, spreads, of_spreads, evaluated)
    return sums


def _sums_of(
    batch: Batch,
    spreads: tuple[Spread, ...],
    terms: Sequence[SpreadTerm],
    evaluated: Mapping[Term, jax.Array],
) -> dict[SpreadTerm, jax.Array]:
    """The sums of terms that are spread alike; those of examples all in one product."""
    place = Place.of(batch, spreads)
    inner = dict.fromkeys(term.inner.everywhere for term in terms)
    domains = dict.fromkeys(term.inner.domain for term in terms if not term.inner.raw)
    is_bad = _where_bad(batch, place, domains)
    of_examples = [term for term in inner if not term.is_summed]
    columns: list[jax.Array] = []
    for term in of_examples:
        x = evaluated[term] if term in evaluated else term.evaluate(term.view(batch))
        columns += columns_of(x)
    by_term: dict[Term, jax.Array] = {}
    if columns:
        starts = itertools.accumulate((term.size for term in of_examples), initial=0)
        sums = place.sums(columns)
        for term, start in zip(of_examples, starts, strict=False):
            by_term[term] = sums[..., start : start + term.size]
    for term in inner:
        if term.is_summed:
            x = _of_summed(batch, spreads, term)
            by_term[term] = x.reshape(*x.shape[: x.ndim - len(term.shape)], -1)
    result = {}
    for term in terms:
        of_term = by_term[term.inner.everywhere]
        if not term.inner.raw:
            of_term = jnp.where(is_bad[term.inner.domain][..., None], jnp.nan, of_term)
        result[term] = of_term.reshape(-1, *term.shape)
    return result


def _where_bad(
    batch: Batch, place: Place, domains: Mapping[Domain, None]
) -> dict[Domain, jax.Array]:
    """Where examples are out of a domain, ``bool[T, G, R]``, of axes that there are.

    Mostly there are none, and nothing is added up.
    """
    if not domains:
        return {}
    is_outside = outside(batch, domains)
    place = place._replace(age=None)

    def places(is_outside: jax.Array) -> jax.Array:
        return place.sums(columns_of(is_outside.astype(batch.weights.dtype))) > 0

    def nowhere(is_outside: jax.Array) -> jax.Array:
        return jnp.zeros_like(jax.eval_shape(places, is_outside))

    is_bad = jax.lax.cond(jnp.any(is_outside), places, nowhere, is_outside)
    return {domain: is_bad[..., i] for i, domain in enumerate(domains)}


def columns_of(x: jax.Array) -> list[jax.Array]:
    """Statistics of examples, ``[T, N, *shape]``, as columns ``[T, N]``."""
    x = x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
    return [x[..., i] for i in range(x.shape[2])]


def outside(batch: Batch, domains: Iterable[Domain]) -> jax.Array:
    """Which examples are out of which domain, ``bool[T, N, M]``."""
    checks = reduction.checks_of(batch, domains)
    return jnp.concatenate([check.outside(check.extremes) for check in checks], axis=2)


def _of_summed(batch: Batch, spreads: Sequence[Spread], term: Term) -> jax.Array:
    """The sums of a term that gives sums, ``float64[T, G, R, *shape]``, of axes there are.

    What its rows contribute is added up, where it says that; else it is worked out for each segment
    and each resample. All is as old as the newest example.
    """
    resamples = next((x for x in spreads if isinstance(x, Resamples)), None)
    segments = [x for x in spreads if isinstance(x, Segments)]
    if resamples is not None and term.resampled_by == "weights":
        of_segments = functools.partial(_of_summed, spreads=segments, term=term)
        sums = resamples.repeated(of_segments)(batch)
        return jnp.moveaxis(sums, 1, 2) if segments else sums
    place = Place.of(batch, [*segments, *([] if resamples is None else [resamples])])
    view = term.view(batch)
    if term.by_row:
        if place.segment is not None:
            view = apart(view, place.segment, term.keys)
        parts = [
            place.of_rows(part.order).sums(columns_of(part.rows()))
            for part in term.function(view, *term.options)
        ]
        sums = jnp.concatenate(parts, axis=-1)
        return sums.reshape(*sums.shape[:-1], *term.shape)
    if place.segment is None:
        return term.evaluate(view)
    numbers = jnp.arange(place.segments, dtype=jnp.int32)
    return stacked(lambda n: term.evaluate(masked(view, place.segment == n)), numbers)


def apart(batch: Batch, segment: jax.Array, keys: tuple[str, ...]) -> Batch:
    """The examples, of which those of unlike segments have unlike keys."""
    mixed = {key: mixed_with(batch.keys[key], segment) for key in keys}
    return batch._replace(keys={**batch.keys, **mixed}).with_segment(segment)
