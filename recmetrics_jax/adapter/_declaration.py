"""What a computation that names a factory is: its terms, its formulas, and what they need."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

from recmetrics_jax._src.definitions import SumDefinition
from recmetrics_jax._src.identity import Formula, Interned
from recmetrics_jax._src.metric import Engine, Metric
from recmetrics_jax._src.program import Program
from recmetrics_jax._src.terms import Term
from recmetrics_jax.adapter._compiled import SampleFormulas, SumFormulas, formulas_of, named_terms

_OF_THE_ADAPTER = ("n_tasks", "window", "slots")


@dataclasses.dataclass(frozen=True, eq=False)
class Declaration:
    """A functional factory with its options; made by `declare`."""

    factory: Callable[..., Metric]
    options: tuple[tuple[str, Any], ...]
    n_tasks: int
    window: int
    """The examples of the window that was asked for, on all ranks; formulas may read it."""

    def __reduce__(self) -> Any:
        return declare, (self.factory, self.options, self.n_tasks, self.window)

    @functools.cached_property
    def program(self) -> Program:
        """What the factory makes.

        Raises:
            ValueError: if it is not a metric of `sum_metric`, `sample_metric` or `collection`.
        """
        parameters = inspect.signature(self.factory).parameters
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        defaults = {
            name: value
            for name, value in (("n_tasks", self.n_tasks), ("window", self.window))
            if takes_all or name in parameters
        }
        engine = Engine.of(self.factory(**defaults, **dict(self.options)))
        if engine is None or engine.others:
            raise ValueError(
                "_factory: expected a factory of a metric made by sum_metric, sample_metric or "
                f"collection, got {self.factory!r}"
            )
        return engine.program

    @functools.cached_property
    def terms(self) -> dict[str, Term]:
        """The terms of sums, by the names of their states."""
        terms: dict[str, Term] = {}
        for definition in self.program.sums:
            for name, term in named_terms(definition.terms):
                if terms.setdefault(name, term) != term:
                    raise ValueError(f"_factory: expected one term named {name!r}, got two")
        return terms

    @functools.cached_property
    def _windowed(self) -> list[SumDefinition]:
        return [definition for definition in self.program.sums if definition.window is not None]

    @functools.cached_property
    def sample_keys(self) -> tuple[str, ...]:
        """The keys that are kept with samples."""
        return tuple(dict.fromkeys(k for of in self.program.samples for k in of.keys))

    @functools.cached_property
    def sample_classes(self) -> tuple[int, ...] | None:
        """The last axis of the predictions that are kept: ``(C,)``; None if none are kept."""
        classes = {definition.classes for definition in self.program.samples}
        if len(classes) > 1:
            raise ValueError(f"_factory: expected one n_classes of all examples, got {classes}")
        return tuple(c for c in classes if c is not None) if classes else None

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        """All keys that an update needs."""
        of_terms = (key for term in self.terms.values() for key in term.keys)
        return tuple(dict.fromkeys((*of_terms, *self.sample_keys)))

    @functools.cached_property
    def lifetime_values(self) -> SumFormulas:
        """The values of lifetime sums."""
        return formulas_of(SumFormulas, self.program.sums)

    @functools.cached_property
    def window_values(self) -> SumFormulas:
        """The values of the sums that have a window."""
        return formulas_of(SumFormulas, self._windowed)

    @functools.cached_property
    def sample_values(self) -> SampleFormulas:
        """The values of examples."""
        return formulas_of(SampleFormulas, self.program.samples)


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


def hashable(option: Any) -> Any:
    """An option of a factory as part of a declaration: lists as tuples."""
    return tuple(map(hashable, option)) if isinstance(option, list | tuple) else option
