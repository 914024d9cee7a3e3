"""What the adapter's classes derive from: torch's modules, or where torch is missing, plain ones.

Which of the two depends on whether torch is installed, never on the order of imports.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from recmetrics_jax.adapter._checkpoints import of_shape
from recmetrics_jax.adapter._tensors import torch

F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M")


class RecMetricException(Exception):  # noqa: N818 - the documented name
    """A metric was used in a way that it does not allow."""


def standard(method: F) -> F:
    """Marks a method whose work may be done for several objects at once, without calling it.

    What a user writes in its place, in a subclass or on an object, has no mark, and is called.

    >>> class Ours:
    ...     @standard
    ...     def update(self): ...
    >>> class Theirs(Ours):
    ...     def update(self): ...
    >>> is_standard(Ours().update), is_standard(Theirs().update)
    (True, False)
    """
    vars(method)["standard"] = method
    return method


def is_standard(*methods: Callable[..., Any]) -> bool:
    """Whether all methods are those that `standard` has marked: no wrappers of them, nor mocks."""
    return all(
        getattr(method, "standard", None) is getattr(method, "__func__", method)
        for method in methods
    )


if torch is not None and not TYPE_CHECKING:
    Module = torch.nn.Module
    ModuleList = torch.nn.ModuleList
else:

    class Module:
        """What the adapter needs of ``torch.nn.Module``: submodules, buffers and state dicts."""

        def __init__(self) -> None:
            self._buffers: dict[str, Any] = {}
            self._non_persistent_buffers_set: set[str] = set()

        def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
            """Makes ``tensor`` an attribute, which goes into the state dict if ``persistent``."""
            self._buffers[name] = tensor
            if not persistent:
                self._non_persistent_buffers_set.add(name)

        def __getattr__(self, name: str) -> Any:
            buffers = self.__dict__.get("_buffers", {})
            if name in buffers:
                return buffers[name]
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

        def __setattr__(self, name: str, value: Any) -> None:
            if name in self.__dict__.get("_buffers", {}):
                self._buffers[name] = value
            else:
                super().__setattr__(name, value)

        def named_children(self) -> Iterator[tuple[str, "Module"]]:
            """The submodules by name."""
            return (pair for pair in self.__dict__.items() if isinstance(pair[1], Module))

        def named_buffers(self) -> Iterator[tuple[str, Any]]:
            """The buffers by name."""
            return iter(self._buffers.items())

        def modules(self) -> Iterator["Module"]:
            """This module and all below it."""
            yield self
            for _, child in self.named_children():
                yield from child.modules()

        def to(self, *args: Any, **kwargs: Any) -> "Module":
            """The module itself: there is but one device."""
            return self

        def state_dict(
            self,
            destination: dict[str, Any] | None = None,
            prefix: str = "",
            keep_vars: bool = False,
        ) -> dict[str, Any]:
            """The persistent states of this module and those below it, by name."""
            destination = {} if destination is None else destination
            self._save_to_state_dict(destination, prefix, keep_vars)
            for name, child in self.named_children():
                child.state_dict(destination, f"{prefix}{name}.", keep_vars)
            return destination

        def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> None:
            """Takes over the states of a state dict.

            Raises:
                RuntimeError: if a state has another shape, or, if ``strict``, keys are missing or
                    unexpected.
            """
            missing: list[str] = []
            errors: list[str] = []
            unexpected = list(state_dict)
            self._load(dict(state_dict), "", missing, unexpected, errors)
            if strict:
                errors += [f"missing key {key!r}" for key in missing]
                errors += [f"unexpected key {key!r}" for key in unexpected]
            if errors:
                raise RuntimeError(f"state_dict of {type(self).__name__}: {'; '.join(errors)}")

        def _load(
            self,
            state_dict: dict[str, Any],
            prefix: str,
            missing: list[str],
            unexpected: list[str],
            errors: list[str],
        ) -> None:
            self._load_from_state_dict(state_dict, prefix, {}, True, missing, unexpected, errors)
            for name, child in self.named_children():
                child._load(state_dict, f"{prefix}{name}.", missing, unexpected, errors)

        def _save_to_state_dict(
            self, destination: dict[str, Any], prefix: str, keep_vars: bool
        ) -> None:
            for name in self._persistent_buffers():
                destination[prefix + name] = self._buffers[name]

        def _load_from_state_dict(
            self,
            state_dict: dict[str, Any],
            prefix: str,
            *others: Any,
        ) -> None:
            *_, missing_keys, unexpected_keys, error_msgs = others
            for name in self._persistent_buffers():
                key = prefix + name
                if key not in state_dict:
                    missing_keys.append(key)
                    continue
                unexpected_keys.remove(key)
                shape = np.shape(self._buffers[name])
                state = of_shape(state_dict[key], shape)
                if shape != np.shape(state):
                    error_msgs.append(f"{key}: expected shape {shape}, got {np.shape(state)}")
                else:
                    self._buffers[name] = np.array(state)

        def _persistent_buffers(self) -> list[str]:
            return [name for name in self._buffers if name not in self._non_persistent_buffers_set]

    class ModuleList(Module, Generic[M]):
        """What the adapter needs of ``torch.nn.ModuleList``."""

        def __init__(self, modules: Iterable[M] = ()) -> None:
            super().__init__()
            self._modules_in_order: list[M] = list(modules)

        def named_children(self) -> Iterator[tuple[str, Any]]:
            """The modules by position."""
            return ((str(i), module) for i, module in enumerate(self._modules_in_order))

        def append(self, module: M) -> "ModuleList[M]":
            """Adds a module at the end."""
            self._modules_in_order.append(module)
            return self

        def __len__(self) -> int:
            return len(self._modules_in_order)

        def __getitem__(self, index: int) -> M:
            return self._modules_in_order[index]

        def __iter__(self) -> Iterator[M]:
            return iter(self._modules_in_order)
