"""What metrics add to a train step: a small DLRM, its optimizer, and metrics of its predictions.

Batches lie on the device, and states are donated. Metrics of JAX are updated inside the jitted
step. Those of torch get what the step returns: the host waits for the predictions of each step.

The overhead is small beside the noise of long runs, so it has cases of its own: one step without
metrics and one with them in turns, each waited for. The figure is the median of the ratios of at
least 40 such pairs, with their quartiles. The step without metrics is also held against a second
copy of itself: what that seems to add is what the measurement cannot tell from nothing. Where that
is more than the overhead, the rows of updates alone tell its size: jitted outside of the step, each
with a dispatch of its own, in percent of the step without metrics beside it.

Between two computes, the host waits for nothing. What shows it:

- On every backend, the compiled step holds no operation that speaks to the host.
- On every backend, steps run under ``jax.transfer_guard("disallow")``, so a transfer that nobody
  asked for raises: on an accelerator in both directions, on the CPU, where a read is no transfer,
  only to the device.
- On the CPU, reads show in another way: a callback holds the device while the host starts all
  steps, and a step that is ready nevertheless is one that the host waited for. As a control, the
  same is counted in a loop that does read a value after each step.
"""

import functools
import importlib
import itertools
import re
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dlrm import NOTHING, Examples, InStep, batches_of, training
from measuring import OURS, Case, Effort, Row, timed
from peers import clu_collection, installed, tensors, torchrec_module
from timing import Run, Timing, interleave
from workloads import NINE, nine_metrics

import recmetrics_jax as rm

FAMILY = "train step"
PLAIN = "no metrics"
BATCHES = (1024, 8192, 32_768)
MIN_PAIRS, EXAMPLES_OF_A_ROUND = 40, 65_536
GUARDED_BATCH = 8192
GUARDED_STEPS = 20  # The CPU holds up to 32 programs; then the host waits for the first to end.
HOST_OPERATION = re.compile(
    r' (?:infeed|outfeed|send|recv)\(|custom_call_target="[^"]*(?:callback|[Hh]ost)[^"]*"|S\(5\)'
)

Update = Callable[[np.ndarray, int], None]
"""``update(predictions, i)``: metrics on the host are given the predictions of the i-th batch."""


def ours(metric: rm.Metric) -> InStep:
    """Metrics of this package."""
    return InStep(metric.init(), lambda state, p, y: metric.update(state, rm.make_batch(p, y)))


def with_auc() -> InStep:
    """The nine metrics, and the AUC of all examples."""
    return ours(rm.collection({"nine": nine_metrics(), "auc": rm.binned_auc()}))


def by_hand() -> InStep:
    """The sums of the nine metrics without windows, as they are written by hand."""

    def update(state: jax.Array, p: jax.Array, y: jax.Array) -> jax.Array:
        positive = p >= 0.5
        cross_entropy = -y * jnp.log2(p) - (1 - y) * jnp.log2(1 - p)
        terms = (
            *(jnp.ones_like(p), p, y, cross_entropy, (y - p) ** 2, jnp.abs(y - p)),
            *(positive == y, positive * y, positive),
        )
        return state + jnp.stack([jnp.sum(term, dtype=jnp.float32) for term in terms])

    return InStep(jnp.zeros(9), update)


def metrax() -> InStep:
    """Metrics of metrax, as a Collection of clu."""
    collection = clu_collection(6)
    of_batch = collection.single_from_model_output
    return InStep(
        collection.empty(), lambda state, p, y: state.merge(of_batch(predictions=p, labels=y))
    )


def in_step() -> dict[str, InStep]:
    """Contenders that update metrics inside the step, by name."""
    contenders = {
        PLAIN: NOTHING,
        OURS: ours(nine_metrics()),
        f"{OURS} and AUC": with_auc(),
        "hand-written float32 sums, no window": by_hand(),
    }
    if installed("clu") and installed("metrax"):
        contenders["metrax, 6 metrics, no window"] = metrax()
    return contenders


def torchrec(batches: list[Examples]) -> Update:
    """Updates of torchrec's module with the nine metrics."""
    labels = np.stack([examples.labels for examples in batches])
    ones = np.ones_like(labels[:1])
    module, outputs = torchrec_module(
        "torchrec.metrics", list(NINE), ones, ones, ones, "FUSED_TASKS_COMPUTATION"
    )
    targets = tensors(*labels)
    return lambda p, i: module.update({**outputs, "p0": tensors(p)[0], "y0": targets[i]})


def torchmetrics(batches: list[Examples]) -> Update:
    """Updates of a MetricCollection."""
    library: Any = importlib.import_module("torchmetrics")
    rates = (library.Accuracy, library.Precision, library.Recall)
    collection = library.MetricCollection(
        [
            *(rate(task="binary", validate_args=False) for rate in rates),
            *(library.MeanSquaredError(), library.MeanAbsoluteError()),
        ]
    )
    targets = tensors(*(np.asarray(examples.labels).astype(int) for examples in batches))
    return lambda p, i: collection.update(tensors(p)[0], targets[i])


def steps(batches: list[Examples], metrics: InStep, update: Update | None = None) -> Run:
    """Train steps, one after the other."""
    step, state = training(metrics, returns_predictions=update is not None)
    numbers = itertools.cycle(range(len(batches)))

    def run(calls: int) -> None:
        nonlocal state
        for i in itertools.islice(numbers, calls):
            state, predictions = step(state, batches[i])
            if update is not None:
                update(np.asarray(predictions), i)
        jax.block_until_ready(state)

    return run


