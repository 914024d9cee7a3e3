"""Every metric keeps every law."""

import jax
import numpy as np
import pytest
from cases import CASES, NAMES, batches, metric_of, nine

import recmetrics_jax as rm

WINDOW = 150
COLLECTION = rm.collection({"nine": nine(n_tasks=2, window=WINDOW), "lifetime": rm.ne(n_tasks=2)})


@pytest.mark.parametrize("law", rm.testing.LAWS)
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_metric_keeps_law(case, law):
    if law in case.skip:
        return
    metric = metric_of(case, window=WINDOW)
    rm.testing.LAWS[law](metric, batches(case), 1e-6)


@pytest.mark.parametrize("law", rm.testing.LAWS)
def test_collection_keeps_law(law):
    rm.testing.LAWS[law](COLLECTION, batches(CASES[0]), 1e-6)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_tasks_at_once_are_metrics_of_one_task(case):
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


def _mean(sums):
    return {"mean": sums["sum"] + 0.0}


BROKEN = {
    "unit": lambda m: m._replace(init=lambda: m.update(m.init(), batches(CASES[2])[0])),
    "commutativity": lambda m: m._replace(merge=lambda a, b: b),
    "homomorphism": lambda m: m._replace(update=lambda s, b: m.update(m.init(), b)),
    "permutation": lambda m: rm.sum_metric({"sum": _depends_on_order}, _mean, n_tasks=2),
    "weights": lambda m: rm.sum_metric({"sum": _forgets_weights}, _mean, n_tasks=2),
    "forgetting": lambda m: m._replace(
        compute=lambda s: {"window_ctr": m.compute(s)["lifetime_ctr"]}
    ),
    "stability": lambda m: m._replace(
        update=lambda s, b: jax.tree.map(lambda x: x[None], m.update(s, b))
    ),
    "donation": lambda m: m._replace(init=lambda: _aliased(m.init())),
}


def _aliased(state):
    (window,) = state.windows
    return state._replace(windows=(window._replace(held=window.oldest),))


@pytest.mark.parametrize("law", BROKEN)
def test_check_laws_names_the_broken_law(law):
    metric = BROKEN[law](rm.ctr(n_tasks=2, window=WINDOW))
    others = set(rm.testing.LAWS) - {law}
    with pytest.raises(AssertionError, match=f"breaks the law of {law}"):
        rm.testing.check_laws(metric, batches(CASES[2]), skip=others)


def test_check_laws_wants_batches_and_known_names():
    with pytest.raises(ValueError, match="batches: expected at least 3, got 2"):
        rm.testing.check_laws(rm.ctr(n_tasks=2), batches(CASES[2], count=2))
    with pytest.raises(ValueError, match="skip: expected names of"):
        rm.testing.check_laws(rm.ctr(n_tasks=2), batches(CASES[2]), skip=["unite"])
