"""Points of curves, and the best of them, beside scikit-learn and all thresholds."""

import functools
import math
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn

import recmetrics_jax as rm
from recmetrics_jax._src.score_bins import Bins, keys_of

pytestmark = pytest.mark.once

POINTS = 21


def logistic(x):
    return 1 / (1 + np.exp(-x))


SCORES = {
    "click rates": lambda z, y: logistic(z + y - 4),
    "near 1": lambda z, y: 1 - 1e-3 * np.exp(0.35 * (z - 0.5 * y)),
    "logits": lambda z, y: 3 * z + y,
    "ten levels": lambda z, y: np.round(logistic(z + y), 1),
    "close together": lambda z, y: 0.03 + 2e-5 * (z + 0.9 * y),
}


def examples(scores, size=800):
    rng = np.random.default_rng(1)
    z, y, w = rng.normal(size=size), rng.random(size) < 0.3, rng.integers(0, 4, size) / 4
    return SCORES[scores](z, y).astype(np.float32), y.astype(np.float32), w.astype(np.float32)


def metrics(bins, **options):
    return rm.collection(
        {
            "roc": rm.roc_curve(points=POINTS, bins=bins, **options),
            "pr": rm.pr_curve(points=POINTS, bins=bins, **options),
            "recall": rm.recall_at_precision(precision=0.4, bins=bins, **options),
            "precision": rm.precision_at_recall(recall=0.6, bins=bins, **options),
            "auc": rm.binned_auc(bins=bins, **options),
        }
    )


@functools.cache
def values_of(scores, bins, refine=()):
    metric = metrics(bins, refine=refine)
    values = metric.compute(metric.update(metric.init(), rm.make_batch(*examples(scores))))
    return {name.replace("lifetime_", ""): np.asarray(x[0]) for name, x in values.items()}


def at(p, y, w, threshold):
    """FPR, TPR and precision of a threshold."""
    is_positive = p >= threshold
    tp, fp = (math.fsum((w * of)[is_positive]) for of in (y, 1 - y))
    return fp / math.fsum(w * (1 - y)), tp / math.fsum(w * y), tp / (tp + fp) if tp + fp else np.nan


@pytest.mark.parametrize("scores", SCORES)
def test_points_are_those_of_scikit_learn_at_their_thresholds(scores):
    p, y, w = examples(scores)
    values = values_of(scores, 65_536)
    fpr, tpr, thresholds = (values[f"roc/roc_curve_{x}"] for x in ("fpr", "tpr", "thresholds"))
    all_fpr, all_tpr, levels = sklearn.roc_curve(y, p, sample_weight=w, drop_intermediate=False)
    place = np.searchsorted(-levels, -thresholds, side="right") - 1
    np.testing.assert_allclose(fpr, all_fpr[place], rtol=1e-6)
    np.testing.assert_allclose(tpr, all_tpr[place], rtol=1e-6)
    precision, recall, thresholds = (
        values[f"pr/pr_curve_{x}"] for x in ("precision", "recall", "thresholds")
    )
    all_precision, all_recall, levels = sklearn.precision_recall_curve(y, p, sample_weight=w)
    place = np.searchsorted(levels, thresholds)
    np.testing.assert_allclose(precision, all_precision[place], rtol=1e-6)
    np.testing.assert_allclose(recall, all_recall[place], rtol=1e-6)


@pytest.mark.parametrize("bins", [16, 65_536])
@pytest.mark.parametrize("scores", SCORES)
def test_points_are_attained_rise_and_are_evenly_spaced(scores, bins):
    p, y, w = examples(scores)
    values = values_of(scores, bins)
    fpr, tpr, thresholds = (values[f"roc/roc_curve_{x}"] for x in ("fpr", "tpr", "thresholds"))
    np.testing.assert_allclose(
        np.stack([fpr, tpr], axis=1), [at(p, y, w, t)[:2] for t in thresholds], rtol=1e-6
    )
    assert (fpr[0], tpr[0], thresholds[0]) == (0, 0, math.inf)
    assert (fpr[-1], tpr[-1]) == (1, 1)
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(tpr) >= 0).all()
    assert (np.diff(thresholds) <= 0).all()
    # Each is the first one that is so far along the curve: a bin before, it is not.
    edges = np.unique(np.append(Bins(bins).lowest_scores(), math.inf))
    above = edges[np.minimum(np.searchsorted(edges, thresholds) + 1, len(edges) - 1)]
    before = np.array([sum(at(p, y, w, t)[:2]) for t in above])
    assert (before[1:] < 2 * np.arange(1, POINTS) / (POINTS - 1)).all()
    precision, recall, thresholds = (
        values[f"pr/pr_curve_{x}"] for x in ("precision", "recall", "thresholds")
    )
    wanted = [at(p, y, w, t)[:0:-1] for t in thresholds]
    np.testing.assert_allclose(np.stack([precision, recall], axis=1), wanted, rtol=1e-6)
    assert (recall >= np.float32((1 + np.arange(POINTS)) / POINTS)).all()
    assert recall[-1] == 1


@pytest.mark.parametrize("bins", [16, 1024, 65_536])
@pytest.mark.parametrize("scores", SCORES)
def test_the_best_of_all_thresholds_is_between_the_value_and_its_bound(scores, bins):
    p, y, w = examples(scores)
    values = values_of(scores, bins)
    every = np.array([at(p, y, w, t) for t in np.unique(p)])
    places = np.asarray(Bins(bins).places(jnp.asarray(p)))
    edges = np.array([at(p, y, w, t) for t in Bins(bins).lowest_scores()[np.unique(places)]])
    for name, (of, other, least) in {
        "recall/recall_at_precision": (1, 2, 0.4),
        "precision/precision_at_recall": (2, 1, 0.6),
    }.items():
        best, best_of_bins = (
            max(x[x[:, other] >= least, of], default=math.nan) for x in (every, edges)
        )
        value, upper = values[name], values[f"{name}_upper"]
        np.testing.assert_allclose(value, best_of_bins, rtol=1e-6, err_msg=name)
        assert np.nan_to_num(value) <= best * (1 + 1e-6) <= upper * (1 + 2e-6)
        threshold = values[f"{name}_threshold"]
        attained = at(p, y, w, threshold)
        assert np.isnan(value) or attained[other] >= least
        np.testing.assert_allclose(np.nan if np.isnan(value) else attained[of], value, rtol=1e-6)


def test_finer_bins_find_a_better_threshold():
    name = "recall/recall_at_precision"
    coarse = values_of("close together", 65_536)
    fine = values_of("close together", 65_536, refine=((0.029, 0.031, 65_536),))
    assert coarse[f"{name}_upper"] - coarse[name] > 0.05
    assert fine[f"{name}_upper"] == fine[name] > coarse[name]


def test_a_bin_begins_at_its_lowest_score():
    for bins in (Bins(16), Bins(65_536), Bins(4096, ((1000, 3000, 16), (3069, 3071, 1 << 15)))):
        lowest = bins.lowest_scores()[bins.scores_in() > 0]
        places = np.asarray(bins.places(jnp.asarray(lowest)))
        np.testing.assert_array_equal(places, np.flatnonzero(bins.scores_in() > 0))
        with np.errstate(over="ignore"):
            below = np.nextafter(lowest[1:], np.float32(-math.inf))
        assert (np.asarray(bins.places(jnp.asarray(below))) < places[1:]).all()
    assert keys_of(lowest, np).dtype == np.uint32


def test_a_rate_that_is_reached_exactly_counts():
    """At a recall of i / 49 are i of 49 positives, though 5 (1 / 49) is below 5 / 49."""
    rng = np.random.default_rng(2)
    p = rng.permutation(49).astype(np.float32)
    metric = rm.collection({"pr": rm.pr_curve(points=49), "of": rm.precision_at_recall(recall=0.9)})
    values = metric.compute(metric.update(metric.init(), rm.make_batch(p, np.ones(49))))
    np.testing.assert_array_equal(values["pr/lifetime_pr_curve_thresholds"], [np.arange(49)[::-1]])
    # All of one precision: of these, the threshold of most recall.
    assert values["of/lifetime_precision_at_recall_threshold"] == 0
    # Nine of ten, of which the highest is the wrong one.
    nine = rm.recall_at_precision(precision=0.9)
    batch = rm.make_batch(np.arange(10), np.arange(10) != 9)
    values = nine.compute(nine.update(nine.init(), batch))
    assert values["lifetime_recall_at_precision"] == 1
    assert values["lifetime_recall_at_precision_threshold"] == 0


def test_what_is_undefined_has_no_threshold():
    names = ("roc", "pr", "recall", "precision", "auc")
    for undefined in (math.nan, 0.0):
        metric = metrics(16, undefined=undefined)
        for labels, defined in (
            ([0, 0], ()),
            ([1, 1], ("pr", "recall", "precision")),
            # Of a precision of 0.2 at most, but for what might be in the bins.
            ([0.1, 0.2], ("roc", "pr", "precision", "auc")),
        ):
            values = metric.compute(metric.update(metric.init(), rm.make_batch([0.25, 1], labels)))
            for name, value in values.items():
                if name.split("/")[0] in defined:
                    assert not np.isnan(value).any(), name
                elif "threshold" in name:
                    assert np.isnan(value).all(), name
                elif not (labels[1] and name.endswith("_upper")):
                    np.testing.assert_array_equal(value, np.full(value.shape, undefined))
        assert {name.split("/")[0] for name in values} == set(names)


def test_all_share_one_histogram():
    bins = {"auc": rm.binned_auc(bins=4096)}
    alone, together = rm.describe(rm.collection(bins)), rm.describe(metrics(4096))
    assert together.state_bytes == alone.state_bytes


def test_labels_may_be_cut_and_weights_may_be_copies():
    p, _, _ = examples("ten levels", 60)
    stars, copies = np.arange(60) % 6, np.arange(60) % 4
    plain, cut = metrics(256), metrics(256, label_threshold=4)
    wanted = plain.compute(plain.update(plain.init(), rm.make_batch(p, stars >= 4, copies)))
    values = cut.compute(cut.update(cut.init(), rm.make_batch(p, stars, copies)))
    repeated = rm.make_batch(np.repeat(p, copies), np.repeat(stars, copies))
    of_copies = cut.compute(cut.update(cut.init(), repeated))
    for name, value in wanted.items():
        np.testing.assert_array_equal(values[name], value, err_msg=name)
        np.testing.assert_array_equal(of_copies[name], value, err_msg=name)


misused: Any = rm
MISUSED = {
    "points": (lambda: rm.roc_curve(points=1), "points: expected a whole number of at least 2"),
    "precision": (
        lambda: rm.recall_at_precision(precision=0),
        "precision: expected a number above 0, of at most 1, got 0",
    ),
    "recall": (
        lambda: rm.precision_at_recall(recall=math.nan),
        "recall: expected a number above 0, of at most 1, got nan",
    ),
    "bins": (lambda: rm.pr_curve(bins=100), "bins: expected a power of two of at most 2^24"),
    "undefined": (
        lambda: misused.roc_curve(undefined="0"),
        "undefined: expected a number, or numbers by name, got '0'",
    ),
}


@pytest.mark.parametrize("name", MISUSED)
def test_misuse_is_named(name):
    call, message = MISUSED[name]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        call()
