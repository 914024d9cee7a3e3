"""Parity of the class API with the reference's across ranks, and where it differs on purpose.

All ranks of a world run once, with both packages side by side; the tests read what came of it.
"""

import fcntl
import importlib
import os
from collections.abc import Callable
from typing import Any

import adapter_ranks
import numpy as np
import pytest
from adapter_ranks import PACKAGES, PLANS, Place, Results, cases, copied
from reference import CLASSES, torch
from test_adapter_streams import assert_same, without_times

WORLDS = (2, 4)
CASES = [(world, case) for world in WORLDS for case in cases(world)]


def metric_of(package: str, name: str, here: Place, **kwargs: Any) -> Any:
    """A metric of one task, with a window that nothing leaves."""
    config = importlib.import_module(f"{package}.metrics_config")
    module = importlib.import_module(f"{package}.{name}")
    tasks = [config.RecTaskInfo("task")]
    arguments = {"batch_size": 4, "tasks": tasks, "window_size": 400, **kwargs}
    return getattr(module, CLASSES[name])(here.world, here.rank, **arguments)


def update(metric: Any, *arrays: Any, keys: Any = None) -> None:
    """An update with predictions, labels and weights."""
    inputs = [{"task": torch.tensor(x, dtype=torch.float32)} for x in arrays]
    required = {} if keys is None else {"required_inputs": {"grouping_keys": torch.tensor(keys)}}
    metric.update(
        **dict(zip(("predictions", "labels", "weights"), inputs, strict=True)), **required
    )


def values_or_error(method: Callable[[], Results]) -> Any:
    """Values by what follows the bar in their keys, or the name of what was raised."""
    try:
        return {key.split("|")[1]: value.item() for key, value in method().items()}
    except Exception as error:
        return type(error).__name__


def updated_while_synced(package: str, here: Place) -> Any:
    metric = metric_of(package, "ctr", here)
    update(metric, [0.5] * 4, [1, 0, 0, 0], [1] * 4)
    metric.sync()
    update(metric, [0.5] * 4, [1, 1, 1, 1], [1] * 4)
    metric.unsync()
    return values_or_error(metric.local_compute)


def valid_but_for_the_leader(package: str, here: Place) -> Any:
    metric = metric_of(package, "ctr", here, should_validate_update=True)
    update(metric, [0.5] * 4, [1, 0, 0, 0], [float(here.rank > 0)] * 4)
    return values_or_error(metric.compute)


def computed_while_synced(package: str, here: Place) -> Any:
    metric = metric_of(package, "ctr", here)
    update(metric, [0.5] * 4, [here.rank == 0] * 4, [1] * 4)
    metric.sync()
    return values_or_error(metric.compute)


def rauc_beside_a_rank_without_data(package: str, here: Place) -> Any:
    metric = metric_of(package, "rauc", here)
    if here.rank == 0:
        update(metric, [0.25, 0.75], [-1, 1], [1, 1])
    return values_or_error(metric.compute)


def examples(rank: int) -> list[np.ndarray]:
    """Predictions, no two of all ranks the same, labels, weights and groups of at least two."""
    rng = np.random.default_rng([31, rank])
    n = 12 + 2 * rank
    predictions = (rng.permutation(n) + n * rank + 1) / 64
    return [predictions, rng.integers(0, 2, n), rng.integers(1, 4, n), rng.permutation(n) % 5]


def of_groups(name: str) -> Callable[[str, Place], Any]:
    """A grouped metric of the examples of all ranks."""

    def of_package(package: str, here: Place) -> Any:
        metric = metric_of(package, name, here, **{f"grouped_{name}": True})
        *arrays, keys = examples(here.rank)
        update(metric, *arrays, keys=keys)
        return values_or_error(metric.compute)

    return of_package


def states_of_ranks(package: str, here: Place) -> Any:
    """States of a computation of one's own while they are those of all ranks."""
    base: Any = importlib.import_module(f"{package}.rec_metric").RecMetricComputation

    class Computation(base):
        def __init__(self) -> None:
            super().__init__(here.rank, 4, 1, 100)
            mine = torch.tensor([1.0 + here.rank, 5.0 - here.rank])
            for fx in ("sum", "mean", "max", "min", "cat", None, lambda x: x.prod(0)):
                name = f"of_{getattr(fx, '__name__', fx)}".replace("<lambda>", "function")
                self._add_state(name, mine, add_window_state=False, dist_reduce_fx=fx)
            self._add_state("listed", [], add_window_state=False, dist_reduce_fx="cat")
            self.listed.extend([mine, 2 * mine])

        def update(self, **kwargs: Any) -> None:
            raise NotImplementedError

        def _compute(self) -> list[Any]:
            return []

    computation = Computation()
    computation.sync()
    return {name: copied(getattr(computation, name)) for name in computation._defaults}


