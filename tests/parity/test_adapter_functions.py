"""The documented free functions agree with the reference's: dtypes, shapes, values to 1e-9.

Numbers are small multiples of powers of two, and no two predictions are equal, so that what the
reference does in float32 is exact, and does not depend on how it sorts. Sums are in float64, as
states are.
"""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from adapter_pair import OURS, THEIRS, module
from reference import CONTRACT, torch

from recmetrics_jax.adapter._tensors import from_numpy, kind_of, to_numpy

FUNCTIONS = [
    (name, function)
    for name, contract in CONTRACT.items()
    for function in contract["functions"]
    if name != "metric_module"
]
UNDOCUMENTED = {
    "unweighted_ne": ("compute_cross_entropy", "compute_ne", "get_unweighted_ne_states"),
    "ne_positive": (
        "compute_cross_entropy_positive",
        "compute_ne_positive",
        "get_ne_positive_states",
    ),
    "cali_free_ne": ("compute_cross_entropy", "compute_cali_free_ne", "get_cali_free_ne_states"),
    "segmented_ne": (
        "compute_cross_entropy",
        "compute_logloss",
        "compute_ne",
        "compute_ne_fused",
        "compute_ne_helper",
        "get_segemented_ne_states",
        "get_segemented_ne_states_fused",
    ),
    "nmse": ("compute_norm", "get_norm_mse_states"),
    "average": ("compute_average", "get_average_states"),
    "num_missing_labels": ("compute_missing_label_sum", "get_num_missing_labels_states"),
    "num_positive_samples": ("compute_weighted_pos_sum", "get_num_positive_sample_states"),
    "sum_weights": ("compute_weighted_sum", "get_weighted_sum_states"),
    "weighted_sum_predictions": (
        "compute_weighted_predictions_sum",
        "get_weighted_sum_prediction_states",
    ),
    "multi_label_precision": ("compute_multi_label_precision",),
    "hindsight_target_pr": ("compute_precision", "compute_recall"),
    "tensor_weighted_avg": ("get_mean",),
}
FUNCTIONS += [(name, function) for name, of_name in UNDOCUMENTED.items() for function in of_name]
T, N, C = 2, 24, 4
GROUPS = 2
ETA = 1e-12
SEEDS = 4
Rng = np.random.Generator
Make = Callable[[Rng, Any], Any]


