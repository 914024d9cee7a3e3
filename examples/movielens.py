"""MovieLens-100K: metrics in the train step, then evaluation on four devices.

    python examples/movielens.py

It shows, in this order,

- two tasks at once (is the rating at least 4, is it 5), every value one number for each task;
- a `recmetrics_jax.collection` updated inside a jitted train step with donated state, and read
  over a sliding window of examples as training goes on;
- evaluation of the newest 20% of the ratings under ``jax.shard_map`` on four virtual CPU devices
  (on the real ones where there are several), with padded batches and one ``all_merge``;
- metrics of order there: AUC, over all ratings and by user, AUPRC, and NDCG by user, with batches
  that hold whole users;
- the values of the test split against their definitions in float64 NumPy
  (``movielens_reference.py``).

Of the test ratings, 85% are by users that training has not seen: the values there show what the
items alone can tell. The defaults were chosen on the last fifth of the training split. A user
with one class of ratings only has no AUC, and is left out of ``grouped_auc``; one without a
positive rating has an NDCG of 0.

The data is the MovieLens 100K data set of GroupLens (Harper and Konstan, The MovieLens Datasets:
History and Context, ACM TiiS 5(4), 2015), as the package recbole on PyPI carries it (2 MB, kept in
.cache), or a folder of yours: ``--data ml-100k``.
"""

import argparse
import functools
import math
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# Read when JAX makes its first array. In front, so that a number set by the user, later, wins.
os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count=4 {os.environ.get('XLA_FLAGS', '')}"
)

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich
from flax import linen as nn
from movielens_data import HELP, Array, DataError, Ratings, batches, load_ratings, whole_users
from movielens_reference import largest_difference, reference_values
from rich.progress import Progress
from rich.table import Column, Table

import recmetrics_jax as rm

TASKS = {"rating >= 4": 4, "rating == 5": 5}  # the lowest rating that is a positive label

# To add a metric of sums, add it here, and to `reference_values` to have it checked.
METRICS: dict[str, Callable[..., rm.Metric]] = {
    "ne": functools.partial(rm.ne, logloss=True),
    "calibration": rm.calibration,
    "ctr": rm.ctr,
    "accuracy": rm.accuracy,
    "mse": rm.mse,
    "mae": rm.mae,
    "precision": rm.precision,
    "recall": rm.recall,
    "weighted_avg": rm.weighted_avg,
}
SHOWN_IN_TRAINING = ("ne", "calibration", "accuracy", "auc")
RANKS = 10  # that count for NDCG
TOLERANCE = 1e-6  # of the relative difference to NumPy

Apply = Callable[..., Any]  # of the model: ``apply(params, ratings)`` -> logits, ``float[T, N]``


class TrainState(NamedTuple):
    """What a train step takes, donated, and gives back."""

    params: Any
    optimizer: Any
    metrics: Any


def labels_of(ratings: Ratings) -> jax.Array:
    """``float[T, N]``: 1 where the rating is positive for the task."""
    lowest = jnp.array(list(TASKS.values()), jnp.float32)[:, None]
    return (jnp.asarray(ratings.ratings) >= lowest).astype(jnp.float32)


def training_metrics(window: int) -> rm.Metric:
    """The metrics of all tasks over a window of examples, as one."""
    n_tasks = len(TASKS)
    return rm.collection(
        {
            **{name: make(n_tasks=n_tasks, window=window) for name, make in METRICS.items()},
            # The examples themselves are kept: an update only stores them, a value sorts them.
            "auc": rm.auc(n_tasks=n_tasks, window=window),
        }
    )


def evaluation_metrics(window: int) -> rm.Metric:
    """The metrics of all tasks over all examples of the test split, as one.

    Args:
        window: at least the number of examples that one device sees.
    """
    n_tasks = len(TASKS)
    return rm.collection(
        {
            **{name: make(n_tasks=n_tasks) for name, make in METRICS.items()},
            "auc": rm.auc(n_tasks=n_tasks, window=window, grouped=True),
            "auprc": rm.auprc(n_tasks=n_tasks, window=window),
            "ndcg": rm.ndcg(n_tasks=n_tasks, k=RANKS, undefined_sessions=0.0),
        }
    )


