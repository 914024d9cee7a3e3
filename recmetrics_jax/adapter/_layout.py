"""What comes into a metric, by task or stacked, in one form: the examples of each task.

Shapes: ``T`` tasks, ``N`` examples, ``C`` classes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from recmetrics_jax.adapter._tensors import Tensor, from_numpy, kind_of, stack, to_numpy, torch

_OF_ALL = "; of an array of all tasks, [N, T], pass each task its own column"


class TaskBatch(NamedTuple):
    """The examples of a task, or of all where they are fused, as the caller's arrays."""

    first: int
    """The task; of fused tasks the first, and all are in the arrays."""
    predictions: Tensor
    """``[1, N]`` or ``[1, N, C]``; ``T`` in place of 1 where fused."""
    labels: Tensor
    """``[1, N]``."""
    weights: Tensor | None
    """``[1, N]``; None for ones."""

    @property
    def tasks(self) -> slice:
        """The tasks, as rows of all."""
        return slice(self.first, self.first + shape_of(self.labels)[0])


class Layout(NamedTuple):
    """How the tasks of a metric come in; one pass can update metrics of one layout."""

    tasks: tuple[str, ...]
    is_fused: bool
    needs_weight: bool
    """Whether examples without a weight other than zero are left out."""

    def batches(
        self, predictions: Any, labels: Any, weights: Any, *, counted: bool = True
    ) -> list[TaskBatch]:
        """The examples of each task, or of all where fused, that has any.

        Args:
            predictions: arrays by task, or where fused one of all.
            labels: likewise.
            weights: likewise; None for ones.
            counted: whether to leave out what does not count, for lack of a weight.

        Raises:
            ValueError: if an argument is not a dictionary, lacks a task that the predictions have,
                or does not fit them in shape.
        """
        if self.is_fused:
            batches = [fused(self.tasks, predictions, labels, weights)]
        else:
            for name, x in (("predictions", predictions), ("labels", labels), ("weights", weights)):
                if not (isinstance(x, Mapping) or (x is None and name == "weights")):
                    raise ValueError(
                        f"{name}: expected a dictionary of arrays by task, got {type(x).__name__}; "
                        "stacked arrays are for fused tasks"
                    )
            batches = [
                _of_task(index, task, predictions[task], labels, weights)
                for index, task in enumerate(self.tasks)
                if task in predictions
            ]
        return [
            batch
            for batch in batches
            if shape_of(batch.labels)[1]
            and not (
                counted
                and self.needs_weight
                and batch.weights is not None
                and not np.any(to_numpy(batch.weights))
            )
        ]


def _of_task(index: int, task: str, predictions: Any, labels: Any, weights: Any) -> TaskBatch:
    for name, x in (("labels", labels), ("weights", weights)):
        if x is not None and task not in x:
            raise ValueError(f"{name}: expected an array for the task {task!r}, got none")
    weight = None if weights is None else weights[task]
    return _rows(index, 1, predictions, labels[task], weight, f" of task {task!r}")


def shape_of(x: Any) -> tuple[int, ...]:
    """The shape of an array, or of what can become one."""
    return tuple(x.shape) if hasattr(x, "shape") else np.shape(x)


def _transposed(name: str, shape: tuple[int, ...], n_tasks: int) -> str:
    """What to do about an array ``[N, T, ...]`` in place of ``[T, N, ...]``; empty if it is none.

    >>> _transposed("labels", (8, 2), 2)
    '; that is [N, T], examples by tasks: pass its transpose, labels.T'
    """
    if len(shape) < 2 or shape[1] != n_tasks or shape[0] == n_tasks:
        return ""
    layout, by = ("[N, 1]", "") if n_tasks == 1 else ("[N, T]", ", examples by tasks")
    swap = "T" if len(shape) == 2 else "swapaxes(0, 1)"
    return f"; that is {layout}{by}: pass its transpose, {name}.{swap}"


def of_tasks(predictions: Any, labels: Any, weights: Any, n_tasks: int) -> TaskBatch:
    """The arguments of a computation's update, ``[n_tasks, N]`` each.

    As the reference broadcasts them, ``[N]`` is taken for the only task; and beside an array of all
    tasks, ``[N]`` and ``[1, N]`` are the same for each of them.

    Raises:
        ValueError: if a shape does not fit, or can be read in two ways.
    """
    shape, of_labels = shape_of(predictions), shape_of(labels)
    has_classes = len(shape) == 3 or (
        n_tasks == 1 and of_labels == shape[:1] and shape not in (of_labels, (1, *of_labels))
    )
    classes = shape[-1:] if has_classes else ()
    leads = {"predictions": shape[:-1] if has_classes else shape, "labels": of_labels}
    if weights is not None:
        leads["weights"] = shape_of(weights)
    size = leads["predictions"][-1] if leads["predictions"] else 1
    expected = (n_tasks, size)
    # Beside as many tasks, a vector could be a number for each of them.
    forms = [expected] if n_tasks == size > 1 else [expected, (1, size), (size,)]
    for name, lead in leads.items():
        if lead not in forms or (n_tasks > 1 and expected not in leads.values()):
            given = shape if name == "predictions" else lead
            wanted = f"[{n_tasks}, N]" if name == "predictions" else f"{expected}, [{n_tasks}, N]"
            raise ValueError(
                f"{name}: expected shape {wanted}, tasks by examples, beside predictions {shape}; "
                f"got {given}{_transposed(name, given, n_tasks)}"
            )
    return TaskBatch(
        0,
        _broadcast(predictions, (*expected, *classes)),
        _broadcast(labels, expected),
        None if weights is None else _broadcast(weights, expected),
    )


