"""Terms: the per-example statistics that sum-type metrics add up.

Two metrics that name the same term share its sum in a collection. Terms are the same if they are
equal as values: one function with the same options, never by what they happen to compute.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Hashable
from typing import Any, Literal, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.base import Batch, along
from recmetrics_jax._src.domain import Domain, checked_causes, outside
from recmetrics_jax._src.fingerprints import text_of
from recmetrics_jax._src.identity import Formula, Value, check_hashable, typed
from recmetrics_jax._src.options import flag, names, optional_word, shape
from recmetrics_jax._src.spreads import Decay

Terms = TypeVar("Terms")


_FLAGS = ("by_order", "raw", "is_summed", "per_batch", "by_row", "arithmetic")


@dataclasses.dataclass(frozen=True, eq=False)
class Term(Value):
    """A statistic of each example, to be summed over examples.

    Attributes:
        function: ``function(batch, *options) -> float[T, N, *shape]``, a pure function defined
            once (a lambda made anew at each call is a different term each time).
        options: hashable arguments of the function, part of the term's identity.
        shape: the shape of the statistic of one example, without zeros; ``()`` for a number.
        keys: names of the key arrays that the function reads from ``batch.keys``.
        excludes: what is out of the domain of the function, such as ``"labels_above_1"``: the names
            that `recmetrics_jax.out_of_domain_examples` counts by. One such example makes the sums
            of its task NaN, unless ``raw``.
        by_order: True: predictions count by their order alone, so that one of -inf is the lowest;
            False: it is a bad example.
        raw: False: masked examples count nothing, and a bad example, of a NaN or an infinity, makes
            the sums of its task NaN. True: the function sees to both itself; for counting examples.
        is_summed: True: the function returns the sums over a batch, ``float[T, *shape]``, and sees
            to masked examples itself; for statistics of pairs and groups of examples.
        per_batch: True: what examples count depends on those beside them in their batch, as it does
            for pairs and sessions; `recmetrics_jax.describe` tells which values that concerns.
        by_row: True: of a function that ``is_summed``, it returns a tuple of
            `recmetrics_jax.ops.Contributions`, so that they can be added up by segment; what
            belongs together, by its ``keys``, is then of one segment.
        resampled_by: how a bootstrap draws what a function that ``is_summed`` adds up:
            ``"weights"``, times the weights of examples, which are copies of them, or ``"rows"``,
            times what its rows contribute; None: not at all.
        arithmetic: False: the function takes logarithms, exponentials or the like. It says what
            the numbers of examples cost, which decides how a CPU adds them up. This and the two
            before are no part of what the term is, and change no value.

    >>> import jax.numpy as jnp, recmetrics_jax as rm
    >>> def above(batch, threshold):
    ...     return jnp.where(batch.predictions > threshold, batch.weights, 0.0)
    >>> rm.Term(above, options=(0.5,)) == rm.Term(above, options=(0.5,))
    True
    """

    function: Callable[..., Any]
    options: tuple[Hashable, ...] = ()
    shape: tuple[int, ...] = ()
    keys: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    by_order: bool = False
    raw: bool = False
    is_summed: bool = False
    per_batch: bool = False
    by_row: bool = False
    resampled_by: Literal["weights", "rows"] | None = None
    arithmetic: bool = True

    def __post_init__(self) -> None:
        """Checks the fields, and makes them Python's own.

        Raises:
            ValueError: if one of them is not as above.
        """
        if not callable(self.function):
            raise ValueError(f"function: expected a function of a batch, got {self.function!r}")
        if not isinstance(self.options, tuple):
            raise ValueError(
                f"options: expected a tuple of arguments of the function, as in (0.5,), got "
                f"{self.options!r}"
            )
        for i, option in enumerate(self.options):
            check_hashable(f"options[{i}]", option)
        check_hashable("function", self.function)
        put = functools.partial(object.__setattr__, self)
        put("shape", shape("shape", self.shape))
        put("keys", names("keys", self.keys))
        put("excludes", checked_causes("excludes", self.excludes))
        for name in _FLAGS:
            put(name, flag(name, getattr(self, name)))
        ways = ("weights", "rows") if self.by_row else ("weights",)
        optional_word("resampled_by", self.resampled_by, ways)

    def make_key(self) -> Hashable:
        """What it is; options with their types, since 1 and True may mean different things."""
        return (
            Formula.of(self.function),
            typed(self.options),
            *(self.shape, self.keys, self.excludes, self.by_order),
            *(self.raw, self.is_summed, self.per_batch),
        )

    @property
    def name(self) -> str:
        """The function's name, for messages."""
        return Formula.of(self.function).name

    @property
    def label(self) -> str:
        """The function with its options, for messages."""
        return f"{self.name}{self.options}" if self.options else self.name

    @functools.cached_property
    def text(self) -> str:
        """What the term is, the same in every process."""
        return self.make_text()

    def make_text(self) -> str:
        """`text`, worked out."""
        what = (self.excludes, self.by_order, self.raw, self.is_summed)
        fields = (self.options, self.shape, self.keys, *what)
        function = text_of(Formula.of(self.function))
        return f"{type(self).__name__} {function} {text_of(fields)}"

    @property
    def size(self) -> int:
        """Numbers per example."""
        return math.prod(self.shape)

    def evaluate(self, batch: Batch) -> jax.Array:
        """The statistic of each example, ``float[T, N, *shape]``, zero where masked unless raw.

        Where ``is_summed``, the sums, ``float[T, *shape]``.

        Raises:
            ValueError: if the function's result has another shape or is not floating.
        """
        terms = self.function(batch, *self.options)
        if self.by_row:
            terms = jnp.concatenate([part.sums() for part in terms], axis=1)
            terms = terms.reshape(-1, *self.shape)
        rows = batch.mask.shape[:1] if self.is_summed else batch.mask.shape
        expected = (*rows, *self.shape)
        is_array = isinstance(terms, jax.Array | np.ndarray)
        if not is_array or terms.shape != expected or not jnp.issubdtype(terms.dtype, jnp.floating):
            got = f"{terms.dtype}{list(terms.shape)}" if is_array else type(terms).__name__
            what = "sums (is_summed)" if self.is_summed else "a number or more for each example"
            raise ValueError(
                f"term {self.name!r}: expected a float array of shape {expected}, {what}, got {got}"
            )
        terms = jnp.asarray(terms)
        if self.raw or self.is_summed:
            return terms
        return jnp.where(along(batch.mask, terms), terms, jnp.zeros_like(terms))

    def view(self, batch: Batch) -> Batch:
        """The examples that it is of."""
        return batch if self.raw or self.by_order else batch.of_values

    def total(self, batch: Batch) -> jax.Array:
        """The sums over a batch, ``float64[T, *shape]``, NaN in bad tasks; in an x64 scope."""
        terms = self.evaluate(self.view(batch)).astype(jnp.float64)
        sums = terms if self.is_summed else jnp.sum(terms, axis=1)
        if self.raw:
            return sums
        arrays = batch.predictions, batch.labels, batch.weights
        is_bad = jnp.any(outside(*arrays, batch.given.one, self.domain), axis=(1, 2))
        return jnp.where(along(is_bad, sums), jnp.nan, sums)

    def arranged(self, sums: jax.Array) -> jax.Array:
        """Its sums, ``[T, ...]``, as a formula gets them: ``[T, *shape]``."""
        return sums

    @property
    def decay(self) -> Decay | None:
        """By what its sums decay; None if they do not."""
        return None

    @property
    def domain(self) -> Domain:
        """What examples must be."""
        return Domain(self.excludes, self.by_order)

    @property
    def everywhere(self) -> "Term":
        """The term without its domain: what its sums are where all examples are in it."""
        return dataclasses.replace(self, excludes=()) if self.excludes else self


