"""Metrics are values: equal, hashed, pickled and printed by what they mean; described, not run."""

import copy
import functools
import pickle
import subprocess
import sys
from typing import NamedTuple

import compilations
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, GROUPED, ORDER, heavy_where, metric_of, nine
from drawing import batches

import recmetrics_jax as rm
from recmetrics_jax._src.identity import Formula, Interned, typed


def weights(batch):
    return batch.weights


def weighted_labels(batch):
    return batch.weights * batch.labels


def mean(sums, *, scale=1.0):
    return {"mean": scale * rm.safe_divide(sums["sum"], sums["weight"])}


def users_mean(*, scale=1.0, **options):
    """A metric as users write them, of functions of a module."""
    values = functools.partial(mean, scale=scale)
    return rm.sum_metric({"sum": weighted_labels, "weight": weights}, values, **options)


def nothing(batch):
    return {}


def hand_update(state, batch):
    return state + jnp.sum(batch.mask, axis=1, dtype=jnp.int32)


def hand_init():
    return jnp.zeros(2, jnp.int32)


def hand_values(state):
    return {"rows": state}


def hand_merge(a, b):
    return a + b


BY_HAND = rm.Metric(hand_init, hand_update, hand_merge, hand_values)

EQUAL = {
    **{case.name: functools.partial(case.make, n_tasks=2, window=50) for case in CASES},
    "nine": functools.partial(nine, n_tasks=2, window=100),
    "user's": functools.partial(users_mean, scale=2.0, window=10),
    "by hand": lambda: rm.collection({"ctr": rm.ctr(n_tasks=2), "hand": BY_HAND}),
    "undefined": lambda: rm.ctr(undefined=float("nan")),
    "undefined by name": lambda: users_mean(undefined={"mean": 0.5, "other": 1.0}),
}


