"""What each metric is, by definition: plain NumPy in float64, one task at a time.

Every oracle takes ``predictions[N]`` (``[N, C]``), ``labels[N]`` and ``weights[N]`` of real
examples, and returns values by name. Undefined values are NaN.
"""

import math

import numpy as np

NAN = math.nan


def ratio(numerator, denominator):
    return numerator / denominator if denominator != 0 else NAN


def cross_entropy(predictions, labels, weights):
    total = 0.0
    for p, y, w in zip(predictions, labels, weights, strict=True):
        likely = min(max(p, 1e-12), 1 - 1e-12)
        # 1 - p of the p as given, not of the clamped one, which would lose its digits.
        unlikely = min(max(1 - p, 1e-12), 1 - 1e-12)
        log_unlikely = math.log1p(-p) / math.log(2) if 1e-12 < p < 0.5 else math.log2(unlikely)
        total -= w * (y * math.log2(likely) + (1 - y) * log_unlikely)
    return total


def ne(predictions, labels, weights, base_rate=None):
    total = math.fsum(weights)
    positive = math.fsum(weights * labels)
    negative = math.fsum(weights * (1 - labels))
    logloss = ratio(cross_entropy(predictions, labels, weights), total)
    mean = base_rate or ratio(positive, total)
    ne = NAN
    if base_rate or (positive > 0 and negative > 0):
        entropy = positive * math.log2(1 / mean) + negative * math.log2(1 / (1 - mean))
        ne = ratio(logloss * total, entropy)
    return {"ne": ne, "logloss": logloss, "logloss_nats": logloss / math.log2(math.e)}


def unweighted_ne(predictions, labels, weights):
    of_rows = ne(predictions, labels, np.ones_like(weights))
    return {f"unweighted_{name}": value for name, value in of_rows.items()}


def calibration(predictions, labels, weights):
    return {"calibration": ratio(np.sum(weights * predictions), np.sum(weights * labels))}


def ctr(predictions, labels, weights):
    return {"ctr": ratio(np.sum(weights * labels), np.sum(weights))}


def weighted_avg(predictions, labels, weights):
    return {"weighted_avg": ratio(np.sum(weights * predictions), np.sum(weights))}


def mse(predictions, labels, weights):
    mean = ratio(np.sum(weights * (labels - predictions) ** 2), np.sum(weights))
    return {"mse": mean, "rmse": math.sqrt(mean)}


def mae(predictions, labels, weights):
    return {"mae": ratio(np.sum(weights * np.abs(labels - predictions)), np.sum(weights))}


def r_squared(predictions, labels, weights):
    deviations = labels - ratio(np.sum(weights * labels), np.sum(weights))
    errors = np.sum(weights * (labels - predictions) ** 2)
    return {"r_squared": 1 - ratio(errors, np.sum(weights * deviations**2))}


def nmse(predictions, labels, weights, baseline=1.0):
    errors = np.sum(weights * (labels - predictions) ** 2)
    value = ratio(errors, np.sum(weights * (labels - baseline) ** 2))
    return {"nmse": value, "nrmse": math.sqrt(value)}


def bias(predictions, labels, weights):
    error = np.sum(weights * (predictions - labels))
    relative = ratio(error, np.sum(weights * labels))
    return {"bias": ratio(error, np.sum(weights)), "relative_bias": relative}


def mean_loss(loss, predictions, labels, weights):
    rows = zip(predictions, labels, weights, strict=True)
    return ratio(math.fsum(w * loss(p, y) for p, y, w in rows), math.fsum(weights))


def mape(*examples, epsilon=0.0):
    def loss(p, y):
        return ratio(abs(y - p), max(abs(y), epsilon))

    return {"mape": mean_loss(loss, *examples)}


def smape(*examples):
    def loss(p, y):
        return 2 * abs(y - p) / (abs(y) + abs(p)) if y or p else 0.0

    return {"smape": mean_loss(loss, *examples)}


def msle(*examples):
    def loss(p, y):
        return (math.log1p(y) - math.log1p(p)) ** 2 if min(p, y) > -1 else NAN

    mean = mean_loss(loss, *examples)
    return {"msle": mean, "rmsle": math.sqrt(mean)}


