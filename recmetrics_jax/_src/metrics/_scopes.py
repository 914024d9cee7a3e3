"""The two scopes of metrics of pairs and sessions: of a batch, and of a window."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax

from recmetrics_jax._src.build import DEFAULT_SLOTS, metric_of, sum_metric
from recmetrics_jax._src.definitions import Kept, SumDefinition, WindowSums
from recmetrics_jax._src.identity import Formula
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.options import LARGEST_SAMPLES, undefined_values, whole

Scope = Literal["batch", "window"]


def scoped_metric(
    terms: Any,
    values: Callable[[Any], Mapping[str, jax.Array]],
    *,
    scope: Scope,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    shards: int = 1,
    undefined: float | Mapping[str, float] = math.nan,
) -> Metric:
    """A metric of sums over the pairs or sessions of a batch, or of those of a window.

    Args:
        terms: a NamedTuple of `Term` that are summed (``is_summed``).
        values: ``values(sums) -> {name: float[T]}``.
        scope: ``"batch"``: what belongs together is in one batch; the sums of batches add up, so
            there is a lifetime value, and a window of batches. ``"window"``: it may be split over
            batches, devices and states; the newest ``window`` examples are kept themselves.
        n_tasks: number of tasks ``T``.
        window: examples in the window.
        slots: updates that a window of sums keeps apart.
        shards: how many states share a window of examples.
        undefined: what values are where they are undefined.

    Raises:
        ValueError: if ``scope`` is neither, or an option does not belong to it.
    """
    if scope not in get_args(Scope):
        raise ValueError(f"scope: expected one of {get_args(Scope)}, got {scope!r}")
    if scope == "batch":
        if shards != 1:
            raise ValueError(
                f"shards: expected 1 where scope is 'batch', got {shards}; sums of batches merge "
                "as they are, and only a window of examples is shared"
            )
        return sum_metric(
            terms, values, n_tasks=n_tasks, window=window, slots=slots, undefined=undefined
        )
    if window is None:
        raise ValueError(
            "window: expected a number of examples where scope is 'window', got None; it is what "
            "is kept of them"
        )
    if slots != DEFAULT_SLOTS:
        raise ValueError(f"slots: expected none where scope is 'window', got {slots}")
    of_sums = SumDefinition(
        Formula.of(values), undefined_values(undefined), terms=terms, window=None
    )
    window = whole("window", window, 1, LARGEST_SAMPLES)
    by_order = all(term.by_order for term in of_sums.distinct_terms())
    kept = Kept(window, whole("shards", shards, 1, window), None, (), by_order)
    return metric_of(WindowSums.of(of_sums, kept), n_tasks)
