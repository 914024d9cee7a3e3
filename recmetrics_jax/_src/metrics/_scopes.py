"""The two scopes of metrics of pairs and sessions: of a batch, and of a window."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax

from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import DEFAULT_SLOTS, sample_metric, sum_metric
from recmetrics_jax._src.definitions import SumDefinition
from recmetrics_jax._src.identity import Formula
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.options import undefined_values

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
    of_window = of_sums.distinct_terms()
    return sample_metric(
        functools.partial(_of_window, of_sums=of_sums),
        n_tasks=n_tasks,
        window=window,
        shards=shards,
        keys=tuple(dict.fromkeys(key for term in of_window for key in term.keys)),
        excludes=tuple(cause for term in of_window for cause in term.excludes),
        by_order=all(term.by_order for term in of_window),
    )


def _of_window(batch: Batch, *, of_sums: SumDefinition) -> Values:
    """The values of the sums over all examples of a window.

    What is undefined is replaced here, where sums that are NaN, of what is out of a formula's
    domain, are told from values that are undefined.
    """
    sums = {term: term.evaluate(batch) for term in of_sums.distinct_terms()}
    return of_sums.evaluate(of_sums.of_terms(sums))
