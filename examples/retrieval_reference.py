"""The metrics of `retrieval.py` by their definitions: loops in float64, user by user.

Ranks count from 1. Where items are tied, a target is at each of their ranks with one probability;
probabilities are fractions, so that they add up to 1.
"""

import collections
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

Gain = Callable[[int], float]
"""What a rank counts."""

HEAD_SHARE = Fraction(8, 10)  # of all popularity, that of the head
GAMMA = 0.01  # how much variance counts beside squared bias, where samples are corrected for


class Place(NamedTuple):
    """Where a target stands among items."""

    above: int
    """How many have a higher score."""
    tied: int
    """How many others have the same."""


def in_order(scores: np.ndarray, left_out: set[int]) -> list[int]:
    """All items but those left out, best first; of ties the lower number first."""
    return [v for v in np.argsort(-scores, kind="stable").tolist() if v not in left_out]


def place_of(scores: np.ndarray, target: int, left_out: set[int]) -> Place:
    """Where a target stands among all items but those left out."""
    falling = [scores[v] for v in in_order(scores, left_out - {target})]
    return Place(falling.index(scores[target]), falling.count(scores[target]) - 1)


def gains_of(ks: Iterable[int]) -> dict[str, Gain]:
    """What metrics of one target count, by name."""

    def gains_at(k: int) -> dict[str, Gain]:
        return {
            f"hit_rate_at_{k}": lambda rank: float(rank <= k),
            f"ndcg_at_{k}": lambda rank: 1 / math.log2(rank + 1) if rank <= k else 0.0,
            f"mrr_at_{k}": lambda rank: 1 / rank if rank <= k else 0.0,
        }

    gains: dict[str, Gain] = {}
    for k in ks:
        gains |= gains_at(k)
    return {**gains, "mrr": lambda rank: 1 / rank}


def shares_of_ranks(places: Sequence[Place]) -> dict[int, Fraction]:
    """Which part of the targets is at each rank."""
    shares: dict[int, Fraction] = collections.defaultdict(Fraction)
    for above, tied in places:
        for rank in range(above + 1, above + tied + 2):
            shares[rank] += Fraction(1, (tied + 1) * len(places))
    return shares


def rank_values(places: Sequence[Place], ks: Iterable[int]) -> dict[str, float]:
    """What ranks of targets tell, by name."""
    shares = shares_of_ranks(places)

    def mean(gain: Gain) -> float:
        return math.fsum(share * gain(rank) for rank, share in shares.items())

    return {
        **{name: mean(gain) for name, gain in gains_of(ks).items()},
        "mean_rank": float(sum(rank * share for rank, share in shares.items())),
        "median_rank": median(shares),
        "not_found": 0.0,  # In the full catalogue each item has a rank.
    }


def median(shares: Mapping[int, Fraction]) -> float:
    """The rank at which half is reached; between the two in the middle if it is so exactly."""
    until = Fraction(0)
    reached = []
    for rank in sorted(shares):
        until += shares[rank]
        if until >= Fraction(1, 2):
            reached.append(rank)
        if until > Fraction(1, 2):
            break
    return (reached[0] + reached[-1]) / 2


def corrected_values(
    places: Sequence[Place], ks: Iterable[int], n_sampled: int, n_items: int
) -> dict[str, float]:
    """Estimates of the values in the full catalogue, of places among sampled items.

    Source: Krichene and Rendle, On Sampled Metrics for Item Recommendation, KDD 2020.
    """
    shares = shares_of_ranks(places)
    gains = gains_of(ks)
    corrections = corrected(list(gains.values()), n_sampled, n_items)
    values = {
        name: math.fsum(share * of_rank[rank - 1] for rank, share in shares.items())
        for name, of_rank in zip(gains, corrections.tolist(), strict=True)
    }
    above = float(sum((rank - 1) * share for rank, share in shares.items()))
    return {**values, "mean_rank": 1 + above * (n_items - 1) / n_sampled}


