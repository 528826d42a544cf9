"""What a request may ask for, and what is answered when it cannot be done."""

import re
from dataclasses import dataclass
from typing import Any

from d2o.data.files import MAX_SEED, parse_seeds

from .pictures import FORMATS


class Refused(ValueError):
    """A request that is not served: one sentence for the client, and the HTTP status that says it to machines."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """What one client, and all of them together, may ask for."""

    seeds: int = 64
    """Images of one request."""
    queue: int = 1024
    """Images that wait, of all requests; more are refused with 503."""
    body: int = 65_536
    """Bytes of a request's body."""
    seconds: float = 60.0
    """Time from a request to its images; later it is refused with 504."""


@dataclass(frozen=True)
class Question:
    """The images of these seeds, of these classes (None: the model has none), in one of FORMATS."""

    seeds: tuple[int, ...]
    labels: tuple[int, ...] | None
    format: str


KEYS = ("seeds", "class", "format")


def question(asked: dict[str, Any], num_classes: int, limits: Limits) -> Question:
    """Return what a request's keys ask for; Refused (400) names the key that is wrong."""
    unknown = [str(key) for key in asked if key not in KEYS]
    if unknown:
        raise Refused(400, f"There is no {unknown[0][:40]!r}: ask for {', '.join(KEYS)}.")
    form = asked.get("format", "png")
    if not isinstance(form, str) or form not in FORMATS:
        raise Refused(400, f"format is {str(form)[:40]!r}: there are {', '.join(FORMATS)}.")
    seeds = seeds_of(asked.get("seeds", 0), limits.seeds)
    return Question(seeds, labels_of(asked.get("class"), seeds, num_classes), form)


def seeds_of(value: Any, most: int) -> tuple[int, ...]:
    """Return the seeds of a number, of a list of numbers, or of text as on the command line ("0-7" or "1,5,9")."""
    found = [value] if whole(value) else value
    if isinstance(value, str):
        if range_of(value) > most:  # before a list of millions is made
            raise too_many(most)
        try:
            found = parse_seeds(value)
        except ValueError as error:
            raise Refused(400, str(error).removeprefix("--")[:300]) from error
    if not isinstance(found, list) or not found or not all(whole(seed) for seed in found):
        raise Refused(400, 'seeds are a whole number, a list of them, or text such as "0-7" or "1,5,9".')
    if len(found) > most:
        raise too_many(most)
    if not all(0 <= seed <= MAX_SEED for seed in found):
        raise Refused(400, f"seeds are from 0 to {MAX_SEED}.")
    return tuple(found)


def range_of(text: str) -> int:
    """Return how many seeds a text may name, without making their list."""
    pairs = re.findall(r"([0-9]{1,19})\s*-\s*([0-9]{1,19})", text)
    return text.count(",") + 1 + sum(max(int(last) - int(first), 0) for first, last in pairs)


def too_many(most: int) -> Refused:
    """Return the refusal of a request for too many images."""
    return Refused(400, f"A request is for at most {most} seeds here; split it into several.")


def labels_of(asked: Any, seeds: tuple[int, ...], num_classes: int) -> tuple[int, ...] | None:
    """Return a class a seed: one for all, a list of them, or, as everywhere in d2o, seed modulo the classes."""
    value: Any = int(asked) if isinstance(asked, str) and re.fullmatch(r"[0-9]{1,9}", asked) else asked
    if num_classes == 0:
        if value is not None:
            raise Refused(400, "This model has no classes: leave class out.")
        return None
    if value is None:
        return tuple(seed % num_classes for seed in seeds)
    found = [value] * len(seeds) if whole(value) else value
    if not isinstance(found, list) or not all(whole(k) and 0 <= k < num_classes for k in found):
        raise Refused(400, f"class is a whole number from 0 to {num_classes - 1}, or a list of one a seed.")
    if len(found) != len(seeds):
        raise Refused(400, f"There are {len(seeds)} seeds but {len(found)} classes.")
    return tuple(found)


def whole(value: Any) -> bool:
    """Return whether a JSON value is a whole number (true and false are not)."""
    return isinstance(value, int) and not isinstance(value, bool)
