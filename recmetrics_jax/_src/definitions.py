"""What a metric is: the terms or examples it needs, and the formula of its values.

A `SumDefinition` gives values of the sums of terms, a `SampleDefinition` values of the newest
examples. Both are data: hashable, and equal when they mean the same.
"""

import dataclasses
import functools
import math
from collections.abc import Hashable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.base import Batch, Values, along
from recmetrics_jax._src.domain import Domain, outside
from recmetrics_jax._src.identity import Formula, Value, typed
from recmetrics_jax._src.terms import Term

Undefined = float | tuple[tuple[str, float], ...]
"""What takes the place of values that are undefined: of all, or by the name of the value."""


@dataclasses.dataclass(frozen=True, eq=False)
class Definition(Value):
    """What all metrics have."""

    values: Formula
    """The formula; NaN where its value is undefined."""
    undefined: Undefined

    def named(self, argument: Any, n_tasks: int) -> Values:
        """The values of sums or examples, by name, as the formula gives them.

        Raises:
            ValueError: if they are not given by name, or one is not a number, or an array of them,
                for each task.
        """
        values = self.values(argument)
        if not isinstance(values, Mapping):
            raise ValueError(
                f"values: expected a dict of arrays, got {type(values).__name__}; give each value "
                "a name, as in {'bias': ...}"
            )
        return {name: _checked_value(name, value, n_tasks) for name, value in values.items()}

    def filled(self, values: Values, has_bad: jax.Array) -> Values:
        """The values, with what is undefined replaced, but for the tasks of ``bool[T]``."""
        filled = dict(values)
        for name, value in values.items():
            undefined = self._undefined_of(name)
            if not math.isnan(undefined):
                is_undefined = jnp.isnan(value) & ~along(has_bad, value)
                filled[name] = jnp.where(is_undefined, undefined, value)
        return filled

    def _undefined_of(self, name: str) -> float:
        if isinstance(self.undefined, tuple):
            return dict(self.undefined).get(name, math.nan)
        return self.undefined


