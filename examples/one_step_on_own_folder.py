"""From a folder of images to a one-step generator: python one_step_on_own_folder.py FOLDER OUT.safetensors [IMAGES]."""

import sys
from pathlib import Path

import d2o
from d2o.training.fit import finetune, pretrain
from d2o.training.run import Habits


def main(folder: str, out: str, duration: int = 200_000) -> None:
    images, runs = d2o.images(folder, resolution=16, resize="center-crop"), Path(out).with_suffix("")
    habits = Habits(sample_every=duration // 4, sample_seeds=range(16))
    teacher = pretrain(images, out=runs / "teacher", backbone="small", habits=habits, duration=duration)
    student = finetune(teacher.denoiser, images, "d2o-f", out=runs / "student", habits=habits, duration=duration // 4)
    d2o.save(out, student.denoiser)
    print(f"d2o sample {out} --seeds 0-63 --out grid.png")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
