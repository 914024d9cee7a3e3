"""Where the relevant examples of sessions rank: mean reciprocal rank, average precision."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from recmetrics_jax._src import segments
from recmetrics_jax._src.base import Batch
from recmetrics_jax._src.build import DEFAULT_SLOTS
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics._scopes import Scope
from recmetrics_jax._src.metrics._sessions import (
    SessionOptions,
    SessionRows,
    Value,
    at_most,
    counted,
    session_metric,
    sums_of_sessions,
)
from recmetrics_jax._src.options import flag
from recmetrics_jax._src.relevant import Relevant, first_relevant
from recmetrics_jax._src.sessions import Sessions

Ranks = Literal["first", "all"]


def mrr_sums(batch: Batch, options: SessionOptions, of: Ranks) -> SessionRows:
    """The sums of reciprocal ranks; see `sums_of_sessions`."""
    rows, relevant, in_domain = counted(batch, options)
    with jax.enable_x64(True):
        if of == "first":
            ranks = first_relevant(relevant, rows).reciprocal
            value = Value(ranks, jnp.ones_like(relevant.total))
        else:
            tied, size, rank = (
                x.astype(jnp.float64) for x in (relevant.tied, rows.tied, rows.rank)
            )
            ranks = segments.cumsum(tied / size / rank, rows.is_first)
            value = Value(ranks, relevant.total)
        values = [value] * len(options.ks)
        return sums_of_sessions(rows, batch, relevant.total > 0, values, options, in_domain)


@factory
def mrr(
    *,
    k: int | Sequence[int] | None = None,
    of: Ranks = "first",
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
    """Mean reciprocal rank: how far up the first relevant example of a session is.

    ``v = 1 / rank of the first relevant example``, in the order of falling predictions, and 0 if it
    is not in the top k. With ``of="all"``, ``v`` is the mean of ``1 / rank`` over all relevant
    examples, 0 for those not in the top k, as Microsoft's recommenders have it (``mrr_score``, for
    the MIND data); torchmetrics and TF-Ranking take the first.

    In the scope of a batch, a session is what one batch holds of it, on one device. Examples
    without weight have no rank, and tied predictions count by expectation over their orders, so the
    order of rows does not matter. The value is ``sum(w v) / sum(w)`` over sessions of value v,
    where w is the largest weight in the session.

    Source: Voorhees, The TREC-8 Question Answering Track Report, TREC 1999; for ties McSherry and
    Najork, Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied
    Scores, ECIR 2008.

    Args:
        k: the number of ranks that count, at least 1, or a tuple of distinct numbers, which cost
            one sort; None for all ranks.
        of: which of the relevant examples count: the ``"first"``, or ``"all"``.
        label_threshold: labels from here on are relevant; None: labels are 0 or 1, and with any
            other the values of its task are NaN.
        undefined_sessions: the value of a session without relevant examples, 0 in torchmetrics;
            None leaves such sessions out.
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
        A `Metric` with ``lifetime_mrr``, or ``lifetime_mrr_at_<k>`` for each k,
        ``lifetime_mrr_sessions``, the number of sessions averaged, and
        ``lifetime_mrr_undefined_sessions``, of those without relevant examples; with a window also
        ``window_...``, and in its scope only that; each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`, and if an option is not one of the above.

    >>> import recmetrics_jax as rm
    >>> batch = rm.make_batch(
    ...     [0.9, 0.8, 0.7, 0.1], [1, 0, 1, 1], keys={"session_id": [7, 8, 7, 8]}
    ... )  # In session 7 both are relevant, in session 8 the second.
    >>> for metric in (rm.mrr(), rm.mrr(of="all")):
    ...     metric.compute(metric.update(metric.init(), batch))["lifetime_mrr"].item()
    0.75
    0.625
    """
    return session_metric(
        "mrr",
        mrr_sums,
        _checked_ranks(of),
        k=k,
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


def _checked_ranks(of: Ranks) -> Ranks:
    if of not in get_args(Ranks):
        raise ValueError(f"of: expected one of {get_args(Ranks)}, got {of!r}")
    return of


def precisions(relevant: Relevant, rows: Sessions) -> jax.Array:
    """What the precisions at relevant rows are expected to add up to; in an x64 scope.

    At rank ``j`` of a run of ``n`` with ``r`` relevant ones, a row is relevant with probability ``r
    / n``; if it is, ``(j - 1) (r - 1) / (n - 1)`` are expected to be relevant of those before it.

    Args:
        relevant: the relevant rows.
        rows: the rows by session.

    Returns:
        ``float64[T, N]``, in the order of sessions: over the ranks up to each one.
    """
    tied, above, size, place, rank = (
        x.astype(jnp.float64)
        for x in (relevant.tied, relevant.above, rows.tied, rows.rank_in_run, rows.rank)
    )
    before = above + (place - 1) * (tied - 1) / jnp.maximum(size - 1, 1.0)
    return segments.cumsum(tied / size * (1 + before) / rank, rows.is_first)


def average_precision_sums(batch: Batch, options: SessionOptions, capped: bool) -> SessionRows:
    """The sums of average precision; see `sums_of_sessions`."""
    rows, relevant, in_domain = counted(batch, options)
    with jax.enable_x64(True):
        through, total = precisions(relevant, rows), relevant.total
        values = [Value(through, at_most(total, k if capped else None)) for k in options.ks]
        return sums_of_sessions(rows, batch, total > 0, values, options, in_domain)


@factory
def average_precision(
    *,
    k: int | Sequence[int] | None = None,
    capped: bool = False,
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
    """Average precision of sessions, whose mean is known as MAP: how far up relevant examples are.

    ``v = sum over relevant examples in the top k of precision at their rank / relevant``, in the
    order of falling predictions, as trec_eval has it. With ``capped``, the divisor is
    ``min(k, relevant)``, as in Kaggle's MAP@k. (torchmetrics divides by the number of relevant
    examples in the top k, so that to find one more may lower the value; that is no option here.)

    In the scope of a batch, a session is what one batch holds of it, on one device. Examples
    without weight have no rank, and tied predictions count by expectation over their orders, so the
    order of rows does not matter. The value is ``sum(w v) / sum(w)`` over sessions of value v,
    where w is the largest weight in the session.

    Source: Manning, Raghavan and Schütze, Introduction to Information Retrieval, Cambridge
    University Press 2008, section 8.4; for ties McSherry and Najork, Computing Information
    Retrieval Performance Measures Efficiently in the Presence of Tied Scores, ECIR 2008.

    Args:
        k: the number of ranks that count, at least 1, or a tuple of distinct numbers, which cost
            one sort; None for all ranks.
        capped: divide by ``min(k, relevant)`` in place of all relevant ones.
        label_threshold: labels from here on are relevant; None: labels are 0 or 1, and with any
            other the values of its task are NaN.
        undefined_sessions: the value of a session without relevant examples, 0 in torchmetrics;
            None leaves such sessions out.
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
        A `Metric` with ``lifetime_average_precision``, or
        ``lifetime_average_precision_at_<k>`` for each k, ``lifetime_average_precision_sessions``,
        the number of sessions averaged, and ``lifetime_average_precision_undefined_sessions``, of
        those without relevant examples; with a window also ``window_...``, and in its scope only
        that; each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`, and if an option is not one of the above.

    >>> import recmetrics_jax as rm
    >>> metric = rm.average_precision(k=2)
    >>> batch = rm.make_batch(
    ...     [0.9, 0.8, 0.7, 0.1], [1, 0, 1, 1], keys={"session_id": [7, 8, 7, 8]}
    ... )  # In session 7 both are relevant, in session 8 the second.
    >>> values = metric.compute(metric.update(metric.init(), batch))
    >>> values["lifetime_average_precision_at_2"].item()  # (1 + 1 / 2) / 2
    0.75
    """
    return session_metric(
        "average_precision",
        average_precision_sums,
        flag("capped", capped),
        k=k,
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
