"""Each metric alone, and the same metric of other libraries: what `updates` and `computes` time."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from peers import WINDOW, Inputs, MakePeer, installed, of_jax, of_torch, of_torchrec, on_cpu
from workloads import scores

import recmetrics_jax as rm

TASKS = 8
EXAMPLES = 8192
SAMPLES = 100_000
"""The window of metrics that keep the examples themselves."""
CLASSES = 10
SESSION = 16


def plain(*shape: int) -> Inputs:
    """Scores, labels of two classes, and weights."""
    return Inputs(*scores(*shape))


def with_classes(*shape: int) -> Inputs:
    """Scores of classes."""
    rng = np.random.default_rng(1)
    predictions = rng.random((*shape, CLASSES), np.float32)
    return Inputs(
        predictions, rng.integers(0, CLASSES, shape).astype(np.float32), scores(*shape)[2]
    )


def in_sessions(tasks: int, examples: int) -> Inputs:
    """Examples in sessions."""
    sessions = np.broadcast_to(np.arange(examples) // SESSION, (tasks, examples))
    return Inputs(*scores(tasks, examples), {"session_id": sessions})


class Subject(NamedTuple):
    """A metric of this package, and its like."""

    factory: Callable[..., rm.Metric]
    options: Mapping[str, Any] = {"window": WINDOW}
    torchrec: Mapping[str, Any] | None = {}
    """Options of the reference's class, which has the subject's name; None where it has none."""
    peers: Mapping[str, MakePeer] = {}
    shape: tuple[int, int] = (TASKS, EXAMPLES)
    inputs: Callable[..., Inputs] = plain
    """Of a shape."""

    @property
    def label(self) -> str:
        """The size of an update."""
        tasks, examples = self.shape
        return f"{tasks} task{'s' * (tasks > 1)} x {examples:,} examples"

    def metric(self) -> rm.Metric:
        """This package's."""
        return self.factory(n_tasks=self.shape[0], **self.options)


def peers_of(name: str) -> dict[str, MakePeer]:
    """All peers of a subject that are installed, by what they are called."""
    subject = SUBJECTS[name]
    peers = dict(subject.peers)
    if subject.torchrec is not None:
        peers = {"torchrec": of_torchrec(name, subject.torchrec), **peers}
    return {
        called if called.startswith(("metrax", "clu")) else on_cpu(called): make
        for called, make in peers.items()
        if installed(called.partition(",")[0])
    }


def flat(p: Any, y: Any, w: Any) -> Mapping[str, Any]:
    return {"preds": p.reshape(-1), "target": y.reshape(-1)}


def flat_classes(p: Any, y: Any, w: Any) -> Mapping[str, Any]:
    return {"preds": p.reshape(-1), "target": y.reshape(-1).int()}


def flat_inputs(p: Any, y: Any, w: Any) -> Mapping[str, Any]:
    return {"input": p.reshape(-1), "target": y.reshape(-1).int()}


def with_weight(p: Any, y: Any, w: Any) -> Mapping[str, Any]:
    return {"input": p, "target": y, "weight": w}


def with_sample_weights(p: Any, y: Any, w: Any) -> Mapping[str, Any]:
    return {"predictions": p, "labels": y, "sample_weights": w}


def sessions_as_rows(p: Any, y: Any, w: Any) -> Mapping[str, Any]:
    predictions, labels = (x.reshape(-1, SESSION) for x in (p, y))
    return {"predictions": predictions, "labels": labels, "ks": jnp.asarray([SESSION])}


def at_threshold(name: str, of_metrax: MakePeer, less: str) -> dict[str, MakePeer]:
    """Peers of a metric of classes."""
    return {
        f"torcheval, {FLAT}": torcheval(f"Binary{name}", flat_inputs),
        f"torchmetrics, {FLAT}": of_classes(f"Binary{name}", flat_classes),
        f"metrax, {less}": of_metrax,
    }


torcheval = functools.partial(of_torch, "torcheval.metrics")
torchmetrics = functools.partial(of_torch, "torchmetrics")
of_classes = functools.partial(of_torch, "torchmetrics.classification", validate_args=False)
metrax = functools.partial(of_jax, "metrax")
clu = functools.partial(of_jax, "clu.metrics")

