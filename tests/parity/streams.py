"""THE table of metrics compared with the reference, and random streams for them.

Sums of weights and of weighted labels are exact in these streams, because all that goes into
them is a multiple of one power of two. The reference subtracts from its windows what leaves them;
with a residue where nothing is left, a window without weight would hold noise rather than zero.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import recmetrics_jax as rm
from recmetrics_jax._src.metrics import classification, multiclass

N_CLASSES = 5


@dataclasses.dataclass
class Tally:
    """What has been compared so far."""

    streams: int = 0
    values: int = 0
    largest: float = 0.0

    def add(self, ours, theirs):
        """Values that were found to agree, NaN included."""
        differences = np.abs(ours - theirs) / np.where(theirs == 0, 1.0, np.abs(theirs))
        self.values += ours.size
        self.largest = max(self.largest, np.max(differences, initial=0.0, where=~np.isnan(ours)))

    def __str__(self) -> str:
        return (
            f"{self.streams} streams, {self.values} values, "
            f"largest relative difference {self.largest:.1e}"
        )


TALLY = Tally()


def probabilities(rng, size):
    """Half uniform, half confident: down to 1e-7, and as close to 1."""
    confident = 1 / (1 + np.exp(-4 * rng.normal(size=size)))
    return np.where(rng.random(size) < 0.5, rng.random(size), confident)


def reals(rng, size):
    return multiples(3 * rng.normal(size=size) + 1, 10)


def coarse_reals(rng, size):
    """Many of them equal."""
    return multiples(2 * rng.normal(size=size), 1)


def scores(rng, size):
    return rng.normal(size=(size, N_CLASSES))


def clicks(rng, size, rate):
    return (rng.random(size) < rate).astype(float)


def soft_labels(rng, size, rate):
    return multiples(rng.random(size) * rate, 8)


def real_labels(rng, size, rate):
    return reals(rng, size)


def classes(rng, size, rate):
    """Class numbers, some outside of the classes."""
    return rng.integers(-1, N_CLASSES + 1, size).astype(float)


def multiples(x, bits):
    """``x`` rounded to multiples of ``2**-bits``."""
    return np.round(x * 2.0**bits) / 2.0**bits


def is_undefined_ne(name, theirs):
    """Whether the reference reports what it does where NE or logloss is undefined.

    A huge number or NaN for NE, and 0 for logloss, give or take the residue of a window over 1e-12.
    """
    if name.endswith("logloss"):
        return np.abs(theirs) < 1e-3
    return np.isnan(theirs) | (np.abs(theirs) > 1e6)


@dataclasses.dataclass(frozen=True)
class Case:
    """A metric here and in the reference, where it has the same name."""

    name: str
    make: Callable[..., rm.Metric]
    predictions: Callable[..., np.ndarray]  # predictions(rng, size)
    labels: tuple[Callable[..., np.ndarray], ...]  # label(rng, size, rate)
    undefined: float = 0.0  # what the reference reports there
    is_undefined: Callable[..., np.ndarray] | None = None  # where that is not one number
    options: tuple[tuple[str, Any], ...] = ()  # of the reference
    with_threshold: bool = False
    weight_bits: int = 24
    weights_may_be_none: bool = True

    def thresholds(self, threshold):
        return {"threshold": threshold} if self.with_threshold else {}


def accuracy(*, threshold=0.5, **options):
    """Accuracy as the adapter has it, where a soft label is never matched."""
    terms = classification.accuracy_terms(threshold, by_equality=True)
    return rm.sum_metric(terms, classification.accuracy_values, **options)


def multiclass_recall(**options):
    """Multiclass recall as the adapter has it, where a label that is no class is never hit."""
    terms = multiclass.multiclass_recall_terms(N_CLASSES, of_more=True)
    return rm.sum_metric(terms, multiclass.multiclass_recall_values, **options)


BINARY = (clicks, soft_labels)

CASES = [
    Case(
        "ne",
        functools.partial(rm.ne, logloss=True),
        probabilities,
        BINARY,
        undefined=np.nan,
        is_undefined=is_undefined_ne,
        options=(("include_logloss", True),),
    ),
    Case("calibration", rm.calibration, probabilities, BINARY),
    Case("ctr", rm.ctr, probabilities, BINARY),
    Case("mse", rm.mse, reals, (real_labels, clicks)),
    Case("mae", rm.mae, reals, (real_labels, clicks)),
    Case("accuracy", accuracy, probabilities, BINARY, with_threshold=True),
    Case("precision", rm.precision, probabilities, BINARY, with_threshold=True),
    Case("recall", rm.recall, probabilities, BINARY, with_threshold=True),
    Case("weighted_avg", rm.weighted_avg, reals, (clicks,), undefined=np.nan),
    Case(
        "multiclass_recall",
        multiclass_recall,
        scores,
        (classes,),
        undefined=np.nan,
        options=(("number_of_classes", N_CLASSES),),
        weight_bits=8,  # the reference sums hits in float32
        weights_may_be_none=False,
    ),
    # Sums of products of weights are exact too.
    Case("xauc", rm.xauc, coarse_reals, (real_labels, clicks), weight_bits=8),
]

WEIGHTS = {
    "none": lambda rng, size: np.ones(size),
    "uniform": lambda rng, size: rng.random(size),
    "with_zeros": lambda rng, size: rng.random(size) * (rng.random(size) < 0.4),
    "heavy_tail": lambda rng, size: rng.exponential(size=size) ** 2,
}


class Stream(NamedTuple):
    """Updates of predictions, labels, weights and maybe keys, with one array for each task."""

    updates: list[tuple[list[np.ndarray], ...]]
    has_weights: bool


def stream_of(rng, case, n_tasks, *, count, largest, ragged, smallest=1):
    """A random stream of ``count`` updates.

    Updates have ``smallest`` to ``largest`` examples; where ``ragged``, each task a number of its
    own, or none.
    """
    pattern = rng.choice(list(WEIGHTS))
    label = case.labels[rng.integers(len(case.labels))]
    rates = rng.choice([0.02, 0.1, 0.3, 0.9], n_tasks)

    def update():
        sizes = rng.integers(0 if ragged else smallest, largest + 1, n_tasks)
        sizes = sizes if ragged else np.repeat(sizes[0], n_tasks)
        weights = [multiples(WEIGHTS[pattern](rng, size), case.weight_bits) for size in sizes]
        labels = [label(rng, *of_task) for of_task in zip(sizes, rates, strict=True)]
        return [case.predictions(rng, size) for size in sizes], labels, weights

    return Stream([update() for _ in range(count)], pattern != "none")


def padded(rng, stream, *, count, largest):
    """The stream as arrays ``[count, T, largest, ...]``, and which of the ``count`` are updates.

    Updates, and examples in them, lie in order, scattered between masked ones, which hold NaN.
    """
    steps = np.sort(rng.choice(count, len(stream.updates), replace=False))
    shape = (count, len(stream.updates[0][0]), largest)
    arrays = [np.full((*shape, *of_tasks[0].shape[1:]), np.nan) for of_tasks in stream.updates[0]]
    mask = np.zeros(shape, bool)
    for step, update in zip(steps, stream.updates, strict=True):
        for task, of_task in enumerate(zip(*update, strict=True)):
            rows = np.sort(rng.choice(largest, len(of_task[1]), replace=False))
            mask[step, task, rows] = True
            for array, new in zip(arrays, of_task, strict=True):
                array[step, task, rows] = new
    return (*arrays, mask), steps


@functools.cache
def runner(case, n_tasks, window, threshold):
    """The metric over a whole padded stream: its values after every step, ``[count, T, ...]``."""
    metric = case.make(
        n_tasks=n_tasks, window=window, undefined=case.undefined, **case.thresholds(threshold)
    )

    def step(state, batch):
        predictions, labels, weights, mask = batch
        state = metric.update(state, rm.make_batch(predictions, labels, weights, mask=mask))
        return state, metric.compute(state)

    return jax.jit(lambda batches: jax.lax.scan(step, metric.init(), batches)[1])
