"""Our own format: one safetensors file with a denoiser's weights and, as JSON in its header, its description."""

import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, StrictBool, StrictInt, StrictStr
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from d2o import backbones
from d2o.diffusion import families
from d2o.diffusion.condition import Words
from d2o.diffusion.denoiser import Denoiser
from d2o.encoders.captions import Encoders
from d2o.encoders.codec import FIELDS as CODEC_FIELDS
from d2o.encoders.codec import Autoencoder
from d2o.errors import CheckpointError, MalformedCheckpointError, MismatchError, UnsupportedCheckpointError, name_file
from d2o.files import atomic, open_regular, parse_json
from d2o.records import validate

FORMAT = 1
SPEC = "d2o"
"""The metadata key of the JSON description."""
CHECKSUM = "crc32"
"""A key of the description: the checksum of all else and of the tensors; 0.1.0 wrote none."""
CONFIG = "config"
"""That of the description in safetensors files with the names of EDM's classes."""
DELTA = "delta"
"""The `content` of the description of a difference; its `base` contains the base's hash."""
MOST_STEPS = 1000
MOST_NUMBERS = 1 << 26
"""Of an image: those of 4096 x 4096 pixels in four channels."""
MOST_TENSORS = 50_000
LONGEST_HEADER = 1 << 23
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
"""Types of weights that may stand for each other."""
Size = Annotated[int, Field(strict=True, gt=0)]


def save(path: str | os.PathLike, denoiser: Denoiser, base: Denoiser | None = None) -> None:
    """Write a denoiser to one file, under a temporary name first; its backbone must be of a registered kind.

    With `base`, the model that it was fine-tuned from, only the tensors that differ: `load` then needs the same base.
    """
    if base is None:
        write(path, denoiser.state_dict(), describe(denoiser))
        return
    from . import delta

    tensors, about_base = delta.diff(denoiser, base)
    write(path, tensors, describe(denoiser) | {"content": DELTA} | about_base)


def describe(denoiser: Denoiser) -> dict[str, Any]:
    """Return the JSON description from which `build` makes the same denoiser with other weights."""
    backbone = denoiser.backbone
    if not isinstance(backbone, backbones.Backbone) or backbone.kind not in backbones.BACKBONES:
        remedy = "derive it from d2o.backbones.Backbone, and add it to d2o.backbones.BACKBONES"
        raise CheckpointError(f"A {type(backbone).__name__} cannot be described in a file: {remedy}.")
    spec = {
        "format": FORMAT,
        "content": "denoiser",
        "backbone": {"kind": backbone.kind, **backbone.config},
        "preconditioning": families.to_spec(denoiser.preconditioning),
        "image_shape": list(denoiser.image_shape),
        "num_classes": denoiser.num_classes,
        "provenance": denoiser.provenance,
        "one_step": denoiser.one_step,
        "judged_by": list(denoiser.judged_by),
    }
    spec |= {name: list(row) for name in ("middle_sigmas", "class_names") if (row := getattr(denoiser, name))}
    spec |= {} if denoiser.clip is None else {"clip": denoiser.clip}
    spec |= {} if denoiser.reader is None else {"reader": denoiser.reader.to_spec()}
    return spec | ({"codec": denoiser.codec.to_spec()} if isinstance(denoiser.codec, Autoencoder) else {})


def compose(backbone: dict[str, Any], family: Mapping[str, Any], **others: Any) -> dict[str, Any]:
    """Return the description of a denoiser of square images, whose sizes are those of its backbone."""
    side, channels, classes = (backbone[name] for name in ("resolution", "in_channels", "num_classes"))
    sizes = {"image_shape": [channels, side, side], "num_classes": classes}
    return {"backbone": backbone, "preconditioning": dict(family), **sizes, **others}


