"""What several families measure: collections of metrics, and examples to update them with."""

from collections.abc import Callable

import numpy as np
from peers import WINDOW

import recmetrics_jax as rm

NINE: dict[str, Callable[..., rm.Metric]] = {
    "ne": rm.ne,
    "calibration": rm.calibration,
    "ctr": rm.ctr,
    "mse": rm.mse,
    "mae": rm.mae,
    "accuracy": rm.accuracy,
    "precision": rm.precision,
    "recall": rm.recall,
    "weighted_avg": rm.weighted_avg,
}
"""Factories of the nine metrics, by the names they have in torchrec too."""
THRESHOLDS = (0.1, 0.2, 0.3)
OF_SESSIONS: dict[str, Callable[..., rm.Metric]] = {
    "ndcg": rm.ndcg,
    "recall_at": rm.recall_at,
    "precision_at": rm.precision_at,
    "hit_rate": rm.hit_rate,
    "mrr": rm.mrr,
    "average_precision": rm.average_precision,
}
"""Factories of metrics of sessions that take a k."""
OF_PAIRS: dict[str, Callable[..., rm.Metric]] = {
    "session_auc": rm.session_auc,
    "pairwise_auc": rm.pairwise_auc,
}
"""Factories of metrics of the pairs of sessions."""
RANKS = (1, 10, 100)
"""The k of those."""


def metrics_of(count: int, *, n_tasks: int = 1, window: int | None = None) -> rm.Metric:
    """A collection of the first of the nine metrics, or of up to 18: some at other thresholds."""
    metrics = {name: make(n_tasks=n_tasks, window=window) for name, make in NINE.items()}
    for threshold in THRESHOLDS:
        for make in (rm.accuracy, rm.precision, rm.recall):
            metrics[f"{make.__name__} from {threshold}"] = make(
                threshold=threshold, n_tasks=n_tasks, window=window
            )
    return rm.collection(dict(list(metrics.items())[:count]))


def nine_metrics(n_tasks: int = 1, window: int | None = WINDOW) -> rm.Metric:
    """The collection of the nine metrics."""
    return metrics_of(len(NINE), n_tasks=n_tasks, window=window)


def session_metrics() -> rm.Metric:
    """The collection of the metrics of sessions."""
    at_k = {name: make(k=RANKS) for name, make in OF_SESSIONS.items()}
    return rm.collection({**at_k, **{name: make() for name, make in OF_PAIRS.items()}})


def scores(*shape: int, positive: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions, labels and weights, ``float32[shape]``, the same at every call."""
    rng = np.random.default_rng(0)
    p, w = (rng.random(shape, np.float32) for _ in range(2))
    return p, (rng.random(shape) < positive).astype(np.float32), w
