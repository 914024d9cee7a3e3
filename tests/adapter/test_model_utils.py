"""Outputs of a model, of any kind of array, become the arrays of tasks; the model's stay as is."""

import logging
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recmetrics_jax.adapter import model_utils
from recmetrics_jax.adapter._tensors import NATIVE, as_kind, kind_of, to_numpy, torch
from recmetrics_jax.adapter.metrics_config import RecTaskInfo
from recmetrics_jax.adapter.model_utils import (
    is_empty_signals,
    parse_model_outputs,
    parse_required_inputs,
    parse_task_model_outputs,
    session_ids_to_tensor,
)

KINDS = ["numpy", "jax"] if torch is None else ["numpy", "jax", "torch"]

every_kind = pytest.mark.parametrize("kind", KINDS)


def array(kind, shape=(3,), start=0.0):
    size = int(np.prod(shape))
    return as_kind(np.arange(start, start + size, dtype=np.float32).reshape(shape), kind)


def outputs(kind, **shapes):
    """Model outputs of these shapes, no two elements of which are equal."""
    return {name: array(kind, shape, 1000.0 * i) for i, (name, shape) in enumerate(shapes.items())}


def snapshot(model_out):
    return {
        name: (value, value[:] if isinstance(value, list) else np.array(to_numpy(value)))
        for name, value in model_out.items()
    }


def assert_unchanged(model_out, before):
    assert list(model_out) == list(before)
    for name, (value, copy) in before.items():
        assert model_out[name] is value, name
        np.testing.assert_array_equal(
            value if isinstance(value, list) else to_numpy(value), copy, err_msg=name
        )


def task(name, label="y", prediction="p", weight="w"):
    return RecTaskInfo(name, label, prediction, weight)


# Shapes of labels, predictions and weights, before and after.
FITTING = {
    "vectors": (((3,), (3,), (3,)), ((3,), (3,), (3,))),
    "columns": (((3, 1), (3, 1), (3, 1)), ((3,), (3,), (3,))),
    "a vector and columns": (((3,), (3, 1), (1, 3)), ((3,), (3,), (3,))),
    "one example": (((1,), (1,), (1,)), ((1,), (1,), (1,))),
    "one example in a column": (((1, 1), (1, 1), (1,)), ((1,), (1,), (1,))),
    "scalars": (((), (), ()), ((1,), (1,), (1,))),
    "nothing": (((0,), (0,), (0,)), ((0,), (0,), (0,))),
    "nothing by class": (((0,), (0, 4), (0,)), ((0,), (0, 4), (0,))),
    "classes": (((3,), (3, 4), (3,)), ((3,), (3, 4), (3,))),
    "classes and columns": (((3, 1), (3, 4), (3, 1)), ((3,), (3, 4), (3,))),
    "classes of one example": (((1,), (1, 4), (1,)), ((1,), (1, 4), (1,))),
    "classes of rows": (((2, 3), (2, 3, 4), (2, 3)), ((2, 3), (2, 3, 4), (2, 3))),
    "classes of flat labels": (((6,), (2, 3, 4), (6,)), ((6,), (2, 3, 4), (6,))),
    "matrices": (((3, 4), (3, 4), (3, 4)), ((3, 4), (3, 4), (3, 4))),
    "vectors of examples": (((3, 4), (3, 4), (3,)), ((3, 4), (3, 4), (3,))),
    "vectors of unlike lengths": (((3, 4), (3, 5), (3, 1)), ((3, 4), (3, 5), (3,))),
}


@every_kind
@pytest.mark.parametrize("case", FITTING)
def test_fitting_shapes_are_squeezed(case, kind):
    before, after = FITTING[case]
    model_out = outputs(kind, **dict(zip("ypw", before, strict=True)))
    kept = snapshot(model_out)
    parsed = parse_model_outputs("y", "p", "w", model_out)
    assert tuple(tuple(x.shape) for x in parsed if x is not None) == after
    for name, x in zip("ypw", parsed, strict=True):
        assert kind_of(x) == kind
        np.testing.assert_array_equal(to_numpy(x).ravel(), to_numpy(model_out[name]).ravel())
        assert to_numpy(x).dtype == np.float32
    assert_unchanged(model_out, kept)


