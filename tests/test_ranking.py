"""XAUC, RAUC and the reference's NDCG against their definitions: loops over pairs and sessions."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles_order as oracles
import pytest
from jax.sharding import AxisType

import recmetrics_jax as rm
from recmetrics_jax._src.metrics.reference_ranking import reference_ndcg

pytestmark = pytest.mark.once

RTOL = 1e-6


def values_of(metric, batches):
    """The values, with the prefix of the lifetime or the window cut off."""
    state = functools.reduce(metric.update, batches, metric.init())
    values = {
        re.sub("(lifetime|window)_", "", name): x for name, x in metric.compute(state).items()
    }
    for value in values.values():
        assert value.dtype == jnp.result_type(float)
    return values


def check(value, wanted, rtol=RTOL, atol=1e-7):
    np.testing.assert_allclose(value, np.asarray(wanted, np.float64), rtol=rtol, atol=atol)


def distinct(rng, shape):
    return rng.permuted(np.broadcast_to(np.arange(shape[1]), shape), axis=1) / shape[1]


# Predictions, labels and weights by kind. Sums of quarters and of such products are exact.
PREDICTIONS = {
    "distinct": distinct,
    "tied": lambda rng, shape: rng.integers(0, 4, shape) / 4,
    "equal": lambda rng, shape: np.full(shape, 0.25),
}
LABELS = {
    "binary": lambda rng, shape: rng.integers(0, 2, shape),
    "graded": lambda rng, shape: rng.integers(0, 5, shape) / 2,
    "none": lambda rng, shape: np.zeros(shape),
}
WEIGHTS = {
    "ones": lambda rng, shape: np.ones(shape),
    "some_zero": lambda rng, shape: rng.integers(0, 5, shape) / 4,
    "unequal": lambda rng, shape: 10.0 ** rng.integers(-6, 13, shape),
    "zero": lambda rng, shape: np.zeros(shape),
}


def draw(seed, predictions, labels, weights, *, tasks=2, examples=41, groups=12):
    """Rounded to float32, so that the oracles see what the metrics see."""
    rng = np.random.default_rng(seed)
    shape = (tasks, examples)
    kinds = (PREDICTIONS[predictions], LABELS[labels], WEIGHTS[weights])
    p, y, w = (kind(rng, shape).astype(np.float32).astype(np.float64) for kind in kinds)
    # 64 bits: most of these are equal in their upper or in their lower half.
    keys = rng.integers(0, groups, shape)
    return p, y, w, (keys % 3) * 2**40 + keys // 3 - 2


MIXES = list(itertools.product(PREDICTIONS, LABELS, WEIGHTS))


@functools.cache
def metric_of(factory, n_tasks=2, **options):
    return factory(n_tasks=n_tasks, **options)


def by_task(oracle, *arrays):
    return [oracle(*parts) for parts in zip(*arrays, strict=True)]


@pytest.mark.parametrize("mix", MIXES, ids="-".join)
def test_xauc_is_its_definition(mix):
    batches = [draw(seed, *mix)[:3] for seed in range(2)]
    for p, y, w in batches:
        value = values_of(metric_of(rm.xauc), [rm.make_batch(p, y, w)])["xauc"]
        check(value, by_task(oracles.xauc, p, y, w))


def test_xauc_adds_up_the_pairs_of_each_batch():
    rng = np.random.default_rng(0)
    batches = [tuple(rng.integers(0, 4, 9) / 4 for _ in range(3)) for _ in range(3)]
    numerator = denominator = 0.0
    for p, y, w in batches:
        pairs = (np.sum(w) ** 2 - np.sum(w**2)) / 2
        numerator += oracles.xauc(p, y, w) * pairs
        denominator += pairs
    made = [rm.make_batch(*batch) for batch in batches]
    check(values_of(metric_of(rm.xauc, 1), made)["xauc"], [numerator / denominator])
    metric = metric_of(rm.xauc, 1, window=18)
    state = functools.reduce(metric.update, made, metric.init())
    last_two = values_of(metric_of(rm.xauc, 1), made[1:])["xauc"]
    check(metric.compute(state)["window_xauc"], last_two)


@pytest.mark.parametrize(
    ("p", "y", "wanted"),
    [
        ([1, 2], [1, 2], 1.0),
        ([1, 2], [2, 1], 0.0),
        ([1, 1], [2, 2], 1.0),
        ([1, 1], [1, 2], 0.0),
        ([1, 2], [1, 1], 0.0),
    ],
)
def test_xauc_of_ties(p, y, wanted):
    check(values_of(metric_of(rm.xauc, 1), [rm.make_batch(p, y)])["xauc"], [wanted])


AVERAGES = list(itertools.product(("equal", "impressions", "weight"), (None, 0.25)))


@functools.cache
def rauc_of_all_averages():
    metrics = {
        f"{average} {undefined_groups}": rm.rauc(
            n_tasks=2,
            window=40,
            grouped=True,
            average=average,
            undefined_groups=undefined_groups,
        )
        for average, undefined_groups in AVERAGES
    }
    return rm.collection(metrics)


@pytest.mark.parametrize("predictions", PREDICTIONS)
@pytest.mark.parametrize("labels", LABELS)
def test_rauc_is_its_definition(predictions, labels):
    p, y, w, groups = draw(3, predictions, labels, "some_zero", examples=33, groups=14)
    groups[:, 0], w[:, 0] = 99, 1  # A group of one.
    values = values_of(
        rauc_of_all_averages(), [rm.make_batch(p, y, w, keys={"grouping_keys": groups})]
    )
    names = ("rauc", "grouped_rauc", "grouped_rauc_groups", "grouped_rauc_undefined_groups")
    for options in AVERAGES:
        wanted = [
            (oracles.rauc(*parts[:3]), *oracles.grouped_of_present(oracles.rauc, *parts, *options))
            for parts in zip(p, y, w, groups, strict=True)
        ]
        of_options = [values[f"{options[0]} {options[1]}/{name}"] for name in names]
        for got, value in zip(of_options, zip(*wanted, strict=True), strict=True):
            check(got, value)
        assert (of_options[-1] >= 1).all()


def grouped_rauc(*arrays):
    return [oracles.grouped_of_present(oracles.rauc, *x)[0] for x in zip(*arrays, strict=True)]


def test_rauc_covers_the_newest_examples():
    p, y, w, groups = draw(4, "tied", "graded", "ones", examples=30)
    batches = [
        rm.make_batch(*(x[:, i : i + 7] for x in (p, y, w)), keys={"user": groups[:, i : i + 7]})
        for i in range(0, 30, 7)
    ]
    metric = metric_of(rm.rauc, window=11, grouped=True, grouping_key="user")
    values = values_of(metric, batches)
    newest = tuple(x[:, -11:] for x in (p, y, w, groups))
    check(values["rauc"], by_task(oracles.rauc, *newest[:3]))
    check(values["grouped_rauc"], grouped_rauc(*newest))


@pytest.mark.parametrize("examples", [0, 1, 2])
def test_few_examples(examples):
    p, y, w, groups = draw(5, "distinct", "binary", "ones", examples=examples)
    batch = rm.make_batch(p, y, w, keys={"session_id": groups, "grouping_keys": groups})
    check(values_of(metric_of(rm.xauc), [batch])["xauc"], by_task(oracles.xauc, p, y, w))
    values = values_of(metric_of(rm.rauc, window=4, grouped=True), [batch])
    check(values["rauc"], by_task(oracles.rauc, p, y, w))
    check(values["grouped_rauc"], grouped_rauc(p, y, w, groups))
    check(values_of(metric_of(reference_ndcg), [batch])["ndcg"], ndcg_of([(p, y, w, groups)]))
    for factory, name in ((rm.xauc, "xauc"), (functools.partial(rm.rauc, window=4), "rauc")):
        value = values_of(factory(n_tasks=2, undefined=0.5), [batch])[name]
        assert examples == 2 or value.tolist() == [0.5, 0.5]


def ndcg_of(batches, negative=(False, False), **options):
    """The oracle's value by task, over batches of ``(p, y, w, sessions)``."""
    values = []
    for task, is_negative in zip(range(batches[0][0].shape[0]), negative, strict=False):
        sums = [
            oracles.reference_ndcg(
                *(x[task] for x in batch), is_negative_task=is_negative, **options
            )
            for batch in batches
        ]
        total, count = (sum(column) for column in zip(*sums, strict=True))
        values.append(total / count if count else np.nan)
    return values


