"""What the gradient through Stable Diffusion's decoder saves in memory for one image; nothing is computed.

python benchmarks/decoder_memory.py
"""

from collections.abc import Callable

import torch
from diffusers.models.autoencoders.vae import Decoder
from torch import Tensor


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


def measure(side: int, dtype: torch.dtype) -> tuple[float, float, float]:
    """Return what is saved for all blocks, for their inputs alone, and for the block that saves most."""
    inputs: dict[torch.nn.Module, Tensor] = {}
    with torch.device("meta"):
        blocks = ("UpDecoderBlock2D",) * 4
        decoder = Decoder(4, 3, blocks, (128, 256, 512, 512), 2).to(dtype).eval().requires_grad_(False)
        latents = torch.zeros(1, 4, side // 8, side // 8, dtype=dtype, requires_grad=True)
    parts: list[torch.nn.Module] = [part for part in (decoder.mid_block, *decoder.up_blocks) if part is not None]
    for part in parts:
        part.register_forward_pre_hook(lambda part, given: inputs.update({part: given[0]}))
    everything = saved_gib(lambda: decoder(latents))
    each = [saved_gib(lambda part=part: part(inputs[part].detach().requires_grad_())) for part in parts]
    starts = sum(tensor.numel() * tensor.element_size() for tensor in inputs.values()) / 2**30
    return everything, everything - sum(each) + starts, max(each)


if __name__ == "__main__":
    print("pixels  type      plain  with checkpointing   (GiB an image)")
    for side in (256, 512):
        for dtype in (torch.float32, torch.bfloat16):
            plain, kept, block = measure(side, dtype)
            print(f"{side:>6}  {str(dtype)[6:]:<8}  {plain:>5.2f}  {kept:.2f} + {block:.2f} for one block at a time")
