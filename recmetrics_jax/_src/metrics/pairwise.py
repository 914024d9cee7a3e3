"""Pairs of examples that predictions order as labels do: XAUC and RAUC."""

import math
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import DEFAULT_SLOTS
from recmetrics_jax._src.contributions import Contributions
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics._groups import Average, grouping
from recmetrics_jax._src.metrics._pairs import (
    PairOptions,
    PairWeights,
    pair_metric,
    pair_sums,
)
from recmetrics_jax._src.metrics._scopes import Scope
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.pairs import Pairs
from recmetrics_jax._src.terms import Term, scores

X = TypeVar("X")

ALL_PAIRS = PairOptions("product", None, "equal", None)


class XAUCSums(NamedTuple, Generic[X]):
    """Sufficient statistics of XAUC, each ``float[T]``, as the reference has them."""

    error_sum: X
    """Weight of the pairs in which predictions and labels agree, for all its name."""
    weighted_num_pairs: X


def matching(pairs: Pairs) -> tuple[jax.Array, jax.Array]:
    """The pairs that predictions and labels order alike, ties included; and all."""
    with jax.enable_x64(True):
        return pairs.concordant + pairs.tied, pairs.total


def not_inverted(pairs: Pairs) -> tuple[jax.Array, jax.Array]:
    """The pairs that predictions do not order otherwise than labels; and all."""
    with jax.enable_x64(True):
        return pairs.total - pairs.discordant, pairs.total


def xauc_sums(batch: Batch, options: PairOptions) -> tuple[Contributions, ...]:
    """The sums of XAUC, of all pairs and of groups."""
    return pair_sums(batch, options, matching)


def rauc_sums(batch: Batch, options: PairOptions) -> tuple[Contributions, ...]:
    """The sums of RAUC, of all pairs and of groups."""
    return pair_sums(batch, options, not_inverted)


def matching_pairs(batch: Batch) -> jax.Array:
    """Weight of the pairs in a batch that predictions and labels order alike, ``float[T]``.

    NaN where one of these is, as it has no place in any order.
    """
    has_no_order = jnp.any(jnp.isnan(scores(batch)) | jnp.isnan(batch.labels), axis=1)
    with jax.enable_x64(True):
        return jnp.where(has_no_order, jnp.nan, xauc_sums(batch, ALL_PAIRS)[0].sums()[:, 0])


def all_pairs(batch: Batch) -> jax.Array:
    """Weight of all pairs in a batch, ``float[T]``."""
    return xauc_sums(batch, ALL_PAIRS)[0].sums()[:, 1]


# Both count the same pairs, which under jit costs no more than one.
xauc_terms = XAUCSums(
    Term(matching_pairs, is_summed=True, per_batch=True),
    Term(all_pairs, is_summed=True, per_batch=True),
)


def xauc_values(sums: XAUCSums[jax.Array]) -> Values:
    """The value of XAUC."""
    return {"xauc": safe_divide(sums.error_sum, sums.weighted_num_pairs)}


@factory
def xauc(
    *,
    grouped: bool = False,
    grouping_key: str = "grouping_keys",
    average: Average = "equal",
    undefined_groups: float | None = None,
    pair_weights: PairWeights | None = "product",
    scope: Scope = "batch",
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    shards: int = 1,
    undefined: float = math.nan,
) -> Metric:
    """XAUC: the fraction of pairs of examples that predictions order as their labels do.

    ``xauc = sum(w_i w_j [sign(p_i - p_j) = sign(y_i - y_j)]) / sum(w_i w_j)``, over pairs i < j. A
    pair tied in both predictions and labels matches, a pair tied in one of them does not. Labels
    may be any numbers, such as watch times.

    In the scope of a batch, pairs are those inside one batch, on one device: merging states adds up
    the pairs of each, so the value depends on how examples are batched. The scope of a window
    has no such limit. A weight of w counts as w copies of its example, but that copies would be
    pairs with each other, which match: ``pair_weights="copies"`` counts those too.

    Source: Zhan et al., Deconfounding Duration Bias in Watch-time Prediction for Video
    Recommendation, KDD 2022; the weights, and what ties count, are those of
    torchrec.metrics.xauc.

    Args:
        grouped: also give the average of the XAUC of groups.
        grouping_key: the name of the groups among the ``keys`` of `recmetrics_jax.make_batch`.
        average: what a group counts in it: ``"equal"`` 1, ``"impressions"`` its number of examples,
            ``"weight"`` their weight.
        undefined_groups: the XAUC of a group without pairs; None leaves such groups out.
        pair_weights: what a pair weighs: the ``"product"`` of its weights, and examples of weight 0
            are absent; ``"copies"``, the same, and an example of weight w is w (w - 1) / 2 pairs
            with itself, where w is a whole number, and values are NaN if one is not; None 1,
            whatever the weights are.
        scope: ``"batch"``: the pairs of one batch; there is a lifetime value. ``"window"``: those
            of the newest ``window`` examples, over whatever batches, devices and states.
        n_tasks: number of tasks ``T``.
        window: examples in the window; None for no window, in the scope of a batch.
        slots: updates that a window of batches keeps apart; `recmetrics_jax.sum_metric` says more.
        shards: how many states share a window of examples; `recmetrics_jax.sample_metric` says
            more.
        undefined: the value where there are no pairs with weight, or no group has a value.

    Returns:
        A `Metric` with ``lifetime_xauc`` and, if grouped, ``lifetime_grouped_xauc``,
        ``lifetime_grouped_xauc_groups``, the number of groups averaged, and
        ``lifetime_grouped_xauc_undefined_groups``, of those without pairs; with a window the same
        of ``window_``; in the scope of a window these alone. Each is ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric` or, in the scope of a window,
            `recmetrics_jax.sample_metric`, and if an option is not one of the above.

    >>> import recmetrics_jax as rm
    >>> metric = rm.xauc()
    >>> state = metric.update(metric.init(), rm.make_batch([0.9, 0.5, 0.4, 0.1], [30, 5, 12, 1]))
    >>> round(metric.compute(state)["lifetime_xauc"].item(), 6)  # One pair of six is inverted.
    0.833333
    """
    groups = grouping(
        grouped=grouped,
        grouping_key=grouping_key,
        average=average,
        undefined_groups=undefined_groups,
    )
    return pair_metric(
        "xauc",
        xauc_sums,
        pair_weights=pair_weights,
        groups=groups,
        scope=scope,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        shards=shards,
        undefined=undefined,
    )


