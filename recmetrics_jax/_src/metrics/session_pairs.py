"""Pairs of examples of a session that predictions order as labels do: AUC, of two forms."""

import math
from typing import Generic, Literal, NamedTuple, TypeVar, get_args

import jax
import jax.numpy as jnp

from recmetrics_jax._src import curves
from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import DEFAULT_SLOTS
from recmetrics_jax._src.contributions import Contributions
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics._groups import (
    Average,
    GroupSums,
    average_values,
    checked_average,
    group_contributions,
)
from recmetrics_jax._src.metrics._pairs import PairSums, falling_pairs, in_last_rows, pair_values
from recmetrics_jax._src.metrics._scopes import Scope, scoped_metric
from recmetrics_jax._src.metrics.area import weights_of_classes
from recmetrics_jax._src.options import number, optional_threshold, text
from recmetrics_jax._src.terms import NEGATIVE_WEIGHTS, Term, scores

X = TypeVar("X")

SessionPairWeights = Literal["product", "sum"]


class SessionAUCSums(NamedTuple, Generic[X]):
    """Sufficient statistics of the AUC of sessions."""

    sessions: X
    """``float[T, 4]``: the fields of `GroupSums`."""


class SessionAUCOptions(NamedTuple):
    """The options that decide what a session counts."""

    session_key: str
    average: Average
    undefined_sessions: float | None
    label_threshold: float | None


def session_auc_sums(batch: Batch, options: SessionAUCOptions) -> tuple[Contributions]:
    """What sessions contribute to the average of their AUC: the fields of `GroupSums`."""
    is_present = batch.mask & (batch.weights > 0)
    classes = weights_of_classes(batch, options.label_threshold)
    keys = batch.key(options.session_key)
    points = curves.curve(scores(batch), *classes, keys, is_present)
    assert points.is_first is not None  # There are groups.
    with jax.enable_x64(True):
        of_sessions = group_contributions(
            curves.roc_area(points),
            points.order,
            points.is_first,
            is_present,
            batch.weights,
            average=options.average,
            undefined_groups=options.undefined_sessions,
        )
    is_class = (batch.labels >= 0) & (batch.labels <= 1)
    is_wrong = is_present & ~is_class & (options.label_threshold is None)
    return (Contributions(tuple(of_sessions), points.order, is_wrong),)


def session_auc_values(sums: SessionAUCSums[jax.Array]) -> Values:
    """The average over sessions, and how many there are."""
    return average_values("session_auc", GroupSums(*jnp.moveaxis(sums.sessions, -1, 0)), "sessions")


@factory
def session_auc(
    *,
    average: Average = "equal",
    undefined_sessions: float | None = None,
    label_threshold: float | None = None,
    session_key: str = "session_id",
    scope: Scope = "batch",
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    shards: int = 1,
    undefined: float = math.nan,
) -> Metric:
    """AUC of each session, averaged over sessions: how well each orders its own examples.

    ``session_auc = sum(c AUC) / sum(c)`` over the sessions that have both classes, where ``AUC =
    sum(w+ w- ([p+ > p-] + [p+ = p-] / 2)) / sum(w+ w-)`` over the pairs of a positive and a
    negative example of the session, and c is what the session counts. Ties count half; a soft label
    y counts as a positive of weight w y and a negative of weight w (1 - y). A score of -inf is the
    lowest. Examples of weight 0 are absent, and a session of such alone is none. Out of the domain,
    so NaN: a label outside of [0, 1], and a weight below 0.

    In the scope of a batch, a session is what one batch holds of it, on one device: examples of a
    session in two batches count as two sessions. The scope of a window has no such limit, and is
    what ``rm.auc(grouped=True)`` gives.

    Source: Hanley and McNeil, The Meaning and Use of the Area under a Receiver Operating
    Characteristic (ROC) Curve, Radiology 143(1), 1982; the average of users' or sessions' AUC: Zhu
    et al., Optimized Cost per Click in Taobao Display Advertising, KDD 2017, section 5 (GAUC).

    Args:
        average: what a session counts: ``"equal"`` 1, ``"impressions"`` its number of examples,
            ``"weight"`` their weight.
        undefined_sessions: the AUC of a session without both classes; None leaves such sessions
            out.
        label_threshold: labels from here on are positive, others negative; None takes them as
            they are, in [0, 1].
        session_key: the name of the sessions among the ``keys`` of `recmetrics_jax.make_batch`.
        scope: ``"batch"``: the sessions of one batch; there is a lifetime value. ``"window"``:
            those of the newest ``window`` examples, over whatever batches, devices and states.
        n_tasks: number of tasks ``T``.
        window: examples in the window; None for no window, in the scope of a batch.
        slots: updates that a window of batches keeps apart; `recmetrics_jax.sum_metric` says more.
        shards: how many states share a window of examples; `recmetrics_jax.sample_metric` says
            more.
        undefined: the value where no session has one.

    Returns:
        A `Metric` with ``lifetime_session_auc``, ``lifetime_session_auc_sessions``, the number of
        sessions averaged, and ``lifetime_session_auc_undefined_sessions``, of those without both
        classes; with a window the same of ``window_``; in the scope of a window these alone. Each
        is ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric` or, in the scope of a window,
            `recmetrics_jax.sample_metric`, and if an option is not one of the above.

    >>> import recmetrics_jax as rm
    >>> metric = rm.session_auc()
    >>> batch = rm.make_batch(
    ...     [0.9, 0.5, 0.5, 0.1, 0.7], [1, 0, 1, 0, 1], keys={"session_id": [7, 7, 7, 7, 8]}
    ... )  # Of session 7 one pair of four is tied; session 8 has no negative.
    >>> values = metric.compute(metric.update(metric.init(), batch))
    >>> {name: value.item() for name, value in values.items()}
    {'lifetime_session_auc': 0.875, 'lifetime_session_auc_sessions': 1.0,
    'lifetime_session_auc_undefined_sessions': 1.0}
    """
    options = SessionAUCOptions(
        session_key=text("session_key", session_key),
        average=checked_average(average),
        undefined_sessions=None
        if undefined_sessions is None
        else number("undefined_sessions", undefined_sessions, "a number or None"),
        label_threshold=optional_threshold("label_threshold", label_threshold),
    )
    term = Term(
        session_auc_sums,
        (options,),
        shape=(len(GroupSums._fields),),
        keys=(options.session_key,),
        excludes=NEGATIVE_WEIGHTS,
        by_order=True,
        is_summed=True,
        per_batch=True,
        by_row=True,
        resampled_by="rows",
    )
    return scoped_metric(
        SessionAUCSums(term),
        session_auc_values,
        scope=scope,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        shards=shards,
        undefined=undefined,
    )


