"""What makes definitions values: equal when they mean the same, hashed alike, and made once.

Metrics, terms and formulas are compared by what they were made of: module-level functions and
options. Equal ones share what is compiled, across objects, copies and pickles.
"""

import abc
import collections
import dataclasses
import functools
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import numpy as np

V = TypeVar("V")


def typed(x: Any) -> Hashable:
    """A key that is equal for options that mean the same, where Python's own equality errs.

    ``True``, ``1`` and ``1.0`` differ, as do ``0.0`` and ``-0.0``; NaN is equal to NaN. So it is
    with scalars of NumPy, of which each type is one of its own, and inside tuples, frozen sets and
    dataclasses.

    >>> typed((1, float("nan"))) == typed((1, float("nan"))), typed(1) == typed(True)
    (True, False)
    """
    if isinstance(x, tuple):
        return (type(x), *map(typed, x))
    if isinstance(x, frozenset):
        return type(x), frozenset(map(typed, x))
    if isinstance(x, functools.partial):
        return Formula.of(x)
    if isinstance(x, np.generic):
        return type(x), str(x.dtype), x.tobytes()
    if isinstance(x, complex):
        return type(x), x.real.hex(), x.imag.hex()
    if dataclasses.is_dataclass(x) and not isinstance(x, Value | type):
        hash(x)  # TypeError where it may change.
        return type(x), *(typed(getattr(x, f.name)) for f in dataclasses.fields(x) if f.compare)
    return type(x), x.hex() if isinstance(x, float) else x


def check_hashable(name: str, x: Any) -> None:
    """Raises ValueError if an option cannot be part of what a metric is."""
    try:
        hash(typed(x))
    except TypeError as error:
        hint = "a tuple of its numbers" if hasattr(x, "shape") else "a tuple"
        raise ValueError(
            f"{name}: expected what can be hashed, since metrics are compared by it, got "
            f"{x!r:.80} of {type(x).__name__} ({error}); give {hint} in its place"
        ) from error


class Value(abc.ABC):
    """A base of frozen dataclasses that are compared, and hashed, by a key worked out once."""

    @abc.abstractmethod
    def make_key(self) -> Hashable:
        """What the value is, as a hashable object that is equal for equal values."""

    @functools.cached_property
    def key(self) -> Hashable:
        """`make_key`, called once."""
        return self.make_key()

    @functools.cached_property
    def _hash(self) -> int:
        return hash((type(self), self.key))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other) or not isinstance(other, Value):
            return NotImplemented
        return self._hash == other._hash and self.key == other.key

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: what is cached may not be fit for a pickle."""
        fields: Any = self
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(fields)}


@dataclasses.dataclass(frozen=True, eq=False)
class Formula(Value):
    """A function with options bound to it; `functools.partial`, but compared by what is bound."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "Formula":
        """A function as a formula; what a `functools.partial` binds becomes its options."""
        if isinstance(function, Formula):
            return function
        if isinstance(function, functools.partial):
            inner = cls.of(function.func)
            options = {**dict(inner.options), **function.keywords}
            arguments = (*inner.arguments, *function.args)
            formula = cls(inner.function, arguments, tuple(sorted(options.items())))
            try:
                hash(formula)
            except TypeError:  # Options that are lists or arrays: compared by identity.
                return cls(function)
            return formula
        return cls(function)

    def make_key(self) -> Hashable:
        """The function, and its options with their types."""
        return self.function, typed(self.arguments), typed(self.options)

    @property
    def name(self) -> str:
        """The function's name, for messages."""
        function: Any = getattr(self.function, "func", self.function)
        return getattr(function, "__name__", repr(function))

    def __call__(self, *arguments: Any) -> Any:
        """The function of its bound arguments, those given, and its options."""
        return self.function(*self.arguments, *arguments, **dict(self.options))


class Interned(Generic[V]):
    """Makes one object for equal keys: as long as it is in use, or among the last few asked for.

    So what belongs to an object, such as compiled functions, is shared by all who ask for it, and
    goes with the last of them.

    Args:
        make: makes the object of a key; that can be referenced weakly.
        recent: how many of those that were last asked for are kept, whether in use or not; may be
            set later.

    >>> sets = Interned(lambda *key: set(key), recent=1)
    >>> sets(1, 2) is sets(1, 2)
    True
    """

    def __init__(self, make: Callable[..., V], *, recent: int = 0) -> None:
        self._make = make
        self._in_use: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()
        self._recent: collections.OrderedDict[Any, V] = collections.OrderedDict()
        self.recent = recent
        self._lock = threading.RLock()

    def known(self) -> list[tuple[Hashable, ...]]:
        """The keys of all objects that are in use or kept."""
        with self._lock:
            return list(self._in_use)

    def __call__(self, *key: Hashable) -> V:
        """The object of a key."""
        with self._lock:
            value = self._in_use.get(key)
            if value is None:
                value = self._in_use[key] = self._make(*key)
            self._recent[key] = value
            self._recent.move_to_end(key)
            while len(self._recent) > self.recent:
                self._recent.popitem(last=False)
            return value
