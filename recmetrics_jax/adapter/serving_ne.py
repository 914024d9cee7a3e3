"""Normalized entropy, and of how many examples; the class API of torchrec.metrics.serving_ne."""

from collections.abc import Mapping

import jax

from recmetrics_jax._src.base import Values
from recmetrics_jax._src.build import collection, sum_metric
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import entropy
from recmetrics_jax._src.metrics.counts import WEIGHTED_EXAMPLES
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter.metrics_namespace import MetricName, MetricNamespace, MetricPrefix
from recmetrics_jax.adapter.ne import ne_of_terms
from recmetrics_jax.adapter.rec_metric import RecMetric

NUM_EXAMPLES = "num_examples"
WHOLE_NUMBERS = (NUM_EXAMPLES, str(MetricName.TOTAL_EXAMPLES))


def with_total_examples(metric: Metric, n_tasks: int) -> Metric:
    """A metric, and over the lifetime alone how many examples have a weight other than 0."""
    total = sum_metric({NUM_EXAMPLES: WEIGHTED_EXAMPLES}, _total_examples, n_tasks=n_tasks)
    return collection({"metric": metric, "total": total})


def _total_examples(sums: Mapping[str, jax.Array]) -> Values:
    return {str(MetricName.TOTAL_EXAMPLES): sums[NUM_EXAMPLES]}


def _serving_ne(*, n_tasks: int = 1, window: int | None = None) -> Metric:
    metric = ne_of_terms(entropy.ne_terms, n_tasks=n_tasks, window=window)
    return with_total_examples(metric, n_tasks)


class ServingNEMetricComputation(DeclaredComputation):
    """The states of normalized entropy, and the number of examples that have a weight."""

    _factory = staticmethod(_serving_ne)
    _reported = (
        (MetricPrefix.LIFETIME, MetricName.NE),
        (MetricPrefix.WINDOW, MetricName.NE),
        (MetricPrefix.DEFAULT, MetricName.TOTAL_EXAMPLES),
    )
    _whole_numbers = WHOLE_NUMBERS
    eta: float = entropy.ETA


class ServingNEMetric(RecMetric):
    """Normalized entropy of each task, ``lifetime_ne`` and ``window_ne``, and ``total_examples``.

    The latter, ``int64``, are the examples of a weight other than 0, over the lifetime. A weight of
    0 does not hide a label or a prediction that is NaN.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = ServingNEMetric(world_size=1, my_rank=0, batch_size=4, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.5, 0.5, 0.9])},
    ...     labels={"DefaultTask": np.array([1.0, 0.0, 1.0])},
    ...     weights={"DefaultTask": np.array([1.0, 1.0, 0.0])},
    ... )
    >>> values = metric.compute()
    >>> round(values["serving_ne-DefaultTask|lifetime_ne"].item(), 6)
    1.0
    >>> values["serving_ne-DefaultTask|total_examples"].item()
    2
    """

    _namespace = MetricNamespace.SERVING_NE
    _computation_class = ServingNEMetricComputation
