"""The builders: `sum_metric`, `sample_metric`, and `collection`.

All metrics of this package are made with them, and users' own metrics are too.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax

from recmetrics_jax._src.base import Batch
from recmetrics_jax._src.definitions import Definition, Kept, SampleDefinition, SumDefinition
from recmetrics_jax._src.domain import checked_causes
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.identity import Formula, check_hashable
from recmetrics_jax._src.metric import Engine, Metric
from recmetrics_jax._src.options import (
    LARGEST_SAMPLES,
    flag,
    names,
    optional_word,
    undefined_values,
    whole,
)
from recmetrics_jax._src.program import Member, Program
from recmetrics_jax._src.terms import Term

DEFAULT_SLOTS = 1024


@factory
def sum_metric(
    terms: Any,
    values: Callable[[Any], Mapping[str, jax.Array]],
    *,
    n_tasks: int = 1,
    window: int | None = None,
    slots: int = DEFAULT_SLOTS,
    undefined: float | Mapping[str, float] = math.nan,
) -> Metric:
    """A metric of sums over examples: give the terms and the formula, get a whole `Metric`.

    The builder owns the rest: masks, sums that keep their digits over billions of examples,
    lifetime and window, tasks, merging across devices, names.

    A window holds the newest updates whose example counts add up to at most ``window``, and of an
    update of more than that its last examples. It is a ring of ``slots``. An update of more than
    ``window / slots`` examples has a slot for itself; smaller ones share one, of up to
    ``2 * window / slots`` examples, which leaves the window as a whole. So the window covers more
    than ``window - m`` examples, where ``m`` is the larger of ``2 * window / slots`` and the size
    of an update; ``window - D * m`` where ``D`` states are merged. They are merged side by side,
    newest update beside newest update; where those alone are of more examples than ``window``, its
    values are NaN until they leave.

    Args:
        terms: a pytree (a NamedTuple, a dict) of functions ``function(batch) -> float[T, N]``,
            or of `Term` for functions with options, more numbers per example, or keys.
        values: ``values(sums) -> {name: float[T]}``, where ``sums`` is the tree ``terms`` with
            each function replaced by its sums, ``float64[T]`` (``float64[T, *shape]``). Called once
            for the lifetime and once for the window, in a ``jax.enable_x64(True)`` scope. NaN is a
            value that is undefined.
        n_tasks: number of tasks ``T``.
        window: examples in the window, fewer than 2^31; None for no window.
        slots: updates that the window keeps apart; even, at least 8.
        undefined: what values are where they are undefined: a number, or numbers by name, NaN for
            other names. In a task with a bad example, of a NaN or an infinity, or with one that a
            term excludes, they stay NaN.

    Returns:
        A `Metric` with the values ``lifetime_<name>`` and, with a window, ``window_<name>``,
        in the dtype of the state: float32, or float64 where x64 is enabled. Two are equal, and
        share what is compiled, if their functions are the same (lambdas that are made anew at each
        call are not), and their options.

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
    slots = whole("slots", slots, 8)
    if slots % 2:
        raise ValueError(f"slots: expected an even number, got {slots}")
    definition = SumDefinition(
        _formula(values, "sums"),
        undefined_values(undefined),
        terms=_as_terms(terms),
        window=None if window is None else (whole("window", window, 1), slots),
    )
    return metric_of(definition, n_tasks)


