"""The Brier score, and what it is made of."""

import functools
import math
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import DEFAULT_SLOTS, sum_metric
from recmetrics_jax._src.domain import NO_PROBABILITIES
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.options import flag, optional_threshold
from recmetrics_jax._src.reliability_bins import BINS, BinOptions, Spacing
from recmetrics_jax._src.terms import NO_CLASSES, WEIGHTS, Term, scores
from recmetrics_jax._src.thresholds import with_threshold

X = TypeVar("X")


class BrierSums(NamedTuple, Generic[X]):
    """Sufficient statistics of the Brier score, each ``float[T]``."""

    brier_sum: X
    weighted_num_samples: X


class DecomposedBrierSums(NamedTuple, Generic[X]):
    """Likewise, of its decomposition."""

    brier_sum: X
    weighted_num_samples: X
    reliability_histogram: X
    """``float[T, 4, bins]``; see `recmetrics_jax._src.reliability_bins.BinSums`."""


def brier_loss(batch: Batch) -> jax.Array:
    """``w (y (1 - p)^2 + (1 - y) p^2)``, in float64: of it, small differences are taken."""
    predictions = jnp.minimum(scores(batch), 1.0)  # But for rounding, they are.
    with jax.enable_x64(True):
        p, y, w = (x.astype(jnp.float64) for x in (predictions, batch.labels, batch.weights))
        return w * (y * jnp.square(1 - p) + (1 - y) * jnp.square(p))


brier_terms = BrierSums(Term(brier_loss, excludes=(*NO_PROBABILITIES, *NO_CLASSES)), WEIGHTS)


def brier_values(sums: BrierSums[jax.Array] | DecomposedBrierSums[jax.Array]) -> Values:
    """The Brier score."""
    return {"brier": safe_divide(sums.brier_sum, sums.weighted_num_samples)}


def decomposed_brier_values(sums: DecomposedBrierSums[jax.Array], *, options: BinOptions) -> Values:
    """The Brier score and its parts."""
    (brier,) = brier_values(sums).values()
    of_bins = options.read(sums.reliability_histogram)
    mean = safe_divide(jnp.sum(of_bins.labels, axis=-1), of_bins.total)

    def of_squares(x: jax.Array) -> jax.Array:
        return safe_divide(jnp.sum(of_bins.weights * jnp.square(x), axis=-1), of_bins.total)

    reliability = of_squares(of_bins.errors)
    resolution = of_squares(of_bins.mean_labels - mean[..., None])
    uncertainty = mean * (1 - mean)
    return {
        "brier": brier,
        "brier_reliability": reliability,
        "brier_resolution": resolution,
        "brier_uncertainty": uncertainty,
        "brier_within_bins": brier - (reliability - resolution + uncertainty),
    }


@factory
def brier(
    *,
    decomposition: bool = False,
    bins: int = BINS,
    spacing: Spacing = "log",
    label_threshold: float | None = None,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int | None = None,
    undefined: float = math.nan,
) -> Metric:
    """The Brier score, the mean squared error of probabilities, and what it is made of.

    ``brier = sum(w (y (1 - p)^2 + (1 - y) p^2)) / sum(w)``, which is ``(p - y)^2`` where labels are
    0 or 1: a soft label y is a positive of weight w y and a negative of weight w (1 - y). Out of
    the domain, so NaN: a prediction or a label outside of [0, 1], and a weight below 0.

    With ``decomposition``, over the bins of `recmetrics_jax.reliability`, of which ``s_b`` is the
    share of the weight, and with the mean label ``m = sum(w y) / sum(w)``,

    - ``brier_reliability = sum(s_b (prediction_b - label_b)^2)``: what is lost for want of
      calibration, 0 at best;
    - ``brier_resolution = sum(s_b (label_b - m)^2)``: how far predictions tell apart what happens,
      at most the uncertainty;
    - ``brier_uncertainty = m (1 - m)``: that of always predicting the mean label;
    - ``brier_within_bins``: what is left, ``sum(s_b (variance_b of p - 2 covariance_b of p and
      y))``. It is 0 where predictions of one bin are equal, and below 0 where they tell apart what
      happens in it.

    ``brier = brier_reliability - brier_resolution + brier_uncertainty + brier_within_bins``, but
    for the rounding of the values.

    Source: Brier, Verification of Forecasts Expressed in Terms of Probability, Monthly Weather
    Review 78(1), 1950, whose score of two classes is twice this one; Murphy, A New Vector Partition
    of the Probability Score, Journal of Applied Meteorology 12(4), 1973; Stephenson, Coelho and
    Jolliffe, Two Extra Components in the Brier Score Decomposition, Weather and Forecasting 23(4),
    2008, for what is within bins.

    Args:
        decomposition: also give the parts.
        bins: number of bins of the decomposition, up to 65,536.
        spacing: how they lie; `recmetrics_jax.reliability` says more.
        label_threshold: labels from here on are 1, others 0; None takes them as they are, in [0,
            1].
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.reliability` says more.
        undefined: the value where no weight has been seen.

    Returns:
        A `Metric` with ``lifetime_brier``, with a window ``window_brier``, and with
        ``decomposition`` the parts by their names above, each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.reliability`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.brier(decomposition=True, bins=2, spacing="uniform")
    >>> state = metric.update(metric.init(), rm.make_batch([0.25, 0.25, 0.5, 1.0], [0, 1, 1, 1]))
    >>> {name: value.item() for name, value in metric.compute(state).items()}
    {'lifetime_brier': 0.21875, 'lifetime_brier_reliability': 0.0625,
    'lifetime_brier_resolution': 0.0625, 'lifetime_brier_uncertainty': 0.1875,
    'lifetime_brier_within_bins': 0.03125}
    """
    of_bins = BinOptions.checked(bins, spacing)
    label_threshold = optional_threshold("label_threshold", label_threshold)
    if not flag("decomposition", decomposition):
        return sum_metric(
            with_threshold(brier_terms, label_threshold),
            brier_values,
            n_tasks=n_tasks,
            window=window,
            slots=DEFAULT_SLOTS if slots is None else slots,
            undefined=undefined,
        )
    return sum_metric(
        with_threshold(DecomposedBrierSums(*brier_terms, of_bins.term), label_threshold),
        functools.partial(decomposed_brier_values, options=of_bins),
        n_tasks=n_tasks,
        window=window,
        slots=of_bins.slots if slots is None else slots,
        undefined=undefined,
    )
