"""Adam as a recipe asks for it, torch's own or torchao's with small moments, and the tensors that it remembers."""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

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


def count_moments(kind: str, parameters: Iterable[nn.Parameter]) -> int:
    """Return the bytes of both moments of parameters, by a kind of ADAM."""
    sizes = [(p.numel(), p.numel() >= SMALLEST and p.numel() % BLOCK == 0) for p in parameters]
    return 2 * sum(round(size * (MOMENT_BYTES.get(kind, 4.0) if is_large else 4.0)) for size, is_large in sizes)


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for rows in optimizer.param_groups for parameter in rows["params"]]


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
            parts = value.__tensor_flatten__()[0] if hasattr(value, "__tensor_flatten__") else ()
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
        raise ValueError(f"The state that should be resumed is of another optimiser, without {missing}.")
    for name, tensor in held.items():
        tensor.copy_(tensors[name])
