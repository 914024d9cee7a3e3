"""One exchange of arrays between ranks, of torch.distributed or of JAX's multi-process runtime."""

import pickle
from typing import Any

import jax
import numpy as np

from recmetrics_jax.adapter._tensors import torch


def is_distributed() -> bool:
    """Whether there are other ranks to exchange states with."""
    return _has_torch_group() or jax.process_count() > 1


def gather(payload: Any, process_group: Any = None) -> list[Any]:
    """What each rank passed, in order of rank; all ranks of the group must call.

    Args:
        payload: a picklable tree of NumPy arrays; those of ranks may differ in shape.
        process_group: the torch group; None for the default one. It wants torch.distributed to
            be initialized; otherwise JAX's processes are the ranks.

    Raises:
        ValueError: if this rank is not in the group.
    """
    if _has_torch_group():
        if torch.distributed.get_rank(process_group) < 0:
            raise ValueError("process_group: expected a group that this rank is in")
        gathered = [None] * torch.distributed.get_world_size(process_group)
        torch.distributed.all_gather_object(gathered, payload, group=process_group)
        return gathered
    if jax.process_count() > 1:
        return _gather_by_jax(payload)
    return [payload]


def _has_torch_group() -> bool:
    return (
        torch is not None
        and torch.distributed.is_available()
        and torch.distributed.is_initialized()
    )


def _gather_by_jax(payload: Any) -> list[Any]:
    """Two collectives, whatever the payload: the lengths, and the bytes padded to the longest."""
    from jax.experimental import multihost_utils

    data = np.frombuffer(pickle.dumps(payload), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.array(data.size, np.int32)))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: data.size] = data
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [
        pickle.loads(row[:length].tobytes())
        for row, length in zip(rows, lengths.tolist(), strict=True)
    ]
