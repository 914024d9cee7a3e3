"""The adapter has every documented name, with the documented parameters."""

import importlib
import inspect
import json
import math
import pathlib
import pydoc
from collections.abc import Iterator
from typing import Any

import pytest

CONTRACT: dict[str, Any] = json.loads(
    pathlib.Path(__file__).with_name("documented_api.json").read_text()
)
PACKAGE = "recmetrics_jax.adapter"
OF_TORCH = ("Module", "Metric", "object")
NOT_LISTED = ("RecMetricModule.update",)  # whose parameters the document leaves out
LITERALS = {"None": None, "True": True, "False": False, "inf": math.inf}

every_module = pytest.mark.parametrize("name", CONTRACT)


def module_of(name: str) -> Any:
    return importlib.import_module(f"{PACKAGE}.{name}")


def default_of(documented: str) -> Any:
    """A default as the document writes it."""
    if documented.startswith("RecComputeMode."):
        return module_of("metrics_config").RecComputeMode[documented.split(".")[1]]
    return (
        LITERALS[documented] if documented in LITERALS else json.loads(documented.replace("'", '"'))
    )


def expected_parameters(documented: list[dict[str, Any]]) -> list[tuple[str, str, Any]]:
    """Name, kind and default of each parameter."""
    is_keyword_only, parameters = False, []
    for parameter in documented:
        kind = parameter["kind"]
        if kind == "keyword_only_marker":
            is_keyword_only = True
            continue
        default = default_of(parameter["default"]) if "default" in parameter else inspect._empty
        if kind == "normal":
            kind = "keyword-only" if is_keyword_only else "positional or keyword"
        is_keyword_only |= kind == "var_positional"
        parameters.append((parameter["name"], kind.replace("var_", "variadic "), default))
    return [p for p in parameters if p[0] != "self"]


def actual_parameters(target: Any) -> list[tuple[str, str, Any]]:
    parameters = inspect.signature(target).parameters.values()
    return [(p.name, p.kind.description, p.default) for p in parameters if p.name != "self"]


def is_extension(actual: list[tuple[str, str, Any]], expected: list[tuple[str, str, Any]]) -> bool:
    """Whether the documented parameters are there in order, and others can be left out."""
    names = [name for name, *_ in expected]
    documented = [p for p in actual if p[0] in names]
    others = [p for p in actual if p[0] not in names]
    positional = [p for p in actual if p[1] == "positional or keyword"]
    wanted = [p for p in expected if p[1] == "positional or keyword"]
    takes_any = any(kind == "variadic keyword" for _, kind, _ in expected)
    left_out = ("variadic positional", "variadic keyword", *["keyword-only"] * takes_any)
    return (
        sorted(documented, key=str) == sorted(expected, key=str)
        and positional[: len(wanted)] == wanted
        and all(p[2] is not inspect._empty or p[1] in left_out for p in others)
    )


def callables_of(name: str) -> Iterator[tuple[str, Any, list[dict[str, Any]]]]:
    """All that a module documents that can be called, and its parameters."""
    module = module_of(name)
    for function, spec in CONTRACT[name]["functions"].items():
        yield function, getattr(module, function), spec["params"]
    for class_name, spec in CONTRACT[name]["classes"].items():
        cls = getattr(module, class_name)
        if spec["init"]:
            yield class_name, cls, spec["init"]
        for method, of_method in spec["methods"].items():
            where = f"{class_name}.{method}"
            if where not in NOT_LISTED:
                yield where, getattr(cls, method), of_method["params"]


@every_module
def test_parameters_are_the_documented_ones(name):
    count = 0
    for where, target, documented in callables_of(name):
        actual, expected = actual_parameters(target), expected_parameters(documented)
        assert is_extension(actual, expected), f"{where}: {actual} instead of {expected}"
        count += 1
    assert count


@every_module
def test_classes_have_documented_bases_attributes_and_docstrings(name):
    for class_name, spec in CONTRACT[name]["classes"].items():
        cls = getattr(module_of(name), class_name)
        bases = {base.__name__ for base in cls.__mro__}
        assert set(spec["bases"]) - set(OF_TORCH) <= bases, class_name
        assert cls.__doc__, class_name
        annotated = {key for base in cls.__mro__ for key in vars(base).get("__annotations__", {})}
        for attribute in spec["attributes"]:
            assert hasattr(cls, attribute) or attribute in annotated, f"{class_name}.{attribute}"
        for method in spec["methods"]:
            assert inspect.getdoc(getattr(cls, method)), f"{class_name}.{method}"
    for function in CONTRACT[name]["functions"]:
        assert getattr(module_of(name), function).__doc__, function


@every_module
def test_help_shows_the_documented_parameters(name):
    for where, target, documented in callables_of(name):
        text = pydoc.plain(pydoc.render_doc(target))
        for parameter, kind, _ in expected_parameters(documented):
            stars = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
            assert f"{stars}{parameter}" in text.split("\n\n")[1], f"{where}: {parameter}"


def test_the_checker_sees_what_differs():
    def documented(a, b=1, *, c=None, **kwargs):
        pass

    expected = actual_parameters(documented)
    for same in (documented, lambda a, b=1, d=2, *, e=3, c=None, **kwargs: None):
        assert is_extension(actual_parameters(same), expected)
    for other in (
        lambda b=1, a=2, *, c=None, **kwargs: None,
        lambda a, b=2, *, c=None, **kwargs: None,
        lambda a, b=1, c=None, **kwargs: None,
        lambda a, b=1, *, c=None: None,
        lambda a, d=1, b=1, *, c=None, **kwargs: None,
        lambda a, d, b=1, *, c=None, **kwargs: None,
    ):
        assert not is_extension(actual_parameters(other), expected)
