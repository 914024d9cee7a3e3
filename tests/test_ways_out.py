"""Messages that say what to do: of layouts that are turned round, and of calls of ``update``."""

import re
from typing import Any

import jax
import numpy as np
import pytest

import recmetrics_jax

rm: Any = recmetrics_jax  # misuse is what a type checker refuses

T, N, C = 2, 4, 3
BOTH = pytest.mark.parametrize("make", [rm.make_batch, rm.make_padded_batch])
LAYOUT = "; the layout is [T, N], a row for each task"


def ones(*shape: int) -> Any:
    return np.ones(shape)


# Shapes of predictions and of labels, and what is said to do.
SHAPES = {
    "column of predictions": ((N, 1), (N,), f"{LAYOUT}, or [N] for one: pass predictions.ravel()"),
    "column of labels": ((N,), (N, 1), f"{LAYOUT}, or [N] for one: pass labels.ravel()"),
    "column beside a row": ((N, 1), (1, N), f"{LAYOUT}: pass predictions.T"),
    "row beside a column": ((1, N), (N, 1), f"{LAYOUT}: pass labels.T"),
    "labels by example": ((T, N), (N, T), f"{LAYOUT}: pass labels.T"),
    "predictions by example": ((N, T), (T, N), f"{LAYOUT}: pass predictions.T"),
    "labels beside classes": ((T, N, C), (N, T), f"{LAYOUT}, and [T, N, C]: pass labels.T, or"),
    "classes of one task": ((N, C), (N,), "; scores of classes are [T, N, C]: for those of one"),
    "labels by class": ((T, N, C), (T, N, C), "; labels are numbers of classes, [T, N]: pass"),
}


@BOTH
@pytest.mark.parametrize("name", SHAPES)
def test_a_layout_that_is_turned_round_is_told_how_to_turn(name, make):
    of_predictions, of_labels, way_out = SHAPES[name]
    message = f"labels: expected shape {of_predictions[:2]}, as the predictions {of_predictions}"
    with pytest.raises(
        ValueError, match=f"^{re.escape(message)}, got .*{re.escape(way_out)}"
    ) as error:
        make(ones(*of_predictions), ones(*of_labels))
    turn = re.search(r"pass (predictions|labels)\.(T|ravel\(\))", str(error.value))
    if turn:  # And it works.
        given = {"predictions": ones(*of_predictions), "labels": ones(*of_labels)}
        given[turn[1]] = given[turn[1]].T if turn[2] == "T" else given[turn[1]].ravel()
        if given["predictions"].ndim < 3 or given["labels"].shape == (T, N):
            assert make(**given).labels.ndim == 2


@BOTH
@pytest.mark.parametrize("name", ["weights", "mask", "session_id"])
@pytest.mark.parametrize(
    ("shape", "way_out"),
    [
        ((N, T), "pass {name}.T"),
        ((N, 1), "pass {name}.ravel()"),
        ((1, N), "pass {name}.ravel()"),
        ((T,), ""),
    ],
)
def test_further_arrays_that_are_turned_round_are_told_how_to_turn(shape, way_out, name, make):
    array = ones(*shape).astype({"weights": float, "mask": bool}.get(name, int))
    given = {name: array} if name != "session_id" else {"keys": {name: array}}
    shown = name if name != "session_id" else "keys['session_id']"
    message = f"{shown}: expected shape (2, 4) or (4,), got {shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as error:
        make(ones(T, N), ones(T, N), **given)
    assert (LAYOUT in str(error.value)) == bool(way_out)
    assert str(error.value).endswith(way_out.format(name=shown))


