"""The states of a module: merged over ranks, as checkpoints, and as a tree to look at or keep."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from recmetrics_jax.adapter._checkpoints import without_counter
from recmetrics_jax.adapter._distributed import states_of_ranks
from recmetrics_jax.adapter._metric import RecMetric
from recmetrics_jax.adapter._metric_list import RecMetricList
from recmetrics_jax.adapter._module import Module
from recmetrics_jax.adapter._states import States, all_or_nothing
from recmetrics_jax.adapter._tensors import Tensor, copy
from recmetrics_jax.adapter.throughput import ThroughputMetric

MetricState = Tensor | list[Tensor]
PreComputeStates = dict[str, dict[str, dict[str, MetricState]]]


class StatesOfModules(Module):
    """A module whose states are merged over ranks, kept and loaded."""

    rec_metrics: RecMetricList
    throughput_metric: ThroughputMetric | None

    def sync(self) -> None:
        """Replaces the states of metrics by those of all ranks, until `unsync`.

        To save a checkpoint: all ranks call this, rank 0 takes the state dict, all call `unsync`.
        To restore it: all ranks call `reset`, and rank 0 alone loads the state dict.
        """
        self.rec_metrics.sync()

    def unsync(self) -> None:
        """Restores the states of this rank."""
        self.rec_metrics.unsync()

    def reset(self) -> None:
        """Forgets all batches; throughput goes on."""
        self.rec_metrics.reset()

    def get_pre_compute_states(self, pg: Any = None) -> PreComputeStates:
        """The states of all ranks, windows included, by metric, task and name; all must call.

        Args:
            pg: the torch group of the ranks, or a mesh of devices with a dimension ``shard``; None
                for those of each metric.

        Returns:
            Copies, ``[n_tasks, ...]`` or lists, as ``states[namespace][task][name]``: of fused
            tasks by the first; of a second metric with a namespace by ``<namespace>.<position>``;
            of throughput, of this rank, as ``states["throughput"]["throughput"]``.
        """
        states = states_of_metrics(self.rec_metrics.rec_metrics, pg)
        if self.throughput_metric is not None:
            namespace = self.throughput_metric._namespace.value
            states.setdefault(namespace, {}).update(states_of_throughput(self.throughput_metric))
        return states

    def load_pre_compute_states(self, source: Mapping[str, Any]) -> None:
        """Takes over what `get_pre_compute_states` gave, as states of this rank.

        What all ranks load counts once for each of them in the next ``compute`` of all ranks; to
        go on from it, one rank loads, and the others `reset`. The sums of windows stay until the
        next batch.

        Args:
            source: states by metric, task and name.

        Raises:
            KeyError: if a metric or a task is missing, or a state is not the metric's.
        """
        load_into_metrics(self.rec_metrics.rec_metrics, source)
        if self.throughput_metric is not None:
            of_throughput = source[self.throughput_metric._namespace.value]
            load_into_throughput(self.throughput_metric, of_throughput)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        *_, unexpected_keys, _ = others
        without_counter(state_dict, prefix, unexpected_keys)
        super()._load_from_state_dict(state_dict, prefix, *others)


def group_of(process_group: Any) -> Any:
    """A process group; of a mesh of devices the one of its dimension ``shard``."""
    if hasattr(process_group, "mesh_dim_names"):
        return process_group.get_group(mesh_dim="shard")
    return process_group


def states_of_metrics(metrics: Iterable[RecMetric], process_group: Any = None) -> PreComputeStates:
    """The states of all ranks; all must call.

    Args:
        metrics: the metrics; batches that wait to be joined are taken in.
        process_group: the ranks; None for those of each metric.

    Returns:
        By namespace, of a second metric with its position, as in ``ne.3``, by task, of fused tasks
        the first, and by name.
    """
    metrics = list(metrics)
    for metric in metrics:
        metric.flush()
    places = {id(c): (key, task) for key, task, c in _named(metrics)}
    tree: PreComputeStates = {key: {} for key, _ in places.values()}
    computations = [c for metric in metrics for c in metric.computations]
    with all_or_nothing(computation.local_states() for computation in computations):
        for computation, of_ranks in states_of_ranks(computations, group_of(process_group)):
            key, task = places[id(computation)]
            tree[key][task] = computation.merged(of_ranks)
    return tree


def load_into_metrics(metrics: Iterable[RecMetric], source: Mapping[str, Any]) -> None:
    """Takes over what `states_of_metrics` gave; no exchange of ranks.

    Raises:
        KeyError: if a metric, a task or a state is missing or unknown.
    """
    for key, task, computation in _named(list(metrics)):
        if key not in source or task not in source[key]:
            raise KeyError(f"source: expected the states of {task!r} in {key!r}, got none")
        take_states(computation, source[key][task])


def take_states(computation: States, states: Mapping[str, Any]) -> None:
    """Gives states, copied, to a computation, as those of this rank; others stay.

    Raises:
        KeyError: if one is not of this computation.
    """
    computation.unsync()
    for name, state in states.items():
        if name not in computation._defaults:
            known = list(computation._defaults)
            raise KeyError(f"{type(computation).__name__}: expected one of {known}, got {name!r}")
        default = computation._defaults[name]
        is_list = isinstance(default, list)
        loaded = list(map(copy, state)) if is_list else computation.loaded_state(state, default)
        setattr(computation, name, loaded)


def _named(metrics: list[RecMetric]) -> Iterator[tuple[str, str, States]]:
    """The computations by namespace, of a second metric with its position, and task."""
    seen: set[str] = set()
    for position, metric in enumerate(metrics):
        namespace = str(metric._namespace.value)
        key = f"{namespace}.{position}" if namespace in seen else namespace
        seen.add(namespace)
        for task, computation in zip(metric._tasks, metric.computations, strict=False):
            yield key, task.name, computation


def states_of_throughput(metric: ThroughputMetric) -> dict[str, dict[str, MetricState]]:
    """The counters of a throughput metric, those that no checkpoint has included."""
    return {
        metric._metric_name.value: {name: copy(buffer) for name, buffer in metric.named_buffers()}
    }


def load_into_throughput(metric: ThroughputMetric, source: Mapping[str, Any]) -> None:
    """Takes over what `states_of_throughput` gave."""
    for name, buffer in metric.named_buffers():
        buffer[...] = source[metric._metric_name.value][name]
