"""Random streams for the class API of both packages: settings, tensors, and what to leave out.

The streams stay where the reference's own arithmetic is exact, so that 1e-9 is a fair demand:

- Weights, labels and predictions are small multiples of powers of two. The reference sums a batch
  in the dtype of its inputs, and subtracts from its windows what leaves them.
- No batch, not even one of three joined updates, is longer than the window, and no stream longer
  than 1000 updates: there windows are the reference's own.
- All values are finite: a NaN stays in the reference's windows for good.
- A few sizes, windows and options recur, so that what is compiled for them is used again.
"""

import contextlib
import dataclasses
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from reference import CLASSES, torch

REFERENCE = "torchrec.metrics"
OURS = "recmetrics_jax.adapter"
N_CLASSES = 5
OPTIONS_SEED = 0  # with which every value of every option is among the combinations
SIZES = (1, 2, 3, 4, 8, 17, 29, 40)
NEVER_LEFT = 10_000_000  # a window, the default of metric definitions
NEVER_LEFT_BY_SAMPLES = 3000  # one that keeps examples, and is longer than any stream
UNFUSED = "UNFUSED_TASKS_COMPUTATION"
FUSED = "FUSED_TASKS_COMPUTATION"
FUSED_STATES = "FUSED_TASKS_AND_STATES_COMPUTATION"
HALF = ("bfloat16", "float16")

Rng = np.random.Generator


@dataclasses.dataclass(frozen=True)
class Task:
    """A task, before it is either package's."""

    name: str
    is_negative_task: bool = False
    tensor_name: str | None = None
    weighted: bool = True


@dataclasses.dataclass(frozen=True)
class Setting:
    """The arguments of a metric's constructor."""

    name: str
    tasks: tuple[Task, ...]
    mode: str
    batch_size: int
    window: int
    limit: int
    validate: bool
    options: dict[str, Any]

    @property
    def is_fused(self) -> bool:
        """Whether all tasks are computed as one."""
        return self.mode != UNFUSED

    def metric(self, package: str) -> Any:
        """The metric of a package, fresh."""
        config = importlib.import_module(f"{package}.metrics_config")
        module = importlib.import_module(f"{package}.{self.name}")
        return getattr(module, CLASSES[self.name])(
            world_size=1,
            my_rank=0,
            batch_size=self.batch_size,
            tasks=[config.RecTaskInfo(**dataclasses.asdict(task)) for task in self.tasks],
            compute_mode=config.RecComputeMode[self.mode],
            window_size=self.window,
            fused_update_limit=self.limit,
            should_validate_update=self.validate,
            **self.options,
        )


@dataclasses.dataclass(frozen=True)
class Form:
    """How the numbers of a stream come as tensors."""

    dtypes: tuple[Any, Any, Any]  # of predictions, labels and weights
    is_half: bool  # whether any has less digits than float32
    shape: str  # "flat", "column" or "square"
    is_strided: bool
    is_stacked: bool  # one tensor of all tasks, rather than one each


@contextlib.contextmanager
def default_of_float64() -> Iterator[None]:
    """The reference takes the discounts of NDCG, say, in torch's default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def groups_of_float64() -> Iterator[None]:
    """The reference adds up the groups of a batch of an unfused task in torch's default dtype."""
    theirs: Any = importlib.import_module(f"{REFERENCE}.segmented_ne")
    before = theirs.get_segemented_ne_states

    def states(*args: Any, **kwargs: Any) -> Any:
        with default_of_float64():
            return before(*args, **kwargs)

    theirs.get_segemented_ne_states = states
    try:
        yield
    finally:
        theirs.get_segemented_ne_states = before


def in_float64(*names: str) -> contextlib.AbstractContextManager[None]:
    """What the reference needs around these metrics to compute in float64 as elsewhere."""
    if "ndcg" in names:
        return default_of_float64()
    return groups_of_float64() if "segmented_ne" in names else contextlib.nullcontext()


def copied(x: Any) -> Any:
    """A copy with the same strides; the reference writes to what it is given."""
    if isinstance(x, dict):
        return {name: copied(value) for name, value in x.items()}
    return x if x is None else torch.empty_strided(x.size(), x.stride(), dtype=x.dtype).copy_(x)