@factory
def sample_metric(
    values: Callable[[Batch], Mapping[str, jax.Array]],
    *,
    n_tasks: int = 1,
    window: int,
    shards: int = 1,
    keys: tuple[str, ...] = (),
    n_classes: int | None = None,
    excludes: tuple[str, ...] = (),
    by_order: bool = False,
    resampled_by: Literal["weights"] | None = None,
    by_segment: Callable[..., Mapping[str, jax.Array]] | None = None,
    undefined: float | Mapping[str, float] = math.nan,
) -> Metric:
    """A metric of the newest examples themselves, for what no sum can tell (ranks, quantiles).

    Args:
        values: ``values(batch) -> {name: float[T]}``, of a `Batch` that holds the window,
            ``[T, window]`` in no particular order, ``mask`` False where there is no example. It is
            called in a ``jax.enable_x64(True)`` scope; `recmetrics_jax.ops` has tools for it.
        n_tasks: number of tasks ``T``.
        window: examples in the window, by task, at most 2^30; exact, whatever the size of the
            updates. States that are merged keep the newest updates of both that fit whole.
        shards: how many states that are kept apart, on as many devices, share the window. Each
            holds the newest ``ceil(window / shards)`` of its own, and merged ones as many more as
            were merged, up to ``window``: of updates that each of them still has whole.
        keys: names of the key arrays that ``values`` reads.
        n_classes: ``C`` where the predictions are ``[T, N, C]``.
        excludes: what is out of the domain of the formula, as in `Term`.
        by_order: predictions count by their order alone, as in `Term`.
        resampled_by: ``"weights"``: a weight of w counts as w copies of its example, so that
            `recmetrics_jax.bootstrap` may multiply weights; None: it cannot be resampled.
        by_segment: ``by_segment(batch, segment, count) -> {name: float[T, count]}``: the values of
            each segment, the numbers of which are ``int32[T, window]``, ``count`` of no segment.
            None: `recmetrics_jax.by_segment` calls ``values`` for each segment.
        undefined: what values are where they are undefined, as in `sum_metric`.

    Returns:
        A `Metric` with the values ``window_<name>``, NaN for a task while a bad example, of a NaN
        or an infinity, or one that the formula excludes, is in its window.

    Raises:
        ValueError: if ``n_tasks``, ``window`` or ``shards`` is out of range; from ``update``, if a
            batch does not fit.

    >>> import jax.numpy as jnp, recmetrics_jax as rm
    >>> def largest(batch):
    ...     return {"largest": jnp.max(batch.predictions, axis=1, where=batch.mask, initial=0)}
    >>> metric = rm.sample_metric(largest, window=2)
    >>> state = metric.update(metric.init(), rm.make_batch([0.9, 0.5, 0.7], [0, 0, 0]))
    >>> round(metric.compute(state)["window_largest"].item(), 6)
    0.7
    """
    window = whole("window", window, 1, LARGEST_SAMPLES)
    optional_word("resampled_by", resampled_by, ("weights",))
    definition = SampleDefinition(
        _formula(values, "a batch"),
        undefined_values(undefined),
        Kept(
            window,
            whole("shards", shards, 1, window),
            None if n_classes is None else whole("n_classes", n_classes, 1),
            tuple(sorted(names("keys", keys))),
            flag("by_order", by_order),
        ),
        checked_causes("excludes", excludes),
        resampled_by,
        None if by_segment is None else _formula(by_segment, "a batch, segments, and their number"),
    )
    return metric_of(definition, n_tasks)


def metric_of(definition: Definition, n_tasks: int) -> Metric:
    """The metric of a definition.

    Raises:
        ValueError: if ``n_tasks`` is out of range.
    """
    return Engine(Program(whole("n_tasks", n_tasks, 1), (Member("", definition),))).metric


