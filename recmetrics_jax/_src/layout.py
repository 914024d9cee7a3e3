"""Where the sums of terms lie in packed arrays."""

from collections.abc import Iterable

import jax
import numpy as np

from recmetrics_jax._src.terms import EXAMPLES, BinnedTerm, Term

Group = tuple[Term, ...]
"""The terms of a metric of sums, in an order that does not depend on how it names them."""


class Columns:
    """Where each of some terms lies in a packed ``[T, K]`` array; the last is `EXAMPLES`."""

    def __init__(self, terms: Iterable[Term]):
        self.starts: dict[Term, int] = {}
        self.size = 0
        for term in (*dict.fromkeys(term for term in terms if term != EXAMPLES), EXAMPLES):
            self.starts[term] = self.size
            self.size += term.size

    @property
    def is_raw(self) -> np.ndarray:
        """``bool[1, K]``: which columns are of terms that see to bad examples themselves."""
        return np.concatenate([np.full((1, term.size), term.raw) for term in self.starts], axis=1)

    def select(self, packed: jax.Array, terms: Iterable[Term]) -> jax.Array:
        """The columns of some of these terms, in the order given, ``[T, K]``."""
        ranges = (range(self.starts[term], self.starts[term] + term.size) for term in terms)
        columns = np.array([column for of_term in ranges for column in of_term], np.int32)
        if np.array_equal(columns, np.arange(self.size)):
            return packed
        return packed[:, columns]

    def sums(self, packed: jax.Array) -> dict[Term, jax.Array]:
        """The sums of each term, ``[T, *shape]``."""
        return {
            term: packed[:, start : start + term.size].reshape(-1, *term.shape)
            for term, start in self.starts.items()
        }


class GroupedColumns:
    """Where each term of some groups lies: a term that several have lies in each of them.

    So a group that comes to a running state starts from nothing, beside others that go on.
    """

    def __init__(self, groups: Iterable[Group]):
        self.starts: dict[Group, int] = {}
        self.size = 0
        for group in groups:
            self.starts[group] = self.size
            self.size += sum(term.size for term in packed(group))

    @property
    def terms(self) -> tuple[Term, ...]:
        """The term of each column, or of several."""
        return tuple(term for group in self.starts for term in packed(group))

    def sums(self, columns: jax.Array, group: Group) -> dict[Term, jax.Array]:
        """The sums of each term of a group, ``[T, *shape]``."""
        sums, start = {}, self.starts[group]
        for term in packed(group):
            sums[term] = columns[:, start : start + term.size].reshape(-1, *term.shape)
            start += term.size
        return sums


def packed(group: Group) -> Group:
    """Those terms of a group whose lifetime sums lie in one array; others have a histogram each."""
    return tuple(term for term in group if not isinstance(term, BinnedTerm))
