"""Where weights lie in memory, and weights that are kept in bfloat16 and compute in float32, widened layer by layer."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

Network = TypeVar("Network", bound=nn.Module)
NARROW = torch.bfloat16
CASTING = (nn.Linear, nn.Conv2d)
"""Layers whose products autocast computes in bfloat16, from whatever type their weights are."""


def settle(network: Network) -> Network:
    """Lay a network out as training wants it, in place and in memory of its own: its file is no longer held there."""
    before = {tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.data_ptr() in before:
            tensor.data = tensor.data.clone()
    return network


def narrow_frozen(network: nn.Module) -> None:
    """Keep the frozen matrices and convolutions of a network in bfloat16, in place: half the memory.

    Its layers compute with float32 copies, which live as long as the layer runs, and again for its gradient.
    """
    for parameter in network.parameters():
        if parameter.dim() > 1 and parameter.dtype == torch.float32 and not parameter.requires_grad:
            parameter.data = parameter.data.to(NARROW)
    widen_layers(network)


def widen_layers(network: nn.Module) -> None:
    """Let the layers of a network that have frozen weights in bfloat16 compute in float32."""
    for layer in network.modules():
        if list_narrow(layer) and widen not in layer._forward_pre_hooks.values():
            layer.register_forward_pre_hook(widen)
            layer.register_forward_hook(restore, always_call=True)


def list_narrow(layer: nn.Module) -> dict[str, Any]:
    own = layer._parameters.items()
    return {name: p for name, p in own if p is not None and p.dtype == NARROW and not p.requires_grad}


def widen(layer: nn.Module, _: Any) -> None:
    """Put float32 copies in the place of narrow weights; what the gradient needs of them is kept in bfloat16."""
    narrow = list_narrow(layer)
    kind = next((p.device.type for p in narrow.values()), "meta")
    if kind == "meta" or (isinstance(layer, CASTING) and torch.is_autocast_enabled(kind)):
        return
    wide: dict[str, Any] = {name: p.float() for name, p in narrow.items()}
    sources = {copy.untyped_storage(): narrow[name] for name, copy in wide.items()}

    def pack(tensor: Tensor) -> Any:
        source = sources.get(tensor.untyped_storage())
        return tensor if source is None else (source, tensor.shape, tensor.stride(), tensor.storage_offset())

    hooks = saved_tensors_hooks(pack, unpack)
    hooks.__enter__()
    layer._parameters.update(wide)
    layer.__dict__["widened"] = narrow, hooks


def unpack(packed: Any) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    source, *layout = packed
    return source.float().as_strided(*layout)


def restore(layer: nn.Module, *_: Any) -> None:
    if kept := layer.__dict__.pop("widened", None):
        narrow, hooks = kept
        layer._parameters.update(narrow)
        hooks.__exit__()
