"""What the toolkits say to arrays that do not fit, and that checking is free."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recmetrics_jax import ops as public

ops: Any = public  # misuse is what a type checker refuses

X = np.arange(6, dtype=np.float32).reshape(2, 3)
FIRST = np.array([[True, False, True]] * 2)
ROWS = np.array([[2, 0, 1]] * 2)
NUMBERS = np.array([[0, 0, 1]] * 2)
POINTS = ops.curve(X, X, X)
SESSIONS = ops.sessions(X)
RELEVANT = ops.count_relevant(FIRST, SESSIONS)
TUPLES = (ops.Curve, ops.Sessions, ops.Relevant)
# By function, arguments that fit, and their names.
CALLS = {
    "argsort": ((X, ROWS), ("keys[0]", "keys[1]")),
    "count_pairs": (
        (X, X, X, (ROWS,), X, FIRST),
        ("x", "y", "weights", "groups[0]", "other_weights", "is_present"),
    ),
    "cumsum": ((X, FIRST), ("x", "is_first")),
    "curve": (
        (X, X, X, (ROWS,), FIRST),
        ("scores", "positives", "negatives", "groups[0]", "is_present"),
    ),
    "count_relevant": ((FIRST, SESSIONS), ("is_relevant", "by_session")),
    "first_relevant": ((RELEVANT, SESSIONS), ("relevant", "by_session")),
    "first_rows": ((FIRST,), ("is_first",)),
    "ideal_order": ((X, SESSIONS), ("x", "by_session")),
    "is_first": ((X, ROWS), ("keys[0]", "keys[1]")),
    "is_last": ((FIRST,), ("is_first",)),
    "last_rows": ((FIRST,), ("is_first",)),
    "maxima": ((X, NUMBERS), ("x", "numbers")),
    "numbers": ((FIRST,), ("is_first",)),
    "precision_recall_area": ((POINTS,), ("points",)),
    "put": ((X, ROWS), ("x", "rows")),
    "ranks": ((FIRST,), ("is_first",)),
    "relevant_in_top": ((RELEVANT, SESSIONS), ("relevant", "by_session")),
    "roc_area": ((POINTS,), ("points",)),
    "run_means": ((X, SESSIONS), ("x", "by_session")),
    "sessions": ((X, (ROWS,), FIRST), ("scores", "groups[0]", "is_present")),
    "starts": ((NUMBERS,), ("numbers",)),
    "sums": ((X, FIRST), ("x", "is_first")),
    "sums_before": ((X, FIRST), ("x", "is_first")),
    "take": ((X, ROWS), ("x", "rows")),
    "top_ends": ((SESSIONS, 3), ("by_session",)),
    "totals": ((X, NUMBERS), ("x", "numbers")),
    "words_of": ((X,), ("x",)),
}
ARGUMENTS = [
    (function, i, name) for function, (_, names) in CALLS.items() for i, name in enumerate(names)
]
IN_TUPLES = ("points", "by_session", "relevant")
FURTHER = [(function, i, name) for function, i, name in ARGUMENTS if i and name not in IN_TUPLES]


def test_the_table_has_all_functions_but_those_of_catalogues():
    """What these say is in `test_catalogue`."""
    functions = {name for name in public.__all__ if name[0].islower()}
    assert set(CALLS) == functions - {"rank_in", "rank_of"}


def called(function, changed, value):
    arguments = list(CALLS[function][0])
    if isinstance(arguments[changed], tuple) and not isinstance(arguments[changed], TUPLES):
        value = (value,)
    arguments[changed] = value
    return getattr(ops, function)(*arguments)


def given(function, i):
    argument = CALLS[function][0][i]
    return argument[0] if isinstance(argument, tuple) else argument


def others(x):
    """Arrays of other shapes: fewer rows, more, fewer tasks, turned, another axis, no tasks."""
    return x[:, :2], np.concatenate([x, x], axis=1), x[:1], x.T, x[None], x[0]


@pytest.mark.parametrize(("function", "i", "name"), FURTHER)
def test_arrays_of_other_shapes_are_refused_by_name(function, i, name):
    for other in others(given(function, i)):
        fits = function == "take" and other.shape[0] == 2 and other.ndim == 2
        if fits or (name == "numbers" and other.shape == (3,)):
            assert called(function, i, other).shape[0] == 2
            continue
        message = f"^{re.escape(name)}: expected shape .*, .* {re.escape(CALLS[function][1][0])} "
        with pytest.raises(ValueError, match=f"{message}.*got {re.escape(str(other.shape))}"):
            called(function, i, other)


@pytest.mark.parametrize(("function", "i", "name"), ARGUMENTS)
def test_what_is_no_array_is_refused_by_name(function, i, name):
    with pytest.raises(TypeError, match="str"):  # jit itself says it.
        called(function, i, "a")
    # One group; the product of the weights.
    may_be_none = name == "is_first" and function in ("cumsum", "sums_before")
    may_be_none |= name in ("other_weights", "is_present")
    for bad in ([1.0, 2.0], 1.0) if may_be_none else ([1.0, 2.0], 1.0, None):
        with pytest.raises(
            ValueError, match=rf"^{re.escape(name)}: expected (an array|shape|a [CRS])"
        ):
            called(function, i, bad)


DTYPES = {
    "is_first": (np.int32, "a bool"),
    "is_present": (np.int32, "a bool"),
    "rows": (np.float32, "an integer"),
    "numbers": (bool, "an integer"),
    "scores": (np.uint8, "a signed number"),
    "is_relevant": (np.int32, "a bool"),
}
ADDED = ("cumsum", "maxima", "sums", "sums_before", "totals")


@pytest.mark.parametrize(("function", "i", "name"), ARGUMENTS)
def test_arrays_of_other_dtypes_are_refused_by_name(function, i, name):
    if name in IN_TUPLES or function in ("put", "take"):
        return
    dtype, expected = DTYPES.get(name, (np.complex64, "a real number"))
    if name == "x" and function in ADDED:
        dtype, expected = bool, "a number"
    if (function, name) in (("ideal_order", "x"), ("sessions", "scores")):
        dtype, expected = np.int32, "a float"
    message = f"{name}: expected {expected} dtype, got {np.dtype(dtype)}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        called(function, i, given(function, i).astype(dtype))


@pytest.mark.parametrize("function", ["curve", "count_pairs"])
def test_groups_that_are_no_tuple_are_refused(function):
    with pytest.raises(ValueError, match=r"^groups: expected a tuple of arrays, as in \(users,\)"):
        getattr(ops, function)(X, X, X, ROWS)


@pytest.mark.parametrize("function", ["argsort", "is_first"])
def test_no_keys_are_refused(function):
    with pytest.raises(ValueError, match=r"^keys: expected at least one array, got none"):
        getattr(ops, function)()


@pytest.mark.parametrize("function", ["roc_area", "precision_recall_area"])
def test_points_that_do_not_fit_are_refused(function):
    area = getattr(ops, function)
    with pytest.raises(ValueError, match=r"^points.false_positives: expected shape \(2, 3\), as"):
        area(POINTS._replace(false_positives=POINTS.false_positives[:, :2]))
    with pytest.raises(ValueError, match=r"^points.is_first: expected a bool dtype, got int32"):
        area(POINTS._replace(is_first=ROWS.astype(np.int32)))
    with pytest.raises(
        ValueError, match=r"^points: expected a Curve, as ops.curve gives, got tupl"
    ):
        area((X, X))


@pytest.mark.parametrize("function", ["ideal_order", "run_means", "count_relevant"])
def test_sessions_of_other_rows_are_refused(function):
    first, name = CALLS[function][0][0], CALLS[function][1][0]
    message = rf"^by_session.order: expected shape \(2, 3\), as {name} \(2, 3\) has, got \(2, 2\)"
    with pytest.raises(ValueError, match=message):
        getattr(ops, function)(first, ops.sessions(X[:, :2]))
    with pytest.raises(ValueError, match=r"^by_session.length: expected shape \(2, 3\), as"):
        getattr(ops, function)(first, SESSIONS._replace(length=SESSIONS.length[:, :2]))


@pytest.mark.parametrize("k", [2.5, True, np.array([1, 2])])
def test_ranks_that_are_no_number_are_refused(k):
    with pytest.raises(ValueError, match=r"^k: expected a whole number, or None, got"):
        ops.top_ends(SESSIONS, k)


def primitives(jaxpr):
    """What a function does, in order, whatever of it is a function of its own."""
    names = []
    for equation in jaxpr.eqns:
        inner = [p for p in equation.params.values() if hasattr(p, "jaxpr")]
        if equation.primitive.name not in ("jit", "pjit"):
            names.append(equation.primitive.name)
        for of in inner:
            names += primitives(of.jaxpr)
    return names


@pytest.mark.parametrize("function", CALLS)
def test_checks_leave_nothing_in_what_is_compiled(function):
    arguments = jax.tree.map(jnp.asarray, CALLS[function][0])
    plain = getattr(ops, function).__wrapped__.__wrapped__
    of_plain = jax.make_jaxpr(lambda x: plain(*x))(arguments)
    of_checked = jax.make_jaxpr(lambda x: getattr(ops, function)(*x))(arguments)
    assert primitives(of_checked.jaxpr) == primitives(of_plain.jaxpr)
