"""Parity with the reference over random streams, for lifetime and window values."""

import functools

import jax
import numpy as np
import pytest
from reference import Reference
from streams import CASES, TALLY, padded, runner, stream_of

RTOL = 1e-9
STREAMS = 30
IDS = [case.name for case in CASES]


@functools.cache
def configuration(case, index):
    """One of eight ``n_tasks, window, threshold`` of a case; each is compiled once."""
    rng = np.random.default_rng([CASES.index(case), index % 8])
    return 1 + index % 4, int(rng.integers(32, 250)), float(rng.uniform(0.2, 0.8))


def assert_agree(case, name, ours, theirs):
    """Equal to a relative 1e-9; where undefined, the reference reports what the table says."""
    assert ours.shape == theirs.shape
    is_undefined = np.zeros(ours.shape, bool)
    if case.is_undefined is not None:
        is_undefined = np.isnan(ours)
        assert case.is_undefined(name, theirs[is_undefined]).all(), name
    ours, theirs = ours[~is_undefined], theirs[~is_undefined]
    np.testing.assert_allclose(ours, theirs, rtol=RTOL, err_msg=name)
    TALLY.add(ours, theirs)


def compare(case, stream, setting, rng, *, fused, count, largest, every=1):
    """Both metrics over a stream, compared after each ``every``-th update."""
    n_tasks, window, threshold = setting
    batches, steps = padded(rng, stream, count=count, largest=largest)
    with jax.enable_x64(True):
        values = jax.tree.map(np.asarray, runner(case, *setting)(batches))
    options = {**dict(case.options), **case.thresholds(threshold)}
    reference = Reference(
        case.name, n_tasks, window=window, batch_size=largest, fused=fused, **options
    )
    for i, (predictions, labels, weights) in enumerate(stream.updates):
        is_none = case.weights_may_be_none and not stream.has_weights
        reference.update(predictions, labels, None if is_none else weights)
        if i % every == every - 1:
            theirs = reference.compute()
            assert theirs.keys() == values.keys()
            for name, value in theirs.items():
                assert_agree(case, name, values[name][steps[i]], value)
    TALLY.streams += 1


@pytest.mark.parametrize("index", range(STREAMS))
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_random_stream_agrees_with_the_reference(case, index):
    rng = np.random.default_rng([7, CASES.index(case), index])
    setting = configuration(case, index)
    fused = bool(index // 8 % 2)
    stream = stream_of(
        rng, case, setting[0], count=int(rng.integers(5, 21)), largest=32, ragged=not fused
    )
    compare(case, stream, setting, rng, fused=fused, count=24, largest=32)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_long_stream_agrees_with_the_reference(case):
    """900 updates, all of them inside the reference's bound on updates in a window."""
    rng = np.random.default_rng([8, CASES.index(case)])
    stream = stream_of(rng, case, 2, count=900, largest=4, ragged=True)
    compare(case, stream, (2, 1000, 0.5), rng, fused=False, count=1000, largest=4, every=50)
