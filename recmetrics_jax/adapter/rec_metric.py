"""`RecMetric`, `RecMetricComputation`, `RecMetricList`, and what they are made of.

The class API of torchrec.metrics.rec_metric. Inputs may be arrays of torch, NumPy or JAX, on the
CPU, of any real dtype; they are never modified, nor is anything of them kept by reference.
"""

from recmetrics_jax.adapter._computation import MetricComputationReport, RecMetricComputation
from recmetrics_jax.adapter._logging import EventLoggingHandler, TorchrecComponent
from recmetrics_jax.adapter._metric import RecMetric, RecModelOutput
from recmetrics_jax.adapter._metric_list import RecMetricList
from recmetrics_jax.adapter._module import RecMetricException
from recmetrics_jax.adapter._validation import RecMetricInputPolicy, RecMetricValidationError
from recmetrics_jax.adapter._window import MAX_BUFFER_COUNT, WindowBuffer
from recmetrics_jax.adapter.metrics_config import RecComputeMode, RecTaskInfo
from recmetrics_jax.adapter.metrics_namespace import (
    MetricNameBase,
    MetricNamespaceBase,
    MetricPrefix,
    compose_metric_key,
)

__all__ = [
    "MAX_BUFFER_COUNT",
    "EventLoggingHandler",
    "MetricComputationReport",
    "MetricNameBase",
    "MetricNamespaceBase",
    "MetricPrefix",
    "RecComputeMode",
    "RecMetric",
    "RecMetricComputation",
    "RecMetricException",
    "RecMetricInputPolicy",
    "RecMetricList",
    "RecMetricValidationError",
    "RecModelOutput",
    "RecTaskInfo",
    "TorchrecComponent",
    "WindowBuffer",
    "compose_metric_key",
]
