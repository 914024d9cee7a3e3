"""Arrays of other layouts that computations take are read as the reference reads them."""

import numpy as np
import pytest
from adapter_pair import OURS, THEIRS, make, tasks_of
from reference import torch


@pytest.mark.parametrize("form", ["[N]", "[1, N]"])
@pytest.mark.parametrize("name", ["ne", "ctr", "mse", "calibration", "accuracy", "weighted_avg"])
def test_rows_are_broadcast_as_in_the_reference(name, form):
    """Of one task, and of two beside predictions of each."""
    row = torch.tensor([0.25, 0.5, 0.75])
    for n_tasks, predictions in ((1, row), (2, torch.stack([row, row.flip(0)]))):
        found = []
        for package in (OURS, THEIRS):
            tasks = tasks_of(package, ("a", "b")[:n_tasks])
            metric = make(package, name, tasks, is_fused=True)
            (computation,) = metric._metrics_computations
            labels = torch.tensor([1.0, 0.0, 1.0])
            weights = torch.tensor([1.0, 2.0, 4.0])
            if form == "[1, N]":
                labels, weights = labels[None], weights[None]
            computation.update(predictions=predictions, labels=labels, weights=weights)
            found.append(
                {
                    f"{report.metric_prefix.value}{report.name.value}": report.value.tolist()
                    for report in computation.compute()
                }
            )
        assert found[0].keys() == found[1].keys()
        for value, expected in found[1].items():
            np.testing.assert_allclose(found[0][value], expected, rtol=1e-6)
