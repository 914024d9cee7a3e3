"""Any metric of sums with exponential decay: how it is lately."""

import functools

from recmetrics_jax._src.combined import decayed_definition
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Engine, Metric
from recmetrics_jax._src.options import number, whole
from recmetrics_jax._src.spreads import Decay


@factory
def decayed(metric: Metric, *, half_life: float, shards: int = 1) -> Metric:
    """A metric of sums, or a collection of them, in which examples fade exponentially.

    An example counts ``2^(-a / half_life)``, where its age a is how many examples of its task came
    after it. Sums decay, not ratios, so a value is that of the weighted examples, and does not
    depend on how they are batched. It follows change as a window does that is 2.9 half-lives long
    (both average over examples that are 1.44 half-lives old), with a state as small as that of a
    lifetime, and without a step when an example leaves. Pairs and sessions of a batch are as old as
    its newest example. A bad example makes values NaN for good.

    Args:
        metric: a metric of this package of sums, without a window, or a collection of such.
        half_life: after how many examples of everything one counts half, more than 0.
        shards: how many states that are kept apart share the examples, on as many devices: each of
            them decays by its own, and counts them ``shards`` times. Merged, they are as one that
            saw all.

    Returns:
        A `Metric` with the values of ``metric``, with ``decayed_`` in the place of ``lifetime_``.

    Raises:
        ValueError: if ``metric`` was written by hand, has a window, or an option is not one of the
            above.

    >>> import recmetrics_jax as rm
    >>> metric = rm.decayed(rm.ctr(), half_life=1)
    >>> state = metric.update(metric.init(), rm.make_batch([0, 0, 0], [1, 0, 1]))
    >>> round(metric.compute(state)["decayed_ctr"].item(), 6)  # (1 / 4 + 1) / (1 / 4 + 1 / 2 + 1)
    0.714286
    """
    half_life = number("half_life", half_life)
    if not 0 < half_life < float("inf"):
        raise ValueError(f"half_life: expected a number of examples above 0, got {half_life}")
    over = Decay(half_life / whole("shards", shards, 1))
    return Engine.of_compiled(metric).changed(functools.partial(decayed_definition, over=over))
