"""The bins of AUPRC over the lifetime, and what is said of predictions that are in none."""

import logging
import math
from typing import Any

import numpy as np
import pytest
from adapter_cases import LABELS, PREDICTIONS, TASKS, WEIGHTS, values

from recmetrics_jax.adapter import auprc
from recmetrics_jax.adapter._tensors import kind_of, to_numpy
from recmetrics_jax.adapter.rec_metric import RecMetricException


def of_tasks(predictions: Any, labels: Any) -> dict[str, Any]:
    """Arguments of ``update``, of arrays by tasks."""
    arrays = {"predictions": predictions, "labels": labels}
    by_task = {n: dict(zip("ab", map(np.asarray, x), strict=False)) for n, x in arrays.items()}
    return {"weights": None, **by_task}


def histograms_of(metric: Any) -> list[np.ndarray]:
    """Those of positives and of negatives, of the first task."""
    (computation, *_) = metric._metrics_computations
    names = (auprc.LIFETIME_POSITIVE_HISTOGRAM, auprc.LIFETIME_NEGATIVE_HISTOGRAM)
    return [to_numpy(getattr(computation, name)) for name in names]


def test_bins_of_auprc_are_of_float32():
    """The nearest float32 of .652999997 is .653, which begins the bin after that of .6525."""
    assert np.float32(0.652999997) == np.float32(0.653)
    metric = auprc.AUPRCMetric(1, 0, 2, TASKS[:1])
    metric.update(**of_tasks(predictions=[[0.652999997, 0.6525]], labels=[[1.0, 0.0]]))
    assert values(metric)["auprc-a|lifetime_auprc"] == 1.0
    assert [x.shape for x in histograms_of(metric)] == [(1, 1000)] * 2
    assert [np.flatnonzero(x).tolist() for x in histograms_of(metric)] == [[653], [652]]


@pytest.mark.parametrize(("low", "high", "bins"), [(0.0, 1.0, 7), (-0.3, 2.1, 1000)])
def test_bins_of_auprc_are_those_that_float32_gives(low, high, bins):
    rng = np.random.default_rng(5)
    edges = low + (high - low) * rng.integers(0, bins + 1, 200) / bins
    near = np.clip(edges * (1 + rng.integers(-2, 3, 200) * 6e-8), low, high).astype(np.float32)
    p = near[(near >= np.float32(low)) & (near <= np.float32(high))]
    offset = (p - np.float32(low)) / np.float32(high - low)
    places = np.minimum((offset * np.float32(bins)).astype(np.int64), bins - 1)
    options = {"num_bins": bins, "min_prediction": low, "max_prediction": high}
    metric = auprc.AUPRCMetric(1, 0, 200, TASKS[:1], window_size=200, **options)
    metric.update(**of_tasks(predictions=[p], labels=[np.ones(len(p))]))
    (histogram,), _ = histograms_of(metric)
    np.testing.assert_array_equal(histogram, np.bincount(places, minlength=bins))


def test_predictions_out_of_range_are_logged_once(caplog):
    for rank, expected in ((1, 0), (0, 1)):
        metric = auprc.AUPRCMetric(2, rank, 2, TASKS, max_prediction=0.5)
        with caplog.at_level(logging.ERROR):
            metric.update(**of_tasks(predictions=[[0.75, 0.25], [0.5, 0.25]], labels=[[1, 0]] * 2))
            computed, again = (values(metric, "local_compute") for _ in range(2))
        assert np.isnan(computed["auprc-a|local_lifetime_auprc"])
        assert computed["auprc-b|local_lifetime_auprc"] == 1.0
        assert len(caplog.records) == expected
        assert again.keys() == computed.keys()
    assert "[0.0, 0.5]" in caplog.text


@pytest.mark.parametrize("bound", [math.inf, math.nan, -1.0], ids=str)
def test_bounds_of_auprc_are_finite(bound):
    with pytest.raises(RecMetricException, match="finite"):
        auprc.AUPRCMetric(1, 0, 2, TASKS, max_prediction=bound)


def test_auprc_of_one_task_is_a_number():
    area = auprc._compute_auprc_helper(PREDICTIONS, LABELS, WEIGHTS)
    assert (area.shape, kind_of(area)) == ((), "numpy")
    assert area == auprc.compute_auprc(1, PREDICTIONS[None], LABELS[None], WEIGHTS[None])[0]
