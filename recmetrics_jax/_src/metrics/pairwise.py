"""Pairs of examples that predictions order as labels do: XAUC and RAUC."""

import functools
import math
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import DEFAULT_SLOTS, sample_metric, sum_metric
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics._groups import Average, group_values, grouping, keys_of
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.pairs import Pairs, count_pairs
from recmetrics_jax._src.terms import Term, scores

X = TypeVar("X")


class XAUCSums(NamedTuple, Generic[X]):
    """Sufficient statistics of XAUC, each ``float[T]``."""

    error_sum: X
    """Weight of the pairs in which predictions and labels agree, for all its name."""
    weighted_num_pairs: X


def matching_pairs(batch: Batch) -> jax.Array:
    """Weight of the pairs in a batch that predictions and labels order alike, ``float[T]``.

    NaN where one of these is, as it has no place in any order.
    """
    pairs = count_pairs(scores(batch), batch.labels, batch.weights)
    has_no_order = jnp.any(jnp.isnan(scores(batch)) | jnp.isnan(batch.labels), axis=1)
    with jax.enable_x64(True):
        return jnp.where(has_no_order, jnp.nan, _in_last_row(pairs.concordant + pairs.tied))


def all_pairs(batch: Batch) -> jax.Array:
    """Weight of all pairs in a batch, ``float[T]``."""
    pairs = count_pairs(scores(batch), batch.labels, batch.weights)
    with jax.enable_x64(True):
        return _in_last_row(pairs.total)


def _in_last_row(x: jax.Array) -> jax.Array:
    """``x[:, -1]``, and 0 where there are no rows."""
    return jnp.sum(x[:, -1:], axis=1)


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
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """XAUC: the fraction of pairs of examples that predictions order as their labels do.

    ``xauc = sum(w_i w_j [sign(p_i - p_j) = sign(y_i - y_j)]) / sum(w_i w_j)``, over pairs i < j. A
    pair tied in both predictions and labels matches, a pair tied in one of them does not. Labels
    may be any numbers, such as watch times.

    Pairs are those inside one batch, on one device: merging states adds up the pairs of each, so
    the value depends on how examples are batched.

    Source: Zhan et al., Deconfounding Duration Bias in Watch-time Prediction for Video
    Recommendation, KDD 2022; the weights, and what ties count, are those of
    torchrec.metrics.xauc.

    Args:
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no pair of examples with weight has been seen.

    Returns:
        A `Metric` with ``lifetime_xauc`` and, with a window, ``window_xauc``, each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.xauc()
    >>> state = metric.update(metric.init(), rm.make_batch([0.9, 0.5, 0.4, 0.1], [30, 5, 12, 1]))
    >>> round(metric.compute(state)["lifetime_xauc"].item(), 6)  # One pair of six is inverted.
    0.833333
    """
    return sum_metric(
        xauc_terms,
        xauc_values,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )


def in_order(pairs: Pairs) -> jax.Array:
    """``1 - discordant / total``, NaN where there are no pairs; in an x64 scope."""
    return 1 - safe_divide(pairs.discordant, pairs.total, math.nan)


def rauc_values(
    batch: Batch,
    *,
    grouping_key: str | None,
    average: Average,
    undefined_groups: float | None,
) -> Values:
    """RAUC over all examples of a window, and with a ``grouping_key`` its average over groups."""
    total = in_order(count_pairs(batch.predictions, batch.labels, batch.mask))[:, -1]
    values = {"rauc": total}
    if grouping_key is not None:
        pairs = count_pairs(batch.predictions, batch.labels, batch.mask, batch.key(grouping_key))
        values |= group_values(
            "rauc",
            in_order(pairs),
            pairs.order,
            pairs.is_first,
            batch,
            average=average,
            undefined_groups=undefined_groups,
        )
    return values


@factory
def rauc(
    *,
    window: int,
    grouped: bool = False,
    grouping_key: str = "grouping_keys",
    average: Average = "equal",
    undefined_groups: float | None = None,
    shards: int = 1,
    n_tasks: int = 1,
    undefined: float = math.nan,
) -> Metric:
    """Regression AUC of the newest examples: the fraction of pairs that are not inverted.

    ``rauc = 1 - (number of pairs with p_i < p_j and y_i > y_j) / (n (n - 1) / 2)``. Pairs of equal
    labels or of tied predictions are never inverted, so constant predictions have 1. Weights do
    not count. Labels may be any numbers.

    Source: the definition of torchrec.metrics.rauc; ``1 - rauc`` is the number of inversions
    (Knuth, The Art of Computer Programming, vol. 3, section 5.1.1) over that of pairs.

    Args:
        window: examples in the window, by task; exact.
        grouped: also give the average of the RAUC of groups.
        grouping_key: the name of the groups among the ``keys`` of `recmetrics_jax.make_batch`.
        average: what a group counts in it: ``"equal"`` 1, ``"impressions"`` its number of examples,
            ``"weight"`` their weight.
        undefined_groups: the RAUC of a group of one example; None leaves such groups out.
        shards: how many states share the window; `recmetrics_jax.sample_metric` says more.
        n_tasks: number of tasks ``T``.
        undefined: the value where there are fewer than two examples, or no group has a value.

    Returns:
        A `Metric` with ``window_rauc`` and, if grouped, ``window_grouped_rauc``,
        ``window_grouped_rauc_groups``, the number of groups averaged, and
        ``window_grouped_rauc_undefined_groups``, of those of one example, each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sample_metric`, and if ``average`` or ``undefined_groups`` is
            not one of the above.

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
    options = grouping(
        grouped=grouped,
        grouping_key=grouping_key,
        average=average,
        undefined_groups=undefined_groups,
    )
    return sample_metric(
        functools.partial(rauc_values, **options),
        n_tasks=n_tasks,
        window=window,
        shards=shards,
        keys=keys_of(options),
        undefined=undefined,
    )
