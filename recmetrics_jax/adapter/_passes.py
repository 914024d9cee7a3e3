"""Passes: one compiled call over a batch, for all computations that it updates.

Terms are added up in float64, on the CPU. Equal ones are compiled once, for as long as somebody
holds what compiles them.

Shapes: ``T`` tasks, ``N`` examples, ``K`` numbers.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src import reduction
from recmetrics_jax._src.batch import bucket_among, fine_bucket_size
from recmetrics_jax._src.columns import Column, wholes
from recmetrics_jax._src.identity import Interned
from recmetrics_jax._src.terms import Term
from recmetrics_jax.adapter._compiling import Compiled
from recmetrics_jax.adapter._declaration import Declaration
from recmetrics_jax.adapter._inputs import (
    SAMPLE_STATES,
    Inputs,
    host_inputs,
    padded_rows,
)
from recmetrics_jax.adapter._layout import TaskBatch
from recmetrics_jax.adapter._tensors import Tensor, from_numpy, to_numpy

if TYPE_CHECKING:
    from recmetrics_jax.adapter._declared import DeclaredComputation


class Statistics:
    """The sums of terms over examples; made by `statistics_of`."""

    def __init__(self, terms: tuple[Term, ...]):
        distinct = tuple(sorted(wholes(terms), key=lambda term: term.size))
        ends = itertools.accumulate(term.size for term in distinct)
        rows = {t: slice(end - t.size, end) for t, end in zip(distinct, ends, strict=True)}
        self.rows = {term: _rows_of(term, rows) for term in (*distinct, *terms)}
        """Where the sums of each term lie in the array of all of them."""
        self._sums = Compiled(functools.partial(_sums, distinct))

    def __call__(self, inputs: Inputs) -> np.ndarray:
        """The sums of all terms, ``float64[K, T]``."""
        is_full = bool(np.all(inputs.counts == inputs.labels.shape[1]))
        return np.array(self._sums(inputs._replace(counts=None) if is_full else inputs))


def _rows_of(term: Term, rows: Mapping[Term, slice]) -> slice:
    if not isinstance(term, Column):
        return rows[term]
    start = rows[term.whole].start + term.index
    return slice(start, start + 1)


def _sums(terms: tuple[Term, ...], inputs: Inputs) -> jax.Array:
    batch = inputs.batch()
    batch = batch._replace(
        predictions=batch.predictions.astype(jnp.float64),
        labels=batch.labels.astype(jnp.float64),
        weights=batch.weights.astype(jnp.float64),
    )
    # No example is bad: what a NaN touches becomes NaN by arithmetic, as in the reference.
    return reduction.sums({term: term.evaluate(batch) for term in terms}).T


statistics_of = Interned(Statistics)

LENGTHS = tuple(1024 << bits for bits in (0, 2, 4, 6, 8))
"""Of kept samples, which are sorted in less time than it takes to compile more of such lengths."""


class Slot(NamedTuple):
    """Where the sums of a state lie among those of all terms of a pass, ``float64[K, T]``."""

    state: str
    window_state: str
    rows: slice
    shape: tuple[int, ...]


class Contributions(NamedTuple):
    """What an update adds to the states of computations: all of it, before any is changed."""

    slots: Mapping[Declaration, Sequence[Slot]]
    counts: np.ndarray
    """The examples of each task."""
    examples: Mapping[str, np.ndarray]
    """The examples by the names of their states, as they are kept: copies, in float32."""
    all_sums: Tensor
    """``float64[K, T]``."""
    rows: Sequence[Tensor]
    """The first of them, where states of one number are: slicing takes longer than adding."""

    def count(self, tasks: slice) -> int:
        """The examples of some tasks, which have equally many."""
        return int(self.counts[tasks.start])

    def sums(self, slot: Slot, tasks: slice) -> Tensor:
        """The sums for a state of some tasks, ``float64[T, *shape]``; not to be written to."""
        if not slot.shape:
            return self.rows[slot.rows.start][tasks]
        return self.all_sums[slot.rows, tasks].T.reshape(-1, *slot.shape)

    def samples(self, keys: Sequence[str], tasks: slice) -> dict[str, Tensor]:
        """The examples of some tasks as they are kept, ``float32[T, N]`` and ``int64[T, N]``."""
        n = self.count(tasks)
        names = (*SAMPLE_STATES, *keys)
        return {name: from_numpy(np.array(self.examples[name][tasks, :n])) for name in names}


class Pass:
    """What one compiled call needs to update the computations of some declarations.

    Equal terms are added up once. Of NE and CTR, the sums of two tasks and the slots are::

                       task 0  task 1   slots of NE            slots of CTR
        0  w ce       [  0.9     1.2 ]  cross_entropy_sum
        1  w          [  4.0     3.0 ]  weighted_num_samples   ctr_denom
        2  w y        [  1.0     2.0 ]  pos_labels             ctr_num
        3  w (1 - y)  [  3.0     1.0 ]  neg_labels
    """

    def __init__(self, declarations: Sequence[Declaration]):
        self.keys = tuple(dict.fromkeys(key for each in declarations for key in each.keys))
        """The keys that they need."""
        self.keeps_samples = any(each.sample_classes is not None for each in declarations)
        terms = tuple(dict.fromkeys(term for each in declarations for term in each.terms.values()))
        self.statistics = statistics_of(terms) if terms else None
        """The sums of all of them; None if they have none."""
        rows = self.statistics.rows if self.statistics is not None else {}
        self.slots = {
            each: [
                Slot(name, f"window_{name}", rows[term], term.shape)
                for name, term in each.terms.items()
            ]
            for each in declarations
        }
        of_numbers = (s for slots in self.slots.values() for s in slots if not s.shape)
        self._numbers = max((slot.rows.stop for slot in of_numbers), default=0)

    def contributions(self, inputs: Inputs) -> "Contributions":
        """What examples add to the states."""
        examples: dict[str, np.ndarray] = {}
        if self.keeps_samples:
            arrays = zip(SAMPLE_STATES, inputs[:3], strict=True)
            examples = {name: np.array(x, np.float32) for name, x in arrays} | dict(inputs.keys)
        sums = () if self.statistics is None else from_numpy(self.statistics(inputs))
        return Contributions(self.slots, inputs.counts, examples, sums, list(sums[: self._numbers]))


def samples_as_inputs(samples: Mapping[str, Sequence[Tensor]], count: int, window: int) -> Inputs:
    """Kept samples, lists of chunks ``[T, n, ...]`` by name, as padded inputs.

    Padded to a power of four from 1,024 to 262,144, of two from there, or to the window: as it
    fills, few lengths are compiled. Two updates of three and of two examples, of one task::

        [[y0 y1 y2]], [[y3 y4]]   ->   [[y0 y1 y2 y3 y4  0 ... 0]]   1,024 long, of which 5 count

    Args:
        samples: at least one chunk of each name; what is not counted is no example.
        count: how many examples they hold.
        window: how many they can hold.

    >>> chunks = [np.ones((1, 3)), np.ones((1, 2))]  # of two updates
    >>> inputs = samples_as_inputs(dict.fromkeys(SAMPLE_STATES, chunks), 5, window=2000)
    >>> inputs.labels.shape, inputs.labels.sum().item(), inputs.counts.tolist()
    ((1, 1024), 5.0, [5])
    """
    longest = fine_bucket_size(window) if window <= LENGTHS[0] else -(-window // 1024) * 1024
    length = max(count, min(bucket_among(count, LENGTHS), longest))
    arrays = {}
    for name, chunks in samples.items():
        x = np.concatenate([to_numpy(chunk) for chunk in chunks], axis=1)
        dtype = np.float32 if name in SAMPLE_STATES else np.int64
        arrays[name] = padded_rows([(slice(None), x)], len(x), length, dtype)
    predictions, labels, weights = (arrays.pop(name) for name in SAMPLE_STATES)
    return Inputs(predictions, labels, weights, np.full(len(labels), count, np.int32), arrays)


class Passes:
    """The passes that somebody makes: what they compile is kept as long as this is.

    A copy, or a pickle, is empty: it makes the same passes, and shares what equal terms compile.
    """

    def __init__(self) -> None:
        self._by_declarations: dict[tuple[Declaration, ...], Pass] = {}

    def __reduce__(self) -> Any:
        return Passes, ()

    def of(self, declarations: tuple[Declaration, ...]) -> Pass:
        """The pass of some declarations, each once."""
        if declarations not in self._by_declarations:
            self._by_declarations[declarations] = Pass(declarations)
        return self._by_declarations[declarations]

    def plan(
        self,
        targets: "Sequence[tuple[DeclaredComputation, TaskBatch]]",
        required_inputs: Mapping[str, Any],
        n_tasks: int,
    ) -> Callable[[], None]:
        """An update by one pass, ready to be made: what can fail fails here.

        Args:
            targets: the computations, and for each the examples of its tasks.
            required_inputs: further arrays by name.
            n_tasks: the tasks of all batches.

        Returns:
            A function that changes the states.
        """
        if not targets:
            return lambda: None
        one_pass = self.of(tuple(dict.fromkeys(each.declaration for each, _ in targets)))
        keys: dict[str, Any] = {}
        if one_pass.keys or one_pass.keeps_samples:
            for computation, batch in targets:
                keys |= computation.check_update(batch, required_inputs)
        batches = list({batch.first: batch for _, batch in targets}.values())
        inputs = host_inputs(batches, keys, one_pass.keys, n_tasks)
        contributions = one_pass.contributions(inputs)

        def update() -> None:
            for computation, batch in targets:
                if computation.is_merged:
                    with computation.local_states():
                        computation.take_contributions(contributions, batch)
                else:  # Without a scope, which would take as long as all that is in it.
                    computation.take_contributions(contributions, batch)

        return update