OPTIONS = [
    {},
    {"k": 0},
    {"k": 1},
    {"k": 3},
    {"k": 1000},
    {"exponential_gain": True},
    {"exponential_gain": True, "k": 2},
    {"report_ndcg_as_decreasing_curve": False},
    {"remove_single_length_sessions": True},
    {"scale_by_weights_tensor": True},
    {"scale_by_weights_tensor": True, "remove_single_length_sessions": True, "k": 2},
    {"is_negative_task_mask": (False, True)},
    {"is_negative_task_mask": (True, False), "scale_by_weights_tensor": True},
    {
        "is_negative_task_mask": (True, True),
        "report_ndcg_as_decreasing_curve": False,
        "remove_single_length_sessions": True,
        "exponential_gain": True,
        "k": 4,
    },
]


def split_options(options):
    rest = {name: x for name, x in options.items() if name != "is_negative_task_mask"}
    return options.get("is_negative_task_mask", (False, False)), rest


@functools.cache
def of_all_options():
    """NDCG with each of the options, in one collection; by their text."""
    return rm.collection(
        {str(options): reference_ndcg(n_tasks=2, **options) for options in OPTIONS}
    )


def check_all_options(batches, *, atol=1e-7, **oracle):
    made = [rm.make_batch(p, y, w, keys={"session_id": sessions}) for p, y, w, sessions in batches]
    values = values_of(of_all_options(), made)
    for options in OPTIONS:
        negative, rest = split_options(options)
        wanted = ndcg_of(batches, negative, **rest, **oracle)
        check(values[f"{options}/ndcg"], wanted, atol=atol)


