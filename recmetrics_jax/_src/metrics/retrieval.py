"""What is in the top k of sessions: recall, precision, hit rate."""

import math
from collections.abc import Sequence

import jax.numpy as jnp

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
from recmetrics_jax._src.relevant import first_relevant, relevant_in_top


def recall_at_sums(batch: Batch, options: SessionOptions, capped: bool) -> SessionRows:
    """The sums of recall; see `sums_of_sessions`."""
    rows, relevant, in_domain = counted(batch, options)
    hits, total = relevant_in_top(relevant, rows), relevant.total
    values = [Value(hits, at_most(total, k if capped else None)) for k in options.ks]
    return sums_of_sessions(rows, batch, total > 0, values, options, in_domain)


@factory
def recall_at(
    *,
    k: int | Sequence[int],
    capped: bool = False,
    pooled: bool = False,
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
    """Recall at k: what fraction of the relevant examples of a session is in its top k.

    ``v = relevant in the top k / relevant``, in the order of falling predictions. With ``capped``,
    ``v = relevant in the top k / min(k, relevant)``, of which 1 is reached whatever k: BEIR's
    capped recall. With ``pooled``, ``sum(w relevant in the top k) / sum(w relevant)`` over
    sessions, as torchrec's recall_session pools them; torchmetrics and others average sessions,
    which is the default here.

    In the scope of a batch, a session is what one batch holds of it, on one device. Examples
    without weight have no rank, and tied predictions count by expectation over their orders, so the
    order of rows does not matter. The value is ``sum(w v) / sum(w)`` over sessions of value v,
    where w is the largest weight in the session.

    Source: Manning, Raghavan and Schütze, Introduction to Information Retrieval, Cambridge
    University Press 2008, chapter 8; capped: Thakur et al., BEIR, NeurIPS 2021; for ties McSherry
    and Najork, Computing Information Retrieval Performance Measures Efficiently in the Presence of
    Tied Scores, ECIR 2008.

    Args:
        k: the number of ranks that count, at least 1, or a tuple of distinct numbers, which cost
            one sort.
        capped: divide by ``min(k, relevant)`` in place of all relevant ones.
        pooled: add up over sessions what is divided, and give ``pooled_recall_at_<k>``: a session
            counts the more, the more relevant examples it has.
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
        A `Metric` with ``lifetime_recall_at_<k>`` for each k, ``lifetime_recall_sessions``, the
        number of sessions averaged, and ``lifetime_recall_undefined_sessions``, of those without
        relevant examples; with a window also ``window_...``, and in its scope only that; each
        ``float[T]``. Where ``pooled``, ``pooled_recall`` takes the place of ``recall``, and all
        sessions are counted.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`, and if an option is not one of the above.

    >>> import recmetrics_jax as rm
    >>> metric = rm.recall_at(k=1)
    >>> batch = rm.make_batch(
    ...     [0.9, 0.8, 0.7, 0.1], [1, 0, 1, 1], keys={"session_id": [7, 8, 7, 8]}
    ... )  # In session 7 both are relevant, in session 8 the second.
    >>> metric.compute(metric.update(metric.init(), batch))["lifetime_recall_at_1"].item()
    0.25
    """
    return session_metric(
        "recall",
        recall_at_sums,
        flag("capped", capped),
        k=k,
        pooled=pooled,
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


def precision_at_sums(batch: Batch, options: SessionOptions, adaptive_k: bool) -> SessionRows:
    """The sums of precision; see `sums_of_sessions`."""
    rows, relevant, in_domain = counted(batch, options)
    hits = relevant_in_top(relevant, rows)
    values = [
        Value(hits, at_most(rows.length, k) if adaptive_k else jnp.full_like(rows.length, k or 0))
        for k in options.ks
    ]
    return sums_of_sessions(rows, batch, relevant.total > 0, values, options, in_domain)


@factory
def precision_at(
    *,
    k: int | Sequence[int],
    adaptive_k: bool = False,
    pooled: bool = False,
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
    """Precision at k: what fraction of the top k of a session is relevant.

    ``v = relevant in the top k / k``, in the order of falling predictions, also of a session of
    fewer than k examples. With ``adaptive_k``, ``v = relevant in the top k / min(k, examples)``, as
    torchmetrics has it under this name. With ``pooled``, numerators and denominators are added up
    over sessions, each times w, as torchrec's precision_session pools them, and sessions without
    relevant examples count as well.

    In the scope of a batch, a session is what one batch holds of it, on one device. Examples
    without weight have no rank, and tied predictions count by expectation over their orders, so the
    order of rows does not matter. The value is ``sum(w v) / sum(w)`` over sessions of value v,
    where w is the largest weight in the session.

    Source: Manning, Raghavan and Schütze, Introduction to Information Retrieval, Cambridge
    University Press 2008, section 8.4; for ties McSherry and Najork, Computing Information
    Retrieval Performance Measures Efficiently in the Presence of Tied Scores, ECIR 2008.

    Args:
        k: the number of ranks that count, at least 1, or a tuple of distinct numbers, which cost
            one sort.
        adaptive_k: divide by ``min(k, examples in the session)`` in place of k.
        pooled: add up over sessions what is divided, and give ``pooled_precision_at_<k>``: a
            session counts the more, the more examples it has.
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
        A `Metric` with ``lifetime_precision_at_<k>`` for each k,
        ``lifetime_precision_sessions``, the number of sessions averaged, and
        ``lifetime_precision_undefined_sessions``, of those without relevant examples; with a window
        also ``window_...``, and in its scope only that; each ``float[T]``. Where ``pooled``,
        ``pooled_precision`` takes the place of ``precision``, and all sessions are counted.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`, and if an option is not one of the above.

    >>> import recmetrics_jax as rm
    >>> metric = rm.precision_at(k=2)
    >>> batch = rm.make_batch(
    ...     [0.9, 0.8, 0.7, 0.1], [1, 0, 1, 1], keys={"session_id": [7, 8, 7, 8]}
    ... )  # In session 7 both are relevant, in session 8 the second.
    >>> metric.compute(metric.update(metric.init(), batch))["lifetime_precision_at_2"].item()
    0.75
    """
    return session_metric(
        "precision",
        precision_at_sums,
        flag("adaptive_k", adaptive_k),
        k=k,
        pooled=pooled,
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


def hit_rate_sums(batch: Batch, options: SessionOptions) -> SessionRows:
    """The sums of hit rate; see `sums_of_sessions`."""
    rows, relevant, in_domain = counted(batch, options)
    hit = first_relevant(relevant, rows).hit
    values = [Value(hit, jnp.ones_like(rows.length))] * len(options.ks)
    return sums_of_sessions(rows, batch, relevant.total > 0, values, options, in_domain)


@factory
def hit_rate(
    *,
    k: int | Sequence[int],
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
    """Hit rate at k: in what fraction of sessions anything relevant is in the top k.

    ``v = 1`` if any of the first k examples is relevant, in the order of falling predictions, else
    0. Of tied predictions, v is the probability of that.

    In the scope of a batch, a session is what one batch holds of it, on one device. Examples
    without weight have no rank, and tied predictions count by expectation over their orders, so the
    order of rows does not matter. The value is ``sum(w v) / sum(w)`` over sessions of value v,
    where w is the largest weight in the session.

    Source: Deshpande and Karypis, Item-Based Top-N Recommendation Algorithms, ACM Transactions on
    Information Systems 22(1), 2004; for ties McSherry and Najork, Computing Information Retrieval
    Performance Measures Efficiently in the Presence of Tied Scores, ECIR 2008.

    Args:
        k: the number of ranks that count, at least 1, or a tuple of distinct numbers, which cost
            one sort.
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
        A `Metric` with ``lifetime_hit_rate_at_<k>`` for each k,
        ``lifetime_hit_rate_sessions``, the number of sessions averaged, and
        ``lifetime_hit_rate_undefined_sessions``, of those without relevant examples; with a window
        also ``window_...``, and in its scope only that; each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`, and if an option is not one of the above.

    >>> import recmetrics_jax as rm
    >>> metric = rm.hit_rate(k=1)
    >>> batch = rm.make_batch(
    ...     [0.9, 0.8, 0.7, 0.1], [1, 0, 1, 1], keys={"session_id": [7, 8, 7, 8]}
    ... )  # In session 7 both are relevant, in session 8 the second.
    >>> metric.compute(metric.update(metric.init(), batch))["lifetime_hit_rate_at_1"].item()
    0.5
    """
    return session_metric(
        "hit_rate",
        hit_rate_sums,
        k=k,
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
