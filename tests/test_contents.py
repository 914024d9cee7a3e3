"""States know what they hold: another metric's state never gives a number, names do not matter."""

import functools
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from cases import BY_NAME, ORDER, SUM_CASES, SUMS, group, heavy_where, metric_of
from drawing import batches

import recmetrics_jax as rm
from recmetrics_jax._src.metric import Engine

P = [0.2, 0.9, 0.4, 0.7]
Y = [0, 1, 1, 0]


# A ring of examples, a histogram, and sums of a batch.
SOME_OF_ORDER = group("order", [BY_NAME[x] for x in ("grouped_auc", "binned_auc", "recall_at")])


def updated(metric, times=3):
    batch = rm.make_batch(P, Y)
    return functools.reduce(metric.update, [batch] * times, metric.init())


FACTORIES = {"ne": rm.ne, "calibration": rm.calibration, "accuracy": rm.accuracy}


def three(*names, **replaced):
    factories = FACTORIES | replaced
    return rm.collection({name: factories[name] for name in names}, window=100)


OTHERS = {
    "calibration replaced by mae": (
        three("ne", "calibration", "accuracy", calibration=rm.mae),
        r"new: absolute_error, weights \(lifetime\)",
    ),
    "accuracy at another threshold": (
        three(
            "ne", "calibration", "accuracy", accuracy=lambda **o: rm.accuracy(threshold=0.3, **o)
        ),
        r"changed in its options: correct\(0\.3,\), weights \(lifetime\)",
    ),
    "window of other size": (
        rm.collection(
            {"ne": rm.ne, "calibration": rm.calibration, "accuracy": rm.accuracy}, window=99
        ),
        r"new: .*window of 99 examples.*gone: .*window of 100 examples",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_state_of_another_metric_gives_no_number(name):
    metric = three("ne", "calibration", "accuracy")
    other, told = OTHERS[name]
    state = updated(metric)
    restored = flax.serialization.from_bytes(other.init(), flax.serialization.to_bytes(state))
    for foreign in (state, restored):
        with pytest.raises(ValueError, match=rf"state: expected a state of this metric.*{told}"):
            other.compute(foreign)
        with pytest.raises(ValueError, match=r"b: expected a state of this metric"):
            other.merge(other.init(), foreign)
        values = jax.jit(other.compute)(foreign)
        assert values
        assert all(np.isnan(value).all() for value in values.values())
        merged = jax.jit(other.merge)(other.init(), foreign)
        values = jax.jit(other.compute)(jax.jit(other.update)(merged, rm.make_batch(P, Y)))
        assert all(np.isnan(value).all() for value in values.values())


@pytest.mark.once
@pytest.mark.parametrize("case", heavy_where([SUMS, SOME_OF_ORDER], SOME_OF_ORDER), ids=str)
def test_names_and_order_do_not_matter(case):
    members = [member for member in case.members if member.name != "sample_metric"]
    one = rm.collection({m.name: m.make(n_tasks=2, window=30) for m in members})
    two = rm.collection({f"my {m.name}": m.make(n_tasks=2, window=30) for m in members[::-1]})
    state = functools.reduce(one.update, batches(case), one.init())
    expected, values = one.compute(state), two.compute(state)
    assert len(values) == len(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(values[f"my {name}"], value, err_msg=name)


def test_no_two_terms_of_this_package_have_one_name():
    """They lie in states by their texts, in which a function is known by its name alone."""
    engines = [Engine.of(metric_of(case)) for case in SUM_CASES]
    terms = {t for e in engines if e for of in e.program.sums for t in of.distinct_terms()}
    assert len({term.text for term in terms}) == len(terms) > 30


def test_a_lambda_is_known_by_what_it_does():
    def metric(scale):
        return rm.sum_metric({"x": lambda batch: batch.weights * scale}, lambda sums: dict(sums))

    state = updated(metric(2.0))
    assert metric(2.0).compute(state)["lifetime_x"].tolist() == [24.0]
    with pytest.raises(ValueError, match=r"state: expected a state of this metric"):
        metric(3.0).compute(state)


@pytest.mark.once
def test_a_merged_state_is_merged_once():
    """A carry that all devices have would count once for each."""
    metric = rm.ctr(window=100)
    states = jax.tree.map(lambda x: jnp.stack([x] * 4), updated(metric))
    merge = jax.vmap(lambda s: rm.all_merge(s, "devices"), axis_name="devices")

    @jax.jit
    def step(states):
        batch = jax.tree.map(lambda x: jnp.stack([x] * 4), rm.make_batch(P, Y))
        return merge(jax.vmap(metric.update)(states, batch))

    once = step(states)
    compute = jax.jit(jax.vmap(metric.compute))
    assert compute(once)["lifetime_ctr"].tolist() == [[0.5]] * 4
    twice = step(once)
    assert np.isnan(compute(twice)["lifetime_ctr"]).all()
    with pytest.raises(ValueError, match=r"state: expected a state that counts each example once"):
        metric.compute(jax.tree.map(lambda x: x[0], twice))
    a, b = (jax.tree.map(lambda x, i=i: x[i], once) for i in (0, 1))
    with pytest.raises(ValueError, match=r"state: expected a state that counts each example once"):
        metric.compute(metric.merge(metric.update(a, rm.make_batch(P, Y)), b))
    # With what is new it may be merged.
    assert metric.compute(metric.merge(a, updated(metric)))["lifetime_ctr"].tolist() == [0.5]


def test_functions_of_the_package_have_names_of_their_own():
    """They are known by their names, in checkpoints too."""
    seen = {}
    for case in (SUMS, ORDER):
        for member in case.members:
            engine: Any = Engine.of(member.make(n_tasks=1, window=10))
            for of in engine.program.sums:
                for term in of.distinct_terms():
                    module = getattr(term.function, "__module__", "")
                    assert seen.setdefault(term.name, module) == module
    assert len(seen) > 10


def streams():
    rng = np.random.default_rng(0)

    def batch():
        return rm.make_batch(rng.random(20), rng.integers(0, 2, 20), rng.random(20))

    return [batch() for _ in range(4)], [batch() for _ in range(3)]


def as_it_is(state, path):
    return state


def by_flax(state, path):
    return flax.serialization.msgpack_restore(flax.serialization.to_bytes(state))


def by_orbax(state, path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path / "state", state)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path / "state")


WAS = {"ne": rm.ne, "ctr": rm.ctr, "auc": rm.auc, "binned": rm.binned_auc}
NOW = {
    "mae": rm.mae,
    "auc": rm.auc,
    "same": rm.binned_auc,
    "binned": functools.partial(rm.binned_auc, bins=8),
    "ne": rm.ne,
}


@pytest.mark.parametrize("route", [as_it_is, by_flax, by_orbax], ids=lambda f: f.__name__)
def test_adopt_keeps_what_stays_to_the_bit_and_starts_what_is_new(route, tmp_path):
    was, now = rm.collection(WAS, window=50), rm.collection(NOW, window=50)
    before, after = streams()
    state = functools.reduce(was.update, before, was.init())
    adopted = rm.adopt(now, route(state, tmp_path))
    assert adopted.dropped == (
        "weighted_labels, weights (lifetime)",
        "weighted_labels (window of 50 examples in 1,024 slots)",
    )
    assert "absolute_error, weights (lifetime)" in adopted.started
    assert "cross_entropy, weighted_labels, weighted_negatives, weights (lifetime)" in adopted.kept
    first = now.compute(now.update(adopted.state, after[0]))
    for name in ("mae/window_mae", "binned/window_binned_auc"):
        assert np.isnan(first[name]).all(), name
    values = now.compute(functools.reduce(now.update, after, adopted.state))
    on = was.compute(functools.reduce(was.update, after, state))
    new = now.compute(functools.reduce(now.update, after, now.init()))
    for name in ("ne/lifetime_ne", "ne/window_ne", "auc/window_auc"):
        np.testing.assert_array_equal(values[name], on[name], err_msg=name)
    for scope in ("lifetime", "window"):
        same, was_binned = f"same/{scope}_binned_auc", f"binned/{scope}_binned_auc"
        np.testing.assert_array_equal(values[same], on[was_binned])
        for name in (f"mae/{scope}_mae", f"binned/{scope}_binned_auc"):
            np.testing.assert_array_equal(values[name], new[name], err_msg=name)


BY_HAND = rm.Metric(
    init=lambda: jnp.zeros(1),
    update=lambda state, batch: state + jnp.sum(batch.labels),
    merge=jnp.add,
    compute=lambda state: {"clicks": state},
)


def test_adopt_takes_states_of_metrics_written_by_hand():
    was = rm.collection({"hand": BY_HAND, "ctr": rm.ctr})
    now = rm.collection({"ctr": rm.ctr, "hand": BY_HAND, "mae": rm.mae})
    adopted = rm.adopt(now, by_flax(updated(was), None))
    assert "hand" in adopted.kept
    assert now.compute(adopted.state)["hand/clicks"].tolist() == [6.0]
    adopted = rm.adopt(rm.ctr(), updated(was))
    assert adopted.dropped == ("hand",)


def test_what_orbax_cuts_to_fit_is_refused(tmp_path):
    """As it does with ``strict=False``, which it advises where shapes differ."""
    was, now = rm.collection(WAS, window=50), rm.collection({"ne": rm.ne}, window=50)
    state = functools.reduce(was.update, streams()[0], was.init())
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, now.init())
    shapes = was.init()._replace(histograms=(), windows=was.init().windows[1:], samples=())
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(
            tmp_path / "state", state._replace(histograms=(), windows=state.windows[1:], samples=())
        )
        checkpointer.wait_until_finished()
        cut = checkpointer.restore(tmp_path / "state", target, strict=False)
    assert jax.tree.structure(shapes) == jax.tree.structure(cut)
    for use in (
        now.compute,
        lambda state: now.merge(now.init(), state),
        functools.partial(rm.adopt, now),
    ):
        with pytest.raises(
            ValueError, match=r"expected a whole state, got one that was cut, padded"
        ):
            use(cut)
    assert np.isnan(jax.jit(now.compute)(cut)["ne/lifetime_ne"]).all()


REFUSED = {
    "by hand": (
        lambda: rm.adopt(BY_HAND, 0),
        "metric: expected one of this",
    ),
    "no state": (lambda: rm.adopt(rm.ctr(), {"a": 1}), "state: expected a state of a metric"),
    "other tasks": (
        lambda: rm.adopt(rm.ctr(n_tasks=2), rm.ctr().init()),
        "state: expected one of 2 tasks, got one of 1",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_adopt_names_what_it_cannot_carry_over(name):
    call, told = REFUSED[name]
    with pytest.raises(ValueError, match=told):
        call()


def test_a_state_that_is_the_same_on_all_devices_is_refused_where_types_tell():
    metric = rm.ctr()
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    merged = jax.shard_map(
        lambda state: rm.all_merge(state, "data"), mesh=mesh, in_specs=jax.P(), out_specs=jax.P()
    )
    with pytest.raises(ValueError, match=r"expected one that differs over the devices of 'data'"):
        merged(updated(metric))
