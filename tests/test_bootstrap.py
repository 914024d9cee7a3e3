"""How sure values are: resamples, intervals, comparisons of models."""

import functools
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import recmetrics_jax as rm
from recmetrics_jax._src import intervals
from recmetrics_jax._src.spreads import Resamples

pytestmark = pytest.mark.once

USERS = 20
REPLICATES = 40

METRICS = {
    "ne": rm.ne,
    "calibration": rm.calibration,
    "binned": functools.partial(rm.binned_auc, bins=64),
    "ndcg": rm.ndcg,
    "xauc": rm.xauc,
    "ranks": functools.partial(rm.rank_metrics, k=(1, 5), exact_ranks=8),
}


def batch(seed=0, size=80, tasks=2):
    rng = np.random.default_rng(seed)
    p, y = rng.integers(0, 9, (tasks, size)) / 8, rng.random((tasks, size)) < 0.4
    keys = {"user_id": rng.integers(0, USERS, size), "session_id": rng.integers(0, 1 << 40, size)}
    keys["session_id"] = keys["user_id"] * 100 + rng.integers(0, 3, size)
    return rm.make_batch(p, y, rng.integers(1, 5, (tasks, size)) / 4, keys=keys)


def values_of(metric, batches):
    state = metric.init()
    for each in batches:
        state = metric.update(state, each)
    return metric.compute(state)


def drawn(batch, seed=0):
    """How often resamples draw examples, ``[T, N, R]``."""
    return Resamples("user_id", REPLICATES, seed).drawn(*batch.key("user_id"))


@pytest.mark.heavy
def test_resamples_are_the_metric_of_examples_as_often_as_they_are_drawn():
    members = {n: f(n_tasks=2) for n, f in METRICS.items() if n != "ranks"}
    members["auc"] = rm.auc(window=200, n_tasks=2)
    members["session_window"] = rm.ndcg(window=200, scope="window", n_tasks=2)
    plain = rm.collection(members)
    metric = rm.bootstrap(plain, key="user_id", replicates=REPLICATES, keep_replicates=True)
    batches = [batch(0), batch(1)]
    values = values_of(metric, batches)
    single = jax.jit(functools.partial(values_of, plain))
    for resample in range(0, REPLICATES, 13):
        copies = []
        for each in batches:
            count = drawn(each)[..., resample]
            weights = each.weights * count.astype(jnp.float32)
            copies.append(each._replace(weights=weights, mask=each.mask & (count > 0)))
        for name, value in single(copies).items():
            if name.endswith("sessions"):
                continue  # A copy of a user's sessions is as many more.
            of_resample = values[f"{name}_replicates"][:, resample]
            np.testing.assert_allclose(of_resample, value, rtol=2e-6, atol=1e-7, err_msg=name)
    for name, value in values_of(plain, batches).items():
        np.testing.assert_array_equal(values[name], value, err_msg=name)


def test_sessions_of_a_user_drawn_twice_count_twice():
    metric = rm.bootstrap(rm.ndcg(), key="user_id", replicates=REPLICATES, keep_replicates=True)
    keys = {"user_id": np.repeat(np.arange(9), 2), "session_id": np.repeat(np.arange(9), 2)}
    each = rm.make_batch(np.tile([0.2, 0.1], 9), np.tile([1, 0], 9), keys=keys)
    count = np.asarray(drawn(each))[0, ::2].sum(axis=0)
    values = values_of(metric, [each])
    np.testing.assert_array_equal(values["lifetime_ndcg_sessions_replicates"][0], count)


def test_the_counts_are_those_of_poisson_and_independent():
    size = 200_000
    keys = {"user_id": np.arange(size)}
    each = rm.make_batch(np.zeros(size), np.zeros(size), keys=keys)
    counts = np.asarray(Resamples("user_id", 4, 0).drawn(*each.key("user_id")))[0].astype(float)
    error = 5 / np.sqrt(size)
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=error)
    np.testing.assert_allclose(counts.var(axis=0), 1, atol=2 * error)
    for k, p in enumerate([0.3679, 0.3679, 0.1839, 0.0613, 0.0153]):
        np.testing.assert_allclose((counts == k).mean(axis=0), p, atol=error + 0.006)
    correlation = np.corrcoef(counts.T)
    other = np.asarray(Resamples("user_id", 4, 2**32 - 1).drawn(*each.key("user_id")))[0].astype(
        float
    )
    np.testing.assert_allclose(correlation - np.eye(4), 0, atol=error)
    np.testing.assert_allclose(np.corrcoef(counts[:, 0], other[:, 0])[0, 1], 0, atol=error)
    # Neighbouring keys.
    np.testing.assert_allclose(np.corrcoef(counts[1:, 0], counts[:-1, 0])[0, 1], 0, atol=error)
    # Upper halves of keys count.
    above = each._replace(keys={"user_id": each.keys["user_id"].at[..., 0].set(1)})
    of_above = np.asarray(Resamples("user_id", 4, 0).drawn(*above.key("user_id")))[0]
    assert 0.25 < (of_above == counts).mean() < 0.35


