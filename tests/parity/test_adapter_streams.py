"""Parity of the class API with the reference's over random streams, key by key.

Keys, their order, dtypes and shapes are the same, and values equal to a relative 1e-9, save where
the reference computes in float32.
"""

import dataclasses
import importlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from adapter_streams import (
    FUSED,
    N_GROUPS,
    NEVER_LEFT,
    OURS,
    REFERENCE,
    UNFUSED,
    Rng,
    Setting,
    Stream,
    Update,
    chance,
    copied,
    drawn_options,
    drawn_stream,
    in_float64,
    pick,
)
from reference import CLASSES, CONTRACT, MEMBERS, STREAMED, torch
from streams import Tally

RTOL = 1e-9
# Of values of 1: NDCG is the sum of 1 - DCG / ideal DCG, some of which are 0 but for rounding.
NDCG_ATOL = 1e-12
# Five roundings of 6e-8. Sums are whole, so that only quotients are rounded; over 1500 streams
# of each, no area of the reference was further than 2.1e-7 from its own in float64.
FLOAT32_RTOL = 3e-7
STREAMS = 20  # in a chunk, of which metrics that are documented have three
FEW = {"hindsight_target_pr": 4}  # of which an update takes the reference a tenth of a second
GARBAGE = ("lifetime_hindsight_target_pr", "window_hindsight_target_pr")  # of the reference
NOT_IN_MODULES = ("hindsight_target_pr", "output", "scalar", "tensor_weighted_avg")
"""What is too slow, or takes other outputs, tasks, or dtypes than the rest."""
CHUNKS = [(name, i) for name in STREAMED for i in range(3 if name in CONTRACT else 1)]


@dataclasses.dataclass
class AdapterTally(Tally):
    """What has been compared, with values of float32 apart."""

    undefined: int = 0
    largest_float32: float = 0.0

    def add_tensors(self, ours: Any, theirs: Any) -> None:
        """Values that were found to agree, NaN included."""
        arrays = [np.asarray(x.double()) for x in (ours, theirs)]
        kept = self.largest
        self.add(*(np.where(np.abs(arrays[1]) < 1e-9, 0.0, x) for x in arrays))
        self.undefined += int(np.isnan(arrays[1]).sum())
        if theirs.dtype == torch.float32:
            self.largest_float32 = max(self.largest_float32, self.largest)
            self.largest = kept

    def __str__(self) -> str:
        return (
            f"{super().__str__()} ({self.largest_float32:.1e} in float32), "
            f"{self.undefined} values undefined"
        )


TALLY = AdapterTally()


def close(ours: Any, theirs: Any, name: str) -> bool:
    """Whether values agree as closely as the reference computes them."""
    atol = NDCG_ATOL if "ndcg" in name else 0.0
    rtol = FLOAT32_RTOL if theirs.dtype == torch.float32 else RTOL
    return torch.allclose(ours, theirs, rtol=rtol, atol=atol, equal_nan=True)


def assert_same(where: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """The same tensors by the same names in the same order."""
    assert list(ours) == list(theirs), f"{where}: {list(ours)} instead of {list(theirs)}"
    for name, expected in theirs.items():
        value = ours[name]
        message = f"{where}: {name}: {value} instead of {expected}"
        assert isinstance(value, torch.Tensor), message
        if name.endswith(GARBAGE):
            continue
        assert (value.dtype, value.shape) == (expected.dtype, expected.shape), message
        assert close(value, expected, name), message
        TALLY.add_tensors(value, expected)


def computed(metric: Any, method: str = "compute") -> Any:
    """Values of a metric, updated or not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
        return getattr(metric, method)()


def apply(update: Update, metric: Any) -> None:
    """Updates a metric."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release")
        update.apply(metric)


def compare(stream: Stream, where: str, ours: str = OURS) -> list[Any]:
    """Both packages' metrics over a stream; returns them."""
    metrics = [stream.setting.metric(package) for package in (ours, REFERENCE)]
    for i, (update, is_computed) in enumerate(zip(stream.updates, stream.computed, strict=True)):
        for metric in metrics:
            apply(update, metric)
        if is_computed:
            assert_same(f"{where}, update {i}", *map(computed, metrics))
    assert_same(f"{where}, locally", *(computed(metric, "local_compute") for metric in metrics))
    assert metrics[0].get_required_inputs() == metrics[1].get_required_inputs(), where
    return metrics


