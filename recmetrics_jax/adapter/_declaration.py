"""What a computation that names a factory is: its terms, its formulas, and what they need.

Formulas compute in float64, on the CPU. Equal ones are compiled once, for as long as somebody holds
what compiles them.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.definitions import SampleDefinition, SumDefinition
from recmetrics_jax._src.identity import Formula, Interned
from recmetrics_jax._src.metric import Engine, Metric
from recmetrics_jax._src.program import Program
from recmetrics_jax._src.terms import Term
from recmetrics_jax.adapter._compiling import Compiled
from recmetrics_jax.adapter._inputs import Inputs
from recmetrics_jax.adapter._tensors import Tensor, to_numpy, whole

_OF_THE_ADAPTER = ("n_tasks", "window", "slots")


class StateOptions(NamedTuple):
    """What the state of a term is."""

    persistent: bool = True
    """Whether it goes into checkpoints."""
    dtype: type = np.float64
    """float64, or int64 of sums that are whole numbers."""
    shape: tuple[int, ...] | None = None
    """Another shape for the same numbers than ``[n_tasks, *shape]`` of the term; None for that."""
    reduction: str = "sum"
    """How the states of ranks become one, and those of their windows."""
    is_latest: bool = False
    """Whether it holds what the latest update contributes alone."""

    @property
    def is_plain(self) -> bool:
        """Whether what an update contributes is added as it is."""
        return self.dtype is np.float64 and self.shape is None and not self.is_latest

    def of_sums(self, sums: Tensor) -> Tensor:
        """The sums of a term in the dtype and the shape of the state."""
        sums = whole(sums) if self.dtype is np.int64 else sums
        return sums if self.shape is None else sums.reshape(self.shape)


Source = tuple[str, Callable[[Any], Any]]
"""The name of a further input, and the function that makes it a key."""


def named_terms(terms: Any) -> list[tuple[str, Term]]:
    """The terms of a tree, by the names of the fields that they are in."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(terms)
    return [(jax.tree_util.keystr(path, simple=True, separator="_"), t) for path, t in leaves]


class SumFormulas:
    """The values of the sums of some definitions; made by `formulas_of`."""

    def __init__(self, *definitions: SumDefinition):
        names = (name for definition in definitions for name, _ in named_terms(definition.terms))
        self.names = tuple(dict.fromkeys(names))
        """The names of the sums."""
        self._values = _in_order(functools.partial(_values_of_sums, definitions), jax.vmap)

    def __call__(self, sums: Sequence[Mapping[str, Tensor]]) -> list[dict[str, np.ndarray]]:
        """The values, ``[T]`` or ``[T, C]`` by name, of each of several sets of sums by name."""
        if not self.names or not sums[0]:  # Windows are disabled.
            return [{} for _ in sums]
        sets = {
            name: np.array([to_numpy(each[name]) for each in sums], np.float64)
            for name in self.names
        }
        values = self._values(sets)
        return [{name: value[i] for name, value in values.items()} for i in range(len(sums))]


