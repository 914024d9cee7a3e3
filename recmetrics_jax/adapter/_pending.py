"""Batches that wait to be taken in as one, for ``fused_update_limit``."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recmetrics_jax.adapter._inputs import ones_like
from recmetrics_jax.adapter._tensors import Tensor, concatenate, copy, kind_of, to_numpy


def kept(x: Any) -> Any:
    """A copy of an argument of `RecMetric.update`."""
    if isinstance(x, Mapping):
        return {name: kept(value) for name, value in x.items()}
    return None if x is None else copy(x if kind_of(x) == "torch" else to_numpy(x))


def arrays_in(x: Any) -> Iterator[Tensor]:
    if isinstance(x, Mapping):
        for value in x.values():
            yield from arrays_in(value)
    elif x is not None:
        yield x


def concatenated(batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Batches one after another, as arguments of one update."""
    if any(batch["weights"] is not None for batch in batches):
        batches = [{**batch, "weights": _weights_of(batch)} for batch in batches]
    return {name: _joined([batch[name] for batch in batches]) for name in batches[0]}


def _joined(parts: Sequence[Any]) -> Any:
    """Arrays, or arrays by name, one after another; None if there are none."""
    if parts[0] is None:
        return None
    if isinstance(parts[0], Mapping):
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: _joined([part[name] for part in parts if name in part]) for name in names}
    return concatenate(parts, axis=0)


def _weights_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of a batch by task, ones if it came without."""
    if batch["weights"] is not None:
        return batch["weights"]
    return {
        task: ones_like(batch["labels"][task], predictions)
        for task, predictions in batch["predictions"].items()
    }
