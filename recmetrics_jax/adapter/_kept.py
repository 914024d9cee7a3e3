"""Computations that keep the newest examples of their window, as lists of arrays by name."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from recmetrics_jax.adapter._computation import RecMetricComputation
from recmetrics_jax.adapter._declaration import Declaration
from recmetrics_jax.adapter._distributed import joined_samples
from recmetrics_jax.adapter._inputs import SAMPLE_STATES
from recmetrics_jax.adapter._passes import samples_as_inputs
from recmetrics_jax.adapter._tensors import Tensor, from_numpy, to_numpy


class KeepsSamples(RecMetricComputation):
    """A computation that keeps examples, if its factory's metrics are of such."""

    _declaration: Declaration

    def _add_sample_states(self) -> None:
        # Before the first example, a column without weight.
        for name in self._sample_states():
            classes = self._declaration.sample_classes if name == "predictions" else ()
            shape = (self._n_tasks, 1, *(classes or ()))
            column = np.zeros(shape, np.float32) if name in SAMPLE_STATES else np.full(shape, -1)
            self.add_state(name, [from_numpy(column)], dist_reduce_fx=joined_samples)

    def _sample_states(self) -> tuple[str, ...]:
        """The states that are lists of examples."""
        if self._declaration.sample_classes is None:
            return ()
        return (*SAMPLE_STATES, *self._declaration.sample_keys)

    def _append(self, samples: Mapping[str, Tensor], n: int) -> None:
        """Adds examples, and lets the oldest leave that the window does not hold."""
        held = self._num_samples or self._count_samples()
        surplus = max(held + n - self._window_size, 0)
        for name, new in samples.items():
            chunks = [*(getattr(self, name) if held else ()), new]
            drop = surplus
            while drop and drop >= chunks[0].shape[1]:
                drop -= chunks.pop(0).shape[1]
            if drop:
                chunks[0] = chunks[0][:, drop:]
            setattr(self, name, chunks)
        self._num_samples = min(held + n, self._window_size)

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
