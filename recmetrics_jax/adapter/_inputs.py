"""What comes into a metric, by task or stacked, brought into one form."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from recmetrics_jax.adapter._examples import Inputs, as_keys, padded, padded_length, stacked
from recmetrics_jax.adapter._tensors import Tensor, from_numpy, kind_of, stack, to_numpy, torch
from recmetrics_jax.adapter.metrics_config import RecTaskInfo

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


def shape_of(x: Any) -> tuple[int, ...]:
    """The shape of an array, or of what can become one."""
    return tuple(x.shape) if hasattr(x, "shape") else np.shape(x)


def _transposed(name: str, shape: tuple[int, ...], n_tasks: int) -> str:
    """What to do about an array ``[N, T, ...]`` in place of ``[T, N, ...]``; empty if it is none.

    >>> _transposed("labels", (8, 2), 2)
    "; that is [N, T], examples by tasks: pass its transpose, labels.T"
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


def by_task(
    tasks: Sequence[RecTaskInfo], predictions: Any, labels: Any, weights: Any
) -> Iterator[TaskBatch]:
    """The examples of each task that is in a batch and has any.

    Raises:
        ValueError: if an argument is not a dictionary, lacks a task that the predictions have, or
            does not fit them in shape.
    """
    for name, x in (("predictions", predictions), ("labels", labels), ("weights", weights)):
        if not (isinstance(x, Mapping) or (x is None and name == "weights")):
            raise ValueError(
                f"{name}: expected a dictionary of arrays by task, got {type(x).__name__}; "
                "stacked arrays are for fused tasks"
            )
    for index, task in enumerate(tasks):
        if task.name not in predictions:
            continue
        for name, x in (("labels", labels), ("weights", weights)):
            if x is not None and task.name not in x:
                raise ValueError(f"{name}: expected an array for the task {task.name!r}, got none")
        of_task = predictions[task.name], labels[task.name]
        weight = None if weights is None else weights[task.name]
        batch = _flat(task.name, *of_task, weight)
        if batch is not None:
            yield TaskBatch(index, *batch)


def _flat(task: str, predictions: Any, labels: Any, weights: Any) -> tuple[Any, Any, Any] | None:
    """The arrays of a task with one leading axis of size 1; None if they are empty."""
    shape, of_labels = shape_of(predictions), shape_of(labels)
    classes = shape[-1:] if len(shape) == len(of_labels) + 1 else ()
    size = math.prod(shape) // max(math.prod(classes), 1)
    fits = size == math.prod(of_labels) and len(shape) - len(of_labels) in (0, 1)
    if not fits:
        raise ValueError(
            f"labels of task {task!r}: expected the shape of the predictions, {shape}, less the "
            f"axis of classes if there is one; got {of_labels}{_OF_ALL}"
        )
    if weights is not None and math.prod(shape_of(weights)) != size:
        raise ValueError(
            f"weights of task {task!r}: expected the shape of the labels, {of_labels}, "
            f"got {shape_of(weights)}{_OF_ALL}"
        )
    if size == 0:
        return None
    return (
        _reshaped(predictions, (1, size, *classes)),
        _reshaped(labels, (1, size)),
        None if weights is None else _reshaped(weights, (1, size)),
    )


def _reshaped(x: Any, shape: tuple[int, ...]) -> Any:
    return x.reshape(shape) if hasattr(x, "reshape") else np.reshape(x, shape)


def fused(tasks: Sequence[RecTaskInfo], predictions: Any, labels: Any, weights: Any) -> TaskBatch:
    """The examples of all tasks, ``[T, N]``, from dictionaries or stacked arrays.

    Raises:
        ValueError: if a task is missing, tasks differ in their number of examples, or shapes do
            not fit.
    """
    names = [task.name for task in tasks]
    predictions = _stacked("predictions", names, predictions)
    labels = _stacked("labels", names, labels)
    weights = None if weights is None else _stacked("weights", names, weights)
    n_tasks, shape, of_labels = len(names), shape_of(predictions), shape_of(labels)
    classes = shape[-1:] if len(shape) == len(of_labels) + 1 else ()
    of_weights = () if weights is None else shape_of(weights)
    for name, x in (("predictions", shape), ("labels", of_labels), ("weights", of_weights)):
        is_flat = name == "predictions" and len(shape) - len(classes) < 2
        if n_tasks > 1 and not is_flat and (hint := _transposed(name, x, n_tasks)):
            raise ValueError(f"{name}: expected shape [{n_tasks}, N], got {x}{hint}")
    per_task, rest = divmod(math.prod(of_labels), n_tasks)
    expected = n_tasks * per_task * math.prod(classes)
    if rest or math.prod(shape) != expected:
        raise ValueError(
            f"predictions and labels: expected shapes ({n_tasks} tasks, N) and, with classes, "
            f"({n_tasks}, N, C), got {shape} and {of_labels}"
        )
    if weights is not None and math.prod(shape_of(weights)) != n_tasks * per_task:
        raise ValueError(
            f"weights: expected the shape of the labels, {of_labels}, got {shape_of(weights)}"
        )
    return TaskBatch(
        0,
        _reshaped(predictions, (n_tasks, per_task, *classes)),
        _reshaped(labels, (n_tasks, per_task)),
        None if weights is None else _reshaped(weights, (n_tasks, per_task)),
    )


