"""How sure the values of any metric are, and whether those of two models differ."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from recmetrics_jax._src import intervals
from recmetrics_jax._src.base import Batch, Values
from recmetrics_jax._src.combined import resampled
from recmetrics_jax._src.factory import factory
from recmetrics_jax._src.identity import Formula
from recmetrics_jax._src.intervals import Interval
from recmetrics_jax._src.metric import Engine, Metric
from recmetrics_jax._src.options import flag, text, whole
from recmetrics_jax._src.spreads import Resamples

REPLICATES = 200
LEAST_REPLICATES = 20


@factory
def bootstrap(
    metric: Metric,
    *,
    key: str,
    replicates: int = REPLICATES,
    seed: int = 0,
    interval: intervals.Kind = "t",
    confidence: float = 0.95,
    keep_replicates: bool = False,
) -> Metric:
    """A metric, or a collection of them, with standard errors and intervals, by a bootstrap.

    Each of R resamples draws all examples of one key together, as often as a Poisson variable of
    mean 1 says, and has a value of its own. How often is a hash of the seed, the key and the
    number of the resample alone: so it is the same whatever batches, devices, restarts and tasks
    there are, and a stream needs to be seen once. Examples of a user who has many are not
    independent of each other: resampled by user, intervals are right; by example, they are too
    narrow.

    The standard error is the standard deviation of the resamples' values. The interval ``"t"`` is
    ``value +- t se``, with the quantile of Student's t for R - 1 degrees of freedom, since the
    standard error is that of R values. The interval ``"percentile"`` lies between quantiles of the
    resamples' values: it is never outside of the range of the metric and may be lopsided, but takes
    R of 1,000 or more, and with few keys it is too narrow. There is no BCa interval: its
    acceleration takes the value without each key in turn, which sums do not hold.

    Source: Poisson bootstrap: Chamandy et al., Estimating Uncertainty for Massive Data Streams,
    Google 2012; of clusters: Davison and Hinkley, Bootstrap Methods and their Application,
    Cambridge University Press 1997, section 3.8; intervals: chapter 5 there.

    Args:
        metric: a metric of this package, or a collection of such: of sums over examples or
            sessions, or one in which a weight counts as copies of its example.
        key: the name of what is drawn together among the ``keys`` of `recmetrics_jax.make_batch`:
            the user; an id of the example, if examples are independent. Sessions are drawn whole
            if all of their rows have one key, as those of a user have; give no other.
        replicates: how many resamples, R, at least 20.
        seed: which resamples, below 2^32.
        interval: ``"t"`` or ``"percentile"``.
        confidence: how often the interval is to cover the true value.
        keep_replicates: also give the values of resamples, ``<value>_replicates``.

    Returns:
        A `Metric` with the values of ``metric`` and, beside each, ``<value>_se``, ``<value>_low``
        and ``<value>_high``, of the same shape, and with ``keep_replicates``
        ``<value>_replicates``, ``float[T, R, ...]``. They are NaN where the value is, or where it
        is undefined in more than half of the resamples.

    Raises:
        ValueError: if ``metric`` was written by hand or cannot be resampled, or an option is not
            one of the above.

    >>> import numpy as np, recmetrics_jax as rm
    >>> metric = rm.bootstrap(rm.ctr(), key="user_id")
    >>> labels, users = np.arange(10_000) % 4 == 0, np.arange(10_000)
    >>> state = metric.update(metric.init(), rm.make_batch(labels, labels, keys={"user_id": users}))
    >>> values = metric.compute(state)
    >>> round(values["lifetime_ctr"].item(), 3), round(values["lifetime_ctr_se"].item(), 3)
    (0.25, 0.004)
    """
    summary = functools.partial(
        intervals.with_intervals,
        interval=Interval.checked(interval, confidence),
        keeps=flag("keep_replicates", keep_replicates),
    )
    return _resampled(metric, key, replicates, seed, summary)


def _resampled(
    metric: Metric, key: str, replicates: int, seed: int, summary: Callable[..., Values]
) -> Metric:
    """A metric of what is told of the values of another by those of resamples."""
    over = Resamples(
        text("key", key),
        whole("replicates", replicates, LEAST_REPLICATES),
        whole("seed", seed, 0, 2**32 - 1),
    )
    change = functools.partial(resampled, over=over, summary=Formula.of(summary))
    return Engine.of_compiled(metric).changed(change)


@factory
def compare(
    metric: Metric,
    *,
    key: str,
    models: int | None = None,
    baseline: int = 0,
    replicates: int = REPLICATES,
    seed: int = 0,
    interval: intervals.Kind = "t",
    confidence: float = 0.95,
) -> Metric:
    """A metric of several models on the same examples: how they differ, and whether it is chance.

    Models are tasks: of predictions ``[M, N]``, with labels ``[N]`` for all. Each resample of a
    `bootstrap` draws the same examples for all models, so that what is hard for all of them does
    not blur the difference: it is *paired*, and its interval is far narrower than those of the
    values.

    ``difference = value - value of the baseline``. The p-value is how likely a difference as large
    would be, either way, if there were none: by Student's t, ``t = difference / se``, or for the
    interval ``"percentile"`` twice the part of the resamples beyond 0.

    Source: as of `bootstrap`; paired comparison of systems: Sakai, Evaluating Evaluation Metrics
    based on the Bootstrap, SIGIR 2006.

    Args:
        metric: as of `bootstrap`, of ``n_tasks = M`` or, with ``models``, of ``n_tasks = M K``.
        key: as of `bootstrap`.
        models: how many models, M, where each has K tasks: task ``m K + k`` is task k of model m,
            as `stack_models` has them. None: each task is a model.
        baseline: the model that others are compared with.
        replicates: as of `bootstrap`.
        seed: as of `bootstrap`.
        interval: as of `bootstrap`.
        confidence: as of `bootstrap`.

    Returns:
        A `Metric` with the values of ``metric`` and, beside each, ``<value>_difference``,
        ``<value>_difference_se``, ``<value>_difference_low``, ``<value>_difference_high``, and
        ``<value>_p_value``, ``float[T, ...]`` each; of the baseline itself 0 and a p-value of 1.

    Raises:
        ValueError: as of `bootstrap`, and if the tasks are not those of so many models.

    >>> import numpy as np, recmetrics_jax as rm
    >>> metric = rm.compare(rm.mse(n_tasks=2), key="row")
    >>> rows = np.arange(1000)
    >>> predictions = np.stack([rows % 7, rows % 7 + 0.1 * (rows % 3)])
    >>> batch = rm.make_batch(predictions, rows % 7 + rows % 2, keys={"row": rows})
    >>> values = metric.compute(metric.update(metric.init(), batch))
    >>> [round(x, 3) for x in values["lifetime_mse_difference"].tolist()]
    [0.0, -0.083]
    >>> bool(values["lifetime_mse_p_value"][1] < 0.001)
    True
    """
    n_tasks = Engine.of_compiled(metric).program.n_tasks
    count = n_tasks if models is None else whole("models", models, 2)
    if count < 2:
        raise ValueError(
            "metric: expected one of at least 2 tasks, one for each model, got n_tasks=1; give the "
            "predictions of all models as tasks of one batch"
        )
    if n_tasks % count:
        raise ValueError(
            f"metric: expected one whose tasks are a multiple of models={count}, got "
            f"n_tasks={n_tasks}; give the predictions of all models as tasks of one batch"
        )
    summary = functools.partial(
        intervals.with_differences,
        models=count,
        baseline=whole("baseline", baseline, 0, count - 1),
        interval=Interval.checked(interval, confidence),
    )
    return _resampled(metric, key, replicates, seed, summary)


def stack_models(batches: Sequence[Batch]) -> Batch:
    """The batches of several models, of the same examples, as one whose tasks are theirs.

    Args:
        batches: one of each model, of the same shapes and keys, made with the same options.

    Returns:
        A `Batch` of ``M K`` tasks, where each of the M models has K, for `compare`.

    Raises:
        ValueError: if they do not fit each other.

    >>> import recmetrics_jax as rm
    >>> labels = [0, 1, 1]
    >>> batches = [rm.make_batch(scores, labels) for scores in ([0.1, 0.7, 0.8], [0.5, 0.5, 0.5])]
    >>> rm.stack_models(batches).predictions.shape
    (2, 3)
    """
    for i, batch in enumerate(batches):
        if not isinstance(batch, Batch):
            raise ValueError(f"batches[{i}]: expected a Batch, got {type(batch).__name__}")
    made = [_made(batch) for batch in batches]
    for i, of in enumerate(made):
        if of != made[0]:
            raise ValueError(
                f"batches[{i}]: expected one that is made as batches[0], {made[0]}; got {of}"
            )
    if not batches:
        raise ValueError("batches: expected one of each model, got none")
    return jax.tree.map(lambda *x: jnp.concatenate(x), *batches)


def _made(batch: Batch) -> str:
    """How a batch was made, for messages and to compare."""
    kind = "logits" if batch.logits is not None else "predictions"
    bad = ", without bad examples" if batch.given.leaves_out else ""
    return (
        f"{kind} {batch.predictions.dtype}{list(batch.predictions.shape)} up to {batch.given.one}, "
        f"keys {sorted(batch.keys)}{bad}"
    )
