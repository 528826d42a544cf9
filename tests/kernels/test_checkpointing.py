"""Blocks that run again for their gradients: of every kind of network, to the same gradients, for half the memory."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoencoders import SETTINGS
from d2o.backbones import BACKBONES, build
from d2o.diffusion import Text
from d2o.encoders.codec import KINDS
from d2o.kernels.checkpointing import checkpoint_blocks, find_blocks
from needs import package
from refusal import refused

SIZES = {"resolution": 8, "in_channels": 4, "out_channels": 4}
UNET = {**SIZES, "num_classes": 3, "channels": 16, "channel_multipliers": [1, 2], "num_blocks": 3}
UNET |= {"attention_resolutions": [4], "dropout": 0.3}
TRANSFORMER = {**SIZES, "channels": 16, "num_blocks": 4, "num_heads": 2}
SD3 = {"num_layers": 4, "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "sample_size": 8}
SD3 |= {"joint_attention_dim": 8, "caption_projection_dim": 16, "pooled_projection_dim": 6, "out_channels": 4}
SD15 = {"sample_size": 8, "block_out_channels": [8, 16], "cross_attention_dim": 8, "norm_num_groups": 4}
SD15 |= {"attention_head_dim": 2, "dropout": 0.3}
SD15 |= {f"{way}_block_types": [f"CrossAttn{way.title()}Block2D"] * 2 for way in ("down", "up")}
DDPM = {"block_out_channels": [8, 16], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "norm_num_groups": 4}
DDPM |= {"up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "dropout": 0.3, "attention_head_dim": 4}
WORD_UNET = {name: value for name, value in UNET.items() if name != "num_classes"}
SPECS: dict[str, dict[str, Any]] = {
    "ddpm++": {"kind": "song_unet", **UNET},
    "ncsn++": {"kind": "song_unet", **UNET, "encoder": "residual", "resample_filter": [1, 3, 3, 1]},
    "adm": {"kind": "dhariwal_unet", **UNET, "resampling": "convolution"},
    "edm2": {"kind": "edm2_unet", **UNET, "head_channels": 16},
    "ddpm": {"kind": "diffusers_unet", **SIZES, "num_classes": 3, "unet": DDPM},
    "dit": {"kind": "dit", **TRANSFORMER, "num_classes": 3, "embedders": "per block"},
    "words": {"kind": "text_transformer", **TRANSFORMER, "vocabulary": 5, "length": 3},
    "word unet": {"kind": "text_unet", **WORD_UNET, "vocabulary": 5, "length": 3, "patch_size": 1},
    "sd3": {"kind": "text_to_image", **SIZES, "network": "SD3Transformer2DModel", "settings": SD3},
    "sd15": {"kind": "text_to_image", **SIZES, "network": "UNet2DConditionModel", "settings": SD15},
}
CONDITIONS: dict[str, Any] = {
    **dict.fromkeys(("words", "word unet"), torch.tensor([[2, 3, 0], [4, 0, 0]])),
    "sd3": Text(torch.ones(2, 3, 8), pooled=torch.ones(2, 6)),
    "sd15": Text(torch.ones(2, 3, 8)),
}


@torch.no_grad()
def fill(network: nn.Module) -> nn.Module:
    """Give every weight a value that matters: fresh networks are nearly the identity."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    return network


def call(name: str) -> Callable[[nn.Module, Tensor], Tensor]:
    condition = CONDITIONS.get(name, torch.tensor([0, 2]))
    return lambda network, x: network(x, torch.tensor([0.3, 0.9]), condition)


def latents(**options: Any) -> Tensor:
    return torch.linspace(-1, 1, 2 * 4 * 8 * 8).sin().view(2, 4, 8, 8).requires_grad_(**options)


def differentiate(run: Callable[..., Tensor], network: nn.Module, x: Tensor) -> tuple[list[Tensor | None], int]:
    """Return the output, the gradients, and the bytes of activations that were kept for them."""
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in weights:
            kept[place] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)  # of dropout
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = run(network, x)
    output.float().square().mean().backward()
    found = [output.detach(), *(parameter.grad for parameter in network.parameters()), x.grad]
    network.zero_grad(set_to_none=True)
    x.grad = None
    return found, sum(kept.values())


