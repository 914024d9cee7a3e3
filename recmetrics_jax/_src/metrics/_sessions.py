"""What the metrics of sessions share: which rows have ranks, and the average over sessions."""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from recmetrics_jax._src import segments, sessions
from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import DEFAULT_SLOTS
from recmetrics_jax._src.contributions import Contributions
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics._scopes import Scope, scoped_metric
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.options import flag, number, optional_threshold, text, whole
from recmetrics_jax._src.relevant import Relevant, count_relevant
from recmetrics_jax._src.sessions import Sessions
from recmetrics_jax._src.terms import NEGATIVE_WEIGHTS, Term, scores

X = TypeVar("X")

SessionRows = tuple[Contributions, ...]
"""What `SessionSums` holds, as its sessions contribute it."""

COUNTS = 3
"""The sums that do not depend on k: weight, sessions averaged, sessions undefined."""


class SessionSums(NamedTuple, Generic[X]):
    """Sufficient statistics of a metric of sessions."""

    by_session: X
    """``float[T, COUNTS + K]``: the counts, and for each k the sum of values, each times its
    weight; pooled ``float[T, COUNTS + 2 K]``, with the sums of what values are divided by."""


class SessionOptions(NamedTuple):
    """The options that all metrics of sessions have."""

    session_key: str
    ks: tuple[int | None, ...]
    """How many ranks count, by value; None for all."""
    label_threshold: float | None
    undefined_sessions: float | None
    pooled: bool


class Value(NamedTuple):
    """A fraction that is the value of a session in the row where its top k ends, ``[T, N]`` each.

    The denominator is not 0 where the session has a value.
    """

    numerator: jax.Array
    denominator: jax.Array


def session_metric(
    name: str,
    function: Callable[..., SessionRows],
    *arguments: Hashable,
    k: Any,
    has_all: bool = False,
    pooled: bool = False,
    normalize_weights: bool = True,
    label_threshold: float | None,
    undefined_sessions: float | None,
    session_key: str,
    scope: Scope,
    n_tasks: int,
    window: int | None,
    slots: int = DEFAULT_SLOTS,
    shards: int,
    undefined: float,
) -> Metric:
    """A metric of sessions.

    Args:
        name: what its values are called; those at a k ``<name>_at_<k>``.
        function: ``function(batch, options, *arguments)``: what `SessionSums` holds.
        *arguments: options of this metric alone.
        k: a number of ranks, or a tuple of distinct ones.
        has_all: whether ``k`` may be None.
        pooled: whether numerators and denominators are added up over sessions.
        normalize_weights: whether what sessions weigh is divided by.
        label_threshold: where labels are cut; None for none.
        undefined_sessions: the value of sessions that have none; None leaves them out.
        session_key: the name of the sessions.
        scope: and what follows: as for `scoped_metric`.
        n_tasks: number of tasks.
        window: examples in the window.
        slots: updates that a window of sums keeps apart.
        shards: how many states share a window of examples.
        undefined: what values are where they are undefined.

    Raises:
        ValueError: if an option is not as the factories say.
    """
    if undefined_sessions is not None:
        undefined_sessions = number("undefined_sessions", undefined_sessions, "a number or None")
    if flag("pooled", pooled) and undefined_sessions is not None:
        raise ValueError(
            "undefined_sessions: expected None where pooled is True, got "
            f"{undefined_sessions}; of a sum over sessions, none has a value of its own"
        )
    options = SessionOptions(
        session_key=text("session_key", session_key),
        ks=_ranks(k, has_all=has_all),
        label_threshold=optional_threshold("label_threshold", label_threshold),
        undefined_sessions=undefined_sessions,
        pooled=pooled,
    )
    term = Term(
        function,
        (options, *arguments),
        shape=(COUNTS + len(options.ks) * (1 + pooled),),
        keys=(options.session_key,),
        excludes=NEGATIVE_WEIGHTS,
        by_order=True,
        is_summed=True,
        per_batch=True,
        by_row=True,
        resampled_by="rows",
    )
    values = functools.partial(
        session_values,
        name=f"pooled_{name}" if pooled else name,
        ks=options.ks,
        by_count=not flag("normalize_weights", normalize_weights),
    )
    return scoped_metric(
        SessionSums(term),
        values,
        scope=scope,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        shards=shards,
        undefined=undefined,
    )


def _ranks(k: Any, *, has_all: bool) -> tuple[int | None, ...]:
    """The option ``k`` as a tuple."""
    if k is None and has_all:
        return (None,)
    ks = tuple(whole("k", each, 1) for each in (k if isinstance(k, tuple | list) else (k,)))
    if not ks or len(set(ks)) < len(ks):
        raise ValueError(f"k: expected distinct numbers, at least one, got {k!r}")
    return ks


