"""Fingerprints of functions and options, the same in every process: what a checkpoint is known by.

A function of a module is known by its name, since its code may be improved without its meaning
being changed; one of this package by its name alone, wherever in the package it lies. A lambda, or
a function made inside another, has no name of its own, and is known by its code and what it closes
over; so a checkpoint of it is read by the same minor version of Python.
"""

import dataclasses
import enum
import functools
import hashlib
import pathlib
import sys
import types
from typing import Any

import jax
import numpy as np

from recmetrics_jax._src.identity import Formula

PACKAGE = __name__.partition(".")[0]


def word_of(*texts: str) -> int:
    """A hash of texts, of 32 bits, as a signed number.

    >>> word_of("a", "b") == word_of("a", "b"), word_of("a", "b") == word_of("ab")
    (True, False)
    """
    digest = hashlib.blake2b("\0".join(texts).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little", signed=True)


def text_of(x: Any) -> str:
    """What an option is, as a text that is equal for options that mean the same, and no others.

    >>> text_of((1, True, 0.5, "a", None))
    "(1, True, 0x1.0000000000000p-1, 'a', None)"
    """
    if isinstance(x, tuple | list | set | frozenset | dict):
        return _text_of_container(x)
    if isinstance(x, functools.partial | Formula) and Formula.of(x).function is not x:
        formula = Formula.of(x)
        bound = "".join(map(text_of, (formula.arguments, formula.options)))
        is_bound = formula.arguments or formula.options
        return text_of(formula.function) + (bound if is_bound else "")
    if isinstance(x, types.FunctionType):
        return _text_of_function(x)
    if isinstance(x, type | types.BuiltinFunctionType):
        return _name_of(x)
    if dataclasses.is_dataclass(x):
        return f"{_name_of(type(x))}{text_of(_fields(x))}"
    return _text_of_number(x) or f"{_name_of(type(x))}{text_of(dict(getattr(x, '__dict__', {})))}"


def _text_of_number(x: Any) -> str:
    """A number, an array of them, a text; nothing of any other object."""
    if isinstance(x, np.generic):
        return f"{x.dtype}:{_text_of_number(x.item())}"
    if isinstance(x, np.ndarray | jax.Array):
        return f"{x.dtype}{x.shape}:{np.asarray(x).tobytes().hex()}"
    if isinstance(x, float):
        return x.hex()
    if isinstance(x, enum.Enum):
        return f"{_name_of(type(x))}.{x.name}"
    return repr(x) if isinstance(x, str | bytes | int | complex | type(None) | type(...)) else ""


def _text_of_container(x: Any) -> str:
    if isinstance(x, dict):
        return f"{{{', '.join(sorted(f'{text_of(k)}: {text_of(v)}' for k, v in x.items()))}}}"
    if isinstance(x, set | frozenset):
        return f"{{{', '.join(sorted(map(text_of, x)))}}}"
    return f"({', '.join(map(text_of, x))})"


def _fields(x: Any) -> dict[str, Any]:
    return {field.name: getattr(x, field.name) for field in dataclasses.fields(x)}


def _name_of(x: Any) -> str:
    """The qualified name of a function or a class."""
    name = getattr(x, "__qualname__", repr(type(x)))
    module = getattr(x, "__module__", None) or ""
    if module.partition(".")[0] == PACKAGE:
        return f"{PACKAGE}.{name}"
    if module == "__main__":  # Under its own name where another program imports it.
        path = getattr(sys.modules["__main__"], "__file__", None)
        module = pathlib.Path(path).stem if path else module
    return f"{module}.{name}"


def _text_of_function(function: types.FunctionType) -> str:
    name = _name_of(function)
    if "<" not in function.__qualname__:
        return name
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    others = tuple(cell for cell in cells if cell is not function)
    rest = (function.__defaults__, function.__kwdefaults__, others)
    return f"{name}[{_text_of_code(function.__code__)} {text_of(rest)}]"


def _text_of_code(code: types.CodeType) -> str:
    """What a function does, wherever it stands."""
    constants = (
        _text_of_code(c) if isinstance(c, types.CodeType) else text_of(c) for c in code.co_consts
    )
    return " ".join((code.co_code.hex(), *code.co_names, *constants))
