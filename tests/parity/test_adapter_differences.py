"""Where the class API deliberately does not do what the reference does: both, side by side.

The README of the adapter has a row for each; all else agrees, as test_adapter_streams.py shows.
"""

import dataclasses
import logging
import math
import pathlib
import re
from typing import Any

import numpy as np
import pytest
from adapter_pair import OURS, THEIRS, make, update, values
from reference import torch

import recmetrics_jax.adapter

NAN = math.nan
INF = math.inf
README = pathlib.Path(recmetrics_jax.adapter.__file__).parent / "README.md"
TESTS = pathlib.Path(__file__).parent.parent

Update = tuple[Any, ...]  # predictions, labels, weights


@dataclasses.dataclass(frozen=True)
class Difference:
    """Updates, and a value, or the exception instead, there and here."""

    name: str
    metric: str
    updates: list[Update]
    theirs: Any
    ours: Any
    value: str = ""  # "lifetime_<metric>" if empty
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    keys: dict[str, Any] = dataclasses.field(default_factory=dict)


def after(first: float) -> list[Update]:
    """Errors, the first of which has left a window of two."""
    return [([x], [0.0]) for x in (first, 0.1, 0.1)]


def key(*groups: Any) -> dict[str, Any]:
    return {"keys": {"grouping_keys": list(groups)}}


def session(*sessions: Any) -> dict[str, Any]:
    return {"keys": {"session_id": list(sessions)}}


TWO: dict[str, Any] = {"value": "window_mse", "options": {"window_size": 2}}
CLASSES: dict[str, Any] = {"options": {"number_of_classes": 3}}
AUC: dict[str, Any] = {"value": "window_auc"}
RAUC: dict[str, Any] = {"value": "window_rauc"}
AUPRC: dict[str, Any] = {"value": "window_auprc"}
GROUPED_AUC: dict[str, Any] = {"value": "window_grouped_auc"}
GROUPED_RAUC: dict[str, Any] = {"value": "window_grouped_rauc"}
FOUR = ([0.1, 0.2, 0.6, 0.7], [0.0, 1.0, 1.0, 0.0])
HALF = torch.bfloat16

WINDOWS = [
    Difference("large_values_leave_windows", "mse", after(1e8), 0.0, 0.01, **TWO),
    Difference("infinities_leave_windows", "mse", after(INF), NAN, 0.01, **TWO),
    Difference("nans_leave_windows", "mse", after(NAN), NAN, 0.01, **TWO),
    Difference(
        "auprc_windows_hold_no_more_than_they_should",
        "auprc",
        [([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1.0, 1.0, 0.0, 0.0, 0.0, 1.0])],
        0.6333333,
        1.0,
        value="window_auprc",
        options={"window_size": 4},
    ),
]

TIES = [
    Difference("ties_in_auc", "auc", [([0.5, 0.5], [0.0, 1.0])], 0.0, 0.5, **AUC),
    Difference("ties_in_float32_in_auc", "auc", [([0.1, 0.1 + 1e-12], [0.0, 1.0])], 0, 0.5, **AUC),
    Difference(
        "soft_labels_in_auc", "auc", [([0.1, 0.2, 0.6], [0.2, 0.5, 0.9])], 0.7924107, 0.8125, **AUC
    ),
    Difference(
        "ties_in_ndcg",
        "ndcg",
        [([0.5, 0.5], [0.0, 1.0])],
        0.3690702,
        (1 - 1 / math.log2(3)) / 2,
        **session(1, 1),
    ),
    Difference(
        "ties_of_classes",
        "multiclass_recall",
        [([[0.4, 0.4, 0.2]], [1.0], [1.0])],
        [0.0, 1.0, 1.0],
        [0.5, 1.0, 1.0],
        **CLASSES,
    ),
]

GROUPS = [
    Difference(
        "groups_in_auc_past_the_window",
        "auc",
        [FOUR] * 3,
        IndexError,
        0.5,
        value="window_grouped_auc",
        options={"grouped_auc": True, "window_size": 6},
        **key(1, 1, 2, 2),
    ),
    Difference(
        "groups_in_auc_of_one_example",
        "auc",
        [([0.1], [0.0])],
        RuntimeError,
        0.5,
        **GROUPED_AUC,
        options={"grouped_auc": True},
        **key(1),
    ),
    Difference(
        "groups_in_auprc_of_one_example",
        "auprc",
        [([0.1], [1.0])],
        RuntimeError,
        1.0,
        value="window_grouped_auprc",
        options={"grouped_auprc": True},
        **key(1),
    ),
    Difference(
        "groups_in_rauc_past_the_window",
        "rauc",
        [FOUR] * 3,
        IndexError,
        2 / 3,
        **GROUPED_RAUC,
        options={"grouped_rauc": True, "window_size": 6},
        **key(1, 1, 2, 2),
    ),
    Difference(
        "groups_in_rauc_of_one_example",
        "rauc",
        [([0.1, 0.2, 0.3], [0.0, 1.0, 1.0])],
        ZeroDivisionError,
        0.75,
        **GROUPED_RAUC,
        options={"grouped_rauc": True},
        **key(1, 1, 2),
    ),
]

UNDEFINED = [
    Difference("rauc_of_one_example", "rauc", [([0.1], [0.0])], ZeroDivisionError, 0.5, **RAUC),
    Difference("rauc_before_any_batch", "rauc", [], ZeroDivisionError, 0.5, **RAUC),
    Difference("nan_labels_in_rauc", "rauc", [([0.1, 0.2], [NAN, 1.0])], 0.0, NAN, **RAUC),
    Difference("nan_predictions_in_rauc", "rauc", [([NAN, 0.2], [0.0, 1.0])], 1.0, 0.0, **RAUC),
    Difference("nan_labels_in_auprc", "auprc", [([0.1, 0.2], [NAN, 1.0])], 0.0, NAN, **AUPRC),
    Difference(
        "nan_scores_of_classes",
        "multiclass_recall",
        [([[NAN, 0.2, 0.1]], [1.0], [1.0])],
        [0.0, 1.0, 1.0],
        [1.0, 1.0, 1.0],
        **CLASSES,
    ),
]