def chance(rng: Rng, p: float) -> bool:
    return bool(rng.random() < p)


def pick(rng: Rng, values: Any) -> Any:
    """One of ``values``, which keep their types."""
    return values[int(rng.integers(len(values)))]


OPTIONS: dict[str, dict[str, tuple[Any, ...]]] = {
    "ne": {"include_logloss": (True, False), "allow_missing_label_with_zero_weight": (True,)},
    "mse": {"include_r_squared": (True,)},
    "nmse": {"include_r_squared": (True,)},
    "multi_label_precision": {"label_names": (["cat", "dog"],)},
    "hindsight_target_pr": {"target_precision": (0.25, 0.75)},
    "tensor_weighted_avg": {"description": ("_dwell",)},
    "accuracy": {"threshold": (0.3, 0.7)},
    "precision": {"threshold": (0.3, 0.7)},
    "recall": {"threshold": (0.3, 0.7)},
    "auc": {"grouped_auc": (True, False), "apply_bin": (True,)},
    "auprc": {"grouped_auprc": (True,)},
    "rauc": {"grouped_rauc": (True,)},
    "ndcg": {
        "exponential_gain": (True,),
        "session_key": ("user",),
        "k": (0, 1, 2, 100),
        "report_ndcg_as_decreasing_curve": (False, True),
        "remove_single_length_sessions": (True,),
        "scale_by_weights_tensor": (True,),
    },
    "ne_with_recalibration": {"recalibration_coefficient": (0.1, 0.5)},
    "calibration_with_recalibration": {"recalibration_coefficient": (0.1, 0.5)},
    "segmented_ne": {"grouping_keys": ("segment", ["segment"]), "cast_keys_to_int": (True,)},
}
N_GROUPS = 6
N_LABELS = 3
UNFUSED_ALONE = ("hindsight_target_pr", "multi_label_precision", "output")
"""What the reference mixes or fails on where tasks are fused."""
NUMBERS_BESIDE = {"output": ("latest_imp", "total_latest_imp"), "tensor_weighted_avg": ("x", "y")}
"""The further outputs of a model that a metric reads as numbers."""
OF_ENTROPY = (
    *("ne", "unweighted_ne", "ne_positive", "cali_free_ne"),
    *("ne_with_recalibration", "serving_ne", "segmented_ne"),
)


def drawn_options(rng: Rng, name: str) -> dict[str, Any]:
    """Some of a metric's options, in one of a few combinations."""
    rng = np.random.default_rng([OPTIONS_SEED, int(rng.integers(12))])
    options = {key: pick(rng, values) for key, values in OPTIONS.get(name, {}).items()}
    given = {key: value for key, value in options.items() if chance(rng, 0.5)}
    if name == "multiclass_recall":
        # Fewer classes than there are scores: only the first ranks are reported.
        given["number_of_classes"] = pick(rng, (N_CLASSES, N_CLASSES, N_CLASSES - 2))
    if name == "segmented_ne":
        given["num_groups"] = N_GROUPS
    if name == "multi_label_precision":
        given["num_labels"] = N_LABELS
    return given


def key_of(setting: Setting) -> str:
    """The name of the keys that come with every batch, or of one of the numbers, if any."""
    if setting.name in NUMBERS_BESIDE:
        return NUMBERS_BESIDE[setting.name][0]
    if setting.name == "ndcg":
        return setting.options.get("session_key", "session_id")
    if setting.name == "segmented_ne":
        key = setting.options.get("grouping_keys", "grouping_keys")
        return key if isinstance(key, str) else key[0]
    return "grouping_keys" if setting.options.get(f"grouped_{setting.name}") else ""


