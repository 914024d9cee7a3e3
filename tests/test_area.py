"""AUC and AUPRC: against scikit-learn and the definitions, by group, on devices, and binned."""

import functools
import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles_order as oracles
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import recmetrics_jax as rm

pytestmark = pytest.mark.once

EXACT: Any = {"auc": (rm.auc, oracles.auc), "auprc": (rm.auprc, oracles.auprc)}


def value_of(metric, *batches):
    """The first value of the only task."""
    state = functools.reduce(metric.update, batches, metric.init())
    values = metric.compute(state)
    return float(values[next(iter(values))][0])


SCORES = {
    "continuous": lambda rng, n: rng.random(n),
    "ten_levels": lambda rng, n: np.round(rng.random(n), 1),
    "constant": lambda rng, n: np.full(n, 0.5),
    "logits": lambda rng, n: rng.normal(0, 3, n),
    "signed_zeros": lambda rng, n: rng.choice([-0.0, 0.0, 1.0], n),
    "subnormal": lambda rng, n: rng.integers(0, 50, n) * 1e-45,
    "huge": lambda rng, n: rng.choice([-3e38, 0.0, 3e38], n),
}
WEIGHTS = {
    "ones": lambda rng, n: np.ones(n),
    "some_zero": lambda rng, n: rng.integers(0, 4, n) / 4,
    "unequal": lambda rng, n: 10.0 ** rng.integers(-6, 13, n),
}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("name", EXACT)
def test_area_is_that_of_scikit_learn(name, scores, weights):
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    p = SCORES[scores](rng, 500).astype(np.float32)
    w = WEIGHTS[weights](rng, 500).astype(np.float32)
    y = rng.random(500) < 0.3
    function = {"auc": "roc_auc_score", "auprc": "average_precision_score"}[name]
    # float64 holds all float32, subnormal ones too, as normal numbers.
    wanted = getattr(sklearn_metrics, function)(y, p.astype(float), sample_weight=w.astype(float))
    value = value_of(EXACT[name][0](window=1000), rm.make_batch(p, y, w))
    np.testing.assert_allclose(value, wanted, rtol=1e-6)


@pytest.mark.parametrize("name", EXACT)
def test_soft_labels_are_part_positive_and_part_negative(name):
    rng = np.random.default_rng(1)
    p, y, w = np.round(rng.random(40), 1), rng.random(40), rng.random(40)
    factory, oracle = EXACT[name]
    value = value_of(factory(window=100), rm.make_batch(p, y, w))
    np.testing.assert_allclose(
        value, oracle(*(x.astype(np.float32).astype(float) for x in (p, y, w))), rtol=1e-6
    )


def test_first_segment_of_the_curve_counts():
    """By hand: positives 0.2 + 0.9, negatives 0.8 + 0.1; the better row first."""
    value = value_of(rm.auc(window=2), rm.make_batch([0.8, 0.3], [0.9, 0.2]))
    np.testing.assert_allclose(
        value, (0.9 * 0.8 + (0.9 * 0.1 + 0.2 * 0.8) / 2) / (1.1 * 0.9), rtol=1e-6
    )


def test_label_threshold_cuts_labels():
    p, y = [0.9, 0.8, 0.3, 0.1], [0.5, 0.039, 0.038, 0.0]
    cut = value_of(rm.auc(window=9, label_threshold=0.039), rm.make_batch(p, y))
    assert cut == value_of(rm.auc(window=9), rm.make_batch(p, [1, 1, 0, 0])) == 1.0


OPTIONS = list(itertools.product(("equal", "impressions", "weight"), (None, 0.5, 0)))


@pytest.mark.heavy
def test_groups_are_averaged_as_asked():
    rng = np.random.default_rng(2)
    p, y, w = np.round(rng.random(120), 1), rng.random(120) < 0.2, rng.integers(0, 4, 120) / 2
    users = rng.zipf(1.5, 120) % 2**50 - 2**40
    metric = rm.collection(
        {
            f"{name} {average} {undefined_groups}": EXACT[name][0](
                window=200,
                grouped=True,
                grouping_key="user",
                average=average,
                undefined_groups=undefined_groups,
            )
            for name in EXACT
            for average, undefined_groups in OPTIONS
        }
    )
    batch = rm.make_batch(p, y, w, mask=np.arange(120) < 110, keys={"user": users})
    values = metric.compute(metric.update(metric.init(), batch))
    p, y, w = (x[:110].astype(np.float32).astype(float) for x in (p, y, w))
    for name in EXACT:
        for options in OPTIONS:
            wanted = oracles.grouped(EXACT[name][1], p, y, w, users[:110], *options)
            assert wanted[2] > 0
            for suffix, value in zip(("", "_groups", "_undefined_groups"), wanted, strict=True):
                key = f"{name} {options[0]} {options[1]}/window_grouped_{name}{suffix}"
                np.testing.assert_allclose(values[key], [value], rtol=1e-6, err_msg=key)


