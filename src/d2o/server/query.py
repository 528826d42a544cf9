"""What a request may ask, in its address or as JSON, and the sentence for one that cannot be answered."""

import asyncio
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import torch
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, ValidationInfo
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from d2o.data.files import MAX_SEED, parse_seeds
from d2o.diffusion.condition import Blend, Words
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.sampling import condition_for
from d2o.records import RECORD, Real

from .limits import Limits


def read_digits(value: Any) -> Any:
    """Return the number of a text of digits: addresses have no others, and JavaScript's JSON rounds large ones."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value) else value


def list_seeds(value: Any, info: ValidationInfo[dict[str, int]]) -> Any:
    """Return the seeds of a text such as "0-7" or "1,5,9", of a number or of a list, no more than the limit."""
    most = info.context["max_seeds"]
    seeds = parse_seeds(value, most) if isinstance(value, str) else value if isinstance(value, list) else [value]
    if len(seeds) > most:
        raise ValueError(f"a request may have at most {most} seeds here; split it into several")
    return seeds


Number = Annotated[int, Field(strict=True, ge=0, le=MAX_SEED), BeforeValidator(read_digits)]
Class = Number | Annotated[str, Field(max_length=200)]
Prompt = Annotated[str, Field(max_length=10_000)]
SEEDS = BeforeValidator(list_seeds, json_schema_input_type=str | Number | list[Number])
MOST_UNKNOWN = 20
"""Words of prompts that an answer names as unknown."""


Share = Annotated[Real, Field(ge=0, le=1)]


class Point(NamedTuple):
    """A place in noise space, at `share` of the way from one seed's noise to another's; `blend` is that of prompts."""

    seed: Number
    other: Number
    share: Share
    blend: Share = 0.0


class Query(BaseModel):
    """What every query may say: `label`, called class, a number or name, or `prompt` of all images or of each."""

    model_config = RECORD
    label: Class | list[Class] | None = Field(None, alias="class")
    prompt: Prompt | list[Prompt] | None = None

    def condition(self, seeds: Sequence[int], denoiser: Denoiser) -> Any:
        """Return what the network is told of images of these seeds; HTTPException for what it cannot be asked."""
        asked: Any
        name, asked = ("class", self.label) if self.prompt is None else ("prompt", self.prompt)
        return understand(name, asked, seeds, denoiser)

    def unknown(self, denoiser: Denoiser) -> list[str]:
        """Return the words that the model does not know, so that it goes by the others; not more than MOST_UNKNOWN."""
        if self.prompt is None or not isinstance(denoiser.reader, Words):
            return []
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        words = dict.fromkeys(word[:60] for prompt in prompts for word in denoiser.reader.unknown(prompt))
        return list(words)[:MOST_UNKNOWN]


def understand(name: str, asked: Any, seeds: Sequence[int], denoiser: Denoiser) -> Any:
    """Return the condition of seeds; HTTPException, with the key's name, for what the model does not understand."""
    try:
        if name != "class" and denoiser.reader is None:
            raise ValueError("this model does not read prompts: leave it out.")
        return condition_for(denoiser, seeds, asked)
    except ValueError as error:
        raise HTTPException(400, f"{name}: {error}") from None


class SeedsQuery(Query):
    seeds: Annotated[list[Number], Field(min_length=1), SEEDS] = Field([0])
    format: Literal["png", "webp", "npy"] = "png"


class ModelQuery(Query):
    """What every query of the page says: a model, and the prompt `towards` which a point's `blend` leads."""

    model: str
    towards: Prompt | None = None

    def condition_at(self, points: Sequence[Point], denoiser: Denoiser) -> Any:
        """Return the condition of points; HTTPException for what the model cannot be asked."""
        seeds = [point.seed for point in points]
        condition = self.condition(seeds, denoiser)
        if self.towards is None:
            return condition
        if not denoiser.blends:
            raise HTTPException(400, "towards: this model cannot blend prompts: leave it out.")
        other = understand("towards", self.towards, seeds, denoiser)
        return Blend(condition, other, torch.tensor([point.blend for point in points]))

    def unknown(self, denoiser: Denoiser) -> list[str]:
        other = Query.model_validate({"prompt": self.towards}).unknown(denoiser)
        return list(dict.fromkeys([*super().unknown(denoiser), *other]))


class ImagesQuery(ModelQuery):
    points: Annotated[list[Point], Field(min_length=1, max_length=256)]


class MovieQuery(ModelQuery):
    first: Number
    second: Number
    frames: Annotated[Number, Field(ge=2, le=120)] = 24


class StagesQuery(ModelQuery):
    point: Point
    steps: Annotated[Number, Field(ge=2, le=40)] = 18


Kind = TypeVar("Kind", bound=Query)


async def read(kind: type[Kind], request: Request, limits: Limits) -> Kind:
    """Return what a request asks; HTTPException names the first key that is wrong, or what is wrong with the body."""
    asked, context = request.query_params, {"max_seeds": limits.max_seeds}
    try:
        if request.method == "POST" and not asked:
            return kind.model_validate_json(await read_body(request, limits), context=context)
        if request.method == "POST" or len(asked) < len(asked.multi_items()):
            raise HTTPException(400, "Name each key once; a POST has everything in its JSON body.")
        return kind.model_validate(dict(asked), context=context)
    except ValidationError as error:
        problem, *_ = error.errors(include_url=False, include_context=False, include_input=False)
        place = [str(step)[:40] for i, step in enumerate(problem["loc"]) if i == 0 or isinstance(step, int)]
        message = problem["msg"].removeprefix("Value error, ").removeprefix("--seeds ").removesuffix(".")[:300]
        if problem["type"] == "extra_forbidden":
            keys = [field.alias or name for name, field in kind.model_fields.items()]
            message = f"there is no such key; ask for {', '.join(keys)}"
        raise HTTPException(400, f"{'.'.join(place) or 'The body'}: {message}.") from None


async def read_body(request: Request, limits: Limits) -> bytes:
    """Return the body of a request; HTTPException when it is too long, too slow or breaks off."""
    content, too_long = b"", HTTPException(413, f"The body is longer than {limits.max_body} bytes.")
    if int(request.headers.get("content-length", 0)) > limits.max_body:
        raise too_long
    try:
        async with asyncio.timeout(limits.idle):
            async for chunk in request.stream():
                content += chunk
                if len(content) > limits.max_body:
                    raise too_long
    except TimeoutError:
        raise HTTPException(408, f"The body did not come within {limits.idle} s.") from None
    except ClientDisconnect:
        raise HTTPException(400, "The request was cut off.") from None
    return content
