"""What a state holds, told by itself: so that another metric's state never gives a number.

A state carries a row of four words for all that it holds, in an order that depends on what it is,
and not on the names of metrics or their order. A metric knows the rows of its own states.
"""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from recmetrics_jax._src import metrics
from recmetrics_jax._src.fingerprints import word_of
from recmetrics_jax._src.terms import Term

ADVICE = (
    "restore it with the metric that made it, or carry over what still fits with "
    "recmetrics_jax.adopt(metric, state)"
)


class Entry(NamedTuple):
    """What one row says."""

    place: str
    """Where it lies, as it reads in a message."""
    label: str
    """What it is, as it reads in a message."""
    row: tuple[int, int, int, int]
    """The number of the accumulator in the state; words of what functions it is of, and of all that
    it is; how many numbers."""

    def __str__(self) -> str:
        return f"{self.label} ({self.place})"

    @classmethod
    def of(cls, place: str, accumulator: int, terms: Iterable[Term], beside: str = "") -> "Entry":
        """Of the sums of terms."""
        terms = tuple(terms)
        return cls(
            place,
            ", ".join(term.label for term in terms),
            (
                accumulator,
                word_of(place, *(term.name for term in terms)),
                word_of(place, beside, *(term.text for term in terms)),
                sum(term.size for term in terms),
            ),
        )


class Held(NamedTuple):
    """What a row of a state says of something that it holds."""

    accumulator: int
    start: int
    """The column where it begins."""
    size: int


class Contents:
    """What the states of a metric hold."""

    def __init__(self, n_tasks: int, entries: Iterable[Entry]):
        self.entries = tuple(entries)
        self.rows = with_head(n_tasks, np.array([entry.row for entry in self.entries], np.int32))

    def check(self, name: str, rows: np.ndarray, others: Iterable["Contents"] = ()) -> None:
        """Raises ValueError if a state holds something else, and says what.

        Args:
            name: of the argument that is the state.
            rows: what it says that it holds.
            others: of other metrics, whose words for what is gone may be known.
        """
        if np.array_equal(rows, self.rows):
            return
        check_head(name, rows)
        mine = {entry.row[1:]: entry for entry in self.entries}
        theirs = {tuple(row[1:].tolist()) for row in rows[1:]}
        new = [entry for what, entry in mine.items() if what not in theirs]
        gone = theirs - mine.keys()
        functions = {what[0] for what in gone}
        changed = [entry for entry in new if entry.row[1] in functions]
        kinds = {entry.row[1] for entry in changed}
        words = [
            ("new", [str(entry) for entry in new if entry not in changed]),
            ("gone", self.names(sorted(w for w in gone if w[0] not in kinds), others)),
            ("changed in its options", [str(entry) for entry in changed]),
        ]
        told = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in words if names)
        raise ValueError(
            f"{name}: expected a state of this metric, got one that holds something else; "
            f"{told or f'it has {rows[0, 2]} tasks'}. To go on, {ADVICE}"
        )

    def names(self, whats: Iterable[tuple[int, ...]], others: Iterable["Contents"]) -> list[str]:
        """The names of what these metrics do not have, as far as any is known."""
        known: dict[tuple[int, ...], str] = {
            e.row[1:]: str(e) for other in others for e in other.entries
        }
        places = {"lifetime", *(entry.place for entry in self.entries)}
        kinds = {
            word_of(place, function): f"{function} ({place})"
            for place in places
            for function in _functions()
        }
        return [
            known.get(what) or kinds.get(what[0]) or f"what has the mark {what[1] & 0xFFFFFFFF:08x}"
            for what in whats
        ]


def with_head(n_tasks: int, rows: np.ndarray) -> np.ndarray:
    """Rows with one before them that tells if any is cut off, put in or changed."""
    digest = word_of(str(n_tasks), rows.astype("<i4").tobytes().hex())
    return np.concatenate([np.array([[len(rows), digest, n_tasks, 0]], np.int32), rows])


def check_head(name: str, rows: np.ndarray) -> None:
    """Raises ValueError if the rows of a state are not all that were there."""
    is_whole = rows.ndim == 2 and rows.shape[1:] == (4,) and len(rows) > 1
    if not is_whole or not np.array_equal(with_head(int(rows[0, 2]), rows[1:]), rows):
        raise ValueError(
            f"{name}: expected a whole state, got one that was cut, padded or mixed, as Orbax does "
            "with strict=False; restore the checkpoint as it was saved, without a target, and "
            "carry it over with recmetrics_jax.adopt(metric, state)"
        )


def held(rows: np.ndarray) -> dict[tuple[int, ...], Held]:
    """What a state holds, by the words of each row, and where."""
    starts: dict[int, int] = {}
    where: dict[tuple[int, ...], Held] = {}
    for accumulator, *what in rows[1:].tolist():
        start = starts.get(accumulator, 0)
        where[tuple(what)] = Held(accumulator, start, what[-1])
        starts[accumulator] = start + what[-1]
    return where


def _functions() -> Iterator[str]:
    """The names of all functions of this package that may be terms."""
    for module in pkgutil.iter_modules(metrics.__path__):
        yield from vars(importlib.import_module(f"{metrics.__name__}.{module.name}"))
