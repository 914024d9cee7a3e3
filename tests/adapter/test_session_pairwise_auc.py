"""Pairwise AUC of sessions, pair by pair."""

from typing import Any

import numpy as np
import pytest
from adapter_cases import FUSED, TASKS, UNFUSED, unchanged, values

from recmetrics_jax.adapter.rec_metric import RecMetricException
from recmetrics_jax.adapter.session_pairwise_auc import SessionPairwiseAUCMetric

N = 24
NAME = "session_pairwise_auc"


def pairs_of(
    p: Any, y: Any, w: Any, sessions: Any, *, ranks: bool, drop: bool, weighted: bool
) -> dict[str, float]:
    """What is to be added up, by definition: over all pairs, and over sessions."""
    p, y, w = (np.asarray(x, np.float32).astype(float) for x in (p, y, w))
    sums = dict.fromkeys(("correct", "total", "valid", "same"), 0.0)
    in_pairs = set()
    for i in range(len(p)):
        for j in range(i):
            if sessions[i] != sessions[j] or (drop and not w[i] * w[j] > 0):
                continue
            sums["same"] += 1
            if not abs(y[i] - y[j]) >= 1e-6:
                continue
            in_pairs |= {i, j}
            weight = w[i] + w[j] if weighted else 1.0
            concordance = (p[i] - p[j]) * (y[j] - y[i] if ranks else y[i] - y[j])
            sums["valid"] += 1
            sums["total"] += weight
            sums["correct"] += weight * (0.5 if p[i] == p[j] else float(concordance > 0))
    sizes = {s: np.flatnonzero(np.asarray(sessions) == s) for s in np.unique(sessions)}
    return sums | {
        "effective": len(in_pairs),
        "sessions": len(sizes),
        "singletons": sum(len(rows) == 1 for rows in sizes.values()),
        "degenerate": sum(len(rows) > 1 and np.ptp(y[rows]) < 1e-6 for rows in sizes.values()),
        "examples": len(p),
        "largest": max(map(len, sizes.values())),
    }


def metric_of(**arguments: Any) -> Any:
    defaults = {"batch_size": N, "tasks": TASKS, "window_size": 2 * N}
    return SessionPairwiseAUCMetric(world_size=1, my_rank=0, **(defaults | arguments))


def drawn(seed: int) -> Any:
    """Two tasks: predictions and labels with ties, weights some of which are 0 or below."""
    rng = np.random.default_rng([72, seed])
    p, y, w = (rng.integers(0, k, (2, N)) / 4 for k in (8, 4, 5))
    w[rng.random((2, N)) < 0.1] *= -1
    return p, y, w, rng.integers(0, 7, N) * 10**12


def update(metric: Any, p: Any, y: Any, w: Any, **keys: Any) -> None:
    arrays = ({"a": x[0], "b": x[1]} for x in (p, y, w))
    by_name = dict(zip(("predictions", "labels", "weights"), arrays, strict=True))
    metric.update(**by_name, required_inputs=keys)


# With what batches cover, and without.
OPTIONS = {
    "by default": {"report_batch_coverage": True},
    "otherwise": {
        "rank_order_label": True,
        "remove_zero_weight_from_pair": False,
        "weight_pairs": False,
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_pairs_and_sessions_are_counted(name):
    options = OPTIONS[name]
    metrics = [metric_of(compute_mode=mode, **options) for mode in (UNFUSED, FUSED)]
    batches = [drawn(seed) for seed in range(3)]
    for p, y, w, sessions in batches:
        for metric in metrics:
            update(metric, p, y, w, session_id=sessions)
    is_default = name == "by default"
    how = {"ranks": not is_default, "drop": is_default, "weighted": is_default}
    for t, task in enumerate("ab"):
        of_batches = [pairs_of(p[t], y[t], w[t], sessions, **how) for p, y, w, sessions in batches]
        for prefix, counted in (("lifetime", of_batches), ("window", of_batches[1:])):
            sums = {name: sum(x[name] for x in counted) for name in counted[0]}
            expected = {NAME: sums["correct"] / sums["total"]}
            if is_default:
                expected |= {
                    "valid_pairs_per_batch": sums["valid"] / len(counted),
                    "effective_examples_per_batch": sums["effective"] / len(counted),
                    "tied_pair_rate": 1 - sums["valid"] / sums["same"],
                    "degenerate_session_rate": sums["degenerate"] / sums["sessions"],
                    "singleton_session_rate": sums["singletons"] / sums["sessions"],
                    "mean_group_size": sums["examples"] / sums["sessions"],
                    "largest_group_size_per_batch": sums["largest"] / len(counted),
                }
            for metric in metrics:
                actual = {
                    key.removeprefix(f"{prefix}_"): x.item()
                    for key, x in values_of(metric, task).items()
                    if key.startswith(prefix)
                }
                assert actual == pytest.approx(expected, rel=1e-12)
    assert not metrics[0].state_dict()


def values_of(metric: Any, task: str) -> dict[str, Any]:
    """The values of a task by name."""
    head = f"{NAME}-{task}|"
    return {k.removeprefix(head): x for k, x in values(metric).items() if k.startswith(head)}


def test_scores_and_weights_of_their_own():
    p, y, w, sessions = drawn(5)
    plain = [metric_of(compute_mode=mode) for mode in (UNFUSED, FUSED)]
    own = {"session_key": "user", "score_key": "score", "pairwise_weight_key": "weight"}
    named = [metric_of(compute_mode=mode, **own) for mode in (UNFUSED, FUSED)]
    assert named[0].get_required_inputs() == {"user", "score", "weight"}
    # Of fused tasks they may be by task; of others they are those of all tasks.
    update(plain[1], p, y, w, session_id=sessions)
    update(named[1], p * 0, y, w * 0, user=sessions, score=p, weight=w)
    assert values(named[1]) == values(plain[1])
    p[1], w[1] = p[0], w[0]
    for i in range(2):
        named[i].reset()
        plain[i].reset()
        update(plain[i], p, y, w, session_id=sessions)
        update(named[i], p * 0, y, w * 0, user=sessions, score=p[0], weight=w[0])
        assert values(named[i]) == values(plain[i])


# Of one session: predictions, labels, weights, and the value.
OF_ONE_SESSION = {
    "no pairs at all": ([0.5], [1.0], [1.0], 0.5),
    "one label": ([0.5, 0.25], [1.0, 1.0], [1.0, 1.0], 0.5),
    "labels that are too close": ([0.5, 0.25], [0.5, 0.5 + 9e-7], [1.0, 1.0], 0.5),
    "labels that are not": ([0.5, 0.25], [0.5, 0.5 + 11e-7], [1.0, 1.0], 0.0),
    "one close label between that has no weight": (
        *([0.5, 0.3, 0.25], [0.0, 8e-7, 16e-7], [1.0, 0.0, 1.0], 0.0),
    ),
    "predictions that float32 does not tell apart": (
        *([0.5, 0.5 + 1e-12], [0.0, 1.0], [1.0, 1.0], 0.5),
    ),
    "two weights below 0": ([0.5, 0.25], [1.0, 0.0], [-1.0, -1.0], 1.0),
    "weights of both signs": ([0.5, 0.25], [1.0, 0.0], [-1.0, 2.0], 0.5),
    "a NaN among the labels": ([0.5, 0.3, 0.25], [1.0, np.nan, 0.0], [1.0] * 3, 1.0),
    "a NaN among the weights": ([0.5, 0.3, 0.25], [1.0, 0.5, 0.0], [1.0, np.nan, 1.0], 1.0),
    "infinite labels": ([0.5, 0.3, 0.25], [np.inf, 0.0, -np.inf], [1.0] * 3, 1.0),
}


def test_pairs_of_one_session():
    metric = metric_of(tasks=TASKS[:1])
    for name, (p, y, w, expected) in OF_ONE_SESSION.items():
        metric.reset()
        arrays = zip(("predictions", "labels", "weights"), (p, y, w), strict=True)
        by_name = {key: {"a": np.array(x)} for key, x in arrays}
        metric.update(**by_name, required_inputs={"session_id": np.zeros(len(p), int)})
        assert values(metric)[f"{NAME}-a|lifetime_{NAME}"].item() == expected, name


def test_what_is_missing_is_named():
    p, y, w, sessions = drawn(0)
    for missing in ("session_id", "score", "weight"):
        metric = metric_of(score_key="score", pairwise_weight_key="weight")
        keys = {"session_id": sessions, "score": p[0], "weight": w[0]}
        del keys[missing]
        with unchanged(metric), pytest.raises(RecMetricException, match=missing):
            update(metric, p, y, w, **keys)
    with pytest.raises(RecMetricException, match="Fused Update Limit"):
        metric_of(fused_update_limit=2)
