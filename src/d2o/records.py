"""Frozen records that are read from files and the command line: how their fields are checked, and what errors say."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from functools import cache, reduce
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError


def refuse_truth(value: Any) -> Any:
    """Refuse yes and no where a number is expected: Python takes them for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("a number is expected")
    return value


def check_rise(ends: tuple[float, float]) -> tuple[float, float]:
    if not ends[0] + 1e-3 <= ends[1]:
        raise ValueError("the first number must be the smaller one")
    return ends


T = TypeVar("T")
Whole = Annotated[int, BeforeValidator(refuse_truth)]
Real = Annotated[float, BeforeValidator(refuse_truth)]
End = Annotated[float, BeforeValidator(refuse_truth), Field(ge=-1e5, le=1e5)]
Range = Annotated[tuple[End, End], AfterValidator(check_rise)]
REGISTER = " --import FILE registers your own."
"""The remedy for kinds that a table lacks."""
RECORD = ConfigDict(extra="forbid", allow_inf_nan=False, defer_build=True)
"""How the fields of records are checked; a record is compiled at its first use, since most programs use few."""
LONGEST = 200
"""Characters of a wrong value that an error quotes: a hostile file's may be endless."""

adapter = cache(TypeAdapter)
MOST_NAMED = 100  # in a sentence: a model may know thousands of words


def nearest(word: object, known: Iterable[str]) -> str:
    """Return the end of an error sentence: the known word that was probably meant, or up to 100 of them."""
    known = list(known)
    close = get_close_matches(str(word), known, n=1, cutoff=0.5)
    more = " ..." if len(known) > MOST_NAMED else "."
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known[:MOST_NAMED])}{more}"


def shorten(words: Sequence[str], most: int = 12) -> str:
    """Return words as a list, of many the first ones and the last."""
    return ", ".join(words if len(words) <= most else [*words[: most - 1], "...", words[-1]])


def find(name: object, table: Mapping[str, T], what: str, remedy: str = "") -> T:
    """Return the row of a table; a name that is none is a ValueError with the nearest one."""
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"There is no {what} {name!r}: {nearest(name, table)}{remedy}")
    return table[name]


def validate(record: Any, values: Any, name: str, kinds: Mapping[str, Any] | None = None) -> Any:
    """Return a record made of values; all that is wrong is named in one ValueError, with the nearest key.

    `name` is what the error calls it. `kinds` are the records that may stand inside it, by their `kind`.
    """
    try:
        return adapter(record).validate_python(values)
    except ValidationError as error:
        raise ValueError(f"{name} cannot be used: {explain(error, record, values, kinds or {})}.") from error


def explain(error: ValidationError, record: Any, values: Any, kinds: Mapping[str, Any]) -> str:
    """Return pydantic's list of errors as one sentence with dotted paths and nearest names."""
    parts = []
    rows = error.errors()
    for row in rows:
        steps = [step for step in row["loc"] if step not in kinds]  # pydantic puts the kind that it chose in between
        where = ".".join(map(str, steps))
        if row["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            within = reduce(lambda place, step: place[step], steps[:-1], values)
            within = kinds[within.get("kind", "")] if steps[:-1] else record
            parts.append(f"unknown key {where!r} ({nearest(steps[-1], [field.name for field in fields(within)])})")
        elif row["type"] != "too_short" or len(rows) == 1:  # an item that cannot be used is not counted, either
            shown, message = repr(row["input"])[:LONGEST], row["msg"].removeprefix("Value error, ")
            message = message if row["type"] == "value_error" else f"{message[:1].lower()}{message[1:]}"
            parts.append(f"{where} is {shown}: {message}" if steps else message)
    return "; ".join(parts)