def _values_of_sums(
    definitions: Sequence[SumDefinition], sums: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    values = {}
    for definition in definitions:
        fields = [sums[name] for name, _ in named_terms(definition.terms)]
        values |= definition.evaluate(jax.tree.structure(definition.terms).unflatten(fields))
    return values


class SampleFormulas:
    """The values of examples by some definitions; made by `formulas_of`."""

    def __init__(self, *definitions: SampleDefinition):
        self._values = _in_order(functools.partial(_values_of_samples, definitions))

    def __call__(self, inputs: Inputs) -> dict[str, np.ndarray]:
        """The values, ``float64[T]`` by name."""
        return self._values(inputs)


def _values_of_samples(
    definitions: Sequence[SampleDefinition], inputs: Inputs
) -> dict[str, jax.Array]:
    batch = inputs.batch()
    has_nan = jnp.isnan(batch.labels) | jnp.isnan(batch.weights)
    has_nan = jnp.any(has_nan & batch.mask, axis=1)
    return {name: x for each in definitions for name, x in each.unless(has_nan, batch).items()}


V = TypeVar("V")

formulas: Interned[Any] = Interned(lambda kind, *definitions: kind(*definitions))


def formulas_of(kind: type[V], definitions: Sequence[Any]) -> V:
    """The one object of a class of formulas for definitions that differ in their windows alone.

    What a formula is bound to, its own reading of a window included, is part of what it is.
    """
    return formulas(kind, *map(_without_window, definitions))


def _without_window(definition: Any) -> Any:
    if isinstance(definition, SampleDefinition):
        return dataclasses.replace(definition, kept=definition.kept._replace(window=0))
    return dataclasses.replace(definition, window=None)


def _in_order(
    function: Callable[[Any], dict[str, jax.Array]],
    transform: Callable[[Any], Any] = lambda function: function,
) -> Callable[[Any], dict[str, np.ndarray]]:
    """``function`` transformed and compiled; jit and vmap would sort the names of its results."""
    names: list[str] = []

    def in_order(argument: Any) -> tuple[jax.Array, ...]:
        by_name = function(argument)
        names[:] = by_name
        return tuple(by_name.values())

    results = Compiled(transform(in_order))

    def values(argument: Any) -> dict[str, np.ndarray]:
        arrays = results(argument)
        return {name: np.array(array) for name, array in zip(names, arrays, strict=True)}

    return values


class Declaration:
    """What a factory makes with its options, as computations use it; made by `declare`.

    Args:
        factory: a functional factory.
        options: its options.
        n_tasks: the tasks of a computation.
        window: the examples of the window that was asked for, on all ranks; formulas may read it.

    Raises:
        ValueError: if it makes no metric of `sum_metric`, `sample_metric` or `collection`, or one
            whose states would need one name.
    """

    def __init__(
        self,
        factory: Callable[..., Metric],
        options: tuple[tuple[str, Any], ...],
        n_tasks: int,
        window: int,
    ) -> None:
        self.made_by = factory, options, n_tasks
        self.window = window
        program = _program_of(factory, options, {"n_tasks": n_tasks, "window": window})
        self.terms: dict[str, Term] = {}
        """The terms of sums, by the names of their states."""
        for name, term in (pair for of in program.sums for pair in named_terms(of.terms)):
            if self.terms.setdefault(name, term) != term:
                raise ValueError(f"_factory: expected one term named {name!r}, got two")
        self.sample_keys = tuple(dict.fromkeys(k for of in program.samples for k in of.kept.keys))
        """The keys that are kept with samples."""
        classes = {definition.kept.classes for definition in program.samples}
        if len(classes) > 1:
            raise ValueError(f"_factory: expected one n_classes of all examples, got {classes}")
        self.sample_classes = tuple(c for c in classes if c is not None) if classes else None
        """The last axis of the predictions that are kept: ``(C,)``; None if none are kept."""
        of_terms = (key for term in self.terms.values() for key in term.keys)
        self.keys = tuple(dict.fromkeys((*of_terms, *self.sample_keys)))
        """All keys that an update needs."""
        windowed = [definition for definition in program.sums if definition.window is not None]
        self.lifetime_values = formulas_of(SumFormulas, program.sums)
        self.window_values = formulas_of(SumFormulas, windowed)
        self.sample_values = formulas_of(SampleFormulas, program.samples)

    def __reduce__(self) -> Any:
        return declare, (*self.made_by, self.window)


def _program_of(
    factory: Callable[..., Metric],
    options: tuple[tuple[str, Any], ...],
    defaults: Mapping[str, int],
) -> Program:
    parameters = inspect.signature(factory).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    taken = {name: x for name, x in defaults.items() if takes_all or name in parameters}
    engine = Engine.of(factory(**taken, **dict(options)))
    if engine is None or engine.others:
        raise ValueError(
            "_factory: expected a factory of a metric made by sum_metric, sample_metric or "
            f"collection, got {factory!r}"
        )
    return engine.program


declarations = Interned(
    lambda made, n_tasks, window: Declaration(made.function, made.options, n_tasks, window)
)


def declare(
    factory: Callable[..., Metric], options: tuple[tuple[str, Any], ...], n_tasks: int, window: int
) -> Declaration:
    """The one declaration of these that is in use, with what has been compiled for it."""
    return declarations(Formula(factory, (), options), n_tasks, max(window, 1))


@functools.lru_cache(maxsize=256)
def option_names(factory: Callable[..., Metric]) -> dict[str, inspect.Parameter]:
    """The parameters of a factory that are options of its computations."""
    return {
        name: parameter
        for name, parameter in inspect.signature(factory).parameters.items()
        if name not in _OF_THE_ADAPTER
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }


def signature(factory: Callable[..., Metric]) -> inspect.Signature:
    """The signature of a computation that names a factory: its options are keywords."""
    kinds = inspect.Parameter
    options = [p.replace(kind=kinds.KEYWORD_ONLY) for p in option_names(factory).values()]
    return inspect.Signature(
        [
            kinds("args", kinds.VAR_POSITIONAL, annotation=Any),
            *options,
            kinds("kwargs", kinds.VAR_KEYWORD, annotation=Any),
        ]
    )


def hashable(option: Any) -> Any:
    """An option of a factory as part of a declaration: lists as tuples."""
    return tuple(map(hashable, option)) if isinstance(option, list | tuple) else option