@pytest.mark.parametrize("name", EXACT)
def test_whole_weights_are_copies(name):
    rng = np.random.default_rng(3)
    p, y = np.round(rng.random(60), 1), rng.random(60) < 0.4
    copies, groups = rng.integers(0, 4, 60), np.arange(60) % 7
    metric = EXACT[name][0](window=500, grouped=True, average="weight")

    def values(weights, p, y, groups):
        batch = rm.make_batch(p, y, weights, keys={"grouping_keys": groups})
        return metric.compute(metric.update(metric.init(), batch))

    weighted = values(copies, p, y, groups)
    repeated = values(None, *(np.repeat(x, copies) for x in (p, y, groups)))
    for key, value in weighted.items():
        np.testing.assert_allclose(value, repeated[key], rtol=1e-6, err_msg=key)


def test_window_holds_the_newest_examples_exactly():
    rng = np.random.default_rng(4)
    metric = rm.auc(window=70)
    state, seen = metric.init(), [np.zeros(0, np.float32), np.zeros(0)]
    for size in (30, 30, 100, 5, 40):
        p, y = rng.random(size).astype(np.float32), rng.random(size) < 0.4
        mask = rng.random(size) < 0.8
        seen = [
            np.concatenate([old, new[mask]])[-70:] for old, new in zip(seen, (p, y), strict=True)
        ]
        state = metric.update(state, rm.make_batch(p, y, mask=mask))
        wanted = oracles.auc(seen[0].astype(float), seen[1], np.ones(len(seen[0])))
        np.testing.assert_allclose(metric.compute(state)["window_auc"], [wanted], rtol=1e-6)


DEVICES = 4


def grouped_data():
    rng = np.random.default_rng(5)
    p = np.round(rng.random((1, 80)), 1).astype(np.float32)
    return p, rng.random((1, 80)) < 0.4, rng.integers(0, 9, (1, 80)).astype(np.int32)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_all_merge_and_sharded_jit_give_the_exact_area_of_all_devices(axis_type):
    p, y, users = grouped_data()
    metric = rm.auc(window=80, grouped=True)
    wanted = metric.compute(
        metric.update(metric.init(), rm.make_batch(p, y, keys={"grouping_keys": users}))
    )
    np.testing.assert_allclose(
        wanted["window_auc"], [oracles.auc(p[0].astype(float), y[0], np.ones(80))], rtol=1e-6
    )
    mesh = jax.make_mesh((DEVICES,), ("devices",), axis_types=(axis_type,))

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=P(None, "devices"), out_specs=P(), check_vma=True
    )
    def merged(p, y, users):
        state = metric.update(metric.init(), rm.make_batch(p, y, keys={"grouping_keys": users}))
        return metric.compute(rm.all_merge(state, "devices"))

    @jax.jit
    def plain(p, y, users):
        batch = rm.make_batch(p, y, keys={"grouping_keys": users})
        return metric.compute(metric.update(metric.init(), batch))

    sharding = NamedSharding(mesh, P(None, "devices"))
    sharded = [jax.device_put(x, sharding) for x in (p, y, users)]
    for values in (merged(*sharded), plain(*sharded)):
        for key, value in wanted.items():
            np.testing.assert_allclose(values[key], value, rtol=1e-6, err_msg=key)


def test_update_of_a_donated_state_writes_its_batch_alone():
    """No copy of the ring, and temporary memory that does not grow with it."""
    temporary = []
    for window in (10_000, 1_000_000):
        metric = rm.auc(window=window)
        batch = rm.make_batch(np.zeros(64), np.ones(64))
        step = jax.jit(metric.update, donate_argnums=0)
        compiled = step.lower(metric.init(), batch).compile()
        program = compiled.as_text() or ""
        assert f"[1,{window}]" in program
        assert not re.search(rf"\[1,{window}\]\S* copy\(", program)
        memory: Any = compiled.memory_analysis()
        temporary.append(memory.temp_size_in_bytes)
        state = metric.init()
        pointer = state.samples[0].rows.predictions.unsafe_buffer_pointer()
        for _ in range(3):
            state = step(state, batch)
            assert state.samples[0].rows.predictions.unsafe_buffer_pointer() == pointer
    assert temporary[0] == temporary[1] < 50_000


def ctr_like(rng, n):
    return 1 / (1 + np.exp(5 - rng.normal(0, 1, n)))


BINNED_SCORES = {
    "uniform": (lambda rng, n: rng.random(n), 1e-5),
    "ctr_like": (ctr_like, 5e-6),
    "logits": (lambda rng, n: rng.normal(0, 3, n), 5e-6),
    "ten_levels": (lambda rng, n: np.round(rng.random(n), 1), 1e-7),
    "bfloat16": (lambda rng, n: np.asarray(jnp.asarray(ctr_like(rng, n), jnp.bfloat16)), 1e-7),
}


