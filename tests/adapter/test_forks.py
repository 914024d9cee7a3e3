"""Processes that are forked: those that compute say why they cannot, the others are not hurt.

Each test runs a script in a process of its own, as forking the tests' would carry their threads.
"""

import os
import subprocess
import sys
import textwrap

import pytest

PATIENCE = 120.0  # seconds on a busy machine; a child that hangs takes forever

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform does not fork")

COMMON = """
import multiprocessing, warnings
import numpy as np
from recmetrics_jax.adapter.auc import AUCMetric, compute_auc
from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
from recmetrics_jax.adapter.ne import NEMetric, compute_ne

warnings.simplefilter("ignore")  # of JAX's and Python's, about forking
ones = np.ones((1, 2))
batch = {"DefaultTask": np.array([0.25, 0.75])}

def update(metric):
    metric.update(predictions=batch, labels=batch, weights=None)

def tell(work, queue):
    try:
        queue.put(repr(work()))
    except BaseException as error:
        queue.put(f"{type(error).__name__}: {error}")

def in_child(work):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=tell, args=(work, queue))
    child.start()
    print(queue.get(timeout=30))
    child.join()
"""


def printed(script: str) -> list[str]:
    """The lines that a script prints in a process of its own."""
    process = subprocess.run(
        [sys.executable, "-c", COMMON + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


@needs_fork
def test_a_forked_child_that_computes_raises_at_once():
    lines = printed(
        """
        metric, auc = (cls(1, 0, 2, [DefaultTaskInfo]) for cls in (NEMetric, AUCMetric))
        for each in (metric, auc):
            update(each)
        in_child(lambda: update(metric))
        in_child(metric.compute)
        in_child(auc.compute)
        in_child(lambda: compute_ne(ones, ones, ones, ones, 1e-12))
        in_child(lambda: compute_auc(1, [ones], [ones], [ones]))
        """
    )
    assert len(lines) == 5
    for line in lines:
        assert line.startswith("RuntimeError: This process was forked from one that has used JAX")
        assert "spawn" in line


@needs_fork
def test_a_child_that_was_forked_after_others_used_jax_raises():
    (line,) = printed(
        """
        import jax.numpy as jnp
        jnp.ones(3).sum().block_until_ready()
        in_child(lambda: update(NEMetric(1, 0, 2, [DefaultTaskInfo])))
        """
    )
    assert line.startswith("RuntimeError: This process was forked")


@needs_fork
def test_forked_workers_that_compute_nothing_are_not_hurt():
    lines = printed(
        """
        metric = NEMetric(1, 0, 2, [DefaultTaskInfo])
        update(metric)
        in_child(lambda: (batch["DefaultTask"] * 2).tolist())
        in_child(lambda: sorted(metric.state_dict())[0].split(".")[-1])
        in_child(lambda: metric.reset())
        update(metric)
        print(len(metric.compute()))
        """
    )
    assert lines == ["[0.5, 1.5]", "'cross_entropy_sum'", "None", "2"]


@needs_fork
def test_a_child_that_was_forked_before_jax_ran_computes():
    lines = printed(
        """
        metric = NEMetric(1, 0, 2, [DefaultTaskInfo])
        in_child(lambda: [update(metric), len(metric.compute())])
        update(metric)
        print(len(metric.compute()))
        """
    )
    assert lines == ["[None, 2]", "2"]
