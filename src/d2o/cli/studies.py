"""The studies of `d2o analyze`: options of each, and what it does with them; it returns findings and figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .options import recipe_from
from .progress import counted
from .study_options import Measured, Trials, Walk, bench, load, tuning

Result = tuple[Any, list]
"""Findings, and the figures that go with them."""


@dataclass(frozen=True, kw_only=True)
class Spectrum(Walk):
    """The options of `d2o analyze spectrum`."""

    student: str | None = None
    """A one-step student of it, to be compared."""
    data: str | None = None
    """Real images to be compared: a folder, an EDM zip, an .npz, .parquet, or `digits`."""
    resolution: int | None = None
    """Bring the images to this side; needs --resize."""
    resize: Annotated[str | None, tyro.conf.arg(metavar="area|bilinear|lanczos|center-crop")] = None
    """How images are brought to --resolution."""
    channels: Literal[1, 3] | None = None
    """Convert them to grey (1) or RGB (3)."""

    def images(self) -> Any:
        """Return the real images, or None."""
        if self.data is None:
            return None
        from d2o.data.datasets import open_images

        return open_images(self.data, resolution=self.resolution, resize=self.resize, channels=self.channels)


@dataclass(frozen=True, kw_only=True)
class Blocks(Walk):
    """The options of `d2o analyze blocks`."""

    after: str | None = None
    """The same network after fine-tuning."""


def spectrum(options: Spectrum) -> Result:
    """Return the findings and figures of `d2o analyze spectrum`."""
    from d2o.analysis import figures, spectrum
    from d2o.data.files import parse_seeds

    teacher = load(options, options.model)
    study = spectrum.spectrum(
        teacher,
        student=student_of(options, teacher),
        images=options.images(),
        seeds=parse_seeds(options.seeds),
        steps=options.steps,
        sampler=options.sampler,
        batch_size=options.batch,
        counted=counted,
    )
    return spectrum.findings(study), figures.of_spectrum(study)


def blocks(options: Blocks) -> Result:
    """Return the findings and figures of `d2o analyze blocks`."""
    from d2o.analysis import block_figures, blocks
    from d2o.data.files import parse_seeds

    study = blocks.blocks(
        load(options, options.model),
        None if options.after is None else load(options, options.after),
        seeds=parse_seeds(options.seeds),
        steps=options.steps,
        sampler=options.sampler,
        batch_size=options.batch,
        counted=counted,
    )
    return blocks.findings(study), block_figures.of_blocks(study)


@dataclass(frozen=True, kw_only=True)
class Minima(Measured):
    """The options of `d2o analyze minima`. The same command again continues, and does nothing twice."""

    teacher: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TEACHER")]
    """A checkpoint or a run directory."""
    students: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="STUDENT ...")]
    """One-step students of it."""
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Steps of the teacher's sampler (Heun's)."""
    repetitions: int = 4
    """How often everything is measured, with other seeds; fewer than 4 decide nothing."""
    points: int = 11
    """Points on the line between the weights of teacher and student; 0: leave it out."""


@dataclass(frozen=True, kw_only=True)
class Parts(Trials):
    """The options of `d2o analyze parts`."""

    teacher: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TEACHER")]
    """A checkpoint or a run directory."""
    modes: tuple[Literal["train", "freeze"], ...] = ("train", "freeze")
    """Train each part alone, freeze each part alone."""
    kinds: tuple[Literal["blocks", "roles"], ...] = ("blocks", "roles")
    """What the network is cut into."""


@dataclass(frozen=True, kw_only=True)
class Bands(Trials):
    """The options of `d2o analyze bands`."""

    teacher: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TEACHER")]
    """A checkpoint or a run directory."""
    student: str | None = None
    """The one-step student whose blocks are filtered; by default the one that the recipe makes."""
    modes: tuple[Literal["remove", "keep"], ...] = ("remove", "keep")
    """Filters of the blocks' outputs."""
    gradient_modes: tuple[Literal["remove", "keep"], ...] = ("remove", "keep")
    """Filters of the gradient."""


