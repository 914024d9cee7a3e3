"""Passes: one compiled call over a batch, for all computations that it updates."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from recmetrics_jax.adapter._compiled import statistics_of
from recmetrics_jax.adapter._declaration import Declaration
from recmetrics_jax.adapter._examples import SAMPLE_STATES, Inputs
from recmetrics_jax.adapter._inputs import TaskBatch, host_inputs
from recmetrics_jax.adapter._tensors import Tensor, from_numpy


class Slot(NamedTuple):
    """Where the sums of a state lie among those of all terms of a pass, ``float64[K, T]``."""

    state: str
    window_state: str
    rows: slice
    shape: tuple[int, ...]


class Pass:
    """What one compiled call needs to update the computations of some declarations.

    Equal terms are added up once. Of NE and CTR the terms are ``w ce, w, w y, w (1 - y)``, so that
    the sums are ``float64[4, T]``, and the slots of CTR, whose states are the sums of ``w y`` and
    ``w``, are ``("ctr_num", ..., slice(2, 3), ())`` and ``("ctr_denom", ..., slice(1, 2), ())``.
    """

    def __init__(self, declarations: Sequence[Declaration]):
        self.keys = tuple(dict.fromkeys(key for each in declarations for key in each.keys))
        """The keys that they need."""
        self.keeps_samples = any(each.sample_classes is not None for each in declarations)
        terms = tuple(dict.fromkeys(term for each in declarations for term in each.terms.values()))
        self.statistics = statistics_of(terms) if terms else None
        """The sums of all of them; None if they have none."""
        rows = self.statistics.rows if self.statistics is not None else {}
        self.slots = {
            each: [
                Slot(name, f"window_{name}", rows[term], term.shape)
                for name, term in each.terms.items()
            ]
            for each in declarations
        }


class Contributions:
    """What an update adds to the states of computations: all of it, before any is changed."""

    def __init__(self, of: Pass, inputs: Inputs):
        self.slots = of.slots
        self._counts = inputs.counts
        if of.keeps_samples:
            # As they are kept: copies, in float32.
            predictions, labels, weights = (np.array(x, np.float32) for x in inputs[:3])
            keys = {name: np.array(key) for name, key in inputs.keys.items()}
            self._examples = Inputs(predictions, labels, weights, inputs.counts, keys)
        if of.statistics is not None:
            self._sums = from_numpy(of.statistics(inputs))
            self._rows = list(self._sums)

    def count(self, tasks: slice) -> int:
        """The examples of some tasks, which have equally many."""
        return int(self._counts[tasks.start])

    def sums(self, slot: Slot, tasks: slice) -> Tensor:
        """The sums for a state of some tasks, ``float64[T, *shape]``; not to be written to."""
        if not slot.shape:
            return self._rows[slot.rows.start][tasks]
        return self._sums[slot.rows, tasks].T.reshape(-1, *slot.shape)

    def samples(self, keys: Sequence[str], tasks: slice) -> dict[str, Tensor]:
        """The examples of some tasks as they are kept, ``float32[T, N]`` and ``int64[T, N]``."""
        examples = self._examples.of_tasks(tasks)
        arrays = dict(zip(SAMPLE_STATES, examples[:3], strict=True))
        arrays |= {name: examples.keys[name] for name in keys}
        n = self.count(tasks)
        return {name: from_numpy(np.array(array[:, :n])) for name, array in arrays.items()}


class Passes:
    """The passes that somebody makes: what they compile is kept as long as this is.

    A copy, or a pickle, is empty: it makes the same passes, and shares what equal terms compile.
    """

    def __init__(self) -> None:
        self._by_declarations: dict[tuple[Declaration, ...], Pass] = {}

    def __reduce__(self) -> Any:
        return Passes, ()

    def contributions(
        self,
        declarations: tuple[Declaration, ...],
        batches: Sequence[TaskBatch],
        required_inputs: Mapping[str, Any],
        n_tasks: int,
    ) -> Contributions:
        """What batches add to the states of the computations of some declarations.

        Args:
            declarations: of the computations, each once.
            batches: the examples of tasks.
            required_inputs: further arrays by name; all that are needed.
            n_tasks: the tasks of all batches.

        Raises:
            ValueError: if a further array does not fit the labels.
        """
        of = self._by_declarations.get(declarations)
        if of is None:
            of = self._by_declarations[declarations] = Pass(declarations)
        return Contributions(of, host_inputs(batches, required_inputs, of.keys, n_tasks))
