"""Normalized entropy by group; the class API of torchrec.metrics.segmented_ne."""

import functools
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from recmetrics_jax._src.base import Values
from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import entropy
from recmetrics_jax._src.metrics.reference_entropy import (
    clamped_mean_cross_entropy,
    grouped_ne_terms,
)
from recmetrics_jax.adapter import ne
from recmetrics_jax.adapter._computation import MetricComputationReport
from recmetrics_jax.adapter._declaration import Source
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import GROUPING_KEYS, term_sums
from recmetrics_jax.adapter._grouping import GroupingKeyConfig as GroupingKeyConfig
from recmetrics_jax.adapter._grouping import configs_of, group_numbers
from recmetrics_jax.adapter._tensors import Tensor, from_numpy, kind_of, to_numpy
from recmetrics_jax.adapter.metrics_config import RecComputeMode
from recmetrics_jax.adapter.metrics_namespace import MetricName, MetricNamespace, MetricPrefix
from recmetrics_jax.adapter.ne import compute_cross_entropy as compute_cross_entropy
from recmetrics_jax.adapter.ne import compute_logloss as compute_logloss
from recmetrics_jax.adapter.rec_metric import RecMetric

PREDICTIONS = "predictions"
LABELS = "labels"
WEIGHTS = "weights"


def compute_ne_helper(
    ce_sum: Tensor,
    weighted_num_samples: Tensor,
    pos_labels: Tensor,
    neg_labels: Tensor,
    eta: float,
) -> Tensor:
    """Normalized entropy of each sum, ``float64[...]``, NaN without weight; `ne.compute_ne`."""
    return ne.compute_ne(ce_sum, weighted_num_samples, pos_labels, neg_labels, eta)


def compute_ne(
    ce_sum: Tensor,
    weighted_num_samples: Tensor,
    pos_labels: Tensor,
    neg_labels: Tensor,
    num_groups: int,
    eta: float,
) -> Tensor:
    """Normalized entropy of each group of a task.

    Args:
        ce_sum: sums of cross entropies, ``[num_groups]``.
        weighted_num_samples: sums of weights, ``[num_groups]``.
        pos_labels: sums of ``w y``, ``[num_groups]``.
        neg_labels: sums of ``w (1 - y)``, ``[num_groups]``.
        num_groups: how many groups there are.
        eta: the mean label is clamped to ``[eta, 1 - eta]``.

    Returns:
        ``float32[num_groups]``, NaN of groups without weight.

    >>> import numpy as np
    >>> sums = np.array([[3.0, 0.0], [4.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    >>> compute_ne(*sums, num_groups=2, eta=1e-12).tolist()
    [0.75, nan]
    """
    sums = (ce_sum, weighted_num_samples, pos_labels, neg_labels)
    return _in_float32(compute_ne_helper(*(x[..., :num_groups] for x in sums), eta=eta))


def compute_ne_fused(
    ce_sum: Tensor,
    weighted_num_samples: Tensor,
    pos_labels: Tensor,
    neg_labels: Tensor,
    num_groups: int,
    n_tasks: int,
    eta: float,
) -> Tensor:
    """`compute_ne` of several tasks: of sums ``[n_tasks, num_groups]``, and as many values."""
    sums = (ce_sum, weighted_num_samples, pos_labels, neg_labels)
    return compute_ne(*(x[:n_tasks] for x in sums), num_groups=num_groups, eta=eta)


