"""NVIDIA's networks: EDM's, D2O's and EDM2's classes in pickles, and EDM's in safetensors files."""

import json
import warnings
from pathlib import Path
from typing import Any

from d2o.checkpoints import native
from d2o.diffusion.denoiser import Denoiser
from d2o.errors import UnsupportedCheckpointError
from d2o.pickles import persistence

from . import edm, edm2

CLASSES = (*edm.CLASSES, edm2.CLASS)
SOURCES = {
    "5db27dcd96674b95": "EDM, November 21, 2022",
    "2294828d5f59f5fd": "EDM, October 31, 2022",
    "81e38320ab57f2c9": "D2O",
    "f3acb74fd073a19b": "D2O, an earlier revision",
    "7298880db4bf955d": "EDM2",
}
"""The first digits of the hashes of the source files that public releases embed."""
UNKNOWN = "unknown"


def read_objects(objects: persistence.Objects, key: str, meta: bool = False) -> Denoiser:
    """Read the network under `key`, of one of CLASSES, among the objects of an open file."""
    path, network = objects.source.path, objects.find_network(key, CLASSES)
    provenance = {
        "format": "nvidia pickle",
        "file": path.name,
        "class": network.class_name,
        "entry": key,
        "source_sha256": network.source_sha256,
        "source": SOURCES.get(network.source_sha256[:16], UNKNOWN),
    }
    settings, state = objects.read_settings(network), objects.read_tensors(network, meta)
    if network.class_name == edm2.CLASS:
        made = edm2.make(settings, state, path, provenance, objects.find_attributes("encoder"))
    else:
        made = edm.make(network.class_name, settings, objects.read_attributes(network), state, path, provenance)
    if provenance["source"] == UNKNOWN and not meta:
        unknown = "contains another source of its network than the releases that d2o knows"
        warnings.warn(f"{path} {unknown}: it was not run, and d2o's own network has its weights.", stacklevel=2)
    return made


def read_safetensors(path: Path, meta: bool = False) -> Denoiser:
    """Read a safetensors file with EDM's names, whose `config` names a class, as `precond`, and its arguments."""
    with native.open_file(path) as file:
        text, state = file.metadata()[native.CONFIG], native.read_tensors(file, meta)
    try:
        config: Any = json.loads(text)
        class_name = str(config.pop("precond"))[:100]
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise UnsupportedCheckpointError(f"{path} has no JSON record as `config` that names a `precond`.") from error
    provenance = {"format": "edm safetensors", "file": path.name, "class": class_name}
    return edm.make(class_name, config, {}, state, path, provenance)