@pytest.mark.parametrize("name", BINNED_SCORES)
def test_binned_areas_keep_their_bound(name):
    make, bound = BINNED_SCORES[name]
    rng = np.random.default_rng(6)
    size = 100_000
    p = make(rng, size).astype(np.float32)
    y = rng.random(size) < np.clip(0.02 + 0.1 * (p > np.median(p)), 0, 1)
    metrics = rm.collection(
        {
            "auc": rm.auc(window=size),
            "auprc": rm.auprc(window=size),
            "binned_auc": rm.binned_auc(),
            "binned_auprc": rm.binned_auprc(),
        }
    )
    state = metrics.init()
    for part in range(4):
        rows = slice(part * size // 4, (part + 1) * size // 4)
        state = metrics.update(state, rm.make_batch(p[rows], y[rows]))
    values = {key.split("/")[1]: float(value[0]) for key, value in metrics.compute(state).items()}
    error = abs(values["lifetime_binned_auc"] - values["window_auc"])
    assert error <= bound
    # The docstring's bound: half of the pairs that share a bin, all of them between the bounds.
    open_ = values["lifetime_binned_auc_upper"] - values["lifetime_binned_auc_lower"]
    assert error <= 0.5 * open_ + 1e-7
    np.testing.assert_allclose(
        values["lifetime_binned_auprc"], values["window_auprc"], rtol=max(bound, 1e-3)
    )


def test_binned_areas_merge_and_share_their_histogram():
    metrics = rm.collection({"auc": rm.binned_auc(bins=256), "auprc": rm.binned_auprc(bins=256)})
    assert [x.parts.shape for x in metrics.init().histograms] == [(1, 256, 4)]
    rng = np.random.default_rng(7)
    p, y, w = rng.random(900), rng.random(900) < 0.3, rng.random(900)
    states = [
        metrics.update(metrics.init(), rm.make_batch(p[i::3], y[i::3], w[i::3])) for i in range(3)
    ]
    merged = metrics.compute(functools.reduce(metrics.merge, states))
    whole = metrics.compute(metrics.update(metrics.init(), rm.make_batch(p, y, w)))
    for key, value in whole.items():
        np.testing.assert_allclose(merged[key], value, rtol=1e-6)


@pytest.mark.parametrize("size", [1 << 13, 1 << 17])
@pytest.mark.parametrize("weight", [0.1, 1 / 3, 100.0])
def test_histogram_keeps_what_plain_floats_lose(size, weight):
    """In float32 the sums below are off by 1e-4 and more."""
    metric, updates = rm.binned_auc(bins=256), 200
    step = jax.jit(metric.update, donate_argnums=0)
    batch = rm.make_batch(np.full(size, 0.7), np.arange(size) % 2, np.full(size, weight))
    state = metric.init()
    pointer = state.histograms[0].parts.unsafe_buffer_pointer()
    for _ in range(updates):
        state = step(state, batch)
        assert state.histograms[0].parts.unsafe_buffer_pointer() == pointer
    with jax.enable_x64(True):
        total = np.sum(state.histograms[0].read())
    exact = size * updates * float(np.float32(weight))
    np.testing.assert_allclose(total, exact, rtol=0 if weight == 100 else 3e-6)


def test_histogram_takes_weights_of_any_size():
    rng = np.random.default_rng(8)
    metric, total = rm.binned_auc(bins=256), 0.0
    state = metric.init()
    for exponent in (0, -20, 12, 3, -8):
        weights = (rng.random(500) * 2.0**exponent).astype(np.float32)
        state = metric.update(state, rm.make_batch(np.full(500, 0.3), np.ones(500), weights))
        total += float(np.sum(weights, dtype=np.float64))
    with jax.enable_x64(True):
        np.testing.assert_allclose(np.sum(state.histograms[0].read()), total, rtol=1e-7)


def test_undefined_does_not_hide_a_nonfinite_example():
    batch = rm.make_batch([0.5, np.nan], [1, 1])
    for metric in (rm.auc(window=5, undefined=0.5), rm.binned_auc(undefined=0.5)):
        assert np.isnan(value_of(metric, batch))
        assert value_of(metric, rm.make_batch([0.5, 0.4], [1, 1])) == 0.5


factories: Any = rm


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: factories.auc(window=0), "window: expected a whole number of at least 1, got 0"),
        (lambda: factories.auc(), "window"),
        (
            lambda: factories.auc(window=5, average="mean"),
            "average: expected one of ('equal', 'impressions', 'weight'), got 'mean'",
        ),
        (
            lambda: factories.auprc(window=5, undefined_groups="half"),
            "undefined_groups: expected a number or None, got 'half'",
        ),
        (lambda: factories.binned_auc(bins=1000), "bins: expected a power of two"),
        (lambda: factories.binned_auc(bins=1), "bins: expected a whole number of at least 2"),
        (
            lambda: (m := rm.auc(window=5, grouped=True)).update(
                m.init(), rm.make_batch([0.5], [1])
            ),
            "grouping_keys: expected an array of this name in make_batch(",
        ),
    ],
)
def test_misuse_is_named(call, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        call()
