"""What a run of two processes that hold parts should do as one process does that holds all."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor

from d2o.backbones import build
from d2o.data.datasets import Images, open_images
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM
from d2o.diffusion.noise import noise_for
from d2o.discriminators import StyleGAN2
from d2o.objectives import Consistency, DistributionMatching
from d2o.training import loop, sharding
from d2o.training.networks import networks
from d2o.training.recipe import Recipe
from d2o.training.run import Habits, run

from .tiny import BATCH, RECIPES, stream

COMMON: dict[str, Any] = {"duration": 3 * BATCH, "pretrained": True, "micro_batch_size": 1}
COMMON |= {"learning_rate": 0.01, "discriminator_learning_rate": 0.01, "discriminator": StyleGAN2(width=8, group=1)}
CASES: dict[str, Recipe] = {
    "adversarial": replace(RECIPES["d2o-f"], **COMMON),
    "distribution matching": replace(RECIPES["d2o-f"], **COMMON, objectives=(DistributionMatching(fake_steps=2),)),
    "consistency": replace(RECIPES["d2o-f"], **COMMON, objectives=(Consistency(steps=4),)),
    "edm2_unet": replace(RECIPES["pretrain"], **COMMON),
}
"""With accumulation; R1 and frozen weights; networks that share what is frozen; weights that are single numbers."""
RUN = replace(CASES["adversarial"], duration=4 * BATCH)
HABITS = Habits(save_every=2 * BATCH, sample_every=2 * BATCH, evaluate_every=2 * BATCH, sample_seeds=range(2))


def damped_adam(parameters: Any, **options: Any) -> torch.optim.Optimizer:
    """Return an Adam that does not blow up rounding errors of gradients that are zero."""
    return torch.optim.Adam(parameters, **{**options, "eps": 0.01})


def start_of(name: str, teacher: Denoiser) -> Denoiser:
    if name != "edm2_unet":
        return teacher
    torch.manual_seed(0)
    sizes = {"resolution": 8, "in_channels": 1, "out_channels": 1, "num_classes": 2, "dropout": 0.0}
    backbone = build({"kind": name, "channels": 8, "channel_multipliers": [1], "num_blocks": 1, **sizes})
    torch.nn.init.ones_(backbone.get_parameter("out_gain"))
    return Denoiser(backbone, EDM(), (1, 8, 8), 2).eval()


def train_cases(folder: Path, teacher: Denoiser, accelerator: Accelerator) -> None:
    """Train every case, and leave its state, losses, images of its average, and the bytes that this process holds."""
    rank, world = accelerator.process_index, accelerator.num_processes
    for name, recipe in CASES.items():
        made, losses = networks(recipe, start_of(name, teacher)), {}
        options: dict[str, Any] = {"accelerator": accelerator, "sharded": world > 1}
        progress: Any = None
        for progress in loop.train(recipe, made, stream(rank=rank, world=world), **options):
            losses |= {f"loss.{progress.iteration}.{key}": torch.tensor(x) for key, x in progress.losses.items()}
        tensors, held = progress.state()[0], {"bytes": torch.tensor(count_bytes(made.by_name().values()))}
        average = sharding.unshard(progress.ema)
        if rank == 0:  # alone
            images = average(noise_for([0, 1], (1, 8, 8)), 1.0, torch.tensor([0, 1])).detach()
            tensors = {key: tensor.detach().contiguous().clone() for key, tensor in tensors.items()}
            save_file({**tensors, **losses, **held, "images": images}, folder / f"{name}-of-{world}.safetensors")


def count_bytes(modules: Any) -> int:
    """Return the bytes of the denoisers' weights in this process; what they share is held once."""
    weights: list[Any] = [p for module in modules if isinstance(module, Denoiser) for p in module.parameters()]
    parts = [p.to_local() if sharding.is_sharded(p) else p for p in weights]
    return sum({part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}.values())


def go_on(folder: Path, data: Path, teacher: Denoiser, accelerator: Accelerator, shard: bool, until: int = 99) -> None:
    """Begin or continue a run in a directory, and leave it a while after the checkpoint at 8 images, or at its end."""

    def judge(average: Denoiser) -> dict[str, float]:  # by the first process alone
        return {"kid": float(average(noise_for([0, 1], (1, 8, 8)), 1.0, torch.tensor([0, 1])).mean())}

    images: Images = open_images(data, channels=1).for_model(2, ())
    evaluate = judge if accelerator.is_main_process else None
    options: Any = {"habits": replace(HABITS, shard=shard), "evaluate": evaluate, "accelerator": accelerator}
    moments: Iterator = run(folder, RUN, networks(RUN, teacher), images, **options)
    for moment in moments:
        if moment.progress.images >= until:
            moments.close()  # type: ignore[attr-defined]
    accelerator.wait_for_everyone()


def weights_of(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    files = ("student", "ema", "checkpoint")
    return {f"{file}: {key}": t for file in files for key, t in load_file(folder / f"{file}.safetensors").items()}
