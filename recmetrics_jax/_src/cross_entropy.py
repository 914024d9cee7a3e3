"""The cross entropy of each example, in bits: of probabilities, and of logits."""

import functools
import math

import jax
import jax.numpy as jnp

from recmetrics_jax._src import _cpu
from recmetrics_jax._src.base import Batch
from recmetrics_jax._src.terms import scores

ETA = 1e-12
"""Probabilities of classes are clamped to this, and to what it leaves to 1."""


def weighted_cross_entropy(
    labels: jax.Array, predictions: jax.Array, weights: jax.Array, eta: float = ETA
) -> jax.Array:
    """``-w (y log2 p + (1 - y) log2(1 - p))``, with p and 1 - p clamped to [eta, 1 - eta].

    The logarithms are clamped, each its own: in float32 ``1 - eta`` is 1, while the logarithm of
    it is not 0. At labels of 0 and 1 it is `_cross_entropy_of_classes`, to the last bit.
    """
    p = jnp.clip(predictions, 0.0, 1.0)
    q = 1 - p
    low, high = math.log(eta), math.log1p(-eta)
    log_p = jnp.clip(jnp.log(p), low, high)
    log_q = jnp.clip(jnp.log(q) - _dropped(p, q), low, high)
    nats = weights * (labels * log_p + (1 - labels) * log_q)
    return nats * (-1 / math.log(2))


def weighted_positive_cross_entropy(
    labels: jax.Array, predictions: jax.Array, weights: jax.Array, eta: float = ETA
) -> jax.Array:
    """``-w y log2 p``, what positives add to `weighted_cross_entropy`."""
    log_p = jnp.log(jnp.clip(predictions, 0.0, 1.0))
    nats = weights * (labels * jnp.clip(log_p, math.log(eta), math.log1p(-eta)))
    return nats * (-1 / math.log(2))


def _dropped(p: jax.Array, q: jax.Array) -> jax.Array:
    """What ``q = 1 - p`` drops of a small p, to be put back into its logarithm.

    To the first order, since it is below the last digit kept. (Of ``(q - 1) + p`` XLA would make
    nothing.)
    """
    return p - (1 - q)


def _cross_entropy_of_classes(
    labels: jax.Array, predictions: jax.Array, weights: jax.Array, eta: float
) -> jax.Array:
    """As `weighted_cross_entropy`, of labels that are 0 or 1: one logarithm in place of two."""
    p = jnp.clip(predictions, 0.0, 1.0)
    is_positive = labels == 1
    likelihood = jnp.where(is_positive, p, 1 - p)
    dropped = jnp.where(is_positive, jnp.zeros_like(p), _dropped(p, likelihood))
    log = jnp.log(likelihood) - dropped
    nats = weights * jnp.clip(log, math.log(eta), math.log1p(-eta))
    return nats * (-1 / math.log(2))


def cross_entropy_of_logits(
    labels: jax.Array, logits: jax.Array, weights: jax.Array, eta: float = ETA
) -> jax.Array:
    """`weighted_cross_entropy` of ``p = 1 / (1 + exp(-z))``, where ``log p = -log1p(exp(-z))``.

    Of z and of -z, the one is beyond 0, and ``log1p`` of an exponential below 1 keeps its digits.
    """
    low, high = math.log(eta), math.log1p(-eta)
    log_p = jnp.clip(jax.nn.log_sigmoid(logits), low, high)
    log_q = jnp.clip(jax.nn.log_sigmoid(-logits), low, high)
    nats = weights * (labels * log_p + (1 - labels) * log_q)
    return nats * (-1 / math.log(2))


def cross_entropy(batch: Batch, eta: float = ETA) -> jax.Array:
    """The weighted cross entropy of each example.

    A logarithm costs more than all the rest, so where all labels are 0 or 1 there may be but one.
    Of logits it is computed without their probabilities, which lose the digits of what is likely.
    """
    if batch.logits is not None:
        return cross_entropy_of_logits(batch.labels, batch.logits, batch.weights, eta)
    return _cpu.by_shortcut(
        lambda labels, *_: jnp.abs(labels * labels - labels),
        functools.partial(_cross_entropy_of_classes, eta=eta),
        functools.partial(weighted_cross_entropy, eta=eta),
        *(batch.labels, scores(batch), batch.weights),
    )
