"""Losses of the micro-batches of a step: the loss of the batch that they are parts of."""

import logging
from typing import Any

import numpy as np
import pytest
from adapter_cases import KINDS, LABELS, PREDICTIONS, WEIGHTS, every_kind, needs_torch
from test_modules import OUTPUTS, config_of, generated

from recmetrics_jax.adapter._tensors import as_kind, kind_of, to_numpy, torch
from recmetrics_jax.adapter.metric_module import LossAggregationScope, RecMetricModule
from recmetrics_jax.adapter.metrics_config import LOSS_DENOM_SUFFIX, LossAggregation
from recmetrics_jax.adapter.rec_metric import RecMetricException

ERRORS = WEIGHTS * (PREDICTIONS - LABELS) ** 2
PARTS = [slice(0, 5), slice(5, 7), slice(7, 8)]  # of unlike weights
OF_BATCH = ERRORS.sum() / WEIGHTS.sum()
MEANS = [float(ERRORS[p].sum() / WEIGHTS[p].sum()) for p in PARTS]
DENOMS = [float(WEIGHTS[p].sum()) for p in PARTS]

HOW = LossAggregation
CASES: dict[str, tuple[Any, list[dict[str, float]], float]] = {
    "a mean with its denominator": (
        None,
        [{"a:loss": m, "a:loss_denom": d} for m, d in zip(MEANS, DENOMS, strict=True)],
        OF_BATCH,
    ),
    "the same, declared": (
        {"a:loss": HOW.MERGEABLE_RATIO},
        [{"a:loss": m, "a:loss_denom": d} for m, d in zip(MEANS, DENOMS, strict=True)],
        OF_BATCH,
    ),
    "by the longer name": (
        None,
        [{"a:loss": m, "a:loss:loss_denom": d} for m, d in zip(MEANS, DENOMS, strict=True)],
        OF_BATCH,
    ),
    "a sum": ({"a:loss": HOW.SUM}, [{"a:loss": float(ERRORS[p].sum())} for p in PARTS], 0.0),
    "a sum whatever it comes with": (
        {"a:loss": HOW.SUM},
        [{"a:loss": float(ERRORS[p].sum()), "a:loss_denom": 9.0} for p in PARTS],
        0.0,
    ),
    "a mean without": (None, [{"a:loss": m} for m in MEANS], float(np.mean(MEANS))),
    "a mean that is known to be one": (
        {"a:loss": HOW.NON_MERGEABLE},
        [{"a:loss": m, "a:loss_denom": d} for m, d in zip(MEANS, DENOMS, strict=True)],
        float(np.mean(MEANS)),
    ),
    "missing from a micro-batch": (None, [{"a:loss": 1.0}, {}, {"a:loss": 2.0}], 1.5),
    "empty micro-batches": (
        None,
        [{"a:loss": 3.0, "a:loss_denom": 2.0}, {"a:loss": float("nan"), "a:loss_denom": 0.0}],
        3.0,
    ),
    "nothing at all": (None, [{"a:loss": 0.0, "a:loss_denom": 0.0}] * 2, 0.0),
    "denominators below one": (
        None,
        [{"a:loss": 2.0, "a:loss_denom": 0.25}, {"a:loss": 4.0, "a:loss_denom": 0.25}],
        3.0,
    ),
}
for _name in ("a sum", "a sum whatever it comes with"):
    CASES[_name] = (*CASES[_name][:2], float(ERRORS.sum()))


def module_of(aggregation: Any = None) -> Any:
    module = RecMetricModule(8, 1, loss_aggregation=aggregation)
    module.set_under_micro_batching(True)
    return module


@every_kind
@pytest.mark.parametrize("name", CASES)
def test_losses_of_steps(name, kind):
    aggregation, micro_batches, expected = CASES[name]
    module = module_of(aggregation)
    for _ in range(2):  # Another step begins anew.
        module.reset_loss_metrics()
        for i, losses in enumerate(micro_batches):
            arrays = {k: as_kind(np.float32(x), kind) for k, x in losses.items()}
            last = i == len(micro_batches) - 1
            (module.update if last else module.update_micro_batch)(arrays)
        loss = module.compute()["a:loss"]
        assert kind_of(loss) == kind
        assert to_numpy(loss).dtype == np.float32
        np.testing.assert_allclose(to_numpy(loss), expected, rtol=1e-6)
    assert module.trained_batches == 2


