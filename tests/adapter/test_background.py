"""What the adapter compiles answers at once, and anew, with all optimizations, from a thread on."""

import gc
import os
import subprocess
import sys
import textwrap
import threading
import weakref

import compilations
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recmetrics_jax.adapter import _compiling
from recmetrics_jax.adapter._compiling import Background, Compiled, background
from recmetrics_jax.adapter.auc import AUCMetric
from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
from recmetrics_jax.adapter.ne import NEMetric

COMPILED = "backend_compile_duration"
N = 2 * _compiling.SMALL


@pytest.fixture
def optimizes():
    """With all optimizations, which the tests otherwise do without."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    background.wait()
    jax.config.update("jax_disable_most_optimizations", before)


def spread(x):
    return {"mean": jnp.mean(x), "spread": jnp.sqrt(jnp.mean((x - jnp.mean(x)) ** 2))}


def numbers(n=N):
    return np.random.default_rng(n).random(n)


def programs(compiled):
    return list(compiled._programs.values())


def assert_right(values, x):
    assert values["mean"].dtype == np.float64
    np.testing.assert_allclose(values["mean"], x.mean(), rtol=1e-14)
    np.testing.assert_allclose(values["spread"], x.std(), rtol=1e-14)


def test_a_program_is_compiled_anew_once_its_shapes_come_again(optimizes):
    compiled, x = Compiled(spread), numbers()
    assert compilations.during(lambda: assert_right(compiled(x), x)).count(COMPILED) == 1
    (quick,) = programs(compiled)

    def again():
        assert_right(compiled(x), x)
        background.wait()

    assert compilations.during(again).count(COMPILED) == 1
    (refined,) = programs(compiled)
    assert refined is not quick
    events = compilations.during(lambda: [assert_right(compiled(x), x) for _ in range(3)])
    background.wait()
    assert not events
    assert programs(compiled) == [refined]


def test_what_is_traced_once_becomes_both_programs(optimizes):
    traced = []

    def function(x):
        traced.append(x)
        return x * 2

    compiled = Compiled(function)
    for _ in range(3):
        assert compiled(numbers()).tolist() == (numbers() * 2).tolist()
        background.wait()
    assert len(traced) == 1


def test_small_programs_are_compiled_once(optimizes):
    compiled, x = Compiled(spread), numbers(_compiling.SMALL)

    def calls():
        for _ in range(3):
            assert_right(compiled(x), x)
        background.wait()

    assert compilations.during(calls).count(COMPILED) == 1


def test_where_few_optimizations_are_asked_for_programs_are_compiled_once(optimizes):
    jax.config.update("jax_disable_most_optimizations", True)  # Which the fixture sets back.
    compiled, x = Compiled(spread), numbers(N + 1)
    for _ in range(3):
        assert_right(compiled(x), x)
    assert not compiled._unrefined


def test_each_shape_and_dtype_has_a_program(optimizes):
    compiled = Compiled(lambda x: x + 1)
    x = np.ones(3)
    for argument in (x, x[:2], x.astype(np.float32), x.astype(np.int32), x[None], x):
        result = compiled(argument)
        assert (result.shape, result.dtype) == (argument.shape, argument.dtype)
    assert len(programs(compiled)) == 5


@pytest.mark.parametrize("unknown", [1, 2])
def test_options_that_a_compiler_does_not_know_are_left_out(unknown, optimizes, monkeypatch):
    options = _compiling.FEW_OPTIMIZATIONS
    names = [*options[:-unknown], *({"xla_no_such_option": 1},) * unknown]
    monkeypatch.setattr(_compiling, "FEW_OPTIMIZATIONS", tuple(names[::-1]))
    x = numbers(N + 2)
    assert_right(Compiled(spread)(x), x)


def test_a_program_that_cannot_be_compiled_anew_goes_on_answering(optimizes, monkeypatch):
    compiled, x = Compiled(spread), numbers(N + 3)
    compiled(x)
    (quick,) = programs(compiled)
    failed = []

    def refine(*_):
        failed.append(True)
        raise MemoryError

    monkeypatch.setattr(_compiling, "_refine", refine)
    compiled(x)
    background.wait()
    assert failed == [True]
    assert_right(compiled(x), x)
    assert programs(compiled) == [quick]


def test_what_goes_is_not_compiled_anew(optimizes):
    compiled, x = Compiled(spread), numbers(N + 4)
    compiled(x)
    compiled(x)  # It rests, as something has just been compiled.
    reference = weakref.ref(compiled)
    executables = jax.devices()[0].client.live_executables
    before = len(executables())
    del compiled
    gc.collect()
    assert reference() is None
    assert compilations.during(background.wait).count(COMPILED) == 0
    gc.collect()
    assert len(executables()) < before


def test_many_threads_get_values_while_programs_change(optimizes):
    compiled, failures = Compiled(spread), []
    arrays = [numbers(N + 10 * i) for i in range(3)]

    def calls():
        try:
            for i in range(60):
                assert_right(compiled(arrays[i % 3]), arrays[i % 3])
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=calls) for _ in range(4)]
    for thread in threads:
        thread.start()
    background.wait()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("cls", [NEMetric, AUCMetric])
def test_both_programs_have_the_same_values(cls, optimizes):
    rng = np.random.default_rng(0)
    arrays = {
        "predictions": rng.random(N),
        "labels": rng.random(N).round(),
        "weights": rng.random(N),
    }
    metric = cls(1, 0, N, [DefaultTaskInfo], window_size=10 * N)
    values = []
    for _ in range(3):
        metric.reset()
        metric.update(**{name: {"DefaultTask": x} for name, x in arrays.items()})
        values.append({key: value.item() for key, value in metric.compute().items()})
        background.wait()
    assert values[1] == values[0]
    assert values[2] == pytest.approx(values[0], rel=1e-14, abs=0)


def test_work_is_done_newest_first_and_dropped_at_the_end():
    worker, done, goes_on, begun = Background(), [], threading.Event(), threading.Event()

    def first():
        begun.set()
        goes_on.wait(60)
        done.append("first")

    worker.take(first)
    begun.wait(60)
    for name in ("older", "newer"):
        worker.take(lambda name=name: done.append(name))
    goes_on.set()
    worker.wait()
    assert done == ["first", "newer", "older"]
    goes_on.clear()
    begun.clear()
    worker.take(first)
    begun.wait(60)
    worker.take(lambda: done.append("dropped"))
    threading.Timer(0.1, goes_on.set).start()
    worker.close()
    worker.take(lambda: done.append("late"))
    worker.wait()
    assert done[3:] == ["first"]


def test_work_that_comes_while_it_rests_is_done_then(monkeypatch):
    monkeypatch.setattr(_compiling, "REST", 0.05)
    worker, done = Background(), threading.Event()
    worker.rest()
    worker.take(done.set)
    assert done.wait(60)


def test_a_process_ends_while_it_compiles():
    script = """
    import os, sys, warnings
    import jax.numpy as jnp
    import numpy as np
    from recmetrics_jax.adapter import _compiling

    warnings.simplefilter("ignore")  # Of JAX's and Python's, about forking.
    _compiling.REST = 0.0
    refine = _compiling._refine
    _compiling._refine = lambda *job: [print("compiles", flush=True), refine(*job)]
    compiled = _compiling.Compiled(lambda x: jnp.sort(jnp.exp(x)))
    for _ in range(2):
        compiled(np.arange(1000.0))
    while _compiling.background._jobs:
        pass
    if hasattr(os, "fork"):
        child = os.fork()
        if not child:
            _compiling.background.close()  # Waits for no thread, which it does not have.
            os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    """
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"},
    )
    assert (process.returncode, process.stdout) == (0, "compiles\n"), process.stderr
