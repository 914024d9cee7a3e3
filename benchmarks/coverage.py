"""How often intervals cover the truth: ``python benchmarks/coverage.py``.

Many streams of one law are drawn, as tasks of one metric, and what fraction of their 95% intervals
covers the value of a stream without end is printed. Users have a mood that all of their rows share,
so rows of one user are not independent: resampled by row, intervals are too narrow.
"""

import argparse
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

import recmetrics_jax as rm

ROWS = 8
"""Rows of a user."""
BINS = 1024


class Streams(NamedTuple):
    """Examples of streams, ``[T, N]`` each."""

    predictions: np.ndarray
    labels: np.ndarray
    users: np.ndarray
    rows: np.ndarray

    def batch(self) -> rm.Batch:
        """The examples."""
        return rm.make_batch(
            self.predictions, self.labels, keys={"user": self.users, "row": self.rows}
        )


def drawn(rng: np.random.Generator, streams: int, users: int, *, clustered: bool) -> Streams:
    """Examples of ``users`` in each of so many streams."""

    def of_users(deviation: float) -> np.ndarray:
        return np.repeat(rng.normal(0, deviation, (streams, users)), ROWS, axis=1)

    shape = (streams, users * ROWS)
    scores = rng.normal(-0.5, 0.7, shape)
    if clustered:
        scores = 0.5 * scores + of_users(0.6)
    odds = scores + of_users(1.5) * clustered
    labels = rng.random(shape) < 1 / (1 + np.exp(-odds))
    stream = np.arange(streams)[:, None]
    return Streams(
        (1 / (1 + np.exp(-scores))).astype(np.float32),
        labels,
        np.repeat(np.arange(users), ROWS) + stream * users,
        np.arange(shape[1]) + stream * shape[1],
    )


def metrics_of(streams: int, rows: int) -> rm.Metric:
    """The metrics whose intervals are tried."""
    return rm.collection(
        {
            "ne": rm.ne,
            "calibration": rm.calibration,
            "binned_auc": rm.binned_auc(bins=BINS, n_tasks=streams),
            "auc": rm.auc(window=rows, n_tasks=streams),
            "ndcg": rm.ndcg(session_key="user", n_tasks=streams),
        },
        n_tasks=streams,
    )


VALUES = {
    "ne": "ne/lifetime_ne",
    "calibration": "calibration/lifetime_calibration",
    "binned_auc": "binned_auc/lifetime_binned_auc",
    "auc": "auc/window_auc",
    "ndcg": "ndcg/lifetime_ndcg",
}


def values_of(metric: rm.Metric, streams: Streams) -> Mapping[str, np.ndarray]:
    """The values of streams."""
    return jax.device_get(metric.compute(metric.update(metric.init(), streams.batch())))


def truth(*, clustered: bool, users: int = 200_000) -> dict[str, float]:
    """The values of a stream of very many users."""
    rng = np.random.default_rng(0)
    metric = rm.collection(
        {
            "ne": rm.ne(),
            "calibration": rm.calibration(),
            "binned_auc": rm.binned_auc(bins=BINS),
            "auc": rm.binned_auc(),
            "ndcg": rm.ndcg(session_key="user"),
        }
    )
    state = metric.init()
    for _ in range(10):
        of_users = drawn(rng, 1, users // 10, clustered=clustered)
        state = metric.update(state, of_users.batch())
    values = jax.device_get(metric.compute(state))
    of_area = {"auc/window_auc": values["auc/lifetime_binned_auc"]}
    return {name: float((values | of_area)[value][0]) for name, value in VALUES.items()}


def coverage(
    true: Mapping[str, float],
    *,
    clustered: bool,
    key: str,
    interval: str,
    streams: int,
    users: int,
    replicates: int,
    seed: int = 1,
) -> dict[str, float]:
    """What fraction of the intervals of streams covers the truth, by metric."""
    of_streams = drawn(np.random.default_rng(seed), streams, users, clustered=clustered)
    metric = rm.bootstrap(
        metrics_of(streams, users * ROWS),
        key=key,
        replicates=replicates,
        interval="t" if interval == "t" else "percentile",
    )
    values = values_of(metric, of_streams)
    return {
        name: float(
            np.mean((values[f"{x}_low"] <= true[name]) & (true[name] <= values[f"{x}_high"]))
        )
        for name, x in VALUES.items()
    }


def main() -> None:
    """Prints a table of coverage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=200, help="in one run")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--users", type=int, default=60)
    parser.add_argument("--replicates", type=int, default=200)
    options = parser.parse_args()
    print(f"| rows | drawn by | interval | {' | '.join(VALUES)} |")
    print(f"|{'---|' * (3 + len(VALUES))}")
    for clustered in (False, True):
        true = truth(clustered=clustered)
        for key in ("user", "row"):
            for interval in ("t", "percentile"):
                runs = [
                    coverage(
                        true,
                        clustered=clustered,
                        key=key,
                        interval=interval,
                        streams=options.streams,
                        users=options.users,
                        replicates=options.replicates,
                        seed=seed,
                    )
                    for seed in range(options.runs)
                ]
                shown = " | ".join(f"{np.mean([run[name] for run in runs]):.3f}" for name in VALUES)
                rows = "of users with moods" if clustered else "independent"
                print(f"| {rows} | {key} | {interval} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
