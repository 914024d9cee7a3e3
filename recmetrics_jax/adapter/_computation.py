"""`RecMetricComputation`: the states and formulas of a metric for some tasks."""

import abc
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from recmetrics_jax._src.metric import Metric
from recmetrics_jax.adapter._declared import (
    Contributions,
    Declaration,
    declare,
    hashable,
    is_persistent,
    option_names,
    share,
)
from recmetrics_jax.adapter._examples import SAMPLE_STATES, Inputs
from recmetrics_jax.adapter._inputs import host_inputs, of_tasks, shape_of
from recmetrics_jax.adapter._reports import MetricComputationReport, reports_of
from recmetrics_jax.adapter._states import (
    RecMetricException,
    States,
    all_or_nothing,
    joined_samples,
    synced,
)
from recmetrics_jax.adapter._tensors import Tensor, cloned, from_numpy, no_grad
from recmetrics_jax.adapter.metrics_namespace import MetricName, MetricPrefix

HAS_VALID_UPDATE = "has_valid_update"
_IGNORED_OPTIONS = (
    "compute_mode",
    "enable_pt2_compile",
    "fuse_state_tensors",
    "should_clone_update_inputs",
)


class RecMetricComputation(States, abc.ABC):
    """The states and formulas of a metric for ``n_tasks`` tasks.

    A metric of one's own is a subclass in one of two ways. Either it names a functional factory,
    and has its states, options and values::

        class MSLEMetricComputation(RecMetricComputation):
            _factory = staticmethod(msle)

    or it adds states with ``_add_state`` in its constructor, and writes ``update`` and
    ``_compute``, in torch or in NumPy.

    Args:
        my_rank: the rank of this process; rank 0 reports.
        batch_size: examples in a batch.
        n_tasks: tasks in a computation.
        window_size: examples in the window of this rank, 0 for no window.
        compute_on_all_ranks: whether the other ranks report too.
        should_validate_update: whether updates are counted that had a weight other than zero.
        process_group: the ranks to merge states with; None for all.
        fused_update_limit: taken and not used here.
        allow_missing_label_with_zero_weight: taken and not used here.
        **kwargs: options of the subclass's factory.

    Raises:
        ValueError: if there are other keyword arguments.
    """

    _factory: ClassVar[Callable[..., Metric] | None] = None
    _requires_weights: ClassVar[bool] = True
    """Whether an update without weights is an error; otherwise they are ones."""
    _reported: ClassVar[tuple[tuple[MetricPrefix, MetricName], ...]] = ()
    """The values that are reported of those of the factory, in order; empty for all of them."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = cls.__dict__
        if "_factory" in own and cls._factory is not None:
            if "update" not in own:
                cls.update = _declared_update
            if "_compute" not in own:
                cls._compute = _declared_compute
            if "__init__" not in own:
                cls.__signature__ = _signature(cls._factory)
        if "update" in own and own["update"] is not _declared_update:
            cls.update = _guarded(own["update"])

    def __init__(
        self,
        my_rank: int,
        batch_size: int,
        n_tasks: int,
        window_size: int,
        compute_on_all_ranks: bool = False,
        should_validate_update: bool = False,
        process_group: Any = None,
        fused_update_limit: int = 0,
        allow_missing_label_with_zero_weight: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(window_size, process_group)
        given = {
            "fused_update_limit": fused_update_limit,
            "allow_missing_label_with_zero_weight": allow_missing_label_with_zero_weight,
        }
        factory = type(self)._factory
        options = {} if factory is None else _options(self, factory, kwargs, given)
        self._to_sync = kwargs.pop("sync_on_compute", True)
        unknown = [f"`{name}`" for name in kwargs if name not in _IGNORED_OPTIONS]
        if args or unknown:
            raise ValueError(
                f"Unexpected {'keyword' if unknown else 'positional'} arguments: "
                f"{', '.join(unknown) or args}"
            )
        self._my_rank = my_rank
        self._batch_size = batch_size
        self._n_tasks = n_tasks
        self._compute_on_all_ranks = compute_on_all_ranks
        self._should_validate_update = should_validate_update
        self._is_updating = False
        if should_validate_update:
            flags = from_numpy(np.zeros(n_tasks, np.uint8))
            self.add_state(HAS_VALID_UPDATE, flags, dist_reduce_fx="max", persistent=True)
        self._declaration: Declaration | None = None
        if factory is not None:
            frozen = tuple((name, hashable(option)) for name, option in options.items())
            self._declaration = declare(factory, frozen, n_tasks, window_size)
            self._shared = share((self._declaration,))
            self._add_declared_states(self._declaration)
            self._has_fixed_dtypes = True
            for name, parameter in option_names(factory).items():
                setattr(self, f"_{name}", options.get(name, parameter.default))

    def _declare_window(self, window_size: int) -> None:
        """Tells the factory the window of all ranks; ``window_size`` is this rank's part of it."""
        if self._declaration is not None:
            made = self._declaration
            self._declaration = declare(made.factory, made.options, made.n_tasks, window_size)
            self._shared = share((self._declaration,))

    def _add_declared_states(self, declaration: Declaration) -> None:
        for name, term in declaration.terms.items():
            self._add_state(
                name,
                from_numpy(np.zeros((self._n_tasks, *term.shape))),
                add_window_state=name in declaration.windowed and self._window_size > 0,
                dist_reduce_fx="sum",
                persistent=is_persistent(term),
            )
        if declaration.program.samples:
            self._keeps_samples = True
            for name in SAMPLE_STATES:
                classes = declaration.sample_classes if name == "predictions" else ()
                self._add_sample_state(name, np.zeros((self._n_tasks, 1, *classes), np.float32))
            for name in declaration.sample_keys:
                self._add_sample_state(name, np.full((self._n_tasks, 1), -1))

    def _add_sample_state(self, name: str, empty: np.ndarray) -> None:
        """A list of examples, which before the first is a column without weight."""
        self.add_state(name, [from_numpy(empty)], dist_reduce_fx=joined_samples)

    @abc.abstractmethod
    def update(
        self,
        *,
        predictions: Tensor | None,
        labels: Tensor,
        weights: Tensor | None,
        **kwargs: dict[str, Any],
    ) -> None:
        """Takes in a batch.

        Args:
            predictions: ``[n_tasks, N]``, or ``[n_tasks, N, C]`` with scores of classes.
            labels: ``[n_tasks, N]``.
            weights: ``[n_tasks, N]``.
            **kwargs: ``required_inputs``, a dictionary of further arrays by name.

        Raises:
            RecMetricException: if something that the metric needs is missing.
            ValueError: if shapes do not fit. Either way no state has changed.
        """
        _declared_update(self, predictions=predictions, labels=labels, weights=weights, **kwargs)

    @abc.abstractmethod
    def _compute(self) -> list[MetricComputationReport]:
        """The values of the states as they are."""
        return _declared_compute(self)

    def pre_compute(self) -> None:
        """Called before values are computed; does nothing unless overridden."""

    def compute(self) -> list[MetricComputationReport]:
        """The values of all ranks together; all ranks must call.

        Returns:
            The reports, on rank 0, and on others where ``compute_on_all_ranks``; else none.
        """
        self.pre_compute()
        with synced([self]), no_grad():
            return self._compute() if self._my_rank == 0 or self._compute_on_all_ranks else []

    def _in_order(self, reports: list[MetricComputationReport]) -> list[MetricComputationReport]:
        """The reports that are `_reported`, in that order; all if there is none."""
        by_name = {(report.metric_prefix, report.name): report for report in reports}
        return [by_name[x] for x in self._reported if x in by_name] if self._reported else reports

    def _is_declared(self) -> bool:
        """Whether `update` does what the factory says, and nothing else."""
        return type(self).update is _declared_update

    def _reports(self, *, is_local: bool) -> list[MetricComputationReport]:
        """What `local_compute` or `compute` gives, where all is prepared."""
        name = "local_compute" if is_local else "compute"
        if getattr(type(self), name) is getattr(RecMetricComputation, name):
            return self._compute()
        return getattr(self, name)()

    def _computes_as_declared(self) -> bool:
        """Whether the values are those of the factory, and no others."""
        cls, base = type(self), RecMetricComputation
        return (
            cls._compute is _declared_compute
            and cls.compute is base.compute
            and cls.local_compute is base.local_compute
        )

    def local_compute(self) -> list[MetricComputationReport]:
        """The values of this rank alone."""
        self.pre_compute()
        with no_grad():
            return self._compute()

    # What a computation does that names a factory.

    @property
    def _declared(self) -> Declaration:
        if self._declaration is None:
            raise NotImplementedError(f"{type(self).__name__} names no _factory")
        return self._declaration

    def _inputs(
        self, predictions: Any, labels: Any, weights: Any, required_inputs: Mapping[str, Any]
    ) -> Inputs:
        """The arguments of `update` as inputs of the compiled functions.

        Raises:
            RecMetricException: if something is missing.
            ValueError: if a shape does not fit.
        """
        self._check_given(predictions, weights, required_inputs)
        batch = of_tasks(predictions, labels, weights, self._n_tasks)
        self._check_classes(batch.predictions)
        return host_inputs([batch], required_inputs, self._declared.keys, self._n_tasks)

    def _check_given(
        self, predictions: Any, weights: Any, required_inputs: Mapping[str, Any]
    ) -> None:
        name = type(self).__name__
        if self._requires_weights and (predictions is None or weights is None):
            raise RecMetricException(
                f"Inputs 'predictions' and 'weights' should not be None for {name} update"
            )
        if predictions is None:
            raise RecMetricException(f"Inputs 'predictions' should not be None for {name} update")
        for key in self._declared.keys:
            if key not in required_inputs:
                what = "grouped update" if key in self._declared.sample_keys else "update"
                raise RecMetricException(
                    f"Input '{key}' are required for {name} {what}: expected an array of this name "
                    f"in required_inputs, got {sorted(required_inputs)}"
                )

    def _check_classes(self, predictions: Any) -> None:
        classes = shape_of(predictions)[2:]
        if self._keeps_samples and classes != self._declared.sample_classes:
            raise ValueError(
                f"predictions: expected classes {self._declared.sample_classes} after tasks and "
                f"examples for {type(self).__name__}, got {classes}"
            )

    def _contribute(self, contributions: Contributions, tasks: slice) -> None:
        """Adds what an update contributes; cannot fail."""
        if self._is_synced:
            with self._local_states():
                self._add(contributions, tasks)
        else:
            self._add(contributions, tasks)

    def _add(self, contributions: Contributions, tasks: slice) -> None:
        n = int(contributions.inputs.counts[tasks.start or 0])
        states = vars(self)
        windows = self._batch_window_buffers or {}
        for column in contributions.columns[self._declared]:
            sums = contributions.sums(column, tasks)
            state = states[column.state]
            state += sums
            if column.window_state in windows:
                # A copy, as the sums are views of those of all states.
                windows[column.window_state].push(cloned(sums), n)
                states.pop(column.window_state, None)
        if self._keeps_samples:
            self._append(contributions.samples(self._declared, tasks), n)

    def _append(self, samples: Mapping[str, Tensor], n: int) -> None:
        """Adds examples, and lets the oldest leave that the window does not hold."""
        surplus = max(self._num_samples + n - self._window_size, 0)
        for name, new in samples.items():
            chunks = [*(getattr(self, name) if self._num_samples else ()), new]
            drop = surplus
            while drop and drop >= chunks[0].shape[1]:
                drop -= chunks.pop(0).shape[1]
            if drop:
                chunks[0] = chunks[0][:, drop:]
            setattr(self, name, chunks)
        self._num_samples = min(self._num_samples + n, self._window_size)


