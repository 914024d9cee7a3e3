"""Throughput under a clock that the test moves."""

import copy
import inspect
import logging
import re
import types
from typing import Any

import numpy as np
import pytest

from recmetrics_jax.adapter import throughput
from recmetrics_jax.adapter._tensors import NATIVE, kind_of, to_numpy, torch
from recmetrics_jax.adapter.metrics_config import BatchSizeStage
from recmetrics_jax.adapter.throughput import ThroughputMetric

COUNTERS = ["total_examples", "warmup_examples", "time_lapse_after_warmup"]
ATTEMPT_COUNTERS = [
    "attempt_examples",
    "attempt_warmup_examples",
    "attempt_time_lapse_after_warmup",
]
RATES = ["lifetime_throughput", "window_throughput", "attempt_throughput"]


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make(**options: Any) -> tuple[ThroughputMetric, Clock]:
    clock = Clock()
    defaults: dict[str, Any] = {
        "batch_size": 2,
        "world_size": 1,
        "window_seconds": 10,
        "warmup_steps": 1,
    }
    return ThroughputMetric(**(defaults | options), clock=clock), clock


def step(metric, clock, *seconds):
    for passed in seconds:
        clock.now += passed
        metric.update()


def values(metric) -> dict[str, Any]:
    return {key.split("|")[1]: value.item() for key, value in metric.compute().items()}


def rates(metric):
    computed = values(metric)
    return tuple(computed[name] for name in RATES) if RATES[0] in computed else None


# Options, the seconds of each step, and lifetime, window and attempt throughput after the last.
STEPS = {
    "before any step": ({}, [], None),
    "in the warmup": ({"warmup_steps": 3}, [1, 1, 1], None),
    "the first timed step": ({}, [5, 0.5], (4.0, 4.0, 4.0)),
    "the warmup takes no time": ({"warmup_steps": 3}, [9, 9, 9, 1, 3], (1.0, 1.0, 1.0)),
    "ranks multiply": ({"world_size": 3, "batch_size": 4}, [0, 2], (6.0, 6.0, 6.0)),
    "no time has passed": ({}, [1, 0, 0], None),
    "a window just full": ({}, [0, 5, 5], (0.4, 0.4, 0.4)),
    "a window overfull": ({}, [0, 6, 5], (4 / 11, 0.4, 4 / 11)),
    "a window of the newest steps": ({}, [0, 9, 4, 4, 2], (8 / 19, 0.6, 8 / 19)),
    "a step longer than the window": ({}, [0, 10, 20], (4 / 30, 0.0, 4 / 30)),
    "steps after a long one": ({}, [0, 10, 30, 1, 1], (8 / 42, 2.0, 8 / 42)),
    "no time after a long step": ({}, [0, 20, 0], (0.2, 0.0, 0.2)),
}


@pytest.mark.parametrize("case", STEPS)
def test_throughput(case):
    options, seconds, expected = STEPS[case]
    metric, clock = make(**options)
    step(metric, clock, *seconds)
    assert rates(metric) == expected
    total = len(seconds) * metric._batch_examples()
    assert values(metric)["total_examples"] == values(metric)["attempt_examples"] == total


def test_counters_hold_what_is_computed_from():
    metric, clock = make(warmup_steps=2, world_size=4)
    step(metric, clock, 7, 1, 2, 0.5)
    expected = [32, 16, 2.5]
    assert [getattr(metric, name).item() for name in COUNTERS] == expected
    assert [getattr(metric, name).item() for name in ATTEMPT_COUNTERS] == expected


def test_counters_are_scalars_of_wide_dtypes():
    metric, clock = make()
    for _ in range(3):
        step(metric, clock, 1)
        for name in COUNTERS + ATTEMPT_COUNTERS:
            counter = getattr(metric, name)
            assert kind_of(counter) == NATIVE
            assert tuple(counter.shape) == ()
            wide = np.float64 if "time" in name else np.int64
            assert to_numpy(counter).dtype == wide


def test_keys_and_dtypes_of_values():
    metric, clock = make(batch_size_stages=[BatchSizeStage(2, None)])
    step(metric, clock, 1, 1)
    computed = metric.compute()
    assert {key: to_numpy(value).dtype.name for key, value in computed.items()} == {
        "throughput-throughput|total_examples": "int64",
        "throughput-throughput|attempt_examples": "int64",
        "throughput-throughput|lifetime_throughput": "float64",
        "throughput-throughput|window_throughput": "float64",
        "throughput-throughput|attempt_throughput": "float64",
        "throughput-throughput|batch_size": "int32",
    }
    assert {kind_of(value) for value in computed.values()} == {NATIVE}
    assert {tuple(value.shape) for value in computed.values()} == {()}


