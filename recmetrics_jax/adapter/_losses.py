"""The losses of the micro-batches that make one step of an optimizer, as one loss by key."""

import enum
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from recmetrics_jax.adapter._module import Module, RecMetricException
from recmetrics_jax.adapter._tensors import Kind, Tensor, from_numpy, kind_of, to_numpy, torch
from recmetrics_jax.adapter.metrics_config import LOSS_DENOM_SUFFIX, LossAggregation

logger: logging.Logger = logging.getLogger(__name__)

LOSS = "loss"


class LossSum(NamedTuple):
    """What the micro-batches of a step have told of a loss."""

    numerator: Any
    """The sum of losses, of means each times its denominator; float64."""
    denominator: Any
    """The sum of denominators; None where none are told."""
    batches: int
    """The micro-batches that told of it."""
    kind: Kind
    dtype: Any
    """Of the losses as they came in."""

    def value(self, how: LossAggregation | None) -> Tensor:
        """The loss of the step, of the kind and dtype of the losses of micro-batches."""
        value = self.numerator
        if self.denominator is not None:
            empty = self.denominator <= 0
            value = value / (self.denominator + empty)
        elif how is not LossAggregation.SUM:
            value = value / self.batches
        if self.kind == "torch":
            return value.to(self.dtype, copy=True)
        return from_numpy(np.array(value, self.dtype), self.kind)


class Losses:
    """The losses of the micro-batches of a step, by key.

    A loss that is a mean over ``d_i`` examples, or weights, is that of the step as::

        sum of l_i d_i / sum of d_i

    which the mean of the ``l_i`` is only where all ``d_i`` are equal.

    Args:
        aggregation: how losses are put together that do not say it by a denominator.
    """

    def __init__(self, aggregation: Mapping[str, LossAggregation] | None = None) -> None:
        self.aggregation = dict(aggregation or {})
        self._sums: dict[str, LossSum] = {}
        self._named: set[str] = set()

    def reset(self) -> None:
        """Forgets the micro-batches, at the start of a step."""
        self._sums = {}

    def added(self, model_out: Mapping[str, Any]) -> dict[str, LossSum]:
        """The sums with a micro-batch added, for `take`; nothing changes here.

        Raises:
            RecMetricException: if a loss lacks its denominator, always or this time.
        """
        keys = [key for key in model_out if key == LOSS or key.endswith(f":{LOSS}")]
        return {key: self._added(key, model_out) for key in keys}

    def take(self, sums: Mapping[str, LossSum]) -> None:
        """Takes over what `added` gave."""
        for key, of_key in sums.items():
            is_mean = of_key.denominator is None and key not in self.aggregation
            if is_mean and key not in self._named:
                self._named.add(key)
                logger.warning(
                    "Loss %r comes without %r: the mean over micro-batches is reported, which is "
                    "exact only if these have equal weights. Give the denominators, or name the "
                    "loss in MetricsConfig.loss_aggregation.",
                    *(key, key + LOSS_DENOM_SUFFIX),
                )
        self._sums = {**self._sums, **sums}

    def values(self) -> dict[str, Tensor]:
        """The losses of the step so far, by key."""
        return {key: of_key.value(self.aggregation.get(key)) for key, of_key in self._sums.items()}

    def _added(self, key: str, model_out: Mapping[str, Any]) -> LossSum:
        how, loss = self.aggregation.get(key), model_out[key]
        numerator, denominator = _wide(loss), self._denominator(key, model_out)
        before = self._sums.get(key)
        if before is not None and (before.denominator is None) != (denominator is None):
            raise RecMetricException(
                f"{key}{LOSS_DENOM_SUFFIX}: expected with all micro-batches of a step or with "
                "none, got with some"
            )
        if how is LossAggregation.MERGEABLE_RATIO and denominator is None:
            raise RecMetricException(
                f"{key}{LOSS_DENOM_SUFFIX}: expected with every micro-batch, since the loss is "
                "declared MERGEABLE_RATIO; got none"
            )
        if denominator is not None:
            # A mean over nothing may be NaN, and counts nothing.
            numerator = _unless(denominator == 0, numerator * denominator)
        if before is None:
            kind = kind_of(loss)
            dtype = loss.dtype if hasattr(loss, "dtype") else np.float64
            return LossSum(numerator, denominator, 1, kind, dtype)
        return before._replace(
            numerator=before.numerator + numerator,
            denominator=None if denominator is None else before.denominator + denominator,
            batches=before.batches + 1,
        )

    def _denominator(self, key: str, model_out: Mapping[str, Any]) -> Any:
        if self.aggregation.get(key) in (LossAggregation.SUM, LossAggregation.NON_MERGEABLE):
            return None
        for name in (f"{key}{LOSS_DENOM_SUFFIX}", f"{key}:{LOSS}{LOSS_DENOM_SUFFIX}"):
            if model_out.get(name) is not None:
                return _wide(model_out[name])
        return None


def _wide(x: Any) -> Any:
    """A number in float64, where it is, without its graph, and copied."""
    if kind_of(x) == "torch":
        return x.detach().to(torch.float64, copy=True)
    return np.array(to_numpy(x), np.float64)


def _unless(condition: Any, x: Any) -> Any:
    """``x``, but 0 where the condition holds."""
    if kind_of(x) == "torch":
        return torch.where(condition, torch.zeros_like(x), x)
    return np.where(condition, 0.0, x)


class LossAggregationScope(enum.Enum):
    """What a loss that is reported is of."""

    PER_READER_BATCH = "per_reader_batch"
    """Of a batch: the caller reports it."""
    PER_OPTIMIZER_STEP = "per_optimizer_step"
    """Of all micro-batches of a step of the optimizer: the module reports it."""


class LossesOfSteps(Module):
    """A module that reports the losses of steps, of which each has several micro-batches.

    Once `set_under_micro_batching` has said so, a step is::

        module.reset_loss_metrics()
        for model_out in all_but_the_last:
            module.update_micro_batch(model_out)
        module.update(last)

    and the losses among the outputs, ``loss`` and ``<task>:loss``, are among the values of
    ``compute`` by the same keys. A loss that is a mean over ``d`` examples comes with
    ``<task>:loss_denom``, which is ``d``; see `Losses`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._losses = Losses()
        self._scope = LossAggregationScope.PER_READER_BATCH

    @property
    def loss_aggregation_scope(self) -> LossAggregationScope:
        """What losses that are reported are of."""
        return self._scope

    @property
    def under_micro_batching(self) -> bool:
        """Whether a step of the optimizer has several batches."""
        return self._scope is LossAggregationScope.PER_OPTIMIZER_STEP

    def set_under_micro_batching(self, value: bool) -> None:
        """Says whether a step of the optimizer has several batches."""
        scopes = LossAggregationScope
        self._scope = scopes.PER_OPTIMIZER_STEP if value else scopes.PER_READER_BATCH

    def set_loss_aggregation(self, loss_aggregation: dict[str, LossAggregation] | None) -> None:
        """Says how losses are put together, by the keys of those that have no denominator."""
        self._losses.aggregation = dict(loss_aggregation or {})

    def _configure_losses(self, config: Any) -> None:
        """Takes over what a configuration says: not as arguments, which subclasses may not take."""
        aggregation = getattr(config, "loss_aggregation", None)
        if aggregation is not None:
            self.set_loss_aggregation(aggregation)
        self.set_under_micro_batching(getattr(config, "num_micro_batches_per_step", 1) > 1)

    def reset_loss_metrics(self) -> None:
        """Forgets the losses of a step; call it before the first batch of the next."""
        self._losses.reset()

    def update_micro_batch(self, model_out: dict[str, Any], **kwargs: Any) -> None:
        """``update`` with a micro-batch that is not the last of its step, which it does not count.

        Args:
            model_out: as of ``update``; with losses.
            **kwargs: likewise.

        Raises:
            RecMetricException: if steps have one batch, as `set_under_micro_batching` says, or a
                loss lacks its denominator.
        """
        if not self.under_micro_batching:
            raise RecMetricException(
                "update_micro_batch: expected steps of several batches, got one each, whose losses "
                "nobody would report: call set_under_micro_batching(True), or update()"
            )
        self._update_all(model_out, kwargs)

    def _update_all(self, model_out: dict[str, Any], kwargs: dict[str, Any]) -> None:
        """Updates all that has a batch's outputs."""
        raise NotImplementedError

    def _losses_with(self, model_out: Mapping[str, Any]) -> dict[str, LossSum]:
        """The losses with a batch added; none where steps have one."""
        return self._losses.added(model_out) if self.under_micro_batching else {}

    def _take_losses(self, losses: Mapping[str, LossSum]) -> None:
        self._losses.take(losses)

    def _loss_values(self) -> dict[str, Tensor]:
        return self._losses.values() if self.under_micro_batching else {}
