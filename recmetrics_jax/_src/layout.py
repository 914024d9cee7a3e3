"""Where the sums of terms lie in packed arrays."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.terms import EXAMPLES, Term


class Columns:
    """Where each of some terms lies in a packed ``[T, K]`` array; the last is `EXAMPLES`."""

    def __init__(self, terms: Iterable[Term]):
        self.starts: dict[Term, int] = {}
        self.size = 0
        for term in dict.fromkeys((*terms, EXAMPLES)):
            if term != EXAMPLES:
                self.starts[term] = self.size
                self.size += term.size
        self.starts[EXAMPLES] = self.size
        self.size += 1

    @property
    def is_raw(self) -> np.ndarray:
        """``bool[1, K]``: which columns are of terms that see to bad examples themselves."""
        return np.concatenate([np.full((1, term.size), term.raw) for term in self.starts], axis=1)

    def unpack(self, packed: jax.Array, terms: Any, apart: Mapping[Term, jax.Array]) -> Any:
        """The tree ``terms`` with each term replaced by its sums, ``[T, *shape]``.

        Those of terms in ``apart`` are there, ``[T, size]``, and not packed.
        """

        def sums(term: Term) -> jax.Array:
            if term in apart:
                return apart[term].reshape(-1, *term.shape)
            start = self.starts[term]
            return packed[:, start : start + term.size].reshape(-1, *term.shape)

        return jax.tree.map(sums, terms)

    def select(self, packed: jax.Array, wanted: "Columns") -> jax.Array:
        """The columns of ``wanted``, a subset of these, packed."""
        if wanted.starts == self.starts:
            return packed
        parts = [
            packed[:, self.starts[term] : self.starts[term] + term.size] for term in wanted.starts
        ]
        return jnp.concatenate(parts, axis=1)