def compare_after_reset(stream: Stream, metrics: list[Any], where: str) -> None:
    """Both packages' metrics begin anew."""
    for metric in metrics:
        metric.reset()
        apply(stream.updates[0], metric)
    assert_same(f"{where}, after a reset", *map(computed, metrics))


def compare_checkpoints(stream: Stream, metrics: list[Any], where: str, ours: str = OURS) -> None:
    """State dicts, each loaded into the other package, go on alike."""
    states = [metric.state_dict() for metric in metrics]
    assert_same(f"{where}, state dict", *states)
    restored = [stream.setting.metric(package) for package in (ours, REFERENCE, REFERENCE)]
    for metric, state in zip(restored, (states[1], states[0], states[1]), strict=True):
        metric.load_state_dict(copied(state))  # the reference goes on with the tensors it is given
    fails_empty = stream.setting.name == "rauc"  # the reference, without examples
    for update in [None, *stream.updates[:1]]:
        if update is not None:
            for metric in restored:
                apply(update, metric)
        elif fails_empty:
            continue
        values = [computed(metric) for metric in restored]
        assert_same(f"{where}, loaded from the reference", values[0], values[2])
        assert_same(f"{where}, loaded into the reference", values[0], values[1])


def describe(setting: Setting, seed: list[int]) -> str:
    return f"{seed}: {setting}"


@pytest.mark.parametrize(("name", "chunk"), CHUNKS)
def test_random_streams_agree_with_the_reference(name, chunk):
    streams = FEW.get(name, STREAMS)
    for index in range(chunk * streams, (chunk + 1) * streams):
        seed = [11, list(CLASSES).index(name), index]
        stream = drawn_stream(np.random.default_rng(seed), name)
        where = describe(stream.setting, seed)
        with stream.context():
            metrics = compare(stream, where)
            if index % 3 == 0:
                compare_checkpoints(stream, metrics, where)
            elif index % 3 == 1:
                compare_after_reset(stream, metrics, where)
        TALLY.streams += 1


@dataclasses.dataclass(frozen=True)
class Module:
    """The arguments of a module of several metrics."""

    n_tasks: int
    mode: str
    limit: int
    validate: bool
    warmup_steps: int | None  # of throughput; None without it
    metrics: dict[str, tuple[int, bool, dict[str, Any]]]  # windows, whether of the first task only

    def build(self, package: str) -> Any:
        """The module of a package, fresh."""
        config = importlib.import_module(f"{package}.metrics_config")
        module = importlib.import_module(f"{package}.metric_module")
        tasks = [
            config.RecTaskInfo(f"task{i}", f"label{i}", f"prediction{i}", f"weight{i}")
            for i in range(self.n_tasks)
        ]
        metrics = {
            config.RecMetricEnum[MEMBERS[name]]: config.RecMetricDef(
                rec_tasks=[] if is_first_only else tasks,
                rec_task_indices=[0] if is_first_only else [],
                window_size=window,
                arguments=dict(options),
            )
            for name, (window, is_first_only, options) in self.metrics.items()
        }
        throughput = config.ThroughputDef(warmup_steps=self.warmup_steps or 1)
        return module.generate_metric_module(
            module.RecMetricModule,
            metrics_config=config.MetricsConfig(
                rec_tasks=tasks,
                rec_metrics=metrics,
                throughput_metric=None if self.warmup_steps is None else throughput,
                rec_compute_mode=config.RecComputeMode[self.mode],
                fused_update_limit=self.limit,
                should_validate_update=self.validate,
            ),
            batch_size=LARGEST,
            world_size=1,
            my_rank=0,
            state_metrics_mapping={},
            device=torch.device("cpu"),
        )


LARGEST = 16  # examples of a model's output
WITH_CLASSES = "multiclass_recall"  # whose predictions no other metric takes


