"""What the adapter compiles: for float64 on the CPU, and so that callers do not wait for it long.

What is traced once for some shapes becomes two programs. One with few optimizations takes a tenth
of the time to compile, and answers at once. The other is compiled on a thread of its own, once the
shapes have come again, and answers from then on. They differ in the last digits of float64 at most.
"""

import atexit
import contextlib
import functools
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import jax

from recmetrics_jax.adapter._tensors import float64_on_cpu

FEW_OPTIMIZATIONS: tuple[dict[str, Any], ...] = (
    {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
        "xla_cpu_parallel_codegen_split_count": 1,
        "xla_cpu_use_fusion_emitters": False,
    },
    {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True},
)
"""Options of XLA's compiler; the next are for versions that do not know the first."""

SMALL = 256
"""Numbers among the arguments of a program that no optimization makes quicker."""

REST = 1.0
"""Seconds without anything new to compile, after which programs are compiled anew."""


class Compiled:
    """A function of arrays, compiled for each of their shapes; called in place of `jax.jit` of it.

    What is compiled goes with this object.

    Args:
        function: of trees of NumPy arrays.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._programs: dict[Any, Callable[..., Any]] = {}
        self._unrefined: dict[Any, jax.stages.Lowered] = {}

    def __call__(self, *arguments: Any) -> Any:
        """The function of arrays; ready, or about to be.

        Raises:
            RuntimeError: in a process that was forked from one in which JAX had run.
        """
        leaves, tree = jax.tree.flatten(arguments)
        shapes = tree, *((x.shape, x.dtype) for x in leaves)
        with float64_on_cpu():
            program = self._programs.get(shapes)
            if program is None:
                program = self._compile(shapes, arguments, sum(x.size for x in leaves))
            elif shapes in self._unrefined:
                lowered = self._unrefined.pop(shapes, None)
                if lowered is not None:  # No other thread has taken it.
                    job = functools.partial(_refine, weakref.ref(self), shapes, lowered)
                    background.take(job)
            return program(*arguments)

    def _compile(self, shapes: Any, arguments: Any, size: int) -> Callable[..., Any]:
        background.rest()
        # A function of its own, since JAX keeps what it made of a function for as long as that.
        lowered = jax.jit(functools.partial(self._function)).trace(*arguments).lower()
        is_quick = bool(jax.config.read("jax_disable_most_optimizations"))
        program = lowered.compile() if is_quick else _quickly(lowered)
        if not is_quick and size > SMALL:
            self._unrefined[shapes] = lowered
        background.rest()
        return self._programs.setdefault(shapes, program)

    def refine(self, shapes: Any, program: Callable[..., Any]) -> None:
        """Lets another program answer for some shapes."""
        self._programs[shapes] = program


def _quickly(lowered: jax.stages.Lowered) -> Callable[..., Any]:
    for options in FEW_OPTIMIZATIONS:
        try:
            return lowered.compile(compiler_options=options)
        except (RuntimeError, ValueError):  # This version does not know one of them.
            continue
    return lowered.compile()


def _refine(owner: "weakref.ref[Compiled]", shapes: Any, lowered: jax.stages.Lowered) -> None:
    if owner() is None:
        return
    program = lowered.compile()
    compiled = owner()
    if compiled is not None:
        compiled.refine(shapes, program)


class Background:
    """Work that is done on a thread of its own, the newest first; it ends when nothing is left.

    What fails is let be. The process ends after the job that is at work; others are dropped.
    """

    def __init__(self) -> None:
        self._jobs: list[Callable[[], None]] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._rests_until = 0.0
        self._is_closed = False

    def take(self, job: Callable[[], None]) -> None:
        """Has a job done some time."""
        with self._changed:
            if self._is_closed:
                return
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=__name__, daemon=True)
                self._thread.start()

    def rest(self) -> None:
        """Begins nothing for a while, as somebody waits for the compiler, who may do so again."""
        self._rests_until = time.monotonic() + REST

    def wait(self) -> None:
        """Returns when all work is done; without rest."""
        while (thread := self._thread) is not None:
            with self._changed:
                self._rests_until = 0.0
                self._changed.notify_all()
            thread.join()

    def close(self) -> None:
        """Takes no more work, drops what has not begun, and waits for what has."""
        with self._changed:
            self._is_closed = True
            self._jobs.clear()
        self.wait()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            # Whatever fails, the program that answers so far goes on to do so.
            with contextlib.suppress(Exception):
                job()
            job = None

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while self._jobs and (rest := self._rests_until - time.monotonic()) > 0:
                self._changed.wait(rest)
            if self._jobs:
                return self._jobs.pop()
            self._thread = None
            return None


background = Background()
"""Where programs are compiled anew."""

# A thread inside the compiler must not outlive the interpreter, and is not in a forked child.
atexit.register(background.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=background.__init__)
