"""Examples per second of tasks: by clocks that the tests wind."""

import time
from typing import Any

import numpy as np
import pytest
from adapter_cases import FUSED, TASKS, UNFUSED, values

from recmetrics_jax.adapter._tensors import from_numpy, to_numpy
from recmetrics_jax.adapter.metrics_config import BatchSizeStage
from recmetrics_jax.adapter.rec_metric import RecMetricException
from recmetrics_jax.adapter.tower_qps import TowerQPSMetric, TowerQPSMetricComputation

every_mode = pytest.mark.parametrize("mode", [UNFUSED, FUSED], ids=["unfused", "fused"])


def metric_of(*tasks: Any, **arguments: Any) -> Any:
    defaults: dict[str, Any] = {"window_size": 8, "warmup_steps": 2}
    return TowerQPSMetric(1, 0, 4, list(tasks or TASKS[:1]), **(defaults | arguments))


@pytest.fixture
def clock(monkeypatch):
    """The seconds that the metrics see."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def step(metric: Any, clock: list[float], seconds: float, *sizes: int, weights: Any = None) -> None:
    """Updates each task with so many examples, as many seconds later."""
    clock[0] += seconds
    tasks = [task.name for task in metric._tasks]
    labels = {task: np.zeros(size) for task, size in zip(tasks, sizes, strict=False)}
    metric.update(predictions=None, labels=labels, weights=weights)


def rates(metric: Any, task: str = "a") -> list[float]:
    """Lifetime and window rate, and the number of examples, of a task."""
    computed = values(metric)
    names = "lifetime_qps", "window_qps", "total_examples"
    assert [key for key in computed if key.startswith(f"qps-{task}")] == [
        f"qps-{task}|{name}" for name in names
    ]
    return [computed[f"qps-{task}|{name}"].item() for name in names]


def test_steps_of_the_warmup_are_counted_and_not_timed(clock):
    metric, seen = metric_of(), []
    for seconds in (1, 1, 1, 2, 4):
        step(metric, clock, seconds, 4)
        seen.append(rates(metric))
    assert seen == [[0, 0, 4], [0, 0, 8], [4, 4, 12], [8 / 3, 8 / 3, 16], [12 / 7, 8 / 6, 20]]
    computed = values(metric)
    dtypes = [(x.dtype, x.shape) for x in computed.values()]
    assert dtypes == [(np.float64, (1,)), (np.float64, (1,)), (np.int64, (1,))]


@pytest.mark.parametrize("warmup_steps", [0, 1])
def test_the_first_step_has_no_time_of_its_own(warmup_steps, clock):
    metric = metric_of(warmup_steps=warmup_steps)
    for size in (4, 2, 2):
        step(metric, clock, 2.0, size)
    assert rates(metric) == [1.0, 1.0, 8]


def test_tasks_have_examples_of_their_own(clock):
    metric = metric_of(*TASKS, warmup_steps=1)
    step(metric, clock, 1.0, 4, 3)
    step(metric, clock, 1.0, 2, 0)
    step(metric, clock, 1.0, 2)
    assert rates(metric) == [2.0, 2.0, 8]
    assert rates(metric, "b") == [0.0, 0.0, 3]


@every_mode
def test_batches_without_weight_are_not_counted_where_validated(mode, clock):
    metric = metric_of(*TASKS, warmup_steps=1, compute_mode=mode, should_validate_update=True)
    nothing, something = np.zeros(4), np.eye(4)[0]
    for weights in ({"a": something, "b": nothing}, {"a": nothing, "b": nothing}):
        for _ in range(2):
            step(metric, clock, 1.0, 4, 4, weights=weights)
    assert rates(metric) == [4.0, 4.0, 8]
    assert rates(metric, "b") == [0.0, 0.0, 0]
    step(metric, clock, 1.0, 4, 4)
    assert rates(metric, "b")[2] == (4 if mode == UNFUSED else 12)


def test_fused_tasks_come_stacked_or_by_name(clock):
    metric = metric_of(*TASKS, warmup_steps=1, compute_mode=FUSED)
    step(metric, clock, 1.0, 4, 4)
    clock[0] += 2.0
    metric.update(predictions=None, labels=np.zeros((2, 3)), weights=None)
    assert rates(metric) == rates(metric, "b") == [1.5, 1.5, 7]
    for sizes in ((4,), (4, 3)):
        with pytest.raises(RecMetricException, match="Failed to convert labels to tensor"):
            step(metric, clock, 1.0, *sizes)


def test_states_are_saved_and_the_warmup_begins_anew(clock):
    metric, other = metric_of(), metric_of()
    for _ in range(3):
        step(metric, clock, 2.0, 4)
    states = metric.state_dict()
    saved = {key.rpartition(".")[2]: to_numpy(x).tolist() for key, x in states.items()}
    assert saved == {"num_examples": [12], "warmup_examples": [8], "time_lapse": [2.0]}
    assert [to_numpy(x).dtype.kind for x in states.values()] == ["i", "i", "f"]
    other.load_state_dict(states)
    step(other, clock, 1.0, 4)
    assert rates(other) == [2.0, 0.0, 16]
    assert rates(metric) == [2.0, 2.0, 12]
    other.reset()
    step(other, clock, 1.0, 4)
    step(other, clock, 1.0, 4)
    assert rates(other) == [4.0, 4.0, 8]


def test_values_that_were_returned_stay(clock):
    metric = metric_of()
    step(metric, clock, 1.0, 4)
    total = metric.compute()["qps-a|total_examples"]
    step(metric, clock, 1.0, 4)
    assert total.tolist() == [4]


def test_the_number_of_batches_is_saved_where_there_are_stages(clock):
    stages = [BatchSizeStage(4, 2), BatchSizeStage(6, None)]
    metric, other = metric_of(batch_size_stages=stages), metric_of(batch_size_stages=stages)
    sizes = []
    for _ in range(4):
        step(metric, clock, 1.0, 4)
        sizes.append(metric._batch_size)
    assert sizes == [4, 4, 6, 6]
    states = metric.state_dict(prefix="of.")
    assert list(states)[-1] == "of.num_batch"
    assert to_numpy(states["of.num_batch"]).item() == 4
    other.load_state_dict(metric.state_dict())
    assert other._num_batch == 4
    metric_of().load_state_dict(metric.state_dict())
    assert "num_batch" not in metric_of().state_dict()
    with pytest.raises(ValueError, match="last"):
        metric_of(batch_size_stages=[BatchSizeStage(4, 2)])


def test_misuse_is_named(clock):
    with pytest.raises(RecMetricException, match="Fused update is not supported for tower QPS"):
        metric_of(fused_update_limit=2)
    with pytest.raises(KeyError, match="warmup_steps"):
        TowerQPSMetricComputation(0, 4, 1, 8)
    with pytest.raises(ValueError, match="labels"):
        metric_of().update(predictions=None, labels=np.zeros(4), weights=None)


def test_ranks_take_the_time_of_the_slowest():
    computation = TowerQPSMetricComputation(0, 4, 1, 8, warmup_steps=1)
    payloads = []
    for seconds, examples in ((1.0, 12), (2.0, 12)):
        other = TowerQPSMetricComputation(0, 4, 1, 8, warmup_steps=1)
        other.num_examples, other.warmup_examples = (
            from_numpy(np.array([x])) for x in (examples, 4)
        )
        other.time_lapse = from_numpy(np.array([seconds]))
        payloads.append(other.payload_for_ranks())
    computation.take_merged(payloads)
    reports = computation._compute()
    assert [to_numpy(report.value).tolist() for report in reports] == [[8.0], [0.0], [24]]
