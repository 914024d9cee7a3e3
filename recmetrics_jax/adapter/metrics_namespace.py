"""Names of metrics, and the keys they make up: ``ne-task|window_ne``."""

from enum import Enum
from typing import Any


class StrValueMixin:
    """Makes an enum's members print, and format, as their values."""

    def __str__(self: Any) -> str:
        return self.value


class MetricNameBase(StrValueMixin, Enum):
    """The base of enums of metric names; derive from it for names of your own."""


class MetricName(MetricNameBase):
    """What a value is called, behind the prefix of its key."""

    DEFAULT = ""

    NE = "ne"
    NE_POSITIVE = "ne_positive"
    SEGMENTED_NE = "segmented_ne"
    LOG_LOSS = "logloss"
    THROUGHPUT = "throughput"
    TOTAL_EXAMPLES = "total_examples"
    ATTEMPT_EXAMPLES = "attempt_examples"
    BATCH_SIZE = "batch_size"
    CTR = "ctr"
    CALIBRATION = "calibration"
    MSE = "mse"
    MAE = "mae"
    RMSE = "rmse"
    R_SQUARED = "r_squared"
    AUC = "auc"
    GAUC = "gauc"
    AUPRC = "auprc"
    RAUC = "rauc"
    GROUPED_AUC = "grouped_auc"
    GROUPED_AUPRC = "grouped_auprc"
    GROUPED_RAUC = "grouped_rauc"
    RECALL_SESSION_LEVEL = "recall_session_level"
    PRECISION_SESSION_LEVEL = "precision_session_level"
    MULTICLASS_RECALL = "multiclass_recall"
    MULTI_LABEL_PRECISION = "multi_label_precision"
    WEIGHTED_AVG = "weighted_avg"
    TOWER_QPS = "qps"
    ACCURACY = "accuracy"
    NDCG = "ndcg"
    XAUC = "xauc"
    SCALAR = "scalar"
    OUTPUT = "output"
    GAUC_NUM_SAMPLES = "gauc_num_samples"
    TOTAL_POSITIVE_EXAMPLES = "total_positive_examples"
    TOTAL_NEGATIVE_EXAMPLES = "total_negative_examples"
    PRECISION = "precision"
    RECALL = "recall"
    SERVING_NE = "serving_ne"
    SERVING_CALIBRATION = "serving_calibration"
    SERVING_AE_LOSS = "serving_ae_loss"
    TENSOR_WEIGHTED_AVG = "tensor_weighted_avg"
    CALI_FREE_NE = "cali_free_ne"
    UNWEIGHTED_NE = "unweighted_ne"
    HINDSIGHT_TARGET_PR = "hindsight_target_pr"
    HINDSIGHT_TARGET_PRECISION = "hindsight_target_precision"
    HINDSIGHT_TARGET_RECALL = "hindsight_target_recall"
    EFFECTIVE_SAMPLE_RATE = "effective_sample_rate"
    NMSE = "nmse"
    NRMSE = "nrmse"
    DATA_LABEL_AVERAGE = "data_label_average"
    LABEL_AVERAGE = "label_average"
    PREDICTION_AVERAGE = "prediction_average"
    NUM_POSITIVE_SAMPLES = "num_positive_samples"
    SUM_WEIGHTS = "sum_weights"
    NUM_MISSING_LABELS = "num_missing_labels"
    WEIGHTED_SUM_PREDICTIONS = "weighted_sum_predictions"
    SESSION_PAIRWISE_AUC = "session_pairwise_auc"


class MetricNamespaceBase(StrValueMixin, Enum):
    """The base of enums of namespaces; derive from it for namespaces of your own."""


