"""THE table: every metric and its oracle; and the groups of them that tests run as collections.

A collection of metrics compiles one program where its metrics compile many, and its values carry
the names of its metrics. That each is what the metric alone would give, to the bit, is shown once
for all metrics, in `test_values`.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import oracles
import oracles_calibration
import oracles_catalogue as catalogue
import oracles_order as order
import oracles_points as points
import oracles_sessions as sessions
import pytest

import recmetrics_jax as rm


@dataclasses.dataclass(frozen=True)
class Case:
    """A metric under test."""

    name: str
    make: Callable[..., rm.Metric]  # make(n_tasks=..., window=...)
    # oracle(predictions[N], labels[N], weights[N], *keys[N]); a group has those of its members.
    oracle: Callable[..., dict] | None
    n_classes: int | None = None
    # draw(rng, shape): its predictions, where they are no scores of classes.
    draw: Callable[..., np.ndarray] | None = None
    is_sum: bool = True
    keys: tuple[str, ...] = ()
    # Of a metric whose pairs or sessions lie inside a batch: by what batches are averaged; by the
    # name of the value where it is not one for all.
    share: Callable[..., float | dict] | None = None
    has_ties: bool = False
    # Of a metric in which an example counts once, whatever its weight.
    by_rows: bool = False
    members: tuple["Case", ...] = ()  # of a group

    def __str__(self):
        return self.name

    def without(self, *names):
        """The group without some of its members."""
        return group(self.name, [m for m in self.members if m.name not in names])


def collection_of(members, **options):
    return rm.collection({member.name: member.make(**options) for member in members})


def group(name, members):
    """Cases with examples of one kind as one: a collection; see `expected`."""
    members = tuple(members)
    ((n_classes, draw),) = {(member.n_classes, member.draw) for member in members}
    return Case(
        name,
        functools.partial(collection_of, members),
        oracle=None,
        n_classes=n_classes,
        draw=draw,
        keys=tuple(dict.fromkeys(key for member in members for key in member.keys)),
        has_ties=any(member.has_ties for member in members),
        members=members,
    )


def largest(batch):
    return {"largest": jnp.max(batch.predictions, axis=1, where=batch.mask, initial=0.0)}


OF_NE = {"logloss": True, "nats": True}  # What is gained is 1 - ne, which loses digits near 0.


def ne(**options):
    return rm.ne(**OF_NE, **options)


def accuracy_at(**options):
    return rm.accuracy(threshold=0.3, **options)


def recall_at(**options):
    return rm.recall(threshold=0.3, **options)


def multiclass_recall(**options):
    return rm.multiclass_recall(4, **options)


def of_samples(factory, **options):
    """A factory of metrics that have only a window, with one that holds all tests' examples."""

    def make(*, window=None, **others):
        return factory(window=window or 1000, **options, **others)

    return make


def value(name, oracle):
    """An oracle of one value, by its name."""
    return lambda *x: {name: oracle(*x)}


def averaged(name, oracle, groups="groups", average=order.grouped_of_present):
    """The oracle of an average over groups."""

    def values(p, y, w, keys):
        mean, count, undefined = average(oracle, p, y, w, keys, "equal", None)
        return {name: mean, f"{name}_{groups}": count, f"{name}_undefined_{groups}": undefined}

    return values


def grouped(name, oracle, average=order.grouped_of_present):
    """The oracle of a metric and its average over groups."""
    of_groups = averaged(f"grouped_{name}", oracle, average=average)
    return lambda p, y, w, groups: {name: oracle(p, y, w), **of_groups(p, y, w, groups)}


def pair_weight(p, y, w):
    return (np.sum(w) ** 2 - np.sum(w**2)) / 2


def of_sessions(name, factory, oracle, *, ks, share=sessions.total_weight, **options):
    """A metric of sessions inside a batch, at some k."""
    return Case(
        name,
        functools.partial(factory, k=ks, **options),
        oracle,
        keys=SESSIONS,
        share=share,
        has_ties=True,
    )


def of_bins(name, *, by_rows=False, **options):
    """A metric of a few bins of predictions, the same for all of them, and none empty."""
    bins = {"bins": 3, "spacing": "uniform"}
    return Case(
        name,
        functools.partial(getattr(rm, name), **bins, **options),
        functools.partial(getattr(oracles_calibration, name), **bins),
        by_rows=by_rows,
    )