def drawn_setting(rng: Rng, name: str, is_half: bool) -> Setting:
    """A metric that the reference can build."""
    mode = str(rng.choice([UNFUSED, FUSED, FUSED_STATES], p=[0.6, 0.25, 0.15]))
    mode = UNFUSED if name in UNFUSED_ALONE else mode
    options = drawn_options(rng, name)
    keyed = ("ndcg", "segmented_ne", *NUMBERS_BESIDE)
    is_keyed = name in keyed or bool(options.get(f"grouped_{name}"))
    # Joined updates lose their keys, and in a half dtype their sums have too many digits.
    may_join = mode == UNFUSED and not is_keyed
    limit = pick(rng, (0, 0, 1) if is_half else (0, 0, 1, 3)) if may_join else 0
    batch_size = pick(rng, (4, 8) if is_half else (4, 40))
    largest = batch_size * max(limit, 1)
    keeps_examples = name in ("auc", "auprc", "rauc")
    never_left = NEVER_LEFT_BY_SAMPLES if keeps_examples else NEVER_LEFT
    window = pick(rng, (largest, 3 * largest, never_left))
    if is_keyed and name in ("auc", "rauc"):
        window = never_left  # The reference fails once examples of groups leave the window.
    negative = name == "ndcg" and chance(rng, 0.6)
    tasks = [
        Task(f"task{i}", negative and chance(rng, 0.5)) for i in range(int(rng.integers(1, 5)))
    ]
    if name == "tensor_weighted_avg":
        weighted = {tensor: chance(rng, 0.5) for tensor in NUMBERS_BESIDE[name]}
        tensors = [pick(rng, NUMBERS_BESIDE[name]) for _ in tasks]
        tasks = [
            dataclasses.replace(task, tensor_name=tensor, weighted=weighted[tensor])
            for task, tensor in zip(tasks, tensors, strict=True)
        ]
    return Setting(
        name,
        tuple(tasks),
        mode,
        batch_size,
        window,
        limit,
        chance(rng, 0.3),
        options,
    )


def drawn_form(rng: Rng, setting: Setting, kind: str, labels: str) -> Form:
    """Dtypes and shapes that the reference takes."""
    floats = (torch.float32, torch.float64)
    dtypes = [getattr(torch, kind)] * 3 if kind != "mixed" else [pick(rng, floats) for _ in "PYW"]
    if labels in WHOLE and chance(rng, 0.25):
        dtypes[1] = pick(rng, (torch.int64, torch.int32))
    # Joined updates must have the same columns.
    shapes = ("flat", "flat", "column") if setting.limit else ("flat", "flat", "column", "square")
    shape = pick(rng, shapes)
    return Form(
        (dtypes[0], dtypes[1], dtypes[2]),
        kind in HALF,
        shape,
        shape == "flat" and chance(rng, 0.3),  # The reference views its inputs in other shapes.
        setting.is_fused and chance(rng, 0.5),
    )


Numbers = Callable[[Rng, int, bool], np.ndarray]  # (rng, size, is_half)

# In a half dtype numbers are coarser, so that sums of eight of them have eight digits.
NUMBERS: dict[str, Numbers] = {
    "probabilities": lambda rng, n, half: multiples(rng, n, 0, 1, 8 if half else 256),
    "sixteenths": lambda rng, n, half: multiples(rng, n, 0, 1, 16),
    "reals": lambda rng, n, half: multiples(rng, n, *((-1.5, 1.5, 8) if half else (-4, 4, 256))),
    "coarse_reals": lambda rng, n, half: multiples(rng, n, -2, 2, 2),  # many of them equal
    # No two scores of an example are equal: the reference ranks ties as sorting leaves them.
    "class_scores": lambda rng, n, half: (
        rng.permuted(np.tile(np.arange(N_CLASSES), (n, 1)), axis=1) / 16
    ),
    "clicks": lambda rng, n, half: (rng.random(n) < pick(rng, (0.1, 0.3, 0.5, 0.9))) * 1.0,
    "soft_labels": lambda rng, n, half: multiples(rng, n, 0, 1, 4),
    "real_labels": lambda rng, n, half: multiples(rng, n, *((-1, 1, 2) if half else (-4, 4, 4))),
    "classes": lambda rng, n, half: multiples(rng, n, -1, N_CLASSES, 1),  # some not among them
    "some_numbers": lambda rng, n, half: np.where(
        rng.random(n) < 0.2, np.nan, multiples(rng, n, *((-1, 1, 2) if half else (-4, 4, 4)))
    ),
    "bits": lambda rng, n, half: multiples(rng, n, 0, 2**N_LABELS - 1, 1),
    # Their means are never 0, of which what has left a window keeps the rounding.
    "amounts": lambda rng, n, half: multiples(rng, n, 1, 4, 4),
}
WHOLE = ("clicks", "classes")
BINARY = ("clicks", "clicks", "soft_labels")


