"""The laws that every metric keeps, as a checker for users' own metrics too."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from recmetrics_jax._src.accumulators import all_merge
from recmetrics_jax._src.base import Batch, State, Values, along
from recmetrics_jax._src.batch import assemble
from recmetrics_jax._src.describe import describe
from recmetrics_jax._src.metric import Metric

Law = Callable[[Metric, Sequence[Batch], float], None]


def check_laws(
    metric: Metric,
    batches: Sequence[Batch],
    *,
    skip: Iterable[str] = (),
    rtol: float = 1e-6,
) -> None:
    """Checks that a metric keeps the laws; raises AssertionError that names the one it breaks.

    - ``defined``: the batches give values that are no NaN, of which every law would hold.
    - ``tasks``: the examples of a task change no value of another task, bit for bit.
    - ``unit``: merging with ``init()`` changes nothing, from either side.
    - ``commutativity``, ``associativity`` of ``merge``.
    - ``homomorphism``: updating is merging with the state of one batch (lifetime values).
    - ``split``: a batch counts what its two halves count (lifetime values).
    - ``permutation``: the order of the examples inside a batch changes nothing.
    - ``padding``: masked rows change nothing, even if they hold NaN; nor does a batch of them.
    - ``weights``: a whole-number weight w counts what w copies of the row count (lifetime values).
    - ``forgetting``: what came before a repetition of the batches that fills the window has no
      effect on it, bit for bit.
    - ``devices``: `all_merge` on a mapped axis is the fold of ``merge``.
    - ``transformations``: jit, scan and vmap give what eager calls give.
    - ``stability``: ``update`` keeps structure, shapes and dtypes, and traces once.
    - ``donation``: no two leaves of ``init()`` share a buffer, and a donated update works.

    A value is one of the lifetime unless the last part of its name begins with ``window_``. Values
    that depend on how examples are batched, as `recmetrics_jax.describe` tells, need not keep the
    laws of split and weights.

    Args:
        metric: any `Metric`. Of one written by hand, the law of devices asks for a state that says
            how it merges over devices; see `recmetrics_jax.all_merge`.
        batches: at least three, of one shape and with the same keys, and ordinary: finite, with
            both classes where the metric asks for that. For ``forgetting``, in all at least as
            many examples as the window. Of two tasks or more, or nothing is said of ``tasks``.
        skip: names of laws that do not apply, such as ``weights`` for a metric that counts rows.
        rtol: relative tolerance of the laws that are not bit for bit.

    Raises:
        AssertionError: if a law is broken.
        ValueError: if there are fewer than three batches, or ``skip`` names an unknown law.

    >>> import numpy as np, recmetrics_jax as rm
    >>> rng = np.random.default_rng(0)
    >>> def batch():
    ...     return rm.make_batch(rng.random(32), rng.integers(0, 2, 32), rng.random(32))
    >>> rm.testing.check_laws(rm.ctr(), [batch() for _ in range(3)])
    """
    if len(batches) < 3:
        raise ValueError(f"batches: expected at least 3, got {len(batches)}")
    skipped = set(skip)
    if not skipped <= LAWS.keys():
        raise ValueError(f"skip: expected names of {list(LAWS)}, got {sorted(skipped)}")
    for name, law in LAWS.items():
        if name not in skipped:
            try:
                law(metric, batches, rtol)
            except AssertionError as error:
                raise AssertionError(f"the metric breaks the law of {name}: {error}") from error


def _run(metric: Metric, batches: Iterable[Batch], state: State | None = None) -> State:
    update = jax.jit(metric.update)
    state = metric.init() if state is None else state
    for batch in batches:
        state = update(state, batch)
    return state


def _values(metric: Metric, state: State) -> Values:
    return jax.jit(metric.compute)(state)


def _is_of_window(name: str) -> bool:
    return name.rpartition("/")[2].startswith("window_")


def _lifetime(metric: Metric, state: State, besides: Sequence[str] = ()) -> Values:
    """The values of the lifetime, but for some."""
    return {
        name: value
        for name, value in _values(metric, state).items()
        if not _is_of_window(name) and name not in besides
    }


def _assert_close(actual: Values, expected: Values, rtol: float) -> None:
    chex.assert_trees_all_equal_structs(actual, expected)
    for name, value in actual.items():
        np.testing.assert_allclose(value, expected[name], rtol=rtol, atol=1e-12, err_msg=name)


def _defined(metric: Metric, batches: Sequence[Batch], rtol: float) -> None:
    del rtol
    for name, value in _values(metric, _run(metric, batches)).items():
        assert not np.any(np.isnan(value)), (
            f"{name} is {value} for batches that are to be ordinary; do they hold what it needs?"
        )


def _tasks(metric: Metric, batches: Sequence[Batch], rtol: float) -> None:
    del rtol
    expected = _values(metric, _run(metric, batches))
    for task in range(batches[0].mask.shape[0]):
        # All other tasks get other examples: those of their first batch, again and again.
        is_kept = jnp.arange(batches[0].mask.shape[0]) == task
        mixed = [
            jax.tree.map(
                lambda x, y, kept=is_kept: jnp.where(along(kept, x), x, y),
                batch,
                batches[0],
            )
            for batch in batches
        ]
        for name, value in _values(metric, _run(metric, mixed)).items():
            np.testing.assert_array_equal(value[task], expected[name][task], err_msg=name)


def _unit(metric: Metric, batches: Sequence[Batch], rtol: float) -> None:
    state = _run(metric, batches)
    expected = _values(metric, state)
    _assert_close(_values(metric, metric.merge(state, metric.init())), expected, rtol)
    _assert_close(_values(metric, metric.merge(metric.init(), state)), expected, rtol)


def _commutativity(metric: Metric, batches: Sequence[Batch], rtol: float) -> None:
    a, b = _run(metric, batches[:1]), _run(metric, batches[1:])
    _assert_close(_values(metric, metric.merge(a, b)), _values(metric, metric.merge(b, a)), rtol)


def _associativity(metric: Metric, batches: Sequence[Batch], rtol: float) -> None:
    a, b, c = (_run(metric, some) for some in (batches[:1], batches[1:2], batches[2:]))
    left = metric.merge(metric.merge(a, b), c)
    right = metric.merge(a, metric.merge(b, c))
    _assert_close(_values(metric, left), _values(metric, right), rtol)


def _homomorphism(metric: Metric, batches: Sequence[Batch], rtol: float) -> None:
    before = _run(metric, batches[:-1])
    merged = metric.merge(before, _run(metric, batches[-1:]))
    updated = _run(metric, batches[-1:], before)
    _assert_close(_lifetime(metric, merged), _lifetime(metric, updated), rtol)


def _split(metric: Metric, batches: Sequence[Batch], rtol: float) -> None:
    half = batches[0].mask.shape[1] // 2
    halves = [
        jax.tree.map(lambda x, rows=rows: x[:, rows], batches[0])
        for rows in (slice(None, half), slice(half, None))
    ]
    besides = describe(metric).per_batch
    _assert_close(
        _lifetime(metric, _run(metric, halves), besides),
        _lifetime(metric, _run(metric, batches[:1]), besides),
        rtol,
    )


def _permutation(metric: Metric, batches: Sequence[Batch], rtol: float) -> None:
    order = np.random.default_rng(0).permutation(batches[0].mask.shape[1])
    permuted = jax.tree.map(lambda x: x[:, order], batches[0])
    _assert_close(
        _values(metric, _run(metric, [permuted])), _values(metric, _run(metric, batches[:1])), rtol
    )


def _given(batch: Batch) -> jax.Array:
    """The predictions as they were given."""
    return batch.predictions if batch.logits is None else batch.logits


def _remake(batch: Batch, **changes: Any) -> Batch:
    """The batch through the door again, with some of its arrays replaced."""
    fields = {**batch._asdict(), "predictions": _given(batch), **changes}
    for made in ("nonfinite", "unlabelled", "logits", "given"):
        del fields[made]
    return assemble(**fields, mask_nonfinite=False, are_logits=batch.logits is not None)


def _padding(metric: Metric, batches: Sequence[Batch], rtol: float) -> None:
    # By half: as many rows as the law of weights has, which is then compiled already.
    more = batches[0].mask.shape[1] // 2

    def append(x: jax.Array, value: float) -> jax.Array:
        extra = jnp.full((x.shape[0], more, *x.shape[2:]), value, x.dtype)
        return jnp.concatenate([x, extra], axis=1)

    padded = [
        _remake(
            batch,
            predictions=append(_given(batch), np.nan),
            labels=append(batch.labels, np.inf),
            weights=append(batch.weights, np.nan),
            mask=append(batch.mask, False),
            keys={name: append(key, 1) for name, key in batch.keys.items()},
        )
        for batch in batches
    ]
    nothing = _remake(padded[0], mask=jnp.zeros_like(padded[0].mask))
    expected = _values(metric, _run(metric, batches))
    _assert_close(_values(metric, _run(metric, padded)), expected, rtol)
    _assert_close(_values(metric, _run(metric, [*padded, nothing, nothing])), expected, rtol)


def _weights(metric: Metric, batches: Sequence[Batch], rtol: float) -> None:
    examples = batches[0].mask.shape[1]
    copies = np.arange(examples) % 4
    weighted = [
        _remake(
            batch, weights=jnp.zeros_like(batch.weights) + copies.astype(batch.weights.dtype)[None]
        )
        for batch in batches
    ]
    repeated = [jax.tree.map(lambda x: jnp.repeat(x, copies, axis=1), batch) for batch in batches]
    repeated = [_remake(batch, weights=jnp.ones_like(batch.weights)) for batch in repeated]
    besides = describe(metric).per_batch
    _assert_close(
        _lifetime(metric, _run(metric, weighted), besides),
        _lifetime(metric, _run(metric, repeated), besides),
        rtol,
    )


def _forgetting(metric: Metric, batches: Sequence[Batch], rtol: float) -> None:
    del rtol
    past = _run(metric, [jax.tree.map(lambda x: x[:, ::-1], batch) for batch in batches[:2]])
    after = _values(metric, _run(metric, batches, past))
    fresh = _values(metric, _run(metric, batches))
    for name in filter(_is_of_window, fresh):
        np.testing.assert_array_equal(after[name], fresh[name], err_msg=name)


def _devices(metric: Metric, batches: Sequence[Batch], rtol: float) -> None:
    states = [_run(metric, [batch, batches[0]]) for batch in batches]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    try:
        merge = jax.vmap(lambda state: all_merge(state, "devices"), axis_name="devices")
        merged = jax.jit(merge)(stacked)
    except ValueError as error:
        raise AssertionError(f"{error} Or skip=['devices'].") from error
    expected = _values(metric, functools.reduce(metric.merge, states))
    for i in range(len(states)):
        of_device = jax.tree.map(lambda x, i=i: x[i], merged)
        _assert_close(_values(metric, of_device), expected, rtol)


def _transformations(metric: Metric, batches: Sequence[Batch], rtol: float) -> None:
    state = metric.init()
    for batch in batches:
        state = metric.update(state, batch)
    expected = metric.compute(state)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)

    def step(state: State, batch: Batch) -> tuple[State, None]:
        return metric.update(state, batch), None

    scanned, _ = jax.lax.scan(step, metric.init(), stacked)
    _assert_close(metric.compute(scanned), expected, rtol)
    _assert_close(_values(metric, _run(metric, batches)), expected, rtol)

    inits = jax.tree.map(lambda x: jnp.stack([x] * len(batches)), metric.init())
    mapped = jax.vmap(metric.compute)(jax.vmap(metric.update)(inits, stacked))
    for i, batch in enumerate(batches):
        of_model = {name: value[i] for name, value in mapped.items()}
        _assert_close(of_model, _values(metric, _run(metric, [batch])), rtol)


def _stability(metric: Metric, batches: Sequence[Batch], rtol: float) -> None:
    del rtol
    chex.clear_trace_counter()
    traced = chex.assert_max_traces(lambda state, batch: metric.update(state, batch), n=1)
    update = jax.jit(traced)
    state = metric.init()
    for batch in batches:
        new = update(state, batch)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, new)
        state = new


def _donation(metric: Metric, batches: Sequence[Batch], rtol: float) -> None:
    for state in (metric.init(), jax.jit(metric.init)()):
        pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
        assert len(set(pointers)) == len(pointers), "leaves of init() share a buffer"
        update = jax.jit(metric.update, donate_argnums=0)
        for batch in batches:
            state = update(state, batch)
        _assert_close(_values(metric, state), _values(metric, _run(metric, batches)), rtol)


LAWS: dict[str, Law] = {
    "defined": _defined,
    "tasks": _tasks,
    "unit": _unit,
    "commutativity": _commutativity,
    "associativity": _associativity,
    "homomorphism": _homomorphism,
    "split": _split,
    "permutation": _permutation,
    "padding": _padding,
    "weights": _weights,
    "forgetting": _forgetting,
    "devices": _devices,
    "transformations": _transformations,
    "stability": _stability,
    "donation": _donation,
}
"""The laws by name; each takes a metric, batches and a relative tolerance."""