def pinball_loss(*examples, quantile=0.5):
    def loss(p, y):
        return quantile * (y - p) if p < y else (1 - quantile) * (p - y)

    return {"pinball_loss": mean_loss(loss, *examples)}


def average(predictions, labels, weights):
    total = np.sum(weights)
    return {
        "label_average": ratio(np.sum(weights * labels), total),
        "prediction_average": ratio(np.sum(weights * predictions), total),
    }


def scalar(predictions, labels, weights):
    return {"scalar": average(predictions, labels, weights)["label_average"]}


def counts_at(predictions, labels, weights, threshold):
    """Weighted true positives, false positives, false negatives, and weight of right answers."""
    tp = fp = fn = right = 0.0
    for p, y, w in zip(predictions, labels, weights, strict=True):
        positive = p >= threshold
        tp += w * y if positive else 0.0
        fp += w * (1 - y) if positive else 0.0
        fn += 0.0 if positive else w * y
        right += w if float(positive) == y else 0.0
    return tp, fp, fn, right


def accuracy(predictions, labels, weights, threshold=0.5):
    *_, right = counts_at(predictions, labels, weights, threshold)
    return {"accuracy": ratio(right, np.sum(weights))}


def precision(predictions, labels, weights, threshold=0.5):
    tp, fp, _, _ = counts_at(predictions, labels, weights, threshold)
    return {"precision": ratio(tp, tp + fp)}


def recall(predictions, labels, weights, threshold=0.5):
    tp, _, fn, _ = counts_at(predictions, labels, weights, threshold)
    return {"recall": ratio(tp, tp + fn)}


def f_beta(predictions, labels, weights, beta=1.0, threshold=0.5):
    tp, fp, fn, _ = counts_at(predictions, labels, weights, threshold)
    if tp + fp + fn == 0:
        return {"f_beta": NAN}
    p, r = tp / (tp + fp) if tp else 0.0, tp / (tp + fn) if tp else 0.0
    return {"f_beta": (1 + beta**2) * p * r / (beta**2 * p + r) if tp else 0.0}


def multiclass_recall(predictions, labels, weights):
    classes = predictions.shape[1]
    hits = np.zeros(classes)
    for scores, y, w in zip(predictions, labels, weights, strict=True):
        if y not in range(classes):
            continue
        score = scores[int(y)]
        higher, tied = np.sum(scores > score), np.sum(scores == score)
        for k in range(1, classes + 1):
            # Of the orders of the tied classes, those that put this one among the first k.
            hits[k - 1] += w * min(max(k - higher, 0), tied) / tied
    return {"multiclass_recall": hits / np.sum(weights) if np.sum(weights) else hits * NAN}


def examples(predictions, labels, weights):
    return {"examples": float(len(labels))}


def missing_labels(predictions, labels, weights):
    return {"missing_labels": float(np.isnan(labels).sum())}


def nonfinite_examples(predictions, labels, weights):
    return {"nonfinite_examples": 0.0}


def out_of_domain_examples(predictions, labels, weights):
    counts = {
        "predictions_below_0": predictions < 0,
        "predictions_above_1": predictions > 1,
        "labels_below_0": labels < 0,
        "labels_above_1": labels > 1,
        "weights_below_0": weights < 0,
        "labels_between_0_and_1": (labels > 0) & (labels < 1),
    }
    return {f"examples_with_{cause}": float(np.sum(rows)) for cause, rows in counts.items()}


def sum_weights(predictions, labels, weights):
    return {"sum_weights": math.fsum(weights)}


def positives(predictions, labels, weights):
    return {
        "positives": math.fsum(weights * labels),
        "negatives": math.fsum(weights * (1 - labels)),
    }


def effective_sample_size(predictions, labels, weights):
    size = ratio(np.sum(weights) ** 2, np.sum(weights**2))
    return {"effective_sample_size": size, "effective_sample_rate": ratio(size, len(weights))}


def largest(predictions, labels, weights):
    return {"largest": np.max(predictions, initial=0.0)}


def newest_updates(counts, window):
    """The indices of the newest updates whose counts add up to at most ``window``.

    The newest update with any example is always among them; empty ones do not matter.
    """
    taken, held = [], 0
    for i in reversed(range(len(counts))):
        if counts[i] == 0:
            continue
        if taken and held + counts[i] > window:
            break
        taken.append(i)
        held += counts[i]
    return taken[::-1]
