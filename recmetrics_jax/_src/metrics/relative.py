"""Errors of regression beside those of a constant, and their sign: NMSE and bias."""

import math
from typing import Generic, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import DEFAULT_SLOTS, sum_metric
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics.regression import (
    RSquaredSums,
    mse_terms,
    r_squared_terms,
    unexplained,
)
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.options import finite
from recmetrics_jax._src.terms import NEGATIVE_WEIGHTS, WEIGHTED_LABELS, WEIGHTS, Term, scores

X = TypeVar("X")


class NMSESums(NamedTuple, Generic[X]):
    """Sufficient statistics of normalized MSE, each ``float[T]``."""

    error_sum: X
    const_pred_error_sum: X


def squared_deviation(batch: Batch, baseline: float) -> jax.Array:
    """``w (y - baseline)^2``."""
    return batch.weights * jnp.square(batch.labels - baseline)


def nmse_terms(baseline: float) -> NMSESums[Term]:
    """The terms of NMSE beside a prediction that is always the same."""
    of_baseline = Term(squared_deviation, (baseline,), excludes=NEGATIVE_WEIGHTS)
    return NMSESums(mse_terms.error_sum, of_baseline)


def nmse_values(sums: NMSESums[jax.Array] | RSquaredSums[jax.Array]) -> Values:
    """The values of NMSE and its root; of the sums of R squared, beside the mean label."""
    if isinstance(sums, RSquaredSums):
        nmse = unexplained(sums)
    else:
        nmse = safe_divide(sums.error_sum, sums.const_pred_error_sum)
    return {"nmse": nmse, "nrmse": jnp.sqrt(nmse)}


@factory
def nmse(
    *,
    baseline: float | Literal["mean"] = 1.0,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Normalized MSE: squared errors over those of a prediction that is always the same.

    ``nmse = sum(w (y - p)^2) / sum(w (y - baseline)^2)``, and ``nrmse`` its root. Below 1 is better
    than the baseline. Two definitions have this name. That of torchrec, the default, takes 1 for
    the baseline. With ``baseline="mean"`` it is the mean label, ``sum(w y) / sum(w)``, and so the
    MSE over the variance of the labels: ``1 - r_squared``, as it is usual elsewhere.

    Source: torchrec.metrics.nmse. Of the mean: as `recmetrics_jax.r_squared`.

    Args:
        baseline: what is predicted always, in the unit of the labels; or ``"mean"``, the mean
            label.
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where the baseline makes no error, as without weight. Beside the mean
            that is where labels are constant, as `recmetrics_jax.r_squared` has it.

    Returns:
        A `Metric` with ``lifetime_nmse`` and ``lifetime_nrmse`` and, with a window, ``window_nmse``
        and ``window_nrmse``, each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`, and if ``baseline`` is neither a finite number
            nor ``"mean"``.

    >>> import recmetrics_jax as rm
    >>> metrics = rm.collection({"nmse": rm.nmse(), "of_mean": rm.nmse(baseline="mean")})
    >>> state = metrics.update(metrics.init(), rm.make_batch([1.0, 2.0, 2.0], [1.0, 2.0, 3.0]))
    >>> values = metrics.compute(state)
    >>> values["nmse/lifetime_nmse"].item(), values["of_mean/lifetime_nmse"].item()
    (0.20000000298023224, 0.5)
    """
    if isinstance(baseline, str) and baseline != "mean":
        raise ValueError(f"baseline: expected a finite number or 'mean', got {baseline!r}")
    return sum_metric(
        r_squared_terms if baseline == "mean" else nmse_terms(finite("baseline", baseline)),
        nmse_values,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )


class BiasSums(NamedTuple, Generic[X]):
    """Sufficient statistics of bias, each ``float[T]``."""

    signed_error_sum: X
    weighted_num_samples: X
    label_sum: X


def signed_error(batch: Batch) -> jax.Array:
    """``w (p - y)``: of a small bias, a difference of sums would keep less."""
    return batch.weights * (scores(batch) - batch.labels)


bias_terms = BiasSums(Term(signed_error, excludes=NEGATIVE_WEIGHTS), WEIGHTS, WEIGHTED_LABELS)


def bias_values(sums: BiasSums[jax.Array]) -> Values:
    """The values of bias."""
    return {
        "bias": safe_divide(sums.signed_error_sum, sums.weighted_num_samples),
        "relative_bias": safe_divide(sums.signed_error_sum, sums.label_sum),
    }


@factory
def bias(
    *,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Bias: by how much predictions are too high on average, also as a part of the mean label.

    ``bias = sum(w (p - y)) / sum(w)``, also called mean error, and ``relative_bias = sum(w (p - y))
    / sum(w y)``, which is `recmetrics_jax.calibration` less 1. Predictions and labels may be any
    numbers. Out of the domain, so NaN: a weight below 0.

    Source: the mean error; beside the mean label it is that of `recmetrics_jax.calibration`.

    Args:
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no weight has been seen, and of ``relative_bias`` also where the
            weighted labels add up to 0.

    Returns:
        A `Metric` with ``lifetime_bias``, in the unit of the labels, ``lifetime_relative_bias``, a
        fraction, and, with a window, ``window_bias`` and ``window_relative_bias``, each
        ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.bias()
    >>> state = metric.update(metric.init(), rm.make_batch([3.0, 2.0], [1.0, 3.0]))
    >>> {name: value.item() for name, value in metric.compute(state).items()}
    {'lifetime_bias': 0.5, 'lifetime_relative_bias': 0.25}
    """
    return sum_metric(
        bias_terms,
        bias_values,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )
