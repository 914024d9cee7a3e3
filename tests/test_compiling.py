"""What compiled programs hold: no more than they need, and nothing that waits for the host."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BY_NAME, heavy_where, nine
from drawing import batches

import recmetrics_jax as rm

pytestmark = pytest.mark.numerics

FEWEST_PASSES: Any = {"xla_backend_optimization_level": 0}  # Of LLVM, after XLA has fused.

EVERY_ACCUMULATOR = rm.collection(
    {
        "sums and a window": rm.ctr(n_tasks=2, window=100),
        "histogram with a window": rm.binned_auc(n_tasks=2, bins=256, window=100),
        "examples": rm.auc(n_tasks=2, window=100),
    }
)


def updates(metric, batch, count):
    return lambda state: functools.reduce(metric.update, [batch] * count, state), metric.init()


def merges(metric, batch, count):
    states = [metric.init() for _ in range(count + 1)]
    return lambda states: functools.reduce(metric.merge, states), states


def all_merges(metric, batch, count):
    def merged(states):
        parts = [rm.all_merge(state, "devices") for state in states]
        return functools.reduce(metric.merge, parts)

    states = [jax.tree.map(lambda x: x[None], metric.init()) for _ in range(count)]
    return jax.vmap(merged, axis_name="devices"), states


def sizes(function, argument):
    """The instructions of a compiled program, and of the largest computation that is one loop."""
    compiled = jax.jit(function).lower(argument).compile(FEWEST_PASSES)
    computations = (compiled.as_text() or "").split("\n\n")
    counts = [len(re.findall(r"^\s+(?:ROOT )?%\S+ = ", x, re.MULTILINE)) for x in computations]
    loops = [n for n, x in zip(counts, computations, strict=True) if "\nENTRY" not in f"\n{x}"]
    return sum(counts), max(loops)


@pytest.mark.parametrize(
    "chain",
    heavy_where([updates, merges, all_merges], merges, all_merges),
    ids=lambda f: f.__name__,
)
def test_a_chain_in_one_program_compiles_in_linear_time(chain):
    """As in gradient accumulation, or a fold of states.

    What XLA fuses into one loop it compiles anew for each use of an intermediate result, so a loop
    that holds all of a chain takes exponential time: none may grow with the chain, but for the
    number of updates, a scalar of which each merge takes the larger one, in a few instructions.
    """
    batch = rm.make_batch(np.ones((2, 64)), np.ones((2, 64)))
    (all_of_2, loop_of_2), (all_of_3, _), (all_of_4, loop_of_4) = (
        sizes(*chain(EVERY_ACCUMULATOR, batch, count)) for count in (2, 3, 4)
    )
    assert loop_of_4 - loop_of_2 <= 8 * (4 - 2)
    assert all_of_4 - all_of_3 < 1.2 * (all_of_3 - all_of_2)


@pytest.mark.parametrize("tasks", [1, 3])
def test_update_of_a_donated_state_writes_the_ring_in_place(tasks):
    metric = nine(n_tasks=tasks, window=10_000_000)
    step = jax.jit(metric.update, donate_argnums=0)
    state, stream = metric.init(), batches(BY_NAME["ne"], tasks=tasks)
    ring = state.windows[0].ring
    shape = ",".join(map(str, ring.shape))
    program = step.lower(state, stream[0]).compile().as_text() or ""
    assert f"[{shape}]" in program
    assert not re.search(rf"\[{shape}\]\S* copy\(", program[program.index("\nENTRY") :])
    pointer = ring.unsafe_buffer_pointer()
    for batch in stream:
        state = step(state, batch)
        assert state.windows[0].ring.unsafe_buffer_pointer() == pointer


def operations_of_the_host(function, *arguments):
    program = jax.jit(function).lower(*arguments).compile().as_text() or ""
    target = r'custom_call_target="[^"]*(?:callback|[Hh]ost)[^"]*"'
    return re.findall(rf" (?:infeed|outfeed|send|recv)\(|{target}", program)


@pytest.mark.parametrize("name", ["nine", "binned_auc", "xauc"])
def test_compiled_update_holds_nothing_that_speaks_to_the_host(name):
    metric = nine(window=1000) if name == "nine" else getattr(rm, name)()

    def update(state, p, y):
        return metric.update(state, rm.make_batch(p, y))

    def update_and_tell(state, p, y):
        jax.debug.callback(lambda p: None, p)
        return update(state, p, y)

    arguments = metric.init(), jnp.full(8192, 0.5), jnp.ones(8192)
    assert not operations_of_the_host(update, *arguments)
    assert operations_of_the_host(update_and_tell, *arguments)
