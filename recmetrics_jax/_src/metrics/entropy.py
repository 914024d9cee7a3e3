"""Normalized entropy, in bits; of weighted examples, and of examples that count once each."""

import functools
import math
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from recmetrics_jax._src import _cpu, options
from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import DEFAULT_SLOTS, sum_metric
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.terms import (
    NO_CLASSES,
    WEIGHTED_LABELS,
    WEIGHTED_NEGATIVES,
    WEIGHTS,
    Term,
    scores,
    weighted_labels,
    weighted_negatives,
    weights,
    with_threshold,
)

X = TypeVar("X")

ETA = 1e-12


class NESums(NamedTuple, Generic[X]):
    """Sufficient statistics of normalized entropy, each ``float[T]``."""

    cross_entropy_sum: X
    """In bits."""
    weighted_num_samples: X
    pos_labels: X
    neg_labels: X


def weighted_cross_entropy(
    labels: jax.Array, predictions: jax.Array, weights: jax.Array, eta: float = ETA
) -> jax.Array:
    """``-w (y log2 p + (1 - y) log2(1 - p))``, with p and 1 - p clamped to [eta, 1 - eta].

    The logarithms are clamped, each its own: in float32 ``1 - eta`` is 1, while the logarithm of
    it is not 0. At labels of 0 and 1 it is `_cross_entropy_of_classes`, to the last bit.
    """
    p = jnp.clip(predictions, 0.0, 1.0)
    q = 1 - p
    low, high = math.log(eta), math.log1p(-eta)
    log_p = jnp.clip(jnp.log(p), low, high)
    log_q = jnp.clip(jnp.log(q) - _dropped(p, q), low, high)
    nats = weights * (labels * log_p + (1 - labels) * log_q)
    return nats * (-1 / math.log(2))


def _dropped(p: jax.Array, q: jax.Array) -> jax.Array:
    """What ``q = 1 - p`` drops of a small p, to be put back into its logarithm.

    To the first order, since it is below the last digit kept. (Of ``(q - 1) + p`` XLA would make
    nothing.)
    """
    return p - (1 - q)


def _cross_entropy_of_classes(
    labels: jax.Array, predictions: jax.Array, weights: jax.Array, eta: float
) -> jax.Array:
    """As `weighted_cross_entropy`, of labels that are 0 or 1: one logarithm in place of two."""
    p = jnp.clip(predictions, 0.0, 1.0)
    is_positive = labels == 1
    likelihood = jnp.where(is_positive, p, 1 - p)
    dropped = jnp.where(is_positive, jnp.zeros_like(p), _dropped(p, likelihood))
    log = jnp.log(likelihood) - dropped
    nats = weights * jnp.clip(log, math.log(eta), math.log1p(-eta))
    return nats * (-1 / math.log(2))


def cross_entropy_of_logits(
    labels: jax.Array, logits: jax.Array, weights: jax.Array, eta: float = ETA
) -> jax.Array:
    """`weighted_cross_entropy` of ``p = 1 / (1 + exp(-z))``, where ``log p = -log1p(exp(-z))``.

    Of z and of -z, the one is beyond 0, and ``log1p`` of an exponential below 1 keeps its digits.
    """
    low, high = math.log(eta), math.log1p(-eta)
    log_p = jnp.clip(jax.nn.log_sigmoid(logits), low, high)
    log_q = jnp.clip(jax.nn.log_sigmoid(-logits), low, high)
    nats = weights * (labels * log_p + (1 - labels) * log_q)
    return nats * (-1 / math.log(2))


def cross_entropy(batch: Batch, eta: float = ETA) -> jax.Array:
    """The weighted cross entropy of each example.

    A logarithm costs more than all the rest, so where all labels are 0 or 1 there may be but one.
    Of logits it is computed without their probabilities, which lose the digits of what is likely.
    """
    if batch.logits is not None:
        return cross_entropy_of_logits(batch.labels, batch.logits, batch.weights, eta)
    return _cpu.by_shortcut(
        lambda labels, *_: jnp.abs(labels * labels - labels),
        functools.partial(_cross_entropy_of_classes, eta=eta),
        functools.partial(weighted_cross_entropy, eta=eta),
        *(batch.labels, scores(batch), batch.weights),
    )


NO_PROBABILITIES = ("predictions_below_0", "predictions_above_1")

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


def ne_values(sums: NESums[jax.Array], *, logloss: bool) -> Values:
    """The values of normalized entropy and, on request, of logloss."""
    values = {"ne": normalized_entropy(sums)}
    if logloss:
        values["logloss"] = mean_cross_entropy(sums)
    return values


@factory
def ne(
    *,
    logloss: bool = False,
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

    Out of the domain, so NaN: a prediction or a label outside of [0, 1], but for a prediction
    beyond 1 by rounding, and a weight below 0. Labels between 0 and 1 are soft ones.

    Source: He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014,
    section 3.

    Args:
        logloss: also give ``logloss = sum(w ce) / S``, in bits per unit of weight.
        label_threshold: labels from here on are 1, others 0; None takes them as they are, in [0,
            1].
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no weight, or only one class, has been seen, or where labels
            beyond 0 and 1 leave no entropy.

    Returns:
        A `Metric` with ``lifetime_ne``, with a window ``window_ne``, and with ``logloss``
        ``lifetime_logloss`` and ``window_logloss``, each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.ne(logloss=True)
    >>> state = metric.update(metric.init(), rm.make_batch([0.25, 0.25, 0.25, 0.25], [0, 0, 0, 1]))
    >>> {name: round(value.item(), 6) for name, value in metric.compute(state).items()}
    {'lifetime_ne': 1.0, 'lifetime_logloss': 0.811278}
    """
    return sum_metric(
        with_threshold(ne_terms, options.optional_threshold("label_threshold", label_threshold)),
        functools.partial(ne_values, logloss=options.flag("logloss", logloss)),
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


def unweighted_ne_values(sums: NESums[jax.Array], *, logloss: bool) -> Values:
    """As `ne_values`, by the names of their own."""
    return {f"unweighted_{name}": x for name, x in ne_values(sums, logloss=logloss).items()}


@factory
def unweighted_ne(
    *,
    logloss: bool = False,
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
        label_threshold: labels from here on are 1, others 0; None takes them as they are, in [0,
            1].
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no example, or only one class, has been seen, or where labels
            beyond 0 and 1 leave no entropy.

    Returns:
        A `Metric` with ``lifetime_unweighted_ne``, with a window ``window_unweighted_ne``, and with
        ``logloss`` ``lifetime_unweighted_logloss`` and ``window_unweighted_logloss``, each
        ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.unweighted_ne()
    >>> batch = rm.make_batch([0.25, 0.25, 0.25, 0.25], [0, 0, 0, 1], weights=[0.0, 1.0, 2.0, 9.0])
    >>> state = metric.update(metric.init(), batch)
    >>> round(metric.compute(state)["lifetime_unweighted_ne"].item(), 6)
    1.0
    """
    return sum_metric(
        with_threshold(
            unweighted_ne_terms, options.optional_threshold("label_threshold", label_threshold)
        ),
        functools.partial(unweighted_ne_values, logloss=options.flag("logloss", logloss)),
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )
