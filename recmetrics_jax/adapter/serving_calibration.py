"""Calibration, and of how many examples; the class API of torchrec.metrics.serving_calibration."""

from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import rates
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter.calibration import CALIBRATION_DENOM as CALIBRATION_DENOM
from recmetrics_jax.adapter.calibration import CALIBRATION_NUM as CALIBRATION_NUM
from recmetrics_jax.adapter.calibration import calibration_of_terms
from recmetrics_jax.adapter.metrics_namespace import MetricName, MetricNamespace, MetricPrefix
from recmetrics_jax.adapter.rec_metric import RecMetric
from recmetrics_jax.adapter.serving_ne import NUM_EXAMPLES as NUM_EXAMPLES
from recmetrics_jax.adapter.serving_ne import WHOLE_NUMBERS, with_total_examples


def _serving_calibration(*, n_tasks: int = 1, window: int | None = None) -> Metric:
    metric = calibration_of_terms(rates.calibration_terms, n_tasks=n_tasks, window=window)
    return with_total_examples(metric, n_tasks)


class ServingCalibrationMetricComputation(DeclaredComputation):
    """The states of calibration, and the number of examples that have a weight."""

    _factory = staticmethod(_serving_calibration)
    _reported = (
        (MetricPrefix.LIFETIME, MetricName.CALIBRATION),
        (MetricPrefix.WINDOW, MetricName.CALIBRATION),
        (MetricPrefix.DEFAULT, MetricName.TOTAL_EXAMPLES),
    )
    _whole_numbers = WHOLE_NUMBERS


class ServingCalibrationMetric(RecMetric):
    """Calibration by task, ``lifetime_calibration``, ``window_calibration``, ``total_examples``.

    The latter, ``int64``, are the examples of a weight other than 0, over the lifetime.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = ServingCalibrationMetric(1, 0, batch_size=4, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.5, 0.25, 0.9])},
    ...     labels={"DefaultTask": np.array([1.0, 0.0, 1.0])},
    ...     weights={"DefaultTask": np.array([1.0, 1.0, 0.0])},
    ... )
    >>> values = metric.compute()
    >>> round(values["serving_calibration-DefaultTask|lifetime_calibration"].item(), 6)
    0.75
    >>> values["serving_calibration-DefaultTask|total_examples"].item()
    2
    """

    _namespace = MetricNamespace.SERVING_CALIBRATION
    _computation_class = ServingCalibrationMetricComputation
