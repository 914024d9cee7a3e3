"""Metrics by segment and of resamples, over devices, are those of one device that sees all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import recmetrics_jax as rm

DEVICES, LOCAL, STEPS = 4, 16, 2
PLAIN = rm.collection({"ne": rm.ne(window=100), "binned": rm.binned_auc(bins=16)})
METRIC = rm.collection(
    {
        "sure": rm.bootstrap(
            rm.by_segment(PLAIN, key="country", segments=3), key="user", replicates=20
        ),
        "auc": rm.by_segment(rm.auc(window=200), key="country", segments=3),
        "lately": rm.decayed(rm.ctr(), half_life=1e9),
    }
)


def batches():
    """``p, y, country, user`` of each step, ``[STEPS, N]``; one segment has a bad example."""
    rng = np.random.default_rng(0)
    shape = (STEPS, DEVICES * LOCAL)
    p = rng.integers(1, 16, shape).astype(np.float32) / 16
    country = rng.integers(-1, 3, shape)
    p[0, np.flatnonzero(country[0] == 1)[3]] = np.nan
    return p, rng.random(shape) < 0.4, country, rng.integers(0, 30, shape)


def update(state, p, y, country, user):
    keys = {"country": country, "user": user}
    return METRIC.update(state, rm.make_batch(p, y, keys=keys))


def run(step, state):
    for arrays in zip(*batches(), strict=True):
        state = step(state, *arrays)
    return state


def sharded_jit(axis_type):
    mesh = jax.make_mesh((DEVICES,), ("devices",), axis_types=(axis_type,))
    step = jax.jit(update)

    def of_parts(state, *arrays):
        return step(state, *jax.device_put(arrays, NamedSharding(mesh, P("devices"))))

    with jax.set_mesh(mesh):
        state = jax.device_put(METRIC.init(), NamedSharding(mesh, P()))
        return jax.jit(METRIC.compute)(run(of_parts, state))


def shard_map():
    mesh = jax.make_mesh((DEVICES,), ("devices",), axis_types=(AxisType.Auto,))
    mapped = functools.partial(jax.shard_map, mesh=mesh, in_specs=P("devices"))

    @jax.jit
    @functools.partial(mapped, out_specs=P("devices"))
    def step(state, *arrays):
        state = update(jax.tree.map(lambda x: x[0], state), *arrays)
        return jax.tree.map(lambda x: x[None], state)

    @jax.jit
    @functools.partial(mapped, out_specs=P())
    def values(state):
        mine = jax.tree.map(lambda x: x[0], state)
        return METRIC.compute(rm.all_merge(mine, "devices"))

    state = jax.tree.map(lambda x: jnp.stack([x] * DEVICES), METRIC.init())
    return values(run(step, state))


ROUTES = {
    "shard_map": shard_map,
    "sharded_jit": functools.partial(sharded_jit, AxisType.Auto),
    "explicit_jit": functools.partial(sharded_jit, AxisType.Explicit),
}


@pytest.mark.heavy
@pytest.mark.parametrize("route", ROUTES)
def test_route_gives_what_one_device_gives(route):
    values, wanted = ROUTES[route](), METRIC.compute(run(jax.jit(update), METRIC.init()))
    assert values.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    is_nan = np.isnan(wanted["sure/ne/lifetime_ne_se"])
    np.testing.assert_array_equal(is_nan, [[False, True, False]])