def _broadcast(x: Any, shape: tuple[int, ...]) -> Any:
    if shape_of(x) == shape:
        return x
    if math.prod(shape_of(x)) == math.prod(shape):
        return _reshaped(x, shape)
    return np.broadcast_to(to_numpy(x), shape)


def _rows(
    first: int, n_rows: int, predictions: Any, labels: Any, weights: Any, of_task: str = ""
) -> TaskBatch:
    """Arrays as ``[n_rows, N]``, with classes ``[n_rows, N, C]``, of the tasks from the first."""
    shape, of_labels = shape_of(predictions), shape_of(labels)
    classes = shape[-1:] if len(shape) == len(of_labels) + 1 else ()
    size, rest = divmod(math.prod(of_labels), n_rows)
    fits = math.prod(shape) == n_rows * size * math.prod(classes) and not rest
    hint = _OF_ALL if of_task else f"; expected are {n_rows} tasks by examples, [{n_rows}, N]"
    if not fits or len(shape) - len(of_labels) not in (0, 1):
        raise ValueError(
            f"labels{of_task}: expected the shape of the predictions, {shape}, less the axis of "
            f"classes if there is one; got {of_labels}{hint}"
        )
    if weights is not None and math.prod(shape_of(weights)) != n_rows * size:
        raise ValueError(
            f"weights{of_task}: expected the shape of the labels, {of_labels}, "
            f"got {shape_of(weights)}{hint}"
        )
    return TaskBatch(
        first,
        _reshaped(predictions, (n_rows, size, *classes)),
        _reshaped(labels, (n_rows, size)),
        None if weights is None else _reshaped(weights, (n_rows, size)),
    )


def _reshaped(x: Any, shape: tuple[int, ...]) -> Any:
    return x.reshape(shape) if hasattr(x, "reshape") else np.reshape(x, shape)


def fused(names: Sequence[str], predictions: Any, labels: Any, weights: Any) -> TaskBatch:
    """The examples of all tasks, ``[T, N]``, from dictionaries or stacked arrays.

    Raises:
        ValueError: if a task is missing, tasks differ in their number of examples, or shapes do
            not fit.
    """
    n_tasks = len(names)
    predictions = stacked("predictions", names, predictions)
    labels = stacked("labels", names, labels)
    weights = None if weights is None else stacked("weights", names, weights)
    # Scores of classes, all tasks in a row, may have as many classes as there are tasks.
    is_flat = len(shape_of(predictions)) == 2 and len(shape_of(labels)) == 1
    for name, x in (("predictions", predictions), ("labels", labels), ("weights", weights)):
        hint = _transposed(name, shape_of(x), n_tasks) if n_tasks > 1 and x is not None else ""
        if hint and not (is_flat and name == "predictions"):
            raise ValueError(f"{name}: expected shape [{n_tasks}, N], got {shape_of(x)}{hint}")
    return _rows(0, n_tasks, predictions, labels, weights)


def stacked(name: str, tasks: Sequence[str], x: Any) -> Tensor:
    """Arrays by task as one, ``[T, ...]``; one array as it is.

    Raises:
        ValueError: if a task is missing, or shapes differ.
    """
    if not isinstance(x, Mapping):
        return x
    missing = [task for task in tasks if task not in x]
    if missing:
        raise ValueError(f"{name}: expected an array for each fused task, got none for {missing}")
    rows = [x[task] for task in tasks]
    try:
        return stack(rows) if kind_of(rows[0]) == "torch" else np.stack(list(map(to_numpy, rows)))
    except (RuntimeError, ValueError) as error:
        shapes = sorted({shape_of(row) for row in rows})
        raise ValueError(
            f"{name}: expected arrays of one shape for fused tasks, got {shapes}"
        ) from error


def ones_like(labels: Tensor, predictions: Tensor) -> Tensor:
    """Weights of one, of the kind and dtype of the predictions."""
    if kind_of(predictions) == "torch":
        return torch.ones(labels.shape, dtype=predictions.dtype)
    return np.ones(shape_of(labels), to_numpy(predictions).dtype)


def required_for(name: str, x: Any, shape: tuple[int, ...]) -> Any:
    """A further array in the shape of the labels, ``[T, N]``.

    It may have one number, a number for each example, or one for each example of each task.

    Raises:
        ValueError: if it has another size, or is ``[N, T]``.
    """
    given, n_tasks = shape_of(x), shape[0]
    hint = _transposed(name, given, n_tasks) if n_tasks > 1 else ""
    size = math.prod(given)
    if hint or size not in (1, shape[1], math.prod(shape)):
        by_task = f", {shape[1]}" if n_tasks > 1 else ""
        raise ValueError(
            f"{name}: expected 1{by_task} or {math.prod(shape)} numbers, as the labels, {shape}, "
            f"got {given}{hint}"
        )
    if size == math.prod(shape):
        return _reshaped(x, shape)
    return from_numpy(np.broadcast_to(to_numpy(x).reshape(1, -1), shape).copy(), kind_of(x))


def target_tensor(tasks: Sequence[Any], required_inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The further arrays that fused tasks name as theirs, as ``{"target_tensor": [T, N]}``.

    Empty if none of them does.

    Raises:
        ValueError: if some tasks have one and others have not, or they differ in shape.
    """
    names = [task.tensor_name for task in tasks]
    given = [name for name in names if name and name in required_inputs]
    if not given:
        return {}
    if len(given) < len(names):
        raise ValueError(
            f"required_inputs: expected the tensor_name of each fused task, {names}, or of none, "
            f"got {given}"
        )
    rows = stacked("required_inputs", given, required_inputs)
    return {"target_tensor": rows.reshape(len(names), -1)}