COUNTS = "Expect the same number of elements in labels, predictions, and weights. Instead got "
CLASSES = "predictions: expected shape [..., C] with a row for each label and each weight, got "

UNFIT = {
    "short weights": (((3,), (3,), (2,)), f"{COUNTS}3, 3, 2"),
    "one weight": (((3,), (3,), (1,)), f"{COUNTS}3, 3, 1"),
    "short predictions": (((3,), (2,), (3,)), f"{COUNTS}3, 2, 3"),
    "no predictions": (((3,), (0,), (3,)), f"{COUNTS}3, 0, 3"),
    "only weights": (((0,), (0,), (3,)), f"{COUNTS}0, 0, 3"),
    "vectors weighted by element": (((3, 4), (3, 4), (4,)), f"{COUNTS}12, 12, 4"),
    "vectors of other examples": (((3, 4), (2, 4), (3,)), f"{COUNTS}12, 8, 3"),
    "vectors of rank 3": (((2, 3, 4), (2, 3, 4), (2,)), f"{COUNTS}24, 24, 2"),
    "short classes": (
        ((3,), (2, 4), (3,)),
        f"{CLASSES}labels (3,), predictions (2, 4), weights (3,)",
    ),
    "weights by class": (
        ((3,), (3, 4), (3, 4)),
        f"{CLASSES}labels (3,), predictions (3, 4), weights (3, 4)",
    ),
    "labels by class": (
        ((3, 4), (3,), (3,)),
        f"{CLASSES}labels (3, 4), predictions (3,), weights (3,)",
    ),
    "one prediction": (
        ((2,), (1,), (2,)),
        f"{CLASSES}labels (2,), predictions (), weights (2,)",
    ),
    "no classes": (
        ((3,), (3, 0), (3,)),
        f"{CLASSES}labels (3,), predictions (3, 0), weights (3,)",
    ),
}


@every_kind
@pytest.mark.parametrize("case", UNFIT)
def test_unfit_shapes_are_named(case, kind):
    shapes, message = UNFIT[case]
    model_out = outputs(kind, **dict(zip("ypw", shapes, strict=True)))
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_model_outputs("y", "p", "w", model_out)


ONE = np.ones(2)

MISUSES = {
    "no label": (
        lambda: parse_model_outputs("y", "p", "w", {"p": ONE, "w": ONE}),
        "Label name y not found in model output",
    ),
    "label None": (
        lambda: parse_model_outputs("y", "p", "w", {"y": None, "p": ONE, "w": ONE}),
        "Label name y not found in model output",
    ),
    "no prediction": (
        lambda: parse_model_outputs("y", "p", "w", {"y": ONE, "w": ONE}),
        "Prediction name p not found in model output",
    ),
    "no weight": (
        lambda: parse_model_outputs("y", "p", "w", {"y": ONE, "p": ONE}),
        "Weight w not found in model output",
    ),
    "no name of weights": (
        lambda: parse_model_outputs("y", "p", "", {"y": ONE, "p": ONE}),
        "Weight  not found in model output",
    ),
    "weights without predictions": (
        lambda: parse_model_outputs("y", "", "w", {"y": ONE, "w": ONE}),
        "weight name must be empty if prediction name is empty, got 'w'",
    ),
    "labels in a list": (
        lambda: parse_model_outputs("y", "p", "w", {"y": [1, 2], "p": ONE, "w": ONE}),
        "y: expected an array, got list of int",
    ),
    "a number for weights": (
        lambda: parse_model_outputs("y", "p", "w", {"y": ONE, "p": ONE, "w": 1.0}),
        "w: expected an array, got float",
    ),
    "labels alone in a list": (
        lambda: parse_model_outputs("y", "", "", {"y": ["a"]}),
        "y: expected an array, got list of str",
    ),
    "no required input": (
        lambda: parse_required_inputs({"a": ONE}, ["a", "b"]),
        "Required input b not found in model output",
    ),
    "required numbers in a list": (
        lambda: parse_required_inputs({"a": [1, 2]}, ["a"]),
        "a: expected an array, got list of int",
    ),
    "required strings and numbers": (
        lambda: parse_required_inputs({"a": ["x", 2]}, ["a"]),
        "a: expected an array, got list of int, str",
    ),
    "a task among others": (
        lambda: parse_task_model_outputs(
            [task("a"), task("b", label="z")], {"y": ONE, "p": ONE, "w": ONE}
        ),
        "Label name z not found in model output",
    ),
    "required numbers in a list, with a task of NDCG": (
        lambda: parse_task_model_outputs(
            [task("ndcg")], {"y": ONE, "p": ONE, "w": ONE, "a": [1, 2]}, ["a"]
        ),
        "a: expected an array, got list of int",
    ),
}


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_is_named(name):
    call, message = MISUSES[name]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        call()