class Factorization(nn.Module):
    """Factors of users and items, shared by the tasks; biases and a head for each task."""

    n_users: int
    n_items: int
    dimension: int = 8

    @nn.compact
    def __call__(self, ratings: Ratings) -> jax.Array:
        """The logits, ``float[T, N]``."""
        normal, zeros = nn.initializers.normal(0.3), nn.initializers.zeros
        users = nn.Embed(self.n_users, self.dimension, embedding_init=normal)(ratings.users)
        items = nn.Embed(self.n_items, self.dimension, embedding_init=normal)(ratings.items)
        user_bias = nn.Embed(self.n_users, len(TASKS), embedding_init=zeros)(ratings.users)
        item_bias = nn.Embed(self.n_items, len(TASKS), embedding_init=zeros)(ratings.items)
        return (nn.Dense(len(TASKS))(users * items) + user_bias + item_bias).T


def make_train_step(
    apply: Apply, optimizer: optax.GradientTransformation, metrics: rm.Metric
) -> Callable[[TrainState, Ratings, Array], TrainState]:
    """The train step: gradients, optimizer and metrics in one jitted function."""

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state: TrainState, ratings: Ratings, mask: Array) -> TrainState:
        labels = labels_of(ratings)

        def loss_of(params: Any) -> tuple[jax.Array, jax.Array]:
            logits = apply(params, ratings)
            losses = optax.sigmoid_binary_cross_entropy(logits, labels)
            return jnp.mean(losses, where=mask), logits

        grads, logits = jax.grad(loss_of, has_aux=True)(state.params)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        batch = rm.make_batch(jax.nn.sigmoid(logits), labels, mask=mask)
        return TrainState(
            optax.apply_updates(state.params, updates),
            optimizer_state,
            metrics.update(state.metrics, batch),
        )

    return train_step


def train(model: Factorization, ratings: Ratings, options: argparse.Namespace) -> Any:
    """Trains the model, prints windowed values on the way, and returns the parameters."""
    metrics = training_metrics(options.window)
    optimizer = optax.adamw(options.learning_rate, weight_decay=options.weight_decay)
    params = model.init(jax.random.key(options.seed), Ratings(*(x[:1] for x in ratings)))
    state = TrainState(params, optimizer.init(params), metrics.init())
    train_step = make_train_step(model.apply, optimizer, metrics)
    compute = jax.jit(metrics.compute)

    rng = np.random.default_rng(options.seed)
    count = len(ratings.users)
    steps = options.epochs * math.ceil(count / options.batch_size)
    orders = (rng.permutation(count) for _ in range(options.epochs))
    stream = (x for order in orders for x in batches(ratings, order, options.batch_size))
    with Progress() as progress:
        tracked = progress.track(stream, steps, description="training")
        for step, (batch, mask) in enumerate(tracked, start=1):
            state = train_step(state, batch, mask)
            if step % options.print_every == 0 or step == steps:
                # Only here does the host wait for the device.
                line = window_line(step, compute(state.metrics))
                progress.console.print(line, soft_wrap=True)
    return state.params


def window_line(step: int, values: Mapping[str, jax.Array]) -> str:
    """The windowed values of all tasks in one line."""
    shown = (
        f"{name} {' '.join(f'{x:.3f}' for x in values[f'{name}/window_{name}'].tolist())}"
        for name in SHOWN_IN_TRAINING
    )
    return f"step {step:5}   {'   '.join(shown)}"


def make_eval_step(apply: Apply, metrics: rm.Metric, mesh: jax.sharding.Mesh) -> Callable:
    """The step of evaluation: every device updates a state of its own with its part of a batch.

    The states of all devices are stacked on a leading axis, the mapped one.
    """
    here, everywhere = jax.P("devices"), jax.P()

    @functools.partial(jax.jit, donate_argnums=0)
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(here, everywhere, here, here),
        out_specs=(here, jax.P(None, "devices")),
    )
    def eval_step(states: Any, params: Any, ratings: Ratings, mask: Array) -> tuple[Any, Array]:
        state = jax.tree.map(lambda x: x[0], states)
        predictions = jax.nn.sigmoid(apply(params, ratings))
        labels = labels_of(ratings)
        users = ratings.users  # the groups of AUC, and the sessions of NDCG
        batch = rm.make_batch(
            predictions, labels, mask=mask, keys={"grouping_keys": users, "session_id": users}
        )
        state = metrics.update(state, batch)
        return jax.tree.map(lambda x: x[None], state), predictions

    return eval_step


def make_merged_values(metrics: rm.Metric, mesh: jax.sharding.Mesh) -> Callable:
    """The values of all devices together, from their stacked states."""

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=jax.P("devices"), out_specs=jax.P())
    def merged_values(states: Any) -> dict[str, jax.Array]:
        state = jax.tree.map(lambda x: x[0], states)
        return metrics.compute(rm.all_merge(state, "devices"))

    return merged_values


