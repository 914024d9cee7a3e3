"""Areas under curves, exact over a window of examples: AUC and AUPRC, and by group."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from recmetrics_jax._src import curves, segments
from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import sample_metric
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics._groups import Average, group_values, grouping, keys_of
from recmetrics_jax._src.options import optional_threshold
from recmetrics_jax._src.terms import NEGATIVE_WEIGHTS, NO_CLASSES


def weights_of_classes(
    batch: Batch, label_threshold: float | None = None
) -> tuple[jax.Array, jax.Array]:
    """``w y`` and ``w (1 - y)``, ``float64[T, N]``; labels cut at a threshold if there is one."""
    with jax.enable_x64(True):
        labels, weights = (x.astype(jnp.float64) for x in (batch.labels, batch.weights))
        if label_threshold is not None:
            labels = (batch.labels >= label_threshold).astype(jnp.float64)
        return weights * labels, weights * (1 - labels)


def area_values(
    batch: Batch,
    *,
    name: str,
    area: Callable[[curves.Curve], jax.Array],
    label_threshold: float | None,
    grouping_key: str | None,
    average: Average,
    undefined_groups: float | None,
) -> Values:
    """An area over all examples of a window, with a ``grouping_key`` its average over groups."""
    positives, negatives = weights_of_classes(batch, label_threshold)
    total = area(curves.curve(batch.predictions, positives, negatives))[:, -1]
    values = {name: total}
    if grouping_key is not None:
        points = curves.curve(batch.predictions, positives, negatives, batch.key(grouping_key))
        assert points.is_first is not None  # There are groups.
        values |= group_values(
            name,
            area(points),
            points.order,
            points.is_first,
            batch,
            average=average,
            undefined_groups=undefined_groups,
        )
    return values


def area_by_segment(
    batch: Batch,
    segment: jax.Array,
    count: int,
    *,
    name: str,
    area: Callable[[curves.Curve], jax.Array],
    label_threshold: float | None,
) -> Values:
    """An area of each segment of a window, ``float64[T, G]``, by one sort."""
    classes = weights_of_classes(batch, label_threshold)
    points = curves.curve(batch.predictions, *classes, (segment,))
    assert points.is_first is not None  # There are groups.
    with jax.enable_x64(True):
        place = segments.take(segment, points.order)
        place = jnp.where(segments.is_last(points.is_first), place, jnp.int32(count))
        tasks = jnp.arange(len(segment))[:, None]
        areas = jnp.full((len(segment), count), jnp.nan)
        return {name: areas.at[tasks, place].set(area(points), mode="drop")}


def _area_metric(
    name: str,
    area: Callable[[curves.Curve], jax.Array],
    *,
    window: int,
    grouped: bool,
    grouping_key: str,
    average: Average,
    undefined_groups: float | None,
    shards: int,
    n_tasks: int,
    undefined: float,
    label_threshold: float | None,
) -> Metric:
    options = grouping(
        grouped=grouped,
        grouping_key=grouping_key,
        average=average,
        undefined_groups=undefined_groups,
    )
    label_threshold = optional_threshold("label_threshold", label_threshold)
    values = functools.partial(
        area_values, name=name, area=area, label_threshold=label_threshold, **options
    )
    by_segment = functools.partial(
        area_by_segment, name=name, area=area, label_threshold=label_threshold
    )
    return sample_metric(
        values,
        n_tasks=n_tasks,
        window=window,
        shards=shards,
        keys=keys_of(options),
        excludes=NO_CLASSES if label_threshold is None else NEGATIVE_WEIGHTS,
        by_order=True,
        resampled_by=None if grouped else "weights",
        by_segment=None if grouped else by_segment,
        undefined=undefined,
    )


@factory
def auc(
    *,
    window: int,
    grouped: bool = False,
    grouping_key: str = "grouping_keys",
    average: Average = "equal",
    undefined_groups: float | None = None,
    label_threshold: float | None = None,
    shards: int = 1,
    n_tasks: int = 1,
    undefined: float = math.nan,
) -> Metric:
    """Area under the ROC curve of the newest examples, exact; by user, session or item if grouped.

    ``auc = sum(w+ w- ([p+ > p-] + [p+ = p-] / 2)) / sum(w+ w-)``, over all pairs of a positive and
    a negative: ties count half, and neither the order of rows nor the scale of scores matters. A
    soft label y counts as a positive of weight w y and a negative of weight w (1 - y). A score of
    -inf is the lowest. Out of the domain, so NaN: a label outside of [0, 1], and a weight below 0.

    Source: Hanley and McNeil, The Meaning and Use of the Area under a Receiver Operating
    Characteristic (ROC) Curve, Radiology 143(1), 1982. Grouped: Zhu et al., Optimized Cost per
    Click in Taobao Display Advertising, KDD 2017, section 5 (GAUC).

    Args:
        window: examples in the window, by task; exact.
        grouped: also give the average of the AUC of groups.
        grouping_key: the name of the groups among the ``keys`` of `recmetrics_jax.make_batch`.
        average: what a group counts in it: ``"equal"`` 1, ``"impressions"`` its number of examples,
            ``"weight"`` their weight.
        undefined_groups: the AUC of a group without both classes; None leaves such groups out.
        label_threshold: labels from here on are positive, others negative; None takes them as
            they are, in [0, 1]. The reference's ``apply_bin`` is 0.039.
        shards: how many states share the window; `recmetrics_jax.sample_metric` says more.
        n_tasks: number of tasks ``T``.
        undefined: the value where a class has no weight, or no group has a value.

    Returns:
        A `Metric` with ``window_auc`` and, if grouped, ``window_grouped_auc``,
        ``window_grouped_auc_groups``, the number of groups averaged, and
        ``window_grouped_auc_undefined_groups``, of those without both classes, each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sample_metric`, and if ``average`` or ``undefined_groups`` is
            not one of the above.

    >>> import recmetrics_jax as rm
    >>> metric = rm.auc(window=100, grouped=True)
    >>> batch = rm.make_batch(
    ...     [0.9, 0.5, 0.5, 0.1, 0.7], [1, 0, 1, 0, 1], keys={"grouping_keys": [7, 7, 7, 7, 8]}
    ... )
    >>> values = metric.compute(metric.update(metric.init(), batch))
    >>> {name: round(value.item(), 4) for name, value in values.items()}
    {'window_auc': 0.9167, 'window_grouped_auc': 0.875, 'window_grouped_auc_groups': 1.0,
    'window_grouped_auc_undefined_groups': 1.0}
    """
    return _area_metric(
        "auc",
        curves.roc_area,
        window=window,
        grouped=grouped,
        grouping_key=grouping_key,
        average=average,
        undefined_groups=undefined_groups,
        shards=shards,
        n_tasks=n_tasks,
        undefined=undefined,
        label_threshold=label_threshold,
    )


@factory
def auprc(
    *,
    window: int,
    grouped: bool = False,
    grouping_key: str = "grouping_keys",
    average: Average = "equal",
    undefined_groups: float | None = None,
    label_threshold: float | None = None,
    shards: int = 1,
    n_tasks: int = 1,
    undefined: float = math.nan,
) -> Metric:
    """Area under the precision-recall curve of the newest examples, as average precision.

    ``auprc = sum over distinct scores s of (recall(s) - recall(next higher s)) precision(s)``,
    where ``precision(s) = TP / (TP + FP)`` and ``recall(s) = TP / positives`` count the examples
    that score at least s. Equal scores are one point, so the order of rows does not matter: this
    is scikit-learn's ``average_precision_score``, and torchrec's ``compute_auprc``. (Trapezoids
    between these points, the other definition in use, are optimistic: Davis and Goadrich, ICML
    2006.) A score of -inf, and what is out of the domain, are as for `recmetrics_jax.auc`.

    Source: Boyd, Eng and Page, Area under the Precision-Recall Curve: Point Estimates and
    Confidence Intervals, ECML PKDD 2013, section 3 (average precision).

    Args:
        window: examples in the window, by task; exact.
        grouped: also give the average of the AUPRC of groups.
        grouping_key: the name of the groups among the ``keys`` of `recmetrics_jax.make_batch`.
        average: what a group counts in it: ``"equal"`` 1, ``"impressions"`` its number of examples,
            ``"weight"`` their weight.
        undefined_groups: the AUPRC of a group without positives; None leaves such groups out.
        label_threshold: labels from here on are positive, others negative; None takes them as
            they are, in [0, 1].
        shards: how many states share the window; `recmetrics_jax.sample_metric` says more.
        n_tasks: number of tasks ``T``.
        undefined: the value where positives have no weight, or no group has a value.

    Returns:
        A `Metric` with ``window_auprc`` and, if grouped, ``window_grouped_auprc``,
        ``window_grouped_auprc_groups``, the number of groups averaged, and
        ``window_grouped_auprc_undefined_groups``, of those without positives, each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.auc`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.auprc(window=100)
    >>> state = metric.update(metric.init(), rm.make_batch([0.9, 0.5, 0.5, 0.1], [1, 0, 1, 0]))
    >>> round(metric.compute(state)["window_auprc"].item(), 6)
    0.833333
    """
    return _area_metric(
        "auprc",
        curves.precision_recall_area,
        window=window,
        grouped=grouped,
        grouping_key=grouping_key,
        average=average,
        undefined_groups=undefined_groups,
        shards=shards,
        n_tasks=n_tasks,
        undefined=undefined,
        label_threshold=label_threshold,
    )
