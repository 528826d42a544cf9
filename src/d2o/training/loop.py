"""The training loop: a generator that takes turns. It opens no file and prints nothing; that belongs to the caller."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any
from zlib import crc32

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from d2o.backbones import Backbone
from d2o.devices import find_device
from d2o.diffusion.denoiser import Denoiser, allow_tf32, use_full_float32
from d2o.errors import Diverged
from d2o.metrics.counting import Counted, unshown
from d2o.objectives.batch import Batch, read_batch
from d2o.objectives.objective import Networks, Step, Turn
from d2o.objectives.one_step import MADE

from .ema import restart_averages, update_averages
from .leaving import Between, Left, copy_state, put_back
from .memory import return_large_blocks
from .optimizers import make_optimizers, parameters_of, schedule, set_rate
from .recipe import Recipe
from .sharding import check_sharding, is_sharded, shard
from .state import Progress, restore, restore_moments

PATIENCE = 5
"""Steps in a row that may be left out because their gradients are not finite."""
BUCKET = 1 << 23
"""Numbers of gradients that are averaged over processes at once."""


def group(name: str = "auto") -> Accelerator:
    """Return this process's place among those that `torchrun` started (alone without it), and its device.

    Of several processes each takes a GPU of its own. Raises ValueError for a device that is not there.
    """
    device = find_device(name)
    if device.index is not None:
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise ValueError(f"--device {name} is for one process: under torchrun, leave it out.")
        torch.accelerator.set_device_index(device.index)
    return Accelerator(cpu=device.type == "cpu")


def turns(recipe: Recipe, networks: Networks) -> list[Turn]:
    """Return the turns of one iteration: the student's, then those that its objectives ask for."""

    def student_loss(networks: Networks, batch: Batch) -> Tensor:
        batch.shared[MADE] = {}
        losses = [objective.weight * objective(networks, batch) for objective in recipe.objectives]
        del batch.shared[MADE]
        return torch.stack(losses).sum(0)

    own = [turn for objective in recipe.objectives for turn in objective.turns(networks)]
    return [Turn("student", student_loss, "student"), *own]