@pytest.mark.parametrize("name", EQUAL)
def test_metrics_made_alike_are_equal_and_copies_and_pickles_are_too(name):
    metric, again = EQUAL[name](), EQUAL[name]()
    assert metric == again
    assert hash(metric) == hash(again)
    assert metric.update == again.update
    for copied in (copy.copy(metric), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert copied == metric
        assert hash(copied) == hash(metric)
        assert repr(copied) == repr(metric)


def test_metrics_that_differ_are_not_equal():
    metrics = [
        rm.ctr(),
        rm.ctr(n_tasks=2),
        rm.ctr(window=5),
        rm.ctr(window=6),
        rm.ctr(window=5, slots=8),
        rm.ctr(undefined=0.0),
        rm.ctr(undefined=-0.0),
        rm.calibration(),
        rm.accuracy(),
        rm.accuracy(threshold=1),
        rm.ne(),
        rm.ne(logloss=True),
        rm.auc(window=5),
        rm.auc(window=5, label_threshold=0.5),
        rm.ndcg(k=3),
        rm.ndcg(k=3, scope="window", window=5),
        rm.recall_at(k=3),
        rm.recall_at(k=(3, 4)),
        rm.recall_at(k=3, capped=True),
        rm.recall_at(k=3, pooled=True),
        rm.collection({"ctr": rm.ctr()}),
        rm.collection({"click": rm.ctr()}),
        users_mean(),
        users_mean(scale=2.0),
        BY_HAND,
    ]
    for i, a in enumerate(metrics):
        for j, b in enumerate(metrics):
            assert (a == b) == (i == j)


def test_defaults_and_options_spelled_out_are_the_same_metric():
    assert rm.accuracy(threshold=0.5, n_tasks=1, window=None) == rm.accuracy()
    assert rm.ndcg(k=[1, 3]) == rm.ndcg(k=(1, 3))
    assert rm.ndcg(k=3) == rm.ndcg(k=(3,))
    assert rm.ctr(window=int(np.int32(7))) == rm.ctr(window=7)


def test_options_are_compared_with_their_types():
    term = functools.partial(rm.Term, weights)
    assert term((True,)) != term((1,)) != term((1.0,))
    assert term((0.0,)) != term((-0.0,))
    assert term((float("nan"),)) == term((float("nan"),))
    assert typed((1, (2.0, "a"))) == typed((1, (2.0, "a")))
    assert typed(functools.partial(mean, scale=2)) == typed(functools.partial(mean, scale=2))


def test_a_formula_calls_as_its_partial_does():
    def function(*args, **kwargs):
        return args, kwargs

    partial = functools.partial(functools.partial(function, 1, a=2), 3, b=4)
    assert Formula.of(partial)(5) == partial(5)
    assert Formula.of(partial) == Formula.of(functools.partial(function, 1, 3, b=4, a=2))
    # What cannot be hashed is compared by identity.
    unhashable = functools.partial(function, [1])
    assert Formula.of(unhashable) == Formula.of(unhashable)
    assert Formula.of(unhashable) != Formula.of(functools.partial(function, [1]))


def test_interned_objects_go_when_nobody_holds_them():
    class Thing:
        pass

    made = []
    interned = Interned(lambda name: made.append(name) or Thing(), recent=1)
    held = interned("a")
    assert interned("b") is interned("b")
    assert interned("c") is not held
    assert interned("a") is held
    assert made == ["a", "b", "c"]
    interned("b")  # It was neither held nor the last one.
    assert made == ["a", "b", "c", "b"]


def test_equal_metrics_share_what_is_compiled():
    metric = users_mean(scale=3.0, window=30)
    batch = rm.make_batch([0.5], [1])
    state = metric.update(metric.init(), batch)
    metric.compute(metric.merge(state, state))

    def equal_metric():
        other = pickle.loads(pickle.dumps(users_mean(scale=3.0, window=30)))
        other.compute(other.merge(other.update(other.init(), batch), state))

    assert not compilations.during(equal_metric)


def test_a_pickle_is_restored_in_another_process():
    metric = rm.collection({"ne": rm.ne(window=10), "auc": rm.auc(window=10, grouped=True)})
    script = (
        "import pickle, sys, recmetrics_jax as rm\n"
        "metric = pickle.loads(sys.stdin.buffer.read())\n"
        "assert metric == rm.collection("
        "{'ne': rm.ne(window=10), 'auc': rm.auc(window=10, grouped=True)})\n"
        "batch = rm.make_batch([.5, .25], [1, 0], keys={'grouping_keys': [1, 1]})\n"
        "print(metric.compute(metric.update(metric.init(), batch))['auc/window_auc'])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps(metric), capture_output=True, check=True
    )
    assert result.stdout.split() == [b"[1.]"]


REPRS = {
    "ne(n_tasks=3, window=10_000)": lambda: rm.ne(n_tasks=3, window=10_000),
    "ne()": lambda: rm.ne(logloss=False),
    "accuracy(threshold=0.3)": lambda: rm.accuracy(threshold=0.3),
    "multiclass_recall(4, n_tasks=2)": lambda: rm.multiclass_recall(4, n_tasks=2),
    "auc(window=50, grouped=True, undefined=0.5)": lambda: rm.auc(
        window=50, grouped=True, undefined=0.5
    ),
    "sum_metric({'sum': weighted_labels, 'weight': weights}, mean, window=5)": lambda: users_mean(
        window=5
    ),
    "sample_metric(nothing, window=5)": lambda: rm.sample_metric(nothing, window=5),
}


@pytest.mark.parametrize("text", REPRS)
def test_a_metric_prints_like_the_call_that_made_it(text):
    metric = REPRS[text]()
    assert repr(metric) == text
    assert repr(metric.update) == f"<update of {text}>"


def test_a_collection_prints_like_a_table():
    metric = rm.collection(
        {
            "ne": rm.ne(n_tasks=2, window=10_000),
            "by user": rm.auc(n_tasks=2, window=100, grouped=True),
            "inner": rm.collection({"ctr": rm.ctr(n_tasks=2)}),
            "hand": BY_HAND,
        }
    )
    lines = [line.split() for line in repr(metric).splitlines()]
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(metric.init()))
    assert " ".join(lines[0]) == (
        f"collection of 4 metrics, 2 tasks, {total:,} bytes of state in all:"
    )
    assert lines[1] == ["name", "metric", "tasks", "window", "bytes", "of", "state"]
    ne_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(rm.ne(n_tasks=2, window=9).init()))
    assert lines[2] == ["ne", "ne(n_tasks=2,", "window=10_000)", "2", "10,000", f"{ne_bytes:,}"]
    assert lines[3][:2] == ["by", "user"]
    assert lines[3][-2] == "100"
    assert lines[4] == ["inner", "collection", "of", "1", "metric,", "2", "tasks", "2", "-", "120"]
    assert lines[5] == ["hand", "written", "by", "hand", "?", "?", "8"]


