"""Relatives of NE and calibration in both packages: all forms of groups, and what differs.

Random streams of them are in test_adapter_streams.py, functions in test_adapter_functions.py.
"""

from typing import Any

import numpy as np
import pytest
from adapter_pair import (
    OURS,
    PACKAGES,
    THEIRS,
    make,
    mode_of,
    module,
    tasks_of,
    tensor,
    update,
    values,
)
from adapter_streams import NEVER_LEFT, groups_of_float64
from reference import torch
from test_adapter_streams import assert_same, computed

from recmetrics_jax.adapter.rec_metric import RecMetricException

N = 24
HALVES = ([0.5, 0.5, 0.25, 0.25], [1.0, 0.0, 1.0, 0.0], [1.0, 2.0, 1.0, 1.0])


def config(package: str, *fields: Any) -> Any:
    return module(package, "segmented_ne").GroupingKeyConfig(*fields)


# What keys are given as, and further options; of "country" there are 4, of "device" 3.
FORMS: dict[str, Any] = {
    "a name": lambda package: ("country", {"num_groups": 4}),
    "one name in a list": lambda package: (["country"], {"num_groups": 5}),
    "the default in a list": lambda package: (["grouping_keys"], {"num_groups": 4}),
    "names": lambda package: (["device", "country"], {"num_groups": 4}),
    "dictionaries": lambda package: (
        [{"name": "device", "num_groups": 3, "cast_keys_to_int": False}, {"name": "country"}],
        {"num_groups": 4, "cast_keys_to_int": True},
    ),
    "configurations": lambda package: (
        [config(package, "country", 4, True), config(package, "device", 3)],
        {},
    ),
    "all of them": lambda package: (
        ["grouping_keys", {"name": "device"}, config(package, "country", 4, True)],
        {"num_groups": 7},
    ),
}


def metric_of(package: str, form: str, is_fused: bool, **options: Any) -> Any:
    keys, further = FORMS[form](package)
    tasks = tasks_of(package, ("a", "b"))
    options = {"grouping_keys": keys, **further, **options}
    return make(package, "segmented_ne", tasks, is_fused, batch_size=N, **options)


def drawn_update(rng: np.random.Generator, is_cast: bool) -> dict[str, Any]:
    """An update of two tasks, with numbers of which the casting drops what is behind the point."""

    def of_tasks(x: Any) -> dict[str, Any]:
        return {task: torch.tensor(row) for task, row in zip("ab", x, strict=True)}

    country = rng.integers(0, 4, N)
    floats = country + rng.choice([0.0, 0.25, 0.75], N)
    floats[country == 0] -= 0.5
    return {
        "predictions": of_tasks(rng.integers(1, 256, (2, N)) / 256),
        "labels": of_tasks(rng.integers(0, 2, (2, N)) / 1.0),
        "weights": of_tasks(rng.integers(0, 9, (2, N)) / 8),
        "required_inputs": {
            "country": torch.tensor(floats if is_cast else country),
            "device": torch.tensor(rng.integers(0, 3, N)),
            "grouping_keys": torch.tensor(rng.integers(0, 4, N)),
        },
    }


@pytest.mark.parametrize("is_fused", [False, True], ids=["unfused", "fused"])
@pytest.mark.parametrize("form", FORMS)
def test_all_forms_of_groups_agree_with_the_reference(form, is_fused):
    """Of logloss without a window: where a group has left it, it holds the rounding of that."""
    rng = np.random.default_rng([41, list(FORMS).index(form)])
    is_cast = form in ("dictionaries", "configurations", "all of them")
    with groups_of_float64():
        for options in (
            {"window_size": 2 * N},
            {"window_size": NEVER_LEFT, "include_logloss": True},
        ):
            metrics = [metric_of(package, form, is_fused, **options) for package in (OURS, THEIRS)]
            updates = [drawn_update(rng, is_cast) for _ in range(4)]
            for arguments in updates:
                for metric in metrics:
                    metric.update(**arguments)
                assert_same(form, *map(computed, metrics))
            assert_same(form, *(metric.local_compute() for metric in metrics))
            assert metrics[0].get_required_inputs() == metrics[1].get_required_inputs()
            states = [metric.state_dict() for metric in metrics]
            assert_same(form, *states)
            for metric, state in zip(metrics, states[::-1], strict=True):
                metric.reset()
                metric.load_state_dict({name: x.clone() for name, x in state.items()})
                metric.update(**updates[0])
            assert_same(form, *map(computed, metrics))