def _checked_value(name: Any, value: Any, n_tasks: int) -> jax.Array:
    """A value as it is; raises ValueError if it is not ``float[T, ...]``, or has no name."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"values: expected names that are non-empty strings, got {name!r}")
    is_array = isinstance(value, jax.Array | np.ndarray)
    if is_array and jnp.issubdtype(value.dtype, jnp.floating) and value.shape[:1] == (n_tasks,):
        return jnp.asarray(value)
    got = f"{value.dtype}{list(value.shape)}" if is_array else type(value).__name__
    hint = ""
    if is_array and not jnp.issubdtype(value.dtype, jnp.floating):
        hint = "; convert it with .astype(float)"
    elif is_array:
        hint = "; reduce along the axes after the first, which is that of tasks"
    raise ValueError(
        f"values[{name!r}]: expected a float array of shape [{n_tasks}] or [{n_tasks}, ...], a "
        f"number or more for each task (n_tasks), got {got}{hint}"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class SumDefinition(Definition):
    """A metric of sums: values of the sums of terms."""

    terms: Any
    """A pytree of `Term`; ``values`` gets the same tree of sums."""
    window: tuple[int, int] | None
    """Examples and slots of the window."""

    @property
    def prefix(self) -> str:
        """What comes before the names of values that are not of the window."""
        return "lifetime_"

    @property
    def is_estimate(self) -> bool:
        """Whether values are estimates, of which one may ask how sure they are."""
        return True

    @property
    def fades(self) -> bool:
        """Whether sums may decay."""
        return True

    def make_key(self) -> Hashable:
        """All fields."""
        leaves, structure = jax.tree.flatten(self.terms)
        return self.values, typed(self.undefined), tuple(leaves), structure, self.window

    def distinct_terms(self) -> list[Term]:
        """The terms, in order."""
        return list(dict.fromkeys(jax.tree.leaves(self.terms)))

    @functools.cached_property
    def group(self) -> tuple[Term, ...]:
        """The terms, in an order that does not depend on how the metric names them."""
        return tuple(sorted(self.distinct_terms(), key=lambda term: term.text))

    def of_terms(self, sums: Mapping[Term, jax.Array]) -> Any:
        """The tree ``terms`` with each term replaced by its sums."""
        return jax.tree.map(lambda term: term.arranged(sums[term]), self.terms)

    def evaluate(self, sums: Any) -> Values:
        """The values of sums, the tree ``terms`` of ``float64[T, *shape]``; in an x64 scope.

        A sum that is NaN, as it is where an example was bad, or out of the domain of a term, makes
        no value undefined.
        """
        leaves = jax.tree.leaves(sums)
        flat = [x.reshape(len(x), -1) for x in leaves]
        has_bad = jnp.any(jnp.isnan(jnp.concatenate(flat, axis=1)), axis=1)
        return self.filled(self.named(sums, len(leaves[0])), has_bad)


class Kept(NamedTuple):
    """What is kept of examples: equal for metrics that share it."""

    window: int
    """How many."""
    shards: int
    """How many states share them."""
    classes: int | None
    """``C`` where the predictions are ``[T, N, C]``."""
    keys: tuple[str, ...]
    """The names of the keys that are kept with the examples."""
    by_order: bool
    """Whether predictions count by their order alone, so that one of -inf is kept like any."""

    @property
    def share(self) -> int:
        """How many a state holds that was never merged."""
        return -(-self.window // self.shards)


@dataclasses.dataclass(frozen=True, eq=False)
class SampleDefinition(Definition):
    """A metric of examples: values of the newest ones."""

    kept: Kept
    excludes: tuple[str, ...]
    """What is out of the domain of the formula."""
    resampled_by: Literal["weights"] | None
    """How it is resampled: by weights, which are copies; None for not at all."""
    by_segment: Formula | None
    """``by_segment(rows, segment, count)``: the values of each segment at once, ``float[T, G]``."""

    def make_key(self) -> Hashable:
        """All fields but those that change no value."""
        return self.values, typed(self.undefined), self.kept, self.excludes

    def is_bad(self, rows: Batch) -> jax.Array:
        """Which examples are bad, or out of the domain of the formula, ``bool[T, N]``."""
        domain = Domain(self.excludes, self.kept.by_order)
        is_bad = outside(rows.predictions, rows.labels, rows.weights, rows.given.one, domain)
        return is_bad[..., 0] & rows.mask

    def evaluate(self, rows: Batch) -> Values:
        """The values of examples; NaN for a task while a bad one is among them.

        Or one that is out of the domain of the formula.
        """
        return self.unless(jnp.any(self.is_bad(rows), axis=1), rows)

    def unless(self, has_bad: jax.Array, rows: Batch) -> Values:
        """The values of examples; NaN for the tasks of ``bool[T]``."""
        values = self.filled(self.named(rows, len(has_bad)), has_bad)
        return {
            name: jnp.where(along(has_bad, value), jnp.nan, value) for name, value in values.items()
        }


@dataclasses.dataclass(frozen=True, eq=False)
class WindowSums(SampleDefinition):
    """A metric of the sums over the newest examples, of what belongs together among them."""

    of_sums: SumDefinition

    @classmethod
    def of(cls, of_sums: SumDefinition, kept: Kept) -> "WindowSums":
        """Of sums, and the examples kept, with the keys that terms read besides."""
        terms = of_sums.distinct_terms()
        keys = {*kept.keys, *(key for term in terms for key in term.keys)}
        return cls(
            Formula.of(functools.partial(values_of_sums, of_sums=of_sums)),
            math.nan,
            kept._replace(keys=tuple(sorted(keys))),
            tuple(dict.fromkeys(cause for term in terms for cause in term.excludes)),
            resampled_by=None,
            by_segment=None,
            of_sums=of_sums,
        )

    def with_sums(self, of_sums: SumDefinition) -> "WindowSums":
        """The same of other sums."""
        return self.of(of_sums, self.kept)

    def evaluate(self, rows: Batch) -> Values:
        """The values of examples; of sums in which a bad one is, or one out of a domain, NaN."""
        sums = {term: term.total(rows) for term in self.of_sums.distinct_terms()}
        return self.of_sums.evaluate(self.of_sums.of_terms(sums))


def values_of_sums(rows: Batch, *, of_sums: SumDefinition) -> Values:
    """The values of the sums over examples, whatever they are.

    What is undefined is replaced here, where sums that are NaN, of what is out of a formula's
    domain, are told from values that are undefined.
    """
    sums = {term: term.evaluate(rows) for term in of_sums.distinct_terms()}
    return of_sums.evaluate(of_sums.of_terms(sums))