@pytest.mark.parametrize("mix", MIXES, ids="-".join)
def test_ndcg_is_its_definition(mix):
    # Labels up to 1, so that no gain of a negative task is below 0.
    batches = [(p, y / 2, *rest) for p, y, *rest in (draw(seed, *mix) for seed in range(2))]
    # What 1 - DCG / ideal DCG rounds, times the weight of a session.
    check_all_options(batches, atol=1e-7 + 1e-15 * max(w.max() for _, _, w, _ in batches))


def test_ndcg_of_ties_is_the_mean_over_all_orders():
    p, y, w, _ = draw(6, "tied", "graded", "some_zero", examples=12)
    sessions = np.broadcast_to(np.arange(12) % 2, p.shape)
    check_all_options([(p, y / 2, w, sessions)], dcg=oracles.dcg_by_permutations)


@pytest.mark.parametrize("y", [[0.5, 0, -1], [1, -np.log2(3)]])
def test_ndcg_is_0_where_the_ideal_gains_cancel(y):
    """By rounding, they might leave 1e-17, which is no divisor."""
    with jax.enable_x64(True):
        batch = rm.make_batch(np.arange(len(y)), y, keys={"session_id": np.zeros(len(y), int)})
        metric = reference_ndcg(report_ndcg_as_decreasing_curve=False)
        assert values_of(metric, [batch])["ndcg"].tolist() == [0.0]


def test_ndcg_of_negative_labels_keeps_padding_last():
    p, y = np.array([0.1, 0.2, 0.9, 0.0]), np.array([-1.0, -3.0, -2.0, 9.0])
    mask, sessions = np.array([True, True, True, False]), np.zeros(4, int)
    batch = rm.make_batch(p - 1, y, mask=mask, keys={"session_id": sessions})
    value = values_of(metric_of(reference_ndcg, 1), [batch])["ndcg"]
    parts = (p[None, :3] - 1, y[None, :3], np.ones((1, 3)), sessions[None, :3])
    check(value, ndcg_of([parts]))


FACTORIES = {
    "xauc": rm.xauc,
    "rauc": functools.partial(rm.rauc, window=64, grouped=True),
    "ndcg": reference_ndcg,
    "ndcg_scaled": functools.partial(reference_ndcg, scale_by_weights_tensor=True, k=2),
    "ndcg_without_singles": functools.partial(reference_ndcg, remove_single_length_sessions=True),
}

KEYS = ("session_id", "grouping_keys")


def batch_of(arrays, **options):
    """The batch of arrays by name, keys among them."""
    keys = {name: arrays[name] for name in KEYS}
    return rm.make_batch(**{k: x for k, x in arrays.items() if k not in KEYS}, keys=keys, **options)