def test_intervals_do_not_depend_on_batches_devices_or_merges():
    metric = rm.bootstrap(
        rm.collection({n: METRICS[n](n_tasks=2) for n in ("ne", "binned")}),
        key="user_id",
        replicates=REPLICATES,
    )
    whole = batch(0)
    halves = [jax.tree.map(lambda x, i=i: x[:, i * 40 : i * 40 + 40], whole) for i in range(2)]
    at_once, in_turns = values_of(metric, [whole]), values_of(metric, halves)
    states = [metric.update(metric.init(), half) for half in halves]
    merged = metric.compute(metric.merge(*states))
    backwards = values_of(metric, [jax.tree.map(lambda x: x[:, ::-1], whole)])
    for others in (in_turns, merged, backwards):
        for name, value in at_once.items():
            np.testing.assert_allclose(others[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.heavy
def test_the_laws_hold_of_resamples():
    metric = rm.bootstrap(
        rm.collection({"ne": rm.ne(n_tasks=2, window=200), "ndcg": rm.ndcg(n_tasks=2)}),
        key="user_id",
        replicates=20,
    )
    # A copy of a list is a list of twice as many, not two lists.
    rm.testing.check_laws(metric, [batch(i) for i in range(3)], skip=["weights"], rtol=1e-5)


@pytest.mark.heavy
def test_resamples_by_segment_in_either_order():
    each = batch(5)
    country = np.arange(80) % 3
    each = each._replace(
        keys={**each.keys, "country": rm.make_batch(*[country] * 2, keys={"c": country}).keys["c"]}
    )
    each = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, *x.shape[1:])), each)
    plain = rm.collection({"ne": rm.ne(n_tasks=2), "binned": rm.binned_auc(n_tasks=2, bins=16)})
    segmented = functools.partial(rm.by_segment, key="country", segments=3)
    resampled = functools.partial(rm.bootstrap, key="user_id", replicates=REPLICATES)
    outside, inside = (
        values_of(metric, [each])
        for metric in (segmented(resampled(plain)), resampled(segmented(plain)))
    )
    assert outside.keys() == inside.keys()
    for name, value in outside.items():
        np.testing.assert_allclose(inside[name], value, rtol=1e-6, err_msg=name)
    of_one = each._replace(mask=jnp.broadcast_to(country == 1, each.mask.shape))
    alone = values_of(resampled(plain), [rm_masked(of_one)])
    for name, value in alone.items():
        np.testing.assert_allclose(outside[name][:, 1], value, rtol=1e-5, err_msg=name)


def rm_masked(each):
    keys = {name: rm.Keys(np.asarray(words)) for name, words in each.keys.items()}
    return rm.make_batch(each.predictions, each.labels, each.weights, mask=each.mask, keys=keys)


BCA: Any = "bca"
FOLDER = pathlib.Path(__file__).parent.parent / "benchmarks"
STREAMS = 200
ERROR = 3 * math.sqrt(0.95 * 0.05 / STREAMS)


@pytest.mark.heavy
@pytest.mark.parametrize("clustered", [False, True], ids=["independent", "clustered"])
def test_intervals_cover_the_truth_as_often_as_they_say(load, clustered):
    simulation = load("coverage")
    true = simulation.truth(clustered=clustered, users=100_000)
    covered = functools.partial(
        simulation.coverage,
        true,
        clustered=clustered,
        interval="t",
        streams=STREAMS,
        users=60,
        replicates=50,
    )
    for name, fraction in covered(key="user").items():
        assert abs(fraction - 0.95) <= ERROR, (name, fraction)
    if clustered:  # Rows of one user are not independent.
        by_row = covered(key="row")
        assert max(by_row[name] for name in ("calibration", "auc", "binned_auc")) < 0.95 - ERROR


TWO = rm.compare(
    rm.collection({"ne": rm.ne(n_tasks=3), "auc": rm.binned_auc(n_tasks=3)}),
    key="user_id",
    replicates=100,
    baseline=1,
)


