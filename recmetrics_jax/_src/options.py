"""Options at the door: checked, and made Python's own numbers, flags and names.

A number of NumPy would reckon in its few bits inside, and make a metric unequal to its like.
"""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LARGEST = 2**31 - 1
"""What sizes are at most: places in arrays are int32."""
LARGEST_SAMPLES = 2**30
"""What windows of examples are at most: a place in one, and the length of a batch, are added."""


def plain(value: Any) -> Any:
    """A scalar of NumPy as Python's, also in tuples; any other option as it is.

    >>> plain(np.int64(5)), plain(np.bool_(True)), plain("five"), plain((np.float32(0.5), 1))
    (5, True, 'five', (0.5, 1))
    """
    if type(value) is tuple:
        return tuple(map(plain, value))
    return value.item() if isinstance(value, np.generic) else value


def whole(name: str, value: Any, least: int, most: int = LARGEST) -> int:
    """An option that is a whole number from ``least`` to ``most``.

    Raises:
        ValueError: if it is none.
    """
    value = plain(value)
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or int(value) < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    if int(value) > most:
        raise ValueError(f"{name}: expected a whole number of at most {most:,}, got {value!r}")
    return int(value)


def number(name: str, value: Any, expected: str = "a number") -> float:
    """An option that is a real number.

    Raises:
        ValueError: if it is none, or beyond what a float holds.
    """
    value = plain(value)
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{name}: expected {expected} that a float holds, got {value}") from error


def finite(name: str, value: Any, least: float = -math.inf) -> float:
    """An option that is a finite number, of at least ``least``.

    Raises:
        ValueError: if it is none.
    """
    expected = "a finite number" + (f" of at least {least:g}" if math.isfinite(least) else "")
    result = number(name, value, expected)
    if not math.isfinite(result) or result < least:
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return result


def threshold(name: str, value: Any) -> float:
    """An option that scores or labels are compared with: any number but NaN.

    Raises:
        ValueError: if it is none.
    """
    if math.isnan(result := number(name, value)):
        raise ValueError(f"{name}: expected a number to compare with, got nan")
    return result


def optional_threshold(name: str, value: Any) -> float | None:
    """A `threshold`, or None for none.

    Raises:
        ValueError: if it is neither.
    """
    return None if value is None else threshold(name, value)


def flag(name: str, value: Any) -> bool:
    """An option that is True or False.

    Raises:
        ValueError: if it is neither.
    """
    value = plain(value)
    if not isinstance(value, int) or value not in (0, 1):
        raise ValueError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def text(name: str, value: Any) -> str:
    """An option that is a name.

    Raises:
        ValueError: if it is not a non-empty string.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}: expected a non-empty string, got {value!r}")
    return str(value)


def names(name: str, value: Any) -> tuple[str, ...]:
    """An option that is a list of names.

    Raises:
        ValueError: if it is one string, or holds anything but names.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        example = repr(value) if isinstance(value, str) else "'session_id'"
        raise ValueError(f"{name}: expected a tuple of names, as in ({example},), got {value!r}")
    return tuple(text(name, each) for each in value)


def shape(name: str, value: Any) -> tuple[int, ...]:
    """An option that is a shape, of at least one number.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{name}: expected a tuple of sizes, as in (3,), got {value!r}")
    return tuple(whole(name, size, 1) for size in value)


def undefined_values(undefined: Any) -> float | tuple[tuple[str, float], ...]:
    """What takes the place of undefined values: a number, or numbers by name, in order of names.

    Raises:
        ValueError: if it is neither.
    """
    expected = "a number, or numbers by name"
    if not isinstance(undefined, Mapping):
        return number("undefined", undefined, expected)
    by_name = {text("undefined", name): value for name, value in undefined.items()}
    return tuple(sorted((n, number("undefined", x, expected)) for n, x in by_name.items()))


def optional_word(name: str, value: Any, words: Sequence[str]) -> None:
    """Raises ValueError if an option is neither one of some words nor None."""
    if value is not None and value not in words:
        raise ValueError(f"{name}: expected one of {tuple(words)} or None, got {value!r}")
