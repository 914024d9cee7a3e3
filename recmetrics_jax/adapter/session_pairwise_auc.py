"""Pairwise AUC of sessions; the class API of session_pairwise_auc, which came after 1.9.2."""

from typing import Any

from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import reference_pairs
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import check_fused_update
from recmetrics_jax.adapter._layout import required_for, shape_of
from recmetrics_jax.adapter._module import RecMetricException, standard
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.rec_metric import RecMetric

SESSION_KEY = "session_id"


def _session_pairwise_auc(
    *,
    session_key: str = SESSION_KEY,
    score_key: str | None = None,
    pairwise_weight_key: str | None = None,
    rank_order_label: bool = False,
    remove_zero_weight_from_pair: bool = True,
    weight_pairs: bool = True,
    report_batch_coverage: bool = False,
    fused_update_limit: int = 0,
    **options: Any,
) -> Metric:
    check_fused_update("Session pairwise AUC", True, fused_update_limit)
    return reference_pairs.session_pairwise_auc(
        session_key=session_key,
        rank_order_label=rank_order_label,
        remove_zero_weight_from_pair=remove_zero_weight_from_pair,
        weight_pairs=weight_pairs,
        report_batch_coverage=report_batch_coverage,
        **options,
    )


class SessionPairwiseAUCMetricComputation(DeclaredComputation):
    """The states of pairwise AUC: the weight of the pairs in order, and of all that labels order.

    They are ``correct_pair_weight`` and ``total_pair_weight``, and are not saved. Pairs are of two
    examples of one session in one batch, with labels that differ by 1e-6 or more; equal
    predictions count half. Predictions, labels and weights are taken in float32.

    Args:
        session_key: the name of the sessions in ``required_inputs``.
        score_key: the name there of what takes the place of predictions, ``[N]`` or ``[T, N]``.
        pairwise_weight_key: the name there of what takes the place of weights, likewise.
        rank_order_label: labels are ranks, the lowest of which is the best.
        remove_zero_weight_from_pair: only pairs count whose weights have a product above 0.
        weight_pairs: a pair weighs the sum of its weights; else 1.
        report_batch_coverage: also report of the batches how many ``valid_pairs_per_batch`` and
            ``effective_examples_per_batch``, which are in such a pair, they have, and how long
            their longest session is, ``largest_group_size_per_batch``; of pairs with weight the
            ``tied_pair_rate``, those that labels do not order; of sessions, the
            ``mean_group_size``, ``singleton_session_rate``, and ``degenerate_session_rate``, those
            of two examples or more with one label.
        fused_update_limit: as in `RecMetric`.

    Raises:
        RecMetricException: if a fused update is asked for, which would join sessions.
    """

    _factory = staticmethod(_session_pairwise_auc)
    _score_key: str | None
    _pairwise_weight_key: str | None

    def _add_state(self, name: str, default: Any, add_window_state: bool, **kwargs: Any) -> None:
        super()._add_state(name, default, add_window_state, **{**kwargs, "persistent": False})

    @standard
    def update(
        self,
        *,
        predictions: Tensor | None,
        labels: Tensor,
        weights: Tensor | None,
        **kwargs: Any,
    ) -> None:
        """Takes in a batch, as of `RecMetricComputation`, with what the keys name in its place."""
        required_inputs = kwargs.get("required_inputs") or {}
        shape = self._n_tasks, shape_of(labels)[-1]

        def in_place_of(x: Tensor | None, key: str | None) -> Tensor | None:
            if key is None:
                return x
            if key not in required_inputs:
                raise RecMetricException(
                    f"Input '{key}' is required for {type(self).__name__} update: expected an "
                    f"array of this name in required_inputs, got {sorted(required_inputs)}"
                )
            return required_for(key, required_inputs[key], shape)

        super().update(
            predictions=in_place_of(predictions, self._score_key),
            labels=labels,
            weights=in_place_of(weights, self._pairwise_weight_key),
            required_inputs=required_inputs,
        )

    @property
    def required_keys(self) -> tuple[str, ...]:
        """The names of the sessions, and of what takes the place of predictions and weights."""
        return (*super().required_keys, *self._named)

    @property
    def _named(self) -> list[str]:
        names = self._score_key, self._pairwise_weight_key
        return [name for name in names if name is not None]

    @property
    def is_updated_alone(self) -> bool:
        """Whether the predictions or weights are not those that other metrics have too."""
        return super().is_updated_alone or bool(self._named)


class SessionPairwiseAUCMetric(RecMetric):
    """Pairwise AUC of sessions, ``lifetime_session_pairwise_auc`` and of the window.

    The weight of the pairs of examples of a session that predictions order as labels do, of all
    that labels order; 0.5 without any. ``update`` takes ``required_inputs={"session_id": ...}``,
    the session of each example.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = SessionPairwiseAUCMetric(1, 0, batch_size=4, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.9, 0.1, 0.2, 0.3])},
    ...     labels={"DefaultTask": np.array([1.0, 0.0, 1.0, 0.0])},
    ...     weights={"DefaultTask": np.array([2.0, 1.0, 0.5, 0.5])},
    ...     required_inputs={"session_id": np.array([7, 7, 8, 8])},
    ... )  # One pair of weight 3 is in order, one of weight 1 is not.
    >>> metric.compute()["session_pairwise_auc-DefaultTask|lifetime_session_pairwise_auc"].item()
    0.75
    """

    _namespace = MetricNamespace.SESSION_PAIRWISE_AUC
    _computation_class = SessionPairwiseAUCMetricComputation