def test_reports_of_groups_agree_with_the_reference():
    reports = []
    for package in PACKAGES:
        metric = metric_of(package, "names", False, include_logloss=True)
        metric.update(**drawn_update(np.random.default_rng(42), False))
        of_package = metric._metrics_computations[1].compute()
        reports.append([(str(r.name), str(r.metric_prefix), r.description) for r in of_package])
    assert reports[0] == reports[1]
    assert reports[0][:2] == [
        ("segmented_ne", "lifetime_", "_0@device"),
        ("segmented_ne", "window_", "_0@device"),
    ]


WRONG_KEYS = {
    "of another dtype": torch.tensor([0, 1, 0, 1], dtype=torch.int32),
    "floats that are not cast": torch.tensor([0.0, 1.0, 0.0, 1.0]),
}


@pytest.mark.parametrize("is_fused", [False, True], ids=["unfused", "fused"])
@pytest.mark.parametrize("keys", WRONG_KEYS.values(), ids=list(WRONG_KEYS))
def test_keys_of_other_dtypes_are_refused_by_both(keys, is_fused):
    for package in PACKAGES:
        metric = make(package, "segmented_ne", is_fused=is_fused, num_groups=2)
        error = module(package, "rec_metric").RecMetricException
        with pytest.raises(error, match="int64"):
            update(metric, *HALVES, grouping_keys=keys)
        with pytest.raises(error):
            update(metric, *HALVES)


def test_numbers_of_no_group_are_refused_where_the_reference_counts_from_the_end():
    keys = [0, 0, -1, -1]
    theirs, ours = (make(package, "segmented_ne", num_groups=3) for package in PACKAGES)
    update(theirs, *HALVES, grouping_keys=keys)
    assert values(theirs)["lifetime_segmented_ne_2"] == pytest.approx(1.2075188)
    with pytest.raises(IndexError, match="grouping_keys: expected numbers of groups, from 0 to 2"):
        update(ours, *HALVES, grouping_keys=keys)
    for metric in (theirs, ours):
        with pytest.raises(IndexError):
            update(metric, *HALVES, grouping_keys=[0, 0, 3, 3])


@pytest.mark.parametrize("keys", [[0, 0, 3, 3], [0, 0, -1, -1]], ids=str)
def test_numbers_of_no_group_are_index_errors_for_fused_tasks_too(keys):
    for package, error in ((OURS, IndexError), (THEIRS, RuntimeError)):
        metric = make(package, "segmented_ne", is_fused=True, num_groups=3)
        with pytest.raises(error):
            update(metric, *HALVES, grouping_keys=keys)


def test_groups_are_added_up_in_float64_where_the_reference_does_in_float32():
    state = {}
    for package in PACKAGES:
        metric = make(package, "segmented_ne", num_groups=2)
        update(metric, *HALVES, grouping_keys=[0, 0, 1, 1])
        state[package] = metric.state_dict()["_metrics_computations.0.cross_entropy_sum"]
    expected = 2 - np.log2(0.75)
    assert state[OURS][0, 1].item() == pytest.approx(expected, rel=1e-15)
    assert state[THEIRS][0, 1].item() == float(np.float32(expected))


def test_a_key_twice_is_refused_where_the_reference_counts_it_twice():
    options = {"grouping_keys": ["country", "country"], "num_groups": 2}
    theirs = make(THEIRS, "segmented_ne", **options)
    update(theirs, *HALVES, country=[0, 0, 1, 1])
    assert theirs._metrics_computations[0].country_pos_labels.tolist() == [[2.0, 2.0]]
    with pytest.raises(ValueError, match="grouping_keys: expected one key or more, each once"):
        make(OURS, "segmented_ne", **options)


def test_no_key_at_all_is_named_where_the_reference_fails():
    for package, error in ((OURS, ValueError), (THEIRS, IndexError)):
        with pytest.raises(error):
            make(package, "segmented_ne", grouping_keys=[])


