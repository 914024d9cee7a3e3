"""What `retrieval.py` trains on, and what it asks of each user."""

import functools
from typing import NamedTuple

import numpy as np
from movielens_data import PADDING, Array, Ratings

import recmetrics_jax as rm

HELD_OUT = 5  # of each user, the newest
LIKED = 4  # stars and more


class Users(NamedTuple):
    """What is known and asked of ``U`` users, all of them or a batch; -1 fills up rows of items."""

    numbers: Array  # int32[U], the rows in the model
    keys: rm.Keys  # [U], their ids, of 64 bits
    targets: Array  # int32[U], the newest item
    recent: Array  # int32[U, HELD_OUT - 1], those held out before it
    seen: Array  # int32[U, E], those trained on
    liked: Array  # int32[U, HELD_OUT], the good ones of those held out
    sampled: Array  # int32[U, M], drawn of all but the target; -1 for one that the user rated


def items_of(row: Array) -> set[int]:
    """The items of a row, without what fills it up."""
    return set(row.tolist()) - {PADDING}


def without_repeats(ratings: Ratings) -> Ratings:
    """The newest rating of each user for each item."""
    n_items = int(ratings.items.max()) + 1
    newest_first = (ratings.users.astype(np.int64) * n_items + ratings.items)[::-1]
    rows = len(newest_first) - 1 - np.unique(newest_first, return_index=True)[1]
    return Ratings(*(x[np.sort(rows)] for x in ratings))


def filled(lists: list[np.ndarray]) -> np.ndarray:
    """Lists of items as rows of one length, ``int32[U, L]``."""
    size = max(1, *map(len, lists))
    pad = functools.partial(np.pad, constant_values=PADDING)
    return np.array([pad(x, (0, size - len(x))) for x in lists], np.int32)


def split(ratings: Ratings, n_sampled: int, seed: int) -> tuple[Ratings, Users]:
    """The training split, and what is asked of each user.

    Args:
        ratings: all of them, oldest first.
        n_sampled: how many items are sampled, without replacement.
        seed: of the sampling.
    """
    rng = np.random.default_rng(seed)
    of_users, items, stars = (np.asarray(x) for x in ratings)
    n_users, n_items = (int(x.max()) + 1 for x in (of_users, items))
    by_user = np.argsort(of_users, kind="stable")
    rows_of_users = np.split(by_user, np.searchsorted(of_users[by_user], range(1, n_users)))
    trained = np.ones(len(by_user), bool)
    columns: dict[str, list[np.ndarray]] = {x: [] for x in ("recent", "seen", "liked", "sampled")}
    for rows in rows_of_users:
        held_out = rows[-HELD_OUT:]
        trained[held_out] = False
        drawn = rng.choice(n_items - 1, n_sampled, replace=False)
        drawn += drawn >= items[rows[-1]]
        columns["recent"].append(items[held_out[:-1]])
        columns["seen"].append(items[rows[:-HELD_OUT]])
        columns["liked"].append(items[held_out[stars[held_out] >= LIKED]])
        columns["sampled"].append(np.where(np.isin(drawn, items[rows]), PADDING, drawn))
    numbers = np.arange(n_users, dtype=np.int32)
    users = Users(
        numbers,
        # In the loader, where ids still have all of their bits.
        rm.keys_of(numbers),
        np.array([items[rows[-1]] for rows in rows_of_users]),
        **{name: filled(lists) for name, lists in columns.items()},
    )
    return Ratings(*(x[trained] for x in ratings)), users
