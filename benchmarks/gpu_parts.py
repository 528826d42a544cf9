"""What benchmarks/gpu.py measures: each part is a generator of rows, on a GPU at full size or small on a processor."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gpu_run import run
from gpu_steps import compiled, features, steps
from gpu_tools import GIB, LITE0, Row, Setting, attempt, make, measure_peak, noise, time_calls
from loading import measure as measure_loading
from operations import describe_machine
from safetensors.torch import load_file
from torch import Tensor

from d2o.diffusion.sampling import generate
from d2o.discriminators import Projected
from d2o.training.fit import TEACHER_STEPS
from d2o.training.loop import train

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "backbones"))
import reference  # type: ignore[import-not-found]

CLOSE = 1e-3
"""Differences in float32 up to this are rounding, also after 35 calls."""
REHEARSED = ("d2o_one_step", "edm_heun18", "edm_augment")
"""Outputs that are enough for a rehearsal."""


# The machine


def machine(setting: Setting) -> Iterator[Row]:
    """What computes, and how fast it multiplies matrices."""
    facts = describe_machine()
    if setting.device.type == "cuda":
        found = torch.cuda.get_device_properties(setting.device)
        facts |= {"gpu": found.name, "gpu_gib": round(found.total_memory / GIB, 1), "cuda": torch.version.cuda}
        facts |= {"cudnn": torch.backends.cudnn.version()}
    yield {"what": "machine"} | facts
    for precision in ("bfloat16", "tf32", "float32"):
        row = {"what": f"matrix product, {precision}"}
        yield attempt(setting, row, lambda p=precision: {"tflops": measure_peak(setting, p) / 1e12})


# Parity


def parity(setting: Setting) -> Iterator[Row]:
    """Outputs beside a reference's arrays, and beside the processor's: the largest difference by their deviation."""
    folders = [folder for folder in (reference.HERE, setting.parity) if folder]
    files = sorted(file for folder in folders for file in folder.glob("*.safetensors"))
    for path in files[: setting.size(len(files), 3)]:
        for name in [name for name in reference.outputs_in(path) if not setting.rehearse or name in REHEARSED]:
            for precision in ("float32", "bfloat16"):
                row = {"what": f"{path.stem}: {name}", "beside": "reference", "precision": precision}
                yield attempt(setting, row, lambda p=path, n=name, k=precision: compare_arrays(setting, p, n, k))
    for name in ("student", "discriminator"):
        for precision in ("float32", "bfloat16"):
            row = {"what": f"imagenet64 {name}, random weights", "beside": "processor", "precision": precision}
            yield attempt(setting, row, lambda n=name, k=precision: compare_devices(setting, n, k))


def compare_arrays(setting: Setting, path: Path, name: str, precision: str) -> Row:
    tensors = load_file(path)
    if setting.rehearse:
        whole = [key for key in tensors if not key.startswith(reference.PREFIX) and key.split(".")[0] != "config"]
        tensors |= {key: tensors[key][:1] for key in whole if tensors[key].dim()}
    network = reference.reference_network(path, tensors).to(setting.device)
    found = reference.difference(network, tensors, name, getattr(torch, precision))
    return judge(found, precision)


def compare_devices(setting: Setting, name: str, precision: str) -> Row:
    """Compare a network on the device with itself on the processor in float32."""
    _, made = make(setting, "imagenet64")
    student, discriminator = made.student, made.discriminator
    assert discriminator is not None
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in student.parameters():  # among them those that begin with zeros
            parameter += 0.02 * torch.randn(parameter.shape, generator=random)
    noise = torch.randn(2, *student.image_shape, generator=random)
    told = torch.arange(2) % student.num_classes

    @torch.no_grad()
    def ask(device: torch.device | str, kind: torch.dtype) -> Tensor:
        x, condition = noise.to(device), told.to(device)
        if name == "student":
            denoiser = student.replace(precision=kind).to(device)
            return denoiser(denoiser.sigma_max * x, denoiser.sigma_max, condition)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=kind == torch.bfloat16):
            return torch.cat(discriminator.to(device).eval()(x, condition), 1)

    expected = ask("cpu", torch.float32)
    found = ask(setting.device, getattr(torch, precision)).cpu()
    return judge(float((found - expected).abs().max() / expected.std()), precision)


def judge(found: float, precision: str) -> Row:
    if precision == "float32" and not found < CLOSE:
        raise ValueError(f"the difference in float32 is {found:.2g}, not below {CLOSE:g}")
    return {"difference": found}


# Resuming


def resume(setting: Setting) -> Iterator[Row]:
    """Whether a run that is cut in two gives the same bits, as it is and with deterministic algorithms."""
    for strict in (False, True):
        yield attempt(setting, {"deterministic": strict}, lambda s=strict: compare_runs(setting, s), 10)


def compare_runs(setting: Setting, strict: bool) -> Row:
    torch.use_deterministic_algorithms(strict)
    torch.backends.cudnn.deterministic = strict
    small = Projected(networks=(LITE0,), weights="random", size=setting.size(64, 32), width=setting.size(64, 16))
    count, batch = setting.size(4, 2), setting.size(32, 2)

    def run(first: int, last: int, state: Any = None) -> tuple[dict[str, Tensor], Any, float]:
        recipe, made = make(setting, "cifar10", batch, discriminator=small)
        batches = noise(made.student, batch)
        given = [next(batches) for _ in range(last)][first:]
        recipe = replace(recipe, duration=last * batch)
        began = time.perf_counter()
        *_, progress = train(recipe, made, iter(given), resume=state)
        tensors, numbers = progress.state()
        seconds = time.perf_counter() - began
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, numbers, seconds

    try:
        whole, _, seconds = run(0, count)
        again, _, _ = run(0, count)
        half = run(0, count // 2)[:2]
        rest, _, _ = run(count // 2, count, half)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False
    found = {"differ_again": count_different(whole, again), "differ_resumed": count_different(whole, rest)}
    if strict and any(found.values()):
        raise ValueError(f"tensors of {len(whole)} that differ: {found}")
    return {"tensors": len(whole), **found, "seconds_an_iteration": seconds / count}


def count_different(one: dict[str, Tensor], other: dict[str, Tensor]) -> int:
    return sum(not torch.equal(tensor, other[name]) for name, tensor in one.items())


# Sampling


def sampling(setting: Setting) -> Iterator[Row]:
    """Images a second of CIFAR-10's network, one step and 35 calls; `generate` draws its noise on the processor."""
    for intervals in (1, TEACHER_STEPS):
        for batch in (1, 64, 512)[: setting.size(3, 2)]:
            for precision in ("float32", "bfloat16"):
                row = {"calls": 2 * intervals - 1, "batch": batch, "precision": precision}
                yield attempt(
                    setting, row, lambda s=intervals, b=batch, p=precision: time_sampling(setting, s, b, p), 4
                )


