"""Terms that are evaluated at once: the columns of one that gives several sums."""

import dataclasses

import jax

from recmetrics_jax._src.base import Batch
from recmetrics_jax._src.terms import Term


def column(batch: Batch, whole: Term, index: int) -> jax.Array:
    """One of the sums of a term over a batch, ``float[T]``."""
    return whole.evaluate(batch)[:, index]


@dataclasses.dataclass(frozen=True, eq=False)
class Column(Term):
    """One of the sums of a term, as a term; made by `columns`."""

    @property
    def whole(self) -> Term:
        """The term that gives it with others."""
        return self.options[0]  # pyright: ignore[reportReturnType] - as `columns` has put it there

    @property
    def index(self) -> int:
        """Its place among them."""
        return self.options[1]  # pyright: ignore[reportReturnType] - as `columns` has put it there


def columns(whole: Term) -> tuple[Column, ...]:
    """The sums of a term that ``is_summed``, ``float[T, K]``, as ``K`` terms.

    Where they are added up one by one, the whole is evaluated for each of them; who adds up many at
    once evaluates it once.

    >>> import jax.numpy as jnp, recmetrics_jax as rm
    >>> def both(batch):
    ...     return jnp.stack([batch.labels.sum(1), batch.weights.sum(1)], axis=1)
    >>> labels, weights = columns(Term(both, shape=(2,), is_summed=True))
    >>> batch = rm.make_batch([0.5, 0.5], [1, 0])
    >>> labels.evaluate(batch).tolist(), weights.evaluate(batch).tolist()
    ([1.0], [2.0])
    """
    ways = {
        name: getattr(whole, name) for name in ("keys", "excludes", "by_order", "raw", "per_batch")
    }
    return tuple(
        Column(column, (whole, index), is_summed=True, **ways) for index in range(whole.size)
    )


def wholes(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """What is to be evaluated for some terms, each once."""
    return tuple(dict.fromkeys(x.whole if isinstance(x, Column) else x for x in terms))
