"""Metrics of recommendation models as pure JAX functions.

import recmetrics_jax as rm

metrics = rm.collection({"ne": rm.ne(window=10_000), "calibration": rm.calibration()})
state = metrics.init()
state = metrics.update(state, rm.make_batch(predictions, labels, weights))
values = metrics.compute(state)
"""

import importlib
from typing import TYPE_CHECKING, Any

from recmetrics_jax import ops, testing
from recmetrics_jax._src.accumulators import all_merge
from recmetrics_jax._src.adopt import Adopted, adopt
from recmetrics_jax._src.base import Batch
from recmetrics_jax._src.batch import bucket_size, make_batch, make_padded_batch
from recmetrics_jax._src.build import collection, sample_metric, sum_metric
from recmetrics_jax._src.decaying import decayed
from recmetrics_jax._src.describe import Description, describe, scalars
from recmetrics_jax._src.keys import Keys, keys_of
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.metrics.amounts import mape, msle, smape
from recmetrics_jax._src.metrics.area import auc, auprc
from recmetrics_jax._src.metrics.binned import binned_auc, binned_auprc
from recmetrics_jax._src.metrics.brier import brier
from recmetrics_jax._src.metrics.catalogue import rank_metrics
from recmetrics_jax._src.metrics.classification import accuracy, precision, recall
from recmetrics_jax._src.metrics.counts import (
    examples,
    missing_labels,
    nonfinite_examples,
    out_of_domain_examples,
)
from recmetrics_jax._src.metrics.curve_points import pr_curve, roc_curve
from recmetrics_jax._src.metrics.entropy import ne, unweighted_ne
from recmetrics_jax._src.metrics.f_beta import f_beta
from recmetrics_jax._src.metrics.field_calibration import field_calibration_error
from recmetrics_jax._src.metrics.latest import scalar
from recmetrics_jax._src.metrics.multiclass import multiclass_recall
from recmetrics_jax._src.metrics.operating_points import precision_at_recall, recall_at_precision
from recmetrics_jax._src.metrics.pairwise import rauc, xauc
from recmetrics_jax._src.metrics.quantiles import pinball_loss
from recmetrics_jax._src.metrics.ranking import ndcg
from recmetrics_jax._src.metrics.ranks import average_precision, mrr
from recmetrics_jax._src.metrics.rates import average, calibration, ctr, weighted_avg
from recmetrics_jax._src.metrics.recommended import recommended_items
from recmetrics_jax._src.metrics.regression import mae, mse, r_squared
from recmetrics_jax._src.metrics.relative import bias, nmse
from recmetrics_jax._src.metrics.reliability import ece, reliability
from recmetrics_jax._src.metrics.retrieval import hit_rate, precision_at, recall_at
from recmetrics_jax._src.metrics.session_pairs import pairwise_auc, session_auc
from recmetrics_jax._src.metrics.weights import effective_sample_size, positives, sum_weights
from recmetrics_jax._src.numerics import safe_divide
from recmetrics_jax._src.ranked import make_rank_batch, make_topk_batch
from recmetrics_jax._src.refining import ranges_to_refine
from recmetrics_jax._src.resampling import bootstrap, compare, stack_models
from recmetrics_jax._src.sampled import Sampled
from recmetrics_jax._src.segmenting import Segment, by_segment, segments_of, worst
from recmetrics_jax._src.terms import Term
from recmetrics_jax._src.throughput import examples_per_second

if TYPE_CHECKING:
    from recmetrics_jax.integrations import nnx

__version__ = "0.1.0"

__all__ = [
    # The contract.
    "Adopted",
    "Batch",
    "Description",
    "Keys",
    "Metric",
    "bucket_size",
    "keys_of",
    "make_batch",
    "make_padded_batch",
    "make_rank_batch",
    "make_topk_batch",
    # Building and combining.
    "Term",
    "adopt",
    "all_merge",
    "collection",
    "describe",
    "safe_divide",
    "sample_metric",
    "scalars",
    "sum_metric",
    # Any metric by segment, with confidence, with decay.
    "Segment",
    "bootstrap",
    "by_segment",
    "compare",
    "decayed",
    "segments_of",
    "stack_models",
    "worst",
    # Metrics of sums.
    "accuracy",
    "average",
    "bias",
    "brier",
    "calibration",
    "ctr",
    "ece",
    "f_beta",
    "field_calibration_error",
    "mae",
    "mape",
    "mse",
    "msle",
    "multiclass_recall",
    "ne",
    "nmse",
    "pinball_loss",
    "precision",
    "r_squared",
    "recall",
    "reliability",
    "smape",
    "unweighted_ne",
    "weighted_avg",
    # Counts, and the last value.
    "effective_sample_size",
    "examples",
    "examples_per_second",
    "missing_labels",
    "nonfinite_examples",
    "out_of_domain_examples",
    "positives",
    "scalar",
    "sum_weights",
    # Metrics of order.
    "auc",
    "auprc",
    "binned_auc",
    "binned_auprc",
    "pairwise_auc",
    "pr_curve",
    "precision_at_recall",
    "ranges_to_refine",
    "rauc",
    "recall_at_precision",
    "roc_curve",
    "session_auc",
    "xauc",
    # Metrics of catalogues.
    "Sampled",
    "rank_metrics",
    "recommended_items",
    # Metrics of sessions.
    "average_precision",
    "hit_rate",
    "mrr",
    "ndcg",
    "precision_at",
    "recall_at",
    # Metrics in the forms of other libraries.
    "nnx",
    # Laws, and toolkits for metrics of order.
    "ops",
    "testing",
]


def __getattr__(name: str) -> Any:
    """What is imported when it is used first."""
    if name == "nnx":
        return importlib.import_module("recmetrics_jax.integrations.nnx")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
