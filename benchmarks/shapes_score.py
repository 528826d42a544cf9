"""How often a model that is asked for shapes shows them: exactly checked, for captions it was trained on and others.

python benchmarks/shapes_score.py MODEL [--steps 4] [--images 5]
"""

import argparse
import json

import d2o
from d2o.metrics.shapes import measure

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run, a file, or a model that comes with d2o")
    parser.add_argument("--steps", type=int, default=1, help="calls of the network")
    parser.add_argument("--images", type=int, default=5, help="of each meaning; there are 144 seen and 36 held out")
    options = parser.parse_args()
    how, model = {"steps": options.steps, "images": options.images}, d2o.load(options.model)
    splits = {"seen": "train", "held_out": "test"}
    found = {name: measure(model, split, **how)._asdict() | {"calls": options.steps} for name, split in splits.items()}
    print(json.dumps(found, indent=2))