def multiples(rng: Rng, size: int, low: float, high: float, steps: int) -> np.ndarray:
    """Numbers from ``low`` to ``high``, inclusive, that are multiples of ``1 / steps``."""
    return rng.integers(int(low * steps), int(high * steps) + 1, size) / steps


# Names of predictions and of labels, by metric; of others these.
OF_CLICKS = (("probabilities",), BINARY)
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "mse": (("reals",), ("real_labels", "clicks")),
    "mae": (("reals",), ("real_labels", "clicks")),
    "accuracy": (("probabilities", "sixteenths"), BINARY),
    "precision": (("probabilities", "sixteenths"), BINARY),
    "recall": (("probabilities", "sixteenths"), BINARY),
    "weighted_avg": (("reals",), ("clicks", "real_labels")),
    "multiclass_recall": (("class_scores",), ("classes",)),
    # Ties in AUC and NDCG count as sorting leaves them. Soft labels lose the first segment of the
    # reference's ROC curve, but where they are cut.
    "auc": (("distinct",), ("clicks",)),
    "auprc": (("sixteenths", "distinct"), BINARY),
    "rauc": (("distinct", "sixteenths"), ("soft_labels", "real_labels", "clicks")),
    "xauc": (("coarse_reals", "reals"), ("real_labels", "clicks")),
    "ndcg": (("distinct",), BINARY),
    "nmse": (("reals",), ("real_labels", "clicks")),
    "average": (("reals",), ("real_labels", "clicks")),
    "num_missing_labels": (("reals",), ("some_numbers",)),
    "num_positive_samples": (("reals",), ("some_numbers", "clicks")),
    "weighted_sum_predictions": (("some_numbers",), ("clicks",)),
    "multi_label_precision": (("bits",), ("bits",)),
    "scalar": (("reals",), ("amounts",)),
}


def pool_of_distinct(rng: Rng, name: str, is_half: bool) -> np.ndarray:
    """Numbers in (0, 1) of at most eight digits in a half dtype, in random order.

    For NDCG, they and one minus each are multiples of ``2**-7``: negative tasks take the latter.
    """
    if name == "ndcg":
        return rng.permutation(np.arange(1, 128)) / 128
    if is_half:
        return rng.permutation(np.outer(2.0 ** -np.arange(8), np.arange(128, 256) / 256).ravel())
    return (rng.choice(2**20 - 1, 4000, replace=False) + 1) / 2**20


def drawn_weights(rng: Rng, pattern: str, size: int, is_whole: bool) -> np.ndarray:
    """Multiples of an eighth up to two, or whole numbers."""
    if pattern == "zero_task" and chance(rng, 0.35):
        return np.zeros(size)
    if pattern == "ones":
        return np.ones(size)
    weights = rng.integers(1, 3, size) / 1.0 if is_whole else rng.integers(1, 17, size) / 8
    return weights * (rng.random(size) < (0.5 if pattern == "with_zeros" else 1.0))