def evaluate(
    apply: Apply, params: Any, ratings: Ratings, batch_size: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Values by name, ``float[T]``, and predictions, ``float[T, N]``, of the test split."""
    # The real devices if there are several, else the virtual ones.
    devices = jax.devices() if jax.device_count() > 1 else jax.devices("cpu")
    mesh = jax.sharding.Mesh(np.array(devices), ("devices",))
    here, everywhere = (jax.NamedSharding(mesh, spec) for spec in (jax.P("devices"), jax.P()))

    # NDCG ranks what one batch, on one device, holds of a user: it must hold all of the user. Other
    # metrics take batches of any kind, so one pass over such batches does for all of them.
    parts = whole_users(ratings.users, math.ceil(batch_size / mesh.size))
    rows, size = parts.ravel(), parts.shape[1] * mesh.size
    steps = math.ceil(len(rows) / size)
    # Room for all that one device gets. `all_merge` brings the windows of all devices together, so
    # AUC, by user too, depends neither on the batches nor on the devices.
    metrics = evaluation_metrics(window=steps * parts.shape[1] * mesh.size)

    params = jax.device_put(params, everywhere)
    states = jax.tree.map(lambda x: jnp.stack([x] * mesh.size), metrics.init())
    states = jax.device_put(states, here)
    eval_step = make_eval_step(apply, metrics, mesh)
    predictions = []
    for batch, mask in batches(ratings, rows, size):
        batch, mask = jax.device_put((batch, mask), here)
        states, of_batch = eval_step(states, params, batch, mask)
        predictions.append(of_batch)
    values = make_merged_values(metrics, mesh)(states)
    print(f"{steps} test batches of {size} on {mesh.size} {devices[0].platform} devices")
    # In order of rows, padding comes first; what is left are the ratings as they were given.
    as_given = np.argsort(rows)[-len(ratings.users) :]
    return (
        {name.split("/")[-1].split("_", 1)[-1]: np.asarray(x) for name, x in values.items()},
        np.concatenate(predictions, axis=1)[:, as_given],
    )


def print_table(values: Mapping[str, np.ndarray]) -> None:
    """A row for each value, a column for each task."""
    table = Table("test split", *(Column(task, justify="right") for task in TASKS))
    for name, value in values.items():
        digits = 0 if name.endswith(("_groups", "_sessions")) else 6
        table.add_row(name, *(f"{x:.{digits}f}" for x in value))
    rich.print(table)


def difference_to_numpy(
    values: Mapping[str, np.ndarray], predictions: np.ndarray, ratings: Ratings
) -> float:
    """The largest relative difference of all values to their definitions."""
    labels = np.asarray(labels_of(ratings), np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        users = np.asarray(ratings.users)
        expected = reference_values(predictions.astype(np.float64), labels, users, RANKS)
    of_both = (np.stack([x[name] for name in expected]) for x in (values, expected))
    return largest_difference(*of_both)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="MovieLens-100K with metrics in the train step.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=pathlib.Path, help="an ml-100k folder; None: from PyPI")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the training split")
    parser.add_argument(
        "--batch-size",
        type=int,
        default=512,
        help="examples in a step; to test, enough for any user",
    )
    parser.add_argument("--window", type=int, default=10_000, help="examples in the window")
    parser.add_argument("--print-every", type=int, default=50, help="steps between prints")
    parser.add_argument("--learning-rate", type=float, default=0.02, help="of AdamW")
    parser.add_argument("--weight-decay", type=float, default=0.1, help="of AdamW")
    parser.add_argument("--seed", type=int, default=0, help="of parameters and shuffles")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    try:
        ratings = load_ratings(options.data)
    except DataError as error:
        sys.exit(f"error: {error}\n{HELP}")
    n_users, n_items = (int(ids.max()) + 1 for ids in (ratings.users, ratings.items))
    count = len(ratings.users)
    split = count - count // 5
    older, newest = (Ratings(*(x[part] for x in ratings)) for part in np.s_[:split, split:])
    print(f"{count} ratings of {n_items} items by {n_users} users, the newest {count // 5} to test")
    print(f"windows of {options.window} examples, values for {' and '.join(TASKS)}")

    model = Factorization(n_users, n_items)
    params = train(model, older, options)
    values, predictions = evaluate(model.apply, params, newest, options.batch_size)
    print_table(values)
    difference = difference_to_numpy(values, predictions, newest)
    print(f"largest relative difference to float64 NumPy: {difference:.1e}")
    # Not `>`, which would let NaN pass.
    if not difference <= TOLERANCE:
        sys.exit(f"error: expected a difference of at most {TOLERANCE}, got {difference:.1e}")


if __name__ == "__main__":
    main()
