"""Predictions of clicks, and the values that a metric has of one batch."""

import numpy as np

import recmetrics_jax as rm


def click_rates(rng, shape, *, rate=-4.0):
    return (1 / (1 + np.exp(-rng.normal(rate, 1, shape)))).astype(np.float32)


def values_of(metric, *arrays, **options):
    """Of the lifetime, by name, ``[T, ...]``."""
    n_tasks = np.shape(arrays[0])[0] if np.ndim(arrays[0]) == 2 else 1
    metric = metric(n_tasks=n_tasks, **options)
    values = metric.compute(metric.update(metric.init(), rm.make_batch(*arrays)))
    return {name.removeprefix("lifetime_"): np.asarray(x, float) for name, x in values.items()}
