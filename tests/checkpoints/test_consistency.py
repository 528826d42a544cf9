"""consistency_models: another layout of the same network, compared with that network written from its equations."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import d2o
from d2o.checkpoints.readers import consistency
from d2o.diffusion.families import Boundary
from d2o.errors import MismatchError, UnsupportedCheckpointError

WIDTH, COUNT, CLASSES = 128, 1, 3
State = dict[str, Tensor]
# Pixels -> the widths of the levels, the first level with attention, whether blocks are told a scale, and classes.
RELEASED = {64: ((1, 2, 3, 4), 1, True, CLASSES), 256: ((1, 1, 2, 2, 4, 4), 3, False, 0)}


class Reference:
    """Make the weights, and compute with them, both in one walk through OpenAI's network.

    Without weights, `get` draws them; so the walk itself says which there are.
    """

    def __init__(self, pixels: int, state: State | None = None) -> None:
        self.multipliers, self.attends, self.scales, self.classes = RELEASED[pixels]
        self.state, self.made = state, {}
        self.generator = torch.Generator().manual_seed(5)

    def get(self, name: str, *shape: int) -> Tensor:
        if self.state is not None:
            return self.state[name]
        fan = math.prod(shape[1:])
        draw = torch.randn(shape, generator=self.generator)
        self.made[name] = draw / fan**0.5 if len(shape) > 1 else 0.1 * draw + name.endswith("weight")
        return self.made[name]

    def linear(self, name: str, x: Tensor, out: int) -> Tensor:
        return F.linear(x, self.get(f"{name}.weight", out, x.shape[1]), self.get(f"{name}.bias", out))

    def conv(self, name: str, x: Tensor, out: int, kernel: int = 3) -> Tensor:
        weight = self.get(f"{name}.weight", out, x.shape[1], kernel, kernel)
        return F.conv2d(x, weight, self.get(f"{name}.bias", out), padding=kernel // 2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        channels = x.shape[1]
        return F.group_norm(x, 32, self.get(f"{name}.weight", channels), self.get(f"{name}.bias", channels))

    def residual(self, name: str, x: Tensor, embedding: Tensor, out: int, resample: str = "") -> Tensor:
        resize = {
            "": lambda t: t,
            "down": lambda t: F.avg_pool2d(t, 2),
            "up": lambda t: F.interpolate(t, scale_factor=2),
        }
        hidden = self.conv(f"{name}.in_layers.2", resize[resample](F.silu(self.norm(f"{name}.in_layers.0", x))), out)
        told = self.linear(f"{name}.emb_layers.1", F.silu(embedding), (1 + self.scales) * out)[:, :, None, None]
        if self.scales:
            scale, shift = told.chunk(2, 1)
            hidden = self.norm(f"{name}.out_layers.0", hidden) * (1 + scale) + shift
        else:
            hidden = self.norm(f"{name}.out_layers.0", hidden + told)
        hidden = self.conv(f"{name}.out_layers.3", F.silu(hidden), out)
        x = resize[resample](x)
        return hidden + (x if x.shape[1] == out else self.conv(f"{name}.skip_connection", x, out, 1))

    def attention(self, name: str, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        qkv = self.conv(f"{name}.qkv", self.norm(f"{name}.norm", x), 3 * channels, 1)
        q, k, v = qkv.reshape(count, 3, channels // 64, 64, height * width).unbind(1)
        weight = torch.einsum("nhct,nhcs->nhts", q, k).div(8).softmax(-1)
        seen = torch.einsum("nhts,nhcs->nhct", weight, v).reshape(count, channels, height, width)
        return x + self.conv(f"{name}.proj_out", seen, channels, 1)

    def __call__(self, x: Tensor, time: Tensor, label: Tensor | None) -> Tensor:
        frequencies = torch.exp(-math.log(10000) * torch.arange(WIDTH // 2) / (WIDTH // 2))
        angles = time[:, None] * frequencies
        embedding = self.linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], 1), 4 * WIDTH)
        embedding = self.linear("time_embed.2", F.silu(embedding), 4 * WIDTH)
        if self.classes:
            embedding = embedding + self.get("label_emb.weight", self.classes, 4 * WIDTH)[label]
        x = self.conv("input_blocks.0.0", x, WIDTH)
        skips, place = [x], 1
        for level, times in enumerate(self.multipliers):
            for _ in range(COUNT):
                x = self.residual(f"input_blocks.{place}.0", x, embedding, WIDTH * times)
                x = self.attention(f"input_blocks.{place}.1", x) if level >= self.attends else x
                skips.append(x)
                place += 1
            if level < len(self.multipliers) - 1:
                x = self.residual(f"input_blocks.{place}.0", x, embedding, x.shape[1], "down")
                skips.append(x)
                place += 1
        x = self.residual("middle_block.0", x, embedding, x.shape[1])
        x = self.attention("middle_block.1", x)
        x = self.residual("middle_block.2", x, embedding, x.shape[1])
        place = 0
        for level, times in reversed(list(enumerate(self.multipliers))):
            for index in range(COUNT + 1):
                x = torch.cat([x, skips.pop()], 1)
                x = self.residual(f"output_blocks.{place}.0", x, embedding, WIDTH * times)
                x = self.attention(f"output_blocks.{place}.1", x) if level >= self.attends else x
                if level and index == COUNT:
                    part = 1 + (level >= self.attends)
                    x = self.residual(f"output_blocks.{place}.{part}", x, embedding, x.shape[1], "up")
                place += 1
        return self.conv("out.2", F.silu(self.norm("out.0", x)), 3)


def released(pixels: int) -> State:
    """Return weights of the network for images of so many pixels."""
    reference = Reference(pixels)
    label = torch.tensor([0]) if reference.classes else None
    with torch.no_grad():
        reference(torch.zeros(1, 3, 64, 64), torch.zeros(1), label)
    return reference.made


@pytest.fixture(scope="module")
def state() -> State:
    return released(64)


@pytest.mark.parametrize("pixels", RELEASED)
def test_it_computes_what_openai_s_network_does(tmp_path, pixels):
    state = released(pixels)
    torch.save(state, tmp_path / "cd.pt")
    denoiser = d2o.load(tmp_path / "cd.pt")
    classes = RELEASED[pixels][-1]
    assert denoiser.preconditioning == Boundary(time_scale=250.0) and denoiser.num_classes == classes
    assert denoiser.image_shape == (3, pixels, pixels)
    # The network has no fixed size, so that small images prove the large one too.
    x, sigma = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)), 5.0
    label = torch.tensor([1]) if classes else None
    with torch.no_grad():
        time = torch.tensor([250 * math.log(sigma)])
        inner = Reference(pixels, state)(sigma * x / (sigma**2 + 0.25) ** 0.5, time, label)
        above = sigma - 0.002
        wanted = 0.25 / (above**2 + 0.25) * sigma * x + above * 0.5 / (sigma**2 + 0.25) ** 0.5 * inner
        torch.testing.assert_close(denoiser(sigma * x, sigma, label), wanted, rtol=1e-4, atol=2e-5)


def test_what_is_not_theirs_is_named(tmp_path, state):
    path = tmp_path / "model.pt"
    for change, error, sentence in (
        ({"lora.weight": torch.zeros(1)}, MismatchError, r"lora\.weight is not part of the network"),
        ({"input_blocks.1.0.emb_layers.1.weight": torch.zeros(128, 512)}, MismatchError, r"affine\.weight has shape"),
        ({"input_blocks.0.0.weight": torch.zeros(32, 3, 3, 3)}, UnsupportedCheckpointError, "other groups"),
        ({"input_blocks.9.0.x": torch.zeros(1)}, UnsupportedCheckpointError, "its levels"),
    ):
        torch.save(state | change, path)
        with pytest.raises(error, match=sentence):
            d2o.load(path)


def test_the_released_models_are_recognised_by_their_shapes():
    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta")

    places = [1 + 4 * level for level in range(4)]
    names = {
        f"input_blocks.{place}.0.out_layers.3.weight": empty(192 * t, 1)
        for place, t in zip(places, (1, 2, 3, 4), strict=True)
    }
    names |= {"input_blocks.0.0.weight": empty(192, 3, 3, 3), "input_blocks.1.0.emb_layers.1.weight": empty(384, 768)}
    names |= {
        "input_blocks.15.0.x": empty(1),
        "out.2.weight": empty(3, 192, 3, 3),
        "label_emb.weight": empty(1000, 768),
    }
    names |= {f"input_blocks.{place}.1.qkv.weight": empty(1) for place in places[1:]}
    spec = consistency.describe(names)
    assert spec["backbone"]["num_blocks"] == 3 and spec["backbone"]["attention_resolutions"] == [32, 16, 8]
    assert spec["image_shape"] == [3, 64, 64] and spec["num_classes"] == 1000
