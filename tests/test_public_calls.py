"""No public function compiles, or keeps a memory map, at every call; what compiled goes at last."""

import gc
import pathlib

import compilations
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recmetrics_jax as rm
from recmetrics_jax._src.metric import compiled
from recmetrics_jax.adapter import (
    _declaration,
    _passes,
    accuracy,
    auc,
    auprc,
    calibration,
    ctr,
    gauc,
    mae,
    metrics_config,
    model_utils,
    mse,
    multiclass_recall,
    ne,
    precision,
    rauc,
    recall,
    unweighted_ne,
    weighted_avg,
    xauc,
)
from recmetrics_jax.adapter._compiling import background
from recmetrics_jax.adapter.metric_module import RecMetricModule, generate_metric_module

CALLS = 50
MAPS = pathlib.Path("/proc/self/maps")
COMPILED = "backend_compile_duration"

rng = np.random.default_rng(0)
P, Y, W = rng.random((2, 64)), rng.integers(0, 2, (2, 64)), rng.random((2, 64))
GROUPS = np.arange(64) // 8
F32 = jnp.asarray(P, jnp.float32)
FIRST = jnp.broadcast_to(jnp.arange(64) % 8 == 0, (2, 64))
ROWS = jnp.broadcast_to(jnp.arange(64, dtype=jnp.int32), (2, 64))
SUMS = np.array([3.0, 1.0]), np.array([4.0, 2.0])


def points():
    return rm.ops.curve(F32, F32, F32)


def by_session():
    return rm.ops.sessions(F32, (ROWS,))


def relevant():
    return rm.ops.count_relevant(FIRST, by_session())


METRIC = rm.collection({"ctr": rm.ctr(n_tasks=2, window=100), "auc": rm.auc(n_tasks=2, window=80)})


def batch():
    return rm.make_batch(P, Y, W, keys={"grouping_keys": GROUPS})


def eager_metric():
    state = METRIC.merge(METRIC.update(METRIC.init(), batch()), METRIC.init())
    return rm.scalars(METRIC.compute(state), ["a", "b"], as_floats=True)


def equal_metrics():
    """Made anew at each call, as in a function that evaluates."""
    metric = rm.collection({"mse": rm.mse, "ne": rm.ne}, n_tasks=2, window=50)
    return metric.compute(metric.update(metric.init(), batch()))


def ranked(ranks):
    """Metrics made anew at each call, of which one has an array among its options."""
    parts = {
        "ranks": rm.rank_metrics(k=(1, 7), window=50, exact_ranks=64),
        "sampled": rm.rank_metrics(sampled=(63, 100), exact_ranks=64),
        "items": rm.recommended_items(9, popularity=np.arange(9)),
    }
    metric = rm.collection(parts)
    batch = rm.make_rank_batch(ranks, keys={"item_id": GROUPS[8:10]})
    return ranks.rank, metric.compute(metric.update(metric.init(), batch))


BINNED = rm.binned_auc(bins=64, n_tasks=2)


def two_passes():
    state = BINNED.update(BINNED.init(), batch())
    metric = rm.binned_auc(bins=64, n_tasks=2, refine=rm.ranges_to_refine(BINNED, state, parts=256))
    return metric.compute(metric.update(metric.init(), batch()))


def all_merged():
    states = jax.tree.map(lambda x: x[None], METRIC.init())
    return jax.vmap(MERGE, axis_name="devices")(states)


def MERGE(state):  # noqa: N802 - defined once, as vmap asks for
    return rm.all_merge(state, "devices")


def counts(predictions, labels, weights):
    return multiclass_recall.get_multiclass_recall_states(predictions, labels, weights, 3)


CLASSES = rng.random((2, 64, 3))
PUBLIC = {
    "make_batch": batch,
    "make_padded_batch": lambda: rm.make_padded_batch(P, Y, W, keys={"session_id": GROUPS}),
    "make_rank_batch": lambda: rm.make_rank_batch(GROUPS + 1, W[0]),
    "make_topk_batch": lambda: rm.make_topk_batch(GROUPS[None], GROUPS[None, ::9], mask=[True]),
    "ranks": lambda: ranked(rm.ops.rank_of(P, GROUPS[8:10])),
    "bucket_size": lambda: rm.bucket_size(1000),
    "safe_divide": lambda: rm.safe_divide(F32, F32),
    "describe": lambda: rm.describe(METRIC),
    "metric": eager_metric,
    "equal metrics": equal_metrics,
    "all_merge": all_merged,
    "ranges_to_refine": two_passes,
    "ops.argsort": lambda: rm.ops.argsort(ROWS, F32),
    "ops.count_pairs": lambda: rm.ops.count_pairs(F32, F32, F32, (ROWS,)),
    "ops.count_relevant": relevant,
    "ops.cumsum": lambda: rm.ops.cumsum(F32, FIRST),
    "ops.curve": lambda: rm.ops.curve(F32, F32, F32, (ROWS,)),
    "ops.first_relevant": lambda: rm.ops.first_relevant(relevant(), by_session()),
    "ops.first_rows": lambda: rm.ops.first_rows(FIRST),
    "ops.ideal_order": lambda: rm.ops.ideal_order(F32, by_session()),
    "ops.is_first": lambda: rm.ops.is_first(ROWS),
    "ops.is_last": lambda: rm.ops.is_last(FIRST),
    "ops.last_rows": lambda: rm.ops.last_rows(FIRST),
    "ops.maxima": lambda: rm.ops.maxima(F32, rm.ops.numbers(FIRST)),
    "ops.numbers": lambda: rm.ops.numbers(FIRST),
    "ops.precision_recall_area": lambda: rm.ops.precision_recall_area(points()),
    "ops.put": lambda: rm.ops.put(F32, ROWS),
    "ops.rank_in": lambda: rm.ops.rank_in(GROUPS[None], GROUPS[:1]),
    "ops.rank_of": lambda: rm.ops.rank_of(P, GROUPS[8:10], exclude=GROUPS[None, ::20].repeat(2, 0)),
    "ops.ranks": lambda: rm.ops.ranks(FIRST),
    "ops.relevant_in_top": lambda: rm.ops.relevant_in_top(relevant(), by_session()),
    "ops.roc_area": lambda: rm.ops.roc_area(points()),
    "ops.run_means": lambda: rm.ops.run_means(F32, by_session()),
    "ops.sessions": by_session,
    "ops.starts": lambda: rm.ops.starts(rm.ops.numbers(FIRST)),
    "ops.sums": lambda: rm.ops.sums(F32, FIRST),
    "ops.sums_before": lambda: rm.ops.sums_before(F32, FIRST),
    "ops.take": lambda: rm.ops.take(F32, ROWS),
    "ops.top_ends": lambda: rm.ops.top_ends(by_session(), 3),
    "ops.totals": lambda: rm.ops.totals(F32, rm.ops.numbers(FIRST)),
    "ops.words_of": lambda: rm.ops.words_of(F32),
    "compute_accuracy": lambda: accuracy.compute_accuracy(*SUMS),
    "compute_accuracy_sum": lambda: accuracy.compute_accuracy_sum(Y, P, W, 0.5),
    "get_accuracy_states": lambda: accuracy.get_accuracy_states(Y, P, W, 0.5),
    "compute_auc": lambda: auc.compute_auc(2, [P], [Y], [W]),
    "compute_auc_per_group": lambda: auc.compute_auc_per_group(2, [P], [Y], [W], GROUPS),
    "compute_auprc": lambda: auprc.compute_auprc(2, P, Y, W),
    "compute_auprc_per_group": lambda: auprc.compute_auprc_per_group(2, P, Y, W, GROUPS),
    "compute_calibration": lambda: calibration.compute_calibration(*SUMS),
    "get_calibration_states": lambda: calibration.get_calibration_states(Y, P, W),
    "compute_ctr": lambda: ctr.compute_ctr(*SUMS),
    "get_ctr_states": lambda: ctr.get_ctr_states(Y, P, W),
    "compute_gauc_3d": lambda: gauc.compute_gauc_3d(*(x.reshape(2, 8, 8) for x in (P, Y, W))),
    "to_3d": lambda: gauc.to_3d(P.T, np.full(8, 8), 8),
    "get_auc_states": lambda: gauc.get_auc_states(Y, P, W, np.full(8, 8)),
    "compute_window_auc": lambda: gauc.compute_window_auc(*SUMS),
    "compute_mae": lambda: mae.compute_mae(*SUMS),
    "mae.compute_error_sum": lambda: mae.compute_error_sum(Y, P, W),
    "get_mae_states": lambda: mae.get_mae_states(Y, P, W),
    "compute_mse": lambda: mse.compute_mse(*SUMS),
    "compute_rmse": lambda: mse.compute_rmse(*SUMS),
    "compute_r_squared": lambda: mse.compute_r_squared(*SUMS, *SUMS),
    "mse.compute_error_sum": lambda: mse.compute_error_sum(Y, P, W),
    "get_mse_states": lambda: mse.get_mse_states(Y, P, W),
    "compute_multiclass_recall_at_k": lambda: multiclass_recall.compute_multiclass_recall_at_k(
        CLASSES[:, 0], SUMS[0]
    ),
    "get_multiclass_recall_states": lambda: counts(CLASSES, Y, W),
    "compute_cross_entropy": lambda: ne.compute_cross_entropy(Y, P, W, 1e-12),
    "compute_ne": lambda: ne.compute_ne(*SUMS, *SUMS, 1e-12),
    "compute_logloss": lambda: ne.compute_logloss(*SUMS, SUMS[0], 1e-12),
    "get_ne_states": lambda: ne.get_ne_states(Y, P, W, 1e-12),
    "get_unweighted_ne_states": lambda: unweighted_ne.get_unweighted_ne_states(Y, P, W, 1e-12),
    "compute_precision": lambda: precision.compute_precision(*SUMS),
    "compute_true_pos_sum": lambda: precision.compute_true_pos_sum(Y, P, W),
    "compute_false_pos_sum": lambda: precision.compute_false_pos_sum(Y, P, W),
    "get_precision_states": lambda: precision.get_precision_states(Y, P, W),
    "compute_rauc": lambda: rauc.compute_rauc(2, [P], [Y], [W]),
    "compute_rauc_per_group": lambda: rauc.compute_rauc_per_group(2, [P], [Y], [W], GROUPS),
    "count_reverse_pairs": lambda: rauc.count_reverse_pairs_divide_and_conquer(list(P[0])),
    "rauc.divide": lambda: rauc.divide(list(P[0]), 0, 63),
    "rauc.conquer_and_count": lambda: rauc.conquer_and_count(list(ROWS[0]), 0, 31, 63),
    "compute_recall": lambda: recall.compute_recall(*SUMS),
    "compute_false_neg_sum": lambda: recall.compute_false_neg_sum(Y, P, W),
    "get_recall_states": lambda: recall.get_recall_states(Y, P, W),
    "get_mean": lambda: weighted_avg.get_mean(*SUMS),
    "compute_xauc": lambda: xauc.compute_xauc(*SUMS),
    "xauc.compute_error_sum": lambda: xauc.compute_error_sum(Y, P, W),
    "compute_weighted_num_pairs": lambda: xauc.compute_weighted_num_pairs(W),
    "get_xauc_states": lambda: xauc.get_xauc_states(Y, P, W),
    "session_ids_to_tensor": lambda: model_utils.session_ids_to_tensor(["a", "a", "b"]),
    "is_empty_signals": lambda: model_utils.is_empty_signals(Y, P, W),
}


def maps():
    return MAPS.read_bytes().count(b"\n") if MAPS.exists() else 0


def test_every_public_function_of_ops_is_called_here():
    of_ops = {f"ops.{name}" for name in rm.ops.__all__ if name[0].islower()}
    assert of_ops == {name for name in PUBLIC if name.startswith("ops.")}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.heavy if n == "all_merge" else ()) for n in PUBLIC]
)
def test_calls_compile_once_and_keep_no_maps(name):
    call = PUBLIC[name]
    for _ in range(2):
        jax.block_until_ready(call())
    background.wait()
    before = maps()

    def calls():
        for _ in range(CALLS):
            jax.block_until_ready(call())

    assert COMPILED not in compilations.during(calls)
    assert maps() - before < CALLS


def executables():
    gc.collect()
    return len(jax.devices()[0].client.live_executables())


@pytest.mark.once
def test_what_metrics_compile_goes_with_them_but_for_the_last_few(monkeypatch):
    monkeypatch.setattr(compiled, "recent", 3)

    def evaluate(threshold):
        metric = rm.accuracy(threshold=threshold)
        return metric.compute(metric.update(metric.init(), rm.make_batch([0.5], [1])))

    evaluate(0.5)
    before = executables()
    for i in range(9):
        evaluate(i / 1000)
    # An update and a compute each.
    assert executables() - before <= 2 * 3


@pytest.mark.once
def test_what_a_module_of_the_adapter_compiles_goes_when_it_goes(monkeypatch):
    for interned in (_declaration.declarations, _declaration.formulas, _passes.statistics_of):
        monkeypatch.setattr(interned, "recent", 0)
    task = metrics_config.RecTaskInfo("click", "y", "p", "w")
    names = metrics_config.RecMetricEnum
    config = metrics_config.MetricsConfig(
        rec_tasks=[task],
        rec_metrics={
            name: metrics_config.RecMetricDef(rec_tasks=[task], window_size=93)
            for name in (names.NE, names.AUC)
        },
    )

    def used():
        """A module and its use."""
        modules = [generate_metric_module(RecMetricModule, config, 31, 1, 0, {}, device="cpu")]

        def steps():
            for _ in range(3):
                modules[0].update({"p": P[0, :31], "y": Y[0, :31], "w": W[0, :31]})
                modules[0].compute()

        return modules, steps

    def evaluate():
        """How many executables a module left behind that was used and let go."""
        modules, steps = used()
        before = executables()
        assert COMPILED in compilations.during(steps)
        assert executables() > before
        assert COMPILED not in compilations.during(steps)
        modules.clear()
        return executables() - before

    used()[1]()  # What was kept for other tests goes.

    evaluate()  # The first use also compiles what belongs to no module.
    assert evaluate() == evaluate() == 0
