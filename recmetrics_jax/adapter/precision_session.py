"""Precision at the top of sessions; the class API of torchrec.metrics.precision_session."""

from typing import Any

from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import reference_sessions
from recmetrics_jax.adapter._of_sessions import SessionComputation, SessionMetric, options_of
from recmetrics_jax.adapter._of_sessions import ranking_within_session as ranking_within_session
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_config import SessionMetricDef
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace

NUM_TRUE_POS = "num_true_pos"
NUM_FALSE_POS = "num_false_pos"


def _precision_session(*, session_metric_def: SessionMetricDef, **options: Any) -> Metric:
    return reference_sessions.session_precision(options_of(session_metric_def), **options)


class PrecisionSessionMetricComputation(SessionComputation):
    """The states of precision at the top of sessions, ``float64[n_tasks]`` each.

    ``num_true_pos`` is the weight of the positive examples in the top, ``num_false_pos`` of those
    there that are negative.

    Args:
        session_metric_def: as of `recall_session.RecallSessionMetricComputation`.

    Raises:
        ValueError: if the sessions have no name, or the ranks no number.
    """

    _factory = staticmethod(_precision_session)

    def get_precision_states(
        self, labels: Tensor, predictions: Tensor, weights: Tensor, session: Tensor
    ) -> dict[str, Tensor]:
        """What a batch adds to the states.

        Args:
            labels: ``[n_tasks, N]``.
            predictions: ``[n_tasks, N]``.
            weights: ``[n_tasks, N]``.
            session: ``[n_tasks, N]`` or ``[N]``.

        Returns:
            ``num_true_pos`` and ``num_false_pos``, ``float64[n_tasks]`` each.
        """
        terms = reference_sessions.session_precision_terms(options_of(self._session_metric_def))
        return self.states_of(terms._asdict(), labels, predictions, weights, session)


class PrecisionSessionMetric(SessionMetric):
    """Precision at the top of sessions: ``lifetime_precision_session_level``, and of the window.

    It is ``TP / (TP + FP)``, the weight of the positive examples in the top of their session, of
    all that are in the top; NaN where none are. What is in the top, and what is refused, is as in
    `recall_session.RecallSessionMetric`.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import RecTaskInfo
    >>> task = RecTaskInfo("a", session_metric_def=SessionMetricDef("user", top_threshold=1))
    >>> metric = PrecisionSessionMetric(world_size=1, my_rank=0, batch_size=4, tasks=[task])
    >>> metric.update(
    ...     predictions={"a": np.array([0.9, 0.1, 0.2, 0.3])},
    ...     labels={"a": np.array([1.0, 0.0, 1.0, 0.0])},
    ...     weights={"a": np.array([3.0, 1.0, 1.0, 1.0])},
    ...     required_inputs={"user": np.array([7, 7, 8, 8])},
    ... )
    >>> metric.compute()["precision_session_level-a|lifetime_precision_session_level"].item()
    0.75
    """

    _namespace = MetricNamespace.PRECISION_SESSION_LEVEL
    _computation_class = PrecisionSessionMetricComputation
    _level = "precision"
