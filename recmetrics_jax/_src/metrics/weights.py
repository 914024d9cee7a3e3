"""The weight of examples: all of it, that of each class, and how evenly it is spread."""

import math
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import DEFAULT_SLOTS, sum_metric
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics.counts import count_values
from recmetrics_jax._src.metrics.entropy import unweighted
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.options import optional_threshold
from recmetrics_jax._src.terms import (
    NO_CLASSES,
    POSITIVES,
    WEIGHTS,
    Term,
    weighted_negatives,
    weights,
)
from recmetrics_jax._src.thresholds import with_threshold

X = TypeVar("X")


@factory
def sum_weights(
    *, n_tasks: int = 1, window: int | None = None, slots: int = DEFAULT_SLOTS
) -> Metric:
    """The weight of all examples.

    ``sum_weights = sum(w)``. Out of the domain, so NaN: a weight below 0.

    Source: the name is that of torchrec.metrics.sum_weights.

    Args:
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.

    Returns:
        A `Metric` with ``lifetime_sum_weights`` and, with a window, ``window_sum_weights``, each
        ``float[T]``; 0 of no example.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.sum_weights()
    >>> state = metric.update(metric.init(), rm.make_batch([0.5, 0.5], [0, 1], [3, 0.5]))
    >>> metric.compute(state)["lifetime_sum_weights"].tolist()
    [3.5]
    """
    terms = {"sum_weights": WEIGHTS}
    return sum_metric(terms, count_values, n_tasks=n_tasks, window=window, slots=slots)


class ClassSums(NamedTuple, Generic[X]):
    """The weights of both classes, each ``float[T]``."""

    positives: X
    negatives: X


class_terms = ClassSums(POSITIVES, Term(weighted_negatives, excludes=NO_CLASSES))


def class_values(sums: ClassSums[jax.Array]) -> Values:
    """The weights of both classes."""
    return sums._asdict()


@factory
def positives(
    *,
    label_threshold: float | None = None,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
) -> Metric:
    """The weight of positive labels, and that of negative ones.

    ``positives = sum(w y)``, ``negatives = sum(w (1 - y))``: without weights, how many there are. A
    soft label y is a positive of weight w y and a negative of weight w (1 - y). Out of the domain,
    so NaN: a label outside of [0, 1], and a weight below 0.

    Source: torchrec.metrics.num_positive_samples, of which the first is the value.

    Args:
        label_threshold: labels from here on are 1, others 0; None takes them as they are, in [0,
            1].
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.

    Returns:
        A `Metric` with ``lifetime_positives`` and ``lifetime_negatives`` and, with a window,
        ``window_positives`` and ``window_negatives``, each ``float[T]``; 0 of no example.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.positives()
    >>> state = metric.update(metric.init(), rm.make_batch([0.5, 0.5, 0.5], [0, 1, 1]))
    >>> {name: value.item() for name, value in metric.compute(state).items()}
    {'lifetime_positives': 2.0, 'lifetime_negatives': 1.0}
    """
    return sum_metric(
        with_threshold(class_terms, optional_threshold("label_threshold", label_threshold)),
        class_values,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
    )


class SampleSizeSums(NamedTuple, Generic[X]):
    """Sufficient statistics of the effective sample size, each ``float[T]``."""

    weighted_num_samples: X
    squared_weight_sum: X
    examples: X


def squared_weights(batch: Batch) -> jax.Array:
    """``w^2``, in float64, which holds the square of any float32."""
    with jax.enable_x64(True):
        return jnp.square(batch.weights.astype(jnp.float64))


sample_size_terms = SampleSizeSums(WEIGHTS, Term(squared_weights), Term(unweighted, (weights,)))


def sample_size_values(sums: SampleSizeSums[jax.Array]) -> Values:
    """The values of the effective sample size."""
    size = safe_divide(jnp.square(sums.weighted_num_samples), sums.squared_weight_sum)
    return {
        "effective_sample_size": size,
        "effective_sample_rate": safe_divide(size, sums.examples),
    }


@factory
def effective_sample_size(
    *,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float = math.nan,
) -> Metric:
    """How many examples of equal weight tell as much about a mean as these, and which part that is.

    ``effective_sample_size = sum(w)^2 / sum(w^2)``, ``effective_sample_rate`` the same over the
    number of examples: 1 where all weigh the same, and where some have no weight and others one,
    the part that has. Examples are what counts here: one of weight 3 is not three of them. Out of
    the domain, so NaN: a weight below 0.

    Source: Kish, Survey Sampling, Wiley, 1965.

    Args:
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.
        undefined: the value where no weight has been seen.

    Returns:
        A `Metric` with ``lifetime_effective_sample_size``, ``lifetime_effective_sample_rate`` and,
        with a window, the same of ``window_``, each ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.effective_sample_size()
    >>> batch = rm.make_batch([0.5] * 4, [0, 1, 0, 1], [1, 1, 0, 4])
    >>> {k: x.item() for k, x in metric.compute(metric.update(metric.init(), batch)).items()}
    {'lifetime_effective_sample_size': 2.0, 'lifetime_effective_sample_rate': 0.5}
    """
    return sum_metric(
        sample_size_terms,
        sample_size_values,
        n_tasks=n_tasks,
        window=window,
        slots=slots,
        undefined=undefined,
    )
