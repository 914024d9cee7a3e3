"""Errors of predictions of quantiles: pinball loss."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from recmetrics_jax._src.base import Batch
from recmetrics_jax._src.build import DEFAULT_SLOTS, sum_metric
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics.regression import ErrorSums, mean_error_values
from recmetrics_jax._src.options import number
from recmetrics_jax._src.terms import WEIGHTS, Term, scores


def pinball(batch: Batch, quantile: float) -> jax.Array:
    """``w q (y - p)`` of predictions that are too low, ``w (1 - q) (p - y)`` of others."""
    error = batch.labels - scores(batch)
    return batch.weights * jnp.maximum(quantile * error, (quantile - 1) * error)


def pinball_by_quantile(batch: Batch, *quantiles: float) -> jax.Array:
    """`pinball` of each of ``Q`` predictions, ``float[T, N, Q]``."""
    expected = (*batch.mask.shape, len(quantiles))
    if batch.predictions.shape != expected:
        raise ValueError(
            f"predictions: expected shape {expected}, one for each quantile, got "
            f"{batch.predictions.shape}"
        )
    q = jnp.asarray(quantiles, batch.predictions.dtype)[None, None]
    error = batch.labels[..., None] - batch.predictions
    return batch.weights[..., None] * jnp.maximum(q * error, (q - 1) * error)


def pinball_terms(quantile: float | tuple[float, ...]) -> ErrorSums[Term]:
    """The terms of pinball loss."""
    if isinstance(quantile, tuple):
        return ErrorSums(Term(pinball_by_quantile, quantile, shape=(len(quantile),)), WEIGHTS)
    return ErrorSums(Term(pinball, (quantile,)), WEIGHTS)


def _quantile(value: Any) -> float:
    """An option that is a number between 0 and 1."""
    if not 0 < (quantile := number("quantile", value)) < 1:
        raise ValueError(f"quantile: expected a number between 0 and 1, got {value!r}")
    return quantile


@factory
def pinball_loss(
    *,
    quantile: float | Sequence[float] = 0.5,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """Pinball loss, or quantile loss: least for the quantile of the labels, given what is known.

    ``pinball_loss = sum(w max(q (y - p), (q - 1) (y - p))) / sum(w)``: at a quantile q of 0.9, a
    prediction that is too low costs nine times as much as one that is too high. At 0.5 it is half
    of `recmetrics_jax.mae`. Out of the domain, so NaN: a weight below 0.

    Source: Koenker and Bassett, Regression Quantiles, Econometrica 46(1), 1978.

    Args:
        quantile: the quantile that is predicted, between 0 and 1; or ``Q`` of them, in a tuple, of
            predictions ``[T, N, Q]``.
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no weight has been seen.

    Returns:
        A `Metric` with ``lifetime_pinball_loss`` and, with a window, ``window_pinball_loss``, each
        ``float[T]``, or ``float[T, Q]`` of a tuple, in the unit of the labels.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`, and if ``quantile`` is not as above.

    >>> import recmetrics_jax as rm
    >>> metric = rm.pinball_loss(quantile=(0.25, 0.75))
    >>> batch = rm.make_batch([[[1.0, 6.0], [2.0, 4.0]]], [[5.0, 2.0]])
    >>> metric.compute(metric.update(metric.init(), batch))["lifetime_pinball_loss"].tolist()
    [[0.5, 0.375]]
    """
    if isinstance(quantile, Sequence) and not isinstance(quantile, str):
        of = tuple(_quantile(each) for each in quantile)
        if not of:
            raise ValueError("quantile: expected at least one, got none")
    else:
        of = _quantile(quantile)
    return sum_metric(
        pinball_terms(of),
        functools.partial(mean_error_values, name="pinball_loss"),
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )
