"""Normalized entropy; of weighted examples, and of examples that count once each."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from recmetrics_jax._src import options
from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import DEFAULT_SLOTS, sum_metric
from recmetrics_jax._src.cross_entropy import ETA, cross_entropy
from recmetrics_jax._src.domain import NO_PROBABILITIES
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.terms import (
    NO_CLASSES,
    WEIGHTED_LABELS,
    WEIGHTED_NEGATIVES,
    WEIGHTS,
    Term,
    weighted_labels,
    weighted_negatives,
    weights,
)
from recmetrics_jax._src.thresholds import with_threshold

X = TypeVar("X")


class NESums(NamedTuple, Generic[X]):
    """Sufficient statistics of normalized entropy, each ``float[T]``."""

    cross_entropy_sum: X
    """In bits."""
    weighted_num_samples: X
    pos_labels: X
    neg_labels: X


# What one of the terms excludes makes all values NaN: here cross entropy has it all.
ne_terms = NESums(
    Term(cross_entropy, excludes=(*NO_PROBABILITIES, *NO_CLASSES), arithmetic=False),
    WEIGHTS,
    WEIGHTED_LABELS,
    WEIGHTED_NEGATIVES,
)


def normalized_entropy(sums: NESums[jax.Array]) -> jax.Array:
    """Cross entropy over the entropy of the mean label; undefined without both classes."""
    is_undefined = (sums.pos_labels <= 0) | (sums.neg_labels <= 0)
    # Stand-ins keep the logarithms finite where the value is replaced anyway.
    total = jnp.where(is_undefined, 2.0, sums.weighted_num_samples)
    positive = jnp.where(is_undefined, 1.0, sums.pos_labels)
    negative = jnp.where(is_undefined, 1.0, sums.neg_labels)
    entropy = -(positive * jnp.log2(positive / total) + negative * jnp.log2(negative / total))
    ne = sums.cross_entropy_sum / jnp.where(is_undefined, 1.0, entropy)
    return jnp.where(is_undefined, jnp.nan, ne)


def entropy_normalized_by(sums: NESums[jax.Array], base_rate: float) -> jax.Array:
    """Cross entropy over that of always predicting a rate; of one class too."""
    log_p, log_q = (x / math.log(2) for x in (math.log(base_rate), math.log1p(-base_rate)))
    of_rate = -(sums.pos_labels * log_p + sums.neg_labels * log_q)
    return safe_divide(sums.cross_entropy_sum, of_rate)


def clamped_normalized_entropy(sums: NESums[jax.Array], eta: float = ETA) -> jax.Array:
    """As torchrec has it: the mean label is clamped to [eta, 1 - eta].

    Labels of one class then have a large value, near 1 / eta; only no weight is undefined.
    """
    mean = sums.pos_labels / jnp.maximum(sums.weighted_num_samples, eta)
    mean = jnp.clip(mean, eta, 1 - eta)
    entropy = -(sums.pos_labels * jnp.log2(mean) + sums.neg_labels * jnp.log2(1 - mean))
    return safe_divide(
        sums.cross_entropy_sum, jnp.where(sums.weighted_num_samples > 0, entropy, 0.0)
    )


def mean_cross_entropy(sums: NESums[jax.Array]) -> jax.Array:
    """Logloss: cross entropy per unit of weight."""
    return safe_divide(sums.cross_entropy_sum, sums.weighted_num_samples)


def ne_values(
    sums: NESums[jax.Array],
    *,
    logloss: bool = False,
    nats: bool = False,
    relative: bool = False,
    base_rate: float | None = None,
) -> Values:
    """The values of normalized entropy and, on request, of logloss and of what is gained."""
    ne = normalized_entropy(sums)
    if base_rate is not None:
        ne = entropy_normalized_by(sums, base_rate)
    values = {"ne": ne}
    if logloss:
        values["logloss"] = mean_cross_entropy(sums)
    if nats:
        values["logloss_nats"] = mean_cross_entropy(sums) * math.log(2)
    if relative:
        values |= {"rig": 1 - ne, "rce": 100 * (1 - ne)}
    return values


def _ne_metric(
    terms: NESums[Term],
    values: Callable[..., Values],
    *,
    base_rate: float | None,
    label_threshold: float | None,
    flags: Mapping[str, bool],
    **of_builder: Any,
) -> Metric:
    if base_rate is not None:
        base_rate = options.number("base_rate", base_rate)
        if not 0 < base_rate < 1:
            raise ValueError(f"base_rate: expected a number between 0 and 1, got {base_rate!r}")
    also = {name: options.flag(name, value) for name, value in flags.items()}
    return sum_metric(
        with_threshold(terms, options.optional_threshold("label_threshold", label_threshold)),
        functools.partial(values, base_rate=base_rate, **also),
        **of_builder,
    )


@factory
def ne(
    *,
    logloss: bool = False,
    nats: bool = False,
    relative: bool = False,
    base_rate: float | None = None,
    label_threshold: float | None = None,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Normalized entropy: cross entropy relative to always predicting the average label.

    ``ne = sum(w ce) / (S H(sum(w y) / S))``, where ``S = sum(w)``, ``ce = -(y log2 p + (1 - y)
    log2(1 - p))`` and ``H`` is the binary entropy, in bits. Below 1 is better than the average.
    Predictions and one minus predictions are clamped to [1e-12, 1 - 1e-12]. Of a batch made with
    ``logits=True`` it is computed from the logits.

    The average label is that of the same examples, so NE of one day is not relative to what NE of
    another is. With ``base_rate=r`` it is relative to always predicting ``r``, whatever the labels
    turn out to be: ``ne = sum(w ce) / sum(w ce_r)``, where ``ce_r = -(y log2 r + (1 - y)
    log2(1 - r))``.

    Out of the domain, so NaN: a prediction or a label outside of [0, 1], but for a prediction
    beyond 1 by rounding, and a weight below 0. Labels between 0 and 1 are soft ones.

    Source: He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014,
    section 3, for NE and RIG; Belli et al., Privacy-Aware Recommender Systems Challenge on
    Twitter's Home Timeline, 2020, for RCE.

    Args:
        logloss: also give ``logloss = sum(w ce) / S``, in bits per unit of weight.
        nats: also give ``logloss_nats``, the same in nats, ``ln 2`` times as many, as losses of
            training and scikit-learn's ``log_loss`` are. It has a name of its own, so that no
            series of values changes its unit under one name.
        relative: also give what is gained, of which more is better: relative information gain,
            ``rig = 1 - ne``, and relative cross entropy, ``rce = 100 (1 - ne)``, in percent.
        base_rate: the rate to be relative to, above 0 and below 1; None for the average label.
        label_threshold: labels from here on are 1, others 0; None takes them as they are, in [0,
            1].
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no weight has been seen; for ``ne``, ``rig`` and ``rce`` without
            a base rate, also where only one class has been.

    Returns:
        A `Metric` with ``lifetime_ne``, with a window ``window_ne``, and as options have it
        ``lifetime_logloss``, ``lifetime_logloss_nats``, ``lifetime_rig`` and ``lifetime_rce``, and
        those of the window, each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`; if ``base_rate`` is not between 0 and 1.

    >>> import recmetrics_jax as rm
    >>> metric = rm.ne(logloss=True, nats=True, relative=True)
    >>> state = metric.update(metric.init(), rm.make_batch([0.25, 0.25, 0.25, 0.5], [0, 0, 0, 1]))
    >>> {name: round(value.item(), 4) for name, value in metric.compute(state).items()}
    {'lifetime_ne': 0.6918, 'lifetime_logloss': 0.5613, 'lifetime_logloss_nats': 0.389,
    'lifetime_rig': 0.3082, 'lifetime_rce': 30.8156}
    """
    return _ne_metric(
        ne_terms,
        ne_values,
        flags={"logloss": logloss, "nats": nats, "relative": relative},
        base_rate=base_rate,
        label_threshold=label_threshold,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )


def unweighted(batch: Batch, statistic: Callable[[Batch], jax.Array]) -> jax.Array:
    """A statistic of examples of which each has a weight of one."""
    return statistic(batch._replace(weights=jnp.ones_like(batch.weights)))


unweighted_ne_terms = NESums(
    Term(
        unweighted,
        (cross_entropy,),
        excludes=(*NO_PROBABILITIES, "labels_below_0", "labels_above_1"),
        arithmetic=False,
    ),
    Term(unweighted, (weights,)),
    Term(unweighted, (weighted_labels,)),
    Term(unweighted, (weighted_negatives,)),
)


def unweighted_ne_values(sums: NESums[jax.Array], **also: Any) -> Values:
    """As `ne_values`, by the names of their own."""
    return {f"unweighted_{name}": x for name, x in ne_values(sums, **also).items()}


@factory
def unweighted_ne(
    *,
    logloss: bool = False,
    nats: bool = False,
    relative: bool = False,
    base_rate: float | None = None,
    label_threshold: float | None = None,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Normalized entropy where each example counts once, whatever its weight, even a weight of 0.

    ``unweighted_ne = sum(ce) / (N H(sum(y) / N))``, in the terms of `recmetrics_jax.ne`, over the
    ``N`` real examples: mask what is not to count. Copies of an example are more examples, so here
    a weight of 3 is not three of them.

    Out of the domain, so NaN: as for `recmetrics_jax.ne`, but for weights, which may be any.

    Source: He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014,
    section 3, where examples have no weights.

    Args:
        logloss: also give ``unweighted_logloss = sum(ce) / N``, in bits per example.
        nats: also give ``unweighted_logloss_nats``, the same in nats.
        relative: also give ``unweighted_rig`` and ``unweighted_rce``, as `recmetrics_jax.ne`.
        base_rate: the rate to be relative to, as in `recmetrics_jax.ne`.
        label_threshold: labels from here on are 1, others 0; None takes them as they are, in [0,
            1].
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no example has been seen; without a base rate, of all but
            logloss, also where only one class has been.

    Returns:
        A `Metric` with ``lifetime_unweighted_ne``, with a window ``window_unweighted_ne``, and as
        options have it ``lifetime_unweighted_logloss`` and the others, as `recmetrics_jax.ne`, each
        ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.ne`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.unweighted_ne()
    >>> batch = rm.make_batch([0.25, 0.25, 0.25, 0.25], [0, 0, 0, 1], weights=[0.0, 1.0, 2.0, 9.0])
    >>> state = metric.update(metric.init(), batch)
    >>> round(metric.compute(state)["lifetime_unweighted_ne"].item(), 6)
    1.0
    """
    return _ne_metric(
        unweighted_ne_terms,
        unweighted_ne_values,
        flags={"logloss": logloss, "nats": nats, "relative": relative},
        base_rate=base_rate,
        label_threshold=label_threshold,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )
