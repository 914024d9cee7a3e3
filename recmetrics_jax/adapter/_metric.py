"""`RecMetric`: a metric of several tasks, by key."""

import abc
import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax

from recmetrics_jax.adapter._computation import RecMetricComputation
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._distributed import sync, synced
from recmetrics_jax.adapter._layout import (
    Layout,
    TaskBatch,
    ones_like,
    required_for,
    shape_of,
    target_tensor,
)
from recmetrics_jax.adapter._module import Module, ModuleList, is_standard, standard
from recmetrics_jax.adapter._passes import Passes
from recmetrics_jax.adapter._pending import concatenated, kept
from recmetrics_jax.adapter._states import all_or_nothing
from recmetrics_jax.adapter._tensors import (
    NATIVE,
    Kind,
    Tensor,
    kind_of,
    nbytes,
    no_grad,
)
from recmetrics_jax.adapter._validation import RecMetricInputPolicy
from recmetrics_jax.adapter._values import values_by_key
from recmetrics_jax.adapter.metrics_config import RecComputeMode, RecTaskInfo
from recmetrics_jax.adapter.metrics_namespace import (
    MetricNamespaceBase,
)

RecModelOutput = Tensor | dict[str, Tensor]

_FUSED = (
    RecComputeMode.FUSED_TASKS_COMPUTATION,
    RecComputeMode.FUSED_TASKS_AND_STATES_COMPUTATION,
)
_IGNORED_OPTIONS = ("enable_pt2_compile", "should_clone_update_inputs", "batch_size_stages")


