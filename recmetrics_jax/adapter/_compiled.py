"""What is compiled: the sums of terms over examples, and the values of sums and of examples.

All of it computes in float64, on the CPU. Equal terms, and equal formulas, are compiled once, for
as long as somebody holds what compiles them.

Shapes: ``T`` tasks, ``N`` examples, ``K`` numbers.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src import reduction
from recmetrics_jax._src.base import Batch
from recmetrics_jax._src.definitions import SampleDefinition, SumDefinition
from recmetrics_jax._src.identity import Interned
from recmetrics_jax._src.terms import Term
from recmetrics_jax.adapter._examples import Inputs
from recmetrics_jax.adapter._tensors import Tensor, float64_on_cpu, to_numpy


def named_terms(terms: Any) -> list[tuple[str, Term]]:
    """The terms of a tree, by the names of the fields that they are in."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(terms)
    return [(jax.tree_util.keystr(path, simple=True, separator="_"), t) for path, t in leaves]


def batch_of(inputs: Inputs) -> Batch:
    """The examples as a `Batch`; in an x64 scope. No example is judged by its values."""
    if inputs.counts is None:
        mask = jnp.ones(inputs.labels.shape, bool)
    else:
        positions = jnp.arange(inputs.labels.shape[1], dtype=jnp.int32)
        mask = positions[None] < inputs.counts[:, None]
    keys = {
        name: jnp.stack([(key >> 32).astype(jnp.int32), key.astype(jnp.int32)], axis=-1)
        for name, key in inputs.keys.items()
    }
    return Batch(
        jnp.asarray(inputs.predictions),
        jnp.asarray(inputs.labels),
        jnp.asarray(inputs.weights),
        mask,
        jnp.zeros_like(mask),
        keys,
    )


class Statistics:
    """The sums of terms over examples; made by `statistics_of`."""

    def __init__(self, terms: tuple[Term, ...]):
        distinct = tuple(dict.fromkeys(terms))
        ends = itertools.accumulate(term.size for term in distinct)
        self.rows = {t: slice(end - t.size, end) for t, end in zip(distinct, ends, strict=True)}
        """Where the sums of each term lie in the array of all of them."""
        self._sums = jax.jit(functools.partial(_sums, distinct))

    def __call__(self, inputs: Inputs) -> np.ndarray:
        """The sums of all terms, ``float64[K, T]``."""
        is_full = bool(np.all(inputs.counts == inputs.labels.shape[1]))
        with float64_on_cpu():
            return np.array(self._sums(inputs._replace(counts=None) if is_full else inputs))


def _sums(terms: tuple[Term, ...], inputs: Inputs) -> jax.Array:
    batch = batch_of(inputs)
    batch = batch._replace(
        predictions=batch.predictions.astype(jnp.float64),
        labels=batch.labels.astype(jnp.float64),
        weights=batch.weights.astype(jnp.float64),
    )
    # No example is bad: what a NaN touches becomes NaN by arithmetic, as in the reference.
    return reduction.sums({term: term.evaluate(batch) for term in terms}, batch).T


statistics_of = Interned(Statistics)


class SumFormulas:
    """The values of the sums of some definitions; made by `formulas_of`."""

    def __init__(self, *definitions: SumDefinition):
        names = (name for definition in definitions for name, _ in named_terms(definition.terms))
        self.names = tuple(dict.fromkeys(names))
        """The names of the sums."""
        self._values = _in_order(functools.partial(_values_of_sums, definitions), jax.vmap)

    def __call__(self, sums: Sequence[Mapping[str, Tensor]]) -> list[dict[str, np.ndarray]]:
        """The values, ``[T]`` or ``[T, C]`` by name, of each of several sets of sums by name."""
        if not self.names:
            return [{} for _ in sums]
        sets = {name: np.stack([to_numpy(each[name]) for each in sums]) for name in self.names}
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
    batch = batch_of(inputs)
    batch = batch._replace(nonfinite=jnp.isnan(batch.labels) | jnp.isnan(batch.weights))
    return {name: x for each in definitions for name, x in each.evaluate(batch).items()}


V = TypeVar("V")
formulas: Interned[Any] = Interned(lambda kind, *definitions: kind(*definitions))


def formulas_of(kind: type[V], definitions: Sequence[Any]) -> V:
    """The one object of a class of formulas for definitions that differ in their windows alone.

    What a formula is bound to, its own reading of a window included, is part of what it is.
    """
    return formulas(kind, *(dataclasses.replace(each, window=None) for each in definitions))


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

    results = jax.jit(transform(in_order))

    def values(argument: Any) -> dict[str, np.ndarray]:
        with float64_on_cpu():
            arrays = results(argument)
        return {name: np.array(array) for name, array in zip(names, arrays, strict=True)}

    return values
