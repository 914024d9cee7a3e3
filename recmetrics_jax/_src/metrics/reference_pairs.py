"""Pairwise AUC of sessions as the reference, torchrec, has it after 1.9.2; for the adapter.

`recmetrics_jax.pairwise_auc` is that of text books. Here everything is in float32 first, labels
closer than 1e-6 are equal, so are those with such labels between them, and negative weights may
make pairs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from recmetrics_jax._src import segments
from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.columns import columns
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics._pairs import in_last_rows
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.options import flag, text
from recmetrics_jax._src.pairs import count_pairs
from recmetrics_jax._src.terms import Term, scores
from recmetrics_jax._src.words import words_or_absent

NAME = "session_pairwise_auc"
OF_PAIRS = ("correct_pair_weight", "total_pair_weight")
OF_COVERAGE = (
    "valid_pair_count",
    "same_session_pair_count",
    "effective_example_count",
    "example_count",
    "session_count",
    "singleton_session_count",
    "degenerate_session_count",
    "group_size_sum",
    "group_size_max_sum",
    "batch_count",
)
LABEL_GAP = 1e-6


class PairOptions(NamedTuple):
    """The options that decide which pairs count, and what."""

    session_key: str
    rank_order_label: bool
    remove_zero_weight_from_pair: bool
    weight_pairs: bool


class _Rows(NamedTuple):
    """The rows of a batch that can be in pairs."""

    labels: jax.Array
    weights: jax.Array
    groups: tuple[jax.Array, ...]
    """Of the same session, and where a product of weights is to be above 0, of the same sign."""
    has_weight: jax.Array
    is_present: jax.Array
    """Those of them that have a label too."""


def _rows_of(batch: Batch, options: PairOptions) -> _Rows:
    labels, weights = (x.astype(jnp.float32) for x in (batch.labels, batch.weights))
    groups, has_weight = batch.key(options.session_key), batch.mask
    if options.remove_zero_weight_from_pair:
        groups = (*groups, (weights < 0).astype(jnp.int32))
        has_weight = has_weight & ((weights > 0) | (weights < 0))
    return _Rows(labels, weights, groups, has_weight, has_weight & ~jnp.isnan(labels))


class _Steps(NamedTuple):
    """Rows by group and label, those that are not present last in their group."""

    order: jax.Array
    is_first: jax.Array
    """Where a group begins."""
    is_step: jax.Array
    """Where labels that are not those of the row before begin, or a group does."""
    is_present: jax.Array


def _steps(labels: jax.Array, groups: tuple[jax.Array, ...], is_present: jax.Array) -> _Steps:
    order = segments.argsort(*groups, *words_or_absent(labels, is_present))
    is_first = segments.is_first(*(segments.take(x, order) for x in groups))
    labels = segments.take(labels, order)
    gap = jnp.diff(labels, axis=-1, prepend=labels[..., :1])
    is_step = is_first | (gap >= jnp.asarray(LABEL_GAP, labels.dtype))
    return _Steps(order, is_first, is_step, segments.take(is_present, order))


def pair_sums(batch: Batch, options: PairOptions) -> jax.Array:
    """The weight of the pairs in order, and of all that labels order, ``float64[T, 2]``."""
    with jax.enable_x64(True):
        rows = _rows_of(batch, options)
        steps = _steps(rows.labels, rows.groups, rows.is_present)
        labels = segments.put(segments.numbers(steps.is_step), steps.order)
        ones = rows.is_present.astype(jnp.float32)
        weights = (rows.weights, ones) if options.weight_pairs else (ones, None)
        pairs = count_pairs(
            -scores(batch).astype(jnp.float32),
            labels if options.rank_order_label else -labels,
            weights[0],
            rows.groups,
            weights[1],
            rows.is_present,
        )
        in_order = pairs.concordant + pairs.tied_in_x / 2
        ordered = pairs.concordant + pairs.discordant + pairs.tied_in_x
        of_groups = jnp.stack(in_last_rows(pairs, in_order, ordered), axis=-1)
        return jnp.sum(of_groups, axis=1)


def coverage_sums(batch: Batch, options: PairOptions) -> jax.Array:
    """What a batch adds to each of `OF_COVERAGE`, ``float64[T, 10]``."""
    with jax.enable_x64(True):
        counts = _coverage(batch, options)
        sums = [jnp.sum(counts[name].astype(jnp.float64), axis=1) for name in OF_COVERAGE]
        return jnp.stack(sums, axis=1)


def _coverage(batch: Batch, options: PairOptions) -> dict[str, jax.Array]:
    """What is to be added up over rows, ``[T, N]`` each; most is in the last rows of groups."""
    rows = _rows_of(batch, options)
    pairable = _steps(rows.labels, rows.groups, rows.is_present)
    with_weight = segments.take(rows.has_weight, pairable.order)
    of_label = _counts(pairable.is_present, pairable.is_step)
    labelled = _counts(pairable.is_present, pairable.is_first)
    is_ordered = _counts(pairable.is_step & ~pairable.is_first, pairable.is_first, labelled) > 0
    every = _steps(rows.labels, batch.key(options.session_key), batch.mask)
    sizes = _counts(every.is_present, every.is_first)
    has_two_labels = _counts(every.is_step & ~every.is_first, every.is_first, sizes) > 0
    return {
        "valid_pair_count": _two_of(labelled) - _two_of(of_label),
        "same_session_pair_count": _two_of(_counts(with_weight, pairable.is_first)),
        "effective_example_count": jnp.where(is_ordered, labelled, 0),
        "example_count": batch.mask,
        "session_count": sizes > 0,
        "singleton_session_count": sizes == 1,
        "degenerate_session_count": (sizes > 1) & ~has_two_labels,
        "group_size_sum": sizes,
        "group_size_max_sum": jnp.max(sizes, axis=1, keepdims=True),
        "batch_count": jnp.any(batch.mask, axis=1, keepdims=True),
    }


def _counts(x: jax.Array, is_first: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
    """How many of the rows of a group ``x`` is True for, in its last row, ``float64[T, N]``.

    With ``sizes`` of groups, of the first so many rows alone.
    """
    if sizes is not None:
        last = segments.last_rows(is_first)
        x = x & (segments.ranks(is_first) < segments.take(sizes, last).astype(jnp.int32))
    counts = segments.cumsum(x.astype(jnp.float64), is_first)
    return jnp.where(segments.is_last(is_first), counts, 0.0)


def _two_of(count: jax.Array) -> jax.Array:
    """The pairs of so many rows."""
    return count * (count - 1) / 2


def session_pairwise_auc_values(sums: Mapping[str, jax.Array]) -> Values:
    """The fraction of pairs in order and, where batches are covered, what they hold."""
    correct, total = (sums[name] for name in OF_PAIRS)
    values = {NAME: safe_divide(correct, total)}
    if "batch_count" in sums:
        sessions, batches = sums["session_count"], sums["batch_count"]
        tied = sums["same_session_pair_count"] - sums["valid_pair_count"]
        values |= {
            "valid_pairs_per_batch": safe_divide(sums["valid_pair_count"], batches),
            "effective_examples_per_batch": safe_divide(sums["effective_example_count"], batches),
            "tied_pair_rate": safe_divide(tied, sums["same_session_pair_count"]),
            "degenerate_session_rate": safe_divide(sums["degenerate_session_count"], sessions),
            "singleton_session_rate": safe_divide(sums["singleton_session_count"], sessions),
            "mean_group_size": safe_divide(sums["group_size_sum"], sessions),
            "largest_group_size_per_batch": safe_divide(sums["group_size_max_sum"], batches),
        }
    return values


def session_pairwise_auc(
    *,
    session_key: str,
    rank_order_label: bool,
    remove_zero_weight_from_pair: bool,
    weight_pairs: bool,
    report_batch_coverage: bool,
    n_tasks: int = 1,
    window: int | None = None,
) -> Metric:
    """Pairwise AUC of the sessions of each batch as the reference has it; 0.5 without pairs.

    Args:
        session_key: the name of the sessions.
        rank_order_label: whether labels are ranks, the lowest of which is the best.
        remove_zero_weight_from_pair: whether only pairs count the product of whose weights is above
            0.
        weight_pairs: whether a pair weighs the sum of its weights; else 1.
        report_batch_coverage: whether to tell of sessions and pairs too.
        n_tasks: number of tasks.
        window: examples in the window.

    Raises:
        ValueError: if an option is not as above.
    """
    options = PairOptions(
        text("session_key", session_key),
        flag("rank_order_label", rank_order_label),
        flag("remove_zero_weight_from_pair", remove_zero_weight_from_pair),
        flag("weight_pairs", weight_pairs),
    )
    terms = dict(zip(OF_PAIRS, _terms(pair_sums, options, len(OF_PAIRS)), strict=True))
    if flag("report_batch_coverage", report_batch_coverage):
        of_coverage = _terms(coverage_sums, options, len(OF_COVERAGE))
        terms |= dict(zip(OF_COVERAGE, of_coverage, strict=True))
    return sum_metric(
        terms,
        session_pairwise_auc_values,
        n_tasks=n_tasks,
        window=window,
        undefined={NAME: 0.5},
    )


def _terms(function: Callable[..., jax.Array], options: PairOptions, count: int) -> Sequence[Term]:
    keys = (options.session_key,)
    return columns(
        Term(function, (options,), shape=(count,), keys=keys, is_summed=True, per_batch=True)
    )
