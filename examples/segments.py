"""MovieLens-100K: where is a model bad, and is another one better, or is it chance?

    python examples/segments.py

Two models predict whether a user rates a film at least 4: one by what others gave the film, the
other by what the user gave other films, too. Both are evaluated on the newest fifth of the ratings
of each user, as two tasks, in one pass:

- NE and calibration by segment of the users' activity, with 95% intervals. All ratings of a user
  are drawn together, since they are not independent;
- the segments that lose most (`recmetrics_jax.worst`);
- the difference of the models, over all and by segment, with intervals and p-values from the same
  replicates for both, so that what is hard for both cancels;
- the values against their definitions in float64 NumPy.

The data is that of ``movielens.py``.
"""

import argparse
import functools
import itertools
import pathlib
import sys
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
import rich
from movielens_data import HELP, DataError, Ratings, batches, load_ratings
from movielens_reference import largest_difference
from rich.table import Column, Table

import recmetrics_jax as rm

LIKED = 4  # stars and more
MODELS = ("films", "films and users")
EDGES = (0, 20, 50, 100, 200)  # ratings of a user that were trained on, from here on
PRIOR = 10.0  # ratings at the average that each film and user starts from
BATCH_SIZE = 1024
TOLERANCE = 1e-6  # of the relative difference to NumPy


class Examples(NamedTuple):
    """Ratings to test on, ``[N]``."""

    predictions: np.ndarray
    """``float32[M, N]``."""
    labels: np.ndarray
    users: np.ndarray
    activity: np.ndarray
    """The segment of the user."""


