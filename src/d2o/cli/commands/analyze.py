"""Measure on any checkpoint what may explain one-step generation: numbers as JSON, tables, figures and a page.

studies:
  spectrum     which frequencies change at which noise level, from noise to image
  blocks       which block works on which frequencies, and what fine-tuning changed
  minima       how far a teacher's images are from its students' images

examples:
  d2o analyze spectrum runs/teacher --student runs/one-step --data digits --out why
  d2o analyze blocks runs/teacher --student runs/one-step --out why
  d2o analyze STUDY --help
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from inspect import getdoc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

import d2o
from d2o.cli.options import (
    DataOptions,
    DeviceOptions,
    Model,
    ModelOptions,
    Preparation,
    StateDictOptions,
    check_inputs,
    parse,
)
from d2o.cli.progress import counted, say
from d2o.files import check_folder
from d2o.records import nearest

if TYPE_CHECKING:
    from d2o.analysis.paths import Sampling
    from d2o.analysis.report import Report
    from d2o.diffusion.denoiser import Denoiser

MOVED = {"parts", "bands", "pretraining"}
"""Studies that are scripts in research/ now."""


@dataclass(frozen=True, kw_only=True)
class Study(DeviceOptions, StateDictOptions):
    """Options of every study; the docstring of a study is its help."""

    out: str
    """Directory of the results: JSON, PNG, SVG, and one HTML page."""
    codec: str | None = None
    """Folder of a latent model's autoencoder (diffusers)."""

    def load(self, model: str, **options: Any) -> "Denoiser":
        return d2o.load(model, device=self.find_device(), codec=self.codec, **options)

    def run(self) -> "Report":
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Watching(ModelOptions, Study):
    """Options of the way from noise to images."""

    model: Model
    """The teacher: a checkpoint or a run directory."""
    steps: int = 18
    """Number of noise levels to measure at."""
    sampler: Literal["heun", "euler"] = "heun"
    """Sampler between the noise levels."""
    seeds: str = "0-63"
    """Seeds, one per image: 0-63 or 1,5,9."""
    batch: int = 64
    """Images at once; more need more memory."""

    def sampling(self) -> "Sampling":
        from d2o.analysis.paths import Sampling
        from d2o.data.files import parse_seeds

        return Sampling(parse_seeds(self.seeds), self.steps, self.sampler, self.batch, counted)


@dataclass(frozen=True, kw_only=True)
class Spectrum(Preparation, Watching):
    """Which frequencies change between successive outputs, at each noise level.

    examples:
      d2o analyze spectrum runs/teacher --out why
      d2o analyze spectrum runs/teacher --student runs/one-step --data digits --seeds 0-255 --out why
    """

    student: str | None = None
    """A one-step student of it, to compare."""
    data: str | None = None
    """Real images to compare: a folder or zip, an .npz, .parquet or .tar, or `digits`."""

    def run(self) -> "Report":
        from d2o.analysis.spectrum import spectrum
        from d2o.analysis.spectrum_report import report

        check_inputs(self.model, self.student, data=self.data, codec=self.codec)
        teacher = self.load(self.model, **self.load_options)
        images = self.prepare(self.data, teacher) if self.data is not None else None
        teacher = self.adapt(teacher, images)
        student = self.load(self.student) if self.student is not None else None
        return report(spectrum(teacher, self.sampling(), student=student, images=images))


@dataclass(frozen=True, kw_only=True)
class Blocks(Watching):
    """Which block of the network works on which frequencies, and what fine-tuning changed.

    examples:
      d2o analyze blocks runs/teacher --out why
      d2o analyze blocks runs/teacher --after runs/one-step --steps 18 --out why
    """

    after: Annotated[str | None, tyro.conf.arg(name="student", aliases=["--after"])] = None
    """The same network after fine-tuning."""

    def run(self) -> "Report":
        from d2o.analysis.blocks import blocks
        from d2o.analysis.blocks_report import report

        check_inputs(self.model, self.after, codec=self.codec)
        after = self.load(self.after) if self.after is not None else None
        teacher = self.adapt(self.load(self.model, **self.load_options))
        return report(blocks(teacher, self.sampling(), after))


@dataclass(frozen=True, kw_only=True)
class Minima(DataOptions, Study):
    """How far a teacher's images are from its students', seed by seed, and both from the data.
    The same command resumes an interrupted study.

    examples:
      d2o analyze minima runs/teacher runs/one-step --data digits --out why
      d2o analyze minima teacher.pkl d2o.safetensors d2o-f.safetensors --data c10.zip --count 5000 --out why
    """

    teacher: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TEACHER")]
    """A checkpoint or a run directory."""
    students: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="STUDENT ...")]
    """One-step students of it."""
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Steps of the teacher's sampler (Heun's)."""
    count: Annotated[int, tyro.conf.arg(aliases=["--images"])] = 500
    """Images to measure from every generator, and as many real ones."""
    features: str = "lite2"
    """Feature space, as in `d2o evaluate`."""
    weights: str = "auto"
    """File with the feature network's weights, if they are not installed."""
    repetitions: int = 4
    """Repetitions of the whole measurement, with other seeds; fewer than 4 give no intervals."""
    batch: int = 64
    """Images at once; it does not change the result."""

    def run(self) -> "Report":
        from d2o.analysis.measurement import Measurement
        from d2o.analysis.minima import minima
        from d2o.analysis.minima_report import report
        from d2o.features.embedding import find_space

        check_inputs(self.teacher, *self.students, data=self.data, codec=self.codec)
        find_space(self.features, self.weights)
        place = Path(self.out) / "trials" / "minima"
        how = (self.count, self.features, self.weights, str(self.find_device()), self.batch, counted)
        measurement = Measurement(place, self.open(), *how)
        students = {name: self.load(path) for name, path in short_names(self.students).items()}
        teacher = self.load(self.teacher, **self.load_options)
        return report(minima(teacher, students, measurement, steps=self.steps, repetitions=self.repetitions))


STUDIES: dict[str, type[Study]] = {"spectrum": Spectrum, "blocks": Blocks, "minima": Minima}


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Return a short name for every path: its last part, or more where that is not enough."""
    if len(set(paths)) < len(paths):
        raise ValueError(f"A student is named twice among {', '.join(paths)}: name each once.")
    for depth in range(1, 10):
        names = ["/".join(Path(path).parts[-depth:]) for path in paths]
        if len(set(names)) == len(paths):
            return dict(zip(names, paths, strict=True))
    return {path: path for path in paths}


def main(arguments: Sequence[str]) -> None:
    """Run `d2o analyze`."""
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print(f"usage: d2o analyze STUDY [OPTIONS]\n\n{__doc__}", end="")
        return
    if name in MOVED:
        raise ValueError(f"`d2o analyze {name}` is now a script: python research/{name}.py --help.")
    if name == "minima" and any(word.startswith("--points") for word in rest):
        raise ValueError("--points is now a script of its own: python research/interpolation.py --help.")
    if name not in STUDIES:
        raise ValueError(f"There is no study {name!r}: {nearest(name, STUDIES)}")
    options = parse(STUDIES[name], f"analyze {name}", rest, getdoc(STUDIES[name]))
    options.find_device()
    check_folder(options.out)
    report = options.run()
    page = report.write(options.out, asdict(options))
    print(report.text())
    say(f"Open {page}")
