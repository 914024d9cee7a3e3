"""What is unusual about examples, told once at the door: a bit for each cause.

A metric says which causes are out of the domain of its formula: its values are NaN then. How many
examples there are of each is a metric too, `recmetrics_jax.out_of_domain_examples`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from recmetrics_jax._src.options import names

NONFINITE = 1
"""A NaN, or an infinity but for a prediction of -inf: bad for every metric."""
LOWEST = 2
"""A prediction of -inf: the lowest score there is, and bad where more than its order counts."""
LEFT_OUT = 4
"""A prediction of -inf where bad examples are left out: masked where more than its order counts."""

DOMAIN = {
    "predictions_below_0": 8,
    "predictions_above_1": 16,
    "labels_below_0": 32,
    "labels_above_1": 64,
    "weights_below_0": 128,
}
"""What may be out of the domain of a formula; a term ``excludes`` them by these names."""

ULPS = 4
"""By how many units in the last place what is 1 may be above 1, by rounding."""


def flags_of(
    predictions: jax.Array, labels: jax.Array, weights: jax.Array, *dtypes: Any
) -> jax.Array:
    """The flags of examples, ``uint8[T, N]``; of bad ones that they are bad alone.

    Args:
        predictions: ``float[T, N]`` or ``float[T, N, C]``, where one class is enough.
        labels: ``float[T, N]``.
        weights: ``float[T, N]``.
        *dtypes: those that the predictions and the labels came in; as they are by default.
    """
    of_predictions, of_labels = dtypes or (predictions.dtype, labels.dtype)
    is_lowest = jnp.isneginf(predictions)

    def of_scores(condition: jax.Array) -> jax.Array:
        return jnp.any(condition, axis=-1) if predictions.ndim == 3 else condition

    is_bad = of_scores(~jnp.isfinite(predictions) & ~is_lowest)
    is_bad = is_bad | ~jnp.isfinite(labels) | ~jnp.isfinite(weights)
    conditions = {
        LOWEST: of_scores(is_lowest),
        DOMAIN["predictions_below_0"]: of_scores(predictions < 0),
        DOMAIN["predictions_above_1"]: of_scores(predictions > _one(of_predictions)),
        DOMAIN["labels_below_0"]: labels < 0,
        DOMAIN["labels_above_1"]: labels > _one(of_labels),
        DOMAIN["weights_below_0"]: weights < 0,
    }
    flags = jnp.zeros(labels.shape, jnp.uint8)
    for bit, condition in conditions.items():
        flags = flags | jnp.where(condition, jnp.uint8(bit), jnp.uint8(0))
    return jnp.where(is_bad, jnp.uint8(NONFINITE), flags)


def _one(dtype: Any) -> float:
    """The largest number of a dtype that may be 1."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return 1.0
    return 1.0 + ULPS * float(jnp.finfo(dtype).eps)


def has(flags: jax.Array, bits: int) -> jax.Array:
    """Which examples have one of some flags, ``bool[T, N]``."""
    return (flags & jnp.uint8(bits)) != 0


def bits_of(excludes: tuple[str, ...]) -> int:
    """The flags of causes by name."""
    return sum(DOMAIN[name] for name in excludes)


def checked_causes(name: str, excludes: Sequence[str]) -> tuple[str, ...]:
    """An option that is a list of causes, in order, each once.

    Raises:
        ValueError: if one of them is none.
    """
    given = names(name, excludes)
    for cause in given:
        if cause not in DOMAIN:
            raise ValueError(f"{name}: expected names of {tuple(DOMAIN)}, got {cause!r}")
    return tuple(cause for cause in DOMAIN if cause in given)
