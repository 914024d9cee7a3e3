"""The hooks by which the reference logs events, for code that calls or decorates with them."""

from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class TorchrecComponent(Enum):
    """What an event is of."""

    REC_METRICS = "rec_metrics"


class EventLoggingHandler:
    """Takes events, and does nothing with them."""

    @staticmethod
    def log_event(*args: Any, **kwargs: Any) -> None:
        """Takes an event."""

    @staticmethod
    def n_batch_log_event(*args: Any, **kwargs: Any) -> None:
        """Takes an event, one in so many of which would be logged."""

    @staticmethod
    def event_logger(*args: Any, **kwargs: Any) -> Callable[[F], F]:
        """A decorator that leaves functions as they are."""
        return lambda function: function
