"""The metrics of sessions: definitions, ties, domains, weights, what is absent, the two scopes."""

import functools
import re

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import oracles_sessions as oracles
import pytest

import recmetrics_jax as rm

pytestmark = pytest.mark.once

FACTORIES = {
    "ndcg": rm.ndcg,
    "recall": rm.recall_at,
    "precision": rm.precision_at,
    "hit_rate": rm.hit_rate,
    "mrr": rm.mrr,
    "average_precision": rm.average_precision,
}
HAVE_ALL = ("ndcg", "mrr", "average_precision")
OPTIONS = {
    "ndcg": [{}, {"exponential_gain": True}],
    "recall": [{}, {"capped": True}],
    "precision": [{}, {"adaptive_k": True}],
    "hit_rate": [{}],
    "mrr": [{}, {"of": "all"}],
    "average_precision": [{}, {"capped": True}],
}
KS = (1, 2, 4, 50)
FEW = ("ndcg", "recall")
"""Where one metric of gains and one of relevant rows say enough."""


@functools.cache
def family(n_tasks=2, *, names=tuple(OPTIONS), window=None, **options):
    """Metrics with each of their options, at all k and of all ranks, as one collection."""
    if window is not None:
        options |= {"scope": "window", "window": window}
    metrics = {}
    for name, own in ((name, OPTIONS[name]) for name in names):
        for each in own:
            make = functools.partial(FACTORIES[name], n_tasks=n_tasks, **each, **options)
            metrics[f"{name} {each} at k"] = make(k=KS)
            if name in HAVE_ALL and not each.get("capped"):
                metrics[f"{name} {each}"] = make()
    return rm.collection(metrics)


def family_of_oracles(session=oracles.SESSION, *, names=tuple(OPTIONS), **options):
    """The oracles of `family`, by name."""
    values = {}
    for name, own in ((name, OPTIONS[name]) for name in names):
        for each in own:
            make = functools.partial(
                oracles.of_sessions, name, session=session[name], **each, **options
            )
            values[f"{name} {each} at k"] = make(KS)
            if name in HAVE_ALL and not each.get("capped"):
                values[f"{name} {each}"] = make((None,))
    return values


def values_of(metric, batches):
    """The values, with the prefix of the lifetime or the window cut off."""
    values = metric.compute(functools.reduce(metric.update, batches, metric.init()))
    return {re.sub("(lifetime|window)_", "", name): np.asarray(x) for name, x in values.items()}


def batch_of(p, y, w, sessions, **options):
    return rm.make_batch(p, y, w, keys={"session_id": sessions}, **options)


def check(values, wanted, rtol=1e-6, atol=1e-7):
    assert values.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(values[name], value, rtol=rtol, atol=atol, err_msg=name)


def wanted_of(family_of_oracles, *arrays):
    """The oracles' values of one batch, by task."""
    wanted = {}
    for metric, oracle in family_of_oracles.items():
        by_task = [oracle(*parts) for parts in zip(*arrays, strict=True)]
        wanted |= {f"{metric}/{n}": np.array([v[n] for v in by_task]) for n in by_task[0]}
    return wanted


PREDICTIONS = {
    "distinct": lambda rng, shape: rng.permuted(
        np.broadcast_to(np.arange(shape[1]), shape), axis=1
    ),
    "tied": lambda rng, shape: rng.integers(0, 4, shape),
    "equal": lambda rng, shape: np.zeros(shape),
}


def draw(seed, predictions, *, tasks=2, examples=57, groups=9):
    rng = np.random.default_rng(seed)
    shape = (tasks, examples)
    p = PREDICTIONS[predictions](rng, shape) / 64
    y, w = (rng.random(shape) < 0.3).astype(float), rng.integers(0, 5, shape) / 4
    keys = rng.integers(0, groups, shape)
    y[keys == 1] = 0
    # 64 bits: most of these are equal in their upper or in their lower half.
    return p, y, w, (keys % 3) * 2**40 + keys // 3 - 2


@pytest.mark.parametrize("predictions", PREDICTIONS)
def test_metrics_are_their_definitions(predictions):
    arrays = draw(0, predictions)
    check(values_of(family(), [batch_of(*arrays)]), wanted_of(family_of_oracles(), *arrays))


@pytest.mark.parametrize("predictions", PREDICTIONS)
def test_sessions_without_a_value_have_that_given_and_digits_are_those_of_float64(predictions):
    with jax.enable_x64(True):
        arrays = draw(6, predictions)
        values = values_of(family(undefined_sessions=0.25), [batch_of(*arrays)])
        wanted = wanted_of(family_of_oracles(undefined_sessions=0.25), *arrays)
        check(values, wanted, rtol=1e-12, atol=0)
        assert (values["ndcg {}/ndcg_undefined_sessions"] > 0).all()


