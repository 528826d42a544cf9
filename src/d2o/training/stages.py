"""Stages: one run after another, each from where the last one has come to, in one directory."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from d2o.data.datasets import Images
from d2o.diffusion.denoiser import Denoiser
from d2o.discriminators.own_features import OwnFeaturesDiscriminator
from d2o.files import link
from d2o.objectives.objective import Networks

from .freezing import settle_frozen
from .loop import group
from .networks import make_discriminator
from .one_recipe import Make, Result, Ways, train_recipe
from .recipe import Recipe, Stages
from .run import BEST, RESULTS
from .run_directory import CHECKPOINT, claim
from .teacher_images import check_teacher, draw_teacher


def train_stages(teacher: Denoiser, images: Images, recipe: Recipe | Stages, out: Path, ways: Ways) -> Result:
    """Train by one recipe after another, each in a directory of its own, and put the last one's results into `out`."""
    accelerator, start, results = group(ways.habits.device), teacher, []
    stages = recipe.stages if isinstance(recipe, Stages) else (recipe,)
    for stage in stages:
        settle_frozen(stage.frozen, teacher)  # what is wrong with a later stage is said at once
        if stage.data is not None:
            check_teacher(teacher, images, stage.data)
    is_main = accelerator.is_main_process
    claimed = claim(out, recipe, ways.origin, images, ways.accept_data) if is_main else nullcontext()
    ways = replace(ways, networks=taught_by(teacher, ways.networks))
    with claimed:
        accelerator.wait_for_everyone()  # nobody writes into a directory that is not this run's
        for number, stage in enumerate(stages, 1):
            shown = images
            if stage.data is not None:
                shown = draw_teacher(teacher, images, stage.data, out, accelerator, ways.counted)
            title = f"{out}: stage {number} of {len(stages)}"
            results.append(train_recipe(lambda start=start: start, shown, stage, out / f"stage-{number}", title, ways))
            ways = replace(ways, base={})  # the next one's base lies in this directory, which may be moved
            start = results[-1].denoiser.replace(codec=teacher.codec, reader=teacher.reader)
        for name in (*RESULTS, BEST, CHECKPOINT) if is_main else ():
            if (file := results[-1].directory / name).exists():
                link(out / name, file)
        accelerator.wait_for_everyone()
    seconds = sum(result.seconds for result in results)
    return replace(results[-1], directory=out, images=recipe.duration, seconds=seconds)


def taught_by(teacher: Denoiser, networks: Make) -> Make:
    """Return what makes the networks of a run from some model, which imitates, or is judged through, this teacher."""

    def make(recipe: Recipe, start: Denoiser) -> Networks:
        made = networks(recipe, start)
        if start is teacher:
            return made
        for objective in recipe.objectives:
            if "teacher" in objective.needs:
                made.teacher = objective.build("teacher", teacher, made.student)
        if isinstance(made.discriminator, OwnFeaturesDiscriminator):
            beside = {} if made.teacher is None else {"teacher": made.teacher}
            made.discriminator = make_discriminator(recipe, teacher, made.student, beside)
        return made

    return make