DIFFERENCES = {
    "updated_while_synced": updated_while_synced,
    "valid_but_for_the_leader": valid_but_for_the_leader,
    "computed_while_synced": computed_while_synced,
    "rauc_beside_a_rank_without_data": rauc_beside_a_rank_without_data,
    "grouped_auc": of_groups("auc"),
    "grouped_auprc": of_groups("auprc"),
    "grouped_rauc": of_groups("rauc"),
    "states_of_ranks": states_of_ranks,
}


def differences(here: Place) -> Results:
    """What comes of all that differs, or may, in both packages."""
    return {
        name: {which: difference(package, here) for which, package in PACKAGES.items()}
        for name, difference in DIFFERENCES.items()
    }


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """Results by rank of a world, which runs when they are first asked for, and only then.

    It runs once, in whichever of pytest's processes asks first; the others wait for it.
    """
    of_process = tmp_path_factory.getbasetemp()
    base = of_process.parent if "PYTEST_XDIST_WORKER" in os.environ else of_process
    folder = base / "ranks"
    folder.mkdir(exist_ok=True)
    runs: dict[int, list[Results] | Exception] = {}

    def of_world(world: int) -> list[Results]:
        if world not in runs:
            try:
                with (folder / "lock").open("w") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    runs[world] = adapter_ranks.results_of(world, str(folder), differences)
            except Exception as error:
                runs[world] = error
        results = runs[world]
        if isinstance(results, Exception):
            raise results
        return results

    return of_world


@pytest.mark.parametrize(("world", "case"), CASES)
def test_ranks_agree_with_the_reference(run_of, world, case):
    for rank, results in enumerate(run_of(world)):
        ours, theirs = results[case]["ours"], results[case]["theirs"]
        assert list(ours) == list(theirs)
        for step, expected in theirs.items():
            assert ours[step].keys() == expected.keys(), f"rank {rank}, {step}"
            in_order = {name: ours[step][name] for name in expected}
            assert_same(f"rank {rank}, {step}", *map(without_times, (in_order, expected)))


@pytest.mark.parametrize(("world", "case"), CASES)
def test_ranks_have_their_own_states_again_after_unsync(run_of, world, case):
    for results in run_of(world):
        ours = results[case]["ours"]
        assert_same("states", ours["unsynced states"], ours["states"])
        assert_same("values", ours["unsynced local"], ours["local"])


@pytest.mark.parametrize(("world", "case"), CASES)
def test_states_while_synced_are_those_of_all_ranks(run_of, world, case):
    leader = run_of(world)[0][case]["ours"]
    local = {name.replace("local_", ""): x for name, x in leader["synced local"].items()}
    computed = {name: x for name, x in leader["computed 1"].items() if name in local}
    assert len(computed) == len(local) > 0
    assert_same("values", local, computed)


# RAUC has no lifetime values, and the reference fails without examples.
@pytest.mark.parametrize(("world", "case"), [c for c in CASES if not c[1].endswith("-rauc")])
def test_lifetime_values_outlive_a_checkpoint_of_the_leader(run_of, world, case):
    leader = run_of(world)[0][case]["ours"]
    restored = {
        name: x
        for name, x in leader["restored"].items()
        if "|lifetime_" in name and "auprc" not in name and "throughput" not in name
    }
    assert_same("values", restored, {name: leader["computed 1"][name] for name in restored})


@pytest.mark.parametrize(("world", "case"), [c for c in CASES if "module" not in c[1]])
def test_only_the_leader_reports_unless_all_ranks_do(run_of, world, case):
    plan = PLANS[case.partition("-")[0]]
    for rank, results in enumerate(run_of(world)):
        is_leader = (rank % 2 if plan.in_pairs else rank) == 0
        computed = results[case]["ours"]["computed 1"]
        assert bool(computed) == (is_leader or plan.on_all_ranks)
        if computed:
            leader = run_of(world)[rank - rank % 2 if plan.in_pairs else 0]
            assert_same(f"rank {rank}", computed, leader[case]["ours"]["computed 1"])


