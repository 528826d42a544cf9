"""Making images, loading a model and starting a command: medians of repeats, rivals in turn, as JSON.

python benchmarks/generation.py
python benchmarks/generation.py --teacher teacher.safetensors --student one-step.safetensors --out generation.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Any

import torch
from operations import describe_machine
from torch import Tensor

from d2o.checkpoints import load, native
from d2o.data.files import to_uint8, write_images
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.sampling import generate
from d2o.export import export
from d2o.training.speed import compile_network

STEPS = 18
Work = Callable[[], Any]


def race(racers: dict[str, tuple[int, Work]], repeats: int) -> dict[str, list[float]]:
    """Return how often a second each does its count of things, for so many repeats in turn, after one to warm up."""
    rates: dict[str, list[float]] = {name: [] for name in racers}
    for _ in range(repeats + 1):
        for name, (count, work) in racers.items():
            began = time.perf_counter()
            work()
            rates[name].append(count / (time.perf_counter() - began))
    return {name: values[1:] for name, values in rates.items()}


def sample_files(denoiser: Denoiser, steps: int, count: int) -> None:
    """Make images and write them as PNG files."""
    seeds = range(count)
    with tempfile.TemporaryDirectory() as folder:
        write_images(folder, (to_uint8(images) for images in generate(denoiser, seeds, steps=steps)), seeds, None)


def engines(student: Denoiser, folder: Path) -> dict[str, Callable[[Tensor, Tensor | None], Any]]:
    """Return what can make the student's images here: torch as it is, compiled, and ONNX Runtime."""
    import onnxruntime

    sigma, quick = student.sigma_max, deepcopy(student)

    @torch.inference_mode()
    def eager(noise: Tensor, label: Tensor | None) -> Tensor:
        return student(noise * sigma, sigma, label)

    @torch.no_grad()
    def compiled(noise: Tensor, label: Tensor | None) -> Tensor:
        return quick(noise * sigma, sigma, label)

    export(student, folder / "student.onnx", to="onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(folder / "student.onnx", options, providers=["CPUExecutionProvider"])

    def onnx(noise: Tensor, label: Tensor | None) -> Any:
        given = {"noise": noise.numpy()} | ({} if label is None else {"label": label.numpy()})
        return session.run(["image"], given)[0]

    with torch.no_grad():
        works = compile_network(quick, 1) is None
    return {"eager": eager, **({"compiled": compiled} if works else {}), "onnxruntime": onnx}


def start_command() -> None:
    """Run the command that makes one picture."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "d2o", "sample", "digits-small", "--seeds", "0", "--out", f"{folder}/one.png"]
        subprocess.run(command, check=True, capture_output=True)


def measure(teacher: Denoiser, student: Denoiser, repeats: int, folder: Path) -> dict[str, Any]:
    """Return rates a second, their spread (range by median), and the ratios of rivals, repeat by repeat."""
    found: dict[str, Any] = {"per_second": {}, "spread": {}, "ratio": {}}

    def note(racers: dict[str, tuple[int, Work]], rival: str | None = None) -> None:
        rates = race(racers, repeats)
        for name, values in rates.items():
            found["per_second"][name] = median(values)
            found["spread"][name] = (max(values) - min(values)) / median(values)
            if rival is not None and name != rival:
                pairs = zip(values, rates[rival], strict=True)
                found["ratio"][f"{name} / {rival}"] = median(one / other for one, other in pairs)

    many = {
        "files by the teacher": (64, lambda: sample_files(teacher, STEPS, 64)),
        "files by the student": (256, lambda: sample_files(student, 1, 256)),
    }
    note(many, "files by the teacher")
    ready = engines(student, folder)
    for batch, calls in ((1, 20), (64, 1)):
        noise = torch.randn(batch, *student.image_shape)
        label = torch.arange(batch) % student.num_classes if student.num_classes else None

        def repeat(make: Callable, noise: Tensor = noise, label: Tensor | None = label, calls: int = calls) -> None:
            for _ in range(calls):
                make(noise, label)

        one = {f"{name}, batch {batch}": (calls * batch, lambda m=make: repeat(m)) for name, make in ready.items()}
        note(one, f"eager, batch {batch}")
    native.save(folder / "model.safetensors", student)
    note({"loads": (1, lambda: load(folder / "model.safetensors"))})
    note({"d2o sample digits-small": (1, start_command)})
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="digits-teacher")
    parser.add_argument("--student", default="digits-small")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        figures = measure(load(options.teacher), load(options.student), options.repeats, Path(place))
    text = json.dumps({"machine": describe_machine()} | figures, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
