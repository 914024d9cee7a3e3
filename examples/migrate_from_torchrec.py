"""One script, two packages: torchrec's metrics of a model on MovieLens, and the adapter's.

Run ``python examples/migrate_from_torchrec.py``. The names that are imported are the same, and so
is all that is done with them. Without torchrec only the adapter runs; without torch, on NumPy.

The model scores how well liked an item and a user have been so far; like is a rating of 4 or 5.
"""

import argparse
import importlib
import importlib.util
import pathlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from movielens_data import DataError, Ratings, load_ratings

PACKAGES = ("torchrec.metrics", "recmetrics_jax.adapter")
BATCH_SIZE = 1_000
WINDOW = 20_000
PRIOR = 2.0  # likes and dislikes that every user and item begins with


def model_outputs(ratings: Ratings) -> Iterator[dict[str, np.ndarray]]:
    """What the model gives for each batch, oldest first: it has seen the batches before."""
    rng = np.random.default_rng(0)
    users, items, stars = (np.asarray(x) for x in ratings)
    likes = (stars >= 4).astype(np.float32)
    seen = {"user": np.zeros((users.max() + 1, 2)), "item": np.zeros((items.max() + 1, 2))}
    for start in range(0, len(users) - BATCH_SIZE + 1, BATCH_SIZE):
        rows = slice(start, start + BATCH_SIZE)
        # A little noise, as the scores of a real model are hardly ever equal.
        logits = rng.normal(scale=0.01, size=BATCH_SIZE)
        for counts, index in (seen["user"], users[rows]), (seen["item"], items[rows]):
            liked, disliked = (counts[index] + PRIOR).T
            logits += np.log(liked / disliked)
            np.add.at(counts, (index, 1 - likes[rows].astype(int)), 1)
        yield {
            "prediction": (1 / (1 + np.exp(-logits))).astype(np.float32),
            "label": likes[rows],
            "weight": np.ones(BATCH_SIZE, np.float32),
            "session_id": users[rows].astype(np.int64),
        }


def metrics_of(package: str) -> Any:
    """The same RecMetricModule of one package or the other."""
    config: Any = importlib.import_module(f"{package}.metrics_config")
    module: Any = importlib.import_module(f"{package}.metric_module")
    tasks = [config.RecTaskInfo(name="like")]

    def metric(**arguments: Any) -> Any:
        return config.RecMetricDef(rec_tasks=tasks, window_size=WINDOW, arguments=arguments)

    return module.generate_metric_module(
        module.RecMetricModule,
        metrics_config=config.MetricsConfig(
            rec_tasks=tasks,
            rec_metrics={
                config.RecMetricEnum.NE: metric(include_logloss=True),
                config.RecMetricEnum.CALIBRATION: metric(),
                config.RecMetricEnum.CTR: metric(),
                config.RecMetricEnum.AUC: metric(),
                config.RecMetricEnum.NDCG: metric(k=10, report_ndcg_as_decreasing_curve=False),
            },
            throughput_metric=config.ThroughputDef(warmup_steps=10),
        ),
        batch_size=BATCH_SIZE,
        world_size=1,
        my_rank=0,
        state_metrics_mapping={},
        device="cpu",
    )


def run(
    package: str, batches: list[dict[str, np.ndarray]], tensor: Callable[[Any], Any]
) -> tuple[dict[str, float], list[float]]:
    """The values of a package after all batches, and the seconds that takes, at first and again."""
    outputs = [{name: tensor(array) for name, array in batch.items()} for batch in batches]
    values: dict[str, Any] = {}
    seconds = []
    for _ in range(2):  # The first time, functions are compiled.
        metrics = metrics_of(package)
        start = time.perf_counter()
        for batch in outputs:
            metrics.update(batch)
            if metrics.should_compute():
                metrics.compute()
        values = metrics.compute()
        seconds.append(time.perf_counter() - start)
    return {key: value.item() for key, value in values.items()}, seconds


def main() -> None:
    """Prints the values of both packages side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, help="the folder of MovieLens 100K")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # torchrec's imports
    try:
        batches = list(model_outputs(load_ratings(arguments.data)))
    except DataError as error:
        sys.exit(f"{parser.prog}: {error}")
    has_torch = importlib.util.find_spec("torch") is not None
    tensor = importlib.import_module("torch").from_numpy if has_torch else np.asarray
    packages = [p for p in PACKAGES if importlib.util.find_spec(p.split(".")[0]) is not None]
    results = {package: run(package, batches, tensor) for package in packages}
    print(f"{'':40}" + "".join(f"{package:>26}" for package in packages))
    for key in results[packages[-1]][0]:
        columns = "".join(f"{results[package][0][key]:26.10f}" for package in packages)
        print(f"{key:40}{columns}")
    for i, when in enumerate(("the first time", "again")):
        row = "".join(f"{results[package][1][i]:26.3f}" for package in packages)
        print(f"{'seconds, ' + when:40}{row}")
    if len(packages) == 1:
        print("torchrec is not installed: the adapter alone.")


if __name__ == "__main__":
    main()
