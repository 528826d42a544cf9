"""EDM, D2O and EDM2 pickles: weights bit for bit, outputs equal, and a sentence for every other file."""

import io
import json
import math
import pickletools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import d2o
from d2o import backbones
from d2o.checkpoints import CheckpointError, inspect
from d2o.diffusion.families import EDM, VE, VP, Boundary
from d2o.errors import MalformedCheckpointError, MismatchError, UnsupportedCheckpointError

from . import honest
from .encoder import Call, pickled
from .test_edm2 import ENCODER, KWARGS, weights

SMALL = {"img_resolution": 8, "img_channels": 3, "use_fp16": False, "model_channels": 16, "channel_mult": [1, 2]}
SMALL |= {"num_blocks": 1, "attn_resolutions": [4], "dropout": 0.1}
SONG = SMALL | {"model_type": "SongUNet", "embedding_type": "positional", "encoder_type": "standard"}
SONG |= {"decoder_type": "standard", "channel_mult_noise": 1, "resample_filter": [1, 1], "label_dim": 0}
NCSNPP = SONG | {"embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2}
NCSNPP |= {"resample_filter": [1, 3, 3, 1], "augment_dim": 9}
ADM = SMALL | {"model_type": "DhariwalUNet", "label_dim": 4}
NETWORKS = {"ddpmpp": SONG, "ncsnpp": NCSNPP, "ncsnpp with classes": NCSNPP | {"label_dim": 4}, "adm": ADM}
OURS = {
    "img_resolution": "resolution", "img_channels": "in_channels", "label_dim": "num_classes",
    "augment_dim": "augmentation_dim", "model_channels": "channels", "channel_mult": "channel_multipliers",
    "num_blocks": "num_blocks", "attn_resolutions": "attention_resolutions", "dropout": "dropout",
    "embedding_type": "embedding", "channel_mult_noise": "noise_embedding_multiplier", "encoder_type": "encoder",
    "decoder_type": "decoder", "resample_filter": "resample_filter",
}  # fmt: skip


def network(settings: dict[str, Any], outputs: int = 1) -> backbones.Backbone:
    """Return the network of some settings, with weights all of which matter."""
    kind = {"SongUNet": "song_unet", "DhariwalUNet": "dhariwal_unet"}[settings["model_type"]]
    options = {OURS[name]: value for name, value in settings.items() if name in OURS}
    torch.manual_seed(3)
    made = backbones.build({"kind": kind, **options, "out_channels": outputs * settings["img_channels"]}).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            wide = parameter.dim() > 1
            parameter.normal_(0, (1 / parameter[0].numel()) ** 0.5) if wide else parameter.add_(
                0.1 * torch.randn_like(parameter)
            )
    return made


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "network-snapshot.pkl"
    path.write_bytes(content)
    return path


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def assert_same_weights(denoiser: d2o.Denoiser, made: nn.Module) -> None:
    state, wanted = denoiser.backbone.state_dict(), made.state_dict()
    assert list(state) == list(wanted)
    for name, tensor in wanted.items():
        assert state[name].dtype == tensor.dtype and torch.equal(state[name], tensor), name


def noise(channels: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, 8, 8, generator=generator), torch.tensor([0, 3])


@pytest.mark.parametrize("settings", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("numpy_core", ["numpy.core", "numpy._core"])
def test_every_spelling_gives_the_same_bits(tmp_path, settings, protocol, numpy_core):
    made = network(settings)
    content = honest.edm_file(
        honest.network("EDMPrecond", made, settings, sigma_data=0.5), protocol=protocol, numpy_core=numpy_core
    )
    pickletools.dis(content, io.StringIO())  # the encoder writes what Python would read
    denoiser = d2o.load(write(tmp_path, content))
    assert_same_weights(denoiser, made)
    assert denoiser.preconditioning == EDM() and not denoiser.training
    assert denoiser.image_shape == (3, 8, 8) and denoiser.num_classes == settings["label_dim"]


CLASSES = {
    "EDMPrecond": ({"sigma_data": 0.6}, EDM(0.6)),
    "D2OPrecond": ({"sigma_data": 0.5, "eps": 0.003, "counter": 0}, Boundary(0.5, 0.003)),
    "VPPrecond": ({"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5}, VP()),
    "VEPrecond": ({"sigma_min": 0.02, "sigma_max": 100}, VE()),
}


def by_hand(class_name: str, made: nn.Module, x: Tensor, sigma: float, label: Tensor | None) -> Tensor:
    """Return what the reference computes, written from its equations."""
    s = torch.full((len(x), 1, 1, 1), sigma)
    data, eps = (0.6 if class_name == "EDMPrecond" else 0.5), 0.003
    time = ((0.1**2 + 2 * 19.9 * (1 + s**2).log()).sqrt() - 0.1) / 19.9
    norm = (s**2 + data**2).sqrt()
    skip, out, scale, c_noise = {
        "EDMPrecond": (data**2 / norm**2, s * data / norm, 1 / norm, s.log() / 4),
        "D2OPrecond": (data**2 / ((s - eps) ** 2 + data**2), (s - eps) * data / norm, 1 / norm, s.log() / 4),
        "VPPrecond": (torch.ones_like(s), -s, (1 + s**2).rsqrt(), 999 * time),
        "VEPrecond": (torch.ones_like(s), s, torch.ones_like(s), (0.5 * s).log()),
    }[class_name]
    return (skip * x + out * made((scale * x).float(), c_noise.flatten().float(), label)).float()


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("sigma", [80.0, 1.0])
@pytest.mark.parametrize("settings", [SONG, ADM], ids=["ddpmpp", "adm"])
def test_outputs_are_those_of_the_equations(tmp_path, class_name, sigma, settings):
    made, (attributes, preconditioning) = network(settings), CLASSES[class_name]
    path = write(tmp_path, honest.edm_file(honest.network(class_name, made, settings, **attributes)))
    denoiser = d2o.load(path)
    assert denoiser.preconditioning == preconditioning
    x, label = noise()
    label = label if settings["label_dim"] else None
    with torch.no_grad():
        torch.testing.assert_close(
            denoiser(sigma * x, sigma, label), by_hand(class_name, made, sigma * x, sigma, label), rtol=2e-5, atol=2e-5
        )


def test_iddpm_uses_the_first_half_of_its_outputs_and_the_nearest_level(tmp_path):
    made, levels = network(ADM, outputs=2), torch.zeros(1001, dtype=torch.float64)
    signal = lambda j: math.sin(math.pi / 2 * j / 1000 / 1.008) ** 2  # noqa: E731
    for j in range(1000, 0, -1):
        levels[j - 1] = ((levels[j] ** 2 + 1) / max(signal(j - 1) / signal(j), 0.001) - 1).sqrt()
    attributes = {"C_1": 0.001, "C_2": 0.008, "M": 1000}
    content = honest.network("iDDPMPrecond", made, ADM, {"u": levels.float()}, **attributes)
    denoiser = d2o.load(write(tmp_path, honest.edm_file(content)))
    x, label = noise()
    for sigma in (80.0, 1.0):
        time = 999 - (levels - sigma).abs().argmin().repeat(2).float()
        with torch.no_grad():
            wanted = sigma * x - sigma * made(sigma * x / (1 + sigma**2) ** 0.5, time, label)[:, :3]
            torch.testing.assert_close(denoiser(sigma * x, sigma, label), wanted, rtol=2e-5, atol=1e-4)


def test_d2o_files_hold_two_networks(tmp_path):
    ema, net = network(SONG), network(SONG)
    with torch.no_grad():
        next(net.parameters()).add_(1)
    content = {"net": net, "ema": ema}
    content = {name: honest.network("D2OPrecond", made, SONG, eps=0.002) for name, made in content.items()}
    content |= {"augment_pipe": honest.augment_pipe(), "dataset_kwargs": honest.data_set()}
    path = write(tmp_path, pickled(content))
    assert_same_weights(d2o.load(path), ema)
    assert_same_weights(d2o.load(path, key="net"), net)
    assert d2o.load(path).provenance["class"] == "D2OPrecond"
    with pytest.raises(UnsupportedCheckpointError, match="'other'.*'net'.*'ema'"):
        d2o.load(path, key="other")


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("latent", [True, False])
def test_edm2_files(tmp_path, protocol, latent):
    kwargs = KWARGS if latent else KWARGS | {"img_channels": 3}
    state = weights(kwargs)
    tree = nn.Module()
    for name, tensor in state.items():
        *path, last = name.split(".")
        module = tree
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.ModuleDict() if part in ("enc", "dec") else nn.Module())
            module = module._modules[part]
            assert module is not None
        module.register_buffer(last, tensor)
    ema = honest.persistent("Precond", honest.module_state(tree, _init_args=(), _init_kwargs=kwargs, use_fp16=True))
    coder = {name: value for name, value in ENCODER.items() if name != "class_name"} | {"_vae": None}
    encoder = honest.persistent("StabilityVAEEncoder", coder) if latent else honest.persistent("StandardRGBEncoder", {})
    content = Call("dnnlib.util EasyDict", (), {"encoder": encoder, "ema": ema}, new=True)
    denoiser = d2o.load(write(tmp_path, pickled(content, protocol)))
    for name, tensor in denoiser.backbone.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, state[f"unet.{name}"].float())
    if latent:
        assert denoiser.provenance["latents"]["scale"] == ENCODER["scale"].tolist()
    assert inspect(tmp_path / "network-snapshot.pkl").class_name == "Precond"


def test_the_embedding_of_augmentations_may_be_left_out_and_nothing_else(tmp_path):
    made = network(NCSNPP)
    without = {name: value for name, value in NCSNPP.items() if name != "augment_dim"}
    denoiser = d2o.load(write(tmp_path, honest.edm_file(honest.network("EDMPrecond", made, without))))
    assert "map_augment.weight" not in denoiser.backbone.state_dict()
    del made.map_layer0
    with pytest.raises(MismatchError, match=r"map_layer0\.weight"):
        d2o.load(write(tmp_path, honest.edm_file(honest.network("EDMPrecond", made, NCSNPP))))


def test_the_first_five_differences_are_named(tmp_path):
    content = honest.network("EDMPrecond", network(SONG), SONG | {"num_blocks": 2})
    with pytest.raises(MismatchError, match=r"is missing.*and \d+ more") as error:
        d2o.load(write(tmp_path, honest.edm_file(content)))
    assert str(error.value).count(";") == 4
    content = honest.network("EDMPrecond", network(SONG), SONG | {"model_channels": 32})
    with pytest.raises(MismatchError, match=r"has shape \[64, 16\], not \[128, 32\]"):
        d2o.load(write(tmp_path, honest.edm_file(content)))


WRONG = [
    *(("img_resolution", v) for v in (None, 8.0, "8", [8], 10**9, -8, 2**600, {"a": 1})),
    *(("model_channels", v) for v in (2**40, -16, "16", 16.0, None, [16])),
    *(("channel_mult", v) for v in ([], [1] * 500, [10**9], "12", [[1]], {1: 2})),
    *(("attn_resolutions", v) for v in (16, [None], list(range(1, 5000)))),
    *(("label_dim", v) for v in (-1, 2**70, "10", None)),
    *(("model_type", v) for v in ("os.system", None, ["SongUNet"], "eval", "DiT")),
    *(("dropout", v) for v in (2, -1, "a", float("nan"))),
    *(("sigma_data", v) for v in (-1, "a", float("nan"), float("inf"), 0, [0.5])),
    *(("resample_filter", v) for v in ([1], [0, 0], [1, 2, 1], [-1, 1])),
    *((name, 1) for name in ("__class__", "shell", "num_heads")),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda value: repr(value)[:30])
def test_wrong_arguments_are_refused(tmp_path, name, value):
    settings = NCSNPP | {name: value}
    content = honest.network("EDMPrecond", network(NCSNPP), settings)
    with pytest.raises(UnsupportedCheckpointError, match="network-snapshot") as error:
        d2o.load(write(tmp_path, honest.edm_file(content)))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("settings", [None, [], "x", {"img_channels": 3}, {"img_resolution": 8}])
def test_missing_arguments_are_refused(tmp_path, settings):
    content = honest.network("EDMPrecond", network(SONG), settings)
    with pytest.raises(UnsupportedCheckpointError):
        d2o.load(write(tmp_path, honest.edm_file(content)))


def test_other_networks_are_named(tmp_path):
    generator = honest.persistent("Generator", honest.module_state(nn.Module(), _init_args=(), _init_kwargs={}))
    content = {"G": generator, "D": generator, "G_ema": generator, "augment_pipe": None}
    with pytest.raises(UnsupportedCheckpointError, match="Generator.*EDMPrecond"):
        d2o.load(write(tmp_path, pickled(content)))
    with pytest.raises(UnsupportedCheckpointError, match="Generator.*EDMPrecond"):
        d2o.load(write(tmp_path, pickled({"ema": generator})))
    for content in ({}, {"ema": None}, {"ema": {"a": 1}}, [1], 3, None):
        with pytest.raises(UnsupportedCheckpointError, match="network"):
            d2o.load(write(tmp_path, pickled(content)))


def test_an_unknown_source_is_a_warning_and_in_the_provenance(tmp_path):
    path = write(tmp_path, honest.edm_file(honest.network("EDMPrecond", network(SONG), SONG)))
    with pytest.warns(UserWarning, match="network-snapshot.*source"):
        denoiser = d2o.load(path)
    assert denoiser.provenance["source"] == "unknown" and len(denoiser.provenance["source_sha256"]) == 64
    d2o.save(tmp_path / "ours.safetensors", denoiser)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert d2o.load(tmp_path / "ours.safetensors").provenance == denoiser.provenance


def test_numpy_numbers_everywhere(tmp_path):
    settings = {name: np.int64(value) if type(value) is int else value for name, value in SONG.items()}
    made = network(SONG)
    content = honest.network("EDMPrecond", made, settings, sigma_data=np.float64(0.5), label_dim=np.int64(0))
    denoiser = d2o.load(write(tmp_path, honest.edm_file(content)))
    assert_same_weights(denoiser, made)
    json.dumps(denoiser.provenance)


def test_our_own_format_keeps_it_all(tmp_path):
    made = network(NCSNPP)
    denoiser = d2o.load(write(tmp_path, honest.edm_file(honest.network("D2OPrecond", made, NCSNPP, eps=0.004))))
    d2o.save(tmp_path / "model.safetensors", denoiser)
    again = d2o.load(tmp_path / "model.safetensors")
    assert_same_weights(again, made)
    assert again.preconditioning == Boundary(0.5, 0.004) and again.provenance == denoiser.provenance


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_cut_files(tmp_path, share):
    content = honest.edm_file(honest.network("EDMPrecond", network(SONG), SONG))
    path = write(tmp_path, content[: int(share * len(content))])
    with pytest.raises(MalformedCheckpointError, match="network-snapshot"):
        d2o.load(path)


def test_a_second_pickle_after_the_end(tmp_path):
    content = honest.edm_file(honest.network("EDMPrecond", network(SONG), SONG))
    with pytest.raises(CheckpointError, match="network-snapshot"):
        d2o.load(write(tmp_path, content + content))
