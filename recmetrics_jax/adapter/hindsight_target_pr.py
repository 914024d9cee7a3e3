"""The recall at a target precision; the class API of torchrec.metrics.hindsight_target_pr."""

import dataclasses
import functools
from typing import Any

import jax

from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import reference_sums
from recmetrics_jax.adapter._computation import MetricComputationReport
from recmetrics_jax.adapter._declaration import StateOptions
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import apply, term_sums
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_config import RecComputeMode
from recmetrics_jax.adapter.metrics_namespace import MetricName, MetricNamespace, MetricPrefix
from recmetrics_jax.adapter.precision import compute_precision as compute_precision
from recmetrics_jax.adapter.rec_metric import RecMetric
from recmetrics_jax.adapter.recall import compute_recall as compute_recall

TARGET_PRECISION = "target_precision"
THRESHOLD_GRANULARITY = 1000

_TERMS = reference_sums.threshold_terms(THRESHOLD_GRANULARITY)


def compute_threshold_idx(
    num_true_positives: Tensor, num_false_positives: Tensor, target_precision: float
) -> int:
    """The first threshold at which a precision is reached, or the last threshold.

    Args:
        num_true_positives: by threshold, ``[1000]``.
        num_false_positives: by threshold, ``[1000]``.
        target_precision: the precision.

    Returns:
        Its number, from 0.

    >>> import numpy as np
    >>> compute_threshold_idx(np.full(1000, 2.0), np.arange(1000.0)[::-1], 0.5)
    997
    """
    index = functools.partial(_index, target=float(target_precision))
    return int(apply(index, num_true_positives, num_false_positives))


def _index(true_positives: jax.Array, false_positives: jax.Array, *, target: float) -> jax.Array:
    sums = reference_sums.ThresholdSums(true_positives, false_positives, true_positives)
    return reference_sums.index_of_precision(reference_sums.precision_at_thresholds(sums), target)


def compute_true_pos_sum(labels: Tensor, predictions: Tensor, weights: Tensor) -> Tensor:
    """The sum of ``w y`` of predictions at or above each of 1000 thresholds from 0 to 1.

    Args:
        labels: ``[N]`` or ``[1, N]``.
        predictions: likewise.
        weights: likewise.

    Returns:
        ``float64[1000]``; of several tasks, ``[n_tasks, N]``, ``float64[n_tasks, 1000]``.
    """
    return _state("true_pos_sum", labels, predictions, weights)


def compute_false_pos_sum(labels: Tensor, predictions: Tensor, weights: Tensor) -> Tensor:
    """The sum of ``w (1 - y)`` of predictions at or above each threshold.

    Args:
        labels: as for `compute_true_pos_sum`.
        predictions: likewise.
        weights: likewise.

    Returns:
        As `compute_true_pos_sum`.
    """
    return _state("false_pos_sum", labels, predictions, weights)


def compute_false_neg_sum(labels: Tensor, predictions: Tensor, weights: Tensor) -> Tensor:
    """The sum of ``w y`` of predictions at or below each threshold; at it they are positive, too.

    Args:
        labels: as for `compute_true_pos_sum`.
        predictions: likewise.
        weights: likewise.

    Returns:
        As `compute_true_pos_sum`.
    """
    return _state("false_neg_sum", labels, predictions, weights)


def get_pr_states(labels: Tensor, predictions: Tensor, weights: Tensor | None) -> dict[str, Tensor]:
    """What a batch adds to the states.

    Args:
        labels: as for `compute_true_pos_sum`.
        predictions: likewise.
        weights: likewise; None for ones.

    Returns:
        ``true_pos_sum``, ``false_pos_sum`` and ``false_neg_sum``, as `compute_true_pos_sum`.

    >>> import numpy as np
    >>> labels, predictions = np.array([[1.0, 0.0, 1.0]]), np.array([[0.75, 0.5, 0.25]])
    >>> states = get_pr_states(labels, predictions, None)
    >>> [sums[[0, 300, 600, 900]].tolist() for sums in states.values()]
    [[2.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 2.0]]
    """
    terms = _TERMS._asdict()
    sums = term_sums(terms, labels, predictions, weights, in_float64=[*terms])
    return {name: x[0] if len(x) == 1 else x for name, x in sums.items()}


def _state(name: str, labels: Tensor, predictions: Tensor, weights: Tensor) -> Tensor:
    return get_pr_states(labels, predictions, weights)[name]


def _hindsight_target_pr(*, target_precision: float = 0.5, **options: Any) -> Metric:
    values = functools.partial(reference_sums.threshold_values, target=float(target_precision))
    return sum_metric(_TERMS, values, **options)


class HindsightTargetPRMetricComputation(DeclaredComputation):
    """The sums of true positives, false positives and false negatives at each of 1000 thresholds.

    They are ``float64[1000]`` of one task, and ``float64[n_tasks, 1000]`` of several.

    Args:
        target_precision: the precision that is to be reached.
    """

    _factory = staticmethod(_hindsight_target_pr)
    _requires_weights = False
    _reported = (
        (MetricPrefix.LIFETIME, MetricName.HINDSIGHT_TARGET_PR),
        (MetricPrefix.WINDOW, MetricName.HINDSIGHT_TARGET_PR),
        (MetricPrefix.LIFETIME, MetricName.HINDSIGHT_TARGET_PRECISION),
        (MetricPrefix.WINDOW, MetricName.HINDSIGHT_TARGET_PRECISION),
        (MetricPrefix.LIFETIME, MetricName.HINDSIGHT_TARGET_RECALL),
        (MetricPrefix.WINDOW, MetricName.HINDSIGHT_TARGET_RECALL),
    )

    def _state_options(self, name: str) -> StateOptions:
        shape = (THRESHOLD_GRANULARITY,) if self._n_tasks == 1 else None
        return super()._state_options(name)._replace(shape=shape)

    def _described(self, report: MetricComputationReport) -> MetricComputationReport:
        """The value of the only task is a number, unless tasks are fused."""
        if self._compute_mode is not RecComputeMode.UNFUSED_TASKS_COMPUTATION or self._n_tasks > 1:
            return report
        return dataclasses.replace(report, value=report.value.reshape(()))


class HindsightTargetPRMetric(RecMetric):
    """The lowest threshold at which predictions would have had a precision, and what they had.

    ``lifetime_hindsight_target_pr`` is the number of the threshold, of 1000 from 0 to 1;
    ``lifetime_hindsight_target_precision`` and ``lifetime_hindsight_target_recall`` are what is
    reached there; and the same of the window. If no threshold has the precision, it is the last. A
    positive that is predicted at the threshold is also one that is missed, as in recall.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> options = {"target_precision": 0.75}
    >>> metric = HindsightTargetPRMetric(1, 0, batch_size=4, tasks=[DefaultTaskInfo], **options)
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.9, 0.6, 0.4, 0.3])},
    ...     labels={"DefaultTask": np.array([1.0, 1.0, 0.0, 1.0])},
    ...     weights=None,
    ... )
    >>> values = metric.compute()
    >>> values["hindsight_target_pr-DefaultTask|lifetime_hindsight_target_pr"].item()
    0.0
    >>> values["hindsight_target_pr-DefaultTask|lifetime_hindsight_target_recall"].item()
    1.0
    """

    _namespace = MetricNamespace.HINDSIGHT_TARGET_PR
    _computation_class = HindsightTargetPRMetricComputation
