"""The tops of sessions, and examples per second, in both packages: streams, and what differs."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from adapter_pair import OURS, PACKAGES, THEIRS, make, module, tasks_of, tensor, update, values
from adapter_streams import copied
from reference import torch
from test_adapter_streams import assert_same, computed

TOPS = ("recall_session", "precision_session")
BATCH = 16


def definition(package: str, *fields: Any) -> Any:
    return module(package, "metrics_config").SessionMetricDef(*fields)


# The sessions, the top and whether labels are ranked, by task: few, so that few are compiled.
DEFINITIONS = (
    [("user", 2, False)],
    [("query", 1, True), ("user", 2, False)],
    [("user", 3, True), ("user", 0, False), ("query", 2, False)],
)


def session_tasks(package: str, index: int) -> list[Any]:
    """Tasks with sessions of one name or two, and tops of their own."""
    return [
        tasks_of(package, (name,), session_metric_def=definition(package, *fields))[0]
        for name, fields in zip("abc", DEFINITIONS[index], strict=False)
    ]


def session_update(rng: np.random.Generator, names: list[str]) -> dict[str, Any]:
    """Predictions with ties, graded labels, weights of 0; keys fit all tasks, which may lack."""
    size = int(rng.integers(1, BATCH + 1))
    dtype = [torch.float32, torch.bfloat16][rng.integers(2)]
    shape = [(size,), (size, 1)][rng.integers(2)]

    def of_tasks(largest: int) -> dict[str, Any]:
        drawn = {name: rng.integers(0, largest, size) / 4 for name in present}
        return {name: torch.tensor(x, dtype=dtype).reshape(shape) for name, x in drawn.items()}

    present = [name for name in names if rng.random() < 0.8]
    predictions, labels, weights = of_tasks(9), of_tasks(5), of_tasks(4)
    if rng.random() < 0.2:
        weights = {name: x * 0 for name, x in weights.items()}
    return {
        "predictions": predictions,
        "labels": labels,
        "weights": weights if rng.random() < 0.9 else None,
        "required_inputs": {
            "user": torch.tensor(rng.integers(0, 4, size) * 10**12),
            "query": torch.tensor(rng.integers(0, 6, size) / 2),
        },
    }


def in_float64(values: Mapping[str, Any]) -> dict[str, Any]:
    """The reference's values: those that are undefined are in float32."""
    return {key: x.double() for key, x in values.items()}


@pytest.mark.parametrize("name", TOPS)
def test_tops_of_sessions_agree_with_the_reference(name):
    alive = []
    for index in range(20):
        rng = np.random.default_rng([73, TOPS.index(name), index])
        options = {
            "batch_size": BATCH,
            "window_size": [BATCH, 3 * BATCH, 10_000_000][rng.integers(3)],
            "should_validate_update": bool(rng.random() < 0.3),
        }
        theirs, ours = (
            make(package, name, session_tasks(package, index % 3), **options)
            for package in PACKAGES
        )
        alive.append(ours)  # And what is compiled for it.
        names = [task.name for task in ours._tasks]
        updates = [session_update(rng, names) for _ in range(rng.integers(1, 7))]
        where = f"{name} {index}"
        for arguments in updates:
            for metric in (ours, theirs):
                metric.update(**copied(arguments))
            assert_same(where, computed(ours), in_float64(computed(theirs)))
        local = [computed(metric, "local_compute") for metric in (ours, theirs)]
        assert_same(where, local[0], in_float64(local[1]))
        assert ours.get_required_inputs() == theirs.get_required_inputs()
        states = ours.state_dict(), theirs.state_dict()
        assert_same(where, *states)
        for metric, state in zip((ours, theirs), states[::-1], strict=True):
            metric.reset()
            metric.load_state_dict(copied(state))
            metric.update(**copied(updates[0]))
        assert_same(where, computed(ours), in_float64(computed(theirs)))


def of_sessions(package: str, name: str, top: int = 1) -> Any:
    return make(
        package, name, tasks_of(package, session_metric_def=definition(package, "user", top))
    )


@pytest.mark.parametrize("name", TOPS)
def test_nothing_positive_is_undefined_in_float64_where_the_reference_is_in_float32(name):
    for package, dtype in ((OURS, torch.float64), (THEIRS, torch.float32)):
        metric = of_sessions(package, name)
        update(metric, [0.5, 0.25], [0.0, 0.0], [0.0, 0.0], user=[7, 7])
        for value in metric.compute().values():
            assert (value.dtype, value.shape, value.isnan().item()) == (dtype, (1,), True)


