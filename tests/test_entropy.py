"""Normalized entropy by its options: of a base rate, what is gained, and logloss in nats."""

import math
import re

import numpy as np
import pytest
from sklearn.metrics import log_loss

import recmetrics_jax as rm

pytestmark = pytest.mark.once


def values_of(metric, *arrays):
    values = metric.compute(metric.update(metric.init(), rm.make_batch(*arrays)))
    return {name.removeprefix("lifetime_"): x.item() for name, x in values.items()}


def stream(seed=0, examples=500):
    rng = np.random.default_rng(seed)
    p = rng.random(examples).astype(np.float32)
    return p, (rng.random(examples) < p).astype(np.float32), rng.integers(0, 5, examples)


def test_logloss_in_nats_is_that_of_scikit_learn():
    p, y, w = stream()
    values = values_of(rm.ne(logloss=True, nats=True), p, y, w)
    wanted = log_loss(y, p.astype(float), sample_weight=w)
    assert values["logloss_nats"] == pytest.approx(wanted, rel=1e-6)
    assert values["logloss"] == pytest.approx(wanted / math.log(2), rel=1e-6)
    values = values_of(rm.unweighted_ne(nats=True), p, y, w)
    assert values["unweighted_logloss_nats"] == pytest.approx(log_loss(y, p.astype(float)), 1e-6)


def test_logloss_in_nats_never_has_the_name_of_that_in_bits():
    arrays = [0.5], [1]
    assert list(values_of(rm.ne(nats=True), *arrays)) == ["ne", "logloss_nats"]
    assert list(values_of(rm.ne(logloss=True), *arrays)) == ["ne", "logloss"]
    assert values_of(rm.ne(logloss=True), *arrays)["logloss"] == 1
    assert values_of(rm.ne(nats=True), *arrays)["logloss_nats"] == pytest.approx(math.log(2))


def test_what_is_gained_is_what_ne_leaves_to_one():
    # 2 bits and log2(4/3) bits, of an entropy of 1 bit each.
    values = values_of(rm.ne(relative=True), [0.75, 0.25, 0.75, 0.75], [0, 0, 1, 1])
    wanted = (2 + 3 * math.log2(4 / 3)) / 4
    assert values["ne"] == pytest.approx(wanted, rel=1e-6)
    assert values["rig"] == pytest.approx(1 - wanted, rel=1e-6)
    assert values["rce"] == pytest.approx(100 * (1 - wanted), rel=1e-6)


@pytest.mark.parametrize("base_rate", [0.01, 0.97, 1e-30])
def test_always_predicting_the_base_rate_has_an_ne_of_one(base_rate):
    """Whatever the labels and weights are; of 1e-30, predictions are clamped."""
    _, y, w = stream()
    values = values_of(rm.ne(base_rate=base_rate, relative=True), np.full(500, base_rate), y, w)
    if base_rate > 1e-12:
        assert values["ne"] == pytest.approx(1, rel=1e-6)
        assert values["rig"] == pytest.approx(0, abs=1e-6)
    else:
        assert values["ne"] == pytest.approx(12 / 30, rel=1e-6)


def test_ne_of_the_base_rate_that_labels_have_is_ne():
    p, y, w = stream()
    mean = float(np.sum(w * y) / np.sum(w))
    plain = values_of(rm.ne(), p, y, w)["ne"]
    assert values_of(rm.ne(base_rate=mean), p, y, w)["ne"] == pytest.approx(plain, rel=1e-6)


def test_ne_of_a_base_rate_is_defined_of_one_class_and_not_of_none():
    # 1 bit, where the base rate has 2.
    metric = rm.ne(base_rate=0.25)
    assert values_of(metric, [0.5, 0.5], [1, 1])["ne"] == 0.5
    assert math.isnan(values_of(rm.ne(), [0.5, 0.5], [1, 1])["ne"])
    assert math.isnan(values_of(metric, [0.5, 0.5], [1, 1], [0, 0])["ne"])
    assert values_of(rm.ne(base_rate=0.25, undefined=3.0), [0.5], [1], [0])["ne"] == 3


@pytest.mark.parametrize("bad", [0, 1, 1.5, -0.1, math.nan, "0.5", True])
def test_a_base_rate_that_is_no_rate_is_refused(bad):
    for make in (rm.ne, rm.unweighted_ne):
        with pytest.raises(ValueError, match=re.escape("base_rate: expected a number")):
            make(base_rate=bad)
