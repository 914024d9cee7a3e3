"""Opt-in validation: what is no number is refused, named and counted, and no state changes."""

from typing import Any

import numpy as np
import pytest
from adapter_cases import every_kind, unchanged
from test_modules import OUTPUTS, config_of, generated

from recmetrics_jax.adapter._tensors import as_kind, kind_of
from recmetrics_jax.adapter.rec_metric import (
    RecMetricException,
    RecMetricInputPolicy,
    RecMetricValidationError,
)

NAN, INF = np.nan, np.inf


def with_numbers(name: str, *numbers: float) -> dict[str, Any]:
    """The outputs, with these numbers first in one of them."""
    changed = OUTPUTS[name].copy()
    changed[: len(numbers)] = numbers
    return {**OUTPUTS, name: changed}


CASES = {
    "labels": ("y", (NAN, NAN), "labels: expected finite numbers, got .*nan=2 .inf=0 -inf=0"),
    "predictions": ("p", (INF, -INF), "predictions: .*nan=0 .inf=1 -inf=1"),
    "weights": ("w", (NAN,), "weights: .*shape=.8. dtype=.*float64 numel=8 nan=1"),
}


@every_kind
@pytest.mark.parametrize("name", CASES)
def test_inputs_are_refused_before_any_state_changes(name, kind):
    output, numbers, message = CASES[name]
    module = generated(config_of("ctr", "mse"), debug_mode=True, my_rank=3)
    module.update(OUTPUTS)
    outputs = {n: as_kind(x, kind) for n, x in with_numbers(output, *numbers).items()}
    refused = pytest.raises(RecMetricValidationError, match=message)
    with unchanged(*module.rec_metrics.rec_metrics), refused as error:
        module.update(outputs)
    assert kind_of(outputs[output]) == kind
    assert isinstance(error.value, RecMetricException)
    text = str(error.value)
    assert text.startswith("RecMetric validation failed at input: rank=3 trained_batches=1\n")
    # Of each metric each task that has the output.
    tasks = "a" if output == "p" else "ab"
    assert text.count("metric=CTRMetric namespace=ctr task=") == len(tasks)
    assert text.count("metric=MSEMetric namespace=mse task=a") == 1
    assert module.trained_batches == 1


def test_validation_is_off_unless_asked_for():
    module = generated(config_of("ctr"))
    module.update(with_numbers("y", NAN))
    assert np.isnan(module.compute()["ctr-a|lifetime_ctr"])
    validated = generated(config_of("ctr"), debug_mode=True)
    validated._configure_debug_mode(False, 0)
    validated.update(with_numbers("y", NAN))


ALLOWED = {
    "policy": {"input_policy": RecMetricInputPolicy(allow_nan_labels=True)},
    "allowed": {"allowed_nan_inputs": frozenset({"labels"})},
    "ignored": {"ignored_input_values": frozenset({"labels"})},
}


@pytest.mark.parametrize("name", ALLOWED)
def test_metrics_say_what_they_allow(name, monkeypatch):
    module = generated(config_of("ctr"), debug_mode=True)
    (metric,) = module.rec_metrics.rec_metrics
    for attribute, value in ALLOWED[name].items():
        assert getattr(metric, attribute) in (frozenset(), RecMetricInputPolicy())
        monkeypatch.setattr(type(metric), attribute, value)
    module.update(with_numbers("y", NAN))
    if name == "ignored":
        module.update(with_numbers("y", INF))
    else:
        with pytest.raises(RecMetricValidationError, match="labels: expected no infinities"):
            module.update(with_numbers("y", INF))
    with pytest.raises(RecMetricValidationError, match="predictions"):
        module.update(with_numbers("p", NAN))


def test_whole_numbers_are_numbers():
    module = generated(config_of("ctr"), debug_mode=True)
    module.update({**OUTPUTS, "y": OUTPUTS["y"].astype(np.int64)})
    assert module.compute()["ctr-a|lifetime_ctr"] > 0


def test_missing_labels_are_what_is_counted():
    module = generated(config_of("num_missing_labels"), debug_mode=True)
    module.update(with_numbers("y", NAN))
    assert module.compute()["num_missing_labels-a|lifetime_num_missing_labels"] > 0
