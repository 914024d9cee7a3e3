"""Examples of the cases of the table, drawn at random, and what their oracles make of them."""

import numpy as np

import recmetrics_jax as rm

GROUPS = {"field": 4}  # Which divides the examples of a device, so that they keep their groups.
COUNT_SUFFIXES = ("_groups", "_sessions")


def arrays(rng, case, tasks, examples, *, positive=0.4):
    """Random ``predictions, labels, weights, mask``; weights are quarters, some of them zero."""
    shape = (tasks, examples)
    if case.n_classes is None:
        predictions = rng.random(shape)
        labels = rng.random(shape) < positive
    else:
        # Few levels, for ties.
        predictions = rng.integers(0, 6, (*shape, case.n_classes)) / 8
        labels = rng.integers(0, case.n_classes, shape)
    if case.draw is not None:
        predictions = case.draw(rng, shape)
    if case.has_ties:
        predictions = np.round(predictions * 16) / 16
    weights = rng.integers(0, 9, shape) / 4
    mask = rng.random(shape) < 0.9
    return predictions.astype(np.float32), labels.astype(np.float32), weights, mask


def keys_of(case, examples):
    """The keys of a case, by name: a few groups, not in a row."""
    return {key: np.arange(examples) % GROUPS.get(key, 5) for key in case.keys}


def batch_of(case, p, y, w, mask, **options):
    """The batch of ``predictions, labels, weights, mask``, with the keys of the case."""
    return rm.make_batch(p, y, w, mask=mask, keys=keys_of(case, p.shape[1]), **options)


def batches(case, *, tasks=2, examples=48, count=4, seed=0):
    """Random batches of a case."""
    rng = np.random.default_rng(seed)
    return [batch_of(case, *arrays(rng, case, tasks, examples)) for _ in range(count)]


def examples_of(case, batch, task):
    """What the oracle of a case takes, of the real examples of a batch."""
    real = batch[3][task]
    parts = [np.asarray(x[task], np.float64)[real] for x in batch[:3]]
    return [*parts, *(key[real] for key in keys_of(case, len(real)).values())]


def expected(case, stream, prefix=None):
    """The oracle's values of a stream of ``predictions, labels, weights, mask``, by task."""
    if case.members:
        return {
            f"{member.name}/{name}": value
            for member in case.members
            for name, value in expected(member, stream, prefix).items()
        }
    prefix = prefix or ("lifetime_" if case.is_sum else "window_")
    rows = []
    for task in range(stream[0][1].shape[0]):
        parts = [examples_of(case, batch, task) for batch in stream]
        if case.share is None:
            rows.append(case.oracle(*(np.concatenate(x) for x in zip(*parts, strict=True))))
        else:
            rows.append(shared(case, parts))
    return {prefix + name: np.stack([row[name] for row in rows]) for name in rows[0]}


def shared(case, parts):
    """The average of the oracle's values of batches, each by its share; the sums of counts."""
    values, shares = [case.oracle(*x) for x in parts], [case.share(*x) for x in parts]

    def of(name):
        of_name = [value[name] for value in values]
        if name.endswith(COUNT_SUFFIXES):
            return sum(of_name)
        by = [share[name] if isinstance(share, dict) else share for share in shares]
        total = sum(value * share for value, share in zip(of_name, by, strict=True) if share)
        return total / sum(by) if sum(by) else np.nan

    return {name: of(name) for name in values[0]}
