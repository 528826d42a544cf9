"""Denoisers whose weights, gradients and moments are spread over the processes of a run, by torch's FSDP2.

Every process keeps a part of every tensor, and a block is whole only while it computes, so that all processes must call
a network together and equally often. Discriminators stay whole, as FSDP2 frees weights that the gradient of a gradient
(R1) asks for. So do single numbers, which it does not split.
"""

import sys
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from d2o.diffusion.denoiser import Denoiser
from d2o.kernels.checkpointing import find_blocks
from d2o.objectives.objective import Networks


def check_sharding(student: Denoiser, processes: int) -> None:
    """Raise a ValueError where a run cannot be sharded."""
    if processes == 1:
        raise ValueError(
            "--shard splits a run over several processes, but this is one: start it with torchrun --nproc_per_node 8 "
            "-m d2o, or leave --shard out."
        )
    if student.middle_sigmas:
        raise ValueError(
            "Each process calls a model of several steps a random number of times, but a sharded one "
            "by all alike: leave out --shard, or the recipe's middle_sigmas."
        )


def shard(networks: Networks, device: torch.device) -> None:
    """Put this process's part of every denoiser on its device, in place; parts of what denoisers share are shared."""
    from torch.distributed.device_mesh import init_device_mesh  # FSDP2 takes seconds to import

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    known: dict[nn.Parameter, nn.Parameter] = {}
    for name, network in networks.by_name().items():
        if isinstance(network, Denoiser):
            whole = dict(network.named_parameters())
            if name == "ema":  # never called, but copied whole
                parts = {key: known[p] if p in known else split(p, mesh) for key, p in whole.items()}
                network.load_state_dict(parts, strict=False, assign=True)
                network.to(device)
            else:
                shard_blocks(network.backbone, mesh)
                network.load_state_dict(
                    {key: known[p] for key, p in whole.items() if p in known}, strict=False, assign=True
                )
            known |= {whole[key]: part for key, part in network.named_parameters() if is_sharded(part)}


def shard_blocks(network: nn.Module, mesh: Any) -> None:
    """Apply FSDP2 to blocks, then to what is around them; the weights that were given stay where they are."""
    from torch.distributed.fsdp import fully_shard

    numbers = {parameter for parameter in network.parameters() if not parameter.dim()}
    for module in (*find_blocks(network), network):
        given = [(p, p.data) for p in module.parameters() if not is_sharded(p) and p.dim()]
        for parameter, data in given:
            parameter.data = data.contiguous()
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=numbers)
        for parameter, data in given:
            parameter.data = data
    for number in numbers:
        number.data = number.data.to(mesh.device_type)


def split(parameter: nn.Parameter, mesh: Any) -> nn.Parameter:
    """Return the part of a frozen parameter that fully_shard would leave to this process."""
    from torch.distributed.tensor import Shard, distribute_tensor

    if not parameter.dim():
        return parameter
    part = distribute_tensor(parameter.data, mesh, [Shard(0)], src_data_rank=None)
    return nn.Parameter(part, requires_grad=False)


def is_sharded(tensor: Tensor) -> bool:
    tensors = sys.modules.get("torch.distributed.tensor")  # where it was not imported, none is
    return tensors is not None and isinstance(tensor, tensors.DTensor)


def gather(tensors: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Return whole tensors, in the processor's memory of the first process alone; nothing is done if none is sharded.

    All processes must call this together.
    """
    if not any(map(is_sharded, tensors.values())):
        return tensors
    found = {}
    for name, tensor in tensors.items():
        whole = tensor.detach().full_tensor() if is_sharded(tensor) else tensor
        if dist.get_rank() == 0:
            found[name] = whole.cpu()
    return found


def unshard(average: Denoiser) -> Denoiser:
    """Return a whole copy of a sharded average, which the first process may call alone; another one as it is.

    All processes must call this together.
    """
    backbone: Any = average.backbone
    sharded = {name: p for name, p in backbone.named_parameters() if is_sharded(p)}
    whole = gather(sharded)
    if not whole:
        return average
    memo = {id(sharded[name]): nn.Parameter(tensor, False) for name, tensor in whole.items()}
    copy = average.replace(backbone=deepcopy(backbone, memo)).to(average.device)
    return copy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def lay_out(value: Tensor, like: Any) -> Tensor:
    """Return a whole tensor split as another one is."""
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
