"""Relatives of normalized entropy as the reference, torchrec, has them: what the adapter declares.

Of positives alone, less what calibration does to it, of predictions that are recalibrated, and of
groups. Shapes: ``T`` tasks, ``N`` examples, ``G`` groups.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy

from recmetrics_jax._src.base import Batch
from recmetrics_jax._src.cross_entropy import ETA, weighted_positive_cross_entropy
from recmetrics_jax._src.metrics.entropy import (
    NESums,
    clamped_normalized_entropy,
    mean_cross_entropy,
    ne_terms,
)
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.spread_terms import spread
from recmetrics_jax._src.spreads import Segments
from recmetrics_jax._src.terms import WEIGHTED_PREDICTIONS, Term, scores

X = TypeVar("X")


def clamped_mean_cross_entropy(sums: NESums[jax.Array], eta: float = ETA) -> jax.Array:
    """Logloss as torchrec has it, where the weight is at least eta: 0 without weight."""
    total = jnp.maximum(sums.pos_labels + sums.neg_labels, eta)
    return mean_cross_entropy(sums._replace(weighted_num_samples=total))


class NEPositiveSums(NamedTuple, Generic[X]):
    """Sufficient statistics of the NE of positives, each ``float[T]``."""

    cross_entropy_positive_sum: X
    """In bits."""
    weighted_num_samples: X
    pos_labels: X
    neg_labels: X


def positive_cross_entropy(batch: Batch, eta: float = ETA) -> jax.Array:
    """What positives add to the weighted cross entropy of each example."""
    return weighted_positive_cross_entropy(batch.labels, scores(batch), batch.weights, eta)


ne_positive_terms = NEPositiveSums(
    dataclasses.replace(ne_terms.cross_entropy_sum, function=positive_cross_entropy), *ne_terms[1:]
)


class CaliFreeNESums(NamedTuple, Generic[X]):
    """Sufficient statistics of NE less what calibration does to it, each ``float[T]``."""

    cross_entropy_sum: X
    """In bits."""
    weighted_num_samples: X
    pos_labels: X
    neg_labels: X
    weighted_sum_predictions: X


cali_free_ne_terms = CaliFreeNESums(*ne_terms, WEIGHTED_PREDICTIONS)


def cali_free_normalized_entropy(sums: CaliFreeNESums[jax.Array], eta: float = ETA) -> jax.Array:
    """NE over the cross entropy of always predicting the mean prediction.

    As in the reference, the latter is a sum over examples, not a mean: twice as many examples have
    half the value. It is undefined without weight, and where the mean prediction is certain and
    right.
    """
    ne = clamped_normalized_entropy(NESums(*sums[:4]), eta)
    total, positive = sums.weighted_num_samples, sums.pos_labels
    mean = safe_divide(sums.weighted_sum_predictions, total)
    nats = xlogy(positive, mean) + xlogy(total - positive, 1 - mean)
    return safe_divide(ne, nats * (-1 / math.log(2)))


def recalibrated(
    batch: Batch, statistic: Callable[..., jax.Array], coefficient: float, *options: Hashable
) -> jax.Array:
    """A statistic of examples whose odds are ``coefficient`` times those that were predicted.

    ``p`` becomes ``c p / (c p + 1 - p)``: NaN of a certain ``p`` with ``c = 0``.
    """
    p = scores(batch)
    likely = coefficient * p
    predictions = safe_divide(likely, likely + (1 - p))
    return statistic(batch._replace(predictions=predictions, logits=None), *options)


def recalibrated_term(term: Term, coefficient: float) -> Term:
    """A term of the examples that `recalibrated` makes."""
    options = (term.function, coefficient, *term.options)
    return dataclasses.replace(term, function=recalibrated, options=options)


def grouped_ne_terms(key: str, groups: int, eta: float = ETA) -> NESums[Term]:
    """The terms of NE by group, ``float64[T, G]`` each: of the numbers of groups in a key."""
    over = Segments(key, groups, hashed=False)
    of_examples = ne_terms._replace(
        cross_entropy_sum=dataclasses.replace(ne_terms.cross_entropy_sum, options=(eta,))
    )
    # Labels and predictions may be any: what a NaN touches becomes NaN by arithmetic.
    return NESums(*(spread(dataclasses.replace(t, raw=True), over) for t in of_examples))
