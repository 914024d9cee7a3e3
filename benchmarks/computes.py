"""Computes: of nine metrics and of each metric alone, and of what sorts a window, by its size.

A compute is called as users do, jitted, and its values are waited for. Windows are full.
"""

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import alone
import jax
import jax.numpy as jnp
import numpy as np
from measuring import OURS, Case, timed
from peers import (
    MODES,
    computing,
    installed,
    on_cpu,
    tensors,
    torchrec_function,
    torchrec_module,
)
from timing import Run, repeat
from workloads import NINE, nine_metrics, scores

import recmetrics_jax as rm

UPDATES = 10
"""Updates before a compute of sums."""
LENGTHS = (10_000, 100_000, 1_000_000, 10_000_000)
GROUPED = 100_000
GROUPS = (10, 1000, 10_000, 100_000)
MOST_OF_TORCHREC = 10_000
"""Groups; the reference has a loop over them."""
OF_LISTS = {"auc": "compute_auc", "auprc": "compute_auprc", "rauc": "compute_rauc"}
"""Functions of torchrec that take the examples of a window."""
OF_SKLEARN = {"auc": "roc_auc_score", "auprc": "average_precision_score"}
OF_TORCHEVAL = {"auc": "binary_auroc", "auprc": "binary_auprc"}


def computes(metric: rm.Metric, *arrays: np.ndarray, updates: int = 1, **keys: np.ndarray) -> Run:
    """Computes of the state after some updates."""
    update, compute = jax.jit(metric.update), jax.jit(metric.compute)
    state, batch = metric.init(), rm.make_batch(*arrays, keys=keys)
    for _ in range(updates):
        state = update(state, batch)
    return repeat(lambda: compute(state))


def of_nine() -> Mapping[str, Run]:
    """Computes of the nine metrics, lifetime and window."""
    arrays = scores(alone.TASKS, alone.EXAMPLES)
    contenders = {
        OURS: computes(nine_metrics(alone.TASKS), *arrays, updates=UPDATES),
        f"{OURS}, no window": computes(
            nine_metrics(alone.TASKS, window=None), *arrays, updates=UPDATES
        ),
    }
    if installed("torchrec"):
        for name, mode in MODES.items():
            metrics, outputs = torchrec_module("torchrec.metrics", list(NINE), *arrays, mode=mode)
            for _ in range(UPDATES):
                metrics.update(outputs)
            contenders[on_cpu(name)] = repeat(computing(metrics))
    return contenders


def of_one(name: str) -> Mapping[str, Run]:
    """Computes of one metric."""
    subject = alone.SUBJECTS[name]
    inputs = subject.inputs(*subject.shape)
    contenders = {OURS: computes(subject.metric(), *inputs[:3], updates=UPDATES, **inputs.keys)}
    for peer_name, make in alone.peers_of(name).items():
        peer = make(inputs)
        for _ in range(UPDATES):
            peer.update()
        contenders[peer_name] = repeat(peer.compute)
    return contenders


def of_window(name: str, factory: Callable[..., rm.Metric], length: int) -> Mapping[str, Run]:
    """Computes of a metric that sorts its examples, all in one window."""
    p, y, w = scores(length, positive=0.1)
    if name == "rauc":  # Of watch times and the like.
        y = np.round(y + np.random.default_rng(1).random(length), 2).astype(np.float32)
    contenders = {OURS: computes(factory(window=length), p, y, w)}
    if installed("torchrec"):
        rows = tensors(p[None], y[None], w[None])
        arguments = rows if name == "auprc" else [[x] for x in rows]
        contenders[on_cpu("torchrec")] = torchrec_function(name, OF_LISTS[name], 1, *arguments)
    if installed("torcheval") and name in OF_TORCHEVAL:
        functional: Any = importlib.import_module("torcheval.metrics.functional")
        of_torch = getattr(functional, OF_TORCHEVAL[name])
        tp, ty, tw = tensors(p, y, w)
        keywords, less = ({"weight": tw}, "") if name == "auc" else ({}, ", no weights")
        contenders[on_cpu(f"torcheval{less}")] = repeat(lambda: of_torch(tp, ty, **keywords))
    if installed("sklearn") and name in OF_SKLEARN:
        of_sklearn = getattr(importlib.import_module("sklearn.metrics"), OF_SKLEARN[name])
        contenders[on_cpu("scikit-learn")] = repeat(lambda: of_sklearn(y, p, sample_weight=w))
    contenders[on_cpu("numpy.sort of the scores")] = repeat(lambda: np.sort(p))
    in_jax = jnp.asarray(p)
    sort = jax.jit(jnp.sort)
    contenders["jax.numpy.sort of the scores"] = repeat(lambda: sort(in_jax))
    return contenders


def of_groups(examples: int, groups: int) -> Mapping[str, Run]:
    """Computes of grouped AUC."""
    p, y, w = scores(examples, positive=0.1)
    users = np.random.default_rng(1).integers(0, groups, examples)
    metric = rm.auc(window=examples, grouped=True, undefined_groups=0.5)
    contenders = {OURS: computes(metric, p, y, w, grouping_keys=users)}
    if installed("torchrec") and groups <= MOST_OF_TORCHREC:
        tp, ty, tw, keys = tensors(p[None], y[None], w[None], users)
        run = torchrec_function("auc", "compute_auc_per_group", 1, [tp], [ty], [tw], keys)
        contenders[on_cpu("torchrec")] = run
    return contenders


CASES = [
    Case(
        "compute", "nine metrics", f"{alone.TASKS} tasks, lifetime and window", None, timed(of_nine)
    ),
    *(
        Case(
            "compute",
            f"{name} alone",
            f"{subject.shape[0]} task" + "s" * (subject.shape[0] > 1),
            None,
            timed(functools.partial(of_one, name)),
        )
        for name, subject in alone.SUBJECTS.items()
        if name not in OF_LISTS
    ),
    *(
        Case(
            "compute",
            name,
            f"{length:,} examples",
            length,
            timed(functools.partial(of_window, name, factory, length)),
        )
        for name, factory, lengths in (
            ("auc", rm.auc, LENGTHS),
            ("auprc", rm.auprc, (100_000,)),
            ("rauc", rm.rauc, (100_000,)),
        )
        for length in lengths
    ),
    *(
        Case(
            "compute",
            f"grouped auc, {examples:,} examples",
            f"{groups:,} groups",
            groups,
            timed(functools.partial(of_groups, examples, groups)),
        )
        for examples, groups in (*((GROUPED, groups) for groups in GROUPS), (10**6, 10**6))
    ),
]
