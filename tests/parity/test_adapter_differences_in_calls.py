"""Where a call of the class API deliberately does not do what the reference's does."""

import math
import time
import warnings
from typing import Any

import numpy as np
import pytest
from adapter_pair import OURS, THEIRS, make, mode_of, module, tasks_of, tensor, update, values
from reference import torch

NAN = math.nan
LABELS = [1.0, 0.0, 0.0, 0.0]


def ours_and_theirs(name: str, **options: Any) -> tuple[Any, Any]:
    return make(OURS, name, **options), make(THEIRS, name, **options)


def inputs_of(value: float) -> dict[str, Any]:
    """Two examples of float64, which are the caller's."""
    return {
        "predictions": {"a": tensor([value, 0.5])},
        "labels": {"a": tensor([1.0, 0.0])},
        "weights": {"a": torch.ones(2)},
    }


def test_values_follow_states_that_are_loaded():
    ours, theirs = ours_and_theirs("ctr")
    for metric, expected in ((ours, 1.0), (theirs, 0.5)):
        update(metric, [0.5, 0.5], [1.0, 0.0])
        assert values(metric)["lifetime_ctr"] == 0.5
        state = {name: torch.ones_like(x) for name, x in metric.state_dict().items()}
        metric.load_state_dict(state)
        assert values(metric)["lifetime_ctr"] == expected


def test_values_follow_states_that_are_assigned():
    ours, theirs = ours_and_theirs("ctr")
    for metric, expected in ((ours, 0.25), (theirs, 0.5)):
        update(metric, [0.5, 0.5], [1.0, 0.0])
        assert values(metric)["lifetime_ctr"] == 0.5
        metric._metrics_computations[0].ctr_denom = tensor([4.0])
        assert values(metric)["lifetime_ctr"] == expected


def test_states_of_another_shape_are_refused():
    ours, theirs = ours_and_theirs("ctr")
    wrong = {"_metrics_computations.0.ctr_num": torch.ones(3, dtype=torch.float64)}
    theirs.load_state_dict(wrong)
    assert theirs._metrics_computations[0].ctr_num.shape == (3,)
    with pytest.raises(RuntimeError, match=r"_metrics_computations\.0\.ctr_num"):
        ours.load_state_dict(wrong)


def test_predictions_of_ne_stay_as_they_are():
    ours, theirs = ours_and_theirs("ne")
    for metric, expected in ((ours, 1.0), (theirs, 1 - 1e-12)):
        inputs = inputs_of(1.0)
        metric.update(**inputs)
        assert inputs["predictions"]["a"][0].item() == expected


def test_negative_tasks_of_ndcg_stay_as_they_are():
    for package, expected in ((OURS, [0.75, 0.5]), (THEIRS, [0.25, 0.5])):
        metric = make(package, "ndcg", tasks_of(package, is_negative_task=True))
        inputs = inputs_of(0.75)
        metric.update(**inputs, required_inputs={"session_id": torch.ones(2)})
        assert inputs["predictions"]["a"].tolist() == expected
        assert (inputs["labels"]["a"].tolist() == [1.0, 0.0]) == (package == OURS)


def test_a_negative_task_leaves_the_metrics_beside_it_alone():
    for package, expected in ((OURS, 0.25), (THEIRS, 0.75)):
        tasks = tasks_of(package, is_negative_task=True)
        metrics = [make(package, name, tasks) for name in ("ndcg", "ctr")]
        together = module(package, "rec_metric").RecMetricList(metrics)
        together.update(
            predictions={"a": tensor([0.1, 0.2, 0.3, 0.4])},
            labels={"a": tensor(LABELS)},
            weights={"a": torch.ones(4)},
            required_inputs={"session_id": torch.ones(4)},
        )
        assert together.compute()["ctr-a|lifetime_ctr"].item() == expected


@pytest.mark.parametrize("name", ["auc", "rauc"])
def test_examples_are_kept_as_copies(name):
    for package, expected in ((OURS, 1.0), (THEIRS, 0.0)):
        metric = make(package, name)
        predictions = torch.tensor([0.9, 0.1])
        labels = torch.tensor([1.0, 0.0])
        inputs = {"predictions": {"a": predictions}, "labels": {"a": labels}}
        metric.update(**inputs, weights={"a": torch.ones(2)})
        predictions.copy_(torch.tensor([0.1, 0.9]))
        assert values(metric)[f"window_{name}"] == expected


def test_gradients_are_not_kept():
    for package, expected in ((OURS, False), (THEIRS, True)):
        metric = make(package, "auc")
        predictions = torch.tensor([0.9, 0.1], requires_grad=True)
        metric.update(
            predictions={"a": predictions},
            labels={"a": torch.tensor([1.0, 0.0])},
            weights={"a": torch.ones(2)},
        )
        assert metric._metrics_computations[0].predictions[0].requires_grad == expected


