"""Prints what known hazards do to hand-written float32 sums, and to this package.

Run ``python benchmarks/hazards.py``; exits with 1 if a row is not ok. All values are computed here
but those of peers, which were measured on like streams. Naive sums are added up one by one, until
nothing changes any more, as then nothing ever would; only int32 counts are a closed form: they wrap
at 2^32. Of this package's updates the last 10,000 are real, the states before merged from equals.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

import recmetrics_jax as rm

NAN = np.nan
TENTH = float(np.float32(0.1))
MEAN, COUNT, ACCURACY, NE, MSE = rm.weighted_avg(), rm.examples(), rm.accuracy(), rm.ne(), rm.mse()
Value = float | str


@dataclasses.dataclass(frozen=True)
class Row:
    """A hazard and what comes out of it."""

    hazard: str
    exact: Value
    naive: Value | Mapping[str, Value]  # by kind of sum
    ours: Value
    peer: str = ""

    @property
    def ok(self) -> bool:
        """Whether this package gives the exact value, within 1e-7: float32 is rounded at 6e-8."""
        if isinstance(self.exact, str) or isinstance(self.ours, str):
            return self.exact == self.ours
        return bool(np.isclose(self.ours, self.exact, rtol=1e-7, atol=0, equal_nan=True))

    def __str__(self) -> str:
        def show(x: Value) -> str:
            return x if isinstance(x, str) else f"{x:.9g}"

        naive = self.naive if isinstance(self.naive, Mapping) else {"": self.naive}
        text = ", ".join(f"{kind} {show(value)}".strip() for kind, value in naive.items())
        cells = (self.hazard, self.peer, show(self.exact), text, show(self.ours))
        return f"| {' | '.join(cells)} | {'ok' if self.ok else 'NOT OK'} |"


def outcome(function: Callable[[], Any]) -> Value:
    """The number that comes out, or the name of the exception."""
    try:
        return float(function())
    except (TypeError, ValueError) as error:
        return type(error).__name__


def after(metric: rm.Metric, *batches: Any, state: Any = None) -> Any:
    """The state after batches, ready or as the arguments of `recmetrics_jax.make_batch`."""
    state = metric.init() if state is None else state
    for x in batches:
        state = metric.update(state, x if isinstance(x, rm.Batch) else rm.make_batch(*x))
    return state


def value_of(metric: rm.Metric, state: Any) -> float:
    """The main value, of the window if there is one."""
    values = metric.compute(state)
    return float(values[min(values, key=lambda name: ("window" not in name, len(name)))][0])


def of(metric: rm.Metric, *batches: Any) -> float:
    return value_of(metric, after(metric, *batches))


def equal_updates(metric: rm.Metric, size: int, value: float, count: int, state: Any = None) -> Any:
    """The state after ``count`` more updates, each of ``size`` predictions equal to ``value``."""

    def step(state: Any, value: jax.Array) -> tuple[Any, None]:
        return after(metric, (p := jnp.full(size, value), p), state=state), None

    run, merge = jax.jit(lambda *x: jax.lax.scan(step, *x)[0]), jax.jit(metric.merge)
    state, real = metric.init() if state is None else state, min(count, 10_000)
    power, left = run(metric.init(), jnp.full(1, value)), count - real
    while left:
        state = merge(state, power) if left & 1 else state
        power, left = merge(power, power), left >> 1
    return run(state, jnp.full(real, value))


@jax.jit
def add(sums: jax.Array, increments: jax.Array, count: int) -> jax.Array:
    """Float32 sums after ``count`` additions, or after the last that changes anything."""

    def step(carry: Any) -> Any:
        left, old, _ = carry
        new = old
        for i in range(64):
            new = jnp.where(i < left, new + increments, new)
        return left - 64, new, old

    start = (count, sums, sums * NAN)
    return jax.lax.while_loop(lambda x: (x[0] > 0) & jnp.any(x[1] != x[2]), step, start)[1]


def equal(hazard: str, metric: rm.Metric, size: int, value: float, updates: int, peer: str) -> Row:
    """Many equal updates: their mean, or their count."""
    increments = jnp.stack([jnp.sum(jnp.full(size, value)), jnp.float32(size)])
    total, count = add(jnp.zeros(2), increments, min(updates, 2**31 - 1)).tolist()
    wrapped = float(np.int64(size * updates).astype(np.int32))
    ours = value_of(metric, equal_updates(metric, size, value, updates))
    if metric is COUNT:
        return Row(hazard, size * updates, {"f32": count, "int32": wrapped}, ours, peer)
    naive = {"f32 count": total / count, "int32 count": total / wrapped}
    return Row(hazard, value, naive, ours, peer)


def ones_then_zeros() -> Row:
    ones, zeros, hazard = 2**24, 3_222_784, "mean of 2^24 ones, 3,222,784 zeros, b=1"
    state = equal_updates(MEAN, 1, 0.0, zeros, equal_updates(MEAN, 1, 1.0, ones))
    total, count = add(add(jnp.zeros(2), jnp.ones(2), ones), jnp.array([0.0, 1.0]), zeros).tolist()
    return Row(hazard, ones / (ones + zeros), total / count, value_of(MEAN, state), "metrax: 1.0")


@jax.jit
def stream_step(sums: Any, state: Any, p: jax.Array, w: jax.Array) -> Any:
    """Naive sums in the dtype of the input, and this package's state, after some batches."""

    def step(carry: Any, batch: Any) -> tuple[Any, None]:
        (total, count, whole), state = carry
        p, w = batch
        naive = (total + jnp.sum(p * w), count + jnp.sum(w), whole + jnp.sum(w.astype(int)))
        return (naive, after(MEAN, (p, p, w), state=state)), None

    return jax.lax.scan(step, (sums, state), (p, w))[0]


