"""The place of a target among all items of a catalogue, by counting: nothing is sorted.

Shapes: ``V`` items, ``E`` excluded ones, ``K`` items of a list. Leading axes are those of the
targets, most often ``[N]``: one target for each row.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src import segments
from recmetrics_jax._src.base import is_known, make_exportable
from recmetrics_jax._src.checks import ArrayOrList, check_kind, to_host
from recmetrics_jax._src.ids import id_words, is_padding, item_numbers
from recmetrics_jax._src.numerics import AxisName
from recmetrics_jax._src.sharding import spec_of, with_automatic_axes
from recmetrics_jax._src.words import integers_of

UNDEFINED = -1
"""What ``greater`` and ``tied`` are of a target that has no rank."""
NOT_FOUND = -1
"""What ``tied`` is of a target that is not in a list; ``greater`` is how long the list is."""


class Ranks(NamedTuple):
    """Where targets stand among the items of a catalogue, as whole numbers."""

    greater: jax.Array
    """``int32[...]``: how many items are above the target. Of a target that was not found, how many
    there are at least; of one that has no rank, -1."""
    tied: jax.Array
    """``int32[...]``: how many other items have the score of the target; -1 where it was not found,
    or has no rank."""

    @property
    def rank(self) -> jax.Array:
        """``1 + greater + tied / 2``, the mean rank over all orders of the tied, ``float[...]``.

        Infinite where the target was not found, NaN where it has no rank.
        """
        rank = self.greater.astype(float) + self.tied.astype(float) / 2 + 1
        rank = jnp.where(self.is_found, rank, jnp.inf)
        return jnp.where(self.greater == UNDEFINED, jnp.nan, rank)

    @property
    def is_found(self) -> jax.Array:
        """``bool[...]``: whether the rank is known."""
        return self.tied >= 0


make_exportable(Ranks)


def rank_of(
    scores: ArrayOrList,
    target: ArrayOrList,
    *,
    exclude: ArrayOrList | None = None,
    axis_name: AxisName | None = None,
) -> Ranks:
    """The rank of a target among all items of a catalogue, by row.

    ``greater = sum over items v of [s_v > s_target]``, ``tied = sum over others of [s_v =
    s_target]``. One pass over the scores, which are read as they are, 16 bits too: besides them, no
    memory that grows with V is needed, and nothing is sorted. Scores are compared by their bits, so
    that probabilities below 1e-38, which a CPU takes for equal, are told apart; -0.0 is 0.0,
    and -inf an ordinary lowest score.

    A row with a NaN among the items that count has no rank: whether the item is above the target
    cannot be told. Nor has a row whose target is no item of the catalogue.

    Args:
        scores: ``float[..., V]`` or integers, higher is better; V < 2^31.
        target: ``int[...]``, the number of an item, by row.
        exclude: the items that do not count, such as those seen before: their numbers,
            ``int[..., E]``, where those below 0 or from V on are padding, and an item that is there
            twice is excluded once; or ``bool[..., V]``, True for those. The target always counts.
        axis_name: a mapped axis of ``shard_map`` or ``vmap``, over which the catalogue is cut into
            equal parts, in order: each device has the scores of its V items, and a mask if that is
            what ``exclude`` is; numbers of items are those in the whole catalogue, the same on all
            devices. Two collectives of a few numbers a row: one fetches the scores of the targets,
            one adds up what each device counts. None: the scores are all there, also where the
            compiler has spread them over devices.

    Returns:
        `Ranks`, in the shape of ``target``.

    Raises:
        ValueError: if a shape or dtype is not as above.

    >>> import jax.numpy as jnp, recmetrics_jax as rm
    >>> scores = jnp.array([[0.9, 0.5, 0.7, 0.5], [0.1, 0.2, 0.3, 0.4]])
    >>> ranks = rm.ops.rank_of(scores, jnp.array([1, 0]), exclude=jnp.array([[0, -1], [3, 3]]))
    >>> ranks.greater.tolist(), ranks.tied.tolist(), ranks.rank.tolist()
    ([1, 2], [1, 0], [2.5, 3.0])
    """
    scores = _array("scores", scores, np.number)
    if scores.ndim == 0 or (is_known(scores.shape[-1]) and scores.shape[-1] == 0):
        raise ValueError(
            f"scores: expected shape [..., V] with V of at least 1, got {scores.shape}"
        )
    target = item_numbers("target", target)
    _check_shape("target", target.shape, scores.shape[:-1])
    mask = ids = None
    if exclude is not None:
        if not isinstance(exclude, jax.Array):
            exclude = to_host("exclude", exclude, np.bool_, np.integer)
        if exclude.dtype == bool:
            mask = _array("exclude", exclude, np.bool_)
            _check_shape("exclude", mask.shape, scores.shape)
        else:
            ids = item_numbers("exclude", exclude)
            _check_shape("exclude", ids.shape, (*target.shape, *ids.shape[-1:]))
    return _rank_of(scores, target, mask, ids, axis_name=axis_name)


def rank_in(ids: ArrayOrList, target: ArrayOrList) -> Ranks:
    """The rank of a target in a list of the best items, by row, such as `jax.lax.top_k` gives.

    ``greater = the place of the target in the list, from 0``; nothing is known of ties. A target
    that is not in the list has a rank above K, and nothing more is known of it: ``tied`` is -1,
    ``greater`` is K, and ``rank`` infinite.

    Args:
        ids: ``int[..., K]``, best first, -1 for padding. Of an item that is there several times the
            first place counts; what comes between keeps its place.
        target: ``int[...]``; -1 for none, which has no rank. All 64 bits of ids count where both
            are NumPy arrays outside jit, or x64 is enabled.

    Returns:
        `Ranks`, in the shape of ``target``.

    Raises:
        ValueError: if a shape or dtype is not as above.

    >>> import jax.numpy as jnp, recmetrics_jax as rm
    >>> ranks = rm.ops.rank_in(jnp.array([[7, 3, 5], [7, 3, 5]]), jnp.array([3, 4]))
    >>> ranks.rank.tolist(), ranks.is_found.tolist(), ranks.greater.tolist()
    ([2.0, inf], [True, False], [1, 3])
    """
    words, wanted = id_words("ids", ids), id_words("target", target)
    if words.ndim < 2 or (is_known(words.shape[-2]) and words.shape[-2] == 0):
        raise ValueError(
            f"ids: expected shape [..., K] with K of at least 1, got {words.shape[:-1]}"
        )
    _check_shape("target", wanted.shape[:-1], words.shape[:-2])
    return _rank_in(words, wanted)


@functools.partial(jax.jit, static_argnames="axis_name")
def _rank_of(
    scores: jax.Array,
    target: jax.Array,
    mask: jax.Array | None,
    ids: jax.Array | None,
    *,
    axis_name: AxisName | None,
) -> Ranks:
    """`rank_of`, of what is checked; one dispatch when called eagerly."""
    spec: Any = spec_of(target)
    ranks = functools.partial(_ranks, axis_name=axis_name)
    return with_automatic_axes(ranks, scores, target, mask, ids, result=Ranks(spec, spec))


class _Items(NamedTuple):
    """Scores of items, to be compared with that of a target."""

    values: jax.Array
    """``int[..., V]``, in the order of the scores."""
    is_nan: jax.Array
    """``bool[..., V]``."""

    @classmethod
    def of(cls, scores: jax.Array) -> "_Items":
        is_float = jnp.issubdtype(scores.dtype, jnp.floating)
        is_nan = jnp.isnan(scores) if is_float else jnp.zeros(scores.shape, bool)
        return cls(integers_of(scores), is_nan)

    def has(self, ids: jax.Array) -> jax.Array:
        """Whether there are such items, ``bool[..., E]`` of ``int32[..., E]``."""
        return (ids >= 0) & (ids < self.values.shape[-1])

    def place(self, ids: jax.Array) -> jax.Array:
        """Ids as places in the arrays; of those that are not there, any."""
        return jnp.clip(ids, 0, self.values.shape[-1] - 1)

    def take(self, ids: jax.Array) -> "_Items":
        """The items at ``int32[..., E]``; any where there are none."""
        return _Items(*(segments.take(x, self.place(ids)) for x in self))

    def compare(self, value: jax.Array, is_counted: jax.Array | None = None) -> Sequence[jax.Array]:
        """How many are greater than ``int[..., 1]``, equal, and NaN, ``int32[...]`` each.

        One reduction of three operands, which XLA fuses with the comparisons: of a sum for each, it
        would hold one in memory.
        """
        masks = [self.values > value, self.values == value, self.is_nan]
        if is_counted is not None:
            masks = [mask & is_counted for mask in masks]
        operands = tuple(mask.astype(jnp.int32) for mask in masks)
        axis = value.ndim - 1
        return jax.lax.reduce(operands, (np.int32(0),) * 3, _add, (axis,))


def _add(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _ranks(
    scores: jax.Array,
    target: jax.Array,
    mask: jax.Array | None,
    ids: jax.Array | None,
    *,
    axis_name: AxisName | None,
) -> Ranks:
    start = jnp.int32(0)
    if axis_name is not None:
        start = jax.lax.axis_index(axis_name) * jnp.int32(scores.shape[-1])
    items = _Items.of(scores)
    here = (target - start)[..., None]
    is_here = items.has(here)
    own = items.take(here)
    value = own.values
    if axis_name is not None:
        # One device has it, all others give 0.
        value = jnp.where(is_here, value, jnp.zeros_like(value))
        wide = value if value.dtype.itemsize >= 4 else value.astype(jnp.int32)
        value = jax.lax.psum(wide, axis_name).astype(value.dtype)
    # The target is equal to itself, which is no tie; a mask may have left it out.
    is_equal = is_here
    if mask is not None:
        is_equal = is_here & ~segments.take(mask, items.place(here))
    greater, equal, bad = items.compare(value, None if mask is None else ~mask)
    if ids is not None:
        # They are few, so that they are counted again, and taken off.
        ids = jnp.sort(ids, axis=-1)
        is_excluded = items.has(ids - start) & segments.is_first(ids) & (ids != target[..., None])
        excluded = items.take(ids - start).compare(value, is_excluded)
        greater, equal, bad = greater - excluded[0], equal - excluded[1], bad - excluded[2]
    itself, own_bad, found = (
        x[..., 0].astype(jnp.int32) for x in (is_equal, is_here & own.is_nan, is_here)
    )
    counts = jnp.stack([greater, equal - itself, bad + own_bad, found])
    if axis_name is not None:
        counts = jax.lax.psum(counts, axis_name)
    greater, tied, bad, found = counts
    return _defined(Ranks(greater, tied), (bad == 0) & (found > 0))


def _defined(ranks: Ranks, is_defined: jax.Array) -> Ranks:
    """The ranks, and that there is none where they are not defined."""
    return Ranks(*(jnp.where(is_defined, x, jnp.int32(UNDEFINED)) for x in ranks))


@jax.jit
def _rank_in(ids: jax.Array, target: jax.Array) -> Ranks:
    """`rank_in`, of ids as words, ``int32[..., K, 2]`` and ``int32[..., 2]``."""
    is_target = jnp.all(ids == target[..., None, :], axis=-1)
    size = is_target.shape[-1]
    places = jnp.where(is_target, jnp.arange(size, dtype=jnp.int32), jnp.int32(size))
    greater = jnp.min(places, axis=-1)
    tied = jnp.where(greater < size, jnp.int32(0), jnp.int32(NOT_FOUND))
    return _defined(Ranks(greater, tied), ~is_padding(target))


def _array(name: str, x: ArrayOrList, *kinds: type[np.generic]) -> jax.Array:
    """An array of one of ``kinds``, copied if it is the caller's."""
    if isinstance(x, jax.Array):
        check_kind(name, x.dtype, kinds)
        return x
    return jnp.array(to_host(name, x, *kinds).copy())


def _check_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Raises ValueError if a shape is not as expected."""
    if shape != expected:
        raise ValueError(f"{name}: expected shape {expected}, got {shape}")
