"""One run of the study: train a student, and examine its images in every feature space."""

import json
import resource
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from examination import draw, generate_pixels
from study_records import HELD_OUT, alone, choose
from study_rows import Row, Settings, trials

import d2o
from d2o.checkpoints import load
from d2o.data.datasets import open_images
from d2o.files import atomic
from d2o.objectives.objective import Networks
from d2o.training import networks as making
from d2o.training.one_recipe import Make
from d2o.training.recipe import Recipe, Stages, to_dict
from d2o.training.run import Habits

if TYPE_CHECKING:
    from cifar10_study import Study

EVERY = 10
"""Seconds between two notes of the seconds spent, which a killed run goes on from."""


def train_row(study: "Study", row: Row) -> None:
    """Train one student to its end and keep what is found: a choice among trials, or a row's records."""
    place, data = study.runs / "students" / row.key, study.few(row.real)
    chosen = row.trial if row.trial is not None else settle(study, row.method)
    recipe, counts = row.settled(chosen), [0]
    if row.transformer:
        study.transformer()
    teacher = study.transformer_place if row.transformer else study.teacher_place
    if is_of_another(place, recipe):
        shutil.rmtree(place)
    if not (place / "ema.safetensors").exists():
        spend, before = Spending(place), held()
        habits = Habits(sample_every=row.images, device="cpu")
        d2o.finetune(teacher, data, recipe, out=place, habits=habits, watch=spend.watch, networks=counting(counts))
        with atomic(place / "cost.json") as temporary:
            cost = {"seconds": round(spend.total(), 1), "peak_bytes": held() - before, "parameters": max(counts)}
            temporary.write_text(json.dumps(cost))
    pixels = generate_pixels(load(place), 1, study.size.examined // (2 if row.trial is not None else 1))
    facts = {"row": row.name, "seed": row.seed, "images": row.images, **json.loads((place / "cost.json").read_text())}
    if row.trial is not None:
        kids = {one["feature_space"]: one["kid"] for one in study.examiner().examine(facts, pixels)}
        index = int(row.key.rpartition("trial")[2])
        study.tried.write([{**facts, "trial": index, "settings": row.trial, "kid": kids}])
        return
    facts |= {"settings": row.taken(chosen), "real": row.real, "command": study.command(row.name)}
    examiner = study.examiner()
    records = examiner.examine({**facts, "reference": HELD_OUT}, pixels)
    if row.real is not None:
        seen = open_images(data)
        known = seen.pixels(range(len(seen)))
        records = [{**one, **examiner.memory(pixels, known, one["feature_space"])} for one in records]
    if row.steps is not None:
        reference = study.teacher_images(row.steps)
        records += examiner.examine({**facts, "reference": f"teacher in {row.steps} steps"}, pixels, reference)
    study.records.write(records)
    if row.seed == 0:
        draw(study.pictures / f"{row.name}.png", pixels)


def is_of_another(place: Path, recipe: Recipe | Stages) -> bool:
    """Return whether a run was made by another recipe: the study has changed its mind since."""
    file = place / "recipe.json"
    return file.exists() and json.loads(file.read_text())["recipe"] != to_dict(recipe)


def held() -> int:
    """Return the most bytes of memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def settle(study: "Study", method: str) -> Settings:
    """Return the settings of a method that has been tried, once nobody is trying it any more."""
    for trial in trials(study.size):
        if trial.method == method:
            with alone(study.runs / "locks" / trial.key, wait=True):
                pass
    study.reread()
    return choose(study.tried.rows, method)


def counting(counts: list[int]) -> Make:
    """Return what makes the networks of a run, and notes how many numbers they hold; what is shared counts once."""

    def make(recipe: Any, start: Any) -> Networks:
        made = making.networks(recipe, start)
        modules = (network for network in made.by_name().values() if isinstance(network, torch.nn.Module))
        sizes = {p.untyped_storage().data_ptr(): p.numel() for module in modules for p in module.parameters()}
        counts.append(sum(sizes.values()))
        return made

    return make


class Spending:
    """The seconds of the processor that a run has taken, over all processes that have worked on it."""

    def __init__(self, place: Any) -> None:
        self.file, self.began, self.noted = place / "spent.json", time.process_time(), 0.0
        self.before = json.loads(self.file.read_text()) if self.file.exists() else 0.0

    def total(self) -> float:
        return self.before + time.process_time() - self.began

    def watch(self, moments: Iterable[Any], duration: int, title: str) -> None:
        del duration, title
        for _ in self.noting(moments):
            pass

    def noting(self, moments: Iterable[Any]) -> Iterator[Any]:
        for moment in moments:
            if self.total() - self.noted > EVERY:
                self.noted = self.total()
                with atomic(self.file) as temporary:
                    temporary.write_text(json.dumps(round(self.noted, 1)))
            yield moment
