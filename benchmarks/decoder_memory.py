"""What the gradient through a decoder of latents saves in memory for one image; nothing is computed.

python benchmarks/decoder_memory.py

The decoders are Stable Diffusion's, of whole images and of crops half as high and wide, and its tiny one (taesd).
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.autoencoders.vae import Decoder, DecoderTiny
from torch import Tensor, nn

from d2o.kernels.checkpointing import find_blocks

SIDES = (256, 512, 1024)


def saved_gib(run: Callable[[], Tensor]) -> float:
    """Return the GiB of activations that autograd saves after a forward pass."""
    saved: dict[int, Tensor] = {}

    def save(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        run()
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values()) / 2**30


def prepare(make: Callable[[], nn.Module], side: int, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """Return a frozen decoder and the latents of an image of `side` pixels, on the meta device."""
    with torch.device("meta"):
        latents = torch.zeros(1, 4, side // 8, side // 8, dtype=dtype, requires_grad=True)
        return make().to(dtype).eval().requires_grad_(False), latents


def large() -> Decoder:
    return Decoder(4, 3, ("UpDecoderBlock2D",) * 4, (128, 256, 512, 512), 2)


def tiny() -> DecoderTiny:
    return DecoderTiny(4, 3, (3, 3, 3, 1), (64,) * 4, 2, "relu", "nearest")


def call(part: nn.Module, given: tuple[Tensor, ...], options: dict[str, Any]) -> Tensor:
    return part(given[0].detach().requires_grad_(), *given[1:], **options)


def measure(make: Callable[[], nn.Module], side: int, dtype: torch.dtype) -> tuple[float, float, float]:
    """Return what a decoder saves for all blocks, for their inputs alone, and for the block that saves most."""
    inputs: dict[nn.Module, tuple[Any, ...]] = {}
    decoder, latents = prepare(make, side, dtype)
    parts = list(find_blocks(decoder))
    for part in parts:
        part.register_forward_pre_hook(lambda *call: inputs.update({call[0]: call[1:]}), with_kwargs=True)
    everything = saved_gib(lambda: decoder(latents))
    each = [saved_gib(lambda part=part: call(part, *inputs[part])) for part in parts]
    starts = sum(given[0].nbytes for given, _ in inputs.values()) / 2**30
    return everything, everything - sum(each) + starts, max(each)


def main() -> None:
    print("GiB an image; with checkpointing, what is kept + one block at a time")
    print("pixels  type      plain  checkpointing  crops of half, checkpointing   tiny  tiny, checkpointing")
    for side in SIDES:
        for dtype in (torch.float32, torch.bfloat16):
            (plain, kept, block), (_, *crop) = (measure(large, pixels, dtype) for pixels in (side, side // 2))
            small, *rest = measure(tiny, side, dtype)
            row = f"{side:>6}  {str(dtype)[6:]:<8}  {plain:>5.2f}    {kept:.2f} + {block:.2f}"
            less = f"{rest[0]:.2f} + {rest[1]:.2f}"
            print(f"{row}                   {crop[0]:.2f} + {crop[1]:.2f}  {small:>5.2f}          {less}")


if __name__ == "__main__":
    main()
