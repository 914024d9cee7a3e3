"""What a computation is that names a functional factory: its states, updates and values.

The factory's terms and formulas do all the arithmetic, in float64, compiled. One call serves as
many computations as are updated with the same examples, tasks of unequal length included.

Shapes: ``T`` tasks, ``N`` examples, ``C`` classes, ``K`` numbers.
"""

import dataclasses
import functools
import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src import reduction
from recmetrics_jax._src.identity import Formula, Interned
from recmetrics_jax._src.metric import Engine, Metric
from recmetrics_jax._src.program import Program
from recmetrics_jax._src.terms import BinnedTerm, Term
from recmetrics_jax.adapter._examples import SAMPLE_STATES, Inputs, batch_of
from recmetrics_jax.adapter._tensors import Tensor, float64_on_cpu, from_numpy, to_numpy

_OF_THE_ADAPTER = ("n_tasks", "window")


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
            for name, term in _named(definition.terms):
                if terms.setdefault(name, term) != term:
                    raise ValueError(f"_factory: expected one term named {name!r}, got two")
        return terms

    @functools.cached_property
    def windowed(self) -> frozenset[str]:
        """The states of sums that have a window."""
        return frozenset(
            name
            for definition in self.program.sums
            if definition.window is not None
            for name, _ in _named(definition.terms)
        )

    @functools.cached_property
    def sample_keys(self) -> tuple[str, ...]:
        """The keys that are kept with samples."""
        return tuple(dict.fromkeys(k for of in self.program.samples for k in of.keys))

    @functools.cached_property
    def sample_classes(self) -> tuple[int, ...]:
        """The last axis of the predictions that are kept: ``(C,)``, or ``()`` for none."""
        classes = {definition.classes for definition in self.program.samples}
        if len(classes) > 1:
            raise ValueError(f"_factory: expected one n_classes of all examples, got {classes}")
        return tuple(c for c in classes if c is not None)

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        """All keys that an update needs."""
        of_terms = (key for term in self.terms.values() for key in term.keys)
        return tuple(dict.fromkeys((*of_terms, *self.sample_keys)))

    @functools.cached_property
    def _values_of_sums(self) -> dict[tuple[str, ...], Callable[[Any], dict[str, jax.Array]]]:
        """The compiled formulas, by the names of the states that they are given."""
        return {}

    def values_of_sums(self, sums: Sequence[Mapping[str, Tensor]]) -> list[dict[str, np.ndarray]]:
        """The values of some sets of sums, ``[T]`` or ``[T, C]``, by name; one compiled call."""
        program = self.program

        def values(sums: dict[str, jax.Array]) -> dict[str, jax.Array]:
            results = {}
            for definition in program.sums:
                names = [name for name, _ in _named(definition.terms)]
                if all(name in sums for name in names):
                    structure = jax.tree.structure(definition.terms)
                    results |= definition.evaluate(structure.unflatten([sums[n] for n in names]))
            return results

        names = tuple(sums[0])
        if not names:
            return [{} for _ in sums]
        if names not in self._values_of_sums:
            self._values_of_sums[names] = _jitted_in_order(values, jax.vmap)
        stacked_sums = {name: np.stack([to_numpy(x[name]) for x in sums]) for name in names}
        results = _evaluated(self._values_of_sums[names], stacked_sums)
        return [{name: value[i] for name, value in results.items()} for i in range(len(sums))]

    @functools.cached_property
    def _values_of_samples(self) -> Callable[..., dict[str, jax.Array]]:
        samples = self.program.samples

        def values(inputs: Inputs) -> dict[str, jax.Array]:
            batch = batch_of(inputs)
            is_nan = jnp.isnan(batch.labels) | jnp.isnan(batch.weights)
            batch = batch._replace(nonfinite=is_nan)
            return {k: v for definition in samples for k, v in definition.evaluate(batch).items()}

        return _jitted_in_order(values)

    def values_of_samples(self, inputs: Inputs) -> dict[str, np.ndarray]:
        """The values of examples, ``float64[T]``, by name."""
        return _evaluated(self._values_of_samples, inputs)


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
        if name not in (*_OF_THE_ADAPTER, "slots")
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }


def hashable(option: Any) -> Any:
    """An option of a factory as part of a declaration: lists as tuples."""
    if isinstance(option, list | tuple):
        return tuple(hashable(x) for x in option)
    return option


