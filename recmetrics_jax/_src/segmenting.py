"""Any metric by segment, and which segments are worst."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.batch import ArrayOrKeys
from recmetrics_jax._src.combined import Counted, Told, decayed_definition, segmented
from recmetrics_jax._src.definitions import SampleDefinition, SumDefinition, WindowSums
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.identity import Formula
from recmetrics_jax._src.keys import keys_named
from recmetrics_jax._src.metric import Engine, Metric
from recmetrics_jax._src.options import number, whole
from recmetrics_jax._src.program import Member
from recmetrics_jax._src.spread_terms import out_of_range_term, spread
from recmetrics_jax._src.spreads import Segments, mixed, numbers_of
from recmetrics_jax._src.terms import WEIGHTS, Term

HASHES = np.uint32(1 << 10)
"""How many hashes tell the keys of one slot apart."""


@factory
def by_segment(metric: Metric, *, key: str, segments: int, hashed: bool = False) -> Metric:
    """A metric, or a collection of them, by segment of the examples: by country, device, campaign.

    The values of segment g are those of the metric over the examples of g alone: ``float[T, G]``
    where it gives ``float[T]``. (But examples of all segments age those of a metric that decays.)
    Of sums, one product adds up the statistics of all segments; of exact AUC there is one sort;
    other metrics of a window of examples are computed for each segment, and their time grows with
    ``segments``. What belongs together, as a session does, and is of several segments, counts in
    each of them with what is there of it. A window is of the newest examples of all segments
    together. Sums take ``segments`` times the memory that those of the metric alone take; examples
    in a window are kept once.

    A bad example makes the values of its segment NaN, and those of no other. A segment without
    examples has what the metric has that has seen none.

    Args:
        metric: a metric of this package, or a collection of such.
        key: the name of the segments among the ``keys`` of `recmetrics_jax.make_batch`.
        segments: how many segments there are, ``G``.
        hashed: False: the keys are the numbers of segments, from 0 to ``segments - 1``. True: any
            keys, hashed to that many slots, of which one may hold several; `segments_of` tells
            which slot is whose.

    Returns:
        A `Metric` with the values of ``metric``, ``float[T, G, ...]`` each, and, with ``lifetime_``
        before, and with ``window_`` if all windows are of one length: ``<key>_weight``, ``float[T,
        G]``, the weight of each segment; ``<key>_out_of_range_examples``, ``float[T]``, how many
        examples are of none; and if ``hashed`` ``<key>_is_shared``, ``float[T, G]``, 1 where a slot
        holds keys that differ, but for one pair of keys in 1,024. Of metrics that decay there is
        ``decayed_<key>_weight``, too.

    Raises:
        ValueError: if ``metric`` was written by hand, or an option is not one of the above.

    >>> import recmetrics_jax as rm
    >>> metric = rm.by_segment(rm.ctr(), key="country", segments=3)
    >>> batch = rm.make_batch([0.5] * 4, [0, 1, 1, 0], keys={"country": [0, 0, 2, 7]})
    >>> values = metric.compute(metric.update(metric.init(), batch))
    >>> values["lifetime_ctr"].tolist(), values["lifetime_country_weight"].tolist()
    ([[0.5, nan, 1.0]], [[2.0, 0.0, 1.0]])
    >>> values["lifetime_country_out_of_range_examples"].tolist()
    [1.0]
    """
    over = Segments.checked(key, segments, hashed)
    engine = Engine.of_compiled(metric)
    return engine.changed(functools.partial(segmented, over=over), *_told(engine, over))


def _told(engine: Engine, over: Segments) -> list[Member]:
    """What is told of segments, beside the values of metrics."""
    definitions = [of for _, of in engine.program.members]
    sums = [of for of in definitions if isinstance(of, SumDefinition)]
    samples = [of for of in definitions if isinstance(of, SampleDefinition)]
    window = _only_window(sums, samples)
    counts = {"out_of_range_examples": out_of_range_term(over)}
    if over.hashed:
        moments = Term(hash_moments, over.keys, shape=(3,), keys=over.keys, raw=True)
        counts["is_shared"] = spread(moments, over)
    values = Formula.of(functools.partial(told_values, key=over.name))
    weight = Told(values, math.nan, {"weight": spread(WEIGHTS, over)}, window)
    counted = Counted(values, math.nan, counts, window)
    if not sums:
        # As many as the first keeps; of several lengths, `worst` has to be told by one.
        return [Member("", WindowSums.of(told, samples[0].kept)) for told in (weight, counted)]
    members = [Member("", weight), Member("", counted)]
    decays = {term.decay for of in sums for term in of.distinct_terms() if term.decay is not None}
    if len(decays) == 1:
        lately = dataclasses.replace(weight, window=None)
        members.append(Member("", decayed_definition(lately, *decays)))
    return members


def _only_window(
    sums: Sequence[SumDefinition], samples: Sequence[SampleDefinition]
) -> tuple[int, int] | None:
    """The window of sums, with as many slots as there are, if all windows are as long."""
    windows = [of.window for of in sums if of.window is not None]
    lengths = {window[0] for window in windows} | {of.kept.window for of in samples}
    return max(windows, default=None) if len(lengths) == 1 else None


def hash_moments(batch: Batch, key: str) -> jax.Array:
    """1, a hash of the key, and its square: by their sums, whether all hashes are one."""
    _, hashed = mixed(*batch.key(key), 0)
    number = (hashed % HASHES).astype(batch.weights.dtype)
    return jnp.stack([jnp.ones_like(number), number, jnp.square(number)], axis=-1)


def told_values(sums: dict[str, jax.Array], *, key: str) -> Values:
    """The sums by name, and whether hashes vary."""
    values = {f"{key}_{name}": x for name, x in sums.items() if name != "is_shared"}
    if "is_shared" in sums:
        number, first, second = jnp.moveaxis(sums["is_shared"], -1, 0)
        values[f"{key}_is_shared"] = (number * second > jnp.square(first)).astype(first.dtype)
    return values


def segments_of(ids: ArrayOrKeys, *, segments: int) -> np.ndarray:
    """The slots that keys are hashed to by ``by_segment(..., hashed=True)``.

    Args:
        ids: ``[...]``, integers or strings, or what `recmetrics_jax.keys_of` makes of them.
        segments: how many slots there are.

    Returns:
        ``int32[...]``, from 0.

    Raises:
        ValueError: if an argument is not as above.

    >>> import recmetrics_jax as rm
    >>> rm.segments_of(["de", "fr", "de"], segments=1000).tolist()
    [456, 136, 456]
    """
    words = jnp.asarray(keys_named("ids", ids).words)
    count = whole("segments", segments, 1)
    return np.asarray(numbers_of(words[..., 0], words[..., 1], count, hashed=True))


class Segment(NamedTuple):
    """One of the worst segments; made by `worst`."""

    segment: int
    """Its number."""
    value: float
    """Its value."""
    weight: float
    """The weight of its examples."""
    share: float
    """Its part of the loss of all segments."""
    excess: float
    """Its loss beyond what it would be if it were no worse than all segments together."""


def worst(
    values: Mapping[str, ArrayLike],
    name: str,
    *,
    key: str,
    count: int = 10,
    best: float = 0.0,
    task: int = 0,
) -> list[Segment]:
    """The segments that lose most beyond what they would if they were as all others.

    The loss of a segment is its weight times how far its value is from the best: ``L_g = w_g |v_g -
    best|``, and its excess ``L_g - w_g sum(L) / sum(w)``. So a large segment that is a little worse
    comes before a small one that is much worse. Of normalized entropy the loss is the cross entropy
    ``L_g = w_g logloss_g``, and its excess ``L_g - H_g sum(L) / sum(H)``, where ``H_g = L_g /
    ne_g`` is the entropy of the labels of the segment: what it is beyond the NE of all together.
    All excesses add up to 0. Segments whose value is NaN are left out.

    Args:
        values: what ``compute`` of a metric that `by_segment` made gives, also in a collection.
        name: which value, such as ``"lifetime_ne"``, for which there has to be
            ``"lifetime_logloss"``: ``by_segment(ne(logloss=True), ...)``.
        key: the name of the segments.
        count: how many segments at most.
        best: the value of a segment that is as good as can be: 0 for errors and entropy, 1 for AUC,
            NDCG, accuracy, calibration.
        task: which task.

    Returns:
        A list of `Segment`, the largest excess first.

    Raises:
        ValueError: if there is no such value, or what it takes is missing.

    >>> import recmetrics_jax as rm
    >>> metric = rm.by_segment(rm.mse(), key="country", segments=3)
    >>> batch = rm.make_batch([1, 2, 0, 0.0], [0, 0, 0, 1], keys={"country": [0, 1, 2, 2]})
    >>> values = metric.compute(metric.update(metric.init(), batch))
    >>> first, *others = rm.worst(values, "lifetime_mse", key="country")
    >>> first.segment, first.value, first.weight, round(first.share, 4), first.excess
    (1, 4.0, 1.0, 0.6667, 2.5)
    """
    prefix, _, of_metric = name.rpartition("/")
    scope, _, metric = of_metric.partition("_")
    value = _by_segment(values, prefix, of_metric, task)
    count = whole("count", count, 1)
    weight = _by_segment(values, prefix, f"{scope}_{key}_weight", task)
    if metric == "ne":
        loss = weight * _by_segment(values, prefix, f"{scope}_logloss", task)
        scale = loss / np.where(value > 0, value, np.nan)
    else:
        loss, scale = weight * np.abs(value - number("best", best)), weight
    is_there = ~np.isnan(loss) & ~np.isnan(scale)
    total, of_scale = (np.sum(x, where=is_there) for x in (loss, scale))
    excess = loss - scale * total / of_scale if of_scale else loss
    order = np.argsort(-np.where(is_there, excess, -np.inf), kind="stable")
    of_segments = value, weight, loss / total if total else np.zeros_like(loss), excess
    return [
        Segment(int(g), *(float(x[g]) for x in of_segments)) for g in order[:count] if is_there[g]
    ]


def _by_segment(values: Mapping[str, ArrayLike], prefix: str, name: str, task: int) -> np.ndarray:
    """A value of a task, ``float64[G]``; of the metric, or of a collection that it is in."""
    place = prefix
    while True:
        full = f"{place}/{name}" if place else name
        if full in values:
            break
        if not place:
            hint = "there is none of metrics by segment that have windows of several lengths"
            if name.endswith("_logloss"):
                hint = "the segments of normalized entropy are told with ne(logloss=True)"
            raise ValueError(
                f"values: expected {name!r}, as by_segment gives it, got {sorted(values)}; {hint}"
            )
        place = place.rpartition("/")[0]
    value = np.asarray(values[full], np.float64)
    if value.ndim != 2:
        raise ValueError(
            f"name: expected a value that by_segment gives, of shape [T, G], got {full!r} of shape "
            f"{value.shape}"
        )
    return value[whole("task", task, 0, len(value) - 1)]
