"""Does a run fit into memory? Asked before it starts, from what two images keep for their gradients."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path

import torch
from torch import Tensor, nn

from d2o.objectives.adversarial import Adversarial
from d2o.objectives.objective import Batch, Networks

from .loop import Turn, turns
from .recipe import Recipe

GIB = 1 << 30
PROBE = 2
"""Images that are tried; batch norms need more than one."""
MICRO = "--micro-batch"
"""The option of a run that makes it need less."""
BESIDES = 1.5
"""What a training step needs in all, as a multiple of what it keeps for its backward pass (measured: 1.2 to 1.5)."""
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def bytes_an_image(recipe: Recipe, networks: Networks) -> int:
    """Return about how many bytes an image of a micro-batch needs in the greediest turn of an iteration."""
    student = networks.student
    device = next(student.parameters()).device
    label = torch.arange(PROBE, device=device) % student.num_classes if student.num_classes else None
    images = torch.zeros(PROBE, *student.pixel_shape, device=device)
    batch = Batch(images, label, range(PROBE), recipe.seed)
    weights = {p.untyped_storage().data_ptr() for module in modules(networks) for p in module.parameters()}
    rows = turns(recipe, networks)
    with left_alone(networks):
        return max(kept(turn, rows, networks, batch, weights) for turn in rows) // PROBE


def kept(turn: Turn, rows: list[Turn], networks: Networks, batch: Batch, weights: set[int]) -> int:
    """Return the bytes that a turn's backward pass needs, besides the networks' weights."""
    storages: dict[int, int] = {}
    alive: list[Tensor] = []  # addresses must not be used twice

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    moving(rows, turn.parameters)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        turn.loss(networks, batch)
    moving(rows, [parameter for row in rows for parameter in row.parameters])
    return int(BESIDES * sum(storages.values()))


def moving(rows: list[Turn], parameters: list[nn.Parameter]) -> None:
    """Let these parameters have gradients, and no others of the turns."""
    for row in rows:
        for parameter in row.parameters:
            parameter.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)


@contextmanager
def left_alone(networks: Networks) -> Iterator[None]:
    """Put batch norms and spectral norms back as they were: a trial must not be part of the run."""
    buffers = [buffer for module in modules(networks) for buffer in module.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, old in zip(buffers, before, strict=True):
                buffer.copy_(old)


def modules(networks: Networks) -> list[nn.Module]:
    """Return the networks that are there."""
    return [network for network in vars(networks).values() if isinstance(network, nn.Module)]


def moving_bytes(networks: Networks) -> int:
    """Return the bytes of the gradients and of Adam's two moments of all that moves."""
    return 3 * sum(p.nbytes for module in modules(networks) for p in module.parameters() if p.requires_grad)


def remembered_bytes(recipe: Recipe, networks: Networks, images: int) -> tuple[int, int]:
    """Return the bytes in memory, and on disk, that features of so many different real images will take."""
    size = getattr(networks.discriminator, "remembered_size", None)
    device = next(networks.student.parameters()).device
    returning = any(isinstance(o, Adversarial) and not o.augmentation for o in recipe.objectives)
    return size(images) if size is not None and returning and device.type == "cpu" else (0, 0)


def available(device: torch.device) -> int | None:
    """Return the free bytes of a device, or None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    found = []
    for line in lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    for limit, usage in CGROUPS:
        most, used = ("".join(lines(path)).strip() for path in (limit, usage))
        if most.isdecimal() and used.isdecimal():
            found.append(max(int(most) - int(used), 0))
    return min(found, default=None)


def lines(path: str) -> list[str]:
    """Return the lines of a system file; none where it does not exist."""
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def check_memory(recipe: Recipe, networks: Networks, processes: int = 1, images: int = 0, option: str = MICRO) -> None:
    """Raise a ValueError, with the value of `option` that would fit, when a process does not fit into memory.

    The networks' weights are there already; what comes is the gradients and moments of what moves, the images of a
    micro-batch, and what is remembered of the data's `images`.
    """
    device = next(networks.student.parameters()).device
    free = available(device)
    if free is None:
        return
    if device.type == "cpu":
        free //= processes
    share, size = recipe.batch_size // processes, at_once(recipe, processes)
    each = bytes_an_image(recipe, networks)
    always = moving_bytes(networks) + remembered_bytes(recipe, networks, images)[0]
    if always + size * each <= free:
        return
    hint = remedy(recipe, largest(share, (free - always) // each), option)
    raise ValueError(
        f"Training with {size} images at once needs about {(always + size * each) / GIB:.1f} GiB, and "
        f"{free / GIB:.1f} GiB are free: {hint}."
    )


def at_once(recipe: Recipe, processes: int = 1) -> int:
    """Return the images of a process's micro-batch."""
    share = recipe.batch_size // processes
    return min(recipe.micro_batch_size or share, share)


def remedy(recipe: Recipe, fitting: int, option: str = MICRO) -> str:
    """Return what to do about a batch that does not fit, of which so many images would."""
    if fitting < PROBE:
        return "not even two fit: use smaller networks, a smaller discriminator size, or another machine"
    kept = f"; the batch stays {recipe.batch_size}, its gradients are accumulated" if option == MICRO else ""
    return f"{option} {fitting} would fit{kept}"


def largest(share: int, limit: int) -> int:
    """Return the size of the most even micro-batches of `share` images that is at most `limit`; 0 if there is none.

    None of them may be a single image, which batch norms cannot take, where that can be.
    """
    even = ceil(share / ceil(share / limit)) if limit > 0 else 0
    return next((size for size in range(even, 1, -1) if share % size != 1), even)