def compare(run: Callable[..., Tensor], network: nn.Module, x: Tensor) -> float:
    """Check that a checkpointed copy has the same output and gradients; return the share of the bytes that it keeps."""
    again = copy.deepcopy(network)
    checkpoint_blocks(again)
    assert list(again.state_dict()) == list(network.state_dict())
    (wanted, plain), (found, less) = (differentiate(run, one, x) for one in (network, copy.deepcopy(again)))
    for one, other in zip(wanted, found, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert torch.equal(one, other)
    return less / plain


def test_every_kind_of_network_is_there():
    assert {spec["kind"] for spec in SPECS.values()} == BACKBONES.keys()


@pytest.mark.parametrize("name", SPECS)
class TestBackbones:
    @pytest.fixture
    def network(self, name):
        return fill(build(SPECS[name]))

    def test_gradients_stay_and_half_of_the_memory_is_enough(self, name, network):
        assert compare(call(name), network.train(), latents()) < 0.5

    def test_also_with_frozen_weights_and_in_bfloat16(self, name, network):
        def run(network: nn.Module, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return call(name)(network, x)

        network.to(memory_format=torch.channels_last)
        for block in list(find_blocks(network))[1:]:  # the input of the first, which moves, needs no gradient
            block.requires_grad_(False)
        compare(run, network, latents(requires_grad=False))


@pytest.mark.parametrize("kind", KINDS)
def test_decoders(kind):
    network = getattr(package("diffusers"), kind)(**{**SETTINGS[kind], **deeper(SETTINGS[kind])}).requires_grad_(False)
    fill(network)

    def run(decoder: nn.Module, x: Tensor) -> Tensor:
        network.decoder = decoder
        return KINDS[kind].decode(network, x)

    assert compare(run, network.decoder, latents()) < 0.6


def deeper(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what makes an autoencoder deep enough to tell blocks from what lies around them."""
    depths = {"decoder_layers_per_block": (3, 3), "num_decoder_blocks": (3, 3), "num_res_blocks": 3}
    return {name: depth for name, depth in depths.items() if name in settings} or {"layers_per_block": 3}


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(4, 16, 1), nn.Conv2d(16, 4, 1)
        self.calls = 0

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        self.calls += 1
        return x + scale * self.narrow(self.wide(x).sin())


class Own(nn.Module):
    """A network of somebody's: levels of blocks, and around them parts that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(4, 4, 1), nn.SiLU(), nn.Conv2d(4, 4, 1))
        self.levels = nn.ModuleList(nn.ModuleDict({"a": Residual(), "b": Residual()}) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for level in self.levels:
            for block in level.children():
                x = block(x, scale=0.5)
        return x


class TestOwnNetworks:
    def test_the_blocks_are_the_parts_of_the_innermost_lists_that_have_layers(self):
        network = Own()
        assert list(find_blocks(network)) == [part for part in network.modules() if isinstance(part, Residual)]
        assert compare(lambda network, x: network(x), network, latents()) < 0.5

    def test_what_computes_no_gradient_runs_once(self):
        network = Own()
        checkpoint_blocks(network)
        with torch.no_grad():
            network(latents())
        assert [block.calls for block in find_blocks(network)] == [1] * 4  # type: ignore[union-attr]
        network(latents()).sum().backward()
        assert [block.calls for block in find_blocks(network)] == [3] * 4  # type: ignore[union-attr]

    def test_a_copy_computes_with_its_own_weights(self):
        network = Own()
        checkpoint_blocks(network)
        twin = copy.deepcopy(network)
        fill(network)
        assert not torch.equal(twin(latents()), network(latents()))
        twin(latents()).sum().backward()
        assert all(parameter.grad is None for parameter in network.parameters())

    def test_one_without_blocks_is_refused(self):
        with refused("Sequential"):
            checkpoint_blocks(nn.Sequential(nn.Linear(2, 2), nn.SiLU(), nn.Linear(2, 2)))