def models(seed=0, size=4000):
    """A model, the baseline, which is a little worse, and itself once more."""
    rng = np.random.default_rng(seed)
    score = rng.normal(size=size)
    y = rng.random(size) < 1 / (1 + np.exp(-score))
    worse = score + rng.normal(0, 0.3, size)
    p = 1 / (1 + np.exp(-np.stack([score, worse, worse])))
    return rm.make_batch(p, y, keys={"user_id": np.arange(size) // 4})


def test_models_are_compared_by_pairs():
    values = values_of(TWO, [models()])
    difference = values["ne/lifetime_ne_difference"]
    np.testing.assert_allclose(
        difference, values["ne/lifetime_ne"] - values["ne/lifetime_ne"][1], rtol=1e-5
    )
    np.testing.assert_array_equal(difference[1:], 0)
    np.testing.assert_array_equal(values["ne/lifetime_ne_p_value"][1:], 1)
    assert difference[0] < 0
    assert values["ne/lifetime_ne_p_value"][0] < 0.01
    assert values["ne/lifetime_ne_difference_high"][0] < 0
    assert values["auc/lifetime_binned_auc_difference_low"][0] > 0
    sure = values_of(rm.bootstrap(rm.ne(n_tasks=3), key="user_id", replicates=100), [models()])
    # Paired: what is hard for both cancels.
    assert values["ne/lifetime_ne_difference_se"][0] < sure["lifetime_ne_se"][0] / 2


def test_p_values_of_equal_models_are_uniform():
    rng = np.random.default_rng(0)
    streams, size = 200, 400
    score = rng.normal(size=(streams, size))
    y = rng.random((streams, size)) < 1 / (1 + np.exp(-score))
    noisy = score + rng.normal(0, 0.5, (2, streams, size))
    p = 1 / (1 + np.exp(-noisy))
    keys = {"user_id": np.arange(streams * size).reshape(streams, size)}
    batch = rm.stack_models([rm.make_batch(each, y, keys=keys) for each in p])
    for interval in ("t", "percentile"):
        metric = rm.compare(
            rm.ne(n_tasks=2 * streams), models=2, key="user_id", replicates=60, interval=interval
        )
        p_values = np.asarray(values_of(metric, [batch])["lifetime_ne_p_value"])
        np.testing.assert_array_equal(p_values[:streams], 1)
        for level in (0.1, 0.5):
            fraction = (p_values[streams:] < level).mean()
            error = 3 * math.sqrt(level * (1 - level) / streams)
            assert abs(fraction - level) <= error + 1 / 61, (interval, level, fraction)


@pytest.mark.parametrize("freedom", [19, 49, 199])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_quantiles_of_t_are_those_of_scipy(freedom, confidence):
    probability = 0.5 + confidence / 2
    wanted = stats.t.ppf(probability, freedom)
    np.testing.assert_allclose(intervals.t_quantile(probability, freedom), wanted, rtol=1e-4)


def test_one_user_alone_tells_nothing():
    metric = rm.by_segment(rm.bootstrap(rm.ctr(), key="user_id"), key="country", segments=2)
    keys = {"country": [0, 0, *[1] * 30], "user_id": [7, 7, *range(30)]}
    batch = rm.make_batch(np.ones(32), np.arange(32) % 2, keys=keys)
    values = metric.compute(metric.update(metric.init(), batch))
    assert values["lifetime_ctr"].tolist() == [[0.5, 0.5]]
    for end in ("se", "low", "high"):
        np.testing.assert_array_equal(np.isnan(values[f"lifetime_ctr_{end}"]), [[True, False]])


def test_values_that_most_resamples_lack_have_no_interval():
    metric = rm.bootstrap(rm.ne(), key="user_id", replicates=400)
    batch = rm.make_batch([0.5, 0.5], [0, 1], keys={"user_id": [1, 2]})
    values = values_of(metric, [batch])
    assert values["lifetime_ne"][0] == 1
    assert np.isnan(values["lifetime_ne_se"][0])
    rare = rm.make_batch([0.5] * 9, [1] + [0] * 8, keys={"user_id": np.arange(9)})
    assert values_of(metric, [rare])["lifetime_ne_se"][0] > 0


def nothing(batch):
    return {}


ONE = rm.make_batch([0.5], [1])
ROWS: Any = {"resampled_by": "rows"}
BATCHES: Any = [ONE, [ONE]]
LOGITS = rm.make_batch([0.5], [1], logits=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rm.bootstrap(rm.ne(), key="u", replicates=19), "replicates: expected"),
        (lambda: rm.bootstrap(rm.ne(), key="u", interval=BCA), "interval: expected one of"),
        (lambda: rm.bootstrap(rm.ne(), key="u", confidence=95), "confidence: expected a number"),
        (lambda: rm.bootstrap(rm.ne(), key="u", seed=-1), "seed: expected"),
        (lambda: rm.bootstrap(rm.bootstrap(rm.ne(), key="u"), key="u"), "without replicates"),
        (lambda: rm.bootstrap(rm.xauc(pair_weights=None), key="u"), "can draw"),
        (lambda: rm.bootstrap(rm.xauc(grouped=True), key="u"), "can draw"),
        (lambda: rm.bootstrap(rm.auc(window=9, grouped=True), key="u"), "can draw"),
        (lambda: rm.compare(rm.ne(), key="u"), "metric: expected one of at least 2 tasks"),
        (lambda: rm.compare(rm.ne(n_tasks=3), models=2, key="u"), "multiple of models=2"),
        (lambda: rm.compare(rm.ne(n_tasks=2), key="u", baseline=2), "baseline: expected"),
        (lambda: rm.stack_models([]), "batches: expected"),
        (lambda: rm.stack_models(BATCHES), r"batches\[1\]: expected a Batch, got list"),
        (lambda: rm.stack_models([ONE, LOGITS]), r"batches\[1\]: expected .* got logits"),
        (lambda: rm.sample_metric(nothing, window=9, **ROWS), "resampled_by: expected"),
        (lambda: rm.Term(len, is_summed=True, **ROWS), "resampled_by: expected"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
