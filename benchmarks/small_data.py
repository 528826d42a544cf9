"""What keeps a judge from knowing a few hundred real images by heart: D2O-F on emoji, one change at a time.

python benchmarks/small_data.py --from emoji-teacher --data smileys.zip --runs runs/small-data [--rows real,augmented]

The zip is what `d2o emoji --groups smileys --one-tone` writes. A row that has its record is not run again. `seconds`
are the processor's, without those of the teacher's images, which are made once for all rows that take them.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from emoji_score import Real, score
from study_records import Records

import d2o
from d2o.data.datasets import Images, open_images
from d2o.diffusion.denoiser import Denoiser
from d2o.discriminators import OwnFeatures, Projected
from d2o.metrics.counting import unshown
from d2o.objectives import Adversarial, Consistency
from d2o.training.loop import train
from d2o.training.methods import BESIDE_THE_GAN
from d2o.training.networks import networks
from d2o.training.recipe import Recipe, TeacherImages
from d2o.training.recipes import DMD_GAN, OWN_FEATURES, PAIRED, RECIPES
from d2o.training.teacher_images import draw_teacher

BASE = replace(RECIPES["emoji-d2o-f"], discriminator=Projected(size=64, width=64))
RATE = BASE.discriminator_learning_rate
KEYS = ("row", "seed", "images", "teacher")
RESULTS = Path(__file__).parent / "results" / "small-data.jsonl"


class Row(NamedTuple):
    """A recipe, what it is about, whether the teacher's own images are its real ones, and a stage before it."""

    about: str
    recipe: Recipe
    own: bool = False
    before: Recipe | None = None


def gan(**changes: Any) -> Recipe:
    return replace(BASE, objectives=(replace(Adversarial(), **changes),))


TWICE = dict.fromkeys(("learning_rate", "discriminator_learning_rate"), 2 * RATE)
BESIDE = Consistency(weight=BESIDE_THE_GAN)
CD = replace(BASE, objectives=(Consistency(steps=9, target_half_life=0.0),), betas=(0.9, 0.999), learning_rate=1e-3)
LOW = {**OWN_FEATURES, "discriminator": OwnFeatures(sigma_mean=-3.5)}
WIDE = {**OWN_FEATURES, "discriminator": OwnFeatures(sigma_mean=-2.5, sigma_deviation=1.5)}
BESIDE_OWN = LOW | {"objectives": (BESIDE, *LOW["objectives"])}
ALL = ("color", "translation", "cutout")
ROWS = {
    "real": Row("non-saturating, projected judge told the words", gan()),
    "augmented": Row("both sides augmented before the judge", gan(augmentation=ALL)),
    "shifted": Row("both sides translated before the judge", gan(augmentation=("translation",))),
    "strong-r1": Row("a penalty 30 times as strong", gan(r1=5e-4)),
    "relativistic": Row("pairs of real and generated images, R1 and R2", replace(BASE, objectives=(PAIRED,))),
    "slow-judge": Row("a quarter of the judge's rate", replace(gan(), discriminator_learning_rate=RATE / 4)),
    "instance-noise": Row("noise on both sides before the judge", gan(instance_noise=0.2)),
    "own-features": Row("the teacher's own features, which are told the words", replace(BASE, **LOW)),
    "own-features-noisy": Row("that judge, at noise of a middle level", replace(BASE, **OWN_FEATURES)),
    "own-features-wide": Row("that judge, at noise over a wide range", replace(BASE, **WIDE)),
    "own-features-cd": Row("that judge, beside consistency distillation", replace(BASE, **BESIDE_OWN)),
    "own-features-fast": Row("that judge, at twice the rates", replace(BASE, **LOW, **TWICE)),
    "own-features-unfrozen": Row("that judge, and nothing is frozen", replace(BASE, **LOW, frozen=())),
    "dmd2-gan": Row("distribution matching and its head", replace(BASE, **DMD_GAN, betas=(0.9, 0.999))),
    "fast": Row("three times the rates", replace(gan(), learning_rate=1e-3, discriminator_learning_rate=1e-3)),
    "cd": Row("consistency distillation instead of the judge", CD),
    "sketch-gan": Row("distillation for a third of the images, then the GAN", gan(), before=replace(CD, batch_size=16)),
    "cd-gan": Row("consistency distillation beside the judge", replace(BASE, objectives=(BESIDE, Adversarial()))),
    "unfrozen": Row("nothing is frozen", replace(gan(), frozen=())),
    "own": Row("the teacher's images as real ones", gan(), own=True),
    "own-augmented": Row("those, augmented", gan(augmentation=ALL), own=True),
    "own-relativistic": Row("those, in pairs", replace(BASE, objectives=(PAIRED,)), own=True),
    "own-own-features": Row("those, judged by the teacher's features", replace(BASE, **LOW), own=True),
}  # fmt: skip


def run(name: str, row: Row, teacher: Denoiser, images: Images, seed: int, count: int) -> tuple[dict, Denoiser]:
    """Train a row and return what the training itself tells, with the student."""
    stages = [replace(row.before, duration=count // 3)] if row.before else []
    stages.append(replace(row.recipe, duration=count - sum(stage.duration for stage in stages)))
    began, student, losses = time.process_time(), teacher, {}
    for stage in (replace(stage, seed=seed) for stage in stages):
        made = networks(stage, student)
        for progress in train(stage, made, images.batches(stage.batch_size, seed=seed)):
            losses = progress.losses
        student = made.ema
    facts = {"row": name, "seed": seed, "images": count, "about": row.about}
    facts |= {"seconds": round(time.process_time() - began, 1)}
    return facts | {"losses": {key: round(value, 3) for key, value in losses.items()}}, student


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="teacher", default="emoji-teacher")
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", type=Path, required=True, help="a folder for students, sheets and teacher's images")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--images", type=int, default=6_000, help="that a student is trained on")
    parser.add_argument("--own", type=int, default=3_000, help="images of the teacher")
    parser.add_argument("--guidance", type=float, default=1.0, help="of the teacher's images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    teacher, images, real = d2o.load(options.teacher), open_images(options.data), Real(options.data)
    records = Records(options.results, options.runs, KEYS)
    for seed in options.seeds:
        for name in options.rows.split(","):
            records.rows = Records(options.results, options.runs, KEYS).rows
            if records.has(row=name, seed=seed, images=options.images, teacher=options.teacher):
                continue
            data = images
            if ROWS[name].own:
                asked = TeacherImages(count=options.own, guidance=options.guidance)
                data = draw_teacher(teacher, images, asked, options.runs, Accelerator(cpu=True), unshown)
            facts, student = run(name, ROWS[name], teacher, data, seed, options.images)
            place = options.runs / f"{name}-{options.images}-{seed}"
            facts |= {"teacher": options.teacher}
            facts |= score(student, real, 1, 1.0, 500, 1, place)
            d2o.save(place / "student.safetensors", student)
            records.write([facts])
            print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
