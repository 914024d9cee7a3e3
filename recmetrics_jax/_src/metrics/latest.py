"""Values of the newest examples: scalar."""

import math

import jax.numpy as jnp

from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import sample_metric
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.terms import NEGATIVE_WEIGHTS


def scalar_values(batch: Batch) -> Values:
    """The weighted mean of labels; in an x64 scope."""
    labels, weights = (x.astype(jnp.float64) for x in (batch.labels, batch.weights))
    total = jnp.sum(weights, axis=1)
    return {"scalar": safe_divide(jnp.sum(weights * labels, axis=1), total)}


@factory
def scalar(
    *,
    window: int = 1,
    shards: int = 1,
    n_tasks: int = 1,
    undefined: float = math.nan,
) -> Metric:
    """The last value of something that comes as a label, such as a loss or a learning rate.

    ``scalar = sum(w y) / sum(w)`` over the newest ``window`` examples: of one, the last label. With
    as many as an update has, it is the mean of the newest update, as torchrec has it.

    States are merged side by side, the newest beside the newest. D states, as of D devices, that
    keep a value each say so by ``window=D, shards=D``, and merged give the mean of theirs; with
    ``window=1`` there is no room for both, and the value of merged states is NaN until the next
    update. Out of the domain, so NaN: a weight below 0.

    Source: the name is that of torchrec.metrics.scalar.

    Args:
        window: how many of the newest examples, by task.
        shards: how many states share them; `recmetrics_jax.sample_metric` says more.
        n_tasks: number of tasks ``T``.
        undefined: the value where no weight is in the window.

    Returns:
        A `Metric` with ``window_scalar``, ``float[T]``, in the unit of the labels.

    Raises:
        ValueError: as `recmetrics_jax.sample_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.scalar()
    >>> state = metric.init()
    >>> for rate in (0.5, 0.25):
    ...     state = metric.update(state, rm.make_batch([0.0], [rate]))
    >>> metric.compute(state)["window_scalar"].tolist()
    [0.25]
    """
    return sample_metric(
        scalar_values,
        n_tasks=n_tasks,
        window=window,
        shards=shards,
        excludes=NEGATIVE_WEIGHTS,
        by_order=True,  # Predictions do not count at all.
        undefined=undefined,
    )
