"""From a folder of images to a one-step generator: python one_step_on_own_folder.py FOLDER OUT.safetensors [IMAGES]."""

import sys
from dataclasses import replace

import d2o


def train(recipe: d2o.Recipe, start: d2o.Denoiser, images) -> d2o.Denoiser:
    average = start
    for progress in d2o.train(recipe, d2o.networks(recipe, start), images.batches(recipe.batch_size)):
        print(f"\r{progress.images:,} images, losses {progress.losses}", end="")
        average = progress.ema
    return average


def main(folder: str, out: str, duration: int = 200_000) -> None:
    images = d2o.images(folder, resolution=16, resize="center-crop")

    untrained = d2o.untrained(d2o.recipes.BACKBONES["small"], images.shape, images.num_classes)
    teacher = train(replace(d2o.recipes.PRETRAIN, duration=duration), untrained, images)
    student = train(replace(d2o.recipes.D2O_F, duration=duration // 4), teacher, images)
    d2o.save(out, student)
    print(f"\nd2o sample {out} --seeds 0-63 --out grid.png")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
