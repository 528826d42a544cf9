"""How often a model that is asked for shapes shows them: exactly checked, for captions it was trained on and others.

python benchmarks/shapes_score.py MODEL [--steps 4] [--images 5]
"""

import argparse
import json

import torch

import d2o
from d2o.data.files import to_uint8
from d2o.data.shapes import SPLITS, WORDINGS
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.sampling import generate
from d2o.metrics.shapes import score


def measure(denoiser: Denoiser, steps: int = 1, images: int = 5) -> dict[str, dict[str, float]]:
    """Return the scores of so many images of each meaning, seen and held out, of Euler's sampler."""
    found = {}
    for name, split in (("seen", "train"), ("held_out", "test")):
        asked = [meaning for meaning in SPLITS[split] for _ in range(images)]
        captions = [meaning.caption(number % len(WORDINGS)) for number, meaning in enumerate(asked)]
        batches = generate(
            denoiser, range(len(asked)), steps=steps, condition=captions, sampler="euler", batch_size=240
        )
        found[name] = score(to_uint8(torch.cat(list(batches))), asked)._asdict() | {"calls": steps}
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run or a file")
    parser.add_argument("--steps", type=int, default=1, help="calls of the network")
    parser.add_argument("--images", type=int, default=5, help="of each meaning; there are 144 seen and 36 held out")
    options = parser.parse_args()
    print(json.dumps(measure(d2o.load(options.model), options.steps, options.images), indent=2))
