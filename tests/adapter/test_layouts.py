"""Arrays that are laid out otherwise: taken where there is one way to read them, else named."""

import importlib
from typing import Any

import numpy as np
import pytest
from adapter_cases import (
    CASES,
    FUSED,
    TASKS,
    Case,
    N,
    batch,
    case_of,
    every_case,
    stacked,
    unchanged,
)

from recmetrics_jax.adapter._tensors import as_kind, to_numpy, torch
from recmetrics_jax.adapter.auc import compute_auc_per_group
from recmetrics_jax.adapter.ctr import get_ctr_states

ARRAYS = ("predictions", "labels", "weights")
KINDS = ["numpy", "jax"] if torch is None else ["numpy", "jax", "torch"]


def computation_of(case: Case, n_tasks: int) -> Any:
    metric = case.make(tasks=TASKS[:n_tasks], compute_mode=FUSED)
    return metric._metrics_computations[0]


def rows(case: Case, n_tasks: int) -> dict[str, Any]:
    """A batch as computations take it, ``[T, N]``."""
    return stacked(batch(case, 1, tasks=("a", "b")[:n_tasks]))


def reported(computation: Any) -> dict[str, list[float]]:
    return {
        f"{r.metric_prefix.value}{r.name}": to_numpy(r.value).tolist()
        for r in computation.compute()
    }


def assert_taken_alike(case: Case, n_tasks: int, given: Any, expected: Any) -> None:
    ours, other = computation_of(case, n_tasks), computation_of(case, n_tasks)
    ours.update(**given)
    other.update(**expected)
    np.testing.assert_equal(reported(ours), reported(other))


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_vectors_are_of_the_only_task(case, kind):
    full = rows(case, 1)
    vectors = {name: as_kind(full[name][0], kind) for name in ARRAYS}
    assert_taken_alike(case, 1, {**full, **vectors}, full)


@pytest.mark.parametrize("name", ARRAYS)
@every_case
def test_one_vector_beside_rows_is_of_the_only_task(case, name):
    if case.has_classes and name != "weights":
        pytest.skip("an axis of classes comes with one of tasks")
    full = rows(case, 1)
    assert_taken_alike(case, 1, {**full, name: full[name][0]}, full)


@pytest.mark.parametrize("name", ["labels", "weights"])
@pytest.mark.parametrize("form", [lambda x: x[0], lambda x: x[:1]], ids=["[N]", "[1, N]"])
@every_case
def test_one_row_beside_those_of_all_tasks_is_of_each(case, form, name):
    full = rows(case, 2)
    same = {**full, name: np.stack([full[name][0]] * 2)}
    assert_taken_alike(case, 2, {**full, name: form(full[name])}, same)


def test_predictions_of_all_tasks_may_be_the_same():
    full = rows(case_of("ne"), 2)
    same = {**full, "predictions": np.stack([full["predictions"][0]] * 2)}
    assert_taken_alike(case_of("ne"), 2, {**full, "predictions": full["predictions"][0]}, same)


def test_what_can_be_read_in_two_ways_is_refused():
    case = case_of("ctr")
    full = rows(case, 2)
    vectors = {name: full[name][0] for name in ARRAYS}
    square = {name: full[name][:, :2] for name in ARRAYS}
    for ambiguous, name in (
        (vectors, "predictions"),  # Of which task?
        ({**square, "labels": full["labels"][0, :2]}, "labels"),  # Of tasks, or of examples?
    ):
        computation = computation_of(case, 2)
        with pytest.raises(ValueError, match=rf"{name}: expected shape .*\[2, N\]"):
            computation.update(**ambiguous)
        assert not np.any(to_numpy(computation.ctr_num))


SUMS = [case for case in CASES if not case.has_classes]


@pytest.mark.parametrize("case", SUMS, ids=lambda case: case.name)
@pytest.mark.parametrize("n_tasks", [1, 2])
def test_computations_name_the_transpose(case, n_tasks):
    full = rows(case, n_tasks)
    layout = "[N, 1]" if n_tasks == 1 else "[N, T]"
    for names in (ARRAYS, ("labels",), ("weights",)):
        metric = case.make(tasks=TASKS[:n_tasks], compute_mode=FUSED)
        wrong = {name: full[name].T for name in names}
        with unchanged(metric), pytest.raises(ValueError, match=f"{names[0]}: ") as raised:
            metric._metrics_computations[0].update(**{**full, **wrong})
        message = str(raised.value)
        assert f"[{n_tasks}, N]" in message
        assert f"that is {layout}" in message
        assert f"{names[0]}.T" in message


@pytest.mark.parametrize("name", ARRAYS)
@every_case
def test_fused_tasks_name_the_transpose(case, name):
    """Read as it lies in memory, it would mix the tasks."""
    metric = case.make(compute_mode=FUSED)
    full = rows(case, 2)
    wrong = {**full, name: np.swapaxes(full[name], 0, 1)}
    swap = "T" if full[name].ndim == 2 else r"swapaxes\(0, 1\)"
    message = rf"{name}: expected shape \[2, N\], got .* pass its transpose, {name}\.{swap}"
    with unchanged(metric), pytest.raises(ValueError, match=message):
        metric.update(**wrong)
    if name == "predictions":
        everything = {array: np.swapaxes(full[array], 0, 1) for array in ARRAYS}
        with unchanged(metric), pytest.raises(ValueError, match=f"{name}: expected shape"):
            metric.update(**{**full, **everything})


def test_fused_tasks_name_transposed_sessions():
    case = case_of("ndcg")
    metric = case.make(compute_mode=FUSED)
    sessions = np.stack([np.arange(N), np.arange(N) // 2], axis=1)
    with unchanged(metric), pytest.raises(ValueError, match=r"session_id: .* session_id\.T"):
        metric.update(**rows(case, 2) | {"required_inputs": {"session_id": sessions}})


@pytest.mark.parametrize("name", ["labels", "weights"])
def test_arrays_of_all_tasks_in_the_place_of_one_are_named(name):
    metric = case_of("ctr").make()
    arguments = batch(case_of("ctr"), 1)
    arguments[name]["a"] = np.ones((N, 2))
    with (
        unchanged(metric),
        pytest.raises(ValueError, match=rf"{name} of task 'a': .*\[N, T\], pass each task its own"),
    ):
        metric.update(**arguments)


@pytest.mark.parametrize("name", ["auc", "rauc"])
def test_functions_take_lists_of_nothing(name):
    compute = getattr(importlib.import_module(f"recmetrics_jax.adapter.{name}"), f"compute_{name}")
    for nothing in ([], [np.zeros((1, 0))]):
        assert to_numpy(compute(1, nothing, nothing, nothing)).tolist() == [0.5]


def test_functions_add_up_nothing():
    nothing = np.zeros((2, 0))
    states = get_ctr_states(nothing, nothing, nothing)
    assert {name: to_numpy(x).tolist() for name, x in states.items()} == {
        "ctr_num": [0.0, 0.0],
        "ctr_denom": [0.0, 0.0],
    }


def test_functions_of_groups_want_a_group_of_each_example():
    ones = [np.ones((1, 3))]
    for keys in (np.zeros(1), np.zeros(2), np.zeros((2, 3))):
        with pytest.raises(ValueError, match="grouping_keys: expected 3 or"):
            compute_auc_per_group(1, ones, ones, ones, keys)
