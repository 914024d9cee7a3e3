"""From a configuration to metrics: the class of each, and the sources of further values."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

from recmetrics_jax.adapter._tensors import Tensor
from recmetrics_jax.adapter.accuracy import AccuracyMetric
from recmetrics_jax.adapter.auc import AUCMetric
from recmetrics_jax.adapter.auprc import AUPRCMetric
from recmetrics_jax.adapter.average import AverageMetric
from recmetrics_jax.adapter.cali_free_ne import CaliFreeNEMetric
from recmetrics_jax.adapter.calibration import CalibrationMetric
from recmetrics_jax.adapter.calibration_with_recalibration import RecalibratedCalibrationMetric
from recmetrics_jax.adapter.ctr import CTRMetric
from recmetrics_jax.adapter.hindsight_target_pr import HindsightTargetPRMetric
from recmetrics_jax.adapter.mae import MAEMetric
from recmetrics_jax.adapter.metrics_config import (
    BatchSizeStage,
    MetricsConfig,
    RecMetricEnum,
    RecMetricEnumBase,
    StateMetricEnum,
)
from recmetrics_jax.adapter.metrics_namespace import (
    MetricNamespace,
    compose_metric_namespace,
)
from recmetrics_jax.adapter.mse import MSEMetric
from recmetrics_jax.adapter.multi_label_precision import MultiLabelPrecisionMetric
from recmetrics_jax.adapter.multiclass_recall import MulticlassRecallMetric
from recmetrics_jax.adapter.ndcg import NDCGMetric
from recmetrics_jax.adapter.ne import NEMetric
from recmetrics_jax.adapter.ne_positive import NEPositiveMetric
from recmetrics_jax.adapter.ne_with_recalibration import RecalibratedNEMetric
from recmetrics_jax.adapter.nmse import NMSEMetric
from recmetrics_jax.adapter.num_missing_labels import NumMissingLabelsMetric
from recmetrics_jax.adapter.num_positive_samples import NumPositiveSamplesMetric
from recmetrics_jax.adapter.output import OutputMetric
from recmetrics_jax.adapter.precision import PrecisionMetric
from recmetrics_jax.adapter.precision_session import PrecisionSessionMetric
from recmetrics_jax.adapter.rauc import RAUCMetric
from recmetrics_jax.adapter.rec_metric import RecMetric, RecMetricList
from recmetrics_jax.adapter.recall import RecallMetric
from recmetrics_jax.adapter.recall_session import RecallSessionMetric
from recmetrics_jax.adapter.scalar import ScalarMetric
from recmetrics_jax.adapter.segmented_ne import SegmentedNEMetric
from recmetrics_jax.adapter.serving_calibration import ServingCalibrationMetric
from recmetrics_jax.adapter.serving_ne import ServingNEMetric
from recmetrics_jax.adapter.session_pairwise_auc import SessionPairwiseAUCMetric
from recmetrics_jax.adapter.sum_weights import SumWeightsMetric
from recmetrics_jax.adapter.tensor_weighted_avg import TensorWeightedAvgMetric
from recmetrics_jax.adapter.tower_qps import TowerQPSMetric
from recmetrics_jax.adapter.unweighted_ne import UnweightedNEMetric
from recmetrics_jax.adapter.weighted_avg import WeightedAvgMetric
from recmetrics_jax.adapter.weighted_sum_predictions import WeightedSumPredictionsMetric
from recmetrics_jax.adapter.xauc import XAUCMetric

MetricValue = Tensor | float

REC_METRICS_MAPPING: dict[RecMetricEnumBase, type[RecMetric]] = {
    RecMetricEnum.NE: NEMetric,
    RecMetricEnum.CALIBRATION: CalibrationMetric,
    RecMetricEnum.CTR: CTRMetric,
    RecMetricEnum.MSE: MSEMetric,
    RecMetricEnum.MAE: MAEMetric,
    RecMetricEnum.ACCURACY: AccuracyMetric,
    RecMetricEnum.PRECISION: PrecisionMetric,
    RecMetricEnum.RECALL: RecallMetric,
    RecMetricEnum.WEIGHTED_AVG: WeightedAvgMetric,
    RecMetricEnum.MULTICLASS_RECALL: MulticlassRecallMetric,
    RecMetricEnum.AUC: AUCMetric,
    RecMetricEnum.AUPRC: AUPRCMetric,
    RecMetricEnum.RAUC: RAUCMetric,
    RecMetricEnum.XAUC: XAUCMetric,
    RecMetricEnum.NDCG: NDCGMetric,
    RecMetricEnum.UNWEIGHTED_NE: UnweightedNEMetric,
    RecMetricEnum.NE_POSITIVE: NEPositiveMetric,
    RecMetricEnum.CALI_FREE_NE: CaliFreeNEMetric,
    RecMetricEnum.RECALIBRATED_NE: RecalibratedNEMetric,
    RecMetricEnum.RECALIBRATED_CALIBRATION: RecalibratedCalibrationMetric,
    RecMetricEnum.SERVING_NE: ServingNEMetric,
    RecMetricEnum.SERVING_CALIBRATION: ServingCalibrationMetric,
    RecMetricEnum.SEGMENTED_NE: SegmentedNEMetric,
    RecMetricEnum.NMSE: NMSEMetric,
    RecMetricEnum.AVERAGE: AverageMetric,
    RecMetricEnum.NUM_MISSING_LABELS: NumMissingLabelsMetric,
    RecMetricEnum.NUM_POSITIVE_SAMPLES: NumPositiveSamplesMetric,
    RecMetricEnum.SUM_WEIGHTS: SumWeightsMetric,
    RecMetricEnum.WEIGHTED_SUM_PREDICTIONS: WeightedSumPredictionsMetric,
    RecMetricEnum.MULTI_LABEL_PRECISION: MultiLabelPrecisionMetric,
    RecMetricEnum.HINDSIGHT_TARGET_PR: HindsightTargetPRMetric,
    RecMetricEnum.TENSOR_WEIGHTED_AVG: TensorWeightedAvgMetric,
    RecMetricEnum.SCALAR: ScalarMetric,
    RecMetricEnum.OUTPUT: OutputMetric,
    RecMetricEnum.RECALL_SESSION_LEVEL: RecallSessionMetric,
    RecMetricEnum.PRECISION_SESSION_LEVEL: PrecisionSessionMetric,
    RecMetricEnum.TOWER_QPS: TowerQPSMetric,
    RecMetricEnum.SESSION_PAIRWISE_AUC: SessionPairwiseAUCMetric,
}
"""The class of each metric in a `MetricsConfig`."""

STATE_METRICS_NAMESPACE_MAPPING: dict[StateMetricEnum, MetricNamespace] = {
    StateMetricEnum.OPTIMIZERS: MetricNamespace.OPTIMIZERS,
    StateMetricEnum.MODEL_CONFIGURATOR: MetricNamespace.MODEL_CONFIGURATOR,
}


class StateMetric(abc.ABC):
    """A source of further values: an optimizer's learning rate, say."""

    @abc.abstractmethod
    def get_metrics(self) -> dict[str, MetricValue]:
        """The values by name."""


def rec_metrics_of(
    config: MetricsConfig,
    world_size: int,
    my_rank: int,
    batch_size: int,
    process_group: Any,
    batch_size_stages: Sequence[BatchSizeStage] | None = None,
) -> RecMetricList:
    """The metrics of a configuration."""
    metrics = []
    for name, definition in config.rec_metrics.items():
        if bool(definition.rec_tasks) == bool(definition.rec_task_indices):
            given = "both" if definition.rec_tasks else "neither"
            raise ValueError(
                f"rec_tasks and rec_task_indices of {name}: expected one of them, got {given}"
            )
        if name not in REC_METRICS_MAPPING:
            raise ValueError(
                f"rec_metrics: expected one of {[str(known) for known in REC_METRICS_MAPPING]}, "
                f"got {name}"
            )
        tasks = definition.rec_tasks or [
            config.rec_tasks[index] for index in definition.rec_task_indices
        ]
        metrics.append(
            REC_METRICS_MAPPING[name](
                world_size=world_size,
                my_rank=my_rank,
                batch_size=batch_size,
                tasks=tasks,
                compute_mode=config.rec_compute_mode,
                window_size=definition.window_size,
                fused_update_limit=config.fused_update_limit,
                compute_on_all_ranks=config.compute_on_all_ranks,
                should_validate_update=config.should_validate_update,
                process_group=process_group,
                **{
                    **(definition.arguments or {}),
                    "enable_pt2_compile": config.enable_pt2_compile,
                    "should_clone_update_inputs": config.should_clone_update_inputs,
                    "batch_size_stages": batch_size_stages,
                },
            )
        )
    return RecMetricList(metrics)


def state_metrics_of(
    config: MetricsConfig, mapping: Mapping[StateMetricEnum, StateMetric]
) -> dict[str, StateMetric]:
    """The sources of the state metrics of a configuration, by their namespaces."""
    state_metrics = {}
    for name in config.state_metrics:
        namespace = STATE_METRICS_NAMESPACE_MAPPING.get(name)
        if namespace is None:
            raise ValueError(f"state_metrics: expected StateMetricEnum, got {name!r}")
        if name not in mapping:
            raise KeyError(f"state_metrics_mapping: expected an entry for {name!r}, got none")
        state_metrics[compose_metric_namespace(namespace, str(namespace))] = mapping[name]
    return state_metrics
