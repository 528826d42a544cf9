"""Fine-tune one part of the network at a time: does what a block does to frequencies predict what training it gains?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

from d2o.checkpoints.delta import weights_sha256
from d2o.diffusion.denoiser import Denoiser
from d2o.training.freezing import d2o_f
from d2o.training.recipe import Recipe
from d2o.training.run import summary

from .blocks import BlockSpectra, watch
from .correlation import Interval, rank_correlation, verdict
from .findings import Findings, Table, caution
from .network import block_of, places
from .paths import levels, sampled
from .trials import Bench, Scores, relatives, remembered, tuned

MODES = ("train", "freeze")
KINDS = ("blocks", "roles")
DEFINITIONS = (
    "Train: only the part moves. Freeze: everything but the part moves. Same recipe, same images, same seeds; one "
    "repetition differs from the next in its seed alone. ± is the standard deviation over repetitions.",
    "Gain of training a part: KID of the teacher in one call minus KID after. Need for a part: KID with it frozen "
    "minus KID with everything moving.",
    "Predictors are taken from the teacher before any fine-tuning, as in `d2o analyze blocks`; the number of "
    "parameters is there for comparison, because a larger part may gain more for its size alone.",
    "Blocks resemble their neighbours on the way through the network: N of them count as N (1 - ab) / (1 + ab) "
    "independent ones, a and b being the autocorrelations of the ranks of both sides at lag 1. Each interval is 95 % "
    "by itself: of the six of three predictors in two modes, one may exclude zero by chance.",
)


class Part(NamedTuple):
    """Some parameters of a network, by their names in its backbone."""

    kind: str
    name: str
    parameters: frozenset[str]


@dataclass(frozen=True, eq=False)
class PartsStudy:
    """Results of all parts in all modes; `spectra` are the teacher's blocks; `sizes` count parameters."""

    untuned: Scores
    everything: Scores
    d2o_f: Scores
    results: dict[tuple[str, str, str], Scores]
    spectra: dict[str, BlockSpectra]
    sizes: dict[tuple[str, str], int]
    images: int
    notes: tuple[str, ...] = ()

    def gain(self, mode: str, kind: str, name: str) -> float:
        """Return what training the part gains, or what freezing it costs, in KID."""
        kid = self.results[mode, kind, name].kid
        return self.untuned.kid - kid if mode == "train" else kid - self.everything.kid

    def watched(self, mode: str) -> list[str]:
        """Return the blocks that have both spectra and results, in the order of their calls."""
        return [name for name in self.spectra if (mode, "blocks", name) in self.results]


def parts_of(denoiser: Denoiser, kinds: Sequence[str] = KINDS) -> list[Part]:
    """Return the network's blocks and roles with their parameters; what is in no block is the part "elsewhere"."""
    known = places(denoiser.backbone)
    role_of = getattr(denoiser.backbone, "role", lambda _: "parameter")
    sorting: dict[str, Callable[[str], str]] = {"blocks": lambda name: block_of(name, known), "roles": role_of}
    found: list[Part] = []
    for kind in kinds:
        if kind not in sorting:
            raise ValueError(f"Unknown kind of parts {kind!r}; there are {', '.join(KINDS)}.")
        members: dict[str, list[str]] = {}
        for name, _ in denoiser.backbone.named_parameters():
            members.setdefault(sorting[kind](name), []).append(name)
        found += [Part(kind, name, frozenset(names)) for name, names in members.items()]
    return found


def moving(part: Part, mode: str) -> Callable[[Denoiser], None]:
    """Return a function that lets only the part of a student train, or all but the part."""

    def choose(student: Denoiser) -> None:
        for name, parameter in student.backbone.named_parameters():
            parameter.requires_grad_((name in part.parameters) == (mode == "train"))

    return choose


def parts(
    teacher: Denoiser,
    recipe: Recipe,
    bench: Bench,
    *,
    modes: Sequence[str] = MODES,
    kinds: Sequence[str] = KINDS,
    repetitions: int = 1,
    seeds: Sequence[int] = range(32),
    steps: int = 18,
    origin: dict[str, Any] | None = None,
) -> PartsStudy:
    """Fine-tune every part of a teacher by itself, or freeze it by itself; finished trials are not done again.

    Nothing of `recipe` is frozen but for the part. `seeds` and `steps` are those of the predictors.
    """
    if set(modes) - set(MODES) or not modes:
        raise ValueError(f"Modes are {' and '.join(MODES)}, not {', '.join(modes) or 'none'}.")
    if not kinds:
        raise ValueError(f"Kinds of parts are {' and '.join(KINDS)}, not none.")
    origin, recipe = origin or {}, replace(recipe, frozen=())
    every, cut = range(repetitions), parts_of(teacher, kinds)
    known = {**origin, **bench.settings(), "teacher_sha256": weights_sha256(teacher)}

    def trial(name: str, asked: Recipe, what: dict[str, Any], prepare: Callable | None = None) -> Scores:
        rows = (
            tuned(bench, name, asked, teacher, origin={**origin, **what}, repetition=i, prepare=prepare)[0]
            for i in every
        )
        return Scores(name, tuple(rows))

    untuned = Scores(
        "teacher, one call",
        tuple(
            remembered(bench.directory / f"untuned-{i}.json", known, lambda i=i: summary(bench.judge(i)(teacher)))
            for i in every
        ),
    )
    found = {}
    everything = trial("everything", recipe, {"moves": "everything"})
    convolutions = trial("d2o-f", replace(recipe, frozen=d2o_f(teacher)), {"moves": "d2o-f"})
    asked = list(product(cut, modes))
    for part, mode in bench.counted(asked, len(asked), "part by part", "trials"):
        what = {mode: f"{part.kind[:-1]} {part.name}"}
        name = f"{mode}-{part.kind[:-1]}-{part.name}"
        found[mode, part.kind, part.name] = trial(name, recipe, what, moving(part, mode))
    spectra = {
        block.name: block
        for block in watch(teacher, sampled(teacher, seeds, steps, counted=bench.counted), levels(teacher, steps))
    }
    counts = {name: parameter.numel() for name, parameter in teacher.backbone.named_parameters()}
    sizes = {(part.kind, part.name): sum(counts[name] for name in part.parameters) for part in cut}
    notes = relatives(bench, recipe)
    return PartsStudy(untuned, everything, convolutions, found, spectra, sizes, recipe.duration, notes)


