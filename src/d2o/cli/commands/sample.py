"""Make images from a model.

examples:
  d2o sample runs/one-step --seeds 0-63 --out grid.png
  d2o sample DiT-XL-2-256x256.pt --codec vae --steps 32 --out grid.png
  d2o sample runs/teacher --seeds 0-9999 --steps 18 --class 3 --out threes.npz
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

import d2o
from d2o.cli.options import OWN_IMAGES, DeviceOptions, Model, ModelOptions, check_inputs, parse, tell
from d2o.cli.progress import counted, say
from d2o.data.files import check_images, parse_seeds, to_uint8, write_images
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.sampling import SAMPLERS, Churn, condition_for, generate
from d2o.encoders.codec import check_pixels
from d2o.files import read_bytes
from d2o.records import shorten

LARGEST_PROMPTS = 1 << 24
"""Bytes of a file of prompts."""


@dataclass(frozen=True, kw_only=True)
class Sample(DeviceOptions, ModelOptions):
    """The options of `d2o sample`."""

    model: Model
    """A checkpoint or a run directory."""
    out: str
    """FILE.png: a grid; FILE.npz: arrays; FILE.zip or a directory: single images."""
    seeds: str = "0-63"
    """Seeds, one per image: 0-63 or 1,5,9."""
    steps: int = 1
    """Sampling steps: 1 for one-step generators, 18 or more for diffusion models."""
    class_: Annotated[str | None, tyro.conf.arg(name="class", metavar="K|NAME")] = None
    """The class of all images, by name or number; by default seed modulo the number of classes."""
    prompt: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """What the images should show, for models conditioned on captions; with several, image i takes the i-th in turn."""
    prompts: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """A text file with one prompt per line."""
    sampler: Annotated[str, tyro.conf.arg(metavar="heun|euler|renoise")] = "heun"
    """renoise: add noise after each step, for few-step sampling of one-step generators."""
    middle_sigmas: tuple[float, ...] | None = None
    """Noise levels between 80 and 0, instead of Karras's or the model's own: --sampler renoise --middle-sigmas 0.8."""
    churn: float | None = None
    """Amount of fresh noise, for stochastic sampling."""
    guidance: float = 1.0
    """Scale of classifier-free guidance, for conditional models: two calls per step unless it is 1."""
    batch: int = 64
    """Images at once; it does not change the result."""
    codec: str | None = None
    """Folder of a latent model's autoencoder (diffusers)."""
    base: str | None = None
    """The model that it was fine-tuned from, if the file has only the weights that fine-tuning changed."""
    json: bool = False
    """Print JSON instead of text."""

    def ask(self, denoiser: Denoiser, count: int) -> str | list[str] | None:
        """Return the class of all images or the prompt of each; None where none is named."""
        prompts = list(self.prompt) + ([] if self.prompts is None else read_prompts(self.prompts))
        if not all(map(str.strip, prompts)):
            raise ValueError("--prompt is empty: say what the images should show, or leave it out.")
        if prompts and denoiser.reader is None:
            raise ValueError(f"{self.model} does not read prompts: leave --prompt out.")
        if self.class_ is not None and denoiser.reader is not None:
            raise ValueError(f"{self.model} has no classes: use --prompt.")
        if prompts:
            return [prompts[place % len(prompts)] for place in range(count)]
        return self.class_


def read_prompts(file: str) -> list[str]:
    """Return the lines of a text file that are not empty; anything else is a ValueError."""
    try:
        lines = read_bytes(Path(file), LARGEST_PROMPTS).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--prompts {file} cannot be read as text ({error}).") from error
    if not (prompts := [line.strip() for line in lines if line.strip()]):
        raise ValueError(f"--prompts {file} is empty: write a prompt on each line.")
    return prompts


def main(arguments: Sequence[str]) -> None:
    """Run `d2o sample`."""
    options = parse(Sample, "sample", arguments, __doc__)
    seeds = parse_seeds(options.seeds)
    if options.sampler not in SAMPLERS:
        remedy = "for fresh noise in every step use --churn AMOUNT"
        raise ValueError(f"--sampler {options.sampler[:60]} is not one of {', '.join(SAMPLERS)}; {remedy}.")
    check_images(options.out)
    device = options.find_device()
    check_inputs(options.model, options.base, codec=options.codec)
    how = {"device": device, "base": options.base, "codec": options.codec, **options.load_options}
    denoiser = d2o.load(options.model, **how)
    check_pixels(denoiser)
    denoiser = options.adapt(denoiser)
    condition = condition_for(denoiser, seeds, options.ask(denoiser, len(seeds)))
    labels = condition.tolist() if denoiser.num_classes else None
    if options.steps == 1 and not options.middle_sigmas and not denoiser.one_step:
        from d2o.checkpoints.inspection import warn_about_one_step

        say(str(warn_about_one_step(denoiser, OWN_IMAGES)))
    batches = generate(
        denoiser,
        seeds,
        steps=options.steps,
        condition=condition,
        sampler=options.sampler,
        churn=None if options.churn is None else Churn(options.churn),
        middle_sigmas=options.middle_sigmas,
        guidance=options.guidance,
        batch_size=options.batch,
    )
    began = time.monotonic()
    pixels = counted((to_uint8(images, options.model) for images in batches), len(seeds), options.out)
    write_images(options.out, pixels, seeds, labels)
    seconds = time.monotonic() - began
    classes = Counter(denoiser.classes[label] for label in labels or ())
    if options.json:
        record = {"path": options.out, "images": len(seeds), "seconds": round(seconds, 3), "steps": options.steps}
        tell({**record, "model": options.model, "seeds": options.seeds, "classes": classes}, "", as_json=True)
    shown = f" of {shorten([*classes])}" if classes else ""
    say(f"{options.out}: {len(seeds):,} images{shown} in {seconds:.1f} s ({len(seeds) / seconds:,.0f}/s)")
