"""Keys to group by, in all the forms that they are given in."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recmetrics_jax.adapter._module import RecMetricException
from recmetrics_jax.adapter._tensors import kind_of, to_numpy


def group_numbers(name: str, keys: Any, num_groups: int) -> np.ndarray:
    """Keys as numbers of groups, ``int64``; what is behind the point is dropped.

    Raises:
        IndexError: if one is the number of no group.

    >>> group_numbers("country", np.array([0.0, 1.9]), 2).tolist()
    [0, 1]
    """
    numbers = to_numpy(keys)
    # As a comparison with NaN is false.
    if numbers.size and not (numbers.min() > -1 and numbers.max() < num_groups):
        raise IndexError(
            f"{name}: expected numbers of groups, from 0 to {num_groups - 1}, got "
            f"{numbers.min()} to {numbers.max()}"
        )
    return numbers.astype(np.int64)


@dataclass(unsafe_hash=True)
class GroupingKeyConfig:
    """A key to group by.

    Attributes:
        name: the name of the key in ``required_inputs``.
        num_groups: how many groups there are; they are numbered from 0.
        cast_keys_to_int: whether the numbers may be floats, of which what is behind the point is
            dropped.
    """

    name: str
    num_groups: int = 1
    cast_keys_to_int: bool = False

    @property
    def read_as(self) -> str:
        """The name by which terms read it, as others may read the floats as they are."""
        return f"int({self.name})" if self.cast_keys_to_int else self.name

    def numbers(self, keys: Any) -> np.ndarray:
        """A key as numbers of groups, ``int64``.

        Raises:
            RecMetricException: if it is of another dtype.
            IndexError: if one is the number of no group.
        """
        # JAX has no int64, unless it is told to.
        dtypes = ["int64", "int32"] if kind_of(keys) == "jax" else ["int64"]
        dtypes += ["float32", "float64"] if self.cast_keys_to_int else []
        if (dtype := to_numpy(keys).dtype.name) not in dtypes:
            raise RecMetricException(
                f"{self.name}: expected grouping keys of int64, or with cast_keys_to_int of "
                f"float32 or float64, got {dtype}"
            )
        return group_numbers(self.name, keys, self.num_groups)


def configs_of(
    grouping_keys: str | Sequence[str | dict[str, Any] | GroupingKeyConfig],
    num_groups: int,
    cast_keys_to_int: bool,
) -> tuple[GroupingKeyConfig, ...]:
    """Keys to group by, however they are given, as configurations of their own.

    Args:
        grouping_keys: a name; or a list of names, of dictionaries, of configurations.
        num_groups: of those that do not say.
        cast_keys_to_int: of those that do not say.

    Raises:
        ValueError: if there is no key, one is there twice, one is none of these, or has no groups.

    >>> keys = ["a", {"name": "b", "num_groups": 3}]
    >>> [config.num_groups for config in configs_of(keys, 2, False)]
    [2, 3]
    """
    default = GroupingKeyConfig("", num_groups, cast_keys_to_int)
    configs: list[GroupingKeyConfig] = []
    for item in [grouping_keys] if isinstance(grouping_keys, str) else grouping_keys:
        if isinstance(item, str):
            configs.append(replace(default, name=item))
        elif isinstance(item, dict):
            fields = ("num_groups", "cast_keys_to_int")
            given = {field: item[field] for field in fields if field in item}
            configs.append(replace(default, name=item["name"], **given))
        elif isinstance(item, GroupingKeyConfig):
            configs.append(replace(item))
        else:
            raise ValueError(
                "grouping_keys: expected names, dictionaries or objects of GroupingKeyConfig, got "
                f"{item!r}"
            )
    names = [config.name for config in configs]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"grouping_keys: expected one key or more, each once, got {names}")
    for config in configs:
        if config.num_groups < 1:
            raise ValueError(f"num_groups: expected at least 1 of {config.name!r}, got {config}")
    return tuple(configs)
