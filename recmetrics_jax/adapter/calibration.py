"""Calibration; the class API of torchrec.metrics.calibration."""

import functools
from typing import Any

from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import rates
from recmetrics_jax._src.terms import Term
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import apply_to_sums, term_sums
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.rec_metric import RecMetric

CALIBRATION_NUM = "calibration_num"
CALIBRATION_DENOM = "calibration_denom"


_values = functools.partial(rates.calibration_values, of_positive=True)


def compute_calibration(calibration_num: Tensor, calibration_denom: Tensor) -> Tensor:
    """Calibration: what was predicted over what happened.

    Args:
        calibration_num: sum of ``w p``, ``[n_tasks]``.
        calibration_denom: sum of ``w y``, ``[n_tasks]``.

    Returns:
        ``float64[n_tasks]``: their ratio, 0 where the second is not above 0.

    >>> import numpy as np
    >>> compute_calibration(np.array([3.0, 1.0]), np.array([2.0, 0.0])).tolist()
    [1.5, 0.0]
    """
    return apply_to_sums(
        _values,
        "calibration",
        rates.CalibrationSums,
        undefined=0.0,
        calibration_num=calibration_num,
        calibration_denom=calibration_denom,
    )


def get_calibration_states(
    labels: Tensor, predictions: Tensor, weights: Tensor
) -> dict[str, Tensor]:
    """What a batch adds to the states of calibration.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``.

    Returns:
        ``calibration_num``, the sum of ``w p``, and ``calibration_denom``, that of ``w y``, each
        ``[n_tasks]``.
    """
    return term_sums(rates.calibration_terms._asdict(), labels, predictions, weights)


def calibration_of_terms(terms: rates.CalibrationSums[Term], **options: Any) -> Metric:
    """The metric of the sums of some terms, with the value of calibration."""
    return sum_metric(terms, _values, undefined=0.0, **options)


def _calibration(**options: Any) -> Metric:
    return calibration_of_terms(rates.calibration_terms, **options)


class CalibrationMetricComputation(DeclaredComputation):
    """The states of calibration; see `recmetrics_jax.calibration`."""

    _factory = staticmethod(_calibration)


class CalibrationMetric(RecMetric):
    """Calibration of each task, ``lifetime_calibration`` and ``window_calibration``.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = CalibrationMetric(world_size=1, my_rank=0, batch_size=2, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.5, 0.25])},
    ...     labels={"DefaultTask": np.array([1.0, 0.0])},
    ...     weights=None,
    ... )
    >>> round(metric.compute()["calibration-DefaultTask|lifetime_calibration"].item(), 6)
    0.75
    """

    _namespace = MetricNamespace.CALIBRATION
    _computation_class = CalibrationMetricComputation
