"""Every metric against its float64 oracle: random, degenerate and hand-computed streams."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ALIKE, ALL, BY_NAME, COUNTS, GROUPED, ORDER, SUMS, heavy_where, metric_of
from drawing import arrays, batch_of, batches, expected, keys_of

import recmetrics_jax as rm

pytestmark = pytest.mark.numerics

RTOL = 1e-6
EXAMPLES = 57  # one number, so that few programs are compiled


def run(case, metric, stream):
    state = metric.init()
    for arrays_ in stream:
        state = metric.update(state, batch_of(case, *arrays_))
    return metric.compute(state)


def check(case, stream):
    """Of the lifetime, and of a window that holds it all."""
    values = run(case, metric_of(case, window=1000), stream)
    wanted = expected(case, stream) | expected(case, stream, "window_")
    assert values.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(values[name], value, rtol=RTOL, atol=1e-7, err_msg=name)
        assert values[name].dtype == jnp.result_type(float)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", heavy_where(ALL, ALIKE), ids=str)
def test_random_stream(case, seed):
    rng = np.random.default_rng(seed)
    check(case, [arrays(rng, case, 2, EXAMPLES) for _ in range(5)])


def degenerate(case, rng):
    """Streams in which something is missing, by name."""
    p, y, w, mask = arrays(rng, case, 2, EXAMPLES)
    everything, nothing = np.ones_like(mask), np.zeros_like(mask)
    return {
        "no_positive": (p, np.zeros_like(y), w + 1, everything),
        "no_negative": (p, np.ones_like(y), w + 1, everything),
        "no_weight": (p, y, np.zeros_like(w), everything),
        "one_task_without_weight": (p, y, w * [[0], [1]], everything),
        "all_masked": (p, y, w, nothing),
        "one_task_masked": (p, y, w, everything & [[True], [False]]),
        "sure_and_right": (
            np.broadcast_to(y.reshape(*y.shape, *[1] * (p.ndim - 2)), p.shape),
            y,
            w + 1,
            everything,
        ),
        "sure_and_wrong": (
            1 - np.broadcast_to(y.reshape(*y.shape, *[1] * (p.ndim - 2)), p.shape),
            y,
            w + 1,
            everything,
        ),
        "at_threshold": (np.full_like(p, 0.5), y, w + 1, everything),
        "tiny_predictions": (p * np.float32(2**-30), y, w + 1, everything),
        "one_example": tuple(x[:, :1] for x in (p, y, w, everything)),
        "no_example": tuple(x[:, :0] for x in (p, y, w, mask)),
    }


@pytest.mark.parametrize("name", degenerate(SUMS, np.random.default_rng(0)))
@pytest.mark.parametrize("case", GROUPED, ids=str)
def test_degenerate_stream(case, name):
    check(case, [degenerate(case, np.random.default_rng(3))[name]])


@pytest.mark.parametrize("case", GROUPED, ids=str)
def test_no_update_at_all_is_undefined(case):
    metric = metric_of(case, window=1000)
    for name, value in metric.compute(metric.init()).items():
        wanted = 0.0 if is_count(name) else np.nan
        np.testing.assert_array_equal(value, np.full(value.shape, wanted), err_msg=name)


def is_count(name):
    """Whether a value is of no examples what it is: 0."""
    counts = ("examples", "largest", "_groups", "_sessions", "unknown_items", "reliability_weight")
    counts += ("missing_labels", "sum_weights", "_positives", "_negatives", "_segments")
    return any(count in name for count in counts)


HAND = [
    # Four examples, one positive, always predicted at its rate: nothing gained, nothing lost.
    (rm.ne, [0.25] * 4, [0, 0, 0, 1], None, {"ne": 1.0}),
    # -log2(0.5) = 1 bit for each of two examples, entropy of one half: 1 bit each.
    (rm.ne, [0.5, 0.5], [0, 1], None, {"ne": 1.0}),
    # -log2(0.25) = 2 bits each.
    (rm.ne, [0.75, 0.25], [0, 1], None, {"ne": 2.0}),
    # Exactly wrong: log2(1e12) = 39.86 bits each.
    (rm.ne, [1.0, 0.0], [0, 1], None, {"ne": 12 * math.log2(10)}),
    # Each example counts once: 2 bits, and 2 bits.
    (rm.unweighted_ne, [0.75, 0.25], [0, 1], [0, 7], {"unweighted_ne": 2.0}),
    (rm.calibration, [0.5, 0.7], [1, 0], [2, 1], {"calibration": 0.85}),
    (rm.ctr, [0.5, 0.7], [1, 0], [3, 1], {"ctr": 0.75}),
    (rm.mse, [1, 2], [3, 5], [3, 1], {"mse": 5.25, "rmse": math.sqrt(5.25)}),
    (rm.mae, [1, 2], [3, 5], [3, 1], {"mae": 2.25}),
    # Errors of 3, where those of the mean, 2, are 3 + 9.
    (rm.r_squared, [1, 4], [1, 5], [3, 1], {"r_squared": 11 / 12}),
    # Always the mean: nothing explained.
    (rm.r_squared, [2, 2], [1, 5], [3, 1], {"r_squared": 0.0}),
    (rm.accuracy, [0.5, 0.4, 0.9], [1, 1, 1], [1, 2, 1], {"accuracy": 0.5}),
    (rm.precision, [0.5, 0.4, 0.9], [1, 1, 0], [1, 2, 3], {"precision": 0.25}),
    (rm.recall, [0.5, 0.4, 0.9], [1, 1, 0], [1, 3, 3], {"recall": 0.25}),
    (rm.weighted_avg, [4, 8], [0, 0], [3, 1], {"weighted_avg": 5.0}),
]


@pytest.mark.parametrize(("factory", "p", "y", "w", "wanted"), HAND)
def test_hand_computed(factory, p, y, w, wanted):
    metric = factory()
    values = metric.compute(metric.update(metric.init(), rm.make_batch(p, y, w)))
    for name, value in wanted.items():
        np.testing.assert_allclose(values[f"lifetime_{name}"], [value], rtol=1e-6)


def test_recall_counts_a_prediction_at_the_threshold_once():
    metric = rm.recall(threshold=0.7)
    state = metric.update(metric.init(), rm.make_batch([0.7], [1]))
    assert metric.compute(state)["lifetime_recall"].tolist() == [1.0]


def test_ne_in_float32_is_that_of_float64():
    """Where float32 loses most: tiny predictions, and p or 1 - p at zero."""
    predictions = np.array([1e-9, 1e-7, 3e-5, 0.999, 1 - 6e-8, 0.0, 1.0, 1e-13], np.float32)
    labels = np.array([0, 0, 0, 1, 1, 0, 1, 0], np.float32)
    case = BY_NAME["ne"]
    stream = [(predictions[None], labels[None], np.ones((1, 8)), np.ones((1, 8), bool))]
    wanted = expected(case, stream)
    values = run(case, metric_of(case, n_tasks=1), stream)
    np.testing.assert_allclose(values["lifetime_ne"], wanted["lifetime_ne"], rtol=1e-6)
    np.testing.assert_allclose(values["lifetime_logloss"], wanted["lifetime_logloss"], rtol=1e-6)


@pytest.mark.parametrize("label", [0.1, 0.0, -1000.3])
def test_r_squared_of_constant_labels_is_undefined(label):
    """Whatever the weights, and however often a window rounds: 4,000 updates share a slot."""
    metric = rm.r_squared(window=16_000, slots=8)
    weights = np.random.default_rng(0).random((1, 7))
    state = metric.update(metric.init(), rm.make_batch(weights, np.full((1, 7), label), weights))
    one = rm.make_batch([0.5], [label], [0.7])
    state = jax.lax.fori_loop(0, 12_000, lambda _, state: metric.update(state, one), state)
    for name, value in metric.compute(state).items():
        assert np.isnan(value).all(), name


def test_r_squared_of_labels_that_hardly_vary():
    labels = np.float32(1000) + np.arange(64, dtype=np.float32) / 256
    predictions = labels + np.tile(np.array([1, -1], np.float32), 32) / 64
    metric = rm.r_squared()
    state = metric.update(metric.init(), rm.make_batch(predictions, labels))
    wanted = float(1 - (1 / 64) ** 2 / np.var(labels.astype(np.float64)))
    np.testing.assert_allclose(metric.compute(state)["lifetime_r_squared"], [wanted], rtol=1e-6)


@pytest.mark.parametrize("label", [-0.5, 1.5])
def test_ne_of_labels_beyond_0_and_1_is_undefined(label):
    metric = rm.ne()
    state = metric.update(metric.init(), rm.make_batch([0.5, 0.5], [label, label]))
    assert np.isnan(metric.compute(state)["lifetime_ne"]).all()


def test_multiclass_recall_does_not_depend_on_the_order_of_tied_classes():
    metric = rm.multiclass_recall(3)
    for label in range(3):
        batch = rm.make_batch(jnp.zeros((1, 1, 3)), jnp.full((1, 1), label))
        value = metric.compute(metric.update(metric.init(), batch))["lifetime_multiclass_recall"]
        np.testing.assert_allclose(value, [[1 / 3, 2 / 3, 1]], rtol=1e-6)


@pytest.mark.parametrize("case", heavy_where(ALL, ALIKE, ORDER), ids=str)
def test_undefined_values_are_what_the_user_asks_for(case):
    asked = case.without(*COUNTS, "sample_metric")
    metric = asked.make(n_tasks=2, window=10, undefined=0.5)
    values = metric.compute(metric.init())
    for member in asked.members:
        scopes = {"lifetime", "window"} if member.is_sum else {"window"}
        names = [name for name in values if name.startswith(f"{member.name}/")]
        assert {name.split("/")[1].split("_")[0] for name in names} == scopes
    for name, value in values.items():
        wanted = 0.0 if is_count(name) else 0.5
        if name.endswith(("_threshold", "_thresholds")):
            wanted = np.nan  # There is none.
        np.testing.assert_array_equal(value, np.full(value.shape, wanted), err_msg=name)


@pytest.mark.parametrize(
    ("where", "bad"),
    [
        (where, bad)
        for where in ("predictions", "labels", "weights")
        for bad in (np.nan, np.inf, -np.inf)
        if (where, bad) != ("predictions", -np.inf)  # See test_domain.
    ],
)
@pytest.mark.parametrize("case", heavy_where(GROUPED, ORDER), ids=str)
def test_nonfinite_example_makes_its_task_nan_or_is_masked(case, where, bad):
    rng = np.random.default_rng(1)
    names = ("predictions", "labels", "weights", "mask")
    parts: dict[str, Any] = dict(zip(names, arrays(rng, case, 2, EXAMPLES), strict=True))
    parts["mask"][:] = True
    parts["keys"] = keys_of(case, EXAMPLES)
    metric = metric_of(case, window=1000)

    def values_of(**options):
        return metric.compute(metric.update(metric.init(), rm.make_batch(**parts, **options)))

    clean = values_of()
    parts[where][(0, 5) if parts[where].ndim == 2 else (0, 5, 1)] = bad
    for name, value in values_of().items():
        if any(count in name for count in ("examples", "missing_labels", "unknown_items")):
            assert np.isfinite(value).all(), name
        else:
            assert np.isnan(value[0]).all(), name
            np.testing.assert_array_equal(value[1], clean[name][1], err_msg=name)

    masked = values_of(mask_nonfinite=True)
    parts["mask"][0, 5] = False
    counters = ["nonfinite"]
    if where == "labels" and np.isnan(bad):
        counters.append("missing_labels")
    for name, value in values_of().items():
        wanted = [1.0, 0.0] if any(counter in name for counter in counters) else value
        np.testing.assert_array_equal(masked[name], wanted, err_msg=name)


def test_undefined_does_not_hide_a_nonfinite_example():
    metric = rm.ctr(undefined=0.0)
    state = metric.update(metric.init(), rm.make_batch([0.5], [np.nan], [0.0]))
    assert np.isnan(metric.compute(state)["lifetime_ctr"]).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, np.int32, np.uint8, bool])
def test_inputs_of_every_dtype_are_upcast_at_the_door(dtype):
    metric = rm.weighted_avg()
    batch = rm.make_batch(jnp.ones(257, dtype), jnp.ones(257, dtype), jnp.ones(257, dtype))
    state = metric.update(metric.init(), batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {
        jnp.dtype(jnp.float32),
        jnp.dtype(jnp.int32),
    }
    assert metric.compute(state)["lifetime_weighted_avg"].tolist() == [1.0]


@pytest.mark.parametrize("case", heavy_where(GROUPED, ORDER), ids=str)
def test_x64_is_used_throughout_where_it_is_enabled(case):
    with jax.enable_x64(True):
        rng = np.random.default_rng(5)
        p, y, w, mask = arrays(rng, case, 2, EXAMPLES)
        if not case.has_ties:
            p = p.astype(np.float64) * 0.9 + 0.05
        stream = [(p, y, w, mask)]
        values = run(case, case.make(n_tasks=2), stream)
        for name, value in expected(case, stream).items():
            assert values[name].dtype == jnp.float64
            np.testing.assert_allclose(values[name], value, rtol=1e-12, err_msg=name)


@pytest.mark.heavy
def test_collection_gives_what_its_metrics_give():
    """To the bit: the tests of groups of metrics, as collections, rest on this. Metrics that are
    alike are left out: they differ from these in a formula."""
    parts = {
        case.name: case.make(n_tasks=2, window=(60, 100, None)[i % 3])
        for i, case in enumerate([*SUMS.members, *ORDER.members])
    }
    inner = rm.collection({name: parts.pop(name) for name in ("ne", "sample_metric")})
    whole = rm.collection({**parts, "inner": inner})
    stream = batches(ORDER, count=3)
    values = whole.compute(functools.reduce(whole.update, stream, whole.init()))
    for name, metric in {**parts, "inner": inner}.items():
        alone = metric.compute(functools.reduce(metric.update, stream, metric.init()))
        for key, value in alone.items():
            np.testing.assert_array_equal(values.pop(f"{name}/{key}"), value, err_msg=key)
    assert not values