def stream(hazard: str, weights: Callable[..., Any], dtype: Any, repeat: int, peer: str) -> Row:
    """The mean of 40,001,536 random squares in batches of 4,096, or of ``repeat`` times these."""
    rng, shape, exact, state = np.random.default_rng(0), (257, 4096), np.zeros(2), MEAN.init()
    sums = tuple(jnp.zeros((), x) for x in (dtype, dtype, int))
    for _ in range(38):
        p, w = (jnp.asarray(x, dtype) for x in (rng.random(shape) ** 2, weights(rng, shape)))
        p64, w64 = (np.asarray(x, np.float64) for x in (p, w))
        exact += repeat * np.array([np.sum(p64 * w64), np.sum(w64)])
        for _ in range(repeat):
            sums, state = stream_step(sums, state, p, w)
    total, count, whole = (float(x) for x in sums)
    naive = {f"{dtype} count": total / count, "int32 count": total / whole if whole else np.inf}
    return Row(hazard, exact[0] / exact[1], naive, value_of(MEAN, state), peer)


def naive_mean(x: Any, w: Any = 1.0) -> float:
    """A weighted mean, written to avoid a division by zero."""
    x, w = (jnp.asarray(part, jnp.float32) for part in (x, np.broadcast_to(w, np.shape(x))))
    return float(jnp.sum(w * x) / jnp.maximum(jnp.sum(w), 1e-7))


def formula_ne(p: Any, y: Any, dtype: Any = np.float32) -> float:
    """NE with logarithms kept finite."""
    tiny = np.finfo(dtype).eps
    p, y = np.clip(np.asarray(p, dtype), tiny, 1 - tiny), np.asarray(y, dtype)
    mean = np.clip(np.mean(y), tiny, 1 - tiny)
    loss = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    return float(loss / -(np.mean(y) * np.log(mean) + np.mean(1 - y) * np.log(1 - mean)))


