"""Fine-tune one teacher against several judges, and compare quality by processor time in two unrelated feature spaces.

python benchmarks/judges.py --from digits-teacher --data digits --classifier classifier.safetensors --out rows.jsonl \\
    --row digits-d2o-f --row "digits-own-features discriminator.width=64"

A row is a recipe with what `d2o finetune` would take after --set. `--classifier` is what feature_classifier.py makes.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from examination import generate_pixels
from feature_classifier import Embed

from d2o.checkpoints.loading import load
from d2o.data.datasets import open_images
from d2o.features.embedding import embedding
from d2o.metrics.distances import kid
from d2o.training.loop import train
from d2o.training.networks import networks
from d2o.training.recipe import Recipe, change
from d2o.training.recipes import find_recipe

BATCH = 250


def parse_row(row: str) -> Recipe:
    """Return the recipe of a row, of which the parts between the changes' names are values in YAML."""
    name, *rest = row.split(" ")
    recipe, changes = find_recipe(name), []
    for word in rest:
        if "=" in word:
            changes.append(word)
        else:
            changes[-1] += f" {word}"
    for path, _, value in (one.partition("=") for one in changes):
        recipe = change(recipe, path, yaml.safe_load(value))
    return recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="teacher", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--resize")
    parser.add_argument("--classifier", type=Path, required=True)
    parser.add_argument("--row", action="append", required=True)
    parser.add_argument("--images", type=int, default=7_040)
    parser.add_argument("--marks", type=int, default=2)
    parser.add_argument("--compared", type=int, default=1_500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = open_images(options.data, resolution=options.resolution, resize=options.resize)
    lite2, classifier = embedding("lite2"), Embed(options.classifier)
    spaces: dict[str, Any] = {"lite2": lambda pixels: lite2(pixels).numpy(), "classifier": classifier}

    def look(pixels: np.ndarray, space: str) -> np.ndarray:
        return np.concatenate([spaces[space](pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)])

    order = np.random.Generator(np.random.Philox(0)).permutation(len(images))[:5_000]
    real = {space: look(images.pixels(order), space) for space in spaces}
    teacher = load(options.teacher)
    for seed in options.seeds:
        for row in options.row:
            recipe = replace(parse_row(row), seed=seed, duration=options.images)
            made = networks(recipe, teacher)
            marks = [options.images * (k + 1) // options.marks for k in range(options.marks)]
            seconds, begin = 0.0, time.process_time()
            for progress in train(recipe, made, images.batches(recipe.batch_size, seed=seed)):
                if progress.images < marks[0] and progress.images < options.images:
                    continue
                seconds, marks = seconds + time.process_time() - begin, marks[1:]
                pixels = generate_pixels(progress.ema, 1, options.compared)
                found = {f"kid {space}": kid(look(pixels, space), real[space])[0] for space in spaces}
                facts = {"row": row, "seed": seed, "images": progress.images, "processor seconds": round(seconds, 1)}
                losses = {name: round(value, 3) for name, value in progress.losses.items()}
                with options.out.open("a") as file:
                    file.write(json.dumps({**facts, **found, "losses": losses}) + "\n")
                begin = time.process_time()


if __name__ == "__main__":
    main()
