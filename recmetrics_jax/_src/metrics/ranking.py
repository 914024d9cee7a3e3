"""Quality of the ranking inside sessions: normalized discounted cumulative gain."""

import math
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src import segments
from recmetrics_jax._src.base import Batch, Values, is_known
from recmetrics_jax._src.build import DEFAULT_SLOTS, sum_metric
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.options import flag, text, whole
from recmetrics_jax._src.terms import Term, scores

X = TypeVar("X")

CANCELLED = 1e-12


class NDCGSums(NamedTuple, Generic[X]):
    """Sufficient statistics of NDCG, each ``float[T]``."""

    sum_ndcg: X
    num_sessions: X


class NDCGOptions(NamedTuple):
    """The options of `ndcg` that decide what a session counts."""

    session_key: str
    remove_single_length_sessions: bool
    k: int
    exponential_gain: bool
    report_ndcg_as_decreasing_curve: bool
    scale_by_weights_tensor: bool
    is_negative_task_mask: tuple[bool, ...]
    """By task; empty for no negative tasks."""


class Sessions(NamedTuple):
    """The examples of a batch by session, wherever they were in the batch."""

    order: jax.Array
    """``int32[T, N]``: the rows of the batch in order of session."""
    numbers: jax.Array
    """``int32[T, N]``: the sessions of rows, in that order."""
    is_counted: jax.Array
    """``bool[T, N]``: whether session s counts."""


def sessions_of(batch: Batch, session_key: str, remove_single_length_sessions: bool) -> Sessions:
    """The sessions of a batch; those of masked examples alone do not count."""
    keys = batch.key(session_key)
    order = segments.argsort(*keys)
    is_first = segments.is_first(*(segments.take(key, order) for key in keys))
    numbers = segments.numbers(is_first)
    length = segments.totals(segments.take(batch.mask, order).astype(jnp.int32), numbers)
    least = 2 if remove_single_length_sessions else 1
    return Sessions(order, numbers, length >= least)


def num_sessions(batch: Batch, session_key: str, remove_single_length_sessions: bool) -> jax.Array:
    """The number of sessions that count, ``float[T]``."""
    sessions = sessions_of(batch, session_key, remove_single_length_sessions)
    with jax.enable_x64(True):
        return jnp.sum(sessions.is_counted, axis=1, dtype=jnp.float64)


def sum_ndcg(batch: Batch, options: NDCGOptions) -> jax.Array:
    """The sum over sessions of NDCG, or of what it lacks to 1, times their weight, ``float[T]``."""
    order, numbers, is_counted = sessions_of(batch, *options[:2])
    with jax.enable_x64(True):
        predictions, labels = _predictions_and_labels(batch, options)
        gains = labels.astype(jnp.float64)
        if options.exponential_gain:
            gains = jnp.expm1(gains * math.log(2))
        # Masked examples have no gain, and the last ranks of their session.
        gains = jnp.where(batch.mask, gains, 0.0)
        predictions, labels = (
            jnp.where(batch.mask, x, jnp.full_like(x, -jnp.inf)) for x in (predictions, labels)
        )
        predictions, labels, gains = (segments.take(x, order) for x in (predictions, labels, gains))
        ranking = jnp.stack([predictions, labels])
        ranked, discounts = _discounts(ranking, numbers, options.k)
        gains = segments.take(jnp.broadcast_to(gains, ranking.shape), ranked)
        discounted = jnp.stack([*(gains * discounts), jnp.abs(gains[1]) * discounts[1]])
        of_sessions = jnp.broadcast_to(numbers, discounted.shape)
        dcg, ideal, magnitude = segments.totals(discounted, of_sessions)
        # No order is better than the ideal one, so what is more is rounding.
        dcg = jnp.minimum(dcg, ideal)
        # Gains below 0 can cancel the others: what rounding leaves then is no ideal.
        ideal = jnp.where(jnp.abs(ideal) <= CANCELLED * magnitude, 0.0, ideal)
        value = safe_divide(dcg, ideal, undefined=0.0)
        if options.report_ndcg_as_decreasing_curve:
            value = 1 - value
        if not options.scale_by_weights_tensor:
            weights = segments.take(batch.weights, order).astype(jnp.float64)
            value = value * segments.maxima(weights, numbers)
        return jnp.sum(jnp.where(is_counted, value, 0.0), axis=1)


