"""Options: NumPy's scalars are Python's, and what cannot work is refused when a metric is made."""

import inspect
import re
from typing import Any, get_args

import jax
import numpy as np
import pytest

import recmetrics_jax
from recmetrics_jax._src.metrics._groups import Average

rm: Any = recmetrics_jax  # misuse is what a type checker refuses

REQUIRED = {"n_classes": 4, "n_items": 5, "window": 9, "terms": {"n": len}, "values": dict}
REQUIRED |= {"k": 3, "precision": 0.5, "recall": 0.5}
REQUIRED |= {"metric": recmetrics_jax.ne(n_tasks=2), "key": "user", "segments": 3, "half_life": 9.0}
COMBINATORS = ("by_segment", "bootstrap", "compare", "decayed")
NOT_SCALAR = {
    "terms",
    "values",
    "keys",
    "excludes",
    "is_negative_task_mask",
    "sampled",
    "popularity",
    "refine",
    "metric",
    "by_segment",
}
VALUES = {
    "bins": 4096,
    "exact_ranks": 128,
    "average": get_args(Average)[1],
    "undefined": 0.5,
    "undefined_groups": 0.5,
    "label_threshold": 0.25,
    "undefined_sessions": 0.5,
    "pair_weights": "product",
    "scope": "batch",
    "of": "all",
    "spacing": "uniform",
    "norm": "l2",
    "baseline": 0.25,
    "interval": "percentile",
    "replicates": 32,
    "models": 2,
    "resampled_by": "weights",
}
BY_KIND = {"int": 8, "float": 0.25, "bool": True, "str": "user"}
AS_NUMPY = {int: (np.int32, np.int64, np.uint16), float: (np.float32, np.float64)}
AS_NUMPY |= {bool: (np.bool_,), str: (np.str_,)}


def factories():
    """All that make metrics, but collections."""
    for name in rm.__all__:
        make = getattr(rm, name)
        if callable(make) and not isinstance(make, type) and name != "collection":
            parameters = inspect.signature(make).parameters
            if "n_tasks" in parameters or name in COMBINATORS:
                yield name, parameters


def options():
    for name, parameters in factories():
        for option, parameter in parameters.items():
            if option not in NOT_SCALAR:
                kind = str(getattr(parameter.annotation, "__name__", parameter.annotation))
                default = BY_KIND.get(kind.split(" ")[0])
                value = (
                    1 if (name, option) == ("compare", "baseline") else VALUES.get(option, default)
                )
                yield name, option, value


def call(name, **options):
    parameters = inspect.signature(getattr(rm, name)).parameters
    needed: dict[str, Any] = {
        option: REQUIRED[option]
        for option, parameter in parameters.items()
        if parameter.default is parameter.empty
    }
    if "scope" in parameters:  # Each has options of its own.
        needed |= {"scope": "window" if "shards" in options else "batch", "window": 9}
    if "shards" in options and "window" in parameters:
        needed |= {"window": 9}
    return getattr(rm, name)(**{**needed, **options})


OPTIONS = list(options())
FACTORIES = sorted({name for name, *_ in OPTIONS})


def test_the_table_has_options_of_all_factories():
    made = {"sum_metric", "sample_metric", "ne", "multiclass_recall", "binned_auc", "ndcg", "rauc"}
    assert made <= set(FACTORIES)
    assert all(value is not None for _, _, value in OPTIONS)


@pytest.mark.parametrize("name", FACTORIES)
def test_options_given_as_scalars_of_numpy_make_the_same_metric(name):
    for option, value in ((option, value) for of, option, value in OPTIONS if of == name):
        expected = call(name, **{option: value})
        for make in AS_NUMPY[type(value)]:
            metric = call(name, **{option: make(value)})
            assert metric == expected, (option, make)
            assert hash(metric) == hash(expected)
            assert repr(metric) == repr(expected)