PREDICTORS: dict[str, Callable[[PartsStudy, str], float]] = {
    "centroid of change": lambda study, name: study.spectra[name].change_centroid[0],
    "centroid of response": lambda study, name: study.spectra[name].response_centroid[0],
    "number of parameters": lambda study, name: float(study.sizes["blocks", name]),
    "place in the order of calls": lambda study, name: 1.0 + list(study.spectra).index(name),
}
OUTCOMES = {"train": "the gain of training it alone", "freeze": "the need for it to move"}


def predictions(study: PartsStudy) -> dict[tuple[str, str], Interval]:
    """Return the rank correlation over blocks of every predictor with every mode's outcome."""
    found = {}
    for mode in dict.fromkeys(mode for mode, kind, _ in study.results if kind == "blocks"):
        names = study.watched(mode)
        gains = [study.gain(mode, "blocks", name) for name in names]
        for predictor, value in PREDICTORS.items():
            found[predictor, mode] = rank_correlation([value(study, name) for name in names], gains, in_sequence=True)
    return found


def findings(study: PartsStudy) -> Findings:
    """Return what the study says, in words, tables and numbers."""
    links = predictions(study)
    sentences = [
        f"After {study.images:,} images KID has gone from {study.untuned.cell()} to {study.everything.cell()} when "
        f"everything moves, and to {study.d2o_f.cell()} when D2O-F's roles are frozen.",
        *(
            verdict(link, f"the higher a block's {predictor}, the larger {OUTCOMES[mode]}")
            for (predictor, mode), link in links.items()
        ),
    ]
    for mode, kind in dict.fromkeys((mode, kind) for mode, kind, _ in study.results):
        names = [name for m, k, name in study.results if (m, k) == (mode, kind)]
        best = sorted(names, key=lambda name: -study.gain(mode, kind, name))[:3]
        train = mode == "train"
        outcome = "do best when trained alone (gain in KID)" if train else "are needed most (rise of KID when frozen)"
        told = ", ".join(f"{name} ({study.gain(mode, kind, name):+.3g})" for name in best)
        sentences.append(f"Of the {kind}, these {outcome}: {told}.")
    sentences += (*caution(len(study.everything.rows)), *study.notes)
    return Findings(
        kind="parts",
        title="Parts: does a block's frequency response predict what training it gains?",
        question="If one-step ability lies in how blocks handle frequencies, blocks of other frequencies should matter "
        "differently for fine-tuning. Do they?",
        conclusion=tuple(sentences),
        tables=(results(study),),
        numbers={
            "images": study.images,
            "untuned": study.untuned.as_dict(),
            "everything": study.everything.as_dict(),
            "d2o_f": study.d2o_f.as_dict(),
            "rank_correlations": [
                {"predictor": predictor, "mode": mode, **link._asdict()} for (predictor, mode), link in links.items()
            ],
            "results": [
                {"mode": m, "kind": k, "part": n, "gain": study.gain(m, k, n), **scores.as_dict()}
                for (m, k, n), scores in study.results.items()
            ],
        },
        definitions=DEFINITIONS,
    )


def results(study: PartsStudy) -> Table:
    """Return the table of all trials."""
    modes = list(dict.fromkeys(mode for mode, _, _ in study.results))
    rows = []
    for kind, name in dict.fromkeys((kind, name) for _, kind, name in study.results):
        block = study.spectra.get(name) if kind == "blocks" else None
        cells = [block.change_centroid[0], block.response_centroid[0]] if block else [None, None]
        for mode in modes:
            scores = study.results.get((mode, kind, name))
            cells += [scores.cell(), study.gain(mode, kind, name)] if scores else [None, None]
        rows.append((name, kind[:-1], study.sizes[kind, name], *cells))
    heads = {"train": ("KID, it alone trained", "gain"), "freeze": ("KID, it alone frozen", "need")}
    columns = (
        "part",
        "kind",
        "parameters",
        "change centroid",
        "response centroid",
        *(h for m in modes for h in heads[m]),
    )
    return Table(f"KID after {study.images:,} images (centroids in cycles per image)", columns, rows)