def test_the_mean_of_means_is_another_number():
    assert abs(np.mean(MEANS) - OF_BATCH) > 0.01


def test_many_small_losses_are_added_up_in_float64():
    module = module_of({"loss": HOW.SUM})
    module.update({"loss": np.float32(2**24)})
    for _ in range(10):
        module.update_micro_batch({"loss": np.float32(1)})
    assert module.compute() == {"loss": 2**24 + 10}


REFUSED = {
    "a declared denominator is missing": (
        {"a:loss": HOW.MERGEABLE_RATIO},
        [{"a:loss": 1.0}],
        "a:loss_denom.*got none",
    ),
    "some have it": (
        None,
        [{"b:loss": 1.0, "a:loss": 1.0, "a:loss_denom": 2.0}, {"b:loss": 1.0, "a:loss": 1.0}],
        "a:loss_denom.*got with some",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_lacking_denominators_are_named_and_nothing_changes(name):
    aggregation, micro_batches, message = REFUSED[name]
    module = module_of(aggregation)
    for losses in micro_batches[:-1]:
        module.update_micro_batch(losses)
    before = dict(module.compute())
    with pytest.raises(RecMetricException, match=message):
        module.update(micro_batches[-1])
    assert module.compute() == before
    assert module.trained_batches == 0


def test_metrics_and_throughput_see_every_micro_batch():
    config = config_of("mse", num_micro_batches_per_step=3)
    config.loss_aggregation = {"a:loss": HOW.SUM}
    module, whole = generated(config), generated(config_of("mse"))
    for part in PARTS:
        outputs = {name: x[part] for name, x in OUTPUTS.items()}
        last = part == PARTS[-1]
        (module.update if last else module.update_micro_batch)({**outputs, "a:loss": 2.0})
    whole.update(OUTPUTS)
    computed, expected = module.compute(), whole.compute()
    assert computed.pop("a:loss") == 6.0
    for key, value in expected.items():
        np.testing.assert_allclose(computed[key], value, rtol=1e-12, err_msg=key)
    assert module.trained_batches == 1
    assert module.should_compute() == (module.compute_interval_steps == 1)


def test_steps_of_one_batch_report_no_losses():
    module = RecMetricModule(8, 1)
    assert module.loss_aggregation_scope is LossAggregationScope.PER_READER_BATCH
    module.update({"a:loss": 1.0})
    assert module.compute() == {}
    with pytest.raises(RecMetricException, match="set_under_micro_batching"):
        module.update_micro_batch({"a:loss": 1.0})
    module.set_under_micro_batching(True)
    assert module.under_micro_batching
    assert module.loss_aggregation_scope is LossAggregationScope.PER_OPTIMIZER_STEP
    module.update({"a:loss": 1.0, "other": 2.0})
    assert module.compute() == {"a:loss": 1.0}
    module.set_under_micro_batching(False)
    assert module.compute() == {}


def test_means_without_denominators_are_warned_of_once(caplog):
    module = module_of({"b:loss": HOW.NON_MERGEABLE})
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            module.update({"a:loss": 1.0, "b:loss": 1.0})
    (message,) = [record.getMessage() for record in caplog.records]
    assert f"'a:loss{LOSS_DENOM_SUFFIX}'" in message
    module.set_loss_aggregation(None)
    with caplog.at_level(logging.WARNING):
        module.update({"a:loss": 1.0, "b:loss": 1.0})
    assert len(caplog.records) == 2


@needs_torch
def test_graphs_of_losses_are_not_kept():
    assert "torch" in KINDS
    module = module_of()
    loss = torch.ones((), requires_grad=True) * 2
    module.update({"a:loss": loss})
    reported = module.compute()["a:loss"]
    assert not reported.requires_grad
    reported += 5
    assert module.compute()["a:loss"] == 2
