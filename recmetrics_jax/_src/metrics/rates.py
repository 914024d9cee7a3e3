"""Ratios of weighted sums: calibration, CTR, averages."""

import math
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from recmetrics_jax._src.base import Values
from recmetrics_jax._src.build import DEFAULT_SLOTS, sum_metric
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.options import optional_threshold
from recmetrics_jax._src.terms import (
    NEGATIVE_WEIGHTS,
    POSITIVES,
    WEIGHTED_LABELS,
    WEIGHTED_PREDICTIONS,
    WEIGHTS,
    Term,
    weighted_predictions,
)
from recmetrics_jax._src.thresholds import with_threshold

X = TypeVar("X")


class CalibrationSums(NamedTuple, Generic[X]):
    """Sufficient statistics of calibration, each ``float[T]``."""

    calibration_num: X
    calibration_denom: X


NEGATIVE = ("predictions_below_0", "labels_below_0", *NEGATIVE_WEIGHTS)

calibration_terms = CalibrationSums(Term(weighted_predictions, excludes=NEGATIVE), WEIGHTED_LABELS)


def calibration_values(sums: CalibrationSums[jax.Array], *, of_positive: bool = False) -> Values:
    """The value of calibration; ``of_positive``: as torchrec has it, only of labels above zero."""
    denominator = sums.calibration_denom
    if of_positive:
        denominator = jnp.maximum(denominator, 0.0)
    return {"calibration": safe_divide(sums.calibration_num, denominator)}


@factory
def calibration(
    *,
    label_threshold: float | None = None,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Calibration: what was predicted over what happened; 1 is calibrated on average.

    ``calibration = sum(w p) / sum(w y)``: above 1 more is predicted than happens. It goes by other
    names:

    - PCOC, predicted click over click, and predicted over observed clicks, is this value;
    - COPC, click over predicted click, is its inverse, ``sum(w y) / sum(w p) = 1 / calibration``.

    By bins of predictions it is `recmetrics_jax.reliability`, of which `recmetrics_jax.ece` is one
    number. Predictions and labels may be amounts of any size; out of the domain, so NaN, is one
    below 0, as logits have, and a weight below 0.

    Source: He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014,
    section 3.

    Args:
        label_threshold: labels from here on are 1, others 0; None takes them as they are.
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no weighted label has been seen.

    Returns:
        A `Metric` with ``lifetime_calibration`` and, with a window, ``window_calibration``, each
        ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.calibration()
    >>> state = metric.update(metric.init(), rm.make_batch([0.5, 0.25], [1, 0]))
    >>> metric.compute(state)["lifetime_calibration"].tolist()
    [0.75]
    """
    return sum_metric(
        with_threshold(calibration_terms, optional_threshold("label_threshold", label_threshold)),
        calibration_values,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )


class CTRSums(NamedTuple, Generic[X]):
    """Sufficient statistics of CTR, each ``float[T]``."""

    ctr_num: X
    ctr_denom: X


ctr_terms = CTRSums(POSITIVES, WEIGHTS)


def ctr_values(sums: CTRSums[jax.Array]) -> Values:
    """The value of CTR."""
    return {"ctr": safe_divide(sums.ctr_num, sums.ctr_denom)}


@factory
def ctr(
    *,
    label_threshold: float | None = None,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Click-through rate: the weighted mean of the labels.

    ``ctr = sum(w y) / sum(w)``. Out of the domain, so NaN: a label outside of [0, 1], and a weight
    below 0.

    Source: Richardson, Dominowska and Ragno, Predicting Clicks: Estimating the Click-Through
    Rate for New Ads, WWW 2007, section 1.

    Args:
        label_threshold: labels from here on are 1, others 0; None takes them as they are, in [0,
            1].
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no weight has been seen.

    Returns:
        A `Metric` with ``lifetime_ctr`` and, with a window, ``window_ctr``, each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.ctr()
    >>> state = metric.update(metric.init(), rm.make_batch([0.5, 0.25], [1, 0], [3, 1]))
    >>> metric.compute(state)["lifetime_ctr"].tolist()
    [0.75]
    """
    return sum_metric(
        with_threshold(ctr_terms, optional_threshold("label_threshold", label_threshold)),
        ctr_values,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )


class WeightedAvgSums(NamedTuple, Generic[X]):
    """Sufficient statistics of the weighted average, each ``float[T]``."""

    weighted_sum: X
    weighted_num_samples: X


weighted_avg_terms = WeightedAvgSums(WEIGHTED_PREDICTIONS, WEIGHTS)


def weighted_avg_values(sums: WeightedAvgSums[jax.Array]) -> Values:
    """The value of the weighted average."""
    return {"weighted_avg": safe_divide(sums.weighted_sum, sums.weighted_num_samples)}


@factory
def weighted_avg(
    *,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Weighted average of the predictions, whatever they are; the labels do not count.

    ``weighted_avg = sum(w p) / sum(w)``. Out of the domain, so NaN: a weight below 0.

    Source: the weighted arithmetic mean; the name is that of torchrec.metrics.weighted_avg.

    Args:
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no weight has been seen.

    Returns:
        A `Metric` with ``lifetime_weighted_avg`` and, with a window, ``window_weighted_avg``,
        each ``float[T]``, in the unit of the predictions.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.weighted_avg()
    >>> state = metric.update(metric.init(), rm.make_batch([4.0, 8.0], [0, 0], [3, 1]))
    >>> metric.compute(state)["lifetime_weighted_avg"].tolist()
    [5.0]
    """
    return sum_metric(
        weighted_avg_terms,
        weighted_avg_values,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )


class AverageSums(NamedTuple, Generic[X]):
    """Sufficient statistics of averages, each ``float[T]``."""

    label_sum: X
    prediction_sum: X
    weighted_num_samples: X


average_terms = AverageSums(WEIGHTED_LABELS, WEIGHTED_PREDICTIONS, WEIGHTS)


def average_values(sums: AverageSums[jax.Array]) -> Values:
    """The values of averages."""
    return {
        "label_average": safe_divide(sums.label_sum, sums.weighted_num_samples),
        "prediction_average": safe_divide(sums.prediction_sum, sums.weighted_num_samples),
    }


@factory
def average(
    *,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Weighted averages of the labels and of the predictions, whatever they are.

    ``label_average = sum(w y) / sum(w)``, ``prediction_average = sum(w p) / sum(w)``. Out of the
    domain, so NaN: a weight below 0.

    Source: the weighted arithmetic mean; the names are those of torchrec.metrics.average.

    Args:
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no weight has been seen.

    Returns:
        A `Metric` with ``lifetime_label_average`` and ``lifetime_prediction_average`` and, with a
        window, ``window_label_average`` and ``window_prediction_average``, each ``float[T]``, in
        the unit of the labels and of the predictions.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.average()
    >>> state = metric.update(metric.init(), rm.make_batch([4.0, 8.0], [0, 1], [3, 1]))
    >>> {name: value.item() for name, value in metric.compute(state).items()}
    {'lifetime_label_average': 0.25, 'lifetime_prediction_average': 5.0}
    """
    return sum_metric(
        average_terms,
        average_values,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )
