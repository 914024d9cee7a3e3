"""What terms and values of a metric of one's own may be, and what is said of the rest."""

import dataclasses
import enum
import functools
import itertools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recmetrics_jax

rm: Any = recmetrics_jax  # misuse is what a type checker refuses

TASKS = 2
BATCH = rm.make_batch(np.ones((TASKS, 5)), np.ones((TASKS, 5)))


def weights(batch):
    return batch.weights


# What `values` makes of an array ``float64[T, ...]``, and what is said of it.
VALUES = {
    "across tasks": (jnp.sum, "float64[]; reduce along the axes after the first"),
    "across tasks, one kept": (
        lambda x: jnp.sum(x, axis=0, keepdims=True),
        "got float64[1",
    ),
    "tasks last": (lambda x: jnp.stack([x.reshape(TASKS, -1)[:, 0]] * 3), "got float64[3, 2]"),
    "integers": (lambda x: jnp.ones(TASKS, int), "got int64[2]; convert it with .astype(float)"),
    "booleans": (lambda x: jnp.ones(TASKS, bool), "got bool[2]; convert it with .astype(float)"),
    "Python's number": (lambda x: 0.5, "got float"),
    "NumPy's number": (lambda x: np.float32(0.5), "got float32"),
    "nothing": (lambda x: None, "got NoneType"),
    "list": (lambda x: list(x), "got list"),
    "dict": (lambda x: {"inner": x}, "got dict"),
}
EXPECTED = "values['v']: expected a float array of shape [2] or [2, ...], a number or more for each"


def metrics_of(make):
    """Metrics of both kinds whose value ``v`` is what ``make`` gives."""
    return [
        rm.sum_metric({"w": weights}, lambda sums: {"v": make(sums["w"])}, n_tasks=TASKS),
        rm.sample_metric(
            lambda batch: {"v": make(batch.weights.astype(jnp.float64))}, window=3, n_tasks=TASKS
        ),
    ]


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("kind", [0, 1], ids=["sums", "samples"])
def test_values_that_are_not_by_task_are_refused(name, kind):
    make, message = VALUES[name]
    metric = metrics_of(make)[kind]
    message = f"^{re.escape(EXPECTED)}.*{re.escape(message)}"
    state = metric.update(metric.init(), BATCH)
    for call in (
        lambda: metric.compute(state),
        lambda: jax.jit(metric.compute)(state),
        lambda: rm.collection({"metric": metric}),
        lambda: rm.describe(metric),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("kind", [0, 1], ids=["sums", "samples"])
def test_values_by_task_of_any_further_shape_and_float_dtype_are_taken(kind):
    for make, shape in (
        (lambda x: x.reshape(TASKS, -1)[:, 0].astype(jnp.bfloat16), (TASKS,)),
        (lambda x: jnp.ones((TASKS, 3, 4)), (TASKS, 3, 4)),
        (lambda x: np.ones((TASKS, 0)), (TASKS, 0)),
    ):
        metric = metrics_of(make)[kind]
        (value,) = metric.compute(metric.update(metric.init(), BATCH)).values()
        assert value.shape == shape
        assert value.dtype == jnp.float32


@pytest.mark.parametrize("bad", [1, "", None, ("a", "b")], ids=repr)
def test_values_without_a_name_are_refused(bad):
    metric = rm.sum_metric({"w": weights}, lambda sums: {bad: sums["w"]}, n_tasks=TASKS)
    with pytest.raises(ValueError, match="values: expected names that are non-empty strings, got"):
        metric.compute(metric.init())


# What a term gives for a batch, and what is said of it.
TERMS = {
    "Python's number": (lambda batch: 0.5, "got float"),
    "nothing": (lambda batch: None, "got NoneType"),
    "list": (lambda batch: [batch.weights], "got list"),
    "tuple": (lambda batch: (batch.weights, batch.weights), "got tuple"),
    "sums": (lambda batch: jnp.sum(batch.weights, axis=1), "got float32[2]"),
    "one number": (lambda batch: jnp.sum(batch.weights), "got float32[]"),
    "integers": (lambda batch: batch.weights.astype(int), "got int32[2, 5]"),
    "booleans": (lambda batch: batch.weights > 0, "got bool[2, 5]"),
    "NumPy's integers": (lambda batch: np.ones((2, 5), int), "got int64[2, 5]"),
    "another axis": (lambda batch: batch.weights[..., None], "got float32[2, 5, 1]"),
}


def none(sums):
    return {}


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("is_summed", [False, True])
def test_terms_that_are_not_by_example_are_refused(name, is_summed):
    function, message = TERMS[name]
    if is_summed and name == "sums":
        return
    metric = rm.sum_metric({"t": rm.Term(function, is_summed=is_summed)}, none, n_tasks=TASKS)
    shape = "(2,), sums (is_summed)" if is_summed else "(2, 5), a number or more for each example"
    message = f"^term '<lambda>': expected a float array of shape {re.escape(shape)}, "
    with pytest.raises(ValueError, match=message + re.escape(TERMS[name][1])):
        metric.update(metric.init(), BATCH)


ARRAY = np.ones(2)
REFUSED = {
    "shape of nothing": (
        lambda: rm.Term(weights, shape=(0,)),
        "shape: expected a whole number of at least 1, got 0",
    ),
    "shape of nothing by class": (
        lambda: rm.Term(weights, shape=(3, 0)),
        "shape: expected a whole number of at least 1, got 0",
    ),
    "shape of fractions": (
        lambda: rm.Term(weights, shape=(2.0,)),
        "shape: expected a whole number of at least 1, got 2.0",
    ),
    "shape as a number": (
        lambda: rm.Term(weights, shape=3),
        "shape: expected a tuple of sizes, as in (3,), got 3",
    ),
    "options as a list": (
        lambda: rm.Term(weights, options=[0.5]),
        "options: expected a tuple of arguments of the function, as in (0.5,), got [0.5]",
    ),
    "options as a number": (
        lambda: rm.Term(weights, options=0.5),
        "options: expected a tuple of arguments of the function, as in (0.5,), got 0.5",
    ),
    "options as an array": (lambda: rm.Term(weights, options=ARRAY), "options: expected a tuple"),
    "an option that is a list": (
        lambda: rm.Term(weights, options=(3, [1, 2])),
        "options[1]: expected what can be hashed, since metrics are compared by it, got [1, 2] of",
    ),
    "an option that is an array": (
        lambda: rm.Term(weights, options=(ARRAY,)),
        "options[0]: expected what can be hashed, since metrics are compared by it, got array([1.",
    ),
    "an option that is an array of JAX": (
        lambda: rm.Term(weights, options=(jnp.ones(2),)),
        "options[0]: expected what can be hashed",
    ),
    "an option that holds an array": (
        lambda: rm.Term(weights, options=((1, (ARRAY,)),)),
        "options[0]: expected what can be hashed",
    ),
    "an option that is a dict": (
        lambda: rm.Term(weights, options=({"a": 1},)),
        "options[0]: expected what can be hashed",
    ),
    "keys as one name": (
        lambda: rm.Term(weights, keys="session_id"),
        "keys: expected a tuple of names, as in ('session_id',), got 'session_id'",
    ),
    "keys by number": (lambda: rm.Term(weights, keys=(3,)), "keys: expected a non-empty string"),
    "no function": (lambda: rm.Term("weights"), "function: expected a function of a batch, got 'w"),
    "flag": (lambda: rm.Term(weights, raw="no"), "raw: expected True or False, got 'no'"),
    "flag of arithmetic": (
        lambda: rm.Term(weights, arithmetic="no"),
        "arithmetic: expected True or False, got 'no'",
    ),
    "no terms": (
        lambda: rm.sum_metric({}, none),
        "terms: expected at least one function of a batch, got none",
    ),
    "terms with none": (
        lambda: rm.sum_metric({"a": weights, "b": None}, none),
        "terms: expected functions of a batch, got None",
    ),
    "terms of None": (lambda: rm.sum_metric(None, none), "terms: expected functions of a batch"),
    "values of sums": (
        lambda: rm.sum_metric({"w": weights}, {"v": 1}),
        "values: expected a function of sums, got {'v': 1}",
    ),
    "values of samples": (
        lambda: rm.sample_metric(None, window=3),
        "values: expected a function of a batch, got None",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_term_is_refused_when_it_is_made(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        call()


def test_lists_and_numbers_of_numpy_make_equal_terms():
    plain = rm.Term(weights, shape=(3, 2), keys=("a", "b"), per_batch=True)
    other = rm.Term(weights, shape=[np.int8(3), 2], keys=["a", np.str_("b")], per_batch=np.True_)
    assert plain == other
    assert repr(plain) == repr(other)


def test_whether_a_term_is_arithmetic_is_no_part_of_what_it_is():
    plain, other = (
        rm.sum_metric({"w": rm.Term(weights, arithmetic=x)}, dict, n_tasks=TASKS)
        for x in (True, False)
    )
    assert plain == other
    assert hash(plain) == hash(other)
    assert plain.compute(other.update(other.init(), BATCH))["lifetime_w"].tolist() == [5.0, 5.0]


@dataclasses.dataclass(frozen=True)
class Option:
    x: Any


class Pair(NamedTuple):
    x: Any
    y: Any


class Flag(enum.IntEnum):
    ON = 1


ONES = [1, True, 1.0, 1 + 0j, Flag.ON, np.int32(1), np.int64(1), np.float32(1), np.float64(1)]
ONES += [np.bool_(True), np.array(1.0, "f2")[()]]
ZEROS = [0, 0.0, -0.0, False, 0j, -0j, np.float32(0.0), np.float32(-0.0), np.float64(-0.0)]
HOLDERS = {
    "bare": lambda x: x,
    "tuple": lambda x: (x,),
    "nested": lambda x: (1, (2, (x, "a"))),
    "named tuple": lambda x: Pair(3, x),
    "frozen set": lambda x: frozenset({x, "a"}),
    "frozen set in a tuple": lambda x: ((frozenset({x}),),),
    "dataclass": Option,
    "dataclass in a tuple": lambda x: (Option((x, 2)),),
    "partial": lambda x: functools.partial(weights, x),
}


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("equals", [ONES, ZEROS], ids=["ones", "zeros"])
def test_options_that_python_takes_for_equal_make_different_terms(equals, holder):
    hold = HOLDERS[holder]
    for a, b in itertools.combinations(equals, 2):
        assert rm.Term(weights, (hold(a),)) != rm.Term(weights, (hold(b),)), (a, b)
    for a in equals:
        assert rm.Term(weights, (hold(a),)) == rm.Term(weights, (hold(a),))
        assert hash(rm.Term(weights, (hold(a),))) == hash(rm.Term(weights, (hold(a),)))


@pytest.mark.parametrize("make", [float, np.float32, np.float64, lambda x: complex(0, float(x))])
def test_nan_is_equal_to_nan(make):
    assert rm.Term(weights, (make("nan"),)) == rm.Term(weights, (make("nan"),))
