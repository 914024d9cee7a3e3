"""What each metric of order is, by definition: loops over pairs, scores and sessions in float64.

Every oracle takes arrays ``[N]`` of the real examples of one task. Undefined values are NaN.
"""

import itertools
import math

import numpy as np

NAN = math.nan


def sign(x):
    return int(x > 0) - int(x < 0)


def auc(p, y, w):
    """Over pairs of a positive and a negative; a soft label is a part of each."""
    ranked, pairs = [], []
    for i, j in itertools.product(range(len(p)), repeat=2):
        weight = w[i] * y[i] * w[j] * (1 - y[j])
        pairs.append(weight)
        ranked.append(weight * (1 + sign(p[i] - p[j])) / 2)
    total = math.fsum(pairs)
    return math.fsum(ranked) / total if total > 0 else NAN


def auprc(p, y, w):
    """One point for each distinct score."""
    total = math.fsum(w * y)
    if not total > 0:
        return NAN
    area = last_recall = 0.0
    for threshold in sorted(set(p), reverse=True):
        is_above = p >= threshold
        positive = math.fsum((w * y)[is_above])
        predicted = math.fsum(w[is_above])
        recall = positive / total
        if predicted > 0:
            area += (recall - last_recall) * positive / predicted
        last_recall = recall
    return area


def auc_bounds(p, y, w, *, tied=()):
    """AUC where the order of equal scores is not known, but of those that are said to be tied."""
    right, inside, pairs = [], [], []
    for i, j in itertools.product(range(len(p)), repeat=2):
        weight = w[i] * y[i] * w[j] * (1 - y[j])
        pairs.append(weight)
        right.append(weight * (1 + sign(p[i] - p[j])) / 2)
        inside.append(weight * (p[i] == p[j] and p[i] not in tied))
    total, middle, half = math.fsum(pairs), math.fsum(right), math.fsum(inside) / 2
    if not total > 0:
        return {"binned_auc": NAN, "binned_auc_lower": NAN, "binned_auc_upper": NAN}
    values = {"": middle, "_lower": middle - half, "_upper": middle + half}
    return {f"binned_auc{name}": value / total for name, value in values.items()}


NODES, SHARES = np.polynomial.legendre.leggauss(60)


def auprc_bounds(p, y, w, *, tied=()):
    """AUPRC where the order of equal scores is not known, but of those that are said to be tied."""
    total = math.fsum(w * y)
    lower, upper = [], []
    for level in set(p):
        above, here = p > level, p == level
        (t0, a), (f0, b) = (
            [math.fsum(x[rows]) for rows in (above, here)] for x in (w * y, w * (1 - y))
        )
        if level in tied or not a > 0:
            lower.append(a and a * (t0 + a) / (t0 + a + f0 + b))
            upper.append(lower[-1])
            continue
        upper.append(a * (t0 + a) / (t0 + a + f0))
        # The integral of the precision that one positive after another has, below all negatives.
        t = t0 + a * (1 + NODES) / 2
        lower.append(math.fsum(SHARES / 2 * a * t / (t + f0 + b)))
    value = auprc(p, y, w)
    bounds = [math.fsum(x) / total if total > 0 else NAN for x in (lower, upper)]
    return dict(
        zip(
            ("binned_auprc", "binned_auprc_lower", "binned_auprc_upper"),
            (value, *bounds),
            strict=True,
        )
    )


def xauc(p, y, w):
    matching, pairs = [], []
    for i, j in itertools.combinations(range(len(p)), 2):
        pairs.append(w[i] * w[j])
        matching.append(w[i] * w[j] * (sign(p[i] - p[j]) == sign(y[i] - y[j])))
    total = math.fsum(pairs)
    return math.fsum(matching) / total if total > 0 else NAN


def rauc(p, y, w):
    inverted, pairs = [], []
    for i, j in itertools.combinations(range(len(p)), 2):
        pairs.append(w[i] * w[j])
        inverted.append(w[i] * w[j] * (sign(p[i] - p[j]) * sign(y[i] - y[j]) < 0))
    total = math.fsum(pairs)
    return 1 - math.fsum(inverted) / total if total > 0 else NAN


