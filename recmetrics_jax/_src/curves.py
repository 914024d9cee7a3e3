"""Cumulative true and false positives over sorted scores, and the areas under their curves."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from recmetrics_jax._src import segments
from recmetrics_jax._src.words import words_or_absent


class Curve(NamedTuple):
    """What lies at or above each score, from the highest down, by group.

    Rows are in order of group and falling score. A run of equal scores is one point of the curve,
    and stands in the run's last row: no row order enters. Weights are ``float64[..., N]``.
    """

    true_positives: jax.Array
    """Weight of positives in the group with at least the score of the row."""
    false_positives: jax.Array
    """Weight of negatives in the group with at least the score of the row."""
    new_true_positives: jax.Array
    """Of these, what the run of equal scores adds; 0 but in the run's last row."""
    new_false_positives: jax.Array
    """Of these, what the run of equal scores adds; 0 but in the run's last row."""
    is_first: jax.Array | None
    """``bool[..., N]``: where a group begins; None for one group."""
    order: jax.Array
    """``int32[..., N]``: the rows as they were given, in this order."""


def curve(
    scores: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    groups: tuple[jax.Array, ...] = (),
    is_present: jax.Array | None = None,
) -> Curve:
    """The curve of true and false positives over the scores, by group.

    One sort by group and score, and cumulative sums: O(N log N), whatever the number of groups.

    Args:
        scores: ``float[..., N]``, higher is more positive.
        positives: ``float[..., N]``, how much weight of a row is positive, ``w y``.
        negatives: ``float[..., N]``, how much is negative, ``w (1 - y)``.
        groups: keys of the group of a row, ``int[..., N]`` each; none for one group.
        is_present: ``bool[..., N]``: rows that are not count nothing, and are the last of their
            group; None where all are.

    Returns:
        A `Curve`, in float64 whatever the dtypes of the arguments.

    >>> import jax.numpy as jnp
    >>> labels = jnp.array([1.0, 0.0, 1.0, 0.0])
    >>> points = curve(jnp.array([0.9, 0.5, 0.5, 0.1]), labels, 1 - labels)
    >>> points.true_positives.tolist(), points.new_false_positives.tolist()
    ([1.0, 1.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0])
    """
    absent = () if is_present is None else (is_present,)
    chex.assert_equal_shape([scores, positives, negatives, *groups, *absent])
    by = (*groups, *words_or_absent(-scores, is_present))
    order = segments.argsort(*by)
    by = [segments.take(x, order) for x in by]
    is_first = segments.is_first(*by[: len(groups)]) if groups else None
    is_run_first = segments.is_first(*by)
    is_run_last = segments.is_last(is_run_first)
    run = segments.first_rows(is_run_first)
    has_none_before = run == 0 if is_first is None else segments.take(is_first, run)
    with jax.enable_x64(True):

        def cumulative(weights: jax.Array) -> tuple[jax.Array, jax.Array]:
            if is_present is not None:
                weights = jnp.where(is_present, weights, 0.0)
            weights = segments.take(weights, order).astype(jnp.float64)
            total = segments.cumsum(weights, is_first)
            before = segments.take(total, jnp.maximum(run - 1, 0))
            new = total - jnp.where(has_none_before, 0.0, before)
            return total, jnp.where(is_run_last, new, 0.0)

        true_positives, new_true_positives = cumulative(positives)
        false_positives, new_false_positives = cumulative(negatives)
    return Curve(
        true_positives, false_positives, new_true_positives, new_false_positives, is_first, order
    )


def roc_area(points: Curve) -> jax.Array:
    """The area under the ROC curve of each group.

    ``sum over pairs of a positive and a negative of w+ w- ([p+ > p-] + [p+ = p-] / 2)`` over the
    weight of all such pairs (Hanley and McNeil, The Meaning and Use of the Area under a Receiver
    Operating Characteristic (ROC) Curve, Radiology 143(1), 1982).

    Args:
        points: a `Curve`.

    Returns:
        ``float64[..., N]``: in the last row of a group its area, NaN if it lacks a class.

    >>> import jax.numpy as jnp
    >>> labels = jnp.array([1.0, 0.0, 1.0, 0.0])
    >>> roc_area(curve(jnp.array([0.9, 0.5, 0.5, 0.1]), labels, 1 - labels))[-1].item()
    0.875
    """
    with jax.enable_x64(True):
        above = points.true_positives - points.new_true_positives / 2
        pairs = _sums(above * points.new_false_positives, points.is_first)
        total = points.true_positives * points.false_positives
        return jnp.where(total > 0, pairs / jnp.where(total > 0, total, 1.0), jnp.nan)


def precision_recall_area(points: Curve) -> jax.Array:
    """The average precision of each group, the area under the step curve of precision and recall.

    ``sum over distinct scores of (recall gained there) * (precision there)``.

    Args:
        points: a `Curve`.

    Returns:
        ``float64[..., N]``: in the last row of a group its area, NaN if it has no positives.

    >>> import jax.numpy as jnp
    >>> labels = jnp.array([1.0, 0.0, 1.0, 0.0])
    >>> points = curve(jnp.array([0.9, 0.5, 0.5, 0.1]), labels, 1 - labels)
    >>> round(precision_recall_area(points)[-1].item(), 6)
    0.833333
    """
    with jax.enable_x64(True):
        predicted = points.true_positives + points.false_positives
        precision = points.true_positives / jnp.where(predicted > 0, predicted, 1.0)
        area = _sums(precision * points.new_true_positives, points.is_first)
        total = points.true_positives
        return jnp.where(total > 0, area / jnp.where(total > 0, total, 1.0), jnp.nan)


def _sums(x: jax.Array, is_first: jax.Array | None) -> jax.Array:
    """In the last row of each group its sum, ``[..., N]``."""
    if is_first is None:
        return jnp.broadcast_to(jnp.sum(x, axis=-1, keepdims=True), x.shape)
    return segments.cumsum(x, is_first)
