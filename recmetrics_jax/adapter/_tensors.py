"""Arrays of torch, JAX and NumPy at the adapter's door; nothing here writes to the caller's."""

import contextlib
import functools
import importlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np

from recmetrics_jax._src.forks import check_not_forked

Kind = Literal["torch", "jax", "numpy"]
Tensor = Any  # a torch.Tensor, a jax.Array or a np.ndarray


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError:
        return None


torch = _torch()
"""The package, or None where it cannot be imported."""

NATIVE: Kind = "numpy" if torch is None else "torch"
"""The kind of states, and of results where nothing has come in yet."""


def kind_of(x: Any) -> Kind:
    """Whose array ``x`` is; NumPy's if it is none, but a number or a list."""
    if torch is not None and isinstance(x, torch.Tensor):
        return "torch"
    return "jax" if isinstance(x, jax.Array) else "numpy"


def to_numpy(x: Any) -> np.ndarray:
    """``x`` as a NumPy array, of its own dtype where NumPy has that, else float32.

    It may share memory with ``x``: it is to be read at once, and not to be written.

    Raises:
        ValueError: if it is a masked array of NumPy's.
    """
    if torch is not None and isinstance(x, torch.Tensor):
        try:
            return x.numpy()
        except (TypeError, RuntimeError):  # It has a gradient, is bfloat16, or on another device.
            return (x.float() if x.dtype is torch.bfloat16 else x).numpy(force=True)
    if isinstance(x, np.ma.MaskedArray):
        raise ValueError(
            "expected arrays without a mask of their own, got a masked array of NumPy's: fill it, "
            "and give what is masked a weight of 0"
        )
    array = np.asarray(x)
    return array.astype(np.float32) if array.dtype.kind == "V" else array  # bfloat16


def from_numpy(x: np.ndarray, kind: Kind = NATIVE) -> Tensor:
    """``x`` as an array of ``kind``, dtype included; it may share memory with ``x``."""
    if kind == "torch":
        return torch.from_numpy(x)
    if kind == "jax":
        with jax.enable_x64(True):
            return jax.numpy.array(x)
    return x


def as_kind(x: Any, kind: Kind) -> Tensor:
    """An array of any kind as one of ``kind``, detached from what it came from."""
    with _writable():
        if kind_of(x) == kind == "torch":
            return x.detach().clone()
        return from_numpy(np.array(to_numpy(x)), kind)


def stack(tensors: Sequence[Tensor]) -> Tensor:
    """Arrays of torch or NumPy, of one shape, along a new first axis."""
    return torch.stack(list(tensors)) if kind_of(tensors[0]) == "torch" else np.stack(tensors)


def concatenate(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Arrays of torch or NumPy one after another."""
    if kind_of(tensors[0]) == "torch":
        return torch.cat(list(tensors), dim=axis)
    return np.concatenate(tensors, axis=axis)


def copy(tensor: Tensor) -> Tensor:
    """An array that shares nothing with ``tensor``, nor its gradient."""
    with _writable():
        return tensor.detach().clone() if kind_of(tensor) == "torch" else np.array(tensor)


def _writable() -> contextlib.AbstractContextManager[Any]:
    """A scope whose tensors can be added to outside of torch's inference mode too."""
    if torch is None or not torch.is_inference_mode_enabled():
        return contextlib.nullcontext()
    return torch.inference_mode(False)


def as_dtype(x: Tensor, dtype: Any) -> Tensor:
    """Floats of torch or NumPy in another dtype, of either; others as they are."""
    if kind_of(x) == "torch":
        return x.type(dtype) if x.is_floating_point() else x
    if isinstance(dtype, str) or torch is None or not isinstance(dtype, torch.dtype):
        return x.astype(dtype) if x.dtype.kind == "f" else x
    return to_numpy(as_dtype(torch.from_numpy(x), dtype))


def widened(x: Tensor) -> Tensor:
    """Numbers as they are added up: floats in float64, whole numbers in int64."""
    if kind_of(x) == "torch":
        return x.double() if x.is_floating_point() else x
    is_float = x.dtype.kind in "fV"  # V: bfloat16 and its like.
    return x.astype(np.float64) if is_float else x


def whole(x: Tensor) -> Tensor:
    """Whole numbers, which floats hold, as int64."""
    return x.long() if kind_of(x) == "torch" else x.astype(np.int64)


def promoted(x: Tensor, *others: Tensor) -> Tensor:
    """``x`` in the dtype that holds the numbers of all of the others, which are of its kind."""
    if kind_of(x) == "torch":
        return x.to(functools.reduce(torch.promote_types, (other.dtype for other in others)))
    return x.astype(np.result_type(*(other.dtype for other in others)), copy=False)


def zeros_like(x: Any) -> Tensor:
    """Zeros, of the shape, dtype and kind of ``x``."""
    return torch.zeros_like(x) if kind_of(x) == "torch" else np.zeros_like(x)


def nbytes(x: Any) -> int:
    """The bytes of an array, or of all in lists and dictionaries."""
    if kind_of(x) == "torch":
        return x.numel() * x.element_size()
    if isinstance(x, list | tuple | dict):
        return sum(map(nbytes, x.values() if isinstance(x, dict) else x))
    return 0 if x is None else np.asarray(x).nbytes


@functools.cache
def _cpu() -> Any:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told to have none.
        return None


@contextlib.contextmanager
def float64_on_cpu() -> Iterator[None]:
    """A scope in which JAX computes in float64, and on the CPU, where the states are.

    Raises:
        RuntimeError: in a process that was forked from one in which JAX had run.
    """
    check_not_forked()
    with jax.enable_x64(True), jax.default_device(_cpu()):
        yield


cloned: Any = np.copy if torch is None else torch.clone
"""`copy` for states, which are of the kind that is native, without a gradient."""


def no_grad() -> contextlib.AbstractContextManager[Any]:
    """A scope in which torch records no gradients."""
    return contextlib.nullcontext() if torch is None else torch.no_grad()
