"""Calibration by bins of predictions: the reliability diagram, and errors of calibration."""

import functools
import math
from typing import Generic, Literal, NamedTuple, TypeVar, get_args

import jax
import jax.numpy as jnp

from recmetrics_jax._src.base import Values
from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.options import optional_threshold
from recmetrics_jax._src.reliability_bins import BINS, BinOptions, BinSums, Spacing
from recmetrics_jax._src.thresholds import with_threshold

X = TypeVar("X")

Norm = Literal["l1", "l2", "max"]
"""The mean of errors of calibration, the root of the mean of their squares, or their largest."""

ALONE = 1e-6
"""By how much more than one example a bin is to have: below, weights may be one by rounding."""


class ReliabilitySums(NamedTuple, Generic[X]):
    """Sufficient statistics of calibration by bins."""

    reliability_histogram: X
    """``float[T, 4, bins]``; see `BinSums`."""


def reliability_values(sums: ReliabilitySums[jax.Array], *, options: BinOptions) -> Values:
    """What is in each bin; NaN means of empty ones."""
    of_bins = options.read(sums.reliability_histogram)
    return {
        "reliability_weight": of_bins.weights,
        "reliability_prediction": safe_divide(of_bins.predictions, of_bins.weights),
        "reliability_label": safe_divide(of_bins.labels, of_bins.weights),
    }


@factory
def reliability(
    *,
    bins: int = BINS,
    spacing: Spacing = "log",
    label_threshold: float | None = None,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int | None = None,
    undefined: float = math.nan,
) -> Metric:
    """The reliability diagram: by bin of predictions, what was predicted and what happened.

    ``weight_b = sum(w)``, ``prediction_b = sum(w p) / sum(w)`` and ``label_b = sum(w y) / sum(w)``
    over the examples of bin b. Calibrated predictions have ``prediction_b = label_b`` in all bins,
    where `recmetrics_jax.calibration` asks for it of the sums alone. Out of the domain, so NaN in
    all bins: a prediction or a label outside of [0, 1], and a weight below 0.

    Bins lie

    - ``"log"``: even in the logarithm of the odds ``p / (1 - p)``, from 1e-4 to 1e2: 20 bins are of
      a factor of 2 each. What is below the first edge is in the first bin, and what is above the
      last one in the last. Click rates lie between 1e-4 and 1e-1, where most bins are; and near 1
      odds tell probabilities apart as well as near 0.
    - ``"uniform"``: even in p. At a click rate of 1%, nearly all examples are in the first of 20.
    - ``"quantile"``: over the scores, so that all are of about equal weight. A fine histogram of
      6,977 bins is kept, 128 for each octave of p, and above 1/2 of 1 - p, and grouped into
      ``bins`` when the value is read; so it adds up and merges as the others do. Neighbours within
      1% of p may share a bin where a quantile would part them, and one score of much weight is
      one bin, beside others that are empty.

    Source: DeGroot and Fienberg, The Comparison and Evaluation of Forecasters, The Statistician 32,
    1983.

    Args:
        bins: number of bins, up to 65,536.
        spacing: how they lie, as above. A prediction that is an edge is in the upper bin.
        label_threshold: labels from here on are 1, others 0; None takes them as they are, in [0,
            1].
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more. None for
            1,024, and of quantiles 32: each is a histogram of 223 KB for each task.
        undefined: the mean prediction and label of bins without weight.

    Returns:
        A `Metric` with ``lifetime_reliability_weight``, ``lifetime_reliability_prediction`` and
        ``lifetime_reliability_label`` and, with a window, the same of ``window_``, each
        ``float[T, bins]``, lowest predictions first.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`; if ``bins`` or ``spacing`` is not as above.

    >>> import recmetrics_jax as rm
    >>> metric = rm.reliability(bins=3, spacing="uniform")
    >>> batch = rm.make_batch([0.125, 0.25, 0.75, 1.0], [0, 1, 1, 1])
    >>> values = metric.compute(metric.update(metric.init(), batch))
    >>> {name.removeprefix("lifetime_reliability_"): x.tolist() for name, x in values.items()}
    {'weight': [[2.0, 0.0, 2.0]], 'prediction': [[0.1875, nan, 0.875]], 'label': [[0.5, nan, 1.0]]}
    """
    of_bins = BinOptions.checked(bins, spacing)
    return sum_metric(
        with_threshold(
            ReliabilitySums(of_bins.term), optional_threshold("label_threshold", label_threshold)
        ),
        functools.partial(reliability_values, options=of_bins),
        n_tasks=n_tasks,
        window=window,
        slots=of_bins.slots if slots is None else slots,
        undefined=undefined,
    )


