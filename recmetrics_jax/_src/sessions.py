"""Rows of sessions by falling score, sorted once, with what ties of scores leave open.

Rows of equal scores may come in any order, so what is at a rank is an expectation over the orders
of its run, a stretch of rows with equal scores (McSherry and Najork, Computing Information
Retrieval Performance Measures Efficiently in the Presence of Tied Scores, ECIR 2008). It is worked
out rank by rank and added up over the session, once for all k: what the top k of a session adds up
to stands in the row where it ends, `top_ends`. A session of five rows, with one that is absent::

    score  present  rank  run    relevant  in top  hit
    0.9    yes      1     [0]    no        0       0
    0.5    yes      2     [1 2]  yes       0.5     0.5
    0.5    yes      3     [1 2]  no        1       1
    0.1    yes      4     [3]    yes       2       1
    0.7    no       -     -      -         -       -

All functions work along the last axis of arrays ``[..., N]``.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from recmetrics_jax._src import segments
from recmetrics_jax._src.words import float32_of, words_or_absent


class Sessions(NamedTuple):
    """Rows in order of session and falling score; absent rows are the last of their session.

    Arrays are ``int32[..., N]`` unless said. Places, such as ``start``, are in this order.
    """

    order: jax.Array
    """The rows as they were given, in this order."""
    is_first: jax.Array
    """``bool[..., N]``: where a session begins."""
    is_present: jax.Array
    """``bool[..., N]``: whether a row has a rank, in this order."""
    number: jax.Array
    """The number of the session of a row, from 0."""
    start: jax.Array
    """Where the session of a row begins."""
    end: jax.Array
    """Where it ends, absent rows included."""
    run: jax.Array
    """The number of the run of a row, of all runs of all sessions."""
    run_start: jax.Array
    """Where the run of a row begins."""
    run_end: jax.Array
    """Where it ends."""
    length: jax.Array
    """The number of present rows in the session of a row."""

    @property
    def rank(self) -> jax.Array:
        """The rank of a row in its session from 1, if it is present; of ties, as they lie here."""
        return self._rows - self.start + 1

    @property
    def rank_in_run(self) -> jax.Array:
        """The same in its run."""
        return self._rows - self.run_start + 1

    @property
    def tied(self) -> jax.Array:
        """The number of rows in the run of a row."""
        return self.run_end - self.run_start + 1

    @property
    def _rows(self) -> jax.Array:
        rows = jnp.arange(self.order.shape[-1], dtype=jnp.int32)
        return jnp.broadcast_to(rows, self.order.shape)


def sessions(
    scores: jax.Array, groups: tuple[jax.Array, ...] = (), is_present: jax.Array | None = None
) -> Sessions:
    """Sorts rows by session and falling score.

    Args:
        scores: ``float[..., N]``, higher is better; -inf is the lowest, 0.0 is -0.0.
        groups: keys of the session of a row, ``int[..., N]`` each; none for one session.
        is_present: ``bool[..., N]``: rows that are absent have no rank, wherever they lie and
            whatever they score; None for none.

    Returns:
        `Sessions`.

    >>> import jax.numpy as jnp
    >>> users, scores = jnp.array([7, 8, 7, 7]), jnp.array([0.5, 0.1, 0.9, 0.5])
    >>> of_users = sessions(scores, (users,))
    >>> of_users.order.tolist(), of_users.rank.tolist(), of_users.tied.tolist()
    ([2, 0, 3, 1], [1, 2, 3, 1], [1, 2, 2, 1])
    """
    if is_present is None:
        is_present = jnp.ones_like(scores, bool)
    chex.assert_equal_shape([scores, is_present, *groups])
    words = words_or_absent(-scores, is_present)
    order = segments.argsort(*groups, *words)
    is_present, *keys = (segments.take(x, order) for x in (is_present, *groups))
    is_first = segments.is_first(*keys) if groups else segments.is_first(jnp.zeros_like(order))
    is_run_first = is_first | segments.is_first(*(segments.take(word, order) for word in words))
    number, run = _numbers(is_first, is_run_first)
    start, end = _bounds(number)
    run_start, run_end = _bounds(run)
    # Of a session with absent rows, its last run.
    ends = jnp.where(is_present, run_end + 1, run_start)
    length = segments.take(ends, end) - start
    return Sessions(
        order, is_first, is_present, number, start, end, run, run_start, run_end, length
    )


def _numbers(is_first: jax.Array, is_run_first: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The numbers of sessions and of runs, by one cumulative sum of both side by side."""
    with jax.enable_x64(True):
        half = jnp.array(32, jnp.int64)
        pairs = (is_first.astype(jnp.int64) << half) | is_run_first.astype(jnp.int64)
        pairs = segments.cumsum(pairs)
        one = jnp.ones((), jnp.int32)
        return (pairs >> half).astype(jnp.int32) - one, pairs.astype(jnp.int32) - one


