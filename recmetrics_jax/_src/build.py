"""The builders: `sum_metric`, `sample_metric`, and `collection`.

All metrics of this package are made with them, and users' own metrics are too.
"""

import dataclasses
import numbers
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

from recmetrics_jax._src.base import Batch, Metric
from recmetrics_jax._src.program import Program, SampleMember, SumMember
from recmetrics_jax._src.terms import Term

DEFAULT_SLOTS = 1024

Member = TypeVar("Member", SumMember, SampleMember)


def sum_metric(
    terms: Any,
    values: Callable[[Any], Mapping[str, jax.Array]],
    *,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
) -> Metric:
    """A metric of sums over examples: give the terms and the formula, get a whole `Metric`.

    The builder owns the rest: masks, sums that keep their digits over billions of examples,
    lifetime and window, tasks, merging across devices, names.

    A window holds the newest updates whose example counts add up to at most ``window``; the
    newest update with any example always counts. It is a ring of ``slots`` updates. Where the
    window spans more updates than that, neighbouring updates share a slot, which then holds at
    most ``4 / slots`` of ``window`` and leaves the window as a whole: the window covers more than
    ``(1 - 4 / slots) * window - n`` examples, where ``n`` is the size of one update. States that
    are kept apart on ``D`` devices and then merged each hold their share of the window, so
    there it is ``4 * D / slots``.

    Args:
        terms: a pytree (a NamedTuple, a dict) of functions ``function(batch) -> float[T, N]``,
            or of `Term` for functions with options, more numbers per example, or keys.
        values: ``values(sums) -> {name: float[T]}``, where ``sums`` is the tree ``terms`` with
            each function replaced by its sums, ``float64[T]`` (``float64[T, *shape]``). Called once
            for the lifetime and once for the window, in a ``jax.enable_x64(True)`` scope.
        n_tasks: number of tasks ``T``.
        window: examples in the window; None for no window.
        slots: updates that the window keeps apart; even, at least 8.

    Returns:
        A `Metric` with the values ``lifetime_<name>`` and, with a window, ``window_<name>``,
        in the dtype of the state: float32, or float64 where x64 is enabled.

    Raises:
        ValueError: if ``n_tasks``, ``window`` or ``slots`` is out of range, or a term is not a
            function; from ``update``, if a batch does not fit.

    >>> import recmetrics_jax as rm
    >>> def weighted_error(batch):
    ...     return batch.weights * (batch.predictions - batch.labels)
    >>> def weights(batch):
    ...     return batch.weights
    >>> bias = rm.sum_metric(
    ...     {"error": weighted_error, "weight": weights},
    ...     lambda sums: {"bias": rm.safe_divide(sums["error"], sums["weight"])},
    ... )
    >>> state = bias.update(bias.init(), rm.make_batch([0.5, 1.0], [0, 1]))
    >>> bias.compute(state)["lifetime_bias"].tolist()
    [0.25]
    """
    check_at_least("n_tasks", n_tasks, 1)
    check_at_least("slots", slots, 8)
    if slots % 2:
        raise ValueError(f"slots: expected an even number, got {slots}")
    if window is not None:
        check_at_least("window", window, 1)
    member = SumMember(
        prefix="",
        terms=jax.tree.map(_as_term, terms),
        values=values,
        window=None if window is None else (window, slots),
    )
    return Program(n_tasks, sums=(member,)).metric


def sample_metric(
    values: Callable[[Batch], Mapping[str, jax.Array]],
    *,
    n_tasks: int = 1,
    window: int,
    keys: tuple[str, ...] = (),
    n_classes: int | None = None,
) -> Metric:
    """A metric of the newest examples themselves, for what no sum can tell (ranks, quantiles).

    Args:
        values: ``values(batch) -> {name: float[T]}``, of a `Batch` that holds the window,
            ``[T, window]`` in no particular order, ``mask`` False where there is no example. It is
            called in a ``jax.enable_x64(True)`` scope; `recmetrics_jax.ops` has tools for it.
        n_tasks: number of tasks ``T``.
        window: examples in the window, by task; exact, whatever the size of the updates. States
            that are merged keep the windows of both: the capacities add up.
        keys: names of the key arrays that ``values`` reads.
        n_classes: ``C`` where the predictions are ``[T, N, C]``.

    Returns:
        A `Metric` with the values ``window_<name>``, NaN for a task while an example with a NaN
        or an infinity is in its window.

    Raises:
        ValueError: if ``n_tasks`` or ``window`` is below 1; from ``update``, if a batch does not
            fit.

    >>> import jax.numpy as jnp, recmetrics_jax as rm
    >>> def largest(batch):
    ...     return {"largest": jnp.max(batch.predictions, axis=1, where=batch.mask, initial=0)}
    >>> metric = rm.sample_metric(largest, window=2)
    >>> state = metric.update(metric.init(), rm.make_batch([0.9, 0.5, 0.7], [0, 0, 0]))
    >>> round(metric.compute(state)["window_largest"].item(), 6)
    0.7
    """
    check_at_least("n_tasks", n_tasks, 1)
    check_at_least("window", window, 1)
    if n_classes is not None:
        check_at_least("n_classes", n_classes, 1)
    member = SampleMember("", values, window, tuple(keys), n_classes)
    return Program(n_tasks, samples=(member,)).metric


def collection(metrics: Mapping[str, Metric]) -> Metric:
    """Several metrics as one: one state, one update, values ``"<name>/<value>"``.

    Statistics that metrics share (equal `Term`, window and slots; equal windows of examples) are
    computed and stored once, and all sums lie in one array: ten metrics cost little more than
    their distinct terms, and merge across devices in a fixed number of collectives.

    Args:
        metrics: metrics by name, of the same ``n_tasks``; collections too, and any `Metric`
            written by hand, whose state is then kept as it is.

    Returns:
        A `Metric`.

    Raises:
        ValueError: if there are no metrics, a name is not a non-empty string, a metric is not a
            `Metric`, the numbers of tasks differ, or two values would get one name.

    >>> import recmetrics_jax as rm
    >>> metrics = rm.collection({"ctr": rm.ctr(), "calibration": rm.calibration()})
    >>> state = metrics.update(metrics.init(), rm.make_batch([0.5, 0.5], [0, 1]))
    >>> {name: value.item() for name, value in metrics.compute(state).items()}
    {'ctr/lifetime_ctr': 0.5, 'calibration/lifetime_calibration': 1.0}
    """
    if not metrics:
        raise ValueError("metrics: expected at least one metric, got none")
    sums: list[SumMember] = []
    samples: list[SampleMember] = []
    others: dict[str, Metric] = {}
    tasks: dict[str, int] = {}
    for name, metric in metrics.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"metrics: expected names that are non-empty strings, got {name!r}")
        if not isinstance(metric, Metric):
            raise ValueError(f"metrics[{name!r}]: expected a Metric, got {type(metric).__name__}")
        program = Program.of(metric)
        if program is None:
            others[name] = metric
            continue
        tasks[name] = program.n_tasks
        sums += (_prefixed(name, member) for member in program.sums)
        samples += (_prefixed(name, member) for member in program.samples)
        others |= {f"{name}/{inner}": other for inner, other in program.others.items()}
    if len(set(tasks.values())) > 1:
        raise ValueError(f"metrics: expected one n_tasks for all, got {tasks}")
    n_tasks = next(iter(tasks.values()), 1)
    program = Program(n_tasks, tuple(sums), tuple(samples), others)
    if not program.value_names:  # Two values under one name raise here.
        raise ValueError("metrics: expected at least one value, got none")
    return program.metric


def _prefixed(name: str, member: Member) -> Member:
    return dataclasses.replace(member, prefix=f"{name}/{member.prefix}")


def _as_term(function: Any) -> Term:
    if isinstance(function, Term):
        return function
    if not callable(function):
        raise ValueError(f"terms: expected functions of a batch, got {function!r}")
    return Term(function)


def check_at_least(name: str, value: Any, least: int) -> None:
    """Raises ValueError if an option is not a whole number, or too small."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
