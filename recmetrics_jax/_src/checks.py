"""What comes through the door is checked here; every message says what to do."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

ArrayOrList = ArrayLike | Sequence[Any]


def to_host(name: str, x: ArrayOrList, *kinds: type[np.generic]) -> np.ndarray:
    """``x`` as a NumPy array of one of ``kinds``; it may be the caller's own.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(x, Mapping):
        some = next(iter(x), "click")
        raise ValueError(
            f"{name}: expected an array, got a {type(x).__name__} of {list(x)!r:.60}; pass that of "
            f"a task, x[{some!r}], or of all tasks, numpy.stack([x[task] for task in tasks])"
        )
    if x is None:
        raise ValueError(f"{name}: expected an array, got None")
    if _is_masked(x) or (isinstance(x, list | tuple) and any(map(_is_masked, x))):
        raise ValueError(
            f"{name}: expected an array without a mask of its own, got a masked array; pass "
            f"{name}.filled(0), and mask=~numpy.ma.getmaskarray({name})"
        )
    try:
        host = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name}: expected an array, got {x!r:.80} ({error})") from error
    if host.size == 0 and host.dtype == np.float64:
        host = host.astype(kinds[-1] if kinds[-1] is np.bool_ else np.int64)
    check_kind(name, host.dtype, kinds)
    return host


def _is_masked(x: Any) -> bool:
    return isinstance(x, np.ma.MaskedArray)


def check_kind(name: str, dtype: np.dtype, kinds: tuple[type[np.generic], ...]) -> None:
    """Raises ValueError if a dtype is of none of the kinds, or one that JAX does not have."""
    is_known = dtype.kind not in "cmM" and dtype.itemsize <= 8 and dtype.isnative
    if not (is_known and any(jnp.issubdtype(dtype, kind) for kind in kinds)):
        expected = {np.bool_: "a bool", np.integer: "an integer", np.number: "a real number"}
        hint = ""
        if dtype.kind == "m":
            hint = f"; divide by a unit, as in {name} / numpy.timedelta64(1, 's')"
        elif dtype.kind in "iuf" and not is_known:
            hint = "; convert it with .astype to a dtype of at most 64 bits, in native byte order"
        raise ValueError(f"{name}: expected {expected[kinds[-1]]} dtype, got {dtype}{hint}")


def check_keys(keys: Mapping[str, ArrayOrList] | None) -> Mapping[str, ArrayOrList]:
    """Keys by name, none for None; raises ValueError if they are given otherwise."""
    if keys is None:
        return {}
    if not isinstance(keys, Mapping):
        raise ValueError(
            "keys: expected a dict of integer arrays by name, as in keys={'session_id': ids}, got "
            f"{type(keys).__name__}"
        )
    for name in keys:
        if not isinstance(name, str) or not name:
            raise ValueError(f"keys: expected names that are non-empty strings, got {name!r}")
    return keys


def check_shapes(
    predictions: jax.Array | np.ndarray, labels: jax.Array | np.ndarray
) -> tuple[int, int]:
    """The ``(T, N)`` of a batch, from its predictions and labels.

    Raises:
        ValueError: if their shapes do not fit.
    """
    if predictions.ndim not in (1, 2, 3):
        raise ValueError(
            f"predictions: expected shape [N], [T, N] or [T, N, C], got {predictions.shape}"
        )
    shape = shape_of_batch(predictions, labels)
    # What is of one task may serve all, [N]: of classes there is none for all.
    expected = [shape] if predictions.ndim == 3 else [shape, shape[1:]]
    if labels.ndim not in (1, 2) or any(
        x.shape[:2] not in allowed
        for x, allowed in ((predictions, expected), (labels, [shape, shape[1:]]))
    ):
        raise ValueError(
            f"labels: expected shape {predictions.shape[:2]}, as the predictions "
            f"{predictions.shape}, got {labels.shape}{_way_out(predictions.shape, labels.shape)}"
        )
    return shape


def shape_of_batch(
    predictions: jax.Array | np.ndarray, labels: jax.Array | np.ndarray
) -> tuple[int, int]:
    """The ``(T, N)`` of predictions and labels that fit, of which one may be ``[N]``."""
    shape = labels.shape if labels.ndim == 2 else predictions.shape[:2]
    return (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])


def check_per_example(name: str, shape: tuple[int, ...], expected: tuple[int, int]) -> None:
    """Raises ValueError if a shape is neither ``[T, N]``, as expected, nor ``[N]``."""
    if shape not in (expected, expected[1:]):
        way_out = ""
        if shape == expected[::-1]:
            way_out = f"{LAYOUT}: pass {name}.T"
        elif shape in ((expected[1], 1), (1, expected[1])):
            way_out = f"{LAYOUT}, or [N] for all tasks: pass {name}.ravel()"
        raise ValueError(
            f"{name}: expected shape {expected} or {expected[1:]}, got {shape}{way_out}"
        )


LAYOUT = "; the layout is [T, N], a row for each task"


def _way_out(predictions: tuple[int, ...], labels: tuple[int, ...]) -> str:
    """What to do about predictions and labels whose shapes do not fit; "" where it is not known."""
    column = {"predictions": predictions, "labels": labels}
    for name, other in (("predictions", labels), ("labels", predictions)):
        n = other[0] if len(other) == 1 else None
        if n is not None and column[name] in ((n, 1), (1, n)):
            return f"{LAYOUT}, or [N] for one: pass {name}.ravel()"
    if len(labels) == 2 and labels == predictions[1::-1]:
        if len(predictions) == 3:
            return f"{LAYOUT}, and [T, N, C]: pass labels.T, or predictions.swapaxes(0, 1)"
        # There are more examples than tasks, most often.
        return f"{LAYOUT}: pass {'labels' if labels[0] > labels[1] else 'predictions'}.T"
    if len(predictions) == 2 and labels == predictions[:1]:
        return (
            f"{LAYOUT}; scores of classes are [T, N, C]: for those of one task pass "
            "predictions[None] and labels[None], for those of tasks as they are predictions.T"
        )
    if labels == predictions and len(labels) == 3:
        return (
            "; labels are numbers of classes, [T, N]: pass labels.argmax(axis=-1) of one-hot ones"
        )
    return ""


def way_out_of_tasks(n_tasks: int, shape: tuple[int, ...]) -> str:
    """What to do about a batch of other tasks, of ``shape``; "" where it is not known."""
    if shape != (shape[0], n_tasks):
        return ""
    what = "predictions.ravel()" if n_tasks == 1 else "predictions.T"
    return f"{LAYOUT}: pass {what} to make_batch, and labels likewise"
