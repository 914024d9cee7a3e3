"""Quality of the whole ranking inside sessions: normalized discounted cumulative gain."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src import segments, sessions
from recmetrics_jax._src.base import Batch, is_known
from recmetrics_jax._src.build import DEFAULT_SLOTS
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics._scopes import Scope
from recmetrics_jax._src.metrics._sessions import (
    SessionOptions,
    SessionRows,
    Value,
    is_relevant,
    ranked,
    session_metric,
    sums_of_sessions,
)
from recmetrics_jax._src.options import flag, whole
from recmetrics_jax._src.sessions import Sessions
from recmetrics_jax._src.terms import scores


class Discounted(NamedTuple):
    """Discounted gains at the ranks of a session up to each one, ``float64[T, N]``."""

    dcg: jax.Array
    """In the order of scores, ties by expectation."""
    ideal: jax.Array
    """In the order of gains."""
    magnitude: jax.Array
    """Of the latter without their signs."""


def discounted(labels: jax.Array, rows: Sessions, *, exponential_gain: bool) -> Discounted:
    """Adds up gains; in an x64 scope.

    Args:
        labels: ``float[T, N]``, as the rows were given.
        rows: the rows by session.
        exponential_gain: the gain is ``2^y - 1``, in units of ``2^y`` of the session's largest y.
    """
    labels = segments.take(labels, rows.order)
    ideal = sessions.ideal_order(labels, rows)
    unit = segments.take(ideal, rows.start).astype(jnp.float64)
    is_present = rows.rank <= rows.length

    def gains_of(labels: jax.Array) -> jax.Array:
        labels = labels.astype(jnp.float64)
        if exponential_gain:
            # 2^(y - unit) (1 - 2^-y), and -2^-unit (1 - 2^y) below 0: no power overflows.
            rest = -jnp.expm1(-math.log(2) * jnp.abs(labels))
            power = jnp.exp2(jnp.maximum(labels, 0.0) - jnp.maximum(unit, 0.0))
            labels = jnp.sign(labels) * rest * power
        return jnp.where(is_present, labels, 0.0)

    discounts = _discounts(rows.rank)
    of_ideal = gains_of(ideal) * discounts
    of_scores = sessions.run_means(gains_of(labels), rows) * discounts
    through = [segments.cumsum(x, rows.is_first) for x in (of_scores, of_ideal, jnp.abs(of_ideal))]
    # No order is better than the ideal one, so what is more is rounding.
    return Discounted(jnp.minimum(through[0], through[1]), *through[1:])


def _discounts(rank: jax.Array) -> jax.Array:
    """``1 / log2(rank + 1)``, ``float64[T, N]``, of ranks from 1 to N."""
    size = rank.shape[-1]
    # A constant, but where a function is exported for any number of examples.
    xp: Any = np if is_known(size) else jnp
    table = jnp.asarray(1 / xp.log2(xp.arange(2, size + 2)), jnp.float64)
    return table.at[rank - 1].get(mode="promise_in_bounds")


class NDCGOptions(NamedTuple):
    """The options of `ndcg` alone."""

    exponential_gain: bool
    report_ndcg_as_decreasing_curve: bool
    remove_single_length_sessions: bool
    scale_by_weights_tensor: bool
    is_negative_task_mask: tuple[bool, ...]
    """By task; empty for no negative tasks."""


def ndcg_sums(batch: Batch, options: SessionOptions, of_ndcg: NDCGOptions) -> SessionRows:
    """The sums of NDCG; see `sums_of_sessions`."""
    with jax.enable_x64(True):
        predictions, labels = to_rank_by(batch, of_ndcg)
        weights = batch.weights
        if of_ndcg.scale_by_weights_tensor:
            weights = (weights > 0).astype(weights.dtype)
        batch = batch._replace(predictions=predictions, labels=labels, weights=weights)
        if options.label_threshold is not None:
            labels = is_relevant(batch, options)[0].astype(labels.dtype)
        rows = ranked(batch, options)
        gains = discounted(labels, rows, exponential_gain=of_ndcg.exponential_gain)
        dcg, ideal, _ = gains
        if of_ndcg.report_ndcg_as_decreasing_curve:
            dcg = ideal - dcg
        values = [Value(dcg, ideal)] * len(options.ks)
        least = 2 if of_ndcg.remove_single_length_sessions else 1
        return sums_of_sessions(rows, batch, ideal > 0, values, options, labels >= 0, least)


def to_rank_by(batch: Batch, of_ndcg: NDCGOptions) -> tuple[jax.Array, jax.Array]:
    """The predictions and labels to rank by, ``float[T, N]``.

    As they are, or, if anything is computed from them, in float64: float32 could make ties.
    """
    pair = scores(batch), batch.labels
    with jax.enable_x64(True):
        if any(of_ndcg.is_negative_task_mask):
            is_negative = jnp.array(of_ndcg.is_negative_task_mask)[:, None]
            pair = tuple(x.astype(jnp.float64) for x in pair)
            pair = tuple(jnp.where(is_negative, 1 - x, x) for x in pair)
        if of_ndcg.scale_by_weights_tensor:
            weights = batch.weights.astype(jnp.float64)
            pair = tuple(weights * x.astype(jnp.float64) for x in pair)
    return pair[0], pair[1]


def ndcg_options(
    *,
    exponential_gain: bool,
    report_ndcg_as_decreasing_curve: bool,
    remove_single_length_sessions: bool,
    scale_by_weights_tensor: bool,
    is_negative_task_mask: Sequence[bool] | None,
    n_tasks: int,
) -> NDCGOptions:
    """The options of `ndcg` alone, as they are given to it.

    Raises:
        ValueError: if one of them is none.
    """
    mask = np.zeros(n_tasks, bool) if is_negative_task_mask is None else is_negative_task_mask
    flags = np.asarray(mask)
    if flags.shape != (n_tasks,) or flags.dtype != bool:
        raise ValueError(
            f"is_negative_task_mask: expected {n_tasks} booleans (n_tasks), got {mask!r}"
        )
    return NDCGOptions(
        flag("exponential_gain", exponential_gain),
        flag("report_ndcg_as_decreasing_curve", report_ndcg_as_decreasing_curve),
        flag("remove_single_length_sessions", remove_single_length_sessions),
        flag("scale_by_weights_tensor", scale_by_weights_tensor),
        tuple(flags.tolist()) if flags.any() else (),
    )


@factory
def ndcg(
    *,
    k: int | Sequence[int] | None = None,
    exponential_gain: bool = False,
    report_ndcg_as_decreasing_curve: bool = False,
    normalize_weights: bool = True,
    remove_single_length_sessions: bool = False,
    scale_by_weights_tensor: bool = False,
    is_negative_task_mask: Sequence[bool] | None = None,
    label_threshold: float | None = None,
    undefined_sessions: float | None = None,
    session_key: str = "session_id",
    scope: Scope = "batch",
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    shards: int = 1,
    undefined: float = math.nan,
) -> Metric:
    """Normalized discounted cumulative gain: how near the order in sessions is to the best one.

    Of a session ``DCG / ideal DCG``, at most 1, where ``DCG = sum over ranks r of gain /
    log2(r + 1)`` in order of falling predictions, the ideal DCG is that in order of falling gains,
    and the gain is the label. ``ndcg = sum(w v) / sum(w)`` over sessions of value v, where w is the
    largest weight in the session. Examples without weight have no rank. Tied predictions count by
    expectation over their orders, so the order of rows does not matter.

    In the scope of a batch, a session is what one batch holds of it, on one device: examples of a
    session in two batches count as two sessions. Its examples may lie anywhere in the batch.

    Libraries differ: scikit-learn's ``ndcg_score`` is this one, but for sessions without gain, of
    which it has 0 (``undefined_sessions=0.0``); TF-Ranking takes ``exponential_gain``; torchrec
    gives what is missing to 1, does not divide by weights, and has a ratio of 0 for sessions
    without gain: ``report_ndcg_as_decreasing_curve=True, normalize_weights=False,
    undefined_sessions=1.0``.

    Source: Järvelin and Kekäläinen, Cumulated Gain-Based Evaluation of IR Techniques, ACM
    Transactions on Information Systems 20(4), 2002; exponential gains: Burges et al., Learning to
    Rank Using Gradient Descent, ICML 2005; for ties McSherry and Najork, Computing Information
    Retrieval Performance Measures Efficiently in the Presence of Tied Scores, ECIR 2008.

    Args:
        k: the number of ranks that count, in both orders, at least 1, or a tuple of distinct
            numbers, which cost one sort; None for all ranks.
        exponential_gain: the gain is ``2^y - 1`` in place of ``y``, however large y.
        report_ndcg_as_decreasing_curve: give ``1 - DCG / ideal DCG``, where 0 is best.
        normalize_weights: False: ``sum(w v)`` is divided by the number of sessions.
        remove_single_length_sessions: leave out sessions of one example, which have but one order.
        scale_by_weights_tensor: weights multiply predictions and labels before anything else, and
            each session counts once.
        is_negative_task_mask: for each task, whether ``1 - p`` and ``1 - y`` take the place of
            predictions and labels; None for no task.
        label_threshold: the gain is 1 for labels from here on, 0 for others; None takes labels as
            they are: with one below 0, the values of its task are NaN.
        undefined_sessions: the value of a session without gain; None leaves such sessions out.
        session_key: the name of the sessions among the ``keys`` of `recmetrics_jax.make_batch`.
        scope: ``"batch"``: sessions are whole in their batch; ``"window"``: they may be split over
            batches, devices and states, and the newest ``window`` examples count.
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that a window of batches keeps apart; `recmetrics_jax.sum_metric` says more.
        shards: how many states share a window of examples; `recmetrics_jax.sample_metric` says
            more.
        undefined: the value where no session has one.

    Returns:
        A `Metric` with ``lifetime_ndcg``, or ``lifetime_ndcg_at_<k>`` for each k,
        ``lifetime_ndcg_sessions``, the number of sessions averaged, and
        ``lifetime_ndcg_undefined_sessions``, of those without gain; with a window also
        ``window_...``, and in its scope only that; each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`, and if an option is not one of the above.

    >>> import recmetrics_jax as rm
    >>> metric = rm.ndcg(k=(1, 10))
    >>> batch = rm.make_batch(
    ...     [0.9, 0.8, 0.7, 0.1], [1, 0, 1, 1], keys={"session_id": [7, 8, 7, 8]}
    ... )  # In session 7 both are relevant, in session 8 the second.
    >>> values = metric.compute(metric.update(metric.init(), batch))
    >>> {name: round(value.item(), 6) for name, value in values.items()}  # (1 + 1 / log2(3)) / 2
    {'lifetime_ndcg_at_1': 0.5, 'lifetime_ndcg_at_10': 0.815465, 'lifetime_ndcg_sessions': 2.0,
    'lifetime_ndcg_undefined_sessions': 0.0}
    """
    return session_metric(
        "ndcg",
        ndcg_sums,
        ndcg_options(
            exponential_gain=exponential_gain,
            report_ndcg_as_decreasing_curve=report_ndcg_as_decreasing_curve,
            remove_single_length_sessions=remove_single_length_sessions,
            scale_by_weights_tensor=scale_by_weights_tensor,
            is_negative_task_mask=is_negative_task_mask,
            n_tasks=whole("n_tasks", n_tasks, 1),
        ),
        k=k,
        normalize_weights=normalize_weights,
        has_all=True,
        label_threshold=label_threshold,
        undefined_sessions=undefined_sessions,
        session_key=session_key,
        scope=scope,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        shards=shards,
        undefined=undefined,
    )
