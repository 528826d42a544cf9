"""Fine-tune one part of a network at a time: does what a block does to frequencies predict what training it gains?

Train: only the part trains. Freeze: everything but the part trains. Gain of training a part: KID of the teacher in one
call minus KID after. Need for a part: KID with it frozen minus KID with everything training. The predictors are the
teacher's, as in `d2o analyze blocks`.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from trials import TuningOptions, cell, find_overlap, fine_tune, kid, kids, main, measure, write

from d2o.analysis.blocks import BlockSpectra, block_spectra
from d2o.analysis.figures import SMALLEST, draw_panels, error_bars
from d2o.analysis.intervals import rank_correlation, spread
from d2o.analysis.measurement import Score
from d2o.analysis.network import block_of, places
from d2o.analysis.paths import Sampling
from d2o.analysis.report import Table
from d2o.diffusion.denoiser import Denoiser
from d2o.training.freezing import default_rules, roles_of
from d2o.training.recipe import Recipe

Trial = tuple[str, str, str]
"""Mode (train, freeze), kind (blocks, roles), and name of the part."""


@dataclass(frozen=True, kw_only=True)
class Options(TuningOptions):
    """The options of `python research/parts.py`."""

    teacher: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TEACHER")]
    """A checkpoint or a run directory."""
    modes: tuple[Literal["train", "freeze"], ...] = ("train", "freeze")
    """Train each part alone, freeze each part alone."""
    kinds: tuple[Literal["blocks", "roles"], ...] = ("blocks", "roles")
    """Parts to divide the network into."""
    seeds: int = 32
    """Number of images to record the teacher's blocks on."""
    steps: int = 18
    """Number of noise levels to record them at."""


def parts_of(teacher: Denoiser, kind: str) -> dict[str, list[str]]:
    """Return the names of the parameters of every block or role; what is in no block is the part "elsewhere"."""
    blocks = places(teacher.backbone)
    found: dict[str, list[str]] = {}
    for name, role in roles_of(teacher).items():
        found.setdefault(block_of(name, blocks) if kind == "blocks" else role, []).append(name)
    return found


def freezing_rules(parts: dict[str, list[str]], part: str, mode: str) -> tuple[str, ...]:
    """Return the rules that freeze the part, or all but the part."""
    others = [name for other, names in parts.items() if other != part for name in names]
    return tuple(f"name:{name}" for name in (parts[part] if mode == "freeze" else others))


@dataclass(frozen=True)
class Found:
    """Scores, one a repetition: without training, with everything, by D2O-F, and of every (mode, kind, part)."""

    untuned: list[Score]
    everything: list[Score]
    d2o_f: list[Score]
    results: dict[Trial, list[Score]]
    sizes: dict[tuple[str, str], int]
    spectra: dict[str, BlockSpectra]

    def gains(self, trial: Trial) -> np.ndarray:
        """Return what training a part gains, or what freezing it costs, in KID."""
        values = np.array(kids(self.results[trial]))
        return kid(self.untuned) - values if trial[0] == "train" else values - kid(self.everything)

    def predictors(self) -> dict[str, list[float]]:
        """Return what may predict the gains of the blocks, in the order of their calls."""
        return {
            "centroid of change": [block.change_centroid[0] for block in self.spectra.values()],
            "centroid of response": [block.response_centroid[0] for block in self.spectra.values()],
            "number of parameters": [float(self.sizes["blocks", name]) for name in self.spectra],
            "place in the order of calls": [float(place) for place in range(1, len(self.spectra) + 1)],
        }


def study(options: Options) -> None:
    """Fine-tune every part of a teacher by itself, or freeze it by itself."""
    if not options.modes or not options.kinds:
        raise ValueError("Name at least one of --modes (train, freeze) and of --kinds (blocks, roles).")
    teacher, recipe, measurement = options.load(options.teacher), options.tuning(), options.measurement("parts")
    every = range(options.repetitions)

    def train(name: str, rules: tuple[str, ...]) -> list[Score]:
        return [fine_tune(measurement, name, replace(recipe, frozen=rules), teacher, i) for i in every]

    untuned = [measure(measurement, "untuned", teacher, i) for i in every]
    everything, convolutions = train("everything", ()), train("d2o-f", default_rules(teacher))
    parts = {kind: parts_of(teacher, kind) for kind in options.kinds}
    asked = [(mode, kind, part) for kind, mode in product(options.kinds, options.modes) for part in parts[kind]]
    results = {
        (mode, kind, part): train(f"{mode}-{kind[:-1]}-{part}", freezing_rules(parts[kind], part, mode))
        for mode, kind, part in measurement.counted(asked, len(asked), "part by part", "trials")
    }
    counts = {name: parameter.numel() for name, parameter in teacher.backbone.named_parameters()}
    sizes = {(kind, part): sum(counts[name] for name in names) for kind in parts for part, names in parts[kind].items()}
    sampling = Sampling(range(options.seeds), options.steps, counted=measurement.counted)
    watched = block_spectra(teacher, sampling) if "blocks" in options.kinds else ()
    spectra = {block.name: block for block in watched if ("blocks", block.name) in sizes}
    report(options, recipe, Found(untuned, everything, convolutions, results, sizes, spectra))


