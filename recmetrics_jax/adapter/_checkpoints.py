"""Checkpoints of other times and of other lists of metrics, as those of this one."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

logger: logging.Logger = logging.getLogger(__name__)

States = frozenset[tuple[str, tuple[int, ...]]]
"""The states of a metric: their names, that of the task's computation before, and shapes."""

_KEY = re.compile(r"rec_metrics\.(\d+)\.(_metrics_computations\..+)")


def of_shape(state: Any, shape: Sequence[int]) -> Any:
    """A saved state; one number, which may have been saved as ``[]`` or ``[1]``, of that shape.

    >>> of_shape(np.array(3.0), (1,)), of_shape(np.ones(1), (2,))
    (array([3.]), array([1.]))
    """
    if {np.shape(state), tuple(shape)} != {(), (1,)}:
        return state
    return state.reshape(shape) if hasattr(state, "reshape") else np.reshape(state, shape)


def without_counter(state_dict: dict[str, Any], prefix: str, unexpected_keys: list[str]) -> None:
    """Takes the number of trained batches out, which old checkpoints have."""
    key = f"{prefix}_trained_batches"
    if key in state_dict:
        del state_dict[key]
        if key in unexpected_keys:
            unexpected_keys.remove(key)
        logger.warning("%s is of an older version, and left out of what is loaded", key)


def states_of(named: Iterable[tuple[str, Any]]) -> States:
    """The names and shapes of states; one number is of one shape, however it was saved."""
    return frozenset(
        (name, (-1,) if isinstance(state, list) else np.shape(state) or (1,))
        for name, state in named
    )


def with_moved_metrics(
    state_dict: dict[str, Any],
    prefix: str,
    metrics: Sequence[States],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """Renames the states of metrics that lie at other places of a list than they did when saved.

    They are told by the names and shapes of their states. Where each metric has states that it
    could have at its own place, nothing is renamed.

    Args:
        state_dict: what is loaded; changed in place.
        prefix: of the list's keys.
        metrics: the persistent states of each metric of the list, in order.
        unexpected_keys: gains the keys of metrics that the list does not have.
        error_msgs: gains a message if two metrics could have written the same states.
    """
    saved: dict[int, dict[str, Any]] = {}
    for key, state in state_dict.items():
        if key.startswith(prefix) and (match := _KEY.fullmatch(key, len(prefix))):
            saved.setdefault(int(match[1]), {})[match[2]] = state
    found = {place: states_of(by_name.items()) for place, by_name in saved.items()}
    if all(place < len(metrics) and of <= metrics[place] for place, of in found.items()):
        return
    places = {place: [i for i, of in enumerate(metrics) if of == found[place]] for place in found}
    if not any(places.values()):
        return  # These are of something else, as loading them will tell.
    for place, candidates in places.items():
        others = [p for p in found if p != place and found[p] == found[place]]
        if len(candidates) > 1 or (candidates and others):
            for key in [
                k for k in state_dict if k.startswith(prefix) and _KEY.fullmatch(k, len(prefix))
            ]:
                del state_dict[key]
            error_msgs.append(
                f"{prefix}rec_metrics: expected states of these metrics at their places in the "
                f"list, got others, and those at {sorted([place, *others])} could be of any of "
                f"{candidates}: order the list as it was when they were saved"
            )
            return
    _rename(state_dict, prefix, saved, places, unexpected_keys)


def _rename(
    state_dict: dict[str, Any],
    prefix: str,
    saved: Mapping[int, Mapping[str, Any]],
    places: Mapping[int, Sequence[int]],
    unexpected_keys: list[str],
) -> None:
    """Moves what was saved at a place to the one it has now, or among what is unexpected."""
    # Where modules are plain, all keys are unexpected until they are loaded; in torch, none.
    keys = {
        place: [f"{prefix}rec_metrics.{place}.{name}" for name in by_name]
        for place, by_name in saved.items()
    }
    are_named = all(key in unexpected_keys for of_place in keys.values() for key in of_place)
    for key in (key for of_place in keys.values() for key in of_place):
        del state_dict[key]
        if are_named:
            unexpected_keys.remove(key)
    for place, by_name in saved.items():
        if not places[place]:
            unexpected_keys += keys[place]
            continue
        (now,) = places[place]
        moved_states = {f"{prefix}rec_metrics.{now}.{name}": x for name, x in by_name.items()}
        state_dict |= moved_states
        if are_named:
            unexpected_keys += moved_states
    moved = {place: now[0] for place, now in places.items() if now}
    logger.info("metrics were at other places of the list when they were saved: %s", moved)