PRECISION = [
    Difference(
        "bfloat16_batches",
        "ctr",
        [
            (
                torch.full((257,), 0.5, dtype=HALF),
                torch.tensor([0.0] + [1.0] * 256, dtype=HALF),
                torch.ones(257, dtype=HALF),
            )
        ],
        1.0,
        256 / 257,
        options={"window_size": 1000},
    ),
    Difference(
        "float32_batches",
        "ctr",
        [(torch.ones(3), torch.tensor([1.0, 0.0, 0.0]), torch.tensor([2.0**24, 1.0, 1.0]))],
        1.0,
        2.0**24 / (2.0**24 + 2),
    ),
    Difference(
        "weights_of_classes",
        "multiclass_recall",
        [([[0.7, 0.2, 0.1]], [0.0], [0.1])],
        [1.0000000149] * 3,
        [1.0] * 3,
        **CLASSES,
    ),
    Difference(
        "discounts_of_ndcg",
        "ndcg",
        [([0.1, 0.9, 0.4, 0.6], [0.0, 1.0, 1.0, 0.0])],
        0.08027921903662105,
        1 - 1.5 / (1 + 1 / math.log2(3)),
        **session(1, 1, 1, 1),
    ),
    Difference(
        "certain_and_wrong_predictions",
        "ne",
        [([1.0], [0.0])],
        39.863169054,
        39.863137139,
        value="lifetime_logloss",
        options={"include_logloss": True},
    ),
]

INPUTS = [
    Difference("one_weight_for_many", "ctr", [([0.5] * 4, [1.0] * 4, [1.0])], 4.0, ValueError),
    Difference(
        "classes_without_weights",
        "multiclass_recall",
        [([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]], [0.0, 1.0])],
        RuntimeError,
        [0.5, 1.0, 1.0],
        **CLASSES,
    ),
    Difference(
        "boolean_labels_in_precision",
        "precision",
        [(torch.tensor([0.6, 0.6]), torch.tensor([True, False]))],
        RuntimeError,
        0.5,
    ),
    Difference(
        "inputs_with_other_strides",
        "ctr",
        [(torch.ones(3, 2).T, torch.ones(3, 2).T)],
        RuntimeError,
        1.0,
    ),
    Difference("empty_predictions_with_labels", "ctr", [([], [1.0])], AssertionError, ValueError),
    Difference(
        "inputs_that_a_metric_does_not_use",
        "ctr",
        [([0.1, 0.2], [0.0, 1.0])],
        RuntimeError,
        0.5,
        keys={"x": [1, 1, 1]},
    ),
    Difference(
        "sessions_in_joined_batches",
        "ndcg",
        [([0.1, 0.2], [0.0, 1.0])] * 2,
        Exception,
        0.0,
        options={"fused_update_limit": 2},
        **session(1, 1),
    ),
    Difference(
        "weights_in_some_joined_batches",
        "ctr",
        [([0.1, 0.2], [0.0, 1.0], [1.0, 3.0]), ([0.1, 0.2], [0.0, 1.0])],
        RuntimeError,
        4 / 6,
        options={"fused_update_limit": 2},
    ),
]

DIFFERENCES = [*WINDOWS, *TIES, *GROUPS, *UNDEFINED, *PRECISION, *INPUTS]


def value_of(package: str, row: Difference) -> Any:
    metric = make(package, row.metric, **row.options)
    for inputs in row.updates:
        update(metric, *inputs, **row.keys)
    return values(metric)[row.value or f"lifetime_{row.metric}"]


@pytest.fixture(autouse=True)
def quiet():
    """The reference logs what it makes NaN."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("row", DIFFERENCES, ids=[row.name for row in DIFFERENCES])
def test_difference(row):
    for package, expected in ((THEIRS, row.theirs), (OURS, row.ours)):
        if isinstance(expected, type):
            with pytest.raises(expected):
                value_of(package, row)
        else:
            value = value_of(package, row)
            rtol = 1e-6 if value.dtype == np.float32 else 1e-7 if package == THEIRS else 1e-9
            np.testing.assert_allclose(value, expected, rtol=rtol, atol=1e-15)


def rows_of_readme() -> list[list[str]]:
    """The rows of the table of differences: what, the reference, here, the test."""
    _, _, section = README.read_text().partition("## Differences from the reference")
    lines = re.findall(r"^\|(.+)\|$", section, re.MULTILINE)
    rows = [[cell.strip() for cell in line.split(" | ")] for line in lines]
    assert rows[0] == ["what", "the reference", "here", "test"]
    return rows[2:]


def names_of_tests(path: pathlib.Path) -> set[str]:
    return set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE))


def test_the_readme_has_a_row_for_each_difference():
    rows = rows_of_readme()
    assert {len(row) for row in rows} == {4}
    assert all(all(row) for row in rows)
    documented = [name.strip("`") for *_, name in rows]
    assert len(set(documented)) == len(documented)
    here = [name for name in documented if "::" not in name]
    of_calls = names_of_tests(
        pathlib.Path(__file__).with_name("test_adapter_differences_in_calls.py")
    )
    assert sorted(here) == sorted([*(row.name for row in DIFFERENCES), *of_calls])
    for name in set(documented) - set(here):
        file, test = name.split("::")
        assert test in names_of_tests(TESTS / file), name
