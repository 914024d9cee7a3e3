"""Arrays as options of metrics: compared, hashed and pickled by what they hold."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class FrozenArray:
    """An array that is a value."""

    data: bytes
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, x: np.ndarray) -> "FrozenArray":
        """A copy of an array.

        >>> FrozenArray.of(np.arange(3)) == FrozenArray.of(np.arange(3))
        True
        """
        return cls(x.tobytes(), x.dtype.str, x.shape)

    @property
    def array(self) -> np.ndarray:
        """The array, which cannot be written to."""
        return np.frombuffer(self.data, self.dtype).reshape(self.shape)
