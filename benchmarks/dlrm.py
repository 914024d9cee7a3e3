"""A small model of click rates, its batches, and a train step that updates metrics."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

DISTINCT = 4
ROWS = np.linspace(1000, 10_000, 26).astype(int)
DENSE, DIMENSION = 13, 16

TrainState = tuple[Any, Any, Any]
"""Parameters, the state of their optimizer, and that of metrics: what a step donates."""


class Examples(NamedTuple):
    """A batch, on the device."""

    categories: jax.Array
    """``int32[N, 26]``."""
    dense: jax.Array
    """``float32[N, 13]``."""
    labels: jax.Array
    """``float32[N]``."""


class InStep(NamedTuple):
    """Metrics that a step updates."""

    state: Any
    update: Callable[[Any, jax.Array, jax.Array], Any]
    """``update(state, predictions, labels) -> state``."""


NOTHING = InStep((), lambda state, p, y: state)


class DLRM(nn.Module):
    """Embeddings of categories and of dense features, their dot products, and an MLP over these."""

    @nn.compact
    def __call__(self, categories: jax.Array, dense: jax.Array) -> jax.Array:
        """The logits, ``float32[N]``."""
        bottom = dense
        for width in (64, DIMENSION):
            bottom = nn.relu(nn.Dense(width)(bottom))
        embedded = [nn.Embed(n, DIMENSION)(categories[:, i]) for i, n in enumerate(ROWS.tolist())]
        vectors = jnp.stack([bottom, *embedded], axis=1)
        products = jnp.einsum("nid,njd->nij", vectors, vectors)
        first, second = np.triu_indices(vectors.shape[1], k=1)
        top = jnp.concatenate([bottom, products[:, first, second]], axis=1)
        for width in (256, 128):
            top = nn.relu(nn.Dense(width)(top))
        return nn.Dense(1)(top)[:, 0]


def batches_of(size: int) -> list[Examples]:
    """A few batches."""
    rng = np.random.default_rng(0)
    return [
        Examples(
            jnp.asarray(rng.integers(0, ROWS, (size, len(ROWS))), jnp.int32),
            jnp.asarray(rng.normal(size=(size, DENSE)), jnp.float32),
            jnp.asarray(rng.random(size) < 0.3, jnp.float32),
        )
        for _ in range(DISTINCT)
    ]


def training(metrics: InStep, *, returns_predictions: bool = False) -> tuple[Any, TrainState]:
    """A jitted train step with metrics, and the state that it starts from."""
    model = DLRM()
    optimizer = optax.adam(1e-5)  # Slow, so that predictions stay spread out.

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, examples: Examples) -> tuple[TrainState, jax.Array | None]:
        params, optimizer_state, metrics_state = state

        def loss_of(params: Any) -> tuple[jax.Array, jax.Array]:
            logits: Any = model.apply(params, examples.categories, examples.dense)
            return optax.sigmoid_binary_cross_entropy(logits, examples.labels).mean(), logits

        grads, logits = jax.grad(loss_of, has_aux=True)(params)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
        params, p = optax.apply_updates(params, updates), jax.nn.sigmoid(logits)
        metrics_state = metrics.update(metrics_state, p, examples.labels)
        return (params, optimizer_state, metrics_state), p if returns_predictions else None

    params = jax.jit(model.init)(jax.random.key(0), *batches_of(1)[0][:2])
    # A copy, since the state is donated.
    return step, (params, optimizer.init(params), jax.tree.map(jnp.array, metrics.state))
