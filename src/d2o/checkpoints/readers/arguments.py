"""The arguments that a state dict's network was constructed with, where a user gives them (`--config`)."""

from collections.abc import Mapping
from typing import Any, TypeVar

from d2o.records import validate

T = TypeVar("T")


def read(record: type[T], config: Mapping[str, Any] | None, facts: Mapping[str, Any]) -> T:
    """Return the arguments as a record; a ValueError for unknown ones, and where the weights show other `facts`."""
    arguments = validate(record, dict(config or {}), "The config")
    for name, fact in facts.items():
        if (given := getattr(arguments, name)) not in (None, fact):
            raise ValueError(
                f"its weights show {name} = {fact}, not {given} as its config says: correct or omit it there"
            )
    return arguments
