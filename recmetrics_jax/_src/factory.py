"""Metrics that print like the call that made them."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec

from recmetrics_jax._src.identity import Formula, typed
from recmetrics_jax._src.metric import Engine, Metric
from recmetrics_jax._src.options import plain
from recmetrics_jax._src.terms import Term

P = ParamSpec("P")


def factory(make: Callable[P, Metric]) -> Callable[P, Metric]:
    """A factory whose metrics print like the call that made them; of NumPy's scalars, Python's."""
    signature = inspect.signature(make)
    of_options: Callable[..., Metric] = make

    @functools.wraps(make)
    def named(*args: P.args, **kwargs: P.kwargs) -> Metric:
        of_call = [plain(x) for x in args], {name: plain(x) for name, x in kwargs.items()}
        metric = of_options(*of_call[0], **of_call[1])
        engine = Engine.of(metric)
        if engine is None:
            return metric
        options = [
            _shown(value)
            if signature.parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
            else f"{name}={_shown(value)}"
            for name, value in signature.bind(*of_call[0], **of_call[1]).arguments.items()
            if not _is_default(value, signature.parameters[name].default)
        ]
        shown = f"{make.__name__}({', '.join(options)})"
        return Engine(engine.program, engine.others, shown).metric

    return named


def _is_default(value: Any, default: Any) -> bool:
    return value is default or typed(value) == typed(default)


def _shown(value: Any) -> str:
    """An argument as it reads in a call."""
    if isinstance(value, Mapping):
        items = (f"{name!r}: {_shown(of_name)}" for name, of_name in value.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(value, Term):
        return value.name
    if callable(value):
        return Formula.of(value).name
    return f"{value:_}" if type(value) is int and abs(value) >= 10_000 else repr(value)
