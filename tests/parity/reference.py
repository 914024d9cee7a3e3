"""The reference, torchrec 1.9.2, driven through `RecMetric.update` and `compute`.

Importing this module skips the importing one where torchrec is not installed.
"""

import importlib
import importlib.util
import json
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from recmetrics_jax.adapter.metric_module import REC_METRICS_MAPPING

if importlib.util.find_spec("torchrec") is None:
    pytest.skip(
        "parity needs the reference, torchrec, which is not installed; .ci/run installs it",
        allow_module_level=True,
    )

CONTRACT = json.loads(
    (pathlib.Path(__file__).parent.parent / "adapter" / "documented_api.json").read_text()
)
"""The documented API, by module."""
MEMBERS = {
    metric.__module__.rpartition(".")[2]: name.name for name, metric in REC_METRICS_MAPPING.items()
}
"""The members of `RecMetricEnum`, by module."""
CLASSES = dict(zip(MEMBERS, (x.__name__ for x in REC_METRICS_MAPPING.values()), strict=True))
"""The classes, by module."""
AFTER = ("session_pairwise_auc",)
"""The modules that came after 1.9.2."""
APART = ("recall_session", "precision_session", "tower_qps", *AFTER)
"""The modules whose streams are of a kind of their own, in test_adapter_sessions.py."""
STREAMED = [name for name in CLASSES if name not in APART]
"""The modules whose streams are alike."""

# The packages warn on import (of deprecated modules of their own); the project's tests do not.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch: Any = importlib.import_module("torch")
    config: Any = importlib.import_module("torchrec.metrics.metrics_config")
    modules: dict[str, Any] = {
        name: importlib.import_module(f"torchrec.metrics.{name}")
        for name in CLASSES
        if name not in AFTER
    }

torch.set_num_threads(1)


class Reference:
    """A metric of the reference, with arrays in and values out as this package has them."""

    def __init__(
        self,
        name: str,
        n_tasks: int,
        *,
        window: int,
        batch_size: int = 1,
        fused: bool = False,
        dtype: str = "float64",
        is_negative: Sequence[bool] = (),
        **options: Any,
    ):
        mode = "FUSED_TASKS_COMPUTATION" if fused else "UNFUSED_TASKS_COMPUTATION"
        self.dtype = getattr(torch, dtype)
        self.tasks = [f"task{i}" for i in range(n_tasks)]
        self.metric = getattr(modules[name], CLASSES[name])(
            world_size=1,
            my_rank=0,
            batch_size=batch_size,
            tasks=[
                config.RecTaskInfo(name=task, is_negative_task=negative)
                for task, negative in zip(self.tasks, is_negative or [False] * n_tasks, strict=True)
            ],
            compute_mode=config.RecComputeMode[mode],
            window_size=window,
            **options,
        )

    def update(self, predictions: Any, labels: Any, weights: Any, **keys: Any) -> None:
        """One update with an array for each task, and keys for all; weights may be None."""

        def by_task(arrays: Any) -> Any:
            # Copies: the reference clamps predictions in place.
            tensors = (torch.tensor(x, dtype=self.dtype) for x in arrays)
            return dict(zip(self.tasks, tensors, strict=True))

        required = {name: torch.tensor(key) for name, key in keys.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release")
            self.metric.update(
                predictions=by_task(predictions),
                labels=by_task(labels),
                weights=None if weights is None else by_task(weights),
                **({"required_inputs": required} if keys else {}),
            )

    def compute(self) -> dict[str, np.ndarray]:
        """The values, ``[T]`` or ``[T, C]``, by the names that they have here too."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
            reported = self.metric.compute()
        names = dict.fromkeys(key.split("|")[1] for key in reported)
        namespace = next(iter(reported)).split("-")[0]

        def value(task: str, name: str) -> np.ndarray:
            return reported[f"{namespace}-{task}|{name}"].numpy().squeeze()

        return {name: np.stack([value(task, name) for task in self.tasks]) for name in names}
