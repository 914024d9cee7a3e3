"""What all metric classes of the adapter have in common: values, keys, windows, lifetimes."""

import math
from typing import Any

import numpy as np
import pytest
from adapter_cases import (
    CASES,
    FUSED,
    FUSED_STATES,
    LABELS,
    PREDICTIONS,
    TASKS,
    UNFUSED,
    Case,
    N,
    assert_same,
    batch,
    case_of,
    every_case,
    every_kind,
    every_variant,
    stacked,
    unchanged,
    values,
)

from recmetrics_jax.adapter._tensors import NATIVE, as_kind, kind_of, to_numpy, torch
from recmetrics_jax.adapter.metrics_config import RecTaskInfo
from recmetrics_jax.adapter.rec_metric import (
    MAX_BUFFER_COUNT,
    RecMetricException,
    WindowBuffer,
)

TOLERANCE = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-12}


def updated(case: Case, *seeds: int, **arguments: Any) -> Any:
    metric = case.make(**arguments)
    for seed in seeds:
        metric.update(**batch(case, seed))
    return metric


@every_variant
def test_values_keys_dtypes_and_shapes(case):
    metric = updated(case, 0)
    computed = metric.compute()
    names = [key.split("|")[1] for key in computed if f"{case.namespace}-a|" in key]
    assert names == list(case.values)
    assert list(computed) == [f"{case.namespace}-{t}|{n}" for t in "ab" for n in names]
    for name, expected in case.values.items():
        value = computed[f"{case.namespace}-a|{name}"]
        assert kind_of(value) == "numpy"
        assert value.dtype == case.expected_dtype(name)
        assert value.shape == np.shape([expected])
        np.testing.assert_allclose(value, [expected], rtol=TOLERANCE[value.dtype])


@every_variant
def test_local_values_are_those_of_one_rank(case):
    metric = updated(case, 0, 1)
    local = values(metric, "local_compute")
    assert_same(
        {key.replace("|local_", "|"): value for key, value in local.items()}, values(metric)
    )
    assert all("|local_" in key for key in local)


@every_variant
@pytest.mark.parametrize("mode", [FUSED, FUSED_STATES], ids=["fused", "fused states"])
def test_fused_tasks_have_the_values_of_unfused_ones(case, mode):
    unfused, by_task, in_one = (
        case.make(),
        case.make(compute_mode=mode),
        case.make(compute_mode=mode),
    )
    for seed in (0, 1):
        arguments = batch(case, seed)
        unfused.update(**arguments)
        by_task.update(**arguments)
        in_one.update(**stacked(arguments))
    expected = values(unfused)
    for metric in (by_task, in_one):
        actual = values(metric)
        assert sorted(actual) == sorted(expected)
        for key, value in expected.items():
            np.testing.assert_array_equal(actual[key], value[0], err_msg=key)
            assert actual[key].shape == value.shape[1:]
            assert actual[key].dtype == value.dtype
    # Fused: by value, and then by task.
    names = list(dict.fromkeys(key.split("|")[1] for key in expected))
    assert list(values(in_one)) == [f"{case.namespace}-{t}|{n}" for n in names for t in "ab"]


@every_kind
@every_variant
def test_values_are_of_the_kind_of_the_predictions(case, kind):
    metric = case.make()
    metric.update(**batch(case, 0, convert=lambda x: as_kind(x, kind)))
    computed = metric.compute()
    assert {kind_of(value) for value in computed.values()} == {kind}
    assert_same(computed, updated(case, 0).compute())


def test_values_before_any_batch_are_of_the_native_kind():
    for case in CASES:
        assert {kind_of(value) for value in case.make().compute().values()} == {NATIVE}


NAN_BEFORE = ("ne", "unweighted_ne", "r_squared", "weighted_avg", "multiclass_recall", "ndcg")
BEFORE = {"lifetime_auprc": 0.5, "window_auprc": 0.0, "window_auc": 0.5, "window_rauc": 0.5}
BEFORE |= {f"window_grouped_{name}": 0.5 for name in ("auc", "auprc", "rauc")}
BEFORE |= {"lifetime_gauc": 0.5, "window_gauc": 0.5}
BEFORE |= {f"{scope}_{name}": math.nan for scope in ("lifetime", "window") for name in NAN_BEFORE}


