"""Ranks among sampled items: what they tell of those in the full catalogue."""

import math

import numpy as np
import pytest

import recmetrics_jax as rm
from recmetrics_jax._src.metrics.catalogue import discount, one
from recmetrics_jax._src.sampled import corrected, sampled_ranks

pytestmark = pytest.mark.once


def values_of(metric, batch):
    values = metric.compute(metric.update(metric.init(), batch))
    return {name.removeprefix("lifetime_"): value.item() for name, value in values.items()}


def batch_of(*rows):
    greater, tied = np.array(rows, np.int32).T
    return rm.make_rank_batch(rm.ops.Ranks(greater, tied))


# Ranks in a catalogue are drawn from u^a of a log-uniform law, and items by each way of sampling.
ITEMS, TARGETS, SAMPLED = 3000, 20_000, 300


@pytest.mark.parametrize("exponent", [0.6, 1.0, 1.6])
@pytest.mark.parametrize("with_replacement", [False, True])
def test_samples_are_corrected(with_replacement, exponent):
    """To a tenth of the value, where those uncorrected are off by two fifths and more."""
    rng = np.random.default_rng(0)
    ranks = np.floor(ITEMS ** rng.random(TARGETS) ** (1 / exponent)).astype(int)
    if with_replacement:
        above = rng.binomial(SAMPLED, (ranks - 1) / (ITEMS - 1))
    else:
        above = rng.hypergeometric(ranks - 1, ITEMS - ranks, SAMPLED)
    sampled = rm.Sampled(SAMPLED, ITEMS, with_replacement)
    batch = rm.make_rank_batch(above + 1)
    full = values_of(rm.rank_metrics(k=(10, 50)), rm.make_rank_batch(ranks))
    naive = values_of(rm.rank_metrics(k=(10, 50)), batch)
    estimates = values_of(rm.rank_metrics(k=(10, 50), sampled=sampled), batch)
    assert estimates.keys() == full.keys() - {"median_rank", "not_found"}
    for name in ("hit_rate_at_10", "ndcg_at_10", "mrr", "ndcg_at_50"):
        assert abs(estimates[name] / full[name] - 1) < 0.1, name
        assert naive[name] / full[name] > 1.4, name
    np.testing.assert_allclose(estimates["mean_rank"], full["mean_rank"], rtol=0.02)


@pytest.mark.parametrize("above", [0, 1, 7, 19])
def test_sampled_ranks_are_as_likely_as_they_come(above):
    """Of 19 other items 5, against the fractions of draws."""
    rng = np.random.default_rng(above)
    for with_replacement in (False, True):
        draws = [np.sum(rng.choice(19, 5, with_replacement) < above) for _ in range(4000)]
        fractions = np.bincount(draws, minlength=6) / 4000
        sampled = rm.Sampled(5, 20, with_replacement)
        np.testing.assert_allclose(
            sampled_ranks(np.array([above]), sampled)[0], fractions, atol=4 / math.sqrt(4000)
        )


def test_where_all_items_are_sampled_nothing_is_corrected():
    """Ranks are those in the catalogue, and have no variance."""
    sampled = rm.Sampled(30, 31)
    for gain in (one, discount):
        wanted = np.where(np.arange(1, 32) <= 5, gain(np.arange(1.0, 32)), 0)
        np.testing.assert_allclose(corrected(sampled, ((gain, 5),))[0], wanted, atol=1e-9)


def test_corrections_trade_bias_for_variance_best():
    sampled = rm.Sampled(8, 60, gamma=0.2)
    likelihood = sampled_ranks(np.arange(60), sampled)
    ranks = np.arange(1.0, 61)
    gains = np.where(ranks <= 7, discount(ranks), 0)

    def loss(x):
        mean = likelihood @ x
        variance = likelihood @ x**2 - mean**2
        # Of ranks as likely as a number between r - 1/2 and r + 1/2 is that is log-uniform.
        prior = np.log((ranks + 0.5) / (ranks - 0.5))
        return np.sum(prior * ((mean - gains) ** 2 + 0.2 * variance))

    best = corrected(sampled, ((discount, 7),))[0]
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-1):
        assert all(loss(best) < loss(best + size * rng.normal(size=9)) for _ in range(20))


@pytest.mark.parametrize("rows", [[(0, 0), (11, 0)], [(0, 0), (5, -1)]], ids=["beyond", "unknown"])
def test_ranks_that_no_sample_gives_are_undefined(rows):
    metric = rm.rank_metrics(k=3, sampled=(10, 50))
    values = values_of(metric, batch_of(*rows))
    assert all(math.isnan(value) for value in values.values())
    values = values_of(metric, batch_of((0, 0), (10, 0), (7, 3)))
    assert not any(math.isnan(value) for value in values.values())
