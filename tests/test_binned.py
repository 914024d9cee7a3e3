"""AUC and AUPRC from histograms: bins near 0 and 1, bounds that hold, and a second pass."""

import functools
import itertools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles_order as oracles
import pytest

import recmetrics_jax as rm
from recmetrics_jax._src import bounds
from recmetrics_jax._src.score_bins import (
    MIDDLE,
    TINY,
    Bins,
    bins_of_ranges,
    keys_of,
    scores_between,
    sizes_of,
)

pytestmark = pytest.mark.numerics

NAMES = ("", "_lower", "_upper")
AREAS: Any = {
    "binned_auc": (rm.binned_auc, oracles.auc),
    "binned_auprc": (rm.binned_auprc, oracles.auprc),
}
ROUNDED = 2.0**-24
"""What a value is off by for being a float32."""


def exact(p, y, w=None):
    """AUC and AUPRC of many examples, by their distinct scores, in float64."""
    w = np.ones(len(p)) if w is None else np.asarray(w, float)
    levels, at = np.unique(p, return_inverse=True)
    positives, negatives = (
        np.bincount(at, weights, len(levels))[::-1] for weights in (w * y, w * (1 - y))
    )
    above, until = np.cumsum(positives) - positives, np.cumsum(positives)
    pairs = np.sum(negatives * (above + positives / 2)) / (positives.sum() * negatives.sum())
    predicted = until + np.cumsum(negatives)
    precision = until / np.where(predicted > 0, predicted, 1)
    return {"binned_auc": pairs, "binned_auprc": np.sum(positives * precision) / positives.sum()}


@functools.cache
def jitted(metric):
    return jax.jit(metric.update), metric.compute


def state_of(metric, p, y, w=None, parts=4):
    update = jitted(metric)[0]
    state = metric.init()
    for rows in np.array_split(np.arange(len(p)), parts):
        batch = rm.make_batch(p[rows], y[rows], None if w is None else w[rows])
        state = update(state, batch)
    return state


def values_of(metric, state, scope="lifetime"):
    """By name, the values of the only task."""
    values: Any = metric.compute(state)
    return {k.removeprefix(f"{scope}_"): float(x[0]) for k, x in values.items() if scope in k}


# Scores and their bins.


def floats():
    """float32 from 0 up: some of all, and all around powers of two."""
    bits = [np.arange(0, 0x7F800001, 99_991)]
    bits += [np.clip((e << 23) + np.arange(-9, 10), 0, 0x7F800000) for e in range(256)]
    bits.append((126 << 23) + np.arange(0, 1 << 23, 997))
    return np.unique(np.concatenate(bits)).astype(np.uint32).view(np.float32)


def test_keys_are_in_the_order_of_scores_of_any_scale():
    x = floats()
    for keys in (keys_of(x, np), np.asarray(keys_of(jnp.asarray(x)))):
        steps = np.diff(keys.astype(np.int64))
        assert (steps >= 0).all()
        assert (steps[x[1:] >= 2.0**-103] > 0).all()
        assert steps[0] > 0  # 0 has a key of its own.
    positive, negative = (keys_of(s * x[1:], np).astype(np.int64) for s in (1, -1))
    assert (positive + negative == 2 * MIDDLE - 1).all()
    assert keys_of(np.array([-0.0, 0.0], np.float32), np).tolist() == [MIDDLE, MIDDLE]


def test_bins_near_1_are_those_near_0():
    """p and 1 - p, where both are float32, lie as far from that of 1/2."""
    p = np.arange(1, 1 << 23, 101).astype(np.float32) / 2**24
    (half,) = keys_of(np.array([0.5], np.float32), np).astype(np.int64)
    below, above = (keys_of(x, np).astype(np.int64) - half for x in (p, 1 - p))
    assert (below == -above).all()


def test_scores_of_bfloat16_have_a_bin_each():
    bits = np.arange(0x7F80, dtype=np.uint32) << 16
    bits = bits[(bits == 0) | (bits >= TINY)]
    x = bits.view(np.float32)
    x = np.unique(np.concatenate([-x, x]))
    bins = np.asarray(Bins(65_536).places(jnp.asarray(x)))
    assert len(np.unique(bins)) == len(x)


@pytest.mark.parametrize(
    "bins",
    [
        Bins(2),
        Bins(4096),
        Bins(65_536),
        Bins(256, ((200, 200, 4),)),
        Bins(65_536, ((48_000, 48_010, 256), (48_012, 48_960, 2))),
        Bins(65_536, ((0, 1, 4), (2, 2, 8), (32_768, 32_769, 65_536), (65_407, 65_408, 64))),
    ],
    ids=repr,
)
def test_a_bin_says_which_scores_it_holds(bins):
    x = np.concatenate([-floats()[::-7], floats()[::3]])
    x = np.unique(np.concatenate([x, [0.03, 1e-45, -1e-45]]).astype(np.float32))
    first = bins.first_keys()
    assert len(first) == bins.size
    places = np.asarray(bins.places(jnp.asarray(x)))
    keys = keys_of(x, np).astype(np.int64)
    np.testing.assert_array_equal(places, np.searchsorted(first, keys, side="right") - 1)
    has_one = bins.scores_in() <= 1
    assert not has_one[np.bincount(places, minlength=bins.size) > 1].any()
    last = np.append(first[1:], 1 << 32) - 1
    some = np.unique(places)[::97]
    between = [scores_between(int(first[place]), int(last[place])) for place in some]
    edges = np.array(between, np.float32)
    np.testing.assert_array_equal(has_one[some], edges[:, 0] == edges[:, 1])
    inside, outside = (
        np.asarray(bins.places(jnp.asarray(x)))
        for x in (edges, np.nextafter(edges, np.array([-np.inf, np.inf], np.float32)))
    )
    assert (inside == some[:, None]).all()
    assert ((outside != some[:, None]) | np.isinf(edges)).all()


def test_smallest_scores_of_keys_are_where_they_begin():
    rng = np.random.default_rng(0)
    octaves = np.array(
        [0, 1 << 21, 1 << 23, 103 << 23, 126 << 23, (126 << 23) + (1 << 22), 127 << 23]
    )
    around = np.clip(octaves[:, None] + np.arange(-5, 6), 1, None).ravel()
    keys = np.concatenate([rng.integers(1, 0x7F800000, 20_000), around])

    def key(sizes):
        return keys_of(sizes.astype(np.uint32).view(np.float32), np).astype(np.int64) - MIDDLE

    sizes = sizes_of(keys)
    assert (key(sizes) >= keys).all()
    assert (key(sizes - 1) < keys).all()


# Bounds.


def logistic(x):
    return 1 / (1 + np.exp(-x))


SCORES = {
    "uniform": lambda rng, z, y: logistic(z + y),
    "click rates": lambda rng, z, y: logistic(z + y - 4),
    "near 1": lambda rng, z, y: 1 - 1e-3 * np.exp(0.35 * (z - 0.5 * y)),
    "close together": lambda rng, z, y: 0.03 + 2e-5 * (z + 0.9 * y),
    "logits": lambda rng, z, y: 3 * z + y,
    "ten levels": lambda rng, z, y: np.round(logistic(z + y), 1),
    "bfloat16": lambda rng, z, y: np.asarray(jnp.asarray(logistic(z + y - 4), jnp.bfloat16), float),
    "cut": lambda rng, z, y: np.clip(0.5 + 0.5 * (z + y), 0, 1),
    "one score": lambda rng, z, y: np.full(len(z), 0.3),
    "huge and tiny": lambda rng, z, y: np.sign(z) * 10.0 ** (30 * (z + y)).clip(-45, 38),
}
WEIGHTS = {
    "copies": lambda rng, y: rng.integers(0, 3, len(y)),
    "downsampled": lambda rng, y: np.where(y > 0.5, 1, 0.003),
    "of all sizes": lambda rng, y: 10.0 ** rng.uniform(-6, 6, len(y)),
}


@pytest.mark.parametrize("bins", [16, 1024, 65_536])
@pytest.mark.parametrize("scores", SCORES)
def test_bounds_hold_the_exact_area(scores, bins):
    rng = np.random.default_rng(1)
    metric = rm.collection({name: make(bins=bins) for name, (make, _) in AREAS.items()})
    for weights, is_soft in [(w, False) for w in WEIGHTS] + [("of all sizes", True)]:
        z, y = rng.normal(size=1500), (rng.random(1500) < 0.2).astype(float)
        p = SCORES[scores](rng, z, y).astype(np.float32)
        y = (0.8 * y + 0.2 * rng.random(1500)).astype(np.float32) if is_soft else y
        w = WEIGHTS[weights](rng, y).astype(np.float32)
        values = metric.compute(state_of(metric, p, y, w))
        for name, wanted in exact(p, y, w).items():
            value, lower, upper = (float(values[f"{name}/lifetime_{name}{of}"][0]) for of in NAMES)
            context = f"{name}, {weights}"
            # Each is a float32, and so are the products w y.
            assert lower - 2 * ROUNDED <= wanted <= upper + 2 * ROUNDED, context
            assert lower <= value <= upper, context


@pytest.mark.parametrize("scores", ["near 1", "cut"])
def test_near_0_and_1_little_is_left_open(scores):
    """.5017 for .6349, where all above 1/2 have 128 bins."""
    rng = np.random.default_rng(2)
    z, y = rng.normal(size=50_000), (rng.random(50_000) < 0.5).astype(float)
    p = SCORES[scores](rng, z, y).astype(np.float32)
    metric = rm.binned_auc()
    values = values_of(metric, state_of(metric, p, y))
    assert abs(values["binned_auc"] - exact(p, y)["binned_auc"]) < 1e-5
    assert values["binned_auc_upper"] - values["binned_auc_lower"] < 0.005


def test_bounds_meet_where_no_bin_holds_both_classes():
    rng = np.random.default_rng(3)
    p = (rng.permutation(400).astype(np.float32) + 1) / 2**9  # Of 9 bits: a bin each, or two.
    bin_of = np.asarray(Bins(65_536).places(jnp.asarray(p)))
    y = (bin_of * 7 % 5 < 2).astype(np.float32)
    metric = rm.binned_auc()
    values = values_of(metric, state_of(metric, p, y))
    assert values["binned_auc_lower"] == values["binned_auc"] == values["binned_auc_upper"]
    assert values["binned_auc"] == np.float32(exact(p, y)["binned_auc"])


def test_scores_of_0_and_1_are_known_to_be_tied():
    p = np.array([0, 0, 0, 1, 1, 1 - 2**-24, -0.0], np.float32)
    y = np.array([1, 0, 0, 1, 0, 0, 0.0])
    for name, (make, oracle) in AREAS.items():
        values = values_of(make(), state_of(make(), p, y, parts=1))
        for of in NAMES:
            np.testing.assert_allclose(values[name + of], oracle(p, y, np.ones(7)), rtol=1e-6)


def in_bins(histogram, is_tied=(False,)):
    """The areas of a histogram ``[2, B]``, with bounds, by name."""
    with jax.enable_x64(True):
        bins = bounds.Bins.of(jnp.asarray(histogram, jnp.float64), jnp.asarray(is_tied))
        of = {"binned_auc": bounds.roc_area, "binned_auprc": bounds.precision_recall_area}
        return {name: [float(jnp.sum(x)) for x in area(bins)] for name, area in of.items()}


def test_bounds_are_those_of_all_orders_in_a_bin():
    """Weights are one, so that bounds of AUC are attained, and the upper one of AUPRC."""
    y = np.array([1, 1, 1, 0, 0])
    above = np.array([1, 0]), np.array([10, 10])
    found = {name: [math.inf, -math.inf] for name in AREAS}
    for order in itertools.product(range(5), repeat=5):
        p, labels = np.concatenate([above[1], order]), np.concatenate([above[0], y])
        for name, value in exact(p, labels).items():
            found[name] = [min(found[name][0], value), max(found[name][1], value)]
    areas = in_bins([[3, 1], [2, 1]], [False, True])
    (_, *auc), (_, *auprc) = areas["binned_auc"], areas["binned_auprc"]
    np.testing.assert_allclose(auc, found["binned_auc"], rtol=1e-12)
    np.testing.assert_allclose(auprc[1], found["binned_auprc"][1], rtol=1e-12)
    # As near as three of weight one come.
    assert 0.9 * found["binned_auprc"][0] < auprc[0] <= found["binned_auprc"][0]


def below(place, positives, negatives, parts=4000):
    """Scores, labels and weights of a bin with its positives below its negatives, all different."""
    p = place + np.array([0.9, *np.linspace(0.5, 0.1, parts)])
    y = np.array([0.0, *np.ones(parts)])
    # The first ones the smallest, since above them may be next to nothing.
    return (
        p,
        y,
        np.array([negatives, *np.diff(positives * np.geomspace(1e-9, 1, parts), prepend=0)]),
    )


def test_bounds_of_average_precision_are_those_of_all_weights_and_orders():
    """Random scores and weights never leave them; the lower one is where weights are small."""
    rng = np.random.default_rng(4)
    for _ in range(60):
        histogram = rng.random((2, 3)) * 10.0 ** rng.uniform(-2, 2, (2, 3))
        histogram *= rng.random((2, 3)) < 0.8
        histogram[0, 1] += 1e-3
        _, lower, upper = in_bins(histogram)["binned_auprc"]
        for sizes in (1, 2, 5):
            p, y, w = [], [], []
            for (label, of_class), place in itertools.product(enumerate(histogram), range(3)):
                parts = rng.dirichlet(np.ones(sizes)) * of_class[place]
                p += list(place + rng.integers(0, rng.integers(1, 9), sizes) / 8)
                y += [1 - label] * sizes
                w += list(parts)
            # Without float32 between.
            value = oracles.auprc(*(np.array(x, float) for x in (p, y, w)))
            assert lower * (1 - 1e-12) <= value <= upper * (1 + 1e-12)
        worst = [np.concatenate(x) for x in zip(*map(below, range(3), *histogram), strict=True)]
        assert lower <= exact(*worst)["binned_auprc"] <= lower + (upper - lower) * 0.05
        best = [
            np.repeat([0.0, 1, 2], 2) + [0, 0.5] * 3,
            np.tile([0.0, 1], 3),
            histogram[::-1].T.ravel(),
        ]
        np.testing.assert_allclose(oracles.auprc(*best), upper, rtol=1e-12)


def test_what_is_undefined_has_no_bounds_either():
    for make, (y, undefined) in itertools.product(
        (rm.binned_auc, rm.binned_auprc), (([0, 0], math.nan), ([0, 0], 0.5))
    ):
        metric = make(bins=256, undefined=undefined)
        state = metric.update(metric.init(), rm.make_batch([0.5, 0.4], y))
        np.testing.assert_array_equal(list(values_of(metric, state).values()), [undefined] * 3)
        state = metric.update(state, rm.make_batch([math.nan], [1]))
        assert all(map(math.isnan, values_of(metric, state).values()))


# A second pass.


def two_tasks(rng, size):
    """Of one task scores close together, of the other near 1."""
    z, y = rng.normal(size=(2, size)), (rng.random((2, size)) < 0.5).astype(float)
    scores = [
        SCORES[name](rng, *x) for name, *x in zip(("close together", "near 1"), z, y, strict=True)
    ]
    return np.stack(scores).astype(np.float32), y


def of_files(metric, files):
    """The state of all files, each counted by itself."""
    update = jitted(metric)[0]
    states = [update(metric.init(), rm.make_batch(*file)) for file in files]
    return functools.reduce(metric.merge, states)


def test_a_second_pass_over_files_gives_the_exact_area():
    """.5414 for .7424: the first pass says so, and the second knows."""
    rng = np.random.default_rng(5)
    files = [two_tasks(rng, 5000) for _ in range(6)]
    p, y = (np.concatenate(x, axis=1) for x in zip(*files, strict=True))
    wanted = [exact(*task) for task in zip(p, y, strict=True)]
    first = rm.collection({"auc": rm.binned_auc, "auprc": rm.binned_auprc}, n_tasks=2)
    state = of_files(first, files)
    open_ = first.compute(state)
    ranges = rm.ranges_to_refine(first, state)
    makers = {
        name: functools.partial(make, refine=ranges)
        for name, make in {"auc": rm.binned_auc, "auprc": rm.binned_auprc}.items()
    }
    second = rm.collection(makers, n_tasks=2)
    values = second.compute(of_files(second, files))
    for name, (task, of_task) in itertools.product(("auc", "auprc"), enumerate(wanted)):
        exact_value = of_task[f"binned_{name}"]
        key = f"{name}/lifetime_binned_{name}"
        before, after = (
            [float(of[f"{key}{bound}"][task]) for bound in ("_lower", "_upper")]
            for of in (open_, values)
        )
        assert before[0] < exact_value < before[1]
        assert before[1] - before[0] > (0.1 if task == 0 else 0.001)
        assert after[0] - ROUNDED <= exact_value <= after[1] + ROUNDED
        assert after[1] - after[0] < 1e-5
        np.testing.assert_allclose(values[key][task], exact_value, rtol=2e-6)
    # Both areas have one histogram, in which the second pass cut bins.
    assert len({x.parts.shape for x in second.init().histograms}) == 1
    assert second.init().histograms[0].parts.shape[1] > 2 * 65_536


def test_enough_parts_leave_nothing_open():
    rng = np.random.default_rng(6)
    z, y = rng.normal(size=20_000), (rng.random(20_000) < 0.5).astype(float)
    p = SCORES["close together"](rng, z, y).astype(np.float32)
    for name, (make, _) in AREAS.items():
        metric = make()
        ranges = rm.ranges_to_refine(metric, state_of(metric, p, y))
        assert len(ranges) == 1
        metric = make(refine=ranges)
        values = values_of(metric, state_of(metric, p, y))
        if name == "binned_auc":
            assert values["binned_auc_lower"] == values["binned_auc_upper"]
        np.testing.assert_allclose(values[name], exact(p, y)[name], rtol=1.2e-7)


def test_of_spread_scores_a_second_pass_leaves_as_much_less_open_as_it_has_more_bins():
    rng = np.random.default_rng(7)
    z, y = rng.normal(size=50_000), (rng.random(50_000) < 0.1).astype(float)
    p = SCORES["click rates"](rng, z, y).astype(np.float32)
    first = rm.binned_auc(bins=4096)
    state = state_of(first, p, y)
    widths = []
    for parts in (2, 4096, 65_536):
        ranges = rm.ranges_to_refine(first, state, parts=parts)
        metric = rm.binned_auc(bins=4096, refine=ranges)
        values = values_of(metric, state_of(metric, p, y))
        lower, upper = values["binned_auc_lower"], values["binned_auc_upper"]
        assert lower <= exact(p, y)["binned_auc"] <= upper
        widths.append(upper - lower)
    assert widths[1] < widths[0] / 16
    assert widths[2] < widths[1] / 8


def test_windows_have_bounds_and_refine_too():
    rng = np.random.default_rng(8)
    z, y = rng.normal(size=3000), (rng.random(3000) < 0.5).astype(float)
    p = SCORES["close together"](rng, z, y).astype(np.float32)
    first = rm.binned_auc(bins=4096, window=1500, slots=8)
    state = state_of(first, p, y)
    ranges = rm.ranges_to_refine(first, state)
    for metric in (first, rm.binned_auc(bins=4096, window=1500, slots=8, refine=ranges)):
        of_window = values_of(metric, state_of(metric, p, y), "window")
        newest = values_of(metric, state_of(metric, p[1500:], y[1500:], parts=2))
        np.testing.assert_allclose(list(of_window.values()), list(newest.values()), rtol=2e-7)


def test_where_nothing_is_open_nothing_is_refined():
    metric = rm.binned_auc()
    assert rm.ranges_to_refine(metric, metric.init()) == ()
    state = metric.update(metric.init(), rm.make_batch([0.9, 0.1], [1, 0]))
    assert rm.ranges_to_refine(metric, state) == ()
    assert rm.binned_auc(refine=()) == metric
    state = metric.update(metric.init(), rm.make_batch([math.nan, 0.1], [1, 0]))
    assert rm.ranges_to_refine(metric, state) == ()


def test_ranges_cut_the_bins_that_they_touch():
    wanted = bins_of_ranges(65_536, ((0.03, 0.0301, 64),))
    (first, last, parts) = wanted.cut[0]
    assert (last - first, parts) == (1, 64)
    for ranges in ([[0.03, 0.0301, 64]], ((0.0301, 0.0301, 64), (0.03, 0.03, 64))):
        assert bins_of_ranges(65_536, ranges) == wanted
    both = bins_of_ranges(65_536, ((0.03, 0.03, 2), (0.03, 0.0301, 64), (0.0301, 0.0301, 128)))
    assert both.cut == ((first, first, 64), (last, last, 128))
    everything = bins_of_ranges(65_536, ((-math.inf, math.inf, 4),))
    assert 3.98 < everything.size / 65_536 < 4
    some: Any = ((np.float32(0.5), np.int64(1), np.int32(2)),)
    assert rm.binned_auc(refine=some) == rm.binned_auc(refine=((0.5, 1.0, 2),))
    assert repr(rm.binned_auc(refine=some)) == "binned_auc(refine=((0.5, 1, 2),))"


factories: Any = rm
REFINED = rm.binned_auc(refine=((0.1, 0.2, 4),))


def refined(*ranges):
    return lambda: factories.binned_auc(refine=ranges)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (refined(0.1, 0.2, 2), "refine: expected ranges of scores, and into how many parts a bin"),
        (refined((0.1, 0.2)), "refine: expected ranges of scores, and into how many parts"),
        (lambda: factories.binned_auc(refine=0.1), "refine: expected ranges of scores, and into"),
        (refined((0.2, 0.1, 2)), "refine: expected ranges from low to high, got (0.2, 0.1, 2)"),
        (refined(("a", 1, 2)), "refine: expected a number, got 'a'"),
        (refined((math.nan, 1, 2)), "refine: expected a number to compare with, got nan"),
        (refined((0, 1, 3)), "refine: expected a power of two of parts, got 3"),
        (refined((0, 1, 1)), "refine: expected a whole number of at least 2, got 1"),
        (refined((0, 1, 1 << 17)), "refine: expected a whole number of at most 65,536"),
        (refined((-9, 9, 65_536)), "refine: expected at most 1,073,741,824 bins in all, got 2,"),
        (
            lambda: factories.ranges_to_refine(rm.auc(window=5), None),
            "metric: expected binned_auc(), binned_auprc(), or a collection of them",
        ),
        (lambda: factories.ranges_to_refine(REFINED, REFINED.init()), "and without refine, got"),
        (
            lambda: factories.ranges_to_refine(rm.binned_auc(), rm.binned_auc(bins=8).init()),
            "state: expected a state of this metric",
        ),
    ],
)
def test_misuse_is_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