def corrected(gains: Sequence[Gain], n_sampled: int, n_items: int) -> np.ndarray:
    """What sampled ranks are to count, ``float64[len(gains), n_sampled + 1]``.

    The ``x`` for which ``sum over ranks r of P(r) (bias(r)^2 + gamma variance(r))`` is least, where
    ``bias(r) = E[x | r] - gain(r)``, and ``P(r)`` is that of a log-uniform number in ``[r - 1/2, r
    + 1/2]``. Since the variance is ``E[x^2] - E[x]^2``, that is a problem of least squares,
    with one row for each rank in the catalogue and one for each sampled rank.
    """
    ranks = range(1, n_items + 1)
    prior = np.array([math.log((rank + 0.5) / (rank - 0.5)) for rank in ranks])
    prior /= prior.sum()
    chances = chances_of_sampled_ranks(n_sampled, n_items)
    wanted = np.array([[gain(rank) for gain in gains] for rank in ranks])
    of_mean = np.sqrt((1 - GAMMA) * prior)[:, None] * chances
    of_squares = np.diag(np.sqrt(GAMMA * prior @ chances))
    targets = np.sqrt(prior / (1 - GAMMA))[:, None] * wanted
    rows = np.concatenate([of_mean, of_squares])
    targets = np.concatenate([targets, np.zeros((n_sampled + 1, len(gains)))])
    return np.linalg.lstsq(rows, targets)[0].T


def chances_of_sampled_ranks(n_sampled: int, n_items: int) -> np.ndarray:
    """How likely the sampled ranks of a rank are, ``float64[n_items, n_sampled + 1]``.

    Of all ways to choose so many of the other items, those that choose ``s`` of the ``r`` above.
    """
    others = n_items - 1
    ways = [[math.comb(n, s) for s in range(n_sampled + 1)] for n in range(n_items)]
    all_ways = math.comb(others, n_sampled)
    return np.array(
        [
            [ways[r][s] * ways[others - r][n_sampled - s] / all_ways for s in range(n_sampled + 1)]
            for r in range(n_items)
        ]
    )


def list_values(
    lists: Sequence[list[int]], wanted: Sequence[set[int]], ks: Iterable[int]
) -> dict[str, float]:
    """Means over users of what is in the first ``k`` places of their lists, by name.

    A user without a wanted item is left out, and counted.
    """
    users = [(items, of_user) for items, of_user in zip(lists, wanted, strict=True) if of_user]
    values = {}
    for k in ks:
        of_users = [values_at(k, *user) for user in users]
        for name in of_users[0]:
            mean = math.fsum(x[name] for x in of_users) / len(users)
            values[f"{name}_at_{k}"] = mean
    return {**values, "users": len(users), "undefined_users": len(lists) - len(users)}


def values_at(k: int, items: list[int], wanted: set[int]) -> dict[str, float]:
    """Of one list, best first."""
    hits = [rank for rank, item in enumerate(items[:k], start=1) if item in wanted]
    gained = sum(1 / math.log2(rank + 1) for rank in hits)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(wanted)) + 1))
    precisions = [count / rank for count, rank in enumerate(hits, start=1)]
    return {
        "recall": len(hits) / len(wanted),
        "precision": len(hits) / k,
        "hit_rate": float(bool(hits)),
        "mrr": 1 / hits[0] if hits else 0.0,
        "average_precision": sum(precisions) / len(wanted),
        "ndcg": gained / ideal,
    }


def recommended_values(lists: Iterable[list[int]], popularity: np.ndarray) -> dict[str, float]:
    """What lists recommend, of all items."""
    n_items = len(popularity)
    counts = np.zeros(n_items)
    for items in lists:
        for item in items:
            counts[item] += 1
    shares = counts / counts.sum()
    tail = tail_of(popularity)
    return {
        "coverage": sum(count > 0 for count in counts) / n_items,
        # Half of the mean difference of two items, over their mean.
        "gini": sum(float(np.sum(np.abs(shares - share))) for share in shares) / (2 * n_items),
        "entropy": -math.fsum(share * math.log2(share) for share in shares if share > 0),
        "average_popularity": math.fsum(shares * popularity),
        "tail_share": math.fsum(shares[item] for item in tail),
        "unknown_items": 0.0,
    }


def tail_of(popularity: np.ndarray) -> list[int]:
    """What is left when the most popular items that make the head are taken away.

    Items as popular as the last one that is taken are taken, too. Popularity is in whole numbers.
    """
    total, head, last = int(popularity.sum()), 0, math.inf
    for count in sorted(popularity, reverse=True):
        if head >= HEAD_SHARE * total:
            break
        head, last = head + int(count), count
    return [item for item, count in enumerate(popularity) if count < last]