@dataclass(frozen=True, kw_only=True)
class Pretraining(Trials):
    """The options of `d2o analyze pretraining`."""

    recipe: str = "digits-d2o-f"
    """How every teacher is fine-tuned: a name (see `d2o recipes`) or a .json or .yaml file."""
    pretrain: str = "digits-pretrain"
    """How teachers are trained: a recipe that names a backbone."""
    lengths: tuple[int, ...] = (0, 3_000, 12_000, 46_000)
    """Images of pre-training of each teacher."""
    steps: int = 18
    """Sampling steps of the teachers, when they are measured themselves."""


def minima(options: Minima) -> Result:
    """Measure teacher and students against each other and the data."""
    from d2o.analysis import barrier, minima, quality_figures
    from d2o.analysis.weight_change import differing

    if options.points:
        barrier.check_points(options.points)
    names = label(options.students)
    common, teacher = bench(options, "minima"), load(options, options.teacher)
    students = {name: load(options, path) for name, path in names.items()}
    minima.check(teacher, students, common.images, options.steps, options.repetitions)
    alike = [name for name, student in students.items() if not differing(teacher, student)]
    walks = [
        barrier.walk(teacher, students[name], common, name=name, points=options.points, repetitions=options.repetitions)
        for name in alike
        if options.points
    ]
    study = minima.minima(
        teacher,
        students,
        common,
        steps=options.steps,
        repetitions=options.repetitions,
        barriers=walks,
        unlike=[name for name in students if options.points and name not in alike],
    )
    return minima.findings(study), quality_figures.of_minima(study)


def label(paths: Sequence[str]) -> dict[str, str]:
    """Return a short name for every path: its last part, or more where that is not enough."""
    if len(set(paths)) < len(paths):
        raise ValueError("A student is named twice: name each once.")
    for depth in range(1, 10):
        names = ["/".join(Path(path).parts[-depth:]) for path in paths]
        if len(set(names)) == len(paths):
            return dict(zip(names, paths, strict=True))
    return dict(zip(paths, paths, strict=True))


def parts(options: Parts) -> Result:
    """Fine-tune part by part."""
    from d2o.analysis import parts, quality_figures

    study = parts.parts(
        load(options, options.teacher),
        tuning(options),
        bench(options, "parts"),
        modes=options.modes,
        kinds=options.kinds,
        repetitions=options.repetitions,
    )
    return parts.findings(study), quality_figures.of_parts(study)


def bands(options: Bands) -> Result:
    """Filter outputs and gradients band by band."""
    from d2o.analysis import bands, quality_figures

    recipe, common, teacher = tuning(options), bench(options, "bands"), load(options, options.teacher)
    study = bands.bands(
        teacher,
        recipe,
        common,
        student=student_of(options, teacher),
        modes=options.modes,
        gradient_modes=options.gradient_modes,
        repetitions=options.repetitions,
    )
    return bands.findings(study), quality_figures.of_bands(study)


def student_of(options: Bands | Spectrum, teacher: Any) -> Any:
    """Return the model of --student, or None; ValueError for one that makes other images than the teacher."""
    if options.student is None:
        return None
    student = load(options, options.student)
    made, wanted = ((model.image_shape, model.pixel_shape, model.num_classes) for model in (student, teacher))
    if made != wanted:
        raise ValueError(
            f"--student {options.student} makes images {made[1]} of {made[2]} classes but the teacher {wanted[1]} of "
            f"{wanted[2]}: give a student of this teacher."
        )
    return student


def pretraining(options: Pretraining) -> Result:
    """Pre-train teachers of different length and fine-tune each."""
    from d2o.analysis import pretraining, quality_figures

    study = pretraining.pretraining(
        recipe_from(options.pretrain, {}, ()),
        tuning(options),
        bench(options, "pretraining"),
        lengths=options.lengths,
        repetitions=options.repetitions,
        steps=options.steps,
    )
    return pretraining.findings(study), quality_figures.of_pretraining(study)