@every_kind
@pytest.mark.parametrize(
    ("before", "after"), [((3,), (3,)), ((3, 1), (3,)), ((1,), ()), ((0,), (0,))], ids=str
)
def test_labels_alone_are_squeezed_and_no_more(kind, before, after):
    labels, predictions, weights = parse_model_outputs("y", "", "", outputs(kind, y=before))
    assert tuple(labels.shape) == after
    assert predictions is None
    assert weights is None


def test_vectors_of_examples_are_noted_once_for_each_label(caplog):
    model_utils._note_vectors.cache_clear()
    matrix, vector = np.ones((3, 4)), np.ones(3)
    model_out: dict[str, Any] = {"y": matrix, "z": matrix, "p": matrix, "w": vector, "v": vector}
    with caplog.at_level(logging.WARNING):
        for label in ("y", "y", "z", "y"):
            parse_model_outputs(label, "p", "w", model_out)
        parse_model_outputs("v", "w", "v", model_out)
    noted = [record.getMessage() for record in caplog.records]
    assert [re.findall("labels (.)", line) for line in noted] == [["y"], ["z"]]


@every_kind
@pytest.mark.parametrize(
    ("shapes", "empty"),
    [
        (((0,), (0,), (0,)), True),
        (((0,), (0, 3), (2, 0)), True),
        (((0,), (0,), (1,)), False),
        (((1,), (0,), (0,)), False),
        (((0,), (2, 1), (0,)), False),
        (((), (), ()), False),
    ],
    ids=str,
)
def test_signals_are_empty_if_all_are(kind, shapes, empty):
    assert is_empty_signals(*(array(kind, shape) for shape in shapes)) is empty


SESSIONS = {
    "none": ([], []),
    "one": (["a"], [1]),
    "runs": (["a", "a", "b", "c", "c"], [1, 1, 2, 3, 3]),
    "an id that comes back": (["a", "a", "b", "a", "c"], [1, 1, 2, 3, 4]),
    "ids that differ in trailing zeros": (["a", "a\0", "a\0"], [1, 2, 2]),
    "ids of unlike lengths": (["", "aaaa", "aaa"], [1, 2, 3]),
}


@pytest.mark.parametrize("name", SESSIONS)
def test_sessions_are_numbered_by_runs(name):
    session_ids, numbers = SESSIONS[name]
    ids = session_ids_to_tensor(session_ids)
    assert kind_of(ids) == NATIVE
    assert to_numpy(ids).dtype == np.int64
    assert ids.tolist() == numbers


def test_sessions_go_to_the_device():
    device: Any = "cpu" if torch is None else torch.device("meta")
    ids = session_ids_to_tensor(["a", "b"], device)
    assert torch is None or ids.device.type == "meta"
    assert tuple(ids.shape) == (2,)


@pytest.mark.skipif(torch is None, reason="torch is not installed")
def test_sessions_go_where_the_labels_are():
    model_out: dict[str, Any] = {name: as_kind(np.ones(2), "torch").to("meta") for name in "ypw"}
    model_out["session"] = ["a", "b"]
    inputs = parse_task_model_outputs([task("a")], model_out, ["session"])[3]
    assert inputs["session"].device.type == "meta"


STRINGS = {
    "list": lambda: ["x", "x", "y"],
    "tuple": lambda: ("x", "x", "y"),
    "list of an array's": lambda: list(np.array(["x", "x", "y"])),
    "array": lambda: np.array(["x", "x", "y"]),
    "column": lambda: np.array([["x"], ["x"], ["y"]]),
}


@pytest.mark.parametrize("name", STRINGS)
def test_required_strings_become_numbers(name):
    model_out = {"session": STRINGS[name]()}
    for transform in (False, True):
        inputs = parse_required_inputs(model_out, ["session"], transform)
        assert inputs["session"].tolist() == [1, 1, 2]
    assert type(model_out["session"]) is type(STRINGS[name]())


