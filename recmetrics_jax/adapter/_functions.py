"""The documented free functions: the formulas of the functional core, over anyone's arrays."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.base import Values
from recmetrics_jax._src.identity import Formula
from recmetrics_jax._src.terms import Term
from recmetrics_jax.adapter._compiling import Compiled
from recmetrics_jax.adapter._declaration import declare
from recmetrics_jax.adapter._inputs import host_inputs
from recmetrics_jax.adapter._layout import TaskBatch, shape_of
from recmetrics_jax.adapter._module import RecMetricException
from recmetrics_jax.adapter._passes import statistics_of
from recmetrics_jax.adapter._tensors import (
    Kind,
    Tensor,
    from_numpy,
    kind_of,
    to_numpy,
)

PREDICTIONS = "predictions"
LABELS = "labels"
WEIGHTS = "weights"
GROUPING_KEYS = "grouping_keys"
REQUIRED_INPUTS = "required_inputs"

KEPT = 64
"""Functions of each sort whose compiled form is kept."""


def kind_among(arrays: Sequence[Any]) -> Kind:
    """Whose arrays the arguments are."""
    kinds = {kind_of(x) for x in arrays if x is not None}
    return "torch" if "torch" in kinds else "jax" if "jax" in kinds else "numpy"


@functools.lru_cache(maxsize=KEPT)
def _compiled(function: Formula) -> Callable[..., jax.Array]:
    return Compiled(function)


def apply(function: Callable[..., jax.Array], *arrays: Any, keeps_dtype: bool = False) -> Tensor:
    """``function`` of arrays in float64, as an array of the kind of the arguments.

    It is float64 too, unless it ``keeps_dtype``.

    Args:
        function: defined once, with what options a `functools.partial` binds; compiled once.
        *arrays: the arguments.
        keeps_dtype: whether the result has the dtype of the arguments.
    """
    host = [to_numpy(x) for x in arrays]
    result = np.array(_compiled(Formula.of(function))(*(x.astype(np.float64) for x in host)))
    if keeps_dtype:
        result = result.astype(np.result_type(np.float32, *host))
    return from_numpy(result, kind_among(arrays))


def apply_to_sums(
    values: Callable[[Any], Values],
    name: str,
    sums: type,
    *,
    undefined: float = math.nan,
    keeps_dtype: bool = False,
    **by_field: Any,
) -> Tensor:
    """A value of sufficient statistics, given by field, by the formula of a metric.

    Args:
        values: the formula, as for `apply`.
        name: the name of the value.
        sums: the type of what the formula takes.
        undefined: what the value is where it is undefined and no sum is NaN.
        keeps_dtype: whether the result has the dtype of the arguments.
        **by_field: the sums.
    """
    value = functools.partial(_value_of_sums, values, name, sums, tuple(by_field), undefined)
    return apply(value, *by_field.values(), keeps_dtype=keeps_dtype)


def _value_of_sums(
    values: Callable[[Any], Values],
    name: str,
    sums: type,
    fields: tuple[str, ...],
    undefined: float,
    *arrays: jax.Array,
) -> jax.Array:
    value = values(sums(**dict(zip(fields, arrays, strict=True))))[name]
    if math.isnan(undefined):
        return value
    is_nan = functools.reduce(jnp.logical_or, map(jnp.isnan, arrays))
    return jnp.where(jnp.isnan(value) & ~is_nan, undefined, value)


_statistics_of = functools.lru_cache(maxsize=KEPT)(statistics_of)


def term_sums(
    terms: Mapping[str, Term],
    labels: Any,
    predictions: Any,
    weights: Any,
    in_float64: Sequence[str] = (),
    keys: Mapping[str, Any] | None = None,
) -> dict[str, Tensor]:
    """Sums of terms over the last axis, by name.

    Args:
        terms: the terms by name.
        labels: ``[..., N]``.
        predictions: ``[..., N]``, or ``[..., N, C]``.
        weights: ``[..., N]``; None for ones.
        in_float64: the sums that are float64; others have the dtype of the arguments.
        keys: the keys that the terms read, by name, ``[N]`` each.

    Returns:
        ``[..., *shape]`` each. All are added up in float64.
    """
    arrays = labels, predictions, weights
    y, p = to_numpy(labels), to_numpy(predictions)
    w = np.ones(y.shape, p.dtype) if weights is None else to_numpy(weights)
    dtype = np.result_type(y, p, w)
    rows = math.prod(y.shape[:-1])
    p, y2, w = (
        x.reshape(rows, y.shape[-1], *x.shape[y.ndim :])
        for x in (p, y, np.broadcast_to(w, y.shape))
    )
    keys = keys or {}
    inputs = host_inputs([TaskBatch(0, p, y2, w)], keys, tuple(keys), rows)
    statistics = _statistics_of(tuple(terms.values()))
    sums = statistics(inputs)
    kind = kind_among(arrays)
    results = {}
    for name, term in terms.items():
        total = sums[statistics.rows[term]].T.reshape(*y.shape[:-1], *term.shape)
        results[name] = from_numpy(total if name in in_float64 else total.astype(dtype), kind)
    return results


_declare = functools.lru_cache(maxsize=KEPT)(declare)


def of_samples(
    factory: Callable[..., Any],
    name: str,
    predictions: Any,
    labels: Any,
    weights: Any,
    grouping_keys: Any = None,
    **options: Any,
) -> Tensor:
    """A value of examples by a factory of such metrics, ``[T]``.

    Args:
        factory: a functional factory with the options below.
        name: the name of the value.
        predictions: ``[T, N]``, or a list of such along the last axis.
        labels: like ``predictions``.
        weights: like ``predictions``.
        grouping_keys: ``[N]`` or ``[T, N]``, for grouped values.
        **options: of the factory.

    Raises:
        ValueError: if shapes differ.
    """
    arrays = [_joined(x) for x in (predictions, labels, weights)]
    shape = arrays[0].shape
    check_alike(*arrays)
    keys = {} if grouping_keys is None else {"grouping_keys": grouping_keys}
    if keys and math.prod(shape_of(grouping_keys)) not in (shape[1], math.prod(shape)):
        raise ValueError(
            f"grouping_keys: expected {shape[1]} or {shape} numbers, got {shape_of(grouping_keys)}"
        )
    inputs = host_inputs([TaskBatch(0, *arrays)], keys, tuple(keys), shape[0])
    declaration = _declare(factory, tuple(options.items()), shape[0], 1)
    kind = kind_among(predictions if isinstance(predictions, list | tuple) else [predictions])
    value = declaration.sample_values(inputs)[name]
    dtype = np.dtype(np.float32) if keys else np.result_type(*arrays)
    return from_numpy(value.astype(dtype if dtype.kind == "f" else np.float32), kind)


def _joined(x: Any) -> np.ndarray:
    """An array ``[T, N]``, or a list of them, as one."""
    if not isinstance(x, list | tuple):
        return np.atleast_2d(to_numpy(x))
    arrays = [np.atleast_2d(to_numpy(array)) for array in x]
    return np.concatenate(arrays, axis=-1) if arrays else np.zeros((1, 0), np.float32)


def check_alike(predictions: Any, labels: Any, weights: Any) -> None:
    """Raises ValueError if labels or weights are not of the shape of the predictions."""
    shape = shape_of(predictions)
    for name, x in (("labels", labels), ("weights", weights)):
        if shape_of(x) != shape:
            raise ValueError(f"{name}: expected shape {shape}, as predictions, got {shape_of(x)}")


def check_fused_update(name: str, is_grouped: bool, fused_update_limit: int) -> None:
    """Raises RecMetricException if groups are asked for along with a fused update."""
    if is_grouped and fused_update_limit > 0:
        raise RecMetricException(f"{name} and Fused Update Limit cannot be enabled together yet.")