def degenerate() -> list[Row]:
    """Inputs that are undefined, bad or unusual."""
    p, y, last = np.array([[0.3, 0.8, 0.9, 0.1], [0, 1, 0, 0], [1, 1, 1, 0]], np.float32)
    bad, zero, one, minus, soft = np.where(last, p, NAN), 0 * y, 0 * y + 1, 2 * y - 1, 0.7 * y + 0.2
    square, bad_square, rest = (y - p) ** 2, (y - bad) ** 2, "metrax, nnx: nan; clu: the rest"
    mse, naive_bad = float(np.mean((y - p.astype(float))[:3] ** 2)), naive_mean(bad_square, last)
    masked, kept = rm.make_batch(bad, y, mask=last > 0), rm.make_batch(bad, y, mask_nonfinite=True)
    empty = naive_mean([jnp.mean(jnp.array(x)) for x in (square[:3], square[:0])])
    exact, naive_soft = (formula_ne(p, soft, dtype) for dtype in (np.float64, np.float32))
    bad_p, bad_y = naive_mean((bad >= 0.5) == y), naive_mean((y >= 0.5) == bad)
    return [
        Row("MSE without an update", NAN, naive_mean([]), of(MSE), "metrax: 0; clu, nnx: nan"),
        Row("MSE, all weights 0", NAN, naive_mean(square, zero), of(MSE, (p, y, zero))),
        Row("NE of positives", NAN, formula_ne(p, one), of(NE, (p, one)), "torcheval: 1.4e14"),
        Row("NE of negatives", NAN, formula_ne(p, zero), of(NE, (p, zero)), "torcheval: 8.1e13"),
        Row("NE of labels -1 and 1", NAN, formula_ne(p, minus), of(NE, (p, minus))),
        Row("NE of soft labels", exact, naive_soft, of(NE, (p, soft))),
        Row("accuracy, NaN prediction", NAN, bad_p, of(ACCURACY, (bad, y))),
        Row("accuracy, NaN label", NAN, bad_y, of(ACCURACY, (y, bad))),
        Row("MSE, NaN prediction of weight 0", NAN, naive_bad, of(MSE, (bad, y, last)), rest),
        Row("MSE, NaN prediction masked", mse, naive_bad, of(MSE, masked), rest),
        Row("MSE, NaN prediction, mask_nonfinite=True", mse, naive_bad, of(MSE, kept)),
        Row("MSE with an empty batch", mse, {"of means": empty}, of(MSE, (p[:3], y[:3]), ([], []))),
    ]


def transformed() -> list[Row]:
    """States as carries, jitted, donated, and summed over devices."""
    traces: list[Callable[..., Any]] = []

    def naive(state: Any, x: jax.Array) -> tuple[Any, None]:
        traces.append(naive)
        return {"total": state["total"] + x, "count": state["count"] + 1.0}, None

    def ours(state: Any, x: jax.Array) -> tuple[Any, None]:
        traces.append(ours)
        return after(MEAN, (x[None], x[None]), state=state), None

    def of_devices(p: jax.Array) -> jax.Array:
        state = rm.all_merge(after(ACCURACY, (p, p)), "d")
        return ACCURACY.compute(after(ACCURACY, (p, p), state=state))["lifetime_accuracy"][0]

    xs, empty, state = jnp.arange(3.0), {"total": jnp.zeros(()), "count": jnp.zeros((), int)}, None
    scanned = outcome(lambda: jax.lax.scan(naive, empty, xs)[0]["total"] / 3)
    own = outcome(lambda: value_of(MEAN, jax.lax.scan(ours, MEAN.init(), xs)[0]))
    traces.clear()
    for function, state in ((naive, empty), (ours, MEAN.init())):
        step = jax.jit(function, donate_argnums=0)
        for x in xs:
            state = step(state, x)[0]
    merged = jax.vmap(of_devices, axis_name="d")(jnp.ones((8, 4)))[0]
    # Right, count and threshold: after the sum, no prediction reaches the threshold any more.
    leaves = jnp.array([[4.0, 4.0, 0.5]] * 8)
    right, count, cut = jax.vmap(lambda x: jax.lax.psum(x, "d"), axis_name="d")(leaves)[0]
    summed = float((right + jnp.sum(jnp.ones(4) >= cut)) / (count + 4))
    return [
        Row("init() as the carry of a scan", 1.0, scanned, own, "metrax MSE: no carry"),
        Row("traces of 3 steps", 1.0, traces.count(naive), traces.count(ours), "metrax: 2"),
        Row("mean after 3 donated steps", 1.0, "", value_of(MEAN, state)),
        Row("psum of states, then a batch", 1.0, summed, float(merged), "metrax: 800 thresholds"),
    ]