def test_required_lists_of_anything_become_numbers_on_request():
    inputs = parse_required_inputs({"session": [7, 7, 5]}, ["session"], ndcg_transform_input=True)
    assert inputs["session"].tolist() == [1, 1, 2]


@every_kind
def test_required_arrays_are_squeezed_and_stay_of_their_kind(kind):
    model_out = outputs(kind, a=(3, 1), b=(1,), c=(2, 3), unused=(9,))
    kept = snapshot(model_out)
    inputs = parse_required_inputs(model_out, ["c", "a", "b"])
    assert {name: tuple(x.shape) for name, x in inputs.items()} == {
        "c": (2, 3),
        "a": (3,),
        "b": (),
    }
    assert {kind_of(x) for x in inputs.values()} == {kind}
    assert_unchanged(model_out, kept)


@every_kind
def test_tasks_share_outputs_and_empty_ones_are_left_out(kind):
    model_out: dict[str, Any] = outputs(
        kind, y=(3, 1), p=(3,), w=(3,), z=(3,), q=(3, 4), empty=(0,)
    )
    model_out["session"] = ["a", "b", "b"]
    kept = snapshot(model_out)
    tasks = [
        task("first"),
        task("classes", label="z", prediction="q"),
        task("gone", label="empty", prediction="empty", weight="empty"),
        task("labels", label="z", prediction="", weight=""),
        task("no labels", label="empty", prediction="", weight=""),
    ]
    labels, predictions, weights, inputs = parse_task_model_outputs(
        tasks, model_out, ["session", "q"]
    )
    assert {name: tuple(x.shape) for name, x in labels.items()} == {
        "first": (3,),
        "classes": (3,),
        "labels": (3,),
    }
    assert {name: tuple(x.shape) for name, x in predictions.items()} == {
        "first": (3,),
        "classes": (3, 4),
    }
    assert list(weights) == ["first", "classes"]
    np.testing.assert_array_equal(to_numpy(labels["first"]), [0, 1, 2])
    np.testing.assert_array_equal(to_numpy(labels["classes"]), [3000, 3001, 3002])
    np.testing.assert_array_equal(to_numpy(predictions["first"]), [1000, 1001, 1002])
    np.testing.assert_array_equal(to_numpy(weights["classes"]), [2000, 2001, 2002])
    assert list(inputs) == ["session", "q"]
    assert kind_of(inputs["session"]) == kind
    assert to_numpy(inputs["session"]).tolist() == [1, 2, 2]
    assert to_numpy(inputs["session"]).dtype == np.int64
    assert tuple(inputs["q"].shape) == (3, 4)
    assert_unchanged(model_out, kept)


@every_kind
def test_vectors_of_one_length_are_passed_on_untouched(kind):
    model_out = outputs(kind, y=(3,), p=(3,), w=(3,))
    parsed = parse_task_model_outputs([task("a")], model_out)
    assert [by_task["a"] is model_out[x] for by_task, x in zip(parsed, "ypw", strict=False)] == [
        True,
        True,
        True,
    ]
    assert parsed[3] == {}


@pytest.mark.parametrize("required", [None, []])
def test_nothing_is_required_by_default(required):
    assert parse_task_model_outputs([], {"a": ONE}, required) == ({}, {}, {}, {})


def test_inputs_can_be_required_without_tasks():
    inputs = parse_task_model_outputs([], {"a": ONE, "s": ["x", "y"]}, ["a", "s"])[3]
    assert inputs["a"].tolist() == [1, 1]
    assert inputs["s"].tolist() == [1, 2]


def test_dtypes_stay():
    model_out: dict[str, Any] = {
        "y": np.ones(2, np.int32),
        "p": jnp.ones(2, jnp.bfloat16),
        "w": np.ones((2, 1), np.float64),
    }
    labels, predictions, weights = parse_model_outputs("y", "p", "w", model_out)
    assert isinstance(predictions, jax.Array)
    assert isinstance(weights, np.ndarray)
    assert (labels.dtype, predictions.dtype, weights.dtype) == (np.int32, jnp.bfloat16, np.float64)