def time_sampling(setting: Setting, steps: int, batch: int, precision: str) -> Row:
    _, made = make(setting, "cifar10", device=setting.device)
    student = made.student.replace(precision=getattr(torch, precision)).to(setting.device).eval()
    batch = min(batch, setting.size(batch, 4))
    whole = time_calls(setting, lambda: list(generate(student, range(batch), steps=steps, batch_size=batch)), 1.0)
    x = torch.randn(batch, *student.image_shape, device=setting.device)
    with torch.inference_mode():
        call = time_calls(setting, lambda: student(x, 1.0), 1.0)
    return {"images_per_second": batch / whole, "network_alone": batch / call / (2 * steps - 1)}


# Loading


def loading(setting: Setting) -> Iterator[Row]:
    """Decoding by a core, the stream that training reads, and the way to the GPU (batches of 512 of 64x64)."""
    torch.set_num_threads(1)
    for row in measure_loading(setting.size(500, 20), setting.size(10, 1) / 10):
        yield {"what": row.pop("kind")} | row
    images = torch.rand(setting.size(512, 8), 3, 64, 64)
    for pinned in (False, True):
        ready = images.pin_memory() if pinned and setting.device.type == "cuda" else images
        row = {"what": f"to the device, {'pinned' if pinned else 'pageable'} memory"}
        yield attempt(setting, row, lambda given=ready: {"stream": time_transfer(setting, given)})


def time_transfer(setting: Setting, images: Tensor) -> float:
    """Return how many images a second reach the device, as training reads them."""

    def send() -> Tensor:
        return images.to(setting.device, memory_format=torch.channels_last, non_blocking=images.is_pinned())

    return len(images) / time_calls(setting, send, 0.5)


PARTS: dict[str, tuple[int, Callable[[Setting], Iterator[Row]]]] = {
    "machine": (20, machine),
    "parity": (30, parity),
    "steps": (110, steps),
    "features": (30, features),
    "resume": (30, resume),
    "sampling": (35, sampling),
    "loading": (15, loading),
    "compiled": (80, compiled),
    "run": (110, run),
}
"""Seconds of each part on a GPU, its start included, and what it does."""


def work(name: str, file: Path, setting: Setting) -> bool:
    """Do a part, write each row to the file at once, and return whether none has an error."""
    sound = True
    with file.open("a") as rows:

        def write(row: Row) -> None:
            rows.write(json.dumps(row) + "\n")
            rows.flush()
            os.fsync(rows.fileno())

        try:
            for row in PARTS[name][1](setting):
                sound &= "error" not in row
                write(row)
        except Exception as error:
            sound = False
            write({"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
    return sound
