"""What a run would hold in a GPU's memory, by parts, from its networks on the meta device: nothing is computed."""

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from d2o.diffusion.denoiser import Denoiser
from d2o.encoders.codec import CONFIG, Autoencoder
from d2o.files import parse_json, read_bytes
from d2o.kernels.pieces import PIECES
from d2o.objectives.batch import Batch
from d2o.objectives.objective import Networks
from d2o.training.loop import require_gradients, turns
from d2o.training.networks import networks
from d2o.training.optimizers import count_moments
from d2o.training.recipe import Recipe

from .presets import draw_condition
from .text_networks import Codec, RandomAutoencoder

GIB = 1 << 30
GPUS = {16: "T4, V100", 24: "RTX 4090, L4, A10", 40: "A100", 48: "L40S, A6000", 80: "A100, H100", 141: "H200"}
"""Common GPUs by their memory in GiB."""
USABLE = 0.92
"""The share of it that a run may fill: an assumption, for CUDA's own part and for gaps between tensors."""

FULL = {F.layer_norm, F.group_norm, F.softmax, torch.softmax, Tensor.softmax, torch.rsqrt, torch.pow, Tensor.pow}
"""What autocast computes in float32 on CUDA, and in the type that it is given on processors."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a run in one process, by part; an iteration holds at most `fixed + micro_batch * image`.

    `weights` of every network and Adam's `moments` are held all the time; beside them, at different moments of an
    iteration, the `gradients` and, of every image of a micro-batch, what the `student`, `decoder` and `discriminator`
    keep for the gradient, and on top of that what is `passing`. `copies` are of the student's weights, in bfloat16.
    """

    weights: dict[str, int]
    moments: int
    gradients: int
    copies: int
    student: int
    decoder: int
    discriminator: int
    fixed: int
    image: int

    @property
    def passing(self) -> int:
        return self.image - self.student - self.decoder - self.discriminator

    def total(self, micro_batch: int) -> int:
        return self.fixed + micro_batch * self.image

    def fitting(self, gib: float) -> int:
        """Return how many images pass at once on a GPU of so many GiB; 0 if not one."""
        return max(int(USABLE * gib * GIB - self.fixed) // max(self.image, 1), 0)


def measure_memory(recipe: Recipe, teacher: Denoiser) -> Memory | None:
    """Return what a run holds that starts from a model on any device, and whose other networks' weights are random.

    None for networks whose shapes depend on numbers, such as those that cut captions off at their ends.
    """
    start = to_meta(teacher, recipe.precision)
    try:
        with torch.device("meta"):
            made = networks(recipe, start)
    except NotImplementedError:  # a judge tries out the network through which it looks
        return None
    rows = turns(recipe, made)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    modules = [*made.by_name().items(), *([("codec", codec)] if (codec := codec_of(made)) else [])]
    weights: dict[str, int] = {}
    known: dict[Tensor, Tensor] = {}
    for name, module in modules:
        before = count_bytes(known.values())
        fill(module, fake, known)
        weights[name] = count_bytes(known.values()) - before  # what networks share is held once
    moving = {turn.network: [p for p in made[turn.network].parameters() if p.requires_grad] for turn in rows}
    try:
        with fake, Gpu():
            counts = (1, 1 + PIECES)  # of images, with which pieces of them grow, too
            one, more = (measure_iteration(recipe, made, moving, known.values(), count) for count in counts)
    except (DataDependentOutputException, DynamicOutputShapeException):
        return None
    image = {name: (more[name] - one[name]) // PIECES for name in one}
    moments = sum(count_moments(recipe.optimizer, parameters) for parameters in moving.values())
    return Memory(
        weights=weights,
        moments=moments,
        gradients=max(map(count_bytes, moving.values())),
        copies=one["student"] - image["student"],
        fixed=sum(weights.values()) + moments + one["most"] - image["most"],
        image=image.pop("most"),
        **image,
    )


def count_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def to_meta(denoiser: Denoiser, precision: str) -> Denoiser:
    """Return a copy of a model on the meta device, its decoder in this precision, without copying the weights first."""
    tensors = [*denoiser.parameters(), *denoiser.buffers()]
    empty = {id(t): nn.Parameter(t.to("meta")) if isinstance(t, nn.Parameter) else t.to("meta") for t in tensors}
    codec: Any = denoiser.codec
    if isinstance(codec, Autoencoder) and codec.folder is not None:
        config = parse_json(read_bytes(Path(codec.folder) / "config.json", CONFIG))
        codec = RandomAutoencoder(Codec(config["_class_name"], config), "meta", precision)
    elif isinstance(codec, RandomAutoencoder):
        codec = RandomAutoencoder(codec.codec, "meta", precision)
    return deepcopy(denoiser, empty).replace(codec=codec)


def codec_of(made: Networks) -> Any:
    codec = made.student.codec
    return codec.network if isinstance(codec, RandomAutoencoder) else None


def fill(module: nn.Module, fake: FakeTensorMode, known: dict[Tensor, Tensor]) -> None:
    """Replace a module's tensors of the meta device by fake ones of the processor; those that are `known` by theirs."""
    for part in module.modules():
        tables: Any = (part._parameters, part._buffers)
        for table in tables:
            for name, tensor in table.items():
                if tensor is None or isinstance(tensor, FakeTensor):
                    continue
                if tensor not in known:
                    with fake:
                        new = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
                    is_parameter = isinstance(tensor, nn.Parameter)
                    known[tensor] = nn.Parameter(new, tensor.requires_grad) if is_parameter else new
                table[name] = known[tensor]


def measure_iteration(
    recipe: Recipe, made: Networks, moving: Mapping[str, list[nn.Parameter]], weights: Iterable[Tensor], count: int
) -> dict[str, int]:
    """Return the bytes that the parts of a micro-batch of so many images keep, and the `most` beside `weights`."""
    everything = [parameter for parameters in moving.values() for parameter in parameters]
    condition = draw_condition(made.student, range(count))
    images = torch.zeros(count, *made.student.pixel_shape)
    batch = Batch(images, condition, range(count), recipe.seed)
    held: dict[str, int] = {"student": 0, "decoder": 0, "discriminator": 0}
    most = 0
    for turn in turns(recipe, made):
        require_gradients(everything, moving[turn.network])
        with Live(weights) as live, ExitStack() as watching:
            if turn.name == "student":
                watching.enter_context(live.attribute(held, "student", made.student.backbone))
                if (codec := codec_of(made)) is not None:
                    watching.enter_context(live.attribute(held, "decoder", codec.decoder))
            loss = turn.loss(made, batch).mean()
            if turn.name == "student":
                held["discriminator"] = live.now - held["student"] - held["decoder"]
            torch.autograd.backward(get_gradient_edge(loss), torch.ones_like(loss))
            most = max(most, live.most)
        for parameter in everything:
            parameter.grad = None
    return {**held, "most": most}


class Live(TorchDispatchMode):
    """Count the bytes of the tensors that are alive, `now` and at `most`, apart from those that are given."""

    def __init__(self, others: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known = weakref.WeakSet(tensor.untyped_storage() for tensor in others)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self.known:
                self.known.add(storage)
                self.add(storage.nbytes())
                weakref.finalize(storage, self.add, -storage.nbytes())
        return result

    def add(self, size: int) -> None:
        self.now += size
        self.most = max(self.most, self.now)

    @contextmanager
    def attribute(self, parts: dict[str, int], name: str, module: nn.Module) -> Iterator[None]:
        """Add to a part what the calls of a module leave alive."""

        def begin(*_: Any) -> None:
            parts[name] -= self.now

        def end(*_: Any) -> None:
            parts[name] += self.now

        hooks = module.register_forward_pre_hook(begin), module.register_forward_hook(end)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class Gpu(TorchFunctionMode):
    """Let a processor's autocast compute in float32 what CUDA's does, and answer no where code looks at numbers.

    The classes of a batch, for example, are checked on a processor alone.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func is Tensor.__bool__:
            return False
        given = (args, kwargs or {})
        if func in FULL and torch.is_autocast_enabled("cpu"):
            given = tree_map(lambda t: t.float() if isinstance(t, Tensor) and t.is_floating_point() else t, given)
        return func(*given[0], **given[1])
