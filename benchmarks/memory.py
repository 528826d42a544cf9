"""What a run of D2O-F holds, writes, and needs at most, beside version 0.1.0, which copied every network whole.

python benchmarks/memory.py --json                     cifar10-d2o-f at full size: ten minutes on two cores
python benchmarks/memory.py --recipe digits-d2o-f      another recipe, in seconds

state       bytes of the weights of all denoisers that a run holds (student, average, teacher, and the model that it was
            started from, if it still has that) and of the student's optimiser; what shares memory counts once
checkpoint  bytes of checkpoint.safetensors
peak        by how much a process grows from before it loads the model to the end of two iterations; so many images
            pass at once as --batch says, and features of real images are not cached, for which there may be 2 GiB more

Each figure is taken in a process of its own, on random weights and images. The ways: v010 as that version did it; plain
as it is done now; checkpointed with `checkpointing`; small with that, frozen weights in bfloat16, and Adam with moments
in 8 bits (by torchao, if that is installed). A ratio is now's figure by 0.1.0's: for the peak, checkpointed's.
"""

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from operations import describe_machine

from d2o.checkpoints import load, native
from d2o.diffusion.denoiser import Denoiser
from d2o.kernels.storage import settle
from d2o.objectives.objective import Networks
from d2o.planning.presets import noise_batches, randomise_weights, untrained_teacher
from d2o.training.fit import finetune
from d2o.training.loop import Progress, train
from d2o.training.networks import networks
from d2o.training.recipe import Recipe
from d2o.training.recipes import find_recipe
from d2o.training.run import Habits, Moment

SMALL: dict[str, Any] = {"frozen_precision": "bfloat16", "optimizer": "adam-8bit"}
WAYS: dict[str, dict[str, Any]] = {
    "v010": {},
    "plain": {},
    "checkpointed": {"checkpointing": True},
    "small": {"checkpointing": True, **SMALL},
}
"""The fields of the recipe that a way changes."""


