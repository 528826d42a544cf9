"""OpenAI's U-Net of consistency_models and guided-diffusion, written from its equations, for comparison."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Kind:
    """A network: the defaults are those of the consistency model for images of 64 pixels, narrower.

    `attends` is the first level with attention, `scales` whether blocks are told a scale beside a shift.
    """

    multipliers: tuple[float, ...] = (1, 2, 3, 4)
    attends: int = 1
    scales: bool = True
    classes: int = 3
    width: int = 128
    count: int = 1
    outputs: int = 3
    head_channels: int = 64
    heads: int = 0
    new_order: bool = True
    by_convolution: bool = False
    attention_dims: int = 2
    groups: int = 32


class Reference:
    """Make the weights, and compute with them, both in one walk through OpenAI's network.

    Without weights, `get` draws them; so the walk itself says which there are.
    """

    def __init__(self, kind: Kind, state: State | None = None) -> None:
        self.kind, self.state, self.made = kind, state, dict[str, Tensor]()
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

    def conv(self, name: str, x: Tensor, out: int, kernel: int = 3, stride: int = 1) -> Tensor:
        weight = self.get(f"{name}.weight", out, x.shape[1], kernel, kernel)
        return F.conv2d(x, weight, self.get(f"{name}.bias", out), stride=stride, padding=kernel // 2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = (self.get(f"{name}.{part}", x.shape[1]) for part in ("weight", "bias"))
        return F.group_norm(x, self.kind.groups, weight, bias)

    def residual(self, name: str, x: Tensor, embedding: Tensor, out: int, resample: str = "") -> Tensor:
        resize = {
            "": lambda t: t,
            "down": lambda t: F.avg_pool2d(t, 2),
            "up": lambda t: F.interpolate(t, scale_factor=2),
        }
        hidden = self.conv(f"{name}.in_layers.2", resize[resample](F.silu(self.norm(f"{name}.in_layers.0", x))), out)
        told = self.linear(f"{name}.emb_layers.1", F.silu(embedding), (1 + self.kind.scales) * out)[:, :, None, None]
        if self.kind.scales:
            scale, shift = told.chunk(2, 1)
            hidden = self.norm(f"{name}.out_layers.0", hidden) * (1 + scale) + shift
        else:
            hidden = self.norm(f"{name}.out_layers.0", hidden + told)
        hidden = self.conv(f"{name}.out_layers.3", F.silu(hidden), out)
        x = resize[resample](x)
        return hidden + (x if x.shape[1] == out else self.conv(f"{name}.skip_connection", x, out, 1))

    def resample(self, name: str, x: Tensor, embedding: Tensor, direction: str) -> Tensor:
        if not self.kind.by_convolution:
            return self.residual(name, x, embedding, x.shape[1], direction)
        if direction == "up":
            return self.conv(f"{name}.conv", F.interpolate(x, scale_factor=2), x.shape[1])
        return self.conv(f"{name}.op", x, x.shape[1], stride=2)

    def attention(self, name: str, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        heads = self.kind.heads or channels // self.kind.head_channels
        ones = (1,) * self.kind.attention_dims
        weight = self.get(f"{name}.qkv.weight", 3 * channels, channels, *ones).reshape(3 * channels, channels)
        normal = self.norm(f"{name}.norm", x).flatten(2)
        qkv = weight @ normal + self.get(f"{name}.qkv.bias", 3 * channels)[:, None]
        if self.kind.new_order:
            q, k, v = qkv.reshape(count, 3, heads, -1, height * width).unbind(1)
        else:
            q, k, v = qkv.reshape(count, heads, 3, -1, height * width).unbind(2)
        weight = torch.einsum("nhct,nhcs->nhts", q, k).div(q.shape[2] ** 0.5).softmax(-1)
        seen = torch.einsum("nhts,nhcs->nhct", weight, v).reshape(count, channels, height * width)
        weight = self.get(f"{name}.proj_out.weight", channels, channels, *ones).reshape(channels, channels)
        return x + (weight @ seen + self.get(f"{name}.proj_out.bias", channels)[:, None]).reshape(x.shape)

    def __call__(self, x: Tensor, time: Tensor, label: Tensor | None) -> Tensor:
        kind, width = self.kind, self.kind.width
        frequencies = torch.exp(-math.log(10000) * torch.arange(width // 2) / (width // 2))
        angles = time[:, None] * frequencies
        embedding = self.linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], 1), 4 * width)
        embedding = self.linear("time_embed.2", F.silu(embedding), 4 * width)
        if kind.classes:
            embedding = embedding + self.get("label_emb.weight", kind.classes, 4 * width)[label]
        x = self.conv("input_blocks.0.0", x, int(width * kind.multipliers[0]))
        skips, place = [x], 1
        for level, times in enumerate(kind.multipliers):
            for _ in range(kind.count):
                x = self.residual(f"input_blocks.{place}.0", x, embedding, int(width * times))
                x = self.attention(f"input_blocks.{place}.1", x) if level >= kind.attends else x
                skips.append(x)
                place += 1
            if level < len(kind.multipliers) - 1:
                x = self.resample(f"input_blocks.{place}.0", x, embedding, "down")
                skips.append(x)
                place += 1
        x = self.residual("middle_block.0", x, embedding, x.shape[1])
        x = self.attention("middle_block.1", x)
        x = self.residual("middle_block.2", x, embedding, x.shape[1])
        place = 0
        for level, times in reversed(list(enumerate(kind.multipliers))):
            for index in range(kind.count + 1):
                x = torch.cat([x, skips.pop()], 1)
                x = self.residual(f"output_blocks.{place}.0", x, embedding, int(width * times))
                x = self.attention(f"output_blocks.{place}.1", x) if level >= kind.attends else x
                if level and index == kind.count:
                    x = self.resample(f"output_blocks.{place}.{1 + (level >= kind.attends)}", x, embedding, "up")
                place += 1
        return self.conv("out.2", F.silu(self.norm("out.0", x)), kind.outputs)


def make_weights(kind: Kind) -> State:
    """Return random weights of a network."""
    reference = Reference(kind)
    with torch.no_grad():
        reference(torch.zeros(1, 3, 64, 64), torch.zeros(1), torch.tensor([0]) if kind.classes else None)
    return reference.made
