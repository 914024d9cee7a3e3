"""Areas under curves whose points are bins, and bounds of what they are by the order in the bins.

Each function gives what every bin adds to the area if its scores are tied, and at least and at most
whatever they are. What is above a bin does not depend on the order in it, so orders in bins may be
chosen one by one, and the sums over bins are bounds of the area. All in float64.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Bins(NamedTuple):
    """Weights of positives and negatives by bin, ``float64[..., B]``, from the lowest bin up."""

    positives_above: jax.Array
    positives: jax.Array
    negatives_above: jax.Array
    negatives: jax.Array
    is_tied: jax.Array
    """``bool[..., B]``: whether a bin is known to hold no two scores that differ."""

    @classmethod
    def of(cls, histogram: jax.Array, is_tied: jax.Array) -> "Bins":
        """Of a histogram ``float64[..., 2, B]``; in an x64 scope."""
        above = jax.lax.cumsum(histogram, axis=histogram.ndim - 1, reverse=True)
        above = jnp.concatenate([above[..., 1:], jnp.zeros_like(above[..., :1])], axis=-1)
        return cls(
            above[..., 0, :],
            histogram[..., 0, :],
            above[..., 1, :],
            histogram[..., 1, :],
            jnp.broadcast_to(is_tied, histogram[..., 0, :].shape),
        )


class Added(NamedTuple):
    """What bins add to an area, ``float64[..., B]`` each; NaN where the area is undefined."""

    tied: jax.Array
    lower: jax.Array
    upper: jax.Array


def roc_area(bins: Bins) -> Added:
    """The area under the ROC curve: pairs inside a bin count half; or are all wrong, or all right.

    They are all wrong if the negatives of a bin score higher than its positives, and all right if
    they score lower; so both bounds are areas that some scores have. Undefined where a class has no
    weight.
    """
    right = bins.positives_above * bins.negatives
    inside = bins.positives * bins.negatives
    tied = right + inside / 2
    return _shares(
        Added(tied, right, right + inside),
        bins.is_tied,
        jnp.sum(bins.positives, axis=-1) * jnp.sum(bins.negatives, axis=-1),
    )


def precision_recall_area(bins: Bins) -> Added:
    """Average precision. Undefined where positives have no weight.

    It is the mean over the weight of positives of ``T / (T + F)``, where ``T`` and ``F`` are the
    positives and negatives that score as high or higher. Let ``T0`` and ``F0`` be those above a bin
    of ``a`` positives and ``b`` negatives.

    At most, ``T = T0 + a`` and ``F = F0`` for all of the ``a``: so it is if they are tied, and
    score higher than the negatives.

    At least: the part of the positives that comes after ``t`` others has ``T >= T0 + t`` and
    ``F <= F0 + b``, so the bin adds no less than the integral of ``(T0 + t) / (T0 + t + F0 + b)``
    over ``t`` from 0 to ``a``. Positives that score lower than the negatives, no two alike, come as
    near to it as their weights are small. The integral is ``a - F ln(1 + a / (T0 + F))``, where
    ``F = F0 + b``; with ``x = a / (T0 + F)`` that is ``a T0 / (T0 + F) + F (x - ln(1 + x))``.
    """
    until = bins.positives_above + bins.positives
    negatives = bins.negatives_above + bins.negatives
    above = bins.positives_above + negatives
    x = bins.positives / jnp.where(above > 0, above, 1.0)
    first = bins.positives * _share(bins.positives_above, negatives)
    lower = jnp.where(above > 0, first + negatives * (x - jnp.log1p(x)), bins.positives)
    return _shares(
        Added(
            bins.positives * _share(until, negatives),
            lower,
            bins.positives * _share(until, bins.negatives_above),
        ),
        bins.is_tied,
        jnp.sum(bins.positives, axis=-1),
    )


def _share(part: jax.Array, rest: jax.Array) -> jax.Array:
    """``part / (part + rest)``; 0 of nothing."""
    total = part + rest
    return part / jnp.where(total > 0, total, 1.0)


def _shares(added: Added, is_tied: jax.Array, total: jax.Array) -> Added:
    """Shares of a total; bounds are what they are without ties, and NaN is of no total."""
    total = jnp.where(total > 0, total, jnp.nan)[..., None]
    tied, lower, upper = (x / total for x in added)
    return Added(tied, jnp.where(is_tied, tied, lower), jnp.where(is_tied, tied, upper))