NDCG_OPTIONS = ("ndcg_scaled", "ndcg_without_singles")


@functools.cache
def all_of_them(n_tasks):
    return rm.collection(FACTORIES, n_tasks=n_tasks)


def arguments(seed=9, tasks=3, **options):
    p, y, w, keys = draw(seed, "tied", "graded", "some_zero", tasks=tasks, **options)
    return {
        "predictions": p,
        "labels": y,
        "weights": w,
        "session_id": keys.copy(),
        "grouping_keys": keys,
    }


@pytest.mark.heavy
def test_masked_rows_count_nothing_whatever_they_hold():
    full = arguments()
    mask = np.random.default_rng(10).random(41) < 0.6
    kept = {key: x[:, mask] for key, x in full.items()}
    for key in ("predictions", "labels", "weights"):
        full[key][:, ~mask] = np.nan
    # Sessions of masked rows alone, and masked rows in the session of key 0, which has real rows.
    kept["session_id"][:, :2] = full["session_id"][:, np.flatnonzero(mask)[:2]] = 0
    full["session_id"][:, np.flatnonzero(~mask)[:4]] = 12345
    metric = all_of_them(3)
    masked = values_of(metric, [batch_of(full, mask=mask)])
    for key, value in values_of(metric, [batch_of(kept)]).items():
        check(masked[key], value)
        assert np.isfinite(value).all()


@pytest.mark.heavy
def test_order_of_rows_and_tasks_apart_change_nothing():
    full = arguments()
    wanted = values_of(all_of_them(3), [batch_of(full)])
    order = np.random.default_rng(11).permutation(41)
    permuted = {key: x[:, order] for key, x in full.items()}
    for key, value in values_of(all_of_them(3), [batch_of(permuted)]).items():
        check(value, wanted[key])
    for task in range(3):
        alone = batch_of({key: x[task] for key, x in full.items()})
        for key, value in values_of(all_of_them(1), [alone]).items():
            np.testing.assert_array_equal(value[0], wanted[key][task])


def test_nonfinite_example_makes_its_task_nan():
    full = arguments()
    full["predictions"][1, 4] = np.nan
    for key, value in values_of(all_of_them(3), [batch_of(full)]).items():
        assert np.isnan(value).tolist() == [False, True, False], key


@pytest.mark.heavy
def test_rows_of_all_devices_count_by_pairs_and_sessions_of_each():
    metric = all_of_them(2)
    batches = [batch_of(arguments(seed, tasks=2, examples=16)) for seed in range(4)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    wanted = metric.compute(functools.reduce(metric.update, batches, metric.init()))
    mesh = jax.make_mesh((4,), ("devices",), axis_types=(AxisType.Auto,))

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=jax.P("devices"), out_specs=jax.P())
    def mapped(batch):
        state = metric.update(metric.init(), jax.tree.map(lambda x: x[0], batch))
        return metric.compute(rm.all_merge(state, "devices"))

    for key, value in mapped(stacked).items():
        check(value, wanted[key])


