"""GAUC: groups that lie one after another, of lengths that come with each batch."""

import math
from typing import Any

import compilations
import numpy as np
import pytest
from adapter_cases import (
    FUSED,
    TASKS,
    UNFUSED,
    N,
    assert_same,
    batch,
    case_of,
    stacked,
    unchanged,
    values,
)

from recmetrics_jax.adapter import gauc
from recmetrics_jax.adapter._compiling import background
from recmetrics_jax.adapter._tensors import as_kind, from_numpy, kind_of, to_numpy
from recmetrics_jax.adapter.metric_module import RecMetricModule
from recmetrics_jax.adapter.metrics_config import RecMetricEnum, RecTaskInfo
from recmetrics_jax.adapter.rec_metric import RecMetric, RecMetricException, RecMetricList

CASE = case_of("gauc")
COMPILED = "backend_compile_duration"


def area(predictions: Any, labels: Any, weights: Any) -> float | None:
    """The AUC of a group, pair by pair; None if it does not count."""
    predictions, labels, weights = (x.astype(float) for x in (predictions, labels, weights))
    positive, negative = weights @ labels, weights @ (1 - labels)
    has_order = any(p != predictions[0] and p != 0 for p in predictions)
    if not (has_order and positive > 0 and negative > 0):
        return None
    above = 0.0
    for p, y, w in zip(predictions, labels, weights, strict=True):
        for q, z, v in zip(predictions, labels, weights, strict=True):
            above += w * y * v * (1 - z) * ((p > q) + (p == q) / 2)
    return above / (positive * negative + 1e-10)


def sums(
    predictions: Any, labels: Any, weights: Any, lengths: Any
) -> tuple[list[float], list[int]]:
    """The sum of the AUC of groups by task, and how many groups count."""
    areas: list[list[float]] = []
    for p, y, w in zip(predictions, labels, weights, strict=True):
        ends = zip(lengths, np.cumsum(lengths), strict=True)
        groups = [slice(end - n, end) for n, end in ends if n]
        each = [area(p[group], y[group], w[group]) for group in groups]
        areas.append([x for x in each if x is not None])
    return [sum(x) for x in areas], [len(x) for x in areas]


def ragged(seed: int, n_tasks: int = 2, dtype: Any = np.float64) -> list[np.ndarray]:
    """Predictions, labels, weights and lengths: with ties, zeros, and groups of none and of one."""
    rng = np.random.default_rng([21, seed])
    lengths = rng.permutation([0, 1, 1, 2, 2, 3, 4, 5, 6, 6])  # Padded too, they are 60 or fewer.
    shape = (n_tasks, lengths.sum())
    predictions = rng.integers(0, 6, shape) / 8
    labels = (rng.random(shape) < 0.4).astype(dtype)
    weights = rng.random(shape) * (rng.random(shape) < 0.8)
    return [predictions.astype(dtype), labels, weights.astype(dtype), lengths]


