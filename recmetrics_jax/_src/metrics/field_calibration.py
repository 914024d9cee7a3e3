"""How well calibrated each value of a field is: errors of calibration by segment, averaged."""

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
from recmetrics_jax._src.spread_terms import out_of_range_term, spread
from recmetrics_jax._src.spreads import Segments
from recmetrics_jax._src.terms import (
    NEGATIVE_WEIGHTS,
    WEIGHTED_LABELS,
    WEIGHTS,
    Term,
    weighted_predictions,
)
from recmetrics_jax._src.thresholds import with_threshold

X = TypeVar("X")


class FieldSums(NamedTuple, Generic[X]):
    """Sufficient statistics of the calibration of a field, each ``float[T, G]``."""

    predictions: X
    labels: X
    weights: X
    out_of_range_examples: X
    """``float[T]``."""


EXCLUDED = ("predictions_below_0", "labels_below_0", *NEGATIVE_WEIGHTS)


def field_terms(over: Segments) -> FieldSums[Term]:
    """The terms of the calibration of a field."""
    predictions = Term(weighted_predictions, excludes=EXCLUDED)
    return FieldSums(
        spread(predictions, over),
        spread(WEIGHTED_LABELS, over),
        spread(WEIGHTS, over),
        out_of_range_term(over),
    )


def field_values(sums: FieldSums[jax.Array]) -> Values:
    """The errors of all segments together, and how many have no relative one.

    A bad example makes them NaN, of whatever segment it is.
    """
    error = jnp.abs(sums.predictions - sums.labels)
    is_bad = jnp.any(jnp.isnan(error), axis=1)
    weight = jnp.sum(sums.weights, axis=1)
    is_defined = sums.labels > 0
    relative = jnp.where(is_defined, sums.weights * safe_divide(error, sums.labels), 0.0)
    of_defined = jnp.sum(jnp.where(is_defined, sums.weights, 0.0), axis=1)
    is_undefined = (sums.weights > 0) & ~is_defined
    values = {
        "field_ece": safe_divide(jnp.sum(error, axis=1), weight),
        "field_rce": safe_divide(jnp.sum(relative, axis=1), of_defined),
        "field_rce_undefined_segments": jnp.sum(is_undefined, axis=1, dtype=weight.dtype),
    }
    values = {name: jnp.where(is_bad, jnp.nan, value) for name, value in values.items()}
    return {**values, "field_out_of_range_examples": sums.out_of_range_examples}


@factory
def field_calibration_error(
    *,
    key: str,
    segments: int,
    hashed: bool = False,
    label_threshold: float | None = None,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Field-level calibration errors, F-ECE and F-RCE: how far predictions are off by segment.

    ``field_ece = sum_g |P_g - Y_g| / sum_g W_g`` and ``field_rce = sum_g W_g |P_g - Y_g| / Y_g /
    sum_g W_g``, over the segments g of a field, such as its users, items or countries, where ``P_g
    = sum(w p)``, ``Y_g = sum(w y)`` and ``W_g = sum(w)`` over the examples of g. Errors of segments
    that cancel in the calibration of all together do not cancel here; for the calibration of each
    segment itself there is ``by_segment(calibration(), ...)``.

    A segment with weight but without a positive label has no relative error: ``field_rce`` is that
    of the others, and such segments are counted. Examples of no segment count for nothing but
    themselves, ``field_out_of_range_examples``. Out of the domain, so NaN: predictions, labels and
    weights below 0.

    Source: Pan et al., Field-aware Calibration: A Simple and Empirically Strong Method for Reliable
    Probabilistic Predictions, WWW 2020, section 3.2, which adds a small number to each label of
    ``field_rce``.

    Args:
        key: the name of the field among the ``keys`` of `recmetrics_jax.make_batch`.
        segments: how many segments it has; as in `recmetrics_jax.by_segment`.
        hashed: whether keys are hashed to that many slots; as there.
        label_threshold: labels from here on are 1, others 0; None takes them as they are.
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no weight, or no segment with a positive label, has been seen.

    Returns:
        A `Metric` with ``lifetime_field_ece``, in the unit of the labels, ``lifetime_field_rce``,
        ``lifetime_field_rce_undefined_segments`` and ``lifetime_field_out_of_range_examples``, and
        with a window the same of ``window_``, each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`, and if an option is not one of the above.

    >>> import recmetrics_jax as rm
    >>> metric = rm.field_calibration_error(key="country", segments=2)
    >>> keys = {"country": [0, 0, 1, 1]}
    >>> batch = rm.make_batch([0.75, 0.75, 0.25, 0.25], [1, 0, 1, 0], keys=keys)
    >>> values = metric.compute(metric.update(metric.init(), batch))
    >>> values["lifetime_field_ece"].item(), values["lifetime_field_rce"].item()
    (0.25, 0.5)
    """
    over = Segments.checked(key, segments, hashed)
    label_threshold = optional_threshold("label_threshold", label_threshold)
    return sum_metric(
        with_threshold(field_terms(over), label_threshold),
        field_values,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )
