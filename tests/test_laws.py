"""Every metric keeps every law; and a metric that breaks one is told which."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ALIKE, BY_NAME, GROUPED, ORDER, SUMS, metric_of, weighted
from drawing import batches

import recmetrics_jax as rm

WINDOW = 150
CTR = BY_NAME["ctr"]


OF_ALIKE = ("split", "padding", "weights")
OF_PACKAGES = ("transformations", "devices", "stability", "donation")
OF_ORDER_HEAVY = ("transformations", "devices", "padding")


def _cases_of_laws():
    for case in [*GROUPED, CTR, ALIKE]:
        for law in OF_ALIKE if case is ALIKE else rm.testing.LAWS:
            marks = []
            if case is ALIKE or (case is ORDER and law in OF_ORDER_HEAVY):
                marks = [pytest.mark.heavy]
            elif case not in (CTR, SUMS) or law not in OF_PACKAGES:
                marks = [pytest.mark.once]
            yield pytest.param(case, law, id=f"{case}-{law}", marks=marks)


@pytest.mark.parametrize(("case", "law"), list(_cases_of_laws()))
def test_metric_keeps_law(case, law):
    of_law = weighted(case) if law == "weights" else case
    rm.testing.LAWS[law](metric_of(of_law, window=WINDOW), batches(case), 1e-6)


@pytest.mark.heavy
@pytest.mark.once
def test_collection_of_several_windows_keeps_the_laws():
    parts = {"long": WINDOW, "short": 100}
    nested = rm.collection({name: metric_of(weighted(SUMS), window=w) for name, w in parts.items()})
    rm.testing.check_laws(rm.collection({"nested": nested}), batches(weighted(SUMS)))


@pytest.mark.once
@pytest.mark.parametrize("case", [c for c in GROUPED if c is not ORDER], ids=str)
def test_tasks_at_once_are_metrics_of_one_task(case):
    """With a window; those of order are in test_tasks."""
    together = batches(case)
    metric, single = metric_of(case, window=WINDOW), metric_of(case, 1, window=WINDOW)
    states = [metric.init(), single.init(), single.init()]
    for batch in together:
        states[0] = metric.update(states[0], batch)
        for task in range(2):
            of_task = jax.tree.map(lambda x, task=task: x[task : task + 1], batch)
            states[1 + task] = single.update(states[1 + task], of_task)
    values = metric.compute(states[0])
    for task in range(2):
        for name, value in single.compute(states[1 + task]).items():
            np.testing.assert_array_equal(values[name][task], value[0], err_msg=name)


def _forgets_weights(batch):
    return batch.predictions


def _depends_on_order(batch):
    return batch.predictions * (batch.predictions[:, :1] > 0.5).astype(batch.predictions.dtype)


def _of_all_tasks(batch):
    return jnp.broadcast_to(jnp.sum(batch.predictions, axis=0), batch.predictions.shape)


def _batches_seen(batch):
    return jnp.ones(batch.mask.shape[0])


def _rows(batch):
    return jnp.full(batch.mask.shape[0], batch.mask.shape[1], jnp.float32)


def _mean(sums):
    return {"mean": sums["sum"] + 0.0}


def _sum_of(*arguments, **options):
    return rm.sum_metric({"sum": rm.Term(*arguments, **options)}, _mean, n_tasks=2)


def _aliased(state):
    one, two = state.windows
    return state._replace(windows=(one, two._replace(newest=one.newest)))


def _with_aliases(metric):
    two = rm.collection({"one": metric, "two": rm.ctr(n_tasks=2, window=2 * WINDOW)})
    return two._replace(init=lambda: _aliased(two.init()))


def _halfway(a, b):
    return jax.tree.map(lambda x, y: (x + y) / 2, a, b)


class _Clicks(NamedTuple):
    """A state written by hand, that says how it merges."""

    clicks: jax.Array

    def all_merge(self, axis_name):
        return _Clicks(jax.lax.psum(self.clicks, axis_name))


def _clicks(batch):
    return jnp.sum(batch.labels * batch.weights * batch.mask.astype(jnp.float32), axis=1)


BY_HAND = rm.Metric(
    init=lambda: _Clicks(jnp.zeros(2)),
    update=lambda state, batch: _Clicks(state.clicks + _clicks(batch)),
    merge=lambda a, b: _Clicks(a.clicks + b.clicks),
    compute=lambda state: {"clicks": state.clicks},
)
SILENT = rm.Metric(
    init=lambda: BY_HAND.init().clicks,
    update=lambda state, batch: state + _clicks(batch),
    merge=jnp.add,
    compute=lambda state: {"clicks": state},
)

BROKEN = {
    "defined": lambda m: m._replace(compute=lambda s: {"ctr": m.compute(s)["window_ctr"] * np.nan}),
    "tasks": lambda m: _sum_of(_of_all_tasks),
    "unit": lambda m: m._replace(init=lambda: m.update(m.init(), batches(CTR)[0])),
    "commutativity": lambda m: m._replace(merge=lambda a, b: b),
    "associativity": lambda m: BY_HAND._replace(merge=_halfway),
    "homomorphism": lambda m: m._replace(update=lambda s, b: m.update(m.init(), b)),
    "split": lambda m: _sum_of(_batches_seen, is_summed=True),
    "permutation": lambda m: _sum_of(_depends_on_order),
    "padding": lambda m: _sum_of(_rows, is_summed=True),
    "weights": lambda m: _sum_of(_forgets_weights),
    "forgetting": lambda m: m._replace(
        compute=lambda s: {"window_ctr": m.compute(s)["lifetime_ctr"]}
    ),
    "devices": lambda m: SILENT,
    "stability": lambda m: m._replace(
        update=lambda s, b: jax.tree.map(lambda x: x[None], m.update(s, b))
    ),
    "donation": _with_aliases,
}


@pytest.mark.parametrize("law", BROKEN)
def test_check_laws_names_the_broken_law(law):
    metric = BROKEN[law](rm.ctr(n_tasks=2, window=WINDOW))
    others = set(rm.testing.LAWS) - {law}
    with pytest.raises(AssertionError, match=f"breaks the law of {law}"):
        rm.testing.check_laws(metric, batches(CTR), skip=others)


# Of a metric whose values are not named after the lifetime.
BROKEN_BY_HAND = {
    "homomorphism": {"update": lambda state, batch: _Clicks(_clicks(batch))},
    "split": {
        "update": lambda state, batch: _Clicks(state.clicks + _clicks(batch) / batch.mask.shape[1])
    },
    "weights": {
        "update": lambda state, batch: _Clicks(state.clicks + jnp.sum(batch.labels, axis=1))
    },
    "tasks": {"compute": lambda state: {"clicks": state.clicks + state.clicks[::-1]}},
    "defined": {"compute": lambda state: {"clicks": state.clicks * np.float32("nan")}},
}


def test_a_metric_written_by_hand_keeps_the_laws():
    rm.testing.check_laws(BY_HAND, batches(CTR))


@pytest.mark.parametrize("law", BROKEN_BY_HAND)
def test_values_of_any_name_are_held_to_the_laws(law):
    with pytest.raises(AssertionError, match=f"breaks the law of {law}"):
        rm.testing.check_laws(
            BY_HAND._replace(**BROKEN_BY_HAND[law]),
            batches(CTR),
            skip=set(rm.testing.LAWS) - {law},
        )


def test_a_state_that_does_not_say_how_it_merges_is_told_what_to_do():
    rm.testing.check_laws(SILENT, batches(CTR), skip=["devices"])
    with pytest.raises(AssertionError, match=r"law of devices.*all_merge.*skip=\['devices'\]"):
        rm.testing.check_laws(SILENT, batches(CTR))


def test_a_term_says_once_that_it_depends_on_its_batch():
    metric = _sum_of(_batches_seen, is_summed=True, per_batch=True)
    assert rm.describe(metric).per_batch == ("lifetime_mean",)
    rm.testing.check_laws(rm.collection({"batches": metric}), batches(CTR), skip=["padding"])
    per_batch = rm.describe(metric_of(ORDER, window=WINDOW)).per_batch
    inside = [case.name for case in ORDER.members if case.share]
    assert sorted({name.split("/")[0] for name in per_batch}) == sorted(inside)
    assert "ndcg_at_2/window_ndcg_at_2" in per_batch
    assert "ndcg_at_2/lifetime_ndcg_sessions" in per_batch


def test_check_laws_wants_batches_and_known_names():
    with pytest.raises(ValueError, match="batches: expected at least 3, got 2"):
        rm.testing.check_laws(rm.ctr(n_tasks=2), batches(CTR, count=2))
    with pytest.raises(ValueError, match="skip: expected names of"):
        rm.testing.check_laws(rm.ctr(n_tasks=2), batches(CTR), skip=["unite"])
