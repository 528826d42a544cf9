"""Networks that someone built by hand: their blocks are seen, whatever their names and calls."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d2o import backbones
from d2o.analysis.blocks import blocks
from d2o.analysis.blocks_report import report
from d2o.analysis.network import places, watch_blocks
from d2o.analysis.paths import Sampling
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM
from d2o.training.freezing import roles_of


def convolution() -> nn.Conv2d:
    return nn.Conv2d(1, 1, 3, padding=1)


class Named(nn.Module):
    """Takes the map by name, and vectors before it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = convolution()

    def forward(self, vectors: Tensor, x: Tensor) -> Tensor:
        return self.inner(x) + vectors.mean()


class Residual(nn.Module):
    """Stem and head beside a list named like that of a transformer here; what the blocks give is made by `pack`."""

    def __init__(self, pack: Callable[[Tensor], Any] = lambda x: x, take: Callable[[Any], Tensor] = lambda x: x):
        super().__init__()
        self.take = take
        self.vectors = nn.Linear(1, 4)
        self.head = nn.Sequential(nn.SiLU(), convolution())
        self.stem = convolution()
        self.blocks = nn.ModuleList([Packed(pack), Packed(pack)])
        self.unused = convolution()

    def forward(self, x, noise, label=None, augmentation=None):
        self.vectors(noise[:, None])
        x = self.stem(x)
        for block in self.blocks:
            x = self.take(block(x))
        return self.head(x)


class Packed(nn.Module):
    """A convolution whose output is packed with something else."""

    def __init__(self, pack: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.pack = convolution(), pack

    def forward(self, x: Tensor) -> Any:
        return self.pack(self.inner(x))


def denoiser(backbone: nn.Module) -> Denoiser:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return Denoiser(backbone, EDM(), (1, 8, 8)).eval()


def seen_in(model: Denoiser) -> list[str]:
    with watch_blocks(model.backbone) as seen, torch.no_grad():
        model(torch.randn(2, 1, 8, 8), 1.0)
    return list(seen)


class TestPlaces:
    def test_every_part_is_a_block(self):
        names = ["vectors", "head.0", "head.1", "stem", "blocks.0", "blocks.1", "unused"]
        assert places(Residual()) == dict.fromkeys(names, "network")

    def test_maps_are_seen_in_the_order_of_calls(self):
        model = denoiser(Residual())
        order = ["stem", "blocks.0", "blocks.1", "head.0", "head.1"]
        assert seen_in(model) == order
        study = blocks(model, Sampling(range(4), 4))
        assert [block.name for block in study.before] == order
        assert [row[0] for row in report(study).tables[1].rows] == order

    def test_names_of_other_networks_hide_nothing(self):
        class Borrowed(nn.Module):
            def __init__(self):
                super().__init__()
                self.enc = nn.ModuleDict({"8x8_conv": convolution(), "8x8_aux_norm": convolution()})
                self.out_conv, self.tail = convolution(), convolution()

        names = ["enc.8x8_conv", "enc.8x8_aux_norm", "out_conv", "tail"]
        assert places(Borrowed()) == dict.fromkeys(names, "network")

    def test_a_network_of_the_project_is_cut_as_ever_within_another(self):
        sizes = {"resolution": 8, "in_channels": 1, "out_channels": 1, "channels": 16, "num_blocks": 2, "num_heads": 2}
        whole = backbones.build({"kind": "dit", **sizes})
        within = places(nn.ModuleDict({"stem": convolution(), "net": whole}))
        assert within == {"stem": "network", **{f"net.{name}": place for name, place in places(whole).items()}}
        assert within["net.blocks.0"] == "transformer"

    def test_so_is_that_of_diffusers(self):
        pytest.importorskip("diffusers")
        types = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "block_out_channels": [8]}
        settings = {**types, "norm_num_groups": 4, "layers_per_block": 1}
        spec = {"kind": "diffusers_unet", "resolution": 8, "in_channels": 1, "out_channels": 1, "unet": settings}
        whole: Any = backbones.build(spec)
        wrapper = nn.Module()
        wrapper.stem, wrapper.unet = convolution(), whole.unet
        assert places(wrapper) == {"stem": "network", **places(whole)}
        assert places(whole)["unet.conv_in"] == "input" and places(whole)["unet.conv_out"] == "output"


def test_parameters_without_roles_have_one():
    assert set(roles_of(denoiser(Residual())).values()) == {"parameter"}


class TestCalls:
    def test_by_name(self):
        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.two = Named(), Named()

            def forward(self, x, noise, label=None, augmentation=None):
                return self.two(noise[:, None], self.one(vectors=noise[:, None], x=x))

        model = denoiser(Network())
        x = torch.randn(2, 1, 8, 8)
        with watch_blocks(model.backbone) as seen, torch.no_grad():
            made = model.backbone(x, torch.ones(2))
        assert torch.equal(seen["one"][0], x) and torch.equal(seen["two"][1], made)
        assert torch.equal(seen["two"][0], seen["one"][1])  # not the vectors before it

    def test_the_last_of_several_counts(self):
        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.two = convolution(), convolution()

            def forward(self, x, noise, label=None, augmentation=None):
                return self.one(self.two(self.one(x)))

        model = denoiser(Network())
        with watch_blocks(model.backbone) as seen, torch.no_grad():
            made = model.backbone(torch.randn(2, 1, 8, 8), torch.ones(2))
        assert list(seen) == ["two", "one"]
        assert torch.equal(seen["one"][1], made) and torch.equal(seen["one"][0], seen["two"][1])

    def test_at_some_noise_levels_only(self):
        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.early, self.late, self.last = (convolution() for _ in range(3))

            def forward(self, x, noise, label=None, augmentation=None):
                return self.last(self.early(x) if noise[0] > 0 else self.late(x))

        study = blocks(denoiser(Network()), Sampling(range(4), 5, batch_size=2))
        assert [block.name for block in study.before] == ["last"]

    def test_without_a_map(self):
        class Spread(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = nn.Linear(1, 64)

            def forward(self, noise):
                return self.inner(noise[:, None]).view(-1, 1, 8, 8)

        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.spread, self.last = Spread(), convolution()

            def forward(self, x, noise, label=None, augmentation=None):
                return self.last(x + self.spread(noise))

        spread, last = blocks(denoiser(Network()), Sampling(range(4), 4)).before
        assert spread.change_band is not None and spread.response_band is None
        assert last.response_band is not None

    @pytest.mark.parametrize(
        ("pack", "take"),
        [
            (lambda x: (x, "rest"), lambda made: made[0]),
            (lambda x: [x, "rest"], lambda made: made[0]),
            (lambda x: SimpleNamespace(sample=x), lambda made: made.sample),
        ],
        ids=["tuple", "list", "record"],
    )
    def test_within_whatever_a_block_gives(self, pack, take):
        packed, plain = denoiser(Residual(pack, take)), denoiser(Residual())
        x, outputs = torch.randn(2, 1, 8, 8), []
        for model in (packed, plain):
            with watch_blocks(model.backbone) as seen, torch.no_grad():
                model(x, 1.0)
            outputs.append(seen["blocks.0"][1])
        assert torch.equal(*outputs)
