"""Regression AUC: the fraction of pairs in order; the class API of torchrec.metrics.rauc."""

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.batch import fine_bucket_size
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import pairwise
from recmetrics_jax._src.pairs import count_pairs
from recmetrics_jax.adapter._compiling import Compiled
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import GROUPING_KEYS as GROUPING_KEYS
from recmetrics_jax.adapter._functions import LABELS as LABELS
from recmetrics_jax.adapter._functions import PREDICTIONS as PREDICTIONS
from recmetrics_jax.adapter._functions import REQUIRED_INPUTS as REQUIRED_INPUTS
from recmetrics_jax.adapter._functions import WEIGHTS as WEIGHTS
from recmetrics_jax.adapter._functions import check_fused_update, of_samples
from recmetrics_jax.adapter._tensors import Tensor, from_numpy, kind_of, to_numpy
from recmetrics_jax.adapter.metrics_namespace import MetricName, MetricNamespace, MetricPrefix
from recmetrics_jax.adapter.rec_metric import RecMetric


def compute_rauc(
    n_tasks: int, predictions: list[Tensor], labels: list[Tensor], weights: list[Tensor]
) -> Tensor:
    """The fraction of pairs of examples that predictions do not invert; ties never do.

    Args:
        n_tasks: the number of tasks; it is taken for the signature's sake, shapes say it.
        predictions: arrays ``[n_tasks, N]``, one after another.
        labels: like ``predictions``.
        weights: like ``predictions``.

    Returns:
        ``float32[n_tasks]``; 0.5 for fewer than two examples. Weights do not count.

    Raises:
        ValueError: if shapes differ.

    >>> import numpy as np
    >>> scores, labels = np.array([[0.9, 0.4, 0.1]]), np.array([[3, 1, 2]])
    >>> round(compute_rauc(1, [scores], [labels], [np.ones((1, 3))]).item(), 4)
    0.6667
    """
    value = of_samples(_rauc, "rauc", predictions, labels, weights)
    return from_numpy(to_numpy(value).astype(np.float32), kind_of(value))


def compute_rauc_per_group(
    n_tasks: int,
    predictions: list[Tensor],
    labels: list[Tensor],
    weights: list[Tensor],
    grouping_keys: Tensor,
) -> Tensor:
    """The mean of the RAUC of groups; a group of one example has 0.5.

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
        _rauc, "grouped_rauc", predictions, labels, weights, grouping_keys, grouped_rauc=True
    )


def count_reverse_pairs_divide_and_conquer(input: list[float]) -> float:
    """The fraction of pairs that are inverted, a larger number before a smaller one.

    Args:
        input: numbers; the list stays as it is.

    Returns:
        The fraction, 0.5 for fewer than two numbers.

    >>> round(count_reverse_pairs_divide_and_conquer([1.0, 3.0, 2.0, 4.0]), 4)
    0.1667
    """
    numbers, n = list(input), len(input)
    return divide(numbers, 0, n - 1) / (n * (n - 1) / 2) if n > 1 else 0.5


def divide(input: list[float], low: int, high: int) -> int:
    """The number of inverted pairs in a part of a list, which it sorts.

    Args:
        input: numbers.
        low: the position of the first of the part.
        high: that of the last.

    Returns:
        How often a larger number comes before a smaller one.

    >>> numbers = [3, 2, 1, 0]
    >>> divide(numbers, 0, 2), numbers
    (3, [1, 2, 3, 0])
    """
    part = np.asarray(input[low : high + 1], np.float64)
    if len(part) < 2:
        return 0
    padding = np.zeros(fine_bucket_size(len(part)) - len(part))
    inverted = _discordant(
        np.concatenate([part, padding]), np.concatenate([np.ones_like(part), padding])
    )
    input[low : high + 1] = sorted(input[low : high + 1])
    return int(inverted)


@Compiled
def _discordant(numbers: jax.Array, weights: jax.Array) -> jax.Array:
    positions = jnp.arange(numbers.size, dtype=numbers.dtype)
    return count_pairs(positions, numbers, weights).discordant[-1]


def conquer_and_count(input: list[float], left_index: int, mid_index: int, right_index: int) -> int:
    """Merges two sorted parts of a list, and counts the inverted pairs between them.

    Args:
        input: numbers; the parts become one, sorted.
        left_index: the position of the first of the left part.
        mid_index: that of the last of the left part.
        right_index: that of the last of the right part.

    Returns:
        For how many pairs the number of the left part is larger.

    >>> numbers = [1, 4, 2, 3]
    >>> conquer_and_count(numbers, 0, 1, 3), numbers
    (2, [1, 2, 3, 4])
    """
    left = np.asarray(input[left_index : mid_index + 1])
    right = np.asarray(input[mid_index + 1 : right_index + 1])
    not_larger = int(np.searchsorted(left, right, side="right").sum())
    input[left_index : right_index + 1] = sorted(input[left_index : right_index + 1])
    return len(left) * len(right) - not_larger


def _rauc(
    *,
    grouped_rauc: bool = False,
    fused_update_limit: int = 0,
    window: int = 1,
    n_tasks: int = 1,
) -> Metric:
    check_fused_update("Grouped RAUC", grouped_rauc, fused_update_limit)
    return pairwise.rauc(
        window=window,
        n_tasks=n_tasks,
        grouped=grouped_rauc,
        pair_weights=None,
        undefined_groups=0.5,
        undefined=0.5,
    )


class RAUCMetricComputation(DeclaredComputation):
    """The newest examples, and RAUC of them; see `recmetrics_jax.rauc`.

    Args:
        grouped_rauc: also report the mean of the RAUC of groups; ``required_inputs`` then hold
            ``grouping_keys``.
        fused_update_limit: as in `RecMetric`.

    Raises:
        RecMetricException: if groups are asked for along with a fused update.
    """

    _factory = staticmethod(_rauc)
    _reported = (
        (MetricPrefix.WINDOW, MetricName.RAUC),
        (MetricPrefix.WINDOW, MetricName.GROUPED_RAUC),
    )


class RAUCMetric(RecMetric):
    """RAUC of the newest examples of each task, ``window_rauc`` and ``window_grouped_rauc``.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = RAUCMetric(world_size=1, my_rank=0, batch_size=2, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.75, 0.25])},
    ...     labels={"DefaultTask": np.array([1.0, 0.0])},
    ...     weights=None,
    ... )
    >>> round(metric.compute()["rauc-DefaultTask|window_rauc"].item(), 6)
    1.0
    """

    _namespace = MetricNamespace.RAUC
    _computation_class = RAUCMetricComputation
