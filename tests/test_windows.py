"""Windows hold the newest updates: exactly while they have slots, within a bound after."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import CLASSES, COUNTS, SUMS, SUMS_OF_ORDER, heavy_where, metric_of
from drawing import arrays, batch_of, expected

import recmetrics_jax as rm
from recmetrics_jax._src.windows import Window

pytestmark = pytest.mark.once

GROUPS_OF_SUMS = [SUMS, CLASSES, SUMS_OF_ORDER]


def stream_of(rng, case, sizes):
    for size in sizes:
        yield arrays(rng, case, 2, size)


def padded(case, p, y, w, mask, size):
    """The batch with masked rows appended, so that one shape serves all sizes."""

    def pad(x):
        return np.pad(x, [(0, 0), (0, size - x.shape[1]), *[(0, 0)] * (x.ndim - 2)])

    return batch_of(case, *map(pad, (p, y, w, mask)))


def of_window(stream, task, window):
    """The part of a stream that lies in the window of a task."""
    counts = [batch[3][task].sum() for batch in stream]
    parts = []
    for i in oracles.newest_updates(counts, window):
        *columns, mask = (x[task : task + 1] for x in stream[i])
        # Of an update with more examples than the window, the last ones.
        parts.append((*columns, mask & (mask.sum() - mask.cumsum() < window)))
    return parts


@pytest.mark.parametrize("case", heavy_where(GROUPS_OF_SUMS, SUMS_OF_ORDER), ids=str)
def test_window_holds_the_newest_updates(case):
    rng = np.random.default_rng(0)
    lengths = (40, 333) if case is SUMS_OF_ORDER else (1, 40, 333, 5000)
    windows = {f"last {window}": window for window in lengths}
    metric = rm.collection(
        {name: metric_of(case, window=window) for name, window in windows.items()}
    )
    update, compute = jax.jit(metric.update), jax.jit(metric.compute)
    state, stream = metric.init(), []
    for step, batch in enumerate(stream_of(rng, case, rng.integers(0, 60, 24))):
        stream.append(batch)
        state = update(state, padded(case, *batch, 60))
        if step % 6 != 5:
            continue
        values = compute(state)
        for prefix, window in windows.items():
            for task in range(2):
                part = of_window(stream, task, window) or [tuple(x[:1, :0] for x in batch)]
                for name, value in expected(case, part, "window_").items():
                    np.testing.assert_allclose(
                        values[f"{prefix}/{name}"][task],
                        value[0],
                        rtol=1e-6,
                        atol=1e-7,
                        err_msg=f"{prefix}/{name}",
                    )


def examples_in_windows(sizes, window, slots):
    """What each window covers after each update, and what it should cover."""
    metric = rm.examples(window=window, slots=slots)
    largest = int(max(sizes))

    def step(state, size):
        mask = jnp.arange(largest) < size
        state = metric.update(state, rm.make_batch(jnp.ones(largest), jnp.ones(largest), mask=mask))
        return state, metric.compute(state)["window_examples"][0]

    _, covered = jax.jit(lambda sizes: jax.lax.scan(step, metric.init(), sizes))(jnp.array(sizes))
    exact = []
    for end in range(1, len(sizes) + 1):
        counts = sizes[:end]
        exact.append(sum(counts[i] for i in oracles.newest_updates(counts, window)))
    return np.array(covered), np.array(exact)


SIZES = {
    "ones": lambda rng: np.ones(3000, int),
    "equal": lambda rng: np.full(3000, 7),
    "ragged": lambda rng: rng.integers(0, 12, 3000),
    "mostly_empty": lambda rng: rng.integers(0, 12, 3000) * (rng.random(3000) < 0.05),
    "growing": lambda rng: np.arange(3000) // 100,
    "bursts": lambda rng: np.where(np.arange(3000) // 400 % 2, 40, 1),
}


@pytest.mark.parametrize("name", SIZES)
def test_window_that_spans_more_updates_than_slots_keeps_its_bound(name):
    window, slots = 2000, 64
    sizes = SIZES[name](np.random.default_rng(0))
    covered, exact = examples_in_windows(sizes.tolist(), window, slots)
    assert (covered <= exact).all()
    # The documented granularity, once the window is full; until then it is exact.
    full = np.cumsum(sizes) > window
    np.testing.assert_array_equal(covered[~full], np.cumsum(sizes)[~full])
    assert (covered[full] > window - np.maximum(2 * window / slots, sizes.max())).all()


@pytest.mark.parametrize("name", SIZES)
def test_window_is_exact_while_its_updates_have_slots(name):
    sizes = SIZES[name](np.random.default_rng(1))
    covered, exact = examples_in_windows(sizes.tolist(), 60, 64)
    np.testing.assert_array_equal(covered, exact)


@pytest.mark.parametrize("name", ["ones", "equal", "ragged", "growing"])
def test_windows_that_share_slots_keep_their_bound_when_merged(name):
    """Four devices, each with its own ring, which shares slots long before the whole would."""
    devices, window, slots = 4, 2000, 128
    rng = np.random.default_rng(0)
    sizes = np.stack([SIZES[name](rng) for _ in range(devices)])
    metric = rm.examples(window=window, slots=slots)
    largest = int(sizes.max())

    @jax.jit
    def run(sizes):
        def step(state, size):
            mask = jnp.arange(largest) < size
            ones = jnp.ones(largest)
            return metric.update(state, rm.make_batch(ones, ones, mask=mask)), None

        return jax.lax.scan(step, metric.init(), sizes)[0]

    states = [run(of_device) for of_device in jnp.asarray(sizes)]
    merged = functools.reduce(metric.merge, states)
    covered = float(metric.compute(merged)["window_examples"][0])
    assert window - devices * max(2 * window / slots, largest) < covered <= window


def test_window_after_many_updates_is_a_fresh_one_bit_for_bit():
    metric = rm.collection({"ne": rm.ne(window=1000), "mse": rm.mse(window=1000)})
    rng = np.random.default_rng(0)
    count, size = 100_000, 16
    p, w = (jnp.asarray(rng.random((count, 1, size)), jnp.float32) for _ in range(2))
    y = jnp.asarray(rng.random((count, 1, size)) < 0.3)

    @jax.jit
    def run(p, y, w):
        def step(state, x):
            return metric.update(state, rm.make_batch(*x)), None

        return metric.compute(jax.lax.scan(step, metric.init(), (p, y, w))[0])

    values, fresh = run(p, y, w), run(p[-62:], y[-62:], w[-62:])
    for name in fresh:
        if "window" in name:
            np.testing.assert_array_equal(values[name], fresh[name], err_msg=name)
        else:
            assert values[name] != fresh[name]


@pytest.mark.parametrize("case", heavy_where(GROUPS_OF_SUMS, SUMS_OF_ORDER), ids=str)
def test_bad_example_leaves_with_its_window(case):
    case = case.without(*COUNTS)
    rng = np.random.default_rng(2)
    metric = metric_of(case, window=100)
    state = metric.init()
    for step in range(6):
        p, y, w, mask = arrays(rng, case, 2, 40)
        if step == 1:
            w[0, 3], mask[0, 3] = np.inf, True
        state = metric.update(state, batch_of(case, p, y, w, mask))
        for name, value in metric.compute(state).items():
            is_in = step >= 1 if "/lifetime_" in name else step in (1, 2)
            assert np.isnan(value[0]).all() == is_in, (step, name)
            assert not np.isnan(value[1]).any(), (step, name)


def test_large_value_that_leaves_takes_nothing_along():
    """Windows that subtract report 0 here."""
    metric = rm.mse(window=2)
    state = metric.init()
    for prediction in (1e15, 0.1, 0.1):
        state = metric.update(state, rm.make_batch([prediction], [0.0]))
    np.testing.assert_allclose(metric.compute(state)["window_mse"], [0.01], rtol=1e-6)


def test_of_a_batch_larger_than_the_window_the_last_examples_count():
    metric = rm.collection({"ctr": rm.ctr, "count": rm.examples}, window=3)
    update = jax.jit(metric.update)

    def values(state):
        values = metric.compute(state)
        return values["ctr/window_ctr"].item(), values["count/window_examples"].item()

    state = update(metric.init(), rm.make_batch(np.zeros(8), [0, 0, 0, 0, 0, 1, 1, 1]))
    assert values(state) == (1.0, 3.0)
    nothing = rm.make_batch(np.zeros(8), np.zeros(8), mask=np.zeros(8, bool))
    assert values(update(state, nothing)) == (1.0, 3.0)
    one = rm.make_batch(np.zeros(8), np.zeros(8), mask=np.arange(8) < 1)
    assert values(update(state, one)) == (0.0, 1.0)


def test_samples_window_is_exact_for_any_batch_size():
    metric = rm.sample_metric(lambda batch: {"sum": jnp.sum(batch.predictions, axis=1)}, window=50)
    rng = np.random.default_rng(0)
    state, seen = metric.init(), []
    for size in rng.permutation([0, 1, 49, 50, 51, 118] * 4):
        p = rng.integers(0, 100, size).astype(np.float32)
        mask = rng.random(size) < 0.8
        seen += p[mask].tolist()
        state = metric.update(state, rm.make_batch(p, p, mask=mask))
        assert metric.compute(state)["window_sum"].tolist() == [sum(seen[-50:])]


@pytest.mark.parametrize("merged", ["merge", "all_merge"])
def test_windows_are_merged_by_updates_where_states_share_slots_unlike(merged):
    """Devices with 3 and 7 examples in each update: 0.3 of the newest are of the first."""
    metric = rm.collection({"count": rm.examples, "ctr": rm.ctr}, window=10_000)

    def run(examples, label):
        def step(state, _):
            labels = jnp.full(7, label)
            batch = rm.make_batch(labels, labels, mask=jnp.arange(7) < examples)
            return metric.update(state, batch), None

        return jax.lax.scan(step, metric.init(), length=5000)[0]

    states = jax.jit(lambda: (run(3, 1.0), run(7, 0.0)))()
    if merged == "merge":
        values = metric.compute(metric.merge(*states))
    else:
        merge = jax.vmap(lambda s: rm.all_merge(s, "devices"), axis_name="devices")
        of_all = jax.jit(merge)(jax.tree.map(lambda *x: jnp.stack(x), *states))
        values = metric.compute(jax.tree.map(lambda x: x[1], of_all))
    # Each state cuts its window into slots of 2 W / S examples at most.
    np.testing.assert_allclose(values["ctr/window_ctr"], [0.3], atol=2 * 2 / 1024)
    assert 10_000 - 2 * 2 * 10_000 / 1024 < values["count/window_examples"][0] <= 10_000
    np.testing.assert_allclose(values["ctr/lifetime_ctr"], [0.3], rtol=1e-6)


@pytest.mark.parametrize("make", [rm.ctr, rm.auc], ids=lambda f: f.__name__)
def test_batches_folded_by_merge_are_right_or_nan(make):
    """As users of clu and metrax write it. Merging is side by side: all become one update."""
    metric = rm.collection({"it": make, "count": rm.examples}, window=50)
    rng = np.random.default_rng(0)
    state, p, y = metric.init(), np.zeros(0), np.zeros(0)
    shapes = jax.tree.map(jnp.shape, state)
    for step in range(6):
        new = rng.random(20), rng.integers(0, 2, 20)
        p, y = (np.concatenate(x) for x in zip((p, y), new, strict=True))
        state = metric.merge(state, metric.update(metric.init(), rm.make_batch(*new)))
        assert jax.tree.map(jnp.shape, state) == shapes
        values = metric.compute(state)
        for name, value in metric.compute(
            metric.update(metric.init(), rm.make_batch(p, y))
        ).items():
            wanted = np.full(1, np.nan) if "window" in name and step > 1 else value
            np.testing.assert_allclose(values[name], wanted, rtol=1e-6, err_msg=name)


def test_a_merged_window_moves_on():
    metric = rm.collection({"count": rm.examples, "sum": rm.weighted_avg, "auc": rm.auc}, window=50)

    def after(state, *values):
        for value in values:
            state = metric.update(state, rm.make_batch(np.full(10, value), [0, 1] * 5))
        return state

    a = after(metric.init(), 1.0, 2.0, 3.0, 4.0)
    b = after(metric.init(), 5.0, 6.0)
    state = metric.merge(a, b)  # 4 beside 6, 3 beside 5; 2 fits, 1 does not.
    values = metric.compute(state)
    assert values["count/window_examples"].tolist() == [50.0]
    np.testing.assert_allclose(values["sum/window_weighted_avg"], [20 / 5], rtol=1e-6)
    values = metric.compute(after(state, 7.0))
    # The oldest examples that all slots hold go as a whole, 3 beside 5.
    np.testing.assert_allclose(values["sum/window_weighted_avg"], [(8 + 10 + 7) / 5], rtol=1e-6)
    assert values["auc/window_auc"].tolist() == [0.5]


@pytest.mark.parametrize("merged", heavy_where(["merge", "all_merge"], "merge", "all_merge"))
def test_merged_windows_are_exact_whatever_updates_each_state_had(merged):
    """States that began late, tasks that paused or have nothing, rings that turned."""
    tasks, window, size = 48, 60, 10
    metric = rm.weighted_avg(n_tasks=tasks, window=window, slots=64)
    rng = np.random.default_rng(0)
    steps = (100, 7, 93)
    p = rng.integers(1, 64, (3, 100, tasks, size)).astype(np.float32)
    # Of 2 examples or more, so that each update has a slot for itself.
    counts = rng.integers(2, size + 1, (3, 100, tasks)) * (rng.random((3, 100, tasks)) < 0.7)
    counts[:, :, 3:5] = 0
    counts[:, 50:, 6:9] = 0
    counts[rng.integers(0, 3, 20), :, rng.integers(9, tasks, 20)] = 0
    mask = np.arange(size) < counts[..., None]

    @jax.jit
    def run(p, mask, is_run):
        def step(state, x):
            batch = rm.make_batch(x[0], x[0], mask=x[1])
            return jax.lax.cond(x[2], metric.update, lambda s, _: s, state, batch), None

        return jax.lax.scan(step, metric.init(), (p, mask, is_run))[0]

    states = [run(p[i], mask[i], np.arange(100) >= 100 - count) for i, count in enumerate(steps)]
    if merged == "merge":
        values = metric.compute(functools.reduce(metric.merge, states))
    else:
        merge = jax.vmap(lambda s: rm.all_merge(s, "devices"), axis_name="devices")
        of_all = merge(jax.tree.map(lambda *x: jnp.stack(x), *states))
        values = metric.compute(jax.tree.map(lambda x: x[2], of_all))
    for i, count in enumerate(steps):
        mask[i, : 100 - count] = False
    for task in range(tasks):
        of_task = mask[:, :, task]
        newest = oracles.newest_updates(of_task.sum(axis=(0, 2)), window)
        rows = p[:, newest, task][of_task[:, newest]]
        wanted = rows.mean() if rows.size else np.nan
        np.testing.assert_allclose(values["window_weighted_avg"][task], wanted, rtol=1e-6)


@pytest.mark.heavy
def test_slots_that_are_out_of_order_in_two_states_are_put_in_order():
    """Between slots of a merged window may be empty ones, where another has what is older."""

    def window(ages, sums):
        """Of slots of 10 examples each, by place: the updates after each, -1 of an empty one."""
        is_there = np.array(ages) >= 0
        examples = jnp.asarray(np.where(is_there, 10, 0), jnp.float32)
        slots = jnp.stack([jnp.asarray(sums, jnp.float32), examples], axis=1)
        ring = jnp.stack([slots, jnp.zeros_like(slots)])[:, None]
        updated = jnp.where(jnp.asarray(is_there), 50 - jnp.asarray(ages), 0)[None]
        counters = jnp.array([[len(ages) - 1], [50], [30]], jnp.int32)
        return Window(ring, updated.astype(jnp.int32), ring[:, :, -1], counters)

    a = window([-1, -1, -1, -1, -1, 5, -1, 0], [0, 0, 0, 0, 0, 1, 0, 2])
    b = window([-1, -1, -1, -1, -1, -1, 6, 0], [0, 0, 0, 0, 0, 0, 4, 8])
    for merged in (a.merge(b), b.merge(a)):
        with jax.enable_x64(True):
            assert merged.read().tolist() == [[1 + 2 + 8, 30]]