def _predictions_and_labels(batch: Batch, options: NDCGOptions) -> tuple[jax.Array, jax.Array]:
    """The predictions and labels to rank by, ``float[T, N]``.

    As they are, or, if anything is computed from them, in float64: float32 could make ties.
    """
    pair = scores(batch), batch.labels
    if any(options.is_negative_task_mask):
        is_negative = jnp.array(options.is_negative_task_mask)[:, None]
        pair = tuple(x.astype(jnp.float64) for x in pair)
        pair = tuple(jnp.where(is_negative, 1 - x, x) for x in pair)
    if options.scale_by_weights_tensor:
        weights = batch.weights.astype(jnp.float64)
        pair = tuple(weights * x.astype(jnp.float64) for x in pair)
    return pair[0], pair[1]


def _discounts(by: jax.Array, sessions: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The rows of sessions, ranked by falling ``by``, and their discounts; in an x64 scope.

    Each of a run of equal ``by`` gets the mean of the discounts of the run's ranks: the
    expectation over the orders of the run.

    Args:
        by: ``float[B, T, N]``, in order of session; B rankings at once.
        sessions: ``int32[T, N]``: the sessions of rows.
        k: the number of ranks that count; -1 for all.

    Returns:
        ``int32[B, T, N]`` and ``float64[B, T, N]``, in order of session and rank.
    """
    size = by.shape[-1]
    starts_of_sessions = jnp.broadcast_to(segments.starts(sessions), by.shape)
    sessions = jnp.broadcast_to(sessions, by.shape)
    order = segments.argsort(sessions, -by)
    runs = segments.numbers(segments.is_first(sessions, segments.take(by, order)))
    # Element r of what follows is of run r, and of ranks in its session.
    starts = segments.starts(runs)
    ends = jnp.concatenate([starts[..., 1:], jnp.full_like(starts[..., :1], size)], axis=-1)
    of_run = segments.take(sessions, jnp.minimum(starts, size - 1))
    session_starts = segments.take(starts_of_sessions, of_run)
    # A constant, but where a function is exported for any number of examples.
    xp: Any = np if is_known(size) else jnp
    rank = xp.arange(1, size + 1)
    discounts = xp.where(rank <= (size if k == -1 else k), 1 / xp.log2(rank + 1), 0.0)
    # What the ranks before each rank add up to.
    table = jnp.array(xp.concatenate([xp.zeros(1), xp.cumsum(discounts)]), jnp.float64)
    before, through = (
        table.at[rows - session_starts].get(mode="promise_in_bounds") for rows in (starts, ends)
    )
    count = jnp.maximum(ends - starts, 1).astype(jnp.float64)
    return order, segments.take((through - before) / count, runs)


def ndcg_terms(options: NDCGOptions) -> NDCGSums[Term]:
    """The terms of NDCG; the second sorts as the first does, so that under jit it costs nothing."""
    keys = (options.session_key,)
    return NDCGSums(
        Term(sum_ndcg, (options,), keys=keys, is_summed=True, per_batch=True),
        Term(num_sessions, options[:2], keys=keys, is_summed=True, per_batch=True),
    )


def ndcg_values(sums: NDCGSums[jax.Array]) -> Values:
    """The value of NDCG."""
    return {"ndcg": safe_divide(sums.sum_ndcg, sums.num_sessions)}


@factory
def ndcg(
    *,
    k: int = -1,
    exponential_gain: bool = False,
    report_ndcg_as_decreasing_curve: bool = True,
    remove_single_length_sessions: bool = False,
    scale_by_weights_tensor: bool = False,
    is_negative_task_mask: Sequence[bool] | None = None,
    session_key: str = "session_id",
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Normalized discounted cumulative gain: how near the order in sessions is to the best one.

    By default what is missing to it: ``ndcg = sum over sessions of m (1 - DCG / ideal DCG) /
    number of sessions``, where ``DCG = sum over ranks r of gain / log2(r + 1)`` in order of falling
    predictions, the ideal DCG is that in order of falling labels, the gain is the label, and ``m``
    is the largest weight in the session. A session whose ideal DCG is 0 has a ratio of 0. Tied
    predictions count by expectation over their orders, so the order of rows does not matter.

    A session is what one batch holds of it, on one device: examples of a session in two batches
    count as two sessions. Its examples may lie anywhere in the batch.

    Source: Järvelin and Kekäläinen, Cumulated Gain-Based Evaluation of IR Techniques, ACM
    Transactions on Information Systems 20(4), 2002; for ties McSherry and Najork, Computing
    Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores, ECIR
    2008.

    Args:
        k: the number of ranks that count, in both orders; -1 for all.
        exponential_gain: the gain is ``2^y - 1`` in place of ``y``.
        report_ndcg_as_decreasing_curve: give ``1 - DCG / ideal DCG``, where 0 is best; False:
            ``DCG / ideal DCG``, where 1 is best.
        remove_single_length_sessions: leave out sessions of one example, which have but one order.
        scale_by_weights_tensor: weights multiply predictions and labels before anything else, in
            place of sessions; ``m`` is 1.
        is_negative_task_mask: for each task, whether ``1 - p`` and ``1 - y`` take the place of
            predictions and labels; None for no task.
        session_key: the name of the sessions among the ``keys`` of `recmetrics_jax.make_batch`.
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no session has been seen.

    Returns:
        A `Metric` with ``lifetime_ndcg`` and, with a window, ``window_ndcg``, each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`, and if ``k`` is not a whole number of at least
            -1, or ``is_negative_task_mask`` does not hold ``n_tasks`` booleans.

    >>> import recmetrics_jax as rm
    >>> metric = rm.ndcg(report_ndcg_as_decreasing_curve=False)
    >>> batch = rm.make_batch(
    ...     [0.9, 0.8, 0.7, 0.1], [1, 0, 1, 1], keys={"session_id": [7, 8, 7, 8]}
    ... )  # In session 7 both are relevant, in session 8 the second.
    >>> value = metric.compute(metric.update(metric.init(), batch))["lifetime_ndcg"]
    >>> round(value.item(), 6)  # (1 + 1 / log2(3)) / 2
    0.815465
    """
    options = NDCGOptions(
        session_key=text("session_key", session_key),
        remove_single_length_sessions=flag(
            "remove_single_length_sessions", remove_single_length_sessions
        ),
        k=whole("k", k, -1),
        exponential_gain=flag("exponential_gain", exponential_gain),
        report_ndcg_as_decreasing_curve=flag(
            "report_ndcg_as_decreasing_curve", report_ndcg_as_decreasing_curve
        ),
        scale_by_weights_tensor=flag("scale_by_weights_tensor", scale_by_weights_tensor),
        is_negative_task_mask=_checked_mask(is_negative_task_mask, whole("n_tasks", n_tasks, 1)),
    )
    return sum_metric(
        ndcg_terms(options),
        ndcg_values,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )


def _checked_mask(mask: Sequence[bool] | None, n_tasks: int) -> tuple[bool, ...]:
    if mask is None:
        return ()
    flags = np.asarray(mask)
    if flags.shape != (n_tasks,) or flags.dtype != bool:
        raise ValueError(
            f"is_negative_task_mask: expected {n_tasks} booleans (n_tasks), got {mask!r}"
        )
    return tuple(flags.tolist())
