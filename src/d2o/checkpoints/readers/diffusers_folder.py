"""Folders of diffusers as denoisers: U-Nets and transformers with the noise schedule beside them, read as data.

Only JSON and tensors are read. Classes are rows of a table, and nothing that a folder brings along is imported.
"""

import re
import warnings
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from d2o.checkpoints import native
from d2o.checkpoints.publication import describe_publication
from d2o.diffusion.denoiser import Denoiser
from d2o.encoders.codec import KINDS
from d2o.errors import MalformedCheckpointError, UnsupportedCheckpointError, name_file

from . import dit, text_to_image
from .folder_weights import find_weights, hash_weights, read_json, read_weights, suggest
from .scheduler import Schedule, find_clip, read_scheduler

INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
NETWORK_PARTS = ("unet", "transformer")
AUTOENCODER = "vae"
"""The folder of a latent model's codec, of one of `encoders.codec.KINDS`."""
CODECS = re.compile("VQ|Autoencoder|VAE", re.IGNORECASE)
"""Folders and classes of networks whose latents others work on."""
USUAL_CODECS = (AUTOENCODER, "vqvae", "movq")
"""Folders of such networks, also where nothing is in them."""
PARTS = (*NETWORK_PARTS, AUTOENCODER, "scheduler", "feature_extractor", "safety_checker")
"""What may stand in a pipeline that d2o reads."""
MOST_PARTS = 100
RENAMED = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""How attention was spelled until 2023."""


class Folder(NamedTuple):
    """A network of a diffusers folder: where its files are, what its config says, and its scheduler's, {} if none.

    `codec` is the folder of its autoencoder, and `encoders` that of a pipeline with text encoders.
    """

    path: Path
    config: dict[str, Any]
    scheduler: dict[str, Any]
    codec: Path | None
    encoders: Path | None = None


Network = tuple[dict[str, Any], dict[str, Tensor]]
"""The description of a denoiser, as in our own files, with no preconditioning where a scheduler gives it; weights."""
Reader = Callable[[Folder, Mapping[str, Tensor]], Network]


def load(
    path: Path, meta: bool = False, variant: str | None = None, config: Mapping[str, Any] | None = None
) -> Denoiser:
    """Return the denoiser of a pipeline or network folder, in eval mode; what is wrong with it is a CheckpointError.

    With `meta` it is on the meta device, and only types and shapes of its tensors are read. `variant` chooses among
    several weights, such as "fp16" or "non_ema"; `config` are OPTIONS of text-to-image networks.
    """
    folder = open_folder(path)
    name = folder.config.get("_class_name")
    if config is not None:
        folder = choose_options(folder, config)
    if not isinstance(name, str) or name not in NETWORKS:
        known = ", ".join(NETWORKS) if name is not None else f"{', '.join(NETWORKS)}: {suggest(folder.path)}"
        raise UnsupportedCheckpointError(f"{folder.path} is a network of class {str(name)[:60]}; d2o reads {known}.")
    weights = find_weights(folder.path, variant)
    assumed = {"weights": f"{weights.file.name}, not {', '.join(weights.others)}"} if weights.others else {}
    origin = {"weights": weights.file.name} | ({} if meta else {"sha256": hash_weights(weights)})
    origin |= describe_publication(path.parent if path.absolute().name in NETWORK_PARTS else path)
    denoiser = assemble(folder, NETWORKS[name], read_weights(weights, meta), origin, assumed)
    if "scheduler" in denoiser.provenance["assumed"]:
        warnings.warn(f"{folder.path} has no {SCHEDULER}: DDPM's linear schedule is assumed.", stacklevel=2)
    return denoiser


def assemble(
    folder: Folder, read: Reader, tensors: Mapping[str, Tensor], origin: Mapping[str, Any], assumed: Mapping[str, Any]
) -> Denoiser:
    """Return a denoiser; `origin` and what was `assumed` become part of its provenance."""
    with name_file(folder.path):
        spec, tensors = read(folder, tensors)
        own, name = spec["preconditioning"], folder.config.get("_class_name")
        schedule = Schedule(own) if own else read_scheduler(folder.scheduler, count_tokens(spec["backbone"]))
        if name in TEXT_TO_IMAGE:
            schedule = text_to_image.tell_times(name, folder.config, schedule)
    spec["preconditioning"] = schedule.family
    spec["provenance"] = {**describe_origin(folder, schedule), **origin, "assumed": {**schedule.assumed, **assumed}}
    spec["one_step"] = schedule.family.get("kind") == "boundary"
    if (bound := find_clip(folder.scheduler)) is not None:
        spec["clip"] = bound
    if folder.codec is not None:
        spec["codec"] = {"folder": str(folder.codec.absolute())}
    if folder.encoders is not None and name in TEXT_TO_IMAGE:
        spec["reader"] = {"kind": "encoders", "folder": str(folder.encoders.absolute()), "network": name}
    return native.make(folder.path, spec, tensors)


def open_folder(path: Path) -> Folder:
    """Return the network of a pipeline, or of its folder alone: what stands beside it in a pipeline belongs to it."""
    place, root, index = path, path, {}
    if (path / INDEX).is_file():
        index = read_json(path / INDEX)
        network = next((name for name in NETWORK_PARTS if name in index), None)
        if network is None:
            pipeline = f"{path} is a diffusers pipeline ({str(index.get('_class_name'))[:60]})"
            raise UnsupportedCheckpointError(f"{pipeline} without a unet or a transformer, which d2o does not read.")
        place = path / network if (path / network).is_dir() else path  # the first pipelines had no folders inside
    else:
        parent = path.absolute().parent
        index = read_json(parent / INDEX) if (parent / INDEX).is_file() else {}
        root = parent if index or path.absolute().name in NETWORK_PARTS else path
    if not (place / CONFIG).is_file():
        raise MalformedCheckpointError(f"{place} has no {CONFIG}; download the whole folder.")
    schedulers = [folder / SCHEDULER for folder in (root / "scheduler", place, place.parent / "scheduler", root)]
    scheduler = next((read_json(file) for file in schedulers if file.is_file()), {})
    config = read_json(place / CONFIG)
    parts = (*PARTS, *text_to_image.PARTS) if str(config.get("_class_name")) in TEXT_TO_IMAGE else PARTS
    encoders = index.get("text_encoder")
    reads_captions = isinstance(encoders, list) and any(encoders)
    return Folder(place, config, scheduler, find_codec(root, index, parts), root if reads_captions else None)


def choose_options(folder: Folder, config: Mapping[str, Any]) -> Folder:
    """Return a folder of a text-to-image network with the options that a user has given."""
    if folder.config.get("_class_name") not in TEXT_TO_IMAGE or set(config) - set(text_to_image.OPTIONS):
        words = " and ".join(text_to_image.OPTIONS)
        reason = f"{folder.path} already describes its network, except {words} of one that reads captions"
        raise UnsupportedCheckpointError(f"{reason}: leave the rest out of config.")
    return folder._replace(config={**folder.config, **config})


def find_codec(root: Path, index: Mapping[str, Any], parts: Collection[str]) -> Path | None:
    """Return the folder of the autoencoder beside a network; for anything else than `parts` there is an error."""
    named = {name: value[-1] for name, value in index.items() if isinstance(value, list) and value and value[-1]}
    named.pop("_class_name", None)
    files = {root / name / CONFIG for name in USUAL_CODECS} | set(islice(root.glob(f"*/{CONFIG}"), MOST_PARTS))
    beside = {file.parent.name: read_json(file).get("_class_name") for file in files if file.is_file()}
    codecs = [name for name in USUAL_CODECS if name in named or (root / name).is_dir()]
    for name, kind in (dict.fromkeys(codecs) | named | beside).items():
        is_codec = CODECS.search(f"{name} {kind}") is not None
        if is_codec and not (root / name / CONFIG).is_file() and (kind is None or str(kind) in KINDS):
            raise MalformedCheckpointError(f"{root} lacks {name[:60]}/{CONFIG}: download the whole folder.")
        known = name == AUTOENCODER and str(kind) in KINDS
        if (is_codec and not known) or (name in named and name not in parts):
            what = f"{name[:60]}, of class {str(kind)[:60]}"
            raise UnsupportedCheckpointError(f"The network in {root} works with its {what}, which d2o does not read.")
    return root / AUTOENCODER if codecs else None


def read_unet(folder: Folder, tensors: Mapping[str, Tensor]) -> Network:
    """Return a UNet2DModel, without the learned sigma that some have."""
    spec = describe_unet(folder)
    channels = spec["image_shape"][0]
    state = {modernise(name): tensor for name, tensor in tensors.items()}
    for name in ("conv_out.weight", "conv_out.bias"):
        if folder.config.get("out_channels") == 2 * channels and name in state:
            state[name] = state[name][:channels]
    return spec, {f"backbone.unet.{name}": tensor for name, tensor in state.items()}


def modernise(name: str) -> str:
    if ".attentions." in name:
        for old, new in RENAMED.items():
            name = name.replace(old, new)
    return name


def describe_unet(folder: Folder) -> dict[str, Any]:
    settings = {name: value for name, value in folder.config.items() if not name.startswith("_")}
    size, classes = settings.pop("sample_size", None), settings.pop("num_class_embeds", None)
    channels = settings.pop("in_channels", 3)
    outputs = settings.pop("out_channels", 3)
    size: Any = size[0] if isinstance(size, list) and len(size) == 2 and size[0] == size[1] else size
    if type(size) is not int:
        raise ValueError(f'it does not say the side of its square images: write it as "sample_size" into its {CONFIG}')
    if type(channels) is not int or outputs not in (channels, 2 * channels):
        found = f"{str(channels)[:20]} input and {str(outputs)[:20]} output channels"
        raise ValueError(f"it has {found}: a denoiser has as many outputs, or twice as many with a learned sigma")
    for name in ("down_block_types", "up_block_types"):
        if isinstance(words := settings.get(name), list):
            settings[name] = [word.removeprefix("UNetRes") if isinstance(word, str) else word for word in words]
    sizes = {"resolution": size, "in_channels": channels, "out_channels": channels, "num_classes": classes or 0}
    return native.compose({"kind": "diffusers_unet", **sizes, "unet": settings}, {})


def read_transformer(folder: Folder, tensors: Mapping[str, Tensor]) -> Network:
    return dit.translate_diffusers(folder.config, tensors)


def read_own(folder: Folder, tensors: Mapping[str, Tensor]) -> Network:
    config = folder.config
    size, channels, classes = (config.get(name) for name in ("sample_size", "in_channels", "num_class_embeds"))
    spec = {"backbone": config.get("backbone"), "preconditioning": config.get("family")}
    if not all(isinstance(part, dict) for part in spec.values()):
        raise ValueError(f"it lacks the description that d2o writes into its {CONFIG}")
    spec |= {"image_shape": [channels, size, size], "num_classes": classes or 0}
    return spec, {name.removeprefix("denoiser."): tensor for name, tensor in tensors.items()}


def read_text_to_image(folder: Folder, tensors: Mapping[str, Tensor]) -> Network:
    return text_to_image.read(folder.config, tensors)


TEXT_TO_IMAGE = dict.fromkeys(text_to_image.NETWORKS, read_text_to_image)
NETWORKS: dict[str, Reader] = {
    "UNet2DModel": read_unet,
    "DiTTransformer2DModel": read_transformer,
    "Transformer2DModel": read_transformer,  # what the published DiT folders say
    "D2OModel": read_own,
    **TEXT_TO_IMAGE,
}


def count_tokens(backbone: Mapping[str, Any]) -> int:
    """Return of how many patches a network's images are: its own, or those of 2x2 that flow models' latents have."""
    return (backbone["resolution"] // backbone.get("patch_size", 2)) ** 2


def describe_origin(folder: Folder, schedule: Schedule) -> dict[str, Any]:
    network, scheduler = folder.config, folder.scheduler
    names = {"class": network.get("_class_name"), "version": network.get("_diffusers_version")}
    names |= {"scheduler": scheduler.get("_class_name"), "ignored": ", ".join(schedule.ignored) or None}
    return {"format": "diffusers"} | {name: str(value)[:60] for name, value in names.items() if value is not None}
