"""The domains of formulas: which examples are out of them, told by the extremes of a batch.

A term says by name what its function excludes: its sums are NaN for a task with such an example.
The least and the largest prediction, label and weight tell whether there is one, so that no
statistic of an example costs more for it. Zeros, which masked examples are, are in every domain.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from recmetrics_jax._src.options import names

ULPS = 4
"""By how many units in the last place what is 1 may be above 1, by rounding."""


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Given:
    """How the examples of a batch were given; no array, since what is compiled depends on it."""

    one: float = 1.0
    """The largest prediction that is 1, but for rounding."""
    leaves_out: bool = False
    """Whether bad examples are left out: one of -inf, wherever more than its order counts."""

    @classmethod
    def of(cls, dtype: Any, leaves_out: bool) -> "Given":
        """Of predictions of a dtype."""
        if not jnp.issubdtype(dtype, jnp.floating):
            return cls(leaves_out=leaves_out)
        return cls(1.0 + ULPS * float(jnp.finfo(dtype).eps), leaves_out)


export.register_pytree_node_serialization(
    Given,
    serialized_name="recmetrics_jax.Given",
    serialize_auxdata=lambda given: f"{given.one} {int(given.leaves_out)}".encode(),
    deserialize_auxdata=lambda text: Given(float(text.split()[0]), bool(int(text.split()[1]))),
)


class Extremes(NamedTuple):
    """The least and the largest of 0 and some examples; or what each example has, twice."""

    least: tuple[jax.Array, ...]
    """Predictions, labels and weights, of one shape."""
    largest: tuple[jax.Array, ...]


PREDICTIONS, LABELS, WEIGHTS = range(3)

CAUSES = {
    "predictions_below_0": (PREDICTIONS, 0),
    "predictions_above_1": (PREDICTIONS, 1),
    "labels_below_0": (LABELS, 0),
    "labels_above_1": (LABELS, 1),
    "weights_below_0": (WEIGHTS, 0),
}
"""What a formula may exclude, by name: what is below 0, or above 1."""
NO_PROBABILITIES = ("predictions_below_0", "predictions_above_1")


class Domain(NamedTuple):
    """What examples must be for a term."""

    excludes: tuple[str, ...]
    """The causes of being out of it."""
    by_order: bool
    """Whether predictions count by their order alone, so that -inf is the lowest of them."""

    def bounds(self, one: float, dtype: Any) -> np.ndarray:
        """The least and the largest predictions, labels and weights in it, ``float[2, 3]``.

        Args:
            one: the largest prediction that is 1, but for rounding.
            dtype: of the examples.
        """
        largest = float(jnp.finfo(dtype).max)
        bounds = np.array([[-largest] * 3, [largest] * 3])
        if self.by_order:
            bounds[0, PREDICTIONS] = -np.inf
        for of, bound in (CAUSES[cause] for cause in self.excludes):
            bounds[bound, of] = one if (of, bound) == (PREDICTIONS, 1) else bound
        return bounds


class Check(NamedTuple):
    """Examples, and the domains that they are to be in."""

    extremes: Extremes
    """Of each example, ``float[T, N]``."""
    domains: tuple[Domain, ...]
    one: float
    """The largest prediction that is 1, but for rounding."""

    def outside(self, extremes: Extremes) -> jax.Array:
        """Which examples of such extremes are out of which domain, ``bool[T, N, M]``.

        Or bad: of a NaN, which is in no order, or an infinity.
        """
        dtype = extremes.least[0].dtype
        bounds = np.stack([x.bounds(self.one, dtype) for x in self.domains], axis=-1).astype(dtype)
        least, largest = (x[:, None, None] for x in bounds)  # [3, 1, 1, M]
        inside = [
            (low[..., None] >= bound) & (high[..., None] <= other)
            for low, high, bound, other in zip(*extremes, least, largest, strict=True)
        ]
        return ~functools.reduce(jnp.logical_and, inside)


def extremes_of_examples(*arrays: jax.Array) -> Extremes:
    """Predictions, labels and weights as extremes, ``float[T, N]``: of classes, those of them."""
    predictions, *others = arrays
    if predictions.ndim == 2:
        return Extremes(arrays, arrays)
    least, largest = (jnp.min(predictions, axis=2), jnp.max(predictions, axis=2))
    return Extremes((least, *others), (largest, *others))


def outside(
    predictions: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    one: float,
    *domains: Domain,
) -> jax.Array:
    """Which examples are out of which domain, ``bool[T, N, M]``."""
    extremes = extremes_of_examples(predictions, labels, weights)
    return Check(extremes, domains, one).outside(extremes)


def checked_causes(name: str, excludes: Sequence[str]) -> tuple[str, ...]:
    """An option that is a list of causes, in order, each once.

    Raises:
        ValueError: if one of them is none.
    """
    given = names(name, excludes)
    for cause in given:
        if cause not in CAUSES:
            raise ValueError(f"{name}: expected names of {tuple(CAUSES)}, got {cause!r}")
    return tuple(cause for cause in CAUSES if cause in given)