class RecMetric(Module, abc.ABC):
    """A metric of several tasks, over the lifetime and over a window of examples.

    A subclass names its namespace and its computation::

        class MSLEMetric(RecMetric):
            _namespace = MetricNamespace.MSE
            _computation_class = MSLEMetricComputation

    Args:
        world_size: number of ranks.
        my_rank: the rank of this process.
        batch_size: examples in a batch, on this rank.
        tasks: the tasks; each has its own values.
        compute_mode: unfused: tasks may have batches of their own, as dictionaries by task. Fused:
            all tasks are in each batch, stacked ``[T, N]`` or as dictionaries.
        window_size: examples in the window, over all ranks.
        fused_update_limit: if above 0, batches are kept until there are so many, and then taken in
            as one.
        compute_on_all_ranks: whether ranks other than 0 return values too.
        should_validate_update: whether to leave out batches without a weight other than zero, and
            to give 0 for tasks that had no others.
        process_group: the ranks; None for all.
        **kwargs: options of the computation.

    Raises:
        ValueError: if the window of a rank is smaller than a batch, tasks are fused and
            ``fused_update_limit`` is above 0, or an option is unknown.
    """

    _computation_class: ClassVar[type[RecMetricComputation]]
    _namespace: ClassVar[MetricNamespaceBase]
    LABELS: str = "labels"
    PREDICTIONS: str = "predictions"
    WEIGHTS: str = "weights"
    input_policy: RecMetricInputPolicy = RecMetricInputPolicy()
    """What inputs may hold, where a module validates them."""
    allowed_nan_inputs: frozenset[str] = frozenset()
    """Which of labels, predictions and weights may then be NaN."""
    ignored_input_values: frozenset[str] = frozenset()
    """Which of them may then be anything."""

    def __init__(
        self,
        world_size: int,
        my_rank: int,
        batch_size: int,
        tasks: list[RecTaskInfo],
        compute_mode: RecComputeMode = RecComputeMode.UNFUSED_TASKS_COMPUTATION,
        window_size: int = 100,
        fused_update_limit: int = 0,
        compute_on_all_ranks: bool = False,
        should_validate_update: bool = False,
        process_group: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self._is_fused = compute_mode in _FUSED
        if self._is_fused and fused_update_limit > 0:
            raise ValueError(
                "The fused tasks computation and the fused update cannot be set at the same time"
            )
        local_window = math.ceil(window_size / world_size)
        if local_window < batch_size:
            raise ValueError(
                f"Local window size must be larger than batch size. Got local window size "
                f"{local_window} and batch size {batch_size}."
            )
        self._world_size = world_size
        self._my_rank = my_rank
        self._batch_size = batch_size
        self._tasks = tasks
        self._compute_mode = compute_mode
        self._window_size = local_window
        self._fused_update_limit = fused_update_limit
        self._should_validate_update = should_validate_update
        self._compute_on_all_ranks = compute_on_all_ranks
        self._kind: Kind = NATIVE
        self._pending: list[dict[str, Any]] = []
        self._passes = Passes()
        self._required_inputs: set[str] = set()
        self.layout = Layout(tuple(t.name for t in tasks), self._is_fused, should_validate_update)
        self._metrics_computations: ModuleList[RecMetricComputation] = ModuleList()
        self._add_computations(window_size, process_group, kwargs)

    def _add_computations(
        self, window_size: int, process_group: Any, kwargs: Mapping[str, Any]
    ) -> None:
        """Makes the computation of each task, or the one of all where they are fused."""
        options = {name: kwargs[name] for name in kwargs if name not in _IGNORED_OPTIONS}
        for of_computation in [self._tasks] if self._is_fused else self._tasks:
            computation = self._computation_class(
                **{
                    "my_rank": self._my_rank,
                    "batch_size": self._batch_size,
                    "n_tasks": len(self._tasks) if self._is_fused else 1,
                    "window_size": self._window_size,
                    "compute_on_all_ranks": self._compute_on_all_ranks,
                    "should_validate_update": self._should_validate_update,
                    "compute_mode": self._compute_mode,
                    "process_group": process_group,
                    "fused_update_limit": self._fused_update_limit,
                    **options,
                    **self._get_task_kwargs(of_computation),
                },
            )
            self._metrics_computations.append(computation)
            self._required_inputs |= self._get_task_required_inputs(of_computation)
            if isinstance(computation, DeclaredComputation):
                computation.declare_window(window_size)
                self._required_inputs.update(computation.required_keys)
        self._by_passes = [c for c in self.computations if isinstance(c, DeclaredComputation)]
        self._declared_classes = {type(computation) for computation in self._by_passes}

    def _get_task_kwargs(self, task_config: RecTaskInfo | list[RecTaskInfo]) -> dict[str, Any]:
        """Options of the computation of a task, or of all where they are fused."""
        return {}

    def _get_task_required_inputs(self, task_config: RecTaskInfo | list[RecTaskInfo]) -> set[str]:
        """The names of further arrays that a task, or all where they are fused, need."""
        return set()

    @standard
    def update(
        self,
        *,
        predictions: RecModelOutput,
        labels: RecModelOutput,
        weights: RecModelOutput | None,
        **kwargs: Any,
    ) -> None:
        """Takes in a batch.

        Args:
            predictions: arrays by task; tasks may be missing unless fused. Fused: also one array
                ``[T, N]``. With classes, one axis more.
            labels: like ``predictions``.
            weights: like ``labels``; None for ones.
            **kwargs: ``required_inputs``, a dictionary of further arrays (sessions, groups) by
                name: as long as the labels of a task, or of one number.

        Raises:
            RecMetricException: if something that the metric needs is missing.
            ValueError: if shapes do not fit. Either way no state has changed.
        """
        batch = {"predictions": predictions, "labels": labels, "weights": weights, **kwargs}
        self.note_kind(predictions)
        with no_grad():
            if self._fused_update_limit > 0:
                self._check(batch)
                self._pending.append(kept(batch))
                if len(self._pending) >= self._fused_update_limit:
                    self.flush()
            else:
                self._update(**batch)

    def _check(self, batch: Mapping[str, Any]) -> None:
        """Raises what taking in the batch would raise, before it is kept."""
        arrays = (batch[name] for name in ("predictions", "labels", "weights"))
        batches = self.layout.batches(*arrays, counted=False)
        if self._is_declared:
            for computation, of_task in self.targets(batches):
                computation.check_update(of_task, batch.get("required_inputs") or {})

    def note_kind(self, predictions: RecModelOutput) -> None:
        """Remembers whose arrays come in: values go out alike."""
        if isinstance(predictions, Mapping):
            predictions = next(iter(predictions.values()), None)
        if predictions is not None and (kind := kind_of(predictions)) != self._kind:
            self._kind = kind

    def flush(self) -> None:
        """Takes in the batches that were kept, as one."""
        if self._pending:
            pending, self._pending = self._pending, []
            with no_grad():
                self._update(**concatenated(pending))

    @standard
    def _update(
        self,
        *,
        predictions: RecModelOutput,
        labels: RecModelOutput,
        weights: RecModelOutput | None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("_log_tensors", None)  # A hook of the reference; nothing is logged here.
        batches = self.layout.batches(predictions, labels, weights)
        if self._is_declared:
            required_inputs = kwargs.get("required_inputs") or {}
            self._passes.plan(self.targets(batches), required_inputs, len(self._tasks))()
            return
        with all_or_nothing(c.updating() for c in self.computations):
            for batch in batches:
                self._update_computation(batch, kwargs)

    @property
    def _is_declared(self) -> bool:
        """Whether all computations update as a factory says, and by no method of a user."""
        return (
            len(self._by_passes) == len(self._metrics_computations)
            and all(each.is_updated_by_passes() for each in self._declared_classes)
            and not any(computation.is_updated_alone for computation in self._by_passes)
        )

    def targets(self, batches: Sequence[TaskBatch]) -> list[tuple[DeclaredComputation, TaskBatch]]:
        """The computation of each batch, where all update as a factory says."""
        return [(self._by_passes[batch.first], batch) for batch in batches]

    def _update_computation(self, batch: TaskBatch, kwargs: Mapping[str, Any]) -> None:
        """An update by the computation's own method, as a user may have written it."""
        computation = self._metrics_computations[batch.first]
        arguments = dict(kwargs)
        weights = batch.weights
        if weights is None:
            weights = ones_like(batch.labels, batch.predictions)
        if kwargs.get("required_inputs"):
            shape = shape_of(batch.labels)
            arguments["required_inputs"] = required = dict(kwargs["required_inputs"])
            if self._is_fused:
                required |= target_tensor(self._tasks, required)
            else:
                required |= {n: required_for(n, x, shape) for n, x in required.items()}
        computation.update(
            predictions=batch.predictions, labels=batch.labels, weights=weights, **arguments
        )
        computation.note_valid(batch.weights)

    def is_updated_by_passes(self) -> bool:
        """Whether `update` is a pass, at once, that can serve other metrics too."""
        is_at_once = self._fused_update_limit == 0 and is_standard(self.update, self._update)
        return is_at_once and self._is_declared

    @standard
    def compute(self) -> dict[str, Tensor]:
        """The values of all ranks; all ranks must call.

        Returns:
            Values by key, ``<namespace>-<task>|<prefix>_<name>``: float64, of shape ``[1]``, or
            ``[]`` where tasks are fused. On ranks other than 0 nothing, unless
            ``compute_on_all_ranks``.
        """
        with synced(self.prepared()):
            return self.global_values()

    def global_values(self) -> dict[str, Tensor]:
        """What `compute` gives, where the states are those of all ranks."""
        leads = self._my_rank == 0 or self._compute_on_all_ranks
        return self._values("") if leads else {}

    def local_compute(self) -> dict[str, Tensor]:
        """The values of this rank alone, by keys with ``local_`` in them."""
        self.prepared()
        return self._values("local_")

    @property
    def computations(self) -> list[RecMetricComputation]:
        """The computations: one of each task, or one of all."""
        return list(self._metrics_computations)

    @contextlib.contextmanager
    def updating(self) -> Iterator[None]:
        """A scope that leaves the metric as it was, with the batches that wait, if it fails."""
        pending = list(self._pending)
        try:
            with all_or_nothing(c.updating() for c in self.computations):
                yield
        except BaseException:
            self._pending = pending
            raise

    def prepared(self) -> list[RecMetricComputation]:
        """The computations, ready to compute."""
        self.flush()
        for computation in self._metrics_computations:
            computation.pre_compute()
        return self.computations

    def _values(self, scope: str) -> dict[str, Tensor]:
        """The values of the states as they are, by keys with ``scope`` in them."""
        with no_grad():
            reports = DeclaredComputation.joint_reports(self.computations)
            if reports is None:
                is_local = bool(scope)
                reports = [each.prepared_reports(is_local=is_local) for each in self.computations]
        by_computation = zip(self._metrics_computations, reports, strict=True)
        return values_by_key(
            self._namespace,
            scope,
            self._tasks,
            by_computation,
            self._kind,
            is_fused=self._is_fused,
        )

    def reset(self) -> None:
        """Forgets all batches, those kept for a fused update too."""
        self._pending = []
        for computation in self._metrics_computations:
            computation.reset()

    @standard
    def sync(self) -> None:
        """Replaces the states by those of all ranks, until `unsync`; all must call.

        Raises:
            RecMetricException: if they are already.
        """
        self.flush()
        sync(self.computations)

    def unsync(self) -> None:
        """Restores the states of this rank, if `sync` replaced them."""
        for computation in self._metrics_computations:
            computation.unsync()

    def get_required_inputs(self) -> set[str]:
        """The names of the further arrays that `update` needs in ``required_inputs``."""
        return self._required_inputs

    @standard
    def get_memory_usage(self) -> dict[Any, int]:
        """The bytes of each array that the metric holds, by array (without torch, by ``id``)."""
        held = [x for computation in self.computations for x in computation.held_tensors()]
        held += jax.tree.leaves(self._pending)
        return {x if kind_of(x) == "torch" else id(x): nbytes(x) for x in held}

    def held_bytes(self) -> int:
        """The sum of `get_memory_usage`, counted faster."""
        if not is_standard(self.get_memory_usage):
            return sum(self.get_memory_usage().values())
        return sum(c.held_bytes() for c in self._metrics_computations) + nbytes(self._pending)

    def state_dict(
        self,
        destination: dict[str, Tensor] | None = None,
        prefix: str = "",
        keep_vars: bool = False,
    ) -> dict[str, Tensor]:
        """The persistent states, copied, as ``<prefix>_metrics_computations.<i>.<state>``."""
        self.flush()
        return super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
