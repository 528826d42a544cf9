"""Which frequencies appear at which noise level: D_FFT along the way from noise to image (arXiv 2506.09376, section 5).

The paper publishes no definition. Ours: D_FFT(t) is the radially averaged power spectrum of O_t - O_(t-1), successive
outputs of the denoiser, normalised to sum 1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from d2o.data.datasets import Images
from d2o.diffusion.denoiser import Denoiser
from d2o.metrics.counting import Counted, unshown
from d2o.training.networks import check_fit

from .correlation import verdict
from .findings import Cell, Findings, Table, measured, shown
from .paths import Path, ask, levels, noised, outputs, sampled
from .progression import Progression, Tally, deviation, mean, progression

DEFINITIONS = (
    "D_FFT(t, k) = P_t(k) / sum over k of P_t(k), where P_t(k) is the mean of |F(O_t - O_(t-1))|^2 over the Fourier "
    "coefficients whose radius rounds to k cycles per image, mean over channels. O_t = D(x_t, sigma_t).",
    "Centroid(t) = sum over k of k D_FFT(t, k), in cycles per image.",
    "Band energy: the share of each octave (0, 1, 2-3, 4-7 ... cycles per image) in the energy of O_t - O_(t-1), that "
    "is, in the sum of |F|^2 over all coefficients. White noise has about 4 times the energy in each next octave.",
    "All at once: the same of the last output minus the first, of the student's one-step image minus the teacher's "
    "first output from the same noise, and of a real image minus the teacher's first output for it.",
    "Intervals are over the seeds, or the real images, of this one network: one that is trained again, with another "
    "seed, may differ by more. In two trainings of one recipe even the sign of the student's correlation changed.",
)


@dataclass(frozen=True, eq=False)
class SpectrumStudy:
    """Progressions step by step, and the whole change at once of each set of images."""

    progressions: tuple[Progression, ...]
    at_once: tuple[Progression, ...]
    steps: int
    sampler: str


def spectrum(
    teacher: Denoiser,
    *,
    student: Denoiser | None = None,
    images: Images | None = None,
    seeds: Sequence[int] = range(64),
    steps: int = 18,
    sampler: str = "heun",
    batch_size: int = 64,
    counted: Counted = unshown,
) -> SpectrumStudy:
    """Watch a teacher on the way from noise to images, and, if given, a student on the same way and real data.

    The student is asked at the very x_t that the teacher visits. Real images are noised to the same levels, one noise
    an image. `sampler` is heun or euler. Memory is bounded by the batch.
    """
    if student is not None and (student.image_shape, student.num_classes) != (teacher.image_shape, teacher.num_classes):
        raise ValueError(
            f"The student makes images {student.image_shape} of {student.num_classes} classes but the teacher "
            f"{teacher.image_shape} of {teacher.num_classes}: give a student of this teacher."
        )
    if images is not None:
        check_images(teacher, images)
    sigmas = levels(teacher, steps)
    followed, whole = (
        Tally(),
        {"teacher, all at once": Tally(), "student, one step": Tally(), "real data, all at once": Tally()},
    )

    def watched() -> Iterator[Iterator[Tensor]]:
        for path in sampled(teacher, seeds, steps, sampler, batch_size, counted):
            yield watch(path)

    def watch(path: Path) -> Iterator[Tensor]:
        first = last = answer = None
        for sigma, x in path.points:
            last = ask(teacher, x, sigma, path.label, "teacher")
            if first is None:
                first = last
                if student is not None:
                    start = student.sigma_max
                    made = ask(student, x / sigma * start, start, path.label, "student")
                    whole["student, one step"].add(0, made - first)
            if student is not None:
                before, answer = answer, ask(student, x, sigma, path.label, "student")
                if before is not None:
                    followed.add(sigmas.index(sigma), answer - before)
            yield last
        assert first is not None and last is not None
        whole["teacher, all at once"].add(0, last - first)

    def real() -> Iterator[Iterator[Tensor]]:
        assert images is not None
        for path, x0 in noised(teacher, images, seeds, steps, batch_size, counted):
            yield compare(outputs(teacher, path, "teacher on real data"), x0)

    def compare(found: Iterator[Tensor], x0: Tensor) -> Iterator[Tensor]:
        first = next(found)
        whole["real data, all at once"].add(0, x0 - first)
        yield first
        yield from found

    with torch.no_grad():
        progressions = [progression("teacher", sigmas, watched())]
        if images is not None:
            progressions.append(progression("real data", sigmas, real()))
        if student is not None:
            progressions.append(followed.progression("student", sigmas[1:]))
    at_once = [tally.progression(name, sigmas[-1:]) for name, tally in whole.items() if tally.sums]
    return SpectrumStudy(tuple(progressions), tuple(at_once), steps, sampler)


def check_images(teacher: Denoiser, images: Images) -> None:
    """Raise a ValueError for images that cannot be compared with the teacher's, before anything is watched."""
    check_fit(teacher, images)
    if len(images) < 2:
        raise ValueError(f"{images.name} has one image alone: a spread over real images needs at least 2 of them.")


