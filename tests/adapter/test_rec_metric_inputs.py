"""What metrics take: kinds, dtypes and shapes of arrays, joined batches, and those left out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from adapter_cases import (
    CASES,
    FUSED,
    TASKS,
    UNFUSED,
    VARIANTS,
    Case,
    N,
    assert_same,
    batch,
    case_of,
    every_case,
    every_variant,
    needs_torch,
    stacked,
    unchanged,
    values,
)

from recmetrics_jax.adapter._tensors import NATIVE, Kind, as_kind, to_numpy, torch

ARRAYS = ("predictions", "labels", "weights")


def updated(case: Case, *seeds: int, **arguments: Any) -> Any:
    metric = case.make(**arguments)
    for seed in seeds:
        metric.update(**batch(case, seed))
    return metric


def mapped(arguments: dict[str, Any], convert: Callable[[Any], Any]) -> dict[str, Any]:
    """Arguments of ``update`` with every array converted; lengths of groups as they are."""
    return {
        name: {key: convert(x) for key, x in of.items()} if isinstance(of, dict) else of
        for name, of in arguments.items()
    }


def strided(x: np.ndarray) -> np.ndarray:
    return np.repeat(x, 2, axis=0)[::2]


def reverse_strided(x: np.ndarray) -> np.ndarray:
    return np.array(x[::-1])[::-1]


def read_only(x: np.ndarray) -> np.ndarray:
    copy = np.array(x)
    copy.flags.writeable = False
    return copy


def with_gradient(x: np.ndarray) -> Any:
    return as_kind(x.astype(np.float64), "torch").requires_grad_()


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "strided": strided,
    "reverse strided": reverse_strided,
    "read-only": read_only,
    "column": lambda x: x[:, None] if x.ndim == 1 else x,
    "square": lambda x: x.reshape(2, -1, *x.shape[1:]),
    "list": lambda x: x.tolist(),
}
TORCH_FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "torch strided": lambda x: as_kind(np.repeat(x, 2, axis=0), "torch")[::2],
    "with a gradient": with_gradient,
    "in a graph": lambda x: with_gradient(x) * 1.0,
}
forms = [
    *FORMS.items(),
    *(pytest.param(*form, marks=needs_torch) for form in TORCH_FORMS.items()),
]


@pytest.mark.parametrize(("name", "convert"), forms)
@every_case
def test_forms_of_arrays_do_not_matter(case, name, convert):
    if case.has_classes and name == "column":
        pytest.skip("predictions have an axis of classes already")
    metric = case.make()
    arguments = batch(case, 0)
    keys = arguments.pop("required_inputs", None)
    more = {"required_inputs": keys} if keys else {}
    metric.update(**mapped(arguments, convert), **more)
    actual = {key: to_numpy(value) for key, value in metric.compute().items()}
    assert_same(actual, values(updated(case, 0)))
    if torch is not None:
        assert not any(getattr(x, "requires_grad", False) for x in metric.compute().values())


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["numpy", "jax", pytest.param("torch", marks=needs_torch)])
@pytest.mark.parametrize("name", ["ne", "auc", "ndcg"])
def test_narrow_dtypes_hold_numbers_and_sums_are_wide(name, kind, dtype):
    import jax.numpy as jnp

    case = case_of(name)

    def convert(x: np.ndarray) -> Any:
        if kind == "torch":
            return torch.tensor(x.tolist(), dtype=getattr(torch, dtype))
        if kind == "jax":
            return jnp.asarray(x, dtype)
        return x.astype(jnp.dtype(dtype))

    metric = case.make()
    metric.update(
        **{k: mapped({k: v}, convert)[k] for k, v in batch(case, 0).items() if k in ARRAYS},
        **{k: v for k, v in batch(case, 0).items() if k not in ARRAYS},
    )
    # All numbers of the batch are exact in each of these dtypes.
    assert_same(
        {k: to_numpy(v) for k, v in metric.compute().items()}, values(updated(case, 0)), 1e-12
    )


@pytest.mark.parametrize("dtype", ["int64", "int32", "int8", "uint8", "bool"])
@every_case
def test_whole_numbers_and_booleans(case, dtype):
    wide, narrow = case.make(), case.make()
    arguments = batch(case, 1)
    for name in ("labels", "weights"):
        arguments[name] = {task: np.ceil(x) for task, x in arguments[name].items()}
        if dtype == "bool":
            arguments[name] = {task: x > 0 for task, x in arguments[name].items()}
    wide.update(
        **{k: mapped({k: v}, np.float64)[k] if k in ARRAYS else v for k, v in arguments.items()}
    )
    convert = lambda x: x.astype(dtype)  # noqa: E731
    narrow.update(
        **{**arguments, **{k: mapped({k: arguments[k]}, convert)[k] for k in ("labels", "weights")}}
    )
    assert_same(values(narrow), values(wide), 1e-12)


@pytest.mark.parametrize("dtype", ["int64", "bool"])
def test_predictions_of_whole_numbers(dtype):
    for name in ("ne", "mse", "auc"):
        case = case_of(name)
        metric, wide = case.make(), case.make()
        arguments = batch(case, 1)
        hard = {task: x > 0.5 for task, x in arguments["predictions"].items()}
        metric.update(
            **arguments | {"predictions": mapped({"": hard}, lambda x: x.astype(dtype))[""]}
        )
        wide.update(**arguments | {"predictions": mapped({"": hard}, np.float64)[""]})
        assert_same(values(metric), values(wide), 1e-12)


@every_case
def test_arrays_of_several_kinds_go_together(case):
    metric = case.make()
    arguments = batch(case, 0)
    kinds: list[Kind] = ["numpy", "jax", NATIVE]
    for name, kind in zip(ARRAYS, kinds, strict=True):
        arguments[name] = {task: as_kind(x, kind) for task, x in arguments[name].items()}
    metric.update(**arguments)
    assert_same(values(metric), values(updated(case, 0)))


@every_case
def test_single_examples_may_have_no_axis(case):
    scalars, vectors = case.make(), case.make()
    arguments = batch(case, 0, n=1)
    vectors.update(**arguments)
    first = {k: mapped({k: arguments[k]}, lambda x: x[0])[k] for k in ARRAYS}
    scalars.update(**{**arguments, **first})
    assert_same(values(scalars), values(vectors))


@every_variant
def test_empty_batches_change_nothing(case):
    metric = updated(case, 0)
    empty = {k: mapped({k: v}, lambda x: x[:0])[k] for k, v in batch(case, 1).items()}
    with unchanged(metric):
        metric.update(**empty)
        metric.update(**{**empty, "weights": None})
        metric.update(
            **{k: {} for k in ARRAYS}, **{k: v for k, v in empty.items() if k not in ARRAYS}
        )
    fused = updated(case, 0, compute_mode=FUSED)
    fused.update(**empty)
    assert_same(values(fused), values(updated(case, 0, compute_mode=FUSED)))


@pytest.mark.parametrize("mode", [UNFUSED, FUSED], ids=["unfused", "fused"])
@pytest.mark.parametrize("name", ["ctr", "auc"])
def test_empty_batches_take_no_place_in_windows(name, mode):
    case = case_of(name)
    metric = updated(case, 0, compute_mode=mode)
    with unchanged(metric):
        metric.update(**mapped(batch(case, 1), lambda x: x[:0]))


SETTINGS = [
    pytest.param(case, mode, limit, id=f"{case.name}-{mode.name}-{limit}")
    for case in CASES + VARIANTS
    for mode, limit in ((UNFUSED, 0), (FUSED, 0), (UNFUSED, 2))
    # Which do not go together.
    if not (limit and (case.key == "grouping_keys" or case.has_lengths))
]


@pytest.mark.parametrize("kind", ["numpy", pytest.param("torch", marks=needs_torch)])
@pytest.mark.parametrize(("case", "mode", "limit"), SETTINGS)
def test_inputs_are_neither_modified_nor_kept(case, kind, mode, limit):
    metric = case.make(compute_mode=mode, fused_update_limit=limit)
    for dtype in (np.float64, np.float32):
        arguments = mapped(batch(case, 0), lambda x, dtype=dtype: as_kind(x.astype(dtype), kind))
        before = mapped(arguments, lambda x: np.array(to_numpy(x)))
        metric.update(**arguments)
        after = mapped(arguments, to_numpy)
        np.testing.assert_equal(after, before)
        with unchanged(metric):
            mapped(arguments, lambda x: x.fill_(0.25) if kind == "torch" else x.fill(0.25))
    copied = updated(case, 0, 0, compute_mode=mode, fused_update_limit=limit)
    assert_same(values(metric), values(copied), 1e-12)


JOINED = [case for case in CASES if case.name not in ("ndcg", "gauc")]


@pytest.mark.parametrize("case", JOINED, ids=lambda case: case.name)
def test_joined_batches_are_one_batch(case):
    joined, limit = case.make(fused_update_limit=3), 3
    one = case.make(batch_size=N)
    arguments = [batch(case, seed) for seed in range(limit)]
    for i, update in enumerate(arguments):
        joined.update(**update)
        assert len(joined._pending) == (i + 1) % limit
    one.update(
        **{
            name: {t: np.concatenate([update[name][t] for update in arguments]) for t in "ab"}
            for name in ARRAYS
        }
    )
    assert_same(values(joined), values(one))
    computation = joined._metrics_computations[0]
    for buffer in computation._batch_window_buffers.values():
        assert (len(buffer.buffers), buffer._used_size) == (1, limit * N)


def test_joined_batches_keep_sessions():
    case = case_of("ndcg")
    joined, one = case.make(fused_update_limit=2), case.make()
    arguments = [batch(case, seed) for seed in range(2)]
    for update in arguments:
        joined.update(**update)
    both = {
        name: {t: np.concatenate([u[name][t] for u in arguments]) for t in "ab"} for name in ARRAYS
    }
    keys = np.concatenate([u["required_inputs"]["session_id"] for u in arguments])
    one.update(**both, required_inputs={"session_id": keys})
    assert_same(values(joined), values(one))


def test_joined_batches_keep_a_session_of_one_number():
    case = case_of("ndcg")
    joined, one = case.make(fused_update_limit=2), case.make()
    for seed, session in ((0, 4), (1, 5)):
        joined.update(
            **batch(case, seed) | {"required_inputs": {"session_id": np.array([session])}}
        )
    both = {
        name: {t: np.concatenate([batch(case, s)[name][t] for s in (0, 1)]) for t in "ab"}
        for name in ARRAYS
    }
    one.update(**both, required_inputs={"session_id": np.repeat([4, 5], N)})
    assert_same(values(joined), values(one))


def test_joined_batches_of_single_examples_without_an_axis():
    case = case_of("ctr")
    joined = case.make(fused_update_limit=2)
    for label in (1.0, 0.0):
        scalar = {task: np.array(label) for task in "ab"}
        joined.update(predictions=scalar, labels=scalar, weights=None)
    assert values(joined)["ctr-a|lifetime_ctr"] == 0.5


def test_joined_batches_of_several_kinds():
    case = case_of("ctr")
    joined = case.make(fused_update_limit=3)
    for kind in ("numpy", "jax", NATIVE):
        joined.update(**mapped(batch(case, 0), lambda x, kind=kind: as_kind(x, kind)))
    assert values(joined)["ctr-a|lifetime_ctr"] == pytest.approx(18 / 35)


def test_joined_batches_with_tasks_and_weights_that_are_missing():
    case = case_of("ctr")
    joined, one_by_one = case.make(fused_update_limit=3), case.make()
    first, second, third = (batch(case, seed) for seed in (1, 2, 3))
    second["weights"] = None
    third = {name: {"b": third[name]["b"]} for name in ARRAYS}
    for update in (first, second, third):
        joined.update(**update)
        one_by_one.update(**update)
    assert_same(values(joined), values(one_by_one), 1e-12)


@pytest.mark.parametrize("method", ["compute", "local_compute", "state_dict", "sync"])
def test_batches_that_wait_are_taken_in_when_values_are_wanted(method):
    case = case_of("ctr")
    metric = updated(case, 1, fused_update_limit=3)
    getattr(metric, method)()
    assert metric._pending == []
    assert_same(values(metric), values(updated(case, 1)))


def test_a_reset_forgets_batches_that_wait():
    case = case_of("ctr")
    metric = updated(case, 1, fused_update_limit=3)
    metric.reset()
    assert_same(values(metric), values(case.make()))


def test_a_limit_of_one_is_at_once():
    metric = updated(case_of("ctr"), 1, fused_update_limit=1)
    assert metric._pending == []


def test_misfits_of_joined_batches_do_not_cancel_out():
    case = case_of("ctr")
    metric = case.make(fused_update_limit=2)
    short, long = batch(case, 1), batch(case, 2)
    short["labels"]["a"] = short["labels"]["a"][:-1]
    long["labels"]["a"] = np.append(long["labels"]["a"], 0.0)
    with pytest.raises(ValueError, match="labels"):  # noqa: PT012 - whichever is noticed
        for update in (short, long):
            metric.update(**update)


@pytest.mark.parametrize("name", ["ne", "auc", "ndcg"])
@pytest.mark.parametrize("mode", [UNFUSED, FUSED], ids=["unfused", "fused"])
def test_validated_updates_have_a_weight(name, mode):
    case = case_of(name)
    metric = case.make(compute_mode=mode, should_validate_update=True)
    zero = {task: np.zeros(N) for task in "ab"}
    with unchanged(metric):
        metric.update(**batch(case, 1) | {"weights": zero})
    assert all(np.all(value == 0) for value in values(metric).values())
    arguments = batch(case, 0)
    arguments["weights"]["b"] = zero["b"]
    metric.update(**arguments)
    expected = case.make(compute_mode=mode)
    expected.update(**arguments)
    for key, value in values(metric).items():
        if "-b|" in key:
            np.testing.assert_array_equal(value, 0.0)
        else:
            np.testing.assert_array_equal(value, values(expected)[key])
    metric.reset()
    assert all(np.all(value == 0) for value in values(metric).values())


def test_flags_of_valid_updates_are_states():
    case = case_of("ne")
    metric = case.make(should_validate_update=True)
    assert "_metrics_computations.0.has_valid_update" in metric.state_dict()
    metric.update(**batch(case, 0) | {"weights": {"a": np.zeros(N), "b": np.full(N, np.nan)}})
    flags = [to_numpy(c.has_valid_update).tolist() for c in metric._metrics_computations]
    assert flags == [[0], [1]]
    assert to_numpy(metric._metrics_computations[0].has_valid_update).dtype == np.uint8
    metric.update(**batch(case, 0) | {"weights": None})
    assert [to_numpy(c.has_valid_update).item() for c in metric._metrics_computations] == [1, 1]


def test_joined_and_fused_exclude_each_other():
    with pytest.raises(ValueError, match="cannot be set at the same time"):
        case_of("ctr").make(compute_mode=FUSED, fused_update_limit=2)


def test_fused_tasks_take_stacked_arrays_of_many_shapes():
    case = case_of("ctr")
    expected = case.make(compute_mode=FUSED)
    expected.update(**stacked(batch(case, 0)))
    for shape in ((2, N, 1), (2, 2, 4), (2 * N,)):
        metric = case.make(compute_mode=FUSED)
        arguments = {k: v.reshape(shape) for k, v in stacked(batch(case, 0)).items()}
        metric.update(**arguments)
        assert_same(values(metric), values(expected))


def test_a_batch_may_have_any_size():
    case = case_of("ctr")
    metric = case.make(tasks=TASKS[:1], window_size=10_000)
    total = 0.0
    for n in (1, 7, 9, 1500, 1025):
        metric.update(**batch(case, 1, n=n, tasks=("a",)))
        total += float(batch(case, 1, n=n, tasks=("a",))["weights"]["a"].sum())
    assert to_numpy(metric._metrics_computations[0].ctr_denom).item() == total


def test_masked_arrays_are_refused():
    """Taken as they are, what is masked would count."""
    metric = case_of("ctr").make()
    arguments = batch(case_of("ctr"), 0)
    masked = mapped({"labels": arguments["labels"]}, lambda x: np.ma.array(to_numpy(x), mask=True))
    with pytest.raises(ValueError, match="got a masked array of NumPy's: fill it"):
        metric.update(**{**arguments, **masked})
