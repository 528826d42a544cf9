"""Frozen records that are read from files and the command line: how their fields are checked, and what errors say."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict


def refuse_truth(value: Any) -> Any:
    """Refuse yes and no where a number is wanted: Python takes them for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("a number is wanted")
    return value


Whole = Annotated[int, BeforeValidator(refuse_truth)]
Real = Annotated[float, BeforeValidator(refuse_truth)]
RECORD = ConfigDict(extra="forbid", allow_inf_nan=False)
"""How the fields of objectives and recipes are checked."""


def nearest(word: object, known: Iterable[str]) -> str:
    """Return the end of an error sentence: the known word that was probably meant, or all of them."""
    known = list(known)
    close = get_close_matches(str(word), known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}."
