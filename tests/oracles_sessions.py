"""What each metric of sessions is, by definition: loops over sessions and their rows in float64.

A metric of one session takes its rows ``p, y``, those with weight. In `RANKED` it is that of a list
in order, and `by_orders` its mean over all orders of tied rows; elsewhere ties are worked out.
"""

import itertools
import math

import numpy as np

NAN = math.nan


def orders(p):
    """All orders of rows by falling scores."""
    runs = [[i for i in range(len(p)) if p[i] == score] for score in sorted(set(p))[::-1]]
    for parts in itertools.product(*map(itertools.permutations, runs)):
        yield [i for part in parts for i in part]


def by_orders(ranked, p, y, **options):
    """The mean over all orders of the metric of a list."""
    values = [ranked([y[i] for i in order], **options) for order in orders(p)]
    return math.fsum(values) / len(values)


def capped_at(total, k, capped):
    return total if k is None or not capped else min(k, total)


def gain(y, exponential_gain=False):
    return 2.0**y - 1 if exponential_gain else y


def dcg(gains, k):
    return math.fsum(g / math.log2(rank + 1) for rank, g in enumerate(gains[:k], 1))


def ranked_ndcg(y, k=None, exponential_gain=False):
    gains = [gain(label, exponential_gain) for label in y]
    ideal = dcg(sorted(gains, reverse=True), k)
    return dcg(gains, k) / ideal if ideal else NAN


def ranked_recall(y, k, capped=False):
    return sum(y[:k]) / capped_at(sum(y), k, capped) if sum(y) else NAN


def ranked_precision(y, k, adaptive_k=False):
    return sum(y[:k]) / (min(k, len(y)) if adaptive_k else k) if sum(y) else NAN


def ranked_hit_rate(y, k):
    return float(any(y[:k])) if sum(y) else NAN


def ranked_mrr(y, k=None, of="first"):
    if not sum(y):
        return NAN
    found = [1 / rank for rank, label in enumerate(y[:k], 1) if label]
    return max(found, default=0.0) if of == "first" else math.fsum(found) / sum(y)


def ranked_average_precision(y, k=None, capped=False):
    if not sum(y):
        return NAN
    found = [sum(y[:rank]) / rank for rank, label in enumerate(y[:k], 1) if label]
    return math.fsum(found) / capped_at(sum(y), k, capped)


RANKED = {
    "ndcg": ranked_ndcg,
    "recall": ranked_recall,
    "precision": ranked_precision,
    "hit_rate": ranked_hit_rate,
    "mrr": ranked_mrr,
    "average_precision": ranked_average_precision,
}


def runs(p, y):
    """Of each run of tied rows: ranks before it, its rows, relevant ones before and in it."""
    for score in sorted(set(p.tolist()), reverse=True):
        tied, above = p == score, p > score
        yield int(above.sum()), int(tied.sum()), int(y[above].sum()), int(y[tied].sum())


def ndcg(p, y, k=None, exponential_gain=False):
    """Each rank of a run has the mean gain of its rows."""
    gains = np.array([gain(label, exponential_gain) for label in y])
    expected = [gains[p == score].mean() for score in sorted(p.tolist(), reverse=True)]
    ideal = dcg(sorted(gains.tolist(), reverse=True), k)
    return dcg(expected, k) / ideal if ideal else NAN


def in_top(p, y, k):
    """Each rank of a run has its share of relevant rows."""
    return math.fsum(r * min(max(k - before, 0), n) / n for before, n, _, r in runs(p, y))


def recall(p, y, k, capped=False):
    return in_top(p, y, k) / capped_at(y.sum(), k, capped) if y.sum() else NAN


def precision(p, y, k, adaptive_k=False):
    return in_top(p, y, k) / (min(k, len(y)) if adaptive_k else k) if y.sum() else NAN


def first_ranks(p, y):
    """The probabilities of the ranks of the first relevant row, by rank."""
    before, n, _, r = next(run for run in runs(p, y) if run[3])
    return {before + i: math.comb(n - i, r - 1) / math.comb(n, r) for i in range(1, n - r + 2)}


def hit_rate(p, y, k):
    return math.fsum(x for rank, x in first_ranks(p, y).items() if rank <= k) if y.sum() else NAN


def mrr(p, y, k=None, of="first"):
    if not y.sum():
        return NAN
    k = k or len(y)
    if of == "first":
        return math.fsum(x / rank for rank, x in first_ranks(p, y).items() if rank <= k)
    total = math.fsum(
        r / n / rank
        for before, n, _, r in runs(p, y)
        for rank in range(before + 1, min(before + n, k) + 1)
    )
    return total / y.sum()


def average_precision(p, y, k=None, capped=False):
    """Of a relevant row at each rank of its run, with what is expected before it."""
    if not y.sum():
        return NAN
    total = []
    for before, n, relevant_before, r in runs(p, y):
        for i in range(1, min(n, (k or len(y)) - before) + 1):
            others = (i - 1) * (r - 1) / (n - 1) if n > 1 else 0.0
            total.append(r / n * (1 + relevant_before + others) / (before + i))
    return math.fsum(total) / capped_at(y.sum(), k, capped)


SESSION = {
    "ndcg": ndcg,
    "recall": recall,
    "precision": precision,
    "hit_rate": hit_rate,
    "mrr": mrr,
    "average_precision": average_precision,
}


def sessions_of(p, y, w, sessions):
    """``p, y, weight`` of each session, of its rows with weight."""
    for session in sorted(set(sessions[w > 0].tolist())):
        rows = (sessions == session) & (w > 0)
        yield p[rows], y[rows], w[rows].max()


def total_weight(p, y, w, sessions, fills=False):
    """The weight of the sessions averaged: those with anything relevant, or all."""
    of_sessions = sessions_of(p, y, w, sessions)
    return math.fsum(weight for _, y, weight in of_sessions if fills or y.any())


def of_sessions(name, ks, undefined_sessions=None, session=None, **options):
    """The oracle of a metric of sessions: ``values(p, y, w, sessions)``, by name."""
    session = session or SESSION[name]

    def values(p, y, w, sessions):
        result = {}
        for k in ks:
            total, weights, undefined = [], [], 0
            for of_p, of_y, weight in sessions_of(p, y, w, sessions):
                value = session(of_p, of_y, k=k, **options)
                if math.isnan(value):
                    undefined += 1
                    value = undefined_sessions
                if value is not None:
                    total.append(weight * value)
                    weights.append(weight)
            weight = math.fsum(weights)
            result[f"{name}_at_{k}" if k else name] = math.fsum(total) / weight if weight else NAN
            result |= {f"{name}_sessions": len(weights), f"{name}_undefined_sessions": undefined}
        return result

    return values


def pooled(name, ks, adaptive_k=False):
    """The oracle of pooled recall or precision."""

    def values(p, y, w, sessions):
        rows = list(sessions_of(p, y, w, sessions))
        undefined = sum(not y.any() for _, y, _ in rows)
        result = {
            f"pooled_{name}_sessions": float(len(rows)),
            f"pooled_{name}_undefined_sessions": float(undefined),
        }
        for k in ks:
            hits = math.fsum(weight * in_top(p, y, k) for p, y, weight in rows)
            if name == "recall":
                whole = math.fsum(weight * y.sum() for _, y, weight in rows)
            else:
                most = [min(k, len(y)) if adaptive_k else k for _, y, _ in rows]
                whole = math.fsum(row[2] * x for row, x in zip(rows, most, strict=True))
            result[f"pooled_{name}_at_{k}"] = hits / whole if whole else NAN
        return result

    return values
