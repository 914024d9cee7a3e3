"""The states of a computation: lifetime and window, how they merge across ranks and are saved."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from recmetrics_jax.adapter._checkpoints import of_shape
from recmetrics_jax.adapter._distributed import REDUCTIONS, merged_state
from recmetrics_jax.adapter._module import Module, standard
from recmetrics_jax.adapter._tensors import Tensor, as_kind, copy, kind_of, nbytes, to_numpy
from recmetrics_jax.adapter._window import StateWindow


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
        if not is_known and dist_reduce_fx not in REDUCTIONS:
            raise ValueError(
                f"dist_reduce_fx: expected one of {sorted(REDUCTIONS)}, a function or None, "
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

    @standard
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

    def unsync(self, should_unsync: bool = True) -> None:
        """Restores the states of this rank, if `sync` replaced them."""
        if self._is_synced and should_unsync:
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
        return jax.tree.map(to_numpy, self._states())

    def merged(self, payloads: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The states of all ranks, of what each has sent, in order of rank."""
        return {
            name: merged_state(
                default, getattr(self, name), self._reductions[name], [p[name] for p in payloads]
            )
            for name, default in self._defaults.items()
        }

    def take_merged(self, payloads: Sequence[Mapping[str, Any]]) -> None:
        """Takes over the states of all ranks, in order of rank, until `unsync`."""
        merged = self.merged(payloads)
        merged["_num_samples"] = sum(int(payload["_num_samples"]) for payload in payloads)
        self._cache, self._is_synced = self._states(), True
        self._set_states(merged)

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
        """A scope with the states of this rank in place, even where `sync` replaced them.

        Inside `updating` they are in place already.
        """
        if not self._is_synced or self._is_updating:
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
        with self.local_states():
            windows = {name: window.copy() for name, window in self._windows.items()}
            kept: dict[str, Any] = {"_num_samples": self._num_samples}
            for name in self._defaults.keys() - windows.keys():
                state = getattr(self, name)
                kept[name] = state[:] if isinstance(state, list) else copy(state)
            self._is_updating = True
            try:
                yield
            except BaseException:
                self._windows.update(windows)
                self._set_states(kept)
                raise
            finally:
                self._is_updating = False

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, persistent in self._persistent.items():
            if persistent:
                destination[prefix + name] = _copied(getattr(self, name))

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        *others: Any,
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, *others)
        *_, unexpected_keys, error_msgs = others
        for name in self._persistent:
            key = prefix + name
            if key not in state_dict:
                continue
            if key in unexpected_keys:
                unexpected_keys.remove(key)
            default, state = self._defaults[name], state_dict[key]
            if isinstance(default, list):
                setattr(self, name, [copy(x) for x in state])
                continue
            state = of_shape(state, np.shape(default))
            if np.shape(state) != np.shape(default):
                error_msgs.append(
                    f"{key}: expected shape {np.shape(default)}, got {np.shape(state)}"
                )
            else:
                setattr(self, name, self.loaded_state(state, default))

    def loaded_state(self, state: Any, default: Tensor) -> Tensor:
        """A state of a state dict as it is taken over, in its own dtype."""
        return as_kind(state, kind_of(default))

    @property
    def _default_arrays(self) -> list[Tensor]:
        """What states begin with; what lists do is too little to be counted."""
        return [default for default in self._defaults.values() if not isinstance(default, list)]

    def held_tensors(self) -> list[Tensor]:
        """All arrays that the computation holds, for counting their bytes."""
        states = [getattr(self, name) for name in self._defaults]
        windows = [list(window.buffers) for window in self._windows.values()]
        return jax.tree.leaves([self._default_arrays, states, windows])

    def held_bytes(self) -> int:
        """The bytes of all these arrays, without going through each contribution to a window."""
        windows = self._windows
        # A sum is as large as its default, and need not be added up.
        states = [self._defaults[n] if n in windows else getattr(self, n) for n in self._defaults]
        held = sum(map(nbytes, (*self._default_arrays, *states)))
        return held + sum(window.nbytes for window in windows.values())


@contextlib.contextmanager
def all_or_nothing(scopes: Iterable[contextlib.AbstractContextManager[None]]) -> Iterator[None]:
    """A scope in all of these, `States.updating` of several: if it fails, nothing has changed."""
    with contextlib.ExitStack() as stack:
        for scope in scopes:
            stack.enter_context(scope)
        yield


def _copied(state: Any) -> Any:
    """A copy of an array, or of a list of them."""
    return jax.tree.map(copy, state)
