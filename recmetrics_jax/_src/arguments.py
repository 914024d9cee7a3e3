"""What the toolkits of `recmetrics_jax.ops` are called with, checked where they are traced.

Arrays that do not fit would broadcast, or lose rows, without a word. Shapes and dtypes
are known when a function is traced, so that checking them costs nothing when it runs.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import chex
import jax.numpy as jnp

from recmetrics_jax._src.curves import Curve
from recmetrics_jax._src.relevant import Relevant
from recmetrics_jax._src.sessions import Sessions

REAL = {"a real number": ("floating", "integer", "bool_")}
NUMBER = {"a number": ("floating", "integer")}
FLOAT = {"a float": ("floating",)}
SIGNED = {"a signed number": ("floating", "signedinteger")}
INTEGER = {"an integer": ("integer",)}
BOOL = {"a bool": ("bool_",)}
ANY = {"any": ("generic",)}

Kind = dict[str, tuple[str, ...]]

KINDS: dict[str, Kind] = {
    **dict.fromkeys(("x", "y", "positives", "negatives", "keys", "groups"), REAL),
    **dict.fromkeys(("weights", "other_weights"), REAL),
    **dict.fromkeys(("rows", "numbers"), INTEGER),
    **dict.fromkeys(("is_first", "is_present", "is_relevant"), BOOL),
    "scores": SIGNED,  # The order of what is unsigned is not that of its negative.
}
"""By the name of an argument, what dtypes it may have."""

TUPLES: dict[str, tuple[type, str]] = {
    "points": (Curve, "curve"),
    "by_session": (Sessions, "sessions"),
    "relevant": (Relevant, "count_relevant"),
}
"""By the name of an argument, of what class it is, and which function gives it."""

OF_FUNCTIONS: dict[str, dict[str, Kind]] = {
    # Of booleans, they would make booleans.
    **{name: {"x": NUMBER} for name in ("cumsum", "maxima", "sums", "sums_before", "totals")},
    **{name: {"x": ANY} for name in ("put", "take")},
    # Of integers, none is free to stand for an absent row.
    "ideal_order": {"x": FLOAT},
    "sessions": {"scores": FLOAT},
}
"""By function and name of an argument, what dtypes it may have that others may not, or may."""


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, which raises ValueError if its arguments do not fit."""
    signature = inspect.signature(function)
    kinds = KINDS | OF_FUNCTIONS.get(function.__name__, {})

    @functools.wraps(function)
    def of_checked(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        arrays = [
            array for name, x in given.arguments.items() for array in _arrays(signature, name, x)
        ]
        for name, x in arrays:
            in_tuple = name.partition(".")[2]
            kind = kinds.get(in_tuple, NUMBER) if in_tuple else kinds[name.partition("[")[0]]
            _check_array(name, x, kind)
        for name, x in arrays[1:]:
            _check_shape(name, x, *arrays[0], is_taken=function.__name__ == "take")
        return function(*args, **kwargs)

    return of_checked


def _arrays(signature: inspect.Signature, name: str, x: Any) -> list[tuple[str, Any]]:
    """The arrays of an argument, each with its name for messages."""
    parameter = signature.parameters[name]
    if parameter.kind is parameter.VAR_POSITIONAL:
        if not x:
            raise ValueError(f"{name}: expected at least one array, got none")
        return [(f"{name}[{i}]", each) for i, each in enumerate(x)]
    if name in TUPLES:
        expected, function = TUPLES[name]
        if not isinstance(x, expected):
            raise ValueError(
                f"{name}: expected a {expected.__name__}, as ops.{function} gives, got "
                f"{type(x).__name__}"
            )
        return [(f"{name}.{k}", each) for k, each in x._asdict().items() if each is not None]
    if name == "groups":
        if not isinstance(x, tuple | list):
            raise ValueError(
                f"groups: expected a tuple of arrays, as in (users,), got {type(x).__name__}"
            )
        return [(f"groups[{i}]", each) for i, each in enumerate(x)]
    if name == "k":
        if x is not None and (jnp.shape(x) or not jnp.issubdtype(jnp.result_type(x), jnp.integer)):
            raise ValueError(
                f"k: expected a whole number, or None, got {jnp.result_type(x)}{jnp.shape(x)}"
            )
        return []
    return [] if x is None and parameter.default is None else [(name, x)]


def _check_array(name: str, x: Any, kind: Kind) -> None:
    ((expected, dtypes),) = kind.items()
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise ValueError(f"{name}: expected an array, got {type(x).__name__}")
    if not x.shape:
        raise ValueError(f"{name}: expected shape [..., N], got {x.shape}")
    if not any(jnp.issubdtype(x.dtype, getattr(jnp, dtype)) for dtype in dtypes):
        raise ValueError(f"{name}: expected {expected} dtype, got {x.dtype}; convert it by .astype")


def _check_shape(name: str, x: Any, first: str, of: Any, *, is_taken: bool = False) -> None:
    """Raises ValueError if ``x`` has not the shape of the first array.

    What is taken may be fewer rows, or more, and groups may be the same for all leading axes.
    """
    shape = of.shape
    if is_taken:
        shape = (*shape[:-1], x.shape[-1])
    elif name == "numbers":
        shape = shape[max(len(shape) - len(x.shape), 0) :]
    try:
        chex.assert_shape(x, shape)
    except AssertionError as error:
        rows = "with the leading axes" if is_taken else "as"
        raise ValueError(
            f"{name}: expected shape {tuple(shape)}, {rows} {first} {tuple(of.shape)} has, "
            f"got {tuple(x.shape)}"
        ) from error
