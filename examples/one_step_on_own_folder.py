"""From a folder of images to a one-step generator: python one_step_on_own_folder.py FOLDER OUT.safetensors [IMAGES]."""

import sys
from pathlib import Path

import d2o


def main(folder: str, out: str, duration: int = 200_000) -> None:
    images, runs = d2o.images(folder, resolution=16, resize="center-crop"), Path(out).with_suffix("")
    habits, last = d2o.Habits(sample_every=duration // 4, sample_seeds=range(16)), duration // 4
    teacher = d2o.pretrain(images, out=runs / "teacher", backbone="small", habits=habits, duration=duration)
    student = d2o.finetune(teacher.denoiser, images, "d2o-f", out=runs / "student", habits=habits, duration=last)
    d2o.save(out, student.denoiser)
    print(f"d2o sample {out} --seeds 0-63 --out grid.png")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
