"""The values that computations report."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from recmetrics_jax.adapter._examples import SAMPLE_STATES, samples_as_inputs
from recmetrics_jax.adapter._tensors import Tensor, from_numpy
from recmetrics_jax.adapter.metrics_namespace import MetricName, MetricNameBase, MetricPrefix

_METRIC_NAMES = {name.value: name for name in MetricName}


@dataclasses.dataclass(frozen=True)
class MetricComputationReport:
    """A value that a computation reports.

    Attributes:
        name: the name of the value.
        metric_prefix: of the lifetime, of the window, or neither.
        value: the value, ``[n_tasks]`` or ``[n_tasks, C]``.
        description: what is appended to the name in the key.
    """

    name: MetricNameBase | str
    metric_prefix: MetricPrefix
    value: Tensor
    description: str | None = None


def reports_of(
    computations: Sequence[Any],
) -> list[list[MetricComputationReport]]:
    """The reports of computations with one declaration, by one compiled call."""
    declaration = computations[0]._declared
    lifetimes = [{name: getattr(c, name) for name in declaration.terms} for c in computations]
    windows = [
        {
            name: c.get_window_state(name)
            for name in declaration.terms
            if c.get_window_state_name(name) in c._defaults
        }
        for c in computations
    ]
    if windows[0].keys() == lifetimes[0].keys():
        values = declaration.values_of_sums([*lifetimes, *windows])
        pairs = list(zip(values[: len(computations)], values[len(computations) :], strict=True))
    else:
        pairs = list(zip(*map(declaration.values_of_sums, (lifetimes, windows)), strict=True))
    return [
        computation._in_order([*_reports_of_sums(*pair), *_reports_of_samples(computation)])
        for computation, pair in zip(computations, pairs, strict=True)
    ]


def _reports_of_sums(
    lifetime: Mapping[str, np.ndarray], window: Mapping[str, np.ndarray]
) -> Iterator[MetricComputationReport]:
    for name in {**lifetime, **window}:
        for prefix, values in (MetricPrefix.LIFETIME, lifetime), (MetricPrefix.WINDOW, window):
            if name in values:
                yield _report(name, prefix, values[name])


def _reports_of_samples(computation: Any) -> Iterator[MetricComputationReport]:
    declaration = computation._declared
    if declaration.program.samples:
        names = (*SAMPLE_STATES, *declaration.sample_keys)
        has_any = computation._has_samples()
        held = {name: getattr(computation, name) if has_any else [] for name in names}
        inputs = samples_as_inputs(
            held, computation._n_tasks, declaration.sample_classes, computation._window_size
        )
        values = declaration.values_of_samples(inputs)
        for name, value in values.items():
            yield _report(name, MetricPrefix.WINDOW, value.astype(np.float32))


def _report(name: str, prefix: MetricPrefix, value: np.ndarray) -> MetricComputationReport:
    return MetricComputationReport(_METRIC_NAMES.get(name, name), prefix, from_numpy(value))
