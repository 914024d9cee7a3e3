"""Recalibrated normalized entropy; the class API of torchrec.metrics.ne_with_recalibration."""

from typing import Any

from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import entropy
from recmetrics_jax._src.metrics.reference_entropy import recalibrated_term
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.ne import NEMetricComputation, ne_of_terms
from recmetrics_jax.adapter.rec_metric import RecMetric


def _recalibrated_ne(
    *,
    include_logloss: bool = False,
    allow_missing_label_with_zero_weight: bool = False,
    recalibration_coefficient: float = 1.0,
    **options: Any,
) -> Metric:
    terms = entropy.ne_terms
    of_recalibrated = recalibrated_term(terms.cross_entropy_sum, float(recalibration_coefficient))
    return ne_of_terms(
        terms._replace(cross_entropy_sum=of_recalibrated),
        include_logloss=include_logloss,
        allow_missing_label_with_zero_weight=allow_missing_label_with_zero_weight,
        **options,
    )


class RecalibratedNEMetricComputation(NEMetricComputation):
    """The states of NE of recalibrated predictions, by the names that those of NE have.

    Args:
        include_logloss: also report logloss.
        allow_missing_label_with_zero_weight: report ``eta`` for tasks without weight; else NaN.
        recalibration_coefficient: ``c``, what odds are multiplied by: ``p`` becomes
            ``p / (p + (1 - p) / c)``. Of a model that was trained on a part of the negatives, that
            part.
    """

    _factory = staticmethod(_recalibrated_ne)


class RecalibratedNEMetric(RecMetric):
    """Normalized entropy of recalibrated predictions: ``lifetime_ne``, ``window_ne``.

    With ``include_logloss``, also ``lifetime_logloss`` and ``window_logloss``.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> tasks, options = [DefaultTaskInfo], {"recalibration_coefficient": 1 / 3}
    >>> metric = RecalibratedNEMetric(1, 0, batch_size=4, tasks=tasks, **options)
    >>> half = {"DefaultTask": np.full(4, 0.5)}  # which is a quarter, recalibrated
    >>> metric.update(predictions=half, labels={"DefaultTask": np.eye(4)[0]}, weights=None)
    >>> round(metric.compute()["recalibrated_ne-DefaultTask|lifetime_ne"].item(), 6)
    1.0
    """

    _namespace = MetricNamespace.RECALIBRATED_NE
    _computation_class = RecalibratedNEMetricComputation
