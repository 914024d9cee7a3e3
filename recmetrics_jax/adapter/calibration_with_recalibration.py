"""Recalibrated calibration; the class API of torchrec.metrics.calibration_with_recalibration."""

from typing import Any

from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import rates
from recmetrics_jax._src.metrics.reference_entropy import recalibrated_term
from recmetrics_jax.adapter.calibration import CALIBRATION_DENOM as CALIBRATION_DENOM
from recmetrics_jax.adapter.calibration import CALIBRATION_NUM as CALIBRATION_NUM
from recmetrics_jax.adapter.calibration import CalibrationMetricComputation, calibration_of_terms
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.rec_metric import RecMetric


def _recalibrated_calibration(*, recalibration_coefficient: float = 1.0, **options: Any) -> Metric:
    terms = rates.calibration_terms
    of_recalibrated = recalibrated_term(terms.calibration_num, float(recalibration_coefficient))
    return calibration_of_terms(terms._replace(calibration_num=of_recalibrated), **options)


class RecalibratedCalibrationMetricComputation(CalibrationMetricComputation):
    """The states of calibration of recalibrated predictions, by the names of calibration's.

    Args:
        recalibration_coefficient: ``c``, what odds are multiplied by: ``p`` becomes
            ``p / (p + (1 - p) / c)``. Of a model that was trained on a part of the negatives, that
            part.
    """

    _factory = staticmethod(_recalibrated_calibration)


class RecalibratedCalibrationMetric(RecMetric):
    """Calibration of recalibrated predictions, ``lifetime_calibration``, ``window_calibration``.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> tasks, options = [DefaultTaskInfo], {"recalibration_coefficient": 1 / 3}
    >>> metric = RecalibratedCalibrationMetric(1, 0, batch_size=4, tasks=tasks, **options)
    >>> half = {"DefaultTask": np.full(4, 0.5)}  # which is a quarter, recalibrated
    >>> metric.update(predictions=half, labels={"DefaultTask": np.eye(4)[0]}, weights=None)
    >>> values = metric.compute()
    >>> round(values["recalibrated_calibration-DefaultTask|lifetime_calibration"].item(), 6)
    1.0
    """

    _namespace = MetricNamespace.RECALIBRATED_CALIBRATION
    _computation_class = RecalibratedCalibrationMetricComputation