def test_a_reset_forgets_batches_that_wait():
    ours, theirs = ours_and_theirs("ctr", fused_update_limit=3)
    for metric, expected in ((ours, 0.0), (theirs, 0.5)):
        update(metric, [0.5, 0.5], [1.0, 0.0])
        metric.reset()
        assert values(metric)["lifetime_ctr"] == expected


def test_failed_updates_change_no_task():
    for package, error, expected in ((OURS, ValueError, 0.0), (THEIRS, RuntimeError, 1.0)):
        metric = make(package, "ctr", tasks_of(package, ("a", "b")))
        ones, twos = torch.ones(1), torch.ones(2)
        with pytest.raises(error):
            metric.update(
                predictions={"a": ones, "b": twos},
                labels={"a": ones, "b": twos},
                weights={"a": ones, "b": torch.ones(3)},
            )
        assert metric._metrics_computations[0].ctr_num.item() == expected


def test_failed_updates_change_no_metric_of_a_list():
    for package, expected in ((OURS, 0.0), (THEIRS, 1.0)):
        metrics = [make(package, name) for name in ("ctr", "ndcg")]
        together = module(package, "rec_metric").RecMetricList(metrics)
        one = {"a": torch.ones(1)}
        with pytest.raises(module(package, "rec_metric").RecMetricException):
            together.update(predictions=one, labels=one, weights=one)
        assert metrics[0]._metrics_computations[0].ctr_num.item() == expected


def test_what_is_none_is_named():
    for package, error in (
        (OURS, module(OURS, "rec_metric").RecMetricException),
        (THEIRS, TypeError),
    ):
        (computation,) = make(package, "weighted_avg")._metrics_computations
        with pytest.raises(error):
            computation.update(predictions=torch.ones(1, 2), labels=torch.ones(1, 2), weights=None)


def test_the_seventh_argument_of_a_computation_is_the_group():
    for package in (OURS, THEIRS):
        computation = module(package, "ctr").CTRMetricComputation(0, 1, 1, 1, False, False, "group")
        is_group = computation.process_group == "group"
        assert is_group == (package == OURS)


def test_fused_tasks_that_are_missing_are_named():
    for package, error, message in ((OURS, ValueError, "got none for"), (THEIRS, KeyError, "b")):
        metric = make(package, "ctr", tasks_of(package, ("a", "b")), is_fused=True)
        with pytest.raises(error, match=message):
            update(metric, [0.5], [1.0])


def test_arrays_without_tasks_are_named():
    for package, error in ((OURS, ValueError), (THEIRS, RuntimeError)):
        ones = torch.ones(1, 2)
        with pytest.raises(error):
            make(package, "ctr").update(predictions=ones, labels=ones, weights=ones)


def test_fused_tasks_share_a_vector_of_sessions():
    for package in (OURS, THEIRS):
        metric = make(package, "ndcg", tasks_of(package, ("a", "b")), is_fused=True)
        both = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
        inputs = {"predictions": both, "labels": torch.tensor([[1.0, 0.0]] * 2)}
        required = {"session_id": torch.ones(2)}
        if package == THEIRS:
            with pytest.raises(AssertionError):
                metric.update(**inputs, weights=torch.ones(2, 2), required_inputs=required)
        else:
            metric.update(**inputs, weights=torch.ones(2, 2), required_inputs=required)
            expected = [0.0, 1 - 1 / math.log2(3)]
            actual = [metric.compute()[f"ndcg-{task}|lifetime_ndcg"].item() for task in "ab"]
            np.testing.assert_allclose(actual, expected, rtol=1e-12)


def configured(package: str, name: str = "CTR", **options: Any) -> Any:
    """A module of one metric, and the arguments of its definition."""
    config, modules = module(package, "metrics_config"), module(package, "metric_module")
    arguments: dict[str, Any] = {}
    definition = config.RecMetricDef(rec_tasks=tasks_of(package), arguments=arguments)
    metrics = {config.RecMetricEnum[name]: definition}
    made = modules.generate_metric_module(
        modules.RecMetricModule,
        metrics_config=config.MetricsConfig(
            rec_tasks=tasks_of(package),
            rec_metrics=metrics,
            rec_compute_mode=mode_of(package, False),
            **options,
        ),
        batch_size=1,
        world_size=1,
        my_rank=0,
        state_metrics_mapping={},
        device=torch.device("cpu"),
    )
    return made, arguments


def computed(made: Any) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
        return made.compute()


def test_arguments_of_definitions_stay_as_they_are():
    assert configured(OURS)[1] == {}
    assert len(configured(THEIRS)[1]) == 3


@pytest.mark.parametrize("name", ["LOG_LOSS", "SERVING_AE_LOSS"])
def test_metrics_without_a_class_are_named(name):
    for package, error in ((OURS, ValueError), (THEIRS, KeyError)):
        with pytest.raises(error):
            configured(package, name)


