"""The paper's comparisons on CIFAR-10 at 16x16: one command that trains everything, and skips what is done.

python benchmarks/cifar10_study.py --data cifar10-train-32x32.zip     start, or go on; many hours
python benchmarks/cifar10_study.py --data ... --hours 2               leave off at the first run that ends after that
python benchmarks/cifar10_study.py --data ... --rows d2o-f,cd         some rows alone
python benchmarks/cifar10_study.py --data ... --images 24000          no longer runs than these
python benchmarks/cifar10_study.py --quick                            every step once, at toy size, on digits
python benchmarks/cifar10_study.py --list                             what there is to do, and what is done

Started twice, it works on two runs at once, each in a process of its own with one thread. Results are lines of
benchmarks/results/STUDY.jsonl; short trials of settings, failures and pictures are in the folder beside it.
`python benchmarks/report_results.py` makes the report.
"""

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import feature_classifier
import feature_views
from examination import SPACES, Examiner, generate_pixels, open_space
from study_records import Records, alone, read_lines
from study_rows import FULL, QUICK, SIZES, Size, rows
from study_work import STOPPED, jobs, work

from d2o.checkpoints import load
from d2o.data.datasets import Images, open_images
from d2o.diffusion.denoiser import Denoiser
from d2o.features import embedding
from d2o.files import atomic

HERE = Path(__file__).parent
VERSION = 2


@dataclass
class Study:
    """Where a study keeps what, and what its steps share."""

    size: Size
    data: str
    runs: Path
    results: Path
    given: str | None = None
    opened: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.given = self.given or self.size.teacher
        locks, about = self.runs / "locks", self.results / self.size.name
        self.records = Records(about.with_suffix(".jsonl"), locks)
        self.tried = Records(about / "trials.jsonl", locks, ("row", "trial"))
        self.pictures, self.log = about, about / "log.jsonl"

    def claim(self) -> None:
        """Mark the folder of runs as this study's; ValueError where it is another's."""
        place = self.runs / "study.json"
        whole = open_images(self.data, resolution=self.size.resolution, resize=self.size.resize)
        mine = {"version": VERSION, "study": self.size.name, "data": whole.fingerprint, "teacher": self.given}
        if place.exists():
            theirs = read_lines(place)[:1] or [{}]
            if different := [name for name, value in mine.items() if theirs[0].get(name) != value]:
                what = " and ".join(different)
                raise ValueError(f"{self.runs} is of a study with another {what}: name another folder with --runs.")
        with atomic(place) as temporary:
            temporary.write_text(json.dumps(mine) + "\n")

    def reread(self) -> None:
        """Learn what other processes have found."""
        for records in (self.records, self.tried):
            records.rows = read_lines(records.file)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what was made under this name, making it at the first time."""
        if name not in self.opened:
            self.opened[name] = make()
        return self.opened[name]

    def images(self) -> tuple[Images, Images]:
        """Return the training images and those held out, small and in memory."""
        if not (self.runs / "train.npz").exists():
            resolution = self.size.resolution if self.size.resize else None
            whole = open_images(self.data, resolution=resolution, resize=self.size.resize)
            parts = whole.split(len(whole) - self.size.held_out)
            for name, part in zip(("held_out", "train"), reversed(parts), strict=True):
                with atomic(self.runs / f"{name}.npz") as temporary:
                    np.savez(temporary, images=part.pixels(range(len(part))), labels=part.labels)
        return self.once("images", lambda: tuple(open_images(self.runs / f"{n}.npz") for n in ("train", "held_out")))

    def few(self, real: int | None) -> Path:
        """Return the file of the training images, or of so many of them."""
        if real is None:
            return self.runs / "train.npz"
        place, (train, _) = self.runs / f"train-{real}.npz", self.images()
        if not place.exists():
            order = np.random.Generator(np.random.Philox(1)).permutation(len(train))[:real]
            assert train.labels is not None
            with atomic(place) as temporary:
                np.savez(temporary, images=train.pixels(order), labels=train.labels[order])
        return place

    @property
    def teacher_place(self) -> Path:
        """Where the teacher is: the model that was given, or the study's own run."""
        return Path(self.given) if self.given else self.runs / "teacher"

    @property
    def transformer_place(self) -> Path:
        return self.runs / "transformer"

    def pretrain(self, place: Path, recipe: str, images: int, *more: Any) -> None:
        """Train a teacher to its end, unless it is there."""
        self.images()  # writes train.npz
        if not (place / "ema.safetensors").exists():
            words = ["--data", self.runs / "train.npz", "--recipe", recipe, "--out", place, "--images", images, *more]
            subprocess.run(list(map(str, [sys.executable, "-m", "d2o", "pretrain", *words])), check=True)

    def teacher(self) -> Denoiser:
        """Return the teacher, trained to the end."""
        if not self.given:
            backbone = self.size.backbone
            more = ["--set", f"backbone={json.dumps(backbone)}"] if backbone else []
            self.pretrain(self.teacher_place, self.size.pretrain, self.size.pretrain_images, *more)
        return self.once("teacher", lambda: load(self.teacher_place))

    def transformer(self) -> Denoiser:
        """Return the transformer, trained to the end by flow matching."""
        with alone(self.runs / "locks" / "transformer-model", wait=True):
            self.pretrain(self.transformer_place, "cifar10-small-dit-pretrain", self.size.transformer)
        return self.once("transformer", lambda: load(self.transformer_place))

    def teacher_images(self, steps: int, transformer: bool = False) -> np.ndarray:
        """Return a teacher's images in so many steps, drawn once."""
        place = self.runs / f"{'transformer' if transformer else 'teacher'}-{steps}.npz"
        if not place.exists():
            model = self.transformer() if transformer else self.teacher()
            with atomic(place) as temporary:
                np.savez(temporary, images=generate_pixels(model, steps, self.size.examined))
        return np.load(place)["images"]

    def space(self, name: str) -> feature_classifier.Embed:
        """Return one of the study's own feature spaces: kept with the benchmarks, or learned here."""
        kept = HERE / "spaces" / f"{self.size.name}-{name}.safetensors"
        place = kept if kept.exists() else self.runs / f"{name}.safetensors"
        if not place.exists():
            (train, held_out), size = self.images(), self.size
            learn, count = {
                "classifier": (feature_classifier.train_classifier, size.classifier),
                "views": (feature_views.train_views, size.views),
            }[name]
            network, accuracy = learn(train, held_out, count, size.mirror)
            feature_classifier.save(place, network, train, accuracy)
        return feature_classifier.Embed(place)

    def examiner(self, spaces: tuple[str, ...] = SPACES) -> Examiner:
        """Return what measures images against those held out, once nobody is learning a space any more."""

        def make() -> Examiner:
            with alone(self.runs / "locks" / "spaces", wait=True):
                embed = {name: open_space(name) if name in embedding.SPACES else self.space(name) for name in spaces}
                return Examiner(*self.images(), embed, self.size.examined, self.runs / "reference")

        return self.once(f"examiner {spaces}", make)

    def command(self, row: str) -> str:
        """Return what makes a row again."""
        return f"python benchmarks/cifar10_study.py --data {Path(self.data).name} --study {self.size.name} --rows {row}"