CLAIMS = {
    "teacher": "from noise to image, the teacher's changes move from low to high frequencies",
    "real data": "so they do when the teacher restores real images from less and less noise",
    "student": "the student, asked along the teacher's way, still moves from low to high frequencies",
}


def findings(study: SpectrumStudy) -> Findings:
    """Return what the study says, in words, tables and numbers."""
    sentences = [verdict(found.rise(), CLAIMS[found.name]) for found in study.progressions]
    sentences.extend(ends(found) for found in study.progressions)
    flat = (study.progressions[0].spectrum.shape[1] - 1) / 2
    sentences.append(f"For comparison: the centroid of white noise is {flat:.2f} cycles per image.")
    once = {found.name: found for found in study.at_once}
    if "student, one step" in once:
        sentences.append(comparison(once))
    sentences += fewer(study)
    everything = (*study.progressions, *study.at_once)
    bands = study.progressions[0].bands
    rows = [
        (found.name, len(found.centroids), cell(found.centroids.mean(1)), *percents(mean(mean(found.energies))))
        for found in everything
    ]
    shares = tuple(f"{band} c/img" for band in bands)
    return Findings(
        kind="spectrum",
        title="Spectrum: which frequencies appear at which noise level",
        question="Does the change between successive outputs of the denoiser move from low to high frequencies?",
        conclusion=tuple(sentences),
        tables=(
            Table(
                "Mean centroid (cycles per image, ± standard deviation over images) and band energies",
                ("outputs", "N", "centroid", *shares),
                rows,
            ),
            *(
                Table(f"The {found.name}, step by step", ("change", "sigma", "centroid", *shares), step_by_step(found))
                for found in study.progressions
            ),
        ),
        numbers={
            "steps": study.steps,
            "sampler": study.sampler,
            "progressions": [found.as_dict() for found in study.progressions],
            "at_once": [found.as_dict() for found in study.at_once],
        },
        definitions=DEFINITIONS,
    )


def step_by_step(found: Progression) -> list[tuple[Cell, ...]]:
    """Return the rows of a progression's table: one a change."""
    return [
        (step + 1, float(sigma), cell(found.centroids[:, step]), *percents(energy))
        for step, (sigma, energy) in enumerate(zip(found.sigmas, mean(found.energies), strict=True))
    ]


def cell(values: np.ndarray) -> str:
    """Return mean ± standard deviation over images [N], a dash where none of them has a spectrum."""
    middle = float(mean(values))
    return measured(middle, float(deviation(values)) if np.isfinite(middle) else None)


def percents(shares: np.ndarray) -> list[str]:
    """Return shares as cells, a dash for those that are not known."""
    return [f"{share:.1%}" if np.isfinite(share) else shown(None) for share in shares.tolist()]


def fewer(study: SpectrumStudy) -> list[str]:
    """Return a sentence where there are fewer real images than the teacher makes."""
    counts = {found.name: len(found.centroids) for found in study.progressions}
    real, made = counts.get("real data", counts["teacher"]), counts["teacher"]
    return [f"Of real images there are only {real}, each taken once; of the teacher's, {made}."] if real < made else []


def ends(found: Progression) -> str:
    """Return where the centroid begins and ends, as a sentence."""
    centroids = mean(found.centroids)
    known = np.isfinite(centroids)
    if not known.any():
        return f"The {found.name} has no centroid: its outputs do not change."
    centroids, sigmas = centroids[known], found.sigmas[known]
    lowest, highest = int(centroids.argmin()), int(centroids.argmax())
    return (
        f"The centroid of the {found.name} is {centroids[0]:.2f} cycles per image at sigma {sigmas[0]:.3g} and "
        f"{centroids[-1]:.2f} at sigma {sigmas[-1]:.3g}; it is lowest ({centroids[lowest]:.2f}) at sigma "
        f"{sigmas[lowest]:.3g} and highest ({centroids[highest]:.2f}) at sigma {sigmas[highest]:.3g}."
    )


def comparison(once: dict[str, Progression]) -> str:
    """Return how the student's single step compares with what it replaces, as a sentence; a dash: no change at all."""
    middles = {name.split(",")[0]: float(mean(found.centroids.mean(1))) for name, found in once.items()}
    parts = [f"{name} {middle:.2f}" if np.isfinite(middle) else f"{name} -" for name, middle in middles.items()]
    return f"The centroids of the whole change at once are, in cycles per image: {', '.join(parts)}."