def test_options_of_collections_padding_and_the_door_given_as_scalars_of_numpy():
    metric = rm.collection({"ne": rm.ne}, n_tasks=np.int8(2), window=np.int32(600_000_000))
    assert metric == rm.collection({"ne": rm.ne}, n_tasks=2, window=600_000_000)
    assert repr(metric) == repr(rm.collection({"ne": rm.ne}, n_tasks=2, window=600_000_000))
    assert rm.bucket_size(np.int16(30_000), smallest=np.int8(100)) == 51_200
    assert type(rm.bucket_size(np.int16(30_000))) is int
    for make in (rm.make_batch, rm.make_padded_batch):
        batch = make([np.nan, 1.0], [0, 1], mask_nonfinite=np.True_)
        assert batch.mask[0, :2].tolist() == [False, True]
    undefined = {"ctr": np.float32(0.5)}
    metric = rm.sum_metric({"n": weights}, dict, undefined=undefined)
    assert metric == rm.sum_metric({"n": weights}, dict, undefined={"ctr": 0.5})


def weights(batch):
    return batch.weights


@pytest.mark.parametrize("make", [int, np.int32, np.int64])
def test_a_window_of_many_examples_covers_them_all(make):
    """``4 * window`` is beyond an int32."""
    metric = rm.examples(window=make(600_000_000), slots=make(8))
    batch = rm.make_batch(np.ones(10), np.ones(10))

    @jax.jit
    def updated(state):
        return jax.lax.scan(lambda s, _: (metric.update(s, batch), None), state, None, 200)[0]

    assert metric.compute(updated(metric.init()))["window_examples"].tolist() == [2000]