def both(run_of: Any, world: int, name: str, rank: int = 0) -> tuple[Any, Any]:
    results = run_of(world)[rank][name]
    return results["ours"], results["theirs"]


@pytest.mark.parametrize("world", WORLDS)
def test_updates_while_synced_are_kept_where_the_reference_loses_them(run_of, world):
    for rank in range(world):
        ours, theirs = both(run_of, world, "updated_while_synced", rank)
        assert ours == {"local_lifetime_ctr": 5 / 8, "local_window_ctr": 5 / 8}
        assert theirs == {"local_lifetime_ctr": 1 / 4, "local_window_ctr": 1 / 4}


@pytest.mark.parametrize("world", WORLDS)
def test_updates_of_any_rank_are_valid_where_the_reference_asks_the_leader(run_of, world):
    ours, theirs = both(run_of, world, "valid_but_for_the_leader")
    assert ours == {"lifetime_ctr": 1 / 4, "window_ctr": 1 / 4}
    assert theirs == {"lifetime_ctr": 0.0, "window_ctr": 0.0}


@pytest.mark.parametrize("world", WORLDS)
def test_compute_works_after_sync_where_the_reference_raises(run_of, world):
    ours, theirs = both(run_of, world, "computed_while_synced")
    assert ours == {"lifetime_ctr": 1 / world, "window_ctr": 1 / world}
    assert theirs == "TorchMetricsUserError"


@pytest.mark.parametrize("world", WORLDS)
def test_ranks_without_data_add_no_example_to_rauc_where_the_reference_adds_one(run_of, world):
    ours, theirs = both(run_of, world, "rauc_beside_a_rank_without_data")
    assert ours == {"window_rauc": 1.0}
    n = 2 + world - 1  # Of each other rank one of label 0: above the lower of the two.
    assert theirs["window_rauc"] == pytest.approx(1 - (world - 1) / (n * (n - 1) / 2), rel=1e-6)


def mean_of_groups(world: int, of_group: Callable[..., float]) -> tuple[float, int]:
    """The mean over groups of the examples of all ranks, and how many groups there are."""
    parts = zip(*(examples(rank) for rank in range(world)), strict=True)
    *arrays, keys = (np.concatenate(part) for part in parts)
    groups = np.unique(keys)
    values = [of_group(*(np.asarray(x[keys == key], float) for x in arrays)) for key in groups]
    return float(np.mean(values)), len(groups)


def auc(p: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    pairs = np.outer(w * y, w * (1 - y))
    return float((pairs * (p[:, None] > p)).sum() / pairs.sum()) if pairs.sum() else 0.5


def auprc(p: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    y, w = y[np.argsort(-p)], w[np.argsort(-p)]
    precision = np.cumsum(w * y) / np.cumsum(w)
    return float((w * y * precision).sum() / (w * y).sum()) if y.any() else 0.0


def rauc(p: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    is_inverted = (p[:, None] < p) & (y[:, None] > y)
    return 1 - float(is_inverted.sum()) / (len(p) * (len(p) - 1) / 2)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("of_group", [auc, rauc])
def test_groups_span_ranks_where_the_reference_fails(run_of, world, of_group):
    name = of_group.__name__
    ours, theirs = both(run_of, world, f"grouped_{name}")
    expected, _ = mean_of_groups(world, of_group)
    assert ours[f"window_grouped_{name}"] == pytest.approx(expected, rel=3e-7)
    assert theirs == "IndexError"


@pytest.mark.parametrize("world", WORLDS)
def test_grouped_auprc_counts_groups_where_the_reference_counts_one_more(run_of, world):
    ours, theirs = both(run_of, world, "grouped_auprc")
    expected, count = mean_of_groups(world, auprc)
    assert ours["window_grouped_auprc"] == pytest.approx(expected, rel=3e-7)
    assert theirs["window_grouped_auprc"] == pytest.approx(expected * count / (count + 1), rel=3e-7)


@pytest.mark.parametrize("world", WORLDS)
def test_states_of_one_s_own_are_reduced_as_the_reference_reduces_them(run_of, world):
    for rank in range(world):
        ours, theirs = both(run_of, world, "states_of_ranks", rank)
        assert_same(f"rank {rank}", ours, theirs)
        assert ours["of_cat"].shape == (world, 2)
