"""States know what they hold: another metric's state never gives a number, names do not matter."""

import functools

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ORDER, SUMS, batches

import recmetrics_jax as rm

P = [0.2, 0.9, 0.4, 0.7]
Y = [0, 1, 1, 0]


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


@pytest.mark.parametrize("case", [SUMS, ORDER], ids=str)
def test_names_and_order_do_not_matter(case):
    members = [member for member in case.members if member.name != "sample_metric"]
    one = rm.collection({m.name: m.make(n_tasks=2, window=30) for m in members})
    two = rm.collection({f"my {m.name}": m.make(n_tasks=2, window=30) for m in members[::-1]})
    state = functools.reduce(one.update, batches(case), one.init())
    expected, values = one.compute(state), two.compute(state)
    assert len(values) == len(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(values[f"my {name}"], value, err_msg=name)


def test_a_lambda_is_known_by_what_it_does():
    def metric(scale):
        return rm.sum_metric({"x": lambda batch: batch.weights * scale}, lambda sums: dict(sums))

    state = updated(metric(2.0))
    assert metric(2.0).compute(state)["lifetime_x"].tolist() == [24.0]
    with pytest.raises(ValueError, match=r"state: expected a state of this metric"):
        metric(3.0).compute(state)


def test_a_merged_state_is_merged_once():
    """A carry that all devices have would count once for each."""
    metric = rm.ctr(window=100)
    states = jax.tree.map(lambda x: jnp.stack([x] * 4), updated(metric))
    merge = jax.vmap(lambda s: rm.all_merge(s, "devices"), axis_name="devices")

    def step(states):
        batch = jax.tree.map(lambda x: jnp.stack([x] * 4), rm.make_batch(P, Y))
        return merge(jax.vmap(metric.update)(states, batch))

    once = step(states)
    assert jax.vmap(metric.compute)(once)["lifetime_ctr"].tolist() == [[0.5]] * 4
    twice = step(once)
    assert np.isnan(jax.vmap(metric.compute)(twice)["lifetime_ctr"]).all()
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
            metric = member.make(n_tasks=1, window=10)
            for of in metric.init.engine.program.sums:
                for term in of.distinct_terms():
                    module = getattr(term.function, "__module__", "")
                    assert seen.setdefault(term.name, module) == module
    assert len(seen) > 10
