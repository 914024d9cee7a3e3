"""Metrics of sessions beside torchmetrics, which knows no weights, and no ties but in NDCG."""

import importlib
import warnings
from typing import Any

import numpy as np
import pytest

import recmetrics_jax as rm

torch: Any = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # What it imports is deprecated.
    retrieval: Any = importlib.import_module("torchmetrics.retrieval")

SKIP = {"empty_target_action": "skip"}
PAIRS = {
    "ndcg": (rm.ndcg(k=5), retrieval.RetrievalNormalizedDCG(top_k=5, **SKIP)),
    "ndcg_of_all": (rm.ndcg(), retrieval.RetrievalNormalizedDCG(**SKIP)),
    "recall": (rm.recall_at(k=5), retrieval.RetrievalRecall(top_k=5, **SKIP)),
    "recall_with_undefined": (
        rm.recall_at(k=5, undefined_sessions=0),
        retrieval.RetrievalRecall(top_k=5),
    ),
    "precision": (rm.precision_at(k=15), retrieval.RetrievalPrecision(top_k=15, **SKIP)),
    "adaptive_precision": (
        rm.precision_at(k=15, adaptive_k=True),
        retrieval.RetrievalPrecision(top_k=15, adaptive_k=True, **SKIP),
    ),
    "hit_rate": (rm.hit_rate(k=5), retrieval.RetrievalHitRate(top_k=5, **SKIP)),
    "mrr": (rm.mrr(), retrieval.RetrievalMRR(**SKIP)),
    "average_precision": (rm.average_precision(), retrieval.RetrievalMAP(**SKIP)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_metrics_of_sessions_are_those_of_torchmetrics(name):
    ours, theirs = PAIRS[name]
    rng = np.random.default_rng(0)
    size = 400
    p, y, sessions = rng.permutation(size) / size, rng.random(size) < 0.2, rng.integers(0, 40, size)
    batch = rm.make_batch(p, y, keys={"session_id": sessions})
    values = ours.compute(ours.update(ours.init(), batch))
    (value, *_) = values.values()
    theirs.update(*(torch.tensor(x) for x in (p, y.astype(int))), indexes=torch.tensor(sessions))
    np.testing.assert_allclose(value, [float(theirs.compute())], rtol=1e-6)
