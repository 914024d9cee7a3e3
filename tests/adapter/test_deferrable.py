"""`DeferrableMetrics`: a dictionary of values, there or on their way."""

import copy
import json
import pickle
import threading
from concurrent.futures import Future
from typing import Any

import jax
import pytest

from recmetrics_jax.adapter._tensors import torch
from recmetrics_jax.adapter.deferrable_metrics import (
    DeferrableMetrics,
    device_supports_async,
    transfer_tensors_to_cpu,
)

VALUES = {"ne": 0.5, "ctr": 0.25}


def later(values: dict[str, Any] | None = None) -> tuple[DeferrableMetrics, Future[dict[str, Any]]]:
    """Metrics on their way, and the future that brings them, or soon will by itself."""
    future: Future[dict[str, Any]] = Future()
    if values is not None:
        threading.Timer(0.01, future.set_result, [values]).start()
    return DeferrableMetrics(future), future


USES = {
    "[]": lambda m: m["ne"],
    "get": lambda m: m.get("ne"),
    "in": lambda m: "ne" in m,
    "len": len,
    "iter": list,
    "reversed": lambda m: list(reversed(m)),
    "keys": lambda m: list(m.keys()),
    "values": lambda m: list(m.values()),
    "items": lambda m: list(m.items()),
    "dict": dict,
    "**": lambda m: {**m},
    "arguments": lambda m: dict(**m),
    "|": lambda m: {"a": 1} | m | {"b": 2},
    "|=": lambda m: {"a": 1}.__ior__(m),
    "update": lambda m: [each := {"a": 1}, each.update(m)],
    "==": lambda m: (m == VALUES, VALUES.__eq__(dict(m)), m != VALUES, m == {}),
    "pop": lambda m: (m.pop("ne"), dict(m)),
    "popitem": lambda m: (m.popitem(), dict(m)),
    "setdefault": lambda m: m.setdefault("ne", 7),
    "set": lambda m: [m.__setitem__("x", 1), dict(m)],
    "del": lambda m: [m.__delitem__("ne"), dict(m)],
    "clear": lambda m: [m.clear(), dict(m)],
    "copy": lambda m: m.copy(),
    "copy.copy": lambda m: dict(copy.copy(m)),
    "deepcopy": lambda m: dict(copy.deepcopy(m)),
    "pickle": lambda m: dict(pickle.loads(pickle.dumps(m))),
    "json": json.dumps,
    "jax.tree": lambda m: jax.tree.map(lambda x: 2 * x, m),
    "jax.tree.leaves": jax.tree.leaves,
    "format": lambda m: "{ne}".format_map(m),
    "resolve": lambda m: dict(m.resolve()),
}


@pytest.mark.parametrize("use", USES)
def test_whatever_is_asked_of_a_dictionary_waits_for_the_values(use):
    expected = USES[use](dict(VALUES)) if use != "resolve" else VALUES
    here, (on_their_way, _) = DeferrableMetrics(VALUES), later(VALUES)
    assert USES[use](here) == expected
    assert USES[use](on_their_way) == expected
    assert isinstance(on_their_way, dict)


def test_metrics_are_true_and_say_what_they_are():
    empty, (pending, future) = DeferrableMetrics({}), later()
    assert empty
    assert pending
    assert repr(DeferrableMetrics(VALUES)) == "DeferrableMetrics(resolved, 2 keys)"
    assert repr(pending) == "DeferrableMetrics(pending)"
    assert not pending.is_resolved()
    future.set_result(VALUES)
    assert pending.is_resolved()
    mine = dict(VALUES)
    metrics = DeferrableMetrics(mine)
    metrics["x"] = 1
    assert mine == VALUES


def test_subscribers_are_called_when_the_values_are_there():
    seen: list[Any] = []
    DeferrableMetrics(VALUES).subscribe(seen.append)
    assert seen == [VALUES]
    metrics, future = later()
    metrics.subscribe(seen.append)
    assert len(seen) == 1
    future.set_result({"ne": 1.0})
    assert seen == [VALUES, {"ne": 1.0}]


def test_failures_reach_who_asks():
    metrics, future = later()
    errors: list[Any] = []
    metrics.subscribe(lambda _: errors.append("called"), errors.append)
    future.set_exception(KeyError("ne"))
    assert [type(error) for error in errors] == [KeyError]
    for ask in (metrics.resolve, lambda: metrics["ne"], lambda: len(metrics)):
        with pytest.raises(KeyError, match="ne"):
            ask()
    assert not metrics.is_resolved()
    DeferrableMetrics(_done({})).subscribe(lambda values: values["x"], errors.append)
    assert len(errors) == 2


def _done(values: dict[str, Any]) -> Future[dict[str, Any]]:
    future: Future[dict[str, Any]] = Future()
    future.set_result(values)
    return future


def test_values_are_added_to_those_on_their_way():
    metrics, future = later()
    seen: list[Any] = []
    metrics.subscribe(seen.append)
    metrics.update({"ne": 2.0, "lr": 0.1})
    metrics.subscribe(seen.append)
    future.set_result(VALUES)
    merged = {"ne": 2.0, "ctr": 0.25, "lr": 0.1}
    assert seen == [VALUES, merged]
    assert metrics == merged
    metrics.update(lr=0.2)
    assert metrics["lr"] == 0.2


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first", "second"])
def test_values_on_their_way_are_added_to_others(order):
    (metrics, first), (others, second) = later(), later()
    metrics.update(others)
    futures = [(first, VALUES), (second, {"lr": 0.1})]
    for i in order:
        assert not metrics.is_resolved()
        futures[i][0].set_result(futures[i][1])
    assert metrics == {**VALUES, "lr": 0.1}
    here, (others, second) = DeferrableMetrics(VALUES), later()
    here.update(others)
    assert here == VALUES
    second.set_result({"lr": 0.1})
    assert here == {**VALUES, "lr": 0.1}


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_of_either_fails_both(failing):
    pairs = [later(), later()]
    pairs[0][0].update(pairs[1][0])
    pairs[failing][1].set_exception(OSError("gone"))
    pairs[1 - failing][1].set_result({})
    with pytest.raises(OSError, match="gone"):
        pairs[0][0].resolve()


def test_waiting_is_warned_of_once(caplog, monkeypatch):
    monkeypatch.setattr(DeferrableMetrics, "_warned", False)
    for _ in range(2):
        assert later(VALUES)[0]["ne"] == 0.5
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    later(VALUES)[0].resolve()
    DeferrableMetrics(VALUES)["ne"]
    assert len(caplog.records) == 1


def test_what_is_on_the_cpu_is_not_copied():
    tensors = {"x": "text", "y": [1.0]}
    moved, event = transfer_tensors_to_cpu(tensors)
    assert (moved, event) == (tensors, None)
    assert not device_supports_async("cpu")
    assert device_supports_async("cuda:1")
    if torch is not None:
        x = torch.ones(2)
        assert transfer_tensors_to_cpu({"x": x})[0]["x"] is x
        assert not device_supports_async(torch.device("cpu"))