def ranked(batch: Batch, options: SessionOptions) -> Sessions:
    """The rows of a batch by session and falling score; those without weight are absent."""
    is_present = batch.mask & (batch.weights > 0)
    return sessions.sessions(scores(batch), batch.key(options.session_key), is_present)


def is_relevant(batch: Batch, options: SessionOptions) -> tuple[jax.Array, jax.Array]:
    """Which rows of a batch are relevant, and of which rows the label tells, ``bool[T, N]`` each.

    Without a threshold, only 0 and 1 do.
    """
    labels = batch.labels
    if options.label_threshold is not None:
        return labels >= options.label_threshold, jnp.ones_like(batch.mask)
    return labels == 1, (labels == 0) | (labels == 1)


class Counted(NamedTuple):
    """The rows of a batch by session, of which some are relevant."""

    rows: Sessions
    relevant: Relevant
    in_domain: jax.Array
    """``bool[T, N]``, as the rows were given: whether the label tells."""


def counted(batch: Batch, options: SessionOptions) -> Counted:
    """Counts the relevant rows of a batch."""
    rows = ranked(batch, options)
    is_hit, in_domain = is_relevant(batch, options)
    return Counted(rows, count_relevant(segments.take(is_hit, rows.order), rows), in_domain)


def at_most(x: jax.Array, k: int | None) -> jax.Array:
    """``min(x, k)``, and ``x`` where ``k`` is None."""
    return x if k is None else jnp.minimum(x, jnp.asarray(k, x.dtype))


def sums_of_sessions(
    rows: Sessions,
    batch: Batch,
    is_defined: jax.Array,
    values: Sequence[Value],
    options: SessionOptions,
    in_domain: jax.Array,
    least: int = 1,
) -> SessionRows:
    """What `SessionSums` holds, as sessions contribute it in the rows where their top k ends.

    Args:
        rows: the rows of the batch by session.
        batch: the examples.
        is_defined: ``bool[T, N]``: in each present row, whether its session has a value.
        values: the value of each k.
        options: of which ``undefined_sessions`` and ``pooled`` count here.
        in_domain: ``bool[T, N]``, as the rows were given: whether the formula holds for a row. If
            it does not for one with weight, the sums of its task are NaN.
        least: how many examples a session has at least that counts.

    Returns:
        ``COUNTS + K`` columns, or, pooled, ``COUNTS + 2 K``.
    """
    with jax.enable_x64(True):
        weights = segments.take(batch.weights, rows.order).astype(jnp.float64)
        weights = sessions.largest(weights, rows)
        is_long = rows.length >= least
        is_session = sessions.top_ends(rows, 1) & is_long
        is_undefined = is_session & ~is_defined
        fills = options.pooled or options.undefined_sessions is not None
        is_averaged = is_session if fills else is_session & is_defined
        counts = is_averaged.astype(jnp.float64)
        columns = [weights * counts, counts, is_undefined.astype(jnp.float64)]
        denominators = []
        for k, value in zip(options.ks, values, strict=True):
            is_end = sessions.top_ends(rows, k) & is_long
            numerator, denominator = value.numerator, value.denominator.astype(jnp.float64)
            if options.pooled:
                denominators.append(jnp.where(is_end, weights * denominator, 0.0))
            else:
                numerator = numerator / jnp.where(is_defined, denominator, 1.0)
                numerator = jnp.where(is_defined, numerator, options.undefined_sessions or 0.0)
            columns.append(jnp.where(is_end, weights * numerator, 0.0))
        is_wrong = ~in_domain & (batch.weights != 0)
        return (Contributions((*columns, *denominators), rows.order, is_wrong),)


def session_values(
    sums: SessionSums[jax.Array], *, name: str, ks: tuple[int | None, ...], by_count: bool
) -> Values:
    """The average over sessions at each k, and how many sessions there are."""
    weight, averaged, undefined, *by_k = jnp.moveaxis(sums.by_session, -1, 0)
    of_all = averaged if by_count else weight
    numerators, denominators = by_k[: len(ks)], by_k[len(ks) :] or [of_all] * len(ks)
    values = {
        name if k is None else f"{name}_at_{k}": safe_divide(numerator, denominator)
        for k, numerator, denominator in zip(ks, numerators, denominators, strict=True)
    }
    return {**values, f"{name}_sessions": averaged, f"{name}_undefined_sessions": undefined}