def test_nan_predictions_are_never_in_the_top_in_both():
    for package in PACKAGES:
        metric = of_sessions(package, "recall_session", 2)
        p = [np.nan, 0.75, 0.5, np.nan, 0.25]
        update(metric, p, [1.0] * 5, [1.0, 2.0, 4.0, 8.0, 16.0], user=[7, 7, 7, 8, 8])
        assert values(metric)["lifetime_recall_session_level"] == pytest.approx(18 / 31)


def test_ranks_agree_with_the_reference_in_rows():
    rng = np.random.default_rng(74)
    p, session = torch.tensor(rng.integers(0, 8, (1, 40)) / 8), torch.arange(40)[None] % 6
    theirs, ours = (
        module(package, "recall_session").ranking_within_session(p, session) for package in PACKAGES
    )
    assert_same("ranks", {"ranks": ours}, {"ranks": theirs})


def test_ranks_of_a_vector_fall_where_those_of_the_reference_rise():
    p, session = tensor([0.75, 0.5, 0.25]), torch.tensor([7, 7, 7])
    for package, expected in ((OURS, [0, 1, 2]), (THEIRS, [2, 1, 0])):
        ranks = module(package, "recall_session").ranking_within_session(p, session)
        assert ranks.flatten().tolist() == expected


@pytest.mark.parametrize("name", TOPS)
def test_shapes_that_do_not_fit_sessions_are_named_where_the_reference_asserts(name):
    arrays = {key: tensor([[0.5, 0.25]]) for key in ("predictions", "labels", "weights")}
    for package, error in ((OURS, ValueError), (THEIRS, AssertionError)):
        (computation,) = of_sessions(package, name)._metrics_computations
        with pytest.raises(error):
            computation.update(**arrays, required_inputs={"user": torch.tensor([[7, 7, 7]])})


@pytest.mark.parametrize("is_fused", [False, True], ids=["unfused", "fused"])
def test_examples_per_second_agree_with_the_reference(is_fused, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for index in range(10):
        rng = np.random.default_rng([75, is_fused, index])
        names = "ab"[: rng.integers(1, 3)]
        stages = [(2, 3), (4, None)] if rng.random() < 0.4 else None
        options = {
            "batch_size": BATCH,
            "window_size": [BATCH, 3 * BATCH, 10_000_000][rng.integers(3)],
            "warmup_steps": int(rng.integers(1, 4)),
            "should_validate_update": bool(rng.random() < 0.5),
        }
        metrics = []
        for package in (OURS, THEIRS):
            if stages is not None:
                stage = module(package, "metrics_config").BatchSizeStage
                options["batch_size_stages"] = [stage(*fields) for fields in stages]
            metrics.append(
                make(package, "tower_qps", tasks_of(package, names), is_fused, **options)
            )
        for _ in range(8):
            size = int(rng.integers(1, BATCH + 1))
            now[0] += float(rng.integers(1, 9)) / 8
            labels = {name: torch.zeros(size) for name in names if is_fused or rng.random() < 0.8}
            weights = {name: torch.ones(size) * (rng.random() < 0.7) for name in labels}
            given = weights if rng.random() < 0.7 else None
            for metric in metrics:
                metric.update(predictions=None, labels=labels, weights=given)
            assert_same(f"{index}", *(computed(metric) for metric in metrics))
        states = [metric.state_dict() for metric in metrics]
        assert_same(f"{index}", *states)
        for metric, state in zip(metrics, states[::-1], strict=True):
            metric.load_state_dict(copied(state))
            metric.update(predictions=None, labels={n: torch.zeros(4) for n in names}, weights=None)
        assert_same(f"{index}", *(computed(m, "local_compute") for m in metrics))
        assert metrics[0]._batch_size == metrics[1]._batch_size


def test_a_step_without_a_beginning_is_not_timed_where_the_reference_takes_the_clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for package, expected in ((OURS, 2.0), (THEIRS, 8 / 1002)):
        now[0] = 1000.0
        metric = make(package, "tower_qps", warmup_steps=0)
        for _ in range(2):
            metric.update(predictions=None, labels={"a": torch.zeros(4)}, weights=None)
            now[0] += 2.0
        assert values(metric)["lifetime_qps"] == pytest.approx(expected)


def test_examples_that_were_returned_stay_where_those_of_the_reference_go_on():
    for package, expected in ((OURS, 4), (THEIRS, 8)):
        metric = make(package, "tower_qps")
        metric.update(predictions=None, labels={"a": torch.zeros(4)}, weights=None)
        total = metric.compute()["qps-a|total_examples"]
        metric.update(predictions=None, labels={"a": torch.zeros(4)}, weights=None)
        assert total.tolist() == [expected]
