"""AUC of sessions and of pairs, of a batch and of a window, against loops over pairs."""

import functools
import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles_order as oracles
import pytest
from cases import heavy_where

import recmetrics_jax as rm

pytestmark = pytest.mark.once

TASKS, EXAMPLES, WINDOW = 2, 40, 64

LABELS = {
    "binary": lambda rng, shape: rng.random(shape) < 0.4,
    "soft": lambda rng, shape: rng.integers(0, 5, shape) / 4,
    "equal": lambda rng, shape: np.full(shape, 1.0),
    "real": lambda rng, shape: np.round(rng.normal(0, 30, shape)),
}
WEIGHTS = {
    "some_zero": lambda rng, shape: rng.integers(0, 5, shape) / 4,
    "unequal": lambda rng, shape: 10.0 ** rng.integers(-6, 13, shape),
    "irrational": lambda rng, shape: rng.random(shape),
}


def draw(seed, labels="binary", weights="some_zero", examples=EXAMPLES):
    """``p, y, w, sessions``; ties, a session of one, and one without weight."""
    rng = np.random.default_rng(seed)
    shape = (TASKS, examples)
    p = rng.integers(0, 6, shape) / 8
    y, w = LABELS[labels](rng, shape), WEIGHTS[weights](rng, shape)
    keys = rng.integers(0, 7, shape)
    keys[:, 0], w[:, 0], y[:, 0] = 99, 1, 1
    keys[:, 1:3], w[:, 1:3] = -98, 0
    p, y, w = (x.astype(np.float32).astype(np.float64) for x in (p, y, w))
    return p, y, w, (keys % 3) * 2**40 + keys // 3  # Of 64 bits, equal in either half.


def batch_of(p, y, w, keys, **options):
    return rm.make_batch(p, y, w, keys={"session_id": keys, "grouping_keys": keys}, **options)


AVERAGES = list(itertools.product(("equal", "impressions", "weight"), (None, 0.25)))
SCOPES: dict[str, Any] = {
    "lifetime": {},
    "window": {"scope": "window", "window": WINDOW},
}


def of_groups(oracle, name, groups, average, undefined):
    """The names and the values of an average over groups of the examples with weight."""
    names = (name, f"{name}_{groups}", f"{name}_undefined_{groups}")

    def values(p, y, w, keys):
        average_of = oracles.grouped_of_present(oracle, p, y, w, keys, average, undefined)
        return dict(zip(names, average_of, strict=True))

    return values


def of_all(name, oracle):
    return lambda p, y, w, keys: {name: oracle(p, y, w)}


def pairwise(weights):
    return lambda *x: {"pairwise_auc": oracles.pairwise_auc(*x, pair_weights=weights)[0]}


def table():
    """By name, factories and their oracles."""
    for average, undefined in AVERAGES:
        options = {"average": average, "undefined_sessions": undefined}
        oracle = of_groups(oracles.auc, "session_auc", "sessions", average, undefined)
        yield f"session_auc {average} {undefined}", rm.session_auc, options, [oracle]
    for weights in ("product", "sum"):
        options = {"pair_weights": weights}
        yield f"pairwise_auc {weights}", rm.pairwise_auc, options, [pairwise(weights)]
    for name, average, undefined in (("xauc", "weight", None), ("rauc", "impressions", 0.25)):
        oracle = getattr(oracles, name)
        both = [
            of_all(name, oracle),
            of_groups(oracle, f"grouped_{name}", "groups", average, undefined),
        ]
        options = {"grouped": True, "average": average, "undefined_groups": undefined}
        yield name, getattr(rm, name), options, both


TABLE: dict[str, Any] = {name: rest for name, *rest in table()}


@functools.cache
def metrics(scope):
    """All of the table in one collection, of the scope whose values have this prefix."""
    scoped = SCOPES[scope] or {"scope": "batch"}
    made = {
        name: make(n_tasks=TASKS, **options, **scoped) for name, (make, options, _) in TABLE.items()
    }
    return rm.collection(made)


def values_of(scope, *batches):
    metric = metrics(scope)
    return metric.compute(functools.reduce(metric.update, batches, metric.init()))


def wanted_of(scope, arrays, names=TABLE):
    wanted = {}
    for name in names:
        for oracle in TABLE[name][-1]:
            by_task = [oracle(*x) for x in zip(*arrays, strict=True)]
            for value in by_task[0]:
                wanted[f"{name}/{scope}_{value}"] = [of_task[value] for of_task in by_task]
    return wanted


