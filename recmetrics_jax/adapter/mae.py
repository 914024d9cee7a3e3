"""Mean absolute error; the class API of torchrec.metrics.mae."""

from typing import Any

from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import regression
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import apply_to_sums, term_sums
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.rec_metric import RecMetric

ERROR_SUM = "error_sum"
WEIGHTED_NUM_SAMPLES = "weighted_num_samples"


def compute_mae(error_sum: Tensor, weighted_num_samples: Tensor) -> Tensor:
    """Mean absolute error: the sum of errors over that of weights.

    Args:
        error_sum: the weighted sum of errors, ``[n_tasks]``.
        weighted_num_samples: the sum of weights, ``[n_tasks]``.

    Returns:
        ``float64[n_tasks]``; 0 without weight.

    >>> import numpy as np
    >>> compute_mae(np.array([1.0, 1.0]), np.array([4.0, 0.0])).tolist()
    [0.25, 0.0]
    """
    return apply_to_sums(
        regression.mae_values,
        "mae",
        regression.ErrorSums,
        undefined=0.0,
        error_sum=error_sum,
        weighted_num_samples=weighted_num_samples,
    )


def compute_error_sum(labels: Tensor, predictions: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of absolute errors.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``.

    Returns:
        ``float64[n_tasks]``: the sum of ``w |y - p|``.
    """
    terms = {ERROR_SUM: regression.mae_terms.error_sum}
    return term_sums(terms, labels, predictions, weights, in_float64=[ERROR_SUM])[ERROR_SUM]


def get_mae_states(labels: Tensor, predictions: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """What a batch adds to the states of MAE.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``.

    Returns:
        ``error_sum``, in float64, and ``weighted_num_samples``, each ``[n_tasks]``.
    """
    terms = regression.mae_terms._asdict()
    return term_sums(terms, labels, predictions, weights, in_float64=[ERROR_SUM])


def _mae(**options: Any) -> Metric:
    return regression.mae(undefined=0.0, **options)


class MAEMetricComputation(DeclaredComputation):
    """The states of MAE; see `recmetrics_jax.mae`."""

    _factory = staticmethod(_mae)


class MAEMetric(RecMetric):
    """Mean absolute error of each task, ``lifetime_mae`` and ``window_mae``.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = MAEMetric(world_size=1, my_rank=0, batch_size=2, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.5, 0.25])},
    ...     labels={"DefaultTask": np.array([1.0, 0.0])},
    ...     weights=None,
    ... )
    >>> round(metric.compute()["mae-DefaultTask|lifetime_mae"].item(), 6)
    0.375
    """

    _namespace = MetricNamespace.MAE
    _computation_class = MAEMetricComputation
