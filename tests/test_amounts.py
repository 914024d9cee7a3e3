"""Errors of regression and quantiles: by hand, beside scikit-learn, and their digits."""

import functools
import math
import re
from typing import Any

import jax
import numpy as np
import oracles
import pytest
from sklearn import metrics as sklearn

import recmetrics_jax as rm

pytestmark = pytest.mark.numerics

BY_HAND = {
    # Errors of 4, where those of 1 are 16, and those of the mean label, 2, are 3 + 9.
    "nmse": (rm.nmse(), {"nmse": 4 / 16, "nrmse": 1 / 2}),
    "nmse of 5": (rm.nmse(baseline=5), {"nmse": 4 / 48, "nrmse": math.sqrt(4 / 48)}),
    "nmse of mean": (rm.nmse(baseline="mean"), {"nmse": 4 / 12, "nrmse": math.sqrt(4 / 12)}),
    "bias": (rm.bias(), {"bias": (3 - 1) / 4, "relative_bias": (3 - 1) / 8}),
    "mape": (rm.mape(), {"mape": (3 * 1 + 1 / 5) / 4}),
    "mape of 4": (rm.mape(epsilon=4), {"mape": (3 * 1 / 4 + 1 / 5) / 4}),
    "smape": (rm.smape(), {"smape": (3 * 2 / 3 + 2 / 9) / 4}),
    "msle": (rm.msle(), {"msle": (3 * math.log(3 / 2) ** 2 + math.log(6 / 5) ** 2) / 4}),
    "pinball": (rm.pinball_loss(quantile=0.75), {"pinball_loss": (3 * 0.25 + 0.75) / 4}),
    "average": (rm.average(), {"label_average": 8 / 4, "prediction_average": 10 / 4}),
    "r_squared": (rm.r_squared(center=-7), {"r_squared": 1 - 4 / 12}),
}


def values_of(metrics, p, y, w=None, **options):
    """The lifetime values of metrics by name, of one update."""
    metric = rm.collection(metrics)
    values = metric.compute(metric.update(metric.init(), rm.make_batch(p, y, w, **options)))
    return {k.replace("/lifetime_", "/"): np.asarray(x) for k, x in values.items()}


def test_hand_computed():
    metrics = {name: metric for name, (metric, _) in BY_HAND.items()}
    values = values_of(metrics, [2, 4], [1, 5], [3, 1])
    for name, (_, wanted) in BY_HAND.items():
        for of, value in wanted.items():
            np.testing.assert_allclose(values[f"{name}/{of}"], [value], rtol=1e-6, err_msg=name)


def test_errors_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    y, p = rng.lognormal(3, 2, (2, 500)).astype(np.float32).astype(float)
    w = rng.integers(0, 5, 500).astype(float)
    metrics = {
        "mape": (rm.mape(), sklearn.mean_absolute_percentage_error),
        "msle": (rm.msle(), sklearn.mean_squared_log_error),
        "rmsle": (rm.msle(), sklearn.root_mean_squared_log_error),
        "nmse": (rm.nmse(baseline="mean"), lambda *x, **k: 1 - sklearn.r2_score(*x, **k)),
    }
    for q in (0.1, 0.5, 0.99):
        loss = functools.partial(sklearn.mean_pinball_loss, alpha=q)
        metrics[f"pinball_loss of {q}"] = (rm.pinball_loss(quantile=q), loss)
    values = values_of({name: metric for name, (metric, _) in metrics.items()}, p, y, w)
    for name, (_, of_scikit_learn) in metrics.items():
        value = values[f"{name}/{name.split()[0]}"]
        wanted = of_scikit_learn(y, p, sample_weight=w)
        np.testing.assert_allclose(value, [wanted], rtol=1e-6, err_msg=name)


def test_f_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(1)
    p, y, w = rng.random(300), rng.random(300) < 0.2, rng.integers(0, 5, 300)
    betas = (0.0, 0.5, 1.0, 3.0)
    values = values_of({str(b): rm.f_beta(beta=b, threshold=0.75) for b in betas}, p, y, w)
    for beta in betas:
        wanted = sklearn.fbeta_score(y, p >= 0.75, beta=beta, sample_weight=w)
        np.testing.assert_allclose(values[f"{beta}/f_beta"], [wanted], rtol=1e-6)