def check(values, wanted, rtol=1e-6, atol=1e-7):
    assert wanted
    for name, value in wanted.items():
        np.testing.assert_allclose(values[name], value, rtol=rtol, atol=atol, err_msg=name)


MIXES = [("binary", "some_zero"), ("soft", "unequal"), ("equal", "irrational")]


@pytest.mark.heavy
@pytest.mark.parametrize("mix", MIXES, ids="-".join)
@pytest.mark.parametrize("scope", SCOPES)
def test_each_is_its_definition(scope, mix):
    arrays = draw(0, *mix)
    values = values_of(scope, batch_of(*arrays))
    wanted = wanted_of(scope, arrays)
    check(values, wanted)
    assert values.keys() == wanted.keys()
    assert min(wanted[f"session_auc equal None/{scope}_session_auc_undefined_sessions"]) >= 1


@pytest.mark.parametrize("scope", heavy_where(SCOPES, "window"))
def test_metrics_of_pairs_take_labels_of_any_numbers(scope):
    arrays = draw(1, "real")
    of_pairs = [name for name in TABLE if "session" not in name]
    check(values_of(scope, batch_of(*arrays)), wanted_of(scope, arrays, of_pairs))


def test_session_auc_is_that_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    p, y, w, keys = (x[0] for x in draw(2, weights="unequal"))
    areas, counts = [], []
    for session in np.unique(keys):
        rows = (keys == session) & (w > 0)
        if len(set(y[rows])) == 2:
            areas.append(sklearn.roc_auc_score(y[rows], p[rows], sample_weight=w[rows]))
            counts.append(rows.sum())
    assert len(areas) > 3
    values = values_of("lifetime", batch_of(*([x, x] for x in (p, y, w, keys))))
    for average, by in (("equal", None), ("impressions", counts)):
        name = f"session_auc {average} None/lifetime_session_auc"
        check(values, {name: [np.average(areas, weights=by)] * TASKS})


def test_sums_of_batches_add_up():
    arrays = [draw(seed) for seed in range(3)]
    values = values_of("lifetime", *(batch_of(*x) for x in arrays))
    of_batches = [wanted_of("lifetime", x) for x in arrays]
    name = "session_auc equal None/lifetime_session_auc"
    sums = np.sum([np.multiply(x[name], x[f"{name}_sessions"]) for x in of_batches], axis=0)
    counts = np.sum([x[f"{name}_sessions"] for x in of_batches], axis=0)
    check(values, {name: sums / counts, f"{name}_sessions": counts})


def test_a_window_has_one_value_by_every_route():
    """Its examples in one batch, in several, or in several states; sessions are split."""
    arrays = draw(3)
    wanted = wanted_of("window", arrays)
    metric = metrics("window")
    parts = [batch_of(*(x[:, i : i + 10] for x in arrays)) for i in range(0, EXAMPLES, 10)]
    states = [metric.update(metric.init(), part) for part in parts]
    check(values_of("window", batch_of(*arrays)), wanted)
    check(values_of("window", *parts), wanted)
    check(metric.compute(functools.reduce(metric.merge, states)), wanted)


def test_a_window_covers_the_newest_examples():
    arrays = draw(4, examples=90)
    parts = [batch_of(*(x[:, i : i + 30] for x in arrays)) for i in range(0, 90, 30)]
    newest = [x[:, -WINDOW:] for x in arrays]
    check(values_of("window", *parts), wanted_of("window", newest))


@pytest.mark.parametrize("scope", SCOPES)
def test_absent_rows_count_nothing_wherever_they_lie_and_whatever_they_hold(scope):
    arrays = draw(5, weights="irrational")
    arrays = [x[:, 3:] for x in arrays]  # All have weight.
    wanted = wanted_of(scope, arrays)
    rng = np.random.default_rng(6)
    places = np.sort(rng.permutation(EXAMPLES)[: EXAMPLES - 3])
    is_real = np.isin(np.arange(EXAMPLES), places)

    p, y, w, keys = (np.zeros((TASKS, EXAMPLES), x.dtype) for x in arrays)
    for full, x in zip((p, y, w, keys), arrays, strict=True):
        full[:, is_real] = x
    # In the sessions of others, and in one of their own.
    keys[:, ~is_real] = [keys[0, places[0]], 0, 12345]
    p[:, ~is_real], y[:, ~is_real] = 0.9, 1
    check(values_of(scope, batch_of(p, y, w, keys)), wanted)
    p[:, ~is_real], w[:, ~is_real] = np.nan, np.inf
    check(values_of(scope, batch_of(p, y, w, keys, mask=is_real)), wanted)