def get_segemented_ne_states(
    labels: Tensor,
    predictions: Tensor,
    weights: Tensor,
    grouping_keys: Tensor,
    eta: float,
    num_groups: int,
) -> dict[str, Tensor]:
    """What a batch of one task adds to the states of NE by group.

    Args:
        labels: ``[1, N]`` or ``[N]``.
        predictions: likewise.
        weights: likewise.
        grouping_keys: the numbers of groups, likewise.
        eta: predictions are clamped to ``[eta, 1 - eta]``.
        num_groups: how many groups there are.

    Returns:
        ``cross_entropy_sum``, ``weighted_num_samples``, ``pos_labels`` and ``neg_labels``, each
        ``float32[num_groups]``.

    Raises:
        IndexError: if a number is that of no group.

    >>> import numpy as np
    >>> arrays = np.array([[1.0, 0.0, 1.0], [0.5, 0.5, 0.25], [1.0, 2.0, 1.0]])
    >>> states = get_segemented_ne_states(*arrays, np.array([0, 0, 2]), 1e-12, num_groups=3)
    >>> states["cross_entropy_sum"].tolist(), states["pos_labels"].tolist()
    ([3.0, 0.0, 2.0], [1.0, 0.0, 1.0])
    """
    flat = (x.reshape(-1) for x in (labels, predictions, weights))
    keys = grouping_keys.reshape(-1)
    states = _states(*flat, keys=keys, eta=eta, num_groups=num_groups)
    return {name: _in_float32(x) for name, x in states.items()}


def get_segemented_ne_states_fused(
    labels: Tensor,
    predictions: Tensor,
    weights: Tensor,
    grouping_keys: Tensor,
    eta: float,
    num_groups: int,
    n_tasks: int,
) -> dict[str, Tensor]:
    """What a batch of several tasks adds to the states of NE by group.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``.
        grouping_keys: the numbers of groups, ``[N]``, of all tasks alike.
        eta: predictions are clamped to ``[eta, 1 - eta]``.
        num_groups: how many groups there are.
        n_tasks: how many tasks there are.

    Returns:
        As `get_segemented_ne_states`, each ``float64[n_tasks, num_groups]``.

    Raises:
        IndexError: if a number is that of no group.
    """
    rows = (x.reshape(n_tasks, -1) for x in (labels, predictions, weights))
    return _states(*rows, keys=grouping_keys, eta=eta, num_groups=num_groups)


def _states(
    labels: Any, predictions: Any, weights: Any, *, keys: Any, eta: float, num_groups: int
) -> dict[str, Tensor]:
    terms = grouped_ne_terms(GROUPING_KEYS, num_groups, eta)._asdict()
    numbers = {GROUPING_KEYS: group_numbers(GROUPING_KEYS, keys, num_groups)}
    return term_sums(terms, labels, predictions, weights, in_float64=[*terms], keys=numbers)


def _in_float32(x: Tensor) -> Tensor:
    return from_numpy(to_numpy(x).astype(np.float32), kind_of(x))


GroupingKeys = str | list[str] | list[dict[str, Any]] | list[GroupingKeyConfig]


def _segmented_ne(
    *,
    include_logloss: bool = False,
    grouping_key_configs: tuple[GroupingKeyConfig, ...],
    is_single_default_key: bool,
    **options: Any,
) -> Metric:
    # A dictionary that keeps the order of its keys: of others, JAX sorts them.
    terms: Any = OrderedDict(
        (config.name, grouped_ne_terms(config.read_as, config.num_groups))
        for config in grouping_key_configs
    )
    if is_single_default_key:
        (terms,) = terms.values()
    values = functools.partial(_values, include_logloss=bool(include_logloss))
    return sum_metric(terms, values, **options)


def _values(sums: Any, *, include_logloss: bool) -> Values:
    """The values of groups, ``float64[T, G]``, by the name of the value and that of the key."""
    values = {}
    of_keys = {"": sums} if isinstance(sums, entropy.NESums) else sums
    for key, of_key in of_keys.items():
        at_key = f"@{key}" if key else ""
        values[f"{MetricName.SEGMENTED_NE}{at_key}"] = entropy.clamped_normalized_entropy(of_key)
        if include_logloss:
            values[f"{MetricName.LOG_LOSS}{at_key}"] = clamped_mean_cross_entropy(of_key)
    return values


