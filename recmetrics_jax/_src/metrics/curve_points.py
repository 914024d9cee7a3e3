"""Points of ROC and precision-recall curves, from histograms of scores."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.base import Values
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics.binned import (
    BINS,
    SLOTS,
    HistogramSums,
    Ranges,
    histogram_metric,
)
from recmetrics_jax._src.metrics.operating_points import Points
from recmetrics_jax._src.options import whole
from recmetrics_jax._src.score_bins import Bins

POINTS = 100
MOST_POINTS = 1 << 16


def roc_values(sums: HistogramSums[jax.Array], *, points: int, bins: Bins) -> Values:
    """Points of the ROC curve, evenly spaced in the sum of both rates."""
    of = Points.of(sums.histogram)
    thresholds = jnp.broadcast_to(bins.lowest_scores()[None], of.true_positives.shape)
    # From the highest threshold down, before which nothing is predicted.
    fpr, tpr, thresholds = (
        jnp.concatenate([jnp.full_like(x[:, :1], first), x[:, ::-1]], axis=1)
        for x, first in (
            (of.false_positive_rates, 0.0),
            (of.true_positive_rates, 0.0),
            (thresholds.astype(jnp.float64), math.inf),
        )
    )
    columns = {"fpr": fpr, "tpr": tpr, "thresholds": thresholds}
    values = first_at_least(fpr + tpr, 2 * np.arange(points) / (points - 1), columns)
    return {f"roc_curve_{name}": x for name, x in values.items()}


def pr_values(sums: HistogramSums[jax.Array], *, points: int, bins: Bins) -> Values:
    """Points of the precision-recall curve, evenly spaced in recall."""
    of = Points.of(sums.histogram)
    thresholds = jnp.broadcast_to(bins.lowest_scores()[None], of.true_positives.shape)
    columns = {
        "precision": of.precision,
        "recall": of.true_positive_rates,
        "thresholds": thresholds.astype(jnp.float64),
    }
    columns = {name: x[:, ::-1] for name, x in columns.items()}
    values = first_at_least(columns["recall"], np.arange(1, points + 1) / points, columns)
    return {f"pr_curve_{name}": x for name, x in values.items()}


def first_at_least(
    rising: jax.Array, steps: np.ndarray, columns: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Columns ``float64[T, B]`` where another, that never falls, first is at least each step.

    Or all that it ever is. NaN in tasks where it is NaN in the end, of what is undefined.

    >>> of = jnp.array([[0.0, 0.2, 0.2, 1.0]])
    >>> first_at_least(of, np.array([0.0, 0.1, 0.2, 0.3]), {"x": of})["x"].tolist()
    [[0.0, 0.20000000298023224, 0.20000000298023224, 1.0]]
    """
    search = functools.partial(jnp.searchsorted, method="scan_unrolled")
    steps_of_tasks = jnp.minimum(jnp.asarray(steps, rising.dtype)[None], rising[:, -1:])
    places = jax.vmap(search)(rising, steps_of_tasks)
    is_undefined = jnp.isnan(rising[:, -1:])

    def at(x: jax.Array) -> jax.Array:
        chosen = jnp.take_along_axis(x, places, axis=1, mode="clip")
        return jnp.where(is_undefined, jnp.nan, chosen)

    return {name: at(x) for name, x in columns.items()}


