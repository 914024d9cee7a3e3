"""The states of a computation: lifetime and window, how they merge across ranks and are saved."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from recmetrics_jax.adapter import _distributed
from recmetrics_jax.adapter._module import Module
from recmetrics_jax.adapter._tensors import (
    NATIVE,
    Tensor,
    as_kind,
    concatenate,
    copy,
    from_numpy,
    kind_of,
    nbytes,
    stack,
    to_numpy,
)
from recmetrics_jax.adapter._window import StateWindow


class RecMetricException(Exception):  # noqa: N818 - the documented name
    """A metric was used in a way that it does not allow."""


class States(Module):
    """Named arrays, and lists of arrays, that are attributes of the module.

    Args:
        window_size: examples in the window, 0 for no window.
        process_group: the ranks to merge with; None for all.
    """

    def __init__(self, window_size: int, process_group: Any) -> None:
        super().__init__()
        self._window_size = window_size
        self.process_group = process_group
        self._batch_window_buffers: Any = {} if window_size > 0 else None
        self._defaults: dict[str, Any] = {}
        self._persistent: dict[str, bool] = {}
        self._reductions: dict[str, str | Callable[[Any], Any] | None] = {}
        self._is_synced = False
        self._to_sync = True
        self._cache: dict[str, Any] = {}
        self._is_updating = False
        self._num_samples = 0

    def _add_state(self, name: str, default: Any, add_window_state: bool, **kwargs: Any) -> None:
        """Adds a state, and its twin for the window.

        Args:
            name: the name of the attribute; that of the twin is ``window_<name>``.
            default: what it is before the first update: an array, or a list of arrays.
            add_window_state: whether there is a twin; it never goes into checkpoints.
            **kwargs: ``dist_reduce_fx`` and ``persistent``, as in `add_state`.

        Raises:
            RuntimeError: if a twin is asked for where ``window_size`` is 0.
        """
        self.add_state(name, default, **kwargs)
        if add_window_state:
            if self._batch_window_buffers is None:
                raise RuntimeError("Failed to add the window state: window metric is disabled.")
            window_name = self.get_window_state_name(name)
            window = StateWindow(copy(default), self._window_size)
            self._batch_window_buffers[window_name] = window
            self.add_state(window_name, default, **{**kwargs, "persistent": False})

    def add_state(
        self,
        name: str,
        default: Any,
        dist_reduce_fx: str | Callable[[Any], Any] | None = None,
        persistent: bool = False,
    ) -> None:
        """Adds a state without a window.

        Args:
            name: the name of the attribute.
            default: what it is before the first update: an array, or a list of arrays.
            dist_reduce_fx: how the states of ranks become one: ``"sum"``, ``"mean"``, ``"max"``,
                ``"min"``, ``"cat"``, a function of what all ranks have, stacked (of lists:
                joined), or None for that itself.
            persistent: whether it goes into the state dict.

        Raises:
            ValueError: if ``name`` or ``dist_reduce_fx`` is not as above.
        """
        if not name.isidentifier():
            raise ValueError(f"name: expected a valid name of an attribute, got {name!r}")
        is_known = dist_reduce_fx is None or callable(dist_reduce_fx)
        if not is_known and dist_reduce_fx not in _REDUCTIONS:
            raise ValueError(
                f"dist_reduce_fx: expected one of {sorted(_REDUCTIONS)}, a function or None, "
                f"got {dist_reduce_fx!r}"
            )
        self._defaults[name] = _copied(default)
        self._persistent[name] = persistent
        self._reductions[name] = dist_reduce_fx
        setattr(self, name, _copied(default))

    def __getattr__(self, name: str) -> Any:
        """The sum of a window, which is no attribute of its own but of the window."""
        windows = self.__dict__.get("_batch_window_buffers") or {}
        return windows[name].sum if name in windows else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        windows = self.__dict__.get("_batch_window_buffers") or {}
        if name in windows:
            windows[name].sum = value
        else:
            super().__setattr__(name, value)

    @staticmethod
    def get_window_state_name(state_name: str) -> str:
        """The name of the window twin of a state."""
        return f"window_{state_name}"

    def get_window_state(self, state_name: str) -> Tensor:
        """The window twin of a state.

        Raises:
            AttributeError: if it has none.
        """
        return getattr(self, self.get_window_state_name(state_name))

    def _aggregate_window_state(self, state_name: str, state: Tensor, num_samples: int) -> None:
        """Adds what an update of ``num_samples`` examples contributes to the window of a state."""
        if self._batch_window_buffers is None:
            raise RuntimeError("Failed to aggregate window state: window metric is disabled.")
        window_name = self.get_window_state_name(state_name)
        kind = kind_of(self._defaults[window_name])
        contribution = copy(state) if kind_of(state) == kind else as_kind(state, kind)
        self._batch_window_buffers[window_name].push(contribution, num_samples)

    def reset(self) -> None:
        """Sets all states to what they were before the first update."""
        self._is_synced, self._cache, self._num_samples = False, {}, 0
        for name, default in self._defaults.items():
            setattr(self, name, _copied(default))
        for name, window in self._windows.items():
            self._batch_window_buffers[name] = window.empty()

    def sync(self) -> None:
        """Replaces the states by those of all ranks, until `unsync`; all must call.

        Raises:
            RecMetricException: if they are already.
        """
        merge_states([self])

    def unsync(self) -> None:
        """Restores the states of this rank, if `sync` replaced them."""
        if self._is_synced:
            self._set_states(self._cache)
            self._is_synced, self._cache = False, {}

    @property
    def _windows(self) -> dict[str, StateWindow]:
        """The windows by the names of their states; empty where windows are disabled."""
        return self._batch_window_buffers or {}

    def _states(self) -> dict[str, Any]:
        """All that is merged across ranks; of windows their sums."""
        return {name: getattr(self, name) for name in (*self._defaults, "_num_samples")}

    def _set_states(self, states: Mapping[str, Any]) -> None:
        for name, state in states.items():
            setattr(self, name, state)

    def payload_for_ranks(self) -> dict[str, Any]:
        """The states as they are sent to other ranks."""
        return {
            name: [to_numpy(x) for x in state] if isinstance(state, list) else to_numpy(state)
            for name, state in self._states().items()
        }

    def take_merged(self, payloads: Sequence[Mapping[str, Any]]) -> None:
        """Takes over the states of all ranks, in order of rank, until `unsync`."""
        merged = {name: self._merged(name, [p[name] for p in payloads]) for name in self._defaults}
        merged["_num_samples"] = sum(int(payload["_num_samples"]) for payload in payloads)
        self._cache, self._is_synced = self._states(), True
        self._set_states(merged)

    def _merged(self, name: str, of_ranks: list[Any]) -> Any:
        default, fx = self._defaults[name], self._reductions[name]
        reduce = _REDUCTIONS[fx] if isinstance(fx, str) else fx
        if isinstance(default, list):
            kind = kind_of(default[0]) if default else NATIVE
            chunks = [from_numpy(np.array(x), kind) for of_rank in of_ranks for x in of_rank]
            return reduce(chunks) if reduce is not None and chunks else chunks or _copied(default)
        local = getattr(self, name)
        arrays = [as_kind(x, kind_of(default)) for x in of_ranks]
        if kind_of(local) == "torch":  # bfloat16 has been sent as float32.
            arrays = [array.to(local.dtype) for array in arrays]
        return stack(arrays) if reduce is None else reduce(stack(arrays))

    @property
    def is_merged(self) -> bool:
        """Whether the states are those of all ranks."""
        return self._is_synced

    @property
    def to_merge(self) -> bool:
        """Whether values want the states of all ranks, and these are not yet."""
        return self._to_sync and not self._is_synced

    @contextlib.contextmanager
    def local_states(self) -> Iterator[None]:
        """A scope with the states of this rank in place, even where `sync` replaced them."""
        if not self._is_synced:
            yield
            return
        merged = self._states()
        self._set_states(self._cache)
        try:
            yield
        finally:
            self._cache = self._states()
            self._set_states(merged)

    @contextlib.contextmanager
    def updating(self) -> Iterator[None]:
        """A scope on the states of this rank, which are as they were if it fails.

        Inside one, another is no scope of its own.
        """
        if self._is_updating:
            yield
            return
        self._is_updating = True
        try:
            with self.local_states():
                restore = self._restorer()
                try:
                    yield
                except BaseException:
                    restore()
                    raise
        finally:
            self._is_updating = False

    def _restorer(self) -> Callable[[], None]:
        """A function that puts back all that an update may change."""
        windows = {name: window.copy() for name, window in self._windows.items()}
        states: dict[str, Any] = {"_num_samples": self._num_samples}
        for name in self._defaults.keys() - windows.keys():
            state = getattr(self, name)
            states[name] = list(state) if isinstance(state, list) else copy(state)

        def restore() -> None:
            self._windows.update(windows)
            self._set_states(states)

        return restore

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, persistent in self._persistent.items():
            if persistent:
                destination[prefix + name] = _copied(getattr(self, name))

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        for name in self._persistent:
            key = prefix + name
            if key not in state_dict:
                continue
            if key in unexpected_keys:
                unexpected_keys.remove(key)
            default, state = self._defaults[name], state_dict[key]
            if isinstance(default, list):
                setattr(self, name, [copy(x) for x in state])
            elif np.shape(state) != np.shape(default):
                error_msgs.append(
                    f"{key}: expected shape {np.shape(default)}, got {np.shape(state)}"
                )
            else:
                setattr(self, name, self.loaded_state(state, default))

    def loaded_state(self, state: Any, default: Tensor) -> Tensor:
        """A state of a state dict as it is taken over, in its own dtype."""
        return as_kind(state, kind_of(default))

    def held_tensors(self) -> Iterator[Tensor]:
        """All arrays that the computation holds, for counting their bytes."""
        for held in (self._defaults, self._states()):
            for name in self._defaults:
                state = held[name]
                yield from state if isinstance(state, list) else [state]
        for window in self._windows.values():
            yield from window.buffers

    def held_bytes(self) -> int:
        """The bytes of all these arrays, without going through each contribution to a window."""
        windows = self._windows
        # A sum is as large as its default, and need not be added up.
        states = [self._defaults[n] if n in windows else getattr(self, n) for n in self._defaults]
        held = sum(map(nbytes, (*self._defaults.values(), *states)))
        return held + sum(window.nbytes for window in windows.values())


class Updated(Protocol):
    """A computation, or a metric of some."""

    def updating(self) -> contextlib.AbstractContextManager[None]:
        """A scope that leaves it as it was if it fails."""
        ...


@contextlib.contextmanager
def all_or_nothing(of: Sequence[Updated]) -> Iterator[None]:
    """A scope that leaves all as they were if it fails."""
    with contextlib.ExitStack() as scopes:
        for each in of:
            scopes.enter_context(each.updating())
        yield


@contextlib.contextmanager
def synced(computations: Sequence[States]) -> Iterator[None]:
    """A scope in which computations hold the states of all ranks."""
    waiting = [computation for computation in computations if computation.to_merge]
    merge_states(waiting)
    try:
        yield
    finally:
        for computation in waiting:
            computation.unsync()


def merge_states(computations: Sequence[States]) -> None:
    """`States.sync` of several, in one exchange for each process group."""
    if not _distributed.is_distributed():
        return
    if any(computation.is_merged for computation in computations):
        raise RecMetricException("The Metric has already been synced.")
    groups: dict[int, list[States]] = {}
    for computation in computations:
        groups.setdefault(id(computation.process_group), []).append(computation)
    for of_group in groups.values():
        payload = [computation.payload_for_ranks() for computation in of_group]
        gathered = _distributed.gather(payload, of_group[0].process_group)
        for i, computation in enumerate(of_group):
            computation.take_merged([of_rank[i] for of_rank in gathered])


def _copied(state: Any) -> Any:
    return [copy(x) for x in state] if isinstance(state, list) else copy(state)


def joined_samples(chunks: list[Tensor]) -> list[Tensor]:
    """Examples of all ranks, as one list of one array."""
    return [concatenate(chunks, axis=1)]


_REDUCTIONS: dict[str, Callable[[Any], Any]] = {
    # Of states that are no lists, the stack is left as it is, as in the reference.
    "cat": lambda x: concatenate(x, axis=0) if isinstance(x, list) else x,
    "max": lambda x: x.amax(0) if kind_of(x) == "torch" else x.max(0),
    "mean": lambda x: x.mean(0),
    "min": lambda x: x.amin(0) if kind_of(x) == "torch" else x.min(0),
    "sum": lambda x: x.sum(0),
}
