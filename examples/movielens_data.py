"""The MovieLens 100K ratings, and batches, for the examples that train on them."""

import pathlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import jax
import numpy as np

CACHE = pathlib.Path(__file__).resolve().parent.parent / ".cache" / "ml-100k"
PACKAGE = "recbole==1.2.1"
FOLDER_IN_PACKAGE = "recbole/dataset_example/ml-100k/"
HEADER_LINES = {"u.data": 0, "ml-100k.inter": 1}  # by file name, of GroupLens and of recbole
HELP = (
    "Get https://files.grouplens.org/datasets/movielens/ml-100k.zip, unzip it, and name the "
    "folder: --data ml-100k"
)
PADDING = -1  # in the place of a row's number

Array = np.ndarray | jax.Array
Examples = TypeVar("Examples")


class DataError(Exception):
    """There is no data to be had."""


class Ratings(NamedTuple):
    """``N`` ratings: all of them, oldest first, or a batch."""

    users: Array  # int32[N], from 0
    items: Array  # int32[N], from 0
    ratings: Array  # float32[N], 1 to 5


def load_ratings(folder: pathlib.Path | None) -> Ratings:
    """All ratings, oldest first: of a folder, or else of the cache, filled from PyPI.

    Raises:
        DataError: if there are none.
    """
    if folder is None:
        folder = CACHE
        if not folder.exists():
            download(folder)
    path = next((folder / name for name in HEADER_LINES if (folder / name).is_file()), None)
    if path is None:
        raise DataError(f"no {' or '.join(HEADER_LINES)} in {folder}")
    try:
        users, items, ratings, times = np.loadtxt(
            path, delimiter="\t", skiprows=HEADER_LINES[path.name], usecols=range(4), unpack=True
        )
        if not len(times):
            raise ValueError("it is empty")
    except ValueError as error:
        raise DataError(f"{path} does not hold user, item, rating, timestamp: {error}") from error
    oldest_first = np.argsort(times, kind="stable")
    users, items = (np.unique(ids, return_inverse=True)[1] for ids in (users, items))
    return Ratings(
        users[oldest_first].astype(np.int32),
        items[oldest_first].astype(np.int32),
        ratings[oldest_first].astype(np.float32),
    )


def download(folder: pathlib.Path) -> None:
    """Fetches the package that carries the data, without installing it, and keeps the data."""
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--retries=1"]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            command = [*pip, "--no-deps", "--only-binary=:all:", f"--dest={scratch}", PACKAGE]
            subprocess.run(command, check=True, capture_output=True, text=True)
            (wheel,) = pathlib.Path(scratch).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                names = [n for n in archive.namelist() if n.startswith(FOLDER_IN_PACKAGE)]
                archive.extractall(scratch, names)
            # In one move: an interrupted run leaves nothing half written behind.
            pathlib.Path(scratch, FOLDER_IN_PACKAGE).rename(folder)
    except (OSError, subprocess.CalledProcessError, zipfile.BadZipFile) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        raise DataError(f"{PACKAGE} could not be fetched from PyPI: {reason}") from error


def batches(
    examples: Examples, rows: np.ndarray, size: int
) -> Iterator[tuple[Examples, np.ndarray]]:
    """Batches of one size, of the examples in ``rows``, with their masks, ``bool[N]``.

    Examples are a tree of arrays, such as `Ratings`. A mask is False at `PADDING`, which may stand
    among the rows, and fills the last batch.
    """
    for start in range(0, len(rows), size):
        of_batch = rows[start : start + size]
        of_batch = np.pad(of_batch, (0, size - len(of_batch)), constant_values=PADDING)
        yield jax.tree.map(lambda x, at=of_batch: x[at], examples), of_batch != PADDING


def whole_users(users: Array, size: int) -> np.ndarray:
    """The rows in parts, each of which holds all rows of its users, ``int[parts, size]``.

    Parts are larger than ``size`` if one user has more rows. What a part lacks is `PADDING`; large
    users come first, each in the first part with room, so that it is little.
    """
    users = np.asarray(users)
    by_user = np.argsort(users, kind="stable")
    rows_of_users = np.split(by_user, np.flatnonzero(np.diff(users[by_user])) + 1)
    size = max(size, *map(len, rows_of_users))
    parts: list[list[int]] = []
    for rows in sorted(rows_of_users, key=len, reverse=True):
        part = next((part for part in parts if len(part) + len(rows) <= size), None)
        if part is None:
            parts.append(part := [])
        part.extend(rows.tolist())
    return np.array([part + [PADDING] * (size - len(part)) for part in parts])