def _bounds(numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the group of each row begins and ends."""
    starts = segments.starts(numbers)
    size = jnp.full_like(starts[..., :1], numbers.shape[-1])
    ends = jnp.concatenate([starts[..., 1:], size], axis=-1) - 1
    return segments.take(starts, numbers), segments.take(ends, numbers)


def ideal_order(x: jax.Array, by_session: Sessions) -> jax.Array:
    """Each session with ``x`` in falling order, where there were its rows that are present.

    Args:
        x: ``float[..., N]``, in the order of sessions.
        by_session: `Sessions`.

    Returns:
        ``float[..., N]``. What is beyond the present rows of a session means nothing.

    >>> import jax.numpy as jnp
    >>> rows = sessions(jnp.array([0.9, 0.5, 0.7]), (jnp.array([7, 7, 8]),))
    >>> ideal_order(jnp.array([1.0, 3.0, 2.0]), rows).tolist()
    [3.0, 1.0, 2.0]
    """
    words = words_or_absent(-x, by_session.is_present)
    if x.dtype != jnp.float32:
        return segments.take(x, segments.argsort(by_session.start, *words))
    with jax.enable_x64(True):
        # Of numbers that a word tells, one sort, and no need of the rows.
        half = jnp.array(32, jnp.uint64)
        packed = (by_session.start.astype(jnp.uint64) << half) | words[0].astype(jnp.uint64)
        return -float32_of(jnp.sort(packed, axis=-1).astype(jnp.uint32))


def top_ends(by_session: Sessions, k: int | None) -> jax.Array:
    """Where the top ``k`` of a session ends: one row for each session with a row that is present.

    Args:
        by_session: `Sessions`.
        k: a number of ranks; None for all. Of a session of fewer rows, all are in its top.

    Returns:
        ``bool[..., N]``.

    >>> import jax.numpy as jnp
    >>> of_users = sessions(jnp.array([0.5, 0.1, 0.9, 0.5]), (jnp.array([7, 8, 7, 7]),))
    >>> top_ends(of_users, 2).tolist()
    [False, True, False, True]
    """
    last = by_session.length if k is None else jnp.minimum(by_session.length, jnp.int32(k))
    return by_session.is_present & (by_session.rank == last)


def largest(x: jax.Array, by_session: Sessions) -> jax.Array:
    """The largest of 0 and what is in each session, in all of its rows.

    Args:
        x: ``[..., N]``, in the order of sessions.
        by_session: `Sessions`.

    Returns:
        ``[..., N]``, in that order.

    >>> import jax.numpy as jnp
    >>> largest(jnp.array([2, 3, -4]), sessions(jnp.zeros(3), (jnp.array([7, 7, 8]),))).tolist()
    [3, 3, 0]
    """
    return segments.take(segments.maxima(x, by_session.number), by_session.number)


def run_means(x: jax.Array, by_session: Sessions) -> jax.Array:
    """What is expected at each rank: the mean of the rows with the score of its row.

    Args:
        x: ``[..., N]``, in the order of sessions.
        by_session: `Sessions`.

    Returns:
        ``float64[..., N]``, in that order.

    >>> import jax.numpy as jnp
    >>> run_means(jnp.array([1, 0, 3]), sessions(jnp.array([0.5, 0.5, 0.1]))).tolist()
    [0.5, 0.5, 3.0]
    """
    with jax.enable_x64(True):
        total = segments.totals(x.astype(jnp.float64), by_session.run)
        return segments.take(total, by_session.run) / by_session.tied.astype(jnp.float64)
