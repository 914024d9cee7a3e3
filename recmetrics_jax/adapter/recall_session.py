"""Recall at the top of sessions; the class API of torchrec.metrics.recall_session."""

from typing import Any

from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import reference_sessions
from recmetrics_jax.adapter._of_sessions import SessionComputation, SessionMetric, options_of
from recmetrics_jax.adapter._of_sessions import ranking_within_session as ranking_within_session
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_config import SessionMetricDef
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace

NUM_TRUE_POS = "num_true_pos"
NUM_FALSE_NEGATIVE = "num_false_neg"


def _recall_session(*, session_metric_def: SessionMetricDef, **options: Any) -> Metric:
    return reference_sessions.session_recall(options_of(session_metric_def), **options)


class RecallSessionMetricComputation(SessionComputation):
    """The states of recall at the top of sessions, ``float64[n_tasks]`` each.

    ``num_true_pos`` is the weight of the positive examples in the top, ``num_false_neg`` of those
    that are not.

    Args:
        session_metric_def: the name of the sessions in ``required_inputs``, ``session_var_name``;
            of how many ranks the top is, ``top_threshold``; and whether labels are positive where
            they are in the top themselves, ``run_ranking_of_labels``, or as they are.

    Raises:
        ValueError: if the sessions have no name, or the ranks no number.
    """

    _factory = staticmethod(_recall_session)

    def get_recall_states(
        self, labels: Tensor, predictions: Tensor, weights: Tensor, session: Tensor
    ) -> dict[str, Tensor]:
        """What a batch adds to the states.

        Args:
            labels: ``[n_tasks, N]``.
            predictions: ``[n_tasks, N]``.
            weights: ``[n_tasks, N]``.
            session: ``[n_tasks, N]`` or ``[N]``.

        Returns:
            ``num_true_pos`` and ``num_false_neg``, ``float64[n_tasks]`` each.
        """
        terms = reference_sessions.session_recall_terms(options_of(self._session_metric_def))
        return self.states_of(terms._asdict(), labels, predictions, weights, session)


class RecallSessionMetric(SessionMetric):
    """Recall at the top of sessions: ``lifetime_recall_session_level``, and of the window.

    It is ``TP / (TP + FN)``, the weight of the positive examples in the top of their session, of
    all that are positive; NaN where none are. An example is in the top where fewer than
    ``top_threshold`` examples of its session, and of its batch, have a larger prediction: equal
    ones share a rank. Tasks name their sessions, and are computed one by one.

    Raises:
        RecMetricException: if a task has no ``session_metric_def``, or that no ``top_threshold``;
            or if tasks, or updates, are to be fused.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import RecTaskInfo
    >>> task = RecTaskInfo("a", session_metric_def=SessionMetricDef("user", top_threshold=1))
    >>> metric = RecallSessionMetric(world_size=1, my_rank=0, batch_size=4, tasks=[task])
    >>> metric.update(
    ...     predictions={"a": np.array([0.9, 0.1, 0.2, 0.3])},
    ...     labels={"a": np.array([1.0, 0.0, 1.0, 0.0])},
    ...     weights={"a": np.array([3.0, 1.0, 1.0, 1.0])},
    ...     required_inputs={"user": np.array([7, 7, 8, 8])},
    ... )
    >>> metric.compute()["recall_session_level-a|lifetime_recall_session_level"].item()
    0.75
    """

    _namespace = MetricNamespace.RECALL_SESSION_LEVEL
    _computation_class = RecallSessionMetricComputation
    _level = "recall"
