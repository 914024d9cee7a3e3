"""Updates of metrics that are declared by factories: one compiled call for all of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from recmetrics_jax.adapter._computation import HAS_VALID_UPDATE, RecMetricComputation
from recmetrics_jax.adapter._declared import Contributions, Declaration, Shared, share
from recmetrics_jax.adapter._inputs import TaskBatch, host_inputs, shape_of
from recmetrics_jax.adapter._tensors import from_numpy, kind_of, to_numpy


def flag_valid(computation: RecMetricComputation, batch: TaskBatch) -> None:
    """Notes a valid update; with fused tasks, for those that have a weight other than zero."""
    if not computation._should_validate_update:
        return
    n_tasks = shape_of(batch.labels)[0]
    is_valid = np.ones(n_tasks, bool)
    if batch.weights is not None:
        is_valid = np.any(to_numpy(batch.weights), axis=1)
    with computation._local_states():
        flags = getattr(computation, HAS_VALID_UPDATE)
        flags |= from_numpy(is_valid.astype(np.uint8), kind_of(flags))


def planned(
    metrics: Sequence[Any],
    batches: Sequence[TaskBatch],
    required_inputs: Mapping[str, Any],
    held: dict[tuple[Declaration, ...], Shared],
) -> Callable[[], None]:
    """An update of declared metrics of the same tasks, by one compiled call, ready to be made.

    What can fail fails here; the function that is returned changes the states.

    Args:
        metrics: the metrics.
        batches: the examples of tasks.
        required_inputs: further arrays by name.
        held: what the caller has used of `share`, which this adds to: it is compiled as long as
            somebody holds it.
    """
    targets = [
        (metric._metrics_computations[batch.first], batch)
        for metric in metrics
        for batch in batches
    ]
    if not targets:
        return lambda: None
    declarations = tuple(dict.fromkeys(computation._declared for computation, _ in targets))
    if declarations not in held:
        held[declarations] = share(declarations)
    together = held[declarations]
    for computation, batch in targets:
        if together.keys or computation._keeps_samples:
            computation._check_given(batch.predictions, True, required_inputs)
            computation._check_classes(batch.predictions)
    inputs = host_inputs(batches, required_inputs, together.keys, len(metrics[0]._tasks))
    contributions = Contributions(together, inputs)

    def update() -> None:
        for computation, batch in targets:
            rows = slice(batch.first, batch.first + shape_of(batch.labels)[0])
            computation._contribute(contributions, rows)
            flag_valid(computation, batch)

    return update