def make(path: Path, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Denoiser:
    denoiser = build(path, spec)
    fill(path, denoiser, tensors)
    return denoiser.eval()


def build(path: Path, spec: Mapping[str, Any]) -> Denoiser:
    """Make the denoiser that a description asks for, on the meta device: no memory is taken.

    A network that is not d2o's is made on the CPU, as it may keep tensors that are in no state dict.
    """
    with name_file(path):
        network = dict(spec["backbone"])
        with torch.device("meta" if backbones.is_ours(network.get("kind")) else "cpu"):
            backbone = backbones.build(network)
        family = families.from_spec(spec["preconditioning"])
        fields = validate(Fields, spec, "its description", {"words": Words, "encoders": Encoders})
        check_fields(fields, backbone.config, family.sigma_max)
        return Denoiser(backbone, family, **vars(fields))


@dataclass(frozen=True)
class Fields:
    """What a description says of a denoiser besides its network."""

    image_shape: tuple[Size, Size, Size]
    num_classes: StrictInt
    provenance: dict[str, Any] = field(default_factory=dict)
    one_step: StrictBool = False
    judged_by: tuple[StrictStr, ...] = ()
    middle_sigmas: Annotated[tuple[Annotated[float, Field(strict=True)], ...], Field(max_length=MOST_STEPS)] = ()
    codec: Autoencoder | None = None
    clip: families.Number | None = None
    class_names: tuple[StrictStr, ...] = ()
    reader: Annotated[Words | Encoders, Field(discriminator="kind")] | None = None


def check_fields(given: Fields, config: Mapping[str, Any], sigma_max: float) -> None:
    """Raise a ValueError for sizes of other images than the network's, and for noise levels that do not fall."""
    if math.prod(given.image_shape) > MOST_NUMBERS:
        raise ValueError(f"its images of shape {given.image_shape} have more than {MOST_NUMBERS:,} numbers")
    sizes = zip(("in_channels", "resolution", "resolution"), given.image_shape, strict=True)
    for name, value in (*sizes, ("num_classes", given.num_classes)):
        if value != config.get(name, value):
            raise ValueError(f"the network's {name} is {config.get(name)}, but its images are described by {value}")
    words, length = (given.reader.size, given.reader.length) if isinstance(given.reader, Words) else (0, 0)
    if words != config.get("vocabulary", 0) or length > config.get("length", 0):
        raise ValueError(f"its reader makes {length} of {words} words, which are not the network's")
    if len(given.class_names) not in (0, given.num_classes):
        raise ValueError(f"it names {len(given.class_names)} classes of {given.num_classes}")
    if not all(a > b > 0 for a, b in pairwise([sigma_max, *given.middle_sigmas])):
        raise ValueError(f"its middle_sigmas, {given.middle_sigmas}, do not fall from {sigma_max:g} to above 0")


def derive_fields(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that 0.1.0 did not write, as far as its preconditioning and provenance tell them."""

    def find(*path: str) -> Any:
        place: Any = spec
        for key in path:
            place = place.get(key) if isinstance(place, dict) else None
        return place

    objectives = find("provenance", "recipe", "objectives")
    kinds = [one.get("kind") for one in objectives if isinstance(one, dict)] if isinstance(objectives, list) else []
    networks = find("provenance", "recipe", "discriminator", "networks")
    latents = find("provenance", "codec") or find("provenance", "latents")
    if isinstance(latents, dict):
        latents = {name: value for name, value in latents.items() if name in CODEC_FIELDS}
    is_boundary = find("preconditioning", "kind") == families.Boundary.kind
    return {
        "one_step": is_boundary or any(kind != "denoising" for kind in kinds),
        "judged_by": list(map(str, networks)) if isinstance(networks, list) and "adversarial" in kinds else [],
        "codec": latents,
    }


def rows(state: Mapping[str, Tensor], name: str, axis: int = 0) -> int:
    """Return a tensor's size; a ValueError where it is missing or has too few dimensions."""
    tensor = state.get(name)
    if tensor is None or tensor.dim() <= axis:
        raise ValueError(f"{name} {'is missing' if tensor is None else f'has shape {list(tensor.shape)}'}")
    return tensor.shape[axis]


def rename(name: str, modules: Mapping[str, str]) -> str:
    """Return a parameter's name with its module called as a table says; of a module that is not there, as it is."""
    module, _, kind = name.rpartition(".")
    return f"{modules[module]}.{kind}" if module in modules else name


def fill(path: Path, module: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put `tensors` into a module, names and shapes exactly; the first five differences are named."""
    wanted = module.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    problems += [f"{name} is not part of the network" for name in tensors if name not in wanted]
    shapes = {name: (list(tensors[name].shape), list(wanted[name].shape)) for name in wanted if name in tensors}
    problems += [f"{name} has shape {a}, not {b}" for name, (a, b) in shapes.items() if a != b]
    types = {name: (tensors[name].dtype, wanted[name].dtype) for name in shapes}
    problems += [f"{name} has numbers of type {a}" for name, (a, b) in types.items() if a != b and not {a, b} <= FLOATS]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise MismatchError(f"{path} does not fit the network that it describes: {'; '.join(problems[:5])}{more}.")
    assign = any(t.is_meta for t in (*wanted.values(), *tensors.values()))  # elsewhere, shared weights stay shared
    module.load_state_dict({name: t.to(wanted[name].dtype) for name, t in tensors.items()}, assign=assign)


def read(path: Path, meta: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and description; a MalformedCheckpointError where they do not have the checksum of the file."""
    with open_file(path) as file:
        tensors, spec = read_tensors(file, meta), read_description(path, file.metadata())
    wanted = spec.pop(CHECKSUM, None)
    if not meta and wanted is not None and wanted != checksum(tensors, spec):
        remedy = "use another copy, or make it again (with the command of its run)"
        raise MalformedCheckpointError(f"{path} is damaged, its content does not match its checksum: {remedy}.")
    return tensors, spec


def checksum(tensors: Mapping[str, Tensor], spec: Mapping[str, Any]) -> str:
    """Return the CRC-32 of a description and of contiguous tensors with their names, types and shapes."""
    found = zlib.crc32(json.dumps(spec).encode())
    for name, tensor in sorted(tensors.items()):
        found = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def read_header(path: Path) -> dict[str, Any]:
    with open_file(path) as file:
        spec = read_description(path, file.metadata())
    return {name: value for name, value in spec.items() if name != CHECKSUM}


def find_description(path: Path) -> str | None:
    """Return the key under which a safetensors file describes its network, SPEC or CONFIG; None in a state dict."""
    with open_file(path) as file:
        metadata = file.metadata() or {}
    return next((key for key in (SPEC, CONFIG) if key in metadata), None)


def read_tensors(file: Any, meta: bool = False) -> dict[str, Tensor]:
    if len(names := file.keys()) > MOST_TENSORS:
        raise OSError(f"it has more than {MOST_TENSORS:,} tensors")
    if meta:
        return {name: read_shape(file, name) for name in names}
    return {name: file.get_tensor(name) for name in names}


def read_shape(file: Any, name: str) -> Tensor:
    part = file.get_slice(name)
    shape = part.get_shape()
    dtype = (part[:0] if shape else file.get_tensor(name)).dtype
    return torch.empty(shape, dtype=dtype, device="meta")


def read_description(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    try:
        spec = parse_json((metadata or {})[SPEC])
    except (KeyError, ValueError) as error:
        raise UnsupportedCheckpointError(f"{path} has no description of its network that d2o can read.") from error
    if not isinstance(spec, dict) or spec.get("format") != FORMAT:
        raise UnsupportedCheckpointError(f"{path} has a description in a format other than this version's, {FORMAT}.")
    return spec if "one_step" in spec else spec | derive_fields(spec)


@contextmanager
def open_file(path: Path) -> Iterator[Any]:
    """Open a safetensors file; what is wrong with it is a MalformedCheckpointError."""
    try:
        with open_regular(path) as start:
            if int.from_bytes(start.read(8), "little") > LONGEST_HEADER:
                raise OSError(f"its header has more than {LONGEST_HEADER:,} bytes")
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise MalformedCheckpointError(f"{path} is not a readable safetensors file ({error}).") from error


def write(path: str | os.PathLike, tensors: Mapping[str, Tensor], spec: Mapping[str, Any]) -> None:
    """Write tensors and their description to one file, completely or not at all."""
    plain, places = dict[str, Tensor](), set[int]()
    for name, tensor in tensors.items():
        plain[name] = tensor.detach().contiguous().cpu()
        if (place := plain[name].data_ptr()) in places and plain[name].numel():  # shared, which safetensors refuses
            plain[name] = plain[name].clone()
        places.add(place)
    description = json.dumps({**spec, CHECKSUM: checksum(plain, spec)})
    with atomic(Path(path)) as temporary:
        save_file(plain, temporary, {SPEC: description})