def test_a_metric_with_one_function_replaced_is_one_written_by_hand():
    metric = rm.ctr(n_tasks=2, window=50)

    def compute(state):
        return {"clicks": metric.compute(state)["lifetime_ctr"] * 100}

    replaced = metric._replace(compute=compute)
    assert replaced != metric
    assert repr(replaced).startswith("Metric(init=<init of ctr(n_tasks=2, window=50)>, ")
    assert list(rm.describe(replaced).values) == ["clicks"]
    both = rm.collection({"ctr": metric, "percent": replaced})
    state = functools.reduce(both.update, batches(CASES[2]), both.init())
    values = both.compute(state)
    assert list(values) == ["ctr/lifetime_ctr", "ctr/window_ctr", "percent/clicks"]
    np.testing.assert_allclose(values["percent/clicks"], 100 * values["ctr/lifetime_ctr"])
    merged = all_merged(add_axis(state))
    merged = both.compute(jax.tree.map(lambda x: x[0], merged))
    np.testing.assert_array_equal(merged["percent/clicks"], values["percent/clicks"])


def add_axis(state):
    return jax.tree.map(lambda x: x[None], state)


def all_merged(states):
    return jax.jit(jax.vmap(lambda state: rm.all_merge(state, "d"), axis_name="d"))(states)


@pytest.mark.once
@pytest.mark.parametrize("case", heavy_where(GROUPED, ORDER), ids=str)
def test_a_description_is_what_running_gives(case):
    metric = metric_of(case, window=100)
    state = metric.update(metric.init(), batches(case, count=1)[0])
    values = metric.compute(state)
    described = rm.describe(metric)
    assert list(described.values) == list(values)
    assert described.state_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    of_members = {}
    for member in case.members:
        alone = metric_of(member, window=100)
        of_member = rm.describe(alone)
        assert of_member.keys == member.keys
        assert of_member.windows == (100,)
        assert of_member.n_tasks == 2
        assert of_member.state_bytes == sum(x.nbytes for x in jax.tree.leaves(alone.init()))
        of_members |= {f"{member.name}/{name}": x for name, x in of_member.values.items()}
    assert described.values == of_members
    for name, value in values.items():
        assert described.values[name].shape == value.shape
        assert described.values[name].dtype == value.dtype


def test_a_collection_is_described_with_what_its_metrics_share():
    metric = rm.collection({"nine": nine(window=100), "hand": BY_HAND, "auc": rm.auc(window=7)})
    described = rm.describe(metric)
    assert list(described.values) == list(metric.compute(metric.init()))
    assert described.windows == (100, 7)
    assert described.n_tasks == 1
    assert rm.describe(BY_HAND) == rm.Description(
        {"rows": jax.ShapeDtypeStruct((2,), jnp.int32)}, None, (), (), 8
    )


def test_a_collection_calls_factories_with_its_defaults():
    metric = rm.collection(
        {
            "ne": rm.ne,
            "auc": functools.partial(rm.auc, grouped=True),
            "short": functools.partial(rm.ctr, window=10),
            "recall": functools.partial(rm.multiclass_recall, 3),
            "mine": users_mean,
            "made": rm.mse(n_tasks=2),
            "count": lambda n_tasks: rm.examples(n_tasks=n_tasks),
        },
        n_tasks=2,
        window=100,
    )
    assert metric == rm.collection(
        {
            "ne": rm.ne(n_tasks=2, window=100),
            "auc": rm.auc(n_tasks=2, window=100, grouped=True),
            "short": rm.ctr(n_tasks=2, window=10),
            "recall": rm.multiclass_recall(3, n_tasks=2, window=100),
            "mine": users_mean(n_tasks=2, window=100),
            "made": rm.mse(n_tasks=2),
            "count": rm.examples(n_tasks=2),
        }
    )


def test_undefined_by_name_leaves_other_values():
    metric = rm.sum_metric(
        {"weight": weights},
        lambda sums: {"a": sums["weight"] / sums["weight"], "b": sums["weight"] / sums["weight"]},
        undefined={"a": 7.0},
    )
    values = metric.compute(metric.init())
    assert values["lifetime_a"].tolist() == [7.0]
    assert np.isnan(values["lifetime_b"]).all()