FLAT = "no weights, tasks as one, no window"
BY_UPDATES = "torcheval, window in updates"
WINDOWED = {"num_tasks": TASKS, "max_num_updates": WINDOW // EXAMPLES}
OF_SAMPLES = {"window": SAMPLES}
SUBJECTS = {
    "ne": Subject(
        rm.ne,
        peers={BY_UPDATES: torcheval("WindowedBinaryNormalizedEntropy", with_weight, **WINDOWED)},
    ),
    "calibration": Subject(
        rm.calibration,
        peers={BY_UPDATES: torcheval("WindowedWeightedCalibration", with_weight, **WINDOWED)},
    ),
    "ctr": Subject(
        rm.ctr,
        peers={
            BY_UPDATES: torcheval(
                "WindowedClickThroughRate", lambda p, y, w: {"input": y, "weights": w}, **WINDOWED
            ),
            "metrax, no window": metrax(
                "Average", lambda p, y, w: {"values": y, "sample_weights": w}
            ),
            "clu, no weights, no window": clu("Average", lambda p, y, w: {"values": y}),
        },
    ),
    "mse": Subject(
        rm.mse,
        peers={
            "torcheval, one weight for all tasks, window in updates": torcheval(
                "WindowedMeanSquaredError",
                lambda p, y, w: {"input": p.T, "target": y.T, "sample_weight": w[0]},
                multioutput="raw_values",
                **WINDOWED,
            ),
            f"torchmetrics, {FLAT}": torchmetrics("MeanSquaredError", flat),
            "metrax, no window": metrax("MSE", with_sample_weights),
        },
    ),
    "mae": Subject(
        rm.mae,
        peers={
            f"torchmetrics, {FLAT}": torchmetrics("MeanAbsoluteError", flat),
            "metrax, no window": metrax("MAE", with_sample_weights),
        },
    ),
    "accuracy": Subject(
        rm.accuracy,
        peers=at_threshold(
            "Accuracy",
            metrax(
                "Accuracy", lambda p, y, w: with_sample_weights((p >= 0.5).astype(p.dtype), y, w)
            ),
            "no window",
        ),
    ),
    **{
        name.lower(): Subject(
            factory,
            peers=at_threshold(
                name,
                metrax(name, lambda p, y, w: {"predictions": p, "labels": y, "threshold": 0.5}),
                "no weights, no window",
            ),
        )
        for name, factory in (("Precision", rm.precision), ("Recall", rm.recall))
    },
    "weighted_avg": Subject(
        rm.weighted_avg,
        peers={
            "torcheval, tasks as one, no window": torcheval(
                "Mean", lambda p, y, w: {"input": p, "weight": w}
            ),
            "torchmetrics, tasks as one, no window": torchmetrics(
                "MeanMetric", lambda p, y, w: {"value": p, "weight": w}, nan_strategy="ignore"
            ),
            "metrax, no window": metrax(
                "Average", lambda p, y, w: {"values": p, "sample_weights": w}
            ),
            "clu, no weights, no window": clu("Average", lambda p, y, w: {"values": p}),
        },
    ),
    "multiclass_recall": Subject(
        rm.multiclass_recall,
        {"n_classes": CLASSES, "window": WINDOW},
        {"number_of_classes": CLASSES},
        inputs=with_classes,
    ),
    "examples": Subject(rm.examples, torchrec=None),
    "nonfinite_examples": Subject(rm.nonfinite_examples, torchrec=None),
    **{
        name: Subject(
            factory,
            {},
            None,
            {
                "torchmetrics, 200 thresholds, no weights, tasks as one": of_classes(
                    of_torchmetrics, flat_classes, thresholds=200
                ),
                "metrax, 200 thresholds": metrax(
                    of_metrax, with_sample_weights, num_thresholds=200
                ),
            },
        )
        for name, factory, of_torchmetrics, of_metrax in (
            ("binned_auc", rm.binned_auc, "BinaryAUROC", "AUCROC"),
            ("binned_auprc", rm.binned_auprc, "BinaryAveragePrecision", "AUCPR"),
        )
    },
    "xauc": Subject(rm.xauc, shape=(1, 4096)),
    "ndcg": Subject(
        rm.ndcg,
        peers={
            "metrax, sessions as rows, no weights, no window": metrax("NDCGAtK", sessions_as_rows)
        },
        shape=(1, EXAMPLES),
        inputs=in_sessions,
    ),
    "auc": Subject(
        rm.auc,
        OF_SAMPLES,
        OF_SAMPLES,
        {
            "torcheval": torcheval(
                "WindowedBinaryAUROC", with_weight, num_tasks=TASKS, max_num_samples=SAMPLES
            )
        },
    ),
    "auprc": Subject(rm.auprc, OF_SAMPLES, OF_SAMPLES),
    "rauc": Subject(rm.rauc, OF_SAMPLES, OF_SAMPLES),
}
"""By the names that the metrics have in both packages."""
