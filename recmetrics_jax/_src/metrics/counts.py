"""Counts of examples: all of them, and those that were not finite."""

import jax

from recmetrics_jax._src.base import Values
from recmetrics_jax._src.build import DEFAULT_SLOTS, sum_metric
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.terms import EXAMPLES, NONFINITE_EXAMPLES


def count_values(sums: dict[str, jax.Array]) -> Values:
    """The counts themselves."""
    return sums


@factory
def examples(*, n_tasks: int = 1, window: int | None = None, slots: int = DEFAULT_SLOTS) -> Metric:
    """The number of real examples: how much a lifetime has seen, and how much a window covers.

    ``examples = sum([mask])``, whatever the weights.

    Args:
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.

    Returns:
        A `Metric` with ``lifetime_examples`` and, with a window, ``window_examples``, each
        ``float[T]``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.examples(window=5)
    >>> state = metric.init()
    >>> for _ in range(3):
    ...     state = metric.update(state, rm.make_batch([0.5, 0.5], [0, 1]))
    >>> {name: value.item() for name, value in metric.compute(state).items()}
    {'lifetime_examples': 6.0, 'window_examples': 4.0}
    """
    terms = {"examples": EXAMPLES}
    return sum_metric(terms, count_values, n_tasks=n_tasks, window=window, slots=slots)


@factory
def nonfinite_examples(
    *, n_tasks: int = 1, window: int | None = None, slots: int = DEFAULT_SLOTS
) -> Metric:
    """The number of examples that came with a NaN or an infinity, masked at the door or not.

    ``nonfinite_examples = sum([a prediction, label or weight is not finite])``.

    Args:
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.

    Returns:
        A `Metric` with ``lifetime_nonfinite_examples`` and, with a window,
        ``window_nonfinite_examples``, each ``float[T]``; never NaN.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.collection({"ctr": rm.ctr(), "bad": rm.nonfinite_examples()})
    >>> batch = rm.make_batch([0.5, float("nan")], [1, 0], mask_nonfinite=True)
    >>> state = metric.update(metric.init(), batch)
    >>> {name: value.item() for name, value in metric.compute(state).items()}
    {'ctr/lifetime_ctr': 1.0, 'bad/lifetime_nonfinite_examples': 1.0}
    """
    terms = {"nonfinite_examples": NONFINITE_EXAMPLES}
    return sum_metric(terms, count_values, n_tasks=n_tasks, window=window, slots=slots)
