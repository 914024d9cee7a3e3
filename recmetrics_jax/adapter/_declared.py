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
    declare,
    hashable,
    option_names,
    signature,
)
from recmetrics_jax.adapter._distributed import joined_samples
from recmetrics_jax.adapter._inputs import SAMPLE_STATES, host_inputs
from recmetrics_jax.adapter._layout import TaskBatch, of_tasks, shape_of
from recmetrics_jax.adapter._module import RecMetricException, is_standard, standard
from recmetrics_jax.adapter._passes import Contributions, Passes, samples_as_inputs
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


class DeclaredComputation(RecMetricComputation):
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
        for name, term in declaration.terms.items():
            dtype = np.int64 if name in self._whole_numbers else np.float64
            self._add_state(
                name,
                from_numpy(np.zeros((self._n_tasks, *term.shape), dtype)),
                add_window_state=name in declaration.window_values.names and self._window_size > 0,
                dist_reduce_fx="sum",
                # Histograms are large: they do not go into checkpoints.
                persistent=not isinstance(term, BinnedTerm),
            )
        # Before the first example, a column without weight.
        for name in self._sample_states():
            classes = declaration.sample_classes if name == "predictions" else ()
            shape = (self._n_tasks, 1, *(classes or ()))
            column = np.zeros(shape, np.float32) if name in SAMPLE_STATES else np.full(shape, -1)
            self.add_state(name, [from_numpy(column)], dist_reduce_fx=joined_samples)

    def _sample_states(self) -> tuple[str, ...]:
        """The states that are lists of examples."""
        if self._declaration.sample_classes is None:
            return ()
        return (*SAMPLE_STATES, *self._declaration.sample_keys)

    @property
    def declaration(self) -> Declaration:
        """What the factory makes."""
        return self._declaration

    @property
    def required_keys(self) -> tuple[str, ...]:
        """The names of the keys that come in ``required_inputs``."""
        return self._declaration.keys

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
        name = type(self).__name__
        if self._requires_weights and (predictions is None or weights is None):
            raise RecMetricException(
                f"Inputs 'predictions' and 'weights' should not be None for {name} update"
            )
        if predictions is None:
            raise RecMetricException(f"Inputs 'predictions' should not be None for {name} update")
        batch = of_tasks(predictions, labels, weights, self._n_tasks)
        keys = self.check_update(batch, required_inputs)
        if shape_of(batch.labels)[1]:
            one_pass = self._passes.of((self._declaration,))
            inputs = host_inputs([batch], keys, one_pass.keys, self._n_tasks)
            contributions = one_pass.contributions(inputs)
            has_own = not is_standard(self._aggregate_window_state)
            with self.updating() if has_own else self.local_states():
                self._add(contributions, batch.tasks, has_own_windows=has_own)

    update.__doc__ = RecMetricComputation.update.__doc__

    def check_update(self, batch: TaskBatch, required_inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The keys that terms read; RecMetricException or ValueError if an update would not go."""
        for key in self.required_keys:
            if key not in required_inputs:
                what = "grouped update" if key in self._declaration.sample_keys else "update"
                raise RecMetricException(
                    f"Input '{key}' are required for {type(self).__name__} {what}: expected an "
                    f"array of this name in required_inputs, got {sorted(required_inputs)}"
                )

        expected, classes = self._declaration.sample_classes, shape_of(batch.predictions)[2:]
        if expected is not None and classes != expected:
            raise ValueError(
                f"predictions: expected classes {expected} after tasks and examples for "
                f"{type(self).__name__}, got {classes}"
            )
        return {key: required_inputs[key] for key in self._declaration.keys}

    def take_contributions(self, contributions: Contributions, batch: TaskBatch) -> None:
        """Adds what an update contributes, and notes that it was valid; cannot fail."""
        self._add(contributions, batch.tasks)
        if self._should_validate_update:
            self.note_valid(batch.weights)

    def _add(
        self, contributions: Contributions, tasks: slice, *, has_own_windows: bool = False
    ) -> None:
        n = contributions.count(tasks)
        states = vars(self)
        windows = self._windows
        for slot in contributions.slots[self._declaration]:
            sums = contributions.sums(slot, tasks)
            if slot.state in self._whole_numbers:
                sums = whole(sums)
            state = states[slot.state]
            state += sums
            # A copy, as the sums are views of those of all states.
            if has_own_windows and slot.window_state in windows:
                self._aggregate_window_state(slot.state, cloned(sums), n)
            elif slot.window_state in windows:
                windows[slot.window_state].push(cloned(sums), n)
        if self._declaration.sample_classes is not None:
            self._append(contributions.samples(self._declaration.sample_keys, tasks), n)

    def _append(self, samples: Mapping[str, Tensor], n: int) -> None:
        """Adds examples, and lets the oldest leave that the window does not hold."""
        self._num_samples = self._num_samples or self._count_samples()
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

    @standard
    def _compute(self) -> list[MetricComputationReport]:
        """The values of the states as they are."""
        return self.reports_of([self])[0]

    @classmethod
    def is_updated_by_passes(cls) -> bool:
        """Whether updates of the class do what the factory says, and nothing else."""
        return is_standard(cls.update, cls._aggregate_window_state)

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
        """The sums of the states with a prefix, by the names without it."""
        names = self._declaration.terms
        return {n: getattr(self, prefix + n) for n in names if prefix + n in self._defaults}

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
        return [
            MetricComputationReport(name, prefix, from_numpy(reports[prefix, name]))
            for prefix, name in self._reported or (r for r in reports if r[0] != prefixes[2])
            if (prefix, name) in reports
        ]

    def _values_of_samples(self) -> dict[str, np.ndarray]:
        if self._declaration.sample_classes is None:
            return {}
        chunks = {name: getattr(self, name) for name in self._sample_states()}
        inputs = samples_as_inputs(chunks, self._count_samples(), max(self._window_size, 1))
        return self._declaration.sample_values(inputs)

    def _count_samples(self) -> int:
        """The examples in the lists: they have come in, or have been assigned."""
        weights = vars(self)["weights"]
        has_any = self._num_samples > 0 or any(np.any(to_numpy(x)) for x in weights)
        return sum(chunk.shape[1] for chunk in weights) if has_any else 0

    def payload_for_ranks(self) -> dict[str, Any]:
        """The states as they are sent to other ranks; no examples where there are none."""
        payload = super().payload_for_ranks()
        if self._sample_states() and not self._count_samples():
            payload |= {name: [] for name in self._sample_states()}
        return payload

    def loaded_state(self, state: Any, default: Tensor) -> Tensor:
        """A state of a state dict, in the dtype of the states."""
        return as_kind(to_numpy(state).astype(to_numpy(default).dtype), kind_of(default))