def padded(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """``[n_tasks, n_groups, N]``."""
    filled = np.zeros((len(x), len(lengths), lengths.max()), x.dtype)
    ends = np.cumsum(lengths)
    for group, (n, end) in enumerate(zip(lengths, ends, strict=True)):
        filled[:, group, :n] = x[:, end - n : end]
    return filled


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_states_are_the_sums_over_pairs_of_each_group(dtype):
    for seed in range(6):
        *arrays, lengths = ragged(seed, dtype=dtype)
        predictions, labels, weights = arrays
        expected, count = sums(predictions, labels, weights, lengths)
        assert 0 < min(count) < len(lengths)
        of_rows = gauc.get_auc_states(labels, predictions, weights, lengths)
        of_cube = gauc.compute_gauc_3d(*(padded(x, lengths) for x in arrays))
        for states in (of_rows, of_cube):
            assert list(states) == ["auc_sum", "num_samples"]
            assert [x.dtype for x in states.values()] == [dtype, np.int64]
            assert states["num_samples"].tolist() == count
            rtol = 1e-12 if dtype is np.float64 else 1e-7
            np.testing.assert_allclose(states["auc_sum"], np.array(expected, dtype), rtol=rtol)


SKIPPED = {
    "one class": ([0.1, 0.2], [1, 1], [1, 1]),
    "one class but for a weight of 0": ([0.1, 0.2], [1, 0], [1, 0]),
    "one prediction": ([0.5, 0.5], [1, 0], [1, 1]),
    "one prediction and 0": ([0.5, 0.0], [1, 0], [1, 1]),
    "zeros": ([0.0, 0.0], [1, 0], [1, 1]),
    "one example": ([0.5], [1], [1]),
}
COUNTED = {
    "0 comes first": ([0.0, 0.5], [0, 1], [1, 1], 1.0),
    "another prediction, of no weight": ([0.5, 0.5, 0.1], [0, 1, 1], [1, 1, 0], 0.5),
    "ties of a positive and a negative": ([0.5, 0.5, 0.4], [0, 1, 1], [1, 1, 1], 0.25),
    "soft labels": ([0.1, 0.2], [0.5, 0.5], [1, 1], 0.5),
    "a prediction of NaN is the highest": ([math.nan, 0.2], [1, 0], [1, 1], 1.0),
    "a weight of little": ([0.1, 0.2], [0, 1], [1e-4, 1e-4], 1e-8 / (1e-8 + 1e-10)),
    "weights whose product is too small": ([0.1, 0.2], [0, 1], [1e-200, 1e-200], 0.0),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_groups_without_an_order_or_a_class_are_skipped(name):
    predictions, labels, weights = (np.array([x], np.float64) for x in SKIPPED[name])
    states = gauc.get_auc_states(labels, predictions, weights, np.array([labels.size]))
    assert (states["auc_sum"].item(), states["num_samples"].item()) == (0.0, 0)


@pytest.mark.parametrize("name", COUNTED)
def test_groups_with_an_order_and_both_classes_count(name):
    *arrays, expected = COUNTED[name]
    predictions, labels, weights = (np.array([x], np.float64) for x in arrays)
    states = gauc.get_auc_states(labels, predictions, weights, np.array([labels.size]))
    assert states["auc_sum"].item() == pytest.approx(expected, rel=1e-9, abs=0)
    assert states["num_samples"].item() == 1


@pytest.mark.parametrize("name", ["labels", "weights"])
def test_nans_of_one_task_leave_the_others_alone(name):
    predictions, labels, weights, lengths = ragged(0)
    arrays = {"labels": labels, "predictions": predictions, "weights": weights}
    expected = gauc.get_auc_states(**arrays, num_candidates=lengths)["auc_sum"]
    arrays[name][0, 7] = math.nan
    actual = gauc.get_auc_states(**arrays, num_candidates=lengths)["auc_sum"]
    assert np.isnan(actual[0])
    assert actual[1] == expected[1]


def test_no_groups_have_a_mean_of_a_half():
    mean = gauc.compute_window_auc(np.array([1.5, 0.0, math.nan]), np.array([2, 0, 1]))
    np.testing.assert_allclose(mean["gauc"], [0.75, 0.5, math.nan], rtol=1e-9)
    assert mean["num_samples"].tolist() == [2, 0, 1]


def test_groups_are_padded_or_cut_to_one_length():
    rows, lengths = np.arange(12).reshape(6, 2), np.array([3, 0, 1, 2])
    for length in (0, 1, 2, 5):
        cube = gauc.to_3d(rows, lengths, length)
        assert cube.shape == (4, length, 2)
        assert cube.dtype == rows.dtype
        for group, (n, end) in enumerate(zip(lengths, lengths.cumsum(), strict=True)):
            own = rows[end - n : end][:length].tolist()
            assert cube[group].tolist() == own + [[0, 0]] * (length - len(own))


@pytest.mark.parametrize("kind", ["numpy", "jax"])
def test_functions_give_arrays_of_the_kind_they_take(kind):
    predictions, labels, weights, lengths = ragged(1, dtype=np.float32)
    y, p, w = (as_kind(x, kind) for x in (labels, predictions, weights))
    cube = gauc.to_3d(y.T, as_kind(lengths, kind), 4)
    states = gauc.get_auc_states(y, p, w, as_kind(lengths, kind))
    results = [cube, *states.values(), gauc.compute_window_auc(**renamed(states))["gauc"]]
    assert {kind_of(x) for x in results} == {kind}
    expected = gauc.get_auc_states(labels, predictions, weights, lengths)
    np.testing.assert_array_equal(states["auc_sum"], expected["auc_sum"])
    assert states["num_samples"].dtype == np.int64


def renamed(states: dict[str, Any]) -> dict[str, Any]:
    return {"auc": states["auc_sum"], "num_samples": states["num_samples"]}


def by_task(arrays: list[np.ndarray]) -> dict[str, Any]:
    """Arguments of ``update``."""
    names = "predictions", "labels", "weights"
    of_tasks = {
        name: dict(zip("ab", x, strict=True)) for name, x in zip(names, arrays, strict=False)
    }
    return {**of_tasks, "num_candidates": arrays[3]}


@pytest.mark.parametrize("mode", [UNFUSED, FUSED], ids=["unfused", "fused"])
def test_values_are_of_all_batches_and_of_those_in_the_window(mode):
    updates = [ragged(seed) for seed in range(4)]
    size = updates[0][0].shape[1]
    metric = CASE.make(compute_mode=mode, window_size=3 * size - 1)
    for update in updates:
        metric.update(**by_task(update))
    computed = values(metric)
    each = [sums(*update) for update in updates]
    for scope, counted in (("lifetime", each), ("window", each[-2:])):
        for t, task in enumerate("ab"):
            total, count = (sum(x[i][t] for x in counted) for i in (0, 1))
            of_task = f"gauc-{task}|{scope}_gauc"
            expected = (total + 1e-9) / (count + 2e-9)
            np.testing.assert_allclose(computed[of_task], expected, rtol=1e-12)
            assert computed[f"{of_task}_num_samples"] == count


def test_keys_are_in_the_order_of_the_reference():
    names = [f"{s}_{n}" for n in ("gauc", "gauc_num_samples") for s in ("lifetime", "window")]
    unfused = [f"gauc-{task}|{name}" for task in "ab" for name in names]
    assert list(CASE.make().compute()) == unfused
    fused = [f"gauc-{task}|{name}" for name in names for task in "ab"]
    assert list(CASE.make(compute_mode=FUSED).compute()) == fused
    (computation,) = CASE.make(compute_mode=FUSED)._metrics_computations
    states = ["auc_sum", "window_auc_sum", "num_samples", "window_num_samples"]
    assert list(computation._defaults) == states


MISFITS = {
    "too few": (np.array([3, 4]), "add up to 8, .* got a sum of 7"),
    "too many": (np.array([3, 4, 2]), "add up to 8, .* got a sum of 9"),
    "one": (np.array([1]), "add up to 8, .* got a sum of 1"),
    "none": (np.array([], np.int64), "add up to 8, .* got a sum of 0"),
    "below 0": (np.array([9, -1]), "got some below 0"),
    "no whole numbers": (np.array([4.0, 4.0]), r"got float64\[2\]"),
    "by task": (np.array([[4, 4]]), r"got int64\[1, 2\]"),
    "no lengths": (None, "got object"),
}


@pytest.mark.parametrize("mode", [UNFUSED, FUSED], ids=["unfused", "fused"])
@pytest.mark.parametrize("name", MISFITS)
def test_lengths_that_do_not_fit_are_named_and_change_nothing(name, mode):
    lengths, message = MISFITS[name]
    metric = CASE.make(compute_mode=mode)
    metric.update(**batch(CASE, 0))
    with unchanged(metric), pytest.raises(ValueError, match=f"num_candidates: .*{message}"):
        metric.update(**{**batch(CASE, 1), "num_candidates": lengths})
    rows = stacked(batch(CASE, 1))
    with pytest.raises(ValueError, match=f"num_candidates: .*{message}"):
        gauc.get_auc_states(rows["labels"], rows["predictions"], rows["weights"], lengths)


@pytest.mark.parametrize("mode", [UNFUSED, FUSED], ids=["unfused", "fused"])
def test_lengths_that_are_missing_are_named(mode):
    metric = CASE.make(compute_mode=mode)
    arguments = batch(CASE, 0)
    del arguments["num_candidates"]
    with unchanged(metric), pytest.raises(TypeError, match="'num_candidates'"):
        metric.update(**arguments)


def test_a_task_of_another_length_changes_no_task():
    metric = CASE.make()
    long, short = batch(CASE, 0), batch(CASE, 0, n=5)
    names = ("predictions", "labels", "weights")
    arrays = {name: {"a": long[name]["a"], "b": short[name]["b"]} for name in names}
    with unchanged(metric), pytest.raises(ValueError, match=r"num_candidates: .* add up to 5"):
        metric.update(**arrays, num_candidates=long["num_candidates"])


def test_functions_name_what_does_not_fit():
    x = np.ones((1, 4))
    with pytest.raises(ValueError, match=r"predictions: expected shape \[n_tasks, n_groups, N\]"):
        gauc.compute_gauc_3d(x, x, x)
    with pytest.raises(ValueError, match=r"labels: expected shape \(1, 4\)"):
        gauc.get_auc_states(x[:, :3], x, x, np.array([4]))
    with pytest.raises(ValueError, match=r"weights: expected shape \(1, 1, 4\)"):
        gauc.compute_gauc_3d(x[None], x[None], x)
    with pytest.raises(ValueError, match=r"seq_lengths: .* got a sum of 3"):
        gauc.to_3d(x.T, np.array([1, 2]), 2)


def test_computations_want_weights_and_a_fused_update_is_refused():
    rows = stacked(batch(CASE, 0))
    (computation,) = CASE.make(compute_mode=FUSED)._metrics_computations
    for name in ("predictions", "weights"):
        with pytest.raises(RecMetricException, match="for GAUCMetricComputation update"):
            computation.update(**{**rows, name: None})
    with pytest.raises(RecMetricException, match="GAUC and Fused Update Limit"):
        CASE.make(fused_update_limit=2)


def test_a_computation_of_its_own_takes_a_batch_with_other_arguments():
    """As programs that log metrics by computation use it."""
    rows, metric = stacked(batch(CASE, 1)), CASE.make(compute_mode=FUSED)
    metric.update(**batch(CASE, 1))
    computation = gauc.GAUCMetricComputation(my_rank=0, batch_size=N, n_tasks=2, window_size=100)
    computation.update(**rows, max_num_candidates_cpu=np.array(4), required_inputs={"x": 1})
    reports = {f"{r.metric_prefix!s}{r.name!s}": r.value for r in computation.compute()}
    for name, value in reports.items():
        expected = [values(metric)[f"gauc-{task}|{name}"].item() for task in "ab"]
        assert to_numpy(value).tolist() == expected


def test_lengths_reach_gauc_in_a_module_of_several_metrics():
    tasks = [RecTaskInfo(t, f"{t}_y", f"{t}_p", f"{t}_w") for t in "ab"]
    together = [case_of("ne").make(tasks), CASE.make(tasks), case_of("auc").make(tasks)]
    module = RecMetricModule(N, 1, tasks, RecMetricList(together))
    assert module.get_required_inputs() is None
    alone = CASE.make(tasks)
    for seed in (1, 2):
        arguments = batch(CASE, seed)
        alone.update(**arguments)
        output = {
            f"{task}_{x}": from_numpy(arguments[name][task])
            for task in "ab"
            for name, x in (("labels", "y"), ("predictions", "p"), ("weights", "w"))
        }
        module.update(output, num_candidates=arguments["num_candidates"])
    computed = {k: to_numpy(x) for k, x in module.compute().items() if k.startswith("gauc")}
    assert_same(computed, values(alone))
    with unchanged(*together), pytest.raises(TypeError, match="num_candidates"):
        module.update(output)


def test_a_users_metric_may_use_its_computation():
    class Computation(gauc.GAUCMetricComputation):
        """That leaves out the weights."""

        def update(self, *, weights: Any, **kwargs: Any) -> None:
            super().update(weights=np.ones_like(weights), **kwargs)

    class Metric(RecMetric):
        _namespace = gauc.GAUCMetric._namespace
        _computation_class = Computation

    metric, expected = Metric(1, 0, N, TASKS), CASE.make()
    metric.update(**batch(CASE, 1))
    expected.update(**{**batch(CASE, 1), "weights": None})
    assert_same(values(metric), values(expected))


def test_groups_of_other_lengths_compile_nothing():
    rng = np.random.default_rng(3)

    def calls() -> None:
        for n in (33, 50, 63):
            lengths = np.diff([0, *np.sort(rng.integers(0, n + 1, rng.integers(1, 9))), n])
            labels, predictions, weights = rng.random((3, 2, n)).round()
            gauc.get_auc_states(labels, predictions, weights, lengths)

    calls()
    background.wait()
    assert COMPILED not in compilations.during(calls)


def test_no_configuration_names_it():
    """As in the reference: the class is made by hand."""
    assert "gauc" not in [metric.value for metric in RecMetricEnum]
