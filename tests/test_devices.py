"""All routes to a global value agree: pmap, shard_map, sharded jit, host fold, one device."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, arrays, batch_of, metric_of, nine
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import recmetrics_jax as rm

DEVICES = 4
STEPS = 6
LOCAL = 12  # examples on one device
WINDOW = 150  # of 288 examples

METRICS = {
    case.name: (case, metric_of(case, window=WINDOW))
    for case in CASES
    if case.is_sum and case.share is None
}
METRICS["collection"] = (CASES[0], nine(n_tasks=2, window=WINDOW))


def stream(case):
    """Batches ``[steps, T, devices * local]``; in the last, two devices have only padding."""
    rng = np.random.default_rng(0)
    batches = [arrays(rng, case, 2, DEVICES * LOCAL) for _ in range(STEPS)]
    batches[-1][3][:, LOCAL + 3 :] = False
    p, y, w, mask = (np.stack(x) for x in zip(*batches, strict=True))
    return p, y, w.astype(np.float32), mask


def by_device(x):
    """``[steps, T, devices * local, ...]`` as ``[devices, steps, T, local, ...]``."""
    x = x.reshape(*x.shape[:2], DEVICES, LOCAL, *x.shape[3:])
    return jnp.asarray(np.moveaxis(x, 2, 0))


def run(case, metric, state, p, y, w, mask):
    for step in range(STEPS):
        state = metric.update(state, batch_of(case, p[step], y[step], w[step], mask[step]))
    return state


def one_device(case, metric, arrays_):
    return jax.jit(lambda *x: metric.compute(run(case, metric, metric.init(), *x)))(*arrays_)


def pmap(case, metric, arrays_):
    @functools.partial(jax.pmap, axis_name="devices")
    def values(*x):
        return metric.compute(rm.all_merge(run(case, metric, metric.init(), *x), "devices"))

    return jax.tree.map(lambda x: x[0], values(*map(by_device, arrays_)))


def shard_map(case, metric, arrays_, check_vma=True):
    mesh = jax.make_mesh((DEVICES,), ("devices",), axis_types=(AxisType.Auto,))

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=P("devices"), out_specs=P(), check_vma=check_vma
    )
    def values(*x):
        state = run(case, metric, metric.init(), *(part[0] for part in x))
        return metric.compute(rm.all_merge(state, "devices"))

    return values(*map(by_device, arrays_))


def sharded_jit(case, metric, arrays_, axis_type=AxisType.Auto):
    mesh = jax.make_mesh((DEVICES,), ("devices",), axis_types=(axis_type,))
    sharding = NamedSharding(mesh, P(None, None, "devices"))
    with jax.set_mesh(mesh):
        return one_device(case, metric, [jax.device_put(x, sharding) for x in arrays_])


def explicit_jit(case, metric, arrays_):
    return sharded_jit(case, metric, arrays_, AxisType.Explicit)


def device_states(case, metric, arrays_):
    update = jax.jit(functools.partial(run, case, metric))
    parts = list(map(by_device, arrays_))
    return [update(metric.init(), *(x[device] for x in parts)) for device in range(DEVICES)]


def host_fold(case, metric, arrays_):
    states = device_states(case, metric, arrays_)
    return metric.compute(functools.reduce(metric.merge, states))


ROUTES = [pmap, shard_map, sharded_jit, explicit_jit, host_fold]


@functools.cache
def on_one_device(name):
    case, metric = METRICS[name]
    return one_device(case, metric, stream(case))


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.__name__)
@pytest.mark.parametrize("name", METRICS)
def test_route_gives_what_one_device_gives(name, route):
    case, metric = METRICS[name]
    wanted = on_one_device(name)
    values = route(case, metric, stream(case))
    assert values.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_allclose(values[key], value, rtol=1e-6, atol=1e-9, err_msg=key)


PER_BATCH = {
    case.name: (case, metric_of(case, window=WINDOW))
    for case in CASES
    if not case.is_sum or case.share is not None
}


@pytest.mark.parametrize("route", [sharded_jit, explicit_jit], ids=lambda route: route.__name__)
@pytest.mark.parametrize("name", PER_BATCH)
def test_sharded_examples_are_one_batch(name, route):
    """For metrics of the examples themselves, or of their pairs and sessions in a batch."""
    case, metric = PER_BATCH[name]
    wanted = one_device(case, metric, stream(case))
    for key, value in route(case, metric, stream(case)).items():
        np.testing.assert_allclose(value, wanted[key], rtol=1e-6, atol=1e-9, err_msg=key)


def test_window_on_many_devices_is_not_the_lifetime():
    """Else the tables above would not see how windows are merged."""
    values = on_one_device("examples")
    assert (values["window_examples"] < values["lifetime_examples"]).all()


@pytest.mark.parametrize("route", [pmap, shard_map, host_fold], ids=lambda r: r.__name__)
def test_samples_of_all_devices_come_together(route):
    """The capacities add up: the windows of all devices, each the newest of its own examples."""
    case = next(case for case in CASES if not case.is_sum)
    metric = rm.sample_metric(
        lambda batch: {"sum": jnp.sum(jnp.where(batch.mask, batch.predictions, 0.0), axis=1)},
        n_tasks=2,
        window=20,
    )
    p, y, w, mask = stream(case)
    p = np.round(p * 64)
    wanted = np.zeros(2)
    for device in range(DEVICES):
        here = slice(device * LOCAL, (device + 1) * LOCAL)
        for task in range(2):
            seen = p[:, task, here][mask[:, task, here]]
            wanted[task] += seen[-20:].sum()
    np.testing.assert_array_equal(route(case, metric, (p, y, w, mask))["window_sum"], wanted)


def test_samples_go_on_after_a_merge():
    metric = rm.sample_metric(lambda batch: {"sum": jnp.sum(batch.predictions, axis=1)}, window=4)
    a = metric.update(metric.init(), rm.make_batch([1.0, 2.0], [0, 0]))
    b = metric.update(metric.init(), rm.make_batch([10.0, 20.0, 30.0, 40.0, 50.0], [0] * 5))
    state = metric.merge(a, b)
    assert metric.compute(state)["window_sum"].tolist() == [143.0]
    # Capacity 8 holds 6: two rows are free, then the oldest go.
    state = metric.update(state, rm.make_batch([100.0, 100.0], [0, 0]))
    assert metric.compute(state)["window_sum"].tolist() == [343.0]
    state = metric.update(state, rm.make_batch([100.0], [0]))
    assert metric.compute(state)["window_sum"].tolist() == [442.0]


def test_all_merge_works_over_a_mesh_of_two_axes():
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    metric = rm.ctr(window=100)
    labels = jnp.asarray(np.random.default_rng(0).random((4, 8)) < 0.4)

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
        total = np.asarray(merged.lifetime.parts, np.float64)[0, :, 0, 0].sum()
        np.testing.assert_allclose(total, exact, rtol=1e-14)
        totals.append(total)
    assert len(set(totals)) == 1


def test_all_merge_refuses_the_state_of_a_metric_written_by_hand():
    with pytest.raises(
        ValueError, match=r"state: expected parts that say how they merge over devices"
    ):
        jax.vmap(lambda state: rm.all_merge(state, "d"), axis_name="d")(jnp.zeros((2, 3)))


def collectives(function, *arguments):
    text = jax.jit(function).lower(*arguments).compile().as_text() or ""
    return len(re.findall(r"= .*(?:all-reduce|all-gather|all-to-all|collective-permute)\(", text))


def test_collection_merges_in_as_many_collectives_as_one_metric():
    mesh = jax.make_mesh((DEVICES,), ("devices",), axis_types=(AxisType.Auto,))

    def merge_of(metric):
        states = jax.tree.map(lambda x: jnp.stack([x] * DEVICES), metric.init())

        @functools.partial(jax.shard_map, mesh=mesh, in_specs=P("devices"), out_specs=P())
        def merged(states):
            return rm.all_merge(jax.tree.map(lambda x: x[0], states), "devices")

        return collectives(merged, states)

    assert 1 <= merge_of(nine(window=100)) <= merge_of(rm.ctr(window=100)) <= 4


def test_update_over_sharded_examples_moves_no_examples():
    """Only sums cross devices: as many all-reduces for nine metrics as for one, no gathers."""
    mesh = jax.make_mesh((DEVICES,), ("devices",), axis_types=(AxisType.Auto,))
    x = jax.device_put(jnp.ones((1, 64)), NamedSharding(mesh, P(None, "devices")))

    def update_of(metric):
        return collectives(
            lambda state, x: metric.update(state, rm.make_batch(x, x, x)), metric.init(), x
        )

    assert 1 <= update_of(nine(window=100)) <= 2