def of_points(name, factory, oracle, **options):
    """A metric of points of curves, of the bins that `binned_auc` has."""
    by_oracle = options
    for of_recall, other in ((True, "precision"), (False, "recall")):
        if other in options:
            least = {"least": options[other]}
            by_oracle = {"name": name, "of_recall": of_recall, "tied": (0, 1), **least}
    return Case(
        name,
        functools.partial(factory, bins=4096, **options),
        functools.partial(oracle, **by_oracle),
        has_ties=True,
    )


def relevant_weight(p, y, w, ids):
    """What pooled recall is divided by."""
    return sum(weight * y.sum() for _, y, weight in sessions.sessions_of(p, y, w, ids))


def ranks(rng, shape):
    """How many items are above a target, and how many tied with it; mostly none."""
    tied = rng.integers(1, 40, shape) * (rng.random(shape) < 0.3)
    return np.stack([rng.integers(0, 60, shape), tied], axis=-1)


def xauc_weights(p, y, w, groups):
    _, count, _ = order.grouped_of_present(order.xauc, p, y, w, groups)
    return {"xauc": pair_weight(p, y, w), "grouped_xauc": count}


def defined_sessions(p, y, w, sessions):
    return order.grouped_of_present(order.auc, p, y, w, sessions)[1]


POPULARITY = (40, 3, 25, 3, 20, 9, 0)

GROUPS, SESSIONS, ITEMS = ("grouping_keys",), ("session_id",), ("item_id",)
KS = (1, 5)
"""How values end that count."""

