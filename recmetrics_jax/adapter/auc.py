"""Area under the ROC curve; the class API of torchrec.metrics.auc."""

from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import area
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import GROUPING_KEYS as GROUPING_KEYS
from recmetrics_jax.adapter._functions import LABELS as LABELS
from recmetrics_jax.adapter._functions import PREDICTIONS as PREDICTIONS
from recmetrics_jax.adapter._functions import REQUIRED_INPUTS as REQUIRED_INPUTS
from recmetrics_jax.adapter._functions import WEIGHTS as WEIGHTS
from recmetrics_jax.adapter._functions import check_fused_update, of_samples
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricName, MetricNamespace, MetricPrefix
from recmetrics_jax.adapter.rec_metric import RecMetric

BIN_THRESHOLD = 0.039


def compute_auc(
    n_tasks: int,
    predictions: list[Tensor],
    labels: list[Tensor],
    weights: list[Tensor],
    apply_bin: bool = False,
) -> Tensor:
    """Area under the ROC curve; ties count half.

    Args:
        n_tasks: the number of tasks; it is taken for the signature's sake, shapes say it.
        predictions: arrays ``[n_tasks, N]``, one after another.
        labels: like ``predictions``.
        weights: like ``predictions``.
        apply_bin: labels count as positive from 0.039 on, and else as negative.

    Returns:
        ``[n_tasks]``, of the dtype of the arguments; 0.5 where a class has no weight.

    Raises:
        ValueError: if shapes differ.

    >>> import numpy as np
    >>> scores, labels = np.array([[0.9, 0.4, 0.4]]), np.array([[1, 1, 0]])
    >>> compute_auc(1, [scores], [labels], [np.ones((1, 3))]).tolist()
    [0.75]
    """
    return of_samples(_auc, "auc", predictions, labels, weights, apply_bin=apply_bin)


def compute_auc_per_group(
    n_tasks: int,
    predictions: list[Tensor],
    labels: list[Tensor],
    weights: list[Tensor],
    grouping_keys: Tensor,
) -> Tensor:
    """The mean of the AUC of groups; a group with one class has 0.5.

    Args:
        n_tasks: the number of tasks; it is taken for the signature's sake, shapes say it.
        predictions: arrays ``[n_tasks, N]``, one after another.
        labels: like ``predictions``.
        weights: like ``predictions``.
        grouping_keys: the group of each example, ``[N]``.

    Returns:
        ``float32[n_tasks]``; 0.5 without examples.

    Raises:
        ValueError: if shapes differ.
    """
    return of_samples(
        _auc, "grouped_auc", predictions, labels, weights, grouping_keys, grouped_auc=True
    )


def _auc(
    *,
    grouped_auc: bool = False,
    apply_bin: bool = False,
    fused_update_limit: int = 0,
    window: int = 1,
    n_tasks: int = 1,
) -> Metric:
    check_fused_update("Grouped AUC", grouped_auc, fused_update_limit)
    return area.auc(
        window=window,
        n_tasks=n_tasks,
        grouped=grouped_auc,
        label_threshold=BIN_THRESHOLD if apply_bin else None,
        undefined_groups=0.5,
        undefined=0.5,
    )


class AUCMetricComputation(DeclaredComputation):
    """The newest examples, and AUC of them; see `recmetrics_jax.auc`.

    Args:
        grouped_auc: also report the mean of the AUC of groups; ``required_inputs`` then hold
            ``grouping_keys``.
        apply_bin: labels count as positive from 0.039 on, and else as negative.
        fused_update_limit: as in `RecMetric`.

    Raises:
        RecMetricException: if groups are asked for along with a fused update.
    """

    _factory = staticmethod(_auc)
    _reported = (
        (MetricPrefix.WINDOW, MetricName.AUC),
        (MetricPrefix.WINDOW, MetricName.GROUPED_AUC),
    )


class AUCMetric(RecMetric):
    """AUC of the newest examples of each task, ``window_auc`` and ``window_grouped_auc``.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = AUCMetric(world_size=1, my_rank=0, batch_size=2, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.75, 0.25])},
    ...     labels={"DefaultTask": np.array([1.0, 0.0])},
    ...     weights=None,
    ... )
    >>> round(metric.compute()["auc-DefaultTask|window_auc"].item(), 6)
    1.0
    """

    _namespace = MetricNamespace.AUC
    _computation_class = AUCMetricComputation