def test_an_f_score_is_undefined_where_nothing_is_positive():
    metric = rm.f_beta()
    for y, p, wanted in (([0], [0.1], math.nan), ([1], [0.1], 0.0), ([0], [0.9], 0.0)):
        value = metric.compute(metric.update(metric.init(), rm.make_batch(p, y)))["lifetime_f_beta"]
        np.testing.assert_array_equal(value, [wanted])


# What is out of the domain of a formula.


def test_a_label_of_0_has_no_percentage_unless_one_says_of_what():
    metrics = {"plain": rm.mape(undefined=0.5), "of 2": rm.mape(epsilon=2), "smape": rm.smape()}
    values = values_of(metrics, [1, 3], [0, 4])
    assert np.isnan(values["plain/mape"]).all()
    assert values["of 2/mape"].tolist() == [(1 / 2 + 1 / 4) / 2]
    np.testing.assert_allclose(values["smape/smape"], [(2 + 2 / 7) / 2], rtol=1e-6)
    masked = values_of(metrics, [1, 3], [0, 4], mask=[False, True])
    assert masked["plain/mape"].tolist() == [0.25]
    # Even where it has no weight, as all that is out of a domain.
    assert np.isnan(values_of(metrics, [1, 3], [0, 4], [0, 1])["plain/mape"]).all()


def test_a_right_prediction_of_0_counts_0_in_smape():
    for p, wanted in (([0, 1, -2], 2 / 3), ([0, 1, 2], 0)):
        value = values_of({"smape": rm.smape()}, p, [0, 1, 2])["smape/smape"]
        np.testing.assert_allclose(value, [wanted], rtol=1e-6)


@pytest.mark.parametrize(
    ("p", "y", "is_inside"),
    [(-0.5, 3, True), (3, -0.999, True), (-1, 3, False), (3, -1, False), (-2, -3, False)],
)
def test_logarithms_are_of_what_is_above_minus_1(p, y, is_inside):
    metric = rm.msle(undefined=0.0)
    value = metric.compute(metric.update(metric.init(), rm.make_batch([p], [y])))["lifetime_msle"]
    wanted = oracles.msle([np.float32(p)], [np.float32(y)], [1.0])["msle"]
    assert np.isfinite(wanted) == is_inside
    np.testing.assert_allclose(value, [wanted], rtol=1e-6)


# Digits.


def test_small_errors_of_large_amounts_keep_their_digits():
    """Differences of logarithms lose 2e-4 of msle here, and differences of sums 3e-3 of bias."""
    rng = np.random.default_rng(2)
    y = rng.lognormal(8, 1, 400).astype(np.float32)
    p = (y * (1 + 1e-4 * rng.normal(size=400))).astype(np.float32)
    p[0], y[0], y[1], p[1] = 0, 0, 3e-7, 0
    w = rng.random(400).astype(np.float32)
    values = values_of({"msle": rm.msle(), "bias": rm.bias()}, p, y, w)
    p, y, w = (x.astype(float) for x in (p, y, w))
    np.testing.assert_allclose(values["msle/msle"], [oracles.msle(p, y, w)["msle"]], rtol=1e-6)
    for name, wanted in oracles.bias(p, y, w).items():
        np.testing.assert_allclose(values[f"bias/{name}"], [wanted], rtol=1e-6, err_msg=name)


def test_amounts_of_all_sizes_have_their_logarithms():
    p, y = [0, 1e8, 0, 1e-7, 5], [1e8, 0, 1e-7, 1e30, 5]
    values = values_of({str(i): rm.msle() for i in range(5)}, p, y)
    examples = np.array(p, np.float32).astype(float), np.array(y, np.float32).astype(float)
    wanted = oracles.msle(*examples, np.ones(5))["msle"]
    np.testing.assert_allclose(values["0/msle"], [wanted], rtol=1e-6)


def test_variances_are_right_or_undefined_however_large_labels_are():
    """Labels of m +- 1, one m for each task; E[y^2] - E[y]^2 in float32 gives 0.46 for 0.75."""
    levels = np.array([0, 1e2, 1e3, 1e4, 3e5, 1e6])
    rng = np.random.default_rng(3)
    noise = np.round(rng.normal(size=(2, 4, 6, 1000)) * 8) / 8
    y = levels[:, None] + noise[0]
    p = y + noise[1] / 2
    options: Any = {"n_tasks": 6, "window": 10_000}
    metric = rm.collection(
        {
            "plain": rm.r_squared(**options),
            "about": rm.r_squared(center=1e6, **options),
            "nmse": rm.nmse(baseline="mean", **options),
        }
    )
    state = functools.reduce(metric.update, map(rm.make_batch, p, y), metric.init())
    values = {k: np.asarray(x) for k, x in metric.compute(state).items()}
    rows = y.transpose(1, 0, 2).reshape(6, -1)
    errors = (y - p).transpose(1, 0, 2).reshape(6, -1)
    wanted = 1 - np.mean(errors**2, axis=1) / np.var(rows, axis=1)
    assert (wanted > 0.7).all()
    for scope in ("lifetime", "window"):
        plain, about = (values[f"{x}/{scope}_r_squared"] for x in ("plain", "about"))
        np.testing.assert_allclose(plain[:4], wanted[:4], rtol=1e-6)
        assert np.isnan(plain[4:]).all()
        np.testing.assert_allclose(about[5], wanted[5], rtol=1e-6)
        np.testing.assert_allclose(values[f"nmse/{scope}_nmse"], 1 - plain, rtol=4e-6)


# Quantiles.

QUANTILES = (0.1, 0.5, 0.9)


def test_quantiles_of_one_batch_are_those_of_each_alone():
    rng = np.random.default_rng(4)
    p, y = rng.normal(size=(2, 40, 3)), rng.normal(size=(2, 40))
    w, mask = rng.integers(0, 4, (2, 40)), rng.random((2, 40)) < 0.8
    metric = rm.pinball_loss(quantile=QUANTILES, n_tasks=2, window=100)
    state = metric.update(metric.init(), rm.make_batch(p[:, :25], y[:, :25], w[:, :25]))
    later = [x[:, 25:] for x in (p, y, w)]
    other = metric.update(metric.init(), rm.make_batch(*later, mask=mask[:, 25:]))
    values = jax.jit(metric.compute)(metric.merge(state, other))
    mask[:, :25] = True
    for task in range(2):
        rows = [x[task][mask[task]] for x in (y, w)]
        wanted = [
            oracles.pinball_loss(p[task, :, i][mask[task]], *rows, quantile=q)["pinball_loss"]
            for i, q in enumerate(QUANTILES)
        ]
        for scope in ("lifetime", "window"):
            value = values[f"{scope}_pinball_loss"][task]
            np.testing.assert_allclose(value, wanted, rtol=1e-6)


def test_predictions_are_one_for_each_quantile():
    metric = rm.pinball_loss(quantile=QUANTILES)
    for shape in ((1, 4), (1, 4, 2)):
        with pytest.raises(
            ValueError, match=r"predictions: expected shape \(1, 4, 3\), one for ea"
        ):
            metric.update(metric.init(), rm.make_batch(np.zeros(shape), np.zeros((1, 4))))
    assert rm.pinball_loss(quantile=[0.1, 0.5]) == rm.pinball_loss(quantile=(0.1, 0.5))
    assert rm.pinball_loss(quantile=(0.5,)) != rm.pinball_loss(quantile=0.5)


options: Any = rm
MISUSED = {
    "baseline by name": (
        lambda: options.nmse(baseline="median"),
        "baseline: expected a finite number or 'mean', got 'median'",
    ),
    "baseline": (lambda: rm.nmse(baseline=math.inf), "baseline: expected a finite number, got inf"),
    "center": (lambda: rm.r_squared(center=math.nan), "center: expected a finite number, got nan"),
    "epsilon": (
        lambda: rm.mape(epsilon=-1),
        "epsilon: expected a finite number of at least 0, got -1",
    ),
    "quantile": (
        lambda: rm.pinball_loss(quantile=1),
        "quantile: expected a number between 0 and 1, got 1",
    ),
    "quantile by name": (
        lambda: options.pinball_loss(quantile="median"),
        "quantile: expected a number, got 'median'",
    ),
    "a quantile of several": (
        lambda: rm.pinball_loss(quantile=(0.5, math.nan)),
        "quantile: expected a number between 0 and 1, got nan",
    ),
    "no quantile": (
        lambda: rm.pinball_loss(quantile=()),
        "quantile: expected at least one, got none",
    ),
    "beta": (lambda: rm.f_beta(beta=-1), "beta: expected a finite number of at least 0, got -1"),
}


@pytest.mark.parametrize("name", MISUSED)
def test_misuse_is_named(name):
    call, message = MISUSED[name]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        call()
