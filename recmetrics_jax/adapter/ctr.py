"""Click-through rate; the class API of torchrec.metrics.ctr."""

from typing import Any

from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import rates
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import apply_to_sums, term_sums
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.rec_metric import RecMetric

CTR_NUM = "ctr_num"
CTR_DENOM = "ctr_denom"


def compute_ctr(ctr_num: Tensor, ctr_denom: Tensor) -> Tensor:
    """Click-through rate: the weighted mean of the labels.

    Args:
        ctr_num: sum of ``w y``, ``[n_tasks]``.
        ctr_denom: sum of ``w``, ``[n_tasks]``.

    Returns:
        ``float64[n_tasks]``: their ratio, 0 without weight.

    >>> import numpy as np
    >>> compute_ctr(np.array([1.0, 1.0]), np.array([2.0, 0.0])).tolist()
    [0.5, 0.0]
    """
    return apply_to_sums(
        rates.ctr_values,
        "ctr",
        rates.CTRSums,
        undefined=0.0,
        ctr_num=ctr_num,
        ctr_denom=ctr_denom,
    )


def get_ctr_states(labels: Tensor, predictions: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """What a batch adds to the states of CTR.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``.

    Returns:
        ``ctr_num``, the sum of ``w y``, and ``ctr_denom``, that of ``w``, each ``[n_tasks]``.
    """
    return term_sums(rates.ctr_terms._asdict(), labels, predictions, weights)


def _ctr(**options: Any) -> Metric:
    return rates.ctr(undefined=0.0, **options)


class CTRMetricComputation(DeclaredComputation):
    """The states of CTR; see `recmetrics_jax.ctr`."""

    _factory = staticmethod(_ctr)


class CTRMetric(RecMetric):
    """Click-through rate of each task, ``lifetime_ctr`` and ``window_ctr``.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = CTRMetric(world_size=1, my_rank=0, batch_size=2, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.5, 0.25])},
    ...     labels={"DefaultTask": np.array([1.0, 0.0])},
    ...     weights=None,
    ... )
    >>> round(metric.compute()["ctr-DefaultTask|lifetime_ctr"].item(), 6)
    0.5
    """

    _namespace = MetricNamespace.CTR
    _computation_class = CTRMetricComputation
