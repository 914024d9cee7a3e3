"""In a forked process metrics raise, where they would wait for JAX's threads for ever."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import multiprocessing, warnings
import jax.numpy as jnp
import recmetrics_jax as rm

warnings.simplefilter("ignore")  # of JAX's and Python's, about forking
metric = rm.ctr()
batch = rm.make_batch([0.5, 0.5], [0, 1])
state = metric.update(metric.init(), batch)
works = {
    "make_batch": lambda: rm.make_batch([0.5], [1]),
    "init": lambda: rm.mae().init(),
    "update": lambda: metric.update(state, batch),
    "merge": lambda: metric.merge(state, state),
    "compute": lambda: metric.compute(state),
    "no metric": lambda: repr(metric),
}

def tell(work, queue):
    try:
        queue.put(str(work()))
    except BaseException as error:
        queue.put(f"{type(error).__name__}: {error}")

context = multiprocessing.get_context("fork")
for name, work in works.items():
    queue = context.Queue()
    child = context.Process(target=tell, args=(work, queue))
    child.start()
    print(name, queue.get(timeout=30), sep="|")
    child.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform does not fork")
def test_a_forked_process_that_computes_says_why_it_cannot():
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False
    )
    assert process.returncode == 0, process.stderr
    told = dict(line.split("|") for line in process.stdout.splitlines())
    assert told.pop("no metric") == "ctr()"
    assert len(told) == 5
    for name, message in told.items():
        assert message.startswith("RuntimeError: This process was forked from one that"), name
        assert "'spawn'" in message, name
