"""Ragged batches, padded: the same values, and a bounded number of compilations."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recmetrics_jax as rm

pytestmark = pytest.mark.once

METRICS = {
    "ne": rm.ne(n_tasks=2, window=1000, logloss=True),
    "accuracy": rm.accuracy(n_tasks=2),
    "auc": rm.auc(n_tasks=2, window=1000, grouped=True),
    "ndcg": rm.ndcg(n_tasks=2),
    "examples": rm.examples(n_tasks=2),
}


def stream(lengths, seed=0):
    rng = np.random.default_rng(seed)
    for n in lengths:
        arrays = (rng.random((2, n)), rng.random((2, n)) < 0.4, rng.integers(1, 4, n))
        yield (
            arrays,
            {"grouping_keys": rng.integers(-2, 3, n) << 40, "session_id": np.arange(n) // 3},
        )


def test_buckets_are_the_smallest_times_powers_of_two():
    sizes = [rm.bucket_size(n, smallest=3) for n in range(14)]
    assert sizes == [3, 3, 3, 3, 6, 6, 6, 12, 12, 12, 12, 12, 12, 24]
    assert rm.bucket_size(10_000_001, smallest=1) == 1 << 24
    assert [rm.bucket_size(1 << k) for k in (8, 20)] == [1 << 8, 1 << 20]


@pytest.mark.heavy
def test_padded_batches_give_the_values_of_ragged_ones():
    metric = rm.collection(METRICS)
    ragged = padded = metric.init()
    for arrays, keys in stream([5, 8, 1, 17]):
        ragged = metric.update(ragged, rm.make_batch(*arrays, keys=keys))
        batch = rm.make_padded_batch(*arrays, smallest=8, keys=keys)
        assert batch.mask.shape == (2, rm.bucket_size(arrays[0].shape[1], smallest=8))
        padded = metric.update(padded, batch)
    expected, values = metric.compute(ragged), metric.compute(padded)
    assert values.keys() == expected.keys()
    for name, value in values.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6, err_msg=name)


def test_padding_keeps_masks_classes_and_dtypes_of_every_kind():
    labels, mask = jnp.array([2, 0, 1], jnp.int8), [True, False, True]
    scores = jnp.arange(9, dtype=jnp.bfloat16).reshape(1, 3, 3)
    for arrays in ((scores, labels[None]), (labels, labels), ([0.5, 0.25, 1], [True, False, True])):
        expected = rm.make_batch(*arrays, mask=mask)
        batch = rm.make_padded_batch(*arrays, mask=mask, smallest=4)
        assert not np.any(batch.mask[:, 3:])
        for leaf, of in zip(jax.tree.leaves(batch), jax.tree.leaves(expected), strict=True):
            assert leaf.dtype == of.dtype
            np.testing.assert_array_equal(leaf[:, :3], of)
            assert not np.any(leaf[:, 3:])


def test_an_empty_batch_is_all_padding():
    batch = rm.make_padded_batch([], [], keys={"session_id": []}, smallest=4)
    assert batch.mask.tolist() == [[False] * 4]
    assert batch.keys["session_id"].shape == (1, 4, 2)


def test_a_ragged_stream_compiles_once_for_each_bucket():
    metric = rm.collection({"ne": rm.ne(n_tasks=2, window=1000), "ctr": rm.ctr(n_tasks=2)})
    lengths = np.random.default_rng(0).integers(1, 1000, 60)
    buckets = {rm.bucket_size(n, smallest=64) for n in lengths}
    assert len(buckets) == 5
    update = chex.assert_max_traces(
        lambda state, batch: metric.update(state, batch), n=len(buckets)
    )
    step = jax.jit(update)
    state = metric.init()
    for arrays, _ in stream(lengths):
        state = step(state, rm.make_padded_batch(*arrays, smallest=64))
    assert metric.compute(state)["ctr/lifetime_ctr"].shape == (2,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": np.ones(4)}, r"labels: expected shape \(3,\), .* got \(4,\)"),
        ({"weights": np.ones(2)}, r"weights: expected shape .* got \(2,\)"),
        ({"mask": np.ones(3)}, "mask: expected a bool"),
        ({"keys": {"ids": np.ones(3)}}, r"keys\['ids'\]: expected an integer"),
        ({"predictions": np.ones(())}, r"predictions: expected shape \[N\]"),
        ({"predictions": [[1], [2, 3]]}, "predictions: expected an array"),
        ({"smallest": 0}, "smallest: expected a whole number of at least 1"),
    ],
)
def test_bad_arguments_are_named_with_the_shapes_that_came(arguments, message):
    with pytest.raises(ValueError, match=message):
        rm.make_padded_batch(**{"predictions": np.ones(3), "labels": np.ones(3), **arguments})


def test_a_traced_array_is_sent_to_make_batch():
    with pytest.raises(ValueError, match="labels: expected an array on the host, got a traced"):
        jax.jit(lambda y: rm.make_padded_batch(np.ones(3), y))(np.ones(3))
