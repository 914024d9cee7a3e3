"""Compiling: how long programs take to compile, and how many a stream of ragged batches needs."""

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from measuring import OURS, Case, Effort, Row
from peers import clu_collection, installed
from timing import Timing
from workloads import nine_metrics, scores, session_metrics

import recmetrics_jax as rm

TASKS, EXAMPLES = 8, 8192
SAMPLES = 100_000
LONGEST = 10_000
COMPILED = "/jax/core/compile/backend_compile_duration"
"""The event of jax's that every compilation records."""

Compile = Callable[[], Any]
Stream = Callable[[list[int]], tuple[Any, dict[str, jax.Array]]]
"""``stream(lengths)`` gives the jitted update, and the values in the end."""


def programs(
    metric: rm.Metric, n_tasks: int, examples: int, **keys: Any
) -> tuple[Compile, Compile]:
    """Compilations of a step, from arrays to a donated state, and of the values of a state."""
    arrays = tuple(jnp.asarray(x) for x in scores(n_tasks, examples))
    keys = {name: jnp.asarray(key) for name, key in keys.items()}
    state = metric.init()

    def step(state: Any, arrays: Any, keys: Any) -> Any:
        return metric.update(state, rm.make_batch(*arrays, keys=keys))

    return (
        lambda: jax.jit(step, donate_argnums=0).lower(state, arrays, keys).compile(),
        lambda: jax.jit(metric.compute).lower(state).compile(),
    )


def programs_of_clu(count: int) -> tuple[Compile, Compile]:
    """The same of a Collection of clu, for one task."""
    collection = clu_collection(count)
    p, y, _ = (jnp.asarray(x) for x in scores(EXAMPLES))
    state = collection.single_from_model_output(predictions=p, labels=y)

    def step(state: Any, p: jax.Array, y: jax.Array) -> Any:
        return state.merge(collection.single_from_model_output(predictions=p, labels=y))

    return (
        lambda: jax.jit(step, donate_argnums=0).lower(state, p, y).compile(),
        lambda: jax.jit(lambda state: state.compute()).lower(state).compile(),
    )


@contextlib.contextmanager
def cache(**options: Any) -> Iterator[None]:
    """With other options of the cache of compiled programs on disk than the user may have set."""
    config: Any = jax.config
    before = {name: getattr(config, name) for name in options}
    for name, value in options.items():
        config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            config.update(name, value)
        compilation_cache.reset_cache()


nothing_on_disk = functools.partial(cache, jax_enable_compilation_cache=False)


@contextlib.contextmanager
def all_on_disk() -> Iterator[None]:
    """With a cache of compiled programs on disk, empty at first, that keeps them all."""
    with (
        tempfile.TemporaryDirectory() as folder,
        cache(
            jax_compilation_cache_dir=folder,
            jax_persistent_cache_min_compile_time_secs=0.0,
            jax_persistent_cache_min_entry_size_bytes=-1,
        ),
    ):
        yield


@contextlib.contextmanager
def counted() -> Iterator[list[float]]:
    """The seconds of each compilation inside, small ones of eager operations too."""
    compilations: list[float] = []

    def listener(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILED:
            compilations.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        yield compilations
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)


def seconds(contenders: Callable[[], Mapping[str, Compile]]) -> Callable[[Effort], list[Row]]:
    """The ``measure`` of a case that times compilations, from tracing on, with nothing cached."""

    def measure(effort: Effort) -> list[Row]:
        compilations = contenders()
        times: dict[str, list[float]] = {name: [] for name in compilations}
        with nothing_on_disk():
            for i in range(effort.rounds + 1):
                for name, compilation in compilations.items():
                    jax.clear_caches()
                    start = time.perf_counter()
                    compilation()
                    if i > 0:  # The first loads what the compiler needs.
                        times[name].append(time.perf_counter() - start)
        timings = {name: Timing(rounds) for name, rounds in times.items()}
        return [
            Row(name, timing.median, "s", timing.quartiles, timings[OURS].ratio(timing))
            for name, timing in timings.items()
        ]

    return measure


FIRST = (3, 1024)
FIRST_KEYS: dict[str, Any] = {
    "grouping_keys": np.arange(FIRST[1]) % 50,
    "session_id": np.arange(FIRST[1]) // 8,
}


def values_of_five() -> Mapping[str, jax.Array]:
    """The values of five metrics after one update, called eagerly, as in a first trial of them."""
    metrics = rm.collection(
        {
            "ne": rm.ne,
            "calibration": rm.calibration,
            "auc": rm.auc,
            "grouped_auc": functools.partial(rm.auc, grouped=True),
            "ndcg": functools.partial(rm.ndcg, window=None),
        },
        n_tasks=FIRST[0],
        window=10_000,
    )
    batch = rm.make_batch(*scores(*FIRST), keys=FIRST_KEYS)
    return metrics.compute(metrics.update(metrics.init(), batch))


def first_values(effort: Effort) -> list[Row]:
    """CPU-seconds until there are values, with nothing compiled, and with all of it on disk."""

    def cpu_seconds() -> float:
        jax.clear_caches()
        start = time.process_time()
        jax.block_until_ready(values_of_five())
        return time.process_time() - start

    rows: list[Row] = []
    for name, disk in ((OURS, nothing_on_disk), (f"{OURS}, compiled on disk", all_on_disk)):
        with disk():
            cpu_seconds()  # Loads what the compiler needs, and fills the disk.
            timing = Timing([cpu_seconds() for _ in range(effort.rounds)])
        rows.append(Row(name, timing.median, "CPU-s", timing.quartiles))
    return rows


