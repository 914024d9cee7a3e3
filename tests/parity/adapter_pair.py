"""The same metric of both packages, with the same updates."""

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from reference import CLASSES, torch

THEIRS = "torchrec.metrics"
OURS = "recmetrics_jax.adapter"
PACKAGES = (THEIRS, OURS)


def module(package: str, name: str) -> Any:
    """A module of a package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"{package}.{name}")


def tasks_of(package: str, names: Sequence[str] = ("a",), **arguments: Any) -> list[Any]:
    """Tasks of these names."""
    config = module(package, "metrics_config")
    return [config.RecTaskInfo(name=name, **arguments) for name in names]


def mode_of(package: str, is_fused: bool) -> Any:
    """The mode in which tasks are computed one by one, or all at once."""
    modes = module(package, "metrics_config").RecComputeMode
    return modes.FUSED_TASKS_COMPUTATION if is_fused else modes.UNFUSED_TASKS_COMPUTATION


def make(package: str, name: str, tasks: Any = None, is_fused: bool = False, **options: Any) -> Any:
    """A metric of a package, fresh, of the task ``a`` unless told otherwise."""
    arguments = {"world_size": 1, "my_rank": 0, "batch_size": 1, "window_size": 100, **options}
    return getattr(module(package, name), CLASSES[name])(
        tasks=tasks or tasks_of(package), compute_mode=mode_of(package, is_fused), **arguments
    )


def tensor(x: Any) -> Any:
    """Numbers as float64; tensors as they are."""
    return x if x is None or isinstance(x, torch.Tensor) else torch.tensor(x, dtype=torch.float64)


def update(metric: Any, predictions: Any, labels: Any, weights: Any = None, **keys: Any) -> None:
    """An update of the task ``a``, with copies."""
    inputs = {"predictions": predictions, "labels": labels, "weights": weights}
    required = {name: torch.as_tensor(key) for name, key in keys.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release")
        metric.update(
            **{k: None if x is None else {"a": tensor(x).clone()} for k, x in inputs.items()},
            **({"required_inputs": required} if required else {}),
        )


def values(metric: Any) -> dict[str, Any]:
    """The values of the task ``a`` by name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
        return {
            key.split("|")[1]: np.squeeze(value.numpy()) for key, value in metric.compute().items()
        }
