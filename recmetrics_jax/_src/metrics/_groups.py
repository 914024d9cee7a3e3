"""The average of a metric over groups of examples, for the grouped forms of metrics of order."""

from typing import Literal, TypedDict, get_args

import chex
import jax
import jax.numpy as jnp

from recmetrics_jax._src import segments
from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.options import flag, number, text

Average = Literal["equal", "impressions", "weight"]


class Grouping(TypedDict):
    """The options of the average over groups."""

    grouping_key: str | None
    """None for no groups."""
    average: Average
    undefined_groups: float | None


def grouping(
    *, grouped: bool, grouping_key: str, average: Average, undefined_groups: float | None
) -> Grouping:
    """The options of the average over groups, as they are given to a factory.

    Raises:
        ValueError: if one of them is none.
    """
    if average not in get_args(Average):
        raise ValueError(f"average: expected one of {get_args(Average)}, got {average!r}")
    if undefined_groups is not None:
        undefined_groups = number("undefined_groups", undefined_groups, "a number or None")
    key = text("grouping_key", grouping_key)
    return Grouping(
        grouping_key=key if flag("grouped", grouped) else None,
        average=average,
        undefined_groups=undefined_groups,
    )


def keys_of(options: Grouping) -> tuple[str, ...]:
    """The keys that the average over groups reads."""
    key = options["grouping_key"]
    return () if key is None else (key,)


def group_values(
    name: str,
    of_group: jax.Array,
    order: jax.Array,
    is_first: jax.Array,
    batch: Batch,
    *,
    average: Average,
    undefined_groups: float | None,
) -> Values:
    """The average over groups, and how many groups there are.

    Args:
        name: the name of the metric.
        of_group: ``float64[T, N]``: in the last row of a group its value, NaN if it has none.
        order: ``int32[T, N]``: the rows of the batch in the order of ``of_group``.
        is_first: ``bool[T, N]``: where a group begins, in that order.
        batch: the examples.
        average: what a group counts: 1, its number of examples, or its weight.
        undefined_groups: the value of a group that has none; None leaves such groups out.

    Returns:
        ``grouped_<name>``, NaN for no groups, ``grouped_<name>_groups``, the number of groups
        averaged, and ``grouped_<name>_undefined_groups``, the number of groups without a value of
        their own.
    """
    chex.assert_equal_shape([of_group, order, is_first, batch.mask])
    with jax.enable_x64(True):

        def in_group(x: jax.Array) -> jax.Array:
            return segments.cumsum(segments.take(x, order).astype(jnp.float64), is_first)

        examples = in_group(batch.mask)
        is_group = segments.is_last(is_first) & (examples > 0)
        is_undefined = is_group & jnp.isnan(of_group)
        is_averaged = is_group if undefined_groups is not None else is_group & ~is_undefined
        if average == "equal":
            counts = jnp.ones_like(examples)
        else:
            counts = examples if average == "impressions" else in_group(batch.weights)
        counts = jnp.where(is_averaged, counts, 0.0)
        filled = jnp.where(is_undefined, undefined_groups or 0.0, of_group)
        total = jnp.sum(counts, axis=-1)
        mean = jnp.sum(jnp.where(is_averaged, counts * filled, 0.0), axis=-1)
        mean = jnp.where(total > 0, mean / jnp.where(total > 0, total, 1.0), jnp.nan)
        return {
            f"grouped_{name}": mean,
            f"grouped_{name}_groups": jnp.sum(is_averaged, axis=-1, dtype=jnp.float64),
            f"grouped_{name}_undefined_groups": jnp.sum(is_undefined, axis=-1, dtype=jnp.float64),
        }
