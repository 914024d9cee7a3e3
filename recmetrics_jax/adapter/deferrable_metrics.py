"""Results of metrics, at once or later: a dictionary that may still be on its way.

The class API of torchrec.metrics.deferrable_metrics.
"""

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

import jax

from recmetrics_jax.adapter._tensors import kind_of, torch

logger: logging.Logger = logging.getLogger(__name__)


_PENDING = "these values are being computed"


class DeferrableMetrics(dict[str, Any]):
    """Values by key: a ``dict``, of values that are there or of those that a future will give.

    Whatever is asked of the dictionary waits for them; `subscribe` does not. It is always true,
    also where it is empty.

    Args:
        inner: the values, which are copied, or the future of a dictionary of them.

    >>> later = Future()
    >>> metrics = DeferrableMetrics(later)
    >>> metrics.subscribe(lambda values: print("here:", values["ne"]))
    >>> metrics.is_resolved()
    False
    >>> later.set_result({"ne": 0.5})
    here: 0.5
    >>> metrics["ne"], {**metrics}, isinstance(metrics, dict)
    (0.5, {'ne': 0.5}, True)
    """

    _warned: bool = False
    """Whether it has been said that somebody waits."""

    def __init__(self, inner: Mapping[str, Any] | Future[dict[str, Any]]) -> None:
        is_later = isinstance(inner, Future)
        # Who looks past the methods, as json does for emptiness, is to find no empty dictionary.
        super().__init__({_PENDING: inner} if is_later else inner)
        self._future: Future[dict[str, Any]] | None = inner if is_later else None
        self._lock = threading.Lock()

    def subscribe(
        self,
        callback: Callable[[dict[str, Any]], None],
        on_error: Callable[[Exception], None] | None = None,
    ) -> None:
        """Calls ``callback`` with the values: at once, or on the thread that brings them.

        Args:
            callback: takes the values.
            on_error: takes what the computation, or ``callback``, raised; None to raise it on
                that thread.
        """
        future = self._future
        if future is None:
            callback(self)
            return

        def deliver(done: Future[dict[str, Any]]) -> None:
            try:
                # What has been added to this since is there too.
                callback(self.resolve() if self._future in (done, None) else done.result())
            except Exception as error:
                if on_error is None:
                    raise
                on_error(error)

        future.add_done_callback(deliver)

    def resolve(self) -> dict[str, Any]:
        """The values, once they are there; raises what their computation raised."""
        while (future := self._future) is not None:
            values = future.result()
            with self._lock:
                if self._future is future:
                    super().pop(_PENDING)
                    super().update(values)
                    self._future = None
        return self

    def is_resolved(self) -> bool:
        """Whether the values are there."""
        future = self._future
        return future is None or (future.done() and future.exception() is None)

    def update(self, other: Any = (), /, **values: Any) -> None:
        """Adds values, now or when these and those are there; nobody waits here.

        Who has subscribed before to values that are on their way is given them without the others.

        Args:
            other: values by key, or such values on their way; with others beside it, it waits.
            **values: further values.
        """
        if values:
            self.update({**dict(other), **values})
            return
        is_later = isinstance(other, DeferrableMetrics) and other._future is not None
        with self._lock:
            future = self._future
            if future is not None:
                self._future = _joined(future, other)
            elif not is_later:
                super().update(other)
        if future is None and is_later:
            other.subscribe(self.update, lambda error: logger.error("no values: %s", error))

    def __reduce__(self) -> Any:
        return DeferrableMetrics, (dict(self),)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        here = f"resolved, {len(self)} keys" if self.is_resolved() else "pending"
        return f"DeferrableMetrics({here})"


def _joined(first: Future[dict[str, Any]], second: Any) -> Future[dict[str, Any]]:
    """The future of both: done when they are, and failed if one is."""
    joined: Future[dict[str, Any]] = Future()

    def fail(error: Exception) -> None:
        with contextlib.suppress(Exception):  # Both may fail.
            joined.set_exception(error)

    def join(values: Mapping[str, Any]) -> None:
        others = second if isinstance(second, DeferrableMetrics) else DeferrableMetrics(second)
        others.subscribe(lambda added: joined.set_result({**values, **added}), fail)

    DeferrableMetrics(first).subscribe(join, fail)
    return joined


def _waiting(name: str) -> Callable[..., Any]:
    """A method of dictionaries that first waits for the values, and says so once."""
    method = getattr(dict, name)

    @functools.wraps(method)
    def waiting(self: DeferrableMetrics, *args: Any, **kwargs: Any) -> Any:
        for each in (self, *args):
            if isinstance(each, DeferrableMetrics) and each._future is not None:
                if not DeferrableMetrics._warned:
                    DeferrableMetrics._warned = True
                    logger.warning(
                        "DeferrableMetrics: access as to a dictionary waits for values that are "
                        "being computed; subscribe() does not wait."
                    )
                each.resolve()
        return method(self, *args, **kwargs)

    return waiting


for _name in (
    *("__contains__", "__delitem__", "__eq__", "__getitem__", "__ior__", "__iter__", "__len__"),
    *("__ne__", "__or__", "__reversed__", "__ror__", "__setitem__", "clear", "copy", "get"),
    *("items", "keys", "pop", "popitem", "setdefault", "values"),
):
    setattr(DeferrableMetrics, _name, _waiting(_name))


def _flattened(metrics: DeferrableMetrics) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
    keys = tuple(sorted(metrics))
    return [(jax.tree_util.DictKey(key), metrics[key]) for key in keys], keys


def _of_leaves(keys: tuple[str, ...], leaves: Iterable[Any]) -> Any:
    return dict(zip(keys, leaves, strict=True))


# As a dictionary is: its values are the leaves, and what is made of them is one.
jax.tree_util.register_pytree_with_keys(DeferrableMetrics, _flattened, _of_leaves)


def device_supports_async(device: Any) -> bool:
    """Whether copies from a torch device can run beside what it computes: those of CUDA can."""
    return getattr(device, "type", str(device).partition(":")[0]) == "cuda"


def transfer_tensors_to_cpu(tensors: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """The torch tensors that are on a GPU copied to pinned memory, beside what it computes.

    Args:
        tensors: whatever, by name; what is on the CPU, or is no tensor, stays as it is.

    Returns:
        The same by name, and the CUDA event after which the copies can be read; None if there are
        none.
    """
    on_gpu = {
        name: x for name, x in tensors.items() if kind_of(x) == "torch" and x.device.type == "cuda"
    }
    if not on_gpu:
        return dict(tensors), None
    device = next(iter(on_gpu.values())).device
    with torch.cuda.device(device), torch.no_grad():
        stream = _copying_stream(device.index)
        stream.wait_stream(torch.cuda.current_stream())
        copies = {}
        with torch.cuda.stream(stream):
            for name, x in on_gpu.items():
                copies[name] = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
                copies[name].copy_(x, non_blocking=True)
                x.record_stream(stream)
            return {**tensors, **copies}, stream.record_event()


@functools.cache
def _copying_stream(index: int) -> Any:
    return torch.cuda.Stream(device=index)
