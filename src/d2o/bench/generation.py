"""Making images: the teacher in many calls against the student in one, and the student on several engines."""

import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor

from d2o.checkpoints import CheckpointError, load, native
from d2o.data.files import to_uint8, write_images
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.sampling import generate
from d2o.training.speed import compile_network, try_compiled

TEACHER_STEPS = 18
Engine = Callable[[Tensor, Tensor | None], object]


def files_a_second(denoiser: Denoiser, steps: int, count: int, folder: Path) -> float:
    """Return how many images a second are made and written as PNG files, all counted."""
    began = time.perf_counter()
    seeds = range(count)
    write_images(folder, (to_uint8(images) for images in generate(denoiser, seeds, steps=steps)), seeds, None)
    return count / (time.perf_counter() - began)


def sampling(teacher: Denoiser, student: Denoiser, repeats: int, folder: Path) -> dict[str, list[float]]:
    """Return images a second, end to end, of both in turn."""
    found: dict[str, list[float]] = {"teacher": [], "student": []}
    for repeat in range(-1, repeats):
        for name, denoiser, steps, count in (("teacher", teacher, TEACHER_STEPS, 64), ("student", student, 1, 256)):
            rate = files_a_second(denoiser, steps, count if repeat >= 0 else 16, folder / f"{name}{repeat}")
            if repeat >= 0:
                found[name].append(rate)
    return found


def engines(student: Denoiser, folder: Path) -> tuple[dict[str, Engine], list[str]]:
    """Return what can make the student's images here, by name, and a sentence about each that cannot."""
    from d2o.export import export

    sigma, missing = student.sigma_max, []

    def eager(noise: Tensor, label: Tensor | None) -> Tensor:
        with torch.inference_mode():
            return student(noise * sigma, sigma, label)

    ready: dict[str, Engine] = {"eager": eager}
    quick = deepcopy(student)

    def compiled(noise: Tensor, label: Tensor | None) -> Tensor:
        with torch.no_grad():
            return quick(noise * sigma, sigma, label)

    with torch.no_grad():
        obstacle = compile_network(quick) or try_compiled(quick, 1)
    if obstacle is None:
        ready["compiled"] = compiled
    else:
        missing.append(f"The compiled engine is left out. {obstacle}")
    try:
        import onnxruntime

        export(student, folder / "student.onnx", to="onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(folder / "student.onnx", options, providers=["CPUExecutionProvider"])

        def onnx(noise: Tensor, label: Tensor | None) -> object:
            given = {"noise": noise.numpy()} | ({} if label is None else {"label": label.numpy()})
            return session.run(["image"], given)[0]

        ready["onnxruntime"] = onnx
    except (ImportError, CheckpointError) as error:
        missing.append(f"onnxruntime is left out: {error}.")
    return ready, missing


def engine_rates(
    student: Denoiser, batch: int, calls: int, repeats: int, ready: dict[str, Engine]
) -> dict[str, list[float]]:
    """Return every engine's images a second at a batch size, over so many calls at a time, in turn with the others'."""
    noise = torch.randn(batch, *student.image_shape)
    label = torch.arange(batch) % student.num_classes if student.num_classes else None
    rates: dict[str, list[float]] = {name: [] for name in ready}
    for repeat in range(-3, repeats):
        for name, make in ready.items():
            began = time.perf_counter()
            for _ in range(calls):
                make(noise, label)
            if repeat >= 0:
                rates[name].append(calls * batch / (time.perf_counter() - began))
    return rates


def loading(denoiser: Denoiser, repeats: int, folder: Path) -> list[float]:
    """Return how many times a second a file of ours becomes a denoiser that is ready, time by time."""
    path = folder / "model.safetensors"
    native.save(path, denoiser)
    rates = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        load(path)
        rates.append(1 / (time.perf_counter() - began))
    return rates[1:]
