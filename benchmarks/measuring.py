"""What a benchmark is: a `Case`, which gives a `Row` for each contender."""

import dataclasses
from collections.abc import Callable, Mapping

from timing import Run, interleave

OURS = "recmetrics_jax"


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int
    """Rounds, in each of which every contender runs."""
    seconds: float
    """How long a contender runs in a round, about."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A figure of one contender."""

    contender: str
    value: float
    unit: str
    """``ms``, ``s``, ``bytes``, ``collectives``, ..."""
    quartiles: tuple[float, float] | None = None
    """The first and the third, of figures that vary."""
    times_ours: float | None = None
    """How many times this package's figure it is: the median of the ratios by round."""


@dataclasses.dataclass(frozen=True)
class Case:
    """Contenders that do the same work at one size."""

    family: str
    """``update``, ``compute``, ``train step``, ...: a table of the report."""
    what: str
    """What is measured, the same at every size: a panel of the plot."""
    label: str
    """The size, for people: ``8 tasks x 8,192 examples``."""
    size: float | None
    """The size as a number, for the plot; None where there is but one."""
    measure: Callable[[Effort], list[Row]]

    @property
    def name(self) -> str:
        """What ``--filter`` is matched with."""
        return f"{self.family}/{self.what}/{self.label}"


def timed(
    contenders: Callable[[], Mapping[str, Run]], base: str = OURS
) -> Callable[[Effort], list[Row]]:
    """The ``measure`` of a case that times the update, compute, ... of its contenders.

    Args:
        contenders: makes what is timed, by name; called only if the case is run.
        base: the contender that the others are compared with.
    """

    def measure(effort: Effort) -> list[Row]:
        timings = interleave(contenders(), rounds=effort.rounds, seconds=effort.seconds)
        return [
            Row(name, timing.median, "ms", timing.quartiles, timings[base].ratio(timing))
            for name, timing in timings.items()
        ]

    return measure