def ece_values(sums: ReliabilitySums[jax.Array], *, options: BinOptions, norm: Norm) -> Values:
    """Errors of calibration, plain and debiased."""
    of_bins = options.read(sums.reliability_histogram)
    size = jnp.abs(of_bins.errors)
    if norm == "max":
        largest = jnp.max(jnp.where(of_bins.weights > 0, size, 0.0), axis=-1)
        return {"ece_max": jnp.where(of_bins.total > 0, largest, jnp.nan)}
    variance, is_known = variance_of_labels(of_bins)
    if norm == "l1":
        plain, less = size, folded_mean(size, jnp.sqrt(variance)) - size
    else:
        plain, less = jnp.square(size), variance
    known = jnp.where(is_known, of_bins.weights, 0.0)
    mean = safe_divide(jnp.sum(of_bins.weights * plain, axis=-1), of_bins.total)
    debiased = safe_divide(jnp.sum(known * (plain - less), axis=-1), jnp.sum(known, axis=-1))
    share = safe_divide(jnp.sum(known, axis=-1), of_bins.total)
    if norm == "l1":
        return {"ece": mean, "ece_debiased": debiased, "ece_debiased_share": share}
    return {
        "ece_l2": jnp.sqrt(mean),
        "ece_l2_squared": mean,
        "ece_l2_squared_debiased": debiased,
        "ece_debiased_share": share,
    }


def variance_of_labels(of_bins: BinSums) -> tuple[jax.Array, jax.Array]:
    """The variance of the mean label of each bin, and in which bins it is known."""
    effective = safe_divide(jnp.square(of_bins.weights), of_bins.squared_weights, 0.0)
    is_known = effective > 1 + ALONE
    mean = of_bins.mean_labels
    # By rounding, a mean may be beyond 1.
    of_label = jnp.maximum(mean * (1 - mean), 0.0)
    return of_label / jnp.where(is_known, effective - 1, 1.0), is_known


def folded_mean(mean: jax.Array, deviation: jax.Array) -> jax.Array:
    """The mean of the size of a normal variable."""
    z = safe_divide(mean, deviation * math.sqrt(2), math.inf)
    tail = deviation * math.sqrt(2 / math.pi) * jnp.exp(-jnp.square(z))
    return tail + mean * jax.lax.erf(z)