def test_a_batch_that_is_turned_round_is_told_how_to_turn():
    for tasks, shape, way_out in (
        (1, (N, 1), f"{LAYOUT}: pass predictions.ravel() to make_batch, and labels"),
        (T, (N, T), f"{LAYOUT}: pass predictions.T to make_batch, and labels"),
        (T, (3, N), ""),
    ):
        metric = rm.ctr(n_tasks=tasks)
        message = f"batch: expected {tasks} tasks (n_tasks), got {shape[0]}{way_out}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}") as error:
            metric.update(metric.init(), rm.make_batch(ones(*shape), ones(*shape)))
        assert ("pass" in str(error.value)) == bool(way_out)


@BOTH
@pytest.mark.parametrize("name", ["predictions", "labels", "weights", "mask"])
def test_outputs_by_name_are_told_how_to_stack(name, make):
    arrays = {"predictions": ones(N), "labels": ones(N)}
    outputs = {"click": ones(N), "buy": ones(N)}
    message = (
        f"{name}: expected an array, got a dict of ['click', 'buy']; pass that of a task, "
        "x['click'], or of all tasks, numpy.stack([x[task] for task in tasks])"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        make(**arrays | {name: outputs})


@BOTH
@pytest.mark.parametrize("name", ["predictions", "labels"])
def test_nothing_in_place_of_an_array_is_named(name, make):
    with pytest.raises(ValueError, match=f"^{name}: expected an array, got None"):
        make(**{"predictions": ones(N), "labels": ones(N), name: None})


METRIC = rm.collection({"ctr": rm.ctr(window=5)})
P, Y = ones(N), ones(N)
BATCH = rm.make_batch(P, Y)
CALL = "; call update(state, rm.make_batch(predictions, labels, weights))"
UPDATES = {
    "predictions and labels": (
        lambda update, state: update(state, P, Y),
        "batch: expected one Batch from make_batch, got ndarray, ndarray",
    ),
    "all by position": (
        lambda update, state: update(state, P, Y, P),
        "batch: expected one Batch from make_batch, got ndarray, ndarray, ndarray",
    ),
    "labels by name": (
        lambda update, state: update(state, P, labels=Y, weights=Y),
        "batch: expected one Batch from make_batch, got ndarray, labels=, weights=",
    ),
    "weights beside a batch": (
        lambda update, state: update(state, BATCH, weights=Y),
        "batch: expected one Batch from make_batch, got Batch, weights=",
    ),
    "swapped": (
        lambda update, state: update(BATCH, state),
        "state: expected a state of this metric, got a Batch; the state comes first",
    ),
    "two batches": (
        lambda update, state: update(BATCH, BATCH),
        "state: expected a state of this metric, got a Batch; the state comes first",
    ),
    "pair": (
        lambda update, state: update(state, (P, Y)),
        "batch: expected a Batch from make_batch, got tuple",
    ),
    "outputs by name": (
        lambda update, state: update(state, {"predictions": P, "labels": Y, "name": "click"}),
        "batch: expected a Batch from make_batch, got dict",
    ),
    "array": (
        lambda update, state: update(state, P),
        "batch: expected a Batch from make_batch, got ndarray",
    ),
    "array of JAX": (
        lambda update, state: update(state, jax.numpy.ones(3)),
        "batch: expected a Batch from make_batch, got ArrayImpl",
    ),
    "nothing": (
        lambda update, state: update(state, None),
        "batch: expected a Batch from make_batch, got NoneType",
    ),
}


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("metric", [METRIC, rm.ctr(), rm.auc(window=4)], ids=repr)
def test_update_called_otherwise_is_told_how_to_call(metric, name):
    call, message = UPDATES[name]
    with pytest.raises(ValueError, match=f"^{re.escape(message + CALL)}$"):
        call(metric.update, metric.init())


def test_update_called_otherwise_inside_jit_is_told_how_to_call():
    metric = rm.ctr()
    with pytest.raises(ValueError, match=re.escape(CALL)):
        jax.jit(metric.update)(metric.init(), (P, Y))
    with pytest.raises(ValueError, match=re.escape(CALL)):
        jax.jit(lambda state, p, y: metric.update(state, p, y))(metric.init(), P, Y)