@pytest.mark.parametrize("scope", SCOPES)
def test_order_of_rows_changes_nothing(scope):
    arrays = draw(7, "soft", "irrational")
    order = np.random.default_rng(8).permutation(EXAMPLES)
    values = values_of(scope, batch_of(*(x[:, order] for x in arrays)))
    check(values, values_of(scope, batch_of(*arrays)))


def of_weights(metric, weights, arrays):
    p, y, keys = arrays
    return metric.compute(metric.update(metric.init(), batch_of(p, y, weights, keys)))


@pytest.mark.heavy
def test_whole_weights_are_copies():
    of_copies = {"pair_weights": "copies", "grouped": True, "scope": "batch"}
    made: dict[str, Any] = {
        "session_auc": rm.session_auc(),
        "session_auc by weight": rm.session_auc(average="weight"),
        "pairwise_auc": rm.pairwise_auc(),
        "xauc": rm.xauc(average="weight", **of_copies),
        "rauc": rm.rauc(**of_copies),
    }
    metric = rm.collection(made)
    p, y, _, keys = (x[0] for x in draw(9))
    copies = np.random.default_rng(10).integers(0, 4, EXAMPLES)
    weighted = of_weights(metric, copies, (p, y, keys))
    ones = of_weights(metric, None, [np.repeat(x, copies) for x in (p, y, keys)])
    for key, value in weighted.items():
        assert np.isfinite(value).all()
        np.testing.assert_allclose(value, ones[key], rtol=1e-6, err_msg=key)


@pytest.mark.parametrize("make", [rm.xauc, rm.rauc])
def test_pairs_of_copies_are_what_a_product_of_weights_leaves_out(make):
    """Two rows of weight 2, inverted: 4 pairs of 4, or of the 6 that 4 rows have."""
    arrays, prefix = ([0.1, 0.9], [1, 0], [0, 0]), f"lifetime_{make.__name__}"
    product, copies = (make(scope="batch", pair_weights=x) for x in ("product", "copies"))
    assert of_weights(product, [2, 2], arrays)[prefix].tolist() == [0]
    np.testing.assert_allclose(of_weights(copies, [2, 2], arrays)[prefix], [1 / 3], rtol=1e-6)
    assert np.isnan(of_weights(copies, [2, 0.5], arrays)[prefix]).all()


def test_weights_may_count_nothing():
    options: dict[str, Any] = {"pair_weights": None, "grouped": True, "scope": "batch"}
    metric = rm.collection({"xauc": rm.xauc(**options), "rauc": rm.rauc(**options)})
    p, y, w, keys = (x[0] for x in draw(11))
    assert (w == 0).sum() > 3
    weighted = of_weights(metric, w, (p, y, keys))
    ones = of_weights(metric, None, (p, y, keys))
    for key, value in weighted.items():
        np.testing.assert_array_equal(value, ones[key], err_msg=key)


def test_a_pair_weighs_the_sum_of_its_weights_at_any_scale():
    """The largest weight is far from the others, and in a session of its own."""
    p, y, w = [0.9, 0.1, 0.2, 0.5, 0.3], [1, 0, 1, 1, 0], [1e-6, 2e-6, 4e-6, 1e12, 0]
    keys = [7, 7, 7, 8, 8]
    metric = rm.pairwise_auc(pair_weights="sum")
    value = metric.compute(metric.update(metric.init(), batch_of(p, y, w, keys)))
    np.testing.assert_allclose(value["lifetime_pairwise_auc"], [1.0], rtol=1e-6)
    p[2] = 0.05  # Now a pair of 6e-6 is inverted, of 9e-6 in all.
    value = metric.compute(metric.update(metric.init(), batch_of(p, y, w, keys)))
    np.testing.assert_allclose(value["lifetime_pairwise_auc"], [1 / 3], rtol=1e-6)