@factory
def roc_curve(
    *,
    points: int = POINTS,
    bins: int = BINS,
    refine: Ranges = (),
    label_threshold: float | None = None,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Points of the ROC curve: the rates of false and of true positives, and their thresholds.

    ``fpr(t) = sum(w (1 - y) [p >= t]) / negatives``, ``tpr(t) = sum(w y [p >= t]) / positives``, at
    ``K`` thresholds t from the highest down: first infinity, of which both rates are 0, then the
    highest lowest score of a bin of which ``fpr + tpr`` is at least ``2 i / (K - 1)``. So points
    are evenly spaced along the curve, and none is farther than ``2 / (K - 1)`` from the next, but
    where a bin holds more; both rates rise, up to 1. Points are not interpolated: they are those
    of the scores, as float32, and of scikit-learn's ``roc_curve`` at these thresholds.

    Bins are those of `recmetrics_jax.binned_auc`, whose histogram it shares in a collection. Out of
    the domain, so NaN: a label outside of [0, 1], and a weight below 0.

    Source: Fawcett, An introduction to ROC analysis, Pattern Recognition Letters 27(8), 2006,
    section 5.

    Args:
        points: how many points, ``K``.
        bins: number of bins, a power of two.
        refine: ranges of scores where bins are cut; `recmetrics_jax.binned_auc` says more.
        label_threshold: labels from here on are positive, others negative; None takes them as they
            are, in [0, 1].
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.binned_auc` says more.
        undefined: the rates where a class has no weight. Thresholds are NaN then.

    Returns:
        A `Metric` with ``lifetime_roc_curve_fpr``, ``lifetime_roc_curve_tpr`` and
        ``lifetime_roc_curve_thresholds`` and, with a window, the same of ``window_``, each
        ``float[T, K]``.

    Raises:
        ValueError: as `recmetrics_jax.binned_auc`, and if ``points`` is below 2.

    >>> import recmetrics_jax as rm
    >>> metric = rm.roc_curve(points=4)
    >>> batch = rm.make_batch([0.75, 0.5, 0.375, 0.25], [1, 0, 1, 0])
    >>> values = metric.compute(metric.update(metric.init(), batch))
    >>> {name: value[0].tolist() for name, value in values.items()}
    {'lifetime_roc_curve_fpr': [0.0, 0.5, 0.5, 1.0],
    'lifetime_roc_curve_tpr': [0.0, 0.5, 1.0, 1.0],
    'lifetime_roc_curve_thresholds': [inf, 0.5, 0.375, 0.25]}
    """
    return histogram_metric(
        functools.partial(roc_values, points=whole("points", points, 2, MOST_POINTS)),
        bins=bins,
        refine=refine,
        label_threshold=label_threshold,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined={"roc_curve_fpr": undefined, "roc_curve_tpr": undefined},
    )


@factory
def pr_curve(
    *,
    points: int = POINTS,
    bins: int = BINS,
    refine: Ranges = (),
    label_threshold: float | None = None,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Points of the precision-recall curve, and their thresholds.

    ``precision(t) = TP / (TP + FP)``, ``recall(t) = TP / positives``, in the terms of
    `recmetrics_jax.recall_at_precision`, at ``K`` thresholds t from the highest down: the highest
    lowest score of a bin of which recall is at least ``i / K``, for i from 1 to K. Recall rises, up
    to 1; precision need not fall. Points are not interpolated: they are those of the scores, as
    float32, and of scikit-learn's ``precision_recall_curve`` at these thresholds, which adds a
    point of recall 0 and precision 1.

    Bins are those of `recmetrics_jax.binned_auc`, whose histogram it shares in a collection. Out of
    the domain, so NaN: a label outside of [0, 1], and a weight below 0.

    Source: Boyd, Eng and Page, Area under the Precision-Recall Curve: Point Estimates and
    Confidence Intervals, ECML PKDD 2013, section 2.

    Args:
        points: how many points, ``K``.
        bins: number of bins, a power of two.
        refine: ranges of scores where bins are cut; `recmetrics_jax.binned_auc` says more.
        label_threshold: labels from here on are positive, others negative; None takes them as they
            are, in [0, 1].
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.binned_auc` says more.
        undefined: precision and recall where positives have no weight. Thresholds are NaN then.

    Returns:
        A `Metric` with ``lifetime_pr_curve_precision``, ``lifetime_pr_curve_recall`` and
        ``lifetime_pr_curve_thresholds`` and, with a window, the same of ``window_``, each
        ``float[T, K]``.

    Raises:
        ValueError: as `recmetrics_jax.roc_curve`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.pr_curve(points=2)
    >>> batch = rm.make_batch([0.75, 0.5, 0.375, 0.25], [1, 0, 1, 0])
    >>> values = metric.compute(metric.update(metric.init(), batch))
    >>> {name: [round(x, 4) for x in value[0].tolist()] for name, value in values.items()}
    {'lifetime_pr_curve_precision': [1.0, 0.6667], 'lifetime_pr_curve_recall': [0.5, 1.0],
    'lifetime_pr_curve_thresholds': [0.75, 0.375]}
    """
    return histogram_metric(
        functools.partial(pr_values, points=whole("points", points, 2, MOST_POINTS)),
        bins=bins,
        refine=refine,
        label_threshold=label_threshold,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined={"pr_curve_precision": undefined, "pr_curve_recall": undefined},
    )
