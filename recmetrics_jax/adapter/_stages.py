"""Batch sizes that follow each other, and the number of batches that says which one it is."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from recmetrics_jax.adapter._module import Module
from recmetrics_jax.adapter._tensors import from_numpy
from recmetrics_jax.adapter.metrics_config import BatchSizeStage


class StagedBatchSize(Module):
    """A module whose batch size may come in stages, one after another."""

    _batch_size: int
    _batch_size_stages: list[BatchSizeStage] | None
    _num_batch: int

    def _take_stages(self, stages: Sequence[BatchSizeStage] | None) -> None:
        self._batch_size_stages = None
        if stages is not None:
            self._batch_size_stages = [replace(stage) for stage in stages]
            self._num_batch = 0

    def _count_batch(self) -> None:
        if self._batch_size_stages is not None:
            self._num_batch += 1

    def set_num_batch(self, num_batch: int) -> None:
        """Moves the batch size's stages to where they stand after ``num_batch`` batches.

        Args:
            num_batch: the number of batches so far; ignored if there are no stages.

        >>> from recmetrics_jax.adapter.throughput import ThroughputMetric
        >>> metric = ThroughputMetric(
        ...     batch_size=4, world_size=2, window_seconds=10,
        ...     batch_size_stages=[BatchSizeStage(4, 100), BatchSizeStage(8, None)],
        ... )
        >>> metric.set_num_batch(101)
        >>> metric.compute()["throughput-throughput|batch_size"].item()
        8
        """
        if self._batch_size_stages is not None:
            self._num_batch = num_batch

    def _get_batch_size(self) -> int:
        for stage in self._batch_size_stages or ():
            if stage.max_iters is None or self._num_batch <= stage.max_iters:
                return stage.batch_size
        return self._batch_size

    def _save_num_batch(self, destination: dict[str, Any], prefix: str) -> None:
        if self._batch_size_stages is not None:
            destination[f"{prefix}num_batch"] = from_numpy(np.array(self._num_batch, np.int64))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *others)
        *_, unexpected_keys, _ = others
        # The number of batches is neither missed where there are stages, nor refused elsewhere.
        key = f"{prefix}num_batch"
        if key in unexpected_keys:
            unexpected_keys.remove(key)
        if key in state_dict:
            self.set_num_batch(int(state_dict[key]))
