"""Processes that are forked: JAX's threads are not in them, and who waits for one never ends."""

import os

from jax._src import xla_bridge


def _jax_has_run() -> bool:
    """Whether JAX has started its threads in this process."""
    # No public name of JAX's tells without starting them.
    return bool(getattr(xla_bridge, "backends_are_initialized", lambda: True)())


def _note_fork() -> None:
    global _lost_threads
    _lost_threads = _lost_threads or _jax_has_run()


_lost_threads = False
"""Whether this process was forked from one in which JAX had run."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def check_not_forked() -> None:
    """Raises RuntimeError in a process that was forked from one in which JAX had run."""
    if _lost_threads:
        raise RuntimeError(
            "This process was forked from one that has used JAX, whose threads are not in it: "
            "computing metrics here would never end. Start processes that compute by 'spawn': "
            "multiprocessing.get_context('spawn'), or DataLoader(multiprocessing_context='spawn')"
        )
