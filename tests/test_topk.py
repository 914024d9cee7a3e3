"""Lists of the best items against sets of relevant ones, as examples of sessions."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles_catalogue as oracle
import pytest

import recmetrics_jax

pytestmark = pytest.mark.once

rm: Any = recmetrics_jax  # misuse is what a type checker refuses

N, K, R = 12, 6, 4


def lists(seed=0, n_items=15):
    """Lists, of which some are shorter, or have items twice, and sets with items twice."""
    rng = np.random.default_rng(seed)
    ids, relevant = rng.integers(0, n_items, (N, K)), rng.integers(-1, n_items, (N, R))
    ids[::3, -2:] = -1
    relevant[::4] = -1
    return ids, relevant


def rows_of(batch, task=0):
    """What a batch has of each list: the examples of its places, and the others."""
    size = batch.mask.shape[1] // N
    found = []
    for i in range(N):
        of_list = slice(i * size, (i + 1) * size)
        p, y, real = (
            np.asarray(x[task, of_list]) for x in (batch.predictions, batch.labels, batch.mask)
        )
        rows = list(zip(p.tolist(), y.tolist(), strict=True))
        assert real[:K].all()
        found.append(
            (rows[:K], [row for row, is_real in zip(rows, real, strict=True) if is_real][K:])
        )
    return found


def expected(ids, relevant):
    return [oracle.topk_rows(*row) for row in zip(ids.tolist(), relevant.tolist(), strict=True)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray, np.int16], ids=["numpy", "jax", "short"])
def test_places_and_relevant_items_are_examples(kind, seed):
    ids, relevant = lists(seed)
    batch = rm.make_topk_batch(kind(ids), kind(relevant))
    assert batch.mask.shape == (1, N * (K + R))
    assert rows_of(batch) == expected(ids, relevant)
    sessions = np.where(batch.mask[0], np.repeat(np.arange(N), K + R), 0)
    np.testing.assert_array_equal(batch.keys["session_id"][0, :, 1], sessions)


def test_ids_of_64_bits_are_told_apart():
    ids, relevant = lists()
    far = 2**33
    wide = np.where(ids == -1, -1, ids * far), np.where(relevant == -1, -1, relevant * far)
    assert rows_of(rm.make_topk_batch(*wide)) == expected(ids, relevant)
    none = np.where(relevant == -1, -1, relevant * far + 2**32)
    assert not np.any(rm.make_topk_batch(wide[0], none).labels[:, :K])


def test_tasks_have_lists_of_their_own():
    both = [np.stack(x) for x in zip(lists(0), lists(1), strict=True)]
    batch = jax.jit(rm.make_topk_batch)(*both)
    assert batch.mask.shape == (2, N * (K + R))
    for task in range(2):
        assert rows_of(batch, task) == expected(both[0][task], both[1][task])


def test_weights_masks_and_keys_are_those_of_lists():
    ids, relevant = lists()
    weights, mask = np.arange(N) / 4, np.arange(N) % 3 > 0
    users = np.arange(N) * 2**40
    batch = rm.make_topk_batch(ids, relevant, weights, mask=mask, keys={"user": users})
    whole = rm.make_topk_batch(ids, relevant)
    np.testing.assert_array_equal(batch.mask, whole.mask & np.repeat(mask, K + R)[None])
    of_lists = np.where(batch.mask[0], np.repeat(weights, K + R), 0)
    np.testing.assert_array_equal(batch.weights[0], of_lists)
    of_users = np.where(batch.mask[0], np.repeat(np.arange(N) * 2**8, K + R), 0)
    np.testing.assert_array_equal(batch.keys["user"][0, :, 0], of_users)
    own = rm.make_topk_batch(ids, relevant, keys={"session_id": users})
    of_users = np.where(own.mask[0], np.repeat(np.arange(N) * 2**8, K + R), 0)
    np.testing.assert_array_equal(own.keys["session_id"][0, :, 0], of_users)


def ndcg_at(k, ids, relevant):
    """By definition, of one list; 0 where nothing is relevant."""
    places, others = oracle.topk_rows(ids, relevant)
    n_relevant = sum(y for _, y in places + others)
    gained = sum(y / math.log2(i + 2) for i, (_, y) in enumerate(places[:k]))
    ideal = sum(1 / math.log2(i + 2) for i in range(min(k, int(n_relevant))))
    return gained / ideal if ideal else 0.0


def at_k(k, ids, relevant):
    """The values of a list against a set of relevant items."""
    relevant, seen, hits = {x for x in relevant if x != -1}, set(), []
    for item in ids[:k]:
        hits.append(item in relevant and item not in seen)
        seen.add(item)
    found = np.cumsum(hits)
    places = 1 + np.arange(len(hits))
    ideal = np.sum(1 / np.log2(1 + np.arange(1, 1 + min(k, len(relevant)))))
    return {
        "recall_at": found[-1] / len(relevant),
        "precision_at": found[-1] / k,
        "hit_rate": float(found[-1] > 0),
        "mrr": np.max(hits / places),
        "average_precision": np.sum(hits * found / places) / len(relevant),
        "ndcg": np.sum(hits / np.log2(1 + places)) / ideal,
    }


@pytest.mark.parametrize("k", [1, 3, K])
def test_metrics_of_sessions_are_those_of_the_lists(k):
    ids, relevant = lists()
    rows = [row for row in zip(ids.tolist(), relevant.tolist(), strict=True) if max(row[1]) >= 0]
    expected = [at_k(k, *row) for row in rows]
    metric = rm.collection({name: getattr(rm, name)(k=k) for name in expected[0]})
    batch = rm.make_topk_batch(ids, relevant)
    values = metric.compute(metric.update(metric.init(), batch))
    for name in expected[0]:
        value = next(
            x
            for key, x in values.items()
            if key.endswith(f"_at_{k}") and key.startswith(f"{name}/")
        )
        np.testing.assert_allclose(
            value, np.mean([row[name] for row in expected], keepdims=True), rtol=1e-6, err_msg=name
        )


def test_memory_does_not_grow_with_places_times_relevant_items():
    """Structurally: lists of 500 against sets of 500 take no 16 x 500 x 500."""
    shape = jax.ShapeDtypeStruct((16, 500), np.int32)
    memory: Any = jax.jit(rm.make_topk_batch).lower(shape, shape).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 16 * 1000 * 100


def test_no_lists_are_a_batch_of_nothing():
    batch = rm.make_topk_batch(np.zeros((0, K), int), np.zeros((0, R), int), mask=np.zeros(0, bool))
    assert batch.mask.shape == (1, 0)


IDS = np.zeros((2, 3), int)
REFUSED = {
    "one list": (lambda: rm.make_topk_batch(IDS[0], IDS[0]), r"ids: expected shape \[N, K\] or"),
    "other lists": (
        lambda: rm.make_topk_batch(IDS, IDS[:1]),
        r"relevant: expected shape \(2,\) and one more axis, as ids \(2, 3\), got \(1, 3\)",
    ),
    "scores": (lambda: rm.make_topk_batch(IDS / 2, IDS), "ids: expected an integer dtype"),
    "weights of places": (
        lambda: rm.make_topk_batch(IDS, IDS, np.ones((2, 3))),
        r"weights: expected shape \(1, 2\) or \(2,\), got \(2, 3\)",
    ),
    "mask of numbers": (
        lambda: rm.make_topk_batch(IDS, IDS, mask=[0, 1]),
        "mask: expected a bool dtype",
    ),
    "keys of others": (
        lambda: rm.make_topk_batch(IDS, IDS, keys={"user": [1, 2, 3]}),
        r"keys\['user'\]: expected shape \(1, 2\) or \(2,\), got \(3,\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
