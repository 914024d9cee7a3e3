"""What is used of torchmetrics' metrics on a computation."""

import pickle
import sys
import types
from typing import Any

import numpy as np
import pytest
from adapter_cases import FUSED, TASKS, UNFUSED, N, assert_same, batch, case_of, needs_torch, values
from test_user_metrics import NumpyComputation, NumpyMetric

from recmetrics_jax.adapter._module import Module
from recmetrics_jax.adapter._tensors import from_numpy, kind_of, to_numpy, torch
from recmetrics_jax.adapter.auc import AUCMetricComputation
from recmetrics_jax.adapter.ctr import CTRMetric, CTRMetricComputation
from recmetrics_jax.adapter.ne import NEMetricComputation
from recmetrics_jax.adapter.rec_metric import RecMetricException

WINDOW = 2 * N


def fresh(of: Any = NEMetricComputation, n_tasks: int = 1, **options: Any) -> Any:
    return of(0, N, n_tasks, WINDOW, **options)


def examples(seed: int = 0, name: str = "ne") -> dict[str, Any]:
    """Arguments of a computation's update."""
    arguments = batch(case_of(name), seed, tasks=("a",), convert=from_numpy)
    return {key: x["a"][None] for key, x in arguments.items()}


def numbers(reports: Any) -> dict[str, Any]:
    return {f"{r.metric_prefix}{r.name}": to_numpy(r.value) for r in reports}


def states_of(computation: Any) -> dict[str, Any]:
    """Copies of all states."""
    return {
        name: [np.array(to_numpy(x)) for x in (state if isinstance(state, list) else [state])]
        for name, state in computation.metric_state.items()
    }


def twice(x: Any, group: Any = None) -> list[Any]:
    """As two ranks that have the same."""
    return [x, x]


EVERY = {"declared": NEMetricComputation, "written": NumpyComputation, "kept": AUCMetricComputation}
every_kind = pytest.mark.parametrize("of", EVERY.values(), ids=list(EVERY))


@every_kind
def test_a_call_gives_the_values_of_its_batch_and_takes_it_in(of):
    called, updated, alone = fresh(of), fresh(of), fresh(of)
    for seed in range(3):
        given = called(**examples(seed))
        updated.update(**examples(seed))
        alone.reset()
        alone.update(**examples(seed))
        assert_same(numbers(given), numbers(alone.compute()))
        assert called._forward_cache is given
    assert_same(numbers(called.compute()), numbers(updated.compute()))
    np.testing.assert_equal(states_of(called), states_of(updated))
    assert called.update_count == updated.update_count == 3


def test_a_call_that_fails_changes_nothing():
    computation = fresh(NumpyComputation)
    computation.update(**examples())
    before, reset = states_of(computation), computation.reset
    computation.reset = lambda: [reset(), 1 / 0]
    with pytest.raises(ZeroDivisionError):
        computation(**examples(1))
    computation.reset = reset
    after = fresh(NumpyComputation)
    after.update(**examples())
    after.update(**examples(1))
    np.testing.assert_equal(states_of(computation), states_of(after))
    assert np.any(before["clicks"][0] != states_of(after)["clicks"][0])


@every_kind
def test_updates_are_counted(of):
    computation = fresh(of)
    assert (computation.update_count, computation.update_called) == (0, False)
    for _ in range(2):
        computation.update(**examples())
    assert (computation.update_count, computation.update_called) == (2, True)
    assert computation._update_called
    with pytest.raises((RecMetricException, IndexError)):
        computation.update(predictions=None, labels=None, weights=None)
    assert computation.update_count == 2
    assert pickle.loads(pickle.dumps(computation)).update_count == 2
    computation.reset()
    assert (computation.update_count, computation._forward_cache) == (0, None)


@pytest.mark.parametrize("mode", [UNFUSED, FUSED], ids=["unfused", "fused"])
@pytest.mark.parametrize("metric_class", [CTRMetric, NumpyMetric])
def test_updates_of_metrics_are_those_of_their_computations(metric_class, mode):
    metric = metric_class(1, 0, N, TASKS, compute_mode=mode)
    arguments = batch(case_of("ctr"))
    metric.update(**arguments)
    if mode == UNFUSED:
        metric.update(**{name: {"b": x["b"]} for name, x in arguments.items()})
    counts = [computation.update_count for computation in metric._metrics_computations]
    assert counts == ([1, 2] if mode == UNFUSED else [1])


