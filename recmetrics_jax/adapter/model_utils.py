"""From a model's outputs, a dictionary of arrays, to the arrays of each task."""

import functools
import itertools
import logging
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recmetrics_jax.adapter._tensors import NATIVE, Kind, Tensor, from_numpy, kind_of
from recmetrics_jax.adapter.metrics_config import RecTaskInfo

Shape = tuple[int, ...]

logger: logging.Logger = logging.getLogger(__name__)


def session_ids_to_tensor(session_ids: Sequence[str], device: Any = None) -> Tensor:
    """Numbers sessions in order: one more wherever the id differs from the one before.

    Args:
        session_ids: an id for each example; those of a session stand together.
        device: the torch device of the result; None for the CPU.

    Returns:
        int64[N], from 1: a torch tensor if torch is installed, else a NumPy array.

    >>> session_ids_to_tensor(["a", "a", "b", "a", "c"]).tolist()
    [1, 1, 2, 3, 4]
    """
    return _session_ids(session_ids, NATIVE, device)


def is_empty_signals(labels: Tensor, predictions: Tensor, weights: Tensor) -> bool:
    """Whether all three have no elements.

    Args:
        labels: an array of any shape.
        predictions: an array of any shape.
        weights: an array of any shape.

    Returns:
        True if there is nothing to measure.

    >>> is_empty_signals(np.ones(0), np.ones((0, 3)), np.ones(0))
    True
    """
    return 0 in labels.shape and 0 in predictions.shape and 0 in weights.shape


