"""All routes to a global value agree: pmap, shard_map, sharded jit, host fold, one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import BY_NAME, CLASSES, HISTOGRAMS, ORDER, SUMS, group
from drawing import arrays, batch_of
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import recmetrics_jax as rm

DEVICES = 4
STEPS = 6
LOCAL = 12  # examples on one device
IS_OLD = not hasattr(jax.lax, "pcast")
WINDOWS = (90, 150)  # of 288 examples

ONE_OF_EACH_ORDER = group(
    "order", [BY_NAME[x] for x in ("grouped_auc", "pairwise_auc", "recall_at")]
)
MERGED = [SUMS, CLASSES, HISTOGRAMS]
"""All metrics whose states can be merged to those of one batch of all devices."""


def metric_under_test(case):
    """The metrics of a group, with windows of two sizes in turn."""
    return rm.collection(
        {
            member.name: member.make(n_tasks=2, window=WINDOWS[i % 2])
            for i, member in enumerate(case.members)
        }
    )


def stream(case):
    """Batches ``[steps, T, devices * local]``; in the last, two devices have only padding."""
    rng = np.random.default_rng(0)
    batches = [arrays(rng, case, 2, DEVICES * LOCAL) for _ in range(STEPS)]
    batches[-1][3][:, LOCAL + 3 :] = False
    p, y, w, mask = (np.stack(x) for x in zip(*batches, strict=True))
    return p, y, w.astype(np.float32), mask


def by_device(x):
    """``[steps, T, devices * local, ...]`` as ``[steps, devices, T, local, ...]``."""
    x = x.reshape(*x.shape[:2], DEVICES, LOCAL, *x.shape[3:])
    return jnp.asarray(np.moveaxis(x, 2, 1))


def run(update, state, arrays_):
    """Updates step by step, as a loop that trains."""
    for step in zip(*arrays_, strict=True):
        state = update(state, *step)
    return state


def update_of(case, metric):
    return lambda state, *x: metric.update(state, batch_of(case, *x))


def one_device(case, metric, arrays_):
    state = run(jax.jit(update_of(case, metric)), metric.init(), arrays_)
    return metric.compute(state)


def on_each_device(state):
    return jax.tree.map(lambda x: jnp.stack([x] * DEVICES), state)


def pmap(case, metric, arrays_):
    update = jax.pmap(update_of(case, metric), axis_name="devices")
    values = jax.pmap(
        lambda state: metric.compute(rm.all_merge(state, "devices")), axis_name="devices"
    )
    state = run(update, on_each_device(metric.init()), map(by_device, arrays_))
    return jax.tree.map(lambda x: x[0], values(state))


def shard_map(case, metric, arrays_):
    mesh = jax.make_mesh((DEVICES,), ("devices",), axis_types=(AxisType.Auto,))
    mapped = functools.partial(jax.shard_map, mesh=mesh, in_specs=P("devices"), check_vma=True)

    def mine(tree):
        return jax.tree.map(lambda x: x[0], tree)

    @jax.jit
    @functools.partial(mapped, out_specs=P("devices"))
    def update(state, *x):
        state = update_of(case, metric)(mine(state), *mine(x))
        return jax.tree.map(lambda x: x[None], state)

    @jax.jit
    @functools.partial(mapped, out_specs=P())
    def values(state):
        return metric.compute(rm.all_merge(mine(state), "devices"))

    return values(run(update, on_each_device(metric.init()), map(by_device, arrays_)))


def sharded_jit(case, metric, arrays_, axis_type=AxisType.Auto):
    mesh = jax.make_mesh((DEVICES,), ("devices",), axis_types=(axis_type,))
    sharding = NamedSharding(mesh, P(None, "devices"))
    update = jax.jit(update_of(case, metric))

    def sharded(state, *x):
        return update(state, *jax.device_put(x, sharding))

    with jax.set_mesh(mesh):
        state = jax.device_put(metric.init(), NamedSharding(mesh, P()))
        return jax.jit(metric.compute)(run(sharded, state, arrays_))


def explicit_jit(case, metric, arrays_):
    return sharded_jit(case, metric, arrays_, AxisType.Explicit)


def host_fold(case, metric, arrays_):
    update = jax.jit(update_of(case, metric))
    parts = [by_device(x) for x in arrays_]
    states = [
        run(update, metric.init(), [x[:, device] for x in parts]) for device in range(DEVICES)
    ]
    return metric.compute(functools.reduce(metric.merge, states))


ROUTES = [pmap, shard_map, sharded_jit, explicit_jit, host_fold]


@functools.cache
def on_one_device(case):
    metric = metric_under_test(case)
    return one_device(case, metric, stream(case))


def check_route(case, route):
    wanted = on_one_device(case)
    values = route(case, metric_under_test(case), stream(case))
    assert values.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_allclose(values[key], value, rtol=1e-6, atol=1e-9, err_msg=key)


def routes_of(case):
    """A group and each route: with sums those that ask something of packages run with all."""
    for route in ROUTES:
        of_packages = case is SUMS and route is not host_fold
        marks = () if of_packages else pytest.mark.once if route is shard_map else pytest.mark.heavy
        yield pytest.param(case, route, id=f"{case}-{route.__name__}", marks=marks)


@pytest.mark.parametrize(("case", "route"), [x for case in MERGED for x in routes_of(case)])
def test_route_gives_what_one_device_gives(case, route):
    check_route(case, route)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("case", "route"),
    [(ORDER, sharded_jit), (ONE_OF_EACH_ORDER, explicit_jit)],
    ids=["sharded_jit", "explicit_jit"],
)
def test_sharded_examples_are_one_batch(case, route):
    """For metrics of the examples themselves, or of their pairs and sessions in a batch."""
    check_route(case, route)


def test_window_on_many_devices_is_not_the_lifetime():
    """Else the tables above would not see how windows are merged."""
    for case in MERGED:
        values = on_one_device(case)
        for name in values:
            window, lifetime = values[name.replace("lifetime", "window")], values[name]
            # What may be all, none or one of a few thresholds in both.
            alike = ("examples_with", "nonfinite", "missing", "window", "threshold", "_share")
            alike += ("at_precision", "undefined_segments")
            if not any(x in name for x in alike):
                assert (window != lifetime).any(), name


def sum_of_scores(batch):
    return {"sum": jnp.sum(jnp.where(batch.mask, batch.predictions, 0.0), axis=1)}


@pytest.mark.parametrize("route", [pmap, shard_map, host_fold], ids=lambda r: r.__name__)
def test_samples_of_all_devices_come_together(route):
    """The newest updates of all devices that fit into the window."""
    window = 90
    metric = rm.sample_metric(sum_of_scores, n_tasks=2, window=window)
    p, y, w, mask = stream(SUMS)
    p = np.round(p * 64)
    wanted = np.zeros(2)
    for task in range(2):
        for step in oracles.newest_updates(mask[:, task].sum(axis=1), window):
            wanted[task] += p[step, task][mask[step, task]].sum()
    np.testing.assert_array_equal(route(SUMS, metric, (p, y, w, mask))["window_sum"], wanted)


def ragged(steps=6):
    """Batches ``[steps, 1, devices * local]``; the first half of the devices has fewer examples."""
    rng = np.random.default_rng(3)
    p = rng.integers(1, 64, (steps, 1, DEVICES, LOCAL)) / 64
    mask = np.arange(LOCAL) < rng.permuted([3, 3, 7, 8])[:, None]
    mask = np.broadcast_to(mask, p.shape) & (rng.random(p.shape) < 0.9)
    flat = (steps, 1, DEVICES * LOCAL)
    y = (rng.random(flat) < 0.4).astype(np.float32)
    return p.reshape(flat).astype(np.float32), y, np.ones_like(y), mask.reshape(flat)


@pytest.mark.once
@pytest.mark.parametrize(
    "route",
    [
        pytest.param(route, marks=pytest.mark.heavy if route in (pmap, explicit_jit) else ())
        for route in (one_device, *ROUTES)
    ],
    ids=lambda route: route.__name__,
)
def test_a_window_means_one_thing_by_every_route(route):
    """The README's table: for sums and for examples, in one state, merged, and over devices."""
    kinds = {
        "count": rm.examples,
        "sum": rm.weighted_avg,
        "sample": functools.partial(rm.sample_metric, sum_of_scores),
        "shared": functools.partial(rm.sample_metric, sum_of_scores, shards=DEVICES),
    }
    windows = (30, 55, 10_000)
    metric = rm.collection({f"{w}": rm.collection(kinds, window=w) for w in windows})
    p, y, w, mask = ragged()
    values = route(SUMS, metric, (p, y, w, mask))
    for window in windows:
        count, mean, sample, shared = (
            float(values[f"{window}/{kind}/window_{name}"][0])
            for kind, name in zip(kinds, ("examples", "weighted_avg", "sum", "sum"), strict=True)
        )
        newest = oracles.newest_updates(mask.sum(axis=(1, 2)), window)
        of_whole = p[newest][mask[newest]]
        assert count == len(of_whole)
        np.testing.assert_allclose(mean, of_whole.mean(), rtol=1e-6)
        if route in (one_device, sharded_jit, explicit_jit):  # One state has the newest exactly.
            assert sample == p[mask][-window:].sum()
            assert shared == p[mask][window // -DEVICES :].sum()
            continue
        assert sample == of_whole.sum()
        # Of states that share a window, as far as all still have whole updates.
        wholes = [p[step:][mask[step:]].sum() for step in range(newest[0], len(p))]
        assert shared in wholes
        assert shared == sample or window < 10_000


def test_a_state_that_scans_inside_shard_map_is_made_to_differ():
    """The README's line: its `init` is the same on all devices, and what follows is not."""
    sample = functools.partial(rm.sample_metric, sum_of_scores)
    metric = rm.collection({"ctr": rm.ctr, "sample": sample}, window=100)
    mesh = jax.make_mesh((DEVICES,), ("devices",), axis_types=(AxisType.Auto,))
    p, y, _, mask = ragged()

    def values(p, y, mask):
        def step(state, x):
            return metric.update(state, rm.make_batch(*x[:2], mask=x[2])), None

        state = metric.init()
        if IS_OLD:
            state = getattr(jax.lax, "pvary")(state, "devices")  # noqa: B009  Its name until then.
        else:
            state = jax.lax.pcast(state, "devices", to="varying")
        state, _ = jax.lax.scan(step, state, (p, y, mask))
        return metric.compute(rm.all_merge(state, "devices"))

    mapped = jax.shard_map(values, mesh=mesh, in_specs=P(None, None, "devices"), out_specs=P())
    got = jax.jit(mapped)(p, y, mask)
    wanted = pmap(SUMS, metric, (p, y, np.ones_like(y), mask))
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_tasks_may_be_sharded(axis_type):
    """The batch, and of the state what is large. Of few metrics: XLA's CPU backend may run many
    collectives of one program in another order on each device, and hang."""
    factories = {"ne": rm.ne, "sample": functools.partial(rm.sample_metric, sum_of_scores)}
    metric = rm.collection(factories, n_tasks=DEVICES, window=60)
    rng = np.random.default_rng(0)
    mesh = jax.make_mesh((DEVICES,), ("tasks",), axis_types=(axis_type,))

    def placed(x):
        axes = ("tasks" if size == DEVICES else None for size in x.shape)
        return jax.device_put(x, NamedSharding(mesh, P(*axes)))

    stream = [arrays(rng, SUMS, DEVICES, 21) for _ in range(3)]
    update, compute = jax.jit(update_of(SUMS, metric)), jax.jit(metric.compute)
    wanted = compute(run(update, metric.init(), zip(*stream, strict=True)))
    with jax.set_mesh(mesh):
        state = metric.init()
        state = state._replace(windows=jax.tree.map(placed, state.windows))
        for batch in stream:
            state = jax.block_until_ready(update(state, *map(placed, batch)))
        values = jax.block_until_ready(compute(state))
        merged = jax.block_until_ready(jax.jit(metric.merge)(metric.init(), state))
        of_merged = metric.compute(jax.device_get(merged))
    for name, value in wanted.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(of_merged[name], value, rtol=1e-6, err_msg=name)


def test_samples_go_on_after_a_merge():
    metric = rm.sample_metric(sum_of_scores, window=6)

    def after(state, *scores):
        return metric.update(state, rm.make_batch(list(scores), [0] * len(scores)))

    a = after(after(metric.init(), 1.0, 2.0), 3.0)
    b = after(metric.init(), 10.0, 20.0)
    state = metric.merge(a, b)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, a)
    assert metric.compute(state)["window_sum"].tolist() == [36.0]
    # 5 of 6 are there: one more fits, then the oldest go, which only the first had.
    state = after(state, 100.0)
    assert metric.compute(state)["window_sum"].tolist() == [136.0]
    assert metric.compute(after(state, 1000.0))["window_sum"].tolist() == [1135.0]
    assert metric.compute(after(state, 1000.0, 1000.0))["window_sum"].tolist() == [2133.0]