@factory
def rauc(
    *,
    grouped: bool = False,
    grouping_key: str = "grouping_keys",
    average: Average = "equal",
    undefined_groups: float | None = None,
    pair_weights: PairWeights | None = "product",
    scope: Scope = "window",
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    shards: int = 1,
    undefined: float = math.nan,
) -> Metric:
    """Regression AUC: the fraction of pairs that predictions do not invert.

    ``rauc = 1 - sum(w_i w_j [p_i < p_j and y_i > y_j]) / sum(w_i w_j)``, over pairs of examples,
    n (n - 1) / 2 where all weigh 1. Pairs of equal labels or of tied predictions are never
    inverted, so constant predictions have 1. Labels may be any numbers.

    In the scope of a window, which is the default, pairs are of all its examples; in that of a
    batch of those in one batch, on one device, so that the value depends on how examples are
    batched. A weight of w counts as w copies of its example, but that copies would be pairs with
    each other, which are not inverted: ``pair_weights="copies"`` counts those too.

    Source: the definition of torchrec.metrics.rauc, where weights do not count; ``1 - rauc`` is
    the number of inversions (Knuth, The Art of Computer Programming, vol. 3, section 5.1.1) over
    that of pairs.

    Args:
        grouped: also give the average of the RAUC of groups.
        grouping_key: the name of the groups among the ``keys`` of `recmetrics_jax.make_batch`.
        average: what a group counts in it: ``"equal"`` 1, ``"impressions"`` its number of examples,
            ``"weight"`` their weight.
        undefined_groups: the RAUC of a group without pairs; None leaves such groups out.
        pair_weights: what a pair weighs: the ``"product"`` of its weights, and examples of weight 0
            are absent; ``"copies"``, the same, and an example of weight w is w (w - 1) / 2 pairs
            with itself, where w is a whole number, and values are NaN if one is not; None 1,
            whatever the weights are.
        scope: ``"window"``: the pairs of the newest ``window`` examples, over whatever batches,
            devices and states. ``"batch"``: those of one batch; there is a lifetime value.
        n_tasks: number of tasks ``T``.
        window: examples in the window; in the scope of a batch, None for no window.
        slots: updates that a window of batches keeps apart; `recmetrics_jax.sum_metric` says more.
        shards: how many states share a window of examples; `recmetrics_jax.sample_metric` says
            more.
        undefined: the value where there are no pairs with weight, or no group has a value.

    Returns:
        A `Metric` with ``window_rauc`` and, if grouped, ``window_grouped_rauc``,
        ``window_grouped_rauc_groups``, the number of groups averaged, and
        ``window_grouped_rauc_undefined_groups``, of those without pairs; in the scope of a batch
        the same of ``lifetime_``, and of ``window_`` with a window. Each is ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sample_metric` or, in the scope of a batch,
            `recmetrics_jax.sum_metric`, and if an option is not one of the above.

    >>> import recmetrics_jax as rm
    >>> metric = rm.rauc(window=100, grouped=True)
    >>> batch = rm.make_batch(
    ...     [0.9, 0.5, 0.4, 0.1, 0.7], [30, 5, 12, 1, 40], keys={"grouping_keys": [7, 7, 7, 7, 8]}
    ... )
    >>> values = metric.compute(metric.update(metric.init(), batch))
    >>> {name: round(value.item(), 4) for name, value in values.items()}
    {'window_rauc': 0.8, 'window_grouped_rauc': 0.8333, 'window_grouped_rauc_groups': 1.0,
    'window_grouped_rauc_undefined_groups': 1.0}
    """
    groups = grouping(
        grouped=grouped,
        grouping_key=grouping_key,
        average=average,
        undefined_groups=undefined_groups,
    )
    return pair_metric(
        "rauc",
        rauc_sums,
        pair_weights=pair_weights,
        groups=groups,
        scope=scope,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        shards=shards,
        undefined=undefined,
    )
