"""Counts of examples: all of them, those that were not finite, those without a label."""

import jax
import jax.numpy as jnp

from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import DEFAULT_SLOTS, sum_metric
from recmetrics_jax._src.domain import CAUSES, Domain, outside
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.terms import EXAMPLES, MISSING_LABELS, NONFINITE_EXAMPLES, Term

FRACTIONS = "labels_between_0_and_1"


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

    ``nonfinite_examples = sum([a prediction, label or weight is not finite])``. Those of
    which the label is NaN are `missing_labels`, too.

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


@factory
def missing_labels(
    *, n_tasks: int = 1, window: int | None = None, slots: int = DEFAULT_SLOTS
) -> Metric:
    """The number of examples that came without a label, masked at the door or not.

    ``missing_labels = sum([y is NaN])``. Give labels that are missing as NaN, with
    ``mask_nonfinite=True``: each task leaves out the examples that it has no label for, and no
    other task does.

    Source: the name is that of torchrec.metrics.num_missing_labels, which adds up weights.

    Args:
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window. An example that is left out is in no
            window of others; it is counted while the update that it came with is in this one.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.

    Returns:
        A `Metric` with ``lifetime_missing_labels`` and, with a window, ``window_missing_labels``,
        each ``float[T]``; never NaN.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.collection({"ctr": rm.ctr, "none": rm.missing_labels}, n_tasks=2)
    >>> labels = [[1, 0, float("nan")], [float("nan"), float("nan"), 1]]
    >>> batch = rm.make_batch([0.5, 0.5, 0.5], labels, mask_nonfinite=True)
    >>> values = metric.compute(metric.update(metric.init(), batch))
    >>> {name: value.tolist() for name, value in values.items()}
    {'ctr/lifetime_ctr': [0.5, 1.0], 'none/lifetime_missing_labels': [1.0, 2.0]}
    """
    terms = {"missing_labels": MISSING_LABELS}
    return sum_metric(terms, count_values, n_tasks=n_tasks, window=window, slots=slots)


def weighted_examples(batch: Batch) -> jax.Array:
    """1 for each real example whose weight is not 0."""
    return (batch.mask & (batch.weights != 0)).astype(batch.weights.dtype)


WEIGHTED_EXAMPLES = Term(weighted_examples, raw=True)


def out_of_domain_counts(batch: Batch) -> jax.Array:
    """1 for each cause of `out_of_domain_examples` that an example is of, ``float[T, N, K]``."""
    domains = [Domain((cause,), by_order=True) for cause in CAUSES]
    is_of = outside(
        *(batch.predictions, batch.labels, batch.weights, batch.given.one),
        *(Domain((), by_order=True), *domains),
    )
    is_soft = (batch.labels > 0) & (batch.labels < 1)
    is_of = jnp.concatenate([is_of[..., 1:], is_soft[..., None]], axis=-1) & ~is_of[..., :1]
    return (is_of & batch.mask[..., None]).astype(batch.weights.dtype)


OUT_OF_DOMAIN = Term(out_of_domain_counts, shape=(len(CAUSES) + 1,), raw=True)


def out_of_domain_values(sums: dict[str, jax.Array]) -> Values:
    """The counts by cause."""
    counts = sums["out_of_domain_examples"]
    return {f"examples_with_{name}": counts[:, i] for i, name in enumerate((*CAUSES, FRACTIONS))}


@factory
def out_of_domain_examples(
    *, n_tasks: int = 1, window: int | None = None, slots: int = DEFAULT_SLOTS
) -> Metric:
    """The numbers of examples that are out of the domain of some formula, by cause.

    ``examples_with_labels_above_1 = sum([y > 1])``, and likewise for each cause. A metric whose
    formula excludes a cause is NaN for the tasks that have such an example, and so tells that
    something is wrong; this one tells what. Examples with a NaN or an infinity, which are bad for
    all metrics, are `nonfinite_examples`, and count here for nothing else. But a prediction of -inf
    is also one below 0, since it is no bad one for metrics of order.

    Logits given as probabilities show as predictions below 0, labels -1 and 1 as labels below 0,
    stars as labels above 1; ``labels_between_0_and_1`` are soft, which metrics of yes or no
    exclude. A prediction beyond 1 by four units in the last place of its dtype, or
    fewer, is 1.

    Args:
        n_tasks: number of tasks ``T``.
        window: examples in the window, None for no window.
        slots: updates that the window keeps apart; `recmetrics_jax.sum_metric` says more.

    Returns:
        A `Metric` with ``lifetime_examples_with_<cause>`` and, with a window,
        ``window_examples_with_<cause>``, each ``float[T]``, never NaN; the causes are
        ``predictions_below_0``, ``predictions_above_1``, ``labels_below_0``, ``labels_above_1``,
        ``weights_below_0`` and ``labels_between_0_and_1``.

    Raises:
        ValueError: as `recmetrics_jax.sum_metric`.

    >>> import recmetrics_jax as rm
    >>> metric = rm.collection({"auc": rm.auc(window=100), "bad": rm.out_of_domain_examples()})
    >>> state = metric.update(metric.init(), rm.make_batch([0.7, 0.2, 0.4], [1, -1, -1]))
    >>> values = metric.compute(state)
    >>> values["auc/window_auc"].item(), values["bad/lifetime_examples_with_labels_below_0"].item()
    (nan, 2.0)
    """
    terms = {"out_of_domain_examples": OUT_OF_DOMAIN}
    return sum_metric(terms, out_of_domain_values, n_tasks=n_tasks, window=window, slots=slots)