def _stacked(name: str, tasks: Sequence[str], x: Any) -> Tensor:
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


def required_for(required_inputs: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """The further arrays of a batch, in the shape of the labels of a task, ``[1, N]``.

    Raises:
        ValueError: if one has neither one number nor as many as there are labels.
    """
    required = {}
    for name, x in required_inputs.items():
        size = math.prod(shape_of(x))
        if size == 1:
            only = to_numpy(x).reshape(1, 1)
            required[name] = from_numpy(np.broadcast_to(only, shape).copy(), kind_of(x))
        elif size == math.prod(shape):
            required[name] = _reshaped(x, shape)
        else:
            raise ValueError(
                f"{name}: expected 1 or {math.prod(shape)} numbers, as there are labels, "
                f"got {shape_of(x)}"
            )
    return required


def host_inputs(
    batches: Sequence[TaskBatch],
    required_inputs: Mapping[str, Any],
    needed: Sequence[str],
    n_tasks: int,
) -> Inputs:
    """Batches of tasks as inputs of the compiled functions, ``[n_tasks, N]``.

    Tasks without a batch have no examples.

    Raises:
        ValueError: if a further array does not fit the labels.
    """
    if len(batches) == 1 and n_tasks == shape_of(batches[0].labels)[0]:
        return _inputs_of(batches[0], required_inputs, needed)
    none = np.zeros(0, np.float32)
    predictions, labels, weights = ([none] * n_tasks for _ in range(3))
    keys = {name: [none] * n_tasks for name in needed}
    counts = np.zeros(n_tasks, np.int32)
    for batch in batches:
        of_labels = to_numpy(batch.labels)
        size = of_labels.shape[1]
        rows = slice(batch.first, batch.first + len(of_labels))
        counts[rows] = size
        labels[rows] = of_labels
        predictions[rows] = to_numpy(batch.predictions)
        ones = [np.ones(size, np.float32)] * len(of_labels)
        weights[rows] = ones if batch.weights is None else to_numpy(batch.weights)
        for name in needed:
            keys[name][rows] = _keys(name, required_inputs[name], of_labels.shape)
    length = padded_length(int(counts.max()))
    p, y, w = (stacked(rows, length) for rows in (predictions, labels, weights))
    return Inputs(
        p,
        y,
        w,
        counts,
        {name: stacked(rows, length, np.int64) for name, rows in keys.items()},
    )


def _inputs_of(
    batch: TaskBatch, required_inputs: Mapping[str, Any], needed: Sequence[str]
) -> Inputs:
    """A batch with all tasks as inputs, without a copy where it need not be padded."""
    labels = to_numpy(batch.labels)
    weights = np.ones(labels.shape, np.float32) if batch.weights is None else batch.weights
    n_tasks, size = labels.shape
    length = padded_length(size)
    return Inputs(
        padded(to_numpy(batch.predictions), length),
        padded(labels, length),
        padded(to_numpy(weights), length),
        np.full(n_tasks, size, np.int32),
        {
            name: padded(_keys(name, required_inputs[name], labels.shape), length, np.int64)
            for name in needed
        },
    )


def _keys(name: str, x: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Keys for tasks of one number of examples: of each, or for all tasks or examples the same."""
    keys = as_keys(x)
    if shape[0] > 1 and (hint := _transposed(name, keys.shape, shape[0])):
        raise ValueError(f"{name}: expected shape {shape}, as the labels, got {keys.shape}{hint}")
    if keys.size not in (1, shape[1], shape[0] * shape[1]):
        raise ValueError(
            f"{name}: expected 1, {shape[1]} or {shape} numbers, as there are labels, "
            f"got {keys.shape}"
        )
    if keys.size == shape[0] * shape[1]:
        return keys.reshape(shape)
    return np.broadcast_to(keys.reshape(1, -1), shape)
