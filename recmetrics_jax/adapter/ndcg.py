"""Normalized discounted cumulative gain by session; the class API of torchrec.metrics.ndcg."""

from typing import Any

from recmetrics_jax._src.metrics import reference_ranking
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter.metrics_config import RecTaskInfo
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.rec_metric import RecMetric

SUM_NDCG = "sum_ndcg"
NUM_SESSIONS = "num_sessions"
REQUIRED_INPUTS = "required_inputs"
SESSION_KEY = "session_id"


class NDCGComputation(DeclaredComputation):
    """The states of NDCG; NDCG as the reference has it.

    Args:
        exponential_gain: the gain is ``2^y - 1`` in place of ``y``.
        session_key: the name of the sessions in ``required_inputs``.
        k: the number of ranks that count; -1 for all.
        report_ndcg_as_decreasing_curve: report what is missing to 1.
        remove_single_length_sessions: leave out sessions of one example.
        scale_by_weights_tensor: weights multiply predictions and labels, in place of sessions.
        is_negative_task_mask: for each task, whether ``1 - p`` and ``1 - y`` are ranked.
    """

    _factory = staticmethod(reference_ranking.reference_ndcg)


class NDCGMetric(RecMetric):
    """NDCG of each task, ``lifetime_ndcg`` and ``window_ndcg``; 1 - NDCG unless told otherwise.

    ``update`` takes ``required_inputs={"session_id": ...}``, the session of each example.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = NDCGMetric(1, 0, 2, [DefaultTaskInfo], report_ndcg_as_decreasing_curve=False)
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.9, 0.1])},
    ...     labels={"DefaultTask": np.array([0.0, 1.0])},
    ...     weights=None,
    ...     required_inputs={"session_id": np.array([7, 7])},
    ... )
    >>> round(metric.compute()["ndcg-DefaultTask|lifetime_ndcg"].item(), 6)  # 1 / log2(3)
    0.63093
    """

    _namespace = MetricNamespace.NDCG
    _computation_class = NDCGComputation

    def _get_task_kwargs(self, task_config: RecTaskInfo | list[RecTaskInfo]) -> dict[str, Any]:
        tasks = task_config if isinstance(task_config, list) else [task_config]
        return {"is_negative_task_mask": [task.is_negative_task for task in tasks]}
