"""NE by group: the values of the groups alone, by one key or by several."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from adapter_cases import (
    FUSED,
    FUSED_STATES,
    KEYS,
    LABELS,
    PREDICTIONS,
    TASKS,
    UNFUSED,
    WEIGHTS,
    N,
    assert_same,
    batch,
    case_of,
    unchanged,
    values,
)

from recmetrics_jax.adapter import ne, segmented_ne
from recmetrics_jax.adapter._tensors import as_kind, to_numpy
from recmetrics_jax.adapter.metric_module import RecMetricModule
from recmetrics_jax.adapter.metrics_config import RecTaskInfo
from recmetrics_jax.adapter.rec_metric import RecMetricException, RecMetricList
from recmetrics_jax.adapter.segmented_ne import GroupingKeyConfig, SegmentedNEMetric

MODES = [UNFUSED, FUSED, FUSED_STATES]
every_mode = pytest.mark.parametrize("mode", MODES, ids=["unfused", "fused", "fused states"])
STATES = ("cross_entropy_sum", "weighted_num_samples", "pos_labels", "neg_labels")
CASE = case_of("segmented_ne")
DEVICES = np.array([2, 0, 2, 0, 2, 0, 2, 0])


def made(**options: Any) -> SegmentedNEMetric:
    return SegmentedNEMetric(1, 0, batch_size=N, tasks=TASKS, **options)


def with_keys(seed: int, **keys: Any) -> dict[str, Any]:
    return {**batch(CASE, seed), "required_inputs": keys}


def by_groups(numbers: np.ndarray, seeds: tuple[int, ...], task: str, count: int) -> list[Any]:
    """The NE and logloss of the examples of each group, by the metric of no groups."""
    results = []
    for group in range(count):
        metric = case_of("ne with logloss").make(TASKS[:1])
        for seed in seeds:
            arguments = batch(CASE, seed)
            arrays = ("predictions", "labels", "weights")
            metric.update(**{k: {"a": arguments[k][task][numbers == group]} for k in arrays})
        results.append([x.item() for x in list(values(metric).values())[::2]])
    return results


@every_mode
def test_values_are_those_of_the_groups_alone(mode):
    metric = made(num_groups=4, include_logloss=True, compute_mode=mode, window_size=2 * N)
    for seed in (0, 1, 2):
        metric.update(**with_keys(seed, grouping_keys=DEVICES))
    computed = values(metric)
    for scope, seeds in (("lifetime", (0, 1, 2)), ("window", (1, 2))):
        for task in "ab":
            for group, (entropy, logloss) in enumerate(by_groups(DEVICES, seeds, task, 4)):
                key = f"segmented_ne-{task}|{scope}"
                value = computed[f"{key}_segmented_ne_{group}"]
                assert (value.dtype, value.shape) == (np.float32, ())
                np.testing.assert_allclose(value, entropy, rtol=1e-6)
                value = computed[f"{key}_logloss_{group}"]
                assert (value.dtype, value.shape) == (np.float64, ())
                np.testing.assert_allclose(value, logloss, rtol=1e-12)


def test_keys_are_in_the_order_of_the_reference():
    metric = made(grouping_keys=["device", "country"], num_groups=2, include_logloss=True)
    names = [
        f"{scope}_{name}_{group}@{key}"
        for key in ("device", "country")
        for name in ("segmented_ne", "logloss")
        for group in range(2)
        for scope in ("lifetime", "window")
    ]
    assert list(values(metric)) == [f"segmented_ne-{t}|{name}" for t in "ab" for name in names]
    fused = made(grouping_keys=["device", "country"], num_groups=2, compute_mode=FUSED)
    names = [name for name in names if "logloss" not in name]
    assert list(values(fused)) == [f"segmented_ne-{t}|{name}" for name in names for t in "ab"]


FORMS = {
    "a name": ("country", False),
    "one name in a list": (["country"], True),
    "a dictionary": ([{"name": "country", "num_groups": 2}], True),
    "a configuration": ([GroupingKeyConfig("country", 2)], True),
    "a tuple": (("country",), True),
    "the default": ("grouping_keys", False),
    "the default in a list": (["grouping_keys"], False),
}


@pytest.mark.parametrize("form", FORMS)
def test_names_of_states_and_values_by_the_form_of_the_key(form):
    keys, is_named = FORMS[form]
    metric = made(grouping_keys=keys, num_groups=2, compute_mode=FUSED)
    name = "grouping_keys" if "default" in form else "country"
    assert metric.get_required_inputs() == {name}
    metric.update(**with_keys(0, **{name: KEYS}))
    prefix = f"{name}_" if is_named else ""
    state = metric.state_dict()
    assert list(state) == [f"_metrics_computations.0.{prefix}{of}" for of in STATES]
    assert {(to_numpy(x).dtype.name, tuple(x.shape)) for x in state.values()} == {
        ("float64", (2, 2))
    }
    suffix = f"@{name}" if is_named else ""
    for key, expected in CASE.values.items():
        actual = values(metric)[f"segmented_ne-a|{key}{suffix}"]
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


@every_mode
def test_each_of_several_keys_has_the_values_it_has_alone(mode):
    keys = [
        {"name": "country", "num_groups": 2},
        GroupingKeyConfig("device", 3),
        {"name": "hour", "cast_keys_to_int": True},
    ]
    numbers = {"country": KEYS, "device": DEVICES, "hour": np.arange(N) % 5 + 0.5}
    together = made(grouping_keys=keys, num_groups=5, compute_mode=mode)
    assert together.get_required_inputs() == set(numbers)
    for seed in (0, 1):
        together.update(**with_keys(seed, **numbers))
    expected: dict[str, Any] = {}
    for name, count in (("country", 2), ("device", 3), ("hour", 5)):
        alone = made(grouping_keys=name, num_groups=count, cast_keys_to_int=True, compute_mode=mode)
        for seed in (0, 1):
            alone.update(**with_keys(seed, **{name: numbers[name]}))
        expected |= {f"{key}@{name}": x for key, x in values(alone).items()}
    actual = values(together)
    assert_same({key: actual[key] for key in expected}, expected)
    assert len(actual) == len(expected)


def test_what_is_behind_the_point_is_dropped():
    whole, floats = (made(num_groups=2, cast_keys_to_int=True) for _ in range(2))
    behind = np.array([0.0, -0.75, 0.9, 0.0, 0.9, 0.0, 0.5, 0.25])
    for dtype in (np.float32, np.float64):
        whole.update(**with_keys(0, grouping_keys=KEYS))
        floats.update(**with_keys(0, grouping_keys=np.where(KEYS == 0, behind, 1.5).astype(dtype)))
    assert_same(values(floats), values(whole))


WRONG = {
    "int32": (KEYS.astype(np.int32), RecMetricException, "int64"),
    "bool": (KEYS == 1, RecMetricException, "int64"),
    "floats": (KEYS / 1.0, RecMetricException, "cast_keys_to_int"),
    "too large": (KEYS + 1, IndexError, "from 0 to 1, got 1 to 2"),
    "below 0": (KEYS - 1, IndexError, "from 0 to 1, got -1 to 0"),
    "too many": (np.zeros(N + 1, np.int64), ValueError, "grouping_keys"),
}


@every_mode
@pytest.mark.parametrize("name", WRONG)
def test_keys_that_are_no_groups_are_named_and_change_nothing(name, mode):
    keys, error, message = WRONG[name]
    metric = CASE.make(compute_mode=mode)
    metric.update(**batch(CASE, 0))
    with unchanged(metric), pytest.raises(error, match=message):
        metric.update(**with_keys(1, grouping_keys=keys))


@pytest.mark.parametrize("value", [-1.0, 2.0, np.nan, np.inf], ids=str)
def test_floats_that_are_no_groups_are_named(value):
    metric = CASE.make(cast_keys_to_int=True)
    keys = KEYS / 1.0
    keys[3] = value
    with unchanged(metric), pytest.raises(IndexError, match=r"grouping_keys: .* from 0 to 1"):
        metric.update(**with_keys(0, grouping_keys=keys))


def test_integers_of_jax_need_no_more_than_32_bits():
    metric, other = CASE.make(), CASE.make()
    metric.update(**with_keys(0, grouping_keys=as_kind(KEYS.astype(np.int32), "jax")))
    other.update(**with_keys(0, grouping_keys=KEYS))
    assert_same(values(metric), values(other))


BAD_OPTIONS: dict[str, dict[str, Any]] = {
    "no key": {"grouping_keys": []},
    "one key twice": {"grouping_keys": ["a", {"name": "a"}]},
    "no name": {"grouping_keys": [3]},
    "no groups": {"num_groups": 0},
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_options_that_are_wrong_are_named(name):
    with pytest.raises(ValueError, match=next(iter(BAD_OPTIONS[name]))):
        made(**BAD_OPTIONS[name])
    with pytest.raises(ValueError, match="Unexpected keyword arguments: `foo`"):
        made(foo=1)


def test_names_that_old_programs_read():
    (computation,) = made(grouping_keys=["x", "y"], num_groups=3, compute_mode=FUSED).computations
    assert (computation._grouping_keys, computation._num_groups) == ("x", 3)
    assert [c.name for c in computation._grouping_key_configs] == ["x", "y"]
    assert not computation._is_single_default_key
    assert computation.eta == 1e-12


def test_configurations_are_copied():
    config = GroupingKeyConfig("country", 2)
    metric = made(grouping_keys=[config])
    config.num_groups = 1
    metric.update(**with_keys(0, country=KEYS))
    assert len(values(metric)) == 2 * 2 * 2


def test_a_group_with_a_nan_leaves_the_others_alone():
    metric, other = (made(num_groups=3, include_logloss=True) for _ in range(2))
    arguments = with_keys(0, grouping_keys=KEYS)
    other.update(**arguments)
    arguments["labels"]["a"] = np.where(np.arange(N) == 5, np.nan, arguments["labels"]["a"])
    metric.update(**arguments)
    for key, value in values(metric).items():
        is_bad = "-a|" in key and key.endswith("_1")
        np.testing.assert_equal(value, np.nan if is_bad else values(other)[key], err_msg=key)


def test_joined_updates_keep_their_groups():
    joined, one = CASE.make(fused_update_limit=2), CASE.make()
    for seed in (0, 1):
        joined.update(**batch(CASE, seed))
        one.update(**batch(CASE, seed))
    assert_same(values(joined), values(one), 1e-6)
    with unchanged(joined), pytest.raises(IndexError):
        joined.update(**with_keys(2, grouping_keys=KEYS + 1))


def test_tasks_without_weights_are_0_where_updates_are_validated():
    metric = CASE.make(should_validate_update=True, compute_mode=FUSED)
    arguments = batch(CASE)
    arguments["weights"]["b"] = np.zeros(N)
    metric.update(**arguments)
    for key, value in values(metric).items():
        assert (value == 0) == ("-b|" in key)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
def test_copies_go_their_own_ways(copied):
    metric = made(grouping_keys=["country", "device"], num_groups=3, window_size=2 * N)
    metric.update(**with_keys(0, country=KEYS, device=DEVICES))
    other = copied(metric)
    assert_same(values(other), values(metric))
    with unchanged(metric):
        other.update(**with_keys(1, country=KEYS, device=DEVICES))


def test_states_of_other_groups_are_refused():
    metric, other = made(num_groups=2), made(num_groups=3)
    with unchanged(metric), pytest.raises(RuntimeError, match="cross_entropy_sum"):
        metric.load_state_dict(other.state_dict())


def test_metrics_of_one_module_read_the_same_key_each_in_its_way():
    """Of floats: AUC groups by the number as it is, NE by what is before the point."""
    tasks = [RecTaskInfo("a", "y", "p", "w")]
    keys = np.array([0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 0.0, 1.0])
    outputs = {"y": LABELS, "p": PREDICTIONS, "w": WEIGHTS, "grouping_keys": keys}
    auc = case_of("grouped auc")
    together = [auc.make(tasks), CASE.make(tasks, cast_keys_to_int=True)]
    RecMetricModule(N, 1, tasks, RecMetricList(together)).update(outputs)
    alone = [auc.make(tasks), CASE.make(tasks, cast_keys_to_int=True)]
    for metric in alone:
        RecMetricModule(N, 1, tasks, RecMetricList([metric])).update(outputs)
    for metric, expected in zip(together, alone, strict=True):
        assert_same(values(metric), values(expected))


def test_states_of_many_groups_are_those_of_bincount():
    rng = np.random.default_rng(51)
    n, count = 500, 1000
    labels, predictions, weights = (
        rng.integers(0, 2, (2, n)),
        rng.random((2, n)),
        rng.random((2, n)),
    )
    keys = rng.integers(0, count, n)
    states = segmented_ne.get_segemented_ne_states_fused(
        labels, predictions, weights, keys, 1e-12, count, 2
    )
    assert list(states) == list(STATES)
    examples = {
        "cross_entropy_sum": ne.compute_cross_entropy(labels, predictions, weights, 1e-12),
        "weighted_num_samples": weights,
        "pos_labels": weights * labels,
        "neg_labels": weights * (1 - labels),
    }
    for name, x in examples.items():
        expected = [np.bincount(keys, row, minlength=count) for row in x]
        np.testing.assert_allclose(states[name], expected, rtol=1e-12, atol=1e-15)
    values_of_groups = segmented_ne.compute_ne_fused(
        *states.values(), num_groups=count, n_tasks=2, eta=1e-12
    )
    assert (values_of_groups.dtype, values_of_groups.shape) == (np.float32, (2, count))
    assert np.isnan(values_of_groups[:, np.bincount(keys, minlength=count) == 0]).all()


def test_functions_name_numbers_of_no_group():
    one = np.ones((1, 2))
    for keys in ([[0, 2]], [[-1, 0]]):
        with pytest.raises(IndexError, match="grouping_keys"):
            segmented_ne.get_segemented_ne_states(one, one, one, np.array(keys), 1e-12, 2)
