"""AUC by group of candidates, averaged; the class API of torchrec.metrics.gauc."""

from collections.abc import Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src import segments
from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.build import sum_metric
from recmetrics_jax._src.curves import curve, roc_area
from recmetrics_jax._src.metric import Metric
from recmetrics_jax._src.terms import Term, scores, weighted_labels, weighted_negatives
from recmetrics_jax.adapter._declared import DeclaredComputation
from recmetrics_jax.adapter._functions import apply, check_alike, check_fused_update, term_sums
from recmetrics_jax.adapter._layout import TaskBatch, shape_of
from recmetrics_jax.adapter._tensors import Tensor, from_numpy, kind_of, to_numpy
from recmetrics_jax.adapter.metrics_namespace import MetricNamespace
from recmetrics_jax.adapter.rec_metric import RecMetric

X = TypeVar("X")

NUM_CANDIDATES = "num_candidates"
PAIRS_EPSILON = 1e-10
MEAN_EPSILON = 1e-9


class GAUCSums(NamedTuple, Generic[X]):
    """The states: the sum of the AUC of groups, and how many groups have one."""

    auc_sum: X
    num_samples: X


def compute_gauc_3d(predictions: Tensor, labels: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """What groups that are padded with zeros add to the states of GAUC.

    Args:
        predictions: ``[n_tasks, n_groups, N]``.
        labels: like ``predictions``.
        weights: like ``predictions``.

    Returns:
        ``auc_sum``, the sum of the AUC of groups, of the dtype of the labels and weights, and
        ``num_samples``, the number of these groups, ``int64``; each ``[n_tasks]``. Left out are
        groups of one class, and those whose predictions are all one number or 0. Ties count half.

    Raises:
        ValueError: if shapes differ.

    >>> import numpy as np
    >>> predictions = np.array([[[0.9, 0.1, 0.5], [0.2, 0.3, 0.0]]])
    >>> labels = np.array([[[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]]])
    >>> states = compute_gauc_3d(predictions, labels, np.array([[[1, 1, 1], [1, 1, 0]]]))
    >>> states["auc_sum"].round(6).tolist(), states["num_samples"].tolist()
    ([1.0], [2])
    """
    if len(shape_of(predictions)) != 3:
        raise ValueError(
            f"predictions: expected shape [n_tasks, n_groups, N], got {shape_of(predictions)}"
        )
    n_tasks, n_groups, size = shape_of(predictions)
    check_alike(predictions, labels, weights)
    y, p, w = (x.reshape(n_tasks, n_groups * size) for x in (labels, predictions, weights))
    return _states(y, p, w, np.repeat(np.arange(n_groups), size))


def to_3d(tensor_2d: Tensor, seq_lengths: Tensor, max_length: int) -> Tensor:
    """Groups that lie one after another, each padded with zeros, or cut, to one length.

    Args:
        tensor_2d: ``[N, D]``.
        seq_lengths: the lengths of the groups, ``int[n_groups]``, which add up to ``N``.
        max_length: the length of each group in the result.

    Returns:
        ``[n_groups, max_length, D]``.

    Raises:
        ValueError: if the lengths are none, or do not add up.

    >>> import numpy as np
    >>> to_3d(np.array([[1], [2], [3]]), np.array([1, 2]), 2)[..., 0].tolist()
    [[1, 0], [2, 3]]
    """
    x = to_numpy(tensor_2d)
    groups = _groups_of("seq_lengths", seq_lengths)
    _check_sum("seq_lengths", groups, len(x))
    places = np.arange(len(x)) - np.searchsorted(groups, groups)
    kept = places < max_length
    padded = np.zeros((*shape_of(seq_lengths), max_length, *x.shape[1:]), x.dtype)
    padded[groups[kept], places[kept]] = x[kept]
    return from_numpy(padded, kind_of(tensor_2d))


def get_auc_states(
    labels: Tensor, predictions: Tensor, weights: Tensor, num_candidates: Tensor
) -> dict[str, Tensor]:
    """What a batch adds to the states of GAUC.

    Args:
        labels: ``[n_tasks, N]``.
        predictions: ``[n_tasks, N]``.
        weights: ``[n_tasks, N]``.
        num_candidates: the lengths of the groups, which lie one after another, ``int[n_groups]``.

    Returns:
        ``auc_sum`` and ``num_samples``, as of `compute_gauc_3d`.

    Raises:
        ValueError: if shapes differ, or ``num_candidates`` does not add up to ``N``.
    """
    groups = _groups_of(NUM_CANDIDATES, num_candidates)
    check_alike(predictions, labels, weights)
    _check_sum(NUM_CANDIDATES, groups, shape_of(predictions)[-1])
    return _states(labels, predictions, weights, groups)


def compute_window_auc(auc: Tensor, num_samples: Tensor) -> dict[str, Tensor]:
    """GAUC: the mean of the AUC of groups.

    Args:
        auc: the sum of the AUC of groups, ``[n_tasks]``.
        num_samples: how many groups that are, ``[n_tasks]``.

    Returns:
        ``gauc``, ``float64[n_tasks]``, 0.5 without groups, and ``num_samples`` as it is.

    >>> import numpy as np
    >>> compute_window_auc(np.array([1.5, 0.0]), np.array([2.0, 0.0]))["gauc"].round(6).tolist()
    [0.75, 0.5]
    """
    return {"gauc": apply(_mean, auc, num_samples), "num_samples": num_samples}


def _mean(auc_sum: jax.Array, num_samples: jax.Array) -> jax.Array:
    """The mean, drawn to 0.5 by what is too little to be seen unless there are no groups."""
    return (auc_sum + MEAN_EPSILON) / (num_samples + 2 * MEAN_EPSILON)


def _groups_of(name: str, lengths: Any) -> np.ndarray:
    """The number of the group of each example, ``int64[N]``."""
    array = to_numpy(lengths)
    is_of_integers = array.ndim == 1 and array.dtype.kind in "iu"
    if not is_of_integers or np.any(array < 0):
        got = "some below 0" if is_of_integers else f"{array.dtype}{list(array.shape)}"
        raise ValueError(f"{name}: expected the lengths of groups, int[n_groups], got {got}")
    return np.repeat(np.arange(len(array)), array)


def _check_sum(name: str, groups: np.ndarray, size: int) -> None:
    if len(groups) != size:
        raise ValueError(
            f"{name}: expected lengths of groups that add up to {size}, the number of examples, "
            f"got a sum of {len(groups)}"
        )


def _states(labels: Any, predictions: Any, weights: Any, groups: np.ndarray) -> dict[str, Tensor]:
    terms, keys = GAUC_TERMS._asdict(), {NUM_CANDIDATES: groups}
    sums = term_sums(terms, labels, predictions, weights, in_float64=[*terms], keys=keys)
    floats = [x.dtype for x in map(to_numpy, (labels, weights)) if x.dtype.kind == "f"]
    dtypes = {"auc_sum": np.result_type(*floats or [np.float32]), "num_samples": np.int64}
    return {k: from_numpy(to_numpy(x).astype(dtypes[k]), kind_of(x)) for k, x in sums.items()}


def _auc_of_groups(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The AUC of a group in its last row, 0 elsewhere; whether a row has one, ``[T, N]``."""
    predictions = scores(batch)
    is_first = segments.is_first(*batch.key(NUM_CANDIDATES))
    first = segments.take(predictions, segments.first_rows(is_first))
    # As in the reference, a prediction of 0 is one of padding, unless the group begins with it.
    differs = (predictions != first) & (predictions != 0)
    has_order = segments.cumsum(differs.astype(jnp.int32), is_first) > 0
    # Groups are neighbours, and stay where they are when they are sorted by number and score.
    groups = (segments.numbers(is_first),)
    points = curve(predictions, weighted_labels(batch), weighted_negatives(batch), groups)
    is_group = segments.is_last(is_first)
    with jax.enable_x64(True):
        positives, negatives = points.true_positives, points.false_positives
        pairs = positives * negatives
        is_counted = is_group & has_order & (positives > 0) & (negatives > 0)
        auc = jnp.where(pairs > 0, roc_area(points), 0.0) * (pairs / (pairs + PAIRS_EPSILON))
        auc = jnp.where(is_counted, auc, 0.0)
        return jnp.where(is_group & jnp.isnan(pairs), jnp.nan, auc), is_counted


def auc_sum(batch: Batch) -> jax.Array:
    """The sum of the AUC of groups, ``float64[T]``."""
    with jax.enable_x64(True):
        return jnp.sum(_auc_of_groups(batch)[0], axis=1)


def num_samples(batch: Batch) -> jax.Array:
    """How many groups have an AUC, ``float64[T]``."""
    with jax.enable_x64(True):
        return jnp.sum(_auc_of_groups(batch)[1], axis=1, dtype=jnp.float64)


def _of_groups(function: Any) -> Term:
    return Term(function, keys=(NUM_CANDIDATES,), is_summed=True, per_batch=True)


GAUC_TERMS = GAUCSums(_of_groups(auc_sum), _of_groups(num_samples))


def _values(sums: GAUCSums[jax.Array]) -> Values:
    return {"gauc": _mean(sums.auc_sum, sums.num_samples), "gauc_num_samples": sums.num_samples}


def _gauc(*, fused_update_limit: int = 0, **options: Any) -> Metric:
    check_fused_update("GAUC", True, fused_update_limit)
    return sum_metric(GAUC_TERMS, _values, **options)


class GAUCMetricComputation(DeclaredComputation):
    """The states of GAUC: the sum of the AUC of groups, and how many have one.

    A group counts if it has both classes, and predictions that are not all one number or 0. It is
    what one batch holds of it.

    Args:
        fused_update_limit: as in `RecMetric`.

    Raises:
        RecMetricException: if a fused update is asked for, which would lose the lengths of groups.
    """

    _factory = staticmethod(_gauc)

    def update(
        self,
        *,
        predictions: Tensor | None,
        labels: Tensor,
        weights: Tensor | None,
        num_candidates: Tensor,
        **kwargs: Any,
    ) -> None:
        """Takes in a batch, whose groups lie one after another.

        Args:
            predictions: ``[n_tasks, N]``.
            labels: like ``predictions``.
            weights: like ``predictions``.
            num_candidates: the lengths of the groups, ``int[n_groups]``, of all tasks alike.
            **kwargs: taken and not used.

        Raises:
            RecMetricException: if predictions or weights are None.
            ValueError: if shapes do not fit, or the lengths do not add up to ``N``. Either way no
                state has changed.
        """
        groups = {NUM_CANDIDATES: _groups_of(NUM_CANDIDATES, num_candidates)}
        super().update(
            predictions=predictions, labels=labels, weights=weights, required_inputs=groups
        )

    def check_update(self, batch: TaskBatch, required_inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The groups; ValueError if they do not hold as many examples as the batch."""
        _check_sum(NUM_CANDIDATES, required_inputs[NUM_CANDIDATES], shape_of(batch.labels)[1])
        return super().check_update(batch, required_inputs)

    @property
    def required_keys(self) -> tuple[str, ...]:
        """None: the lengths of groups are an argument of their own."""
        return ()


class GAUCMetric(RecMetric):
    """The mean of the AUC of groups, ``lifetime_gauc``, ``window_gauc``, and how many these are.

    ``update`` takes ``num_candidates``, the lengths of the groups, which lie one after another.

    >>> import numpy as np
    >>> from recmetrics_jax.adapter.metrics_config import DefaultTaskInfo
    >>> metric = GAUCMetric(world_size=1, my_rank=0, batch_size=4, tasks=[DefaultTaskInfo])
    >>> metric.update(
    ...     predictions={"DefaultTask": np.array([0.9, 0.1, 0.2, 0.3])},
    ...     labels={"DefaultTask": np.array([1.0, 0.0, 1.0, 0.0])},
    ...     weights=None,
    ...     num_candidates=np.array([2, 2]),
    ... )
    >>> values = metric.compute()
    >>> round(values["gauc-DefaultTask|lifetime_gauc"].item(), 6)
    0.5
    >>> values["gauc-DefaultTask|lifetime_gauc_num_samples"].item()
    2.0
    """

    _namespace = MetricNamespace.GAUC
    _computation_class = GAUCMetricComputation
