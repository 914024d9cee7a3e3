"""Errors of amounts, such as seconds watched, beside the amounts: MAPE, sMAPE, MSLE."""

import functools
import math

import jax
import jax.numpy as jnp

from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import DEFAULT_SLOTS, sum_metric
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics.regression import ErrorSums, mean_error_values
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.options import finite
from recmetrics_jax._src.terms import WEIGHTS, Term, scores


def relative_error(batch: Batch, epsilon: float) -> jax.Array:
    """``w |y - p| / max(|y|, epsilon)``; NaN of a label of 0, if epsilon is."""
    size = jnp.maximum(jnp.abs(batch.labels), epsilon)
    error = jnp.abs(batch.labels - scores(batch)) / jnp.where(size > 0, size, 1.0)
    return batch.weights * jnp.where(size > 0, error, jnp.nan)


def mape_terms(epsilon: float) -> ErrorSums[Term]:
    """The terms of MAPE."""
    return ErrorSums(Term(relative_error, (epsilon,)), WEIGHTS)


@factory
def mape(
    *,
    epsilon: float = 0.0,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Mean absolute percentage error, as a fraction: errors beside the size of their labels.

    ``mape = sum(w |y - p| / |y|) / sum(w)``; 0.1 is 10%. Out of the domain, so NaN: a label of 0,
    and a weight below 0. Labels of 0, as a video has that was not watched, are to be masked, or
    their errors divided by ``epsilon``. (The tiny ones that other libraries have, 1e-16 or 1e-6,
    let labels of 0 decide the mean.)

    Source: Hyndman and Koehler, Another look at measures of forecast accuracy, International
    Journal of Forecasting 22(4), 2006, section 2.2.

    Args:
        epsilon: what an error is divided by at least, in the unit of the labels: ``max(|y|,
            epsilon)``; 0 for labels alone.
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no weight has been seen.

    Returns:
        A `Metric` with ``lifetime_mape`` and, with a window, ``window_mape``, each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`, and if ``epsilon`` is not a finite number of at
            least 0.

    >>> import recmetrics_jax as rm
    >>> metric = rm.mape()
    >>> state = metric.update(metric.init(), rm.make_batch([1.0, 6.0], [2.0, 4.0]))
    >>> metric.compute(state)["lifetime_mape"].tolist()
    [0.5]
    """
    return sum_metric(
        mape_terms(finite("epsilon", epsilon, 0)),
        functools.partial(mean_error_values, name="mape"),
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )


def symmetric_relative_error(batch: Batch) -> jax.Array:
    """``2 w |y - p| / (|y| + |p|)``; 0 where both are."""
    size = jnp.abs(batch.labels) + jnp.abs(scores(batch))
    error = jnp.abs(batch.labels - scores(batch)) / jnp.where(size > 0, size, 1.0)
    return 2 * batch.weights * error


smape_terms = ErrorSums(Term(symmetric_relative_error), WEIGHTS)


@factory
def smape(
    *,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Symmetric mean absolute percentage error, as a fraction from 0 to 2.

    ``smape = sum(2 w |y - p| / (|y| + |p|)) / sum(w)``. A prediction of 0 for a label of 0 is
    right, and counts 0; any other one for a label of 0 counts 2, however near it is. Out of the
    domain, so NaN: a weight below 0. (Without the 2 it is in use too, from 0 to 1; and without
    the absolute values below, where it may be negative.)

    Source: Hyndman and Koehler, Another look at measures of forecast accuracy, International
    Journal of Forecasting 22(4), 2006, section 2.2.

    Args:
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no weight has been seen.

    Returns:
        A `Metric` with ``lifetime_smape`` and, with a window, ``window_smape``, each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.smape()
    >>> state = metric.update(metric.init(), rm.make_batch([1.0, 0.0], [3.0, 0.0]))
    >>> metric.compute(state)["lifetime_smape"].tolist()
    [0.5]
    """
    return sum_metric(
        smape_terms,
        functools.partial(mean_error_values, name="smape"),
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )


def squared_log_error(batch: Batch) -> jax.Array:
    """``w (ln(1 + y) - ln(1 + p))^2``; NaN unless both are above -1.

    As the logarithm of a ratio above 1, ``1 + (larger - smaller) / (1 + smaller)``, which keeps the
    digits of a small error, where a difference of logarithms would lose them.
    """
    smaller = jnp.minimum(batch.labels, scores(batch))
    larger = jnp.maximum(batch.labels, scores(batch))
    is_inside = smaller > -1
    beyond = (larger - smaller) / jnp.where(is_inside, 1 + smaller, 1.0)
    return batch.weights * jnp.where(is_inside, jnp.square(jnp.log1p(beyond)), jnp.nan)


msle_terms = ErrorSums(Term(squared_log_error, arithmetic=False), WEIGHTS)


def msle_values(sums: ErrorSums[jax.Array]) -> Values:
    """The values of MSLE and RMSLE."""
    mean = safe_divide(sums.error_sum, sums.weighted_num_samples)
    return {"msle": mean, "rmsle": jnp.sqrt(mean)}


@factory
def msle(
    *,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Mean squared logarithmic error, and its root: errors of amounts by their ratio.

    ``msle = sum(w (ln(1 + y) - ln(1 + p))^2) / sum(w)``, ``rmsle = sqrt(msle)``. Out of the domain,
    so NaN: a prediction or a label of -1 or less, and a weight below 0. Those between -1 and 0 are
    in it: a model of amounts may predict a little less than nothing.

    Source: scikit-learn's ``mean_squared_log_error``, which has the same domain.

    Args:
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no weight has been seen.

    Returns:
        A `Metric` with ``lifetime_msle`` and ``lifetime_rmsle`` and, with a window, ``window_msle``
        and ``window_rmsle``, each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.msle()
    >>> state = metric.update(metric.init(), rm.make_batch([0.0, 1.0], [1.0, 1.0]))
    >>> {name: round(value.item(), 6) for name, value in metric.compute(state).items()}
    {'lifetime_msle': 0.240227, 'lifetime_rmsle': 0.490129}
    """
    return sum_metric(
        msle_terms,
        msle_values,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )
