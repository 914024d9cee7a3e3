"""Errors of calibration: by hand, undefined ones, and how much bias is left of them."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles_calibration as oracles
import pytest
from clicks import click_rates, values_of

import recmetrics_jax as rm
from recmetrics_jax._src.metrics.reliability import folded_mean

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("p", "y"), [(math.nan, 1), (0.5, -1), (-0.5, 1)], ids=["nan", "label", "prediction"]
)
def test_a_bad_example_of_any_segment_makes_errors_of_a_field_nan(p, y):
    metric = rm.field_calibration_error(key="country", segments=2)
    keys = {"country": [0, 1, 1, 2]}
    values = metric.compute(
        metric.update(metric.init(), rm.make_batch([p, 0.25, 0.25, 1], [y, 1, 0, 1], keys=keys))
    )
    for name in ("ece", "rce", "rce_undefined_segments"):
        assert np.isnan(values[f"lifetime_field_{name}"]).all(), name
    assert values["lifetime_field_out_of_range_examples"].tolist() == [1]


NORMS = ("l1", "l2", "max")


def test_hand_computed_errors():
    # Of weight 3, 0.25 for 2/3; of weight 1, 0.75 for 0.
    arrays = [0.25, 0.25, 0.75], [1, 0, 0], [2, 1, 1]
    first, last = 2 / 3 - 1 / 4, 3 / 4
    of = {"bins": 2, "spacing": "uniform"}
    # (2 + 1)^2 / (4 + 1) equal weights are worth as much as these.
    variance = 2 / 9 / (9 / 5 - 1)
    wanted = {
        "ece": (3 * first + last) / 4,
        "ece_debiased": 2 * first - oracles.folded(first, math.sqrt(variance)),
        "ece_debiased_share": 3 / 4,
        "ece_l2": math.sqrt((3 * first**2 + last**2) / 4),
        "ece_l2_squared": (3 * first**2 + last**2) / 4,
        "ece_l2_squared_debiased": first**2 - variance,
        "ece_max": last,
    }
    values: dict = {}
    for norm in NORMS:
        values |= values_of(functools.partial(rm.ece, norm=norm, **of), *arrays)
    assert {name: x.item() for name, x in values.items()} == pytest.approx(wanted, rel=1e-6)


def test_errors_do_not_depend_on_the_unit_of_weights():
    rng = np.random.default_rng(0)
    p, w = click_rates(rng, 300, rate=0.0), rng.random(300).astype(np.float32)
    y = rng.random(300) < p
    values = [values_of(rm.ece, p, y, scale * w) for scale in (1, 1e6, 1e-6)]
    for (name, wanted), other in itertools.product(values[0].items(), values[1:]):
        np.testing.assert_allclose(other[name], wanted, rtol=1e-6, err_msg=name)


def test_without_weight_all_is_undefined_and_of_one_example_what_is_debiased():
    def of_norms(**options):
        return rm.collection({norm: rm.ece(norm=norm, **options) for norm in NORMS})

    none = values_of(of_norms, [0.5, 0.001], [1, 0], [0, 0])
    assert all(np.isnan(x) for x in none.values())
    one = values_of(of_norms, [0.5, 0.001], [1, 0])
    is_debiased = {name: name.endswith("debiased") for name in one}
    assert sum(is_debiased.values()) == 2
    assert {name: bool(np.isnan(x)) for name, x in one.items()} == is_debiased
    filled = values_of(of_norms, [0.5, 0.001], [1, 0], undefined=7.0)
    assert {name: bool(x == 7) for name, x in filled.items()} == is_debiased


# Bias: tasks are replicates.


REPLICATES, EXAMPLES = 400, 300
DRAWS = {
    "equal": lambda rng: np.ones((REPLICATES, EXAMPLES)),
    "exponential": lambda rng: rng.exponential(size=(REPLICATES, EXAMPLES)),
}


@functools.cache
def replicates(weights, off):
    """Mean values and their standard errors, of predictions whose true rates are ``off`` more."""
    rng = np.random.default_rng(0)
    p = (0.05 + 0.1 * rng.integers(0, 9, (REPLICATES, EXAMPLES))).astype(np.float32)
    y, w = rng.random(p.shape) < p + off, DRAWS[weights](rng)
    of = {"bins": 10, "spacing": "uniform", "n_tasks": REPLICATES}
    metric = rm.collection({norm: rm.ece(norm=norm, **of) for norm in ("l1", "l2")})
    values = metric.compute(metric.update(metric.init(), rm.make_batch(p, y, w)))
    columns = {name.split("lifetime_")[1]: np.asarray(x, float) for name, x in values.items()}
    return {k: (x.mean(), x.std() / math.sqrt(REPLICATES)) for k, x in columns.items()}


@pytest.mark.parametrize("weights", DRAWS)
@pytest.mark.parametrize("off", [0.0, 0.02, 0.1])
def test_debiased_errors_are_nearer_to_the_truth_than_plain_ones(weights, off):
    values = replicates(weights, off)
    plain, bias = values["ece_l2_squared"][0] - off**2, values["ece_l2_squared_debiased"]
    assert plain > 10 * bias[1]
    assert abs(bias[0] - off**2) < 4 * bias[1]
    plain, debiased = (values[name][0] - off for name in ("ece", "ece_debiased"))
    error = values["ece_debiased"][1]
    assert abs(debiased) < 0.7 * plain + 4 * error
    if off == 0:
        # As of a normal variable: 2 sqrt(2 / pi) - 2 / sqrt(pi) of its deviation are left.
        assert plain > 20 * error
        assert debiased / plain == pytest.approx(2 - math.sqrt(2), abs=0.05)


def test_bins_of_equal_weight_have_less_bias_than_bins_of_equal_width():
    rng = np.random.default_rng(0)
    p = (rng.beta(0.5, 3, (100, EXAMPLES)) * 0.999).astype(np.float32)
    y = rng.random(p.shape) < p
    values = {
        spacing: values_of(functools.partial(rm.ece, norm="l2", bins=15, spacing=spacing), p, y)
        for spacing in ("uniform", "quantile")
    }
    share, plain = (
        {spacing: x[name].mean() for spacing, x in values.items()}
        for name in ("ece_debiased_share", "ece_l2")
    )
    assert share["uniform"] < share["quantile"] == 1
    assert plain["quantile"] < 0.9 * plain["uniform"]


def test_the_mean_size_of_a_normal_variable():
    x = np.linspace(-12, 12, 400_001)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    with jax.enable_x64(True):
        for mean, deviation in ((0.0, 1.0), (0.3, 0.2), (0.01, 0.5), (2.0, 1e-3)):
            wanted = np.trapezoid(np.abs(mean + deviation * x) * density, x)
            got = folded_mean(jnp.asarray(mean), jnp.asarray(deviation))
            np.testing.assert_allclose(got, wanted, rtol=1e-8)
        got = folded_mean(jnp.array([0.0, 0.3]), jnp.zeros(2))
        assert got.tolist() == [0, 0.3]
