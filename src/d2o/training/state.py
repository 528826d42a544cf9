"""Where a run stands: all that continues it bit for bit, taken out of its networks and put back into them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from d2o.diffusion.denoiser import Denoiser
from d2o.objectives.objective import Networks

from .optimizers import remember, tensors_of
from .sharding import gather


@dataclass(repr=False)
class Progress:
    """Where a run stands after an iteration. `losses` are the means of this iteration's turns, by name.

    `skipped` counts the steps left out because their gradients were not finite; `failing` says that the last one was.
    `kept` names the networks, besides student and average, that belong to the run's state.
    """

    images: int
    iteration: int
    losses: dict[str, float]
    learning_rate: float
    skipped: int
    failing: bool
    networks: Networks
    optimizers: dict[str, Optimizer]
    kept: tuple[str, ...] = ()

    def __repr__(self) -> str:
        losses = ", ".join(f"{name} {loss:.3f}" for name, loss in self.losses.items())
        skipped = f", {self.skipped} steps skipped" if self.skipped else ""
        return f"{self.images:,} images, iteration {self.iteration:,}, loss {losses}{skipped}"

    @property
    def ema(self) -> Denoiser:
        return self.networks.ema

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all that continues this run bit for bit: named tensors and numbers (for random numbers see Batch).

        What is frozen is there once, as the student's. Of a sharded run only the first process gets tensors, and all
        must call this together.
        """
        frozen = {id(p) for p in list_frozen(self.networks.student).values()}
        parts: dict[str, dict[str, Tensor]] = {}
        for name in ("student", "ema", *self.kept):
            state = self.networks[name].state_dict(keep_vars=True)
            parts[name] = {key: t.detach() for key, t in state.items() if name == "student" or id(t) not in frozen}
        parts |= {f"optimizer.{name}": tensors_of(optimizer) for name, optimizer in self.optimizers.items()}
        tensors = {f"{part}.{name}": tensor for part, rows in parts.items() for name, tensor in rows.items()}
        return dict(gather(tensors)), {"images": self.images, "iteration": self.iteration, "skipped": self.skipped}


def restore(networks: Networks, kept: Iterable[str], tensors: dict[str, Tensor]) -> None:
    """Put the tensors of a `Progress.state()` back where they came from; ValueError where they are of another run.

    Those of the student that are frozen may be missing: then it has them.
    """

    given = part(tensors, "student")
    rows = list_frozen(networks.student).items()
    known = {key: p for key, p in rows if key not in given or given[key].shape == p.shape}
    for key, parameter in known.items():
        if key in given and not torch.equal(parameter, given[key].to(parameter)):
            parameter.data = torch.empty_like(parameter).copy_(given[key])  # the model that it came from keeps its own
    frozen = {id(parameter) for parameter in known.values()}
    for name in ("student", "ema", *kept):
        own = networks[name].state_dict(keep_vars=True).items()
        held = {key: tensor.detach() for key, tensor in own if id(tensor) in frozen}
        try:
            networks[name].load_state_dict({**part(tensors, name), **held})
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"The saved state is of another {name}: {reason}") from error


def restore_moments(optimizers: dict[str, Optimizer], tensors: dict[str, Tensor]) -> None:
    """Put the moments of a `Progress.state()` back."""
    for name, optimizer in optimizers.items():
        remember(optimizer, part(tensors, f"optimizer.{name}"))


def part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(name + "."): value for key, value in tensors.items() if key.startswith(name + ".")}


def list_frozen(student: Denoiser) -> dict[str, nn.Parameter]:
    """Return by name what of a student does not move; networks beside it may have the same parameters."""
    return {name: parameter for name, parameter in student.named_parameters() if not parameter.requires_grad}
