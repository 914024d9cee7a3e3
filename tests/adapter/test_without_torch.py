"""Where torch cannot be imported, the adapter works on plain objects and NumPy arrays."""

import os
import subprocess
import sys

import pytest

NO_FINDER = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError(f"no {name} here")

sys.meta_path.insert(0, NoTorch())
"""
NONE_IN_MODULES = """
import sys

sys.modules["torch"] = None
"""
SCRIPT = """
import copy
import pickle

import numpy as np

from recmetrics_jax.adapter._tensors import NATIVE
from recmetrics_jax.adapter.auc import AUCMetric
from recmetrics_jax.adapter.metric_module import RecMetricModule, generate_metric_module
from recmetrics_jax.adapter.metrics_config import (
    DefaultTaskInfo,
    MetricsConfig,
    RecMetricDef,
    RecMetricEnum,
    ThroughputDef,
)
from recmetrics_jax.adapter.ne import NEMetric, compute_cross_entropy
from recmetrics_jax.adapter.rec_metric import RecMetricList

assert sys.modules.get("torch") is None
assert NATIVE == "numpy"

def config():
    return MetricsConfig(
        rec_tasks=[DefaultTaskInfo],
        rec_metrics={
            name: RecMetricDef(rec_tasks=[DefaultTaskInfo])
            for name in (RecMetricEnum.NE, RecMetricEnum.AUC)
        },
        throughput_metric=ThroughputDef(),
    )

def fresh():
    return generate_metric_module(RecMetricModule, config(), 4, 1, 0, {}, device="cpu")

OUTPUTS = {
    "label": np.array([1.0, 0.0, 0.0, 0.0]),
    "prediction": np.array([0.5, 0.25, 0.125, 0.75]),
    "weight": np.ones(4),
}

module = fresh()
module.update(OUTPUTS)
values = module.compute()
for key, value in values.items():
    assert isinstance(value, np.ndarray), key
ne = -np.log2([0.5, 0.75, 0.875, 0.25]).sum() / (2 + 3 * np.log2(4 / 3))
assert np.allclose(values["ne-DefaultTask|lifetime_ne"], [ne], rtol=1e-12)
assert values["auc-DefaultTask|window_auc"] == np.float32(2 / 3)
assert values["throughput-throughput|total_examples"] == 4

state = module.state_dict()
prefix = "rec_metrics.rec_metrics.0._metrics_computations.0."
assert list(state)[:4] == [
    prefix + name
    for name in ("cross_entropy_sum", "weighted_num_samples", "pos_labels", "neg_labels")
]
assert list(state)[4:] == [
    f"throughput_metric.{name}"
    for name in ("total_examples", "warmup_examples", "time_lapse_after_warmup")
]
assert all(isinstance(value, np.ndarray) for value in state.values())

restored = fresh()
restored.load_state_dict(state)
module.update(OUTPUTS)
assert state[prefix + "weighted_num_samples"] == [4.0]
assert restored.state_dict()[prefix + "weighted_num_samples"] == [4.0]
assert restored.compute()["throughput-throughput|total_examples"] == 4

def refused(bad, name):
    before = restored.state_dict()
    try:
        restored.load_state_dict(bad)
    except RuntimeError as error:
        assert name in str(error), error
    else:
        raise AssertionError(f"{name} was not refused")
    after = restored.state_dict()
    assert all(np.array_equal(after[key], before[key]) for key in before)

refused({**state, "more": np.ones(1)}, "more")
refused({**state, prefix + "pos_labels": np.ones(2)}, prefix + "pos_labels")
refused({**state, "throughput_metric.total_examples": np.ones(2)}, "total_examples")
refused({k: v for k, v in state.items() if "warmup_examples" not in k}, "warmup_examples")

for other in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
    expected = module.compute()
    assert all(np.array_equal(x, expected[key]) for key, x in other.compute().items())
    other.update(OUTPUTS)
    assert other.trained_batches == 3
    assert module.trained_batches == 2

module.sync()
module.unsync()
module.reset()
assert np.isnan(module.compute()["ne-DefaultTask|window_ne"])
assert [type(m) for m in module.rec_metrics.rec_metrics] == [NEMetric, AUCMetric]
assert isinstance(module.rec_metrics, RecMetricList)
assert module.to("cpu") is module
assert compute_cross_entropy(np.ones(1), np.array([0.5]), np.ones(1), 1e-12).tolist() == [1.0]
assert module.get_memory_usage() > 0
print("done")
"""


@pytest.mark.parametrize("prologue", [NO_FINDER, NONE_IN_MODULES], ids=["no finder", "none"])
def test_the_adapter_works_without_torch(prologue):
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", prologue + SCRIPT],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "done\n"
