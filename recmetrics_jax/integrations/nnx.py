"""`Metric`: a metric as an object of Flax NNX."""

from typing import Any

import jax
from flax import nnx

from recmetrics_jax._src.base import Batch, State, Values, masked
from recmetrics_jax._src.checks import check_per_example
from recmetrics_jax._src.metric import Metric as Functions


class Metric(nnx.metrics.Metric):
    """A metric as an `flax.nnx.metrics.Metric`, alone or in a `flax.nnx.MultiMetric`.

    Its state is held in variables of the type `flax.nnx.metrics.MetricState`, so it lives through
    `nnx.jit`, `nnx.split` and checkpoints as others do.

    Args:
        metric: a metric, or a collection, of this package or written by hand.
        argname: the keyword of `update` that brings the batch.

    Raises:
        ValueError: if ``metric`` is no `recmetrics_jax.Metric`, such as a factory that was not
            called.

    >>> import recmetrics_jax as rm
    >>> from flax import nnx
    >>> metrics = nnx.MultiMetric(
    ...     clicks=rm.nnx.Metric(rm.collection({"ne": rm.ne, "ctr": rm.ctr}, window=100)),
    ...     errors=rm.nnx.Metric(rm.mae()),
    ... )
    >>> metrics.update(batch=rm.make_batch([0.75, 0.5], [1, 0]))
    >>> metrics.compute()["clicks"]["ctr/window_ctr"].tolist()
    [0.5]
    >>> metrics.compute()["errors"]
    {'lifetime_mae': Array([0.375], dtype=float32)}
    """

    def __init__(self, metric: Functions, argname: str = "batch"):
        if not isinstance(metric, Functions):
            raise ValueError(
                f"metric: expected a Metric, such as rm.ne() gives, got {type(metric).__name__}"
            )
        self.metric = metric
        self.argname = argname
        leaves, self.structure = jax.tree.flatten(metric.init())
        self.variables = nnx.List([nnx.metrics.MetricState(leaf) for leaf in leaves])

    def get_state(self) -> State:
        """The state, as the functions of the metric and `recmetrics_jax.all_merge` take it."""
        return jax.tree.unflatten(self.structure, [variable[...] for variable in self.variables])

    def set_state(self, state: State) -> None:
        """Goes on from a state of the metric."""
        leaves = self.structure.flatten_up_to(state)
        for variable, leaf in zip(self.variables, leaves, strict=True):
            variable[...] = leaf

    def update(self, mask: jax.Array | None = None, **kwargs: Any) -> None:
        """Takes in a batch.

        Args:
            mask: ``bool[N]`` or ``bool[T, N]``: further examples to leave out, where it is False,
                as `flax.nnx.MultiMetric` passes it on.
            **kwargs: the batch, ``batch=rm.make_batch(...)``, or by the name given as ``argname``;
                what is meant for other metrics of a `flax.nnx.MultiMetric` is ignored.

        Raises:
            ValueError: if there is no batch, or the metric refuses it.
        """
        batch = kwargs.get(self.argname)
        if not isinstance(batch, Batch):
            raise ValueError(
                f"{self.argname}: expected a Batch, as in update({self.argname}=rm.make_batch("
                f"predictions, labels, weights)), got {type(batch).__name__}"
            )
        if mask is not None:
            check_per_example("mask", mask.shape, (batch.mask.shape[0], batch.mask.shape[1]))
            batch = masked(batch, mask)
        self.set_state(self.metric.update(self.get_state(), batch))

    def compute(self) -> Values:
        """The values by name, ``float[T]`` each."""
        return self.metric.compute(self.get_state())

    def reset(self) -> None:
        """Forgets all examples."""
        self.set_state(self.metric.init())
