"""What metrics of catalogues are, by definition: loops over targets, items and lists.

Ranks are fractions, so that what ties share adds up to the whole.
"""

import collections
import fractions
import math

import numpy as np

NAN = math.nan


def gains(k):
    """What a rank counts, by the name of the value; where there is no ``k``, all count."""
    return {
        f"hit_rate_at_{k}": lambda r: float(r <= k),
        f"ndcg_at_{k}": lambda r: 1 / math.log2(r + 1) if r <= k else 0.0,
        f"mrr_at_{k}": lambda r: 1 / r if r <= k else 0.0,
    }


def weights_of_ranks(p, w):
    """The weight of each rank, those tied spread evenly; and of what was not found, by its list."""
    found = collections.defaultdict(fractions.Fraction)
    beyond = collections.defaultdict(fractions.Fraction)
    for (greater, tied), weight in zip(p, w, strict=True):
        weight = fractions.Fraction(float(weight))
        if tied == -1:
            beyond[int(greater)] += weight
            continue
        for place in range(int(tied) + 1):
            found[int(greater) + 1 + place] += weight / (int(tied) + 1)
    return found, beyond


def is_possible(greater, tied):
    whole = float(greater).is_integer() and float(tied).is_integer()
    return whole and ((greater >= 0 and tied >= 0) or (greater >= 1 and tied == -1))


def rank_metrics(p, y, w, ks=(1, 5, 100)):
    """Of ``(greater, tied)``, by row; ``(K, -1)`` if not found in a list of K."""
    del y
    of_ks = {name: (k, gain) for k in ks for name, gain in gains(k).items()}
    of_ks["mrr"] = (0, lambda r: 1 / r)
    if not all(is_possible(*row) for row in p):
        return dict.fromkeys((*of_ks, "mean_rank", "median_rank", "not_found"), NAN)
    found, beyond = weights_of_ranks(p, w)
    total = sum(found.values()) + sum(beyond.values())
    if total == 0:
        return dict.fromkeys((*of_ks, "mean_rank", "median_rank", "not_found"), NAN)
    missing = sum(beyond.values())
    values = {}
    for name, (k, gain) in of_ks.items():
        is_open = any(weight and length < k for length, weight in beyond.items())
        mean = math.fsum(weight * gain(rank) for rank, weight in found.items()) / total
        values[name] = NAN if is_open else float(mean)
    mean = sum(rank * weight for rank, weight in found.items()) / total
    values["mean_rank"] = NAN if missing else float(mean)
    values["median_rank"] = median(found, beyond, total)
    values["not_found"] = float(missing / total)
    return values


def median(found, beyond, total):
    """From the lowest rank up; open where a target may lie below that was not found."""
    middle = []
    for is_above in (lambda x: 2 * x >= total, lambda x: 2 * x > total):
        until = 0
        for rank in sorted(found):
            until += found[rank]
            if is_above(until):
                middle.append(rank)
                break
        else:
            return NAN
    if any(weight and length < middle[1] for length, weight in beyond.items()):
        return NAN
    return sum(middle) / 2


def recommended_items(p, y, w, items, n_items=7, popularity=None, head_share=0.8):
    """Of the items that rows recommend."""
    del p, y
    counts = [math.fsum(w[items == i]) for i in range(n_items)]
    total = math.fsum(counts)
    names = ["coverage", "gini", "entropy"]
    names += ["average_popularity", "tail_share"] if popularity is not None else []
    unknown = float(np.sum((items < 0) | (items >= n_items)))
    if total == 0 or unknown:
        return {**dict.fromkeys(names, NAN), "unknown_items": unknown}
    values = {
        "coverage": sum(c > 0 for c in counts) / n_items,
        # Half of the mean difference of two items, over the mean.
        "gini": math.fsum(abs(a - b) for a in counts for b in counts) / (2 * n_items * total),
        "entropy": -math.fsum(c / total * math.log2(c / total) for c in counts if c > 0),
        "unknown_items": unknown,
    }
    if popularity is not None:
        tail = tail_of(popularity, head_share)
        weighted = math.fsum(c * phi for c, phi in zip(counts, popularity, strict=True))
        values["average_popularity"] = weighted / total
        values["tail_share"] = math.fsum(counts[i] for i in tail) / total
    return values


def tail_of(popularity, head_share):
    """The most popular items are taken away, those of one popularity together."""
    tail, taken = set(range(len(popularity))), fractions.Fraction(0)
    total = sum(map(fractions.Fraction, popularity))
    for level in sorted(set(popularity), reverse=True):
        if taken >= fractions.Fraction(str(head_share)) * total:
            break
        head = {i for i in tail if popularity[i] == level}
        taken += level * len(head)
        tail -= head
    return tail


def topk_rows(ids, relevant):
    """The examples of a list, ``(prediction, label)``, and those of relevant items it has not."""
    wanted = {item for item in relevant if item != -1}
    rows, seen = [], set()
    for place, item in enumerate(ids, start=1):
        rows.append((-place, float(item in wanted - seen)))
        seen.add(item)
    return rows, [(-math.inf, 1.0)] * len(wanted - seen)