def _named(terms: Any) -> list[tuple[str, Term]]:
    """The terms of a tree, by the names of the fields that they are in."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(terms)
    return [(jax.tree_util.keystr(path, simple=True, separator="_"), t) for path, t in leaves]


def _jitted_in_order(
    function: Callable[[Any], dict[str, jax.Array]],
    transform: Callable[[Any], Any] = lambda function: function,
) -> Callable[[Any], dict[str, jax.Array]]:
    """``function`` transformed and compiled; jit and vmap would sort the names of its results."""
    names: list[str] = []

    def in_order(argument: Any) -> tuple[jax.Array, ...]:
        by_name = function(argument)
        names[:] = by_name
        return tuple(by_name.values())

    results = jax.jit(transform(in_order))
    return lambda argument: dict(zip(names, results(argument), strict=False))


def _evaluated(function: Callable[[Any], Any], argument: Any) -> dict[str, np.ndarray]:
    with float64_on_cpu():
        results = function(argument)
    return {name: np.array(value) for name, value in results.items()}


class Column(NamedTuple):
    """Where the sums of a state lie in the array of all sums, ``float64[K, T]``."""

    state: str
    window_state: str
    start: int
    shape: tuple[int, ...]


class Statistics:
    """The sums of terms over examples, compiled; made by `statistics_of`."""

    def __init__(self, terms: tuple[Term, ...]):
        self.terms = terms
        self._sums = jax.jit(functools.partial(_sums, tuple(dict.fromkeys(terms))))

    def all(self, inputs: Inputs) -> np.ndarray:
        """The sums of the distinct terms, ``float64[K, T]``."""
        is_full = bool(np.all(inputs.counts == inputs.labels.shape[1]))
        with float64_on_cpu():
            return np.array(self._sums(inputs._replace(counts=None) if is_full else inputs))

    def of(self, inputs: Inputs) -> list[np.ndarray]:
        """The sums of each term, ``float64[T, *shape]``."""
        starts, packed = starts_of(self.terms), self.all(inputs)
        return [
            packed[starts[term] : starts[term] + term.size].T.reshape(-1, *term.shape)
            for term in self.terms
        ]


def starts_of(terms: Sequence[Term]) -> dict[Term, int]:
    """Where the sums of the distinct terms lie in the array of all of them."""
    distinct = list(dict.fromkeys(terms))
    ends = itertools.accumulate(term.size for term in distinct)
    return {term: end - term.size for term, end in zip(distinct, ends, strict=True)}


def _sums(terms: tuple[Term, ...], inputs: Inputs) -> jax.Array:
    """The sums of distinct terms, ``float64[K, T]``."""
    batch = batch_of(inputs)
    batch = batch._replace(
        predictions=batch.predictions.astype(jnp.float64),
        labels=batch.labels.astype(jnp.float64),
        weights=batch.weights.astype(jnp.float64),
    )
    # No example is bad: what a NaN touches becomes NaN by arithmetic, as in the reference.
    return reduction.sums({term: term.evaluate(batch) for term in terms}, batch).T


statistics_of = Interned(Statistics)


class Shared:
    """What declarations need that are updated together; made by `share`."""

    def __init__(self, declarations: tuple[Declaration, ...]):
        self.declarations = declarations
        self.keys = tuple(dict.fromkeys(key for d in declarations for key in d.keys))
        """The keys that they need."""
        terms = tuple(dict.fromkeys(term for d in declarations for term in d.terms.values()))
        starts = starts_of(terms)
        self.columns = {
            declaration: [
                Column(name, f"window_{name}", starts[term], term.shape)
                for name, term in declaration.terms.items()
            ]
            for declaration in declarations
        }
        self.statistics = statistics_of(terms) if terms else None
        """The sums of all of them; None if they have none."""

    def __reduce__(self) -> Any:
        return share, (self.declarations,)


shared = Interned(Shared)


def share(declarations: tuple[Declaration, ...]) -> Shared:
    """The one `Shared` of some declarations that is in use."""
    return shared(declarations)


class Contributions:
    """What an update adds to the states of declarations: computed at once, without side effects."""

    def __init__(self, of: Shared, inputs: Inputs):
        self.inputs = inputs
        self.columns = of.columns
        if any(declaration.program.samples for declaration in of.columns):
            # As they are kept: copies, in float32.
            predictions, labels, weights = (np.array(x, np.float32) for x in inputs[:3])
            keys = {name: np.array(key) for name, key in inputs.keys.items()}
            self._rows = Inputs(predictions, labels, weights, inputs.counts, keys)
        if of.statistics is not None:
            self._sums = from_numpy(of.statistics.all(inputs))
            self._by_row = list(self._sums)

    def sums(self, column: Column, tasks: slice) -> Tensor:
        """The sums of ``inputs`` for a state, ``float64[T, *shape]``."""
        if not column.shape:
            return self._by_row[column.start][tasks]
        rows = slice(column.start, column.start + math.prod(column.shape))
        return self._sums[rows, tasks].T.reshape(-1, *column.shape)

    def samples(self, declaration: Declaration, tasks: slice) -> dict[str, Tensor]:
        """The examples as a declaration keeps them, ``float32[T, N]`` and ``int64[T, N]``."""
        rows = self._rows.of_tasks(tasks)
        n = int(rows.counts.max(initial=0))
        arrays = dict(zip(SAMPLE_STATES, rows[:3], strict=True))
        arrays |= {name: rows.keys[name] for name in declaration.sample_keys}
        return {name: from_numpy(np.array(array[:, :n])) for name, array in arrays.items()}


def is_persistent(term: Term) -> bool:
    """Whether the sums of a term go into checkpoints: not if they are a histogram."""
    return not isinstance(term, BinnedTerm)