def count_bytes(tensors: Iterable[Any]) -> int:
    """Return the bytes of the storages behind tensors, also within torchao's."""
    found: dict[int, int] = {}
    for tensor in tensors:
        parts = tensor.__tensor_flatten__()[0] if hasattr(tensor, "__tensor_flatten__") else ()
        for part in [getattr(tensor, name) for name in parts] or [tensor]:
            found[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
    return sum(found.values())


def count_state(progress: Progress) -> int:
    """Return the bytes of all denoisers that are alive, and of the student's optimiser."""
    gc.collect()
    denoisers = [thing for thing in gc.get_objects() if isinstance(thing, Denoiser)]
    weights = [tensor for denoiser in denoisers for tensor in (*denoiser.parameters(), *denoiser.buffers())]
    moments = [tensor for row in progress.optimizers["student"].state.values() for tensor in row.values()]
    return count_bytes([*weights, *moments])


def copy_whole(recipe: Recipe, teacher: Denoiser) -> Networks:
    """Return networks that share nothing, as 0.1.0 made them."""
    made = networks(recipe, teacher)
    made.student = deepcopy(made.student)
    made.ema = deepcopy(made.student).eval().requires_grad_(False)
    made.teacher = deepcopy(made.teacher)
    return made


def write_whole(file: Path, progress: Progress) -> None:
    """Write a checkpoint as 0.1.0 did: all tensors of student, average, discriminator and optimisers."""
    parts = {name: progress.networks[name].state_dict() for name in ("student", "ema", *progress.kept)}
    for name, optimizer in progress.optimizers.items():
        rows = optimizer.state_dict()["state"].items()
        parts[f"optimizer.{name}"] = {f"{i}.{key}": value for i, row in rows for key, value in row.items()}
    tensors = {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}
    native.write(file, tensors, native.describe(progress.ema))


def measure_held(way: str, recipe: Recipe, place: Path) -> dict[str, int]:
    """Return the bytes that a run of one iteration holds, and those of its checkpoint."""
    checkpoint = place / way / "checkpoint.safetensors"
    if way == "v010":
        teacher = load(place / "teacher.safetensors")
        made = copy_whole(recipe, teacher)
        progress = next(train(recipe, made, noise_batches(made.student, recipe.batch_size)))
        checkpoint.parent.mkdir()
        write_whole(checkpoint, progress)
        return {"state": count_state(progress), "checkpoint": checkpoint.stat().st_size}
    held: list[int] = []

    def watch(moments: Iterable[Moment], *_: Any) -> None:
        held.extend(count_state(moment.progress) for moment in moments)

    habits = Habits(sample_every=1 << 40, sample_seeds=range(1))
    model, images = place / "teacher.safetensors", place / "images.npz"
    finetune(model, images, recipe, out=checkpoint.parent, habits=habits, watch=watch)
    return {"state": held[-1], "checkpoint": checkpoint.stat().st_size}


def without_numbers(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield batches of images that nobody has seen before, so that no features are cached."""
    for batch in batches:
        batch.number = None
        yield batch


def measure_peak(way: str, recipe: Recipe, place: Path) -> dict[str, int]:
    """Return by how many bytes this process grows when it loads the model and takes two iterations."""
    status = Path("/proc/self/status").read_text().splitlines()
    before = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    teacher: Denoiser | None = load(place / "teacher.safetensors")
    if way != "v010":
        teacher = settle(teacher)
    made = (copy_whole if way == "v010" else networks)(recipe, teacher)
    batches = without_numbers(noise_batches(made.student, recipe.batch_size))
    if way != "v010":
        teacher = None
    for _ in islice(train(recipe, made, batches), 2):
        pass
    del teacher
    return {"peak": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024}


def measure_ways(options: argparse.Namespace, figures: tuple[str, ...] = ("held", "peak")) -> dict[str, dict[str, int]]:
    """Return the bytes of the figures, by way."""
    ways = [way for way in WAYS if way != "small" or find_spec("torchao")]
    found: dict[str, dict[str, int]] = {way: {} for way in ways}
    with tempfile.TemporaryDirectory() as place:
        recipe = find_recipe(options.recipe)
        teacher = untrained_teacher(options.recipe, recipe)
        native.save(Path(place) / "teacher.safetensors", teacher)
        channels, *sides = teacher.pixel_shape
        pixels = np.random.default_rng(0).integers(0, 256, (8, *sides, channels), dtype=np.uint8)
        labels = np.arange(8) % max(teacher.num_classes, 1)
        np.savez(Path(place) / "images.npz", images=pixels, labels=labels)
        del teacher
        for way in ways:
            for figure in figures if way != "checkpointed" else ("peak",):
                words = ["--recipe", options.recipe, "--batch", str(options.batch), "--one", figure, way, place]
                done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(done.stderr[-2000:])
                found[way] |= json.loads(done.stdout.splitlines()[-1])
    return found


def measure_all(options: argparse.Namespace) -> dict[str, Any]:
    found = measure_ways(options)
    old = found["v010"]
    now = found["plain"] | {"peak": found["checkpointed"]["peak"]}
    return {
        "machine": describe_machine(),
        "recipe": options.recipe,
        "batch": options.batch,
        "bytes": found,
        "ratio": {name: now[name] / old[name] for name in old},
        "ratio_small": {name: size / old[name] for name, size in found.get("small", {}).items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="cifar10-d2o-f")
    parser.add_argument("--batch", type=int, default=8, help="images of an iteration whose peak is measured")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        figure, way, place = options.one
        size = options.batch if figure == "peak" else 2
        recipe = replace(randomise_weights(find_recipe(options.recipe)), batch_size=size, duration=2, **WAYS[way])
        if figure == "peak":
            recipe = replace(recipe, duration=2 * size)
        measure = measure_peak if figure == "peak" else measure_held
        print(json.dumps(measure(way, recipe, Path(place))))
        return
    found = measure_all(options)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print("| way | state | checkpoint | peak |\n|---|---|---|---|")
    for way, row in found["bytes"].items():
        cells = (f"{row[name] / 2**20:,.0f} MiB" if name in row else "" for name in ("state", "checkpoint", "peak"))
        print(f"| {way} | {' | '.join(cells)} |")
    for name in ("ratio", "ratio_small"):
        print(name, {figure: f"{ratio:.1%}" for figure, ratio in found[name].items()})


if __name__ == "__main__":
    main()