def split(ratings: Ratings) -> tuple[Ratings, Ratings]:
    """The ratings of each user but for the newest fifth, and those."""
    by_user = np.argsort(ratings.users, kind="stable")
    counts = np.bincount(ratings.users)
    place = np.arange(len(by_user)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_new = np.zeros(len(by_user), bool)
    is_new[by_user] = place >= np.repeat(counts - counts // 5, counts)
    older, newer = (Ratings(*(np.asarray(x)[rows] for x in ratings)) for rows in (~is_new, is_new))
    return older, newer


def log_odds(ids: np.ndarray, likes: np.ndarray, size: int) -> np.ndarray:
    """The log odds that what has an id is liked, beside the average, drawn towards it."""
    average = likes.mean()
    liked, seen = (np.bincount(ids, weights, size) for weights in (likes, np.ones_like(likes)))
    rate = (liked + PRIOR * average) / (seen + PRIOR)
    return np.log(rate / (1 - rate)) - np.log(average / (1 - average))


def examples_of(ratings: Ratings) -> Examples:
    """Trains the models, and predicts."""
    older, newer = split(ratings)
    n_users, n_items = (int(np.max(ids)) + 1 for ids in (ratings.users, ratings.items))
    likes = (np.asarray(older.ratings) >= LIKED).astype(float)
    base = np.log(likes.mean() / (1 - likes.mean()))
    of_films = base + log_odds(np.asarray(older.items), likes, n_items)[newer.items]
    of_users = log_odds(np.asarray(older.users), likes, n_users)[newer.users]
    logits = np.stack([of_films, of_films + of_users])
    trained = np.bincount(older.users, minlength=n_users)[newer.users]
    return Examples(
        (1 / (1 + np.exp(-logits))).astype(np.float32),
        np.asarray(newer.ratings) >= LIKED,
        np.asarray(newer.users),
        np.searchsorted(EDGES, trained, side="right") - 1,
    )


def metrics() -> rm.Metric:
    """All that is asked, of two models as two tasks."""
    n_tasks = len(MODELS)
    plain = rm.collection(
        {"ne": rm.ne(logloss=True, n_tasks=n_tasks), "calibration": rm.calibration(n_tasks=n_tasks)}
    )
    by_activity = functools.partial(rm.by_segment, key="activity", segments=len(EDGES))
    compared = rm.compare(plain, key="user")
    return rm.collection(
        {
            "all": compared,
            "by_activity": by_activity(rm.bootstrap(plain, key="user")),
            "compared": by_activity(compared),
        }
    )


def evaluate(examples: Examples) -> Mapping[str, np.ndarray]:
    """The values of all metrics, from one pass over the examples."""
    metric = metrics()

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: rm.Metric, part: Examples, mask: np.ndarray) -> rm.Metric:
        keys = {"user": part.users, "activity": part.activity}
        batch = rm.make_batch(part.predictions.T, part.labels, mask=mask, keys=keys)
        return metric.update(state, batch)

    state = metric.init()
    by_row = examples._replace(predictions=examples.predictions.T)
    for part, mask in batches(by_row, np.arange(len(examples.labels)), BATCH_SIZE):
        state = step(state, part, mask)
    return jax.device_get(metric.compute(state))


def interval(values: Mapping[str, np.ndarray], name: str, *place: int) -> str:
    """A value with its interval."""
    value, low, high = (values[f"{name}{end}"][place] for end in ("", "_low", "_high"))
    return f"{value:.4f}  [{low:.4f}, {high:.4f}]"


def difference(values: Mapping[str, np.ndarray], prefix: str, *place: int) -> tuple[str, str]:
    """How the second model differs from the first, and how likely that is by chance."""
    shown = interval(values, f"{prefix}lifetime_ne_difference", *place)
    return shown, f"{values[f'{prefix}lifetime_ne_p_value'][place]:.2g}"


def print_tables(values: Mapping[str, np.ndarray], examples: Examples) -> None:
    """What was found, by segment."""
    right = functools.partial(Column, justify="right")
    columns = ("ratings trained on", right("users"), right("tested"), right("NE"))
    table = Table(*columns, right("calibration"), title=f"{MODELS[1]}, by activity of users")
    names = [f"{low} to {high - 1}" for low, high in itertools.pairwise(EDGES)]
    names.append(f"{EDGES[-1]} and more")
    for g, name in enumerate(names):
        users = len(np.unique(examples.users[examples.activity == g]))
        weight = values["by_activity/lifetime_activity_weight"][1, g]
        of_values = (
            interval(values, f"by_activity/{value}/lifetime_{value}", 1, g)
            for value in ("ne", "calibration")
        )
        table.add_row(name, str(users), f"{weight:.0f}", *of_values)
    rich.print(table)
    for segment in rm.worst(values, "by_activity/ne/lifetime_ne", key="activity", task=1, count=2):
        print(
            f"users of {names[segment.segment]} ratings have {segment.share:.1%} of the cross "
            f"entropy, {segment.excess:+.0f} bits beyond the NE of all"
        )
    title = f"NE of {MODELS[1]}, less that of {MODELS[0]}"
    table = Table("ratings trained on", right("difference"), right("p-value"), title=title)
    for g, name in enumerate(names):
        table.add_row(name, *difference(values, "compared/ne/", 1, g))
    table.add_row("all", *difference(values, "all/ne/", 1))
    rich.print(table)


def reference(examples: Examples) -> np.ndarray:
    """NE and calibration of each model and segment, by their definitions."""
    rows = []
    for p in examples.predictions.astype(np.float64):
        for g in range(len(EDGES)):
            of = examples.activity == g
            y, q = examples.labels[of].astype(float), p[of]
            rate = y.sum() / len(y) if len(y) else np.nan
            loss = -np.sum(y * np.log(q) + (1 - y) * np.log(1 - q)) / max(len(y), 1)
            entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
            rows.append((loss / entropy, q.sum() / y.sum()))
    return np.array(rows).reshape(len(MODELS), len(EDGES), 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Segments, intervals and comparisons on MovieLens-100K."
    )
    parser.add_argument("--data", type=pathlib.Path, help="an ml-100k folder; else from PyPI")
    try:
        ratings = load_ratings(parser.parse_args().data)
    except DataError as error:
        sys.exit(f"error: {error}\n{HELP}")
    examples = examples_of(ratings)
    values = evaluate(examples)
    print_tables(values, examples)
    of_values = [values[f"by_activity/{x}/lifetime_{x}"] for x in ("ne", "calibration")]
    with np.errstate(divide="ignore", invalid="ignore"):  # Of a segment without ratings.
        wanted = reference(examples)
    largest = largest_difference(np.stack(of_values, axis=-1), wanted)
    print(f"largest relative difference to float64 NumPy: {largest:.1e}")
    if not largest <= TOLERANCE:
        sys.exit(f"error: expected a difference of at most {TOLERANCE}, got {largest:.1e}")


if __name__ == "__main__":
    main()
