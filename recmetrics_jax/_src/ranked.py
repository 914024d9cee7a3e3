"""The doors of ranks and of lists: what stands where, as a `Batch`."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.base import Batch
from recmetrics_jax._src.batch import make_batch
from recmetrics_jax._src.catalogue import NOT_FOUND, UNDEFINED, Ranks
from recmetrics_jax._src.checks import ArrayOrList, check_kind, to_host
from recmetrics_jax._src.options import LARGEST


def make_rank_batch(
    ranks: Ranks | ArrayOrList,
    weights: ArrayOrList | None = None,
    *,
    mask: ArrayOrList | None = None,
    mask_nonfinite: bool = False,
    keys: Mapping[str, ArrayOrList] | None = None,
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
        keys: integer arrays by name, likewise.

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
