"""What a request for images may ask, and the sentence for one that cannot be answered."""

import asyncio
import json
import re
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from d2o.data.files import MAX_SEED, parse_seeds

from .pictures import FORMATS


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
class Query:
    """The images of these seeds, of these classes (None: the model has none), in one of FORMATS."""

    seeds: tuple[int, ...]
    labels: tuple[int, ...] | None
    format: str


KEYS = ("seeds", "class", "format")


def read_query(asked: dict[str, Any], num_classes: int, limits: Limits) -> Query:
    """Return what a request's keys ask for; HTTPException (400) names the key that is wrong."""
    for key in asked:
        if key not in KEYS:
            raise HTTPException(400, f"There is no {key[:40]!r}: ask for {', '.join(KEYS)}.")
    form = asked.get("format", "png")
    if not isinstance(form, str) or form not in FORMATS:
        raise HTTPException(400, f"format is {str(form)[:40]!r}: there are {', '.join(FORMATS)}.")
    seeds = read_seeds(asked.get("seeds", 0), limits.seeds)
    return Query(seeds, read_labels(asked.get("class"), seeds, num_classes), form)


def read_seeds(value: Any, most: int) -> tuple[int, ...]:
    """Return the seeds of a number, of a list of numbers, or of text as on the command line ("0-7" or "1,5,9")."""
    found = [value] if is_whole(value) else value
    if isinstance(value, str):
        if count_seeds(value) > most:  # before a list of millions is made
            raise too_many(most)
        try:
            found = parse_seeds(value)
        except ValueError as error:
            raise HTTPException(400, str(error).removeprefix("--")[:300]) from error
    if not isinstance(found, list) or not found or not all(is_whole(seed) for seed in found):
        raise HTTPException(400, 'seeds are a whole number, a list of them, or text such as "0-7" or "1,5,9".')
    if len(found) > most:
        raise too_many(most)
    if not all(0 <= seed <= MAX_SEED for seed in found):
        raise HTTPException(400, f"seeds are from 0 to {MAX_SEED}.")
    return tuple(found)


def count_seeds(text: str) -> int:
    """Return how many seeds a text may name, without making their list."""
    pairs = re.findall(r"([0-9]{1,19})\s*-\s*([0-9]{1,19})", text)
    return text.count(",") + 1 + sum(max(int(last) - int(first), 0) for first, last in pairs)


def too_many(most: int) -> HTTPException:
    """Return the refusal of a request for too many images."""
    return HTTPException(400, f"A request is for at most {most} seeds here; split it into several.")


def read_labels(asked: Any, seeds: tuple[int, ...], num_classes: int) -> tuple[int, ...] | None:
    """Return a class a seed: one for all, a list of them, or, as everywhere in d2o, seed modulo the classes."""
    value: Any = int(asked) if isinstance(asked, str) and re.fullmatch(r"[0-9]{1,9}", asked) else asked
    if num_classes == 0:
        if value is not None:
            raise HTTPException(400, "This model has no classes: leave class out.")
        return None
    if value is None:
        return tuple(seed % num_classes for seed in seeds)
    found = [value] * len(seeds) if is_whole(value) else value
    if not isinstance(found, list) or not all(is_whole(k) and 0 <= k < num_classes for k in found):
        raise HTTPException(400, f"class is a whole number from 0 to {num_classes - 1}, or a list of one a seed.")
    if len(found) != len(seeds):
        raise HTTPException(400, f"There are {len(seeds)} seeds but {len(found)} classes.")
    return tuple(found)


def is_whole(value: Any) -> bool:
    """Return whether a JSON value is a whole number (true and false are not)."""
    return isinstance(value, int) and not isinstance(value, bool)


async def read_json(request: Request, limits: Limits) -> dict[str, Any]:
    """Return the JSON object of a request's body; HTTPException when it is too long, too slow or none."""
    if request.query_params:
        raise HTTPException(400, "A POST says all in its JSON body: leave the address's ?... out.")

    async def read() -> bytes:
        content = b""
        async for chunk in request.stream():
            content += chunk
            if len(content) > limits.body:
                raise HTTPException(413, f"The body is longer than {limits.body} bytes.")
        return content

    try:
        asked = json.loads(await asyncio.wait_for(read(), limits.seconds))
    except HTTPException:
        raise
    except TimeoutError:
        raise HTTPException(408, f"The body did not come within {limits.seconds:g} s.") from None
    except (ValueError, RecursionError) as problem:
        raise HTTPException(400, f"The body is not JSON: {str(problem)[:100]}.") from None
    if not isinstance(asked, dict):
        raise HTTPException(400, 'The body is not a JSON object such as {"seeds": [0, 1]}.')
    return asked
