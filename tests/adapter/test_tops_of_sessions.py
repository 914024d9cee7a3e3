"""Recall and precision at the top of sessions, by tasks that name their sessions."""

from typing import Any

import numpy as np
import pytest
from adapter_cases import FUSED, assert_same, unchanged, values

from recmetrics_jax.adapter._tensors import to_numpy
from recmetrics_jax.adapter.metrics_config import RecTaskInfo, SessionMetricDef
from recmetrics_jax.adapter.precision_session import PrecisionSessionMetric
from recmetrics_jax.adapter.rec_metric import RecMetricException, RecMetricList
from recmetrics_jax.adapter.recall_session import RecallSessionMetric, ranking_within_session

N = 24
USERS = RecTaskInfo("a", session_metric_def=SessionMetricDef("user", 2))
RANKED = RecTaskInfo("b", session_metric_def=SessionMetricDef("query", 1, True))
BOTH = [RecallSessionMetric, PrecisionSessionMetric]

every_metric = pytest.mark.parametrize("metric_class", BOTH, ids=["recall", "precision"])


def ranks_of(x: np.ndarray, sessions: np.ndarray) -> np.ndarray:
    """How many numbers of a session are not as small, or are NaN beside; by definition."""
    same = sessions[:, None] == sessions
    return np.sum(same & ~(x[:, None] >= x), axis=1)


def fraction_of(metric_class: Any, task: RecTaskInfo, *batches: Any) -> float:
    """The value over batches, by definition."""
    definition: Any = task.session_metric_def
    of_all = in_top = hits = 0.0
    for p, y, w, keys in batches:
        is_top = ranks_of(p, keys[definition.session_var_name]) < definition.top_threshold
        if definition.run_ranking_of_labels:
            y = ranks_of(y, keys[definition.session_var_name]) < definition.top_threshold
        hits += np.sum(w * y * is_top)
        of_all += np.sum(w * y)
        in_top += np.sum(w * is_top)
    return hits / (of_all if metric_class is RecallSessionMetric else in_top)


def drawn(seed: int) -> Any:
    """Predictions with ties, graded labels, weights, and the sessions of two tasks."""
    rng = np.random.default_rng([71, seed])
    p, y, w = rng.integers(0, 8, N) / 8, rng.integers(0, 4, N) / 4, rng.integers(0, 5, N) / 2
    return p, y, w, {"user": rng.integers(0, 5, N) * 10**12, "query": rng.integers(0, 9, N) / 2}


def metric_of(metric_class: Any, *tasks: RecTaskInfo, **arguments: Any) -> Any:
    return metric_class(1, 0, 4, list(tasks), **{"window_size": 2 * N, **arguments})


def update(metric: Any, batch: Any) -> None:
    p, y, w, keys = batch
    by_task = ({task.name: x for task in metric._tasks} for x in (p, y, w))
    predictions, labels, weights = by_task
    metric.update(predictions=predictions, labels=labels, weights=weights, required_inputs=keys)


def test_tasks_have_sessions_and_tops_of_their_own():
    metrics = [metric_of(metric_class, USERS, RANKED) for metric_class in BOTH]
    together = RecMetricList([metric_of(metric_class, USERS, RANKED) for metric_class in BOTH])
    assert together.get_required_inputs() == ["query", "user"]
    batches = [drawn(seed) for seed in range(3)]
    for p, y, w, keys in batches:
        arrays = ({"a": x, "b": x} for x in (p, y, w))
        names = "predictions", "labels", "weights"
        together.update(**dict(zip(names, arrays, strict=True)), required_inputs=keys)
        for metric in metrics:
            update(metric, (p, y, w, keys))
    for metric, metric_class in zip(metrics, BOTH, strict=True):
        computed = values(metric)
        name = str(metric._namespace)
        for task in (USERS, RANKED):
            for prefix, counted in (("lifetime", batches), ("window", batches[1:])):
                expected = fraction_of(metric_class, task, *counted)
                key = f"{name}-{task.name}|{prefix}_{name}"
                np.testing.assert_allclose(computed[key], [expected], rtol=1e-12)
    assert_same(values(together), {k: x for metric in metrics for k, x in values(metric).items()})


