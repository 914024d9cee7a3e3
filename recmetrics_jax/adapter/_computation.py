"""`RecMetricComputation`: the states and formulas of a metric for some tasks."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np

from recmetrics_jax._src.metric import Metric
from recmetrics_jax.adapter._distributed import synced
from recmetrics_jax.adapter._module import is_standard, standard
from recmetrics_jax.adapter._surface import Surface
from recmetrics_jax.adapter._tensors import Tensor, from_numpy, kind_of, no_grad, to_numpy
from recmetrics_jax.adapter.metrics_config import RecComputeMode
from recmetrics_jax.adapter.metrics_namespace import MetricName, MetricNameBase, MetricPrefix

F = TypeVar("F", bound=Callable[..., Any])

HAS_VALID_UPDATE = "has_valid_update"
_IGNORED_OPTIONS = (
    "enable_pt2_compile",
    "fuse_state_tensors",
    "should_clone_update_inputs",
)


@dataclasses.dataclass(frozen=True)
class MetricComputationReport:
    """A value that a computation reports.

    Attributes:
        name: the name of the value.
        metric_prefix: of the lifetime, of the window, or neither.
        value: the value, ``[n_tasks]`` or ``[n_tasks, C]``.
        description: what is appended to the name in the key.
    """

    name: MetricNameBase | str
    metric_prefix: MetricPrefix
    value: Tensor
    description: str | None = None


class RecMetricComputation(Surface, abc.ABC):
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
        window_size: examples in the window of this rank, 0 for no window. The factory gets it as
            ``window``; in a `RecMetric` it gets the window of all ranks.
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
    _requires_predictions: ClassVar[bool] = True
    """Whether an update without predictions is an error; otherwise no term reads them."""
    _requires_weights: ClassVar[bool] = True
    """Whether an update without weights is an error; otherwise they are ones."""
    _reported: ClassVar[tuple[tuple[MetricPrefix, MetricName], ...]] = ()
    """The values that are reported of those of the factory, in order; empty for all of them.

    One with the prefix `MetricPrefix.DEFAULT` is of the lifetime, and its key does not say so.
    """
    _whole_numbers: ClassVar[tuple[str, ...]] = ()
    """The states, and the values, of the factory that are whole numbers: they are int64."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Sees to what a subclass writes: a failing ``update``, or the name of a factory.

        The second way above becomes ``update = _guarded(update)``. In the first, the class that
        has the methods comes between, as if it had been named as the base::

            MSLEMetricComputation                        MSLEMetricComputation
              |    update? _compute?                       |
              |                                  ->      DeclaredComputation: update, _compute
              |                                            |
            RecMetricComputation: compute, ...           RecMetricComputation: compute, ...
        """
        super().__init_subclass__(**kwargs)
        if "update" in vars(cls) and not is_standard(cls.update):
            cls.update = _guarded(cls.update)
        if vars(cls).get("_factory") is not None:
            from recmetrics_jax.adapter._declared import DeclaredComputation

            DeclaredComputation.adopt(cls)

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
        super().__init__(window_size, process_group, kwargs)
        self._my_rank = my_rank
        self._batch_size = batch_size
        self._n_tasks = n_tasks
        self._compute_on_all_ranks = compute_on_all_ranks
        self._should_validate_update = should_validate_update
        unfused = RecComputeMode.UNFUSED_TASKS_COMPUTATION
        self._compute_mode: RecComputeMode = kwargs.pop("compute_mode", unfused)
        if should_validate_update:
            flags = from_numpy(np.zeros(n_tasks, np.uint8))
            self.add_state(HAS_VALID_UPDATE, flags, dist_reduce_fx="max", persistent=True)
        positional = {
            "fused_update_limit": fused_update_limit,
            "allow_missing_label_with_zero_weight": allow_missing_label_with_zero_weight,
        }
        others = self._take_options(positional, kwargs)
        unknown = [f"`{name}`" for name in others if name not in _IGNORED_OPTIONS]
        if args or unknown:
            raise ValueError(
                f"Unexpected {'keyword' if unknown else 'positional'} arguments: "
                f"{', '.join(unknown) or args}"
            )

    def _take_options(
        self, positional: Mapping[str, Any], keywords: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Takes the options of a factory; returns the keyword arguments that are left."""
        return keywords

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
            predictions: ``[n_tasks, N]``, or ``[n_tasks, N, C]`` with scores of classes. Of one
                task, ``[N]`` will do; beside an array of all tasks, ``[N]`` or ``[1, N]`` is for
                each of them.
            labels: ``[n_tasks, N]``, likewise.
            weights: ``[n_tasks, N]``, likewise.
            **kwargs: ``required_inputs``, a dictionary of further arrays by name.

        Raises:
            RecMetricException: if something that the metric needs is missing.
            ValueError: if shapes do not fit. Either way no state has changed.
        """
        raise NotImplementedError(f"{type(self).__name__} names no _factory")

    @abc.abstractmethod
    def _compute(self) -> list[MetricComputationReport]:
        """The values of the states as they are."""
        raise NotImplementedError(f"{type(self).__name__} names no _factory")

    def _maybe_compile(self, fn: F) -> F:
        """The function itself; a hook of the reference, which may compile it."""
        return fn

    def pre_compute(self) -> None:
        """Called before values are computed; does nothing unless overridden."""

    @standard
    def compute(self) -> list[MetricComputationReport]:
        """The values of all ranks; all ranks must call.

        Returns:
            The reports, on rank 0, and on others where ``compute_on_all_ranks``; else none.
        """
        self.pre_compute()
        with synced([self]), no_grad():
            return self._compute() if self._my_rank == 0 or self._compute_on_all_ranks else []

    @standard
    def local_compute(self) -> list[MetricComputationReport]:
        """The values of this rank alone."""
        self.pre_compute()
        with no_grad():
            return self._compute()

    def prepared_reports(self, *, is_local: bool) -> list[MetricComputationReport]:
        """What `local_compute` or `compute` gives, where all is prepared."""
        method = self.local_compute if is_local else self.compute
        return self._compute() if is_standard(method) else method()

    def is_valid(self, task: int) -> bool:
        """Whether a task has had a valid update, or that is not asked for."""
        return not self._should_validate_update or bool(getattr(self, HAS_VALID_UPDATE)[task])

    def note_valid(self, weights: Tensor | None) -> None:
        """Notes a valid update, of the tasks that have a weight other than zero in ``[T, N]``."""
        if self._should_validate_update:
            is_valid = np.ones(self._n_tasks, bool)
            if weights is not None:
                is_valid = np.any(to_numpy(weights), axis=1)
            flags = getattr(self, HAS_VALID_UPDATE)
            flags |= from_numpy(is_valid.astype(np.uint8), kind_of(flags))


def _guarded(update: Callable[..., None]) -> Callable[..., None]:
    """An update written by a user, which if it fails leaves the states as they were."""

    @functools.wraps(update)
    def guarded(self: RecMetricComputation, *args: Any, **kwargs: Any) -> None:
        count = self.update_count + 1
        with self.updating(), no_grad():
            update(self, *args, **kwargs)
        vars(self)["_update_count"] = count  # Whatever it calls counts too.

    return guarded
