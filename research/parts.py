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
from trials import TuningOptions, cell, fine_tune, kid, kids, main, measure, relatives, write

from d2o.analysis.blocks import block_spectra
from d2o.analysis.figures import SMALLEST, draw_panels, error_bars
from d2o.analysis.intervals import rank_correlation, spread
from d2o.analysis.network import block_of, places
from d2o.analysis.paths import Sampling
from d2o.analysis.report import Table
from d2o.diffusion.denoiser import Denoiser
from d2o.training.freezing import default_rules


@dataclass(frozen=True, kw_only=True)
class Options(TuningOptions):
    """The options of `python research/parts.py`."""

    teacher: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TEACHER")]
    """A checkpoint or a run directory."""
    modes: tuple[Literal["train", "freeze"], ...] = ("train", "freeze")
    """Train each part alone, freeze each part alone."""
    kinds: tuple[Literal["blocks", "roles"], ...] = ("blocks", "roles")
    """What the network is cut into."""
    seeds: int = 32
    """Images on which the teacher's blocks are watched."""
    steps: int = 18
    """Noise levels at which they are watched."""


def parts_of(teacher: Denoiser, kind: str) -> dict[str, list[str]]:
    """Return the names of the parameters of every block or role; what is in no block is the part "elsewhere"."""
    blocks = places(teacher.backbone)
    role_of = getattr(teacher.backbone, "role", lambda _: "parameter")
    found: dict[str, list[str]] = {}
    for name, _ in teacher.backbone.named_parameters():
        found.setdefault(block_of(name, blocks) if kind == "blocks" else role_of(name), []).append(name)
    return found


def frozen(parts: dict[str, list[str]], part: str, mode: str) -> tuple[str, ...]:
    """Return the rules that freeze the part, or all but the part."""
    others = [name for other, names in parts.items() if other != part for name in names]
    return tuple(f"name:{name}" for name in (parts[part] if mode == "freeze" else others))


def study(options: Options) -> None:
    """Fine-tune every part of a teacher by itself, or freeze it by itself."""
    if not options.modes or not options.kinds:
        raise ValueError("Name at least one of --modes (train, freeze) and of --kinds (blocks, roles).")
    teacher, recipe, measurement = options.load(options.teacher), options.tuning(), options.measurement("parts")
    every = range(options.repetitions)

    def trial(name: str, rules: tuple[str, ...]) -> list[dict]:
        return [fine_tune(measurement, name, replace(recipe, frozen=rules), teacher, i) for i in every]

    untuned = [measure(measurement, "untuned", teacher, i) for i in every]
    everything, convolutions = trial("everything", ()), trial("d2o-f", default_rules(teacher))
    parts = {kind: parts_of(teacher, kind) for kind in options.kinds}
    asked = [(mode, kind, part) for kind, mode in product(options.kinds, options.modes) for part in parts[kind]]
    results = {
        (mode, kind, part): trial(f"{mode}-{kind[:-1]}-{part}", frozen(parts[kind], part, mode))
        for mode, kind, part in measurement.counted(asked, len(asked), "part by part", "trials")
    }
    sampling = Sampling(range(options.seeds), options.steps, counted=measurement.counted)
    spectra = {block.name: block for block in block_spectra(teacher, sampling)}
    counts = {name: parameter.numel() for name, parameter in teacher.backbone.named_parameters()}
    sizes = {(kind, part): sum(counts[name] for name in names) for kind in parts for part, names in parts[kind].items()}

    def gains(key: tuple[str, str, str]) -> np.ndarray:
        values = np.array(kids(results[key]))
        return kid(untuned) - values if key[0] == "train" else values - kid(everything)

    order = [name for name in spectra if ("blocks", name) in sizes]
    predicted = {
        "centroid of change": [spectra[block].change_centroid[0] for block in order],
        "centroid of response": [spectra[block].response_centroid[0] for block in order],
        "number of parameters": [float(sizes["blocks", block]) for block in order],
        "place in the order of calls": [float(place) for place in range(1, len(order) + 1)],
    }
    figures, links = {}, {}
    for mode in options.modes if order else ():
        outcomes = [gains((mode, "blocks", block)) for block in order]
        for predictor, values in predicted.items():
            links[predictor, mode] = rank_correlation(values, [row.mean() for row in outcomes], in_sequence=True)
        figures[f"prediction-{mode}"] = draw_predictions(predicted, outcomes, "gain" if mode == "train" else "need")
    for mode, kind in product(options.modes, options.kinds):
        rows = {part: kids(scores) for (m, k, part), scores in results.items() if (m, k) == (mode, kind)}
        lines = {"everything trained": kid(everything), "D2O-F": kid(convolutions)}
        figures[f"{mode}-{kind}"] = draw_ranking(
            rows, lines, f"KID, it alone {'trained' if mode == 'train' else 'frozen'}"
        )
    numbers = {
        "untuned": untuned,
        "everything": everything,
        "d2o_f": convolutions,
        "rank_correlations": [{"predictor": p, "mode": m, **link._asdict()} for (p, m), link in links.items()],
        "results": [
            {"mode": key[0], "kind": key[1], "part": key[2], "gain": float(gains(key).mean()), "repetitions": scores}
            for key, scores in results.items()
        ],
        "notes": relatives(options, recipe.judged_by),
    }
    rows = [(mode, kind, part, sizes[kind, part], cell(scores)) for (mode, kind, part), scores in results.items()]
    rows = [(*row, float(gains(row[:3]).mean())) for row in rows]
    title = (
        f"KID after {recipe.duration:,} images ({cell(untuned)} before, {cell(everything)} with everything trained, "
    )
    tables = [
        Table(
            f"{title}{cell(convolutions)} by D2O-F)",
            ("mode", "kind", "part", "parameters", "KID", "gain or need"),
            rows,
        ),
        Table(
            "Rank correlation over blocks with gain (train) or need (freeze)",
            ("predictor", "mode", "95 % interval"),
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
