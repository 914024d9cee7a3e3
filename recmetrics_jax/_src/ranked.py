"""The doors of ranks and of lists: what stands where, as a `Batch`."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src import segments
from recmetrics_jax._src.base import Batch
from recmetrics_jax._src.batch import ArrayOrKeys, make_batch
from recmetrics_jax._src.catalogue import NOT_FOUND, UNDEFINED, Ranks
from recmetrics_jax._src.checks import (
    ArrayOrList,
    check_keys,
    check_kind,
    check_per_example,
    to_host,
)
from recmetrics_jax._src.ids import id_words, is_padding
from recmetrics_jax._src.keys import Keys, keys_named
from recmetrics_jax._src.options import LARGEST


def make_rank_batch(
    ranks: Ranks | ArrayOrList,
    weights: ArrayOrList | None = None,
    *,
    mask: ArrayOrList | None = None,
    mask_nonfinite: bool = False,
    keys: Mapping[str, ArrayOrKeys] | None = None,
) -> Batch:
    """A `Batch` of ranks, one target for each row, for `recmetrics_jax.rank_metrics`.

    Its predictions are how many items are above each target, and how many tied with it; labels are
    1. A row that has no rank, or none that is possible, is a bad example, as one with a NaN is.

    Args:
        ranks: `recmetrics_jax.ops.Ranks`, ``int[N]`` or ``int[T, N]`` each; or ranks from 1 as an
            array, ``[N]`` or ``[T, N]``, without ties: whole numbers, infinite where a target is
            nowhere in the catalogue, which counts as if it was beyond every ``k``; all others are
            bad.
        weights: ``[N]``, or as the ranks; ones if None.
        mask: bool, likewise; False marks padding. All True if None.
        mask_nonfinite: True: bad examples are left out, as `recmetrics_jax.make_batch` does.
        keys: ids by name, likewise, as `recmetrics_jax.make_batch` takes them.

    Returns:
        A `Batch` with predictions ``[T, N, 2]``.

    Raises:
        ValueError: as `recmetrics_jax.make_batch`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.rank_metrics(k=(1, 10))
    >>> state = metric.update(metric.init(), rm.make_rank_batch([1, 4, 12]))
    >>> round(metric.compute(state)["lifetime_hit_rate_at_10"].item(), 6)
    0.666667
    """
    if not isinstance(ranks, Ranks):
        ranks = _without_ties(ranks)
    greater, tied = (jnp.asarray(x) for x in ranks)
    if greater.ndim not in (1, 2) or greater.shape != tied.shape:
        raise ValueError(
            f"ranks: expected shape [N] or [T, N], got {greater.shape} and {tied.shape}"
        )
    predictions = jnp.stack([greater.astype(float), tied.astype(float)], axis=-1)
    is_undefined = (greater == UNDEFINED)[..., None]
    predictions = jnp.where(is_undefined, jnp.nan, predictions)
    if predictions.ndim == 2:
        predictions = predictions[None]
    labels = jnp.ones(predictions.shape[:2])
    return make_batch(
        predictions, labels, weights, mask=mask, mask_nonfinite=mask_nonfinite, keys=keys
    )


def _without_ties(ranks: ArrayOrList) -> Ranks:
    """Ranks from 1, as `Ranks`."""
    host = ranks if isinstance(ranks, jax.Array) else to_host("ranks", ranks, np.number)
    check_kind("ranks", host.dtype, (np.number,))
    xp = jnp if isinstance(host, jax.Array) else np
    with jax.enable_x64(True):  # In which all ranks are exact.
        exact = host.astype(np.float64)
        is_nowhere = exact == math.inf
        is_rank = (exact >= 1) & (exact == xp.floor(exact)) & (exact <= LARGEST)
        places = xp.where(is_rank, exact - 1, xp.where(is_nowhere, float(LARGEST), UNDEFINED))
        ties = xp.where(is_rank, 0, NOT_FOUND)
        return Ranks(*(jnp.asarray(x.astype(np.int32)) for x in (places, ties)))


def make_topk_batch(
    ids: ArrayOrList,
    relevant: ArrayOrList,
    weights: ArrayOrList | None = None,
    *,
    mask: ArrayOrList | None = None,
    keys: Mapping[str, ArrayOrKeys] | None = None,
) -> Batch:
    """A `Batch` of lists of the best items against sets of relevant ones, for metrics of sessions.

    A list is a session. Each of its K places is an example: its prediction falls with the place,
    -1, -2, ..., its label is whether the item is relevant. A relevant item that the list has not is
    one more, with a prediction of -inf and label 1, so that metrics know how many there are. An
    item counts once: further copies of it in a list keep their place and are not relevant, and
    those in a set are left out. A list that is shorter than K ends with places of no relevant item.

    So metrics at k are right up to k = K; of what comes after the list nothing is known.

    Args:
        ids: ``int[N, K]`` or ``int[T, N, K]``, best first; -1 for no item.
        relevant: ``int[N, R]`` or ``int[T, N, R]``, in any order; -1 for no item. All 64 bits of
            both count where they are NumPy arrays outside jit, or x64 is enabled.
        weights: of lists, ``[N]`` or ``[T, N]``; ones if None.
        mask: bool, likewise; False leaves a list out. All True if None.
        keys: ids by name, likewise, such as users, as `recmetrics_jax.make_batch` takes them.
            Without a ``session_id`` among them, that is the number of the list in its batch: enough
            where sessions are those of a batch.

    Returns:
        A `Batch` of ``N (K + R)`` examples.

    Raises:
        ValueError: if a shape or dtype is not as above.

    >>> import recmetrics_jax as rm
    >>> batch = rm.make_topk_batch([[7, 3, 5]], [[5, 9, -1]])
    >>> batch.predictions.tolist()  # The fourth would be 5 again, the last is padding.
    [[-1.0, -2.0, -3.0, 0.0, -inf, 0.0]]
    >>> batch.labels.tolist(), batch.mask[0, 3:].tolist()
    ([[0.0, 0.0, 1.0, 0.0, 1.0, 0.0]], [False, True, False])
    """
    words, relevant_words = id_words("ids", ids), id_words("relevant", relevant)
    if words.ndim not in (3, 4):
        raise ValueError(f"ids: expected shape [N, K] or [T, N, K], got {words.shape[:-1]}")
    lists = words.shape[:-2]
    if relevant_words.shape[:-2] != lists:
        raise ValueError(
            f"relevant: expected shape {lists} and one more axis, as ids {words.shape[:-1]}, got "
            f"{relevant_words.shape[:-1]}"
        )
    n_tasks, n_lists = lists if len(lists) == 2 else (1, lists[0])
    size = words.shape[-2] + relevant_words.shape[-2]

    def of_examples(name: str, x: ArrayOrList, *kinds: type[np.generic]) -> jax.Array | np.ndarray:
        """What a list has, for each of its examples."""
        host = x if isinstance(x, jax.Array) else to_host(name, x, *kinds)
        check_kind(name, host.dtype, kinds)
        check_per_example(name, host.shape, (n_tasks, n_lists))
        return host.repeat(size, axis=-1)

    def keys_of_examples(name: str, ids: ArrayOrKeys) -> Keys:
        given = keys_named(f"keys[{name!r}]", ids)
        check_per_example(f"keys[{name!r}]", given.shape, (n_tasks, n_lists))
        return Keys(given.words.repeat(size, axis=-2))

    given = dict(check_keys(keys))
    given.setdefault("session_id", jnp.arange(n_lists, dtype=jnp.int32))
    predictions, labels, is_example = (
        x.reshape(n_tasks, n_lists * size) for x in _examples_of_lists(words, relevant_words)
    )
    if mask is not None:
        is_example = is_example & jnp.atleast_2d(of_examples("mask", mask, np.bool_))
    return make_batch(
        predictions,
        labels,
        None if weights is None else of_examples("weights", weights, np.bool_, np.number),
        mask=is_example,
        keys={name: keys_of_examples(name, ids) for name, ids in given.items()},
    )


@jax.jit
def _examples_of_lists(
    ids: jax.Array, relevant: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Predictions, labels and mask of examples, ``[..., K + R]``, of words ``int32[..., 2]``.

    By a sort of both together: copies of an item lie side by side, those of the list first.
    """
    both = jnp.concatenate([ids, relevant], axis=-2)
    upper, lower = both[..., 0], both[..., 1]
    order = segments.argsort(upper, lower)
    is_first = segments.is_first(*(segments.take(x, order) for x in (upper, lower)))
    places = jnp.broadcast_to(jnp.arange(both.shape[-2], dtype=jnp.int32), order.shape)
    is_place = places < ids.shape[-2]
    is_relevant = (~segments.take(is_place, order)).astype(jnp.int32)
    is_wanted = segments.put(segments.sums(is_relevant, is_first) > 0, order)
    is_new = segments.put(is_first, order) & ~is_padding(both)
    predictions = jnp.where(is_place, -1.0 - places.astype(float), -jnp.inf)
    return predictions, (is_new & is_wanted).astype(float), is_place | is_new
