"""From a folder of images to a one-step generator: python one_step_on_own_folder.py FOLDER OUT.safetensors [IMAGES]."""

import sys
from dataclasses import replace

import d2o


def main(folder: str, out: str, duration: int = 200_000) -> None:
    images = d2o.images(folder, resolution=16, resize="center-crop")

    recipe = replace(d2o.recipes.PRETRAIN, duration=duration)
    teacher = d2o.untrained(d2o.recipes.BACKBONES["small"], images.shape, images.num_classes)
    for progress in d2o.train(recipe, d2o.networks(recipe, teacher), images.batches(recipe.batch_size)):
        print(f"\rpre-training: {progress.images:,} images, loss {progress.losses['student']:.3f}", end="")
    teacher = progress.ema

    recipe = replace(d2o.recipes.D2O_F, duration=duration // 4)
    for progress in d2o.train(recipe, d2o.networks(recipe, teacher), images.batches(recipe.batch_size)):
        print(f"\rone step: {progress.images:,} images, losses {progress.losses}", end="")

    d2o.save(out, progress.ema)
    print(f"\nd2o sample {out} --seeds 0-63 --out grid.png")


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
