"""Ranks: the exchange of their states, and how these become one.

They are those of torch.distributed, or of JAX's multi-process runtime.
"""

import contextlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from recmetrics_jax.adapter._module import RecMetricException
from recmetrics_jax.adapter._tensors import (
    NATIVE,
    Tensor,
    as_kind,
    concatenate,
    from_numpy,
    kind_of,
    stack,
    torch,
)

if TYPE_CHECKING:
    from recmetrics_jax.adapter._states import States
    from recmetrics_jax.adapter._surface import Surface

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


@contextlib.contextmanager
def synced(computations: "Sequence[Surface]") -> Iterator[None]:
    """A scope in which computations hold the states of all ranks."""
    waiting = [computation for computation in computations if computation.to_merge]
    sync(waiting)
    try:
        yield
    finally:
        for computation in waiting:
            computation.unsync()


def sync(computations: "Sequence[Surface]") -> None:
    """`Surface.sync` of several, at once but for those that have a way of their own."""
    merge_states([each for each in computations if each.is_merged_like_others])
    for each in computations:
        if not each.is_merged_like_others:
            each.sync()


def merge_states(computations: "Sequence[Surface]") -> None:
    """What `Surface.sync` does, for several in one exchange for each process group."""
    if not is_distributed():
        return
    if any(computation.is_merged for computation in computations):
        raise RecMetricException("The Metric has already been synced.")
    for computation, of_ranks in states_of_ranks(computations):
        computation.take_merged(of_ranks)


def states_of_ranks(
    computations: "Sequence[States]", process_group: Any = None
) -> "Iterator[tuple[States, list[Any]]]":
    """Each computation with what all ranks of its group, or of the one given, have of its states.

    There is one exchange for each group.
    """
    groups: dict[int, tuple[Any, list[States]]] = {}
    for computation in computations:
        group = computation.process_group if process_group is None else process_group
        groups.setdefault(id(group), (group, []))[1].append(computation)
    for group, of_group in groups.values():
        payload = [computation.payload_for_ranks() for computation in of_group]
        gathered = gather(payload, group)
        for i, computation in enumerate(of_group):
            yield computation, [of_rank[i] for of_rank in gathered]


def cpu_group(process_group: Any = None) -> Any:
    """A group of the same ranks, for exchanges on the CPU beside those of the model.

    All ranks must call; None where there is no group of torch.
    """
    if not _has_torch_group():
        return None
    if process_group is None:
        return torch.distributed.new_group(backend="gloo")
    ranks = torch.distributed.get_process_group_ranks(process_group)
    return torch.distributed.new_group(ranks, backend="gloo", use_local_synchronization=True)


def has_jax_ranks() -> bool:
    """Whether the ranks are JAX's processes, whose collectives must be in one order in all."""
    return not _has_torch_group() and jax.process_count() > 1


def merged_state(default: Any, local: Any, reduction: Any, of_ranks: list[Any]) -> Any:
    """A state of all ranks: what they have, stacked, or of lists joined, and reduced."""
    reduce = function_of(reduction)
    if isinstance(default, list):
        kind = kind_of(default[0]) if default else NATIVE
        chunks = [from_numpy(np.array(x), kind) for of_rank in of_ranks for x in of_rank]
        return reduce(chunks) if reduce is not None and chunks else chunks or default[:]
    arrays = [as_kind(x, kind_of(default)) for x in of_ranks]
    if kind_of(local) == "torch":  # bfloat16 has been sent as float32.
        arrays = [array.to(local.dtype) for array in arrays]
    return stack(arrays) if reduce is None else reduce(stack(arrays))


def function_of(reduction: Any) -> Callable[[Any], Any] | None:
    """The function that a reduction is, or names; None if the states of ranks are not reduced."""
    return REDUCTIONS[reduction] if isinstance(reduction, str) else reduction


def joined_samples(chunks: list[Tensor]) -> list[Tensor]:
    """Examples of all ranks, as one list of one array."""
    return [concatenate(chunks, axis=1)]


REDUCTIONS: dict[str, Callable[[Any], Any]] = {
    # Of states that are no lists, the stack is left as it is, as in the reference.
    "cat": lambda x: concatenate(x, axis=0) if isinstance(x, list) else x,
    "max": lambda x: x.amax(0) if kind_of(x) == "torch" else x.max(0),
    "mean": lambda x: x.mean(0),
    "min": lambda x: x.amin(0) if kind_of(x) == "torch" else x.min(0),
    "sum": lambda x: x.sum(0),
}
