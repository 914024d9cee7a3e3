"""From the reports of computations to values by key, of the kind of arrays that came in."""

import functools
from collections.abc import Iterable, Iterator, Sequence

from recmetrics_jax.adapter._computation import MetricComputationReport, RecMetricComputation
from recmetrics_jax.adapter._tensors import Kind, Tensor, as_kind, kind_of, zeros_like
from recmetrics_jax.adapter.metrics_config import RecTaskInfo
from recmetrics_jax.adapter.metrics_namespace import (
    MetricNameBase,
    MetricNamespaceBase,
    MetricPrefix,
    compose_metric_key,
)

Reports = tuple[RecMetricComputation, Sequence[MetricComputationReport]]
"""A computation, and what it reports."""


def values_by_key(
    namespace: MetricNamespaceBase,
    scope: str,
    tasks: Sequence[RecTaskInfo],
    reports: Iterable[Reports],
    kind: Kind,
    *,
    is_fused: bool,
) -> dict[str, Tensor]:
    """The values that computations report, by key.

    Args:
        namespace: of the metric.
        scope: what keys have before the prefix.
        tasks: one of each computation; all of the only one where they are fused.
        reports: of each computation.
        kind: whose arrays values are.
        is_fused: whether values are those of all tasks.
    """
    values = {}
    for task, report, value in _by_task(tasks, reports, kind, is_fused=is_fused):
        names = task.name, report.name, scope, report.metric_prefix, report.description
        is_done = kind == kind_of(value) == "torch" or not hasattr(value, "dtype")
        values[_key(namespace, *names)] = value if is_done else as_kind(value, kind)
    return values


def _by_task(
    tasks: Sequence[RecTaskInfo], reports: Iterable[Reports], kind: Kind, *, is_fused: bool
) -> Iterator[tuple[RecTaskInfo, MetricComputationReport, Tensor]]:
    """The reports taken apart by task, zero for tasks without a valid update."""
    for i, (computation, of_computation) in enumerate(reports):
        its_tasks = tasks if is_fused else [tasks[i]]
        for report in of_computation:
            whole = report.value
            if kind == kind_of(whole) == "torch":  # Copied at once for all tasks.
                whole = as_kind(whole, "torch")
            values = whole if is_fused else [whole]
            for t, (task, value) in enumerate(zip(its_tasks, values, strict=False)):
                yield task, report, value if computation.is_valid(t) else zeros_like(value)


@functools.lru_cache(maxsize=4096)
def _key(
    namespace: MetricNamespaceBase | str,
    task: str,
    name: MetricNameBase | str,
    scope: str,
    prefix: MetricPrefix | str,
    description: str | None,
) -> str:
    return compose_metric_key(namespace, task, name, f"{scope}{prefix}", description)