def test_options_of_ndcg_under_scan_and_vmap():
    """Of which the laws say nothing, which are about NDCG as text books have it."""
    metric = rm.collection({name: FACTORIES[name] for name in NDCG_OPTIONS}, n_tasks=2)
    batches = [batch_of(arguments(seed, tasks=2, examples=16)) for seed in range(4)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    states = [metric.update(metric.init(), batch) for batch in batches]

    def step(state, batch):
        return metric.update(state, batch), None

    scanned, _ = jax.jit(lambda: jax.lax.scan(step, metric.init(), stacked))()
    wanted = metric.compute(functools.reduce(metric.update, batches, metric.init()))
    for key, value in metric.compute(scanned).items():
        check(value, wanted[key])

    mapped = jax.jit(jax.vmap(lambda batch: metric.update(metric.init(), batch)))(stacked)
    for i, state in enumerate(states):
        wanted = metric.compute(state)
        for key, value in metric.compute(jax.tree.map(lambda x, i=i: x[i], mapped)).items():
            check(value, wanted[key])


@pytest.mark.heavy
def test_x64_has_its_own_precision():
    with jax.enable_x64(True):
        rng = np.random.default_rng(12)
        p, y, w = rng.random((2, 60)), rng.random((2, 60)), rng.random((2, 60))
        p[:, ::3] = p[:, :1]
        sessions = rng.integers(-(2**63), 2**63, 9)[rng.integers(0, 9, (2, 60))]
        batch = rm.make_batch(p, y, w, keys={"session_id": sessions, "grouping_keys": sessions})
        precise = functools.partial(check, rtol=1e-12, atol=0)
        precise(values_of(rm.xauc(n_tasks=2), [batch])["xauc"], by_task(oracles.xauc, p, y, w))
        values = values_of(rm.rauc(n_tasks=2, window=60, grouped=True), [batch])
        precise(values["rauc"], by_task(oracles.rauc, p, y, w))
        precise(values["grouped_rauc"], grouped_rauc(p, y, w, sessions))
        values = values_of(of_all_options(), [batch])
        for options in OPTIONS:
            negative, rest = split_options(options)
            precise(values[f"{options}/ndcg"], ndcg_of([(p, y, w, sessions)], negative, **rest))


def test_ndcg_and_xauc_sort_once_for_both_of_their_sums():
    batch = batch_of(arguments(tasks=1))
    # By the words of sessions, of scores, of the places of sessions and of labels.
    for metric, sorts in ((reference_ndcg(), 4), (reference_ndcg(scale_by_weights_tensor=True), 7)):
        compiled = jax.jit(metric.update).lower(metric.init(), batch).compile()
        assert (compiled.as_text() or "").count(" sort(") == sorts
    metric = rm.xauc()
    compiled = jax.jit(metric.update).lower(metric.init(), batch).compile()
    assert (compiled.as_text() or "").count(" sort(") == 3


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda: reference_ndcg(k=-2), "k: expected a whole number of at least -1, got -2"),
        (lambda: reference_ndcg(k=1.5), "k: expected a whole number"),  # pyright: ignore[reportArgumentType]
        (
            lambda: reference_ndcg(is_negative_task_mask=[True, False]),
            "is_negative_task_mask: expected 1 booleans",
        ),
        (
            lambda: reference_ndcg(n_tasks=2, is_negative_task_mask=[0, 1]),  # pyright: ignore[reportArgumentType]
            "is_negative_task_mask: expected 2 booleans",
        ),
        (lambda: rm.rauc(window=0), "window: expected a whole number of at least 1"),
        (lambda: rm.rauc(window=9, average="sum"), "average: expected one of"),  # pyright: ignore[reportArgumentType]
        (
            lambda: values_of(reference_ndcg(), [rm.make_batch([1], [1])]),
            "session_id: expected an array of this name",
        ),
        (
            lambda: values_of(rm.xauc(), [rm.make_batch(np.ones((1, 2, 3)), np.ones((1, 2)))]),
            "predictions: expected shape",
        ),
    ],
)
def test_misuse_names_the_argument(factory, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        factory()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"report_ndcg_as_decreasing_curve": True},
        {"exponential_gain": True, "k": 2},
        {"remove_single_length_sessions": True, "report_ndcg_as_decreasing_curve": True},
        {"scale_by_weights_tensor": True},
        {"is_negative_task_mask": [True, False]},
    ],
    ids=lambda options: "-".join(options) or "none",
)
def test_what_the_reference_does_differently_is_an_option(options):
    rng = np.random.default_rng(0)
    p, y = rng.integers(0, 9, (2, 2, 40)) / 8
    weights = rng.integers(1, 4, (2, 40))
    ids = {"session_id": np.concatenate([rng.integers(0, 9, 38), [20, 21]])}
    decreasing = options.get("report_ndcg_as_decreasing_curve", False)
    metric = rm.ndcg(
        n_tasks=2, normalize_weights=False, undefined_sessions=float(decreasing), **options
    )
    reference = {"k": -1, "report_ndcg_as_decreasing_curve": False, **options}
    batch = rm.make_batch(p, y * (ids["session_id"] > 0), weights, keys=ids)
    values = [
        m.compute(m.update(m.init(), batch))
        for m in (metric, reference_ndcg(n_tasks=2, **reference))
    ]
    name = "lifetime_ndcg_at_2" if "k" in options else "lifetime_ndcg"
    np.testing.assert_allclose(values[0][name], values[1]["lifetime_ndcg"], rtol=1e-6)
