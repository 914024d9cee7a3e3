"""What ranks among a few sampled items tell of ranks in the full catalogue.

Shapes: ``R`` ranks in the catalogue, ``M`` sampled items.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from recmetrics_jax._src.options import flag, number, whole
from recmetrics_jax._src.rank_bins import Gain, RankBins

EXACT = 4096
"""Ranks that are told apart in the catalogue."""
MOST_SAMPLED = 4095


class Sampled(NamedTuple):
    """How targets were ranked: among items that were sampled uniformly from a catalogue."""

    n_sampled: int
    """How many items were sampled besides the target, at most 4,095."""
    n_items: int
    """How many items there are, the target among them."""
    with_replacement: bool = False
    """Whether an item could be sampled twice."""
    gamma: float = 0.01
    """How much the variance of the estimate for one target counts beside its squared bias, above 0
    and up to 1."""


def checked(sampled: Any, exact: int) -> Sampled:
    """An option that says how targets were ranked, of Python's own numbers.

    Args:
        sampled: `Sampled`, or a tuple of its first fields.
        exact: how many sampled ranks are told apart.

    Raises:
        ValueError: if it is none, or a number is out of range.
    """
    if not isinstance(sampled, Sequence) or not 2 <= len(sampled) <= len(Sampled._fields):
        raise ValueError(
            f"sampled: expected Sampled(n_sampled, n_items), or a tuple of both, got {sampled!r}"
        )
    given = Sampled(*sampled)
    gamma = number("sampled.gamma", given.gamma)
    if not 0 < gamma <= 1:
        raise ValueError(f"sampled.gamma: expected a number above 0 and up to 1, got {gamma}")
    n_items = whole("sampled.n_items", given.n_items, 2)
    return Sampled(
        whole("sampled.n_sampled", given.n_sampled, 1, min(exact, MOST_SAMPLED + 1, n_items) - 1),
        n_items,
        flag("sampled.with_replacement", given.with_replacement),
        gamma,
    )


@functools.cache
def corrected(sampled: Sampled, gains: tuple[tuple[Gain, float], ...]) -> np.ndarray:
    """What a rank among sampled items is to count, for the mean to be near that of the catalogue.

    The numbers ``x``, one for each sampled rank, that minimize ``sum over ranks r of P(r) ((E[x |
    r] - gain(r))^2 + gamma Var[x | r])``. With ``A = sqrt(P(r)) p(s | r)``, ``b = sqrt(P(r))
    gain(r)`` and ``c = sum over r of P(r) p(s | r)``, they solve ``((1 - gamma) A' A + gamma
    diag(c)) x = A' b``. Ranks of a trained model crowd at the top, so ``P(r)`` is proportional to
    ``log((r + 1/2) / (r - 1/2))``, about ``1 / r``: that of a log-uniform number between.

    Source: Krichene and Rendle, On Sampled Metrics for Item Recommendation, KDD 2020, on corrected
    metrics (bias-variance trade-off).

    Args:
        sampled: how the targets were ranked.
        gains: what a rank in the catalogue counts, and the largest that counts; several at once.

    Returns:
        ``float64[len(gains), M + 1]``, by sampled rank from 1.
    """
    bins = RankBins(EXACT)
    first = bins.first[bins.first < sampled.n_items]
    # Far down, all ranks of a bin are taken for the one in its middle.
    last = np.append(first[1:], sampled.n_items) - 1
    prior = np.log((last + 1.5) / (first + 0.5))
    prior /= prior.sum()
    likelihood = sampled_ranks((first + last) // 2, sampled)
    root = np.sqrt(prior)
    design = root[:, None] * likelihood
    wanted = np.stack([root * bins.mean(*gain)[: len(first)] for gain in gains], axis=1)
    penalty = np.diag(prior @ likelihood)
    normal = (1 - sampled.gamma) * design.T @ design + sampled.gamma * penalty
    return np.linalg.solve(normal, design.T @ wanted).T


def sampled_ranks(above: np.ndarray, sampled: Sampled) -> np.ndarray:
    """How likely each rank among sampled items is, ``float64[R, M + 1]``, by how many are above.

    Hypergeometric, of ``n_items - 1`` others of which ``above`` rank higher; with replacement,
    binomial.

    >>> sampled_ranks(np.array([0, 1, 3]), Sampled(2, 4)).round(3).tolist()
    [[1.0, 0.0, 0.0], [0.333, 0.667, 0.0], [0.0, 0.0, 1.0]]
    >>> sampled_ranks(np.array([0, 1, 2]), Sampled(2, 3, with_replacement=True)).tolist()
    [[1.0, 0.0, 0.0], [0.25, 0.5, 0.25], [0.0, 0.0, 1.0]]
    """
    others, m = sampled.n_items - 1, sampled.n_sampled
    above = above.astype(np.float64)[:, None]
    higher = np.arange(m + 1.0)[None]
    if not sampled.with_replacement:
        log = log_choices(above, higher) + log_choices(others - above, m - higher)
        return np.exp(log - log_choices(np.array(others, float), np.array(m, float)))
    share = above / others
    chances = share**higher * (1 - share) ** (m - higher)
    return np.exp(log_choices(np.array(m, float), higher)) * chances


def log_choices(n: np.ndarray, k: np.ndarray) -> np.ndarray:
    """The logarithm of the number of ways to choose ``k`` of ``n``; -inf where there is none."""
    is_possible = k <= n
    k = np.where(is_possible, k, 0.0)
    log = log_factorial(n) - log_factorial(k) - log_factorial(n - k)
    return np.where(is_possible, log, -np.inf)


def log_factorial(n: np.ndarray) -> np.ndarray:
    """``log(n!)`` of whole numbers: summed up, and by Stirling's series from 256 on."""
    few = np.append(0.0, np.cumsum(np.log(np.arange(1, 256))))
    many = np.maximum(n, 256)
    series = 1 / (12 * many) - 1 / (360 * many**3)
    stirling = many * np.log(many) - many + np.log(2 * math.pi * many) / 2 + series
    return np.where(n < 256, few[np.minimum(n, 255).astype(int)], stirling)