def collection(
    metrics: Mapping[str, Metric | Callable[..., Metric]],
    *,
    n_tasks: int | None = None,
    window: int | None = None,
) -> Metric:
    """Several metrics as one: one state, one update, values ``"<name>/<value>"``.

    Statistics that metrics share (equal `Term`, window and slots; equal windows of examples) are
    computed once, stored once in each window, and all sums lie in one array: ten metrics cost
    little more than their distinct terms, and merge across devices in a fixed number of
    collectives.

    Args:
        metrics: metrics by name, of the same ``n_tasks``; or factories of metrics, which are called
            with what of ``n_tasks`` and ``window`` is given here and they take
            (`functools.partial` for further options); collections too, and any `Metric` written by
            hand, which is called as it is, beside what is compiled.
        n_tasks: number of tasks ``T`` of the metrics given as factories.
        window: examples in the window of those.

    Returns:
        A `Metric`.

    Raises:
        ValueError: if there are no metrics, a name is not a non-empty string, a metric is neither a
            `Metric` nor a factory of one, the numbers of tasks differ, or two values would get one
            name.

    >>> import recmetrics_jax as rm
    >>> metrics = rm.collection({"ctr": rm.ctr, "calibration": rm.calibration}, n_tasks=1)
    >>> state = metrics.update(metrics.init(), rm.make_batch([0.5, 0.5], [0, 1]))
    >>> {name: value.item() for name, value in metrics.compute(state).items()}
    {'ctr/lifetime_ctr': 0.5, 'calibration/lifetime_calibration': 1.0}
    """
    if not isinstance(metrics, Mapping):
        raise ValueError(
            "metrics: expected a dict of metrics by name, as in collection({'ne': ne()}), got "
            f"{type(metrics).__name__}"
        )
    if not metrics:
        raise ValueError("metrics: expected at least one metric, got none")
    defaults = {
        "n_tasks": None if n_tasks is None else whole("n_tasks", n_tasks, 1),
        "window": None if window is None else whole("window", window, 1),
    }
    given = {name: _as_metric(name, metric, defaults) for name, metric in metrics.items()}
    members: list[Member] = []
    others: list[tuple[str, Metric]] = []
    tasks: dict[str, int] = {}
    for name, metric in given.items():
        engine = Engine.of(metric)
        if engine is None:
            others.append((name, metric))
            continue
        if engine.program.members:
            tasks[name] = engine.program.n_tasks
        members += (Member(f"{name}/{prefix}", of) for prefix, of in engine.program.members)
        others += ((f"{name}/{inner}", other) for inner, other in engine.others)
    if len(set(tasks.values())) > 1:
        raise ValueError(f"metrics: expected one n_tasks for all, got {tasks}")
    program = Program(next(iter(tasks.values()), 1), tuple(members))
    of_tasks = f", {program.n_tasks} task{'s' * (program.n_tasks > 1)}" if members else ""
    call = f"collection of {len(given)} metric{'s' * (len(given) > 1)}{of_tasks}"
    engine = Engine(program, tuple(others), call, tuple(given.items()))
    if members and not engine.compiled.value_shapes():  # Two values under one name raise here.
        raise ValueError("metrics: expected at least one value, got none")
    return engine.metric


def _as_metric(name: Any, metric: Any, defaults: Mapping[str, Any]) -> Metric:
    """A metric of a collection; where a factory is given, what it makes with the defaults."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"metrics: expected names that are non-empty strings, got {name!r}")
    if isinstance(metric, Metric):
        return metric
    expected = f"metrics[{name!r}]: expected a Metric, or a factory of one such as rm.ne"
    if isinstance(metric, type) or not callable(metric):
        got = f"the class {metric.__name__}" if isinstance(metric, type) else repr(metric)
        raise ValueError(f"{expected}, got {got:.80}")
    parameters = inspect.signature(metric).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    bound = metric.keywords if isinstance(metric, functools.partial) else {}
    options = {
        option: value
        for option, value in defaults.items()
        if value is not None and option not in bound and (takes_all or option in parameters)
    }
    try:
        inspect.signature(metric).bind(**options)
    except TypeError as error:
        raise ValueError(
            f"{expected}; {Formula.of(metric).name}({', '.join(options)}) cannot be called "
            f"({error}): call it yourself, or bind its options with functools.partial"
        ) from error
    made = metric(**options)
    if not isinstance(made, Metric):
        raise ValueError(f"{expected}, got a function that returns {type(made).__name__}")
    return made


def _formula(values: Any, of: str) -> Formula:
    """The function of the values."""
    if not callable(values):
        raise ValueError(f"values: expected a function of {of}, got {values!r:.80}")
    check_hashable("values", values)
    return Formula.of(values)


def _as_terms(terms: Any) -> Any:
    """A tree of terms, from one of terms and of functions of a batch."""
    terms = jax.tree.map(_as_term, terms, is_leaf=lambda x: x is None)
    if not jax.tree.leaves(terms):
        raise ValueError("terms: expected at least one function of a batch, got none")
    return terms


def _as_term(function: Any) -> Term:
    """A term, or a function of a batch as one."""
    if isinstance(function, Term):
        return function
    if not callable(function):
        raise ValueError(f"terms: expected functions of a batch, got {function!r}")
    return Term(function)
