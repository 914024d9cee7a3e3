"""Other libraries that are measured beside this one, where they are installed."""

import functools
import importlib
import importlib.util
import inspect
import itertools
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from timing import Run, repeat

PEERS = {
    "torchrec": "torchrec",
    "torchmetrics": "torchmetrics",
    "torcheval": "torcheval",
    "metrax": "google-metrax",
    "clu": "clu",
    "sklearn": "scikit-learn",
}
"""Importable names, and the distributions that hold them."""
MODES = {
    "torchrec": "FUSED_TASKS_COMPUTATION",
    "torchrec, unfused": "UNFUSED_TASKS_COMPUTATION",
}
WINDOW = 10_000_000
COMPILING_UPDATES = 12
"""Updates after which torch.compile compiles nothing more of them: eight, and some to be sure."""


@functools.cache
def installed(name: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(name) is not None


def tensors(*arrays: np.ndarray) -> list[Any]:
    """The arrays as torch's, in memory of their own."""
    torch: Any = importlib.import_module("torch")
    return [torch.from_numpy(np.array(x)) for x in arrays]


def on_cpu(name: str) -> str:
    """The name of a contender that runs on the CPU, wherever jax runs."""
    return name if jax.default_backend() == "cpu" else f"{name}, on the CPU"


def torchrec_function(module: str, function: str, *arguments: Any) -> Run:
    """Calls of a free function of torchrec.metrics."""
    call: Callable[..., Any] = getattr(
        importlib.import_module(f"torchrec.metrics.{module}"), function
    )
    return repeat(lambda: call(*arguments))


def torchrec_module(
    package: str,
    names: Sequence[str],
    p: np.ndarray,
    y: np.ndarray,
    w: np.ndarray,
    mode: str,
    window: int = WINDOW,
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """The RecMetricModule of torchrec, or of the adapter, with some metrics; and its inputs."""
    has_torch = installed("torch")  # The adapter does without.
    config: Any = importlib.import_module(f"{package}.metrics_config")
    module: Any = importlib.import_module(f"{package}.metric_module")
    tasks = [
        config.RecTaskInfo(
            name=f"t{i}", label_name=f"y{i}", prediction_name=f"p{i}", weight_name=f"w{i}"
        )
        for i in range(p.shape[0])
    ]
    definition = config.RecMetricDef(rec_tasks=tasks, window_size=window)
    metrics = module.generate_metric_module(
        module.RecMetricModule,
        metrics_config=config.MetricsConfig(
            rec_tasks=tasks,
            rec_metrics={config.RecMetricEnum(name): definition for name in names},
            rec_compute_mode=config.RecComputeMode[mode],
            **options,
        ),
        batch_size=p.shape[1],
        world_size=1,
        my_rank=0,
        state_metrics_mapping={},
        device=importlib.import_module("torch").device("cpu") if has_torch else "cpu",
    )
    outputs = {
        f"{name}{i}": row
        for name, rows in (("p", p), ("y", y), ("w", w))
        for i, row in enumerate(tensors(*rows) if has_torch else rows)
    }
    return metrics, outputs


def clu_collection(count: int) -> Any:
    """A Collection of clu with so many metrics of metrax; they know no windows."""
    clu: Any = importlib.import_module("clu.metrics")
    metrax: Any = importlib.import_module("metrax")

    def at(rate: Any, threshold: float) -> Any:
        def from_model_output(cls: Any, predictions: Any, labels: Any) -> Any:
            return super(AtThreshold, cls).from_model_output(predictions, labels, threshold)

        AtThreshold = type(
            "AtThreshold", (rate,), {"from_model_output": classmethod(from_model_output)}
        )
        return struct.dataclass(AtThreshold)

    means = (metrax.MSE, metrax.MAE, metrax.RMSE, metrax.Accuracy)
    rates = (
        at(rate, threshold)
        for threshold in (0.5, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7)
        for rate in (metrax.Precision, metrax.Recall)
    )
    members = itertools.islice(itertools.chain(means, rates), count)
    return clu.Collection.create(**{f"metric_{i}": member for i, member in enumerate(members)})


def module_updates(package: str, names: Sequence[str], *arrays: np.ndarray, mode: str) -> Run:
    """Updates of a RecMetricModule."""
    metrics, outputs = torchrec_module(package, names, *arrays, mode=mode)
    return repeat(lambda: metrics.update(outputs))


def can_compile() -> bool:
    """Whether torch finds what its compiler needs on a CPU."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def compiled_updates(names: Sequence[str], *arrays: np.ndarray) -> Run:
    """Updates of torchrec's module by torch.compile, warm.

    Each metric is a type of its own to the compiler, which as it comes gives up after eight types
    and is then slower than without; so it is allowed more.
    """
    dynamo: Any = importlib.import_module("torch._dynamo")
    dynamo.reset()
    dynamo.config.recompile_limit = 64
    metrics, outputs = torchrec_module(
        "torchrec.metrics", names, *arrays, mode=MODES["torchrec"], enable_pt2_compile=True
    )
    run = repeat(lambda: metrics.update(outputs))
    run(COMPILING_UPDATES)
    return run


def computing(metrics: Any) -> Callable[[], Any]:
    """The compute of a module of torchrec, whose parts would otherwise keep their first values."""
    parts = [part for part in metrics.modules() if hasattr(part, "_computed")]

    def compute() -> Any:
        for part in parts:
            part._computed = None
        return metrics.compute()

    return compute


def torchrec_metric(
    name: str,
    *arrays: np.ndarray,
    required: Mapping[str, np.ndarray],
    window: int = WINDOW,
    **options: Any,
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The update and the compute of a class of torchrec, with fused tasks and stacked inputs."""
    config: Any = importlib.import_module("torchrec.metrics.metrics_config")
    module: Any = importlib.import_module("torchrec.metrics.metric_module")
    n_tasks, size = arrays[1].shape
    metric = module.REC_METRICS_MAPPING[config.RecMetricEnum(name)](
        world_size=1,
        my_rank=0,
        batch_size=size,
        tasks=[config.RecTaskInfo(name=f"t{i}") for i in range(n_tasks)],
        compute_mode=config.RecComputeMode[MODES["torchrec"]],
        window_size=window,
        **options,
    )
    inputs: dict[str, Any] = dict(
        zip(("predictions", "labels", "weights"), tensors(*arrays), strict=True)
    )
    if required:
        inputs["required_inputs"] = {key: tensors(x)[0] for key, x in required.items()}
    return lambda: metric.update(**inputs), computing(metric)


class Inputs(NamedTuple):
    """Arguments of `make_batch`."""

    predictions: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    keys: Mapping[str, np.ndarray] = {}


class Peer(NamedTuple):
    """A metric of another library, with its inputs."""

    update: Callable[[], Any]
    compute: Callable[[], Any]


Form = Callable[[Any, Any, Any], Mapping[str, Any]]
"""Keyword arguments, from predictions, labels and weights."""
MakePeer = Callable[[Inputs], Peer]


def of_jax(module: str, name: str, form: Form, **options: Any) -> MakePeer:
    """A class of metrax or clu, over tasks by vmap."""

    def make(inputs: Inputs) -> Peer:
        cls: Any = getattr(importlib.import_module(module), name)
        arrays = [jnp.asarray(x) for x in inputs[:3]]

        def of_batch(*arrays: Any) -> Any:
            return cls.from_model_output(**form(*arrays), **options)

        def added(state: Any, *arrays: Any) -> Any:
            return state.merge(of_batch(*arrays))

        step = jax.jit(jax.vmap(added), donate_argnums=0)
        state = jax.jit(jax.vmap(of_batch))(*arrays)
        # Options that a state holds are numbers to its compute, not arrays.
        held = {name: value for name, value in options.items() if hasattr(state, name)}
        compute = jax.jit(jax.vmap(lambda state: state.replace(**held).compute()))

        def update() -> Any:
            nonlocal state
            state = step(state, *arrays)
            return state

        return Peer(update, lambda: compute(state))

    return make


def of_torch(module: str, name: str, form: Form, **options: Any) -> MakePeer:
    """A class of torchmetrics or torcheval."""

    def make(inputs: Inputs) -> Peer:
        metric: Any = getattr(importlib.import_module(module), name)(**options)
        arguments = form(*tensors(*inputs[:3]))

        def compute() -> Any:
            metric._computed = None  # torchmetrics would keep its first value.
            return metric.compute()

        return Peer(lambda: metric.update(**arguments), compute)

    return make


def of_torchrec(name: str, options: Mapping[str, Any]) -> MakePeer:
    """A class of the reference."""
    return lambda inputs: Peer(*torchrec_metric(name, *inputs[:3], required=inputs.keys, **options))


def torchmetrics_sessions(names: Sequence[str], ks: Sequence[int], inputs: Inputs) -> Run:
    """Values of a batch by metrics of torchmetrics that know sessions; at each k, where they can.

    They keep the examples, and do their work when they are asked for values; so they are.
    """
    module: Any = importlib.import_module("torchmetrics.retrieval")
    classes = [getattr(module, f"Retrieval{name}") for name in names]
    metrics = [
        cls(top_k=k) if "top_k" in inspect.signature(cls).parameters else cls()
        for cls in classes
        for k in ks
    ]
    (sessions,) = inputs.keys.values()
    p, y, ids = (x.reshape(-1) for x in tensors(*inputs[:2], sessions))

    def values() -> list[Any]:
        for metric in metrics:
            metric.reset()
            metric.update(p, y.long(), indexes=ids)
        return [metric.compute() for metric in metrics]

    return repeat(values)