def contenders(size: int) -> dict[str, Run]:
    """All contenders, by name."""
    batches = batches_of(size)
    runs = {name: steps(batches, metrics) for name, metrics in in_step().items()}
    where = "" if jax.default_backend() == "cpu" else ", on the CPU"
    if installed("torchrec"):
        runs[f"torchrec after the step{where}"] = steps(batches, NOTHING, torchrec(batches))
    if installed("torchmetrics"):
        name = f"torchmetrics after the step, 5 metrics, no window{where}"
        runs[name] = steps(batches, NOTHING, torchmetrics(batches))
    return runs


def updates(metrics: InStep, examples: Examples) -> Run:
    """Updates of metrics alone, jitted, outside of a step."""
    update = jax.jit(metrics.update, donate_argnums=0)
    state = jax.tree.map(jnp.array, metrics.state)
    predictions = jax.nn.sigmoid(examples.dense[:, 0])

    def run(calls: int) -> None:
        nonlocal state
        for _ in range(calls):
            state = update(state, predictions, examples.labels)
        jax.block_until_ready(state)

    return run


def percents(plain: Run, other: Run, pairs: int) -> Timing:
    """What a call of ``other`` takes, in percent of a plain step: a ratio for each pair."""
    timings = interleave({PLAIN: plain, "other": other}, rounds=pairs, seconds=0)  # Single calls.
    both = zip(timings[PLAIN].rounds, timings["other"].rounds, strict=True)
    return Timing([100 * b / a for a, b in both])


def overheads(effort: Effort, size: int) -> list[Row]:
    """What metrics in the step add to it, in percent."""
    batches, pairs = batches_of(size), max(MIN_PAIRS, effort.rounds * EXAMPLES_OF_A_ROUND // size)
    plain, unit = steps(batches, NOTHING), "% of the step"
    rows = []
    for name, metrics in in_step().items():
        if name.startswith((PLAIN, OURS)):
            again = ", once more" if name == PLAIN else ""
            step = percents(plain, steps(batches, metrics), pairs)
            added = Timing([percent - 100 for percent in step.rounds])
            rows.append(Row(f"overhead of {name}{again}", added.median, unit, added.quartiles))
        if name != PLAIN:
            update = percents(plain, updates(metrics, batches[0]), effort.rounds)
            rows.append(Row(f"update alone of {name}", update.median, unit, update.quartiles))
    return rows


def gate(opened: threading.Event, seconds: float) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A jitted copy of an array, which waits for another array, and for the event or for long."""

    def wait(zero: Any) -> np.ndarray:
        opened.wait(seconds)
        return np.zeros((), np.float32)

    @jax.jit
    def copy(x: jax.Array, other: jax.Array) -> jax.Array:
        return x + jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.float32), other[0])

    return copy


def steps_waited_for(*, reads: bool = False) -> int:
    """How many of some steps the host waits for; ``reads``: where it reads a value after each."""
    on_cpu = jax.default_backend() == "cpu"
    step, state = training(with_auc(), returns_predictions=True)
    examples, opened = batches_of(GUARDED_BATCH)[0], threading.Event()
    copy = gate(opened, 1.0 if reads else 60.0)
    state, p = jax.block_until_ready(step(state, examples))
    if on_cpu:
        opened.set()
        jax.block_until_ready(copy(examples.dense, p))  # Compiles.
        opened.clear()
        for _ in range(4):  # A callback whose arguments are ready would be called here and now.
            state, p = step(state, examples)
        dense: Any = copy(examples.dense, p)
        examples = examples._replace(dense=dense)
        if dense.is_ready():
            raise RuntimeError("A callback does not hold the device: reads cannot be counted.")
    waited_for = 0
    with jax.transfer_guard("disallow"):
        for _ in range(GUARDED_STEPS):
            state, _ = step(state, examples)
            if reads:
                np.asarray(jax.tree.leaves(state)[-1])
            waited_for += on_cpu and any(x.is_ready() for x in jax.tree.leaves(state))
    opened.set()
    jax.block_until_ready(state)
    return waited_for


def transfers(_: Effort) -> list[Row]:
    """What steps with metrics have to do with the host."""
    step, state = training(with_auc())
    program: str = step.lower(state, batches_of(GUARDED_BATCH)[0]).compile().as_text()
    counts = {
        f"{OURS} and AUC, in the compiled step": len(HOST_OPERATION.findall(program)),
        f"{OURS} and AUC, in {GUARDED_STEPS} steps": steps_waited_for(),
    }
    if jax.default_backend() == "cpu":
        counts["control: a value read after each step"] = steps_waited_for(reads=True)
    return [Row(name, count, "host transfers") for name, count in counts.items()]


def cases_of(size: int) -> list[Case]:
    """The cases of a batch size."""
    label = f"batch of {size:,}"
    return [
        Case(FAMILY, "DLRM", label, size, timed(lambda: contenders(size))),
        Case(FAMILY, "DLRM, overhead", label, size, functools.partial(overheads, size=size)),
    ]


CASES: list[Case] = [
    *itertools.chain.from_iterable(map(cases_of, BATCHES)),
    Case(FAMILY, "no host sync", "under a transfer guard", None, transfers),
]