class MetricNamespace(MetricNamespaceBase):
    """The metric that a key belongs to, at the head of the key."""

    DEFAULT = ""

    NE = "ne"
    NE_POSITIVE = "ne_positive"
    SEGMENTED_NE = "segmented_ne"
    RECALIBRATED_NE = "recalibrated_ne"
    RECALIBRATED_CALIBRATION = "recalibrated_calibration"
    THROUGHPUT = "throughput"
    CTR = "ctr"
    CALIBRATION = "calibration"
    MSE = "mse"
    AUC = "auc"
    GAUC = "gauc"
    AUPRC = "auprc"
    RAUC = "rauc"
    MAE = "mae"
    ACCURACY = "accuracy"
    OPTIMIZERS = "optimizers"
    MODEL_CONFIGURATOR = "model_configurator"
    MULTICLASS_RECALL = "multiclass_recall"
    MULTI_LABEL_PRECISION = "multi_label_precision"
    WEIGHTED_AVG = "weighted_avg"
    RECALL_SESSION_LEVEL = "recall_session_level"
    PRECISION_SESSION_LEVEL = "precision_session_level"
    TOWER_QPS = "qps"
    NDCG = "ndcg"
    XAUC = "xauc"
    SCALAR = "scalar"
    PRECISION = "precision"
    RECALL = "recall"
    SERVING_NE = "serving_ne"
    SERVING_CALIBRATION = "serving_calibration"
    SERVING_AE_LOSS = "serving_ae_loss"
    OUTPUT = "output"
    TENSOR_WEIGHTED_AVG = "tensor_weighted_avg"
    CALI_FREE_NE = "cali_free_ne"
    UNWEIGHTED_NE = "unweighted_ne"
    HINDSIGHT_TARGET_PR = "hindsight_target_pr"
    EFFECTIVE_RATE = "effective_rate"
    NMSE = "nmse"
    AVERAGE = "average"
    NUM_POSITIVE_SAMPLES = "num_positive_samples"
    SUM_WEIGHTS = "sum_weights"
    NUM_MISSING_LABELS = "num_missing_labels"
    WEIGHTED_SUM_PREDICTIONS = "weighted_sum_predictions"
    SESSION_PAIRWISE_AUC = "session_pairwise_auc"


class MetricPrefix(StrValueMixin, Enum):
    """What a value covers: all batches, the newest ones, or those since the last restart."""

    DEFAULT = ""
    LIFETIME = "lifetime_"
    WINDOW = "window_"
    ATTEMPT = "attempt_"


def task_wildcard_metrics_pattern(
    namespace: MetricNamespaceBase | str,
    metric_name: MetricNameBase | str,
    metric_prefix: MetricPrefix | str = MetricPrefix.DEFAULT,
) -> str:
    r"""A regular expression for the keys of a value, whatever the task.

    Args:
        namespace: the metric.
        metric_name: the value's name.
        metric_prefix: the value's prefix.

    Returns:
        ``{namespace}-.+\|{metric_prefix}{metric_name}``.

    >>> import re
    >>> pattern = task_wildcard_metrics_pattern(MetricNamespace.NE, "ne", MetricPrefix.WINDOW)
    >>> [bool(re.fullmatch(pattern, f"ne-click|{name}")) for name in ("window_ne", "lifetime_ne")]
    [True, False]
    """
    return rf"{namespace}-.+\|{metric_prefix}{metric_name}"


def compose_metric_namespace(namespace: MetricNamespaceBase | str, task_name: str) -> str:
    """The part of a key before the bar.

    Args:
        namespace: the metric.
        task_name: the task.

    Returns:
        ``{namespace}-{task_name}``.

    >>> compose_metric_namespace(MetricNamespace.NE, "click")
    'ne-click'
    """
    return f"{namespace}-{task_name}"


def compose_customized_metric_key(
    namespace: str, metric_name: str, description: str | None = None
) -> str:
    """A key of a namespace that names its task already, or has none.

    Args:
        namespace: the part before the bar.
        metric_name: the part behind it, prefix included.
        description: what to append, if anything.

    Returns:
        ``{namespace}|{metric_name}{description}``.

    >>> compose_customized_metric_key("ne-click", "window_ne", "@mobile")
    'ne-click|window_ne@mobile'
    """
    return f"{namespace}|{metric_name}{description or ''}"


def compose_metric_key(
    namespace: MetricNamespaceBase | str,
    task_name: str,
    metric_name: MetricNameBase | str,
    metric_prefix: MetricPrefix | str = MetricPrefix.DEFAULT,
    description: str | None = None,
) -> str:
    """The key under which a metric reports a value of a task.

    Args:
        namespace: the metric.
        task_name: the task; it is not escaped.
        metric_name: the value's name.
        metric_prefix: the value's prefix.
        description: what to append, if anything.

    Returns:
        ``{namespace}-{task_name}|{metric_prefix}{metric_name}{description}``.

    >>> compose_metric_key(MetricNamespace.NE, "click", MetricName.LOG_LOSS, MetricPrefix.WINDOW)
    'ne-click|window_logloss'
    """
    return compose_customized_metric_key(
        compose_metric_namespace(namespace, task_name),
        f"{metric_prefix}{metric_name}",
        description,
    )