class SegmentedNEMetricComputation(DeclaredComputation):
    """The states of NE by group, ``float64[n_tasks, num_groups]`` each.

    Of a key given as a string, or of the only key ``"grouping_keys"``, states and values have the
    names of NE. Of others, the names of states begin, and those of values end, with that of the
    key: ``country_pos_labels``, ``lifetime_segmented_ne_0@country``.

    Args:
        include_logloss: also report the logloss of each group.
        num_groups: how many groups keys have that do not say.
        grouping_keys: the name of the key in ``required_inputs``; or a list of names, of
            dictionaries with ``name``, and ``num_groups`` or ``cast_keys_to_int``, or of
            `GroupingKeyConfig`.
        cast_keys_to_int: whether keys that do not say may be floats, of which what is behind the
            point is dropped; others have to be ``int64``.

    Raises:
        ValueError: if there is no key, one is there twice, or is none of these.
    """

    _factory = staticmethod(_segmented_ne)
    eta: float = entropy.ETA

    def __init__(
        self,
        *args: Any,
        include_logloss: bool = False,
        num_groups: int = 1,
        grouping_keys: GroupingKeys = GROUPING_KEYS,
        cast_keys_to_int: bool = False,
        **kwargs: Any,
    ) -> None:
        configs = configs_of(grouping_keys, num_groups, cast_keys_to_int)
        names = [config.name for config in configs]
        super().__init__(
            *args,
            include_logloss=include_logloss,
            grouping_key_configs=configs,
            is_single_default_key=isinstance(grouping_keys, str) or names == [GROUPING_KEYS],
            **kwargs,
        )
        self._grouping_keys, self._num_groups = configs[0].name, configs[0].num_groups
        self._cast_keys_to_int = cast_keys_to_int

    def _sources(self) -> dict[str, Source]:
        """The numbers of groups; RecMetricException or IndexError if keys are no such."""
        return {c.read_as: (c.name, c.numbers) for c in self._grouping_key_configs}

    def reports_in_order(
        self, lifetime: Mapping[str, np.ndarray], window: Mapping[str, np.ndarray]
    ) -> list[MetricComputationReport]:
        """The reports of groups, of the lifetime and of the window, one after another."""
        is_unfused = self._compute_mode is RecComputeMode.UNFUSED_TASKS_COMPUTATION
        of_task = 0 if is_unfused and self._n_tasks == 1 else slice(None)
        reports = []
        for of_key in lifetime:
            name, at, key = of_key.partition("@")
            dtype = np.float32 if name == str(MetricName.SEGMENTED_NE) else np.float64
            scopes = {MetricPrefix.LIFETIME: lifetime, MetricPrefix.WINDOW: window}
            values = {p: x[of_key].astype(dtype) for p, x in scopes.items() if of_key in x}
            reports += (
                MetricComputationReport(
                    name=MetricName(name),
                    metric_prefix=prefix,
                    value=from_numpy(x[of_task, group, ...]),
                    description=f"_{group}{at}{key}",
                )
                for group in range(lifetime[of_key].shape[1])
                for prefix, x in values.items()
            )
        return reports


class SegmentedNEMetric(RecMetric):
    """Normalized entropy of each group of examples, by one key or several.

    ``lifetime_segmented_ne_<group>`` and ``window_segmented_ne_<group>``, of a group without weight
    NaN; on request ``logloss`` likewise, of such a group 0. ``update`` takes ``required_inputs``,
    the numbers of the groups by the name of the key.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = SegmentedNEMetric(1, 0, batch_size=4, tasks=[DefaultTaskInfo], num_groups=2)
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.5, 0.5, 0.25, 0.25])},
    ...     labels={"DefaultTask": np.array([1.0, 0.0, 1.0, 0.0])},
    ...     weights=None,
    ...     required_inputs={"grouping_keys": np.array([0, 0, 1, 1])},
    ... )
    >>> values = [x.item() for key, x in metric.compute().items() if "lifetime" in key]
    >>> [round(value, 4) for value in values]
    [1.0, 1.2075]
    """

    _namespace = MetricNamespace.SEGMENTED_NE
    _computation_class = SegmentedNEMetricComputation
