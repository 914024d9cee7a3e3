"""How sure values are, told by those of resamples: standard errors, intervals, p-values.

Shapes: ``T`` tasks, ``R`` resamples.
"""

import math
import statistics
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.base import Values
from recmetrics_jax._src.options import number

Kind = Literal["t", "percentile"]

LEAST_DEFINED = 0.5
"""What fraction of resamples has to have a value, for there to be an interval."""

ALIKE = 1e-6
"""Up to which part of a value resamples are alike, but for rounding."""


class Interval(NamedTuple):
    """The options of intervals."""

    kind: Kind
    confidence: float

    @classmethod
    def checked(cls, interval: Kind, confidence: float) -> "Interval":
        """The options, as they are given to a factory.

        Raises:
            ValueError: if one of them is none.
        """
        if interval not in get_args(Kind):
            raise ValueError(f"interval: expected one of {get_args(Kind)}, got {interval!r}")
        confidence = number("confidence", confidence)
        if not 0 < confidence < 1:
            raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence}")
        return cls(interval, confidence)


def with_intervals(
    values: Values, replicates: Values, *, interval: Interval, keeps: bool
) -> Values:
    """Values, and beside each its standard error and the ends of its interval.

    Args:
        values: ``float64[T, ...]`` each.
        replicates: the same of resamples, ``float64[T, R, ...]`` each.
        interval: the options.
        keeps: whether those are given, too.
    """
    result: Values = {}
    for name, value in values.items():
        result |= {name: value, **_told(name, value, replicates[name], interval)}
        if keeps:
            result[f"{name}_replicates"] = replicates[name]
    return result


def with_differences(
    values: Values, replicates: Values, *, models: int, baseline: int, interval: Interval
) -> Values:
    """Values, and beside each how those of models differ from the baseline's.

    Args:
        values: ``float64[T, ...]`` each, where ``T`` is ``models`` times the tasks of each.
        replicates: the same of resamples, ``float64[T, R, ...]`` each.
        models: how many models there are.
        baseline: which of them is the baseline.
        interval: the options.
    """

    def difference(x: jax.Array) -> jax.Array:
        by_model = x.reshape(models, -1, *x.shape[1:])
        return (by_model - by_model[baseline][None]).reshape(x.shape)

    result: Values = {}
    for name, value in values.items():
        differences, of_resamples = difference(value), difference(replicates[name])
        told = f"{name}_difference"
        result |= {name: value, told: differences}
        result |= _told(told, differences, of_resamples, interval)
        result[f"{name}_p_value"] = p_value(differences, of_resamples, interval)
    return result


def _told(name: str, value: jax.Array, replicates: jax.Array, interval: Interval) -> Values:
    error, low, high = interval_of(value, replicates, interval)
    return {f"{name}_se": error, f"{name}_low": low, f"{name}_high": high}


def interval_of(
    value: jax.Array, replicates: jax.Array, interval: Interval
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The standard error of a value, and the ends of its interval, ``float64[T, ...]`` each."""
    is_defined = ~jnp.isnan(replicates)
    is_known = jnp.mean(is_defined, axis=1, dtype=jnp.float64) >= LEAST_DEFINED
    is_known &= ~jnp.isnan(value)
    error = jnp.nanstd(replicates, axis=1, ddof=1)
    # Resamples that are alike but where they are undefined are of one key, and tell nothing.
    is_known &= jnp.all(is_defined, axis=1) | ~(error < ALIKE * jnp.abs(value))
    if interval.kind == "t":
        margin = t_quantile(0.5 + interval.confidence / 2, replicates.shape[1] - 1) * error
        low, high = value - margin, value + margin
    else:
        outside = (1 - interval.confidence) / 2
        ends = jnp.nanquantile(replicates, jnp.array([outside, 1 - outside]), axis=1)
        low, high = ends[0], ends[1]
    error, low, high = (jnp.where(is_known, x, jnp.nan) for x in (error, low, high))
    return error, low, high


def p_value(difference: jax.Array, replicates: jax.Array, interval: Interval) -> jax.Array:
    """How likely a difference as large is, either way, where there is none, ``float64[T, ...]``.

    By Student's t, or by how many of the resamples, ``float64[T, R, ...]``, are on the other side
    of 0, and one more (Davison and Hinkley, Bootstrap Methods and their Application, Cambridge
    University Press 1997, section 4.2), as the interval is.
    """
    error, _, _ = interval_of(difference, replicates, interval)
    if interval.kind == "t":
        p = t_tails(difference / jnp.where(error > 0, error, 1.0), replicates.shape[1] - 1)
        p = jnp.where(error > 0, p, 0.0)
    else:
        count = jnp.sum(~jnp.isnan(replicates), axis=1)
        below, above = (
            (1 + jnp.sum(is_beyond, axis=1)) / (1 + count)
            for is_beyond in (replicates <= 0, replicates >= 0)
        )
        p = jnp.minimum(2 * jnp.minimum(below, above), 1.0)
    p = jnp.where(difference == 0, 1.0, p)
    return jnp.where(jnp.isnan(error), jnp.nan, p)


def t_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t, by its expansion around that of the normal distribution.

    Right to 1e-5 of itself from 19 degrees of freedom on, and to 1e-4 where the probability is
    beyond 0.999 (Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 26.7.5).

    >>> [round(t_quantile(0.975, freedom), 4) for freedom in (19, 199)]
    [2.093, 1.972]
    """
    z = statistics.NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**i for i, term in enumerate(terms, 1))


def t_tails(t: jax.Array, freedom: int) -> jax.Array:
    """How likely Student's t is beyond ``float64[...]``, either way; in an x64 scope.

    By its finite series (Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 26.7.3
    and 26.7.4), right to 1e-14.

    >>> with jax.enable_x64(True):
    ...     [round(t_tails(jnp.array(2.0), freedom).item(), 6) for freedom in (1, 2, 19)]
    [0.295167, 0.183503, 0.060002]
    """
    angle = jnp.arctan(t / math.sqrt(freedom))
    is_odd = freedom % 2
    steps = np.arange(1, (freedom - 1) // 2 + (1 - is_odd))
    ratios = 2 * steps / (2 * steps + 1) if is_odd else (2 * steps - 1) / (2 * steps)
    coefficients = np.cumprod(np.concatenate([[1.0], ratios]))
    square = jnp.square(jnp.cos(angle))[..., None]
    powers = jnp.power(square, np.arange(1.0 * len(coefficients)).reshape(*[1] * t.ndim, -1))
    series = jnp.sin(angle) * jnp.sum(powers * coefficients.reshape(*[1] * t.ndim, -1), axis=-1)
    if is_odd:
        within = 2 / math.pi * (angle + (jnp.cos(angle) * series if freedom > 1 else 0))
    else:
        within = series
    return jnp.clip(1 - jnp.abs(within), 0, 1)
