"""Calibration by bins: every metric by its definition, where bins lie, parts of the Brier score."""

import functools
import itertools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles_calibration as oracles
import pytest
from clicks import click_rates, values_of
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

import recmetrics_jax as rm
from recmetrics_jax._src.metrics import reliability as of_reliability
from recmetrics_jax._src.reliability_bins import FINE, LOWEST, BinOptions, bins_of, edges_of

pytestmark = pytest.mark.once

SPACINGS = ("log", "uniform", "quantile")
NORMS = ("l1", "l2", "max")


def all_of_bins(*, bins=6, **options):
    """Metrics by name, and their oracles."""
    metrics, wanted = {}, {}
    for spacing in SPACINGS:
        of = {"bins": bins, "spacing": spacing}
        metrics[f"reliability {spacing}"] = rm.reliability(**of, **options)
        wanted[f"reliability {spacing}"] = functools.partial(oracles.reliability, **of)
        metrics[f"brier {spacing}"] = rm.brier(decomposition=True, **of, **options)
        wanted[f"brier {spacing}"] = functools.partial(oracles.brier, **of)
        for norm in NORMS:
            metrics[f"ece {spacing} {norm}"] = rm.ece(norm=norm, **of, **options)
            wanted[f"ece {spacing} {norm}"] = functools.partial(oracles.ece, norm=norm, **of)
    return rm.collection(metrics), wanted


WEIGHTS = {
    "copies": lambda rng, shape: rng.integers(0, 4, shape),
    "of all sizes": lambda rng, shape: 10.0 ** rng.uniform(-3, 3, shape),
    "mostly none": lambda rng, shape: rng.random(shape) < 0.02,
}


def test_every_spacing_and_norm_is_its_definition():
    metric, wanted = all_of_bins(n_tasks=2)
    rng = np.random.default_rng(0)
    for weights, is_soft in [*((w, False) for w in WEIGHTS), ("copies", True)]:
        p = click_rates(rng, (2, 240), rate=-1.0)
        y = rng.random(p.shape) < p
        y = rng.random(p.shape) * y if is_soft else y
        y, w = y.astype(np.float32), WEIGHTS[weights](rng, p.shape).astype(np.float32)
        values: Any = metric.init()
        for part in np.split(np.arange(240), 3):
            values = metric.update(values, rm.make_batch(p[:, part], y[:, part], w[:, part]))
        values = metric.compute(values)
        for (name, oracle), task in itertools.product(wanted.items(), range(2)):
            arrays = (x[task].astype(float) for x in (p, y, w))
            for value, expected in oracle(*arrays).items():
                got = values[f"{name}/lifetime_{value}"][task]
                np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-7, err_msg=name)


# Bins.


@pytest.mark.parametrize("spacing", ["log", "uniform"])
def test_a_prediction_that_is_an_edge_is_in_the_upper_bin(spacing):
    edges = edges_of(20, spacing).astype(np.float32)
    below = np.nextafter(edges, np.float32(0))
    for x, wanted in ((edges, np.arange(1, 20)), (below, np.arange(19))):
        np.testing.assert_array_equal(bins_of(jnp.asarray(x), 20, spacing), wanted)
    ends = jnp.array([0.0, 1e-30, 1.0, 1.0 + 4 * 2.0**-23])
    assert bins_of(ends, 20, spacing).tolist() == [0, 0, 19, 19]
    assert bins_of(ends, 1, spacing).tolist() == [0, 0, 0, 0]


def test_bins_of_the_odds_are_of_one_factor():
    edges = edges_of(20, "log")
    odds = edges / (1 - edges)
    np.testing.assert_allclose(odds[1:] / odds[:-1], 10**0.3)
    np.testing.assert_allclose([odds[0] / 10**0.3, odds[-1] * 10**0.3], [1e-4, 1e2])


def test_fine_bins_are_in_the_order_of_predictions_from_0_to_1():
    p = np.concatenate([[0, LOWEST / 2, LOWEST], 10.0 ** np.arange(-9, 0), [0.5, 0.9, 1, 1 + 4e-7]])
    at = np.asarray(bins_of(jnp.asarray(p, jnp.float32), FINE, "quantile"))
    assert (np.diff(at) >= 0).all()
    assert at[[0, 1, 2, -2, -1]].tolist() == [0, 0, 0, FINE - 1, FINE - 1]
    assert (np.diff(at[2:-1]) > 0).all()
    x = np.geomspace(1e-6, 0.5, 1000).astype(np.float32)
    step = np.diff(np.asarray(bins_of(jnp.asarray(x), FINE, "quantile")))
    assert step.max() <= math.ceil(2 * 128 * (x[1] / x[0] - 1))


def test_at_a_click_rate_of_one_percent_bins_of_equal_width_are_empty_and_others_are_not():
    rng = np.random.default_rng(0)
    p = click_rates(rng, 20_000, rate=-5.0)
    assert 0.005 < p.mean() < 0.015
    shares = {
        spacing: values_of(
            functools.partial(rm.reliability, spacing=spacing), p, rng.random(20_000) < p
        )
        for spacing in SPACINGS
    }
    filled = {k: int(np.sum(x["reliability_weight"] > 200)) for k, x in shares.items()}
    assert filled["uniform"] <= 2
    assert filled["log"] >= 8
    assert filled["quantile"] == 20
    np.testing.assert_allclose(shares["quantile"]["reliability_weight"], 1000, atol=120)


def test_quantiles_add_up_whatever_the_states():
    rng = np.random.default_rng(1)
    p, w = click_rates(rng, 400), rng.integers(0, 3, 400)
    y = rng.random(400) < p
    metric = rm.reliability(bins=5, spacing="quantile")
    states = [
        metric.update(metric.init(), rm.make_batch(p[part], y[part], w[part]))
        for part in np.split(np.argsort(p), 4)  # Each of its own scores.
    ]
    values = metric.compute(functools.reduce(metric.merge, states))
    whole = values_of(functools.partial(rm.reliability, bins=5, spacing="quantile"), p, y, w)
    for name, value in whole.items():
        np.testing.assert_allclose(values[f"lifetime_{name}"], value, rtol=1e-6)


def test_a_score_of_much_weight_is_one_group_beside_empty_ones():
    p = [0.1] + [0.5] * 8 + [0.9]
    values = values_of(
        functools.partial(rm.reliability, bins=5, spacing="quantile"), p, np.ones(10)
    )
    assert values["reliability_weight"].tolist() == [[1, 0, 8, 0, 1]]
    assert np.isnan(values["reliability_prediction"][0, [1, 3]]).all()


def test_quantiles_of_any_number_share_their_histogram():
    assert BinOptions(10, "quantile").term == BinOptions(20, "quantile").term
    assert (
        BinOptions(10, "log").term != BinOptions(20, "log").term != BinOptions(20, "uniform").term
    )
    metrics = {
        "ece": rm.ece(spacing="quantile", window=100),
        "diagram": rm.reliability(spacing="quantile", bins=7, window=100),
    }
    alone, both = (
        rm.describe(metric).state_bytes for metric in (metrics["ece"], rm.collection(metrics))
    )
    assert both < 1.1 * alone  # One window, though each has a histogram of its lifetime.


# Against scikit-learn, and what is bad.


def test_uniform_and_brier_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    p = rng.random(3000).astype(np.float32)
    y, w = (rng.random(3000) < p**2).astype(float), rng.integers(0, 4, 3000)
    values = values_of(functools.partial(rm.reliability, bins=10, spacing="uniform"), p, y)
    label, prediction = calibration_curve(y, p, n_bins=10)
    np.testing.assert_allclose(values["reliability_label"][0], label, rtol=1e-6)
    np.testing.assert_allclose(values["reliability_prediction"][0], prediction, rtol=1e-6)
    score = values_of(rm.brier, p, y, w)["brier"]
    np.testing.assert_allclose(score, brier_score_loss(y, p, sample_weight=w), rtol=1e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_one_bad_example_makes_all_bins_nan(spacing):
    p = np.linspace(0.01, 0.99, 30)
    for bad in ([math.nan, 1, 1], [0.5, 2, 1], [1.5, 1, 1], [0.5, 1, -1]):
        arrays = (np.append(x, b) for x, b in zip((p, p > 0.5, np.ones(30)), bad, strict=True))
        values = values_of(
            functools.partial(rm.reliability, spacing=spacing), *arrays, undefined=0.5
        )
        assert all(np.isnan(x).all() for x in values.values())


# Parts of the Brier score.


@pytest.mark.parametrize("spacing", SPACINGS)
def test_parts_of_the_brier_score_add_up(spacing):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        p = 1 / (1 + np.exp(-rng.normal(-3, 2, (3, 200))))
        for y in (rng.random(p.shape) < p, rng.random(p.shape) * p):
            make = functools.partial(rm.brier, decomposition=True, spacing=spacing)
            values = values_of(make, p, y, rng.random(p.shape))
            parts = values["brier_reliability"] - values["brier_resolution"]
            parts += values["brier_uncertainty"] + values["brier_within_bins"]
            np.testing.assert_allclose(parts, values["brier"], rtol=0, atol=1e-9)
            assert (values["brier_resolution"] <= values["brier_uncertainty"]).all()


def test_nothing_is_within_bins_of_one_prediction():
    rng = np.random.default_rng(0)
    p = rng.choice([0.002, 0.1, 0.25, 0.7], 500)
    values = values_of(
        functools.partial(rm.brier, decomposition=True), p, rng.random(500) < p, rng.random(500)
    )
    assert abs(values["brier_within_bins"]) < 1e-9
    assert values["brier_resolution"] > 0.01


def test_a_soft_label_is_a_positive_and_a_negative_in_parts():
    soft = values_of(rm.brier, [0.3, 0.8, 0.8], [0.25, 1, 0], [4, 1, 0])["brier"]
    parts = values_of(rm.brier, [0.3, 0.3, 0.8], [1, 0, 1], [1, 3, 1])["brier"]
    np.testing.assert_allclose(soft, parts, rtol=1e-6)


# What is common to all.


def test_values_of_many_states_at_once_are_those_of_each():
    options = BinOptions(4, "quantile")
    size = options.term.shape[1]
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 2, (3, 2, 1, size))
    parts = np.concatenate([weights, weights * rng.random((3, 2, 2, size)), weights], axis=2)

    @jax.jit
    def values(histogram):
        sums = of_reliability.ReliabilitySums(histogram)
        return of_reliability.ece_values(sums, options=options, norm="l1")

    with jax.enable_x64(True):
        at_once = jax.vmap(values)(jnp.asarray(parts, jnp.float64))
        for i in range(3):
            for name, value in values(jnp.asarray(parts[i], jnp.float64)).items():
                np.testing.assert_allclose(at_once[name][i], value, rtol=1e-12, err_msg=name)


factories: Any = rm


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: factories.reliability(bins=0), "bins: expected a whole number of at least 1"),
        (lambda: factories.brier(bins=1 << 17), "bins: expected a whole number of at most 65,536"),
        (lambda: factories.ece(spacing="equal"), "spacing: expected one of ('log', 'uniform', "),
        (lambda: factories.brier(spacing=3), "spacing: expected one of ('log', 'uniform', 'quan"),
        (lambda: factories.ece(norm="l3"), "norm: expected one of ('l1', 'l2', 'max'), got 'l3'"),
        (lambda: factories.brier(decomposition=2), "decomposition: expected True or False, got 2"),
        (lambda: factories.ece(slots=7, window=5), "slots: expected a whole number of at least 8"),
    ],
)
def test_misuse_is_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
