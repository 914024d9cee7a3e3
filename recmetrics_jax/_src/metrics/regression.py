"""Errors of regression: MSE with RMSE, MAE, and R squared."""

import functools
import math
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from recmetrics_jax._src.base import Batch, Values, along
from recmetrics_jax._src.build import DEFAULT_SLOTS, sum_metric
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.options import finite
from recmetrics_jax._src.terms import WEIGHTS, Term, scores

X = TypeVar("X")

CANCELLED = 1e-10
"""The part of the squared labels below which a variance may be nothing but rounding: a window adds
up at 48 bits, as often as updates share a slot."""


class ErrorSums(NamedTuple, Generic[X]):
    """Sufficient statistics of a mean error, each ``float[T]``."""

    error_sum: X
    weighted_num_samples: X


class RSquaredSums(NamedTuple, Generic[X]):
    """Sufficient statistics of R squared, each ``float[T]``."""

    error_sum: X
    weighted_num_samples: X
    label_sum: X
    label_squared_sum: X


def squared_error(batch: Batch) -> jax.Array:
    """``w (y - p)^2``."""
    return batch.weights * jnp.square(batch.labels - scores(batch))


mse_terms = ErrorSums(Term(squared_error), WEIGHTS)


def mse_values(sums: ErrorSums[jax.Array] | RSquaredSums[jax.Array]) -> Values:
    """The values of MSE and RMSE."""
    mean = safe_divide(sums.error_sum, sums.weighted_num_samples)
    return {"mse": mean, "rmse": jnp.sqrt(mean)}


@factory
def mse(
    *,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Mean squared error, and its root.

    ``mse = sum(w (y - p)^2) / sum(w)``, ``rmse = sqrt(mse)``.

    Source: Herlocker et al., Evaluating Collaborative Filtering Recommender Systems, ACM TOIS
    22(1), 2004, section 5.1.1.

    Args:
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no weight has been seen.

    Returns:
        A `Metric` with ``lifetime_mse``, in the unit of the labels squared, ``lifetime_rmse``,
        in the unit of the labels, and, with a window, ``window_mse`` and ``window_rmse``, each
        ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.mse()
    >>> state = metric.update(metric.init(), rm.make_batch([1.0, 2.0], [3.0, 4.0]))
    >>> {name: value.item() for name, value in metric.compute(state).items()}
    {'lifetime_mse': 4.0, 'lifetime_rmse': 2.0}
    """
    return sum_metric(
        mse_terms,
        mse_values,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )


def absolute_error(batch: Batch) -> jax.Array:
    """``w |y - p|``."""
    return batch.weights * jnp.abs(batch.labels - scores(batch))


mae_terms = ErrorSums(Term(absolute_error), WEIGHTS)


def mean_error_values(sums: ErrorSums[jax.Array], *, name: str) -> Values:
    """The mean of errors, ``float[T]``, or of several kinds of them, ``float[T, Q]``."""
    total = along(sums.weighted_num_samples, sums.error_sum)
    return {name: safe_divide(sums.error_sum, total)}


mae_values = functools.partial(mean_error_values, name="mae")


@factory
def mae(
    *,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Mean absolute error.

    ``mae = sum(w |y - p|) / sum(w)``.

    Source: Herlocker et al., Evaluating Collaborative Filtering Recommender Systems, ACM TOIS
    22(1), 2004, section 5.1.1.

    Args:
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no weight has been seen.

    Returns:
        A `Metric` with ``lifetime_mae`` and, with a window, ``window_mae``, each ``float[T]``,
        in the unit of the labels.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.mae()
    >>> state = metric.update(metric.init(), rm.make_batch([1.0, 2.0], [3.0, 3.0]))
    >>> metric.compute(state)["lifetime_mae"].tolist()
    [1.5]
    """
    return sum_metric(
        mae_terms,
        mae_values,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )


def label_moment(batch: Batch, power: int, center: float = 0.0) -> jax.Array:
    """``w (y - center)^power``, in float64: variances are small differences of its sums."""
    with jax.enable_x64(True):
        labels, weights = (x.astype(jnp.float64) for x in (batch.labels, batch.weights))
        return weights * jax.lax.integer_pow(labels - center, power)


def r_squared_terms_about(center: float) -> RSquaredSums[Term]:
    """The terms of R squared, with the moments of labels about a number."""
    about = (center,) if center else ()
    first, second = (Term(label_moment, (power, *about)) for power in (1, 2))
    return RSquaredSums(*mse_terms, label_sum=first, label_squared_sum=second)


r_squared_terms = r_squared_terms_about(0.0)


def unexplained(
    sums: RSquaredSums[jax.Array], of_constant: float = math.nan, cancelled: float = CANCELLED
) -> jax.Array:
    """The errors over the labels' variance, ``float64[T]``; ``of_constant`` of constant labels.

    They count as constant where their variance, a difference of sums, may be but the rounding of
    these: below ``cancelled`` times the mean of their squares.
    """
    explained = safe_divide(jnp.square(sums.label_sum), sums.weighted_num_samples)
    total = sums.label_squared_sum - explained
    is_constant = jnp.abs(total) <= cancelled * jnp.abs(sums.label_squared_sum)
    return safe_divide(sums.error_sum, jnp.where(is_constant, 0.0, total), of_constant)


def r_squared_values(
    sums: RSquaredSums[jax.Array], *, of_constant: float = math.nan, cancelled: float = CANCELLED
) -> Values:
    """The value of R squared; ``of_constant`` where labels are constant."""
    return {"r_squared": 1 - unexplained(sums, 1 - of_constant, cancelled)}


@factory
def r_squared(
    *,
    center: float = 0.0,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """R squared, the coefficient of determination: the part of the labels' variance explained.

    ``r_squared = 1 - sum(w (y - p)^2) / sum(w (y - mean)^2)``, where ``mean = sum(w y) / sum(w)``.
    1 is perfect, 0 is as good as always predicting the mean label, and below is worse.

    Source: Wright, Correlation and Causation, Journal of Agricultural Research 20(7), 1921.

    Args:
        center: a number that labels lie about, of which nothing but rounding depends. The variance
            is ``sum(w (y - center)^2) - sum(w (y - center))^2 / sum(w)``: labels of 1,000,000 that
            vary by 1 keep their digits if they are taken from 1,000,000.
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no weight has been seen, or labels are constant: where they
            deviate from their mean by less than 1e-5 of the root mean square of ``y - center``,
            which may be nothing but rounding.

    Returns:
        A `Metric` with ``lifetime_r_squared`` and, with a window, ``window_r_squared``, each
        ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`, and if ``center`` is not a finite number.

    >>> import recmetrics_jax as rm
    >>> metric = rm.r_squared()
    >>> state = metric.update(metric.init(), rm.make_batch([1.0, 2.0, 2.0], [1.0, 2.0, 3.0]))
    >>> metric.compute(state)["lifetime_r_squared"].tolist()
    [0.5]
    """
    return sum_metric(
        r_squared_terms_about(finite("center", center)),
        r_squared_values,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )
