"""What is out of the domain of a formula is NaN for that metric and task, and it is counted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ALIKE, ALL, CLASSES, COUNTS, ORDER, SUMS, heavy_where, metric_of
from drawing import arrays, batch_of
from drawing import keys_of as keys_of_case

import recmetrics_jax as rm

pytestmark = pytest.mark.once

WEIGHTS = {"weights_below_0"}
BINARY = {"labels_below_0", "labels_above_1"} | WEIGHTS
PROBABILITIES = {"predictions_below_0", "predictions_above_1"}

OF_SESSIONS = ("recall_at", "precision_at", "hit_rate", "mrr", "average_precision")
OF_PAIRS = ("xauc", "grouped_xauc", "grouped_rauc", "pairwise_auc")
OF_SESSIONS += ("session_auc", "pooled_recall_at", "recall_at_of_window")

# What the formula of each case excludes.
EXCLUDES = {
    "ne": PROBABILITIES | BINARY,
    "ne_of_base_rate": PROBABILITIES | BINARY,
    "unweighted_ne": PROBABILITIES | BINARY - WEIGHTS,
    "calibration": {"predictions_below_0", "labels_below_0"} | WEIGHTS,
    "field_calibration_error": {"predictions_below_0", "labels_below_0"} | WEIGHTS,
    "reliability": PROBABILITIES | BINARY,
    "ece": PROBABILITIES | BINARY,
    "brier": PROBABILITIES | BINARY,
    "ctr": BINARY,
    "mse": WEIGHTS,
    "mae": WEIGHTS,
    "r_squared": WEIGHTS,
    "weighted_avg": WEIGHTS,
    **dict.fromkeys(("average", "nmse", "bias", "mape", "smape", "pinball_loss"), WEIGHTS),
    **dict.fromkeys(("effective_sample_size", "scalar"), WEIGHTS),
    "msle": {"labels_below_0"} | WEIGHTS,  # From -1 down.
    "f_beta": BINARY,
    "accuracy": BINARY,
    "accuracy_at_0.3": BINARY,
    "precision": BINARY,
    "recall": BINARY,
    "recall_at_0.3": BINARY,
    "sample_metric": set(),
    "auc": BINARY,
    "grouped_auc": BINARY,
    "grouped_auprc": BINARY,
    "binned_auc": BINARY,
    "binned_auprc": BINARY,
    "ndcg": {"labels_below_0"} | WEIGHTS,
    "ndcg_at_2": {"labels_below_0"} | WEIGHTS,
    **dict.fromkeys(OF_SESSIONS, BINARY),
    **dict.fromkeys(OF_PAIRS, WEIGHTS),
    **dict.fromkeys(
        ("recall_at_precision", "precision_at_recall", "roc_curve", "pr_curve"), BINARY
    ),
    **{name: set() for name in COUNTS},
    "sum_weights": WEIGHTS,
    "positives": BINARY,
}


def of_formulas(values):
    """Values but for counts of examples beside them, which are never NaN."""
    return {
        name: value
        for name, value in values.items()
        if name.split("/")[0] in COUNTS or not name.endswith("_out_of_range_examples")
    }


# What to write where, for each cause.
OUTSIDE = {
    "predictions_below_0": (0, -0.25),
    "predictions_above_1": (0, 1.25),
    "labels_below_0": (1, -1.0),
    "labels_above_1": (1, 2.0),
    "weights_below_0": (2, -1.0),
}


def with_one(case, where, value, *, seed=1):
    """Examples of a case, two tasks; in the second, the first row has a value of its own."""
    batch = arrays(np.random.default_rng(seed), case, 2, 48)
    batch[3][1, 0] = True
    batch[where][1, 0] = value
    return batch


@pytest.mark.parametrize("cause", OUTSIDE)
@pytest.mark.parametrize("case", heavy_where([SUMS, ORDER, ALIKE], ORDER, ALIKE), ids=str)
def test_what_a_formula_excludes_makes_its_task_nan(case, cause):
    metric = metric_of(case, window=150)
    given = with_one(case, *OUTSIDE[cause])
    values = metric.compute(metric.update(metric.init(), batch_of(case, *given)))
    for name, value in of_formulas(values).items():
        is_excluded = cause in EXCLUDES[name.split("/")[0]]
        assert not np.isnan(value[0]).any(), name
        assert np.isnan(value[1]).all() == is_excluded, name


@pytest.mark.parametrize("where", [(1, 4.0), (1, -1.0), (1, 0.5), (2, -1.0)])
def test_a_label_that_is_no_class_makes_its_task_nan(where):
    metric = metric_of(CLASSES)
    batch = batch_of(CLASSES, *with_one(CLASSES, *where))
    for value in metric.compute(metric.update(metric.init(), batch)).values():
        assert np.isfinite(value[0]).all()
        assert np.isnan(value[1]).all()


@pytest.mark.parametrize("case", [SUMS], ids=str)
def test_a_window_is_nan_only_while_the_example_is_in_it(case):
    metric = metric_of(case, window=150)
    update = jax.jit(metric.update)
    state = update(metric.init(), batch_of(case, *with_one(case, 2, -1.0)))
    rng = np.random.default_rng(3)
    for _ in range(4):
        state = update(state, batch_of(case, *arrays(rng, case, 2, 48)))
    for name, value in of_formulas(metric.compute(state)).items():
        scope, excludes = name.split("/")[1], EXCLUDES[name.split("/")[0]]
        is_bad = scope.startswith("lifetime") and "weights_below_0" in excludes
        assert np.isnan(value[1]).all() == is_bad, name


@pytest.mark.parametrize("cause", [*OUTSIDE, "labels_between_0_and_1"])
def test_examples_out_of_the_domain_are_counted_by_cause(cause):
    where, value = OUTSIDE.get(cause, (1, 0.5))
    given = with_one(SUMS, where, value)
    given[3][1, 1], given[where][1, 1] = False, value  # Padding does not count.
    metric = rm.out_of_domain_examples(n_tasks=2, window=1000)
    values = metric.compute(metric.update(metric.init(), batch_of(SUMS, *given)))
    expected = {f"{scope}_examples_with_{cause}": [0, 1] for scope in ("lifetime", "window")}
    assert {name: x.tolist() for name, x in values.items() if x.any()} == expected


def test_bad_examples_count_for_nothing_else():
    metric = rm.collection(
        {"domain": rm.out_of_domain_examples(), "nonfinite": rm.nonfinite_examples()}
    )
    bad = rm.make_batch([np.inf, -np.inf, np.nan], [2, 0, -1], [-1, 1, 1])
    counts = {n: x.item() for n, x in metric.compute(metric.update(metric.init(), bad)).items()}
    assert counts.pop("nonfinite/lifetime_nonfinite_examples") == 3
    assert counts.pop("domain/lifetime_examples_with_predictions_below_0") == 1  # -inf is a score.
    assert not any(counts.values())


@pytest.mark.parametrize(
    ("dtype", "ulps", "is_one"),
    [
        (np.float32, 4, True),
        (np.float32, 5, False),
        (jnp.bfloat16, 4, True),
        (np.float16, 5, False),
    ],
)
def test_a_prediction_beyond_one_by_rounding_is_one(dtype, ulps, is_one):
    p = np.array([1 + ulps * float(jnp.finfo(dtype).eps), 0.5], dtype)
    metric = rm.ne()
    ne = [
        metric.compute(metric.update(metric.init(), rm.make_batch(x, [1, 0])))["lifetime_ne"]
        for x in (p, np.minimum(p, dtype(1)))
    ]
    assert ne[0] == ne[1] if is_one else np.isnan(ne[0])


BINARY_FACTORIES = {
    "ne": functools.partial(rm.ne, logloss=True),
    "unweighted_ne": rm.unweighted_ne,
    "calibration": rm.calibration,
    "reliability": functools.partial(rm.reliability, bins=3, spacing="quantile"),
    "ece": functools.partial(rm.ece, bins=3),
    "brier": rm.brier,
    "ctr": rm.ctr,
    "accuracy": rm.accuracy,
    "precision": rm.precision,
    "recall": rm.recall,
    "f_beta": rm.f_beta,
    "positives": rm.positives,
    "auc": functools.partial(rm.auc, window=1000, grouped=True),
    "auprc": functools.partial(rm.auprc, window=1000, grouped=True),
    "binned_auc": functools.partial(rm.binned_auc, bins=4096),
    "binned_auprc": functools.partial(rm.binned_auprc, bins=4096),
    "session_auc": rm.session_auc,
    "ndcg": rm.ndcg,
    "recall_at": functools.partial(rm.recall_at, k=3),
    "precision_at": functools.partial(rm.precision_at, k=3),
    "hit_rate": functools.partial(rm.hit_rate, k=3),
    "mrr": rm.mrr,
    "average_precision": rm.average_precision,
}


@pytest.mark.heavy
def test_a_threshold_makes_classes_of_any_labels():
    rng = np.random.default_rng(0)
    p, stars, w = rng.random(60), rng.integers(-2, 6, 60), rng.integers(0, 4, 60)
    groups = np.arange(60) % 5

    def values(labels, **options):
        metrics = {name: make(**options) for name, make in BINARY_FACTORIES.items()}
        metric = rm.collection(metrics)
        batch = rm.make_batch(p, labels, w, keys={"grouping_keys": groups, "session_id": groups})
        return metric.compute(metric.update(metric.init(), batch))

    expected = values(stars >= 3)
    for name, value in values(stars, label_threshold=3).items():
        assert np.isfinite(value).all(), name
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    with pytest.raises(ValueError, match="label_threshold: expected a number"):
        rm.precision(label_threshold=float("nan"))


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("largest", [1, 27])
def test_ne_of_logits_keeps_its_digits(dtype, largest):
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.uniform(-largest, largest, 5000), dtype)
    exact = np.asarray(z, np.float64)
    labels = rng.random(5000) < 1 / (1 + np.exp(-exact))
    bits = np.logaddexp(0, np.where(labels, -exact, exact)) / np.log(2)
    mean = labels.mean()
    entropy = -mean * np.log2(mean) - (1 - mean) * np.log2(1 - mean)
    metric = rm.ne(logloss=True)
    values = metric.compute(metric.update(metric.init(), rm.make_batch(z, labels, logits=True)))
    np.testing.assert_allclose(values["lifetime_logloss"], bits.mean(), rtol=1e-6)
    np.testing.assert_allclose(values["lifetime_ne"], bits.mean() / entropy, rtol=1e-6)


def test_each_logit_has_the_cross_entropy_of_its_probability():
    z = np.linspace(-27, 27, 109)
    for label in (0.0, 0.25, 1.0):
        exact = (label * np.logaddexp(0, -z) + (1 - label) * np.logaddexp(0, z)) / np.log(2)
        batch = rm.make_batch(z[:, None], np.full((109, 1), label), logits=True)
        metric = rm.ne(logloss=True, n_tasks=109)
        values = metric.compute(metric.update(metric.init(), batch))
        np.testing.assert_allclose(values["lifetime_logloss"], exact, rtol=1e-6)


@pytest.mark.heavy
def test_other_metrics_see_the_probabilities_of_logits():
    rng = np.random.default_rng(0)
    z, labels = rng.normal(size=(2, 48)), rng.random((2, 48)) < 0.5
    keys = keys_of_case(ORDER, 48)
    probabilities = jax.nn.sigmoid(jnp.asarray(z, jnp.float32))
    for case in (SUMS.without("ne", "unweighted_ne", "ne_of_base_rate"), ORDER):
        metric = metric_of(case)
        states = [
            metric.update(metric.init(), rm.make_batch(p, labels, keys=keys, logits=is_logit))
            for p, is_logit in ((z, True), (probabilities, False))
        ]
        expected = metric.compute(states[1])
        for name, value in metric.compute(states[0]).items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_logits_of_classes_are_a_softmax():
    logits = np.array([[[1.0, -np.inf, 2.0], [0.0, 0.0, 0.0]]])
    batch = rm.make_batch(logits, [[0, 1]], logits=True)
    assert batch.logits is None
    np.testing.assert_allclose(batch.predictions, jax.nn.softmax(jnp.asarray(logits)), rtol=1e-6)


def test_an_infinite_logit_is_a_probability_of_zero_or_bad():
    batch = rm.make_batch([-np.inf, np.inf, np.nan, 0.0], [0, 1, 1, 1], logits=True)
    assert batch.nonfinite.tolist() == [[False, True, True, False]]
    assert batch.predictions[0, 0] == 0


@pytest.mark.heavy
def test_logits_are_padded_windowed_and_left_out_like_predictions():
    rng = np.random.default_rng(0)
    z, labels = rng.normal(size=40), rng.random(40) < 0.5
    metric = rm.ne(window=30)
    plain = metric.update(metric.init(), rm.make_batch(z[10:], labels[10:], logits=True))
    batch = rm.make_padded_batch(z, labels, logits=True, smallest=64)
    padded = metric.update(metric.init(), batch)
    expected = metric.compute(plain)["window_ne"]
    np.testing.assert_allclose(metric.compute(padded)["window_ne"], expected, rtol=1e-7)
    for law in ("padding", "weights", "permutation"):
        rm.testing.LAWS[law](rm.ne(), [rm.make_batch(z, labels, logits=True)] * 3, 1e-6)


LOWEST = np.finfo(np.float32).min
BY_ORDER = heavy_where([ORDER, ALIKE, CLASSES], ORDER, ALIKE)


@pytest.mark.parametrize("case", BY_ORDER, ids=str)
@pytest.mark.parametrize("mask_nonfinite", [False, True])
def test_a_score_of_minus_infinity_is_the_lowest_score(case, mask_nonfinite):
    metric = metric_of(case)
    values = []
    for lowest in (-np.inf, LOWEST):
        p, y, w, mask = with_one(case, 2, 1.0)
        p[1, ::5] = lowest
        batch = batch_of(case, p, y, w, mask, mask_nonfinite=mask_nonfinite)
        values.append(metric.compute(metric.update(metric.init(), batch)))
    for name, value in values[1].items():
        # Some are of values; and only -inf has a bin to itself.
        of_values = ("sample_metric/", "field_calibration_error/")
        of_bins = ("_lower", "_upper", "_threshold", "_thresholds")
        if not name.startswith(of_values) and not name.endswith(of_bins):
            np.testing.assert_array_equal(values[0][name], value, err_msg=name)


def test_a_score_of_minus_infinity_is_bad_where_more_than_its_order_counts():
    metric = metric_of(SUMS, window=150)
    p, y, w, mask = with_one(SUMS, 0, -np.inf)
    values = metric.compute(metric.update(metric.init(), batch_of(SUMS, p, y, w, mask)))
    left_out = batch_of(SUMS, p, y, w, mask, mask_nonfinite=True)
    mask[1, 0] = False
    expected = metric.compute(metric.update(metric.init(), batch_of(SUMS, p, y, w, mask)))
    left_out = metric.compute(metric.update(metric.init(), left_out))
    for name, value in of_formulas(left_out).items():
        if name.split("/")[0] not in COUNTS:
            assert np.isnan(values[name][1]).all(), name
            np.testing.assert_array_equal(value, expected[name], err_msg=name)


def mean_prediction(batch):
    return {"mean": jnp.mean(batch.predictions, axis=1, where=batch.mask)}


def test_a_sample_metric_of_values_leaves_out_scores_of_minus_infinity():
    by_value = rm.sample_metric(mean_prediction, window=10)
    by_order = rm.sample_metric(mean_prediction, window=10, by_order=True)
    metric = rm.collection({"value": by_value, "order": by_order, "auc": rm.auc(window=10)})
    batch = rm.make_batch([0.5, -np.inf, 0.25], [1, 0, 0], mask_nonfinite=True)
    values = metric.compute(metric.update(metric.init(), batch))
    assert values["value/window_mean"] == 0.375
    assert values["order/window_mean"] == -np.inf
    assert values["auc/window_auc"] == 1
    bad = metric.update(metric.init(), rm.make_batch([0.5, -np.inf], [1, 0]))
    assert np.isnan(metric.compute(bad)["value/window_mean"])


def predictions_of(batch):
    return batch.predictions


def test_terms_and_sample_metrics_of_users_say_what_they_exclude():
    term = rm.Term(predictions_of, excludes=("labels_above_1", "predictions_below_0"))
    assert term == rm.Term(predictions_of, excludes=("predictions_below_0", "labels_above_1"))
    metric = rm.collection(
        {
            "sum": rm.sum_metric({"sum": term}, lambda sums: {"sum": sums["sum"]}),
            "mean": rm.sample_metric(mean_prediction, window=10, excludes=("labels_above_1",)),
        }
    )
    values = metric.compute(metric.update(metric.init(), rm.make_batch([0.5], [2])))
    assert all(np.isnan(value) for value in values.values())
    with pytest.raises(ValueError, match=r"excludes: expected names of .*, got 'labels'"):
        rm.Term(predictions_of, excludes=("labels",))


def test_every_case_says_what_it_excludes():
    names = {member.name for case in ALL for member in case.members if member.n_classes is None}
    assert names == set(EXCLUDES)