def keys_in_pairs(rng: Rng, size: int) -> np.ndarray:
    """Each at least twice, and beyond int32."""
    keys = np.repeat(rng.integers(0, 6, (size + 1) // 2), 2)[:size]
    keys[-1] = keys[-2]
    return rng.permutation(keys) * 10**12


@dataclasses.dataclass(frozen=True)
class Update:
    """What ``update`` is called with."""

    predictions: Any
    labels: Any
    weights: Any
    required_inputs: dict[str, Any] | None

    def apply(self, metric: Any) -> None:
        """Updates a metric with copies."""
        keys = {} if self.required_inputs is None else {"required_inputs": self.required_inputs}
        metric.update(
            predictions=copied(self.predictions),
            labels=copied(self.labels),
            weights=copied(self.weights),
            **copied(keys),
        )


@dataclasses.dataclass(frozen=True)
class Drawer:
    """What all batches of a stream have in common."""

    setting: Setting
    form: Form
    predictions: str
    labels: str
    pattern: str  # of weights

    @property
    def smallest(self) -> int:
        """Examples that a batch must have where it has any."""
        # The reference fails on keys of one example, and on the pairs of one.
        return 2 if key_of(self.setting) == "grouping_keys" or self.setting.name == "rauc" else 1

    def size(self, rng: Rng) -> int:
        """The size of a batch."""
        sizes = [s for s in SIZES if self.smallest <= s <= self.setting.batch_size]
        if self.setting.options.get("remove_single_length_sessions"):
            sizes = [s for s in sizes if s >= 2]
        return pick(rng, sizes)

    def sizes(self, rng: Rng, is_first: bool) -> list[int | None]:
        """Sizes of all tasks' batches; None where a task is missing."""
        n = self.size(rng)
        sizes: list[int | None] = [n] * len(self.setting.tasks)
        # Fused tasks are stacked, and keys are those of all tasks.
        if self.setting.is_fused:
            return sizes
        if not key_of(self.setting) and chance(rng, 0.5):
            sizes = [self.size(rng) for _ in sizes]
        if is_first and self.setting.name == "rauc":
            return sizes  # The reference fails on tasks without examples.
        return [pick(rng, (0, None)) if chance(rng, 0.2) else size for size in sizes]

    def task_batch(self, rng: Rng, size: int, is_negative: bool, pool: list[float]) -> list[Any]:
        """Predictions, labels and weights of a task."""
        half = self.form.is_half
        labels = NUMBERS[self.labels](rng, size, half)
        is_whole = half or self.setting.name in ("auc", "auprc")
        weights = drawn_weights(rng, self.pattern, size, is_whole)
        if self.predictions == "distinct":
            return [self.distinct(rng, weights, is_negative, pool), labels, weights]
        predictions = NUMBERS[self.predictions](rng, size, half)
        if self.setting.name in OF_ENTROPY:
            # Clamped to 1e-12, a certain prediction has a logarithm of four digits.
            predictions[predictions == 1] = 7 / 8
            predictions[(predictions == 0) & (labels < 1)] = 1 / 8
            if self.pattern == "with_zeros":
                weights[:1] = 1.0  # A window without weight holds the rounding of what has left it.
            if self.setting.name == "ne_positive":
                labels[:1] = 1.0  # So does one without positives.
        return [predictions, labels, weights]

    def distinct(
        self, rng: Rng, weights: np.ndarray, is_negative: bool, pool: list[float]
    ) -> np.ndarray:
        """Predictions of which no two of a window are equal, or, of NDCG, of a batch."""
        size = len(weights)
        if self.setting.name != "ndcg":
            return np.array([pool.pop() for _ in range(size)])
        for _ in range(1000):
            predictions = rng.choice(pool, size, replace=False)
            scores = 1 - predictions if is_negative else predictions
            if self.setting.options.get("scale_by_weights_tensor"):
                # Those without weight have no relevance either: their order does not matter.
                scores = (scores * weights)[weights > 0]
            if len(np.unique(scores)) == len(scores):
                return predictions
        raise AssertionError("no distinct predictions")

    def keys(self, rng: Rng, size: int) -> np.ndarray:
        """Keys of groups or sessions."""
        options = self.setting.options
        if self.setting.name == "segmented_ne":
            return rng.integers(0, N_GROUPS, size)
        # The reference fails on groups of one in RAUC, and skips batches without sessions.
        if self.setting.name == "rauc" or options.get("remove_single_length_sessions"):
            keys = keys_in_pairs(rng, size)
            if self.setting.name == "ndcg" and size > 3:
                keys[rng.integers(size)] = 7
            return keys
        return rng.integers(0, 6, size) * 10**12

    def tensor(self, x: np.ndarray, dtype: Any, axis: int = 0) -> Any:
        """``x``, whose axis of examples it is, in the stream's shape."""
        if not self.form.is_strided:
            return torch.tensor(x, dtype=dtype)
        wide = torch.tensor(np.repeat(x, 2, axis), dtype=dtype)
        return wide[::2] if axis == 0 else wide[:, ::2]

    def shaped(self, x: np.ndarray) -> np.ndarray:
        """The examples of a task along one axis or two."""
        size = len(x)
        if self.form.shape == "column":
            return x[:, None]
        if self.form.shape == "square" and size and size % 2 == 0:
            return x.reshape(2, size // 2, *x.shape[1:])
        return x

    def update(self, rng: Rng, pools: dict[str, list[float]], is_first: bool) -> Update:
        """The next batch of all tasks."""
        tasks = self.setting.tasks
        sizes = self.sizes(rng, is_first)
        batches = {
            task.name: [
                self.shaped(x)
                for x in self.task_batch(rng, size, task.is_negative_task, pools[task.name])
            ]
            for task, size in zip(tasks, sizes, strict=True)
            if size is not None
        }
        inputs: list[Any] = []
        for i, dtype in enumerate(self.form.dtypes):
            arrays = {name: batch[i] for name, batch in batches.items()}
            if self.form.is_stacked:
                inputs.append(self.tensor(np.stack(list(arrays.values())), dtype, axis=1))
            else:
                inputs.append({name: self.tensor(x, dtype) for name, x in arrays.items()})
        if self.pattern == "none":
            inputs[2] = None
        predictions, labels, weights = inputs
        keys = self.required_inputs(rng, max(size or 0 for size in sizes))
        return Update(predictions, labels, weights, keys)

    def required_inputs(self, rng: Rng, size: int) -> dict[str, Any] | None:
        """Keys by name, in the shape that the reference takes them in."""
        key = key_of(self.setting)
        if not key:
            return None
        if self.setting.name in NUMBERS_BESIDE:
            names = NUMBERS_BESIDE[self.setting.name]
            return {name: torch.tensor(multiples(rng, size, -4, 4, 4)) for name in names}
        keys = self.keys(rng, size) if size else np.zeros(0, int)
        if self.setting.name == "ndcg" and self.setting.is_fused:
            keys = np.tile(keys, (len(self.setting.tasks), 1))
        is_cast = self.setting.options.get("cast_keys_to_int", False)
        return {key: torch.tensor(keys, dtype=torch.float32 if is_cast else torch.int64)}


@dataclasses.dataclass(frozen=True)
class Stream:
    """A metric and what happens to it."""

    setting: Setting
    updates: list[Update]
    computed: list[bool]  # after which updates values are compared

    def context(self) -> contextlib.AbstractContextManager[None]:
        """What the reference needs around it."""
        return in_float64(self.setting.name)


def drawn_stream(rng: Rng, name: str) -> Stream:
    """A random stream for a metric."""
    kinds = ["float32", "float64", "mixed", *HALF]
    kind = str(rng.choice(kinds, p=[0.4, 0.3, 0.1, 0.1, 0.1]))
    if name.endswith("_with_recalibration") or name == "scalar":
        kind = "float64"  # The reference recalibrates, and means labels, in the dtype of these.
    setting = drawn_setting(rng, name, kind in HALF)
    predictions, labels = (pick(rng, choices) for choices in KINDS.get(name, OF_CLICKS))
    if name == "auc" and setting.options.get("apply_bin") and not key_of(setting):
        labels = "soft_labels"
    patterns = ("ones", "random", "with_zeros", "zero_task", "none")
    # The reference's default weights do not fit predictions of classes.
    pattern = pick(rng, patterns[:-1] if name == "multiclass_recall" else patterns)
    if name in OF_ENTROPY and pattern == "zero_task":
        # Nothing leaves it, of which a window without weight would hold the rounding.
        setting = dataclasses.replace(setting, window=NEVER_LEFT)
    if name == "rauc" and pattern in ("with_zeros", "zero_task"):
        # Else the reference may be left without examples, and fails.
        setting = dataclasses.replace(setting, validate=False)
    form = drawn_form(rng, setting, kind, labels)
    drawer = Drawer(setting, form, predictions, labels, pattern)
    pools = {task.name: list(pool_of_distinct(rng, name, form.is_half)) for task in setting.tasks}
    count = int(rng.integers(2, 13))
    return Stream(
        setting,
        [drawer.update(rng, pools, is_first=i == 0) for i in range(count)],
        [chance(rng, 0.3) for _ in range(count - 1)] + [True],
    )
