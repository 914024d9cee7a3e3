"""A metric of one's own: expected calibration error, by bins of the prediction.

    python examples/custom_metric.py

`recmetrics_jax.calibration` compares the mean prediction with the mean label over all examples,
where too high and too low may cancel out. Expected calibration error compares them bin by bin
(Naeini, Cooper and Hauskrecht, Obtaining Well Calibrated Probabilities Using Bayesian Binning,
AAAI 2015). The package has it too, as `recmetrics_jax.ece`, with other bins and debiased; here it
shows how a metric is built. The metric is its formula: ``sum_metric`` adds lifetime and window,
tasks, masks, accuracy over billions of examples, and merging.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import recmetrics_jax as rm


def weights(batch: rm.Batch) -> jax.Array:
    return batch.weights


def residuals(batch: rm.Batch, bins: int) -> jax.Array:
    """``w (p - y)`` in the bin of the prediction, 0 in the others: ``float[T, N, bins]``."""
    index = jnp.clip((batch.predictions * bins).astype(jnp.int32), 0, bins - 1)
    residual = batch.weights * (batch.predictions - batch.labels)
    return jax.nn.one_hot(index, bins, dtype=residual.dtype) * residual[..., None]


def expected_calibration_error(*, bins: int = 10, **options: Any) -> rm.Metric:
    """``sum_b |sum of w (p - y) in bin b| / sum(w)``, in [0, 1]; 0 is calibrated in every bin."""

    def values(sums: dict[str, jax.Array]) -> dict[str, jax.Array]:
        error = jnp.sum(jnp.abs(sums["residuals"]), axis=-1)
        return {"ece": rm.safe_divide(error, sums["weights"])}

    terms = {"residuals": rm.Term(residuals, (bins,), shape=(bins,)), "weights": weights}
    return rm.sum_metric(terms, values, **options)


def random_batch(rng: np.random.Generator, sharpness: float, examples: int = 512) -> rm.Batch:
    """Two tasks: the first predicts the true odds, the second those odds to a power."""
    logits = rng.normal(size=examples)
    labels = rng.random(examples) < 1 / (1 + np.exp(-logits))
    predictions = 1 / (1 + np.exp(-np.stack([logits, sharpness * logits])))
    return rm.make_batch(predictions, np.stack([labels, labels]), rng.random(examples))


def main() -> None:
    rng = np.random.default_rng(0)
    metric = expected_calibration_error(n_tasks=2, window=20_000)
    update, compute = jax.jit(metric.update, donate_argnums=0), jax.jit(metric.compute)
    state = metric.init()
    for step in range(200):
        # The second task grows overconfident: its window is worse than its lifetime.
        state = update(state, random_batch(rng, sharpness=1 + step / 100))
    for name, value in compute(state).items():
        print(f"{name:12} calibrated {value[0]:.4f}   overconfident {value[1]:.4f}")

    batches = [random_batch(rng, sharpness=2.0, examples=64) for _ in range(3)]
    laws = expected_calibration_error(n_tasks=2, window=100)
    rm.testing.check_laws(laws, batches)
    print(f"all {len(rm.testing.LAWS)} laws hold: it merges, pads, scans and shards as it should")


if __name__ == "__main__":
    main()
