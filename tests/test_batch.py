"""The door: what `make_batch` takes from its caller, in any dtype, and what it refuses."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recmetrics_jax

rm: Any = recmetrics_jax  # misuse is what a type checker refuses

ROWS = 65_536
STEPS = 40


def weights(batch):
    return batch.weights


def odd_sessions(batch):
    return (batch.keys["session"][..., 1] == 1).astype(batch.weights.dtype)


def given(name, value):
    """An argument of `make_batch`, or a key."""
    return {"keys": {name: value}} if name == "session" else {name: value}


# By argument, what counts its ones.
REUSED = {
    "predictions": (np.float32, rm.Term(lambda batch: batch.predictions)),
    "labels": (np.float32, rm.Term(lambda batch: batch.labels)),
    "labels of float64": (np.float64, rm.Term(lambda batch: batch.labels)),
    "labels of int64": (np.int64, rm.Term(lambda batch: batch.labels)),
    "labels of int8": (np.int8, rm.Term(lambda batch: batch.labels)),
    "weights": (np.float32, rm.Term(weights)),
    "mask": (bool, rm.Term(weights)),
    "session": (np.int64, rm.Term(odd_sessions, keys=("session",))),
}


@pytest.mark.parametrize("make", [rm.make_batch, rm.make_padded_batch], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", REUSED)
def test_a_buffer_that_is_filled_anew_is_not_read_late(name, make):
    """As a loader does that reuses its buffers: JAX reads NumPy's memory on another thread."""
    dtype, term = REUSED[name]
    metric = rm.sum_metric({"ones": term}, dict)
    ones, buffer = np.ones(ROWS, np.float32), np.zeros(ROWS, dtype)
    arguments = {"predictions": ones, "labels": ones, **given(name.split()[0], buffer)}
    state = metric.init()
    for step in range(STEPS):
        buffer[:] = step % 2
        state = metric.update(state, make(**arguments))
    assert metric.compute(state)["lifetime_ones"].tolist() == [ROWS * STEPS / 2]


LARGE = 2_500_000_000  # beyond 32 bits, signed


@pytest.mark.parametrize(
    "values",
    [
        [LARGE, 3],
        np.array([LARGE, 3]),
        np.array([LARGE, 3], np.uint64),
        np.array([LARGE, 3], np.uint32),
        np.array([LARGE, 0, 3, 0])[::2],
    ],
    ids=["list", "int64", "uint64", "uint32", "strided"],
)
@pytest.mark.parametrize("argument", ["predictions", "labels", "weights"])
def test_whole_numbers_beyond_32_bits_keep_their_value(argument, values):
    arguments = {"predictions": np.ones(2), "labels": np.ones(2), argument: values}
    for make in (rm.make_batch, rm.make_padded_batch):
        batch = make(**arguments)
        assert getattr(batch, argument)[0, :2].tolist() == [2.5e9, 3.0]


def test_int64_arrays_of_jax_keep_their_value():
    with jax.enable_x64(True):
        labels = jnp.array([LARGE, 3])
        assert rm.make_batch(labels, labels).labels.tolist() == [[2.5e9, 3.0]]
    assert rm.make_batch(labels, labels).labels.tolist() == [[2.5e9, 3.0]]


def test_numbers_beyond_float32_are_counted_as_not_finite():
    batch = rm.make_batch([1e300, -1e39, 1.0], [0, 0, 1])
    assert batch.nonfinite.tolist() == [[True, True, False]]


MASKED = np.ma.array([1.0, 2.0], mask=[True, False])
REFUSED = {
    "masked": (MASKED, "expected an array without a mask of its own, got a masked array; pass "),
    "masked, nothing hidden": (np.ma.array([1.0, 2.0]), "got a masked array"),
    "list of masked": ([MASKED[0:1], MASKED[1:2]], "got a masked array"),
    "big-endian": (np.ones(2, ">f4"), "dtype, got >f4; convert it with .astype"),
    "big-endian int": (np.ones(2, ">i8"), "dtype, got >i8; convert it with .astype"),
    "longdouble": (np.ones(2, np.longdouble), "; convert it with .astype to a dtype of at most 64"),
    "timedelta": (np.ones(2, "m8[ms]"), "dtype, got timedelta64[ms]; divide by a unit"),
    "datetime": (np.ones(2, "M8[s]"), "dtype, got datetime64[s]"),
    "complex": (np.ones(2) * 1j, "dtype, got complex128"),
    "strings": (np.array(["a", "b"]), "dtype, got <U1"),
    "objects": (np.array([None, 1]), "dtype, got object"),
    "huge integers": ([2**70, 1], "dtype, got object"),
    "ragged": ([[1.0], [1.0, 2.0]], "expected an array, got [[1.0], [1.0, 2.0]]"),
}


@pytest.mark.parametrize("make", [rm.make_batch, rm.make_padded_batch], ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_array_of_numbers_is_refused_by_name(kind, make):
    value, message = REFUSED[kind]
    for name in ("predictions", "labels", "weights", "mask", "session"):
        if name == "session" and kind == "strings":
            continue  # Keys may be strings.
        arguments = {"predictions": np.ones(2), "labels": np.ones(2), **given(name, value)}
        shown = "keys['session']" if name == "session" else name
        with pytest.raises(ValueError, match=f"^{re.escape(shown)}: .*{re.escape(message)}"):
            make(**arguments)


MAKE = pytest.mark.parametrize("make", [rm.make_batch, rm.make_padded_batch])


@pytest.mark.parametrize("misspelled", ["weight", "masks", "sample_weight", "label", "session_id"])
@MAKE
def test_a_misspelled_argument_is_no_key(misspelled, make):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{misspelled}'"):
        make(np.ones(2), np.ones(2), **{misspelled: np.ones(2, int)})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([1, 2], "keys: expected a dict of integer arrays by name, as in keys={'session_id': ids}"),
        ("session", "integer arrays by name, as in keys={'session_id': ids}, got str"),
        (np.ones(2, int), "as in keys={'session_id': ids}, got ndarray"),
        ({3: np.ones(2, int)}, "keys: expected names that are non-empty strings, got 3"),
        ({"a": np.ones(2)}, "keys['a']: expected an integer dtype, got float64"),
        ({"a": None}, "keys['a']: expected an array, got None"),
        ({"a": {"b": [1, 2]}}, "keys['a']: expected an array, got a dict of ['b']"),
        ({"a": np.ones(3, int)}, "keys['a']: expected shape (1, 2) or (2,), got (3,)"),
    ],
)
@MAKE
def test_keys_that_are_no_arrays_by_name_are_refused(keys, message, make):
    with pytest.raises(ValueError, match=re.escape(message)):
        make(np.ones(2), np.ones(2), keys=keys)
