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
from .source import Source, open_source
from .storages import Storage, Stored, find_tensor, read_all, read_legacy
from .values import ARRAYS, NAMES, get_items, get_words, to_plain

FIRST = ("img_resolution", "img_channels", "label_dim", "use_fp16")
"""The first arguments of every network's class, which may be recorded without their names."""
MOST_LEVELS = 32
MOST_TENSORS = 100_000


@dataclass(frozen=True)
class PersistentObject:
    class_name: str
    module_source: str
    state: dict[Any, Any]

    @property
    def source_sha256(self) -> str:
        return hashlib.sha256(self.module_source.encode("utf-8", "replace")).hexdigest()


@dataclass(frozen=True)
class Objects:
    """The objects of an open pickle: entries are not yet visited, storages are found and checked."""

    source: Source
    entries: dict[Any, Any]
    storages: dict[Node, Storage]

    def list_classes(self) -> dict[str, str]:
        return {
            str(name)[:40]: self.read_object(value).class_name
            for name, value in self.entries.items()
            if isinstance(value, Node) and value.word == "persistent"
        }

    def find_network(self, key: str, known: Collection[str]) -> PersistentObject:
        classes = self.list_classes()
        if classes.get(key) in known:
            return self.read_object(self.entries[key])
        if there := [repr(name) for name, kind in classes.items() if kind in known]:
            reason = f"has no network under {key!r}: name {' or '.join(there)} as its key"
        elif kind := classes.get(key) or next(iter(classes.values()), None):
            reason = f"cannot be used: class {kind} is not a diffusion network that d2o knows ({', '.join(known)})"
        else:
            reason = f"cannot be used: it contains no network that d2o knows ({', '.join(known)})"
        raise UnsupportedCheckpointError(f"{self.source.path} {reason}.")

    def read_object(self, node: Node) -> PersistentObject:
        record = get_items(node.arguments[0]) if len(node.arguments) == 1 else None
        if record is None or record.get("type") != "class" or record.get("version") not in range(1, 7):
            raise self.source.malformed("an object in it is not recorded as NVIDIA's tools do")
        name, text, state = (record.get(part) for part in ("class_name", "module_src", "state"))
        state = {} if state is None else get_items(state)
        if not isinstance(name, str) or not isinstance(text, str) or state is None:
            raise self.source.malformed("an object in it is incompletely recorded")
        return PersistentObject(name[:100], text, state)

    def read_settings(self, record: PersistentObject) -> dict[str, Any]:
        """Return the arguments that an object was made with; its class's defaults are not among them."""
        settings = to_plain(self.source, record.state.get("_init_kwargs"))
        places = to_plain(self.source, record.state.get("_init_args") or ())
        if not isinstance(settings, dict) or not isinstance(places, list) or len(places) > len(FIRST):
            reason = f"does not record by name the arguments that its {record.class_name} was made with"
            raise UnsupportedCheckpointError(f"{self.source.path} {reason}.")
        return dict(zip(FIRST, places, strict=False)) | settings

    def read_attributes(self, record: PersistentObject) -> dict[str, Any]:
        """Return those attributes of an object that are plain numbers, words and arrays."""

        return {
            str(name): to_plain(self.source, value)
            for name, value in record.state.items()
            if not str(name).startswith("_")
            and (value.word in ARRAYS if isinstance(value, Node) else isinstance(value, bool | int | float | str))
        }

    def find_attributes(self, key: str) -> dict[str, Any] | None:
        """Return the attributes of the object under a key, if there is one, and its "class_name"."""
        if not isinstance(node := self.entries.get(key), Node):
            return None
        record = self.read_object(node)
        return {**self.read_attributes(record), "class_name": record.class_name}

    def read_tensors(self, record: PersistentObject, meta: bool = False) -> dict[str, Tensor]:
        """Return a network's state dict: the names, order, types and bits of the file (`meta`: without the bits)."""
        found: dict[str, Stored] = {}
        for name, tensor in self.find_tensors(record.state, "", 0):
            if name in found or len(found) >= MOST_TENSORS:
                raise self.source.malformed("it names a tensor twice, or has too many")
            found[name] = tensor
        return read_all(found, self.source, meta)

    def find_tensors(self, module: dict[Any, Any], prefix: str, level: int) -> Iterator[tuple[str, Stored]]:
        """Yield the parameters and persistent buffers of a module, then those of its parts."""
        if level > MOST_LEVELS:
            raise self.source.malformed(f"its modules are nested more than {MOST_LEVELS} deep")
        passing = get_words(module.get("_non_persistent_buffers_set", set()))
        parts = {kind: get_items(module.get(kind, {})) for kind in ("_parameters", "_buffers", "_modules")}
        for kind, entries in parts.items():
            if entries is None:
                raise self.source.malformed(f"the {kind} of a module in it are no dictionary")
            self.source.spend("values", 1 + len(entries) + len(passing))
            for name, value in entries.items():
                if value is None or (kind == "_buffers" and name in passing):
                    continue
                if kind == "_modules":
                    yield from self.find_tensors(self.read_module(value), f"{prefix}{name}.", level + 1)
                else:
                    yield f"{prefix}{name}", find_tensor(self.source, value, self.storages)

    def read_module(self, value: Any) -> dict[Any, Any]:
        if isinstance(value, Node) and value.word == "persistent":
            return self.read_object(value).state
        state = get_items(value.state) if isinstance(value, Node) and value.word == "modules" else None
        if state is None:
            raise self.source.malformed("a part of its network is no module")
        return state


@contextmanager
def open_file(path: Path) -> Iterator[Objects]:
    """Open one of NVIDIA's pickles, with every name, instruction and storage in it checked."""
    with open_source(path) as source:
        program = run(source, NAMES)
        source.expect_end()
        storages = {node: read_storage(source, node) for node in program.nodes if node.word == "storage"}
        entries = get_items(program.value)
        if entries is None:
            raise UnsupportedCheckpointError(f"{path} is a pickle, but not EDM's, D2O's or EDM2's of named networks.")
        yield Objects(source, entries, storages)


def read_storage(source: Source, node: Node) -> Storage:
    """Return the storage that lies within the pickle as a legacy torch file."""
    if len(node.arguments) != 1:
        raise source.malformed("a storage in it is incomplete")
    program, storages = read_legacy(source, node.arguments[0], {})
    if list(storages) != [program.value]:
        raise source.malformed("a storage in it contains something else")
    return storages[program.value]
