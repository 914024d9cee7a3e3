"""The average of a metric over groups of examples, for the grouped forms of metrics of order."""

from typing import Literal, NamedTuple, TypedDict, get_args

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
    average = checked_average(average)
    if undefined_groups is not None:
        undefined_groups = number("undefined_groups", undefined_groups, "a number or None")
    key = text("grouping_key", grouping_key)
    return Grouping(
        grouping_key=key if flag("grouped", grouped) else None,
        average=average,
        undefined_groups=undefined_groups,
    )


def checked_average(average: Average) -> Average:
    """The option ``average``.

    Raises:
        ValueError: if it is none.
    """
    if average not in get_args(Average):
        raise ValueError(f"average: expected one of {get_args(Average)}, got {average!r}")
    return average


def keys_of(options: Grouping) -> tuple[str, ...]:
    """The keys that the average over groups reads."""
    key = options["grouping_key"]
    return () if key is None else (key,)


class GroupSums(NamedTuple):
    """What an average over groups is made of, each ``float64[T]``; those of batches add up.

    Or ``float64[T, N]``, what groups contribute to it, each in its last row.
    """

    values: jax.Array
    """The values of groups, each times what it counts."""
    counts: jax.Array
    """What groups count."""
    groups: jax.Array
    """How many groups are averaged."""
    undefined_groups: jax.Array
    """How many groups have no value of their own."""


def group_contributions(
    of_group: jax.Array,
    order: jax.Array,
    is_first: jax.Array,
    is_present: jax.Array,
    weights: jax.Array,
    *,
    average: Average,
    undefined_groups: float | None,
) -> GroupSums:
    """What groups contribute to the average over them, ``float64[T, N]``; in an x64 scope.

    Args:
        of_group: ``float64[T, N]``: in the last row of a group its value, NaN if it has none.
        order: ``int32[T, N]``: the rows of the batch in the order of ``of_group``, which is that of
            the result.
        is_first: ``bool[T, N]``: where a group begins, in that order.
        is_present: ``bool[T, N]``, in the order of the batch: a group without such rows is none.
        weights: ``float[T, N]``, in the order of the batch.
        average: what a group counts: 1, its number of present rows, or its weight.
        undefined_groups: the value of a group that has none; None leaves such groups out.
    """
    chex.assert_equal_shape([of_group, order, is_first, is_present, weights])

    def in_group(x: jax.Array) -> jax.Array:
        return segments.cumsum(segments.take(x, order).astype(jnp.float64), is_first)

    rows = in_group(is_present)
    is_group = segments.is_last(is_first) & (rows > 0)
    is_undefined = is_group & jnp.isnan(of_group)
    is_averaged = is_group if undefined_groups is not None else is_group & ~is_undefined
    if average == "equal":
        counts = jnp.ones_like(rows)
    else:
        counts = rows if average == "impressions" else in_group(weights)
    counts = jnp.where(is_averaged, counts, 0.0)
    filled = jnp.where(is_undefined, undefined_groups or 0.0, of_group)
    return GroupSums(
        jnp.where(is_averaged, counts * filled, 0.0),
        counts,
        is_averaged.astype(jnp.float64),
        is_undefined.astype(jnp.float64),
    )


def summed(contributions: GroupSums) -> GroupSums:
    """Their sums over a batch; in an x64 scope."""
    return GroupSums(*(jnp.sum(x, axis=-1) for x in contributions))


def average_values(name: str, sums: GroupSums, groups: str = "groups") -> Values:
    """The average over groups, NaN for none, and how many groups there are; in an x64 scope.

    Returns:
        ``<name>``, ``<name>_<groups>``, the number of groups averaged, and
        ``<name>_undefined_<groups>``, the number of groups without a value of their own.
    """
    is_defined = sums.counts > 0
    mean = jnp.where(is_defined, sums.values / jnp.where(is_defined, sums.counts, 1.0), jnp.nan)
    return {
        name: mean,
        f"{name}_{groups}": sums.groups,
        f"{name}_undefined_{groups}": sums.undefined_groups,
    }


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
    """The average over groups of the examples of a window, and how many groups there are.

    Arguments as of `group_contributions`; values as of `average_values`, with ``grouped_`` before
    the name.
    """
    with jax.enable_x64(True):
        of_groups = group_contributions(
            of_group,
            order,
            is_first,
            batch.mask,
            batch.weights,
            average=average,
            undefined_groups=undefined_groups,
        )
        return average_values(f"grouped_{name}", summed(of_groups))
