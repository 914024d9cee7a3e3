"""The examples run as a user runs them, and give what they promise."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import recmetrics_jax as rm

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def run(script, *arguments, xla_flags=""):
    """In a process of its own, without the devices and the strictness of the tests."""
    return subprocess.run(
        [sys.executable, EXAMPLES / script, *map(str, arguments)],
        env={**os.environ, "XLA_FLAGS": xla_flags},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )


@pytest.fixture
def load(monkeypatch):
    """An example as a module."""
    # The MovieLens example adds to it when it is imported; this is restored afterwards.
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])

    def load(name):
        if name == "movielens":
            for package in ("flax", "optax", "rich"):
                pytest.importorskip(package)
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


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


@pytest.mark.parametrize(
    ("xla_flags", "devices"), [("", 4), ("--xla_force_host_platform_device_count=2", 2)]
)
def test_movielens_trains_evaluates_and_agrees_with_numpy(tmp_path, xla_flags, devices):
    for package in ("flax", "optax", "rich"):
        pytest.importorskip(package)
    options = ("--epochs=2", "--batch-size=256", "--window=1000", "--print-every=5")
    folder = write(tmp_path, ratings())
    result = run("movielens.py", "--data", folder, *options, xla_flags=xla_flags)
    assert result.returncode == 0, result.stderr
    assert re.search(r"step +20 +ne \d\.\d{3} \d\.\d{3} ", result.stdout)
    # 600 ratings: the last batch is mostly padding.
    assert f"3 test batches of 256 on {devices} cpu devices" in result.stdout
    header = re.search(r"test split.*", result.stdout)
    assert header is not None
    assert "rating >= 4" in header.group()
    assert "rating == 5" in header.group()
    assert re.search(r"\bne\b\W+\d\.\d{6}\W+\d\.\d{6}\b", result.stdout)
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
    movielens = load("movielens")
    monkeypatch.setattr(movielens, "CACHE", tmp_path / "cache" / "ml-100k")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        movielens.DataError, match=r"recbole==1\.2\.1 could not be fetched from PyPI"
    ):
        movielens.load_ratings(None)
    assert not list((tmp_path / "cache").iterdir())


def test_movielens_refuses_a_file_of_something_else(tmp_path, load):
    (tmp_path / "u.data").write_text("<html>\n")
    movielens = load("movielens")
    with pytest.raises(movielens.DataError, match="does not hold user, item, rating, timestamp"):
        movielens.load_ratings(tmp_path)


def test_movielens_reads_both_layouts_oldest_first(tmp_path, load):
    movielens = load("movielens")
    rows = ratings(count=50)
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (tmp_path / "recbole").mkdir()
    path = tmp_path / "recbole" / "ml-100k.inter"
    np.savetxt(path, rows, fmt="%d", delimiter="\t", header=header, comments="")

    of_grouplens = movielens.load_ratings(write(tmp_path, rows))
    of_recbole = movielens.load_ratings(tmp_path / "recbole")
    oldest_first = rows[np.argsort(rows[:, 3])]
    np.testing.assert_array_equal(of_grouplens.ratings, oldest_first[:, 2])
    for column, ids in enumerate((of_grouplens.users, of_grouplens.items)):
        np.testing.assert_array_equal(
            np.unique(oldest_first[:, column])[ids], oldest_first[:, column]
        )
    for a, b in zip(of_grouplens, of_recbole, strict=True):
        np.testing.assert_array_equal(a, b)


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