def drawn_module(rng: Rng) -> Module:
    """Some metrics in a random order, the options of which go together."""
    mode = pick(rng, (UNFUSED, UNFUSED, FUSED))
    limit = pick(rng, (0, 0, 2)) if mode == UNFUSED else 0
    metrics: dict[str, tuple[int, bool, dict[str, Any]]] = {}
    names = [name for name in STREAMED if name not in (WITH_CLASSES, *NOT_IN_MODULES)]
    if mode == FUSED:
        names.remove("multi_label_precision")  # All tasks are one.
    if limit or mode == FUSED:
        names.remove("ndcg")  # Joined, its sessions are lost; fused, it wants them by task.
    if limit:
        names.remove("segmented_ne")  # Its keys are lost.
    # For NDCG torch's default dtype is float64, in which others of the reference come too.
    if "ndcg" in names:
        left_out = pick(rng, (("ndcg",), ("rauc", "segmented_ne")))
        names = [name for name in names if name not in left_out]
    for name in rng.permutation(names)[: rng.integers(2, 6)].tolist():
        options = drawn_options(rng, name)
        # Others than NDCG lose their keys in joined updates too; here groups may be of one example,
        # on which the reference's RAUC fails.
        if limit or name == "rauc":
            options = {k: v for k, v in options.items() if not k.startswith("grouped")}
        # The reference recalibrates in the dtype of the predictions.
        options.pop("recalibration_coefficient", None)
        if name == "segmented_ne":
            options = {"num_groups": N_GROUPS, "grouping_keys": ["segment"]}
        # The reference's groups of AUC do not outlive a window, and soft labels are not here.
        window = NEVER_LEFT if "grouped_auc" in options else pick(rng, (2 * LARGEST, NEVER_LEFT))
        metrics[name] = (window, chance(rng, 0.2), options)
    return Module(
        int(rng.integers(1, 4)), mode, limit, chance(rng, 0.3), pick(rng, (None, 2, 100)), metrics
    )


def model_outputs(rng: Rng, module: Module) -> list[dict[str, Any]]:
    """Outputs of a model: distinct predictions, clicks of both classes, whole weights."""
    dtype = pick(rng, (torch.float32, torch.float64))
    shape = pick(rng, ((-1,), (-1, 1)))
    # Odd multiples: none of them is the threshold 0.5.
    pool = [list((2 * rng.permutation(1024) + 1) / 2048) for _ in range(module.n_tasks)]
    has_empty = all(window == NEVER_LEFT for window, *_ in module.metrics.values())
    outputs = []
    for step in range(int(rng.integers(2, 7))):
        size = int(rng.integers(2, LARGEST + 1))
        output: dict[str, Any] = {}
        for task in range(module.n_tasks):
            labels = rng.permutation((np.arange(size) == 0) | (rng.random(size) < 0.3))
            labels[rng.integers(size)] &= labels.sum() < size
            weights = rng.integers(1, 4, size) * (not (has_empty and step and chance(rng, 0.2)))
            predictions = [pool[task].pop() for _ in range(size)]
            arrays = {"label": labels, "prediction": predictions, "weight": weights}
            for name, x in arrays.items():
                output[f"{name}{task}"] = torch.tensor(np.array(x), dtype=dtype).reshape(shape)
        for name in ("session_id", "user", "grouping_keys"):
            keys = rng.integers(0, 4, size)
            keys[-1] = keys[0]
            output[name] = torch.tensor(keys * 10**12)
        output["segment"] = torch.tensor(keys)
        outputs.append(output)
    return outputs


def without_times(values: Mapping[str, Any]) -> dict[str, Any]:
    """All but what a clock has measured."""
    timed = ("lifetime_throughput", "window_throughput", "attempt_throughput")
    return {k: v for k, v in values.items() if not k.endswith((*timed, "_after_warmup"))}


def compare_modules(seed: list[int], ours: str = OURS) -> None:
    """Modules of both packages over a model's outputs."""
    rng = np.random.default_rng(seed)
    module = drawn_module(rng)
    where = f"{seed}: {module}"
    with in_float64(*module.metrics):
        modules = [module.build(package) for package in (ours, REFERENCE)]
        for output in model_outputs(rng, module):
            for one in modules:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming")
                    one.update(copied(output))
            if chance(rng, 0.3):
                results = [one.compute() for one in modules]
                assert list(results[0]) == list(results[1]), where
                assert_same(where, *map(without_times, results))
        assert_same(f"{where}, locally", *(one.local_compute() for one in modules))
        states = [one.state_dict() for one in modules]
        assert_same(f"{where}, state dict", *map(without_times, states))
    assert list(states[0]) == list(states[1]), where
    required = [one.get_required_inputs() for one in modules]
    assert set(required[0] or ()) == set(required[1] or ()), where
    assert modules[0].trained_batches == modules[1].trained_batches, where


@pytest.mark.parametrize("index", range(60))
def test_random_modules_agree_with_the_reference(index):
    compare_modules([12, index])
    TALLY.streams += 1
