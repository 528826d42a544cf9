"""How well images show what they were asked for, by a CLIP model, and how much images of one prompt differ.

python benchmarks/clip_score.py IMAGES PROMPTS CLIP [--batch 32]

IMAGES is a folder, zip or .npz that `d2o sample --prompts PROMPTS` wrote: image i shows prompt i, in turns. CLIP is the
folder of a CLIPModel of transformers with its processor. It prints the mean of 100 times the cosine of image and
prompt, and that of 1 minus the cosine of two images of one prompt, each with a 95 % interval over prompts.
"""

import argparse
import json
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2o.analysis.intervals import mean_interval
from d2o.cli.commands.sample import read_prompts
from d2o.data.datasets import Images, open_images


def embed(images: Images, prompts: Sequence[str], folder: Path, batch: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield the unit vectors [n, E] of images and of the prompt of each."""
    from transformers import CLIPModel, CLIPProcessor

    model: Any = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
    processor: Any = CLIPProcessor.from_pretrained(folder, local_files_only=True)
    for first in range(0, len(images), batch):
        rows = range(first, min(first + batch, len(images)))
        words = [prompts[row % len(prompts)] for row in rows]
        shown = list(images.pixels(rows))
        inputs = processor(text=words, images=shown, return_tensors="pt", padding=True, truncation=True)
        with torch.no_grad():
            found = model(**inputs)
        yield tuple(torch.nn.functional.normalize(rows, dim=1) for rows in (found.image_embeds, found.text_embeds))


def score(images: Images, prompts: Sequence[str], folder: Path, batch: int = 32) -> dict[str, Any]:
    """Return CLIP score and diversity with intervals; diversity is None where no prompt has two images."""
    vectors, cosines = defaultdict(list), defaultdict(list)
    place = 0
    for shown, asked in embed(images, prompts, folder, batch):
        for vector, cosine in zip(shown, (shown * asked).sum(1), strict=True):
            vectors[prompts[place % len(prompts)]].append(vector)
            cosines[prompts[place % len(prompts)]].append(100 * cosine.item())
            place += 1
    pairs = [torch.stack(rows) for rows in vectors.values() if len(rows) > 1]
    apart = [((1 - rows @ rows.T).sum() / (len(rows) * (len(rows) - 1))).item() for rows in pairs]
    return {
        "images": place,
        "prompts": len(cosines),
        "clip_score": summarise([float(np.mean(rows)) for rows in cosines.values()]),
        "diversity_within_prompt": summarise(apart) if apart else None,
        "model": folder.name,
    }


def summarise(values: Sequence[float]) -> dict[str, float | None]:
    """Return the mean over prompts, and its 95 % interval where there are enough of them."""
    found = mean_interval(values)
    bounds = {"low": found.low, "high": found.high}
    return {"mean": found.value, **{name: None if isnan(bound) else bound for name, bound in bounds.items()}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("prompts")
    parser.add_argument("clip", type=Path)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    data = open_images(options.images, labels="none", captions="none")
    print(json.dumps(score(data, read_prompts(options.prompts), options.clip, options.batch), indent=2))