def test_an_interval_inside_its_bounds_stays(monkeypatch):
    for package in (OURS, THEIRS):
        now = [100.0]
        monkeypatch.setattr(time, "time", lambda now=now: now[0])
        made, _ = configured(package, max_compute_interval=1000.0)
        computed(made)
        now[0] += 5
        computed(made)
        if package == THEIRS:
            with pytest.raises(ZeroDivisionError):
                made.should_compute()
        else:
            assert made.should_compute()
            assert made.compute_interval_steps == 100


def test_intervals_are_adjusted_without_a_process_group(monkeypatch):
    for package in (OURS, THEIRS):
        now = [100.0]
        monkeypatch.setattr(time, "time", lambda now=now: now[0])
        made, _ = configured(package, min_compute_interval=9.0)
        computed(made)
        now[0] += 1
        if package == THEIRS:
            with pytest.raises(ValueError, match="process group has not been initialized"):
                computed(made)
        else:
            computed(made)
            assert made.compute_interval_steps == 1000


def test_values_of_a_module_are_a_dictionary():
    for package in (OURS, THEIRS):
        made, _ = configured(package)
        assert isinstance(computed(made), dict) == (package == OURS)


def test_memory_of_a_module_is_counted():
    for package in (OURS, THEIRS):
        made, _ = configured(package)
        assert hasattr(made, "get_memory_usage") == (package == OURS)


def test_lists_are_not_sorted_by_counting():
    for package, expected in ((OURS, [3.0, 1.0, 2.0]), (THEIRS, [1.0, 2.0, 3.0])):
        numbers = [3.0, 1.0, 2.0]
        module(package, "rauc").count_reverse_pairs_divide_and_conquer(numbers)
        assert numbers == expected


def test_cross_entropies_leave_predictions_alone():
    for package, expected in ((OURS, 1.0), (THEIRS, 1 - 1e-12)):
        predictions = tensor([[1.0]])
        module(package, "ne").compute_cross_entropy(
            tensor([[1.0]]), predictions, tensor([[1.0]]), 1e-12
        )
        assert predictions.item() == expected


def test_the_area_of_nothing_is_a_value():
    empty = torch.zeros(1, 0)
    with pytest.raises(IndexError):
        module(THEIRS, "auprc").compute_auprc(1, empty, empty, empty)
    assert module(OURS, "auprc").compute_auprc(1, empty, empty, empty).tolist() == [0.0]


def test_more_classes_than_there_are_scores_are_named():
    for package, error in ((OURS, ValueError), (THEIRS, RuntimeError)):
        compute = module(package, "multiclass_recall").compute_true_positives_at_k
        with pytest.raises(error):
            compute(torch.rand(2, 3), torch.zeros(2), torch.ones(2), 4)


def test_formulas_of_float32_sums_are_in_float64():
    third = torch.tensor([1.0]), torch.tensor([3.0])
    ours, theirs = (module(p, "calibration").compute_calibration(*third) for p in (OURS, THEIRS))
    assert ours.item() == 1 / 3
    assert theirs.item() == float(np.float32(1 / 3))


def test_transposed_arrays_of_fused_tasks_are_named():
    """Of two tasks and three examples; the second task has no clicks."""
    labels = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]).T.contiguous()
    for package in (OURS, THEIRS):
        tasks = tasks_of(package, ("a", "b"))
        metric = make(package, "ctr", tasks, is_fused=True)
        arguments = {"predictions": labels, "labels": labels, "weights": torch.ones(3, 2)}
        if package == OURS:
            with pytest.raises(ValueError, match=r"predictions: .* its transpose, predictions\.T"):
                metric.update(**arguments)
        else:
            metric.update(**arguments)
            value = metric.compute()["ctr-a|lifetime_ctr"].item()
            assert value == pytest.approx(2 / 3)  # Which is 1: the tasks are mixed.


def test_vectors_of_no_certain_task_are_named():
    for package in (OURS, THEIRS):
        tasks = tasks_of(package, ("a", "b"))
        metric = make(package, "ctr", tasks, is_fused=True)
        (computation,) = metric._metrics_computations
        vector = torch.ones(3)
        arguments = {"predictions": vector, "labels": vector, "weights": vector}
        if package == OURS:
            with pytest.raises(ValueError, match=r"predictions: expected shape \[2, N\]"):
                computation.update(**arguments)
        else:
            computation.update(**arguments)
            assert computation.ctr_num.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("name", ["unweighted_ne", "ne_positive", "cali_free_ne"])
def test_tasks_without_examples_in_relatives_of_ne_keep_their_keys(name):
    keys = [f"{name}-{t}|{p}_{name}" for p in ("lifetime", "window") for t in "ab"]
    for package, expected in ((OURS, keys), (THEIRS, keys[::2])):
        tasks = tasks_of(package, ("a", "b"))
        options = {"is_fused": True, "allow_missing_label_with_zero_weight": True}
        metric = make(package, name, tasks, **options)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
            computed = metric.compute()
        assert list(computed) == expected
        dtype = torch.float64 if package == OURS else torch.float32
        assert {value.dtype for value in computed.values()} == {dtype}
        assert {np.float32(value.item()) for value in computed.values()} == {np.float32(1e-12)}