def report(options: Options, recipe: Recipe, found: Found) -> None:
    """Write numbers, tables and figures."""
    links, figures = {}, {}
    for mode in options.modes if found.spectra else ():
        outcomes = [found.gains((mode, "blocks", name)) for name in found.spectra]
        for predictor, values in found.predictors().items():
            links[predictor, mode] = rank_correlation(values, [row.mean() for row in outcomes], in_sequence=True)
        outcome = "gain" if mode == "train" else "need"
        figures[f"prediction-{mode}"] = draw_predictions(found.predictors(), outcomes, outcome)
    for mode, kind in product(options.modes, options.kinds):
        rows = {part: kids(scores) for (m, k, part), scores in found.results.items() if (m, k) == (mode, kind)}
        lines = {"everything trained": kid(found.everything), "D2O-F": kid(found.d2o_f)}
        title = f"KID, it alone {'trained' if mode == 'train' else 'frozen'}"
        figures[f"{mode}-{kind}"] = draw_ranking(rows, lines, title)
    gains = {trial: float(found.gains(trial).mean()) for trial in found.results}
    numbers = {
        "untuned": found.untuned,
        "everything": found.everything,
        "d2o_f": found.d2o_f,
        "rank_correlations": [{"predictor": p, "mode": m, **link._asdict()} for (p, m), link in links.items()],
        "results": [
            {"mode": trial[0], "kind": trial[1], "part": trial[2], "gain": gains[trial], "repetitions": scores}
            for trial, scores in found.results.items()
        ],
        "notes": find_overlap(options, recipe.judged_by),
    }
    title = (
        f"KID after {recipe.duration:,} images ({cell(found.untuned)} before, {cell(found.everything)} with everything "
        f"trained, {cell(found.d2o_f)} by D2O-F)"
    )
    rows = [(*trial, found.sizes[trial[1:]], cell(scores), gains[trial]) for trial, scores in found.results.items()]
    tables = [
        Table(title, ("mode", "kind", "part", "parameters", "KID", "gain or need"), rows),
        Table(
            "Rank correlation over blocks with gain (train) or need (freeze), 95 % interval",
            ("predictor", "mode", "rank correlation"),
            [(predictor, mode, link) for (predictor, mode), link in links.items()],
        ),
    ]
    write(options, "parts", numbers, tables, figures)


def draw_ranking(rows: dict[str, list[float]], lines: dict[str, float], title: str) -> Any:
    """Draw the KID of every part, one standard deviation over repetitions as bars."""

    def draw(axes: Any) -> None:
        heights = np.arange(len(rows))[::-1]
        means, deviations = zip(*(spread(values) for values in rows.values()), strict=True)
        errors = [sd or 0 for sd in deviations]
        axes.errorbar(means, heights, xerr=errors, fmt="o", color="#0072B2", elinewidth=0.8, capsize=1.5)
        for (name, value), style in zip(lines.items(), ("--", ":"), strict=True):
            axes.axvline(value, color="#D55E00", linestyle=style, linewidth=0.9, label=name)
        axes.set_yticks(heights, list(rows), fontsize=SMALLEST)
        axes.set(xlabel=title, ylim=(-0.6, len(rows) - 0.4))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    return draw_panels(0.7 + 0.16 * len(rows), draw)


def draw_predictions(predicted: dict[str, list[float]], outcomes: list[np.ndarray], outcome: str) -> Any:
    """Draw the outcome of every block against each predictor."""

    def draw(*panels: Any) -> None:
        for axes, (predictor, values) in zip(panels, predicted.items(), strict=True):
            axes.axhline(0, color="#999999", linewidth=0.6, zorder=0.5)
            error_bars(axes, values, outcomes, fmt="o", color="#0072B2")
            axes.set(ylabel=f"{outcome} (KID)", xlabel=predictor, xscale="log" if "number" in predictor else "linear")

    return draw_panels(7.0, draw, count=len(predicted))


if __name__ == "__main__":
    main(Options, study, __doc__)