LARGE = 2**63
OUT_OF_RANGE = {
    "window": (lambda: rm.ne(window=LARGE), "window: expected a whole number of at most 2,147,48"),
    "window of 2^31": (lambda: rm.ne(window=2**31), "window: expected a whole number of at most"),
    "window of examples": (
        lambda: rm.auc(window=2**31 - 1),
        "window: expected a whole number of at most 1,073,741,824, got 2147483647",
    ),
    "window of a collection": (
        lambda: rm.collection({"ne": rm.ne}, window=LARGE),
        "window: expected a whole number of at most",
    ),
    "window of a collection, no number": (
        lambda: rm.collection({"ne": rm.ne}, window="5"),
        "window: expected a whole number of at least 1, got '5'",
    ),
    "tasks of a collection": (
        lambda: rm.collection({"ne": rm.ne}, n_tasks=0),
        "n_tasks: expected a whole number of at least 1, got 0",
    ),
    "tasks": (lambda: rm.ne(n_tasks=LARGE), "n_tasks: expected a whole number of at most"),
    "slots": (lambda: rm.ne(slots=LARGE), "slots: expected a whole number of at most"),
    "classes": (lambda: rm.multiclass_recall(LARGE), "n_classes: expected a whole number of at"),
    "classes of samples": (
        lambda: rm.sample_metric(dict, window=3, n_classes=2.0),
        "n_classes: expected a whole number of at least 1, got 2.0",
    ),
    "bins": (lambda: rm.binned_auc(bins=2**25), "bins: expected a power of two of at most 2^24"),
    "bins of an array": (
        lambda: rm.binned_auc(bins=np.array([8])),
        "bins: expected a whole number of at least 2, got array([8])",
    ),
    "k": (lambda: rm.ndcg(k=2.5), "k: expected a whole number of at least 1, got 2.5"),
    "k of nothing": (lambda: rm.ndcg(k=(3, 0)), "k: expected a whole number of at least 1, got 0"),
    "k twice": (lambda: rm.mrr(k=(3, 3)), "k: expected distinct numbers, at least one, got (3, 3)"),
    "no k": (lambda: rm.mrr(k=()), "k: expected distinct numbers, at least one, got ()"),
    "k of all ranks": (
        lambda: rm.hit_rate(k=None),
        "k: expected a whole number of at least 1, got None",
    ),
    "bucket": (lambda: rm.bucket_size(5, smallest=0), "smallest: expected a whole number of at"),
    "rows": (lambda: rm.bucket_size(5.0), "n: expected a whole number of at least 0, got 5.0"),
    "threshold by name": (
        lambda: rm.accuracy(threshold="0.5"),
        "threshold: expected a number, got '0.5'",
    ),
    "threshold of NaN": (
        lambda: rm.precision(threshold=np.float32("nan")),
        "threshold: expected a number to compare with, got nan",
    ),
    "threshold by task": (
        lambda: rm.recall(threshold=np.array([0.5, 0.6])),
        "threshold: expected a number, got array([0.5, 0.6])",
    ),
    "threshold of labels": (
        lambda: rm.auc(window=3, label_threshold=True),
        "label_threshold: expected a number, got True",
    ),
    "threshold beyond floats": (
        lambda: rm.accuracy(threshold=10**400),
        "threshold: expected a number that a float holds, got 1000",
    ),
    "flag": (lambda: rm.ne(logloss="no"), "logloss: expected True or False, got 'no'"),
    "flag of a metric of groups": (
        lambda: rm.rauc(window=3, grouped="user"),
        "grouped: expected True or False, got 'user'",
    ),
    "flag of NDCG": (
        lambda: rm.ndcg(exponential_gain=2),
        "exponential_gain: expected True or False, got 2",
    ),
    "flag of recall": (
        lambda: rm.recall(both_at_threshold=None),
        "both_at_threshold: expected True or False, got None",
    ),
    "flag of the door": (
        lambda: rm.make_batch([1], [1], mask_nonfinite="yes"),
        "mask_nonfinite: expected True or False, got 'yes'",
    ),
    "key": (lambda: rm.ndcg(session_key=3), "session_key: expected a non-empty string, got 3"),
    "key of groups": (
        lambda: rm.auc(window=3, grouped=True, grouping_key=("a",)),
        "grouping_key: expected a non-empty string, got ('a',)",
    ),
    "keys as one name": (
        lambda: rm.sample_metric(dict, window=3, keys="user"),
        "keys: expected a tuple of names, as in ('user',), got 'user'",
    ),
    "keys by number": (
        lambda: rm.sample_metric(dict, window=3, keys=(3,)),
        "keys: expected a non-empty string, got 3",
    ),
    "undefined groups": (
        lambda: rm.auc(window=3, undefined_groups=True),
        "undefined_groups: expected a number or None, got True",
    ),
    "undefined sessions": (
        lambda: rm.mrr(undefined_sessions=True),
        "undefined_sessions: expected a number or None, got True",
    ),
    "undefined sessions of a pool": (
        lambda: rm.recall_at(k=3, pooled=True, undefined_sessions=0),
        "undefined_sessions: expected None where pooled is True, got 0.0",
    ),
    "ranks": (lambda: rm.mrr(of="last"), "of: expected one of ('first', 'all'), got 'last'"),
    "undefined by number": (
        lambda: rm.sum_metric({"n": weights}, dict, undefined={1: 0.5}),
        "undefined: expected a non-empty string, got 1",
    ),
    "undefined of two kinds": (
        lambda: rm.sum_metric({"n": weights}, dict, undefined={"a": 0.5, 1: 0.5}),
        "undefined: expected a non-empty string, got 1",
    ),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_what_cannot_work_is_refused_when_a_metric_is_made(name):
    call, message = OUT_OF_RANGE[name]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        call()


def test_a_misspelled_option_is_pythons_error():
    with pytest.raises(TypeError, match=r"ne\(\) got an unexpected keyword argument 'windows'"):
        rm.ne(windows=5)


def test_numbers_that_mean_the_same_make_the_same_metric():
    assert rm.accuracy(threshold=1) == rm.accuracy(threshold=1.0)
    assert rm.ctr(undefined=0) == rm.ctr(undefined=0.0)
    assert rm.ne(logloss=1) == rm.ne(logloss=True)
    assert rm.auc(window=3, undefined_groups=1) == rm.auc(window=3, undefined_groups=1.0)
