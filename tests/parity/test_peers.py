"""Calibration, regression and points of curves beside torchmetrics and calibrax.

`PAIRS` has what agrees. `DISAGREEMENTS` has what does not, with the values of both and the reason;
a peer that changes its mind is noticed here.
"""

import functools
import importlib
import math
import warnings
from typing import Any

import jax
import numpy as np
import pytest

import recmetrics_jax as rm

torch: Any = pytest.importorskip("torch")
pytest.importorskip("calibrax")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # What they import is deprecated.
    classes: Any = importlib.import_module("torchmetrics.functional.classification")
    regression: Any = importlib.import_module("torchmetrics.functional.regression")
    calibrax: Any = importlib.import_module("calibrax.metrics.functional")

SIZE = 2000


def probabilities():
    """Predictions of 64 levels, none of them an edge of bins, and labels, not calibrated."""
    rng = np.random.default_rng(0)
    p = (2 * rng.integers(0, 64, SIZE) + 1) / 128
    return p.astype(np.float32), (rng.random(SIZE) < p**2).astype(np.float32)


def amounts():
    """Seconds, predicted and watched, none of them 0."""
    rng = np.random.default_rng(2)
    y = np.exp(rng.normal(3, 1, SIZE))
    return (y * np.exp(rng.normal(0, 0.5, SIZE))).astype(np.float32), y.astype(np.float32)


def of_torch(function, *, whole=False, **options):
    """A function of torchmetrics, of arrays; labels are integers if ``whole``."""

    def of_arrays(p, y):
        labels = torch.tensor(y.astype(int) if whole else y)
        return np.asarray(function(torch.tensor(p), labels, **options))

    return of_arrays


def first_of_torch(function, **options):
    """The same, of the first of what it gives."""
    return lambda p, y: function(torch.tensor(p), torch.tensor(y.astype(int)), **options)[0].item()


def of_calibrax(function, **options):
    """A function of calibrax, which promotes integers."""

    def of_arrays(p, y):
        with jax.numpy_dtype_promotion("standard"):
            return jax.tree.map(np.asarray, function(p, y, **options))

    return of_arrays


def part(name):
    """A part of the Brier score by calibrax."""
    return lambda p, y: of_calibrax(calibrax.brier_decomposition)(p, y)[name]


def decided(function, **options):
    """A function of calibrax of predictions that are cut at 0.5, as it leaves to its users."""
    return lambda p, y: of_calibrax(function, **options)((p >= 0.5).astype(int), y.astype(int))


def calibration(norm):
    return of_torch(classes.binary_calibration_error, whole=True, n_bins=10, norm=norm)


def uniform(factory, **options):
    return factory(bins=10, spacing="uniform", **options)


BRIER = uniform(rm.brier, decomposition=True)
PAIRS = {
    # name: metric, its value, examples, the same by a peer
    "torchmetrics ece": (uniform(rm.ece), "ece", probabilities, calibration("l1")),
    "torchmetrics ece l2": (uniform(rm.ece, norm="l2"), "ece_l2", probabilities, calibration("l2")),
    "torchmetrics mce": (uniform(rm.ece, norm="max"), "ece_max", probabilities, calibration("max")),
    "torchmetrics f_beta": (
        *(rm.f_beta(beta=2.0), "f_beta", probabilities),
        of_torch(classes.binary_fbeta_score, whole=True, beta=2.0),
    ),
    "torchmetrics recall_at_precision": (
        *(rm.recall_at_precision(precision=0.8), "recall_at_precision", probabilities),
        first_of_torch(classes.binary_recall_at_fixed_precision, min_precision=0.8),
    ),
    "torchmetrics precision_at_recall": (
        *(rm.precision_at_recall(recall=0.3), "precision_at_recall", probabilities),
        first_of_torch(classes.binary_precision_at_fixed_recall, min_recall=0.3),
    ),
    "torchmetrics mape": (
        *(rm.mape(), "mape", amounts),
        of_torch(regression.mean_absolute_percentage_error),
    ),
    "torchmetrics smape": (
        *(rm.smape(), "smape", amounts),
        of_torch(regression.symmetric_mean_absolute_percentage_error),
    ),
    "torchmetrics msle": (
        *(rm.msle(), "msle", amounts),
        of_torch(regression.mean_squared_log_error),
    ),
    "torchmetrics r_squared": (
        *(rm.r_squared(), "r_squared", amounts),
        of_torch(regression.r2_score),
    ),
    "torchmetrics nmse": (
        *(rm.nmse(baseline="mean"), "nmse", amounts),
        of_torch(regression.relative_squared_error),
    ),
    "torchmetrics nrmse": (
        *(rm.nmse(baseline="mean"), "nrmse", amounts),
        of_torch(regression.relative_squared_error, squared=False),
    ),
    "calibrax ece": (
        *(uniform(rm.ece), "ece", probabilities),
        of_calibrax(calibrax.expected_calibration_error),
    ),
    "calibrax mce": (
        *(uniform(rm.ece, norm="max"), "ece_max", probabilities),
        of_calibrax(calibrax.maximum_calibration_error),
    ),
    "calibrax brier": (BRIER, "brier", probabilities, of_calibrax(calibrax.brier_score)),
    "calibrax reliability": (BRIER, "brier_reliability", probabilities, part("calibration")),
    "calibrax resolution": (BRIER, "brier_resolution", probabilities, part("resolution")),
    "calibrax uncertainty": (BRIER, "brier_uncertainty", probabilities, part("uncertainty")),
    "calibrax logloss": (
        *(rm.ne(logloss=True, nats=True), "logloss_nats", probabilities),
        of_calibrax(calibrax.log_loss),
    ),
    "calibrax f_beta": (
        *(rm.f_beta(beta=2.0), "f_beta", probabilities),
        decided(calibrax.fbeta_score, beta=2.0),
    ),
    "calibrax pinball_loss": (
        *(rm.pinball_loss(quantile=0.8), "pinball_loss", amounts),
        of_calibrax(calibrax.quantile_loss, quantile=0.8),
    ),
    "calibrax mape": (rm.mape(), "mape", amounts, of_calibrax(calibrax.mape)),
    "calibrax smape": (rm.smape(), "smape", amounts, of_calibrax(calibrax.smape)),
    "calibrax r_squared": (rm.r_squared(), "r_squared", amounts, of_calibrax(calibrax.r_squared)),
}


@functools.cache
def ours(examples):
    """The values of all metrics of some examples."""
    metric = rm.collection({name: of[0] for name, of in PAIRS.items() if of[2] is examples})
    return metric.compute(metric.update(metric.init(), rm.make_batch(*examples())))


@pytest.mark.parametrize("name", PAIRS)
def test_a_metric_is_that_of_a_peer(name):
    _, value, examples, theirs = PAIRS[name]
    of_ours = ours(examples)[f"{name}/lifetime_{value}"]
    np.testing.assert_allclose(of_ours, [theirs(*examples())], rtol=3e-6)


def test_reliability_diagrams_are_those_of_calibrax():
    p, y = probabilities()
    metric = uniform(rm.reliability)
    values = metric.compute(metric.update(metric.init(), rm.make_batch(p, y)))
    theirs = of_calibrax(calibrax.reliability_diagram_bins)(p, y)
    for name, key in (
        ("weight", "bin_counts"),
        ("prediction", "bin_confidences"),
        ("label", "bin_accuracies"),
    ):
        of_bins = values[f"lifetime_reliability_{name}"][0]
        np.testing.assert_allclose(of_bins, theirs[key], rtol=1e-6)


@pytest.mark.parametrize("curve", ["roc", "pr"])
def test_points_of_curves_are_on_those_of_torchmetrics(curve):
    p, y = probabilities()
    metric = rm.roc_curve(points=20) if curve == "roc" else rm.pr_curve(points=20)
    values = metric.compute(metric.update(metric.init(), rm.make_batch(p, y)))
    function = classes.binary_roc if curve == "roc" else classes.binary_precision_recall_curve
    *theirs, thresholds = function(torch.tensor(p), torch.tensor(y.astype(int)))
    names = ("fpr", "tpr") if curve == "roc" else ("precision", "recall")
    at = values[f"lifetime_{curve}_curve_thresholds"][0]
    inner = np.isfinite(at)  # For "above all" it has the threshold 1, and we infinity.
    places = [int(np.flatnonzero(np.asarray(thresholds) == t)[-1]) for t in at[inner]]
    assert len(places) >= 19
    for name, points in zip(names, theirs, strict=True):
        of_curve = values[f"lifetime_{curve}_curve_{name}"][0]
        np.testing.assert_allclose(of_curve[inner], np.asarray(points)[places], rtol=1e-6)


ZERO = [1.0, 2.0], [0.0, 2.0]
AT_ONE = [1.0, 1.0, 0.95, 0.95], [1, 0, 1, 1]
ON_AN_EDGE = [0.5, 0.5, 0.25, 0.25], [1, 0, 1, 0]
TIED = [0.5, 0.5, 0.5, 0.5], [1, 1, 0, 0]
CONFIDENT = [0.0, 0.5], [1, 1]
ALIKE = [1.0, 3.0], [2.0, 2.0]

DISAGREEMENTS = {
    # name: metric, its value, examples, what it is here, the same by a peer, what it is there
    # A label of 0 is out of the domain. They divide by 1.17e-6 and 1e-8 instead, so that it decides
    # the mean.
    "mape of a label of 0, torchmetrics": (
        *(rm.mape(), "mape", ZERO, math.nan),
        *(of_torch(regression.mean_absolute_percentage_error), 0.5 / 1.17e-6),
    ),
    "mape of a label of 0, calibrax": (
        *(rm.mape(), "mape", ZERO, math.nan),
        *(of_calibrax(calibrax.mape), 0.5 / 1e-8),
    ),
    # The last bin has both its edges. Theirs has predictions of 1 in one bin more, of their own.
    "ece of predictions of 1, torchmetrics": (
        *(uniform(rm.ece), "ece", AT_ONE, abs(3.9 - 3) / 4),
        *(calibration("l1"), (abs(2 - 1) + abs(1.9 - 2)) / 4),
    ),
    # Both cut predictions off: here at 1e-12, as torchrec does, and there at 1e-7.
    "logloss of a prediction of 0 that is wrong, calibrax": (
        *(rm.ne(logloss=True, nats=True), "logloss_nats", CONFIDENT, -math.log(0.5e-12) / 2),
        *(of_calibrax(calibrax.log_loss), -math.log(0.5e-7) / 2),
    ),
    # A prediction at the threshold is positive. Theirs is not.
    "f_beta at the threshold, torchmetrics": (
        *(rm.f_beta(), "f_beta", ON_AN_EDGE, 0.5),
        *(of_torch(classes.binary_fbeta_score, whole=True, beta=1.0), 0.0),
    ),
    # Labels that do not vary leave nothing to explain. Theirs are 0, or divide by 1e-8.
    "r_squared of labels that are alike, torchmetrics": (
        *(rm.r_squared(), "r_squared", ALIKE, math.nan),
        *(of_torch(regression.r2_score), 0.0),
    ),
    "r_squared of labels that are alike, calibrax": (
        *(rm.r_squared(), "r_squared", ALIKE, math.nan),
        *(of_calibrax(calibrax.r_squared), 1 - 2 / 1e-8),
    ),
    # Ties are one point of a curve. Theirs count in the order of the rows.
    "binned_auc of ties, calibrax": (
        *(rm.binned_auc(), "binned_auc", TIED, 0.5),
        *(of_calibrax(calibrax.roc_auc), 1.0),
    ),
    "binned_auprc of ties, calibrax": (
        *(rm.binned_auprc(), "binned_auprc", TIED, 0.5),
        *(of_calibrax(calibrax.average_precision), 1.0),
    ),
    # A list in which nothing is relevant has no value, and is counted. Theirs is 0.
    "ndcg of nothing, calibrax": (
        *(rm.ndcg(), "ndcg", ([0.5, 0.25], [0, 0]), math.nan),
        *(of_calibrax(calibrax.ndcg), 0.0),
    ),
}


@pytest.mark.parametrize("name", DISAGREEMENTS)
def test_a_disagreement_is_as_it_is_explained(name):
    metric, value, (p, y), here, theirs, there = DISAGREEMENTS[name]
    p, y = np.asarray(p, np.float32), np.asarray(y, np.float32)
    batch = rm.make_batch(p, y, keys={"session_id": np.zeros(len(p), int)})
    values = metric.compute(metric.update(metric.init(), batch))
    np.testing.assert_allclose(values[f"lifetime_{value}"], [here], rtol=1e-5)
    np.testing.assert_allclose(theirs(p, y), there, rtol=1e-5)
