"""Toolkits for metrics of order: rows in groups, curves over sorted scores, pairs of rows.

All work along the last axis of arrays ``[..., N]``, inside jit, and in O(N log N). Weights and
areas are float64 whether x64 is enabled or not, for use in a ``jax.enable_x64(True)`` scope:
`recmetrics_jax.sum_metric` and `recmetrics_jax.sample_metric` open one for ``values``.
"""

from recmetrics_jax._src.curves import Curve, curve, precision_recall_area, roc_area
from recmetrics_jax._src.pairs import Pairs, count_pairs
from recmetrics_jax._src.segments import (
    argsort,
    cumsum,
    first_rows,
    is_first,
    is_last,
    last_rows,
    put,
    ranks,
    sums,
    sums_before,
    take,
    words_of,
)

__all__ = [
    # Rows in groups.
    "argsort",
    "cumsum",
    "first_rows",
    "is_first",
    "is_last",
    "last_rows",
    "put",
    "ranks",
    "sums",
    "sums_before",
    "take",
    "words_of",
    # Curves.
    "Curve",
    "curve",
    "precision_recall_area",
    "roc_area",
    # Pairs.
    "Pairs",
    "count_pairs",
]
