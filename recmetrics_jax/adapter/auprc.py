"""Area under the precision-recall curve; the class API of torchrec.metrics.auprc."""

import functools
import logging
import math
from collections.abc import Mapping

import numpy as np

from recmetrics_jax._src import curves
from recmetrics_jax._src.build import collection, sample_metric
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import area, binned
from recmetrics_jax.adapter._computation import MetricComputationReport
from recmetrics_jax.adapter._declaration import StateOptions
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import GROUPING_KEYS as GROUPING_KEYS
from recmetrics_jax.adapter._functions import LABELS as LABELS
from recmetrics_jax.adapter._functions import PREDICTIONS as PREDICTIONS
from recmetrics_jax.adapter._functions import REQUIRED_INPUTS as REQUIRED_INPUTS
from recmetrics_jax.adapter._functions import WEIGHTS as WEIGHTS
from recmetrics_jax.adapter._functions import check_fused_update, of_samples
from recmetrics_jax.adapter._module import RecMetricException
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricName, MetricNamespace, MetricPrefix
from recmetrics_jax.adapter.rec_metric import RecMetric

logger = logging.getLogger(__name__)

DEFAULT_NUM_BINS = 1000
DEFAULT_MIN_PREDICTION = 0.0
DEFAULT_MAX_PREDICTION = 1.0
LIFETIME_POSITIVE_HISTOGRAM = "lifetime_positive_histogram"
LIFETIME_NEGATIVE_HISTOGRAM = "lifetime_negative_histogram"


def compute_auprc(n_tasks: int, predictions: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Area under the precision-recall curve, as average precision.

    Args:
        n_tasks: the number of tasks; it is taken for the signature's sake, shapes say it.
        predictions: ``[n_tasks, N]``.
        labels: like ``predictions``.
        weights: like ``predictions``.

    Returns:
        ``[n_tasks]``, of the dtype of the arguments; 0 where positives have no weight.

    Raises:
        ValueError: if shapes differ.

    >>> import numpy as np
    >>> compute_auprc(1, np.array([[0.9, 0.5]]), np.array([[0, 1]]), np.ones((1, 2))).tolist()
    [0.5]
    """
    return of_samples(_auprc, "auprc", predictions, labels, weights)


def _compute_auprc_helper(predictions: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """`compute_auprc` of one task: of ``[N]``, a number; programs call it by this name."""
    return compute_auprc(1, predictions[None], labels[None], weights[None])[0]


def compute_auprc_per_group(
    n_tasks: int, predictions: Tensor, labels: Tensor, weights: Tensor, grouping_keys: Tensor
) -> Tensor:
    """The mean of the AUPRC of groups; a group without positives has 0.

    Args:
        n_tasks: the number of tasks; it is taken for the signature's sake, shapes say it.
        predictions: ``[n_tasks, N]``.
        labels: like ``predictions``.
        weights: like ``predictions``.
        grouping_keys: the group of each example, ``[N]``.

    Returns:
        ``float32[n_tasks]``; 0.5 without examples.

    Raises:
        ValueError: if shapes differ.
    """
    return of_samples(
        _auprc, "grouped_auprc", predictions, labels, weights, grouping_keys, grouped_auprc=True
    )


def _auprc(
    *,
    grouped_auprc: bool = False,
    fused_update_limit: int = 0,
    num_bins: int = DEFAULT_NUM_BINS,
    min_prediction: float = DEFAULT_MIN_PREDICTION,
    max_prediction: float = DEFAULT_MAX_PREDICTION,
    window: int = 1,
    n_tasks: int = 1,
) -> Metric:
    check_fused_update("Grouped AUPRC", grouped_auprc, fused_update_limit)
    if num_bins < 1 or not -math.inf < min_prediction < max_prediction < math.inf:
        raise RecMetricException(
            "num_bins, min_prediction, max_prediction: expected at least 1 bin, and a minimum "
            f"below the maximum, both finite, got {num_bins}, {min_prediction}, {max_prediction}"
        )
    values = functools.partial(
        area.area_values,
        name="auprc",
        area=curves.precision_recall_area,
        label_threshold=None,
        grouping_key=GROUPING_KEYS if grouped_auprc else None,
        average="equal",
        undefined_groups=0.0,
    )
    newest = sample_metric(
        values,
        n_tasks=n_tasks,
        window=window,
        keys=(GROUPING_KEYS,) if grouped_auprc else (),
        undefined={"auprc": 0.0, "grouped_auprc": 0.5},
    )
    lifetime = binned.linear_auprc(
        bins=num_bins, low=min_prediction, high=max_prediction, n_tasks=n_tasks, undefined=0.5
    )
    return collection({"newest": newest, "lifetime": lifetime})


class AUPRCMetricComputation(DeclaredComputation):
    """The newest examples, and AUPRC of them; see `recmetrics_jax.auprc`.

    Args:
        grouped_auprc: also report the mean of the AUPRC of groups; ``required_inputs`` then hold
            ``grouping_keys``.
        fused_update_limit: as in `RecMetric`.
        num_bins: bins of scores of the lifetime value.
        min_prediction: the lowest score of the first bin.
        max_prediction: the highest score of the last bin; what is beyond it, or below the lowest,
            makes the lifetime value NaN, which is logged once.

    Raises:
        RecMetricException: if groups are asked for along with a fused update, or there are no bins.
    """

    _factory = staticmethod(_auprc)
    _reported = (
        (MetricPrefix.WINDOW, MetricName.AUPRC),
        (MetricPrefix.LIFETIME, MetricName.AUPRC),
        (MetricPrefix.WINDOW, MetricName.GROUPED_AUPRC),
    )
    _num_bins: int
    _min_prediction: float
    _max_prediction: float
    _logged_out_of_bounds_prediction_error: bool = False

    def _state_options(self, name: str) -> StateOptions:
        return StateOptions(persistent=False, shape=(self._n_tasks, self._num_bins))

    def reports_in_order(
        self, lifetime: Mapping[str, np.ndarray], window: Mapping[str, np.ndarray]
    ) -> list[MetricComputationReport]:
        """The reports; on rank 0 the first lifetime value that is NaN is logged as an error."""
        is_nan = bool(np.any(np.isnan(lifetime["auprc"])))
        if is_nan and self._my_rank == 0 and not self._logged_out_of_bounds_prediction_error:
            self._logged_out_of_bounds_prediction_error = True
            logger.error(
                "AUPRC has met a prediction outside of its range, [%s, %s], or a NaN: the lifetime "
                "value of the task is NaN until a reset. If the range is wrong, set the arguments "
                "`min_prediction` and `max_prediction` of the metric.",
                *(self._min_prediction, self._max_prediction),
            )
        return super().reports_in_order(lifetime, window)


class AUPRCMetric(RecMetric):
    """AUPRC of each task: ``lifetime_auprc``, by bins, ``window_auprc``, ``window_grouped_auprc``.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = AUPRCMetric(world_size=1, my_rank=0, batch_size=2, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.75, 0.25])},
    ...     labels={"DefaultTask": np.array([1.0, 0.0])},
    ...     weights=None,
    ... )
    >>> round(metric.compute()["auprc-DefaultTask|window_auprc"].item(), 6)
    1.0
    """

    _namespace = MetricNamespace.AUPRC
    _computation_class = AUPRCMetricComputation
