"""Two threads that work one after the other: on jobs in order, and on what these hand on."""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from recmetrics_jax.adapter._module import RecMetricException

logger: logging.Logger = logging.getLogger(__name__)

PATIENCE = 300.0  # seconds for ranks that may never come, at the end
R = TypeVar("R")


class Worker:
    """A thread, and the queue of its jobs.

    Args:
        name: of the thread.
        size: the jobs that may wait; 0 for any number.
        work: does a job; it is not to raise.

    >>> worker = Worker("printer", 2, print)
    >>> worker.queue.put("hello")
    >>> worker.stop()
    hello
    True
    """

    def __init__(self, name: str, size: int, work: Callable[[Any], None]) -> None:
        self.queue: queue.Queue[Any] = queue.Queue(size)
        self._work = work
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def stop(self, timeout: float | None = None) -> bool:
        """Ends the thread once all jobs are done; says whether that was within the seconds."""
        self.queue.put(None)
        self.thread.join(timeout)
        return not self.thread.is_alive()

    def _run(self) -> None:
        is_running = True
        while is_running:
            job = self.queue.get()
            try:
                if job is None:
                    is_running = False
                else:
                    self._work(job)
            finally:
                self.queue.task_done()
            del job  # It may be large, and the next one long in coming.


class _Call(NamedTuple):
    """A function to call on the second thread."""

    function: Callable[[], Any]
    future: Future[Any]


class Workers:
    """A thread that changes states, job by job, and one that computes with copies of them.

    What a job raises is kept, and raised by whatever is asked for next; what the second thread was
    handed on before goes on, unless it was that thread's.

    Args:
        first: does a job of the first thread; returns a job of the second, or None.
        second: does a job of the second thread.
        names: of the threads.
        size: the jobs of the first that may wait; 0 for any number.
    """

    def __init__(
        self,
        first: Callable[[Any], Any],
        second: Callable[[Any], None],
        names: tuple[str, str],
        size: int,
    ) -> None:
        self._first, self._second = first, second
        self._failure: Exception | None = None
        self._failure_beside: Exception | None = None  # of the second thread
        self._door = threading.Lock()  # No job comes in after the last one.
        self.is_closed = False
        self.states = threading.RLock()
        """Held by whoever reads or changes states."""
        self.updates = Worker(names[0], size, self._in_order)
        self.computes = Worker(names[1], 0, self._beside)

    def put(self, job: Any, if_full: str) -> None:
        """Adds a job of the first thread.

        Raises:
            RecMetricException: with this message if there is no room, or all has been closed.
            Exception: whatever an earlier job has raised.
        """
        self.raise_failure()
        with self._door:
            if self.is_closed:
                raise RecMetricException("metric processor thread is shut down.")
            try:
                self.updates.queue.put_nowait(job)
            except queue.Full:
                raise RecMetricException(if_full) from None

    def raise_failure(self) -> None:
        """Raises what an earlier job has raised."""
        if self._failure is not None:
            raise self._failure

    @contextlib.contextmanager
    def settled(self) -> Iterator[None]:
        """A scope in which the first thread has done all jobs so far, and changes no states."""
        self.updates.queue.join()
        with self.states:
            yield

    def in_turn(self, method: Callable[..., R], *args: Any) -> R:
        """What a method gives, called on the second thread after all jobs so far."""
        self.updates.queue.join()

        def settled() -> R:
            with self.settled():
                return method(*args)

        with self._door:
            call = None if self.is_closed else _Call(settled, Future())
            if call is not None:
                self.computes.queue.put(call)
        return settled() if call is None else call.future.result()

    def close(self) -> None:
        """Ends the threads once all jobs are done; may be called again.

        Raises:
            Exception: whatever a job has raised, the first time.
        """
        with self._door:
            if self.is_closed:
                return
            self.is_closed = True
        self.updates.stop()
        if not self.computes.stop(PATIENCE):
            logger.error("ranks have not come together for %s s: some values are lost", PATIENCE)
        self.raise_failure()

    def _in_order(self, job: Any) -> None:
        try:
            handed_on = self._first(job)
            if handed_on is not None:
                self.computes.queue.put(handed_on)
        except Exception as error:
            self._fail(error, job)

    def _beside(self, job: Any) -> None:
        if isinstance(job, _Call):
            try:
                job.future.set_result(job.function())
            except Exception as error:
                job.future.set_exception(error)  # Its caller waits for it.
            return
        try:
            if self._failure_beside is not None:  # Ranks may have got out of step.
                raise self._failure_beside
            self._second(job)
        except Exception as error:
            self._failure_beside = error
            self._fail(error, job)

    def _fail(self, error: Exception, job: Any) -> None:
        if self._failure is None:
            self._failure = error
            logger.error("a job has failed", exc_info=error)
        if (future := getattr(job, "future", None)) is not None:
            future.set_exception(error)