def test_updates_that_call_others_count_once():
    class Calling(CTRMetricComputation):
        def update(self, **arguments: Any) -> None:
            super().update(**arguments)
            super().update(**arguments)

    computation = fresh(Calling)
    computation.update(**examples())
    assert computation.update_count == 1
    assert to_numpy(computation.ctr_denom).item() == 2 * np.sum(examples()["weights"].tolist())


def test_a_clone_shares_nothing():
    computation = fresh()
    computation.update(**examples())
    other = computation.clone()
    expected = states_of(computation)
    other.update(**examples(1))
    np.testing.assert_equal(states_of(computation), expected)
    assert (type(other), other.update_count) == (NEMetricComputation, 2)


def test_a_computation_is_equal_to_itself_alone():
    first, second = fresh(), fresh()
    before = hash(first)
    first.update(**examples())
    assert hash(first) == before
    assert first == first
    assert first != second
    assert len({first, second, first}) == 2
    assert [second, first].index(first) == 1


def test_states_are_persistent_as_told():
    computation = fresh()
    names = list(computation.state_dict())
    computation.update(**examples())
    computation.persistent(mode=True)
    everything = computation.state_dict()
    assert list(everything) == list(computation.metric_state)
    assert set(everything) == {*names, *(f"window_{name}" for name in names)}
    other = fresh()
    other.persistent(mode=True)
    other.load_state_dict(everything)
    assert_same(numbers(other.compute()), numbers(computation.compute()))
    computation.persistent()
    assert not computation.state_dict()


def test_kept_examples_that_were_loaded_stay():
    computation, other, joined = (fresh(AUCMetricComputation) for _ in range(3))
    for each in (computation, other):
        each.persistent(mode=True)
    computation.update(**examples())
    other.load_state_dict(computation.state_dict())
    for each in (computation, other):
        each.update(**examples(1))
    for seed in (0, 1):
        joined.update(**examples(seed))
    for each in (computation, other):
        assert_same(numbers(each.compute()), numbers(joined.compute()))
        assert sum(chunk.shape[1] for chunk in each.labels) == 2 * N


def test_dtypes_of_states_change_where_asked():
    dtype = np.float32 if torch is None else torch.float32
    computation = fresh(case_of("serving_ne").metric._computation_class)
    computation.update(**examples())
    expected = numbers(computation.compute())
    for same in (computation.float(), computation.double(), computation.half()):
        assert same is computation
    assert computation.type(dtype) is computation
    assert to_numpy(computation.pos_labels).dtype == np.float64
    assert computation.set_dtype(dtype) is computation
    kinds = {name: to_numpy(x).dtype for name, x in computation.state_dict().items()}
    assert kinds.pop("num_examples") == np.int64
    assert set(kinds.values()) == {np.dtype(np.float32)}
    for name, value in numbers(computation.compute()).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6)
    computation.update(**examples(1))
    assert to_numpy(computation.pos_labels).dtype == np.float32
    computation.reset()
    assert to_numpy(computation.pos_labels).dtype == np.float32
    written = fresh(NumpyComputation).set_dtype(dtype)
    assert written.clicks.dtype == np.float32


def test_states_are_on_the_cpu():
    assert str(fresh().device) == "cpu"


@every_kind
def test_states_are_gathered_by_a_function_of_ones_own(of):
    computation = fresh(of)
    computation.update(**examples())
    before = states_of(computation)
    computation.sync(dist_sync_fn=twice)  # There are no ranks.
    np.testing.assert_equal(states_of(computation), before)
    computation.sync(dist_sync_fn=twice, should_sync=False, distributed_available=lambda: True)
    np.testing.assert_equal(states_of(computation), before)
    with computation.sync_context(dist_sync_fn=twice, distributed_available=lambda: True):
        for name, (state, *_) in states_of(computation).items():
            expected = np.concatenate(before[name], axis=1) if of is AUCMetricComputation else None
            if expected is None:
                np.testing.assert_equal(state, 2 * before[name][0], err_msg=name)
            else:
                np.testing.assert_equal(state, np.tile(expected, 2), err_msg=name)
        with pytest.raises(RecMetricException, match="already been synced"):
            computation.sync(dist_sync_fn=twice, distributed_available=lambda: True)
        with pytest.raises(RecMetricException, match="shouldn't be synced"):
            computation(**examples())
    np.testing.assert_equal(states_of(computation), before)
    with computation.sync_context(
        dist_sync_fn=twice, distributed_available=lambda: True, should_unsync=False
    ):
        pass
    assert computation.is_merged
    computation.unsync(should_unsync=False)
    assert computation.is_merged
    computation.unsync()
    np.testing.assert_equal(states_of(computation), before)


