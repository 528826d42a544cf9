"""Compare d2o.load with pickle.load on a synthetic file as large as EDM's ImageNet-64 network (1.18 GB).

    python benchmarks/load_pickle.py

The file is written to a temporary folder by the tests' encoder. pickle.load runs with harmless stand-ins for what such
files import. Each load has a process of its own; the first, which brings the file into the cache, is not shown.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
SETTINGS = {"img_resolution": 64, "img_channels": 3, "label_dim": 1000, "use_fp16": True, "model_type": "DhariwalUNet"}
SETTINGS |= {"model_channels": 192, "channel_mult": [1, 2, 3, 4]}
MEASURE = """
import json, sys, threading, time
def status(row):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(row)) * 1024
def anonymous():
    return status("RssAnon")
peak, before, stop = [0], anonymous(), threading.Event()
def watch():
    while not stop.wait(0.005):
        peak[0] = max(peak[0], anonymous())
"""
SAFE = """
import d2o, d2o.checkpoints, warnings
warnings.simplefilter("ignore")
load = lambda: d2o.load(path)
"""
UNSAFE = """
import pickle, sys, types, torch, numpy
def reconstruct(meta):
    made = types.SimpleNamespace()
    made.__dict__.update(meta["state"])
    return made
persistence = types.ModuleType("torch_utils.persistence")
persistence._reconstruct_persistent_obj = reconstruct
sys.modules |= {"torch_utils": types.ModuleType("torch_utils"), "torch_utils.persistence": persistence}
load = lambda: pickle.load(open(path, "rb"))
"""
RUN = """
path = sys.argv[1]
before = anonymous()
thread = threading.Thread(target=watch); thread.start()
began = time.perf_counter()
model = load()
seconds = time.perf_counter() - began
stop.set(); thread.join()
print(json.dumps({"seconds": seconds, "memory": max(peak[0], anonymous()) - before,
                  "resident": status("VmHWM")}))
"""


def write(path: Path) -> int:
    """Write the file and return the bytes of its weights."""
    sys.path.insert(0, str(ROOT / "tests"))
    from checkpoints import honest
    from d2o.backbones.dhariwal_unet import DhariwalUNet

    torch.manual_seed(0)
    made = DhariwalUNet(64, 3, 3, 1000)
    path.write_bytes(honest.edm_file(honest.network("EDMPrecond", made, SETTINGS)))
    return sum(tensor.numel() * tensor.element_size() for tensor in made.state_dict().values())


def measure(way: str, path: Path) -> dict[str, float]:
    """Return seconds and memory of one load in a process of its own."""
    done = subprocess.run([sys.executable, "-c", MEASURE + way + RUN, str(path)], capture_output=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    """Write the file, load it in both ways, and print a table."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adm.pkl"
        weights = write(path)
        print(f"file {path.stat().st_size:,} bytes, weights {weights:,} bytes")
        measure(SAFE, path)
        for name, way in (("pickle.load", UNSAFE), ("d2o.load", SAFE)) * 3:
            row = measure(way, path)
            memory = f"{row['memory'] / weights:.2f} x the weights' memory, at most {row['resident'] / 1e9:.2f} GB"
            print(f"{name:<12} {row['seconds']:6.2f} s   {memory}")


if __name__ == "__main__":
    main()
