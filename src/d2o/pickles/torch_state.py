"""Files of torch.save (.pt, .pth, .bin; zip and legacy): the state dict in them, read as data.

Whatever stands beside the weights (optimizers, arguments) is followed symbolically and ignored.
"""

import codecs
import math
import struct
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from d2o.errors import UnsupportedCheckpointError
from d2o.files import open_zip

from .machine import Node, Program, run
from .source import Source, Span, open_source
from .storages import (
    MOST_PARTS,
    STORAGE_NAMES,
    UNREAD,
    Storage,
    Stored,
    find_tensor,
    match_storages,
    read_all,
    read_legacy,
    read_references,
)
from .values import NAMES, get_items

ZIP_START = b"PK\x03\x04"
OTHER_KEYS = ("ema", "ema_state_dict", "ema_state", "ema_model", "model_ema", "params_ema", "state_dict")
OTHER_KEYS += ("model_state_dict", "model_state", "model", "net", "net_model", "network", "unet", "params", "module")
OTHER_KEYS += ("shadow", "weights")
"""Under which training checkpoints keep their weights, averages first."""
TENSORS = ("tensor", "parameter", "attributed", *UNREAD.values())
WRAPPERS = ("module", "_orig_mod", "model", "net", "network", "unet", "denoiser", "denoise_fn", "diffusion_model")
WRAPPERS += ("ema", "ema_model", "model_ema", "online_model", "state_dict")
"""What DataParallel, torch.compile, Lightning and averages put before all names, as in `module.conv.weight`."""
DEEPEST = 4
"""How many dictionaries or wrappers may lie around a network."""
codecs.lookup("cp437")  # zipfile would import it only while a file is read
T = TypeVar("T", Tensor, Stored)
Keys = tuple[str, ...]
LOCAL_HEADER = struct.Struct("<26xHH")


class Content(NamedTuple):
    """An open file of torch.save: its value, and where the storages lie that it refers to."""

    source: Source
    value: Any
    storages: dict[Node, Storage]


def read_state(path: Path, key: str = "ema", meta: bool = False) -> dict[str, Tensor]:
    """Return the state dict of a file: the file's whole content, or what it keeps under `key` or a usual name.

    With `meta` only their types and shapes are read, onto the meta device.
    """
    with open_file(path) as content:
        return read_tensors(content, key, meta)[0]


def read_tensors(content: Content, key: str = "ema", meta: bool = False) -> tuple[dict[str, Tensor], Keys]:
    """Return the weights of one network, and the keys and wrappers under which they stood."""
    source, value, storages = content
    keys, state = choose_state(source.path, value, key)
    stored = {name: find_tensor(source, tensor, storages) for name, tensor in state.items()}
    stored, wrappers = unwrap(source.path, stored, key)
    return read_all(stored, source, meta), (*keys, *wrappers)


def unwrap(path: Path, state: Mapping[str, T], key: str = "ema") -> tuple[Mapping[str, T], Keys]:
    """Return the weights of one network under its own names, without counters beside them, and their wrappers."""
    wrappers: Keys = ()
    for _ in range(DEEPEST):
        parts: dict[str, dict[str, T]] = defaultdict(dict)
        for name, tensor in state.items():
            first, dot, rest = name.partition(".")
            if dot and first in WRAPPERS:
                parts[first][rest] = tensor
            elif dot or math.prod(tensor.shape) > 1:
                return state, wrappers
        chosen = [key] if key in parts else [first for first in parts if key in first] or list(parts)
        if len(chosen) > 1:
            raise UnsupportedCheckpointError(f"{path} has several networks: name {' or '.join(chosen)} as its key.")
        if not chosen:
            break
        state = parts[chosen[0]]
        wrappers += (chosen[0],)
    return state, wrappers


def read_arguments(content: Content) -> dict[Any, Any]:
    """Return the arguments that a training script keeps beside its weights, as they stand in the file."""
    found = (get_items(content.value) or {}).get("args")
    return get_items(found.state if isinstance(found, Node) and found.word == "namespace" else found) or {}


@contextmanager
def open_file(path: Path) -> Iterator[Content]:
    with open_source(path) as source:
        zipped = source.take(len(ZIP_START)) == ZIP_START
        program, storages = read_zip(source) if zipped else read_legacy(source, Span(0, source.end), NAMES)
        yield Content(source, program.value, storages)


def choose_state(path: Path, value: Any, key: str) -> tuple[Keys, dict[str, Any]]:
    """Return the keys of the best state dict in a checkpoint, and the state dict."""
    found = next(find_states(value, (key, *OTHER_KEYS), set()), None)
    if found is None:
        there = ", ".join(str(name)[:40] for name in list(get_items(value) or {})[:8]) or "something else"
        raise UnsupportedCheckpointError(f"{path} contains {there}, and no tensors as `model.state_dict()` gives them.")
    return found


def find_states(value: Any, keys: Keys, seen: set[int], level: int = 0) -> Iterator[tuple[Keys, dict[str, Any]]]:
    """Yield the state dicts below a value, best first, each with its keys; a dictionary is looked into once."""
    items = get_items(value)
    if not items or id(items) in seen or level > DEEPEST:
        return
    seen.add(id(items))
    if all(isinstance(name, str) and isinstance(t, Node) and t.word in TENSORS for name, t in items.items()):
        yield (), items
    for key in keys:
        yield from (((key, *inner), state) for inner, state in find_states(items.get(key), keys, seen, level + 1))


def read_zip(source: Source) -> tuple[Program, dict[Node, Storage]]:
    parts = locate_entries(source)
    pickles = [name for name in parts if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UnsupportedCheckpointError(f"{source.path} is a zip file, but not one that torch.save writes.")
    folder = pickles[0].removesuffix("data.pkl")
    order = parts.get(f"{folder}byteorder")
    if order is not None and source.part(order.start, order.length).take(min(order.length, 16)) != b"little":
        raise source.malformed("it was not written on a little-endian machine")
    inner = source.part(parts[pickles[0]].start, parts[pickles[0]].length)
    program = run(inner, {**STORAGE_NAMES, **NAMES}, persistent=True)
    inner.expect_end()
    found, references = {}, read_references(source, program)
    for key, dtype, count in references.values():
        place = parts.get(f"{folder}data/{key}")
        if place is None or place.length != count * dtype.itemsize:
            raise source.malformed("a storage in it is missing or not as long as it says")
        found[key] = Storage(dtype, count, source, place, 0)
    return program, match_storages(source, references, found)


def locate_entries(source: Source) -> dict[str, Span]:
    """Return where the files of a zip lie; torch stores them as they are, so compression is an error."""
    try:
        with open_zip(source.path, MOST_PARTS) as archive:
            listed = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, OSError) as error:
        raise source.malformed(f"its zip directory is unreadable ({type(error).__name__})") from error
    if len(listed) > MOST_PARTS or len({entry.filename for entry in listed}) != len(listed):
        raise source.malformed("its zip directory names a file twice, or too many")
    places = {}
    for entry in listed:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            raise source.malformed("a file within it is compressed or encrypted, which torch never does")
        if not 0 <= entry.header_offset <= source.end - LOCAL_HEADER.size:
            raise source.malformed("a file within it lies beyond its end")
        header = source.part(entry.header_offset, LOCAL_HEADER.size)
        name_length, extra_length = LOCAL_HEADER.unpack(header.take(LOCAL_HEADER.size))
        start = entry.header_offset + LOCAL_HEADER.size + name_length + extra_length
        if start + entry.file_size > source.end:
            raise source.malformed("a file within it lies beyond its end")
        places[entry.filename] = Span(start, entry.file_size)
    return places
