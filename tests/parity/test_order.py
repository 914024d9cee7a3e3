"""Parity with the reference for metrics of order, and where they deliberately differ.

XAUC, which needs no more than sums, is a row of the table in streams.py.

How values of the reference get their 1e-9:

- AUC, AUPRC and RAUC take their inputs to float32 and compute in it. Inputs here are float32
  numbers. Its own free functions (``compute_auc``, ``compute_auprc``, ``compute_rauc``) are then
  given, in float64, the examples that its window holds, all or those of one group. What it reports
  itself (of groups through ``compute_auc_per_group`` and the like) is held to that as closely as
  float32 allows.
- RAUC and the discounts of NDCG are of torch's default dtype, which is float64 here.
"""

import contextlib
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import Reference, modules, torch
from streams import TALLY, Case, Stream, clicks, coarse_reals, padded, soft_labels, stream_of

import recmetrics_jax as rm
from recmetrics_jax._src.metrics.reference_ranking import reference_ndcg

NAN = np.nan
RTOL = 1e-9
FLOAT32_RTOL = 1e-5
COUNT, LARGEST = 12, 16
KEPT_WHOLE = 200  # more than a stream has
N_GROUPS = 9


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def untied(rng, size):
    """float32 numbers; no two of one window are equal, with the seeds below."""
    return rng.random(size, dtype=np.float32).astype(float)


def tied(rng, size):
    return np.round(rng.random(size) * 16) / 16


def half_tied(rng, size):
    return np.where(rng.random(size) < 0.5, untied(rng, size), tied(rng, size))


def any_keys(rng, size):
    return rng.integers(0, N_GROUPS, size)