def test_what_is_no_key_is_refused_by_both():
    for package in PACKAGES:
        with pytest.raises(ValueError, match="grouping_keys"):
            make(package, "segmented_ne", grouping_keys=[3])


def test_logloss_of_recalibrated_ne_is_reported_where_the_reference_drops_it():
    options = {"include_logloss": True, "recalibration_coefficient": 0.5}
    theirs, ours = (make(package, "ne_with_recalibration", **options) for package in PACKAGES)
    for metric in (theirs, ours):
        update(metric, [0.5, 0.5], [1.0, 0.0])
    assert "lifetime_logloss" not in values(theirs)
    # Recalibrated, a half is a third.
    expected = (np.log2(3) + np.log2(1.5)) / 2
    assert values(ours)["lifetime_logloss"] == pytest.approx(expected, rel=1e-12)
    assert values(ours)["lifetime_ne"] == pytest.approx(values(theirs)["lifetime_ne"], rel=1e-12)


def test_recalibrated_ne_without_weight_is_allowed_where_the_reference_drops_the_option():
    for package, expected in ((OURS, 1e-12), (THEIRS, np.nan)):
        metric = make(package, "ne_with_recalibration", allow_missing_label_with_zero_weight=True)
        update(metric, [0.5, 0.5], [1.0, 0.0], [0.0, 0.0])
        np.testing.assert_equal(values(metric)["lifetime_ne"].item(), expected)


@pytest.mark.parametrize("name", ["serving_ne", "serving_calibration"])
def test_totals_that_were_returned_stay_where_those_of_the_reference_go_on(name):
    for package, expected in ((OURS, 2), (THEIRS, 4)):
        metric = make(package, name)
        update(metric, [0.5, 0.5], [1.0, 0.0])
        total = metric.compute()[f"{name}-a|total_examples"]
        update(metric, [0.5, 0.5], [1.0, 0.0])
        assert total.tolist() == [expected]


def test_totals_count_examples_with_a_weight_in_both():
    for package in PACKAGES:
        metric = make(package, "serving_ne", tasks_of(package, ("a", "b")), is_fused=True)
        weights = tensor([[0.0, 1.0, np.nan], [0.0, -1.0, 0.0]])
        half = tensor([[0.5] * 3] * 2)
        metric.update(predictions=half, labels=half, weights=weights)
        totals = {k: v for k, v in metric.local_compute().items() if "total" in k}
        assert {k: v.item() for k, v in totals.items()} == {
            "serving_ne-a|local_total_examples": 2,
            "serving_ne-b|local_total_examples": 1,
        }
        assert {v.dtype for v in totals.values()} == {torch.int64}


def test_groups_of_a_computation_of_ones_own():
    """As programs use it: in fused mode its values are by task, else of the only task."""
    arrays = [tensor([x]) for x in HALVES]
    for is_fused, shape in ((True, (1,)), (False, ())):
        for package in PACKAGES:
            segmented = module(package, "segmented_ne")
            computation = segmented.SegmentedNEMetricComputation(
                *(0, 4, 1, 100), compute_mode=mode_of(package, is_fused), num_groups=2
            )
            keys = torch.tensor([0, 0, 1, 1] if is_fused else [[0, 0, 1, 1]])
            predictions, labels, weights = (x.clone() for x in arrays)
            computation.update(
                predictions=predictions,
                labels=labels,
                weights=weights,
                required_inputs={"grouping_keys": keys},
            )
            reports = computation.compute()
            assert [r.value.shape for r in reports] == [shape] * 4
            assert {r.value.dtype for r in reports} == {torch.float32}
            assert reports[-1].value.item() == pytest.approx(1.2075188)


def test_failing_keys_change_no_state_of_any_key():
    metric = make(OURS, "segmented_ne", grouping_keys=["country", "device"], num_groups=2)
    with pytest.raises(RecMetricException, match="device"):
        update(metric, *HALVES, country=[0, 0, 1, 1])
    with pytest.raises(IndexError, match="device"):
        update(metric, *HALVES, country=[0, 0, 1, 1], device=[0, 0, 0, 2])
    assert not any(x.any() for x in metric.state_dict().values())