def algebra() -> list[Row]:
    """Merging, windows and checkpoints."""
    one, three = (after(MEAN, ([x], [0.0])) for x in (1.0, 3.0))
    cached, merge = {"cached": value_of(MEAN, one)}, MEAN.merge
    unit, both = (value_of(MEAN, x) for x in (merge(MEAN.init(), three), merge(one, three)))
    two = rm.collection({name: rm.precision(threshold=x) for name, x in (("a", 0.6), ("b", 0.5))})
    scores = ([0.9, 0.1], [1.0, 0.0]), ([0.55, 0.55], [0.0, 0.0])
    ones, mask = np.ones((4, 3)), np.ones((4, 1))
    naive = (ones * mask).sum() / mask.sum()
    masked = outcome(lambda: of(MEAN, rm.make_batch(ones, ones, mask=mask > 0)))
    long, few, four = rm.weighted_avg(window=10_000), rm.mse(window=2), rm.mse(window=4)
    many = value_of(long, equal_updates(long, 1, 0.0, 1000, equal_updates(long, 1, 1.0, 500)))
    kept = {"1,000 kept": float(np.mean(([1.0] * 500 + [0.0] * 1000)[-1000:]))}
    errors = [([x], [0.0]) for x in (1e8, TENTH, TENTH, 2.0, 3.0, 4.0, 5.0)]
    large, small, squares = *jnp.square(jnp.array([1e8, 0.1])), jnp.arange(2.0, 6) ** 2
    subtracted = {"subtracted": float(large + small + small - large) / 2}
    saved = serialization.to_bytes(after(four, *errors[3:5]))
    resumed = after(four, *errors[5:], state=serialization.from_bytes(four.init(), saved))
    exact, restarted = float(jnp.mean(squares)), {"restarted": float(jnp.mean(squares[2:]))}
    return [
        Row("merge(init(), x)", 3.0, "", unit, "metrax ranking: raises"),
        Row("merge after compute", 2.0, cached, both, "torchmetrics: 1"),
        Row("precision at .6, beside .5", 1.0, "", of(two, *scores), "torchmetrics: 0.333"),
        Row("mask of another shape", "ValueError", naive, masked, "nnx: 3"),
        Row("window of 1,500 updates", 1 / 3, kept, many, "torchrec: 0"),
        Row("MSE, 1e8 left window", TENTH**2, subtracted, of(few, *errors[:3]), "torchrec: 0"),
        Row("MSE, saved window", exact, restarted, value_of(four, resumed), "torchrec: not saved"),
    ]


EQUAL = (
    ("0.1, 4e7 examples, b=4096", MEAN, 4096, TENTH, 9766, "seven peers: 0.09999064"),
    ("count of 4e7 ones, b=4095", COUNT, 4095, 1.0, 9769, "metrax, keras, torcheval: +5,669"),
    ("mean of 4e7 ones, b=4095", MEAN, 4095, 1.0, 9769, "clu, nnx, torchmetrics: 1.00014174"),
    ("0.1, 4e9 examples, b=1", MEAN, 1, TENTH, 4 * 10**9, ""),
    ("0.1, 4e9 examples, b=4095", MEAN, 4095, TENTH, 976_800, "metrax: +0.94 %; clu: < 0"),
    ("0.1, 4e9 examples, b=65536", MEAN, 65536, TENTH, 61_035, ""),
    ("mean of 2^31 ones, b=4096", MEAN, 4096, 1.0, 2**19, "clu, metrax, nnx: -1"),
    ("count of 2^24 + 1,000 ones, b=1", COUNT, 1, 1.0, 2**24 + 1000, "four peers: 2^24"),
)
STREAMS = (
    ("U(0,1)^2, 4e7 examples", lambda _, n: np.ones(n), "float32", 1, "seven peers: +1.1e-5"),
    ("bfloat16 U(0,1)^2", lambda _, n: np.ones(n), "bfloat16", 1, "metrax: 12.74; clu: 0.01306"),
    ("weights of 0.3", lambda _, n: np.full(n, 0.3), "float32", 1, "jax-metrics, nnx: inf"),
    ("exp(1) weights, 4e8", lambda rng, n: rng.exponential(1, n), "float32", 10, "metrax: +2.1e-4"),
)


def main() -> None:
    start = time.perf_counter()
    rows = [*(equal(*x) for x in EQUAL), ones_then_zeros(), *(stream(*x) for x in STREAMS)]
    rows += [*degenerate(), *transformed(), *algebra()]
    print("| hazard | a peer gives (measured) | exact | naive float32 | this package | |")
    print("|---|---|---|---|---|---|", *rows, sep="\n")
    print(
        f"\n{len(rows)} rows in {time.perf_counter() - start:.0f} s; ok is within 1e-7, relative."
    )
    print("Four peers: metrax, keras, torchmetrics, torcheval; seven: clu, nnx, jax-metrics too.")
    sys.exit(not all(row.ok for row in rows))


if __name__ == "__main__":
    main()