def test_later_steps_leave_values_and_state_dicts_alone():
    metric, clock = make(batch_size_stages=[BatchSizeStage(2, None)])
    step(metric, clock, 1, 1)
    computed, saved = metric.compute(), metric.state_dict()
    before = copy.deepcopy((dict(computed), dict(saved)))
    step(metric, clock, 1, 1)
    assert (dict(computed), dict(saved)) == before


def test_writing_to_a_value_leaves_the_metric_alone():
    metric, clock = make()
    step(metric, clock, 1)
    for value in metric.compute().values():
        value += 7
    assert values(metric)["total_examples"] == 2


def test_window_drops_the_oldest_of_too_many_steps(monkeypatch):
    monkeypatch.setattr(throughput, "MAX_WINDOW_TS", 3)
    metric, clock = make(window_seconds=3, batch_size=1)
    step(metric, clock, 0, 0.5, 0.5, 0.5)
    step(metric, clock, *[0.125] * 5)
    assert values(metric)["window_throughput"] == 8.0


def test_nothing_is_left_of_a_window_that_a_long_step_emptied():
    metric, clock = make()
    clock.now = 0.0
    step(metric, clock, 0, 0.3, 0.3, 0.3, 1e6)  # Beside 1e6, the digits of 0.3 are rounded off.
    assert values(metric)["window_throughput"] == 0.0
    step(metric, clock, 0.5)
    assert values(metric)["window_throughput"] == 4.0


@pytest.mark.parametrize(("asked", "got"), [(7200, 7200), (7201, 7200), (10**6, 7200)])
def test_a_window_is_capped_with_a_note(asked, got, caplog):
    with caplog.at_level(logging.WARNING):
        metric, clock = make(window_seconds=asked)
    assert len(caplog.records) == (asked != got)
    step(metric, clock, 0, 7000, 150, 51)
    assert values(metric)["window_throughput"] == 4 / 201


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_seconds": 0}, "window_seconds must be at least 1"),
        ({"window_seconds": 0.5}, "window_seconds must be at least 1"),
        ({"warmup_steps": 0}, "warmup_steps must be at least 1"),
        ({"batch_size_stages": [BatchSizeStage(1, 5)]}, "batch_size_stages: expected max_iters"),
    ],
    ids=str,
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make(**options)


def test_arguments_are_keywords():
    parameters = inspect.signature(ThroughputMetric).parameters
    assert [(name, p.default) for name, p in parameters.items()] == [
        ("batch_size", inspect.Parameter.empty),
        ("world_size", inspect.Parameter.empty),
        ("window_seconds", inspect.Parameter.empty),
        ("warmup_steps", 100),
        ("batch_size_stages", None),
        ("clock", None),
    ]
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}


def patch_function(monkeypatch, clock):
    monkeypatch.setattr("recmetrics_jax.adapter.throughput.time.monotonic", clock)


def patch_module(monkeypatch, clock):
    monkeypatch.setattr(throughput, "time", types.SimpleNamespace(monotonic=clock))


@pytest.mark.parametrize("patch", [patch_function, patch_module])
def test_the_clock_is_monotonic_time_looked_up_at_each_step(patch, monkeypatch):
    metric = ThroughputMetric(batch_size=2, world_size=1, window_seconds=10, warmup_steps=1)
    clock = Clock()
    with monkeypatch.context() as context:
        patch(context, clock)
        step(metric, clock, 1, 0.5)
    assert rates(metric) == (4.0, 4.0, 4.0)


def test_without_a_clock_real_seconds_count():
    metric = ThroughputMetric(batch_size=1, world_size=1, window_seconds=10, warmup_steps=1)
    for _ in range(1000):
        metric.update()
    assert 0 < metric.time_lapse_after_warmup.item() < 600


def test_a_restored_metric_goes_on_counting_after_its_own_warmup():
    options: dict[str, Any] = {"batch_size": 6, "warmup_steps": 2}
    metric, clock = make(**options)
    step(metric, clock, 9, 1, 1, 1, 2)
    restored, clock = make(**options)
    restored.load_state_dict(metric.state_dict())
    step(restored, clock, 50)
    assert values(restored) == {"total_examples": 36, "attempt_examples": 6}
    step(restored, clock, 50, 2)
    # 6 * 8 examples so far, 4 * 6 of them in warmups, in 4 + 2 seconds.
    assert values(restored) == {
        "total_examples": 48,
        "attempt_examples": 18,
        "lifetime_throughput": 4.0,
        "window_throughput": 3.0,
        "attempt_throughput": 3.0,
    }


def test_a_restored_metric_reports_no_rate_of_an_attempt_without_time():
    metric, clock = make()
    step(metric, clock, 1, 2)
    restored, clock = make()
    restored.load_state_dict(metric.state_dict())
    step(restored, clock, 1, 0)
    assert rates(restored) == (2.0, 0.0, 0.0)