@factory
def ece(
    *,
    bins: int = BINS,
    spacing: Spacing = "log",
    norm: Norm = "l1",
    label_threshold: float | None = None,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int | None = None,
    undefined: float = math.nan,
) -> Metric:
    """Expected calibration error: how far what happened is from what was predicted, over bins.

    With ``d_b = |prediction_b - label_b|`` of the bins of `recmetrics_jax.reliability`, and their
    shares of the weight ``s_b``:

    - ``norm="l1"``: ``ece = sum(s_b d_b)``;
    - ``norm="l2"``: ``ece_l2_squared = sum(s_b d_b^2)``, and its root ``ece_l2``;
    - ``norm="max"``: ``ece_max = max(d_b)`` over bins with weight, also called MCE.

    Labels are drawn, so these are above 0 for perfect predictions too, the more so the fewer
    examples a bin has. With the variance of the mean label of a bin, estimated as ``v_b = label_b
    (1 - label_b) / (n_b - 1)``, the debiased values are

    - ``ece_l2_squared_debiased = sum(s_b (d_b^2 - v_b))``, which has no bias where the predictions
      of a bin are alike, and is too low by ``s_b var_b / (n_b - 1)`` where the true rates in a bin
      vary by ``var_b``;
    - ``ece_debiased = sum(s_b (2 d_b - m_b))``, where ``m_b = sqrt(2 v_b / pi) exp(-d_b^2 / (2
      v_b)) + d_b erf(d_b / sqrt(2 v_b))`` is the mean size of a normal variable of mean ``d_b`` and
      variance ``v_b``. Of perfect predictions, about 60% of the bias is left.

    They may be below 0, as an estimate of 0 without bias must; so the one of squares has no root.
    Bins of one example, whose variance is not known, are left out of them: ``ece_debiased_share``
    is the share of the weight that they are of. Of weighted examples, ``n_b = sum(w)^2 / sum(w^2)``
    is the number of equal weights that are worth as much, so that here a weight of 3 is not three
    examples. Soft labels are taken as averages of labels 0 and 1 that were drawn.

    Bins of equal weight, ``spacing="quantile"``, have less bias than bins of equal width, of which
    some have few examples. The error is that of means over bins: what cancels out in a bin does not
    count. Out of the domain, so NaN: as `recmetrics_jax.reliability`.

    Source: Naeini, Cooper and Hauskrecht, Obtaining Well Calibrated Probabilities Using Bayesian
    Binning, AAAI 2015, for ECE and MCE; Kumar, Liang and Ma, Verified Uncertainty Calibration,
    NeurIPS 2019, section 5, for squares, whose code draws what is ``m_b`` here, of ``n_b`` in place
    of ``n_b - 1``; Roelofs et al., Mitigating Bias in Calibration Error Estimation, AISTATS 2022,
    for bins of equal weight.

    Args:
        bins: number of bins, up to 65,536.
        spacing: how they lie; `recmetrics_jax.reliability` says more.
        norm: how errors of bins are averaged, as above.
        label_threshold: labels from here on are 1, others 0; None takes them as they are, in [0,
            1].
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.reliability` says more.
        undefined: the value where no weight has been seen; debiased, where no bin has more than one
            example.

    Returns:
        A `Metric` with, as the norm has it, ``lifetime_ece``, ``lifetime_ece_debiased`` and
        ``lifetime_ece_debiased_share``; ``lifetime_ece_l2``, ``lifetime_ece_l2_squared``,
        ``lifetime_ece_l2_squared_debiased`` and ``lifetime_ece_debiased_share``; or
        ``lifetime_ece_max``; and, with a window, the same of ``window_``, each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.reliability`; if ``norm`` is not as above.

    >>> import recmetrics_jax as rm
    >>> metric = rm.ece(bins=2, spacing="uniform")
    >>> batch = rm.make_batch([0.25, 0.25, 0.25, 0.25, 0.75, 0.75], [0, 1, 0, 0, 1, 1])
    >>> values = metric.compute(metric.update(metric.init(), batch))
    >>> {name: round(value.item(), 4) for name, value in values.items()}
    {'lifetime_ece': 0.0833, 'lifetime_ece_debiased': -0.0496, 'lifetime_ece_debiased_share': 1.0}
    """
    of_bins = BinOptions.checked(bins, spacing)
    if norm not in get_args(Norm):
        raise ValueError(f"norm: expected one of {get_args(Norm)}, got {norm!r}")
    return sum_metric(
        with_threshold(
            ReliabilitySums(of_bins.term), optional_threshold("label_threshold", label_threshold)
        ),
        functools.partial(ece_values, options=of_bins, norm=norm),
        n_tasks=n_tasks,
        window=window,
        slots=of_bins.slots if slots is None else slots,
        undefined=undefined,
    )