def pairwise_auc_sums(
    batch: Batch, session_key: str, pair_weights: SessionPairWeights
) -> tuple[Contributions]:
    """The weight of the pairs in order, and of all that labels order, of each session."""
    is_present = batch.mask & (batch.weights > 0)
    others = is_present.astype(batch.weights.dtype) if pair_weights == "sum" else None
    keys = batch.key(session_key)
    pairs = falling_pairs(batch, batch.weights, keys, others, is_present)
    with jax.enable_x64(True):
        in_order = pairs.concordant + pairs.tied_in_x / 2
        ordered = pairs.concordant + pairs.discordant + pairs.tied_in_x
        of_sessions = in_last_rows(pairs, in_order, ordered)
    return (Contributions(of_sessions, pairs.order, jnp.zeros_like(batch.mask)),)


def pairwise_auc_values(sums: PairSums[jax.Array]) -> Values:
    """The value of pairwise AUC."""
    return pair_values(sums, name="pairwise_auc")


@factory
def pairwise_auc(
    *,
    pair_weights: SessionPairWeights = "product",
    session_key: str = "session_id",
    scope: Scope = "batch",
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    shards: int = 1,
    undefined: float = math.nan,
) -> Metric:
    """Pairwise AUC: the fraction of pairs of a session's examples that predictions order rightly.

    ``pairwise_auc = sum(w_ij ([p_i > p_j] + [p_i = p_j] / 2)) / sum(w_ij)``, over all pairs of two
    examples of one session with labels ``y_i > y_j``, of all sessions together. Labels may be any
    numbers, such as grades or watch times; of labels 0 and 1, with weights of 1, it is the mean of
    the sessions' AUC in which each counts its positives times its negatives. Tied predictions count
    half, and pairs of equal labels nothing. Examples of weight 0 are in no pair.

    In the scope of a batch, a session is what one batch holds of it, on one device. The scope of a
    window has no such limit. With ``pair_weights="sum"``, a weight of w does not count as w copies:
    w_i times w_j copies are so many pairs, not their sum.

    Source: Joachims, Optimizing Search Engines using Clickthrough Data, KDD 2002, section 3, where
    the pairs of a query that two rankings order alike or not measure how well they agree
    (Kendall's tau); ties as in Hanley and McNeil, The Meaning and Use of the Area under a Receiver
    Operating Characteristic (ROC) Curve, Radiology 143(1), 1982.

    Args:
        pair_weights: what a pair weighs: the ``"product"`` of its weights, or their ``"sum"``, as
            torchrec's session_pairwise_auc has it.
        session_key: the name of the sessions among the ``keys`` of `recmetrics_jax.make_batch`.
        scope: ``"batch"``: the sessions of one batch; there is a lifetime value. ``"window"``:
            those of the newest ``window`` examples, over whatever batches, devices and states.
        n_tasks: number of tasks ``T``.
        window: examples in the window; None for no window, in the scope of a batch.
        slots: updates that a window of batches keeps apart; `recmetrics_jax.sum_metric` says more.
        shards: how many states share a window of examples; `recmetrics_jax.sample_metric` says
            more.
        undefined: the value where no session has examples of different labels.

    Returns:
        A `Metric` with ``lifetime_pairwise_auc`` and, with a window, ``window_pairwise_auc``; in
        the scope of a window that alone. Each is ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric` or, in the scope of a window,
            `recmetrics_jax.sample_metric`, and if an option is not one of the above.

    >>> import recmetrics_jax as rm
    >>> metric = rm.pairwise_auc()
    >>> batch = rm.make_batch(
    ...     [0.9, 0.5, 0.5, 0.1, 0.7], [3, 1, 2, 2, 3], keys={"session_id": [7, 7, 7, 7, 8]}
    ... )  # Of 5 pairs with different labels, one is tied and one is inverted.
    >>> value = metric.compute(metric.update(metric.init(), batch))["lifetime_pairwise_auc"]
    >>> round(value.item(), 6)  # (3 + 1 / 2) / 5
    0.7
    """
    if pair_weights not in get_args(SessionPairWeights):
        raise ValueError(
            f"pair_weights: expected one of {get_args(SessionPairWeights)}, got {pair_weights!r}"
        )
    key = text("session_key", session_key)
    term = Term(
        pairwise_auc_sums,
        (key, pair_weights),
        shape=(2,),
        keys=(key,),
        excludes=NEGATIVE_WEIGHTS,
        by_order=True,
        is_summed=True,
        per_batch=True,
        by_row=True,
        resampled_by="rows",
    )
    return scoped_metric(
        PairSums(term),
        pairwise_auc_values,
        scope=scope,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        shards=shards,
        undefined=undefined,
    )
