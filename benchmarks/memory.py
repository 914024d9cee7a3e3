"""Memory: bytes of states, and what compiled updates and computes need besides, an example."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from measuring import OURS, Case, Effort, Row
from peers import MODES, WINDOW, installed, torchrec_module
from workloads import NINE, nine_metrics, scores

import recmetrics_jax as rm

SIZES = (8192, 32_768, 131_072)
UPDATES = 1000
"""Updates after which torchrec's windows grow no more, of however few examples."""
REQUIRED: dict[str, dict[str, Any]] = {
    "multiclass_recall": {"n_classes": 10},
    "recommended_items": {"n_items": 100_000},
    "field_calibration_error": {"key": "field", "segments": 100},
    "recall_at": {"k": 10},
    "precision_at": {"k": 10},
    "hit_rate": {"k": 10},
    "recall_at_precision": {"precision": 0.5},
    "precision_at_recall": {"recall": 0.5},
    "rauc": {"scope": "batch"},
}
"""What factories have to be given."""


def factories() -> dict[str, Callable[..., rm.Metric]]:
    """The metrics of the package: its public functions that know tasks, less those that build."""
    functions = {name: getattr(rm, name) for name in rm.__all__}
    return {
        name: functools.partial(function, **REQUIRED.get(name, {}))
        for name, function in functions.items()
        if inspect.isfunction(function)
        and {"n_tasks", "values"} & inspect.signature(function).parameters.keys() == {"n_tasks"}
        and function is not rm.collection
    }


def bytes_of(metric: rm.Metric) -> int:
    """Bytes of a state."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(metric.init()))


def states(make: Callable[..., rm.Metric], window: int) -> list[Row]:
    """Bytes of the state of a metric, without and with a window."""
    needs_window = inspect.signature(make).parameters["window"].default is inspect.Parameter.empty
    windows: Mapping[str, dict[str, Any]] = {"": {}, f", window of {window:,}": {"window": window}}
    return [
        Row(f"{OURS}{name}", bytes_of(make(**option)), "bytes")
        for name, option in windows.items()
        if option or not needs_window
    ]


def states_of_nine(_: Effort) -> list[Row]:
    """Bytes of the states of the nine metrics, those of torchrec with windows as long as they get.

    Theirs is the sum of the tensors that its metrics name themselves, which leaves out what
    torch needs for each tensor besides its numbers.
    """
    rows = states(lambda window=None: nine_metrics(window=window), WINDOW)
    if installed("torchrec"):
        arrays = scores(1, 16)
        for name, mode in MODES.items():
            module, outputs = torchrec_module("torchrec.metrics", list(NINE), *arrays, mode)
            for _update in range(UPDATES):
                module.update(outputs)
            sizes = [metric.get_memory_usage() for metric in module.rec_metrics.rec_metrics]
            total = sum(sum(size.values()) for size in sizes)
            rows.append(Row(f"{name}, {UPDATES:,} updates in a window", total, "bytes"))
    return rows


class Subject(NamedTuple):
    """What is compiled for batches, or windows, of some numbers of examples."""

    make: Callable[[int], rm.Metric]
    keys: Callable[[int], dict[str, Any]] = lambda size: {}


def sessions(length: int | None) -> Callable[[int], dict[str, Any]]:
    """Keys of sessions of so many examples each; None for one session of all."""
    return lambda size: {"session_id": np.arange(size) // (length or size)}


def groups(size: int) -> dict[str, Any]:
    """Keys of groups of 10 examples, in no order."""
    return {"grouping_keys": np.random.default_rng(0).integers(0, size // 10, size)}


def of_window(factory: Callable[..., rm.Metric], **options: Any) -> Callable[[int], rm.Metric]:
    """A metric of a window of so many examples."""
    return lambda size: factory(window=size, **options)


UPDATED = {
    "nine metrics": Subject(lambda size: nine_metrics()),
    "ndcg, sessions of 16": Subject(lambda size: rm.ndcg(), sessions(16)),
    "ndcg, one session": Subject(lambda size: rm.ndcg(), sessions(None)),
    "ndcg, sessions of one": Subject(lambda size: rm.ndcg(), sessions(1)),
    "xauc": Subject(lambda size: rm.xauc()),
    "binned_auc": Subject(lambda size: rm.binned_auc()),
    "binned_auc with a window": Subject(lambda size: rm.binned_auc(window=1_000_000)),
    "auc": Subject(of_window(rm.auc)),
}
COMPUTED = {
    "auc": Subject(of_window(rm.auc)),
    "grouped auc": Subject(of_window(rm.auc, grouped=True), groups),
    "auprc": Subject(of_window(rm.auprc)),
    "rauc": Subject(of_window(rm.rauc)),
    "grouped rauc": Subject(of_window(rm.rauc, grouped=True), groups),
}
OF_FIXED_SIZE = {
    "nine metrics": Subject(lambda size: nine_metrics()),
    "binned_auc": Subject(lambda size: rm.binned_auc()),
    "binned_auc with a window": Subject(lambda size: rm.binned_auc(window=1_000_000)),
}


def needed(subject: Subject, size: int, *, of_update: bool, an_example: bool = True) -> list[Row]:
    """Bytes that a program sets aside for itself, and all with its arguments and results.

    They follow from shapes alone. What a rare path needs is there too, though most calls do not
    touch it, such as a full window that makes room.
    """
    metric = subject.make(size)
    batch = rm.make_batch(*scores(size), keys=subject.keys(size))
    if of_update:
        lowered = jax.jit(metric.update, donate_argnums=0).lower(metric.init(), batch)
    else:
        lowered = jax.jit(metric.compute).lower(metric.update(metric.init(), batch))
    memory: Any = lowered.compile().memory_analysis()
    outside = memory.argument_size_in_bytes + memory.output_size_in_bytes
    total = outside - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    parts, unit = (size, "bytes an example") if an_example else (1, "bytes")
    return [
        Row(OURS, memory.temp_size_in_bytes / parts, unit),
        Row(f"{OURS}, and arguments and results", total / parts, unit),
    ]


def cases_of(name: str, subject: Subject, of_update: bool) -> list[Case]:
    """A case for each number of examples."""
    what = f"{name}, {'update' if of_update else 'compute'}"

    def measure(_: Effort, size: int) -> list[Row]:
        return needed(subject, size, of_update=of_update)

    return [
        Case("memory", what, f"{size:,} examples", size, functools.partial(measure, size=size))
        for size in SIZES
    ]


def case_of_fixed_size(name: str, subject: Subject) -> Case:
    """The case of a compute whose state has one size, however many examples there were."""

    def measure(_: Effort) -> list[Row]:
        return needed(subject, SIZES[0], of_update=False, an_example=False)

    return Case("memory", f"{name}, compute", "any number of examples", None, measure)


CASES: list[Case] = [
    Case("memory", "state", "nine metrics", None, states_of_nine),
    *(
        Case("memory", "state", name, None, lambda _, make=make: states(make, 100_000))
        for name, make in factories().items()
    ),
    *(case for item in UPDATED.items() for case in cases_of(*item, of_update=True)),
    *(case for item in COMPUTED.items() for case in cases_of(*item, of_update=False)),
    *(case_of_fixed_size(*item) for item in OF_FIXED_SIZE.items()),
]
