"""Every public name of the reference's modules is in the adapter, and takes what it takes there."""

import ast
import importlib
import inspect
import pathlib
import pkgutil
import warnings
from typing import Any

from reference import modules

OF_TESTS = ("test_utils", "benchmark_cpu_offloaded_metric_module")
HOOKS = "a hook of torch's state dicts, in place of which the module's own methods are overridden"
MISSING = {
    "cpu_comms_metric_module.set_update_called": "sets a private attribute of torchmetrics",
    "metric_module.T": "a type variable",
    "metric_module.RecMetricModule.load_state_dict_hook": HOOKS,
    "rec_metric.ComputeIterType": "a type of private methods",
    "rec_metric.DefaultValueT": "a type of private methods",
    "rec_metric.RecMetric.clone_update_inputs": "inputs are copied where they are kept",
    "throughput.ThroughputMetric.state_dict_hook": HOOKS,
    "throughput.ThroughputMetric.load_state_dict_hook": HOOKS,
    "tower_qps.TowerQPSMetric.state_dict_hook": HOOKS,
    "tower_qps.TowerQPSMetric.load_state_dict_hook": HOOKS,
}
"""Names that the adapter does not have, and why."""

OTHER_PARAMETERS = {
    "auprc.AUPRCMetric": "as documented: the options of bins are keywords",
    "cpu_offloaded_metric_module.CPUOffloadedRecMetricModule.async_compute": "not a private one",
    "deferrable_metrics.DeferrableMetrics.update": "as of a dict",
    "multiclass_recall.MulticlassRecallMetric": "as documented: there is no default to count on",
    "multiclass_recall.MulticlassRecallMetricComputation": "has no default number of classes",
}
"""Callables whose parameters differ, and why."""


def public_names(body: Any) -> set[str]:
    """The names that a module's or a class's statements define."""
    names = set()
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names.add(statement.name)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")} - {"logger"}


def pairs() -> list[tuple[str, Any, Any]]:
    """Each public name of a module, and each method of its classes, here (or None) and there."""
    found = []
    folder = pathlib.Path(modules["ne"].__file__).parent
    for info in pkgutil.iter_modules([str(folder)]):
        if info.name in OF_TESTS:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            theirs = importlib.import_module(f"torchrec.metrics.{info.name}")
        ours = importlib.import_module(f"recmetrics_jax.adapter.{info.name}")
        body = ast.parse(inspect.getsource(theirs)).body
        classes = [x for x in body if isinstance(x, ast.ClassDef) and hasattr(ours, x.name)]
        spaces = [("", body, theirs, ours)]
        spaces += [
            (f"{x.name}.", x.body, *(getattr(m, x.name) for m in (theirs, ours))) for x in classes
        ]
        for prefix, statements, there, here in spaces:
            if (
                prefix
            ):  # What an object is given lies in its annotations, or is set when it is made.
                statements = [x for x in statements if isinstance(x, ast.FunctionDef)]
            for name in sorted(public_names(statements)):
                where = f"{info.name}.{prefix}{name}"
                found.append((where, getattr(here, name, None), getattr(there, name)))
    return found


def parameters(function: Any) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None


def takes(ours: Any, theirs: Any) -> bool:
    """Whether a call that the reference takes is taken: same names, order, and what is optional."""
    here, there = parameters(ours), parameters(theirs)
    if here is None or there is None:
        return here is there
    kinds = inspect.Parameter
    variadic = (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    by_name = {p.name: p for p in here if p.kind not in variadic}
    any_keyword, any_position = (
        any(p.kind is kind for p in here) for kind in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)
    )
    named = [p for p in there if p.kind not in variadic]
    if not any_keyword and any(p.name not in by_name for p in named):
        return False
    is_optional = {p.name for p in named if p.default is not kinds.empty}
    must = {p.name for p in by_name.values() if p.default is kinds.empty}
    if must - {p.name for p in named} or must & is_optional:
        return False
    of_places = kinds.POSITIONAL_OR_KEYWORD
    places_there, places_here = ([p.name for p in x if p.kind is of_places] for x in (there, here))
    return any_position or places_here[: len(places_there)] == places_there


def test_public_names_are_there_but_for_a_few_that_are_explained():
    found = pairs()
    assert len(found) > 300
    assert {where for where, ours, _ in found if ours is None} == set(MISSING)


def test_calls_that_the_reference_takes_are_taken_but_for_a_few_that_are_explained():
    both = [
        x
        for x in pairs()
        if x[1] is not None and (inspect.isroutine(x[2]) or inspect.isclass(x[2]))
    ]
    assert len(both) > 200
    assert {where for where, *of in both if not takes(*of)} == set(OTHER_PARAMETERS)
