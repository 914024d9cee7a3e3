"""Updates: of nine metrics as one collection, of its windows, and of each metric alone."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import alone
import jax
import jax.numpy as jnp
import numpy as np
from measuring import OURS, Case, timed
from peers import (
    MODES,
    WINDOW,
    can_compile,
    compiled_updates,
    installed,
    module_updates,
    on_cpu,
    torchmetrics_sessions,
)
from timing import Run, repeat
from workloads import NINE, OF_PAIRS, OF_SESSIONS, RANKS, nine_metrics, scores, session_metrics

import recmetrics_jax as rm

EXAMPLES = (256, 1024, 8192, 65_536, 262_144)
SIZES = {1: EXAMPLES, 8: (*EXAMPLES, 1_048_576), 64: EXAMPLES}
"""Numbers of examples, by that of tasks."""
COMPILED_SIZES = ((1, 1024), (8, 8192), (8, 65_536))
"""Where torch.compile is timed: it takes most of a minute to compile."""
LARGEST_OF_TORCHREC = 2**22
"""Numbers in a batch; beyond, an update of torchrec takes seconds."""
NO_WINDOW = f"{OURS}, no window"
IN_TORCHMETRICS = ("NormalizedDCG", "Recall", "Precision", "HitRate", "MRR", "MAP")
"""What is there of the metrics of sessions."""


def updates(
    metric: rm.Metric,
    arrays: Sequence[Any],
    keys: Mapping[str, Any] = {},
    *,
    before: int | None = None,
) -> Run:
    """Jitted updates of a donated state, with make_batch inside.

    Args:
        metric: what is updated.
        arrays: predictions, labels and weights.
        keys: sessions, groups.
        before: updates that the state has seen when a round starts; None: all of the last round.
    """
    step = jax.jit(
        lambda state, arrays, keys: metric.update(state, rm.make_batch(*arrays, keys=keys)),
        donate_argnums=0,
    )
    inputs, in_keys = jax.tree.map(jnp.asarray, (arrays, keys))
    state = metric.init()
    for _ in range(before or 0):
        state = step(state, inputs, in_keys)

    def run(calls: int) -> None:
        nonlocal state
        now = state if before is None else jax.tree.map(jnp.copy, state)
        for _ in range(calls):
            now = step(now, inputs, in_keys)
        jax.block_until_ready(now)
        if before is None:
            state = now

    return run


@functools.partial(jax.jit, donate_argnums=0)
def add_by_hand(sums: jax.Array, p: jax.Array, y: jax.Array, w: jax.Array) -> jax.Array:
    """The statistics of the nine metrics, added up as they are written by hand."""
    low, high = math.log(1e-12), math.log1p(-1e-12)
    log_p, log_q = (jnp.clip(x, low, high) for x in (jnp.log(p), jnp.log1p(-p)))
    positive = (p >= 0.5).astype(p.dtype)
    terms = (
        w,
        w * y,
        w * (1 - y),
        w * p,
        w * (y * log_p + (1 - y) * log_q) * (-1 / math.log(2)),
        w * (y - p) ** 2,
        w * jnp.abs(y - p),
        w * (positive == y),
        w * y * positive,
        w * (1 - y) * positive,
        w * y * (1 - positive),
    )
    return sums + jnp.stack([jnp.sum(term, axis=1) for term in terms])


def by_hand(*arrays: np.ndarray) -> Run:
    """Updates of sums written by hand."""
    sums = jnp.zeros((11, arrays[0].shape[0]))
    inputs = [jnp.asarray(x) for x in arrays]

    def run(calls: int) -> None:
        nonlocal sums
        for _ in range(calls):
            sums = add_by_hand(sums, *inputs)
        jax.block_until_ready(sums)

    return run


def one_read(*arrays: np.ndarray) -> Run:
    """What memory allows: the inputs are read, and no more is done with them than a sum each."""
    read = jax.jit(lambda *arrays: [jnp.sum(x, axis=1) for x in arrays])
    inputs = [jnp.asarray(x) for x in arrays]
    return repeat(lambda: read(*inputs))


def of_nine(tasks: int, examples: int) -> Mapping[str, Run]:
    """Updates of the nine metrics."""
    arrays = scores(tasks, examples)
    contenders = {
        OURS: updates(nine_metrics(tasks), arrays),
        "hand-written float32 sums, no window": by_hand(*arrays),
        "one read of the inputs": one_read(*arrays),
    }
    if installed("torchrec") and tasks * examples <= LARGEST_OF_TORCHREC:
        for name, mode in MODES.items():
            contenders[on_cpu(name)] = module_updates(
                "torchrec.metrics", list(NINE), *arrays, mode=mode
            )
        if (tasks, examples) in COMPILED_SIZES and can_compile():
            contenders[on_cpu("torchrec, torch.compile")] = compiled_updates(list(NINE), *arrays)
    return contenders


def of_windows() -> Mapping[str, Run]:
    """Updates of the nine metrics: what windows add."""
    arrays = scores(alone.TASKS, alone.EXAMPLES)
    with_window = nine_metrics(alone.TASKS)
    return {
        NO_WINDOW: updates(nine_metrics(alone.TASKS, window=None), arrays),
        f"{OURS}, empty window of {WINDOW:,}": updates(with_window, arrays, before=0),
        f"{OURS}, full window of {WINDOW:,}": updates(
            with_window, arrays, before=2 * WINDOW // alone.EXAMPLES
        ),
    }


def of_sessions() -> Mapping[str, Run]:
    """Updates of all metrics of sessions, and of one of them: sessions are sorted once."""
    inputs = alone.in_sessions(1, alone.EXAMPLES)
    contenders = {
        OURS: updates(session_metrics(), inputs[:3], inputs.keys),
        f"{OURS}, ndcg alone": updates(rm.ndcg(k=RANKS[1]), inputs[:3], inputs.keys),
    }
    if installed("torchmetrics"):
        name = on_cpu("torchmetrics, update and compute, no weights")
        contenders[name] = torchmetrics_sessions(IN_TORCHMETRICS, RANKS, inputs)
    return contenders


def of_one(name: str) -> Mapping[str, Run]:
    """Updates of one metric."""
    subject = alone.SUBJECTS[name]
    inputs = subject.inputs(*subject.shape)
    return {
        OURS: updates(subject.metric(), inputs[:3], inputs.keys),
        **{peer: repeat(make(inputs).update) for peer, make in alone.peers_of(name).items()},
    }


CASES = [
    *(
        Case(
            "update",
            f"nine metrics, {tasks} task" + "s" * (tasks > 1),
            f"{examples:,} examples",
            examples,
            timed(functools.partial(of_nine, tasks, examples)),
        )
        for tasks, sizes in SIZES.items()
        for examples in sizes
    ),
    Case(
        "update",
        "windows",
        f"{alone.TASKS} tasks x {alone.EXAMPLES:,} examples",
        None,
        timed(of_windows, base=NO_WINDOW),
    ),
    Case(
        "update",
        f"{len(OF_SESSIONS) + len(OF_PAIRS)} metrics of sessions at {len(RANKS)} k",
        f"{alone.EXAMPLES:,} examples in {alone.EXAMPLES // alone.SESSION:,} sessions",
        None,
        timed(of_sessions),
    ),
    *(
        Case(
            "update",
            f"{name} alone",
            subject.label,
            None,
            timed(functools.partial(of_one, name)),
        )
        for name, subject in alone.SUBJECTS.items()
    ),
]