@dataclasses.dataclass(frozen=True, eq=False)
class BinnedTerm(Term):
    """A term whose examples each count in one of many bins, with ``shape`` ``(C, bins)``.

    ``function(batch, *options)`` gives the bins of the examples, ``int32[T, N]``, and what they
    count there, ``float[T, N, C]``. Over the lifetime, an update costs no more than its examples.
    """

    def evaluate(self, batch: Batch) -> jax.Array:
        """The sums by bin, ``float64[T, C, bins]``."""
        n_tasks = batch.mask.shape[0]
        counts, bins = self.shape
        index, weights = self.scatter(batch)
        index = jnp.concatenate([index + jnp.int32(bins * i) for i in range(counts)], axis=1)
        weights = jnp.concatenate([weights[..., i] for i in range(counts)], axis=1)
        with jax.enable_x64(True):
            tasks = jnp.arange(n_tasks, dtype=jnp.int32)[:, None]
            empty = jnp.zeros((n_tasks, self.size))
            return empty.at[tasks, index].add(weights.astype(empty.dtype)).reshape(-1, *self.shape)

    def scatter(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """In which bins examples count, and what: ``int32[T, N]`` and ``float[T, N, C]``."""
        index, weights = self.function(batch, *self.options)
        chex.assert_shape(index, batch.mask.shape)
        chex.assert_shape(weights, (*batch.mask.shape, self.shape[0]))
        return index, weights


def scores(batch: Batch) -> jax.Array:
    """The predictions as one score per example.

    Raises:
        ValueError: if they are scores of classes.
    """
    if batch.predictions.ndim != 2:
        raise ValueError(
            f"predictions: expected shape {batch.mask.shape}, got {batch.predictions.shape}"
        )
    return batch.predictions


def weights(batch: Batch) -> jax.Array:
    """``w``."""
    return batch.weights


def weighted_labels(batch: Batch) -> jax.Array:
    """``w y``."""
    return batch.weights * batch.labels


def weighted_negatives(batch: Batch) -> jax.Array:
    """``w (1 - y)``."""
    return batch.weights * (1 - batch.labels)


def weighted_predictions(batch: Batch) -> jax.Array:
    """``w p``."""
    return batch.weights * scores(batch)


def examples(batch: Batch) -> jax.Array:
    """1 for each real example."""
    return batch.mask.astype(batch.weights.dtype)


def nonfinite_examples(batch: Batch) -> jax.Array:
    """1 for each bad example, masked or not."""
    return batch.nonfinite.astype(batch.weights.dtype)


def missing_labels(batch: Batch) -> jax.Array:
    """1 for each example whose label is NaN, masked or not."""
    return batch.unlabelled.astype(batch.weights.dtype)


NEGATIVE_WEIGHTS = ("weights_below_0",)
NO_CLASSES = ("labels_below_0", "labels_above_1", *NEGATIVE_WEIGHTS)
"""Labels that are no classes, not even soft ones."""

WEIGHTS = Term(weights, excludes=NEGATIVE_WEIGHTS)
WEIGHTED_LABELS = Term(weighted_labels)
WEIGHTED_NEGATIVES = Term(weighted_negatives)
POSITIVES = Term(weighted_labels, excludes=NO_CLASSES)
WEIGHTED_PREDICTIONS = Term(weighted_predictions)
EXAMPLES = Term(examples, raw=True)
OF_NO_LABELS = (WEIGHTS, WEIGHTED_PREDICTIONS, EXAMPLES)
NONFINITE_EXAMPLES = Term(nonfinite_examples, raw=True)
MISSING_LABELS = Term(missing_labels, raw=True)
