"""How many steps there are to be between two computations, by the seconds that steps take."""

import math

DISABLED = -1.0


def checked_bounds(shortest: float, longest: float) -> tuple[float, float]:
    """The seconds between computes, at least and at most; negative where none are asked for.

    Raises:
        ValueError: if they are out of range.
    """
    if longest <= 0:
        raise ValueError("Max compute interval should not be smaller than 0.0.")
    if shortest < 0:
        raise ValueError("Min compute interval should not be smaller than 0.0.")
    if shortest == 0.0 and longest == math.inf:
        return DISABLED, DISABLED
    return shortest, longest


def adjusted_steps(interval: float, steps: int, shortest: float, longest: float) -> int:
    """The steps between computes that are to take seconds within bounds; 0 if they do already.

    Args:
        interval: the seconds that ``steps`` steps took.
        steps: the steps between computes so far.
        shortest: the seconds that should lie between computes, at least.
        longest: and at most.

    >>> adjusted_steps(interval=1.0, steps=100, shortest=9.0, longest=math.inf)
    1000
    """
    if shortest <= interval <= longest:
        return 0
    if longest == math.inf:
        wanted = shortest + 1
    elif shortest == 0.0:
        wanted = longest - (0.0 if longest <= 1 else 1.0)
    else:
        wanted = (shortest + longest) / 2
    seconds = interval / steps
    return max(int(wanted / seconds), 1) if seconds > 0 else steps
