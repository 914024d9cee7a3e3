"""Interleaved timing: every contender runs in every round, so that noise hits all alike."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

Run = Callable[[int], Any]
"""``run(calls)`` makes so many calls and waits for their results."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """Milliseconds of one call in each round."""

    rounds: list[float]

    @property
    def median(self) -> float:
        """The median round, in milliseconds."""
        return statistics.median(self.rounds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and third quartile, in milliseconds."""
        if len(self.rounds) == 1:
            return self.rounds[0], self.rounds[0]
        first, _, third = statistics.quantiles(self.rounds, n=4, method="inclusive")
        return first, third

    def ratio(self, other: "Timing") -> float:
        """How many times as long ``other`` takes: the median of the ratios by round."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return statistics.median(b / a for a, b in pairs)


def repeat(call: Callable[[], Any]) -> Run:
    """``run(calls)`` of a function without arguments."""

    def run(calls: int) -> None:
        result = None
        for _ in range(calls):
            result = call()
        jax.block_until_ready(result)

    return run


def interleave(contenders: Mapping[str, Run], *, rounds: int, seconds: float) -> dict[str, Timing]:
    """Times contenders side by side.

    Args:
        contenders: what is timed, by name.
        rounds: rounds, in each of which every contender runs once.
        seconds: how long a contender runs in a round, about; at least one call.

    Returns:
        A `Timing` for each name.
    """
    calls = {}
    for name, run in contenders.items():
        run(1)  # Compiles, and fills caches.
        start = time.perf_counter()
        run(1)
        once = time.perf_counter() - start
        if once < seconds:
            start = time.perf_counter()
            run(5)
            once = (time.perf_counter() - start) / 5
        calls[name] = max(1, round(seconds / once))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run(calls[name])
            times[name].append((time.perf_counter() - start) / calls[name] * 1e3)
    return {name: Timing(rounds) for name, rounds in times.items()}
