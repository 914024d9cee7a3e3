"""The types that everything speaks of: `Batch`, the values of a metric, its state.

Shapes are written with one alphabet: ``T`` tasks, ``N`` examples, ``C`` classes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export

from recmetrics_jax._src.domain import Given

State = Any  # a pytree of arrays, opaque to the caller
Values = dict[str, jax.Array]


def is_known(size: Any) -> bool:
    """Whether a size is a number, and not a symbol, as those of a function that is exported are."""
    return isinstance(size, int)


_SEGMENT = ""
"""The name of the key of segments: users' have letters."""


class Batch(NamedTuple):
    """Examples of ``T`` tasks, checked and cast; made by `make_batch`.

    Where ``mask`` is False (padding), the floats and keys are zero, but for the keys of bad
    examples that were left out. ``float`` is float32, or float64 where the user has enabled x64.
    """

    predictions: jax.Array
    """``float[T, N]``, or ``float[T, N, C]`` with scores of classes."""
    labels: jax.Array
    """``float[T, N]``."""
    weights: jax.Array
    """``float[T, N]``."""
    mask: jax.Array
    """``bool[T, N]``: True for real examples, False for padding."""
    nonfinite: jax.Array
    """``bool[T, N]``: the examples that came with a NaN or an infinity."""
    unlabelled: jax.Array
    """``bool[T, N]``: of these, those whose label is NaN."""
    keys: Mapping[str, jax.Array]
    """``int32[T, N, 2]`` each: sessions, groups, as the upper and the lower half of 64 bits."""
    logits: jax.Array | None = None
    """``float[T, N]``: the logarithms of the odds that the predictions are, if they came so."""
    given: Given = Given()
    """How the arrays were given."""

    @property
    def segment(self) -> tuple[jax.Array, ...]:
        """The key of what is apart from each other, if there is such: see `with_segment`."""
        return self.key(_SEGMENT) if _SEGMENT in self.keys else ()

    def with_segment(self, number: jax.Array) -> "Batch":
        """The examples, of which those of unlike numbers, ``int32[T, N]``, are apart."""
        words = jnp.stack([jnp.zeros_like(number), number], axis=-1)
        return self._replace(keys={**self.keys, _SEGMENT: words})

    @property
    def of_values(self) -> "Batch":
        """The examples for statistics in which more than the order of predictions counts."""
        if not self.given.leaves_out:
            return self
        is_lowest = jnp.isneginf(self.predictions)
        if is_lowest.ndim == 3:
            is_lowest = jnp.any(is_lowest, axis=2)
        return masked(self, ~is_lowest)

    def key(self, name: str) -> tuple[jax.Array, jax.Array]:
        """The halves of a key, ``int32[T, N]`` each, to sort and compare by."""
        words = self.keys[name]
        return words[..., 0], words[..., 1]


def check_update(state: Any, batch: Any, *more: Any, **named: Any) -> None:
    """Raises ValueError if what ``update`` was called with is not a state and a batch."""
    call = "; call update(state, rm.make_batch(predictions, labels, weights))"
    if more or named:
        got = ", ".join((*(type(x).__name__ for x in (batch, *more)), *(f"{k}=" for k in named)))
        raise ValueError(f"batch: expected one Batch from make_batch, got {got}{call}")
    if isinstance(state, Batch):
        raise ValueError(
            f"state: expected a state of this metric, got a Batch; the state comes first{call}"
        )
    if not isinstance(batch, Batch):
        raise ValueError(
            f"batch: expected a Batch from make_batch, got {type(batch).__name__}{call}"
        )


def make_exportable(*types: type[Any]) -> None:
    """Lets functions of pytrees of these NamedTuples be serialized by `jax.export`."""
    for of in types:
        export.register_namedtuple_serialization(
            of, serialized_name=f"recmetrics_jax.{of.__name__}"
        )


def along(leading: jax.Array, x: jax.Array) -> jax.Array:
    """An array of the first axes of ``x``, in the rank of ``x``: to choose from it, or to index."""
    return leading.reshape(*leading.shape, *[1] * (x.ndim - leading.ndim))


def newest(batch: Batch, limit: int) -> Batch:
    """A batch with all but its last ``limit`` real examples masked."""
    count = jnp.cumsum(batch.mask, axis=1, dtype=jnp.int32)
    return masked(batch, count > count[:, -1:] - limit)


def is_nonfinite(predictions: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """Which examples have a NaN or an infinity, ``bool[T, N]``."""
    of_scores = ~jnp.isfinite(predictions)
    of_scores = of_scores if of_scores.ndim == 2 else jnp.any(of_scores, axis=2)
    return of_scores | ~jnp.isfinite(labels) | ~jnp.isfinite(weights)


def tail(batch: Batch, length: int) -> Batch:
    """The columns of a batch that end with the last real example of each task, ``length`` of them.

    Of a batch of 6 with padding, and ``length`` 3::

        a b c - - -    ->    a b c
        a - b c d -    ->    b c d
    """
    places = jnp.arange(1, batch.mask.shape[1] + 1, dtype=jnp.int32)[None]
    ends = jnp.max(jnp.where(batch.mask, places, 0), axis=1, keepdims=True)
    columns = jnp.maximum(ends - length, 0) + jnp.arange(length, dtype=jnp.int32)[None]

    def of(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, along(columns, x), axis=1, mode="promise_in_bounds")

    return jax.tree.map(of, batch)


def masked(batch: Batch, mask: jax.Array) -> Batch:
    """A batch without the examples for which a mask, ``bool[T, N]`` or ``bool[N]``, is False."""
    mask = jnp.broadcast_to(mask, batch.mask.shape)

    def keep(x: jax.Array) -> jax.Array:
        # By selection: a product with zero would keep NaN.
        return jnp.where(along(mask, x), x, jnp.zeros_like(x))

    return jax.tree.map(keep, batch)