def test_values_are_of_what_is_gathered_unless_told_otherwise():
    groups = []

    def gather(x: Any, group: Any = None) -> list[Any]:
        groups.append(group)
        return [x, 0 * x, x]

    options = {"dist_sync_fn": gather, "distributed_available_fn": lambda: True}
    metric = CTRMetric(1, 0, N, TASKS[:1], process_group="mine", **options)
    (computation,) = metric._metrics_computations
    metric.update(**batch(case_of("ctr"), tasks=("a",)))
    seen = []

    def noted() -> list[Any]:
        seen.append(to_numpy(computation.ctr_denom).item())
        return []

    computation._compute = noted
    metric.compute()
    computation.compute()
    assert set(groups) == {"mine"}
    local = to_numpy(computation.ctr_denom).item()
    assert seen == [2 * local] * 2
    computation.sync_on_compute = False
    assert not computation.sync_on_compute
    metric.compute()
    assert seen[-1] == local
    called = fresh(NumpyComputation, dist_sync_on_step=True, **options)
    expected = fresh(NumpyComputation)
    expected.update(**examples())
    alike = numbers(expected.compute())  # A mean of the same three times, one of no weight.
    assert_same(numbers(called(**examples())), alike, 1e-12)
    assert not fresh(NumpyComputation, sync_on_compute=False).sync_on_compute


def test_options_that_are_none_are_named():
    for name in ("sync_on_compute", "dist_sync_on_step", "compute_on_cpu", "compute_with_cache"):
        with pytest.raises(ValueError, match=f"`{name}` to be a `bool`"):
            fresh(**{name: 1})
    for name in ("dist_sync_fn", "distributed_available_fn"):
        with pytest.raises(ValueError, match=f"`{name}` to be a function"):
            fresh(**{name: 1})
    with pytest.raises(ValueError, match="foo"):
        fresh(foo=1)


def test_computations_are_metrics_of_torchmetrics_once_it_is_there(monkeypatch):
    import abc

    class Metric(abc.ABC):  # noqa: B024 - as torchmetrics has it
        """A stand-in, of which this process may have no other."""

    package: Any = types.ModuleType("torchmetrics")
    monkeypatch.setitem(sys.modules, "torchmetrics", package)
    fresh()  # While it is being imported, it has no metric yet.
    package.Metric = Metric
    computation = fresh()
    assert computation._filter_kwargs(anything=1) == {"anything": 1}
    assert isinstance(computation, Metric)
    assert issubclass(NumpyComputation, Metric)
    assert not isinstance(CTRMetric(1, 0, N, TASKS), Metric)


def test_what_lightning_asks_of_a_metric_that_is_logged():
    """As its ``_ResultMetric`` does, with a computation that gives a number."""

    class Mean(NumpyComputation):
        def compute(self) -> Any:
            return from_numpy(self.clicks / self.views)[0]

    class Lightning(Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = fresh(Mean)

    module = Lightning()
    assert [name for name, each in module.named_children() if each is module.mean] == ["mean"]
    step = module.mean(**examples())
    assert module.mean._forward_cache is step
    assert module.mean.update_called
    assert module.mean._computed is None
    assert module.mean.compute() == step
    module.mean.reset()
    assert not module.mean.update_called


@needs_torch
@pytest.mark.parametrize("name", ["ne", "auc", "serving_ne"])
def test_what_is_made_under_inference_mode_is_added_to_outside_of_it(name):
    metric, expected = (case_of(name).make(TASKS[:1]) for _ in range(2))
    arguments = batch(case_of(name), tasks=("a",), convert=from_numpy)
    expected.update(**arguments)
    state = expected.state_dict()
    with torch.inference_mode():
        other = case_of(name).make(TASKS[:1])
        metric.reset()
        for each in (metric, other):
            each.load_state_dict({key: x.clone() for key, x in state.items()})
    for each in (metric, other, expected):
        each.update(**arguments)
    for each in (metric, other):
        assert_same(each.state_dict(), expected.state_dict())
    with torch.inference_mode():
        metric.reset()
        metric.update(**arguments)
    metric.update(**arguments)
    expected.reset()
    for _ in range(2):
        expected.update(**arguments)
    assert_same(values(metric), values(expected))


def test_what_is_kept_before_the_first_example_is_counted_once():
    for name, columns in (("auc", 3), ("rauc", 3), ("grouped auc", 3)):
        metric = case_of(name).make(TASKS[:1])
        keys = 8 if name == "grouped auc" else 0
        held = metric.get_memory_usage()
        assert sum(held.values()) == metric.held_bytes() == columns * 4 + keys
        assert {kind_of(x) for x in held} <= {"torch", "numpy"}
