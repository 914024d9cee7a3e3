"""What to measure, as data: tasks, metrics, windows, and how the metrics of tasks are computed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from recmetrics_jax.adapter.metrics_namespace import StrValueMixin


class RecMetricEnumBase(StrValueMixin, Enum):
    """The base of enums of metrics; derive from it for metrics of your own."""


class RecMetricEnum(RecMetricEnumBase):
    """The metrics that a :class:`MetricsConfig` can ask for."""

    NE = "ne"
    NE_POSITIVE = "ne_positive"
    RECALIBRATED_NE = "recalibrated_ne"
    RECALIBRATED_CALIBRATION = "recalibrated_calibration"
    SEGMENTED_NE = "segmented_ne"
    LOG_LOSS = "log_loss"
    CTR = "ctr"
    AUC = "auc"
    AUPRC = "auprc"
    RAUC = "rauc"
    CALIBRATION = "calibration"
    MSE = "mse"
    MAE = "mae"
    MULTICLASS_RECALL = "multiclass_recall"
    RECALL_SESSION_LEVEL = "recall_session_level"
    PRECISION_SESSION_LEVEL = "precision_session_level"
    WEIGHTED_AVG = "weighted_avg"
    TOWER_QPS = "tower_qps"
    ACCURACY = "accuracy"
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
    NMSE = "nmse"
    AVERAGE = "average"
    MULTI_LABEL_PRECISION = "multi_label_precision"
    NUM_POSITIVE_SAMPLES = "num_positive_samples"
    SUM_WEIGHTS = "sum_weights"
    NUM_MISSING_LABELS = "num_missing_labels"
    WEIGHTED_SUM_PREDICTIONS = "weighted_sum_predictions"
    SESSION_PAIRWISE_AUC = "session_pairwise_auc"


@dataclass(unsafe_hash=True)
class SessionMetricDef:
    """How the metrics of sessions see a task.

    Attributes:
        session_var_name: the model output that holds the ids of sessions.
        top_threshold: the number of examples of a session, ranked by prediction, that count as
            predicted positive; None where a metric needs none.
        run_ranking_of_labels: whether labels are ranked within sessions too.
    """

    session_var_name: str
    top_threshold: int | None = None
    run_ranking_of_labels: bool = False


@dataclass(unsafe_hash=True)
class RecTaskInfo:
    """A task, and the model outputs that it is measured on.

    Attributes:
        name: the task's name in keys of results.
        label_name: the model output that holds the labels.
        prediction_name: the model output that holds the predictions; empty where there are none.
        weight_name: the model output that holds the weights; empty only if there are no
            predictions.
        session_metric_def: how the metrics of sessions see the task.
        is_negative_task: whether labels and predictions are of the opposite event.
        tensor_name: the model output that a metric of arbitrary tensors averages.
        weighted: whether that average is weighted.
    """

    name: str = "DefaultTask"
    label_name: str = "label"
    prediction_name: str = "prediction"
    weight_name: str = "weight"
    session_metric_def: SessionMetricDef | None = None
    is_negative_task: bool = False
    tensor_name: str | None = None
    weighted: bool = True


class RecComputeMode(Enum):
    """Whether tasks, and states, are computed one by one or stacked."""

    FUSED_TASKS_COMPUTATION = 1
    UNFUSED_TASKS_COMPUTATION = 2
    FUSED_TASKS_AND_STATES_COMPUTATION = 3


_DEFAULT_WINDOW_SIZE = 10_000_000
_DEFAULT_THROUGHPUT_WINDOW_SECONDS = 100
_DEFAULT_THROUGHPUT_WARMUP_STEPS = 100


@dataclass
class RecMetricDef:
    """A metric to compute.

    Attributes:
        rec_tasks: the tasks that it is computed for; empty if ``rec_task_indices`` is given.
        rec_task_indices: the same as positions in ``MetricsConfig.rec_tasks``.
        window_size: the number of examples, over all ranks, of the window.
        arguments: further arguments of the metric's constructor.
    """

    rec_tasks: list[RecTaskInfo] = field(default_factory=list)
    rec_task_indices: list[int] = field(default_factory=list)
    window_size: int = _DEFAULT_WINDOW_SIZE
    arguments: dict[str, Any] | None = None


class StateMetricEnum(StrValueMixin, Enum):
    """The components whose own values are reported along with the metrics."""

    OPTIMIZERS = "optimizers"
    MODEL_CONFIGURATOR = "model_configurator"


@dataclass
class ThroughputDef:
    """How the throughput is measured.

    Attributes:
        window_size: the seconds of the window.
        warmup_steps: the number of first steps that are not timed.
    """

    window_size: int = _DEFAULT_THROUGHPUT_WINDOW_SECONDS
    warmup_steps: int = _DEFAULT_THROUGHPUT_WARMUP_STEPS


LOSS_DENOM_SUFFIX = "_denom"
"""What is appended to the key of a loss for that of its denominator: ``click:loss_denom``."""


class LossAggregation(Enum):
    """How the losses of micro-batches become that of a step of the optimizer.

    A loss with a denominator beside it, ``click:loss_denom`` beside ``click:loss``, needs none of
    these: numerators and denominators add up.
    """

    SUM = "sum"
    """The losses are sums, and add up."""
    MERGEABLE_RATIO = "mergeable_ratio"
    """A denominator comes with every micro-batch; it is an error if one is missing."""
    NON_MERGEABLE = "non_mergeable"
    """The mean over micro-batches, though it is not that of their examples."""


@dataclass
class MetricsConfig:
    """All that a model reports.

    Attributes:
        rec_tasks: the tasks.
        rec_metrics: the metrics, at most one definition each.
        throughput_metric: how to measure the throughput; None if not at all.
        rec_compute_mode: whether tasks are computed one by one or stacked.
        fused_update_limit: the number of batches to collect before metrics see them; 0 for none.
        state_metrics: the components whose own values are reported.
        compute_interval_steps: the number of batches between two computations.
        min_compute_interval: the seconds between two computations, at least.
        max_compute_interval: the seconds between two computations, at most.
        compute_on_all_ranks: whether all ranks report, or the first only.
        should_validate_update: whether batches without a weight above zero are left out.
        enable_pt2_compile: accepted; updates are compiled by JAX anyway.
        should_clone_update_inputs: whether updates work on copies of model outputs.
        use_cpu_offloaded_rec_metric_module: whether metrics run on the host, beside the model.
        loss_aggregation: how losses of micro-batches are put together, by the keys of those that
            come without a denominator; the mean over micro-batches for others.
        num_micro_batches_per_step: the micro-batches of a step of the optimizer; if above 1, the
            module reports the losses of steps.

    Raises:
        ValueError: if an entry of a metric's ``rec_task_indices`` is not the position of a task,
            counted from the front or, below zero, from the end.

    >>> config = MetricsConfig(
    ...     rec_tasks=[RecTaskInfo(name="click"), RecTaskInfo(name="like")],
    ...     rec_metrics={RecMetricEnum.NE: RecMetricDef(rec_task_indices=[0, 1])},
    ... )
    >>> config.rec_compute_mode.name, config.compute_interval_steps
    ('UNFUSED_TASKS_COMPUTATION', 100)
    """

    rec_tasks: list[RecTaskInfo] = field(default_factory=list)
    rec_metrics: dict[RecMetricEnum, RecMetricDef] = field(default_factory=dict)
    throughput_metric: ThroughputDef | None = None
    rec_compute_mode: RecComputeMode = RecComputeMode.UNFUSED_TASKS_COMPUTATION
    fused_update_limit: int = 0
    state_metrics: list[StateMetricEnum] = field(default_factory=list)
    compute_interval_steps: int = 100
    min_compute_interval: float = 0.0
    max_compute_interval: float = float("inf")
    compute_on_all_ranks: bool = False
    should_validate_update: bool = False
    enable_pt2_compile: bool = False
    should_clone_update_inputs: bool = False
    use_cpu_offloaded_rec_metric_module: bool | None = None
    loss_aggregation: dict[str, LossAggregation] | None = None
    num_micro_batches_per_step: int = 1

    def __post_init__(self) -> None:
        n_tasks = len(self.rec_tasks)
        for metric, definition in self.rec_metrics.items():
            for index in definition.rec_task_indices:
                if not -n_tasks <= index < n_tasks:
                    raise ValueError(
                        f"rec_task_indices {index} is out of range of {n_tasks} tasks "
                        f"for metric {metric}"
                    )


DefaultTaskInfo = RecTaskInfo()

DefaultMetricsConfig = MetricsConfig(
    rec_tasks=[DefaultTaskInfo],
    rec_metrics={RecMetricEnum.NE: RecMetricDef(rec_tasks=[DefaultTaskInfo])},
    throughput_metric=ThroughputDef(),
)

EmptyMetricsConfig = MetricsConfig()


@dataclass
class BatchSizeStage:
    """A batch size, and how long it lasts.

    Attributes:
        batch_size: the number of examples of a batch on each rank.
        max_iters: the last batch, counted from the first of all, of this size; None for no end.
    """

    batch_size: int = 0
    max_iters: int | None = 0


def validate_batch_size_stages(batch_size_stages: Sequence[BatchSizeStage] | None) -> None:
    """Checks that the last stage has no end.

    Args:
        batch_size_stages: the stages in order; None or empty for a batch size that stays.

    Raises:
        ValueError: if the last stage's ``max_iters`` is not None.

    >>> validate_batch_size_stages([BatchSizeStage(256, 1000), BatchSizeStage(512, None)])
    """
    if batch_size_stages and batch_size_stages[-1].max_iters is not None:
        raise ValueError(
            "batch_size_stages: expected max_iters = None in the last stage, "
            f"got {batch_size_stages[-1].max_iters}"
        )
