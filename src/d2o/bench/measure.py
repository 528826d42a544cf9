"""Everything that `d2o bench` measures, in one process and one run."""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from d2o.data.datasets import Images
from d2o.diffusion.denoiser import Denoiser
from d2o.features.embedding import embedding
from d2o.kernels.operations import Operations
from d2o.kernels.switch import plainly
from d2o.metrics.distances import distances
from d2o.metrics.look import look
from d2o.metrics.sources import Stream, open_source
from d2o.training.memory import check_memory
from d2o.training.networks import networks
from d2o.training.recipe import Recipe

from . import generation, machine
from .memory import Run, peak
from .problem import Choice, Problem, noise_images
from .start import first_step
from .steps import WARM_UP, Steps, medians, race

EVALUATED = 32
"""Side of the images of the evaluation."""
KINDS = ("d2o_f", "d2o", "pretrain")
Say = Callable[[str], Any]


def measure(choice: Choice, repeats: int, plain: bool, say: Say) -> dict[str, Any]:
    """Return all figures; with `plain` beside those of plain training, the ratios' other half."""
    problem = choice.problem()
    found: dict[str, Any] = {
        "machine": machine.describe(),
        "settings": {
            "recipe": choice.recipe, "model": choice.model, "batch": problem.student.batch_size, "plain": plain,
            "image_shape": list(problem.teacher.pixel_shape), "parameters": size(problem.teacher), "repeats": repeats,
        },
        "ratio": {}, "memory_ratio": {}, "images_per_second": {}, "peak_share": {}, "parts": {}, "spread": {},
        "gigaflop_an_image": {}, "memory_mib": {}, "notes": [],
    }  # fmt: skip
    check_fit(problem, plain)
    say("the machine's peak")
    found["machine"]["peak_gflops"] = (best := machine.peak()) / 1e9
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = noise_images(
            WARM_UP * problem.student.batch_size, problem.teacher.pixel_shape, problem.teacher.num_classes, folder
        )  # as many as warm up: what is remembered of real images is then known, as from the second pass over data
        say("memory")
        found |= memory(choice, plain)
        for kind, recipe in problem.recipes().items():
            say(f"training steps: {kind}")
            training(kind, recipe, problem, images, repeats, plain, best, found)
        say("sampling")
        student = networks(problem.student, problem.teacher).ema
        sampling(problem.teacher, student, repeats, folder, found)
        say("loading and evaluation")
        note(found, "images_per_second", {"loads": generation.loading(student, repeats, folder)})
        evaluation(folder, found)
        say("from a command to its first training step")
        try:
            note(found, "seconds", {"from_command_to_first_training_step": first_step(folder)})
        except ValueError as error:  # a process of its own: the minutes before are not lost with it
            found["notes"].append(str(error))
    return found


def note(found: dict, kind: str, measured: dict[str, list[float]]) -> None:
    """Put the medians of repeated measurements among the figures, with how far the repeats are apart."""
    for name, values in measured.items():
        found.setdefault(kind, {})[name] = median(values)
        found["spread"][name] = (max(values) - min(values)) / median(values)


def check_fit(problem: Problem, plain: bool) -> None:
    """Raise a ValueError, with a batch that would fit, when the greediest training that is measured does not fit."""
    recipe = problem.recipes()["d2o"]
    with plainly(plain):
        check_memory(recipe, networks(recipe, problem.teacher), images=WARM_UP * recipe.batch_size, option="--batch")


def size(denoiser: Denoiser) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in denoiser.parameters())


def memory(choice: Choice, plain: bool) -> dict[str, Any]:
    """Return the peak memory of training in MiB, and with `plain` D2O-F's share of plain D2O's."""
    runs = {
        f"{kind}{'_plain' * rival}": Run(choice, kind, rival) for kind in KINDS for rival in (False, True)[: 1 + plain]
    }
    found = {name: peak(run) for name, run in runs.items()}
    mib = {name: value / 2**20 for name, value in found.items() if value is not None}
    ratio = {"d2o_f": mib["d2o_f"] / mib["d2o_plain"]} if mib and plain else {}
    return {"memory_mib": mib, "memory_ratio": ratio}