@every_variant
@pytest.mark.parametrize("mode", [UNFUSED, FUSED], ids=["unfused", "fused"])
def test_values_before_any_batch_and_after_a_reset(case, mode):
    metric = case.make(compute_mode=mode)
    fresh = values(metric)
    for key, value in fresh.items():
        name = key.split("|")[1]
        np.testing.assert_array_equal(value, BEFORE.get(name, 0.0), err_msg=key)
    metric.update(**batch(case, 1))
    metric.reset()
    assert_same(values(metric), fresh)
    metric.update(**batch(case, 2))
    other = case.make(compute_mode=mode)
    other.update(**batch(case, 2))
    assert_same(values(metric), values(other))


@every_variant
def test_no_weights_are_weights_of_one(case):
    without, ones = case.make(), case.make()
    arguments = batch(case, 1)
    without.update(**{**arguments, "weights": None})
    ones.update(**{**arguments, "weights": {task: np.ones(N) for task in "ab"}})
    assert_same(values(without), values(ones))


@every_variant
def test_tasks_that_are_missing_from_a_batch_keep_their_states(case):
    partly, other = updated(case, 0), updated(case, 0)
    arguments = batch(case, 1)
    partly.update(
        **batch(case, 1)
        | {k: {"b": arguments[k]["b"]} for k in ("predictions", "labels", "weights")}
    )
    other.update(**arguments)
    actual, before, after = values(partly), values(updated(case, 0)), values(other)
    for key in actual:
        expected = before if "-a|" in key else after
        np.testing.assert_array_equal(actual[key], expected[key], err_msg=key)


@every_variant
def test_tasks_differ_in_their_number_of_examples(case):
    if case.has_lengths:
        pytest.skip("the groups of all tasks have the same lengths")
    together, alone = case.make(), case.make()
    long, short = batch(case, 1), batch(case, 2, n=5)
    names = ("predictions", "labels", "weights")
    required = {"required_inputs": {case.key: 7}} if case.key else {}
    together.update(**{k: {"a": long[k]["a"], "b": short[k]["b"]} for k in names}, **required)
    for arguments, task in ((long, "a"), (short, "b")):
        alone.update(**{k: {task: arguments[k][task]} for k in names}, **required)
    assert_same(values(together), values(alone))


@every_variant
def test_values_are_computed_anew_every_time(case):
    metric = updated(case, 0)
    first = metric.compute()
    kept = {key: np.array(to_numpy(value)) for key, value in first.items()}
    for value in first.values():
        value[...] = 9.0  # Values are the caller's.
    assert_same(values(metric), kept)
    metric.update(**batch(case, 1))
    assert any(not np.array_equal(values(metric)[key], value) for key, value in kept.items())


@every_case
def test_other_ranks_report_nothing_unless_told_to(case):
    metric = updated(case, 0, my_rank=1)
    assert metric.compute() == {}
    assert len(metric.local_compute()) == 2 * len(case.values)
    everywhere = updated(case, 0, my_rank=1, compute_on_all_ranks=True)
    assert_same(values(everywhere), values(updated(case, 0)))


@every_case
def test_unknown_options_are_named(case):
    with pytest.raises(ValueError, match="Unexpected keyword arguments: `foo`"):
        case.make(foo=1)


@every_case
def test_options_of_the_reference_are_accepted(case):
    metric = updated(
        case, 0, enable_pt2_compile=True, should_clone_update_inputs=True, batch_size_stages=None
    )
    assert_same(values(metric), values(updated(case, 0)))


@every_variant
def test_required_inputs_are_named(case):
    assert case.make().get_required_inputs() == ({case.key} if case.key else set())
    if case.key:
        arguments = batch(case, 0)
        for required in ({}, {"other": np.zeros(N)}):
            metric = case.make()
            with unchanged(metric), pytest.raises(RecMetricException, match=case.key):
                metric.update(**{**arguments, "required_inputs": required})


