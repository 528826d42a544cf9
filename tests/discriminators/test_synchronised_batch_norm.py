"""Batch normalisation over two processes is that of their batches put together."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from d2o.discriminators.batch_norm import SynchronisedBatchNorm

CHANNELS = 3
SPLIT = 2  # images of the first process, of five


def prepared(kind: type[nn.BatchNorm2d]) -> nn.BatchNorm2d:
    layer = kind(CHANNELS)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        layer.bias.copy_(torch.tensor([-1.0, 0.0, 3.0]))
    return layer


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images, weights = torch.randn(2, 5, CHANNELS, 4, 4, generator=generator)
    return images * 3 + 100, weights  # a mean far from zero shows lost digits


def results(layer: nn.BatchNorm2d, images: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Output, gradient, and the gradient of a gradient penalty, for one part of the batch."""
    images = images.clone().requires_grad_()
    output = layer(images)
    (gradient,) = torch.autograd.grad((output.tanh() * weights).sum(), images, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), images, retain_graph=True)
    (output.tanh() * weights).sum().backward()
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return {
        "output": output.detach(),
        "gradient": gradient.detach(),
        "second": second,
        "weight": layer.weight.grad,
        "bias": layer.bias.grad,
        "running_mean": layer.running_mean,
        "running_var": layer.running_var,
    }


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    part = slice(0, SPLIT) if rank == 0 else slice(SPLIT, None)
    images, weights = batch()
    torch.save(results(prepared(SynchronisedBatchNorm), images[part], weights[part]), f"{folder}/{rank}.pt")
    dist.barrier()  # a process that goes while the other still talks to it takes gloo's threads down with it
    dist.destroy_process_group()


def test_two_processes_equal_one_batch(tmp_path: Path) -> None:
    spawn(process, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    expected = results(prepared(nn.BatchNorm2d), *batch())
    for name in ("output", "gradient", "second"):
        torch.testing.assert_close(torch.cat([first[name], second[name]]), expected[name], rtol=1e-3, atol=1e-5)
    for name in ("weight", "bias"):
        torch.testing.assert_close(first[name] + second[name], expected[name], rtol=1e-3, atol=1e-4)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(first[name], expected[name])
        torch.testing.assert_close(second[name], expected[name])


def test_one_process_is_plain_batch_norm() -> None:
    mine, plain = (results(prepared(kind), *batch()) for kind in (SynchronisedBatchNorm, nn.BatchNorm2d))
    assert all(torch.equal(mine[name], plain[name]) for name in plain)


def test_evaluation_uses_running_statistics() -> None:
    layer, plain = (prepared(kind).eval() for kind in (SynchronisedBatchNorm, nn.BatchNorm2d))
    images, _ = batch()
    assert torch.equal(layer(images), plain(images))
