"""The examples run as a user runs them, and give what they promise."""

import itertools
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import recmetrics_jax as rm

FOLDER = pathlib.Path(__file__).parent.parent / "examples"


def run(script, *arguments, xla_flags=""):
    """In a process of its own, without the devices and the strictness of the tests."""
    return subprocess.run(
        [sys.executable, FOLDER / script, *map(str, arguments)],
        env={**os.environ, "XLA_FLAGS": xla_flags},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )


def ratings(count=3001, users=300, items=200):
    """Rows of user, item, rating and timestamp, of some users with higher ratings than others."""
    rng = np.random.default_rng(0)
    user = rng.integers(1, users + 1, count)
    rating = np.clip(np.round(rng.normal(3.5 + (user % 3 - 1), 0.7)), 1, 5)
    times = rng.permutation(count) + 880_000_000
    return np.stack([user, rng.integers(1, items + 1, count), rating, times], axis=1).astype(int)


def write(folder, rows):
    """The layout of GroupLens."""
    np.savetxt(folder / "u.data", rows, fmt="%d", delimiter="\t")
    return folder


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("xla_flags", "devices"), [("", 4), ("--xla_force_host_platform_device_count=2", 2)]
)
def test_movielens_trains_evaluates_and_agrees_with_numpy(tmp_path, xla_flags, devices):
    for package in ("flax", "optax", "rich"):
        pytest.importorskip(package)
    options = ("--epochs=2", "--batch-size=256", "--window=1000", "--print-every=5")
    rows = ratings()
    folder = write(tmp_path, rows)
    result = run("movielens.py", "--data", folder, *options, xla_flags=xla_flags)
    assert result.returncode == 0, result.stderr
    assert re.search(r"step +20 +ne \d\.\d{3} \d\.\d{3} .* auc 0\.\d{3} 0\.\d{3}", result.stdout)
    # 600 ratings: in the last batch some devices get nothing but padding.
    assert f"3 test batches of 256 on {devices} cpu devices" in result.stdout
    header = re.search(r"test split.*", result.stdout)
    assert header is not None
    assert "rating >= 4" in header.group()
    assert "rating == 5" in header.group()
    for name in ("ne", "auc", "grouped_auc", "auprc", "ndcg_at_10"):
        assert re.search(rf"\b{name}\b\W+\d\.\d{{6}}\W+\d\.\d{{6}}\b", result.stdout), name
    users = len(np.unique(rows[np.argsort(rows[:, 3])][-600:, 0]))
    averaged, undefined = (
        re.search(rf"\b{name} +\W (.*)", result.stdout)
        for name in ("grouped_auc_groups", "grouped_auc_undefined_groups")
    )
    assert averaged is not None
    assert undefined is not None
    counts = [[int(n) for n in re.findall(r"\d+", row.group(1))] for row in (averaged, undefined)]
    assert np.sum(counts, axis=0).tolist() == [users, users]
    difference = re.search(r"largest relative difference to float64 NumPy: (\S+)", result.stdout)
    assert difference is not None
    assert float(difference.group(1)) <= 1e-6


def test_movielens_says_what_to_do_where_there_is_no_data(tmp_path):
    for package in ("flax", "optax", "rich"):
        pytest.importorskip(package)
    result = run("movielens.py", "--data", tmp_path)
    assert result.returncode == 1
    assert f"error: no u.data or ml-100k.inter in {tmp_path}" in result.stderr
    assert "--data ml-100k" in result.stderr
    assert "Traceback" not in result.stderr


def test_movielens_says_so_where_the_data_cannot_be_fetched(tmp_path, load, monkeypatch):
    data = load("movielens_data")
    monkeypatch.setattr(data, "CACHE", tmp_path / "cache" / "ml-100k")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(data.DataError, match=r"recbole==1\.2\.1 could not be fetched from PyPI"):
        data.load_ratings(None)
    assert not list((tmp_path / "cache").iterdir())


def test_movielens_refuses_a_file_of_something_else(tmp_path, load):
    (tmp_path / "u.data").write_text("<html>\n")
    data = load("movielens_data")
    with pytest.raises(data.DataError, match="does not hold user, item, rating, timestamp"):
        data.load_ratings(tmp_path)


def test_movielens_reads_both_layouts_oldest_first(tmp_path, load):
    data = load("movielens_data")
    rows = ratings(count=50)
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (tmp_path / "recbole").mkdir()
    path = tmp_path / "recbole" / "ml-100k.inter"
    np.savetxt(path, rows, fmt="%d", delimiter="\t", header=header, comments="")

    of_grouplens = data.load_ratings(write(tmp_path, rows))
    of_recbole = data.load_ratings(tmp_path / "recbole")
    oldest_first = rows[np.argsort(rows[:, 3])]
    np.testing.assert_array_equal(of_grouplens.ratings, oldest_first[:, 2])
    for column, ids in enumerate((of_grouplens.users, of_grouplens.items)):
        np.testing.assert_array_equal(
            np.unique(oldest_first[:, column])[ids], oldest_first[:, column]
        )
    for a, b in zip(of_grouplens, of_recbole, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("size", [1, 40, 1000])
def test_movielens_parts_hold_whole_users(load, size):
    data = load("movielens_data")
    users = np.random.default_rng(0).geometric(0.05, 500)
    parts = data.whole_users(users, size)
    assert parts.shape[1] == max(size, np.bincount(users).max())
    rows = parts[parts != data.PADDING]
    np.testing.assert_array_equal(np.sort(rows), np.arange(500))
    users_of_parts = [np.unique(users[part[part != data.PADDING]]) for part in parts]
    assert sum(map(len, users_of_parts)) == len(np.unique(users))


def test_movielens_batches_mask_padding(load):
    data = load("movielens_data")
    column = np.arange(10)
    rows = np.array([3, data.PADDING, 9, 1, 0])
    batches = list(data.batches(data.Ratings(column, column, column), rows, 3))
    assert [mask.tolist() for _, mask in batches] == [[True, False, True], [True, True, False]]
    assert [batch.users[mask].tolist() for batch, mask in batches] == [[3, 9], [1, 0]]


def test_movielens_reference_agrees_with_scikit_learn(load):
    sklearn = pytest.importorskip("sklearn.metrics")
    reference = load("movielens_reference")
    rng = np.random.default_rng(0)
    for count in (2, 9, 10, 11, 200):
        p = rng.integers(0, 8, count) / 8  # with ties
        y = rng.permutation(np.arange(count) % 2).astype(float)
        ours = [reference.auc(p, y), reference.average_precision(p, y), reference.ndcg(p, y, k=10)]
        theirs = [
            sklearn.roc_auc_score(y, p),
            sklearn.average_precision_score(y, p),
            sklearn.ndcg_score(y[None], p[None], k=10),
        ]
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_movielens_reference_averages_users_with_both_classes(load):
    reference = load("movielens_reference")
    users = np.array([7, 8, 7, 7, 8, 9])
    p = np.array([[0.9, 0.2, 0.5, 0.5, 0.4, 0.5]])
    y = np.array([[1.0, 0.0, 1.0, 0.0, 0.0, 1.0]])
    values = reference.reference_values(p, y, users, k=1)
    assert values["grouped_auc"].tolist() == [0.75]
    assert values["grouped_auc_groups"].tolist() == [1]
    assert values["grouped_auc_undefined_groups"].tolist() == [2]
    np.testing.assert_allclose(values["ndcg_at_1"], [2 / 3])  # 1, 0 without a positive, 1


@pytest.mark.heavy
def test_retrieval_prints_a_page_that_agrees_with_numpy(tmp_path):
    for package in ("optax", "rich"):
        pytest.importorskip(package)
    folder = write(tmp_path, ratings(users=150))
    # 150 users in batches of 64: the last is padded.
    result = run("retrieval.py", "--data", folder, "--epochs=3", "--batch-size=64", "--sampled=20")
    assert result.returncode == 0, result.stderr
    assert "newest 5 of 150 users to test, 3 batches of 64" in result.stdout
    names = [f"{name}_at_{k}" for name in ("hit_rate", "ndcg", "mrr") for k in (1, 10, 100)]
    lists = ("recall", "precision", "hit_rate", "mrr", "average_precision", "ndcg")
    names += [f"{name}_at_{k}" for name in lists for k in (1, 5, 10)]
    names += ["mrr", "mean_rank", "median_rank", "not_found", "users", "undefined_users"]
    names += ["coverage", "gini", "entropy", "average_popularity", "tail_share", "unknown_items"]
    names += ["of 20 sampled", "corrected"]
    found = set()
    for row in result.stdout.splitlines():
        label, *numbers = (cell.strip() for cell in row.strip("│ ").split("│"))
        if label in names:
            found.add(label)
            values, of_numpy = (np.array(numbers[i::2], float) for i in (0, 1))
            assert len(values) == 2
            np.testing.assert_allclose(values, of_numpy, rtol=1e-6, atol=2e-6)
    assert found == set(names)
    difference = re.search(r"largest relative difference to float64 NumPy: (\S+)", result.stdout)
    assert difference is not None
    assert float(difference.group(1)) <= 1e-6


@pytest.mark.parametrize("sampled", [0, 200])
def test_retrieval_says_how_many_items_there_are_to_sample(tmp_path, sampled):
    for package in ("optax", "rich"):
        pytest.importorskip(package)
    folder = write(tmp_path, ratings())
    result = run("retrieval.py", "--data", folder, f"--sampled={sampled}")
    assert result.returncode == 1
    assert f"error: --sampled: expected 1 to 199 items, got {sampled}" in result.stderr


def test_retrieval_holds_out_the_newest_of_each_user(load):
    data, movielens = load("retrieval_data"), load("movielens_data")
    rows = [(user, item, 3 + item % 3) for item in range(9) for user in (0, 1) if user or item > 3]
    rows.append((1, 0, 5))  # Once more: the newest counts.
    users, items, stars = np.array(rows, np.int32).T
    newest = data.without_repeats(movielens.Ratings(users, items, stars))
    training, asked = data.split(newest, 7, seed=0)
    assert list(zip(training.users, training.items, strict=True)) == [(1, x) for x in (1, 2, 3, 4)]
    assert asked.targets.tolist() == [8, 0]
    assert [data.items_of(row) for row in asked.recent] == [{4, 5, 6, 7}, {5, 6, 7, 8}]
    assert [data.items_of(row) for row in asked.seen] == [set(), {1, 2, 3, 4}]
    assert [data.items_of(row) for row in asked.liked] == [{4, 5, 7, 8}, {5, 7, 8, 0}]
    # Drawn without replacement, and without the target, from all: what was rated is left blank.
    assert data.items_of(asked.sampled[0]) <= {0, 1, 2, 3}
    assert data.items_of(asked.sampled[1]) == set()


def test_retrieval_reference_agrees_with_scikit_learn(load):
    sklearn = pytest.importorskip("sklearn.metrics")
    reference = load("retrieval_reference")
    rng = np.random.default_rng(0)
    for count in (3, 12, 40):
        scores, y = rng.random(count), rng.permutation(np.arange(count) % 3 == 0)
        items, wanted = reference.in_order(scores, set()), set(np.flatnonzero(y).tolist())
        of_all = reference.values_at(count, items, wanted)
        of_five = reference.values_at(5, items, wanted)
        np.testing.assert_allclose(
            [of_all["average_precision"], of_five["ndcg"], of_all["recall"]],
            [sklearn.average_precision_score(y, scores), sklearn.ndcg_score([y], [scores], k=5), 1],
            rtol=1e-12,
        )


def test_retrieval_reference_counts_ties_in_all_orders(load):
    reference = load("retrieval_reference")
    scores, target = np.array([0.5, 0.9, 0.5, 0.5, 0.9, 0.1]), 2
    place = reference.place_of(scores, target, {4, 2})
    assert place == (1, 2)
    ranks = []
    for order in itertools.permutations([0, 1, 2, 3, 5]):
        falling = [scores[item] for item in order]
        if falling == sorted(falling, reverse=True):
            ranks.append(order.index(target) + 1)
    values = reference.rank_values([place], [3])
    assert values["mean_rank"] == np.mean(ranks) == 3
    assert values["median_rank"] == np.median(ranks)
    assert values["hit_rate_at_3"] == pytest.approx(np.mean(np.array(ranks) <= 3), rel=1e-12)
    assert values["mrr"] == pytest.approx(np.mean(1 / np.array(ranks)), rel=1e-12)


def test_retrieval_reference_corrects_nothing_where_all_items_are_sampled(load):
    reference = load("retrieval_reference")
    places = [reference.Place(above, 0) for above in (0, 2, 2, 7, 30)]
    values = reference.rank_values(places, [1, 5])
    corrected = reference.corrected_values(places, [1, 5], 30, 31)
    for name, value in corrected.items():
        assert value == pytest.approx(values[name], rel=1e-9), name


@pytest.mark.heavy
def test_segments_prints_tables_that_agree_with_numpy(tmp_path):
    pytest.importorskip("rich")
    rng = np.random.default_rng(1)
    rows = ratings(count=4000, users=300)
    rows[:, 0] = 300 * rng.random(4000) ** 3 + 1  # Of few users most ratings.
    rows[:, 2] = np.clip(np.round(rng.normal(2.5 + rows[:, 0] % 3, 0.7)), 1, 5)
    result = run("segments.py", "--data", write(tmp_path, rows))
    assert result.returncode == 0, result.stderr
    of_segment = r"\d\.\d{4} +\[\d\.\d{4},"
    assert re.search(rf"0 to 19 +\W +\d+ +\W +\d+ +\W +{of_segment}", result.stdout)
    assert re.search(r"all +\W +-\d\.\d{4} +\[-\d\.\d{4}, -\d\.\d{4}\] +\W +\d", result.stdout)
    assert "bits beyond the NE of all" in result.stdout


def test_a_value_that_only_one_side_has_is_a_difference(load):
    largest_difference = load("movielens_reference").largest_difference
    nan, one = np.array([np.nan]), np.array([1.0])
    assert largest_difference(nan, nan) == 0
    assert np.isnan(largest_difference(nan, one))
    assert np.isnan(largest_difference(one, nan))
    assert largest_difference(one, 2 * one) == 0.5


@pytest.mark.heavy
def test_custom_metric_prints_its_values_and_keeps_the_laws():
    result = run("custom_metric.py")
    assert result.returncode == 0, result.stderr
    assert re.search(r"lifetime_ece +calibrated 0\.0\d+ +overconfident 0\.\d+", result.stdout)
    assert re.search(r"window_ece +calibrated 0\.0\d+ +overconfident 0\.\d+", result.stdout)
    assert f"all {len(rm.testing.LAWS)} laws hold" in result.stdout


def test_custom_metric_is_what_its_formula_says(load):
    rng = np.random.default_rng(0)
    p, w = rng.random(500).astype(np.float32), rng.integers(0, 4, 500).astype(np.float32)
    y = rng.random(500) < 0.3
    metric = load("custom_metric").expected_calibration_error(bins=8)
    values = metric.compute(metric.update(metric.init(), rm.make_batch(p, y, w)))
    residuals = w.astype(float) * (p.astype(float) - y)
    errors = [abs(residuals[np.floor(p * 8) == b].sum()) for b in range(8)]
    np.testing.assert_allclose(values["lifetime_ece"], [sum(errors) / w.sum()], rtol=1e-6)


def test_migration_prints_the_values_of_each_package_that_is_there(tmp_path):
    result = run("migrate_from_torchrec.py", "--data", write(tmp_path, ratings()))
    assert result.returncode == 0, result.stderr
    packages = result.stdout.splitlines()[0].split()
    assert packages[-1] == "recmetrics_jax.adapter"
    rows = {row[:40].strip(): row[40:].split() for row in result.stdout.splitlines()[1:]}
    seconds = ("seconds, the first time", "seconds, again")
    for key in ("ne-like|window_ne", "auc-like|window_auc", "ndcg-like|lifetime_ndcg", *seconds):
        assert len(rows[key]) == len(packages), key
    assert float(rows["ctr-like|lifetime_ctr"][-1]) == pytest.approx(
        np.mean(ratings()[np.argsort(ratings()[:, 3])][:3000, 2] >= 4)
    )
    assert 0.5 < float(rows["auc-like|window_auc"][-1]) < 1
