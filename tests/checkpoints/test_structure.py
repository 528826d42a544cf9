"""Descriptions and shapes changed at random, in files of every reader: declared errors, little time, little memory."""

import copy
import json
import random
import resource
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import d2o
from d2o import backbones
from d2o.backbones.dit import DiT
from d2o.checkpoints import CheckpointError, inspect, native
from d2o.checkpoints.readers import openai_unet
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM

from .openai_reference import Kind, make_weights

State = dict[str, Tensor]
SIZES = {"resolution": 8, "in_channels": 3, "out_channels": 3, "num_classes": 2}
LEVELS = {"channels": 4, "channel_multipliers": [1, 2], "num_blocks": 1, "attention_resolutions": [4]}
NETWORKS = {
    "song_unet": SIZES | LEVELS,
    "dhariwal_unet": SIZES | LEVELS,
    "edm2_unet": SIZES | LEVELS | {"head_channels": 4},
    "dit": SIZES | {"channels": 8, "num_blocks": 2, "num_heads": 2},
}
UNET = {"block_out_channels": [4, 8], "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 4}
UNET |= {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}
VALUES: tuple[Any, ...] = (0, 1, -1, 2, 3, 7, 64, 1000, 10**6, 10**9, 10**18, 2**70, 0.5, -0.0, 1e300, True, None)
VALUES += ("", "epsilon", "a" * 9999, [], [0], [4] * 12, [[1]], [1] * 5000, {}, {"a": 1}, {"kind": "edm"})


def write_native(kind: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        network = backbones.build({"kind": kind, **NETWORKS[kind]})
        d2o.save(path / "model.safetensors", Denoiser(network, EDM(), (3, 8, 8), 2))

    return write


def write_edm(path: Path) -> None:
    network = backbones.build({"kind": "song_unet", **NETWORKS["song_unet"]})
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    settings = {"img_resolution": 8, "img_channels": 3, "label_dim": 2, "model_channels": 4, "channel_mult": [1, 2]}
    settings |= {"num_blocks": 1, "attn_resolutions": [4], "model_type": "SongUNet", "precond": "EDMPrecond"}
    safetensors.torch.save_file(state, path / "model.safetensors", {"config": json.dumps(settings)})


def write_state(name: str, state: State) -> Callable[[Path], None]:
    return lambda path: torch.save(state, path / name)


def write_unet(path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(sample_size=8, num_class_embeds=2, **UNET)
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(clip_sample=False)).save_pretrained(path)


def write_dit(path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    sizes = {"sample_size": 4, "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 4}
    diffusers.DiTTransformer2DModel(**sizes, out_channels=8, num_embeds_ada_norm=2).save_pretrained(path)


def write_unet_state(path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(sample_size=8, num_class_embeds=2, **UNET)
    torch.save(unet.state_dict(), path / "unet.pt")
    (path / "config.json").write_text(json.dumps(dict(unet.config) | {"_class_name": "UNet2DModel"}))


DIT = DiT(4, 4, 8, 3, channels=384, num_blocks=1, num_heads=6).state_dict()
FILES: dict[str, Callable[[Path], None]] = {
    **{kind: write_native(kind) for kind in NETWORKS},
    "edm": write_edm,
    "DiT state": write_state("DiT.pt", DIT),
    "SongUNet state": lambda path: torch.save(
        backbones.build({"kind": "song_unet", **NETWORKS["song_unet"]}).state_dict(), path / "song.pt"
    ),
    "unet folder": write_unet,
    "unet state": write_unet_state,
    "dit folder": write_dit,
}


def change(value: Any, chance: random.Random) -> Any:
    """Return JSON with one of its values, anywhere, replaced, left out, or doubled."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        changed = {**value, key: change(value[key], chance)}
        return {name: v for name, v in changed.items() if name != key} if chance.random() < 0.15 else changed
    if isinstance(value, list) and value and chance.random() < 0.5:
        place = chance.randrange(len(value))
        return [*value[:place], change(value[place], chance), *value[place + chance.randrange(2) :]]
    return copy.deepcopy(chance.choice(VALUES))


def reshape(state: State, chance: random.Random) -> State:
    """Return tensors of which one has another shape or type, or another name, or is not there."""
    state, name = dict(state), chance.choice(list(state))
    tensor = state.pop(name)
    shape = list(tensor.shape)
    match chance.randrange(6):
        case 0:
            state[name] = torch.zeros(())
        case 1:
            state[name] = torch.zeros([chance.choice((0, 1, 2, 3)) for _ in range(chance.randrange(6))])
        case 2 if shape:
            shape[chance.randrange(len(shape))] = chance.choice((0, 1, 5, 8))
            state[name] = torch.zeros(shape)
        case 3:
            state[name] = tensor.to(chance.choice((torch.int8, torch.bool, torch.complex64, torch.float16)))
        case 4:
            state[chance.choice((name + ".x", "model." + name, name[1:], "blocks.9999999." + name))] = tensor
    return state


def mutate(file: Path, content: bytes, chance: random.Random) -> None:
    """Write a file again, structurally changed."""
    if file.suffix == ".json":
        file.write_text(json.dumps(change(json.loads(content), chance)))
    elif file.suffix == ".pt":
        torch.save(reshape(torch.load(file, weights_only=True), chance), file)
    else:
        with safetensors.safe_open(file, "pt") as found:
            metadata, state = dict(found.metadata() or {}), {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118
        described = [name for name in metadata if name in (native.SPEC, native.CONFIG)]
        if described and chance.random() < 0.6:
            metadata[described[0]] = json.dumps(change(json.loads(metadata[described[0]]), chance))
        else:
            state = reshape(state, chance)
        safetensors.torch.save_file(state, file, metadata)


@pytest.mark.parametrize("name", FILES)
def test_changed_descriptions_and_shapes_give_declared_errors_only(
    tmp_path: Path, name: str, count: int = 12, seed: int = 0
) -> None:
    warnings.simplefilter("ignore")
    FILES[name](tmp_path)
    files = {file: file.read_bytes() for file in sorted(tmp_path.rglob("*")) if file.is_file()}
    states = [file for file in files if file.suffix == ".pt"]
    model = states[0] if states else tmp_path if len(files) > 1 else next(iter(files))
    d2o.load(model)
    memory, chance = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, random.Random(f"{name} {seed}")
    for _ in range(count):
        changed = chance.choice(list(files))
        mutate(changed, files[changed], chance)
        began = time.process_time()
        try:
            assert isinstance(d2o.load(model) if chance.random() < 0.5 else inspect(model).denoiser, Denoiser)
        except CheckpointError as error:
            assert len(str(error)) < 2000 and str(error).isprintable()
        assert time.process_time() - began < 5
        changed.write_bytes(files[changed])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 1_000_000  # kilobytes


@pytest.mark.filterwarnings("ignore:The weights in")
@pytest.mark.parametrize("kind", [Kind(), Kind(outputs=6, by_convolution=True, attention_dims=1)])
def test_changed_shapes_of_openai_s_networks_give_declared_errors_only(kind, count: int = 12, seed: int = 0) -> None:
    state = {name: torch.empty(tensor.shape, device="meta") for name, tensor in make_weights(kind).items()}
    openai_unet.from_state(state, Path("cd.pt"))
    for number in range(count):
        with suppress(CheckpointError):
            openai_unet.from_state(reshape(state, random.Random(seed + number)), Path("cd.pt"))
