"""Weighted average of the predictions; the class API of torchrec.metrics.weighted_avg."""

from recmetrics_jax._src.metrics import rates
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import apply_to_sums
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.rec_metric import RecMetric


def get_mean(value_sum: Tensor, num_samples: Tensor) -> Tensor:
    """A mean.

    Args:
        value_sum: sum of ``w p``, ``[n_tasks]``.
        num_samples: sum of ``w``, ``[n_tasks]``.

    Returns:
        ``[n_tasks]``, of the dtype of the sums: their ratio, NaN without weight.

    >>> import numpy as np
    >>> get_mean(np.array([1.0, 0.0]), np.array([2.0, 0.0])).tolist()
    [0.5, nan]
    """
    return apply_to_sums(
        rates.weighted_avg_values,
        "weighted_avg",
        rates.WeightedAvgSums,
        keeps_dtype=True,
        weighted_sum=value_sum,
        weighted_num_samples=num_samples,
    )


class WeightedAvgMetricComputation(DeclaredComputation):
    """The states of the weighted average; see `recmetrics_jax.weighted_avg`."""

    _factory = staticmethod(rates.weighted_avg)


class WeightedAvgMetric(RecMetric):
    """Weighted mean prediction by task, ``lifetime_weighted_avg`` and ``window_weighted_avg``.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = WeightedAvgMetric(world_size=1, my_rank=0, batch_size=2, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.5, 0.25])},
    ...     labels={"DefaultTask": np.array([1.0, 0.0])},
    ...     weights=None,
    ... )
    >>> round(metric.compute()["weighted_avg-DefaultTask|lifetime_weighted_avg"].item(), 6)
    0.375
    """

    _namespace = MetricNamespace.WEIGHTED_AVG
    _computation_class = WeightedAvgMetricComputation