@pytest.mark.parametrize("pair_weights", ["product", "sum"])
def test_without_labels_that_differ_nothing_is_left_by_rounding(pair_weights):
    metric = rm.pairwise_auc(n_tasks=50, pair_weights=pair_weights)
    rng = np.random.default_rng(12)
    p, w = np.round(rng.random((50, 30)), 1), rng.random((50, 30)) ** 9
    keys = rng.integers(0, 4, (50, 30))
    batch = batch_of(p, keys, w, keys)  # One label in each session.
    assert np.isnan(
        metric.compute(metric.update(metric.init(), batch))["lifetime_pairwise_auc"]
    ).all()


def test_undefined_is_what_is_asked_for():
    batch = batch_of([0.9, 0.1], [1, 1], [1, 1], [7, 8])
    for make, name in ((rm.session_auc, "session_auc"), (rm.pairwise_auc, "pairwise_auc")):
        metric = make(undefined=0.5)
        values = metric.compute(metric.update(metric.init(), batch))
        assert values[f"lifetime_{name}"].tolist() == [0.5]
    metric = rm.session_auc(undefined_sessions=0.25)
    values = metric.compute(metric.update(metric.init(), batch))
    assert [x.item() for x in values.values()] == [0.25, 2, 2]


def test_label_threshold_cuts_labels():
    batch = batch_of([0.9, 0.5, 0.7, 0.1], [5, 4, 3, 1], None, [7, 7, 8, 8])
    metric = rm.session_auc(label_threshold=4)
    values = metric.compute(metric.update(metric.init(), batch))
    assert [np.asarray(x).item() for x in values.values()][1:] == [0, 2]
    metric = rm.session_auc(
        label_threshold=3.5, session_key="grouping_keys", scope="window", window=9
    )
    batch = batch_of([0.9, 0.5, 0.7, 0.1], [5, 4, 3, 1], None, [7, 8, 7, 8])
    values = metric.compute(metric.update(metric.init(), batch))
    assert [x.item() for x in values.values()] == [1, 2, 0]


def test_metrics_of_sessions_share_their_sorts():
    batch = batch_of(*(x[0] for x in draw(13)))
    of_pairs = {"product": rm.pairwise_auc(), "sum": rm.pairwise_auc(pair_weights="sum")}
    made = {
        3: rm.session_auc(),
        5: rm.collection({"session_auc": rm.session_auc(average="weight"), **of_pairs}),
    }
    for sorts, metric in made.items():
        text = jax.jit(metric.update).lower(metric.init(), batch).compile().as_text() or ""
        assert text.count(" sort(") == sorts


def test_sessions_of_each_device_are_those_of_a_batch():
    metric = rm.collection({"a": rm.session_auc, "b": rm.pairwise_auc}, n_tasks=TASKS)
    batches = [batch_of(*draw(seed)) for seed in range(2)]
    wanted = metric.compute(functools.reduce(metric.update, batches, metric.init()))
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=jax.P("devices"), out_specs=jax.P())
    def mapped(batch):
        state = metric.update(metric.init(), jax.tree.map(lambda x: x[0], batch))
        return metric.compute(rm.all_merge(state, "devices"))

    check(mapped(jax.tree.map(lambda *x: jnp.stack(x), *batches)), wanted)


factories: Any = rm


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: factories.session_auc(average="mean"), "average: expected one of ('equal', "),
        (lambda: factories.session_auc(scope="day"), "scope: expected one of ('batch', 'window')"),
        (lambda: rm.session_auc(scope="window"), "window: expected a number of examples"),
        (lambda: rm.session_auc(shards=2), "shards: expected 1 where scope is 'batch', got 2"),
        (lambda: rm.session_auc(session_key=""), "session_key: expected a non-empty string"),
        (
            lambda: factories.session_auc(undefined_sessions="half"),
            "undefined_sessions: expected a number or None, got 'half'",
        ),
        (
            lambda: factories.pairwise_auc(pair_weights="copies"),
            "pair_weights: expected one of ('product', 'sum'), got 'copies'",
        ),
        (
            lambda: factories.xauc(pair_weights="sum"),
            "pair_weights: expected one of ('product', 'copies') or None, got 'sum'",
        ),
        (lambda: rm.rauc(), "window: expected a number of examples where scope is 'window'"),
        (
            lambda: rm.pairwise_auc().update(rm.pairwise_auc().init(), rm.make_batch([1], [1])),
            "session_id: expected an array of this name",
        ),
    ],
)
def test_misuse_is_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
