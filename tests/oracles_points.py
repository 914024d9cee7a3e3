"""Points of curves by definition: every score is a threshold; plain NumPy in float64."""

import math

NAN = math.nan


def counts_from(p, y, w):
    """The scores that have any weight, from the highest down: ``(score, TP, FP)`` from it up."""
    for level in sorted(set(p[w > 0]), reverse=True):
        rows = p >= level
        yield level, math.fsum((w * y)[rows]), math.fsum((w * (1 - y))[rows])


def best(p, y, w, *, name, of_recall, least, tied=()):
    """Recall at a precision, or precision at a recall; ``tied`` are scores that no bin shares."""
    positives = math.fsum(w * y)
    points, bounds, above = [(-1.0, -1.0, NAN)], [(-1.0, -1.0)], 0.0

    def of(tp, fp):
        pair = tp / positives if positives else NAN, tp / (tp + fp) if tp + fp else NAN
        return pair if of_recall else pair[::-1]

    for level, tp, fp in counts_from(p, y, w):
        points += [(*of(tp, fp), level)]
        bounds += [of(tp, fp if level in tied else above)]
        above = fp
    value = max(point for point in points if point[0] < 0 or point[1] >= least)
    upper = max(bound for bound in bounds if bound[0] < 0 or bound[1] >= least)
    return {
        name: value[0] if value[0] >= 0 else NAN,
        f"{name}_upper": upper[0] if upper[0] >= 0 else NAN,
        f"{name}_threshold": value[2],
    }


def roc_curve(p, y, w, *, points):
    positives, negatives = math.fsum(w * y), math.fsum(w * (1 - y))
    names = ("roc_curve_fpr", "roc_curve_tpr", "roc_curve_thresholds")
    if not positives or not negatives:
        return {name: [NAN] * points for name in names}
    rates = [(0.0, 0.0, math.inf)]
    rates += [(fp / negatives, tp / positives, t) for t, tp, fp in counts_from(p, y, w)]
    steps = (2 * (i / (points - 1)) for i in range(points))
    chosen = [next(x for x in rates if x[0] + x[1] >= step) for step in steps]
    return {name: [x[i] for x in chosen] for i, name in enumerate(names)}


def pr_curve(p, y, w, *, points):
    positives = math.fsum(w * y)
    names = ("pr_curve_precision", "pr_curve_recall", "pr_curve_thresholds")
    if not positives:
        return {name: [NAN] * points for name in names}
    rates = [(tp / (tp + fp), tp / positives, t) for t, tp, fp in counts_from(p, y, w)]
    steps = ((i + 1) / points for i in range(points))
    chosen = [next(x for x in rates if x[1] >= step) for step in steps]
    return {name: [x[i] for x in chosen] for i, name in enumerate(names)}
