"""Precision of each of several labels; the class API of torchrec.metrics.multi_label_precision."""

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import jax

from recmetrics_jax._src.base import Values
from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics import classification
from recmetrics_jax._src.metrics.reference_sums import predicted_bit
from recmetrics_jax._src.terms import Term
from recmetrics_jax.adapter._computation import MetricComputationReport
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import apply_to_sums
from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.metrics_namespace import MetricName, MetricNamespace
from recmetrics_jax.adapter.rec_metric import RecMetric

MOST_LABELS = 53
"""Whole numbers of so many bits are exact in float64."""


def compute_multi_label_precision(
    num_true_positives: Tensor, num_false_positives: Tensor
) -> Tensor:
    """Precision: the part of what is predicted that is right.

    Args:
        num_true_positives: the weight of what is predicted and right, ``[...]``.
        num_false_positives: the weight of what is predicted and wrong, ``[...]``.

    Returns:
        ``[...]``, of the dtype of the arguments; 0 where nothing is predicted.

    >>> import numpy as np
    >>> compute_multi_label_precision(np.array([1.0, 0.0]), np.array([3.0, 0.0])).tolist()
    [0.25, 0.0]
    """
    return apply_to_sums(
        classification.precision_values,
        "precision",
        classification.PrecisionSums,
        undefined=0.0,
        keeps_dtype=True,
        true_pos_sum=num_true_positives,
        false_pos_sum=num_false_positives,
    )


def _multi_label_precision(*, label_names: tuple[str, ...], **options: Any) -> Metric:
    # A dictionary that keeps the order of its keys: of others, JAX sorts them.
    terms: Any = OrderedDict(
        (f"{which}_pos_sum_{name}", Term(predicted_bit, (bit, which == "true")))
        for bit, name in enumerate(label_names)
        for which in ("true", "false")
    )
    return sum_metric(terms, _values, undefined=0.0, **options)


def _values(sums: Mapping[str, jax.Array]) -> Values:
    """Precision by the name of the label, which comes after that of the value."""
    values = {}
    for state, true_positives in sums.items():
        which, _, name = state.partition("_pos_sum_")
        if which == "true":
            of_label = classification.PrecisionSums(true_positives, sums[f"false_pos_sum_{name}"])
            value = classification.precision_values(of_label)["precision"]
            values[f"{MetricName.MULTI_LABEL_PRECISION}{name}"] = value
    return values


class MultiLabelPrecisionMetricComputation(DeclaredComputation):
    """The states of precision by label: ``true_pos_sum_<label>``, ``false_pos_sum_<label>``.

    Args:
        num_labels: how many labels there are: label ``i`` is bit ``i`` of predictions and labels,
            from the lowest one.
        label_names: their names; of fewer names, the first labels. None for ``label_0``,
            ``label_1`` and so on.

    Raises:
        ValueError: if there are more names than labels, or more than 53 labels.
    """

    _factory = staticmethod(_multi_label_precision)
    _requires_weights = False

    def __init__(
        self,
        *args: Any,
        num_labels: int = 1,
        label_names: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if label_names is None:
            label_names = [f"label_{i}" for i in range(num_labels)]
        if len(label_names) > min(num_labels, MOST_LABELS):
            raise ValueError(
                f"num_labels, label_names: expected at most {MOST_LABELS} labels, and no more "
                f"names than labels, got {num_labels} and {label_names}"
            )
        super().__init__(*args, label_names=tuple(label_names), **kwargs)
        self._num_labels, self._label_names = num_labels, list(label_names)

    def _described(self, report: MetricComputationReport) -> MetricComputationReport:
        """The name of the label apart from that of the value."""
        name = MetricName.MULTI_LABEL_PRECISION
        label = str(report.name).removeprefix(str(name))
        return dataclasses.replace(report, name=name, description=label)


class MultiLabelPrecisionMetric(RecMetric):
    """Precision of each label by task, ``lifetime_multi_label_precision<label>`` and of the window.

    Predictions and labels are whole numbers, of any dtype, whose bits are the labels of an example.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> options = {"num_labels": 2, "label_names": ["_cat", "_dog"]}
    >>> metric = MultiLabelPrecisionMetric(1, 0, batch_size=2, tasks=[DefaultTaskInfo], **options)
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0b01, 0b11])},
    ...     labels={"DefaultTask": np.array([0b01, 0b10])},
    ...     weights=None,
    ... )
    >>> {key.split("|")[1]: value.item() for key, value in metric.compute().items()}
    {'lifetime_multi_label_precision_cat': 0.5, 'window_multi_label_precision_cat': 0.5,
    'lifetime_multi_label_precision_dog': 1.0, 'window_multi_label_precision_dog': 1.0}
    """

    _namespace = MetricNamespace.MULTI_LABEL_PRECISION
    _computation_class = MultiLabelPrecisionMetricComputation