def test_all_merge_works_over_a_mesh_of_two_axes():
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    metric = rm.ctr(window=100)
    labels = jnp.asarray(np.random.default_rng(0).random((4, 8)) < 0.4)

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=P(("data", "model")), out_specs=P())
    def values(labels):
        state = metric.update(metric.init(), rm.make_batch(labels[0], labels[0]))
        return metric.compute(rm.all_merge(state, ("data", "model")))

    for value in values(labels).values():
        np.testing.assert_allclose(value, [labels.mean()], rtol=1e-6)


def test_all_merge_keeps_the_digits_whatever_the_order_of_devices():
    """A bare psum of float32 is off by 1e-8 to 1e-7 here, and depends on the order."""
    metric = rm.weighted_avg()
    rng = np.random.default_rng(0)

    def state_of(values):
        def step(state, value):
            return metric.update(state, rm.make_batch(value[None], value[None])), None

        return jax.lax.scan(step, metric.init(), values)[0]

    parts = jnp.asarray(rng.random((DEVICES, 5000)) * [[1], [1e-3], [1e3], [1e6]], jnp.float32)
    states = jax.jit(jax.vmap(state_of))(parts)
    merge = jax.vmap(lambda s: rm.all_merge(s, "devices"), axis_name="devices")
    exact = np.sum(np.asarray(parts, np.float64))
    totals = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]):
        merged = merge(jax.tree.map(lambda x, order=order: x[np.array(order)], states))
        total = np.asarray(merged.lifetime.parts, np.float64)[0, :, 0, 1].sum()
        np.testing.assert_allclose(total, exact, rtol=1e-14)
        totals.append(total)
    assert len(set(totals)) == 1


def test_all_merge_refuses_the_state_of_a_metric_written_by_hand():
    with pytest.raises(
        ValueError, match=r"state: expected parts that say how they merge over devices"
    ):
        jax.vmap(lambda state: rm.all_merge(state, "d"), axis_name="d")(jnp.zeros((2, 3)))
