"""Mean squared error, its root, and R squared; the class API of torchrec.metrics.mse."""

import functools
from typing import Any

import jax

from recmetrics_jax._src.base import Values
from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import reference_sums, regression
from recmetrics_jax.adapter._declaration import StateOptions
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import apply_to_sums, term_sums
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricName, MetricNamespace, MetricPrefix
from recmetrics_jax.adapter.rec_metric import RecMetric

ERROR_SUM = "error_sum"
WEIGHTED_NUM_SAMPLES = "weighted_num_samples"
LABEL_SUM = "label_sum"
LABEL_SQUARED_SUM = "label_squared_sum"

# Its states are float64, of labels in float64.
_r_squared_values = functools.partial(regression.r_squared_values, of_constant=1.0, cancelled=1e-12)


def compute_mse(error_sum: Tensor, weighted_num_samples: Tensor) -> Tensor:
    """Mean squared error: the sum of errors over that of weights.

    Args:
        error_sum: the weighted sum of errors, ``[n_tasks]``.
        weighted_num_samples: the sum of weights, ``[n_tasks]``.

    Returns:
        ``float64[n_tasks]``; 0 without weight.

    >>> import numpy as np
    >>> compute_mse(np.array([1.0, 1.0]), np.array([4.0, 0.0])).tolist()
    [0.25, 0.0]
    """
    return apply_to_sums(
        regression.mse_values,
        "mse",
        regression.ErrorSums,
        undefined=0.0,
        error_sum=error_sum,
        weighted_num_samples=weighted_num_samples,
    )


def compute_rmse(error_sum: Tensor, weighted_num_samples: Tensor) -> Tensor:
    """The root of the mean squared error.

    Args:
        error_sum: the weighted sum of errors, ``[n_tasks]``.
        weighted_num_samples: the sum of weights, ``[n_tasks]``.

    Returns:
        ``float64[n_tasks]``; 0 without weight.

    >>> import numpy as np
    >>> compute_rmse(np.array([1.0, 1.0]), np.array([4.0, 0.0])).tolist()
    [0.5, 0.0]
    """
    return apply_to_sums(
        regression.mse_values,
        "rmse",
        regression.ErrorSums,
        undefined=0.0,
        error_sum=error_sum,
        weighted_num_samples=weighted_num_samples,
    )


def compute_r_squared(
    error_sum: Tensor,
    weighted_num_samples: Tensor,
    label_sum: Tensor,
    label_squared_sum: Tensor,
) -> Tensor:
    """R squared: one minus the squared errors over those of always predicting the mean label.

    Args:
        error_sum: the weighted sum of squared errors, ``[n_tasks]``.
        weighted_num_samples: the sum of weights, ``[n_tasks]``.
        label_sum: the sum of ``w y``, ``[n_tasks]``.
        label_squared_sum: the sum of ``w y^2``, ``[n_tasks]``.

    Returns:
        ``float64[n_tasks]``; 1 where labels are constant, up to rounding, and NaN without weight.
    """
    return apply_to_sums(
        _r_squared_values,
        "r_squared",
        regression.RSquaredSums,
        error_sum=error_sum,
        weighted_num_samples=weighted_num_samples,
        label_sum=label_sum,
        label_squared_sum=label_squared_sum,
    )


def compute_error_sum(labels: Tensor, predictions: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of squared errors.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``.

    Returns:
        ``float64[n_tasks]``: the sum of ``w (y - p)^2``.
    """
    terms = {ERROR_SUM: regression.mse_terms.error_sum}
    return term_sums(terms, labels, predictions, weights, in_float64=[ERROR_SUM])[ERROR_SUM]


def get_mse_states(labels: Tensor, predictions: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """What a batch adds to the states of MSE and R squared.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``.

    Returns:
        ``error_sum``, in float64, ``weighted_num_samples``, ``label_sum`` and
        ``label_squared_sum``, each ``[n_tasks]``.
    """
    terms = regression.r_squared_terms._asdict()
    return term_sums(terms, labels, predictions, weights, in_float64=[ERROR_SUM])


def _mse(*, include_r_squared: bool = False, **options: Any) -> Metric:
    undefined = {"mse": 0.0, "rmse": 0.0}  # R squared is NaN without weight.
    values = _all_values if include_r_squared else regression.mse_values
    return sum_metric(reference_sums.R_SQUARED_TERMS, values, undefined=undefined, **options)


def _all_values(sums: regression.RSquaredSums[jax.Array]) -> Values:
    return {**regression.mse_values(sums), **_r_squared_values(sums)}


class MSEMetricComputation(DeclaredComputation):
    """The states of MSE and of R squared; see `recmetrics_jax.mse`.

    Args:
        include_r_squared: also report R squared, and save the states that only it reads.
    """

    _factory = staticmethod(_mse)
    _reported = (
        (MetricPrefix.LIFETIME, MetricName.MSE),
        (MetricPrefix.LIFETIME, MetricName.RMSE),
        (MetricPrefix.WINDOW, MetricName.MSE),
        (MetricPrefix.WINDOW, MetricName.RMSE),
        (MetricPrefix.LIFETIME, MetricName.R_SQUARED),
        (MetricPrefix.WINDOW, MetricName.R_SQUARED),
    )
    _include_r_squared: bool

    def _state_options(self, name: str) -> StateOptions:
        of_labels = name in (LABEL_SUM, LABEL_SQUARED_SUM)
        return StateOptions(persistent=self._include_r_squared or not of_labels)


class MSEMetric(RecMetric):
    """Mean squared error of each task, ``lifetime_mse``, ``lifetime_rmse``, and of the window.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = MSEMetric(world_size=1, my_rank=0, batch_size=2, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.5, 0.5])},
    ...     labels={"DefaultTask": np.array([1.0, 0.0])},
    ...     weights=None,
    ... )
    >>> round(metric.compute()["mse-DefaultTask|lifetime_rmse"].item(), 6)
    0.5
    """

    _namespace = MetricNamespace.MSE
    _computation_class = MSEMetricComputation
