"""Counts what JAX traces and compiles."""

from jax import monitoring

_events: list[str] = []


def _listen(event, duration_secs, **_):
    if event.startswith("/jax/core/compile/"):
        _events.append(event.rpartition("/")[2])


# For good: not all versions of JAX can take a listener away.
monitoring.register_event_duration_secs_listener(_listen)


def during(function):
    """The names of the events, traces and compilations among them, while a function runs."""
    before = len(_events)
    function()
    return _events[before:]
