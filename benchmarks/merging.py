"""Merging states: two of them, those of all devices, and the collectives that this compiles to.

Several devices are the real ones where there are some. Otherwise they are virtual devices of the
CPU, in a process of their own, since jax must know of them before it starts and other families
want one: ``python benchmarks/merging.py --case NAME`` prints the rows of a case as JSON.
"""

import argparse
import dataclasses
import functools
import json
import logging
import math
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from measuring import OURS, Case, Effort, Row, timed
from peers import WINDOW, clu_collection, installed
from timing import Run, repeat
from workloads import metrics_of, scores

import recmetrics_jax as rm

COUNTS = (1, 3, 9, 18)
DEVICES = (1, 2, 4, 8)
AXIS = "devices"
EXAMPLES = 8192
COLLECTIVE = re.compile(  # The second of two halves stands for both.
    r"= (.*) (?:all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-done)?\("
)
ARRAY = re.compile(r"(?:pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


class Contender(NamedTuple):
    """What merges, as functions of its state."""

    state: Any
    update: Callable[..., Any]
    """``update(state, predictions, labels, weights) -> state``."""
    merge: Callable[[Any, Any], Any]
    all_merge: Callable[[Any], Any]
    """With the states of all devices on the mapped axis."""
    compute: Callable[[Any], Any]


Contenders = Mapping[str, Contender]


class Subject(NamedTuple):
    """What is merged."""

    what: str
    label: str
    size: float | None
    contenders: Callable[[], Contenders]


def counted(number: int, what: str) -> str:
    """So many of it, in words."""
    return f"{number} {what}" + "s" * (number > 1)


def ours(metric: rm.Metric, examples: int = EXAMPLES) -> Contender:
    """A metric of this package, with a state after one update."""

    def update(state: Any, p: Any, y: Any, w: Any) -> Any:
        return metric.update(state, rm.make_batch(p, y, w))

    return Contender(
        update(metric.init(), *scores(examples)),
        update,
        metric.merge,
        functools.partial(rm.all_merge, axis_name=AXIS),
        metric.compute,
    )


def clu(count: int) -> Contender:
    """A Collection of clu, merged over devices as its documentation shows."""
    collection = clu_collection(count)

    def of_batch(p: Any, y: Any) -> Any:
        return collection.single_from_model_output(predictions=p, labels=y)

    return Contender(
        of_batch(*scores(EXAMPLES)[:2]),
        lambda state, p, y, w: state.merge(of_batch(p, y)),
        lambda a, b: a.merge(b),
        lambda state: jax.lax.all_gather(state, AXIS).reduce(),
        lambda state: state.compute(),
    )


def collections(count: int) -> Contenders:
    """Collections of so many metrics."""
    contenders = {
        OURS: ours(metrics_of(count)),
        f"{OURS}, with a window": ours(metrics_of(count, window=WINDOW)),
    }
    if installed("clu") and installed("metrax"):
        contenders["clu, as many of metrax"] = clu(count)
    return contenders


def histograms() -> Contenders:
    """The metric with the largest sums."""
    return {
        OURS: ours(rm.binned_auc()),
        f"{OURS}, with a window": ours(rm.binned_auc(window=1_000_000)),
    }


COLLECTIONS = [
    Subject("collections", counted(n, "metric"), n, functools.partial(collections, n))
    for n in COUNTS
]
OTHERS = [
    Subject("binned_auc", "65,536 bins", None, histograms),
    Subject("auc", "100,000 examples", None, lambda: {OURS: ours(rm.auc(window=100_000), 100_000)}),
]


def mesh_of(devices: int) -> jax.sharding.Mesh:
    """A mesh of so many devices, or of all if there are fewer."""
    some = jax.devices()[:devices]
    axis_types = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((len(some),), (AXIS,), axis_types=axis_types, devices=some)


def on_every_device(
    function: Callable[[Any], Any], state: Any, mesh: jax.sharding.Mesh
) -> tuple[Any, Any]:
    """A jitted function of the states of all devices with one result for all; and such states."""
    stacked = jax.tree.map(lambda x: jnp.stack([x] * mesh.size), state)
    mapped = jax.shard_map(
        lambda states: function(jax.tree.map(lambda x: x[0], states)),
        mesh=mesh,
        in_specs=jax.P(AXIS),
        out_specs=jax.P(),
        check_vma=False,  # Of what clu gathers it is not known that it is the same everywhere.
    )
    return jax.jit(mapped), jax.device_put(stacked, NamedSharding(mesh, jax.P(AXIS)))


def merges_of_two(subject: Subject) -> Callable[[Effort], list[Row]]:
    """Milliseconds of a merge of two states."""

    def run(contender: Contender) -> Run:
        merge = jax.jit(contender.merge)
        return repeat(lambda: merge(contender.state, contender.state))

    return timed(lambda: {name: run(c) for name, c in subject.contenders().items()})


def merges_of_all(subject: Subject, devices: int = max(DEVICES)) -> Callable[[Effort], list[Row]]:
    """Milliseconds of a merge of the states of all devices."""

    def run(contender: Contender) -> Run:
        merge, states = on_every_device(contender.all_merge, contender.state, mesh_of(devices))
        # Virtual devices that still wait for one call may have no threads left for the next.
        return repeat(lambda: jax.block_until_ready(merge(states)))

    return timed(lambda: {name: run(c) for name, c in subject.contenders().items()})


def values_of_all(contender: Contender) -> tuple[Any, ...]:
    """The values of all devices together: a jitted function, and its arguments."""
    return on_every_device(
        lambda state: contender.compute(contender.all_merge(state)),
        contender.state,
        mesh_of(max(DEVICES)),
    )


def sharded_update(contender: Contender) -> tuple[Any, ...]:
    """An update of one state with examples of all devices: a jitted function, and its arguments."""
    mesh = mesh_of(max(DEVICES))
    state = jax.device_put(contender.state, NamedSharding(mesh, jax.P()))
    examples = jax.device_put(scores(EXAMPLES), NamedSharding(mesh, jax.P(AXIS)))
    return jax.jit(contender.update), state, *examples


def collectives(
    subject: Subject, program: Callable[[Contender], tuple[Any, ...]]
) -> Callable[[Effort], list[Row]]:
    """The number of collectives that a program compiles to, and the bytes that they result in."""

    def rows(name: str, contender: Contender) -> list[Row]:
        function, *arguments = program(contender)
        found = COLLECTIVE.findall(function.lower(*arguments).compile().as_text())
        arrays = [array for result in found for array in ARRAY.findall(result)]
        size = sum(
            math.prod(int(n) for n in shape.split(",") if n) * int(bits or 8) // 8
            for bits, shape in arrays
        )
        return [Row(name, len(found), "collectives"), Row(name, size, "bytes")]

    return lambda _: [row for item in subject.contenders().items() for row in rows(*item)]


def on_devices(case: Case) -> Case:
    """The case, measured on several devices: in this process if it has some, or in another."""

    def measure(effort: Effort) -> list[Row]:
        if jax.device_count() > 1:
            return case.measure(effort)
        flags = f"--xla_force_host_platform_device_count={max(DEVICES)}"
        process = subprocess.run(
            [
                *(sys.executable, __file__, "--case", case.name),
                *("--rounds", str(effort.rounds), "--seconds", str(effort.seconds)),
            ],
            env={
                **os.environ,
                "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}",
                "JAX_PLATFORMS": "cpu",
            },
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        rows = [Row(**json.loads(line)) for line in process.stdout.splitlines()]
        where = "" if jax.default_backend() == "cpu" else ", on the CPU"
        return [dataclasses.replace(row, contender=row.contender + where) for row in rows]

    return dataclasses.replace(case, measure=measure)


def cases_of(subject: Subject) -> tuple[Case, list[Case]]:
    """The case of two states, and those of several devices."""

    def case(what: str, measure: Callable[[Effort], list[Row]]) -> Case:
        return Case("merge", f"{what}, {subject.what}", subject.label, subject.size, measure)

    return case("merge of two states", merges_of_two(subject)), [
        case("all_merge on 8 devices", merges_of_all(subject)),
        case("compute(all_merge)", collectives(subject, values_of_all)),
        case("update with sharded examples", collectives(subject, sharded_update)),
    ]


def cases_of_devices(subject: Subject) -> list[Case]:
    """Cases of 1, 2, ... devices; without rows where there are too few."""

    def measure(effort: Effort, devices: int) -> list[Row]:
        enough = devices <= jax.device_count()
        return merges_of_all(subject, devices)(effort) if enough else []

    return [
        Case(
            "merge",
            f"all_merge by devices, {subject.what} ({subject.label})",
            counted(devices, "device"),
            devices,
            functools.partial(measure, devices=devices),
        )
        for devices in DEVICES
    ]


ALONE, TOGETHER = zip(*map(cases_of, (*COLLECTIONS, *OTHERS)), strict=True)
BY_DEVICES = [case for s in (COLLECTIONS[2], *OTHERS) for case in cases_of_devices(s)]
OF_DEVICES: list[Case] = [*(case for cases in TOGETHER for case in cases), *BY_DEVICES]
CASES: list[Case] = [*ALONE, *map(on_devices, OF_DEVICES)]


def main() -> None:
    """Prints the rows of a case of several devices."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", required=True, choices=[case.name for case in OF_DEVICES])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    case = next(case for case in OF_DEVICES if case.name == options.case)
    for row in case.measure(Effort(options.rounds, options.seconds)):
        print(json.dumps(dataclasses.asdict(row)))


if __name__ == "__main__":
    main()