def begin(
    recipe: Recipe,
    networks: Networks,
    batches: Callable[[], Iterable[tuple[Any, ...]]],
    images: int,
    *,
    accelerator: Accelerator | None = None,
    counted: Counted = unshown,
) -> None:
    """Let the objectives do what comes before a new run's first iteration: some measure the data.

    `batches` gives anew what `train` will be given, of a data set of so many `images`, which pass through `counted`.
    """
    accelerator = accelerator or group()
    use_full_float32()
    for network in networks.by_name().values():
        network.to(accelerator.device)

    def passes(count: int, title: str) -> Iterator[Batch]:
        count = min(count, images)
        given = islice(batches(), -(-count // recipe.batch_size))
        read = (read_batch(batch, networks.student, recipe.seed) for batch in given)
        for batch in counted(read, count // accelerator.num_processes, title):
            yield from batch.split(recipe.micro_batch_size or len(batch))

    for objective in recipe.objectives:
        objective.begin(networks, passes)


def train(
    recipe: Recipe,
    networks: Networks,
    batches: Iterator[tuple[Any, ...]],
    *,
    resume: tuple[dict[str, Tensor], dict[str, Any]] | None = None,
    accelerator: Accelerator | None = None,
    sharded: bool = False,
    stop: Callable[[], bool] | None = None,
) -> Iterator[Progress]:
    """Train the networks in place and yield after every iteration; the networks are consistent at that moment.

    `batches` yields this process's part of each global batch: x0 [n,C,H,W] in [-1, 1], classes [n] or None, and the
    place [n] of every image in the endless stream. With it may come `latents` [n,c,h,w], in whose place x0 may be None,
    and a `number` [n]: images of the same number are the same, and their features are cached. A model that is asked in
    words is told its `captions`. `resume` is a `Progress.state()`; the batches must then start at its `images`. With
    `sharded` the processes hold parts of the denoisers from then on. A process that trains alone asks between
    micro-batches whether to `stop`, and then ends early, everything as it was after the iteration before. Raises
    Diverged after PATIENCE unusable steps in a row.
    """
    for objective in recipe.objectives:
        if missing := next((need for need in objective.needs if networks[need] is None), None):
            raise ValueError(
                f"The objective {objective.kind} needs a missing network, the {missing}: make the networks "
                f"with d2o.networks(recipe, teacher)."
            )
    accelerator = accelerator or group()
    device = accelerator.device
    rows = turns(recipe, networks)
    keeps = [name for objective in recipe.objectives for name in objective.keeps]
    names = [*(row.network for row in rows), *recipe.averages, *keeps]
    kept = tuple(dict.fromkeys(name for name in names if name != "student"))
    tensors, numbers = resume or ({}, {})
    images, iteration, skipped = (numbers.get(key, 0) for key in ("images", "iteration", "skipped"))
    if tensors:
        restore(networks, kept, tensors)
    if sharded:
        check_sharding(networks.student, accelerator.num_processes)
        shard(networks, device)
    for network in networks.by_name().values():
        if not (sharded and isinstance(network, Denoiser)):
            network.to(device)
    optimizers = make_optimizers(recipe, networks, rows)
    if tensors:
        restore_moments(optimizers, tensors)
    if networks.discriminator is not None:
        for cache in networks.discriminator.caches:
            cache.clear()  # the images of another data set have the same numbers
    everything = [p for optimizer in optimizers.values() for p in parameters_of(optimizer)]
    if recipe.checkpointing and device.type == "cpu":
        return_large_blocks()
    dropout = any(objective.dropout for objective in recipe.objectives)
    failures = dict.fromkeys((row.name for row in rows), 0)
    progress, seconds = None, 0.0

    while images < recipe.duration:
        began, before = time.monotonic(), None
        if stop is not None and accelerator.num_processes == 1:
            before = {} if progress is None else copy_state(progress, seconds)
        if 0 < images == recipe.span(images)[0]:  # of a state at this boundary, too, which is that of the part before
            for optimizer in optimizers.values():
                optimizer.state.clear()
            restart_averages(recipe, networks)
        allow_tf32(recipe.tf32)
        batch = read_batch(next(batches), networks.student, recipe.seed, images / recipe.duration)
        micro_batches = batch.split(recipe.micro_batch_size or len(batch))
        if dropout:  # the only randomness that is not the batch's own
            torch.manual_seed(crc32(f"{recipe.seed} {images} {accelerator.process_index}".encode()))
        if isinstance(networks.student.backbone, Backbone):
            networks.student.backbone.constrain_weights()
        factor, losses = schedule(recipe, images), {}
        due = [row for row in rows if iteration % row.every == 0 and (iteration or row.every == 1)]
        total = 0 if progress else len(micro_batches) * sum(row.times for row in due)
        between = Between(None if before is None else stop, total)
        for row in due:
            optimizer = optimizers[row.network]
            require_gradients(everything, parameters_of(optimizer))
            turn: Any = (row, optimizer, networks, micro_batches, factor, accelerator, between)
            try:
                steps = [take_turn(*turn) for _ in range(row.times)]
            except Left:
                require_gradients(everything, everything)
                use_full_float32()
                if progress is not None and before is not None:
                    put_back(progress, before)
                return
            losses[row.name], usable = sum(loss for loss, _ in steps) / row.times, all(fine for _, fine in steps)
            failures[row.name] = 0 if usable else failures[row.name] + 1
            skipped += not usable
            if failures[row.name] >= PATIENCE:
                raise Diverged(
                    f"The gradients of the {row.name} have not been finite for {PATIENCE} steps in a row, up to image "
                    f"{images:,}"
                )
        require_gradients(everything, everything)
        iteration += 1
        images += recipe.batch_size
        update_averages(recipe, networks, images)
        for objective in recipe.objectives:
            objective.after(networks, Step(images, recipe.batch_size, recipe.duration))
        rate, failing = factor * recipe.learning_rate, any(failures.values())
        use_full_float32()  # for grids and evaluations, until the next iteration
        seconds = time.monotonic() - began
        progress = Progress(images, iteration, losses, rate, skipped, failing, networks, optimizers, kept)
        yield progress


def require_gradients(everything: Iterable[nn.Parameter], wanted: Iterable[nn.Parameter]) -> None:
    for parameter in everything:
        parameter.requires_grad_(False)
    for parameter in wanted:
        parameter.requires_grad_(True)


def take_turn(
    turn: Turn,
    optimizer: Optimizer,
    networks: Networks,
    micro_batches: list[Batch],
    factor: float,
    accelerator: Accelerator,
    between: Callable[[], None],
) -> tuple[float, bool]:
    """Accumulate gradients, average them over the processes, and step; return the loss and whether a step was taken."""
    optimizer.zero_grad(set_to_none=True)
    count = sum(len(batch) for batch in micro_batches)
    total = torch.zeros((), device=accelerator.device)
    for batch in micro_batches:
        between()
        loss = turn.loss(networks, batch).sum() / count
        loss.backward()
        total += loss.detach()
    gradients = [p.grad for p in parameters_of(optimizer) if p.grad is not None]
    average_over_processes([total, *(g for g in gradients if not is_sharded(g))], accelerator)  # FSDP averages parts
    usable = bool(torch.nn.utils.get_total_norm(gradients).isfinite() & total.isfinite())
    if usable:
        set_rate(optimizer, factor)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total.item(), usable


def average_over_processes(tensors: list[Tensor], accelerator: Accelerator) -> None:
    """Replace every tensor by its mean over the processes, in place, bucket by bucket."""
    if accelerator.num_processes == 1:
        return
    buckets: list[list[Tensor]] = [[]]
    for tensor in tensors:
        if buckets[-1] and sum(t.numel() for t in (*buckets[-1], tensor)) > BUCKET:
            buckets.append([])
        buckets[-1].append(tensor)
    for bucket in buckets:
        flat: Any = accelerator.reduce(torch.cat([t.flatten() for t in bucket]), reduction="mean")
        for tensor, mean in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
            tensor.copy_(mean.view_as(tensor))
