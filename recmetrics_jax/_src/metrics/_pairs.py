"""What metrics of pairs of examples add up, whether their scope is a batch or a window."""

import functools
from collections.abc import Callable
from typing import Generic, Literal, NamedTuple, TypeVar, get_args

import jax
import jax.numpy as jnp

from recmetrics_jax._src import segments
from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.contributions import Contributions
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics._groups import (
    Average,
    Grouping,
    GroupSums,
    average_values,
    group_contributions,
)
from recmetrics_jax._src.metrics._scopes import Scope, scoped_metric
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.pairs import Pairs, count_pairs
from recmetrics_jax._src.terms import NEGATIVE_WEIGHTS, Term, scores

X = TypeVar("X")

PairWeights = Literal["product", "copies"]

Fraction = Callable[[Pairs], tuple[jax.Array, jax.Array]]
"""Of pairs by group, the weight of those that count, and of those that they are a fraction of."""


class PairSums(NamedTuple, Generic[X]):
    """Sufficient statistics of a metric of pairs."""

    pairs: X
    """``float[T, 2]``, a `Fraction`; if grouped ``float[T, 6]``, with the fields of `GroupSums`."""


class PairOptions(NamedTuple):
    """The options that decide what a pair counts."""

    pair_weights: PairWeights | None
    grouping_key: str | None
    """None for no groups."""
    average: Average
    undefined_groups: float | None


def pair_sums(batch: Batch, options: PairOptions, of: Fraction) -> tuple[Contributions, ...]:
    """The sums of all pairs of a batch and, if grouped, of those in its groups.

    Args:
        batch: the examples.
        options: which weights count, and the groups.
        of: the fraction of the pairs that is wanted.

    Returns:
        2 columns; and 4 if grouped; see `PairSums`.
    """
    with jax.enable_x64(True):
        is_wrong = jnp.zeros_like(batch.mask)
        if options.pair_weights == "copies":  # There is no part of a copy.
            is_wrong = batch.weights != jnp.round(batch.weights)
        pairs = _pairs(batch, options, batch.segment)
        parts = [Contributions(in_last_rows(pairs, *of(pairs)), pairs.order, is_wrong)]
        if options.grouping_key is not None:
            pairs = _pairs(batch, options, batch.key(options.grouping_key))
            of_groups = group_contributions(
                safe_divide(*of(pairs)),
                pairs.order,
                pairs.is_first,
                is_present(batch, options),
                batch.weights,
                average=options.average,
                undefined_groups=options.undefined_groups,
            )
            parts.append(Contributions(tuple(of_groups), pairs.order, is_wrong))
        return tuple(parts)


def is_present(batch: Batch, options: PairOptions) -> jax.Array:
    """Which examples are in pairs, ``bool[T, N]``: where weights count, those that have one."""
    return batch.mask if options.pair_weights is None else batch.mask & (batch.weights > 0)


def _pairs(batch: Batch, options: PairOptions, groups: tuple[jax.Array, ...] = ()) -> Pairs:
    present = is_present(batch, options)
    weights = batch.weights if options.pair_weights else present.astype(batch.weights.dtype)
    # In one group, it is no matter where absent rows are.
    pairs = falling_pairs(batch, weights, groups, is_present=present if groups else None)
    if options.pair_weights != "copies":
        return pairs
    with jax.enable_x64(True):
        copies = segments.take(weights, pairs.order).astype(jnp.float64)
        of_copies = segments.cumsum(copies * (copies - 1) / 2, pairs.is_first)
        return pairs._replace(tied=pairs.tied + of_copies, total=pairs.total + of_copies)


def falling_pairs(
    batch: Batch,
    weights: jax.Array,
    groups: tuple[jax.Array, ...] = (),
    other_weights: jax.Array | None = None,
    is_present: jax.Array | None = None,
) -> Pairs:
    """The pairs of a batch, counted in the order of falling predictions.

    So are the curves of its groups, and a collection sorts once for both.
    """
    return count_pairs(-scores(batch), -batch.labels, weights, groups, other_weights, is_present)


def in_last_rows(pairs: Pairs, *of_groups: jax.Array) -> tuple[jax.Array, ...]:
    """What is of groups, ``[T, N]`` each, in the last row of each; 0 elsewhere."""
    is_end = segments.is_last(pairs.is_first)
    return tuple(jnp.where(is_end, x, 0.0) for x in of_groups)


def pair_values(sums: PairSums[jax.Array], *, name: str) -> Values:
    """The fraction of all pairs and, if grouped, its average over groups."""
    counted, total, *of_groups = jnp.moveaxis(sums.pairs, -1, 0)
    values = {name: safe_divide(counted, total)}
    if of_groups:
        values |= average_values(f"grouped_{name}", GroupSums(*of_groups))
    return values


def pair_metric(
    name: str,
    function: Callable[[Batch, PairOptions], tuple[Contributions, ...]],
    *,
    pair_weights: PairWeights | None,
    groups: Grouping,
    scope: Scope,
    n_tasks: int,
    window: int | None,
    slots: int,
    shards: int,
    undefined: float,
) -> Metric:
    """A metric of all pairs of examples and, if grouped, of those in groups.

    Args:
        name: the name of its value.
        function: ``function(batch, options)``: `pair_sums` of its fraction.
        pair_weights: what a pair weighs.
        groups: the groups.
        scope: and what follows: as for `scoped_metric`.
        n_tasks: number of tasks.
        window: examples in the window.
        slots: updates that a window of batches keeps apart.
        shards: how many states share a window of examples.
        undefined: what values are where they are undefined.

    Raises:
        ValueError: if an option is none of those there are.
    """
    if pair_weights is not None and pair_weights not in get_args(PairWeights):
        raise ValueError(
            f"pair_weights: expected one of {get_args(PairWeights)} or None, got {pair_weights!r}"
        )
    options = PairOptions(pair_weights=pair_weights, **groups)
    term = Term(
        function,
        (options,),
        shape=(2 if options.grouping_key is None else 2 + len(GroupSums._fields),),
        keys=() if options.grouping_key is None else (options.grouping_key,),
        excludes=() if pair_weights is None else NEGATIVE_WEIGHTS,
        by_order=True,
        is_summed=True,
        per_batch=True,
        by_row=True,
        resampled_by=None if pair_weights is None or options.grouping_key else "weights",
    )
    return scoped_metric(
        PairSums(term),
        functools.partial(pair_values, name=name),
        scope=scope,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        shards=shards,
        undefined=undefined,
    )
