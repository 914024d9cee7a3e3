"""The toolkits against loops over rows, on arrays that hypothesis makes up."""

import itertools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recmetrics_jax import ops

pytestmark = pytest.mark.once

SIZES = (1, 2, 7, 40)  # few, so that few are compiled

settings = hypothesis.settings(max_examples=30, deadline=None, derandomize=True)


def arrays(elements, dtype, tasks=2):
    return st.sampled_from(SIZES).flatmap(
        lambda size: hnp.arrays(dtype, (tasks, size), elements=elements)
    )


def columns(*specs, tasks=2):
    """Several arrays of one shape."""
    return st.sampled_from(SIZES).flatmap(
        lambda size: st.tuples(
            *(hnp.arrays(dtype, (tasks, size), elements=elements) for elements, dtype in specs)
        )
    )


FEW = (st.integers(0, 3), np.int32)
LEVELS = (st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 0.25, 3.0]), np.float32)
WEIGHTS = (st.sampled_from([0.0, 1.0, 2.0, 5.0]), np.float32)
UNEQUAL = (st.sampled_from([0.0, 1e-9, 1.0, 3.0, 1e12]), np.float64)
FLOATS = st.floats(width=32, allow_nan=False, allow_subnormal=True)
INTEGERS = st.integers(-(2**31), 2**31 - 1)

argsort = jax.jit(ops.argsort)
count_pairs = jax.jit(ops.count_pairs)
curve = jax.jit(ops.curve)


def in_x64(function, *arguments):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, function(*(jnp.asarray(x) for x in arguments)))


@settings
@hypothesis.given(arrays(FLOATS, np.float32))
def test_argsort_of_floats_is_stable_and_tells_all_values_apart(x):
    order = np.asarray(argsort(x))
    for row, of_row in zip(x, order, strict=True):
        # -0.0 + 0.0 is 0.0; float64 holds subnormal float32 as normal numbers.
        expected = np.argsort(row.astype(np.float64) + 0.0, kind="stable")
        np.testing.assert_array_equal(of_row, expected)


@settings
@hypothesis.given(arrays(st.floats(allow_nan=False), np.float64))
def test_argsort_of_float64(x):
    order = in_x64(argsort, x)
    np.testing.assert_array_equal(order, np.argsort(x + 0.0, axis=1, kind="stable"))


@settings
@hypothesis.given(columns((st.booleans(), bool), FEW, (INTEGERS, np.int32), LEVELS))
def test_argsort_by_several_keys(keys):
    order = np.asarray(argsort(*keys))
    for task in range(2):
        *rest, levels = (key[task] for key in keys)
        expected = np.lexsort([levels + 0.0, *rest[::-1]])
        np.testing.assert_array_equal(order[task], expected)


def test_words_of_64_bits_are_in_order():
    values = np.array([-(2**63), -(2**32), -1, 0, 1, 2**32 - 1, 2**32, 2**63 - 1])
    np.testing.assert_array_equal(in_x64(argsort, values[::-1][None]), [np.arange(8)[::-1]])
    unsigned = np.array([0, 1, 2**32, 2**63, 2**64 - 1], np.uint64)
    np.testing.assert_array_equal(in_x64(argsort, unsigned[::-1][None]), [np.arange(5)[::-1]])


def runs(keys):
    """The runs of equal keys in a sorted list, as slices."""
    at = 0
    for _, run in itertools.groupby(keys):
        size = len(list(run))
        yield slice(at, at + size)
        at += size


@settings
@hypothesis.given(columns(FEW, (st.integers(-5, 5), np.int32)))
def test_groups_are_ranked_and_summed(columns):
    keys, x = columns
    keys = np.sort(keys, axis=1)
    is_first = ops.is_first(jnp.asarray(keys))
    functions = ("is_last", "first_rows", "last_rows", "ranks")
    got = {name: np.asarray(getattr(ops, name)(is_first)) for name in functions}
    got |= {
        name: np.asarray(getattr(ops, name)(jnp.asarray(x), is_first))
        for name in ("cumsum", "sums", "sums_before")
    }
    for task in range(2):
        for run in runs(keys[task]):
            size = run.stop - run.start
            values = x[task, run]
            expected = {
                "is_last": np.arange(size) == size - 1,
                "first_rows": np.full(size, run.start),
                "last_rows": np.full(size, run.stop - 1),
                "ranks": np.arange(size),
                "cumsum": np.cumsum(values),
                "sums": np.full(size, values.sum()),
                "sums_before": np.cumsum(values) - values,
            }
            for name, value in expected.items():
                np.testing.assert_array_equal(got[name][task, run], value, err_msg=name)