def test_the_key_of_sessions_can_be_another():
    case = case_of("ndcg")
    metric = case.make(session_key="user")
    assert metric.get_required_inputs() == {"user"}
    arguments = batch(case, 0)
    metric.update(
        **arguments | {"required_inputs": {"user": arguments["required_inputs"]["session_id"]}}
    )
    assert_same(values(metric), values(updated(case, 0)))


def test_classes_must_be_given():
    with pytest.raises(KeyError, match="number_of_classes"):
        case_of("multiclass_recall").metric(1, 0, N, TASKS)


@every_case
def test_states_have_the_documented_names_and_dtypes(case):
    for computation in updated(case, 0)._metrics_computations:
        for name in computation._defaults:
            state = getattr(computation, name)
            if isinstance(state, list):
                assert {x.dtype for x in map(to_numpy, state)} == {np.dtype(np.float32)}
            else:
                assert to_numpy(state).dtype == np.float64
                assert kind_of(state) == NATIVE
        if not case.keeps_samples:
            for name in list(computation.state_dict()):
                window = computation.get_window_state(name)
                assert computation.get_window_state_name(name) == f"window_{name}"
                np.testing.assert_array_equal(
                    to_numpy(window), to_numpy(getattr(computation, name))
                )
        with pytest.raises(AttributeError, match="window_nothing"):
            computation.get_window_state("nothing")


def test_memory_is_counted_array_by_array():
    case = case_of("ne")
    metric = case.make(tasks=[RecTaskInfo(name="a")])
    assert sum(metric.get_memory_usage().values()) == 128
    metric.update(**batch(case, 0, tasks=("a",)))
    assert sum(metric.get_memory_usage().values()) == 160
    metric.compute()
    assert sum(metric.get_memory_usage().values()) == 160
    if torch is not None:
        assert all(isinstance(x, torch.Tensor) for x in metric.get_memory_usage())


def test_memory_of_examples_and_of_batches_that_wait():
    auc = case_of("auc")
    metric = auc.make(tasks=[RecTaskInfo(name="a")], window_size=2 * N)
    assert sum(metric.get_memory_usage().values()) == 3 * 4  # One column, without weight.
    for seed in range(1, 5):
        metric.update(**batch(auc, seed, tasks=("a",)))
        examples = min(seed, 2) * N * 3 * 4
        assert sum(metric.get_memory_usage().values()) == examples
    ctr = case_of("ctr")
    waiting = ctr.make(fused_update_limit=3)
    empty = sum(waiting.get_memory_usage().values())
    waiting.update(**batch(ctr, 0))
    assert sum(waiting.get_memory_usage().values()) == empty + 2 * 3 * N * 8


@every_case
def test_pre_compute_is_called_before_values_are(case, monkeypatch):
    metric = updated(case, 0)
    called = []
    for computation in metric._metrics_computations:
        monkeypatch.setattr(computation, "pre_compute", lambda c=computation: called.append(c))
    metric.compute()
    metric.local_compute()
    assert [id(c) for c in called] == [id(c) for c in metric._metrics_computations] * 2


def test_positional_batches_are_refused():
    metric = case_of("ctr").make()
    arguments = batch(case_of("ctr"))
    with pytest.raises(TypeError):
        metric.update(arguments["predictions"], arguments["labels"], arguments["weights"])


@pytest.mark.parametrize(
    ("world_size", "window", "batch_size", "local"), [(3, 10, 4, 4), (1, 8, 8, 8), (4, 9, 3, 3)]
)
def test_the_window_of_a_rank_is_its_share_rounded_up(world_size, window, batch_size, local):
    metric = case_of("ctr").make(world_size=world_size, window_size=window, batch_size=batch_size)
    assert metric._window_size == local
    assert all(c._window_size == local for c in metric._metrics_computations)
    message = f"Got local window size {local} and batch size {local + 1}"
    with pytest.raises(ValueError, match=message):
        case_of("ctr").make(world_size=world_size, window_size=window, batch_size=local + 1)


