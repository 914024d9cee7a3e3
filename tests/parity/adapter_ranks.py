"""What ranks of torch.distributed do with the class API of both packages, in spawned processes.

Each rank runs all cases side by side, `run`, and returns what came out of either package in a file
of its own. Of a case all ranks draw the same numbers, and each takes its part.
"""

import dataclasses
import importlib
import os
import pathlib
import shutil
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from adapter_streams import (
    FUSED,
    FUSED_STATES,
    KINDS,
    NEVER_LEFT,
    OF_CLICKS,
    OURS,
    REFERENCE,
    UNFUSED,
    Drawer,
    Form,
    Rng,
    Setting,
    Task,
    Update,
    copied,
    drawn_options,
    in_float64,
    pick,
    pool_of_distinct,
)
from reference import CLASSES, CONTRACT, torch

BATCH = 8
PACKAGES = {"ours": OURS, "theirs": REFERENCE}
KNOWN_WARNINGS = (  # of the reference
    "The ``compute`` method of metric",
    "torch.meshgrid: in an upcoming release",
    "Using a non-tuple sequence for multidimensional indexing",
)
PATIENCE = 600.0  # seconds that a run may take on a busy machine

Results = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How ranks take part in a stream."""

    mode: str
    local_window: int  # examples of a rank
    limit: int = 0
    validate: bool = False
    on_all_ranks: bool = False
    in_pairs: bool = False  # ranks 0 and 1 are a group, and 2 and 3 another
    idle: tuple[int, ...] = ()  # ranks without data
    dtype: str = "float64"


PLANS = {
    "windows_overflow": Plan(UNFUSED, 2 * BATCH, on_all_ranks=True),
    "a_rank_has_no_data": Plan(FUSED, 2 * BATCH, idle=(1,)),
    "updates_are_joined": Plan(UNFUSED, 3 * BATCH, limit=3),
    "updates_are_validated": Plan(UNFUSED, NEVER_LEFT, validate=True, dtype="float32"),
    "fused_updates_are_validated": Plan(FUSED_STATES, NEVER_LEFT, validate=True),
    "in_pairs": Plan(UNFUSED, BATCH, in_pairs=True, on_all_ranks=True, dtype="float32"),
    "in_pairs_fused": Plan(FUSED, 2 * BATCH, in_pairs=True),
}
MODULES = {
    "module_unfused": Plan(UNFUSED, 2 * BATCH, on_all_ranks=True),
    "module_fused": Plan(FUSED, 2 * BATCH, idle=(1,)),
    "module_in_pairs_validated": Plan(UNFUSED, NEVER_LEFT, validate=True, in_pairs=True),
}
PLANS_OF_RANKS = {
    2: [*(name for name in PLANS if "pairs" not in name), "module_unfused", "module_fused"],
    4: [
        *("a_rank_has_no_data", "in_pairs", "in_pairs_fused"),
        "module_in_pairs_validated",
    ],
}
# All that are documented, and others whose states are not just float64 by task.
METRICS = [name for name in CLASSES if name in (*CONTRACT, "serving_ne", "segmented_ne")]
MODULE_METRICS = ("ne", "auc", "mse", "accuracy", "auprc", "calibration", "xauc")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process is among those that merge their states."""

    rank: int
    world: int
    group: Any = None

    def of(self, plan: Plan) -> "Place":
        """The place in the group of a plan."""
        return PAIRS[self.rank // 2] if plan.in_pairs else self


PAIRS: list[Place] = []  # of this process; its place is in the pair of its rank


def setting_of(rng: Rng, name: str, plan: Plan, world: int) -> Setting:
    """A metric of two tasks, with some of its options that work across ranks."""
    options = {
        option: value
        for option, value in drawn_options(rng, name).items()
        # The reference fails on groups across ranks, or counts one too many.
        if not option.startswith("grouped")
    }
    is_keyed = name in ("ndcg", "segmented_ne")
    window = plan.local_window
    return Setting(
        name,
        (Task("task0"), Task("task1", is_negative_task=name == "ndcg")),
        plan.mode,
        BATCH,
        window if window == NEVER_LEFT else window * world - 1,
        0 if is_keyed else plan.limit,
        plan.validate,
        options,
    )


def metric_of(package: str, setting: Setting, plan: Plan, place: Place) -> Any:
    """The metric of a package, fresh, on this rank."""
    config = importlib.import_module(f"{package}.metrics_config")
    module = importlib.import_module(f"{package}.{setting.name}")
    return getattr(module, CLASSES[setting.name])(
        world_size=place.world,
        my_rank=place.rank,
        batch_size=setting.batch_size,
        tasks=[config.RecTaskInfo(**dataclasses.asdict(task)) for task in setting.tasks],
        compute_mode=config.RecComputeMode[setting.mode],
        window_size=setting.window,
        fused_update_limit=setting.limit,
        compute_on_all_ranks=plan.on_all_ranks,
        should_validate_update=setting.validate,
        process_group=place.group,
        **setting.options,
    )


def drawer_of(rng: Rng, setting: Setting, plan: Plan) -> Drawer:
    """Batches for a metric, of the plan's dtype."""
    dtypes = (getattr(torch, plan.dtype),) * 3
    form = Form(dtypes, False, "flat", False, setting.is_fused)
    predictions, labels = (pick(rng, choices) for choices in KINDS.get(setting.name, OF_CLICKS))
    if setting.name == "auc" and setting.options.get("apply_bin"):
        labels = "soft_labels"
    pattern = pick(rng, ("ones", "random", "with_zeros"))
    if plan.validate:
        pattern = "zero_task"
    if setting.name == "rauc":
        pattern = "random"  # Left without examples the reference fails.
    return Drawer(setting, form, predictions, labels, pattern)


def is_complete(update: Update, setting: Setting) -> bool:
    """Whether all tasks have examples."""
    predictions = update.predictions
    if not isinstance(predictions, dict):
        return predictions.numel() > 0
    return all(task.name in predictions and len(predictions[task.name]) for task in setting.tasks)


def drawn_updates(rng: Rng, drawer: Drawer, plan: Plan, world: int) -> list[list[list[Update]]]:
    """Updates by rank, in two phases; the first of a rank has all tasks, with weights.

    In the second phase some ranks have none.
    """
    setting = drawer.setting
    pools = {task.name: list(pool_of_distinct(rng, setting.name, False)) for task in setting.tasks}
    first = dataclasses.replace(drawer, pattern="random")
    by_rank = []
    for rank in range(world):
        counts = (rng.integers(2, 5), rng.integers(0, 5)) if rank not in plan.idle else (0, 0)
        phases: list[list[Update]] = [
            [drawer.update(rng, pools, is_first=False) for _ in range(count)] for count in counts
        ]
        if phases[0]:
            while not is_complete(update := first.update(rng, pools, is_first=True), setting):
                pass
            phases[0][0] = update
        by_rank.append(phases)
    return by_rank


def computed(metric: Any) -> Results:
    """The values of a metric, computed anew.

    The reference keeps them until the next update. A rank without one would not take part in the
    exchange that others wait for, and they would hang.
    """
    for module in metric.modules():
        if hasattr(module, "_computed"):
            module._computed = None
    return copied(dict(metric.compute()))


def lives_of(
    metric: Any, phases: list[list[Update]], place: Place, *, is_restored: bool
) -> Results:
    """What a metric says on this rank over its life: computed, synced, restored."""
    said: Results = {}
    for i, updates in enumerate(phases):
        for update in updates:
            update.apply(metric)
        said[f"computed {i}"] = computed(metric)
    said["local"] = metric.local_compute()
    said["states"] = copied(metric.state_dict())  # the reference's throughput goes on in it
    metric.sync()
    synced = said["synced states"] = copied(metric.state_dict())
    said["synced local"] = metric.local_compute()
    for _ in range(2):  # The second time there is nothing to do.
        metric.unsync()
    said["unsynced local"] = metric.local_compute()
    said["unsynced states"] = copied(metric.state_dict())
    metric.reset()
    if place.rank == 0:
        metric.load_state_dict(copied(synced))
    if is_restored:
        said["restored"] = computed(metric)
    for update in phases[0]:
        update.apply(metric)
    said["restored, and updated"] = computed(metric)
    return said


def metric_case(name: str, plan_name: str, here: Place) -> Results:
    """A metric's life in both packages."""
    plan = PLANS[plan_name]
    place = here.of(plan)
    rng = np.random.default_rng([21, here.world, list(CLASSES).index(name)])
    setting = setting_of(rng, name, plan, place.world)
    rng = np.random.default_rng(
        [22, here.world, list(CLASSES).index(name), list(PLANS).index(plan_name)]
    )
    if name == "rauc":
        plan = dataclasses.replace(plan, idle=())  # A difference: the reference invents an example.
    phases = drawn_updates(rng, drawer_of(rng, setting, plan), plan, here.world)[here.rank]
    with in_float64(name):
        return {
            which: lives_of(
                metric_of(package, setting, plan, place),
                phases,
                place,
                is_restored=name != "rauc",  # The reference fails without examples.
            )
            for which, package in PACKAGES.items()
        }


def module_of(package: str, plan: Plan, place: Place) -> Any:
    """A module of several metrics of two tasks, on this rank."""
    config = importlib.import_module(f"{package}.metrics_config")
    module = importlib.import_module(f"{package}.metric_module")
    tasks = [
        config.RecTaskInfo(f"task{i}", f"label{i}", f"prediction{i}", f"weight{i}")
        for i in range(2)
    ]
    window = plan.local_window * (1 if plan.local_window == NEVER_LEFT else place.world)
    metrics = {
        config.RecMetricEnum[name.upper()]: config.RecMetricDef(tasks, window_size=window)
        for name in MODULE_METRICS
    }
    return module.generate_metric_module(
        module.RecMetricModule,
        metrics_config=config.MetricsConfig(
            rec_tasks=tasks,
            rec_metrics=metrics,
            throughput_metric=config.ThroughputDef(),
            rec_compute_mode=config.RecComputeMode[plan.mode],
            compute_on_all_ranks=plan.on_all_ranks,
            should_validate_update=plan.validate,
        ),
        batch_size=BATCH,
        world_size=place.world,
        my_rank=place.rank,
        state_metrics_mapping={},
        device=torch.device("cpu"),
        process_group=place.group,
    )


def model_outputs(rng: Rng, plan: Plan, world: int) -> list[list[list[dict[str, Any]]]]:
    """Outputs of a model by rank, in two phases, alike to `drawn_updates`."""
    pools = [list((2 * rng.permutation(1024) + 1) / 2048) for _ in range(2)]

    def output(is_first: bool) -> dict[str, Any]:
        size = int(rng.integers(2, BATCH + 1))
        arrays: dict[str, Any] = {}
        for i, pool in enumerate(pools):
            has_weight = is_first or rng.random() < 0.7
            arrays[f"label{i}"] = rng.integers(0, 2, size)
            arrays[f"prediction{i}"] = [pool.pop() for _ in range(size)]
            arrays[f"weight{i}"] = rng.integers(1, 4, size) * has_weight
        return {name: torch.tensor(np.array(x), dtype=torch.float64) for name, x in arrays.items()}

    def of_rank(rank: int) -> list[list[dict[str, Any]]]:
        counts = (rng.integers(2, 5), rng.integers(0, 5)) if rank not in plan.idle else (0, 0)
        return [[output(is_first=i == 0) for i in range(count)] for count in counts]

    return [of_rank(rank) for rank in range(world)]


class _Output:
    """A model's output, applied as an `Update` is."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        self.arrays = arrays

    def apply(self, module: Any) -> None:
        module.update(copied(self.arrays))


def module_case(plan_name: str, here: Place) -> Results:
    """A module's life in both packages."""
    plan = MODULES[plan_name]
    place = here.of(plan)
    rng = np.random.default_rng([23, here.world, list(MODULES).index(plan_name)])
    outputs = model_outputs(rng, plan, here.world)[here.rank]
    phases: Any = [[_Output(arrays) for arrays in phase] for phase in outputs]
    return {
        which: lives_of(module_of(package, plan, place), phases, place, is_restored=True)
        for which, package in PACKAGES.items()
    }


def cases(world: int) -> list[str]:
    """All that ranks do: ``<plan>`` for a module, ``<plan>-<metric>`` for a metric."""
    return [
        case
        for plan in PLANS_OF_RANKS[world]
        for case in ([plan] if plan in MODULES else [f"{plan}-{name}" for name in METRICS])
    ]


def case_of(case: str, here: Place) -> Results:
    """What both packages do in a case."""
    plan, _, name = case.partition("-")
    return metric_case(name, plan, here) if name else module_case(plan, here)


def run(rank: int, world: int, folder: str, differences: Callable[[Place], Results]) -> None:
    """All cases on a rank; results go to ``<folder>/<world>_<rank>.pt``."""
    import jax

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    # What one run has compiled, the next need not.
    jax.config.update("jax_compilation_cache_dir", f"{folder}/compiled_{rank}")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    warnings.simplefilter("error")
    for known in KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=known)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous_{world}", rank=rank, world_size=world
    )
    pairs = [torch.distributed.new_group([i, i + 1]) for i in range(0, world, 2)]
    PAIRS[:] = [Place(rank % 2, 2, pair) for pair in pairs]
    here = Place(rank, world)
    results = {case: case_of(case, here) for case in cases(world)} | differences(here)
    torch.save(results, pathlib.Path(folder, f"{world}_{rank}.pt"))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def results_of(world: int, folder: str, differences: Callable[[Place], Results]) -> list[Results]:
    """The results of each rank, of as many processes; none of them is left behind.

    They are in the folder already if these have run.
    """
    done = pathlib.Path(folder, f"{world}_done")
    if not done.exists():
        _run_ranks(world, folder, differences)
        done.touch()
    return [
        torch.load(pathlib.Path(folder, f"{world}_{rank}.pt"), weights_only=False)
        for rank in range(world)
    ]


def _run_ranks(world: int, folder: str, differences: Callable[[Place], Results]) -> None:
    pathlib.Path(folder, f"rendezvous_{world}").unlink(missing_ok=True)  # Of a run that failed.
    compiled = [pathlib.Path(folder, f"compiled_{rank}") for rank in range(world)]
    for own in compiled:
        if compiled[0].exists() and not own.exists():
            shutil.copytree(compiled[0], own)
    context = torch.multiprocessing.spawn(
        run, (world, folder, differences), nprocs=world, join=False
    )
    deadline = time.monotonic() + PATIENCE
    try:
        # It raises where a process has failed, and ends the others.
        while not context.join(timeout=5.0):
            assert time.monotonic() < deadline, f"{world} ranks ran for over {PATIENCE} s"
    finally:
        for process in context.processes:
            process.kill()
            process.join()
