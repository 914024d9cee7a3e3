"""Functions of metrics are exported with ``jax.export``: to bytes, for any number of examples."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BY_NAME, CASES, CATALOGUE, GROUPED, SUMS, heavy_where, metric_of
from drawing import batches, keys_of
from jax import export

import recmetrics_jax as rm

pytest.importorskip("flatbuffers")  # What jax.export serializes with; in the extra `test`.

# What counts pairs inside a batch needs to know how many examples there are.
OF_PAIRS = ("xauc", "grouped_xauc", "pairwise_auc")
OF_ANY_NUMBER = [case.without(*OF_PAIRS) if case.has_ties else case for case in GROUPED]
OF_ANY_NUMBER.remove(CATALOGUE)  # Merged and computed as others; its updates are below.
SIZES = (7, 300)
(ANY,) = export.symbolic_shape("n")


def to_bytes_and_back(function, *arguments):
    """A jitted function exported for arguments like these."""
    return export.deserialize(export.export(jax.jit(function))(*arguments).serialize()).call


def with_any_number(batch):
    """The shapes of a batch, of any number of examples."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((x.shape[0], ANY, *x.shape[2:]), x.dtype), batch
    )


def check(values, expected):
    assert values.keys() == expected.keys()
    for name, value in values.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6, err_msg=name)


def streams(case):
    return [batches(case, examples=size, count=2, seed=size) for size in SIZES]


def padded(batch):
    """A batch padded to the largest number of examples, so that but one is compiled for."""
    missing = max(SIZES) - batch.mask.shape[1]
    return jax.tree.map(
        lambda x: jnp.pad(x, [(0, 0), (0, missing), *[(0, 0)] * (x.ndim - 2)]), batch
    )


@pytest.mark.parametrize("case", heavy_where(OF_ANY_NUMBER, SUMS, *OF_ANY_NUMBER[2:]), ids=str)
def test_update_merge_and_compute_of_any_number_of_examples(case):
    metric = metric_of(case, window=100)
    state = metric.init()
    update = to_bytes_and_back(metric.update, state, with_any_number(batches(case, count=1)[0]))
    compute = to_bytes_and_back(metric.compute, state)
    states, wanted = [], []
    for stream in streams(case):
        states.append(functools.reduce(update, stream, state))
        wanted.append(functools.reduce(metric.update, map(padded, stream), state))
        check(compute(states[-1]), metric.compute(wanted[-1]))
    merge = to_bytes_and_back(metric.merge, *states)
    check(metric.compute(merge(*states)), metric.compute(metric.merge(*wanted)))


@pytest.mark.once
def test_update_of_any_number_of_ranks_and_items():
    metric = metric_of(CATALOGUE)
    state = metric.init()
    update = to_bytes_and_back(
        metric.update, state, with_any_number(batches(CATALOGUE, count=1)[0])
    )
    for stream in streams(CATALOGUE):
        updated = functools.reduce(update, stream, state)
        wanted = functools.reduce(metric.update, map(padded, stream), state)
        check(metric.compute(updated), metric.compute(wanted))


@pytest.mark.once
def test_what_counts_pairs_is_exported_for_a_given_number_of_examples():
    case = BY_NAME["xauc"]
    metric = metric_of(case, window=100)
    stream = batches(case, examples=48, count=2)
    update = to_bytes_and_back(metric.update, metric.init(), stream[0])
    state = functools.reduce(update, stream, metric.init())
    wanted = functools.reduce(metric.update, stream, metric.init())
    check(metric.compute(state), metric.compute(wanted))


def test_what_counts_pairs_says_that_it_needs_a_number_of_examples():
    metric = rm.xauc(n_tasks=2)
    batch = with_any_number(batches(SUMS, count=1)[0])
    message = r"^x: expected a number of rows that is known, got \(2, n\); .* bucket_size gives"
    with pytest.raises(ValueError, match=message):
        export.export(jax.jit(metric.update))(metric.init(), batch)


@pytest.mark.parametrize("shape", [(ANY,), (2, ANY)], ids=["one task", "two tasks"])
def test_the_door_is_exported_with_an_update(shape):
    (case,) = [case for case in CASES if case.name == "ndcg"]  # With keys; others are above.
    metric = metric_of(case, n_tasks=2 if len(shape) == 2 else 1)

    def step(state, p, y, w, mask, keys):
        return metric.update(state, rm.make_batch(p, y, w, mask=mask, keys=keys))

    def arguments(size):
        rng = np.random.default_rng(0)
        shape_of = (*shape[:-1], size)
        p, y, w = (jnp.asarray(rng.random(shape_of), jnp.float32) for _ in range(3))
        return p, y, w, jnp.ones(size, bool), jax.tree.map(jnp.asarray, keys_of(case, size))

    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((*x.shape[:-1], ANY), x.dtype), arguments(5)
    )
    exported = to_bytes_and_back(step, metric.init(), *shapes)
    for size in SIZES:
        state = exported(metric.init(), *arguments(size))
        check(metric.compute(state), metric.compute(step(metric.init(), *arguments(size))))


