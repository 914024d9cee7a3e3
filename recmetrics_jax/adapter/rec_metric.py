"""`RecMetric`, a metric of several tasks, `RecMetricList`, and what they are made of.

The class API of torchrec.metrics.rec_metric. Inputs may be arrays of torch, NumPy or JAX, on the
CPU, of any real dtype; they are never modified, nor is anything of them kept by reference.
"""

import abc
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from recmetrics_jax.adapter._computation import (
    HAS_VALID_UPDATE,
    MetricComputationReport,
    RecMetricComputation,
    reports_of,
)
from recmetrics_jax.adapter._declared import Contributions
from recmetrics_jax.adapter._inputs import (
    TaskBatch,
    by_task,
    fused,
    host_inputs,
    ones_like,
    required_for,
    shape_of,
)
from recmetrics_jax.adapter._module import Module, ModuleList
from recmetrics_jax.adapter._states import (
    MAX_BUFFER_COUNT,
    RecMetricException,
    merge_states,
    synced,
)
from recmetrics_jax.adapter._tensors import (
    NATIVE,
    Kind,
    Tensor,
    as_kind,
    concatenate,
    copy,
    from_numpy,
    kind_of,
    no_grad,
    to_numpy,
    zeros_like,
)
from recmetrics_jax.adapter._window import WindowBuffer
from recmetrics_jax.adapter.metrics_config import RecComputeMode, RecTaskInfo
from recmetrics_jax.adapter.metrics_namespace import (
    MetricNamespaceBase,
    compose_metric_key,
)

__all__ = [
    "MAX_BUFFER_COUNT",
    "MetricComputationReport",
    "RecMetric",
    "RecMetricComputation",
    "RecMetricException",
    "RecMetricList",
    "RecModelOutput",
    "WindowBuffer",
]

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
        self._required_inputs: set[str] = set()
        self._metrics_computations = ModuleList()
        options = {name: kwargs[name] for name in kwargs if name not in _IGNORED_OPTIONS}
        for of_computation in [tasks] if self._is_fused else tasks:
            computation = self._computation_class(
                my_rank,
                batch_size,
                len(tasks) if self._is_fused else 1,
                local_window,
                compute_on_all_ranks,
                should_validate_update,
                process_group,
                **{
                    "fused_update_limit": fused_update_limit,
                    **options,
                    **self._get_task_kwargs(of_computation),
                },
            )
            self._metrics_computations.append(computation)
            self._required_inputs |= self._get_task_required_inputs(of_computation)
            if computation._declaration is not None:
                self._required_inputs.update(computation._declaration.keys)

    def _get_task_kwargs(self, task_config: RecTaskInfo | list[RecTaskInfo]) -> dict[str, Any]:
        """Options of the computation of a task, or of all where they are fused."""
        return {}

    def _get_task_required_inputs(self, task_config: RecTaskInfo | list[RecTaskInfo]) -> set[str]:
        """The names of further arrays that a task, or all where they are fused, need."""
        return set()

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
        self._note_kind(predictions)
        with no_grad():
            if self._fused_update_limit > 0:
                self._pending.append({name: _kept(x) for name, x in batch.items()})
                if len(self._pending) >= self._fused_update_limit:
                    self._flush()
            else:
                self._update(**batch)

    def _note_kind(self, predictions: RecModelOutput) -> None:
        """Remembers whose arrays come in: values go out alike."""
        if isinstance(predictions, Mapping):
            predictions = next(iter(predictions.values()), None)
        if predictions is not None:
            self._kind = kind_of(predictions)

    def _flush(self) -> None:
        """Takes in the batches that were kept, as one."""
        if self._pending:
            pending, self._pending = self._pending, []
            with no_grad():
                self._update(**_concatenated(pending))

    def _update(
        self,
        *,
        predictions: RecModelOutput,
        labels: RecModelOutput,
        weights: RecModelOutput | None,
        **kwargs: Any,
    ) -> None:
        batches = self._valid(self._batches(predictions, labels, weights))
        if self._is_declared():
            _contribute([self], batches, kwargs.get("required_inputs") or {})
            return
        snapshots = [computation._snapshot() for computation in self._metrics_computations]
        try:
            for batch in batches:
                self._update_computation(batch, kwargs)
        except BaseException:
            for computation, snapshot in zip(self._metrics_computations, snapshots, strict=True):
                computation._restore(snapshot)
            raise

    def _batches(self, predictions: Any, labels: Any, weights: Any) -> list[TaskBatch]:
        if self._is_fused:
            return [fused(self._tasks, predictions, labels, weights)]
        return list(by_task(self._tasks, predictions, labels, weights))

    def _valid(self, batches: Iterable[TaskBatch]) -> list[TaskBatch]:
        """Those that count: with validation, only those with a weight other than zero."""
        if not self._should_validate_update:
            return list(batches)
        return [b for b in batches if b.weights is None or np.any(to_numpy(b.weights))]

    def _is_declared(self) -> bool:
        """Whether computations update as their factories say, and so can share the work."""
        return all(computation._is_declared() for computation in self._metrics_computations)

    def _update_computation(self, batch: TaskBatch, kwargs: Mapping[str, Any]) -> None:
        """An update by the computation's own method, as a user may have written it."""
        computation = self._metrics_computations[batch.first]
        arguments = dict(kwargs)
        if "required_inputs" in kwargs and not self._is_fused:
            arguments["required_inputs"] = required_for(
                kwargs["required_inputs"], shape_of(batch.labels)
            )
        computation.update(
            predictions=batch.predictions,
            labels=batch.labels,
            weights=(
                ones_like(batch.labels, batch.predictions)
                if batch.weights is None
                else batch.weights
            ),
            **arguments,
        )
        _flag(computation, batch)

    def _shares_updates_with(self, other: "RecMetric") -> bool:
        """Whether one pass over a batch can serve both."""
        return (
            self._is_fused == other._is_fused
            and self._should_validate_update == other._should_validate_update
            and (self._tasks is other._tasks or self._tasks == other._tasks)
        )

    def _updates_as_declared(self) -> bool:
        """Whether `update` is that of this class, at once, over factories."""
        return (
            type(self).update is RecMetric.update
            and type(self)._update is RecMetric._update
            and self._fused_update_limit == 0
            and self._is_declared()
        )

    def compute(self) -> dict[str, Tensor]:
        """The values of all ranks together; all ranks must call.

        Returns:
            Values by key, ``<namespace>-<task>|<prefix>_<name>``: float64, of shape ``[1]``, or
            ``[]`` where tasks are fused. On ranks other than 0 nothing, unless
            ``compute_on_all_ranks``.
        """
        with synced(self._prepared()):
            return self._global_values()

    def _global_values(self) -> dict[str, Tensor]:
        leads = self._my_rank == 0 or self._compute_on_all_ranks
        return self._values("") if leads else {}

    def local_compute(self) -> dict[str, Tensor]:
        """The values of this rank alone, by keys with ``local_`` in them."""
        self._prepared()
        return self._values("local_")

    def _prepared(self) -> list[RecMetricComputation]:
        """The computations, ready to compute."""
        self._flush()
        for computation in self._metrics_computations:
            computation.pre_compute()
        return list(self._metrics_computations)

    def _values(self, scope: str) -> dict[str, Tensor]:
        """The values of the states as they are, by keys with ``scope`` in them."""
        computations = list(self._metrics_computations)
        is_one = len({c._declaration for c in computations}) == 1
        with no_grad():
            if is_one and all(c._computes_as_declared() for c in computations):
                reports = reports_of(computations)
            else:
                reports = [computation._compute() for computation in computations]
        values = {}
        for task, report, value in self._by_task(reports):
            key = compose_metric_key(
                self._namespace,
                task.name,
                report.name,
                f"{scope}{report.metric_prefix.value}",
                report.description,
            )
            values[key] = self._converted(value)
        return values

    def _by_task(
        self, reports: Sequence[Sequence[MetricComputationReport]]
    ) -> Iterator[tuple[RecTaskInfo, MetricComputationReport, Tensor]]:
        """The reports taken apart by task, zero for tasks without a valid update."""
        for i, computation in enumerate(self._metrics_computations):
            flags = getattr(computation, HAS_VALID_UPDATE, None)
            for report in reports[i]:
                if not self._is_fused:
                    is_valid = flags is None or bool(flags[0])
                    value = report.value if is_valid else zeros_like(report.value)
                    yield self._tasks[i], report, value
                    continue
                for t, (task, value) in enumerate(zip(self._tasks, report.value, strict=False)):
                    is_valid = flags is None or bool(flags[t])
                    yield task, report, value if is_valid else zeros_like(value)

    def _converted(self, value: Any) -> Tensor:
        return as_kind(value, self._kind)

    def reset(self) -> None:
        """Forgets all batches, those kept for a fused update too."""
        self._pending = []
        for computation in self._metrics_computations:
            computation.reset()

    def sync(self) -> None:
        """Replaces the states by those of all ranks together, until `unsync`; all must call.

        Raises:
            RecMetricException: if they are already.
        """
        self._flush()
        merge_states(list(self._metrics_computations))

    def unsync(self) -> None:
        """Restores the states of this rank, if `sync` replaced them."""
        for computation in self._metrics_computations:
            computation.unsync()

    def get_required_inputs(self) -> set[str]:
        """The names of the further arrays that `update` needs in ``required_inputs``."""
        return self._required_inputs

    def get_memory_usage(self) -> dict[Any, int]:
        """The bytes of each array that the metric holds, by array (without torch, by ``id``)."""
        held = [x for c in self._metrics_computations for x in c._tensors()]
        held += (x for batch in self._pending for x in _arrays_in(batch))
        return {
            x if kind_of(x) == "torch" else id(x): to_numpy(x).size * to_numpy(x).itemsize
            for x in held
        }

    def state_dict(
        self,
        destination: dict[str, Tensor] | None = None,
        prefix: str = "",
        keep_vars: bool = False,
    ) -> dict[str, Tensor]:
        """The persistent states, copied, as ``<prefix>_metrics_computations.<i>.<state>``."""
        self._flush()
        return super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)


