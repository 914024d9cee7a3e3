"""Sums of terms over the examples of a batch, in float64: the hot path of every update."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src import _cpu
from recmetrics_jax._src.base import Batch
from recmetrics_jax._src.domain import Check, Domain, extremes_of_examples
from recmetrics_jax._src.terms import Term


def sums(terms: Mapping[Term, jax.Array], checks: Sequence[Check] = ()) -> jax.Array:
    """The sums of terms over a batch, and for each domain whether examples are out of it.

    Float64 bounds their error at ``N * 1e-16``.

    Args:
        terms: what each term is at the examples of the batch, ``float[T, N, *shape]``; its sums,
            ``float[T, *shape]``, where it ``is_summed``.
        checks: examples, and the domains that they are to be in.

    Returns:
        ``float64[T, K + M]``: the sums, in order; then a number for each domain, in order, above 0
        if an example is out of it.
    """
    shared = [t for t in terms if t.arithmetic and not t.is_summed and not t.shape]
    alone = [term for term in terms if term not in shared]
    with jax.enable_x64(True):
        in_passes = []
        if shared or checks:
            in_passes = [_cpu.sums_of([terms[term] for term in shared], checks)]
        columns = [x[:, : len(shared)] for x in in_passes]
        for term in alone:
            statistics = terms[term]
            if not term.is_summed:
                statistics = jnp.sum(statistics, axis=1, dtype=jnp.float64)
            columns.append(statistics.astype(jnp.float64).reshape(-1, term.size))
        columns += [x[:, len(shared) :] for x in in_passes]
        # The order asked for.
        ends = itertools.accumulate(term.size for term in (*shared, *alone))
        columns_of = dict(zip((*shared, *alone), ends, strict=True))
        order = [i for term in terms for i in range(columns_of[term] - term.size, columns_of[term])]
        order += range(len(order), len(order) + sum(len(check.domains) for check in checks))
        return _cpu.columns_of(jnp.concatenate(columns, axis=1), np.array(order))


def checks_of(batch: Batch, domains: Iterable[Domain]) -> list[Check]:
    """The examples of a batch that each of some domains is about; the domains in order."""
    if batch.given.leaves_out:
        views = {domain: batch if domain.by_order else batch.of_values for domain in domains}
        return [_check(view, (domain,)) for domain, view in views.items()]
    of_all = tuple(domains)
    return [_check(batch, of_all)] if of_all else []


def _check(batch: Batch, domains: tuple[Domain, ...]) -> Check:
    extremes = extremes_of_examples(batch.predictions, batch.labels, batch.weights)
    return Check(extremes, domains, batch.given.one)
