"""How often a model that is asked for shapes shows them: exactly checked, for captions it was trained on and others.

python benchmarks/shapes_score.py MODEL [--steps 4] [--images 5]

`between` is the share of images whose shape is nearer to two neighbouring true ones together than to any one of them.
"""

import argparse
import json
from itertools import combinations, groupby

import numpy as np

import d2o
from d2o.metrics.shapes import ask, find_shapes, list_masks, overlap, score


def find_between(pixels: np.ndarray) -> float:
    """Return the share of images that the union or intersection of two masks of one meaning fits best."""
    table, masks = list_masks()
    groups = [[mask for _, mask in rows] for _, rows in groupby(zip(table, masks, strict=True), lambda row: row[0])]
    pairs = [pair for group in groups for pair in combinations(group, 2)]
    both = np.stack([mix(*pair) for pair in pairs for mix in (np.minimum, np.maximum)])
    found, _ = find_shapes(pixels)
    return float((overlap(found, both).max(1) > overlap(found, masks).max(1) + 1e-6).mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run, a file, or a model that comes with d2o")
    parser.add_argument("--steps", type=int, default=1, help="calls of the network")
    parser.add_argument("--images", type=int, default=5, help="of each meaning; there are 144 seen and 36 held out")
    options = parser.parse_args()
    found = {}
    for name, split in {"seen": "train", "held_out": "test"}.items():
        pixels, asked = ask(d2o.load(options.model), split, steps=options.steps, images=options.images)
        more = {"between": find_between(pixels), "calls": options.steps}
        found[name] = score(pixels, asked)._asdict() | more
    print(json.dumps(found, indent=2))
