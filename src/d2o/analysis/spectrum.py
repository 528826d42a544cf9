"""Which frequencies appear at which noise level: D_FFT along the way from noise to image (arXiv 2506.09376, section 5).

The paper publishes no definition. Ours: D_FFT(t) is the radially averaged power spectrum of O_t - O_(t-1), successive
outputs of the denoiser, normalised to sum 1.
"""

import numpy as np
import torch

from d2o.data.datasets import Images
from d2o.diffusion.denoiser import Denoiser
from d2o.training.networks import check_fit

from .frequency import ring_power, ring_sizes
from .paths import Sampling, noising_paths, predict, sampling_paths
from .progression import Progression, follow

NAMES = ("teacher", "real data", "student", "teacher, all at once", "student, one step", "real data, all at once")


@torch.no_grad()
def spectrum(
    teacher: Denoiser, sampling: Sampling, *, student: Denoiser | None = None, images: Images | None = None
) -> dict[str, Progression]:
    """Return progressions by NAMES: of a teacher on the way from noise to images, and, if given, a student and data.

    They are step by step, and of the whole change at once. The student predicts at the same x_t as the teacher. Real
    images are noised to the same levels, one noise an image.
    """
    kinds = [f"{d.image_shape} of {d.num_classes} classes" for d in (student or teacher, teacher)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"The --student makes images {kinds[0]}, not {kinds[1]}: give a student of this teacher.")
    if images is not None:
        check_fit(teacher, images)
        if len(images) < 2:
            raise ValueError(f"{images.name} has one image: a spread over real images needs at least 2.")
    sigmas, sizes = sampling.levels(teacher), ring_sizes(*teacher.image_shape[1:])
    powers: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    for path in sampling_paths(teacher, sampling):
        points = list(path.points)
        power, first, last = follow(predict(teacher, x, s, path.condition, "teacher") for s, x in points)
        powers["teacher"].append(power)
        powers["teacher, all at once"].append(ring_power(last - first)[:, None])
        if student is not None:
            sigma, x = points[0]
            start = student.sigma_max
            image = predict(student, x / sigma * start, start, path.condition, "student")
            powers["student, one step"].append(ring_power(image - first)[:, None])
            powers["student"].append(follow(predict(student, x, s, path.condition, "student") for s, x in points)[0])
    if images is not None:
        for path, x0 in noising_paths(teacher, images, sampling):
            outputs = (predict(teacher, x, s, path.condition, "teacher on real data") for s, x in path.points)
            power, first, _ = follow(outputs)
            powers["real data"].append(power)
            powers["real data, all at once"].append(ring_power(x0 - first)[:, None])
    found = {name: np.concatenate(batches) for name, batches in powers.items() if batches}
    return {name: Progression(name, np.array(sigmas[-p.shape[1] :]), p, sizes) for name, p in found.items()}
