"""Batches that wait to be taken in as one, for ``fused_update_limit``."""

from collections.abc import Mapping, Sequence
from typing import Any

from recmetrics_jax.adapter._layout import ones_like, shape_of
from recmetrics_jax.adapter._tensors import concatenate, copy, kind_of, to_numpy


def kept(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the arguments of `RecMetric.update` that can be joined with others."""
    names = ("predictions", "labels", "weights", "required_inputs")
    copies = {name: _copied(batch[name]) for name in names if name in batch}
    labels = next(iter(copies["labels"].values()), None)
    required = copies.get("required_inputs")
    if required and labels is not None:  # One number for all examples is so for these alone.
        copies["required_inputs"] = {
            name: x.repeat(shape_of(labels)[0]) if shape_of(x) == (1,) else x
            for name, x in required.items()
        }
    return copies


def _copied(x: Any) -> Any:
    if isinstance(x, Mapping):
        return {name: _copied(value) for name, value in x.items()}
    if x is None:
        return None
    x = copy(x if kind_of(x) == "torch" else to_numpy(x))
    return x.reshape(1) if x.ndim == 0 else x


def concatenated(batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Batches one after another, as arguments of one update."""
    if any(batch["weights"] is not None for batch in batches):
        batches = [{**batch, "weights": _weights_of(batch)} for batch in batches]
    return {name: _joined([batch[name] for batch in batches]) for name in batches[0]}


def _joined(arrays: Sequence[Any]) -> Any:
    """Arrays, or arrays by name, one after another; None if there are none."""
    if arrays[0] is None:
        return None
    if isinstance(arrays[0], Mapping):
        names = dict.fromkeys(name for by_name in arrays for name in by_name)
        return {name: _joined([x[name] for x in arrays if name in x]) for name in names}
    return concatenate(arrays, axis=0)


def _weights_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of a batch by task, ones if it came without."""
    if batch["weights"] is not None:
        return batch["weights"]
    return {
        task: ones_like(batch["labels"][task], predictions)
        for task, predictions in batch["predictions"].items()
    }
