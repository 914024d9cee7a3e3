"""Whatever is given as the label; the class API of torchrec.metrics.scalar."""

from collections.abc import Mapping

import jax

from recmetrics_jax._src.base import Values
from recmetrics_jax._src.build import collection, sum_metric
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics.reference_sums import BATCHES, MEAN_LABEL
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax.adapter._declaration import StateOptions
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.rec_metric import RecMetric

_TERMS = {"labels": MEAN_LABEL, "window_count": BATCHES}


def _scalar(*, n_tasks: int = 1, window: int | None = None) -> Metric:
    # The values of the lifetime are those of the second, which is undefined only before any batch.
    return collection(
        {
            "window": sum_metric(_TERMS, _values, n_tasks=n_tasks, window=window),
            "lifetime": sum_metric(_TERMS, _values, n_tasks=n_tasks, undefined=0.0),
        }
    )


def _values(sums: Mapping[str, jax.Array]) -> Values:
    return {"scalar": safe_divide(sums["labels"], sums["window_count"])}


class ScalarMetricComputation(DeclaredComputation):
    """The mean label of the latest batch, and the means of those in the window.

    Of ranks, states are the means, and values those of the ranks that have had a batch.
    """

    _factory = staticmethod(_scalar)
    _requires_predictions = False
    _requires_weights = False

    def _state_options(self, name: str) -> StateOptions:
        return StateOptions(persistent=False, reduction="mean", is_latest=True)


class ScalarMetric(RecMetric):
    """Labels by task: the mean of the latest batch, and that of the means of the window's batches.

    ``lifetime_scalar`` and ``window_scalar``. Weights do not count.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = ScalarMetric(world_size=1, my_rank=0, batch_size=2, tasks=[DefaultTaskInfo])
    >>> for labels in ([1.0, 3.0], [4.0, 8.0]):
    ...     arrays = {"DefaultTask": np.array(labels)}
    ...     metric.update(predictions=arrays, labels=arrays, weights=None)
    >>> {key.split("|")[1]: value.item() for key, value in metric.compute().items()}
    {'lifetime_scalar': 6.0, 'window_scalar': 4.0}
    """

    _namespace = MetricNamespace.SCALAR
    _computation_class = ScalarMetricComputation
