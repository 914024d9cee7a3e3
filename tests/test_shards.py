"""States that share a window: each holds a part of it, and merged ones all that is whole."""

import functools

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import recmetrics_jax as rm

pytestmark = pytest.mark.once

TASKS, EXAMPLES, STEPS = 32, 10, 9


def sum_and_count(batch):
    scores = jnp.where(batch.mask, batch.predictions, 0.0).astype(jnp.float64)
    count = jnp.sum(batch.mask, axis=1, dtype=jnp.int32)
    return {"sum": jnp.sum(scores, axis=1), "count": count.astype(jnp.float64)}


def stream(devices):
    """Scores and masks, ``[steps, devices, T, N]``; of devices with few examples, and with none."""
    rng = np.random.default_rng(devices)
    p = rng.integers(1, 100, (STEPS, devices, TASKS, EXAMPLES)).astype(np.float32)
    mask = rng.random(p.shape) < rng.choice([0, 0.2, 0.7], p.shape[:-1])[..., None]
    mask[: STEPS // 2, :, ::2] = False
    mask[:, 1:, :4] = False
    return p, mask


def states_of(metric, p, mask):
    @jax.jit
    def run(p, mask):
        def step(state, x):
            return metric.update(state, rm.make_batch(x[0], x[0], mask=x[1])), None

        return jax.lax.scan(step, metric.init(), (p, mask))[0]

    return [run(p[:, device], mask[:, device]) for device in range(p.shape[1])]


def merged_in_every_way(metric, states):
    merge, compute = jax.jit(metric.merge), jax.jit(metric.compute)
    over_devices = jax.jit(
        jax.vmap(lambda state: metric.compute(rm.all_merge(state, "devices")), axis_name="devices")
    )
    values = over_devices(jax.tree.map(lambda *x: jnp.stack(x), *states))
    return {
        "all_merge": jax.tree.map(lambda x: x[0], values),
        "fold": compute(functools.reduce(merge, states)),
        "fold backwards": compute(functools.reduce(lambda a, b: merge(b, a), states[::-1])),
    }


def newest_that_fit(p, mask, window):
    """Sum and count of the newest updates of all that fit whole; NaN where not even the newest."""
    counts = mask.sum(axis=(1, 2))
    chosen = oracles.newest_updates(counts, window)
    count = counts[chosen].sum()
    return (np.nan, np.nan) if count > window else (p[chosen][mask[chosen]].sum(), count)


def first_whole(mask, share):
    """The first update from which on a state of so many examples has all, as far as it can tell."""
    counts = mask.sum(axis=1)
    until = counts[::-1].cumsum()[::-1]
    if until[0] < share:
        return 0
    oldest = np.flatnonzero(until >= share)[-1]
    return oldest + (until[oldest] > share)


@pytest.mark.parametrize(("devices", "window", "shards"), [(3, 40, 1), (3, 40, 3), (2, 25, 2)])
def test_merged_states_hold_the_newest_updates_that_are_whole(devices, window, shards):
    metric = rm.sample_metric(sum_and_count, window=window, shards=shards, n_tasks=TASKS)
    p, mask = stream(devices)
    states = states_of(metric, p, mask)
    results = merged_in_every_way(metric, states)
    share, fewer = -(-window // shards), 0
    for task in range(TASKS):
        got = [(float(v["window_sum"][task]), v["window_count"][task]) for v in results.values()]
        np.testing.assert_array_equal(got[1:], got[:1] * 2)
        of_task = p[:, :, task], mask[:, :, task]
        if of_task[1].any(axis=(0, 2)).sum() <= 1:  # One state, by itself: exact.
            newest = of_task[0][of_task[1]][-share:]
            np.testing.assert_array_equal(got[0], (newest.sum(), len(newest)))
            continue
        first = max(first_whole(of_task[1][:, device], share) for device in range(devices))
        wanted = (np.nan, np.nan)
        if first < STEPS and of_task[1][first:].any():
            wanted = newest_that_fit(of_task[0][first:], of_task[1][first:], window)
        np.testing.assert_array_equal(got[0], wanted)
        fewer += first > 0
    assert fewer or shards == 1


def test_shares_add_up_to_the_window():
    metric = rm.auc(window=10, shards=4)
    alone = rm.auc(window=10)
    assert metric != alone
    assert rm.describe(metric).state_bytes < rm.describe(alone).state_bytes
    state = metric.init()
    capacities = []
    for _ in range(5):
        capacities.append(state.samples[0].capacity)
        state = metric.merge(state, metric.init())
    assert capacities == [3, 6, 9, 10, 10]
    with pytest.raises(ValueError, match=r"shards: expected a whole number of at most 10, got 11"):
        rm.auc(window=10, shards=11)
    with pytest.raises(ValueError, match=r"changed in its options: examples .*shared by 4"):
        metric.compute(alone.init())


def test_states_of_any_share_are_saved_and_adopted():
    metric = rm.auc(window=10, shards=4)
    rng = np.random.default_rng(0)
    state = metric.init()
    for _ in range(3):
        batch = rm.make_batch(rng.random(2), [0, 1])
        state = metric.merge(state, metric.update(metric.init(), batch))
    more = rm.collection({"auc": metric, "ctr": rm.ctr()})
    restored = flax.serialization.from_bytes(state, flax.serialization.to_bytes(state))
    for old in (restored, flax.serialization.msgpack_restore(flax.serialization.to_bytes(state))):
        adopted = rm.adopt(more, old)
        assert adopted.dropped == ()
        value = more.compute(adopted.state)["auc/window_auc"]
        np.testing.assert_array_equal(value, metric.compute(state)["window_auc"])
