"""The state of metrics: a tree of accumulators that says what it holds."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src import accumulators, numerics
from recmetrics_jax._src.accumulators import Sum
from recmetrics_jax._src.base import State
from recmetrics_jax._src.histogram import Histogram
from recmetrics_jax._src.samples import Samples
from recmetrics_jax._src.windows import Window

MARK = 3
"""The place, in ``contents``, of the fingerprint of a merged state."""

COUNTED_TWICE = np.int32(-1)
"""The mark of a state that counts some examples several times."""


class MetricState(NamedTuple):
    """The state of a `Program`: a pytree of arrays, opaque to users."""

    lifetime: Sum
    histograms: tuple[Histogram, ...]
    windows: tuple[Window, ...]
    samples: tuple[Samples, ...]
    contents: jax.Array
    """``int32[M, 4]``: what it holds (see `contents`). Last in the first row is the mark of the
    merged state of several devices that this one goes on from: 0 if there is none, `COUNTED_TWICE`
    if it was merged with another that goes on from the same."""
    others: dict[str, State]
    """The states of metrics written by hand, by name."""

    def holds(self, rows: np.ndarray) -> jax.Array:
        """Whether it holds what these rows say, and counts each example once, ``bool[]``."""
        words = self.contents.ravel()
        is_equal = (words == rows.ravel()).at[MARK].set(words[MARK] != COUNTED_TWICE)
        return jnp.all(is_equal)

    def merge(self, other: "MetricState") -> "MetricState":
        """Both states together; zeros in ``contents`` if they do not hold the same."""
        words = jnp.stack([self.contents.ravel(), other.contents.ravel()])
        most, least = jnp.max(words, axis=0), jnp.min(words, axis=0)
        mark = jnp.where(_is_counted_twice(most, least), COUNTED_TWICE, most[MARK])
        return MetricState(
            *accumulators.merge(self._accumulators(), other._accumulators()),
            contents=_contents(most, least, mark).reshape(self.contents.shape),
            others={},
        )

    def all_merge(self, axis_name: numerics.AxisName) -> "MetricState":
        """The states of all devices together; zeros in ``contents`` as in `merge`."""
        words = self.contents.ravel()
        most, least = jax.lax.pmax(jnp.stack([words, -words]), axis_name)
        least = -least
        merged = accumulators.all_merged(self._accumulators(), axis_name)
        mark = _fingerprint(merged)
        is_many = jax.lax.psum(1, axis_name) > 1
        is_twice = (least[MARK] == COUNTED_TWICE) | (is_many & _is_counted_twice(most, least))
        mark = jnp.where(is_twice, COUNTED_TWICE, mark)
        return MetricState(
            *merged,
            contents=_contents(most, least, mark).reshape(self.contents.shape),
            **accumulators.all_merged({"others": self.others}, axis_name),
        )

    def _accumulators(self) -> Any:
        return self[:4]


def _is_counted_twice(most: jax.Array, least: jax.Array) -> jax.Array:
    """Whether states of these extremes of words go on from one merged state."""
    is_one = (most[MARK] == least[MARK]) & (most[MARK] > 0)
    return is_one | (least[MARK] == COUNTED_TWICE)


def _contents(most: jax.Array, least: jax.Array, mark: jax.Array) -> jax.Array:
    """The words of merged states, ``int32[4 M]``; zeros if those of the states differ."""
    is_same = jnp.all((most == least).at[MARK].set(True))
    words = jnp.where(is_same, most, jnp.zeros_like(most))
    # Behind a barrier, as sums are.
    return jax.lax.optimization_barrier(
        jnp.concatenate([words[:MARK], mark[None], words[MARK + 1 :]])
    )


def _fingerprint(accumulators: Any) -> jax.Array:
    """A number above 0 that tells states apart, ``int32[]``; 0 of one without examples."""
    mark = jnp.zeros((), jnp.int32)
    for leaf in jax.tree.leaves((accumulators[0], accumulators[1], accumulators[3])):
        bits = leaf.astype(jnp.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
        bits = jax.lax.bitcast_convert_type(bits, jnp.int32)
        mark = mark * jnp.int32(31) + jnp.sum(bits, dtype=jnp.int32)
    return jnp.where(mark == 0, mark, (mark & jnp.int32(0x7FFFFFFE)) | jnp.int32(1))