def test_ranks_in_sessions():
    predictions = [1.0, 0.0, 0.51, 0.8, 1.0, 0.0, 0.51, 0.8, 1.0, 0.0, 0.51, 0.8]
    sessions = [1] * 7 + [-1] * 5
    expected = [0, 5, 3, 2, 0, 5, 3, 1, 0, 4, 3, 1]
    for p in (np.array(predictions), np.array([predictions], np.float32)):
        ranks = ranking_within_session(p, np.array(sessions))
        assert (ranks.dtype, ranks.tolist()) == (np.int64, expected)
    of_tasks = ranking_within_session(np.array([[0.1, 0.2], [0.2, 0.1]]), np.array([7, 7]))
    assert of_tasks.tolist() == [[1, 0], [0, 1]]


def test_nan_is_above_all_and_never_in_the_top():
    p = np.array([[0.1, np.nan, np.inf, np.nan, -np.inf, 0.0, -0.0]])
    sessions = np.array([3, 3, 3, 3, 3, 4, 4])
    expected = [3, 5, 2, 5, 4, 0, 0]
    assert ranking_within_session(p, sessions).tolist() == expected
    assert ranks_of(p[0], sessions).tolist() == expected


@every_metric
def test_nothing_positive_is_undefined(metric_class):
    metric = metric_of(metric_class, USERS)
    p, y, w, keys = drawn(0)
    assert np.isnan(values(metric)[f"{metric._namespace}-a|lifetime_{metric._namespace}"])
    update(metric, (p, y * 0, w * (metric_class is RecallSessionMetric), keys))
    assert all(np.isnan(x) and x.shape == (1,) for x in values(metric).values())


def test_no_example_is_in_a_top_of_no_ranks():
    task = RecTaskInfo("a", session_metric_def=SessionMetricDef("user", 0))
    metric = metric_of(RecallSessionMetric, task)
    update(metric, drawn(0))
    assert {x.item() for x in values(metric).values()} == {0.0}


@every_metric
def test_what_is_missing_is_named(metric_class):
    unfit = {
        "session metric definition": RecTaskInfo("a"),
        "top threshold": RecTaskInfo("a", session_metric_def=SessionMetricDef("user")),
    }
    for what, task in unfit.items():
        with pytest.raises(RecMetricException, match=f"Please, specify the {what}"):
            metric_of(metric_class, USERS, task)
    for arguments in ({"compute_mode": FUSED}, {"fused_update_limit": 2}):
        with pytest.raises(RecMetricException, match=r"Fused .* is not supported for"):
            metric_of(metric_class, USERS, **arguments)
    metric = metric_of(metric_class, USERS)
    p, y, w, _ = drawn(0)
    for keys in ({}, {"session": p}):
        message = "Need the user input to update the session metric"
        with unchanged(metric), pytest.raises(RecMetricException, match=message):
            update(metric, (p, y, w, keys))


@every_metric
def test_a_computation_tells_its_sessions_and_what_a_batch_adds(metric_class):
    metric = metric_of(metric_class, RANKED)
    (computation,) = metric._metrics_computations
    told = computation.session_var_name, computation.top_threshold
    assert (*told, computation.run_ranking_of_labels) == ("query", 1, True)
    p, y, w, keys = drawn(3)
    update(metric, (p, y, w, keys))
    is_recall = metric_class is RecallSessionMetric
    of_batch = computation.get_recall_states if is_recall else computation.get_precision_states
    added = of_batch(*(x[None] for x in (y, p, w, keys["query"])))
    saved = {name: computation.state_dict()[name] for name in added}
    assert_same({name: to_numpy(x) for name, x in saved.items()}, added, 1e-12)
    assert list(computation.state_dict()) == list(added)
