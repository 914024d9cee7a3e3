"""What metrics of calibration by bins are, by definition: loops in float64, one task at a time."""

import math
import statistics

import numpy as np
from oracles import NAN, ratio


def edges(bins, spacing):
    """The probabilities between bins."""
    inner = [i / bins for i in range(1, bins)]
    if spacing == "uniform":
        return inner
    odds = [10 ** (6 * x - 4) for x in inner]
    return [x / (1 + x) for x in odds]


def fine_bin(p):
    """The bin of a fine histogram: 128 for each octave of p, above 1/2 of 1 - p."""
    if p >= 0.5:
        mantissa, exponent = math.frexp(1 - p) if p < 1 else (0.5, -24)
        return -(exponent * 128 + math.ceil(mantissa * 256 - 128)), 1
    mantissa, exponent = math.frexp(max(p, 2**-32))
    return exponent * 128 + math.floor(mantissa * 256 - 128), 0


def groups(predictions, weights, bins):
    """The group of each example, of bins of about equal weight."""
    fine = [fine_bin(p)[::-1] for p in predictions]
    total, below, group_of = sum(weights), 0.0, {}
    for place in sorted(set(fine)):
        weight = sum(w for w, at in zip(weights, fine, strict=True) if at == place)
        middle = below + weight / 2
        below += weight
        group_of[place] = min(int(middle * bins / total), bins - 1) if total else 0
    return [group_of[place] for place in fine]


def in_bins(predictions, labels, weights, bins, spacing):
    """The examples of each bin."""
    if spacing == "quantile":
        at = np.array(groups(predictions, weights, bins), int)
    else:
        at = np.array([sum(p >= e for e in edges(bins, spacing)) for p in predictions], int)
    return [[x[at == i] for x in (predictions, labels, weights)] for i in range(bins)]


def means(p, y, w):
    return ratio(np.sum(w * p), np.sum(w)), ratio(np.sum(w * y), np.sum(w))


def reliability(predictions, labels, weights, *, bins, spacing):
    rows = in_bins(predictions, labels, weights, bins, spacing)
    values = [(np.sum(w), *means(p, y, w)) for p, y, w in rows]
    names = ("reliability_weight", "reliability_prediction", "reliability_label")
    return dict(zip(names, np.array(values).T, strict=True))


def ece(predictions, labels, weights, *, bins, spacing, norm="l1"):
    total, known, sizes = np.sum(weights), 0.0, []
    plain = debiased = 0.0
    for p, y, w in in_bins(predictions, labels, weights, bins, spacing):
        if np.sum(w) == 0:
            continue
        prediction, label = means(p, y, w)
        size = abs(prediction - label)
        sizes.append(size)
        plain += np.sum(w) * size ** (2 if norm == "l2" else 1)
        count = np.sum(w) ** 2 / np.sum(w**2)
        if count < 1.000001:
            continue
        known += np.sum(w)
        variance = label * (1 - label) / (count - 1)
        if norm == "l2":
            debiased += np.sum(w) * (size**2 - variance)
        else:
            debiased += np.sum(w) * (2 * size - folded(size, math.sqrt(max(variance, 0))))
    if norm == "max":
        return {"ece_max": max(sizes, default=NAN)}
    mean, corrected = ratio(plain, total), ratio(debiased, known)
    share = ratio(known, total)
    if norm == "l1":
        return {"ece": mean, "ece_debiased": corrected, "ece_debiased_share": share}
    return {
        "ece_l2": math.sqrt(mean),
        "ece_l2_squared": mean,
        "ece_l2_squared_debiased": corrected,
        "ece_debiased_share": share,
    }


def folded(mean, deviation):
    """The mean of |x| of a normal variable x."""
    if deviation == 0:
        return abs(mean)
    z, normal = mean / deviation, statistics.NormalDist()
    return mean * (1 - 2 * normal.cdf(-z)) + 2 * deviation * normal.pdf(z)


def brier(predictions, labels, weights, *, bins, spacing):
    total = np.sum(weights)
    losses = labels * (1 - predictions) ** 2 + (1 - labels) * predictions**2
    mean = ratio(np.sum(weights * labels), total)
    reliability = resolution = within = 0.0
    for p, y, w in in_bins(predictions, labels, weights, bins, spacing):
        if np.sum(w) == 0:
            continue
        prediction, label = means(p, y, w)
        reliability += np.sum(w) * (prediction - label) ** 2
        resolution += np.sum(w) * (label - mean) ** 2
        variance = np.sum(w * (p - prediction) ** 2)
        covariance = np.sum(w * (p - prediction) * (y - label))
        within += variance - 2 * covariance
    return {
        "brier": ratio(np.sum(weights * losses), total),
        "brier_reliability": ratio(reliability, total),
        "brier_resolution": ratio(resolution, total),
        "brier_uncertainty": mean * (1 - mean),
        "brier_within_bins": ratio(within, total),
    }


def field_calibration(predictions, labels, weights, field, *, segments):
    """Of examples of segments; those of none are counted."""
    errors, losses, defined, undefined = 0.0, 0.0, 0.0, 0
    for g in range(segments):
        is_of = field == g
        p, y, w = predictions[is_of], labels[is_of], weights[is_of]
        error, positive = abs(np.sum(w * p) - np.sum(w * y)), np.sum(w * y)
        errors += error
        if positive > 0:
            losses += np.sum(w) * error / positive
            defined += np.sum(w)
        elif np.sum(w) > 0:
            undefined += 1
    is_in = field < segments
    return {
        "field_ece": ratio(errors, np.sum(weights[is_in])),
        "field_rce": ratio(losses, defined),
        "field_rce_undefined_segments": undefined,
        "field_out_of_range_examples": np.sum(~is_in),
    }