def eighths(rng: Rng, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    return rng.integers(low, high + 1, shape) / 8


def distinct(rng: Rng) -> np.ndarray:
    """Predictions, of which none are equal, nor the threshold 0.5."""
    return np.stack([2 * rng.permutation(64)[:N] + 1 for _ in range(T)]) / 128


def sums(rng: Rng) -> np.ndarray:
    """Of tasks, at times zero."""
    return eighths(rng, (T,), 1, 40) * (rng.random(T) < 0.8)


def sums_of_ne(rng: Rng, shape: tuple[int, ...], *, has_weight: bool) -> dict[str, Any]:
    """Which fit together: without weight, as tasks are at times, there are no labels either."""
    positive, negative, entropy = (eighths(rng, shape, 1, 40) for _ in range(3))
    weights = (rng.random(shape) < 0.7) | has_weight
    by_name = {
        "ce_sum": entropy,
        "ce_positive_sum": entropy,
        "weighted_sum_predictions": (positive + negative) * eighths(rng, shape, 1, 7),
        "weighted_num_samples": positive + negative,
        "pos_labels": positive,
        "neg_labels": negative,
    }
    return {name: torch.tensor(x * weights) for name, x in by_name.items()}


def scores(rng: Rng) -> np.ndarray:
    return rng.permuted(np.tile(np.arange(C), (T, N, 1)), axis=-1) / 8


def clicks(rng: Rng) -> np.ndarray:
    labels = rng.integers(0, 2, (T, N)) / 1.0
    labels[:, :2] = 0.0, 1.0
    return labels


def some(rng: Rng, numbers: np.ndarray) -> np.ndarray:
    """Of which others are missing."""
    return np.where(rng.random(numbers.shape) < 0.25, np.nan, numbers)


def groups(rng: Rng) -> np.ndarray:
    """Each of several examples."""
    return rng.permutation(np.arange(N) // 4) * 10**12


ARRAYS: dict[str, Callable[[Rng], np.ndarray]] = {
    "predictions": distinct,
    "labels": clicks,
    "weights": lambda rng: rng.integers(1, 4, (T, N)) / 1.0,
}
PER_MODULE: dict[str, dict[str, Callable[[Rng], np.ndarray]]] = {
    "multiclass_recall": {
        "predictions": scores,
        "labels": lambda rng: rng.integers(0, C, (T, N)) / 1.0,
        "tp_at_k": lambda rng: eighths(rng, (T, C), 0, 40),
        "total_weights": lambda rng: eighths(rng, (T,), 1, 40),
    },
    "mse": {"labels": lambda rng: eighths(rng, (T, N), -16, 16)},
    "mae": {"labels": lambda rng: eighths(rng, (T, N), -16, 16)},
    "nmse": {"labels": lambda rng: eighths(rng, (T, N), -16, 16)},
    "num_missing_labels": {"labels": lambda rng: some(rng, clicks(rng))},
    "num_positive_samples": {"labels": lambda rng: some(rng, clicks(rng))},
    "weighted_sum_predictions": {"predictions": lambda rng: some(rng, distinct(rng))},
    "xauc": {"labels": lambda rng: eighths(rng, (T, N), 0, 5)},
    "rauc": {"labels": lambda rng: eighths(rng, (T, N), 0, 5)},
}
OPTIONS: dict[str, tuple[Any, ...]] = {
    "eta": (ETA, 1e-3),
    "threshold": (0.5, 0.25, 0.7),
    "apply_bin": (False, True),
    "allow_missing_label_with_zero_weight": (False, True),
    "n_classes": (C, C - 1),
    "n_tasks": (T,),
    "num_groups": (GROUPS,),
}
LISTED = ("auc", "rauc")  # which take lists of arrays
OF_NE = {  # which take sums of these shapes
    "compute_ne": (T,),
    "compute_ne_helper": (T,),
    "compute_ne_fused": (T, GROUPS),
    "compute_ne_positive": (T,),
    "compute_cali_free_ne": (T,),
}


def argument(name: str, parameter: str, rng: Rng, dtype: Any) -> Any:
    if parameter in OPTIONS:
        options = OPTIONS[parameter]
        return options[int(rng.integers(len(options)))]
    if parameter == "grouping_keys":
        return torch.tensor(groups(rng))
    make = PER_MODULE.get(name, {}).get(parameter) or ARRAYS.get(parameter) or sums
    values = make(rng)
    x = torch.tensor(values, dtype=dtype if values.shape[1:2] == (N,) else torch.float64)
    if name in LISTED:
        parts = [N] if rng.random() < 0.5 else [N // 3, N - N // 3]
        return [part.clone() for part in x.split(parts, dim=-1)]
    return x


def one_list_each(arguments: dict[str, Any]) -> dict[str, Any]:
    """Lists of predictions, labels and weights are of equal parts."""
    if "labels" not in arguments or not isinstance(arguments["labels"], list):
        return arguments
    sizes = [part.shape[-1] for part in arguments["labels"]]
    return {
        name: list(torch.cat(x, dim=-1).split(sizes, dim=-1)) if isinstance(x, list) else x
        for name, x in arguments.items()
    }


NUMBERS = {
    "count_reverse_pairs_divide_and_conquer": lambda x: {"input": x},
    "divide": lambda x: {"input": x, "low": 2, "high": len(x) - 3},
    "conquer_and_count": lambda x: {
        "input": sorted(x[: len(x) // 2]) + sorted(x[len(x) // 2 :]),
        "left_index": 0,
        "mid_index": len(x) // 2 - 1,
        "right_index": len(x) - 1,
    },
}


def arguments_of(name: str, function: str, seed: int, dtype: Any) -> dict[str, Any]:
    rng = np.random.default_rng([seed, len(function)])
    if function in NUMBERS:
        return NUMBERS[function]((rng.integers(0, 20, N) / 4).tolist())
    parameters = inspect.signature(getattr(module(OURS, name), function)).parameters
    arguments = {parameter: argument(name, parameter, rng, dtype) for parameter in parameters}
    if function in OF_NE:
        # Of these, the reference drops all tasks if one may have no examples.
        has_weight = name in ("unweighted_ne", "ne_positive", "cali_free_ne")
        by_name = sums_of_ne(rng, OF_NE[function], has_weight=has_weight)
        arguments |= {name: by_name[name] for name in arguments if name in by_name}
    if "num_groups" in arguments and "grouping_keys" in arguments:
        shape = (N,) if function.endswith("fused") else (T, N)
        arguments["grouping_keys"] = torch.tensor(rng.integers(0, GROUPS, shape))
    return one_list_each(arguments)


def assert_same(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, dict):
        assert list(ours)[: len(theirs)] == list(theirs)
        for key, value in theirs.items():
            assert_same(ours[key], value)
    elif isinstance(theirs, torch.Tensor):
        assert isinstance(ours, torch.Tensor)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        rtol = 3e-7 if theirs.dtype == torch.float32 else 1e-9
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=1e-15, equal_nan=True)
    else:
        assert type(ours) is type(theirs)
        assert ours == pytest.approx(theirs, rel=1e-12)


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "function"), FUNCTIONS, ids=lambda x: x)
def test_function_agrees_with_the_reference(name, function, dtype):
    for seed in range(SEEDS):
        arguments = arguments_of(name, function, seed, dtype)
        given = copy.deepcopy(arguments)
        ours = getattr(module(OURS, name), function)(**given)
        theirs = getattr(module(THEIRS, name), function)(**copy.deepcopy(arguments))
        assert_same(ours, theirs)
        if function not in NUMBERS:
            assert_same_arguments(given, arguments)


def assert_same_arguments(given: dict[str, Any], before: dict[str, Any]) -> None:
    """Nothing was written to what was given."""
    for name, x in before.items():
        pairs = zip(x, given[name], strict=True) if isinstance(x, list) else [(x, given[name])]
        for expected, actual in pairs:
            np.testing.assert_array_equal(to_numpy(actual), to_numpy(expected), err_msg=name)


@pytest.mark.parametrize(("name", "function"), FUNCTIONS, ids=lambda x: x)
def test_function_takes_arrays_of_any_kind(name, function):
    if function in NUMBERS:
        pytest.skip("takes numbers")
    arguments = arguments_of(name, function, 0, torch.float32)
    call = getattr(module(OURS, name), function)
    expected = call(**arguments)
    for kind, convert in (("numpy", to_numpy), ("jax", lambda x: from_numpy(x.numpy(), "jax"))):
        converted = {}
        for parameter, x in arguments.items():
            is_keys = parameter == "grouping_keys"  # of int64, which JAX has not by default
            if isinstance(x, list):
                converted[parameter] = [convert(part) for part in x]
            else:
                is_array = isinstance(x, torch.Tensor)
                converted[parameter] = (to_numpy if is_keys else convert)(x) if is_array else x
        result = call(**converted)
        results = result if isinstance(result, dict) else {"": result}
        wanted = expected if isinstance(expected, dict) else {"": expected}
        for key, value in results.items():
            assert kind_of(value) == kind
            np.testing.assert_array_equal(to_numpy(value), to_numpy(wanted[key]), err_msg=key)
            assert to_numpy(value).dtype == to_numpy(wanted[key]).dtype


def test_states_without_weights_are_of_weight_one():
    functions = [(name, f"get_{name}_states") for name in ("accuracy", "precision", "recall")]
    functions += [
        (name, UNDOCUMENTED[name][1])
        for name in ("num_missing_labels", "num_positive_samples", "sum_weights")
    ]
    for name, function in functions:
        arguments = arguments_of(name, function, 0, torch.float64) | {"weights": None}
        both = (getattr(module(p, name), function)(**arguments) for p in (OURS, THEIRS))
        assert_same(*both)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sums_at_thresholds_agree_with_the_reference(dtype):
    """Of one task: the reference has no others."""
    rng = np.random.default_rng(43)
    tensors = (torch.tensor(ARRAYS[n](rng)[:1], dtype=dtype) for n in ARRAYS)
    arrays = dict(zip(ARRAYS, tensors, strict=True))
    arrays["predictions"][0, :2] = torch.tensor([0.0, 1.0])
    for name in ("true_pos", "false_pos", "false_neg"):
        functions = [getattr(module(p, HINDSIGHT), f"compute_{name}_sum") for p in (OURS, THEIRS)]
        assert_same(*(function(**arrays) for function in functions))
    states = [module(p, HINDSIGHT).get_pr_states(**arrays) for p in (OURS, THEIRS)]
    assert_same(*states)
    sums = [states[1][f"{name}_sum"] for name in ("true_pos", "false_pos")]
    for target in (0.1, 0.5, 0.9, 1.1):
        both = (module(p, HINDSIGHT).compute_threshold_idx(*sums, target) for p in (OURS, THEIRS))
        assert_same(*both)


HINDSIGHT = "hindsight_target_pr"


@pytest.mark.parametrize("name", ["auc", "rauc"])
def test_lists_without_arrays_hold_no_examples(name):
    assert getattr(module(OURS, name), f"compute_{name}")(1, [], [], []).tolist() == [0.5]


@pytest.mark.parametrize("name", ["auc", "auprc", "rauc"])
def test_areas_of_arrays_that_do_not_fit_are_named(name):
    compute = getattr(module(OURS, name), f"compute_{name}")
    ones, fewer = torch.ones(1, 3), torch.ones(1, 2)
    for arguments, wrong in (((ones, fewer, ones), "labels"), ((ones, ones, fewer), "weights")):
        lists = arguments if name == "auprc" else [[x] for x in arguments]
        with pytest.raises(ValueError, match=wrong):
            compute(1, *lists)
