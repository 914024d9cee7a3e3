"""What the metrics of the tops of sessions share: tasks that name their sessions, and ranks."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from recmetrics_jax._src.metrics.reference_sessions import (
    TopOptions,
    ranks_in_sessions,
    top_options,
)
from recmetrics_jax._src.terms import Term
from recmetrics_jax.adapter._compiling import Compiled
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import term_sums
from recmetrics_jax.adapter._inputs import Inputs, host_inputs
from recmetrics_jax.adapter._layout import TaskBatch
from recmetrics_jax.adapter._module import RecMetricException
from recmetrics_jax.adapter._tensors import Tensor, from_numpy, kind_of, to_numpy
from recmetrics_jax.adapter.metrics_config import RecComputeMode, RecTaskInfo, SessionMetricDef
from recmetrics_jax.adapter.rec_metric import RecMetric

_SESSION = "session"


def options_of(definition: SessionMetricDef) -> TopOptions:
    """What is in the top of a session, as a task says it."""
    return top_options(
        definition.session_var_name,
        definition.top_threshold,
        definition.run_ranking_of_labels,
    )


def ranking_within_session(predictions: Tensor, session: Tensor) -> Tensor:
    """How many examples of its session have a larger prediction than an example.

    Args:
        predictions: ``[1, N]`` or ``[N]``; ``[n_tasks, N]``.
        session: the session of each example, of as many numbers, or ``[N]``.

    Returns:
        ``int64[N]``, ``int64[n_tasks, N]`` for several tasks. Equal predictions share a rank. A NaN
        is larger than any other number; of one that is NaN itself, all examples count.

    Raises:
        ValueError: if shapes do not fit.

    >>> import numpy as np
    >>> ranking_within_session(np.array([[1.0, 0.5, 1.0, 0.3]]), np.array([[7, 7, 7, 8]])).tolist()
    [0, 2, 0, 0]
    """
    p = np.atleast_2d(to_numpy(predictions))
    inputs = host_inputs([TaskBatch(0, p, p, None)], {_SESSION: session}, (_SESSION,), len(p))
    ranks = np.array(_ranks(inputs))[:, : p.shape[1]].astype(np.int64)
    return from_numpy(ranks[0] if len(ranks) == 1 else ranks, kind_of(predictions))


@Compiled
def _ranks(inputs: Inputs) -> jax.Array:
    batch = inputs.batch()
    return ranks_in_sessions(batch.predictions, batch.key(_SESSION), batch.mask)


class SessionComputation(DeclaredComputation):
    """What a task says of its sessions decides what is in the top of them."""

    _session_metric_def: SessionMetricDef

    @property
    def session_var_name(self) -> str:
        """The name of the sessions in ``required_inputs``."""
        return self._session_metric_def.session_var_name

    @property
    def top_threshold(self) -> int | None:
        """How many ranks are in the top."""
        return self._session_metric_def.top_threshold

    @property
    def run_ranking_of_labels(self) -> bool:
        """Whether labels are positive by their rank."""
        return self._session_metric_def.run_ranking_of_labels

    def check_update(self, batch: TaskBatch, required_inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The sessions; RecMetricException without them."""
        if self.session_var_name not in required_inputs:
            raise RecMetricException(
                f"Need the {self.session_var_name} input to update the session metric: expected an "
                f"array of this name in required_inputs, got {sorted(required_inputs)}"
            )
        return super().check_update(batch, required_inputs)

    def states_of(
        self,
        terms: Mapping[str, Term],
        labels: Tensor,
        predictions: Tensor,
        weights: Tensor,
        session: Tensor,
    ) -> dict[str, Tensor]:
        """The sums of terms, ``float64[n_tasks]`` by name, of arrays ``[n_tasks, N]``."""
        keys = {self.session_var_name: session}
        return term_sums(terms, labels, predictions, weights, in_float64=[*terms], keys=keys)


class SessionMetric(RecMetric):
    """A metric of tasks that say what their sessions are, and how much of them is the top."""

    _level: ClassVar[str]
    """What is measured, for messages."""

    def __init__(
        self,
        world_size: int,
        my_rank: int,
        batch_size: int,
        tasks: list[RecTaskInfo],
        compute_mode: RecComputeMode = RecComputeMode.UNFUSED_TASKS_COMPUTATION,
        window_size: int = 100,
        fused_update_limit: int = 0,
        process_group: Any = None,
        **kwargs: Any,
    ) -> None:
        for is_asked, what in (
            (compute_mode != RecComputeMode.UNFUSED_TASKS_COMPUTATION, "computation"),
            (fused_update_limit > 0, "update"),
        ):
            if is_asked:
                raise RecMetricException(
                    f"Fused {what} is not supported for {self._level} session-level metrics"
                )
        for task in tasks:
            if _definition_of(task).top_threshold is None:
                raise RecMetricException(
                    f"Please, specify the top threshold in session_metric_def of {task.name!r}"
                )
        super().__init__(
            world_size=world_size,
            my_rank=my_rank,
            batch_size=batch_size,
            tasks=tasks,
            compute_mode=compute_mode,
            window_size=window_size,
            fused_update_limit=fused_update_limit,
            process_group=process_group,
            **kwargs,
        )

    def _get_task_kwargs(self, task_config: RecTaskInfo | list[RecTaskInfo]) -> dict[str, Any]:
        return {"session_metric_def": _definition_of(task_config)}

    def _get_task_required_inputs(self, task_config: RecTaskInfo | list[RecTaskInfo]) -> set[str]:
        return {_definition_of(task_config).session_var_name}


def _definition_of(task: RecTaskInfo | list[RecTaskInfo]) -> SessionMetricDef:
    if isinstance(task, list):
        raise RecMetricException("Session metric can only take one task at a time")
    if task.session_metric_def is None:
        raise RecMetricException(
            f"Please, specify the session metric definition: session_metric_def of {task.name!r}"
        )
    return task.session_metric_def
