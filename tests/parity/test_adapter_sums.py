"""Sums that only the reference has, in both packages: what differs on purpose.

Random streams of them are in test_adapter_streams.py, functions in test_adapter_functions.py.
"""

import math
from typing import Any

import numpy as np
import pytest
from adapter_pair import OURS, PACKAGES, THEIRS, make, module, tasks_of, tensor, update, values
from reference import torch

NAN, INF = math.nan, math.inf
NUMBERED = {"latest_imp": [1.0, 3.0], "total_latest_imp": [8.0, 10.0]}


def exception(package: str) -> Any:
    return module(package, "rec_metric").RecMetricException


def of_both(package: str, name: str, **options: Any) -> Any:
    """A metric of the fused tasks ``a`` and ``b``."""
    return make(package, name, tasks_of(package, ("a", "b")), is_fused=True, **options)


def stacked(metric: Any, *arrays: Any, **keys: Any) -> None:
    """An update of both tasks."""
    names = ("predictions", "labels", "weights")
    tensors = {n: None if x is None else tensor(x) for n, x in zip(names, arrays, strict=True)}
    required = {name: tensor(key) for name, key in keys.items()}
    metric.update(**tensors, **({"required_inputs": required} if required else {}))


def test_constant_labels_are_explained_where_the_reference_has_what_rounding_left():
    found = {}
    for package in PACKAGES:
        metric = make(package, "mse", include_r_squared=True)
        update(metric, [0.5, 0.4, 0.3], [0.1] * 3)
        found[package] = values(metric)["lifetime_r_squared"].item()
    assert found[OURS] == 1.0
    assert abs(found[THEIRS]) > 1e8


@pytest.mark.parametrize("name", ["num_positive_samples", "weighted_sum_predictions"])
def test_infinite_numbers_have_infinite_sums_where_the_reference_takes_the_largest(name):
    for package, expected in ((OURS, INF), (THEIRS, np.finfo(np.float32).max)):
        metric = make(package, name)
        infinite = torch.tensor([INF, 0.0])
        update(metric, infinite, infinite)
        assert values(metric)[f"lifetime_{name}"] == expected


COUNTERS = (
    "num_missing_labels",
    "num_positive_samples",
    "sum_weights",
    "weighted_sum_predictions",
)


@pytest.mark.parametrize("name", COUNTERS)
def test_sums_that_were_returned_stay_where_those_of_the_reference_go_on(name):
    for package, times in ((OURS, 1), (THEIRS, 2)):
        metric = make(package, name)
        update(metric, [0.5, 0.5], [1.0, NAN])
        value = metric.compute()[f"{name}-a|lifetime_{name}"]
        before = value.item()
        update(metric, [0.5, 0.5], [1.0, NAN])
        assert value.item() == before * times > 0


@pytest.mark.parametrize("name", [*COUNTERS, "multi_label_precision"])
def test_predictions_that_are_none_are_named(name):
    for package, error in ((OURS, exception(OURS)), (THEIRS, (AttributeError, TypeError))):
        (computation,) = make(package, name)._metrics_computations
        with pytest.raises(error):
            computation.update(predictions=None, labels=torch.ones(1, 2), weights=torch.ones(1, 2))


def test_labels_of_fused_tasks_are_apart_where_the_reference_adds_them_up():
    found = {}
    for package in PACKAGES:
        metric = of_both(package, "multi_label_precision")
        stacked(metric, [[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [0.0, 1.0]], None)
        found[package] = {k: v.item() for k, v in metric.compute().items() if "lifetime" in k}
    of = "multi_label_precision-{}|lifetime_multi_label_precisionlabel_0"
    assert found[THEIRS] == {of.format("a"): 0.75}
    assert found[OURS] == {of.format("a"): 1.0, of.format("b"): 0.5}


def test_labels_that_are_missing_are_undefined_where_the_reference_counts_them():
    for package in PACKAGES:
        metric = make(package, "multi_label_precision")
        update(metric, [1.0, 1.0], [1.0, NAN])
        value = values(metric)["lifetime_multi_label_precisionlabel_0"]
        assert np.isnan(value) == (package == OURS)


def test_more_names_than_labels_are_named_where_the_reference_fails_later():
    options = {"num_labels": 1, "label_names": ["a", "b"]}
    theirs = make(THEIRS, "multi_label_precision", **options)
    with pytest.raises(IndexError):
        update(theirs, [1.0], [1.0])
    with pytest.raises(ValueError, match="label_names"):
        make(OURS, "multi_label_precision", **options)


def test_more_labels_than_float64_has_digits_are_refused_where_the_reference_takes_63():
    for package, error in ((THEIRS, None), (OURS, ValueError)):
        if error is not None:
            with pytest.raises(error, match="53"):
                make(package, "multi_label_precision", num_labels=63)
            continue
        metric = make(package, "multi_label_precision", num_labels=63)
        whole = torch.tensor([2**62, 2**62 + 1])
        update(metric, whole, whole)
        assert values(metric)["lifetime_multi_label_precisionlabel_62"] == 1.0


HINDSIGHT = ([0.9, 0.6, 0.4, 0.3], [1.0, 1.0, 0.0, 1.0])


def test_thresholds_are_numbers_where_the_reference_gives_uninitialised_memory():
    for package in PACKAGES:
        metric = make(package, "hindsight_target_pr", target_precision=0.9)
        update(metric, *HINDSIGHT)
        of_metric = values(metric)
        threshold = of_metric["lifetime_hindsight_target_pr"]
        assert of_metric["lifetime_hindsight_target_recall"] == pytest.approx(2 / 3)
        # The first above 0.4.
        assert (threshold.shape, threshold.size) == (((), 1) if package == OURS else ((400,), 400))
        if package == OURS:
            assert threshold == 400


def test_thresholds_of_fused_tasks_are_apart_where_the_reference_fails():
    ours, theirs = (of_both(package, "hindsight_target_pr") for package in (OURS, THEIRS))
    both = [[x, x[::-1]] for x in HINDSIGHT]
    with pytest.raises(RuntimeError):
        stacked(theirs, *both, None)
    stacked(ours, *both, None)
    for task in "ab":
        key = f"hindsight_target_pr-{task}|lifetime_hindsight_target_precision"
        assert ours.compute()[key].item() == 0.75


def test_outputs_beside_that_are_missing_for_a_fused_task_are_named():
    for package, error in ((OURS, exception(OURS)), (THEIRS, RuntimeError)):
        config = module(package, "metrics_config")
        tasks = [config.RecTaskInfo(name=n, tensor_name=t) for n, t in (("a", "x"), ("b", "y"))]
        metric = make(package, "tensor_weighted_avg", tasks, is_fused=True)
        with pytest.raises(error):
            stacked(metric, *([[[1.0] * 3] * 2] * 3), x=[1.0, 2.0, 3.0])


def test_outputs_beside_want_weights():
    for package, error in ((OURS, exception(OURS)), (THEIRS, TypeError)):
        tasks = tasks_of(package, tensor_name="x")
        (computation,) = make(package, "tensor_weighted_avg", tasks)._metrics_computations
        ones = torch.ones(1, 2)
        with pytest.raises(error):
            computation.update(
                predictions=ones, labels=ones, weights=None, required_inputs={"x": ones}
            )


def test_scalars_may_be_whole_numbers_and_have_float64_where_the_reference_has_their_dtype():
    for package in PACKAGES:
        metric = make(package, "scalar")
        single = torch.tensor([1.0, 2.0])
        update(metric, single, single)
        dtype = torch.float64 if package == OURS else torch.float32
        value = metric.compute()["scalar-a|lifetime_scalar"]
        assert (value.dtype, value.item()) == (dtype, 1.5)
        if package == OURS:
            update(metric, single, torch.tensor([1, 2]))
            assert values(metric)["lifetime_scalar"] == 1.5
        else:
            with pytest.raises(RuntimeError):
                update(metric, single, torch.tensor([1, 2]))


def over_ranks(package: str, name: str, *updates: Any) -> dict[str, Any]:
    """The values over ranks, of which each has had one update or none."""
    metrics = [make(package, name) for _ in updates]
    for metric, arguments in zip(metrics, updates, strict=True):
        if arguments is not None:
            update(metric, [0.5] * len(arguments[0]), arguments[0], **arguments[1])
    computations = [metric._metrics_computations[0] for metric in metrics]
    first = computations[0]
    if package == OURS:
        first.take_merged([c.payload_for_ranks() for c in computations])
    else:  # What its sync does, once all states are here.
        for state, reduce in first._reductions.items():
            reduced = reduce(torch.stack([getattr(c, state) for c in computations]))
            setattr(first, state, reduced)
    return values(metrics[0])


def test_ranks_without_a_batch_have_no_scalar_where_the_reference_counts_0():
    updates = (([1.0, 3.0], {}), None)
    for package, expected in ((OURS, 2.0), (THEIRS, 1.0)):
        assert over_ranks(package, "scalar", *updates)["lifetime_scalar"] == expected
        assert over_ranks(package, "scalar", *updates)["window_scalar"] == 2.0
        assert over_ranks(package, "scalar", *updates[:1] * 2)["lifetime_scalar"] == 2.0


def test_outputs_are_means_over_ranks_where_the_reference_adds_them_up():
    updates = (([1.0, 1.0], NUMBERED), ([1.0, 1.0], NUMBERED), None)
    for package, expected in ((OURS, 2.0), (THEIRS, 4.0)):
        assert over_ranks(package, "output", *updates)["output_latest_imp"] == expected


def test_fused_tasks_share_outputs_where_the_reference_fails():
    for package in PACKAGES:
        metric = of_both(package, "output")
        stacked(metric, *([[[1.0, 0.0]] * 2] * 3), **NUMBERED)
        if package == THEIRS:
            with pytest.raises(TypeError):
                metric.compute()
        else:
            assert [x.item() for x in metric.compute().values()] == [2.0, 2.0, 9.0, 9.0]


def test_outputs_of_fused_tasks_may_be_their_own_in_both():
    for package in PACKAGES:
        metric = of_both(package, "output")
        own = {name: [x, x[::-1]] for name, x in NUMBERED.items()}
        stacked(metric, *([[[1.0, 0.0]] * 2] * 3), **own)
        assert [x.item() for x in metric.compute().values()] == [2.0, 2.0, 9.0, 9.0]


def test_names_of_labels_are_described_in_both():
    reports = []
    for package in PACKAGES:
        metric = make(package, "multi_label_precision", num_labels=2, label_names=["cat", "dog"])
        update(metric, [3.0, 1.0], [1.0, 1.0])
        of_package = metric._metrics_computations[0].compute()
        reports.append([(str(r.name), str(r.metric_prefix), r.description) for r in of_package])
    assert reports[0] == reports[1]


def test_bins_of_auprc_are_those_of_the_reference():
    histograms = []
    rng = np.random.default_rng(44)
    # Near the edges of bins, and weights that float32 rounds.
    p = np.clip((rng.integers(0, 1001, 400) + rng.integers(-2, 3, 400) * 2e-5) / 1000, 0, 1)
    weights = rng.random(400)
    for package in PACKAGES:
        metric = make(package, "auprc", window_size=1000)
        update(metric, [0.652999997, 0.6525], [1.0, 0.0])
        assert values(metric)["lifetime_auprc"] == 1.0
        update(metric, p, p > 0.5, weights)
        (computation,) = metric._metrics_computations
        names = ("lifetime_positive_histogram", "lifetime_negative_histogram")
        histograms.append([getattr(computation, name) for name in names])
    for ours, theirs in zip(*histograms, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("is_fused", [False, True], ids=["unfused", "fused"])
def test_label_sums_of_mse_are_those_of_the_reference(is_fused):
    found = []
    for package in PACKAGES:
        metric = make(package, "mse", is_fused=is_fused)
        for labels in ([0.5, 2.0], [1.0, 4.0]):
            update(metric, [0.5, 0.5], labels, [1.0, 0.5])
        (computation,) = metric._metrics_computations
        names = [name for name in computation._defaults if "has_valid" not in name]
        found.append({name: getattr(computation, name).tolist() for name in names})
        assert [key.split(".")[-1] for key in metric.state_dict()] == names[:3:2]
    assert found[0] == found[1]
