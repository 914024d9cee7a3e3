"""GAUC of both packages: over random groups, key by key, and where they differ on purpose."""

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from adapter_pair import OURS, PACKAGES, THEIRS, module, tasks_of
from reference import torch

from recmetrics_jax.adapter.rec_metric import RecMetricException

RTOL = 1e-9
# The reference subtracts from its windows what leaves them. What rounding leaves of that, about
# 1e-16, it divides by 2e-9 where the window holds no groups.
ATOL = 1e-12
ATOL_WITHOUT_GROUPS = 1e-6
# Of sums of a few rounded areas.
FLOAT32_RTOL = 1e-6
UNFUSED = "UNFUSED_TASKS_COMPUTATION"
FUSED = "FUSED_TASKS_COMPUTATION"
FUSED_STATES = "FUSED_TASKS_AND_STATES_COMPUTATION"
SIZE = 48  # of the largest batch

Rng = np.random.Generator


@contextlib.contextmanager
def padding_of_float64() -> Iterator[None]:
    """What pads groups in the reference moves floats of 32 bits, and integers of 64."""
    theirs = module(THEIRS, "gauc")
    before = theirs.to_3d

    def to_3d(x: Any, lengths: Any, longest: int) -> Any:
        if x.dtype != torch.float64:
            return before(x, lengths, longest)
        return before(x.contiguous().view(torch.int64), lengths, longest).view(torch.float64)

    theirs.to_3d = to_3d
    try:
        yield
    finally:
        theirs.to_3d = before


def lengths_of_groups(rng: Rng) -> np.ndarray:
    """Some of them 0 or 1."""
    lengths = rng.integers(0, 7, rng.integers(1, 9))
    return lengths if lengths.sum() else np.array([3])


def examples(rng: Rng, n: int) -> list[np.ndarray]:
    """Of a task: predictions that differ, or are 0; one class at times, and weights of 0."""
    predictions = (rng.permutation(SIZE * 2)[:n] + 1) / (SIZE * 2 + 1)
    labels = (rng.random(n) < rng.choice([0.1, 0.4, 0.9])).astype(np.float64)
    # Tied zeros would count as sorting leaves them: they are all of one class.
    predictions[(rng.random(n) < 0.2) & (labels == 0)] = 0.0
    return [predictions, labels, rng.random(n) * (rng.random(n) < 0.9)]


def drawn_update(rng: Rng, tasks: list[str], mode: str, dtype: Any) -> dict[str, Any]:
    """Arguments of ``update``, as dictionaries or stacked."""
    lengths = lengths_of_groups(rng)
    by_task = {task: examples(rng, lengths.sum()) for task in tasks}
    if mode == UNFUSED and len(tasks) > 1 and rng.random() < 0.2:
        del by_task[tasks[0]]
    arguments: dict[str, Any] = {}
    for i, name in enumerate(("predictions", "labels", "weights")):
        arrays = {task: torch.tensor(x[i], dtype=dtype) for task, x in by_task.items()}
        is_stacked = mode != UNFUSED and rng.random() < 0.5
        arguments[name] = torch.stack(list(arrays.values())) if is_stacked else arrays
    if rng.random() < 0.2:
        arguments["weights"] = None
    kind = torch.int64 if rng.random() < 0.5 else torch.int32
    return {**arguments, "num_candidates": torch.tensor(lengths, dtype=kind)}


def gauc_of(package: str, tasks: list[str], mode: str, **options: Any) -> Any:
    modes = module(package, "metrics_config").RecComputeMode
    return module(package, "gauc").GAUCMetric(
        world_size=1,
        my_rank=0,
        batch_size=1,
        tasks=tasks_of(package, tasks),
        compute_mode=modes[mode],
        **options,
    )