def test_a_group_of_small_numbers_keeps_its_digits_beside_large_ones():
    x = jnp.array([1e30, 1e-3, 2e-3, 1e30], jnp.float32)
    sums = ops.sums(x, jnp.array([True, True, False, True]))
    np.testing.assert_allclose(sums[1:3], 3e-3, rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 6), (2, 0, 5), (3, 0)])
def test_no_rows_have_no_sums(shape):
    x, is_first = jnp.ones(shape), jnp.ones(shape, bool)
    for function in (ops.cumsum, ops.sums, ops.sums_before):
        assert function(x, is_first).shape == shape


@settings
@hypothesis.given(arrays(FLOATS, np.float32), st.randoms(use_true_random=False))
def test_put_undoes_take(x, random):
    rows = np.array([random.sample(range(x.shape[1]), x.shape[1]) for _ in x], np.int32)
    taken = ops.take(jnp.asarray(x), jnp.asarray(rows))
    np.testing.assert_array_equal(ops.put(taken, jnp.asarray(rows)), x)


def pairs_of(x, y, w, others=None):
    """What pairs weigh: concordant, discordant, tied in both, all, tied in x alone."""
    totals = [0.0] * 5
    for i, j in itertools.combinations(range(len(x)), 2):
        weight = w[i] * w[j] if others is None else w[i] * others[j] + w[j] * others[i]
        # By comparison, since the difference of two infinities is none.
        of_x, of_y = (int(a[i] > a[j]) - int(a[i] < a[j]) for a in (x, y))
        totals[3] += weight
        if of_x and of_y:
            totals[0 if of_x == of_y else 1] += weight
        elif not of_x:
            totals[4 if of_y else 2] += weight
    return totals


@settings
@hypothesis.given(columns(LEVELS, LEVELS, WEIGHTS, FEW))
def test_pairs_are_counted_exactly_by_group(columns):
    x, y, w, groups = columns
    pairs = count_pairs(x, y, w, (groups,))
    for task in range(2):
        keys = groups[task][np.asarray(pairs.order[task])]
        for run in runs(keys):
            rows = groups[task] == keys[run.start]
            got = [float(of_kind[task, run.stop - 1]) for of_kind in pairs[:5]]
            assert got == pairs_of(*(a[task][rows] for a in (x, y, w)))


