"""Normalized mean squared error, and its root; the class API of torchrec.metrics.nmse."""

from typing import Any

from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import reference_sums, relative
from recmetrics_jax.adapter._functions import apply_to_sums, term_sums
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricName, MetricNamespace, MetricPrefix
from recmetrics_jax.adapter.mse import ERROR_SUM as ERROR_SUM
from recmetrics_jax.adapter.mse import WEIGHTED_NUM_SAMPLES as WEIGHTED_NUM_SAMPLES
from recmetrics_jax.adapter.mse import MSEMetricComputation
from recmetrics_jax.adapter.mse import compute_error_sum as compute_error_sum
from recmetrics_jax.adapter.mse import compute_mse as compute_mse
from recmetrics_jax.adapter.mse import compute_rmse as compute_rmse
from recmetrics_jax.adapter.mse import get_mse_states as get_mse_states
from recmetrics_jax.adapter.rec_metric import RecMetric

CONST_PRED_ERROR_SUM = "const_pred_error_sum"


def compute_norm(model_error_sum: Tensor, baseline_error_sum: Tensor) -> Tensor:
    """Errors over those of the baseline.

    Args:
        model_error_sum: errors of the predictions, ``[n_tasks]``.
        baseline_error_sum: errors of always predicting the same, ``[n_tasks]``.

    Returns:
        ``float64[n_tasks]``; 0 where the baseline has none.

    >>> import numpy as np
    >>> compute_norm(np.array([1.0, 1.0]), np.array([4.0, 0.0])).tolist()
    [0.25, 0.0]
    """
    return apply_to_sums(
        relative.nmse_values,
        "nmse",
        relative.NMSESums,
        undefined=0.0,
        error_sum=model_error_sum,
        const_pred_error_sum=baseline_error_sum,
    )


def get_norm_mse_states(labels: Tensor, predictions: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """What a batch adds to the states of normalized MSE.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``.

    Returns:
        What `get_mse_states` gives, and ``const_pred_error_sum``, the sum of ``w (y - 1)^2`` in
        float64, each ``[n_tasks]``.
    """
    terms = reference_sums.NMSE_TERMS._asdict()
    in_float64 = [ERROR_SUM, CONST_PRED_ERROR_SUM]
    return term_sums(terms, labels, predictions, weights, in_float64=in_float64)


def _nmse(*, include_r_squared: bool = False, **options: Any) -> Metric:
    terms = reference_sums.NMSE_TERMS
    return sum_metric(terms, reference_sums.nmse_values, **options)


class NMSEMetricComputation(MSEMetricComputation):
    """The states of MSE and R squared, and the squared errors of always predicting 1.

    Args:
        include_r_squared: taken, for the sake of the states that checkpoints then have.
    """

    _factory = staticmethod(_nmse)
    _reported = (
        (MetricPrefix.LIFETIME, MetricName.NMSE),
        (MetricPrefix.LIFETIME, MetricName.NRMSE),
        (MetricPrefix.WINDOW, MetricName.NMSE),
        (MetricPrefix.WINDOW, MetricName.NRMSE),
    )


class NMSEMetric(RecMetric):
    """MSE of each task over that of always predicting 1, ``lifetime_nmse``, and of the window.

    ``lifetime_nrmse`` and ``window_nrmse`` are the roots. All are 0 where 1 is always right.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = NMSEMetric(world_size=1, my_rank=0, batch_size=2, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.5, 0.5])},
    ...     labels={"DefaultTask": np.array([1.0, 0.0])},
    ...     weights=None,
    ... )
    >>> round(metric.compute()["nmse-DefaultTask|lifetime_nmse"].item(), 6)
    0.5
    """

    _namespace = MetricNamespace.NMSE
    _computation_class = NMSEMetricComputation
