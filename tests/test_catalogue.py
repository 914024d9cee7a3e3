"""Ranks in a catalogue, by counting: against loops, over devices, and in how much memory."""

import functools
import itertools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import recmetrics_jax as rm

DEVICES = 4
N, V, E = 6, 24, 5
UNDEFINED = (-1, -1)


def counted(scores, target, excluded=()):
    """The definition: one item after the other."""
    if not 0 <= target < len(scores):
        return UNDEFINED
    others = [v for v in range(len(scores)) if v != target and v not in set(excluded)]
    if any(math.isnan(scores[v]) for v in (*others, target)):
        return UNDEFINED
    greater = sum(scores[v] > scores[target] for v in others)
    return greater, sum(scores[v] == scores[target] for v in others)


def expected(scores, target, exclude=None):
    """By row."""
    if exclude is None:
        exclude = [()] * len(target)
    elif np.asarray(exclude).dtype == bool:
        exclude = [np.flatnonzero(row) for row in exclude]
    rows = zip(np.asarray(scores, np.float64), target, exclude, strict=True)
    return [counted(s.tolist(), int(t), np.asarray(e).tolist()) for s, t, e in rows]


def pairs(ranks):
    return list(zip(ranks.greater.tolist(), ranks.tied.tolist(), strict=True))


def rows(seed=0, dtype=np.float32):
    """Scores with ties, targets, and ids to exclude: twice, of no item, or of the target."""
    rng = np.random.default_rng(seed)
    scores = (rng.integers(-6, 6, (N, V)) / 4).astype(dtype)
    target = rng.integers(0, V, N)
    exclude = rng.integers(-1, V + 2, (N, E))
    exclude[:, 1] = exclude[:, 0]
    exclude[::2, 2] = target[::2]
    return scores, target, exclude


def mask_of(exclude):
    mask = np.zeros((N, V), bool)
    for row, ids in zip(mask, exclude, strict=True):
        row[[v for v in ids if 0 <= v < V]] = True
    return mask


EXCLUDED = {"none": lambda ids: None, "ids": lambda ids: ids, "mask": mask_of}
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16, np.int8, np.int32]


@pytest.mark.parametrize("kind", EXCLUDED)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_ranks_are_counted(dtype, kind):
    scores, target, exclude = rows(dtype=dtype)
    exclude = EXCLUDED[kind](exclude)
    assert pairs(rm.ops.rank_of(scores, target, exclude=exclude)) == expected(
        scores, target, exclude
    )


def test_a_rank_is_the_mean_over_all_orders_of_the_tied():
    scores = np.array([2, 1, 1, 3, 1], np.float32)
    for target in range(len(scores)):
        places = []
        for order in itertools.permutations(range(len(scores))):
            ranking = sorted(order, key=lambda v: -scores[v])  # stable: ties as in the order
            places.append(ranking.index(target) + 1)
        ranks = rm.ops.rank_of(scores, np.array(target))
        np.testing.assert_allclose(ranks.rank, np.mean(places), rtol=1e-6)


def test_more_axes_may_come_before():
    scores, target, exclude = (np.stack([x, x[::-1]]) for x in rows())
    ranks = rm.ops.rank_of(scores, target, exclude=exclude)
    assert ranks.greater.shape == ranks.rank.shape == (2, N)
    for i in range(2):
        of_task = rm.ops.Ranks(ranks.greater[i], ranks.tied[i])
        assert pairs(of_task) == expected(scores[i], target[i], exclude[i])


# What is in a row, its target, what is excluded, and the ranks.
NAN, INF = math.nan, math.inf
ROWS = {
    "NaN of the target": ([1, NAN, 2], 1, [], UNDEFINED),
    "NaN of another": ([1, NAN, 2], 0, [], UNDEFINED),
    "NaN with the sign set": ([1, -NAN, 2], 0, [], UNDEFINED),
    "NaN that is excluded": ([1, NAN, 2], 0, [1], (1, 0)),
    "NaN of a target that is excluded": ([1, NAN, 2], 1, [1], UNDEFINED),
    "-inf of the target": ([-INF, 5, -INF, 0], 0, [], (2, 1)),
    "-inf of another": ([1, -INF, 2], 0, [], (1, 0)),
    "inf": ([INF, INF, 2], 0, [], (0, 1)),
    "-0.0 is 0.0": ([0.0, -0.0, 1], 1, [], (1, 1)),
    "probabilities that are subnormal": ([1e-40, 2e-40, 0.0, -1e-40], 0, [], (1, 0)),
    "target beyond": ([1, 2], 2, [], UNDEFINED),
    "target of none": ([1, 2], -1, [], UNDEFINED),
    "target that would wrap": ([1, 2], 2**32, [], UNDEFINED),
    "excluded that would wrap": ([1, 2], 0, [2**32 + 1], (1, 0)),
    "excluded twice": ([1, 2, 3], 0, [1, 1, 1], (1, 0)),
    "the target is excluded": ([1, 1, 3], 0, [0], (1, 1)),
    "all others are excluded": ([1, 1, 3], 0, [1, 2], (0, 0)),
    "one item": ([7], 0, [], (0, 0)),
}


@pytest.mark.parametrize("name", ROWS)
def test_row(name):
    scores, target, excluded, wanted = ROWS[name]
    scores, target = np.array([scores], np.float32), np.array([target], np.int64)
    ids = np.array([excluded], np.int64).reshape(1, -1)
    assert expected(scores, target, ids) == [wanted]
    assert pairs(rm.ops.rank_of(scores, target, exclude=ids)) == [wanted]
    mask = np.isin(np.arange(scores.shape[1]), excluded)[None]
    assert pairs(rm.ops.rank_of(scores, target, exclude=mask)) == [wanted]


def test_ranks_say_what_they_are():
    ranks = rm.ops.Ranks(jnp.array([3, 100, -1]), jnp.array([2, -1, -1]))
    np.testing.assert_array_equal(ranks.rank, [5, np.inf, np.nan])
    assert ranks.is_found.tolist() == [True, False, False]


ROUTES: dict[str, Any] = {"shard_map": ("devices",), "two axes": ("data", "model"), "vmap": None}


@pytest.mark.parametrize("kind", EXCLUDED)
@pytest.mark.parametrize("route", ROUTES)
def test_a_catalogue_may_lie_on_several_devices(route, kind):
    """Among the targets one of no item; in the scores a NaN, a row of NaN excluded."""
    scores, target, exclude = rows()
    target[0] = V
    scores[1, 3] = np.nan
    scores[2, exclude[2, 0]] = np.nan
    exclude = EXCLUDED[kind](exclude)
    wanted = expected(scores, target, exclude)
    assert wanted[0] == wanted[1] == UNDEFINED
    axes = ROUTES[route]
    if axes is None:
        parts = jnp.asarray(scores.reshape(N, DEVICES, -1).swapaxes(0, 1))
        masks = exclude if kind != "mask" else mask_by_device(exclude)
        mapped = jax.vmap(
            lambda s, e: rm.ops.rank_of(s, target, exclude=e, axis_name="d"),
            in_axes=(0, 0 if kind == "mask" else None),
            axis_name="d",
        )
        ranks = jax.tree.map(lambda x: x[3], mapped(parts, masks))
    else:
        shape = (DEVICES,) if len(axes) == 1 else (2, 2)
        mesh = jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * len(axes))
        of_items = P(None, axes)
        mapped = jax.shard_map(
            lambda s, t, e: rm.ops.rank_of(s, t, exclude=e, axis_name=axes),
            mesh=mesh,
            in_specs=(of_items, P(), of_items if kind == "mask" else P()),
            out_specs=P(),
        )
        ranks = jax.jit(mapped)(scores, target, exclude)
    assert pairs(ranks) == wanted


def mask_by_device(mask):
    return jnp.asarray(mask.reshape(N, DEVICES, -1).swapaxes(0, 1))


COLLECTIVES = re.compile(r"= (\S+) (all-reduce|all-gather|all-to-all|collective-permute)\(")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda x: np.dtype(x).name)
def test_a_catalogue_on_several_devices_takes_two_collectives(dtype):
    mesh = jax.make_mesh((DEVICES,), ("items",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(
        functools.partial(rm.ops.rank_of, axis_name="items"),
        mesh=mesh,
        in_specs=(P(None, "items"), P()),
        out_specs=P(),
    )
    scores, target, _ = rows(dtype=dtype)
    program = jax.jit(mapped).lower(scores, jnp.asarray(target)).compile().as_text() or ""
    shapes = [shape.partition("{")[0] for shape, _ in COLLECTIVES.findall(program)]
    assert sorted(shapes) == [f"s32[4,{N}]", f"s32[{N},1]"]


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("spec", [P(None, "items"), P("items", None)], ids=str)
def test_the_compiler_may_spread_the_scores(spec, axis_type):
    """And fetches none but those of the targets."""
    mesh = jax.make_mesh((2,), ("items",), axis_types=(axis_type,))
    scores, target, exclude = rows()
    placed = jax.device_put(scores, NamedSharding(mesh, spec))
    of_rows = NamedSharding(mesh, P(spec[0]))
    target_, exclude_ = (jax.device_put(x, of_rows) for x in (target, exclude))
    with jax.set_mesh(mesh):
        call = jax.jit(lambda s, t, e: rm.ops.rank_of(s, t, exclude=e))
        assert pairs(call(placed, target_, exclude_)) == expected(scores, target, exclude)
        program = call.lower(placed, target_, exclude_).compile().as_text() or ""
    assert not re.search(rf"\[{N},{V}\]\S* all-gather", program)


@pytest.mark.parametrize("kind", EXCLUDED)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda x: np.dtype(x).name)
def test_no_memory_grows_with_the_catalogue(dtype, kind):
    """Structurally: what the compiled program sets aside for itself."""
    temporary = []
    for size in (1000, 50_000):
        shapes = [jax.ShapeDtypeStruct((64, size), dtype), jax.ShapeDtypeStruct((64,), np.int32)]
        if kind != "none":
            of_kind = ((64, size), bool) if kind == "mask" else ((64, 20), np.int32)
            shapes.append(jax.ShapeDtypeStruct(*of_kind))
        call = jax.jit(lambda s, t, e=None: rm.ops.rank_of(s, t, exclude=e))
        memory: Any = call.lower(*shapes).compile().memory_analysis()
        temporary.append(memory.temp_size_in_bytes)
    assert temporary[0] == temporary[1] < 64 * 20 * 20


def listed(ids, target):
    """The definition: the first place in the list."""
    if target == -1:
        return UNDEFINED
    return (ids.index(target), 0) if target in ids else (len(ids), -1)


LISTS = {
    "first, last, none": (np.array([[7, 3, 5]] * 3), np.array([7, 5, 4])),
    "padded": (np.array([[7, -1, -1]] * 2), np.array([7, 3])),
    "of no target": (np.array([[7, -1, -1]]), np.array([-1])),
    "twice": (np.array([[3, 7, 3, 5]] * 2), np.array([3, 5])),
    "of 64 bits": (np.array([[1, 2**32 + 1, 2**32]] * 2), np.array([2**32 + 1, 2**33 + 1])),
    "unsigned": (np.array([[1, 2**64 - 2]], np.uint64), np.array([2**64 - 2], np.uint64)),
    "short": (np.array([[1, 5]], np.int8), np.array([5], np.int32)),
}


@pytest.mark.parametrize("name", LISTS)
def test_ranks_in_lists(name):
    ids, target = LISTS[name]
    wanted = [listed(row, t) for row, t in zip(ids.tolist(), target.tolist(), strict=True)]
    assert pairs(rm.ops.rank_in(ids, target)) == wanted


def test_ranks_in_a_list_of_the_best_are_those_in_the_catalogue():
    scores = np.tile(np.arange(V, dtype=np.float32), (N, 1))
    scores = np.random.default_rng(0).permuted(scores, axis=1)
    target = np.arange(N)

    @jax.jit
    def both(scores, target):
        ids = jax.lax.top_k(scores, V)[1]
        return rm.ops.rank_in(ids, target), rm.ops.rank_of(scores, target)

    in_list, in_catalogue = both(scores, target)
    assert pairs(in_list) == pairs(in_catalogue) == expected(scores, target)


ONES = np.ones((2, 3), np.float32)
ZEROS = np.zeros(2, int)
REFUSED = {
    "scores of nothing": (lambda: rm.ops.rank_of(ONES[:, :0], ZEROS), "scores: expected shape"),
    "a number": (lambda: rm.ops.rank_of(np.float32(1), ZEROS), "scores: expected shape"),
    "booleans": (lambda: rm.ops.rank_of(ONES > 0, ZEROS), "scores: expected a real number dtype"),
    "targets of other rows": (
        lambda: rm.ops.rank_of(ONES, np.zeros(3, int)),
        r"target: expected shape \(2,\), got \(3,\)",
    ),
    "a target for each item": (
        lambda: rm.ops.rank_of(ONES, np.zeros((2, 3), int)),
        r"target: expected shape \(2,\), got \(2, 3\)",
    ),
    "targets that are floats": (
        lambda: rm.ops.rank_of(ONES, np.zeros(2)),
        "target: expected an integer dtype, got float64",
    ),
    "a mask of another shape": (
        lambda: rm.ops.rank_of(ONES, ZEROS, exclude=np.ones((2, 4), bool)),
        r"exclude: expected shape \(2, 3\), got \(2, 4\)",
    ),
    "ids for all rows": (
        lambda: rm.ops.rank_of(ONES, ZEROS, exclude=np.zeros(4, int)),
        r"exclude: expected shape \(2, 4\), got \(4,\)",
    ),
    "lists of nothing": (
        lambda: rm.ops.rank_in(np.zeros((2, 0), int), ZEROS),
        r"ids: expected shape \[..., K\] with K of at least 1, got \(2, 0\)",
    ),
    "lists of scores": (lambda: rm.ops.rank_in(ONES, ZEROS), "ids: expected an integer dtype"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