def _flag(computation: RecMetricComputation, batch: TaskBatch) -> None:
    """Notes a valid update; with fused tasks, for those that have a weight other than zero."""
    if not computation._should_validate_update:
        return
    n_tasks = shape_of(batch.labels)[0]
    is_valid = np.ones(n_tasks, bool)
    if batch.weights is not None:
        is_valid = np.any(to_numpy(batch.weights), axis=1)
    with computation._local_states():
        flags = getattr(computation, HAS_VALID_UPDATE)
        flags |= from_numpy(is_valid.astype(np.uint8), kind_of(flags))


def _contribute(
    metrics: Sequence[RecMetric],
    batches: Sequence[TaskBatch],
    required_inputs: Mapping[str, Any],
) -> None:
    """An update of declared metrics of the same tasks, by one compiled call."""
    if not batches:
        return
    targets = []
    for metric in metrics:
        for batch in batches:
            computation = metric._metrics_computations[batch.first]
            computation._check_given(batch.predictions, True, required_inputs)
            targets.append((computation, batch))
    declarations = dict.fromkeys(computation._declaration for computation, _ in targets)
    needed = dict.fromkeys(key for declaration in declarations for key in declaration.keys)
    inputs = host_inputs(batches, required_inputs, list(needed), len(metrics[0]._tasks))
    contributions = Contributions(declarations, inputs)
    for computation, batch in targets:
        rows = slice(batch.first, batch.first + shape_of(batch.labels)[0])
        computation._contribute(contributions, rows)
        _flag(computation, batch)


def _kept(x: Any) -> Any:
    """A copy of an argument of `RecMetric.update`."""
    if isinstance(x, Mapping):
        return {name: _kept(value) for name, value in x.items()}
    return None if x is None else copy(x if kind_of(x) == "torch" else to_numpy(x))


