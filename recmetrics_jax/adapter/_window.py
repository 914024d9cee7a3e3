"""The window of a state: the newest contributions to it, and their sum."""

from collections import deque
from itertools import islice

from recmetrics_jax.adapter._tensors import Tensor, copy, nbytes, promoted, stack, widened

MAX_BUFFER_COUNT = 1000
"""Contributions in the window of a state."""


class WindowBuffer:
    """The newest contributions to a state, whose examples add up to at most ``max_size``.

    The newest contribution always counts. Nothing is ever subtracted from a sum, so neither
    rounding nor a NaN stays behind when a contribution leaves. Still nothing is added up twice as
    a rule: the oldest contributions are kept with the sums of what follows each (a queue made of
    two stacks), and those since are added up when the sum is asked for. Whatever the dtype of the
    contributions, they are added up in float64 (integers in int64).

    Args:
        max_size: examples in the window.
        max_buffer_count: contributions in the window.

    >>> import numpy as np
    >>> buffer, state = WindowBuffer(max_size=4, max_buffer_count=10), np.zeros(1)
    >>> for value in (1.0, 2.0, 4.0):
    ...     buffer.aggregate_state(state, curr_state=np.array([value]), size=2)
    >>> state.tolist(), len(buffer.buffers)
    ([6.0], 2)
    """

    def __init__(self, max_size: int, max_buffer_count: int) -> None:
        self._max_size = max_size
        self._max_buffer_count = max_buffer_count
        self._buffers: deque[Tensor] = deque()
        self._sizes: deque[int] = deque()
        self._used_size = 0
        self._sums_from: list[Tensor] = []  # The sum from each of the oldest on; its own last.
        self._sum_of_rest: Tensor | None = None
        self._summed = 0  # How many contributions are in these sums, the oldest.

    @property
    def buffers(self) -> deque[Tensor]:
        """The contributions, oldest first."""
        return self._buffers

    def push(self, curr_state: Tensor, size: int) -> None:
        """Adds the contribution of ``size`` examples; those leave that no longer fit.

        The contribution is kept as it is, not a copy.
        """
        self._buffers.append(curr_state)
        self._sizes.append(size)
        self._used_size += size
        while len(self._buffers) > 1 and (
            self._used_size > self._max_size or len(self._buffers) > self._max_buffer_count
        ):
            self._buffers.popleft()
            self._used_size -= self._sizes.popleft()
            if self._sums_from:
                self._sums_from.pop()
                self._summed -= 1
            else:  # It may be in the sum of the rest, from which it cannot be taken.
                self._sum_of_rest, self._summed = None, 0

    def total(self, state: Tensor) -> Tensor:
        """The sum of the contributions, of a dtype that holds them and ``state``.

        Args:
            state: what it is the window of, as it is without contributions.
        """
        if not self._buffers:
            return copy(state)
        if self._summed == 0:
            from_newest = _wide(stack(list(reversed(self._buffers)))).cumsum(0)
            self._sums_from = list(from_newest)
        elif self._summed < len(self._buffers):
            new = _wide(stack(list(islice(self._buffers, self._summed, None)))).sum(0)
            self._sum_of_rest = new if self._sum_of_rest is None else self._sum_of_rest + new
        self._summed = len(self._buffers)
        if not self._sums_from:
            total = copy(self._sum_of_rest)
        elif self._sum_of_rest is None:
            total = copy(self._sums_from[-1])
        else:
            total = self._sums_from[-1] + self._sum_of_rest
        newest = self._buffers[-1]
        is_as_wide = total.dtype == state.dtype == newest.dtype
        return total if is_as_wide else promoted(total, state, newest)

    def aggregate_state(self, window_state: Tensor, curr_state: Tensor, size: int) -> None:
        """Adds a contribution, and writes the sum of the window to ``window_state``.

        Args:
            window_state: the sum, of the shape of ``curr_state``; written in place.
            curr_state: the contribution; a copy of it is kept.
            size: the examples it is of.
        """
        self.push(copy(curr_state), size)
        window_state[...] = self.total(window_state)


class StateWindow(WindowBuffer):
    """The window twin of a state: the newest contributions to it, and their sum.

    The sum is added up when it is read, not in every update. One that is assigned, or written to,
    stays until the next contribution.

    Args:
        default: the sum of no contributions.
        max_size: examples in the window.

    >>> import numpy as np
    >>> window = StateWindow(np.zeros(1), max_size=4)
    >>> window.push(np.array([1.0]), 2)
    >>> window.sum[0] += 10.0
    >>> window.sum.tolist()
    [11.0]
    >>> window.push(np.array([2.0]), 2)
    >>> window.sum.tolist()
    [3.0]
    """

    def __init__(self, default: Tensor, max_size: int) -> None:
        super().__init__(max_size, MAX_BUFFER_COUNT)
        self._default = default
        self._sum: Tensor | None = None

    def push(self, curr_state: Tensor, size: int) -> None:
        super().push(curr_state, size)
        self._sum = None

    @property
    def sum(self) -> Tensor:
        """The sum; no copy."""
        if self._sum is None:
            self._sum = self.total(self._default)
        return self._sum

    @sum.setter
    def sum(self, value: Tensor) -> None:
        self._sum = value

    def empty(self) -> "StateWindow":
        """Such a window without contributions."""
        return StateWindow(self._default, self._max_size)

    def copy(self) -> "StateWindow":
        """A window of the same contributions."""
        other = self.empty()
        other._buffers, other._sizes = self._buffers.copy(), self._sizes.copy()
        other._used_size = self._used_size
        return other

    @property
    def nbytes(self) -> int:
        """The bytes of the contributions, which are of one size."""
        return nbytes(self._buffers[-1]) * len(self._buffers) if self._buffers else 0


def _wide(contributions: Tensor) -> Tensor:
    return contributions if contributions.dtype.itemsize == 8 else widened(contributions)
