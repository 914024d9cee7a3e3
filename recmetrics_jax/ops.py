"""Toolkits for metrics of order: rows in groups, curves, sessions, pairs, ranks in a catalogue.

All work along the last axis of arrays ``[..., N]``, inside jit, and in O(N log N). Weights and
areas are float64 whether x64 is enabled or not, for use in a ``jax.enable_x64(True)`` scope:
`recmetrics_jax.sum_metric` and `recmetrics_jax.sample_metric` open one for ``values``. Called
eagerly, each is compiled once for every shape, and one dispatch. Arrays that do not fit
raise ValueError, when a function is traced.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax

from recmetrics_jax._src import arguments, curves, pairs, segments
from recmetrics_jax._src import relevant as _relevant
from recmetrics_jax._src import sessions as _sessions
from recmetrics_jax._src.catalogue import Ranks, rank_in, rank_of
from recmetrics_jax._src.contributions import Contributions
from recmetrics_jax._src.curves import Curve
from recmetrics_jax._src.pairs import Pairs
from recmetrics_jax._src.relevant import FirstRelevant, Relevant
from recmetrics_jax._src.sessions import Sessions
from recmetrics_jax._src.words import words_of

F = TypeVar("F", bound=Callable[..., Any])


def _compiled(function: F) -> F:
    return cast(F, jax.jit(arguments.checked(function), inline=True))


argsort = _compiled(segments.argsort)
cumsum = _compiled(segments.cumsum)
first_rows = _compiled(segments.first_rows)
is_first = _compiled(segments.is_first)
is_last = _compiled(segments.is_last)
last_rows = _compiled(segments.last_rows)
maxima = _compiled(segments.maxima)
numbers = _compiled(segments.numbers)
put = _compiled(segments.put)
ranks = _compiled(segments.ranks)
starts = _compiled(segments.starts)
sums = _compiled(segments.sums)
sums_before = _compiled(segments.sums_before)
take = _compiled(segments.take)
totals = _compiled(segments.totals)
words_of = _compiled(words_of)

curve = _compiled(curves.curve)
precision_recall_area = _compiled(curves.precision_recall_area)
roc_area = _compiled(curves.roc_area)

sessions = _compiled(_sessions.sessions)
ideal_order = _compiled(_sessions.ideal_order)
run_means = _compiled(_sessions.run_means)
top_ends = _compiled(_sessions.top_ends)

count_relevant = _compiled(_relevant.count_relevant)
first_relevant = _compiled(_relevant.first_relevant)
relevant_in_top = _compiled(_relevant.relevant_in_top)

count_pairs = _compiled(pairs.count_pairs)

__all__ = [
    # Rows in groups.
    "argsort",
    "cumsum",
    "first_rows",
    "is_first",
    "is_last",
    "last_rows",
    "maxima",
    "numbers",
    "put",
    "ranks",
    "starts",
    "sums",
    "sums_before",
    "take",
    "totals",
    "words_of",
    # Curves.
    "Curve",
    "curve",
    "precision_recall_area",
    "roc_area",
    # Sessions.
    "Sessions",
    "ideal_order",
    "run_means",
    "sessions",
    "top_ends",
    # Relevant rows of sessions.
    "FirstRelevant",
    "Relevant",
    "count_relevant",
    "first_relevant",
    "relevant_in_top",
    # Pairs.
    "Pairs",
    "count_pairs",
    # Catalogues.
    "Ranks",
    "rank_in",
    "rank_of",
    # What rows contribute, for `recmetrics_jax.Term(by_row=True)`.
    "Contributions",
]
