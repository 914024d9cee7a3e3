"""What is compiled: how much, and how often."""

import functools
import re
from typing import Any

import jax
import numpy as np
import pytest

import recmetrics_jax as rm

pytestmark = pytest.mark.numerics

FEWEST_PASSES: Any = {"xla_backend_optimization_level": 0}  # Of LLVM, after XLA has fused.

EVERY_ACCUMULATOR = rm.collection(
    {
        "sums": rm.ctr(n_tasks=2),
        "window": rm.ctr(n_tasks=2, window=100),
        "histogram": rm.binned_auc(n_tasks=2, bins=256),
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


@pytest.mark.parametrize("chain", [updates, merges, all_merges], ids=lambda f: f.__name__)
def test_a_chain_in_one_program_compiles_in_linear_time(chain):
    """As in gradient accumulation, or a fold of states.

    What XLA fuses into one loop it compiles anew for each use of an intermediate result, so a loop
    that holds all of a chain takes exponential time: none may grow with the chain.
    """
    batch = rm.make_batch(np.ones((2, 64)), np.ones((2, 64)))
    (all_of_2, loop_of_2), (all_of_3, _), (all_of_6, loop_of_6) = (
        sizes(*chain(EVERY_ACCUMULATOR, batch, count)) for count in (2, 3, 6)
    )
    assert loop_of_6 == loop_of_2
    assert all_of_6 - all_of_3 < 1.2 * 3 * (all_of_3 - all_of_2)