FIRST = np.array([[True, False, False, True, False, True, False], [True] * 7])
SCORES = np.array([[3, 1, 2, 2, 5, 0, 1], [1, 1, 1, 0, 2, 2, 4]], np.float32)
NUMBERS = np.cumsum(FIRST, axis=1, dtype=np.int32) - 1
ORDER = np.array([[3, 1, 0, 2, 6, 5, 4], [0, 2, 4, 6, 1, 3, 5]], np.int32)
OF_SESSIONS = (SCORES, (NUMBERS,), FIRST)
OPS = {
    "argsort": (NUMBERS, SCORES),
    "count_relevant": OF_SESSIONS,
    "cumsum": (SCORES, FIRST),
    "curve": (SCORES, SCORES, SCORES, (NUMBERS,)),
    "first_relevant": OF_SESSIONS,
    "first_rows": (FIRST,),
    "ideal_order": OF_SESSIONS,
    "is_first": (NUMBERS,),
    "is_last": (FIRST,),
    "last_rows": (FIRST,),
    "maxima": (SCORES, NUMBERS),
    "numbers": (FIRST,),
    "precision_recall_area": (SCORES, SCORES, SCORES, (NUMBERS,)),  # Of their curve.
    "put": (SCORES, ORDER),
    "ranks": (FIRST,),
    "relevant_in_top": OF_SESSIONS,
    "roc_area": (SCORES, SCORES, SCORES, (NUMBERS,)),
    "run_means": OF_SESSIONS,
    "sessions": OF_SESSIONS,
    "starts": (NUMBERS,),
    "sums": (SCORES, FIRST),
    "sums_before": (SCORES, FIRST),
    "take": (SCORES, ORDER),
    "top_ends": OF_SESSIONS,
    "totals": (SCORES, NUMBERS),
    "words_of": (SCORES,),
}


def test_the_table_has_all_functions_of_ops_but_those_of_pairs_and_catalogues():
    functions = {name for name in rm.ops.__all__ if name[0].islower()}
    assert set(OPS) == functions - {"count_pairs", "rank_in", "rank_of"}


def test_ranks_of_any_number_of_rows_and_items():
    rows, items = export.symbolic_shape("n, v")
    of = jax.ShapeDtypeStruct
    shapes = of((rows, items), np.float32), of((rows,), np.int32), of((rows, 2), np.int32)

    def ranks(scores, target, exclude):
        of_scores = rm.ops.rank_of(scores, target, exclude=exclude)
        return of_scores, rm.ops.rank_in(jnp.argsort(-scores, axis=1), target)

    exported = to_bytes_and_back(ranks, *shapes)
    for size in (1, 7):
        scores, target = SCORES[:, :size], np.array([0, size - 1], np.int32)
        exclude = np.array([[size - 1, -1], [0, 0]], np.int32)
        given, wanted = (f(scores, target, exclude) for f in (exported, ranks))
        for x, y in zip(jax.tree.leaves(given), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_array_equal(x, y)


def of_all(arguments):
    """What all toolkits give, as one program; the areas are of curves, and tops of sessions."""
    rows = rm.ops.sessions(*arguments["sessions"])
    is_relevant = arguments["sessions"][2]
    relevant = rm.ops.count_relevant(is_relevant, rows)
    given_sessions = {
        "count_relevant": (is_relevant, rows),
        "first_relevant": (relevant, rows),
        "ideal_order": (arguments["sessions"][0], rows),
        "relevant_in_top": (relevant, rows),
        "run_means": (arguments["sessions"][0], rows),
        "top_ends": (rows, 3),
    }
    given = {}
    for name, x in arguments.items():
        x = (rm.ops.curve(*x),) if name.endswith("_area") else given_sessions.get(name, x)
        given[name] = jax.tree.leaves(getattr(rm.ops, name)(*x))
    return given


@pytest.mark.once
def test_toolkits_of_any_number_of_rows():
    arguments = jax.tree.map(jnp.asarray, OPS)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, ANY), x.dtype), arguments)
    exported = export.export(jax.jit(of_all))(shapes)
    for size in (1, 5, 7):
        some = jax.tree.map(lambda x, n=size: x[:, :n], arguments)
        for name in ("put", "take"):
            rows = jnp.argsort(some[name][1], axis=1).astype(jnp.int32)
            some[name] = (some[name][0], rows)
        expected = jax.jit(of_all)(some)
        given: Any = exported.call(some)
        for name, values in expected.items():
            for value, wanted in zip(given[name], values, strict=True):
                np.testing.assert_allclose(value, wanted, rtol=1e-12, err_msg=name)


def test_shapes_that_do_not_fit_are_named_when_they_are_exported():
    n, m = export.symbolic_shape("n, m")
    p, y = (jax.ShapeDtypeStruct((size,), jnp.float32) for size in (n, m))
    for labels in (y, jax.ShapeDtypeStruct((4,), jnp.float32)):
        with pytest.raises(ValueError, match=r"^labels: expected shape \(n,\), as the predictions"):
            export.export(jax.jit(rm.make_batch))(p, labels)
