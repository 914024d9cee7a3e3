"""Computations that name a functional factory, whose terms and formulas do all the arithmetic.

The way of a batch, from a model's outputs to what is compiled, and on to the states:

    RecMetricModule.update          metric_module   a dictionary of outputs
    parse_task_model_outputs        model_utils     arrays by task
    RecMetricList.update            _metric_list    the metrics with the same tasks
    Layout.batches                  _layout         the examples of each task, ``[1, N]``
    Passes.plan                     _passes         the computations of all these metrics
    host_inputs                     _inputs         examples of all tasks, ``[T, N]``, padded
    Pass.contributions, Statistics  _passes         compiled: the sums of all terms, ``[K, T]``
    take_contributions              here            of each computation: adds to its states

One compiled call serves as many computations as are updated with the same examples, tasks of
unequal length included; it is called a pass.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recmetrics_jax._src.terms import BinnedTerm
from recmetrics_jax.adapter._computation import MetricComputationReport, RecMetricComputation
from recmetrics_jax.adapter._declaration import (
    Declaration,
    Source,
    StateOptions,
    declare,
    hashable,
    option_names,
    signature,
)
from recmetrics_jax.adapter._inputs import host_inputs
from recmetrics_jax.adapter._kept import KeepsSamples
from recmetrics_jax.adapter._layout import TaskBatch, of_tasks, shape_of
from recmetrics_jax.adapter._module import RecMetricException, is_standard, standard
from recmetrics_jax.adapter._passes import Contributions, Passes
from recmetrics_jax.adapter._tensors import (
    Tensor,
    as_kind,
    cloned,
    from_numpy,
    kind_of,
    to_numpy,
    whole,
)
from recmetrics_jax.adapter.metrics_namespace import MetricName, MetricPrefix

_METRIC_NAMES = {name.value: name for name in MetricName}


class DeclaredComputation(KeepsSamples):
    """A computation that names a factory: the states, updates and values are the factory's."""

    @classmethod
    def adopt(cls, other: type[RecMetricComputation]) -> None:
        """Makes a class that names a factory one of these, and tells of its options.

        After it, ``class MSLE(RecMetricComputation): _factory = staticmethod(msle)`` is
        ``class MSLE(DeclaredComputation): ...``.
        """
        # Not `issubclass`, which would remember its answer for good.
        if cls not in other.__mro__:
            bases = [base for base in other.__bases__ if base is not RecMetricComputation]
            other.__bases__ = (*bases, cls)
        if "__init__" not in vars(other) and other._factory is not None:
            with_signature: Any = other
            with_signature.__signature__ = signature(other._factory)

    def _take_options(
        self, positional: Mapping[str, Any], keywords: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        factory = type(self)._factory
        if factory is None:
            raise NotImplementedError(f"{type(self).__name__} names no _factory")
        parameters = option_names(factory)
        given = {**positional, **keywords}
        options = {name: given[name] for name in parameters if name in given}
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and name not in options:
                raise KeyError(f"{type(self).__name__}: expected the keyword argument {name!r}")
            setattr(self, f"_{name}", options.get(name, parameter.default))
        frozen = tuple((name, hashable(option)) for name, option in options.items())
        self._declaration = declare(factory, frozen, self._n_tasks, self._window_size)
        self._passes = Passes()
        self._add_declared_states()
        return {name: x for name, x in keywords.items() if name not in parameters}

    def _add_declared_states(self) -> None:
        declaration = self._declaration
        self._odd_states: dict[str, StateOptions] = {}
        for name, term in declaration.terms.items():
            options = self._state_options(name)
            if not options.is_plain:
                self._odd_states[name] = options
            shape = (self._n_tasks, *term.shape) if options.shape is None else options.shape
            self._add_state(
                name,
                from_numpy(np.zeros(shape, options.dtype)),
                add_window_state=name in declaration.window_values.names and self._window_size > 0,
                dist_reduce_fx=options.reduction,
                persistent=options.persistent,
            )
        self._add_sample_states()

    def _state_options(self, name: str) -> StateOptions:
        """What the state of a term is; a subclass may say otherwise."""
        # Histograms are large: they do not go into checkpoints.
        is_histogram = isinstance(self._declaration.terms[name], BinnedTerm)
        dtype = np.int64 if name in self._whole_numbers else np.float64
        return StateOptions(persistent=not is_histogram, dtype=dtype)

    def _sources(self) -> dict[str, Source]:
        """What each key that terms read is made of; a subclass may say otherwise."""
        return {key: (key, _as_it_is) for key in self._declaration.keys}

    def _described(self, report: MetricComputationReport) -> MetricComputationReport:
        """A report of the factory's as it is given; a subclass may say otherwise."""
        return report

    @property
    def declaration(self) -> Declaration:
        """What the factory makes."""
        return self._declaration

    @property
    def required_keys(self) -> tuple[str, ...]:
        """The names of the arrays that keys are made of, in ``required_inputs``."""
        return tuple(dict.fromkeys(name for name, _ in self._sources().values()))

    def declare_window(self, window_size: int) -> None:
        """Tells the factory the window of all ranks, of which ``window_size`` is this rank's."""
        self._declaration = declare(*self._declaration.made_by, window_size)

    @standard
    def update(
        self,
        *,
        predictions: Tensor | None,
        labels: Tensor,
        weights: Tensor | None,
        **kwargs: Any,
    ) -> None:
        required_inputs = kwargs.get("required_inputs") or {}
        needed = {"predictions": predictions} if self._requires_predictions else {}
        needed |= {"weights": weights} if self._requires_weights else {}
        if any(x is None for x in needed.values()):
            names, name = " and ".join(map(repr, needed)), type(self).__name__
            raise RecMetricException(f"Inputs {names} should not be None for {name} update")
        predictions = labels if predictions is None else predictions
        batch = of_tasks(predictions, labels, weights, self._n_tasks)
        keys = self.check_update(batch, required_inputs)
        if shape_of(batch.labels)[1]:
            one_pass = self._passes.of((self._declaration,))
            inputs = host_inputs([batch], keys, one_pass.keys, self._n_tasks)
            contributions = one_pass.contributions(inputs)
            has_own = not is_standard(self._aggregate_window_state)
            with self.updating() if has_own else self.local_states():
                self._add(contributions, batch.tasks, has_own_windows=has_own)
        self.note_update()

    update.__doc__ = RecMetricComputation.update.__doc__

    def check_update(self, batch: TaskBatch, required_inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The keys that terms read; RecMetricException or ValueError if an update would not go."""
        keys = {}
        for key, (source, as_key) in self._sources().items():
            if source not in required_inputs:
                what = "grouped update" if key in self._declaration.sample_keys else "update"
                raise RecMetricException(
                    f"Input '{source}' are required for {type(self).__name__} {what}: expected an "
                    f"array of this name in required_inputs, got {sorted(required_inputs)}"
                )
            keys[key] = as_key(required_inputs[source])
        expected, classes = self._declaration.sample_classes, shape_of(batch.predictions)[2:]
        if expected is not None and classes != expected:
            raise ValueError(
                f"predictions: expected classes {expected} after tasks and examples for "
                f"{type(self).__name__}, got {classes}"
            )
        return keys

    def take_contributions(self, contributions: Contributions, batch: TaskBatch) -> None:
        """Adds what an update contributes, and notes that it was valid; cannot fail."""
        self._add(contributions, batch.tasks)
        self.note_update()
        if self._should_validate_update:
            self.note_valid(batch.weights)

    def _add(
        self, contributions: Contributions, tasks: slice, *, has_own_windows: bool = False
    ) -> None:
        n = contributions.count(tasks)
        states, windows, odd = vars(self), self._windows, self._odd_states
        for slot in contributions.slots[self._declaration]:
            sums = contributions.sums(slot, tasks)
            state = states[slot.state]
            if slot.state in odd:
                sums = odd[slot.state].of_sums(sums)
                if odd[slot.state].is_latest:
                    state[...] = 0
            state += sums
            # A copy, as the sums are views of those of all states.
            if has_own_windows and slot.window_state in windows:
                self._aggregate_window_state(slot.state, cloned(sums), n)
            elif slot.window_state in windows:
                windows[slot.window_state].push(cloned(sums), n)
        if self._declaration.sample_classes is not None:
            self._append(contributions.samples(self._declaration.sample_keys, tasks), n)

    @standard
    def _compute(self) -> list[MetricComputationReport]:
        """The values of the states as they are."""
        return self.reports_of([self])[0]

    @classmethod
    def is_updated_by_passes(cls) -> bool:
        """Whether updates of the class do what the factory says, and nothing else."""
        return is_standard(cls.update, cls._aggregate_window_state)

    @property
    def is_updated_alone(self) -> bool:
        """Whether its `update` is to be called: methods have been replaced on the object."""
        own = vars(self)
        return "update" in own or "_aggregate_window_state" in own

    @staticmethod
    def joint_reports(
        computations: Sequence[RecMetricComputation],
    ) -> list[list[MetricComputationReport]] | None:
        """The reports of computations by one compiled call; None if they cannot be had so."""
        declared = [c for c in computations if isinstance(c, DeclaredComputation)]
        is_one = len({c.declaration for c in declared}) == 1 and len(declared) == len(computations)
        if not is_one or not all(
            is_standard(c._compute, c.compute, c.local_compute) for c in declared
        ):
            return None
        return DeclaredComputation.reports_of(declared)

    @staticmethod
    def reports_of(
        computations: Sequence["DeclaredComputation"],
    ) -> list[list[MetricComputationReport]]:
        """The reports of computations with one declaration, by one compiled call."""
        declaration = computations[0].declaration
        lifetimes, windows = (
            [computation.sums_of_states(prefix) for computation in computations]
            for prefix in ("", "window_")
        )
        if windows[0] and declaration.lifetime_values is declaration.window_values:
            values = declaration.lifetime_values([*lifetimes, *windows])
        else:
            values = declaration.lifetime_values(lifetimes) + declaration.window_values(windows)
        n = len(computations)
        of_sums = zip(computations, values[:n], values[n:], strict=True)
        return [c.reports_in_order(lifetime, window) for c, lifetime, window in of_sums]

    def sums_of_states(self, prefix: str) -> dict[str, Tensor]:
        """The sums of the states with a prefix, by the names without it, ``[T, *shape]``."""
        terms = self._declaration.terms
        sums = {n: getattr(self, prefix + n) for n in terms if prefix + n in self._defaults}
        for name in sums.keys() & self._odd_states.keys():
            sums[name] = sums[name].reshape(self._n_tasks, *terms[name].shape)
        return sums

    def reports_in_order(
        self, lifetime: Mapping[str, np.ndarray], window: Mapping[str, np.ndarray]
    ) -> list[MetricComputationReport]:
        """The reports of values of sums, and of samples; those `_reported`, if any are."""
        prefixes = MetricPrefix.LIFETIME, MetricPrefix.WINDOW, MetricPrefix.DEFAULT
        by_prefix = dict(zip(prefixes, (lifetime, window, lifetime), strict=True))
        reports = {
            (prefix, _METRIC_NAMES.get(name, name)): (
                whole(values[name]) if name in self._whole_numbers else values[name]
            )
            for name in {**lifetime, **window}
            for prefix, values in by_prefix.items()
            if name in values
        }
        for name, value in self._values_of_samples().items():
            key = MetricPrefix.WINDOW, _METRIC_NAMES.get(name, name)
            reports[key] = value.astype(np.float32)
        reported = self._reported or [key for key in reports if key[0] != prefixes[2]]
        return [
            self._described(MetricComputationReport(name, prefix, from_numpy(value)))
            for prefix, name in reported
            if (value := reports.get((prefix, name))) is not None
        ]

    def loaded_state(self, state: Any, default: Tensor) -> Tensor:
        """A state of a state dict, in the dtype of the states."""
        return as_kind(to_numpy(state).astype(to_numpy(default).dtype), kind_of(default))


def _as_it_is(x: Any) -> Any:
    return x
