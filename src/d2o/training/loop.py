"""The training loop: a generator that takes turns. It opens no file and prints nothing; that belongs to the caller."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple
from zlib import crc32

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from d2o.diffusion.denoiser import Denoiser
from d2o.objectives.adversarial import Adversarial
from d2o.objectives.objective import Batch, Networks

from .ema import follow
from .recipe import Recipe

PATIENCE = 5
"""Steps in a row that may be left out because their gradients are not finite."""


class Diverged(ValueError):
    """The gradients are no longer finite."""


class Turn(NamedTuple):
    """One optimiser step of an iteration: what is minimised, what moves, and every how many iterations."""

    name: str
    loss: Callable[[Networks, Batch], Tensor]
    parameters: list[nn.Parameter]
    optimizer: Optimizer
    learning_rate: float
    every: int = 1


@dataclass
class Progress:
    """Where a run stands after an iteration. `losses` are the means of this iteration's turns, by name.

    `skipped` counts the steps left out because their gradients were not finite; `failing` says that the last one was.
    """

    images: int
    iteration: int
    losses: dict[str, float]
    learning_rate: float
    skipped: int
    failing: bool
    networks: Networks
    optimizers: dict[str, Optimizer]

    @property
    def ema(self) -> Denoiser:
        """The averaged student: what the run delivers."""
        return self.networks.ema

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all that continues this run bit for bit: named tensors and numbers (for random numbers see Batch)."""
        parts: dict[str, dict[str, Tensor]] = {
            "student": self.networks.student.state_dict(),
            "ema": self.networks.ema.state_dict(),
        }
        if self.networks.discriminator is not None:
            critic = self.networks.discriminator
            parts["discriminator"] = getattr(critic, "run_state", critic.state_dict)()
        parts |= {name: getattr(self.networks, name).state_dict() for name in self.networks.kept}
        for name, optimizer in self.optimizers.items():
            state = optimizer.state_dict()["state"]
            parts[f"optimizer.{name}"] = {f"{i}.{key}": value for i, row in state.items() for key, value in row.items()}
        tensors = {f"{part}.{name}": tensor for part, rows in parts.items() for name, tensor in rows.items()}
        return tensors, {"images": self.images, "iteration": self.iteration, "skipped": self.skipped}


def group() -> Accelerator:
    """Return this process's place among those that `torchrun` started (alone without it), and its device."""
    return Accelerator(cpu=not torch.accelerator.is_available())


def turns(recipe: Recipe, networks: Networks) -> list[Turn]:
    """Return the rows of one iteration: the student; then, with a GAN, its discriminator and now and then R1."""

    def student_loss(networks: Networks, batch: Batch) -> Tensor:
        losses = [objective.weight * objective(networks, batch) for objective in recipe.objectives]
        return torch.stack(losses).sum(0)

    moving = [p for p in networks.student.parameters() if p.requires_grad]
    adam = partial(Adam, eps=1e-8, fused=True)
    rows = [Turn("student", student_loss, moving, adam(moving, betas=recipe.betas), recipe.learning_rate)]
    for objective in recipe.objectives:
        if isinstance(objective, Adversarial):
            assert networks.discriminator is not None
            heads = [p for p in networks.discriminator.parameters() if p.requires_grad]
            # One optimiser takes both steps; its memory is shortened as if R1 came in every iteration (StyleGAN2, B).
            lazy = objective.r1_every / (objective.r1_every + 1) if objective.r1 else 1.0
            optimizer = adam(heads, betas=(recipe.betas[0] ** lazy, recipe.betas[1] ** lazy))
            rate = recipe.discriminator_learning_rate * lazy
            rows.append(Turn("discriminator", objective.discriminator_loss, heads, optimizer, rate))
            if objective.r1:
                rows.append(Turn("r1", objective.penalty, heads, optimizer, rate, objective.r1_every))
    return rows