CASES = [
    Case("ne", ne, oracles.ne),
    Case(
        "unweighted_ne",
        functools.partial(rm.unweighted_ne, **OF_NE),
        oracles.unweighted_ne,
        by_rows=True,
    ),
    Case(
        "ne_of_base_rate",
        functools.partial(rm.ne, base_rate=0.4),
        lambda *x: {"ne": oracles.ne(*x, base_rate=0.4)["ne"]},
    ),
    Case("calibration", rm.calibration, oracles.calibration),
    of_bins("reliability"),
    of_bins("ece", by_rows=True),
    of_bins("brier", decomposition=True),
    Case("ctr", rm.ctr, oracles.ctr),
    Case("mse", rm.mse, oracles.mse),
    Case("mae", rm.mae, oracles.mae),
    Case("r_squared", rm.r_squared, oracles.r_squared),
    Case("accuracy", rm.accuracy, oracles.accuracy),
    Case("accuracy_at_0.3", accuracy_at, lambda *x: oracles.accuracy(*x, threshold=0.3)),
    Case("precision", rm.precision, oracles.precision),
    Case("recall", rm.recall, oracles.recall),
    Case("recall_at_0.3", recall_at, lambda *x: oracles.recall(*x, threshold=0.3)),
    Case(
        "f_beta",
        functools.partial(rm.f_beta, beta=2.0),
        functools.partial(oracles.f_beta, beta=2.0),
    ),
    Case("weighted_avg", rm.weighted_avg, oracles.weighted_avg),
    Case("average", rm.average, oracles.average),
    Case("nmse", rm.nmse, oracles.nmse),
    Case("bias", rm.bias, oracles.bias),
    Case(
        "mape",
        functools.partial(rm.mape, epsilon=0.25),
        functools.partial(oracles.mape, epsilon=0.25),
    ),
    Case("smape", rm.smape, oracles.smape),
    Case("msle", rm.msle, oracles.msle),
    Case(
        "pinball_loss",
        functools.partial(rm.pinball_loss, quantile=0.75),
        functools.partial(oracles.pinball_loss, quantile=0.75),
    ),
    Case(
        "field_calibration_error",
        functools.partial(rm.field_calibration_error, key="field", segments=3),
        functools.partial(oracles_calibration.field_calibration, segments=3),
        keys=("field",),
        by_rows=True,
    ),
    Case("multiclass_recall", multiclass_recall, oracles.multiclass_recall, n_classes=4),
    Case("examples", rm.examples, oracles.examples, by_rows=True),
    Case("nonfinite_examples", rm.nonfinite_examples, oracles.nonfinite_examples),
    Case("missing_labels", rm.missing_labels, oracles.missing_labels),
    Case(
        "out_of_domain_examples",
        rm.out_of_domain_examples,
        oracles.out_of_domain_examples,
        by_rows=True,
    ),
    Case("sum_weights", rm.sum_weights, oracles.sum_weights),
    Case("positives", rm.positives, oracles.positives),
    Case(
        "effective_sample_size",
        rm.effective_sample_size,
        oracles.effective_sample_size,
        by_rows=True,
    ),
    Case("scalar", of_samples(rm.scalar), oracles.scalar, is_sum=False),
    Case(
        "sample_metric", of_samples(rm.sample_metric, values=largest), oracles.largest, is_sum=False
    ),
    Case("auc", of_samples(rm.auc), value("auc", order.auc), is_sum=False, has_ties=True),
    Case(
        "grouped_auc",
        of_samples(rm.auc, grouped=True),
        grouped("auc", order.auc, order.grouped),
        is_sum=False,
        keys=GROUPS,
        has_ties=True,
    ),
    Case(
        "grouped_auprc",
        of_samples(rm.auprc, grouped=True),
        grouped("auprc", order.auprc, order.grouped),
        is_sum=False,
        keys=GROUPS,
        has_ties=True,
    ),
    Case(
        "grouped_rauc",
        of_samples(rm.rauc, grouped=True),
        grouped("rauc", order.rauc),
        is_sum=False,
        keys=GROUPS,
        has_ties=True,
    ),
    # Scores that 10 bits tell apart: no error of binning. 0 and 1 have bins of their own.
    Case(
        "binned_auc",
        functools.partial(rm.binned_auc, bins=4096),
        functools.partial(order.auc_bounds, tied=(0, 1)),
        has_ties=True,
    ),
    Case(
        "binned_auprc",
        functools.partial(rm.binned_auprc, bins=4096),
        functools.partial(order.auprc_bounds, tied=(0, 1)),
        has_ties=True,
    ),
    of_points("recall_at_precision", rm.recall_at_precision, points.best, precision=0.33),
    of_points("precision_at_recall", rm.precision_at_recall, points.best, recall=0.5),
    of_points("roc_curve", rm.roc_curve, points.roc_curve, points=7),
    of_points("pr_curve", rm.pr_curve, points.pr_curve, points=7),
    Case(
        "xauc",
        rm.xauc,
        value("xauc", order.xauc),
        share=pair_weight,
        has_ties=True,
    ),
    Case(
        "grouped_xauc",
        functools.partial(rm.xauc, grouped=True),
        grouped("xauc", order.xauc),
        keys=GROUPS,
        share=xauc_weights,
        has_ties=True,
    ),
    Case(
        "session_auc",
        rm.session_auc,
        averaged("session_auc", order.auc, "sessions"),
        keys=SESSIONS,
        share=defined_sessions,
        has_ties=True,
    ),
    Case(
        "pairwise_auc",
        rm.pairwise_auc,
        lambda *x: {"pairwise_auc": order.pairwise_auc(*x)[0]},
        keys=SESSIONS,
        share=lambda *x: order.pairwise_auc(*x)[1],
        has_ties=True,
    ),
    Case(
        "ndcg",
        rm.ndcg,
        sessions.of_sessions("ndcg", (None,)),
        keys=SESSIONS,
        share=sessions.total_weight,
        has_ties=True,
    ),
    of_sessions(
        "ndcg_at_2",
        rm.ndcg,
        sessions.of_sessions("ndcg", (2,), undefined_sessions=0.5, exponential_gain=True),
        ks=2,
        share=functools.partial(sessions.total_weight, fills=True),
        undefined_sessions=0.5,
        exponential_gain=True,
    ),
    of_sessions("recall_at", rm.recall_at, sessions.of_sessions("recall", KS), ks=KS),
    of_sessions("precision_at", rm.precision_at, sessions.of_sessions("precision", KS), ks=KS),
    of_sessions("hit_rate", rm.hit_rate, sessions.of_sessions("hit_rate", KS), ks=KS),
    of_sessions("mrr", rm.mrr, sessions.of_sessions("mrr", KS), ks=KS),
    of_sessions(
        "average_precision",
        rm.average_precision,
        sessions.of_sessions("average_precision", KS),
        ks=KS,
    ),
    of_sessions(
        "pooled_recall_at",
        rm.recall_at,
        sessions.pooled("recall", KS),
        ks=KS,
        share=relevant_weight,
        pooled=True,
    ),
    # Sessions may be split over batches.
    Case(
        "recall_at_of_window",
        of_samples(rm.recall_at, k=KS, scope="window"),
        sessions.of_sessions("recall", KS),
        is_sum=False,
        keys=SESSIONS,
        has_ties=True,
    ),
    # Ranks that have a bin each.
    Case(
        "rank_metrics",
        functools.partial(rm.rank_metrics, k=(1, 5, 100), exact_ranks=64),
        catalogue.rank_metrics,
        n_classes=2,
        draw=ranks,
    ),
    Case(
        "recommended_items",
        functools.partial(rm.recommended_items, 7, popularity=POPULARITY),
        functools.partial(catalogue.recommended_items, popularity=POPULARITY),
        n_classes=2,
        draw=ranks,
        keys=ITEMS,
    ),
]
COUNTS = (
    "examples",
    "nonfinite_examples",
    "missing_labels",
    "out_of_domain_examples",
    "sum_weights",
    "positives",
)
OF_ONE_PROGRAM = (
    *("ndcg", "precision_at", "hit_rate", "mrr", "average_precision", "pooled_recall_at"),
    *("auc", "grouped_auprc", "xauc", "session_auc"),
    *("binned_auprc", "recall_at_precision", "precision_at_recall", "roc_curve", "pr_curve"),
    "field_calibration_error",
)
NAMES = [case.name for case in CASES]
BY_NAME = dict(zip(NAMES, CASES, strict=True))
SUM_CASES = [case for case in CASES if case.is_sum]

