"""Adam as a recipe asks for it, torch's own or torchao's with small moments, and the tensors that it remembers."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from d2o.objectives.objective import Networks, Turn

from .recipe import Recipe
from .sharding import is_sharded, lay_out

SMALLEST, BLOCK = 4096, 256
"""Parameters of fewer numbers, or of no multiple of a block, keep moments in float32 with torchao."""


def torch_adam(parameters: list[nn.Parameter], **settings: Any) -> Optimizer:
    return Adam(parameters, fused=True, **settings)


def small_adam(narrow: bool) -> Callable[..., Optimizer]:
    """Return what makes torchao's Adam with moments in 8 bits, or with `narrow` ones in bfloat16."""

    def make(parameters: list[nn.Parameter], **settings: Any) -> Optimizer:
        try:
            parent: Any = import_module("torchao.optim").Adam8bit
        except ImportError as error:
            remedy = "pip install -e '.[torchao]' in d2o's folder, or --set optimizer=adam"
            raise ValueError(f"Adam with small moments needs torchao: {remedy}.") from error

        class SmallAdam(parent):
            """On processors without compiling its step, which takes a while for every shape."""

            if narrow:

                @staticmethod
                def _subclass_zeros(p: Tensor, signed: bool, block_size: int) -> Tensor:
                    del signed, block_size
                    return torch.zeros_like(p, dtype=torch.bfloat16)

            def step(self, closure: Any = None) -> Any:
                on_processor = self.param_groups[0]["params"][0].device.type == "cpu"
                with torch.compiler.set_stance("force_eager" if on_processor else "default"):
                    return super().step(closure)

        return SmallAdam(parameters, block_size=BLOCK, **settings)

    return make


ADAM: Mapping[str, Callable[..., Optimizer]] = {
    "adam": torch_adam,
    "adam-bfloat16": small_adam(narrow=True),
    "adam-8bit": small_adam(narrow=False),
}
MOMENT_BYTES = {"adam-bfloat16": 2.0, "adam-8bit": 1 + 4 / BLOCK}
"""Of a number of a large parameter, in each of the two moments; otherwise 4."""


def make_optimizers(recipe: Recipe, networks: Networks, turns: Iterable[Turn]) -> dict[str, Optimizer]:
    """Return an optimiser for each network that takes turns, with its learning rate before any schedule.

    Where a network takes further turns now and then (lazy regularisation), Adam's step is shortened and its memory
    lengthened as if each iteration had one step (arXiv 1912.04958, appendix B).
    """
    steps: dict[str, Fraction] = defaultdict(Fraction)
    for turn in turns:
        steps[turn.network] += Fraction(1, turn.every)
    optimizers = {}
    for name, count in steps.items():
        lazy = float(1 / count)
        rate = recipe.learning_rate if name == "student" else recipe.discriminator_learning_rate
        parameters = [p for p in networks[name].parameters() if p.requires_grad]
        betas = (recipe.betas[0] ** lazy, recipe.betas[1] ** lazy)
        optimizers[name] = ADAM[recipe.optimizer](parameters, lr=rate * lazy, betas=betas, eps=1e-8)
    return optimizers


def count_moments(kind: str, parameters: Iterable[nn.Parameter]) -> int:
    """Return the bytes of both moments of parameters, by a kind of ADAM."""
    sizes = [(p.numel(), p.numel() >= SMALLEST and p.numel() % BLOCK == 0) for p in parameters]
    return 2 * sum(round(size * (MOMENT_BYTES.get(kind, 4.0) if is_large else 4.0)) for size, is_large in sizes)


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for rows in optimizer.param_groups for parameter in rows["params"]]


def schedule(recipe: Recipe, images: int) -> float:
    """Return the factor of the learning rates after `images` images: ramp-up, then decay, within a part of the run."""
    start, end = recipe.span(images)
    images, duration = images - start, end - start
    done = min(images / duration, 1.0)
    decay = {
        "constant": 1.0,
        "linear": min(1.0, 2 * (1 - done)),
        "cosine": float(0.5 * (1 + torch.cos(torch.tensor(torch.pi * done)))),
    }[recipe.learning_rate_decay]
    ramp = recipe.learning_rate_ramp
    return decay * (min(1.0, (images + recipe.batch_size) / ramp) if ramp else 1.0)


def set_rate(optimizer: Optimizer, factor: float) -> None:
    """Let an optimiser take steps of its first learning rate times a factor."""
    for rows in optimizer.param_groups:
        rate = optimizer.defaults["lr"] * factor
        rows["lr"] = rows["lr"].fill_(rate) if isinstance(rows["lr"], Tensor) else rate


def tensors_of(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return by name what an optimiser must remember, the tensors themselves.

    Without momentum (a first beta of 0) the first moment is the last gradient, which the next step forgets.
    """
    forgets = optimizer.defaults.get("betas", (1,))[0] == 0
    found: dict[str, Tensor] = {}
    for index, parameter in enumerate(parameters_of(optimizer)):
        for field, value in optimizer.state.get(parameter, {}).items():
            if forgets and field == "exp_avg":
                continue
            is_packed = hasattr(value, "__tensor_flatten__") and not is_sharded(value)
            parts = value.__tensor_flatten__()[0] if is_packed else ()
            found |= {f"{index}.{field}.{part}": getattr(value, part) for part in parts} or {f"{index}.{field}": value}
    return found


def remember(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser back what `tensors_of` has returned, or all that torch's own remembers."""
    parameters = parameters_of(optimizer)
    for index in {int(name.partition(".")[0]) for name in tensors}:
        parameters[index].grad = torch.zeros_like(parameters[index])
    optimizer.step()  # which makes its tensors; without gradients nothing moves
    optimizer.zero_grad(set_to_none=True)
    held = tensors_of(optimizer)
    if missing := next((name for name in held if name not in tensors), None):
        raise ValueError(f"The saved state is of another optimizer, without {missing}.")
    for name, tensor in held.items():
        tensor.copy_(lay_out(tensors[name], tensor))
