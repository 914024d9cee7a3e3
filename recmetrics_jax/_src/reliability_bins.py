"""Bins of predictions that are probabilities, and what is in each: weight, predictions, labels.

Bins are of fixed edges, even in the logarithm of the odds or in the probability; or they are made
of a fine histogram when a value is read, so that they are of about equal weight.

Edges of ten bins of the odds::

    odds             0.0004  0.0016  0.0063  0.025  0.1    0.4   1.6   6.3   25
    probabilities    0.0004  0.0016  0.0063  0.025  0.091  0.28  0.61  0.86  0.96
"""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.base import Batch
from recmetrics_jax._src.build import DEFAULT_SLOTS
from recmetrics_jax._src.domain import NO_PROBABILITIES
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.options import whole
from recmetrics_jax._src.score_bins import Bins, keys_of
from recmetrics_jax._src.terms import NO_CLASSES, BinnedTerm, scores

Spacing = Literal["log", "uniform", "quantile"]
"""How bins lie: even in the logarithm of the odds, in the probability, or of equal weight."""

BINS = 20
MOST_BINS = 1 << 16
DECADES = (-4, 2)
"""Between which powers of 10 bins divide the odds: what is beyond is in the first and the last."""
SCORES = Bins(65_536)
"""The bins of a fine histogram: 128 for each octave of p, and above 1/2 of 1 - p."""
LOWEST = 2.0**-32
"""Predictions below share the first bin of a fine histogram."""
FIRST, LAST = (int(k) >> SCORES.key_bits for k in keys_of(np.array([LOWEST, 1], np.float32), np))
FINE = LAST - FIRST + 1
FINE_SLOTS = 32


class BinSums(NamedTuple):
    """Sums of the examples of each bin, ``float[T, bins]`` each."""

    weights: jax.Array
    predictions: jax.Array
    """``w p``."""
    labels: jax.Array
    """``w y``."""
    squared_weights: jax.Array

    @property
    def total(self) -> jax.Array:
        """The weight of all bins, ``float[T]``."""
        return jnp.sum(self.weights, axis=-1)

    @property
    def errors(self) -> jax.Array:
        """The mean prediction less the mean label; 0 in empty bins."""
        return safe_divide(self.predictions - self.labels, self.weights, 0.0)

    @property
    def mean_labels(self) -> jax.Array:
        """The mean label; 0 in empty bins."""
        return safe_divide(self.labels, self.weights, 0.0)


class BinOptions(NamedTuple):
    """How predictions are divided into bins."""

    bins: int
    spacing: Spacing

    @classmethod
    def checked(cls, bins: Any, spacing: Any) -> "BinOptions":
        """Of options as they were given.

        Raises:
            ValueError: if ``bins`` is no number of bins, or ``spacing`` no way to space them.
        """
        if spacing not in get_args(Spacing):
            raise ValueError(f"spacing: expected one of {get_args(Spacing)}, got {spacing!r}")
        return cls(whole("bins", bins, 1, MOST_BINS), spacing)

    @property
    def slots(self) -> int:
        """How many updates a window keeps apart if not told: fewer of a fine histogram."""
        return FINE_SLOTS if self.spacing == "quantile" else DEFAULT_SLOTS

    @property
    def term(self) -> BinnedTerm:
        """The term: of bins of equal weight, the same for any number of them."""
        size = FINE if self.spacing == "quantile" else self.bins
        return BinnedTerm(
            reliability_histogram,
            (size, self.spacing),
            shape=(len(BinSums._fields), size),
            excludes=(*NO_PROBABILITIES, *NO_CLASSES),
            is_summed=True,
        )

    def read(self, histogram: jax.Array) -> BinSums:
        """What is in each bin, of sums ``float64[T, 4, size]``; in an x64 scope.

        A bad example makes its bin NaN, and so all of them, since none is known then.
        """
        is_bad = jnp.isnan(jnp.sum(histogram[:, :1], axis=-1, keepdims=True))
        if self.spacing == "quantile":
            histogram = regrouped(histogram, self.bins)
        histogram = jnp.where(is_bad, jnp.nan, histogram)
        return BinSums(*(histogram[:, i] for i in range(len(BinSums._fields))))


def reliability_histogram(batch: Batch, size: int, spacing: Spacing) -> tuple[jax.Array, jax.Array]:
    """The bin of each example; and ``w``, ``w p``, ``w y`` and ``w^2``."""
    p, y, w = jnp.minimum(scores(batch), 1.0), batch.labels, batch.weights
    return bins_of(p, size, spacing), jnp.stack([w, w * p, w * y, w * w], axis=-1)


def bins_of(predictions: jax.Array, size: int, spacing: Spacing) -> jax.Array:
    """The bins of predictions, ``int32[...]``: one that is an edge is in the upper bin."""
    if spacing == "quantile":
        fine = SCORES.places(predictions.astype(jnp.float32))
        return jnp.clip(fine - jnp.int32(FIRST), 0, size - 1)
    edges = jnp.asarray(edges_of(size, spacing), predictions.dtype)
    index = jnp.searchsorted(edges, predictions, side="right", method="scan_unrolled")
    return index.astype(jnp.int32)


def edges_of(bins: int, spacing: Spacing) -> np.ndarray:
    """The probabilities between bins, ``float64[bins - 1]``.

    >>> edges_of(4, "uniform").tolist()
    [0.25, 0.5, 0.75]
    >>> edges_of(6, "log").round(4).tolist()
    [0.001, 0.0099, 0.0909, 0.5, 0.9091]
    """
    inner = np.arange(1, bins) / bins
    if spacing == "uniform":
        return inner
    low, high = DECADES
    odds = 10.0 ** (low + (high - low) * inner)
    return odds / (1 + odds)


def regrouped(histogram: jax.Array, groups: int) -> jax.Array:
    """Neighbouring bins of ``float64[T, C, bins]`` as groups of about equal weight.

    A bin is in the group in which the middle of its weight is. One of more weight than a group is
    to have leaves groups beside it empty. Weights of six bins, in three groups of about 4::

        bin       3    0    2    1    5    1
        middle    1.5  3    4    5.5  8.5  11.5    of 12
        group     0    0    1    1    2    2

    >>> with jax.enable_x64(True):
    ...     regrouped(jnp.array([[[3.0, 0, 2, 1, 5, 1]]]), 3).tolist()
    [[[3.0, 3.0, 6.0]]]
    """

    def of_task(x: jax.Array) -> jax.Array:
        weights = x[0]
        middle = jnp.cumsum(weights) - weights / 2
        # Not by a division, which XLA rounds as it likes: the middle may be where groups meet.
        ends = jnp.arange(1.0, groups) * jnp.sum(weights)
        group = jnp.searchsorted(ends, middle * groups, side="right", method="scan_unrolled")
        return jnp.zeros((len(x), groups)).at[:, group].add(x)

    return jax.vmap(of_task)(histogram)