def test_scalars_are_torchrecs_keys():
    metric = rm.collection(
        {"ne": rm.ne, "outer": rm.collection({"mse": rm.mse(n_tasks=2)})}, n_tasks=2
    )
    p, y = np.array([[0.5, 0.5], [0.75, 0.25]]), np.array([[0, 1], [0, 1]])
    values = metric.compute(metric.update(metric.init(), rm.make_batch(p, y)))
    floats = rm.scalars(values, ["click", "buy"], as_floats=True)
    assert floats == {
        "ne-click|lifetime_ne": 1.0,
        "ne-buy|lifetime_ne": 2.0,
        "outer/mse-click|lifetime_mse": 0.25,
        "outer/mse-buy|lifetime_mse": 0.5625,
        "outer/mse-click|lifetime_rmse": 0.5,
        "outer/mse-buy|lifetime_rmse": 0.75,
    }
    assert all(type(value) is float for value in floats.values())
    in_jit = jax.jit(lambda values: rm.scalars(values, ["click", "buy"]))(values)
    assert {name: value.item() for name, value in in_jit.items()} == floats
    assert rm.scalars(rm.ctr().compute(rm.ctr().init()), ["t"]).keys() == {"t|lifetime_ctr"}


def test_scalars_of_values_with_several_elements_are_numbered():
    metric = rm.multiclass_recall(2)
    values = metric.compute(metric.update(metric.init(), rm.make_batch([[[0.9, 0.1]]], [[1]])))
    assert rm.scalars({f"recall/{k}": v for k, v in values.items()}, ["t"], as_floats=True) == {
        "recall-t|lifetime_multiclass_recall[0]": 0.0,
        "recall-t|lifetime_multiclass_recall[1]": 1.0,
    }


class Rows(NamedTuple):
    """A state that says how it merges over devices."""

    number: jax.Array

    def all_merge(self, axis_name):
        return Rows(jax.lax.psum(self.number, axis_name))


def test_all_merge_of_a_metric_written_by_hand_is_as_its_state_says():
    by_hand = rm.Metric(
        init=lambda: Rows(jnp.zeros(2, jnp.int32)),
        update=lambda state, batch: Rows(hand_update(state.number, batch)),
        merge=lambda a, b: Rows(a.number + b.number),
        compute=lambda state: {"rows": state.number},
    )
    metric = rm.collection({"ctr": rm.ctr(n_tasks=2), "hand": by_hand})
    states = [metric.update(metric.init(), batch) for batch in batches(CASES[2], count=3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
    merged = all_merged(stacked)
    wanted = metric.compute(functools.reduce(metric.merge, states))
    for name, value in metric.compute(jax.tree.map(lambda x: x[1], merged)).items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-6, err_msg=name)
    # One that does not say so is refused, and only then.
    silent = rm.collection({"ctr": rm.ctr(n_tasks=2), "hand": BY_HAND})
    with pytest.raises(ValueError, match=r"got \w+ at 'others/hand'\. The state of a metric writ"):
        all_merged(add_axis(silent.init()))


def is_traced(x):
    return "Tracer" in type(x).__name__


def test_a_metric_written_by_hand_leaves_the_others_compiled():
    calls = []

    def update(state, batch):
        calls.append(is_traced(batch.mask))
        return hand_update(state, batch)

    metric = rm.collection({"nine": nine(n_tasks=2), "hand": BY_HAND._replace(update=update)})
    state = metric.init()
    batch = batches(CASES[0], count=1)[0]
    state = metric.update(state, batch)
    rest = [batch] * 3
    states = []
    assert not compilations.during(
        lambda: states.append(functools.reduce(metric.update, rest, state))
    )
    (state,) = states
    assert calls == [False] * 4  # It runs as it is, not under jit.
    jax.jit(metric.update)(state, batch)
    assert calls[-1]
    np.testing.assert_array_equal(
        metric.compute(state)["hand/rows"], 4 * np.asarray(batch.mask).sum(axis=1)
    )
    with pytest.raises(ValueError, match=r"state: expected a state of this metric, with states of"):
        metric.update(nine(n_tasks=2).init(), batch)
