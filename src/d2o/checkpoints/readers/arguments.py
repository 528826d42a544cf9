"""The arguments that a state dict's network was constructed with: given (`--config`), or assumed."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from d2o.records import validate

T = TypeVar("T")


def read(record: type[T], config: Mapping[str, Any] | None, facts: Mapping[str, Any]) -> T:
    """Return the arguments as a record; a ValueError for unknown ones, and where the weights show other `facts`."""
    arguments = validate(record, dict(config or {}), "The config")
    compare(vars(arguments), facts)
    return arguments


def compare(given: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    for name, fact in facts.items():
        if (told := given.get(name)) not in (None, fact):
            raise ValueError(
                f"its weights show {name} = {fact}, not {str(told)[:60]} as its config says: correct or omit it"
            )


def ask_for(name: str) -> str:
    """Return the end of a sentence on an argument that nothing shows, a whole number."""
    return f'a JSON file with {{"{name}": N}} sets it: `--config FILE.json`, also for `d2o convert`'


def warn_of(path: Path, assumed: Mapping[str, Any]) -> None:
    """Warn of what nothing shows and the images depend on; where it stays told is `provenance`."""
    rows = ", ".join(f"{name} = {value}" for name, value in assumed.items())
    remedy = "`--family FAMILY` and `--config FILE.json` set something else, also for `d2o convert`"
    warnings.warn(f"The weights in {path} do not show what d2o assumes, {rows}: {remedy}.", stacklevel=2)