def training(
    kind: str, recipe: Recipe, problem: Problem, images: Images, repeats: int, plain: bool, best: float, found: dict
) -> None:
    """Measure one kind of training."""
    racers = {"": Steps(recipe, problem.teacher, images)}
    if kind != "pretrain":
        racers["_first_pass"] = Steps(recipe, problem.teacher, new(images.batches(recipe.batch_size)))
    if plain:
        racers["_plain"] = Steps(recipe, problem.teacher, images, plain=True)
    rounds = race(racers, repeats)
    for name, parts in rounds.items():
        label = f"{kind}{name}"
        needed = operations(racers[name])
        found["gigaflop_an_image"][label] = needed / 1e9
        found["parts"][label] = {part: seconds / recipe.batch_size for part, seconds in medians(parts).items()}
        totals = [sum(row.values()) for row in parts]
        note(found, "images_per_second", {label: [recipe.batch_size / total for total in totals]})
        found["peak_share"][label] = needed * found["images_per_second"][label] / best
    if plain:
        seconds = {name: [sum(parts.values()) for parts in iterations] for name, iterations in rounds.items()}
        for name in (name for name in racers if name != "_plain"):
            pairs = zip(seconds["_plain"], seconds[name], strict=True)
            found["ratio"][f"{kind}{name}_step"] = median(theirs / ours for theirs, ours in pairs)


def new(batches: Iterable[Any]) -> Iterator[tuple]:
    """Yield numbered batches with numbers that never return: every image is new, as in a run's first pass."""
    for batch in batches:
        batch.number = batch[2]
        yield batch


def operations(steps: Steps) -> float:
    """Return the floating-point operations of an iteration an image, R1's spread over its interval."""
    with Operations() as every_turn:
        steps.step()
    r1 = [turn for turn in steps.turns if turn.every > 1]
    turns, steps.turns = steps.turns, [turn for turn in steps.turns if turn.every == 1]
    with Operations() as without:
        steps.step()
    steps.turns = turns
    usual, all_turns = without.total, every_turn.total
    return (usual + ((all_turns - usual) / r1[0].every if r1 else 0)) / steps.recipe.batch_size


def sampling(teacher: Denoiser, student: Denoiser, repeats: int, folder: Path, found: dict) -> None:
    """Measure images written to disk, and engines alone."""
    rates = generation.sampling(teacher, student, max(repeats // 3, 3), folder)
    note(found, "images_per_second", {f"sample_{name}": values for name, values in rates.items()})
    found["ratio"]["sampling"] = median(s / t for s, t in zip(rates["student"], rates["teacher"], strict=True))
    ready, missing = generation.engines(student, folder)
    found["notes"] += missing
    for batch, calls in ((1, 20), (64, 1)):
        engine = generation.engine_rates(student, batch, calls, max(repeats, 10), ready)
        note(found, "images_per_second", {f"{name}_batch{batch}": rates for name, rates in engine.items()})
        fastest = max(engine.values(), key=median)
        pairs = zip(fastest, engine["eager"], strict=True)
        found["ratio"][f"engine_batch{batch}"] = median(best / eager for best, eager in pairs)


def evaluation(folder: Path, found: dict, count: int = 10_000, part: int = 640, repeats: int = 3) -> None:
    """Measure what share of the feature network's own speed a pass over images reaches, and what distances cost."""
    images = noise_images(count, (3, EVALUATED, EVALUATED), 0, folder)
    network = embedding()
    batches = [images.pixels(range(first, first + 64)) for first in range(0, part, 64)]

    def alone() -> float:
        began = time.perf_counter()
        for batch in batches:
            network(batch)
        return part / (time.perf_counter() - began)

    alone()
    rates, passes, compared = [], [], []
    for _ in range(repeats):
        before, began = alone(), time.perf_counter()
        stream = open_source(images, images=count, seeds=(), steps=1, batch_size=64, device="cpu")
        assert isinstance(stream, Stream)
        seen = look(stream, "noise", network.name, lambda pixels: network(pixels).numpy())
        passes.append(count / (time.perf_counter() - began))
        rates.append((before + alone()) / 2)
        began = time.perf_counter()
        distances(seen.features.rows(0, count // 2), seen.features.rows(count // 2, count))
        compared.append(time.perf_counter() - began)
    note(found, "seconds", {f"distances_{count // 2}_images": compared})
    note(found, "images_per_second", {"features": rates, "evaluation": passes})
    found["ratio"]["evaluation"] = median(whole / rate for whole, rate in zip(passes, rates, strict=True))
