"""The studies of `d2o analyze`: options of each, and what it does with them; it returns findings and figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .arguments import DataOptions, Model, Set, recipe_from, with_codec
from .terminal import watch

Result = tuple[Any, list]
"""Findings, and the figures that go with them."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """Options of every study."""

    out: str
    """Directory of the results: JSON, PNG, SVG, and one HTML page."""
    device: str = "cpu"
    """cpu, cuda, mps."""


@dataclass(frozen=True, kw_only=True)
class Walk(Output):
    """Options of the way from noise to images."""

    model: Model
    """The teacher: a checkpoint or a run directory."""
    steps: int = 18
    """Noise levels at which it is watched."""
    sampler: Literal["heun", "euler"] = "heun"
    """How it walks from one to the next."""
    seeds: str = "0-63"
    """Image i depends on its seed only: 0-63 or 1,5,9."""
    batch: int = 64
    """Images at once: the memory that is needed."""


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
        from d2o.pixels.datasets import open_images

        return open_images(self.data, resolution=self.resolution, resize=self.resize, channels=self.channels)


@dataclass(frozen=True, kw_only=True)
class Blocks(Walk):
    """The options of `d2o analyze blocks`."""

    after: str | None = None
    """The same network after fine-tuning."""


def load(options: Output, model: str) -> Any:
    """Return a model on the device."""
    import d2o

    return with_codec(d2o.load(model, device=options.device), None)


def spectrum(options: Spectrum) -> Result:
    """Return the findings and figures of `d2o analyze spectrum`."""
    from d2o.analysis import figures, spectrum
    from d2o.pixels.files import parse_seeds

    study = spectrum.spectrum(
        load(options, options.model),
        student=None if options.student is None else load(options, options.student),
        images=options.images(),
        seeds=parse_seeds(options.seeds),
        steps=options.steps,
        sampler=options.sampler,
        batch_size=options.batch,
    )
    return spectrum.findings(study), figures.of_spectrum(study)


def blocks(options: Blocks) -> Result:
    """Return the findings and figures of `d2o analyze blocks`."""
    from d2o.analysis import block_figures, blocks
    from d2o.pixels.files import parse_seeds

    study = blocks.blocks(
        load(options, options.model),
        None if options.after is None else load(options, options.after),
        seeds=parse_seeds(options.seeds),
        steps=options.steps,
        sampler=options.sampler,
        batch_size=options.batch,
    )
    return blocks.findings(study), block_figures.of_blocks(study)


@dataclass(frozen=True, kw_only=True)
class Measured(DataOptions, Output):
    """Options of studies that measure the quality of images."""

    count: int = 500
    """Images of every generator that are measured, and as many real ones."""
    features: str = "lite2"
    """Feature space, as in `d2o evaluate`."""
    weights: str = "auto"
    """File of the feature network's weights, where they are not installed."""
    repetitions: int = 2
    """How often everything is measured, with other seeds: where the error bars come from."""


@dataclass(frozen=True, kw_only=True)
class Minima(Measured):
    """The options of `d2o analyze minima`."""

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
    batch: int = 64
    """Images at once; it does not change the result."""


@dataclass(frozen=True, kw_only=True)
class Trials(Measured):
    """Options of studies that fine-tune. The same command again continues, and does nothing twice."""

    recipe: str = "digits-d2o"
    """How every trial is fine-tuned: a name (see `d2o recipes`) or a .json or .yaml file."""
    images: int = 2_560
    """Images of fine-tuning, the same for every trial."""
    set: Set = ()
    """Change any other key of the recipe: --set batch_size=32."""


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
    from d2o.metrics.evaluation import Judge

    if options.points:
        barrier.check_points(options.points)
    names = label(options.students)
    images, teacher = options.open(), load(options, options.teacher)
    students = {name: load(options, path) for name, path in names.items()}
    minima.check(teacher, students, images, options.steps, options.repetitions)
    walks, unlike = [], []
    if options.points:
        judge = Judge(
            images, images=options.count, features=options.features, weights=options.weights, device=options.device
        )
        for name, student in students.items():
            if differing(teacher, student):
                unlike.append(name)
            else:
                walks.append(barrier.walk(teacher, student, images, judge, name=name, points=options.points))
    study = minima.minima(
        teacher,
        students,
        images,
        steps=options.steps,
        count=options.count,
        repetitions=options.repetitions,
        batch_size=options.batch,
        device=options.device,
        barriers=walks,
        unlike=unlike,
        features=options.features,
        weights=options.weights,
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


def bench(options: Trials, study: str) -> Any:
    """Return what the trials of a study have in common."""
    from d2o.analysis.trials import Bench

    if options.repetitions < 1:
        raise ValueError(f"--repetitions is at least 1, not {options.repetitions}.")
    place = Path(options.out) / "trials" / study
    return Bench(place, options.open(), options.count, options.features, options.weights, options.device, watch)


def tuning(options: Trials) -> Any:
    """Return the recipe of fine-tuning."""
    return recipe_from(options.recipe, {"duration": options.images}, options.set)


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
        origin={"from": options.teacher},
    )
    return parts.findings(study), quality_figures.of_parts(study)


def bands(options: Bands) -> Result:
    """Filter outputs and gradients band by band."""
    from d2o.analysis import bands, quality_figures

    study = bands.bands(
        load(options, options.teacher),
        tuning(options),
        bench(options, "bands"),
        student=None if options.student is None else load(options, options.student),
        modes=options.modes,
        gradient_modes=options.gradient_modes,
        repetitions=options.repetitions,
        origin={"from": options.teacher, "student": options.student},
    )
    return bands.findings(study), quality_figures.of_bands(study)


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
