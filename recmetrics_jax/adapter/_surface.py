"""What is used of torchmetrics' ``Metric`` on a computation, without torchmetrics.

Where torchmetrics is imported before a computation is made, ``isinstance(computation,
torchmetrics.Metric)`` is true: computations are registered with its abstract base class.
"""

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax

from recmetrics_jax.adapter._distributed import function_of, gather, is_distributed
from recmetrics_jax.adapter._module import RecMetricException, is_standard, standard
from recmetrics_jax.adapter._states import States
from recmetrics_jax.adapter._tensors import Tensor, as_dtype, to_numpy, torch

S = TypeVar("S", bound="Surface")

Gather = Callable[..., list[Tensor]]
"""``gather(array, group=...)`` gives the arrays of all ranks."""

_FLAGS = {
    "compute_on_cpu": False,
    "dist_sync_on_step": False,
    "sync_on_compute": True,
    "compute_with_cache": True,
}
_FUNCTIONS = ("dist_sync_fn", "distributed_available_fn")


class Surface(States):
    """States with the methods and attributes that metrics of torchmetrics have.

    A computation is equal to itself alone, and is hashed so, whatever its states are.

    Args:
        window_size: examples in the window, 0 for no window.
        process_group: the ranks to merge with; None for all.
        keywords: keyword arguments, out of which those of torchmetrics are taken:
            ``dist_sync_fn``, ``distributed_available_fn``, ``sync_on_compute`` and
            ``dist_sync_on_step``; ``compute_on_cpu`` and ``compute_with_cache`` make no difference.

    Raises:
        ValueError: if one of them is not a boolean, or a function or None.
    """

    is_differentiable: bool | None = None
    higher_is_better: bool | None = None
    full_state_update: bool | None = None

    dist_sync_fn: Gather | None
    """What gathers states in place of the exchange between ranks."""
    distributed_available_fn: Callable[[], bool] | None
    """Whether there are ranks to gather from; None for what torch.distributed or JAX says."""
    dist_sync_on_step: bool
    """Whether the values that a call gives are of all ranks."""

    def __init__(
        self, window_size: int, process_group: Any, keywords: dict[str, Any] | None = None
    ) -> None:
        super().__init__(window_size, process_group)
        keywords = {} if keywords is None else keywords
        self._update_count = 0
        self._forward_cache: Any = None
        self._computed: Any = None
        for name, default in _FLAGS.items():
            value = keywords.pop(name, default)
            if not isinstance(value, bool):
                raise ValueError(f"Expected keyword argument `{name}` to be a `bool`, got {value}")
            setattr(self, name, value)
        for name in _FUNCTIONS:
            value = keywords.pop(name, None)
            if value is not None and not callable(value):
                raise ValueError(
                    f"Expected keyword argument `{name}` to be a function, got {value}"
                )
            setattr(self, name, value)
        _register()

    def note_update(self) -> None:
        """Counts an update."""
        vars(self)["_update_count"] += 1

    @property
    def update_count(self) -> int:
        """The updates since the last reset."""
        return self._update_count

    @property
    def update_called(self) -> bool:
        """Whether there has been an update since the last reset."""
        return self._update_count > 0

    _update_called = update_called

    @property
    def metric_state(self) -> dict[str, Any]:
        """The states by name, those of windows too."""
        return {name: getattr(self, name) for name in self._defaults}

    @property
    def device(self) -> Any:
        """The CPU, where the states are."""
        return "cpu" if torch is None else torch.device("cpu")

    @property
    def sync_on_compute(self) -> bool:
        """Whether values are of all ranks."""
        return self._to_sync

    @sync_on_compute.setter
    def sync_on_compute(self, value: bool) -> None:
        vars(self)["_to_sync"] = value

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Takes in a batch, as ``update`` does, and gives the values of it alone.

        ``update`` is called twice. What windows hold stays.

        Raises:
            RecMetricException: if the states are those of all ranks.
        """
        if self._is_synced:
            raise RecMetricException(
                "The Metric shouldn't be synced when performing ``forward``: call ``unsync`` first"
            )
        self.update(*args, **kwargs)
        with self._afresh():
            self.update(*args, **kwargs)
            values = self.compute()
        self._forward_cache = values
        return values

    if torch is None:

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """`forward`."""
            return self.forward(*args, **kwargs)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Takes in a batch."""
        raise NotImplementedError

    def compute(self) -> Any:
        """The values."""
        raise NotImplementedError

    @contextlib.contextmanager
    def _afresh(self) -> Iterator[None]:
        """A scope in which nothing has come in yet, and values are as of a step."""
        windows = self._batch_window_buffers
        names = (*(self._defaults.keys() - self._windows.keys()), "_num_samples", "_update_count")
        kept = {name: getattr(self, name) for name in (*names, "_to_sync")}
        if windows is not None:  # First: a reset assigns to the sums of windows.
            self._batch_window_buffers = {name: x.empty() for name, x in self._windows.items()}
        try:
            self.reset()
            self._to_sync = self.dist_sync_on_step
            yield
        finally:
            self._batch_window_buffers = windows
            self._set_states(kept)

    def reset(self) -> None:
        """Sets all states to what they were before the first update."""
        super().reset()
        self._update_count, self._forward_cache, self._computed = 0, None, None

    def clone(self: S) -> S:
        """A copy that shares nothing."""
        return copy.deepcopy(self)

    def persistent(self, mode: bool = False) -> None:
        """Says of all states, those of windows too, whether they go into state dicts."""
        self._persistent.update(dict.fromkeys(self._persistent, mode))

    def set_dtype(self: S, dst_type: Any) -> S:
        """Gives all states that are floats another dtype.

        Args:
            dst_type: a dtype of torch, or where there is no torch, of NumPy.

        Returns:
            The computation itself. Values are computed in float64 still, and so are windows.
        """

        def converted(state: Any) -> Any:
            return jax.tree.map(lambda x: as_dtype(x, dst_type), state)

        for name in self._defaults.keys() - self._windows.keys():
            self._defaults[name] = converted(self._defaults[name])
            setattr(self, name, converted(getattr(self, name)))
        return self

    def type(self: S, dst_type: Any) -> S:
        """The computation itself: only `set_dtype` changes dtypes."""
        return self

    def float(self: S) -> S:
        """The computation itself: only `set_dtype` changes dtypes."""
        return self

    double = half = bfloat16 = float

    @standard
    def sync(
        self,
        dist_sync_fn: Gather | None = None,
        process_group: Any = None,
        should_sync: bool = True,
        distributed_available: Callable[[], bool] | None = None,
    ) -> None:
        """Replaces the states by those of all ranks, until `unsync`; all must call.

        Args:
            dist_sync_fn: what gathers states; None for that of the computation.
            process_group: the ranks; None for those of the computation.
            should_sync: False does nothing.
            distributed_available: whether there are ranks; None for what the computation says.

        Raises:
            RecMetricException: if they are already.
        """
        is_available = distributed_available or self.distributed_available_fn or is_distributed
        if not should_sync or not is_available():
            return
        if self._is_synced:
            raise RecMetricException("The Metric has already been synced.")
        by, group = dist_sync_fn or self.dist_sync_fn, process_group or self.process_group
        of_ranks = self._gathered(by, group) if by else gather(self.payload_for_ranks(), group)
        self.take_merged(of_ranks)

    @property
    def is_merged_like_others(self) -> bool:
        """Whether neither a function of its own gathers the states, nor says whether to."""
        functions = self.dist_sync_fn, self.distributed_available_fn
        return functions == (None, None) and is_standard(self.sync)

    def _gathered(self, by: Gather, group: Any) -> list[Mapping[str, Any]]:
        """The states of all ranks, by a function of one array."""
        gathered: dict[str, Any] = {}
        for name, state in self.metric_state.items():
            parts = self._joined(name, state) if isinstance(state, list) else [state]
            of_parts = [[to_numpy(x) for x in by(part, group=group)] for part in parts]
            by_rank = zip(*of_parts, strict=True)
            gathered[name] = [list(x) if isinstance(state, list) else x[0] for x in by_rank]
        n_ranks = max(map(len, gathered.values()), default=0)
        # Of lists, what is there tells how many examples there are.
        return [
            {"_num_samples": 0, **{name: x[rank] if x else [] for name, x in gathered.items()}}
            for rank in range(n_ranks)
        ]

    def _joined(self, name: str, chunks: list[Tensor]) -> list[Tensor]:
        """Chunks as few: ranks may have more or fewer of them."""
        reduce = function_of(self._reductions[name])
        if reduce is None or not chunks:
            return chunks
        joined = reduce(chunks)
        return joined if isinstance(joined, list) else [joined]

    @contextlib.contextmanager
    def sync_context(
        self,
        dist_sync_fn: Gather | None = None,
        process_group: Any = None,
        should_sync: bool = True,
        should_unsync: bool = True,
        distributed_available: Callable[[], bool] | None = None,
    ) -> Iterator[None]:
        """A scope with the states of all ranks; see `sync`.

        Args:
            dist_sync_fn: as of `sync`.
            process_group: as of `sync`.
            should_sync: as of `sync`.
            should_unsync: whether the states of this rank come back.
            distributed_available: as of `sync`.
        """
        self.sync(dist_sync_fn, process_group, should_sync, distributed_available)
        try:
            yield
        finally:
            self.unsync(should_unsync)

    def _filter_kwargs(self, **kwargs: Any) -> dict[str, Any]:
        """All of them: an update takes what it does not use."""
        return kwargs


def _register() -> None:
    """Makes computations metrics of torchmetrics, if that has been imported."""
    metric = getattr(sys.modules.get("torchmetrics"), "Metric", None)
    if metric is not None:
        metric.register(Surface)