def paired_keys(rng, size):
    """Keys of groups, each of at least two examples."""
    keys = np.repeat(any_keys(rng, (size + 1) // 2), 2)[:size]
    keys[-1] = keys[-2]
    return rng.permutation(keys)


@dataclasses.dataclass(frozen=True)
class OrderCase:
    """A metric of order here and in the reference."""

    name: str
    case: Case
    settings: tuple[tuple[int, int], ...]  # n_tasks, window
    key: str = ""  # the name of its keys, if it has any
    keys: Any = any_keys
    ours: tuple[tuple[str, Any], ...] = ()
    theirs: tuple[tuple[str, Any], ...] = ()
    smallest: int = 2  # the reference fails on groups of one batch with one example
    may_be_ragged: bool = True
    streams: int = 12


def area_case(name, metric, predictions, labels, *, undefined, options=None, **fields):
    ours, theirs = options or ({}, {})
    return OrderCase(
        name,
        Case(
            metric,
            getattr(rm, metric),
            predictions,
            labels,
            undefined=undefined,
            weight_bits=6,
        ),
        ours=tuple(ours.items()),
        theirs=tuple(theirs.items()),
        **fields,
    )


def grouped(metric, undefined_groups, **more):
    """Options here and there; the reference counts groups without a value."""
    ours = {"grouped": True, "average": "equal", "undefined_groups": undefined_groups, **more}
    return ours, {f"grouped_{metric}": True}


SHORT = ((3, 50), (1, 90))  # windows that examples leave
# The reference fails on groups of AUC and RAUC once examples leave the window.
LONG = ((2, KEPT_WHOLE),)
GROUPS: Any = {"key": "grouping_keys", "may_be_ragged": False, "streams": 10}

AREAS = [
    area_case("auc", "auc", untied, (clicks,), undefined=0.5, settings=SHORT),
    area_case(
        "auc_of_cut_labels",
        "auc",
        untied,
        (soft_labels,),
        undefined=0.5,
        options=({"label_threshold": 0.039}, {"apply_bin": True}),
        settings=SHORT[:1],
        streams=8,
    ),
    area_case(
        "grouped_auc",
        "auc",
        untied,
        (clicks,),
        undefined=0.5,
        options=grouped("auc", 0.5),
        settings=LONG,
        **GROUPS,
    ),
    area_case("auprc", "auprc", tied, (clicks, soft_labels), undefined=0.0, settings=SHORT),
    area_case(
        "grouped_auprc",
        "auprc",
        tied,
        (clicks, soft_labels),
        undefined=0.0,
        options=grouped("auprc", 0.0),
        settings=((2, 50),),
        **GROUPS,
    ),
    area_case(
        "rauc",
        "rauc",
        half_tied,
        (soft_labels, lambda rng, size, rate: coarse_reals(rng, size)),
        undefined=NAN,
        options=({"pair_weights": None}, {}),
        settings=SHORT,
        may_be_ragged=False,  # the reference fails on fewer than two examples
    ),
    area_case(
        "grouped_rauc",
        "rauc",
        untied,
        (soft_labels,),
        undefined=NAN,
        options=grouped("rauc", None, pair_weights=None),
        settings=LONG,
        keys=paired_keys,
        **GROUPS,
    ),
]


@functools.cache
def runner(order, n_tasks, window):
    """The metric over a whole padded stream: its values after every step, ``[count, T]``."""
    metric = order.case.make(
        n_tasks=n_tasks, window=window, undefined=order.case.undefined, **dict(order.ours)
    )

    def step(state, batch):
        (predictions, labels, weights, *keys), mask = batch
        named = {order.key: keys[0].astype(int)} if keys else {}
        batch = rm.make_batch(predictions, labels, weights, mask=mask, keys=named)
        state = metric.update(state, batch)
        return state, metric.compute(state)

    return jax.jit(lambda batches: jax.lax.scan(step, metric.init(), batches)[1])


def values_of_package(order, setting, stream, rng):
    """Values after each update, ``[updates, T]``."""
    (*arrays, mask), steps = padded(rng, stream, count=COUNT, largest=LARGEST)
    arrays[3:] = [np.nan_to_num(keys, nan=-3) for keys in arrays[3:]]
    with jax.enable_x64(True):
        values = runner(order, *setting)((arrays, mask))
        return {name: np.asarray(value)[steps] for name, value in values.items()}


def stream_of_order(rng, order, n_tasks, *, fused):
    stream = stream_of(
        rng,
        order.case,
        n_tasks,
        count=int(rng.integers(4, COUNT + 1)),
        largest=LARGEST,
        ragged=order.may_be_ragged and not fused,
        smallest=order.smallest,
    )
    if not order.key:
        return stream
    updates = [
        (*update, [order.keys(rng, len(update[0][0]))] * n_tasks) for update in stream.updates
    ]
    return Stream(updates, True)


def area_in_float64(order, computation):
    """The reference's free function on the examples of its window, ``[T]`` by value name."""
    name = order.case.name
    states = [computation.predictions, computation.labels, computation.weights]
    tensors = [torch.cat(list(state), dim=-1).double() for state in states]

    def area(examples):
        selected = [x[:, examples] for x in tensors]
        of_tasks = selected if name == "auprc" else [[x] for x in selected]
        options = {"apply_bin": True} if dict(order.theirs).get("apply_bin") else {}
        function = getattr(modules[name], f"compute_{name}")
        with default_dtype(torch.float64):
            return function(len(selected[0]), *of_tasks, **options).numpy()

    values = {f"window_{name}": area(slice(None))}
    if order.key:
        keys = computation.grouping_keys[0]
        examples = keys if name == "auprc" else keys[1:]  # its first example is padding
        of_groups = [area(examples == group) for group in torch.unique(examples) if group != -1]
        values[f"window_grouped_{name}"] = np.mean(of_groups, axis=0)
    return values


@pytest.mark.parametrize(
    ("order", "index"),
    [(order, index) for order in AREAS for index in range(order.streams)],
    ids=lambda x: x.name if isinstance(x, OrderCase) else str(x),
)
def test_area_agrees_with_the_reference(order, index):
    rng = np.random.default_rng([9, AREAS.index(order), index])
    n_tasks, window = setting = order.settings[index % len(order.settings)]
    fused = bool(index // 2 % 2)
    stream = stream_of_order(rng, order, n_tasks, fused=fused)
    ours = values_of_package(order, setting, stream, rng)
    reference = Reference(
        order.case.name,
        n_tasks,
        window=window,
        batch_size=LARGEST,
        fused=fused,
        **dict(order.theirs),
    )
    for i, (predictions, labels, weights, *keys) in enumerate(stream.updates):
        named = {order.key: keys[0][0]} if keys else {}
        reference.update(predictions, labels, weights, **named)
        computations = [
            area_in_float64(order, computation)
            for computation in reference.metric._metrics_computations
        ]
        reported = reference.compute()
        for name in computations[0]:
            theirs = np.concatenate([values[name] for values in computations])
            np.testing.assert_allclose(
                reported[name], theirs, rtol=FLOAT32_RTOL, atol=1e-6, err_msg=name
            )
            np.testing.assert_allclose(ours[name][i], theirs, rtol=RTOL, err_msg=name)
            TALLY.add(ours[name][i], theirs)
    TALLY.streams += 1


NDCG_OPTIONS: list[dict[str, Any]] = [
    {},
    {"exponential_gain": True},
    {"k": 2},
    {"k": 3, "exponential_gain": True, "report_ndcg_as_decreasing_curve": False},
    {"report_ndcg_as_decreasing_curve": False},
    {"remove_single_length_sessions": True},
    {"remove_single_length_sessions": True, "k": 1, "scale_by_weights_tensor": True},
    {"scale_by_weights_tensor": True, "exponential_gain": True},
    {"is_negative": (True, False, True)},
    {
        "is_negative": (False, True, True),
        "k": 4,
        "exponential_gain": True,
        "report_ndcg_as_decreasing_curve": False,
        "remove_single_length_sessions": True,
        "scale_by_weights_tensor": True,
    },
]


def session_keys(rng, size):
    """Keys of sessions; one of them at least has two examples."""
    keys = any_keys(rng, size) * 10**12
    keys[rng.integers(1, size)] = keys[0]
    return keys


def ndcg_case(options):
    ours = {k: v for k, v in options.items() if k != "is_negative"}
    ours["is_negative_task_mask"] = options.get("is_negative")
    return OrderCase(
        "-".join(options) or "default",
        Case("ndcg", reference_ndcg, untied, (clicks, soft_labels)),
        ((3, 60),),
        "session_id",
        session_keys,
        tuple(ours.items()),
        tuple(options.items()),
        may_be_ragged=False,
    )


NDCG = [ndcg_case(options) for options in NDCG_OPTIONS]


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("order", NDCG, ids=[order.name for order in NDCG])
def test_ndcg_agrees_with_the_reference(order, index):
    rng = np.random.default_rng([10, NDCG.index(order), index])
    n_tasks, window = setting = order.settings[0]
    fused = bool(index % 2)
    stream = stream_of_order(rng, order, n_tasks, fused=fused)
    ours = values_of_package(order, setting, stream, rng)
    options = dict(order.theirs)
    with default_dtype(torch.float64):
        reference = Reference(
            "ndcg", n_tasks, window=window, batch_size=LARGEST, fused=fused, **options
        )
        for i, (*update, keys) in enumerate(stream.updates):
            reference.update(*update, session_id=np.stack(keys) if fused else keys[0])
            theirs = reference.compute()
            assert theirs.keys() == ours.keys()
            for name, value in theirs.items():
                # Some values are 0 but for the rounding of 1 - DCG / ideal DCG, or of windows.
                np.testing.assert_allclose(
                    ours[name][i], value, rtol=RTOL, atol=1e-13, err_msg=name
                )
                is_near_zero = np.abs(value) < 1e-3
                TALLY.add(*(np.where(is_near_zero, 0.0, x) for x in (ours[name][i], value)))
    TALLY.streams += 1


@dataclasses.dataclass(frozen=True)
class Difference:
    """A stream of one task, and its value there and here, or the exception instead."""

    name: str
    metric: str
    updates: list[tuple[Any, ...]]  # predictions, labels, keys (if any) and weights (if any)
    theirs: Any
    ours: Any
    value: str = ""  # "window_<metric>" if empty
    window: int = 100
    grouped: bool = False
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # on both sides
    mask: list[bool] | None = None  # here; the reference has no masks
    rtol: float = 1e-6  # the reference has float32 inside


SECOND = 1 / np.log2(3)  # the discount of the second rank
PAIR = [7, 7]
PAIRS = [7, 7, 8, 8]
GROUPED: Any = {"grouped": True}

# Ties count half, wherever rows are; a soft label is a positive and a negative of its shares.
AUC = [
    Difference("auc_of_a_tie_positive_first", "auc", [([0.5, 0.5], [1.0, 0.0])], 1.0, 0.5),
    Difference("auc_of_a_tie_negative_first", "auc", [([0.5, 0.5], [0.0, 1.0])], 0.0, 0.5),
    Difference("auc_tied_in_float32", "auc", [([0.5, 0.5 + 1e-12], [1.0, 0.0])], 1.0, 0.0),
    # The curve of the reference begins at its first example rather than at the origin.
    Difference("auc_of_soft_labels", "auc", [([0.9, 0.1], [0.5, 0.5])], 0.375, 0.5),
    Difference("auc_of_one_soft_label", "auc", [([0.9], [0.5])], 0.0, 0.5),
    Difference("auc_of_one_class", "auc", [([0.9, 0.1], [1.0, 1.0])], 0.5, NAN),
    Difference("auc_with_a_nan_prediction", "auc", [([0.9, NAN], [1.0, 0.0])], 0.0, NAN),
]

# Groups without a value are left out; windows keep keys and examples together.
GROUPED_METRICS = [
    Difference(
        "auc_of_groups_of_one_class",
        "auc",
        [([0.9, 0.1, 0.8, 0.3], [1.0, 0.0, 1.0, 1.0], PAIRS)],
        0.75,
        1.0,
        **GROUPED,
    ),
    Difference(
        "auprc_of_groups_without_positives",
        "auprc",
        [([0.9, 0.1, 0.8, 0.3], [1.0, 0.0, 0.0, 0.0], PAIRS)],
        0.5,
        1.0,
        **GROUPED,
    ),
    Difference(
        "groups_of_auc_past_the_window",
        "auc",
        [([0.9, 0.1], [1.0, 0.0], PAIR), ([0.8, 0.3], [0.0, 1.0], [8, 8])],
        IndexError,
        0.0,  # of 8: one example alone is left of 7
        window=3,
        **GROUPED,
    ),
    Difference(
        "groups_of_rauc_past_the_window",
        "rauc",
        [([0.9, 0.1], [1.0, 0.0], PAIR), ([0.8, 0.3], [0.0, 1.0], [8, 8])],
        IndexError,
        0.0,
        window=3,
        **GROUPED,
    ),
    Difference(
        "groups_of_auc_in_a_batch_of_one",
        "auc",
        [([0.9], [1.0], [7]), ([0.1], [0.0], [7])],
        RuntimeError,
        1.0,
        **GROUPED,
    ),
    Difference(
        "rauc_of_groups_of_one_example",
        "rauc",
        [([0.9, 0.1, 0.8], [1.0, 0.0, 1.0], [7, 7, 8])],
        ZeroDivisionError,
        1.0,
        **GROUPED,
    ),
]

OTHERS = [
    Difference("auprc_without_positives", "auprc", [([0.9, 0.1], [0.0, 0.0])], 0.0, NAN),
    Difference(
        "auprc_of_a_batch_longer_than_the_window",
        "auprc",
        [([0.9, 0.8, 0.7, 0.6], [1.0, 1.0, 0.0, 1.0])],
        (1 + 1 + 3 / 4) / 3,
        1 / 2,
        window=2,
    ),
    Difference("rauc_of_one_example", "rauc", [([0.9], [1.0])], ZeroDivisionError, NAN),
    Difference("xauc_of_one_example", "xauc", [([0.9], [1.0])], 0.0, NAN),
    Difference("xauc_with_a_nan_prediction", "xauc", [([0.9, NAN], [1.0, 0.0])], 0.0, NAN),
]

# Tied predictions count by expectation, masked examples have no rank, and NaN is reported.
OF_NDCG = [
    Difference(
        "ndcg_of_a_tie_relevant_first",
        "ndcg",
        [([0.5, 0.5], [1.0, 0.0], PAIR)],
        0.0,
        1 - (1 + SECOND) / 2,
    ),
    Difference(
        "ndcg_of_a_tie_relevant_second",
        "ndcg",
        [([0.5, 0.5], [0.0, 1.0], PAIR)],
        1 - SECOND,
        1 - (1 + SECOND) / 2,
    ),
    Difference(
        "ndcg_with_a_nan_prediction", "ndcg", [([0.9, NAN], [1.0, 0.0], PAIR)], 1 - SECOND, NAN
    ),
    Difference(
        "ndcg_of_padding",  # without weight there, masked here
        "ndcg",
        [([0.9, 0.8], [0.0, 1.0], PAIR, [0.0, 1.0])],
        1 - SECOND,
        0.0,
        mask=[False, True],
    ),
    Difference(
        "ndcg_of_a_session_of_padding",
        "ndcg",
        [([0.9, 0.8, 0.9], [0.0, 1.0, 0.0], [7, 7, 8], [1.0, 1.0, 0.0])],
        (1 - SECOND) / 2,
        1 - SECOND,
        mask=[True, True, False],
    ),
    Difference(
        "ndcg_of_a_batch_without_sessions",
        "ndcg",
        [([0.9, 0.8], [0.0, 1.0], PAIR), ([0.9, 0.8], [0.0, 1.0], [7, 8])],
        1 - SECOND,  # the batch is skipped
        NAN,  # the batch is all that the window holds
        window=2,
        options={"remove_single_length_sessions": True},
    ),
    Difference(
        "ndcg_of_float32_discounts",
        "ndcg",
        [([0.9, 0.8], [0.0, 1.0], PAIR)],
        1 - float(1 / np.float32(np.log2(3))),
        1 - SECOND,
        rtol=1e-9,
    ),
]

DIFFERENCES = [*AUC, *GROUPED_METRICS, *OTHERS, *OF_NDCG]


def unpacked(row, update):
    """Predictions, labels, weights, and keys by name."""
    ones = [1.0] * len(update[0])
    predictions, labels, keys, weights = (*update, *(None, ones)[len(update) - 2 :])
    name = "session_id" if row.metric == "ndcg" else "grouping_keys"
    return (predictions, labels, weights), {} if keys is None else {name: np.array(keys)}


def value_name(row):
    return row.value or ("window_grouped_" if row.grouped else "window_") + row.metric


def of_reference(row):
    options = row.options | ({f"grouped_{row.metric}": True} if row.grouped else {})
    reference = Reference(row.metric, 1, window=row.window, **options)
    for update in row.updates:
        arrays, keys = unpacked(row, update)
        reference.update(*([x] for x in arrays), **keys)
    return reference.compute()[value_name(row)][0]


def of_package(row):
    options = row.options | ({"grouped": True} if row.grouped else {})
    with jax.enable_x64(True):
        factory = reference_ndcg if row.metric == "ndcg" else getattr(rm, row.metric)
        metric = factory(window=row.window, **options)
        state = metric.init()
        for update in row.updates:
            arrays, keys = unpacked(row, update)
            batch = rm.make_batch(*(jnp.array([x]) for x in arrays), mask=row.mask, keys=keys)
            state = metric.update(state, batch)
        return np.asarray(metric.compute(state)[value_name(row)][0])


@pytest.mark.parametrize("row", DIFFERENCES, ids=[row.name for row in DIFFERENCES])
def test_difference(row):
    for value_of, expected in ((of_reference, row.theirs), (of_package, row.ours)):
        if isinstance(expected, type):
            with pytest.raises(expected):
                value_of(row)
        else:
            np.testing.assert_allclose(value_of(row), expected, rtol=row.rtol)