@pytest.mark.heavy
def test_ties_count_by_the_mean_over_all_orders():
    """Lists of up to five rows, a task each."""
    rng = np.random.default_rng(1)
    lists = 48
    p, y = rng.integers(0, 3, (lists, 5)) / 4, rng.integers(0, 2, (lists, 5)).astype(float)
    w = (np.arange(5) < rng.integers(1, 6, (lists, 1))).astype(float)
    session = {name: functools.partial(oracles.by_orders, f) for name, f in oracles.RANKED.items()}
    zeros = np.zeros((lists, 5), int)
    wanted = wanted_of(family_of_oracles(session), p, y, w, zeros)
    check(values_of(family(lists), [batch_of(p, y, w, zeros)]), wanted)


def test_gains_of_ties_count_by_the_mean_over_all_orders():
    rng = np.random.default_rng(2)
    lists = 40
    p, y = rng.integers(0, 3, (lists, 5)) / 4, rng.integers(0, 5, (lists, 5)) / 2
    ones, zeros = np.ones((lists, 5)), np.zeros((lists, 5), int)
    for options in OPTIONS["ndcg"]:
        values = values_of(rm.ndcg(k=KS, n_tasks=lists, **options), [batch_of(p, y, ones, zeros)])
        for k in KS:
            wanted = [
                oracles.by_orders(oracles.ranked_ndcg, *of_list, k=k, **options)
                for of_list in zip(p, y, strict=True)
            ]
            np.testing.assert_allclose(values[f"ndcg_at_{k}"], wanted, rtol=1e-6)


@pytest.mark.parametrize("predictions", PREDICTIONS)
@pytest.mark.parametrize("k", [None, 3])
def test_ndcg_is_that_of_scikit_learn(predictions, k):
    sklearn = pytest.importorskip("sklearn.metrics")
    p, _, _, _ = draw(3, predictions, tasks=6, examples=15)
    y = np.random.default_rng(3).integers(0, 5, p.shape) / 2
    y[0] = 0
    sessions = np.repeat(np.arange(6), 15)
    metric = rm.ndcg(k=k, undefined_sessions=0.0)
    value = values_of(metric, [batch_of(p.ravel(), y.ravel(), None, sessions)])
    wanted = sklearn.ndcg_score(y, p, k=k)
    np.testing.assert_allclose(value["ndcg_at_3" if k else "ndcg"], [wanted], rtol=1e-6)


