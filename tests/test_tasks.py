"""The numbers of a task depend neither on what other tasks hold nor on how many there are."""

import functools

import jax
import numpy as np
import pytest
from cases import CATALOGUE, CLASSES, ORDER, SUMS, metric_of
from drawing import arrays, batch_of

pytestmark = pytest.mark.numerics

UPDATES = 2
OF_ORDER = ORDER.without("grouped_xauc")  # Its pairs are counted like those of sessions.


def streams(case, examples):
    """Batches of two tasks as random as can be, and others that are alike in task 0."""
    rng = np.random.default_rng(examples)
    stream, others = [], {"a soft label": [], "all else": []}
    for step in range(UPDATES):
        p, y, w, mask = arrays(rng, case, 2, examples)
        p, w = (rng.random(x.shape).astype(np.float32) for x in (p, w))
        stream.append((p, y, w, mask))
        soft = y.copy()
        soft[1, 3] = 0.5
        others["a soft label"].append((p, soft, w, mask))
        changed = [x.copy() for x in (p, y, w, mask)]
        changed[0][1], changed[2][1] = (
            rng.random(p[1].shape),
            1e3 ** (step + 1) * rng.random(w.shape[1]),
        )
        changed[1][1] = rng.random(y.shape[1]) if case is not CLASSES else 3 - y[1]
        changed[3][1] = rng.random(mask.shape[1]) < 0.3
        others["all else"].append(tuple(changed))
    return stream, others


def of_first_task(case, stream, tasks):
    """What the sums of the first task are, and its values, in as many digits as there are."""
    metric = metric_of(case, tasks, window=1000)
    batches = [batch_of(case, *(x[:tasks] for x in arrays)) for arrays in stream]
    state = functools.reduce(metric.update, batches, metric.init())
    with jax.enable_x64(True):
        sums = [state.lifetime.read(), *(histogram.read() for histogram in state.histograms)]
    numbers = {str(i): np.asarray(x)[0] for i, x in enumerate(sums)}
    return numbers | {name: np.asarray(x)[0] for name, x in metric.compute(state).items()}


@pytest.mark.parametrize(
    ("case", "examples"),
    [
        (SUMS, 100),
        *((case, 6000) for case in (SUMS, CLASSES)),
        *(pytest.param(case, 2100, marks=pytest.mark.heavy) for case in (OF_ORDER, CATALOGUE)),
    ],
    ids=str,
)
def test_a_task_is_the_same_whatever_the_others_hold_and_alone(case, examples):
    stream, others = streams(case, examples)
    wanted = of_first_task(case, stream, 2)
    for what, other in others.items():
        for name, value in of_first_task(case, other, 2).items():
            np.testing.assert_array_equal(value, wanted[name], err_msg=f"{what}: {name}")
    for name, value in of_first_task(case, stream, 1).items():
        # A sum of another shape may add up in another order, in float64.
        np.testing.assert_allclose(value, wanted[name], rtol=1e-15, err_msg=f"alone: {name}")