def computed(metric: Any) -> Any:
    """The values of a metric, all of whose tasks may not have been updated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
        return metric.compute()


def assert_same(pair: Iterable[Mapping[str, Any]], rtol: float = RTOL) -> None:
    """The same tensors by the same names in the same order, ours and the reference's."""
    ours, theirs = pair
    assert list(ours) == list(theirs)
    for name, expected in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (expected.dtype, expected.shape), name
        has_none = not theirs.get(f"{name}_num_samples", torch.ones(1)).any()
        atol = ATOL_WITHOUT_GROUPS if has_none and "window" in name else ATOL
        torch.testing.assert_close(ours[name], expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("mode", [UNFUSED, FUSED, FUSED_STATES])
def test_random_streams_of_gauc_agree_with_the_reference(mode, dtype):
    rtol = RTOL if dtype == torch.float64 else FLOAT32_RTOL
    with padding_of_float64():
        for seed in range(12):
            rng = np.random.default_rng([31, seed])
            tasks = ["a", "b"][: 1 + seed % 2]
            options = {"window_size": int(rng.choice([SIZE, 100, 10_000]))}
            options |= {"should_validate_update": bool(rng.random() < 0.3)}
            metrics = [gauc_of(package, tasks, mode, **options) for package in PACKAGES[::-1]]
            assert_same(map(computed, metrics), rtol)
            updates = [drawn_update(rng, tasks, mode, dtype) for _ in range(8)]
            for update in updates:
                for metric in metrics:
                    metric.update(**update)
                assert_same(map(computed, metrics), rtol)
            assert_same((metric.local_compute() for metric in metrics), rtol)
            assert metrics[0].get_required_inputs() == metrics[1].get_required_inputs() == set()
            compare_checkpoints(metrics, updates[0], tasks, mode, options, rtol)


def compare_checkpoints(
    metrics: list[Any], update: Any, tasks: list[str], mode: str, options: Any, rtol: float
) -> None:
    """State dicts, each loaded into the other package, go on alike, as do metrics after a reset."""
    states = [metric.state_dict() for metric in metrics]
    assert_same(states, rtol)
    restored = [gauc_of(package, tasks, mode, **options) for package in PACKAGES[::-1]]
    for metric, state in zip(restored, states[::-1], strict=True):
        metric.load_state_dict({name: x.clone() for name, x in state.items()})
        metric.update(**update)
    assert_same(map(computed, restored), rtol)
    for metric in metrics:
        metric.reset()
        metric.update(**update)
    assert_same(map(computed, metrics), rtol)


def rows(seed: int, dtype: Any, n_tasks: int = 2) -> tuple[dict[str, Any], Any]:
    """Arrays of tasks, and the lengths of their groups."""
    rng = np.random.default_rng([32, seed])
    lengths = lengths_of_groups(rng)
    arrays = zip(*(examples(rng, lengths.sum()) for _ in range(n_tasks)), strict=True)
    names = "predictions", "labels", "weights"
    by_name = {
        n: torch.tensor(np.stack(x), dtype=dtype) for n, x in zip(names, arrays, strict=True)
    }
    return by_name, torch.tensor(lengths)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_functions_of_gauc_agree_with_the_reference(dtype):
    rtol = RTOL if dtype == torch.float64 else FLOAT32_RTOL
    ours, theirs = (module(package, "gauc") for package in (OURS, THEIRS))
    with padding_of_float64():
        for seed in range(12):
            arrays, lengths = rows(seed, dtype)
            for longest in (int(lengths.max()), 3):
                cubes = {
                    name: [m.to_3d(x.T, lengths, longest) for m in (ours, theirs)]
                    for name, x in arrays.items()
                }
                for cube, expected in cubes.values():
                    assert cube.dtype == expected.dtype
                    assert torch.equal(cube, expected)
                cube = {name: x[1].permute(2, 0, 1) for name, x in cubes.items()}
                assert_same((m.compute_gauc_3d(**cube) for m in (ours, theirs)), rtol)
            states = [m.get_auc_states(**arrays, num_candidates=lengths) for m in (ours, theirs)]
            assert_same(states, rtol)
            total = states[1]["auc_sum"].double(), states[1]["num_samples"].double()
            assert_same(m.compute_window_auc(*total) for m in (ours, theirs))


def states_of(package: str, *arrays: Any, lengths: Any = None) -> tuple[float, int]:
    """What one task adds; arrays of predictions, labels and weights of one."""
    p, y = (x if isinstance(x, torch.Tensor) else torch.tensor([x]) for x in arrays)
    lengths = torch.tensor([p.shape[1]] if lengths is None else lengths)
    states = module(package, "gauc").get_auc_states(
        y, p, torch.ones(p.shape, dtype=p.dtype), lengths
    )
    return states["auc_sum"].item(), states["num_samples"].item()


def test_ties_count_half_where_the_reference_goes_by_the_order():
    for labels, theirs in (([0.0, 1.0, 1.0], 0.5), ([1.0, 0.0, 1.0], 0.0)):
        tied = [0.5, 0.5, 0.4], labels
        assert states_of(THEIRS, *tied) == pytest.approx((theirs, 1))
        assert states_of(OURS, *tied) == pytest.approx((0.25, 1))


def test_soft_labels_count_half_against_themselves_where_the_reference_counts_all():
    soft = [0.1, 0.2], [0.5, 0.5]
    assert states_of(THEIRS, *soft) == pytest.approx((0.75, 1))
    assert states_of(OURS, *soft) == pytest.approx((0.5, 1))


@pytest.mark.parametrize("name", ["float64", "bool"])
def test_dtypes_that_the_reference_cannot_pad_are_taken(name):
    dtype = getattr(torch, name)
    predictions = torch.tensor([[0.1, 0.2]], dtype=torch.float64 if name == "float64" else None)
    arrays = predictions, torch.tensor([[0, 1]], dtype=dtype)
    with pytest.raises(NotImplementedError):
        states_of(THEIRS, *arrays)
    assert states_of(OURS, *arrays) == pytest.approx((1.0, 1))


def test_lengths_that_do_not_add_up_are_named_where_the_reference_leaves_examples_out():
    arrays = [0.1, 0.2, 0.3, 0.4], [0.0, 1.0, 1.0, 0.0]
    assert states_of(THEIRS, *arrays, lengths=[2, 1]) == pytest.approx((1.0, 1))
    for lengths in ([2, 1], [2, 3], [5, -1]):
        with pytest.raises(ValueError, match="num_candidates"):
            states_of(OURS, *arrays, lengths=lengths)


def test_no_groups_are_none_where_the_reference_fails():
    nothing = torch.zeros(1, 0), torch.zeros(1, 0)
    none = np.zeros(0, np.int64)
    with pytest.raises(RuntimeError):
        states_of(THEIRS, *nothing, lengths=none)
    assert states_of(OURS, *nothing, lengths=none) == (0.0, 0)


def test_joined_updates_are_refused_where_the_reference_loses_the_lengths():
    theirs = gauc_of(THEIRS, ["a"], UNFUSED, fused_update_limit=2)
    arrays, lengths = rows(0, torch.float32, 1)
    update = {name: {"a": x[0]} for name, x in arrays.items()}
    theirs.update(**update, num_candidates=lengths)
    with pytest.raises(TypeError, match="num_candidates"):
        theirs.update(**update, num_candidates=lengths)
    with pytest.raises(RecMetricException, match="GAUC and Fused Update Limit"):
        gauc_of(OURS, ["a"], UNFUSED, fused_update_limit=2)


def test_no_configuration_of_either_package_names_gauc():
    for package in PACKAGES:
        mapping = module(package, "metric_module").REC_METRICS_MAPPING
        assert module(package, "gauc").GAUCMetric not in mapping.values()
        assert not hasattr(module(package, "metrics_config").RecMetricEnum, "GAUC")
