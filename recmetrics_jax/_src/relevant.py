"""Where the relevant rows of sessions rank, ties by expectation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from recmetrics_jax._src import scans, segments
from recmetrics_jax._src.sessions import Sessions


class Relevant(NamedTuple):
    """How many rows are relevant, ``int32[..., N]`` in the order of sessions."""

    tied: jax.Array
    """In the run of a row."""
    above: jax.Array
    """In the runs before it, in its session."""
    total: jax.Array
    """In its session."""


def count_relevant(is_relevant: jax.Array, by_session: Sessions) -> Relevant:
    """Counts the rows that are relevant, and present.

    Args:
        is_relevant: ``bool[..., N]``, in the order of sessions.
        by_session: `Sessions`.

    Returns:
        `Relevant`.

    >>> import jax.numpy as jnp
    >>> from recmetrics_jax.ops import sessions
    >>> is_relevant = jnp.array([True, False, True])
    >>> count_relevant(is_relevant, sessions(jnp.array([0.9, 0.5, 0.5]))).above.tolist()
    [0, 1, 1]
    """
    counted = (is_relevant & by_session.is_present).astype(jnp.int32)
    through = segments.cumsum(counted)
    before = through - counted
    of_start, of_run = (
        segments.take(before, rows) for rows in (by_session.start, by_session.run_start)
    )
    return Relevant(
        segments.take(through, by_session.run_end) - of_run,
        of_run - of_start,
        segments.take(through, by_session.end) - of_start,
    )


def relevant_in_top(relevant: Relevant, by_session: Sessions) -> jax.Array:
    """How many relevant rows are expected at the ranks of a session up to each one.

    Args:
        relevant: `Relevant`.
        by_session: `Sessions`.

    Returns:
        ``float64[..., N]``, in the order of sessions.

    >>> import jax.numpy as jnp
    >>> from recmetrics_jax.ops import sessions
    >>> rows = sessions(jnp.array([0.5, 0.5, 0.1]))
    >>> relevant_in_top(count_relevant(jnp.array([True, False, True]), rows), rows).tolist()
    [0.5, 1.0, 2.0]
    """
    with jax.enable_x64(True):
        tied, above, size, rank = (
            x.astype(jnp.float64)
            for x in (relevant.tied, relevant.above, by_session.tied, by_session.rank_in_run)
        )
        return above + tied * rank / size


class FirstRelevant(NamedTuple):
    """The first relevant row, if it is at the ranks up to each one; ``float64[..., N]``."""

    hit: jax.Array
    """The probability that it is."""
    reciprocal: jax.Array
    """The expectation of 1 / its rank, or 0 if it is not."""


def first_relevant(relevant: Relevant, by_session: Sessions) -> FirstRelevant:
    """Where the first relevant row of a session is expected.

    After ``j - 1`` rows of a run of ``n`` with ``r`` relevant ones, none of them relevant, the next
    one is relevant with probability ``min(r / (n - j + 1), 1)``.

    Args:
        relevant: `Relevant`.
        by_session: `Sessions`.

    Returns:
        `FirstRelevant`, in the order of sessions.

    >>> import jax.numpy as jnp
    >>> from recmetrics_jax.ops import sessions
    >>> rows = sessions(jnp.array([0.5, 0.5, 0.1]))
    >>> first = first_relevant(count_relevant(jnp.array([True, False, True]), rows), rows)
    >>> first.hit.tolist(), first.reciprocal.tolist()
    ([0.5, 1.0, 1.0], [0.5, 0.75, 0.75])
    """
    with jax.enable_x64(True):
        left = by_session.tied - by_session.rank_in_run + 1
        found = jnp.minimum(relevant.tied, left).astype(jnp.float64)
        missed = (left - relevant.tied).clip(0).astype(jnp.float64)
        left, rank = (x.astype(jnp.float64) for x in (left, by_session.rank))
        found, missed = found / left, missed / left
        rows = (by_session.is_first, missed, found, found / rank)
        _, _, hit, reciprocal = scans.scan(_and_then, rows)
        return FirstRelevant(hit, reciprocal)


def _and_then(a: scans.Rows, b: scans.Rows) -> scans.Rows:
    """Ranks and those after them: whether they begin anew, what they miss, and what they find."""
    a_first, a_missed, *a_found = a
    b_first, b_missed, *b_found = b
    found = (jnp.where(b_first, y, x + a_missed * y) for x, y in zip(a_found, b_found, strict=True))
    return a_first | b_first, jnp.where(b_first, b_missed, a_missed * b_missed), *found