def pairwise_auc(p, y, w, sessions, pair_weights="product"):
    """``(value, weight of all pairs)``, of pairs with weight of one session that labels order."""
    ranked, pairs = [], []
    for i, j in itertools.product(range(len(p)), repeat=2):
        if sessions[i] == sessions[j] and y[i] > y[j] and w[i] > 0 and w[j] > 0:
            weight = w[i] * w[j] if pair_weights == "product" else w[i] + w[j]
            pairs.append(weight)
            ranked.append(weight * (1 + sign(p[i] - p[j])) / 2)
    total = math.fsum(pairs)
    return math.fsum(ranked) / total if total > 0 else NAN, total


def grouped(metric, p, y, w, groups, average="equal", undefined_groups=None):
    """``(mean, number of groups averaged, number of groups without a value of their own)``."""
    values, counts, undefined = [], [], 0
    for group in sorted(set(groups)):
        rows = [i for i in range(len(p)) if groups[i] == group]
        value = metric(p[rows], y[rows], w[rows])
        if math.isnan(value):
            undefined += 1
            if undefined_groups is None:
                continue
            value = undefined_groups
        values.append(value)
        counts.append({"equal": 1, "impressions": len(rows), "weight": math.fsum(w[rows])}[average])
    total = math.fsum(counts)
    mean = math.fsum(v * c for v, c in zip(values, counts, strict=True)) / total if total else NAN
    return mean, len(values), undefined


def grouped_of_present(metric, p, y, w, groups, average="equal", undefined_groups=None):
    """`grouped`, of the examples with weight alone."""
    p, y, w, groups = (x[w > 0] for x in (p, y, w, groups))
    return grouped(metric, p, y, w, groups, average, undefined_groups)


def discount(rank, k):
    return 1 / math.log2(rank + 1) if k == -1 or rank <= k else 0.0


def dcg(scores, gains, k):
    """Each gain at the mean discount of the ranks that its score is tied for."""
    total = []
    for score, gain in zip(scores, gains, strict=True):
        above = sum(other > score for other in scores)
        tied = sum(other == score for other in scores)
        ranks = range(above + 1, above + tied + 1)
        total.append(gain * math.fsum(discount(rank, k) for rank in ranks) / tied)
    return math.fsum(total)


def dcg_by_permutations(scores, gains, k):
    """The mean over all orders of falling scores."""
    totals = [
        math.fsum(gains[i] * discount(rank, k) for rank, i in enumerate(order, 1))
        for order in itertools.permutations(range(len(scores)))
        if all(scores[i] >= scores[j] for i, j in itertools.pairwise(order))
    ]
    return math.fsum(totals) / len(totals)


def reference_ndcg(
    p,
    y,
    w,
    sessions,
    *,
    k=-1,
    exponential_gain=False,
    report_ndcg_as_decreasing_curve=True,
    remove_single_length_sessions=False,
    scale_by_weights_tensor=False,
    is_negative_task=False,
    dcg=dcg,
):
    """``(sum over sessions, number of sessions)``."""
    values = []
    for session in sorted(set(sessions)):
        rows = [i for i in range(len(p)) if sessions[i] == session]
        if remove_single_length_sessions and len(rows) == 1:
            continue
        scores, labels, weights = p[rows], y[rows], w[rows]
        if is_negative_task:
            scores, labels = 1 - scores, 1 - labels
        if scale_by_weights_tensor:
            scores, labels, weights = weights * scores, weights * labels, np.ones(len(rows))
        gains = 2**labels - 1 if exponential_gain else labels
        ideal = math.fsum(
            gain * discount(rank, k) for rank, gain in enumerate(sorted(gains, reverse=True), 1)
        )
        value = dcg(scores, gains, k) / ideal if ideal else 0.0
        if report_ndcg_as_decreasing_curve:
            value = 1 - value
        values.append(value * max(0.0, *weights))
    return math.fsum(values), len(values)
