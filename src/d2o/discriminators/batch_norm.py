"""Batch normalisation whose statistics are those of the whole batch, spread over processes."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the images of all processes together; torch's own version needs GPUs, this one does not.

    Every process must call it equally often; their batches may differ in size.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        from torch.distributed.nn.functional import all_reduce

        # Mean first, then the squares around it: E[x^2] - E[x]^2 would lose digits.
        values = input.float()
        number = values.new_tensor([values.numel() / values.shape[1]])
        total = all_reduce(torch.cat([values.sum((0, 2, 3)), number]))  # its gradient is summed likewise
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = values - mean[:, None, None]
        variance = all_reduce(centred.square().sum((0, 2, 3))) / count
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        self.running_mean.lerp_(mean.detach(), self.momentum)
        self.running_var.lerp_(variance.detach() * count / (count - 1), self.momentum)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)
