"""Averages of the labels and of the predictions; the class API of torchrec.metrics.average."""

from typing import Any

from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import rates
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import apply_to_sums, term_sums
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricName, MetricNamespace, MetricPrefix
from recmetrics_jax.adapter.rec_metric import RecMetric

LABEL_SUM = "label_sum"
PREDICTION_SUM = "prediction_sum"
WEIGHTED_NUM_SAMPLES = "weighted_num_samples"


def compute_average(weighted_sum: Tensor, weighted_num_samples: Tensor) -> Tensor:
    """A weighted average.

    Args:
        weighted_sum: the weighted sum, ``[n_tasks]``.
        weighted_num_samples: the sum of weights, ``[n_tasks]``.

    Returns:
        ``float64[n_tasks]``; 0 without weight.

    >>> import numpy as np
    >>> compute_average(np.array([1.0, 1.0]), np.array([4.0, 0.0])).tolist()
    [0.25, 0.0]
    """
    return apply_to_sums(
        rates.weighted_avg_values,
        "weighted_avg",
        rates.WeightedAvgSums,
        undefined=0.0,
        weighted_sum=weighted_sum,
        weighted_num_samples=weighted_num_samples,
    )


def get_average_states(labels: Tensor, predictions: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """What a batch adds to the states of the averages.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``.

    Returns:
        ``label_sum``, ``prediction_sum`` and ``weighted_num_samples``, each ``[n_tasks]``.
    """
    return term_sums(rates.average_terms._asdict(), labels, predictions, weights)


def _average(**options: Any) -> Metric:
    return rates.average(undefined=0.0, **options)


class AverageMetricComputation(DeclaredComputation):
    """The states of the averages; see `recmetrics_jax.average`."""

    _factory = staticmethod(_average)
    _reported = (
        (MetricPrefix.LIFETIME, MetricName.LABEL_AVERAGE),
        (MetricPrefix.LIFETIME, MetricName.PREDICTION_AVERAGE),
        (MetricPrefix.WINDOW, MetricName.LABEL_AVERAGE),
        (MetricPrefix.WINDOW, MetricName.PREDICTION_AVERAGE),
    )


class AverageMetric(RecMetric):
    """Weighted mean label and prediction by task, of the lifetime and of the window.

    ``lifetime_label_average``, ``lifetime_prediction_average``, ``window_label_average`` and
    ``window_prediction_average``; 0 without weight.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = AverageMetric(world_size=1, my_rank=0, batch_size=2, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.5, 0.25])},
    ...     labels={"DefaultTask": np.array([1.0, 0.0])},
    ...     weights={"DefaultTask": np.array([3.0, 1.0])},
    ... )
    >>> [value.item() for value in metric.compute().values()][:2]
    [0.75, 0.4375]
    """

    _namespace = MetricNamespace.AVERAGE
    _computation_class = AverageMetricComputation