def test_ranks_are_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    p, y, _, _ = draw(4, "distinct", tasks=6, examples=15)
    y[:, 0] = 1
    batch = batch_of(p.ravel(), y.ravel(), None, np.repeat(np.arange(6), 15))
    value = values_of(rm.average_precision(), [batch])["average_precision"]
    by_list = [sklearn.average_precision_score(*of_list) for of_list in zip(y, p, strict=True)]
    np.testing.assert_allclose(value, np.mean(by_list, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(
        value, [sklearn.label_ranking_average_precision_score(y, p)], rtol=1e-6
    )
    in_top = (np.argsort(np.argsort(-p, axis=1), axis=1) < 4).astype(float)
    for name, score in (("recall", sklearn.recall_score), ("precision", sklearn.precision_score)):
        values = values_of(FACTORIES[name](k=4), [batch])[f"{name}_at_4"]
        np.testing.assert_allclose(values, [score(y, in_top, average="samples")], rtol=1e-6)


@pytest.mark.parametrize("name", ["recall", "precision"])
def test_pooled_values_are_ratios_of_sums(name):
    arrays = draw(5, "tied")
    own = [{}, {"adaptive_k": True}] if name == "precision" else [{}]
    for options in own:
        metric = FACTORIES[name](k=KS, pooled=True, n_tasks=2, **options)
        oracle = oracles.pooled(name, KS, **options)
        wanted = {k.partition("/")[2]: v for k, v in wanted_of({"": oracle}, *arrays).items()}
        check(values_of(metric, [batch_of(*arrays)]), wanted)


LABELS = {
    "soft": ([0.3, 1, 0], True, False),
    "stars": ([5, 3, 1], True, False),
    "both signs": ([-1, 1, 1], True, True),
}


@pytest.mark.parametrize("options", [{}, {"window": 9}], ids=["batch", "window"])
@pytest.mark.parametrize("labels", LABELS)
def test_labels_that_do_not_tell_make_their_task_nan(labels, options):
    """Whatever is given for what is undefined; and only while they are there, with weight."""
    y, is_bad_for_others, is_bad_for_ndcg = LABELS[labels]
    p = np.array([[0.1, 0.5, 0.9]] * 2)
    y = np.array([y, [0.0, 1.0, 0.0]])
    metric = family(names=FEW, undefined=0.5, **options)
    values = values_of(metric, [batch_of(p, y, None, [7, 7, 7])])
    for name, value in values.items():
        is_bad = is_bad_for_ndcg if name.startswith("ndcg") else is_bad_for_others
        assert np.isnan(value).tolist() == [is_bad, False], name
    without = values_of(metric, [batch_of(p, y, [[0, 0, 0], [1, 1, 1]], [7, 7, 7])])
    for name, value in without.items():
        assert value[0] == (0.0 if name.endswith("_sessions") else 0.5), name


def test_a_threshold_tells_what_is_relevant():
    arrays = draw(7, "tied")
    stars = np.where(arrays[1] == 1, 4.5, 3.0)
    metric = family(names=FEW, label_threshold=4)
    values = values_of(metric, [batch_of(arrays[0], stars, *arrays[2:])])
    check(values, wanted_of(family_of_oracles(names=FEW), *arrays))


def test_weights_below_0_make_their_task_nan():
    batch = batch_of([[0.5, 0.1, 0]] * 2, [[1, 0, 0]] * 2, [[1, -1, 1], [1, 1, 1]], [7] * 3)
    for name, value in values_of(family(names=FEW, undefined=0.5), [batch]).items():
        assert np.isnan(value).tolist() == [True, False], name


@pytest.mark.parametrize("y", [[1100, 3, 0], [2000, 1999, 5], [1, 0.5, 0], [1e-9, 5e-10, 0]])
def test_exponential_gains_of_any_size(y):
    """Their powers overflow, or drown in the 1 that is taken away."""
    metric = rm.ndcg(exponential_gain=True)
    best = values_of(metric, [batch_of([3, 2, 1], y, None, [7] * 3)])["ndcg"]
    np.testing.assert_allclose(best, [1.0], rtol=1e-7)
    swapped = values_of(metric, [batch_of([2, 3, 1], y, None, [7] * 3)])["ndcg"]
    a, b = (float(2.0 ** (x - y[0]) - 2.0 ** -y[0]) if y[0] > 1e-3 else x / y[0] for x in y[:2])
    second = 1 / np.log2(3)
    np.testing.assert_allclose(swapped, [(b + a * second) / (a + b * second)], rtol=1e-6)


def test_weights_of_sessions_are_copies():
    """And are divided by: 2 for each of two lists changes nothing."""
    p, y, _, _ = draw(8, "tied", tasks=1, examples=12)
    sessions = np.arange(12) % 4
    y[:, :4] = 1
    copies = sessions + 1
    repeated = np.concatenate([np.flatnonzero(copies > i) for i in range(4)])
    ids = np.concatenate([(sessions * 4 + i)[copies > i] for i in range(4)])
    metric = family(1, names=FEW)
    more = np.resize(np.arange(12), len(repeated))
    w = np.where(np.arange(len(more)) < 12, copies[more], 0)  # As many rows, of one shape.
    weighted = values_of(metric, [batch_of(p[:, more], y[:, more], w, sessions[more])])
    copied = values_of(metric, [batch_of(p[:, repeated], y[:, repeated], None, ids)])
    twice = values_of(metric, [batch_of(p[:, more], y[:, more], 2 * w, sessions[more])])
    for name, value in weighted.items():
        np.testing.assert_allclose(twice[name], value, rtol=1e-6, err_msg=name)
        if not name.endswith("_sessions"):
            np.testing.assert_allclose(copied[name], value, rtol=1e-6, err_msg=name)
    two = batch_of([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 1], [2] * 4, [7, 8, 7, 8])
    np.testing.assert_allclose(values_of(rm.ndcg(), [two])["ndcg"], [0.815465], rtol=1e-6)


def test_sessions_without_anything_relevant_are_left_out_and_counted():
    batch = batch_of([0.9, 0.1, 0.9, 0.1], [1, 0, 0, 0], None, [7, 7, 8, 8])
    counts = {"mrr_sessions": [1], "mrr_undefined_sessions": [1]}
    assert values_of(rm.mrr(), [batch]) == {"mrr": [1], **counts}
    filled = values_of(rm.mrr(undefined_sessions=0.25), [batch])
    assert filled == {"mrr": [0.625], **counts, "mrr_sessions": [2]}
    nothing = batch_of([0.9, 0.1], [0, 0], None, [7, 7])
    values = values_of(rm.mrr(undefined=-1), [nothing])
    assert values == {"mrr": [-1], "mrr_sessions": [0], "mrr_undefined_sessions": [1]}


def test_a_score_of_minus_infinity_is_the_lowest_and_absent_rows_come_after():
    scores = jnp.array([-jnp.inf, 0.5, 9.0, -jnp.inf, -3e38], jnp.float32)
    is_present = jnp.array([True, True, False, True, True])
    rows = rm.ops.sessions(scores, (jnp.zeros(5, jnp.int32),), is_present)
    assert rows.order.tolist() == [1, 4, 0, 3, 2]
    assert rows.tied.tolist()[:4] == [1, 1, 2, 2]
    assert rows.length.tolist() == [4] * 5
    assert np.flatnonzero(rm.ops.top_ends(rows, 100)).tolist() == [3]


SPLITS = {
    "one batch": lambda arrays: [[arrays]],
    "batches": lambda arrays: [[arrays[:, :4], arrays[:, 4:5], arrays[:, 5:]]],
    "states": lambda arrays: [[arrays[:, :3]], [arrays[:, 3:4], arrays[:, 4:]]],
    "permuted": lambda arrays: [[arrays[:, ::-1]]],
}


def test_a_window_gives_one_value_by_every_route():
    """Sessions that are split over batches and states are whole in it."""
    p, y, w, sessions = (x[0] for x in draw(9, "tied", tasks=1, examples=10, groups=3))
    y[:4], w[:4] = 1, 1
    oracle = family_of_oracles(names=FEW)
    wanted = wanted_of(oracle, p[None], y[None], w[None], sessions[None])
    metric = family(1, names=FEW, window=10)
    rows = np.stack([p, y, w, sessions.astype(float)])
    for split in SPLITS.values():
        states = [
            functools.reduce(
                metric.update,
                [batch_of(p, y, w, ids.astype(int)) for p, y, w, ids in parts],
                metric.init(),
            )
            for parts in split(rows)
        ]
        values = metric.compute(functools.reduce(metric.merge, states))
        check({re.sub("window_", "", n): x for n, x in values.items()}, wanted)


def sorts(metric, batch):
    compiled = jax.jit(metric.update).lower(metric.init(), batch).compile()
    return (compiled.as_text() or "").count(" sort(")


def test_all_metrics_at_all_k_sort_once():
    batch = batch_of(*draw(10, "tied", tasks=1))
    assert sorts(rm.recall_at(k=1), batch) == 3  # By the words of sessions and scores.
    some = ("ndcg", "recall", "hit_rate", "average_precision")
    assert sorts(family(1, names=some), batch) == 4  # And the ideal order.


ROWS = st.tuples(
    st.integers(0, 3),  # the session
    st.sampled_from([-1.0, 0.0, 0.5, 2.0]),
    st.booleans(),
    st.sampled_from([0.0, 1.0, 1.0, 3.0]),
)
SIZE = 24
settings = hypothesis.settings(max_examples=25, deadline=None, derandomize=True)


def padded(rows, rng, size=SIZE):
    """The rows in any order, with masked rows and rows without weight at any place."""
    places = rng.sample(range(size), len(rows))
    columns = [rng.choices(range(4), k=size), [rng.random() for _ in range(size)]]
    sessions, p = (np.array(x) for x in columns)
    y, w, mask = np.ones(size), np.zeros(size), np.array([rng.random() < 0.5 for _ in range(size)])
    for place, row in zip(places, rows, strict=True):
        sessions[place], p[place], y[place], w[place] = row
        mask[place] = True
    w[~mask] = 5
    return batch_of(p, y, w, sessions.astype(int), mask=mask)


@pytest.mark.heavy
@settings
@hypothesis.given(st.lists(ROWS, min_size=1, max_size=16), st.randoms(use_true_random=False))
def test_rows_may_lie_anywhere_among_those_that_are_absent(rows, rng):
    columns = (np.array([x], float) for x in zip(*rows, strict=True))
    sessions, p, y, w = columns
    check(
        values_of(family(1), [padded(rows, rng)]),
        wanted_of(family_of_oracles(), p, y, w, sessions),
    )


@settings
@hypothesis.given(
    st.lists(ROWS, min_size=1, max_size=16),
    st.integers(0, 16),
    st.integers(0, 16),
    st.randoms(use_true_random=False),
)
def test_sessions_may_be_split_over_batches_and_states_of_a_window(rows, at, merged_at, rng):
    shuffled = rng.sample(rows, len(rows))
    columns = (np.array([x], float) for x in zip(*rows, strict=True))
    sessions, p, y, w = columns
    names = ("ndcg", "hit_rate")
    metric = family(1, names=names, window=3 * SIZE)
    at, merged_at = sorted((at, merged_at))
    first, second, other = (
        padded(part, rng) for part in (shuffled[:at], shuffled[at:merged_at], shuffled[merged_at:])
    )
    state = metric.update(metric.update(metric.init(), first), second)
    values = metric.compute(metric.merge(state, metric.update(metric.init(), other)))
    wanted = wanted_of(family_of_oracles(names=names), p, y, w, sessions)
    check({re.sub("window_", "", name): x for name, x in values.items()}, wanted)


def test_scopes_that_are_none_are_refused():
    with pytest.raises(ValueError, match="scope: expected one of"):
        rm.mrr(scope="session")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="window: expected a number of examples where scope is"):
        rm.ndcg(scope="window")
