"""Sums of terms over the examples of a batch, in float64: the hot path of every update.

XLA's CPU backend reduces each term in a pass of its own, which reads the batch again and wakes its
threads again. A reduction of several operands is one pass, and where it adds up few numbers, with
vector instructions (see `numerics.parts_of`). So on a CPU, terms of plain arithmetic are added up a
few at a time, first parts of a row of examples onto each other, then what is left of the row.
Logarithms and the like do better in a pass of their own, and GPUs with a reduction for each term,
which the compiler fuses.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.base import Batch
from recmetrics_jax._src.numerics import MOST_PARTS, is_known, parts_of
from recmetrics_jax._src.terms import Term

ROWS = 48
"""Examples are added up in so many rows at most, and these at the end. Over examples sharded on so
many devices, or a divisor of it, each device adds up its own, and one collective the rest."""

TOGETHER = 4
"""Terms added up in one pass: what is too long to be unrolled takes four times as long."""

SMALL = 4096
"""Numbers in a term up to which one pass for all terms is best: to start more would take longer."""

ARITHMETIC = frozenset(
    {
        "abs",
        "add",
        "and",
        "broadcast_in_dim",
        "ceil",
        "clamp",
        "convert_element_type",
        "copy",
        "eq",
        "floor",
        "ge",
        "gt",
        "integer_pow",
        "is_finite",
        "jit",
        "le",
        "lt",
        "max",
        "min",
        "mul",
        "ne",
        "neg",
        "not",
        "or",
        "pjit",
        "reshape",
        "round",
        "select_n",
        "sign",
        "square",
        "squeeze",
        "sub",
    }
)
"""Primitives that cost about as much in a scalar loop as the loop itself."""


def _is_arithmetic(term: Term, batch: Batch) -> bool:
    """Whether a term is a number for each example, by plain arithmetic on its batch."""
    if term.is_summed or term.shape:
        return False
    return _is_plain(jax.make_jaxpr(lambda batch: term.function(batch, *term.options))(batch).jaxpr)


def _is_plain(jaxpr: Any) -> bool:
    return all(
        equation.primitive.name in ARITHMETIC
        and all(_is_plain(p.jaxpr) for p in equation.params.values() if hasattr(p, "jaxpr"))
        for equation in jaxpr.eqns
    )


def sums(terms: Mapping[Term, jax.Array], batch: Batch) -> jax.Array:
    """The sums of terms over a batch.

    Float64 bounds their error at ``N * 1e-16``.

    Args:
        terms: what each term is at the examples of the batch, ``float[T, N, *shape]``; its sums,
            ``float[T, *shape]``, where it ``is_summed``.
        batch: the batch.

    Returns:
        ``float64[T, K]``: the sums, in order.
    """
    together = [term for term in terms if _is_arithmetic(term, batch)]
    apart = [term for term in terms if term not in together]
    with jax.enable_x64(True):
        columns = [_together([terms[term] for term in together])] if together else []
        for term in apart:
            statistics = terms[term]
            if not term.is_summed:
                statistics = jnp.sum(statistics, axis=1, dtype=jnp.float64)
            columns.append(statistics.astype(jnp.float64).reshape(-1, term.size))
        # The order asked for, in one step, since XLA would do many little ones one by one.
        ends = itertools.accumulate(term.size for term in (*together, *apart))
        columns_of = dict(zip((*together, *apart), ends, strict=True))
        order = [i for term in terms for i in range(columns_of[term] - term.size, columns_of[term])]
        return jnp.concatenate(columns, axis=1)[:, np.array(order)]


def _together(terms: Sequence[jax.Array]) -> jax.Array:
    """The sums of ``K`` terms ``float[T, N]``, ``float64[T, K]``; in an x64 scope."""
    # On a mesh of explicit axes, examples cannot be split into rows; nor where an exported function
    # takes any number of them.
    is_split = is_known(terms[0].shape[1]) and len(terms) > 1
    if not is_split or any(any(jax.typeof(term).sharding.spec) for term in terms):
        return _apart(*terms)
    return jax.lax.platform_dependent(*terms, cpu=_by_parts, default=_apart)


def _apart(*terms: jax.Array) -> jax.Array:
    return jnp.stack([jnp.sum(term, axis=1, dtype=jnp.float64) for term in terms], axis=1)


def _by_parts(*terms: jax.Array) -> jax.Array:
    n_tasks, size = terms[0].shape
    rows = math.gcd(size, ROWS)
    length = size // rows
    # A length without small divisors leaves some over, which `_sums_of_rows` adds.
    parts, passes = min(parts_of(length), MOST_PARTS), -(-len(terms) // TOGETHER)
    if n_tasks * size <= SMALL:
        parts, passes = max(length, 1), 1
    by_row: list[jax.Array] = []
    for indices in np.array_split(np.arange(len(terms)), passes):
        by_row += _sums_of_rows([terms[i].reshape(n_tasks, rows, length) for i in indices], parts)
    return jnp.sum(jnp.stack(by_row, axis=2), axis=1)


def _sums_of_rows(terms: Sequence[jax.Array], parts: int) -> Sequence[jax.Array]:
    """The sums of rows ``float[T, R, N]``, ``float64[T, R]``, by parts of a row; in one pass."""
    *shape, length = terms[0].shape
    even = length - length % parts
    by_part = [x[..., :even].reshape(*shape, parts, even // parts) for x in terms]
    sums = _reduce(_reduce([x.astype(jnp.float64) for x in by_part], 2), 2)
    if even == length:
        return sums
    rest = _reduce([x[..., even:].astype(jnp.float64) for x in terms], 2)
    return [x + y for x, y in zip(sums, rest, strict=True)]


def _reduce(operands: Sequence[jax.Array], axis: int) -> Sequence[jax.Array]:
    """The sums along an axis, in one pass."""
    return jax.lax.reduce(
        tuple(operands),
        (np.float64(0),) * len(operands),
        lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)),
        dimensions=(axis,),
    )
