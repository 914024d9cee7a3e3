"""The metrics of `movielens.py` by their definitions, in float64 NumPy."""

import math
from collections.abc import Callable

import numpy as np


def largest_difference(values: np.ndarray, expected: np.ndarray) -> float:
    """The largest relative difference to NumPy; NaN if a value is undefined on one side only."""
    with np.errstate(divide="ignore", invalid="ignore"):
        is_same = (values == expected) | (np.isnan(values) & np.isnan(expected))
        differences = np.abs(values - expected) / np.abs(expected)
        return float(np.max(np.where(is_same, 0.0, differences)))


def auc(p: np.ndarray, y: np.ndarray) -> float:
    """The share of the pairs of a positive and a negative in the right order; ties count half.

    Args:
        p: predictions, ``float64[N]``.
        y: labels, 0 or 1, ``float64[N]``.

    Returns:
        The area under the ROC curve; NaN without a positive or without a negative.
    """
    positives, negatives = p[y == 1], np.sort(p[y == 0])
    pairs = len(positives) * len(negatives)
    if not pairs:
        return math.nan
    below, up_to = (np.searchsorted(negatives, positives, side) for side in ("left", "right"))
    return float(np.sum(below + up_to) / 2 / pairs)


def average_precision(p: np.ndarray, y: np.ndarray) -> float:
    """The mean over positives of the precision among what scores at least as high.

    That is the sum over distinct scores of the step in recall times the precision. Arguments are
    those of `auc`; NaN without a positive.
    """
    positives = p[y == 1]
    if not len(positives):
        return math.nan
    hits, seen = (len(x) - np.searchsorted(np.sort(x), positives) for x in (positives, p))
    return float(np.mean(hits / seen))


def ndcg(p: np.ndarray, y: np.ndarray, k: int) -> float:
    """Discounted cumulative gain of the first ``k`` ranks over that of the best order.

    Each of a run of tied predictions gets the mean of the discounts of the run's ranks. Arguments
    are those of `auc`; 0 without a positive.
    """
    discounts = 1 / np.log2(np.arange(len(p)) + 2)
    discounts[k:] = 0
    ideal = np.sum(np.sort(y)[::-1] * discounts)
    _, run, lengths = np.unique(-p, return_inverse=True, return_counts=True)
    of_run = np.add.reduceat(discounts, np.cumsum(lengths) - lengths) / lengths
    return float(np.sum(y * of_run[run]) / ideal) if ideal else 0.0


def by_user(
    metric: Callable[..., float], p: np.ndarray, y: np.ndarray, users: np.ndarray, **options: int
) -> np.ndarray:
    """A metric of each user, ``float64[T, U]``."""
    masks = [users == user for user in np.unique(users)]
    return np.array(
        [[metric(a[m], b[m], **options) for m in masks] for a, b in zip(p, y, strict=True)]
    )


def reference_values(
    p: np.ndarray, y: np.ndarray, users: np.ndarray, k: int
) -> dict[str, np.ndarray]:
    """The values by definition.

    Args:
        p: predictions, ``float64[T, N]``.
        y: labels, ``float64[T, N]``.
        users: ``int[N]``.
        k: the number of ranks that count for NDCG.

    Returns:
        Values by name, ``float64[T]``.
    """
    log_p, log_q = (np.log2(np.clip(x, 1e-12, 1 - 1e-12)) for x in (p, 1 - p))
    logloss = -np.mean(y * log_p + (1 - y) * log_q, axis=1)
    ctr = np.mean(y, axis=1)
    mse = np.mean((y - p) ** 2, axis=1)
    predicted = p >= 0.5
    hits = np.sum(predicted * y, axis=1)
    auc_of_users = by_user(auc, p, y, users)
    averaged = np.sum(~np.isnan(auc_of_users), axis=1)
    return {
        "ne": logloss / -(ctr * np.log2(ctr) + (1 - ctr) * np.log2(1 - ctr)),
        "logloss": logloss,
        "calibration": np.sum(p, axis=1) / np.sum(y, axis=1),
        "ctr": ctr,
        "accuracy": np.mean(predicted == y, axis=1),
        "mse": mse,
        "rmse": np.sqrt(mse),
        "mae": np.mean(np.abs(y - p), axis=1),
        "precision": hits / np.sum(predicted, axis=1),
        "recall": hits / np.sum(y, axis=1),
        "weighted_avg": np.mean(p, axis=1),
        "auc": np.array([auc(*of_task) for of_task in zip(p, y, strict=True)]),
        "grouped_auc": np.nansum(auc_of_users, axis=1) / averaged,
        "grouped_auc_groups": averaged,
        "grouped_auc_undefined_groups": auc_of_users.shape[1] - averaged,
        "auprc": np.array([average_precision(*of_task) for of_task in zip(p, y, strict=True)]),
        f"ndcg_at_{k}": np.mean(by_user(ndcg, p, y, users, k=k), axis=1),
    }
