"""Networks that someone built by hand: their blocks are seen and can be filtered, whatever their names and calls."""

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from d2o import backbones
from d2o.analysis import bands
from d2o.analysis.block_figures import of_blocks
from d2o.analysis.blocks import blocks, findings
from d2o.analysis.frequency import Band
from d2o.analysis.network import places, replaced, sizes, taps
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM


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
    return list(sizes(model.backbone, lambda: model(torch.randn(2, 1, 8, 8), 1.0)))


class TestPlaces:
    def test_every_part_is_a_block(self):
        names = ["vectors", "head.0", "head.1", "stem", "blocks.0", "blocks.1", "unused"]
        assert places(Residual()) == dict.fromkeys(names, "network")

    def test_maps_are_seen_in_the_order_of_calls(self):
        model = denoiser(Residual())
        order = ["stem", "blocks.0", "blocks.1", "head.0", "head.1"]
        assert seen_in(model) == order
        study = blocks(model, seeds=range(4), steps=4)
        assert [block.name for block in study.before] == order
        assert [row[0] for row in findings(study).tables[0].rows] == order
        assert len(of_blocks(study)) == 3

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
        with taps(model.backbone) as seen, torch.no_grad():
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
        with taps(model.backbone) as seen, torch.no_grad():
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

        study = blocks(denoiser(Network()), seeds=range(4), steps=5, batch_size=2)
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

        spread, last = blocks(denoiser(Network()), seeds=range(4), steps=4).before
        assert spread.change_band is not None and spread.response_band is None
        assert last.response_band is not None


class Pair(NamedTuple):
    kept: Tensor
    rest: str


@dataclass(frozen=True)
class Record:
    sample: Tensor
    rest: str = "rest"


class Holder:
    def __init__(self, sample: Tensor) -> None:
        self.sample, self.rest = sample, "rest"


class Closed:
    def __init__(self, sample: Tensor) -> None:
        self.inside = sample

    @property
    def sample(self) -> Tensor:
        return self.inside


class Picky(tuple):
    def __new__(cls, first: Tensor, second: str) -> "Picky":
        return super().__new__(cls, (first, second))


Old = namedtuple("Old", ["kept", "rest"])
PACKS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "tuple": (lambda x: (x, "rest"), lambda made: made[0]),
    "list": (lambda x: [x, "rest"], lambda made: made[0]),
    "named tuple": (lambda x: Pair(x, "rest"), lambda made: made.kept),
    "old named tuple": (lambda x: Old(x, "rest"), lambda made: made.kept),
    "record": (Record, lambda made: made.sample),
    "object": (Holder, lambda made: made.sample),
}


class TestFilters:
    @pytest.mark.parametrize("kind", PACKS)
    def test_act_within_whatever_a_block_gives(self, kind):
        pack, take = PACKS[kind]
        model, plain = denoiser(Residual(pack, take)), denoiser(Residual())
        x, outputs = torch.randn(2, 1, 8, 8), []
        inner = model.backbone.get_submodule("blocks.0")
        with torch.no_grad():
            for keep in (True, False):
                with bands.filtering(model, "blocks.0", Band(1, 1), keep):
                    hook = inner.register_forward_hook(lambda _, __, made: outputs.append(made))
                    found = model(x, 1.0)
                    hook.remove()
                with bands.filtering(plain, "blocks.0", Band(1, 1), keep):
                    assert torch.equal(found, plain(x, 1.0))
                assert not torch.allclose(found, model(x, 1.0), atol=1e-4)
        for made in outputs:
            assert type(made) is type(pack(x)) and (made[1] if isinstance(made, tuple | list) else made.rest) == "rest"

    def test_leave_what_the_block_keeps_alone(self):
        kept = []

        def pack(x: Tensor) -> Holder:
            kept.append(Holder(x))
            return kept[-1]

        model = denoiser(Residual(pack, lambda made: made.sample))
        with replaced(model.backbone, "blocks.1", torch.zeros_like), torch.no_grad():
            model(torch.randn(2, 1, 8, 8), 1.0)
        assert kept[1].sample.any()

    @pytest.mark.parametrize(
        ("pack", "take", "kind"),
        [
            (Closed, lambda made: made.sample, "Closed"),
            (lambda x: Picky(x, "rest"), lambda made: made[0], "Picky"),
        ],
    )
    def test_say_which_block_they_cannot_change(self, pack, take, kind):
        model = denoiser(Residual(pack, take))
        with (
            bands.filtering(model, "blocks.1", Band(1, 1), keep=True),
            pytest.raises(ValueError, match=rf"The block blocks\.1 gives a {kind} in which nothing can be replaced"),
        ):
            model(torch.randn(2, 1, 8, 8), 1.0)

    def test_need_a_map(self):
        model = denoiser(Residual())
        with (
            bands.filtering(model, "vectors", Band(1, 1), keep=True),
            pytest.raises(ValueError, match="The block vectors gives no map"),
        ):
            model(torch.randn(2, 1, 8, 8), 1.0)
