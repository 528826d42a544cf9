"""How one-step quality grows with pre-training: teachers of different length, then the same short fine-tuning."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from d2o.checkpoints import load
from d2o.checkpoints.delta import weights_sha256
from d2o.diffusion.denoiser import Denoiser
from d2o.training.networks import new_denoiser
from d2o.training.recipe import Recipe
from d2o.training.run import summary

from .correlation import rank_correlation, spread, verdict
from .findings import Findings, Table, caution, measured
from .trials import Bench, Score, Scores, relatives, remembered, tuned

DEFINITIONS = (
    "Every teacher is trained from the same start with a schedule of its own length; length 0 is the untrained "
    "network. Each is then fine-tuned by the same recipe on the same images.",
    "A repetition has a seed of its own, for pre-training and fine-tuning alike. ± is the standard deviation over "
    "them.",
)


@dataclass(frozen=True, eq=False)
class PretrainingStudy:
    """For every length in images: the teacher in many steps, in one, and the student in one."""

    lengths: tuple[int, ...]
    teachers: tuple[Scores, ...]
    untuned: tuple[Scores, ...]
    students: tuple[Scores, ...]
    images: int
    steps: int
    notes: tuple[str, ...] = ()

    @property
    def gains(self) -> list[list[float]]:
        """By how much fine-tuning lowered the KID of one call: a number a repetition, for every length."""
        pairs = zip(self.untuned, self.students, strict=True)
        return [[a - b for a, b in zip(before.values(), after.values(), strict=True)] for before, after in pairs]


def pretraining(
    pretrain: Recipe,
    finetune: Recipe,
    bench: Bench,
    *,
    lengths: Sequence[int],
    repetitions: int = 2,
    steps: int = 18,
    origin: dict[str, Any] | None = None,
) -> PretrainingStudy:
    """Pre-train teachers for so many images each, fine-tune each by one recipe; finished runs are not done again.

    `pretrain` needs a `backbone`; `steps` are those in which teachers make the images that they are judged by.
    """
    if pretrain.backbone is None:
        raise ValueError("The recipe of pre-training needs a backbone: use digits-pretrain, or one with `backbone`.")
    lengths = sorted(set(lengths))
    if len(lengths) < 2 or lengths[0] < 0:
        raise ValueError(f"Give at least two lengths of pre-training, in images, from 0 on; not {lengths}.")
    if steps < 1:
        raise ValueError(f"Teachers make their images in at least 1 step, not {steps}.")
    origin = origin or {}

    def settings(teacher: Denoiser) -> dict[str, Any]:
        return {**origin, **bench.settings(), "teacher_sha256": weights_sha256(teacher)}

    rows: dict[str, dict[int, list[Score]]] = {
        name: {n: [] for n in lengths} for name in ("teacher", "untuned", "student")
    }
    pairs = list(product(lengths, range(repetitions)))
    for length, repetition in bench.counted(pairs, len(pairs), "pre-training and fine-tuning", "teachers"):
        start = new_denoiser(
            pretrain.backbone, bench.images.shape, bench.images.num_classes, seed=pretrain.seed + repetition
        )
        if length:
            recipe = replace(pretrain, duration=length)
            name = f"teacher-{length}"
            score, directory = tuned(bench, name, recipe, start, origin=origin, repetition=repetition, steps=steps)
            teacher = load(directory / "ema.safetensors").to(bench.device)
        else:
            teacher = start.eval()
            file = bench.directory / f"teacher-0-{repetition}.json"
            known = settings(teacher) | {"steps": steps}
            score = remembered(file, known, lambda t=teacher, i=repetition: summary(bench.judge(i)(t, steps=steps)))
        rows["teacher"][length].append(score)
        file = bench.directory / f"untuned-{length}-{repetition}.json"
        rows["untuned"][length].append(
            remembered(file, settings(teacher), lambda t=teacher, i=repetition: summary(bench.judge(i)(t)))
        )
        what = {**origin, "pretrained for": length}
        score, _ = tuned(bench, f"student-{length}", finetune, teacher, origin=what, repetition=repetition)
        rows["student"][length].append(score)
    scores = {
        name: tuple(Scores(f"{name} {length}", tuple(found)) for length, found in by_length.items())
        for name, by_length in rows.items()
    }
    return PretrainingStudy(
        tuple(lengths),
        scores["teacher"],
        scores["untuned"],
        scores["student"],
        finetune.duration,
        steps,
        relatives(bench, finetune),
    )


def findings(study: PretrainingStudy) -> Findings:
    """Return what the study says, in words, tables and numbers."""
    sentences = []
    for what, scores in (("one-step student", study.students), ("teacher", study.teachers)):
        pairs = [(length, -kid) for length, row in zip(study.lengths, scores, strict=True) for kid in row.values()]
        claim = f"the longer the pre-training, the better the {what} (its negated KID)"
        sentences.append(verdict(rank_correlation([a for a, _ in pairs], [b for _, b in pairs]), claim))
    gains = [(length, gain) for length, row in zip(study.lengths, study.gains, strict=True) for gain in row]
    claim = "the longer the pre-training, the more fine-tuning gains over the same network before it, in one call"
    sentences.append(verdict(rank_correlation([a for a, _ in gains], [b for _, b in gains]), claim))
    first, last = study.students[0], study.students[-1]
    sentences.append(
        f"After the same {study.images:,} images of fine-tuning, KID is {first.cell()} from a teacher of "
        f"{study.lengths[0]:,} images and {last.cell()} from one of {study.lengths[-1]:,}."
    )
    best = min(range(len(study.lengths)), key=lambda i: study.students[i].kid)
    sentences.append(f"The best student comes from the teacher of {study.lengths[best]:,} images.")
    sentences += (*caution(len(first.rows)), *study.notes)
    rows = [
        (length, teacher.cell(), untuned.cell(), student.cell(), measured(*spread(gain)), student.cell("recall"))
        for length, teacher, untuned, student, gain in zip(
            study.lengths, study.teachers, study.untuned, study.students, study.gains, strict=True
        )
    ]
    calls = 2 * study.steps - 1
    columns = (
        "images of pre-training",
        f"KID, teacher, {calls} calls",
        "KID, teacher, 1 call",
        "KID, student, 1 call",
        "gain of fine-tuning",
        "recall, student",
    )
    return Findings(
        kind="pretraining",
        title="Pre-training: does one-step ability grow with it?",
        question="If diffusion training leaves one-step ability in the network, more of it should leave more.",
        conclusion=tuple(sentences),
        tables=(Table(f"Quality after {study.images:,} images of fine-tuning", columns, rows),),
        numbers={
            "images": study.images,
            "lengths": list(study.lengths),
            **{
                name: [scores.as_dict() for scores in found]
                for name, found in (
                    ("teacher", study.teachers),
                    ("untuned", study.untuned),
                    ("student", study.students),
                )
            },
        },
        definitions=DEFINITIONS,
    )
