"""One of several processes that train together: FOLDER and DATA as arguments; RANK and its like in the environment."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from d2o.diffusion.denoiser import Denoiser
from d2o.training import loop, optimizers
from d2o.training.networks import networks

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from training.sharded import damped_adam, go_on, train_cases
from training.tiny import BATCH, FRECHET, RECIPES, plain_steps, stream


def two_iterations(folder: Path, teacher: Denoiser, accelerator: Accelerator) -> None:
    """Train two iterations of three recipes, and leave the states and the places of the images that were seen."""
    rank, world = accelerator.process_index, accelerator.num_processes
    for name in ("pretrain", "d2o-f", "frechet"):
        recipe = replace({**RECIPES, "frechet": FRECHET}[name], duration=2 * BATCH, pretrained=True)
        recipe = replace(recipe, learning_rate=0.01, discriminator_learning_rate=0.01)
        batches = [batch for batch, _ in zip(stream(rank=rank, world=world), range(2), strict=False)]
        made = networks(recipe, teacher)
        loop.begin(recipe, made, lambda: stream(rank=rank, world=world), 5 * BATCH, accelerator=accelerator)
        *_, progress = loop.train(recipe, made, iter(batches), accelerator=accelerator)
        tensors = {key: tensor.detach().contiguous().clone() for key, tensor in progress.state()[0].items()}
        losses = {f"loss.{key}": torch.tensor(value) for key, value in progress.losses.items()}
        seen = torch.cat([index for _, _, index in batches])
        save_file(
            {name: tensor.clone() for name, tensor in {**tensors, **losses, "seen": seen}.items()},
            folder / f"{name}-{rank}-of-{world}.safetensors",
        )


if __name__ == "__main__":
    from conftest import make_denoiser  # pyright: ignore[reportAttributeAccessIssue]  (not the one beside this file)

    optimizers.Adam = plain_steps  # pyright: ignore[reportAttributeAccessIssue]
    accelerator = Accelerator(cpu=True)
    folder, data = map(Path, sys.argv[1:])
    two_iterations(folder, make_denoiser(classes=2), accelerator)
    optimizers.Adam = damped_adam  # pyright: ignore[reportAttributeAccessIssue]
    train_cases(folder, make_denoiser(classes=2), accelerator)
    for name, shard, until in (
        ("whole, then sharded", True, 99),
        ("sharded, then whole", True, 3 * BATCH),
        ("sharded", True, 99),
        ("stopped", True, 3 * BATCH),
        ("stopped", True, 99),
    ):
        go_on(folder / name, data, make_denoiser(classes=2), accelerator, shard, until)
    accelerator.wait_for_everyone()
    accelerator.end_training()