@every_case
def test_the_newest_batches_are_the_window(case):
    metric = updated(case, 1, 2, 3, window_size=2 * N)
    newest = values(updated(case, 2, 3))
    everything = values(updated(case, 1, 2, 3))
    for key, value in values(metric).items():
        expected = newest if "|window" in key else everything
        np.testing.assert_allclose(value, expected[key], rtol=1e-12, err_msg=key)


@every_case
def test_the_newest_batch_counts_even_if_the_window_is_smaller(case):
    metric = case.make(window_size=N)
    metric.update(**batch(case, 1))
    metric.update(**batch(case, 2, n=12))
    other = case.make()
    arguments = batch(case, 2, n=12)
    if case.keeps_samples:  # Of examples, the newest.
        for name in ("predictions", "labels", "weights"):
            arguments[name] = {task: x[-N:] for task, x in arguments[name].items()}
    other.update(**arguments)
    expected = values(other)
    for key, value in values(metric).items():
        if "|window" in key:
            np.testing.assert_allclose(value, expected[key], rtol=1e-12, err_msg=key)


@pytest.mark.parametrize("first", [1e8, math.inf, math.nan], ids=str)
def test_what_has_left_a_window_leaves_no_trace(first):
    metric = case_of("mse").make(tasks=TASKS[:1], batch_size=1, window_size=2)
    for prediction in (first, 0.1, 0.1):
        one = {"a": np.array([prediction])}
        metric.update(predictions=one, labels={"a": np.zeros(1)}, weights=None)
    assert values(metric)["mse-a|window_mse"] == pytest.approx(0.01, rel=1e-12)


def test_a_window_holds_the_newest_thousand_updates():
    case = case_of("ctr")
    metric = case.make(tasks=TASKS[:1], batch_size=1, window_size=10_000)
    labels = [1.0] * 3 + [0.0] * (MAX_BUFFER_COUNT - 2)
    for label in labels:
        metric.update(predictions={"a": np.zeros(1)}, labels={"a": np.array([label])}, weights=None)
    computation = metric._metrics_computations[0]
    assert len(computation._batch_window_buffers["window_ctr_num"].buffers) == MAX_BUFFER_COUNT
    assert values(metric)["ctr-a|window_ctr"] == 2 / MAX_BUFFER_COUNT
    assert values(metric)["ctr-a|lifetime_ctr"] == 3 / (MAX_BUFFER_COUNT + 1)


@pytest.mark.parametrize("seed", range(3))
def test_window_buffers_hold_the_sum_of_the_newest(seed):
    rng = np.random.default_rng(seed)
    buffer, kept = WindowBuffer(max_size=20, max_buffer_count=5), []
    state = np.zeros((2, 3))
    for _ in range(200):
        contribution, size = rng.integers(-50, 50, (2, 3)) / 1.0, int(rng.integers(1, 30))
        kept.append((contribution.copy(), size))
        while len(kept) > 1 and (len(kept) > 5 or sum(s for _, s in kept) > 20):
            kept.pop(0)
        if rng.random() < 0.5:
            buffer.aggregate_state(state, contribution, size)
            np.testing.assert_array_equal(state, sum(c for c, _ in kept))
        else:
            buffer.push(contribution.copy(), size)
        contribution[...] = np.nan  # The caller's own.
        assert len(buffer.buffers) == len(kept)
        np.testing.assert_array_equal(np.stack(list(buffer.buffers)), [c for c, _ in kept])


def test_without_a_window_there_are_no_twins():
    case = case_of("ctr")
    computation = case.metric._computation_class(0, N, 1, 0)
    computation.update(predictions=PREDICTIONS[None], labels=LABELS[None], weights=np.ones((1, N)))
    assert [report.metric_prefix.value for report in computation.compute()] == ["lifetime_"]
    with pytest.raises(RuntimeError, match="window metric is disabled"):
        computation._add_state("more", np.zeros(1), add_window_state=True)
    with pytest.raises(RuntimeError, match="window metric is disabled"):
        computation._aggregate_window_state("ctr_num", np.zeros(1), 1)
