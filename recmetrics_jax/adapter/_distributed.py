"""One exchange of arrays between ranks, of torch.distributed or of JAX's multi-process runtime."""

import pickle
from typing import Any

import jax
import numpy as np

from recmetrics_jax.adapter._tensors import torch

PART = 1 << 28
"""Bytes that ranks send at once: states may be larger than what 32 bits count, and than buffers."""


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
    """One collective for the lengths, and one for each `PART` of the longest payload's bytes."""
    from jax.experimental import multihost_utils

    data = np.frombuffer(pickle.dumps(payload), np.uint8)
    # As quotient and rest: without x64, JAX has no integers of more than 32 bits.
    lengths = np.asarray(
        multihost_utils.process_allgather(np.array(divmod(data.size, PART), np.int32))
    )
    sizes = [quotient * PART + rest for quotient, rest in lengths.tolist()]
    received = [bytearray() for _ in sizes]
    for start in range(0, max(sizes), PART):
        mine = data[start : start + PART]
        padded = np.zeros(min(max(sizes) - start, PART), np.uint8)
        padded[: mine.size] = mine
        rows = np.asarray(multihost_utils.process_allgather(padded))
        for of_rank, row, size in zip(received, rows, sizes, strict=True):
            of_rank += row[: max(size - start, 0)].tobytes()
    return [pickle.loads(of_rank) for of_rank in received]