def _arrays_in(x: Any) -> Iterator[Tensor]:
    if isinstance(x, Mapping):
        for value in x.values():
            yield from _arrays_in(value)
    elif x is not None:
        yield x


def _concatenated(batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Batches one after another, as arguments of one update."""
    if any(batch["weights"] is not None for batch in batches):
        batches = [{**batch, "weights": _weights_of(batch)} for batch in batches]
    return {name: _joined([batch[name] for batch in batches]) for name in batches[0]}


def _joined(parts: Sequence[Any]) -> Any:
    """Arrays, or arrays by name, one after another; None if there are none."""
    if parts[0] is None:
        return None
    if isinstance(parts[0], Mapping):
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: _joined([part[name] for part in parts if name in part]) for name in names}
    return concatenate(parts, axis=0)


def _weights_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of a batch by task, ones if it came without."""
    if batch["weights"] is not None:
        return batch["weights"]
    return {
        task: ones_like(batch["labels"][task], predictions)
        for task, predictions in batch["predictions"].items()
    }


class RecMetricList(Module):
    """Metrics that are updated and computed together.

    Where they are declared by factories and have the same tasks, one compiled call updates them
    all. The states of all ranks are merged in one exchange.

    Args:
        rec_metrics: the metrics.
    """

    rec_metrics: ModuleList
    required_inputs: list[str] | None

    def __init__(self, rec_metrics: list[RecMetric]) -> None:
        super().__init__()
        self.rec_metrics = ModuleList(rec_metrics)
        required = set().union(*(metric.get_required_inputs() for metric in rec_metrics))
        self.required_inputs = sorted(required) if required else None

    def __len__(self) -> int:
        return len(self.rec_metrics)

    def __getitem__(self, idx: int) -> RecMetric:
        return self.rec_metrics[idx]

    def get_required_inputs(self) -> list[str] | None:
        """The names of the further arrays that the metrics need; None if they need none."""
        return self.required_inputs

    def update(
        self,
        *,
        predictions: RecModelOutput,
        labels: RecModelOutput,
        weights: RecModelOutput | None,
        **kwargs: Any,
    ) -> None:
        """Takes in a batch; see `RecMetric.update`."""
        waiting = list(self.rec_metrics)
        shared = [metric for metric in waiting if metric._updates_as_declared()]
        with no_grad():
            for metric in waiting:
                if metric not in shared:
                    metric.update(predictions=predictions, labels=labels, weights=weights, **kwargs)
            while shared:
                first = shared[0]
                together = [metric for metric in shared if first._shares_updates_with(metric)]
                shared = [metric for metric in shared if metric not in together]
                for metric in together:
                    metric._note_kind(predictions)
                batches = first._valid(first._batches(predictions, labels, weights))
                _contribute(together, batches, kwargs.get("required_inputs") or {})

    def compute(self) -> dict[str, Tensor]:
        """The values of all metrics, of all ranks together; see `RecMetric.compute`."""
        computations = [c for metric in self.rec_metrics for c in metric._prepared()]
        with synced(computations):
            return {
                key: value for metric in self.rec_metrics for key, value in metric.compute().items()
            }

    def local_compute(self) -> dict[str, Tensor]:
        """The values of all metrics, of this rank alone."""
        return {
            key: value
            for metric in self.rec_metrics
            for key, value in metric.local_compute().items()
        }

    def sync(self) -> None:
        """`RecMetric.sync` of all metrics, in one exchange."""
        for metric in self.rec_metrics:
            metric._flush()
        merge_states([c for metric in self.rec_metrics for c in metric._metrics_computations])

    def unsync(self) -> None:
        """`RecMetric.unsync` of all metrics."""
        for metric in self.rec_metrics:
            metric.unsync()

    def reset(self) -> None:
        """`RecMetric.reset` of all metrics."""
        for metric in self.rec_metrics:
            metric.reset()