def parse_model_outputs(
    label_name: str, prediction_name: str, weight_name: str, model_out: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The labels, predictions and weights of a task, squeezed, with shapes that fit together.

    Shapes, once dimensions of 1 are gone, fit if all three are empty; if all three have as many
    elements; if predictions are by class, ``[..., C]``, and the others have an element for each
    of their rows; or if labels and predictions are vectors of examples, ``[N, ...]``, with
    weights ``[N]``.

    Args:
        label_name: the model output that holds the labels.
        prediction_name: the model output that holds the predictions; empty for none.
        weight_name: the model output that holds the weights; empty if and only if
            ``prediction_name`` is.
        model_out: the model's outputs. Neither they nor the dictionary are modified; results may
            share memory with them.

    Returns:
        Labels, predictions and weights, of the arrays' own kind and dtype, and 1-D for a single
        example. Predictions and weights are None where there are none; then the label of a single
        example is 0-D.

    Raises:
        ValueError: if an output is missing or no array, or if shapes do not fit together.

    >>> outputs = {"y": np.ones((2, 1)), "p": np.ones((2, 3)), "w": np.ones(2)}
    >>> [x.shape for x in parse_model_outputs("y", "p", "w", outputs)]
    [(2,), (2, 3), (2,)]
    """
    labels = model_out.get(label_name)
    if labels is None:
        raise ValueError(f"Label name {label_name} not found in model output")
    if not prediction_name:
        if weight_name:
            raise ValueError(
                f"weight name must be empty if prediction name is empty, got {weight_name!r}"
            )
        return _squeeze(labels, label_name), None, None
    predictions = model_out.get(prediction_name)
    if predictions is None:
        raise ValueError(f"Prediction name {prediction_name} not found in model output")
    weights = model_out.get(weight_name)
    if weights is None:
        raise ValueError(f"Weight {weight_name} not found in model output")

    # Vectors of one length, the common case, need no squeezing, and no further checks.
    try:
        shape = labels.shape
        if len(shape) == 1 and shape == predictions.shape == weights.shape:
            return labels, predictions, weights
    except AttributeError:
        pass  # One of them is no array; the next line says which.
    labels = _squeeze(labels, label_name)
    predictions = _squeeze(predictions, prediction_name)
    weights = _squeeze(weights, weight_name)
    if not is_empty_signals(labels, predictions, weights):
        _check_shapes(labels.shape, predictions.shape, weights.shape, label_name)
    if labels.ndim == 0:
        return labels[None], predictions[None], weights[None]
    return labels, predictions, weights


def parse_required_inputs(
    model_out: Mapping[str, Any],
    required_inputs_list: Sequence[str],
    ndcg_transform_input: bool = False,
    device: Any = None,
) -> dict[str, Tensor]:
    """The further model outputs that metrics require, squeezed; ids of sessions become numbers.

    Args:
        model_out: the model's outputs; they are not modified.
        required_inputs_list: names of model outputs.
        ndcg_transform_input: whether lists of anything else are ids of sessions too; lists, and
            NumPy arrays, of strings always are.
        device: the torch device of converted ids; None for the CPU.

    Returns:
        The outputs by name, of the arrays' own kind and dtype; converted ids as
        :func:`session_ids_to_tensor` gives them.

    Raises:
        ValueError: if an output is missing, or neither an array nor a list of strings.

    >>> outputs = {"position": np.ones((3, 1)), "session": ["x", "x", "y"]}
    >>> inputs = parse_required_inputs(outputs, ["position", "session"])
    >>> inputs["position"].shape, inputs["session"].tolist()
    ((3,), [1, 1, 2])
    """
    return _required_inputs(model_out, required_inputs_list, ndcg_transform_input, NATIVE, device)


def parse_task_model_outputs(
    tasks: Sequence[RecTaskInfo],
    model_out: Mapping[str, Any],
    required_inputs_list: Sequence[str] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """The labels, predictions and weights of all tasks, and what else metrics require.

    Args:
        tasks: the tasks; all of them must find their model outputs.
        model_out: the model's outputs. Neither they nor the dictionary are modified; results may
            share memory with them.
        required_inputs_list: names of further model outputs, arrays or lists of strings.

    Returns:
        Labels, predictions and weights by the task's name, without the tasks that have no
        elements; and the required inputs by their names. Ids of sessions that were strings are of
        the labels' kind and on their device.

    Raises:
        ValueError: if an output is missing or no array, or if a task's shapes do not fit together.

    >>> task = RecTaskInfo("click", label_name="y", prediction_name="p", weight_name="w")
    >>> outputs = {name: np.ones(3) for name in ("y", "p", "w", "position")}
    >>> labels, predictions, weights, inputs = parse_task_model_outputs(
    ...     [task], outputs, ["position"]
    ... )
    >>> labels["click"].shape, inputs["position"].shape
    ((3,), (3,))
    """
    all_labels: dict[str, Tensor] = {}
    all_predictions: dict[str, Tensor] = {}
    all_weights: dict[str, Tensor] = {}
    labels: Tensor = None
    for task in tasks:
        labels, predictions, weights = parse_model_outputs(
            task.label_name, task.prediction_name, task.weight_name, model_out
        )
        if predictions is None or weights is None:
            if 0 not in labels.shape:
                all_labels[task.name] = labels
        elif not is_empty_signals(labels, predictions, weights):
            all_labels[task.name] = labels
            all_predictions[task.name] = predictions
            all_weights[task.name] = weights
    if not required_inputs_list:
        return all_labels, all_predictions, all_weights, {}
    kind = NATIVE if labels is None else kind_of(labels)
    device = labels.device if kind == "torch" and labels is not None else None
    inputs = _required_inputs(model_out, required_inputs_list, False, kind, device)
    return all_labels, all_predictions, all_weights, inputs


def _session_ids(session_ids: Sequence[Any], kind: Kind, device: Any) -> Tensor:
    starts = map(operator.ne, session_ids[1:], session_ids)
    numbers = itertools.accumulate(starts, initial=1)
    ids = from_numpy(np.fromiter(numbers, np.int64, count=len(session_ids)), kind)
    return ids.to(device) if kind == "torch" and device is not None else ids


def _required_inputs(
    model_out: Mapping[str, Any], names: Sequence[str], any_list: bool, kind: Kind, device: Any
) -> dict[str, Tensor]:
    inputs = {}
    for name in names:
        value = model_out.get(name)
        if value is None:
            raise ValueError(f"Required input {name} not found in model output")
        if isinstance(value, np.ndarray) and value.dtype.kind == "U":
            value = value.ravel().tolist()
        if isinstance(value, list | tuple) and (any_list or _are_strings(value)):
            inputs[name] = _session_ids(value, kind, device)
        else:
            inputs[name] = _squeeze(value, name)
    return inputs


def _are_strings(values: Sequence[Any]) -> bool:
    return all(issubclass(kind, str) for kind in set(map(type, values)))


def _squeeze(x: Tensor, name: str) -> Tensor:
    """``x`` without dimensions of 1; it is named if it is no array."""
    try:
        return x.squeeze() if 1 in x.shape else x
    except AttributeError:
        elements = ""
        if isinstance(x, list | tuple):
            elements = f" of {', '.join(sorted({type(element).__name__ for element in x}))}"
        raise ValueError(f"{name}: expected an array, got {type(x).__name__}{elements}") from None


def _check_shapes(labels: Shape, predictions: Shape, weights: Shape, label_name: str) -> None:
    n_labels, n_predictions, n_weights = map(math.prod, (labels, predictions, weights))
    if len(labels) == len(predictions):
        if n_labels == n_predictions == n_weights:
            return
        if len(labels) == 2 and labels[:1] == predictions[:1] == weights:
            _note_vectors(label_name)
            return
        raise ValueError(
            "Expect the same number of elements in labels, predictions, and weights. "
            f"Instead got {n_labels}, {n_predictions}, {n_weights}"
        )
    n_rows = math.prod(predictions[:-1]) if predictions else None
    if not n_labels == n_rows == n_weights or 0 in predictions:
        raise ValueError(
            "predictions: expected shape [..., C] with a row for each label and each weight, "
            f"got labels {tuple(labels)}, predictions {tuple(predictions)}, "
            f"weights {tuple(weights)}"
        )


@functools.cache
def _note_vectors(label_name: str) -> None:
    """Says once, not for each batch, what else the shapes could have meant."""
    logger.warning(
        "labels %s and their predictions are taken as vectors, [N, ...], of N weighted examples",
        label_name,
    )
