"""NVIDIA's pickles (EDM, D2O, EDM2): networks that carry their own source code, read as settings and tensors.

Such a pickle is one dictionary of objects. Each object is a record of its class's name, the source code of its module,
the arguments that it was made with, and its attributes. The source is hashed and otherwise left alone.
"""

import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from d2o.errors import UnsupportedCheckpointError

from .machine import Node, run
from .source import Source
from .storages import Storage, Stored, legacy, materialise, outside, stored
from .values import NAMES, items, plain, words

FIRST = ("img_resolution", "img_channels", "label_dim", "use_fp16")
"""The first arguments of every network's class, which may be recorded without their names."""
MOST_LEVELS = 32
MOST_TENSORS = 100_000


@dataclass(frozen=True)
class PersistentObject:
    """One object of the pickle: its class's name, its module's source, and its attributes."""

    class_name: str
    module_source: str
    state: dict[Any, Any]

    @property
    def source_sha256(self) -> str:
        """The hash of the source code that the file carries for this class."""
        return hashlib.sha256(self.module_source.encode("utf-8", "replace")).hexdigest()


@dataclass(frozen=True)
class Pickle:
    """An open pickle: its entries are not yet looked into, its storages are found and checked."""

    source: Source
    entries: dict[Any, Any]
    storages: dict[Node, Storage]

    def classes(self) -> dict[str, str]:
        """Return the class of every object by its key."""
        return {
            str(name)[:40]: self.object(value).class_name
            for name, value in self.entries.items()
            if isinstance(value, Node) and value.word == "persistent"
        }

    def network(self, key: str, known: Collection[str]) -> PersistentObject:
        """Return the network under a key of the pickle, of a `known` class; the error tells what there is."""
        objects = self.classes()
        if objects.get(key) in known:
            return self.object(self.entries[key])
        there = [name for name, kind in objects.items() if kind in known]
        if there:
            raise UnsupportedCheckpointError(
                f"{self.source.path} has no network under {key!r}: name {' or '.join(map(repr, there))} as its key."
            )
        kind = objects.get(key) or next(iter(objects.values()), None)
        found = f"class {kind} is not a diffusion network" if kind else "it holds no network"
        raise UnsupportedCheckpointError(
            f"{self.source.path} cannot be used: {found} that d2o knows ({', '.join(known)})."
        )

    def object(self, node: Node) -> PersistentObject:
        """Return the record that an object of the pickle is."""
        record = items(node.arguments[0]) if len(node.arguments) == 1 else None
        if record is None or record.get("type") != "class" or record.get("version") not in range(1, 7):
            raise self.source.malformed("an object in it is not recorded as NVIDIA's tools do")
        name, text, state = (record.get(part) for part in ("class_name", "module_src", "state"))
        state = {} if state is None else items(state)
        if not isinstance(name, str) or not isinstance(text, str) or state is None:
            raise self.source.malformed("an object in it is incompletely recorded")
        return PersistentObject(name[:100], text, state)

    def settings(self, record: PersistentObject) -> dict[str, Any]:
        """Return the arguments that an object was made with; its class's defaults are not among them."""
        settings = plain(self.source, record.state.get("_init_kwargs"))
        places = plain(self.source, record.state.get("_init_args") or ())
        if not isinstance(settings, dict) or not isinstance(places, list) or len(places) > len(FIRST):
            raise UnsupportedCheckpointError(
                f"{self.source.path} does not record by name the arguments that its {record.class_name} was made with."
            )
        return dict(zip(FIRST, places, strict=False)) | settings

    def attributes(self, record: PersistentObject) -> dict[str, Any]:
        """Return those attributes of an object that are plain numbers, words and arrays."""
        found = {}
        for name, value in record.state.items():
            simple = isinstance(value, bool | int | float | str)
            numeric = isinstance(value, Node) and value.word in ("scalar", "array", "buffer")
            if not str(name).startswith("_") and (simple or numeric):
                found[str(name)] = plain(self.source, value)
        return found

    def tensors(self, record: PersistentObject, ghosts: bool = False) -> dict[str, Tensor]:
        """Return a network's state dict: the names, order, types and bits of the file (`ghosts`: without the bits)."""
        found: dict[str, Stored] = {}
        for name, tensor in self.walk(record.state, "", 0):
            if name in found or len(found) >= MOST_TENSORS:
                raise self.source.malformed("it names a tensor twice, or has too many")
            found[name] = tensor
        return materialise(found, self.source, ghosts)

    def walk(self, module: dict[Any, Any], prefix: str, level: int) -> Iterator[tuple[str, Stored]]:
        """Yield the parameters and persistent buffers of a module, then those of its parts."""
        if level > MOST_LEVELS:
            raise self.source.malformed(f"its modules are nested more than {MOST_LEVELS} deep")
        passing = words(module.get("_non_persistent_buffers_set", set()))
        for kind in ("_parameters", "_buffers"):
            for name, value in self.part(module, kind).items():
                if value is not None and not (kind == "_buffers" and name in passing):
                    yield f"{prefix}{name}", stored(self.source, value, self.storages)
        for name, value in self.part(module, "_modules").items():
            if value is not None:
                yield from self.walk(self.module(value), f"{prefix}{name}.", level + 1)

    def part(self, module: dict[Any, Any], kind: str) -> dict[Any, Any]:
        entries = items(module.get(kind, {}))
        if entries is None:
            raise self.source.malformed(f"the {kind} of a module in it are no dictionary")
        return entries

    def module(self, value: Any) -> dict[Any, Any]:
        """Return the attributes of a part of a network: an object of its own, or a plain container."""
        if isinstance(value, Node) and value.word == "persistent":
            return self.object(value).state
        state = items(value.state) if isinstance(value, Node) and value.word == "modules" else None
        if state is None:
            raise self.source.malformed("a part of its network is no module")
        return state


@contextmanager
def opened(path: Path) -> Iterator[Pickle]:
    """Open one of NVIDIA's pickles, with every name, instruction and storage in it checked."""
    with path.open("rb") as file:
        size = path.stat().st_size
        source = Source(path, file, 0, size)
        program = run(source, NAMES)
        if source.position != size:
            raise source.malformed("something follows after the pickle's end")
        storages = {node: storage_of(source, node) for node in program.nodes if node.word == "storage"}
        entries = items(program.value)
        if entries is None:
            raise UnsupportedCheckpointError(
                f"{path} is a pickle of something else than EDM's, D2O's or EDM2's dictionary of networks."
            )
        yield Pickle(source, entries, storages)


def storage_of(source: Source, node: Node) -> Storage:
    """Return the storage that lies within the pickle as a legacy torch file."""
    if len(node.arguments) != 1:
        raise source.malformed("a storage in it is incomplete")
    program, storages = legacy(source, node.arguments[0], {})
    if storages.keys() != {program.value} or outside(program) != [program.value]:
        raise source.malformed("a storage in it holds something else")
    return storages[program.value]