def main() -> int:
    """Read the options and work; 1 when a step failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="CIFAR-10's training images in any form that d2o opens")
    parser.add_argument("--study", choices=SIZES, default=FULL.name, help="of what size")
    parser.add_argument("--quick", action="store_true", help="the study `quick`: toy sizes, by default on digits")
    parser.add_argument("--list", action="store_true", help="say what is done, and do nothing")
    parser.add_argument("--rows", help="some rows alone, with commas between them")
    parser.add_argument("--images", type=int, help="runs of at most so many images; by default all")
    parser.add_argument("--hours", type=float, help="start nothing after so long")
    parser.add_argument("--teacher", help="a trained model, instead of the study's")
    parser.add_argument("--runs", type=Path, help="folder of the runs; by default runs/STUDY")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the results")
    options = parser.parse_args()
    size = QUICK if options.quick else SIZES[options.study]
    if options.data is None and not (size.name.startswith("quick") or options.list):
        parser.error("name CIFAR-10's training images with --data")
    torch.set_num_threads(1)
    folder = options.runs or Path("runs") / size.name
    study = Study(size, options.data or "digits", folder, options.results, options.teacher)
    if options.list:
        for key, _, _, done in jobs(study, options.images):
            print(f"{'done' if done else '-':<5} {key}")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        study.claim()
        wanted = tuple(options.rows.split(",")) if options.rows else ()
        if unknown := set(wanted) - {row.name for row in rows(size)}:
            parser.error(f"there is no row {min(unknown)}: see --list")
        return 1 if work(study, wanted, options.hours, options.images) else 0
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. The same command again continues where it stopped.", file=sys.stderr)
        return STOPPED


if __name__ == "__main__":
    sys.exit(main())
