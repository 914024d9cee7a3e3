"""Terms of labels that are cut: 1 from a threshold on, and 0 below it."""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax

from recmetrics_jax._src.base import Batch
from recmetrics_jax._src.terms import OF_NO_LABELS, Term

Terms = TypeVar("Terms")


def with_threshold(terms: Terms, label_threshold: float | None) -> Terms:
    """Terms of labels that are 1 from a threshold on, and 0 below it; None: as they are."""
    if label_threshold is None:
        return terms
    return jax.tree.map(functools.partial(_with_threshold, label_threshold=label_threshold), terms)


def _with_threshold(term: Term, label_threshold: float) -> Term:
    if term in OF_NO_LABELS:
        return term
    return dataclasses.replace(
        term,
        function=of_thresholded,
        options=(term.function, label_threshold, *term.options),
        excludes=tuple(cause for cause in term.excludes if not cause.startswith("labels_")),
    )


def of_thresholded(
    batch: Batch, function: Callable[..., Any], label_threshold: float, *options: Hashable
) -> Any:
    """A statistic of examples whose labels are 1 from a threshold on, and 0 below it."""
    labels = (batch.labels >= label_threshold).astype(batch.labels.dtype)
    return function(batch._replace(labels=labels), *options)