@pytest.mark.parametrize("stages", [None, [], [BatchSizeStage(2, None)]], ids=str)
def test_lifetime_counters_alone_are_saved(stages):
    metric, clock = make(batch_size_stages=stages)
    step(metric, clock, 1, 1, 1)
    state = metric.state_dict()
    number = {} if stages is None else {"num_batch": 3}
    assert {name: x.item() for name, x in state.items()} == {
        "total_examples": 6,
        "warmup_examples": 2,
        "time_lapse_after_warmup": 2.0,
        **number,
    }
    assert {to_numpy(x).dtype.name for x in state.values()} == {"int64", "float64"}
    assert {tuple(x.shape) for x in state.values()} == {()}


@pytest.mark.parametrize("name", COUNTERS)
def test_missing_counters_are_named(name):
    state = dict(make()[0].state_dict())
    del state[name]
    with pytest.raises(RuntimeError, match=name):
        make()[0].load_state_dict(state)


def test_unexpected_counters_are_named():
    metric = make()[0]
    state = dict(metric.state_dict()) | {"other": metric.total_examples}
    with pytest.raises(RuntimeError, match="other"):
        make()[0].load_state_dict(state)


STAGES = [BatchSizeStage(1, 2), BatchSizeStage(5, 4), BatchSizeStage(7, None)]


def test_batch_sizes_follow_their_stages():
    metric, clock = make(batch_size_stages=STAGES, world_size=2, window_seconds=2)
    sizes, totals, windows = [], [], []
    for _ in range(6):
        step(metric, clock, 1)
        computed = values(metric)
        sizes.append(computed["batch_size"])
        totals.append(computed["total_examples"])
        windows.append(computed.get("window_throughput"))
    assert sizes == [1, 1, 5, 5, 7, 7]
    assert totals == [2, 4, 14, 24, 38, 52]
    # All steps of the window count as of the current size, even those of the stage before.
    assert windows == [None, 2.0, 10.0, 10.0, 14.0, 14.0]


def test_no_stages_at_all_leave_the_batch_size():
    metric, clock = make(batch_size_stages=[])
    step(metric, clock, 1)
    assert values(metric) == {"total_examples": 2, "attempt_examples": 2, "batch_size": 2}


def test_stages_are_the_metrics_own():
    stages = [BatchSizeStage(3, None)]
    metric, clock = make(batch_size_stages=stages)
    stages[0].batch_size = 99
    stages.clear()
    step(metric, clock, 1)
    assert values(metric)["batch_size"] == 3


def test_the_number_of_batches_can_be_set_both_ways():
    metric, _ = make(batch_size_stages=STAGES)
    for number, size in ((4, 5), (5, 7), (0, 1), (3, 5)):
        metric.set_num_batch(number)
        assert values(metric)["batch_size"] == size
        assert metric.state_dict()["num_batch"].item() == number


def test_the_number_of_batches_is_loaded_where_there_are_stages():
    metric, clock = make(batch_size_stages=STAGES)
    step(metric, clock, 1, 1, 1)
    state = metric.state_dict()
    kept = dict(state)

    restored, _ = make(batch_size_stages=STAGES)
    restored.load_state_dict(state)
    assert values(restored)["batch_size"] == 5

    plain, _ = make()
    plain.load_state_dict(state)
    assert "num_batch" not in plain.state_dict()
    plain.set_num_batch(3)
    assert values(plain) == {"total_examples": 7, "attempt_examples": 0}

    restored.load_state_dict(plain.state_dict())  # Nothing is missed, and the stage stays.
    assert values(restored)["batch_size"] == 5
    assert dict(state) == kept


def test_a_copy_counts_for_itself():
    metric, clock = make()
    step(metric, clock, 1, 1)
    other = copy.deepcopy(metric)
    step(other, other._clock, 1, 2)
    assert values(metric)["total_examples"] == 4
    assert values(other)["total_examples"] == 8
    assert rates(metric) == (2.0, 2.0, 2.0)
    assert rates(other) == (1.5, 1.5, 1.5)


@pytest.mark.skipif(torch is None, reason="torch is not installed")
def test_as_a_part_of_a_torch_module():
    metric, clock = make(batch_size_stages=STAGES)
    step(metric, clock, 1, 1, 1)
    model = torch.nn.ModuleDict({"throughput": metric})
    state = model.state_dict()
    assert list(state) == [f"throughput.{name}" for name in [*COUNTERS, "num_batch"]]
    restored = torch.nn.ModuleDict({"throughput": make()[0]})
    restored.load_state_dict(state)
    assert values(restored["throughput"])["total_examples"] == 7
    assert [name for name, _ in metric.named_buffers()] == COUNTERS + ATTEMPT_COUNTERS
