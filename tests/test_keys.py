"""Ids of any kind pass through jit without losing a bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recmetrics_jax as rm

pytestmark = pytest.mark.once

BIG = np.array([5, 5 + 2**32, 5, 5 + 2**40])


@jax.jit
def groups(keys):
    """How many groups there are, by the grouped AUC of a step that takes the keys."""
    metric = rm.auc(window=4, grouped=True, undefined_groups=0.0)
    batch = rm.make_batch([0.1, 0.2, 0.3, 0.4], [0, 1, 1, 0], keys={"grouping_keys": keys})
    return metric.compute(metric.update(metric.init(), batch))["window_grouped_auc_groups"][0]


def test_ids_of_64_bits_pass_through_jit():
    assert groups(rm.keys_of(BIG)) == 3
    assert groups(BIG) == 1  # What jit does to int64, and nothing inside can see.


@pytest.mark.parametrize(
    "ids",
    [
        np.array([0, 2**64 - 1, 7], np.uint64),
        np.array([-1, -(2**63), 7]),
        np.array([1, 255, 7], np.uint8),
        [3, -3, 7],
        jnp.array([1, -2, 7]),
    ],
    ids=lambda x: str(getattr(x, "dtype", "list")),
)
def test_integers_are_kept_as_they_are(ids):
    keys = rm.keys_of(ids)
    assert keys.shape == (3,)
    assert keys.words.dtype == np.int32
    upper, lower = np.asarray(keys.words, np.int64).T
    restored = (upper << 32) | (lower & 0xFFFFFFFF)
    np.testing.assert_array_equal(restored, np.asarray(ids).astype(np.int64))


@pytest.mark.parametrize(
    "ids",
    [
        ["anna", "bert", "anna", "é"],
        np.array(["anna", "bert", "anna", "é"]),
        np.array(["anna", "bert", "anna", "é"], object),
        np.array([x.encode() for x in ("anna", "bert", "anna", "é")]),
    ],
    ids=["list", "unicode", "object", "bytes"],
)
def test_strings_are_hashed_the_same_everywhere(ids):
    words = rm.keys_of(ids).words.tolist()
    assert words[0] == words[2]
    assert len({tuple(word) for word in words}) == 3
    # By BLAKE2b, so that another process, and another machine, has the same.
    assert words[:2] == [[-1941273525, -864795440], [315471239, 700358366]]


def test_strings_are_keys_outside_jit():
    batch = rm.make_batch([0, 1], [0, 1], keys={"user": ["anna", "bert"]})
    np.testing.assert_array_equal(batch.keys["user"][0], rm.keys_of(["anna", "bert"]).words)


@pytest.mark.parametrize("kind", [rm.keys_of, lambda ids: [str(x) for x in ids]])
def test_keys_of_lists_and_ranks_are_those_of_batches(kind):
    ids = kind(BIG)
    keys = rm.make_batch(np.zeros(4), np.zeros(4), keys={"user": ids}).keys["user"]
    ranks = rm.make_rank_batch([1, 2, 3, 4], keys={"user": ids})
    np.testing.assert_array_equal(ranks.keys["user"], keys)
    lists = rm.make_topk_batch(np.ones((4, 2), int), np.ones((4, 1), int), keys={"user": ids})
    np.testing.assert_array_equal(lists.keys["user"][:, 0::3], keys)
    np.testing.assert_array_equal(lists.keys["user"][:, 1::3], keys)  # The third is padding.


def test_sessions_of_lists_pass_through_jit():
    @jax.jit
    def batch_of(keys):
        return rm.make_topk_batch([[1]] * 4, [[2]] * 4, keys={"session_id": keys})

    metric = rm.hit_rate(k=1)
    values = metric.compute(metric.update(metric.init(), batch_of(rm.keys_of(BIG))))
    assert values["lifetime_hit_rate_sessions"].tolist() == [3]


def test_keys_are_padded_sliced_and_broadcast():
    keys = rm.keys_of(BIG)
    padded = rm.make_padded_batch(np.zeros((2, 4)), np.zeros(4), keys={"user": keys}, smallest=8)
    assert padded.keys["user"].shape == (2, 8, 2)
    part = jax.tree.map(lambda x: x[1:3], keys)
    assert part.shape == (2,)
    batch = rm.make_batch([0, 1], [0, 1], keys={"user": part})
    np.testing.assert_array_equal(batch.keys["user"][0], keys.words[1:3])


def test_the_batch_keeps_its_keys_when_the_buffer_changes():
    keys = rm.keys_of(BIG)
    batch = rm.make_batch(np.zeros(4), np.zeros(4), keys={"user": keys})
    keys.words[:] = 0
    np.testing.assert_array_equal(batch.keys["user"][0], rm.keys_of(BIG).words)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0.5, 1.0], "ids: expected an integer dtype, got float64"),
        (np.array([True]), "ids: expected an integer dtype, got bool"),
        (
            np.array(["a", None], object),
            "ids: expected .* got objects of .*: NoneType, str; give an id",
        ),
        (jnp.array([0.5]), "ids: expected an integer dtype, got float32"),
        (rm.Keys(np.zeros((3, 3), np.int32)), r"ids: expected Keys of words int32\[..., 2\]"),
    ],
)
def test_other_ids_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        rm.keys_of(ids)


def test_predictions_or_labels_of_one_task_serve_all():
    p, labels = np.array([0.2, 0.9, 0.4]), np.array([[0, 1, 0], [1, 1, 0]])
    metric = rm.ne(n_tasks=2)

    def ne(*arrays):
        return metric.compute(metric.update(metric.init(), rm.make_batch(*arrays)))["lifetime_ne"]

    np.testing.assert_array_equal(ne(p, labels), ne(np.stack([p, p]), labels))
    np.testing.assert_array_equal(ne(labels, p > 0.5), ne(labels, np.stack([p, p]) > 0.5))
    classes = rm.make_batch(np.zeros((2, 3, 5)), [0, 1, 4])
    assert classes.labels.shape == (2, 3)
    padded = rm.make_padded_batch(p, labels, smallest=4)
    assert padded.predictions.shape == (2, 4)
    with pytest.raises(ValueError, match=r"labels: expected shape \(2, 3\), .* got \(2,\)"):
        rm.make_batch(labels, [0, 1])
