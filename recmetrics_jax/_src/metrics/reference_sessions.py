"""Recall and precision at the top of sessions as the reference, torchrec, has them.

An example is predicted positive where fewer than k of its session have a larger prediction: rows
of equal predictions share a rank, so that more than k may be. `recmetrics_jax.recall_at` counts
them by expectation, and averages over sessions; here all examples are in one fraction.
"""

from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from recmetrics_jax._src import segments, sessions
from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.columns import columns
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.options import LARGEST, flag, text, whole
from recmetrics_jax._src.terms import Term, scores

X = TypeVar("X")


class SessionRecallSums(NamedTuple, Generic[X]):
    """Sufficient statistics of recall at the top of sessions, ``float[T]`` each."""

    num_true_pos: X
    num_false_neg: X


class SessionPrecisionSums(NamedTuple, Generic[X]):
    """Sufficient statistics of precision at the top of sessions, ``float[T]`` each."""

    num_true_pos: X
    num_false_pos: X


class TopOptions(NamedTuple):
    """What is in the top of a session."""

    session_key: str
    top_threshold: int
    run_ranking_of_labels: bool


def ranks_in_sessions(x: jax.Array, keys: tuple[jax.Array, ...], mask: jax.Array) -> jax.Array:
    """How many rows of the session of a row have a larger number.

    A NaN is larger than any other number; of one that is NaN itself, all rows count, it too.

    Args:
        x: ``float[T, N]``.
        keys: the keys of sessions, ``int32[T, N]`` each.
        mask: ``bool[T, N]``: rows for which it is False are in no session.

    Returns:
        ``int32[T, N]``.
    """
    is_nan = jnp.isnan(x)
    rows = sessions.sessions(jnp.where(is_nan, jnp.nan, x), keys, mask)
    is_nan = segments.take(is_nan, rows.order)
    larger = jnp.where(is_nan, rows.length, rows.run_start - rows.start)
    return segments.put(larger, rows.order)


def count_in_top(batch: Batch, options: TopOptions) -> jax.Array:
    """The weight of true positives, false negatives and false positives, ``float64[T, 3]``."""
    keys = batch.key(options.session_key)
    with jax.enable_x64(True):
        weights, labels = (x.astype(jnp.float64) for x in (batch.weights, batch.labels))

        def in_top(x: jax.Array) -> jax.Array:
            is_top = ranks_in_sessions(x, keys, batch.mask) < options.top_threshold
            return is_top.astype(jnp.float64)

        predicted = in_top(scores(batch))
        if options.run_ranking_of_labels:
            labels = in_top(labels)
        counted = jnp.stack(
            [labels * predicted, labels * (1 - predicted), (1 - labels) * predicted], axis=-1
        )
        counted = weights[..., None] * counted
        return jnp.sum(jnp.where(batch.mask[..., None], counted, 0.0), axis=1)


def top_terms(options: TopOptions) -> tuple[Term, ...]:
    """The terms of true positives, false negatives and false positives."""
    keys = (options.session_key,)
    return columns(
        Term(count_in_top, (options,), shape=(3,), keys=keys, is_summed=True, per_batch=True)
    )


def top_options(
    session_key: str, top_threshold: int | None, run_ranking_of_labels: bool
) -> TopOptions:
    """The options of what is in the top.

    Raises:
        ValueError: if one of them is none.
    """
    return TopOptions(
        text("session_var_name", session_key),
        # Of a number below 0, nothing is in the top.
        whole("top_threshold", top_threshold, -LARGEST),
        flag("run_ranking_of_labels", run_ranking_of_labels),
    )


def session_recall_terms(options: TopOptions) -> SessionRecallSums[Term]:
    """The terms of recall at the top of sessions."""
    true_pos, false_neg, _ = top_terms(options)
    return SessionRecallSums(true_pos, false_neg)


def session_precision_terms(options: TopOptions) -> SessionPrecisionSums[Term]:
    """The terms of precision at the top of sessions."""
    true_pos, _, false_pos = top_terms(options)
    return SessionPrecisionSums(true_pos, false_pos)


def session_recall_values(sums: SessionRecallSums[jax.Array]) -> Values:
    """The weight of what is positive and in the top, of all that is positive."""
    positives = sums.num_true_pos + sums.num_false_neg
    return {"recall_session_level": safe_divide(sums.num_true_pos, positives)}


def session_precision_values(sums: SessionPrecisionSums[jax.Array]) -> Values:
    """The weight of what is positive and in the top, of all that is in the top."""
    in_top = sums.num_true_pos + sums.num_false_pos
    return {"precision_session_level": safe_divide(sums.num_true_pos, in_top)}


def session_recall(options: TopOptions, *, n_tasks: int = 1, window: int | None = None) -> Metric:
    """Recall at the top of sessions, of a batch each, as the reference has it."""
    terms = session_recall_terms(options)
    return sum_metric(terms, session_recall_values, n_tasks=n_tasks, window=window)


def session_precision(
    options: TopOptions, *, n_tasks: int = 1, window: int | None = None
) -> Metric:
    """Precision at the top of sessions, of a batch each, as the reference has it."""
    terms = session_precision_terms(options)
    return sum_metric(terms, session_precision_values, n_tasks=n_tasks, window=window)
