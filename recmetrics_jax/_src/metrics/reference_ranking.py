"""NDCG as the reference, torchrec, has it: what the adapter declares."""

import math
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from recmetrics_jax._src import segments, sessions
from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import DEFAULT_SLOTS, sum_metric
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics.ranking import (
    NDCGOptions,
    discounted,
    ndcg_options,
    to_rank_by,
)
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.options import text, whole
from recmetrics_jax._src.sessions import Sessions
from recmetrics_jax._src.terms import Term

X = TypeVar("X")

CANCELLED = 1e-12


class NDCGSums(NamedTuple, Generic[X]):
    """Sufficient statistics of the reference's NDCG, each ``float[T]``."""

    sum_ndcg: X
    num_sessions: X


class ReferenceOptions(NamedTuple):
    """The options of `reference_ndcg` that decide what a session counts."""

    session_key: str
    k: int
    of_ndcg: NDCGOptions


def num_sessions(batch: Batch, options: ReferenceOptions) -> jax.Array:
    """The number of sessions that count, ``float[T]``."""
    with jax.enable_x64(True):
        return jnp.sum(_counted(_all_rows(batch, options), options), axis=1, dtype=jnp.float64)


def sum_ndcg(batch: Batch, options: ReferenceOptions) -> jax.Array:
    """The sum over sessions of NDCG, or of what it lacks to 1, times their weight, ``float[T]``."""
    rows = _all_rows(batch, options)
    with jax.enable_x64(True):
        _, labels = to_rank_by(batch, options.of_ndcg)
        dcg, ideal, magnitude = discounted(
            labels, rows, exponential_gain=options.of_ndcg.exponential_gain
        )
        # Gains below 0 can cancel the others: what rounding leaves then is no ideal.
        ideal = jnp.where(jnp.abs(ideal) <= CANCELLED * magnitude, 0.0, ideal)
        value = safe_divide(dcg, ideal, undefined=0.0)
        if options.k == 0:
            value = jnp.zeros_like(value)
        if options.of_ndcg.report_ndcg_as_decreasing_curve:
            value = 1 - value
        if not options.of_ndcg.scale_by_weights_tensor:
            weights = segments.take(batch.weights, rows.order).astype(jnp.float64)
            value = value * sessions.largest(weights, rows)
        return jnp.sum(jnp.where(_counted(rows, options), value, 0.0), axis=1)


def _all_rows(batch: Batch, options: ReferenceOptions) -> Sessions:
    """The rows of a batch by session, those without weight too."""
    predictions, _ = to_rank_by(batch, options.of_ndcg)
    return sessions.sessions(predictions, batch.key(options.session_key), batch.mask)


def _counted(rows: Sessions, options: ReferenceOptions) -> jax.Array:
    """Where the top of each session ends that counts, ``bool[T, N]``."""
    least = 2 if options.of_ndcg.remove_single_length_sessions else 1
    is_end = sessions.top_ends(rows, None if options.k == -1 else max(options.k, 1))
    return is_end & (rows.length >= least)


def reference_values(sums: NDCGSums[jax.Array]) -> Values:
    """The value of the reference's NDCG."""
    return {"ndcg": safe_divide(sums.sum_ndcg, sums.num_sessions)}


@factory
def reference_ndcg(
    *,
    exponential_gain: bool = False,
    session_key: str = "session_id",
    k: int = -1,
    report_ndcg_as_decreasing_curve: bool = True,
    remove_single_length_sessions: bool = False,
    scale_by_weights_tensor: bool = False,
    is_negative_task_mask: Sequence[bool] | None = None,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """NDCG as the reference has it, for the adapter; `ndcg` is that of text books.

    What is different by default: ``sum over sessions of m (1 - DCG / ideal DCG) / number of
    sessions``, where ``m`` is the largest weight in the session, by which the sum is not divided.
    A session whose ideal DCG is 0 has a ratio of 0, and examples of weight 0 have ranks.

    Args:
        exponential_gain: the gain is ``2^y - 1`` in place of ``y``.
        session_key: the name of the sessions among the ``keys`` of `recmetrics_jax.make_batch`.
        k: the number of ranks that count, in both orders; -1 for all.
        report_ndcg_as_decreasing_curve: give ``1 - DCG / ideal DCG``, where 0 is best; False:
            ``DCG / ideal DCG``.
        remove_single_length_sessions: leave out sessions of one example.
        scale_by_weights_tensor: weights multiply predictions and labels before anything else, in
            place of sessions; ``m`` is 1.
        is_negative_task_mask: for each task, whether ``1 - p`` and ``1 - y`` take the place of
            predictions and labels; None for no task.
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart.
        undefined: the value where no session has been seen.

    Raises:
        ValueError: if ``k`` is not a whole number of at least -1, or ``is_negative_task_mask`` does
            not hold ``n_tasks`` booleans.
    """
    options = ReferenceOptions(
        text("session_key", session_key),
        whole("k", k, -1),
        ndcg_options(
            exponential_gain=exponential_gain,
            report_ndcg_as_decreasing_curve=report_ndcg_as_decreasing_curve,
            remove_single_length_sessions=remove_single_length_sessions,
            scale_by_weights_tensor=scale_by_weights_tensor,
            is_negative_task_mask=is_negative_task_mask,
            n_tasks=whole("n_tasks", n_tasks, 1),
        ),
    )
    keys = (options.session_key,)
    # Both sort alike, which under jit costs no more than one.
    terms = NDCGSums(
        Term(sum_ndcg, (options,), keys=keys, is_summed=True, per_batch=True),
        Term(num_sessions, (options,), keys=keys, is_summed=True, per_batch=True),
    )
    return sum_metric(
        terms, reference_values, n_tasks=n_tasks, window=window, slots=slots, undefined=undefined
    )
