"""Hooks that subclasses of the reference's metrics use."""

from typing import Any

import numpy as np
import pytest
from adapter_cases import FUSED, TASKS, UNFUSED, N, batch, case_of, values
from test_user_metrics import NumpyComputation, NumpyMetric

from recmetrics_jax.adapter._tensors import to_numpy
from recmetrics_jax.adapter.ctr import CTRMetric, CTRMetricComputation
from recmetrics_jax.adapter.metrics_config import RecTaskInfo
from recmetrics_jax.adapter.rec_metric import EventLoggingHandler, TorchrecComponent


def test_constructors_may_take_keywords_alone():
    class Computation(NumpyComputation):
        def __init__(self, *, initial_states: float = 0.0, **keywords: Any) -> None:
            super().__init__(**keywords)
            self.clicks += initial_states
            self.mode_when_made = self._compute_mode

    class Metric(NumpyMetric):
        _computation_class = Computation

    for mode in (UNFUSED, FUSED):
        metric = Metric(1, 0, N, TASKS, mode, initial_states=3.0)
        for computation in metric._metrics_computations:
            assert computation.mode_when_made == computation._compute_mode == mode
            assert set(computation.clicks.tolist()) == {3.0}


def test_fused_tasks_see_the_tensors_that_they_name():
    seen = []

    class Computation(NumpyComputation):
        def update(self, *, required_inputs: Any, **arguments: Any) -> None:
            seen.append(required_inputs)
            super().update(**arguments)

    class Metric(NumpyMetric):
        _computation_class = Computation

    def made(*names: str | None) -> Any:
        tasks = [RecTaskInfo(name=task, tensor_name=n) for task, n in zip("ab", names, strict=True)]
        return Metric(1, 0, N, tasks, FUSED)

    arguments = batch(case_of("ctr"))
    given = {"x": np.arange(N), "y": -np.arange(N), "z": np.ones(3)}
    for names, expected in ((("x", "y"), [given["x"], given["y"]]), (("x", "x"), [given["x"]] * 2)):
        made(*names).update(**arguments, required_inputs=given)
        np.testing.assert_equal(to_numpy(seen[-1]["target_tensor"]), np.stack(expected))
    assert list(given) == ["x", "y", "z"]
    for names in ((None, None), ("u", "v")):
        made(*names).update(**arguments, required_inputs=given)
        assert "target_tensor" not in seen[-1]
    for names in (("x", None), ("x", "u"), ("x", "z")):
        with pytest.raises(ValueError, match="required_inputs"):
            made(*names).update(**arguments, required_inputs=given)


def test_hooks_of_the_reference_are_there():
    def function(x: int) -> int:
        return x + 1

    computation = CTRMetricComputation(0, N, 1, 2 * N, enable_pt2_compile=True)
    assert computation._maybe_compile(function) is function
    assert EventLoggingHandler.event_logger(TorchrecComponent.REC_METRICS, n=10)(function)(1) == 2
    assert EventLoggingHandler.log_event(component="rec_metrics") is None
    assert EventLoggingHandler.n_batch_log_event(event_name="update") is None
    for metric_class in (CTRMetric, NumpyMetric):
        metric = metric_class(1, 0, N, TASKS)
        metric.update(**batch(case_of("ctr")), _log_tensors=True)
        assert len(values(metric)) == 4