@pytest.mark.parametrize("size", [31, 32, 33, 64, 65, 300])
def test_pairs_of_many_rows(size):
    rng = np.random.default_rng(size)
    x, y, w = (rng.integers(0, size // 2, (1, size)).astype(np.float32) for _ in range(3))
    pairs = count_pairs(x, y, w)
    expected = pairs_of(x[0], y[0], w[0].astype(float))
    assert [float(part[0, -1]) for part in pairs[:5]] == expected


# Groups of which some fill a block of 16, some do not, and some need several rounds.
LENGTHS = {"small": (1, 2, 16, 15, 3, 9), "large": (1, 17, 200, 16, 33, 64, 65, 5, 31)}


@pytest.mark.parametrize(("is_product", "has_absent"), [(True, False), (True, True), (False, True)])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_pairs_of_groups_of_all_sizes(lengths, is_product, has_absent):
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(len(LENGTHS[lengths]))[::-1] * 2**20, sorted(LENGTHS[lengths]))
    groups = np.stack([rng.permutation(groups) for _ in range(2)]).astype(np.int32)
    x = rng.choice([-np.inf, -1.5, 0.0, 1e-45, 2.0, np.inf], groups.shape).astype(np.float32)
    y = rng.integers(-3, 9, groups.shape).astype(np.int32)
    w = rng.integers(0, 4, groups.shape).astype(np.float32)
    # Of a large group, most rows are absent. What these weigh is no matter.
    is_present = (w > 0) & ((groups > 0) | (np.arange(w.shape[1]) % 8 == 0))
    others = (w > 0).astype(np.float32)
    of_others = None if is_product else others
    pairs = count_pairs(x, y, w, (groups, groups), of_others, is_present if has_absent else None)
    if has_absent:
        w, others = (np.where(is_present, of_rows, 0) for of_rows in (w, others))
    for task in range(2):
        keys = groups[task][np.asarray(pairs.order[task])]
        for run in runs(keys):
            rows = groups[task] == keys[run.start]
            got = [float(of_kind[task, run.stop - 1]) for of_kind in pairs[:5]]
            of_rows = [a[task][rows] for a in (x.astype(float), y, w)]
            of_others = None if is_product else others[task][rows]
            assert got == pairs_of(*of_rows, others=of_others)


@pytest.mark.heavy
def test_pairs_of_more_rows_than_16_bits_tell():
    rows = jnp.arange(70_000, dtype=jnp.int32)
    keys = (rows % 3, rows % 2)
    x, y = np.arange(70_000, dtype=np.float32), np.arange(70_000, dtype=np.float32)[::-1]
    pairs = count_pairs(x, y, np.ones_like(x), keys)
    ends = np.flatnonzero(np.append(np.asarray(pairs.is_first)[1:], True))
    sizes = np.diff(np.append(-1, ends))
    np.testing.assert_array_equal(pairs.discordant[ends], sizes * (sizes - 1) / 2)
    assert len(ends) == 6


def points_of(scores, positives, negatives):
    """Cumulative weights by distinct score, the highest first."""
    for score in sorted(set(scores.tolist()), reverse=True):
        at, above = scores == score, scores >= score
        yield (
            positives[above].sum(),
            negatives[above].sum(),
            positives[at].sum(),
            negatives[at].sum(),
        )


@settings
@hypothesis.given(columns(LEVELS, UNEQUAL, UNEQUAL, FEW))
def test_curve_has_a_point_for_each_score_of_a_group(columns):
    scores, positives, negatives, groups = columns
    points = in_x64(lambda *x: curve(*x[:3], (x[3],)), *columns)
    for task in range(2):
        keys = groups[task][points.order[task]]
        for run in runs(keys):
            rows = groups[task] == keys[run.start]
            expected = points_of(*(x[task][rows] for x in (scores, positives, negatives)))
            sorted_scores = scores[task][points.order[task]][run] + 0.0
            for of_score, point in zip(runs(sorted_scores), expected, strict=True):
                got = [part[task, run.start + of_score.stop - 1] for part in points[:4]]
                total = positives[task][rows].sum() + negatives[task][rows].sum()
                # What a run adds is a difference: right to the last digit of the group's total.
                np.testing.assert_allclose(got, point, rtol=1e-12, atol=1e-15 * total)


def test_areas_are_nan_where_a_class_is_missing():
    one, zero = jnp.ones((1, 3)), jnp.zeros((1, 3))
    with jax.enable_x64(True):
        assert np.isnan(ops.roc_area(ops.curve(one, one, zero))[0, -1])
        assert np.isnan(ops.roc_area(ops.curve(one, zero, one))[0, -1])
        assert np.isnan(ops.precision_recall_area(ops.curve(one, zero, one))[0, -1])
        assert ops.precision_recall_area(ops.curve(one, one, zero))[0, -1] == 1


sessions = jax.jit(ops.sessions)


@pytest.mark.heavy
@settings
@hypothesis.given(columns(LEVELS, FEW, (st.booleans(), bool), LEVELS))
def test_sessions_are_sorted_with_absent_rows_last(columns):
    scores, groups, is_present, labels = columns
    rows = jax.tree.map(np.asarray, sessions(scores, (groups,), is_present))
    ideal = np.asarray(ops.ideal_order(jnp.asarray(labels[:, :]), sessions(scores, (groups,))))
    for task in range(2):
        order = np.lexsort([-scores[task] + 0.0, ~is_present[task], groups[task]])
        np.testing.assert_array_equal(is_present[task][order], rows.is_present[task])
        np.testing.assert_array_equal(
            scores[task][order][rows.is_present[task]],
            scores[task][rows.order[task]][rows.is_present[task]],
        )
        for number, run in enumerate(runs(groups[task][order])):
            present = rows.is_present[task, run]
            size = run.stop - run.start
            expected = {
                "number": np.full(size, number),
                "start": np.full(size, run.start),
                "end": np.full(size, run.stop - 1),
                "length": np.full(size, present.sum()),
            }
            for name, value in expected.items():
                np.testing.assert_array_equal(getattr(rows, name)[task, run], value, err_msg=name)
            of_session = scores[task][order][run][present]
            tied = [np.sum(of_session == score) for score in of_session]
            above = [np.sum(of_session > score) for score in of_session]
            np.testing.assert_array_equal(rows.tied[task, run][present], tied)
            np.testing.assert_array_equal(rows.run_start[task, run][present] - run.start, above)
            np.testing.assert_array_equal(rows.rank[task, run], np.arange(1, size + 1))
            # In the places of sessions, whatever rows lie there.
            wanted = np.sort(labels[task][run])[::-1] + 0.0
            np.testing.assert_array_equal(ideal[task, run] + 0.0, wanted)