def _options(
    computation: RecMetricComputation,
    factory: Callable[..., Metric],
    kwargs: dict[str, Any],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """The options of a factory: of ``kwargs``, which loses them, and of ``given``."""
    parameters = option_names(factory)
    named = {name: kwargs.pop(name) for name in parameters if name in kwargs}
    options = {name: x for name, x in given.items() if name in parameters} | named
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in options:
            raise KeyError(f"{type(computation).__name__}: expected the keyword argument {name!r}")
    return options


def _declared_update(
    self: RecMetricComputation,
    *,
    predictions: Tensor | None,
    labels: Tensor,
    weights: Tensor | None,
    **kwargs: Any,
) -> None:
    inputs = self._inputs(predictions, labels, weights, kwargs.get("required_inputs") or {})
    if inputs.counts.max(initial=0) > 0:
        contributions = Contributions(self._shared, inputs)
        self._contribute(contributions, slice(None))


def _declared_compute(self: RecMetricComputation) -> list[MetricComputationReport]:
    return reports_of([self])[0]


_declared_update.__doc__ = RecMetricComputation.update.__doc__
_declared_update.__name__ = _declared_update.__qualname__ = "update"


def _signature(factory: Callable[..., Metric]) -> inspect.Signature:
    """The signature of a computation that names a factory: its options are keywords."""
    kinds = inspect.Parameter
    options = [p.replace(kind=kinds.KEYWORD_ONLY) for p in option_names(factory).values()]
    return inspect.Signature(
        [
            kinds("args", kinds.VAR_POSITIONAL, annotation=Any),
            *options,
            kinds("kwargs", kinds.VAR_KEYWORD, annotation=Any),
        ]
    )


def _guarded(update: Callable[..., None]) -> Callable[..., None]:
    """An update written by a user, which if it fails leaves the states as they were."""

    @functools.wraps(update)
    def guarded(self: RecMetricComputation, *args: Any, **kwargs: Any) -> None:
        if self._is_updating:  # Called by the update of a subclass.
            return update(self, *args, **kwargs)
        with self._local_states(), no_grad(), all_or_nothing([self]):
            self._is_updating = True
            try:
                return update(self, *args, **kwargs)
            finally:
                self._is_updating = False

    return guarded