def of_nine(which: Callable[[tuple[Compile, Compile]], Compile]) -> dict[str, Compile]:
    """Compilations of the nine metrics of 8 tasks, and of as many of clu's."""
    contenders = {OURS: which(programs(nine_metrics(TASKS), TASKS, EXAMPLES))}
    if installed("clu") and installed("metrax"):
        contenders["clu, 9 of metrax, 1 task"] = which(programs_of_clu(9))
    return contenders


def both(compilations: tuple[Compile, Compile]) -> Compile:
    """The two, one after the other."""
    return lambda: [compilation() for compilation in compilations]


SESSIONS = {"session_id": np.arange(EXAMPLES) // 16}
GROUPS = {"grouping_keys": np.arange(EXAMPLES) // 10}
OF_ORDER: dict[str, tuple[Callable[[], rm.Metric], int, dict[str, np.ndarray]]] = {
    "xauc update": (rm.xauc, 0, {}),
    "ndcg update": (rm.ndcg, 0, SESSIONS),
    "update of the metrics of sessions": (session_metrics, 0, SESSIONS),
    "binned_auc update": (rm.binned_auc, 0, {}),
    "binned_auc compute": (rm.binned_auc, 1, {}),
    "auc update": (functools.partial(rm.auc, window=SAMPLES), 0, {}),
    "auc compute": (functools.partial(rm.auc, window=SAMPLES), 1, {}),
    "grouped auc compute": (functools.partial(rm.auc, window=SAMPLES, grouped=True), 1, GROUPS),
    "auprc compute": (functools.partial(rm.auprc, window=SAMPLES), 1, {}),
    "rauc compute": (functools.partial(rm.rauc, window=SAMPLES), 1, {}),
}
"""Metrics of order, whether their update (0) or their compute (1) is compiled, and their keys."""


def of_order(name: str) -> dict[str, Compile]:
    """The compilation of a metric of order, 1 task."""
    make, which, keys = OF_ORDER[name]
    return {OURS: programs(make(), 1, EXAMPLES, **keys)[which]}


def ragged(lengths: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches of some lengths, as a reader of data gives them."""
    p, y, w = scores(LONGEST)
    return ((p[:n], y[:n], w[:n]) for n in lengths)


def unpadded(lengths: list[int]) -> tuple[Any, dict[str, jax.Array]]:
    """A stream of batches as they come."""
    metrics = nine_metrics()
    step = jax.jit(
        lambda state, p, y, w: metrics.update(state, rm.make_batch(p, y, w)), donate_argnums=0
    )
    state = metrics.init()
    for arrays in ragged(lengths):
        state = step(state, *arrays)
    return step, metrics.compute(state)


def padded(lengths: list[int]) -> tuple[Any, dict[str, jax.Array]]:
    """A stream of batches padded on the host."""
    metrics = nine_metrics()
    step = jax.jit(metrics.update, donate_argnums=0)
    state = metrics.init()
    for arrays in ragged(lengths):
        state = step(state, rm.make_padded_batch(*arrays))
    return step, metrics.compute(state)


def of_stream(batches: int, streams: Mapping[str, Stream]) -> Callable[[Effort], list[Row]]:
    """The ``measure`` of a case that counts the compilations of one stream, and times all of it."""

    def measure(_: Effort) -> list[Row]:
        lengths = np.random.default_rng(0).integers(1, LONGEST, batches, endpoint=True).tolist()
        rows: list[Row] = []
        for name, stream in streams.items():
            jax.clear_caches()
            start = time.perf_counter()
            with nothing_on_disk(), counted() as compilations:
                step, values = stream(lengths)
                jax.block_until_ready(values)
            rows += [
                Row(name, time.perf_counter() - start, "s"),
                Row(f"{name}, of the update", step._cache_size(), "compilations"),
                Row(f"{name}, with small ones", len(compilations), "compilations"),
            ]
        return rows

    return measure


PADDED = f"{OURS}, make_padded_batch"
RAGGED = f"ragged batches of 1 ... {LONGEST:,} examples, nine metrics"
NINE_LABEL = f"{TASKS} tasks x {EXAMPLES:,} examples"

CASES: list[Case] = [
    Case(
        "compile", "first values of ne, calibration, auc, grouped auc, ndcg",
        f"{FIRST[0]} tasks x {FIRST[1]:,} examples", None, first_values,
    ),
    *(
        Case("compile", what, NINE_LABEL, None, seconds(functools.partial(of_nine, which)))
        for what, which in (
            ("nine metrics, update", lambda two: two[0]),
            ("nine metrics, compute", lambda two: two[1]),
            ("nine metrics, update and compute", both),
        )
    ),
    *(
        Case("compile", name, "1 task", None, seconds(functools.partial(of_order, name)))
        for name in OF_ORDER
    ),
    Case(
        "compile", RAGGED, "40 batches", 40,
        of_stream(40, {f"{OURS}, make_batch": unpadded, PADDED: padded}),
    ),
    Case("compile", RAGGED, "200 batches", 200, of_stream(200, {PADDED: padded})),
]  # fmt: skip
