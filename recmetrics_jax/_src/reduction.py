"""Sums of terms over the examples of a batch, in float64: the hot path of every update."""

import itertools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src import _cpu
from recmetrics_jax._src.terms import Term


def sums(terms: Mapping[Term, jax.Array]) -> jax.Array:
    """The sums of terms over a batch.

    Float64 bounds their error at ``N * 1e-16``.

    Args:
        terms: what each term is at the examples of the batch, ``float[T, N, *shape]``; its sums,
            ``float[T, *shape]``, where it ``is_summed``.

    Returns:
        ``float64[T, K]``: the sums, in order.
    """
    shared = [t for t in terms if t.arithmetic and not t.is_summed and not t.shape]
    alone = [term for term in terms if term not in shared]
    with jax.enable_x64(True):
        columns = [_cpu.sums_of(*(terms[term] for term in shared))] if shared else []
        for term in alone:
            statistics = terms[term]
            if not term.is_summed:
                statistics = jnp.sum(statistics, axis=1, dtype=jnp.float64)
            columns.append(statistics.astype(jnp.float64).reshape(-1, term.size))
        # The order asked for, in one step, since XLA would do many little ones one by one.
        ends = itertools.accumulate(term.size for term in (*shared, *alone))
        columns_of = dict(zip((*shared, *alone), ends, strict=True))
        order = [i for term in terms for i in range(columns_of[term] - term.size, columns_of[term])]
        return jnp.concatenate(columns, axis=1)[:, np.array(order)]
