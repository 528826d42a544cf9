"""Draw the figures of concepts.md: python docs/figures.py [FOLDER]. Formulas and untrained networks only."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM
from d2o.diffusion.noise import ONE_STEP, karras_sigmas
from d2o.diffusion.sampling import euler_step, heun_step, trajectory
from d2o.training.freezing import CONVOLUTIONS
from d2o.training.networks import new_denoiser
from d2o.training.recipes import BACKBONES

ORANGE, BLUE, GREEN, GREY = "#D55E00", "#0072B2", "#009E73", "#666666"  # of Okabe and Ito's colour-blind-safe set
POINT = 0.7
SPREAD = 0.06


def exact(x: Any, sigma: float) -> Any:
    """Return the mean of what may be behind x, for data at -POINT and POINT with a little spread."""
    variance = SPREAD**2 + sigma**2
    mean = POINT * torch.tanh(POINT * x / variance)
    return mean + SPREAD**2 / variance * (x - mean)


def canvas(width: float = 7, columns: int = 1) -> tuple[Figure, Any]:
    """Return an empty drawing and its axes."""
    drawing = Figure(figsize=(width, 3.2), layout="constrained")
    axes = drawing.subplots(1, columns, sharey=columns > 1)
    for one in np.atleast_1d(axes):
        one.spines[["top", "right"]].set_visible(False)
    return drawing, axes


def denoiser() -> Figure:
    """Draw what the exact denoiser answers."""
    drawing, axes = canvas()
    x = torch.linspace(-2.5, 2.5, 501)
    for sigma, color in ((0.2, BLUE), (0.8, GREEN), (3.0, ORANGE)):
        axes.plot(x, exact(x, sigma), color=color, label=f"sigma = {sigma:g}")
    for point in (-POINT, POINT):
        axes.axhline(point, color=GREY, linestyle=":", linewidth=1)
    axes.set(xlabel="noisy x", ylabel="D(x, sigma)", title="A denoiser finds the clean image, on average")
    axes.legend(frameon=False, loc="lower right")
    return drawing


def sampler() -> Figure:
    """Draw walks from noise to data: in many intervals, and in one."""
    drawing, axes = canvas(9, 2)
    noise = torch.linspace(-1.6, 1.6, 12).view(-1, 1, 1, 1)
    for one, sigmas, step, title in (
        (axes[0], karras_sigmas(18), heun_step, "18 intervals, 35 calls: into the data"),
        (axes[1], ONE_STEP, euler_step, "one interval, one call: to the mean"),
    ):
        paths = torch.stack([x.flatten() for x in trajectory(exact, noise, sigmas, step)])
        levels = np.arange(len(sigmas))
        shown = paths / torch.tensor(sigmas).add(1).view(-1, 1)
        one.plot(levels, shown, color=ORANGE if len(sigmas) == 2 else BLUE, linewidth=1)
        picked = levels[:: 3 if len(sigmas) > 2 else 1]
        one.set_xticks(picked, [f"{sigmas[i]:.2g}" for i in picked])
        one.set(xlabel="sigma", title=title, ylim=(-1.7, 1.7))
        for point in (-POINT, POINT):
            one.axhline(point, color=GREY, linestyle=":", linewidth=1)
    axes[0].set_ylabel("x / (1 + sigma)")
    return drawing


def objective() -> Figure:
    """Draw what two objectives say about an answer to pure noise, when the data are two points."""
    drawing, axes = canvas()
    x = torch.linspace(-1.5, 1.5, 601)
    squared = ((x - POINT) ** 2 + (x + POINT) ** 2) / 2
    density = sum((-((x - point) ** 2) / (2 * 0.25**2)).exp() for point in (-POINT, POINT))
    adversarial = torch.nn.functional.softplus(-(density.add(0.05) / 0.3).log())  # judged by the best discriminator
    axes.plot(x, squared, color=BLUE, label="denoising: squared error, on average")
    axes.plot(x, adversarial, color=ORANGE, label="adversarial: softplus(-logit)")
    for point in (-POINT, POINT):
        axes.axvline(point, color=GREY, linestyle=":", linewidth=1)
    axes.set(
        xlabel="the answer to pure noise",
        ylabel="loss",
        title="The mean is a good guess and a bad image",
        ylim=(0, 3.6),
    )
    axes.legend(frameon=False)
    return drawing


def recipe() -> Figure:
    """Draw the parameters of the CIFAR-10 network by role."""
    with torch.device("meta"):
        made: Denoiser = new_denoiser(BACKBONES["ncsnpp-32"], (3, 32, 32), 0)
    assert isinstance(made.preconditioning, EDM)
    backbone: Any = made.backbone
    counts = Counter()
    for name, parameter in backbone.named_parameters():
        counts[backbone.role(name)] += parameter.numel()
    total = sum(counts.values())
    drawing, axes = canvas()
    rows = counts.most_common()[::-1]
    colors = [GREY if role in CONVOLUTIONS else ORANGE for role, _ in rows]
    bars = axes.barh([role for role, _ in rows], [count / 1e6 for _, count in rows], color=colors)
    axes.bar_label(bars, [f"{count / total:.1%}" for _, count in rows], padding=3, color=GREY)
    frozen = sum(counts[role] for role in CONVOLUTIONS) / total
    axes.set(xlabel="million parameters", title=f"NCSN++ of CIFAR-10: D2O-F freezes the grey roles, {frozen:.1%}")
    return drawing


FIGURES = {"denoiser": denoiser, "sampler": sampler, "objective": objective, "recipe": recipe}

if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images"
    for name, draw in FIGURES.items():
        draw().savefig(place / f"concepts-{name}.png", dpi=110)