SUMS = group(
    "sums",
    [
        case
        for case in SUM_CASES
        if case.n_classes is None and not case.has_ties and case.name not in OF_ONE_PROGRAM
    ],
)
CLASSES = group("classes", [case for case in CASES if case.n_classes and not case.draw])
CATALOGUE = group("catalogue", [case for case in CASES if case.draw])
# Metrics of the order of predictions, with ties, and the one that only keeps examples.
# Those that are one program with another of them, but for a formula, are a group of their own,
# which is tested for its values, its domains and the laws of sums.
ALIKE = group("alike", [BY_NAME[name] for name in OF_ONE_PROGRAM])
ORDER = group(
    "order",
    [case for case in CASES if (case.has_ties or not case.is_sum) and case not in ALIKE.members],
)
HISTOGRAMS = group("histograms", [c for c in ORDER.members if c.is_sum and not c.share])
SUMS_OF_ORDER = group("sums of order", [c for c in ORDER.members if c.is_sum])
GROUPED = [SUMS, CLASSES, ORDER, CATALOGUE]
ALL = [*GROUPED, ALIKE]
"""All cases but those alike, in as few collections as there are kinds of examples."""


@functools.cache
def weighted(case):
    """A group without the metrics in which an example counts once, whatever its weight."""
    by_rows = [member.name for member in case.members if member.by_rows]
    return case.without(*by_rows) if by_rows else case


def heavy_where(cases, *heavy):
    """Cases as parameters of a test, of which some are heavy."""
    return [pytest.param(case, marks=pytest.mark.heavy if case in heavy else ()) for case in cases]


@functools.cache
def metric_of(case, n_tasks=2, window=None):
    """The metric of a case; one object for all tests, so that they share what is compiled."""
    return case.make(n_tasks=n_tasks, window=window)


def nine(*, n_tasks=1, window=None):
    """The nine scalar metrics of the package as one collection."""
    factories = {
        "ne": rm.ne,
        "calibration": rm.calibration,
        "ctr": rm.ctr,
        "mse": rm.mse,
        "mae": rm.mae,
        "accuracy": rm.accuracy,
        "precision": rm.precision,
        "recall": rm.recall,
        "weighted_avg": rm.weighted_avg,
    }
    return rm.collection(
        {name: factory(n_tasks=n_tasks, window=window) for name, factory in factories.items()}
    )