def train(
    recipe: Recipe,
    networks: Networks,
    batches: Iterator[tuple[Tensor, Tensor | None, Tensor]],
    *,
    resume: tuple[dict[str, Tensor], dict[str, Any]] | None = None,
    accelerator: Accelerator | None = None,
) -> Iterator[Progress]:
    """Train the networks in place and yield after every iteration; the networks are consistent at that moment.

    `batches` yields this process's part of each global batch: x0 [n,C,H,W] in [-1, 1], label [n] or None, and the
    place [n] of every image in the endless stream; where the batch has an attribute `number` [n], images of the same
    number are the same, and their features are remembered. `resume` is a `Progress.state()`; the batches must then
    start at its `images`. Raises Diverged after PATIENCE unusable steps in a row.
    """
    for objective in recipe.objectives:
        for need in objective.needs:
            if getattr(networks, need) is None:
                raise ValueError(
                    f"The objective {objective.kind} needs a network that is not there, the {need}: make the networks "
                    f"with d2o.networks(recipe, teacher)."
                )
    accelerator = accelerator or group()
    device = accelerator.device
    for network in vars(networks).values():
        if isinstance(network, nn.Module):
            network.to(device)
    rows = turns(recipe, networks)
    optimizers = {row.name: row.optimizer for row in rows if row.name != "r1"}
    images, iteration, skipped = 0, 0, 0
    if resume is not None:
        images, iteration, skipped = (resume[1][key] for key in ("images", "iteration", "skipped"))
        restore(networks, optimizers, resume[0])
    everything = [p for row in rows for p in row.parameters]
    if (forget := getattr(networks.discriminator, "forget", None)) is not None:
        forget()  # the images of another data set have the same numbers
    dropout = any(objective.dropout for objective in recipe.objectives)
    failures = dict.fromkeys((row.name for row in rows), 0)

    while images < recipe.duration:
        given = next(batches)
        x0, label, index = given
        x0 = x0.to(device, memory_format=torch.channels_last)
        if label is not None:
            label = label.to(device) if networks.student.num_classes else None
        # A processor that is not the host would wait longer for remembered features than for new ones.
        number = getattr(given, "number", None)
        known = number.tolist() if number is not None and device.type == "cpu" else None
        batch = Batch(x0, label, index.tolist(), recipe.seed, done=images / recipe.duration, number=known)
        micro_batches = batch.split(recipe.micro_batch_size or len(batch))
        if dropout:  # the only randomness that is not the batch's own
            torch.manual_seed(crc32(f"{recipe.seed} {images} {accelerator.process_index}".encode()))
        rate = schedule(recipe, images)
        losses = {}
        for row in rows:
            if iteration % row.every:
                continue
            losses[row.name], usable = take(row, networks, micro_batches, everything, rate, accelerator)
            failures[row.name] = 0 if usable else failures[row.name] + 1
            skipped += not usable
            if failures[row.name] >= PATIENCE:
                raise Diverged(
                    f"The gradients of the {row.name} have not been finite for {PATIENCE} steps in a row, up to image "
                    f"{images:,}: lower the learning rate or use precision float32."
                )
        for parameter in everything:
            parameter.requires_grad_(True)
        iteration += 1
        images += recipe.batch_size
        follow(recipe, networks, images)
        yield Progress(
            images,
            iteration,
            losses,
            rate * recipe.learning_rate,
            skipped,
            any(failures.values()),
            networks,
            optimizers,
        )


def take(
    turn: Turn,
    networks: Networks,
    micro_batches: list[Batch],
    everything: list[nn.Parameter],
    rate: float,
    accelerator: Accelerator,
) -> tuple[float, bool]:
    """Accumulate gradients, average them over the processes, and step; return the loss and whether a step was taken."""
    for parameter in everything:
        parameter.requires_grad_(False)
    for parameter in turn.parameters:
        parameter.requires_grad_(True)
    turn.optimizer.zero_grad(set_to_none=True)
    count = sum(len(batch) for batch in micro_batches)
    total = torch.zeros((), device=accelerator.device)
    for batch in micro_batches:
        loss = turn.loss(networks, batch).sum() / count
        loss.backward()
        total += loss.detach()
    gradients = [p.grad for p in turn.parameters if p.grad is not None]
    total = average(gradients, total, accelerator)
    usable = bool(torch.nn.utils.get_total_norm(gradients).isfinite() & total.isfinite())
    if usable:
        for group in turn.optimizer.param_groups:
            group["lr"] = turn.learning_rate * rate
        turn.optimizer.step()
    turn.optimizer.zero_grad(set_to_none=True)
    return total.item(), usable


def average(gradients: list[Tensor], loss: Tensor, accelerator: Accelerator) -> Tensor:
    """Replace every gradient by its mean over the processes; return the mean loss."""
    if accelerator.num_processes == 1:
        return loss
    flat = torch.cat([loss.view(1), *(gradient.flatten() for gradient in gradients)])
    flat = accelerator.reduce(flat, reduction="mean")
    assert isinstance(flat, Tensor)
    loss, *means = flat.split([1, *(gradient.numel() for gradient in gradients)])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))
    return loss[0]


def schedule(recipe: Recipe, images: int) -> float:
    """Return the factor of the learning rates after `images` images: ramp-up, then decay."""
    done = min(images / recipe.duration, 1.0)
    decay = {
        "constant": 1.0,
        "linear": min(1.0, 2 * (1 - done)),
        "cosine": float(0.5 * (1 + torch.cos(torch.tensor(torch.pi * done)))),
    }[recipe.learning_rate_decay]
    ramp = recipe.learning_rate_ramp
    return decay * (min(1.0, (images + recipe.batch_size) / ramp) if ramp else 1.0)


def restore(networks: Networks, optimizers: dict[str, Optimizer], tensors: dict[str, Tensor]) -> None:
    """Put the tensors of a `Progress.state()` back where they came from."""

    def part(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(name + "."): value for key, value in tensors.items() if key.startswith(name + ".")}

    networks.student.load_state_dict(part("student"))
    networks.ema.load_state_dict(part("ema"))
    if networks.discriminator is not None:
        critic = networks.discriminator
        getattr(critic, "load_run_state", critic.load_state_dict)(part("discriminator"))
    for name in networks.kept:
        getattr(networks, name).load_state_dict(part(name))
    for name, optimizer in optimizers.items():
        moving = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in part(f"optimizer.{name}").items():
            index, field = key.split(".")
            like = moving[int(index)] if value.dim() else value  # fused Adam wants its moments laid out in memory
            state.setdefault(int(index), {})[field] = torch.empty_like(like).copy_(value)  # as their parameter is
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
